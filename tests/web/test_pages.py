"""
Requirement: the dashboard works without a script. Every page answers whole, every action is a plain
form that is answered with 303, what destroys something is asked about first, and a mistake comes
back beside its field.
"""

import re
from html import unescape

import httpx
import pytest
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess
from msgspec.structs import replace

from queuectl.protocol import Config, GetConfig, JobSpec, ListQueues, Queues, StatusReport
from queuectl.views import JournalView, ProcessView, SettingValue
from queuectl.web.pages_rendering import with_seen_counts

PAGES = (
    "/",
    "/jobs",
    "/schedule",
    "/dead",
    "/workers",
    "/queues",
    "/settings",
    "/tokens",
    "/enqueue",
    "/enqueue?mode=json",
)


@pytest.fixture(scope="module")
def browser(gateway: GatewayProcess) -> httpx.Client:
    """
    A browser without a script: it sends the token that is in the forms, not a header.
    """
    browser = gateway.browser()
    browser.headers["Accept"] = "text/html"
    del browser.headers["X-CSRF-Token"]
    return browser


def submit(browser: httpx.Client, path: str, **fields: str | list[str]) -> httpx.Response:
    """
    Post a form as a page has it, and follow where it leads.
    """
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/").text)
    assert found is not None
    data = {"csrf_token": found[1], **fields}
    return browser.post(path, data=data, follow_redirects=True)


def said(answer: httpx.Response) -> str:
    """
    Return the message at the top of a page.
    """
    assert answer.status_code == 200, answer.text
    found = re.search(r'id="said".*?<div>(.*?)</div>', answer.text, re.DOTALL)
    assert found is not None, answer.text
    return unescape(found[1])


def setting(daemon: DaemonProcess, key: str) -> SettingValue:
    with daemon.client() as client:
        settings = client.call(GetConfig(), Config).settings
    return next(each.value for each in settings if each.key == key)


@pytest.mark.parametrize("path", PAGES)
def test_pages_answer_whole_and_as_fragments(browser: httpx.Client, path: str) -> None:
    """
    A page has a title, one heading and one main part; its fragment is that part, without the frame.
    """
    page = browser.get(path)
    assert 200 == page.status_code, page.text
    assert 1 == page.text.count("<title>") == page.text.count("<h1") == page.text.count("<main")
    mark = "&" if "?" in path else "?"
    fragment = browser.get(f"{path}{mark}fragment=main").text
    assert (0, 1) == (fragment.count("<html"), fragment.count("<main"))
    assert page.text.count("<tr") == fragment.count("<tr")


def test_a_job_from_the_form_to_its_page(browser: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    What is typed becomes a job with all of it, and the form leads to the job's page.
    """
    answer = submit(
        browser,
        "/enqueue",
        mode="command",
        command="echo one\necho $WHO\n",
        queue="forms",
        priority="high",
        max_retries="1",
        timeout="5m",
        id="from-a-form",
        env="WHO=me\nLANG=C",
        key="k1",
    )
    assert "/jobs/from-a-form" == answer.url.path
    assert "Enqueued job from-a-form." == said(answer)
    detail = web_daemon.wait_for("from-a-form", "completed")
    job = detail.job
    assert ("forms", 10, 1, 300_000) == (job.queue, job.priority, job.max_retries, job.timeout_ms)
    assert b"one\nme\n" == web_daemon.output("from-a-form")
    assert "one\nme\n" in browser.get("/jobs/from-a-form").text


def test_mistakes_are_said_at_their_fields(browser: httpx.Client) -> None:
    """
    Each wrong field has its rule beside it and keeps what was typed; nothing is enqueued.
    """
    answer = submit(
        browser, "/enqueue", mode="command", command="true", timeout="soon", env="x", id="a b"
    )
    assert 422 == answer.status_code
    assert 'id="e-timeout"' in answer.text
    assert 'id="e-env"' in answer.text
    assert 'value="soon"' in answer.text
    answer = submit(browser, "/enqueue", mode="command", command="true", id="a b")
    assert 422 == answer.status_code
    assert 'id="e-id"' in answer.text
    answer = submit(browser, "/enqueue", mode="json", json='[{"command": "true"}, {"comand": 1}]')
    assert 422 == answer.status_code
    assert "job 2: unknown field &#39;comand&#39; (did you mean command?)" in answer.text


def test_json_makes_many_at_once(browser: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    An array of jobs, or one on each line, is made whole; sent twice with one key, it is made once.
    """
    text = '{"command": "true", "queue": "lines"}\n{"command": "false", "queue": "lines"}\n'
    answer = submit(browser, "/enqueue", mode="json", json=text, key="twice")
    assert "Enqueued 2 jobs." == said(answer)
    submit(browser, "/enqueue", mode="json", json=text, key="twice")
    with web_daemon.client() as client:
        (queue,) = client.call(ListQueues(name="lines"), Queues).queues
    assert 2 == sum(queue.jobs.values())


def test_each_action_on_jobs(browser: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    Hold, release, priority, cancel and retry do what they say, to all that were ticked.
    """
    jobs = [JobSpec(command="true", delay_ms=3_600_000) for _ in range(2)]
    ids = web_daemon.enqueue(*jobs)
    assert "Held 2 jobs." == said(submit(browser, "/jobs/act", action="hold", id=ids))
    assert ["held", "held"] == [web_daemon.state(each) for each in ids]
    submit(browser, "/jobs/act", action="priority", priority="7", id=ids)
    assert [7, 7] == [web_daemon.show(each).job.priority for each in ids]
    assert "Released 2 jobs." == said(submit(browser, "/jobs/act", action="release", id=ids))
    asked = submit(browser, "/jobs/act", action="cancel", id=ids, next="/jobs?state=scheduled")
    assert "Cancel 2 jobs?" in asked.text
    assert ["scheduled", "scheduled"] == [web_daemon.state(each) for each in ids]
    answer = submit(browser, "/jobs/act", action="cancel", id=ids, confirmed="1", next="/schedule")
    assert ("/schedule", "Cancelled 2 jobs.") == (answer.url.path, said(answer))
    answer = submit(browser, "/jobs/act", action="hold", id=ids[0])
    assert "Left out:" in said(answer)
    answer = submit(browser, "/jobs/act", action="retry", id=ids[0], next="//elsewhere.example/")
    assert ("127.0.0.1", "/jobs") == (answer.url.host, answer.url.path)
    web_daemon.wait_for(ids[0], "completed")
    assert "No job is selected" in said(submit(browser, "/jobs/act", action="hold"))


def test_dead_letters_by_group(browser: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    A group is retried or purged whole, and no other with it.
    """
    ids = web_daemon.enqueue(
        *[JobSpec(command=f"exit {code}", max_retries=0) for code in (41, 41, 42)]
    )
    for each in ids:
        web_daemon.wait_for(each, "dead")
    page = browser.get("/dead").text
    assert "exit code 41" in page
    reason = "exit code 41"
    answer = submit(browser, "/dead/act", action="retry", reason=reason)
    assert "Retried 2 jobs." == said(answer)
    for each in ids[:2]:
        web_daemon.wait_for(each, "dead")
        assert 2 == len(web_daemon.show(each).runs)
    assert "Purge 2 jobs" in submit(browser, "/dead/act", action="purge", reason=reason).text
    submit(browser, "/dead/act", action="purge", reason=reason, confirmed="1")
    assert reason not in browser.get("/dead").text
    assert "dead" == web_daemon.state(ids[2])


def test_workers_and_queues(browser: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    Workers are started, scaled and stopped; queues limited, paused, resumed and deleted.
    """
    before = len(web_daemon.status().workers)
    assert "Started 2 workers." == said(submit(browser, "/workers/act", action="start", count="2"))
    assert before + 2 == len(web_daemon.status().workers)
    assert "whole number" in said(submit(browser, "/workers/act", action="start", count="many"))
    asked = submit(browser, "/workers/act", action="stop")
    assert "Stop all workers?" in asked.text
    submit(browser, "/workers/act", action="stop", confirmed="1")
    assert not web_daemon.status().workers
    submit(browser, "/workers/act", action="scale", count=str(before))
    assert before == len(web_daemon.status().workers)
    name = "a<b>&c"
    answer = submit(browser, "/queues/act", action="limit", name=name, concurrency="3")
    assert f"Queue {name} runs at most 3 jobs at once." == said(answer)
    submit(browser, "/queues/act", action="pause", name=name)
    assert [name] == web_daemon.status().paused_queues
    submit(browser, "/queues/act", action="resume", name=name)
    assert "Delete queue" in submit(browser, "/queues/act", action="delete", name=name).text
    submit(browser, "/queues/act", action="delete", name=name, confirmed="1")
    assert "a&lt;b&gt;" not in re.sub(r'id="said".*?</div>', "", browser.get("/queues").text)


def test_settings(browser: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    A setting is changed and given back; what breaks its rule is said at its field.
    """
    submit(browser, "/settings", key="retention", value="3d")
    assert 3 * 86_400_000 == setting(web_daemon, "retention")
    answer = submit(browser, "/settings", key="retention", value="for ever")
    assert 422 == answer.status_code
    assert 'id="e-retention"' in answer.text
    assert 'value="for ever"' in answer.text
    submit(browser, "/settings", key="retention", unset="1")
    assert 7 * 86_400_000 == setting(web_daemon, "retention")


def test_what_there_is_not(browser: httpx.Client) -> None:
    """
    A job that there is not, a filter that makes no sense: a page says so, with the right status.
    """
    page = browser.get("/jobs/no-such-job")
    assert (404, True) == (page.status_code, "no job" in page.text)
    assert 400 == browser.get("/jobs?state=undead").status_code
    assert 200 == browser.get("/jobs?search=nothing-has-this&order=longest").status_code


def test_a_browser_with_a_token_that_may_only_look(
    gateway: GatewayProcess, web_daemon: DaemonProcess
) -> None:
    """
    It sees every page; what it tries to change is refused by the daemon, and said so.
    """
    browser = gateway.client(Accept="text/html", Origin=gateway.url)
    token = gateway.make_token("read")
    answer = browser.post("/login", data={"token": token, "next": "/jobs"})
    assert (303, "/jobs") == (answer.status_code, answer.headers["location"])
    for path in PAGES:
        assert 200 == browser.get(path).status_code, path
    assert "a token cannot make others" in browser.get("/tokens").text
    (job,) = web_daemon.enqueue(JobSpec(command="true", hold=True))
    assert "scope" in said(submit(browser, "/jobs/act", action="release", id=job))
    answer = submit(browser, "/enqueue", mode="command", command="true")
    assert (422, True) == (answer.status_code, 'id="e-command"' in answer.text)
    assert "held" == web_daemon.state(job)


def test_addresses_that_lead_elsewhere(browser: httpx.Client) -> None:
    """
    Where older programs had their dashboard, ours is; a browser that is lost is told with a page.
    """
    answer = browser.get("/dashboard")
    assert (303, "/") == (answer.status_code, answer.headers["location"])
    lost = browser.get("/no/such/page")
    assert (404, True) == (lost.status_code, "There is nothing at /no/such/page" in lost.text)
    assert 'name="csrf_token"' in lost.text, "the frame's forms work there too"


def test_static_files(gateway: GatewayProcess, browser: httpx.Client) -> None:
    """
    Every file that a page names is there, kept for good under its own path, and nothing else is.
    """
    text = browser.get("/").text
    names = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
    assert len(names) >= 3
    for name in names:
        answer = gateway.client().get(name)
        assert (200, True) == (answer.status_code, "immutable" in answer.headers["cache-control"])
    assert 404 == gateway.client().get("/static/x/../pages.py").status_code
    assert 404 == gateway.client().get("/static/x/nothing.js").status_code


def test_the_theme_is_kept(browser: httpx.Client) -> None:
    """
    The choice between light and dark is in the page itself, before any style or script runs.
    """
    answer = submit(browser, "/theme", theme="dark", next="/queues")
    assert ("/queues", True) == (answer.url.path, 'data-theme="dark"' in answer.text)
    submit(browser, "/theme", theme="auto")
    assert "data-theme" not in browser.get("/").text


@pytest.mark.parametrize(("path", "count"), [("/workers", 3), ("/queues", 1), ("/settings", 10)])
def test_controls_are_shown_to_who_may_use_them(
    gateway: GatewayProcess, path: str, count: int
) -> None:
    """
    Nobody is asked to try what will be refused: who may not change a page's things sees them only.
    """
    controls = f'action="{path}'
    manager, looker = gateway.token_client(), gateway.token_client("read")
    assert count <= manager.get(path).text.count(controls)
    page = looker.get(path).text
    assert (0, 1) == (page.count(controls), page.count("lacks the scope manage"))


def test_pages_count_the_jobs_that_one_sees() -> None:
    """
    A count next to a list is of what is in that list. An older daemon counts all jobs only.
    """
    process = ProcessView(pid=1, version="1", started_at=0, uptime_ms=0)
    report = StatusReport(
        daemon=process,
        runner=None,
        jobs={"held": 4, "dead": 3},
        workers=[],
        dlq=3,
        journal=JournalView(size_bytes=0, segment_count=1, durability="always", state="ok"),
        mode="system",
        state_dir="/",
        queue_count=0,
    )
    assert report == with_seen_counts(report)
    seen = with_seen_counts(replace(report, seen_jobs={"held": 1, "dead": 0}))
    assert ({"held": 1, "dead": 0}, 0) == (seen.jobs, seen.dlq)
