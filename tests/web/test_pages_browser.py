"""
Requirement: every page and every action of the dashboard works in a browser, by mouse and by
keyboard, and pages follow the queue without being loaded anew.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from chromium import PHONE, opened, rows_scrolled_to
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess

from queuectl.protocol import Act, Acted, JobSpec, Queues, Selection, SetQueue

#: All that a page is made of, nothing of it compressed.
PAGE_BYTES_MAX = 100_000
COLORS = (
    r"""printf '\033[31mred\033[0m \033[1;38;5;208morange\033[0m \033[48;2;1;2;3mdark\033[0m\n'"""
)


@pytest.fixture
def tab(browser: Any, browser_session: httpx.Client, gateway: GatewayProcess) -> Iterator[Any]:
    """
    A tab on a desk's screen that is logged in.
    """
    with opened(browser, browser_session, gateway.url) as made:
        yield made


def enqueue(daemon: DaemonProcess, *commands: str, **fields: Any) -> list[str]:
    return daemon.enqueue(*[JobSpec(command=each, **fields) for each in commands])


def path_of(tab: Any) -> str:
    return re.sub(r"^https?://[^/]+", "", tab.url)


def test_from_the_form_to_output_in_colours(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    A job typed into the form runs while one looks: its output comes by itself, with its colours as
    colours and everything else as text.
    """
    marker = os.path.join(web_daemon.directory, "go-on")
    command = f"{COLORS}; echo '<b>bold</b>'; until [ -e {marker} ]; do sleep 0.05; done; echo last"
    tab.goto("/enqueue")
    tab.get_by_label("Command").fill(command)
    tab.get_by_label("Queue").fill("colours")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_url("**/jobs/*")
    term = tab.locator("#term")
    term.locator(".l").get_by_text("<b>bold</b>").wait_for()
    color = "element => getComputedStyle(element).color"
    assert "rgb(255, 123, 114)" == term.get_by_text("red", exact=True).evaluate(color)
    assert "rgb(255, 135, 0)" == term.get_by_text("orange", exact=True).evaluate(color)
    back = "element => getComputedStyle(element).backgroundColor"
    assert "rgb(1, 2, 3)" == term.get_by_text("dark", exact=True).evaluate(back)
    assert not term.get_by_text("last").count()
    with open(marker, "x"):
        pass
    term.get_by_text("last").wait_for()
    tab.locator("h1 + .state", has_text="completed").wait_for()
    tab.locator("#out-state", has_text="complete").wait_for()
    # What was put into the page is spaced like what came with it.
    ended = tab.locator("dt:text-is('Ended') + dd")
    assert re.fullmatch(r"\S+ \S+ \(\d+s ago\)", ended.inner_text())


def test_finding_in_output(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    Lines with the text are marked and gone through; the whole output is there to download.
    """
    (job,) = enqueue(web_daemon, "seq 1 3000")
    web_daemon.wait_for(job, "completed")
    tab.goto(f"/jobs/{job}")
    tab.locator("#out-state", has_text="complete").wait_for()
    term = tab.locator("#term")
    assert not term.get_by_text("299", exact=True).count()
    tab.get_by_role("button", name="Show it from its start").click()
    term.get_by_text("299", exact=True).wait_for()
    tab.locator("#out-state", has_text="complete").wait_for()
    tab.keyboard.press("/")
    tab.keyboard.type("299")
    hits = tab.locator("#out-hits")
    assert "1 of 13 lines" == hits.inner_text()
    tab.keyboard.press("Enter")
    assert "2 of 13 lines" == hits.inner_text()
    assert "1299" == tab.locator(".l.now").inner_text()
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download").click()
    with open(download.value.path(), "rb") as file:
        assert b"".join(b"%d\n" % each for each in range(1, 3001)) == file.read()


def test_lists_follow_the_queue(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    A row appears when its job does and changes when that does, while the reader's focus stays.
    """
    enqueue(web_daemon, "true")
    tab.goto("/jobs")
    tab.locator("#search").focus()
    (job,) = enqueue(web_daemon, "sleep 60", id="row-of-its-own")
    row = tab.locator("[data-list] tbody tr", has_text=job)
    row.get_by_text("processing").wait_for()
    with web_daemon.client() as client:
        client.call(Act(action="cancel", select=Selection(ids=[job])), Acted)
    row.get_by_text("cancelled").wait_for()
    assert "search" == tab.evaluate("document.activeElement.id")


def test_acting_on_many(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    Jobs are selected one by one, in ranges and all at once; what is destroyed is asked about first.
    """
    ids = enqueue(web_daemon, *["true"] * 5, hold=True, queue="many")
    tab.goto("/jobs?queue=many")
    boxes = tab.locator("#rows input[name=id]")
    boxes.nth(1).click()
    boxes.nth(3).click(modifiers=["Shift"])
    tab.locator("#picked", has_text="3 selected").wait_for()
    tab.get_by_label("Priority").fill("-5")
    tab.get_by_role("button", name="Set priority").click()
    tab.locator("#said", has_text="Changed the priority of 3 jobs.").wait_for()
    assert [0, -5, -5, -5, 0] == [web_daemon.show(each).job.priority for each in ids]
    tab.locator("#picked", has_text="3 selected").wait_for()
    tab.get_by_label("Select all shown").check()
    enqueue(web_daemon, "true", hold=True, queue="many")
    wait_until(lambda: tab.locator("[data-list] tbody tr").count() == 6)
    tab.locator("#picked", has_text="5 selected").wait_for()
    tab.get_by_role("button", name="Cancel", exact=True).click()
    tab.get_by_role("button", name="Back").click()
    tab.get_by_role("button", name="Cancel", exact=True).click()
    tab.keyboard.press("Escape")
    tab.locator("#ask").wait_for(state="hidden")
    assert "5 selected" == tab.locator("#picked").inner_text()
    assert {"held"} == {web_daemon.state(each) for each in ids}
    tab.get_by_role("button", name="Cancel", exact=True).click()
    tab.get_by_role("button", name="Yes, cancel").click()
    tab.locator("#said", has_text="Cancelled 5 jobs.").wait_for()
    assert {"cancelled"} == {web_daemon.state(each) for each in ids}


def test_a_filter_follows_what_is_typed(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    Search, state, queue and order are in the address, so a list can be kept and sent.
    """
    enqueue(web_daemon, "true # needle in hay", "true # hay", queue="hay", hold=True)
    tab.goto("/jobs")
    tab.keyboard.press("/")
    tab.keyboard.type("NEEDLE")
    tab.wait_for_url("**/jobs?search=NEEDLE")
    wait_until(lambda: tab.locator("[data-list] tbody tr").count() == 1)
    tab.locator("#search").fill("")
    tab.get_by_label("Queue").select_option("hay")
    tab.wait_for_url("**/jobs?queue=hay")
    wait_until(lambda: tab.locator("[data-list] tbody tr").count() == 2)
    tab.get_by_label("Order").select_option("oldest")
    tab.wait_for_url("**order=oldest")
    wait_until(lambda: "needle" in tab.locator("[data-list] tbody tr").first.inner_text())
    tab.get_by_label("States").get_by_text("Dead").click()
    tab.get_by_text("No job matches").wait_for()


def test_rows_are_appended(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    Rows are appended as one scrolls, each once and in order, and those far away cost no layout. A
    change is seen where one looks, without going back to the start.
    """
    count = 2_000
    ids = enqueue(web_daemon, *["true"] * count, hold=True, queue="long")
    tab.goto("/jobs?queue=long")
    assert rows_scrolled_to(tab, count) == [int(each) for each in reversed(ids)]
    auto = "getComputedStyle(document.querySelector('[data-list] tbody tr')).contentVisibility"
    assert "auto" == tab.evaluate(auto)
    middle = tab.locator("[data-list] tbody tr", has_text=ids[1_000]).first
    middle.scroll_into_view_if_needed()
    with web_daemon.client() as client:
        client.call(Act(action="cancel", select=Selection(ids=[ids[1_000]])), Acted)
        middle.get_by_text("cancelled").wait_for()
        client.call(Act(action="cancel", select=Selection(queue="long")), Acted)
        client.call(Act(action="prune", select=Selection(queue="long")), Acted)


def test_one_job(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    A job's page changes its priority, holds, releases, cancels, retries and forgets it.
    """
    (job,) = enqueue(web_daemon, "sleep 60", delay_ms=3_600_000)
    tab.goto(f"/jobs/{job}")
    state = tab.locator("h1 + .state")
    tab.get_by_label("Priority").fill("3")
    tab.get_by_role("button", name="Change").click()
    wait_until(lambda: web_daemon.show(job).job.priority == 3)
    tab.get_by_role("button", name="Hold").click()
    state.get_by_text("held").wait_for()
    tab.get_by_role("button", name="Release").click()
    state.get_by_text("scheduled").wait_for()
    for name, word in (("Cancel", "cancelled"), ("Retry", "processing"), ("Cancel", "cancelled")):
        tab.get_by_role("button", name=name, exact=True).click()
        if name == "Cancel":
            tab.get_by_role("button", name="Yes, cancel").click()
        state.get_by_text(word, exact=True).wait_for()
    tab.get_by_role("button", name="Forget", exact=True).click()
    tab.get_by_role("button", name="Yes, forget").click()
    tab.wait_for_url("**/jobs")
    tab.locator("#said", has_text=f"Forgot job {job}.").wait_for()


def test_a_job_that_others_forget(
    browser: Any, browser_session: httpx.Client, gateway: GatewayProcess, web_daemon: DaemonProcess
) -> None:
    """
    The page of a job that is forgotten elsewhere says so.
    """
    (job,) = enqueue(web_daemon, "true")
    web_daemon.wait_for(job, "completed")
    with opened(browser, browser_session, gateway.url, ("status of 404",)) as tab:
        tab.goto(f"/jobs/{job}")
        tab.locator("#out-state", has_text="complete").wait_for()
        with web_daemon.client() as client:
            client.call(Act(action="prune", select=Selection(ids=[job])), Acted)
        tab.get_by_role("heading", name="Not found").wait_for()
        assert f"no job '{job}'" in tab.locator("#problem").inner_text()


def test_dead_letters(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    A job that fails is offered on the first page, and retried from the group of its reason.
    """
    marker = os.path.join(web_daemon.directory, "mended")
    (job,) = enqueue(web_daemon, f"[ -e {marker} ] || exit 77", max_retries=0)
    tab.goto("/")
    tab.locator("#notes").get_by_role("link", name="Look").first.click()
    group = tab.locator("section", has_text="exit code 77")
    with open(marker, "x"):
        pass
    group.get_by_role("button", name=f"Retry job {job}", exact=True).click()
    tab.locator("#said", has_text=f"Retried job {job}.").wait_for()
    web_daemon.wait_for(job, "completed")
    tab.locator("bdi", has_text="exit code 77").wait_for(state="detached")
    enqueue(web_daemon, "exit 78", max_retries=0)
    tab.get_by_role("button", name="Purge group").first.click()
    tab.get_by_role("button", name="Yes, purge").click()
    tab.locator("bdi", has_text="exit code 78").wait_for(state="detached")


def test_schedule_workers_and_queues(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    What is due later counts down; workers and queues are changed where they are seen.
    """
    (job,) = enqueue(web_daemon, "true", delay_ms=7_200_000)
    tab.goto("/schedule")
    tab.locator("tr", has_text=job).get_by_text(re.compile(r"in (1h|2h|119m)")).wait_for()
    before = len(web_daemon.status().workers)
    tab.goto("/workers")
    tab.get_by_label("Add").fill("2")
    tab.get_by_role("button", name="Start").click()
    tab.locator("#said", has_text="Started 2 workers.").wait_for()
    tab.get_by_label("Have exactly").fill(str(before))
    tab.get_by_role("button", name="Scale").click()
    tab.locator("#said", has_text=f"There are {before} workers now").wait_for()
    taking = [each for each in web_daemon.status().workers if each.state != "draining"]
    assert before == len(taking)
    with web_daemon.client() as client:
        client.call(SetQueue(name="shown", concurrency=2), Queues)
    tab.goto("/queues")
    tab.get_by_role("button", name="Pause shown").click()
    tab.locator("tr", has_text="shown").get_by_text("paused").wait_for()
    tab.get_by_role("button", name="Resume shown").click()
    tab.locator("tr", has_text="shown").get_by_text("active").wait_for()
    tab.get_by_label("Limit of shown", exact=True).fill("5")
    tab.get_by_role("button", name="Set the limit of shown").click()
    tab.locator("#said", has_text="Queue shown runs at most 5 jobs at once.").wait_for()
    tab.get_by_role("button", name="Delete shown").click()
    tab.get_by_role("button", name="Yes, delete").click()
    tab.locator("#said", has_text="Deleted queue shown.").wait_for()


def test_settings(browser: Any, browser_session: httpx.Client, gateway: GatewayProcess) -> None:
    """
    A setting is changed in place, and what breaks its rule is said there too.
    """
    with opened(browser, browser_session, gateway.url, expected=("status of 422",)) as tab:
        _change_settings(tab)


def _change_settings(tab: Any) -> None:
    tab.goto("/settings")
    tab.get_by_label("kill_after", exact=True).fill("nonsense")
    tab.get_by_role("button", name="Save kill_after").click()
    tab.locator("#e-kill_after").wait_for()
    tab.get_by_label("kill_after", exact=True).fill("3s")
    tab.get_by_role("button", name="Save kill_after").click()
    tab.locator("#said", has_text="kill_after is now 3s.").wait_for()
    tab.get_by_role("button", name="Unset kill_after").click()
    tab.locator("#said", has_text="kill_after is now 10s.").wait_for()


def test_tokens(tab: Any, gateway: GatewayProcess) -> None:
    """
    A token is shown once, works, and is revoked.
    """
    tab.goto("/tokens")
    tab.get_by_label("Name").fill("<i>laptop</i>")
    tab.get_by_role("button", name="Create token").click()
    text = tab.locator("#created code").first.inner_text()
    assert 200 == gateway.token_client(token=text).get("/session").status_code
    tab.goto("/tokens")
    assert text not in tab.content()
    tab.get_by_role("button", name="Revoke <i>laptop</i>").click()
    tab.get_by_role("button", name="Yes, revoke").click()
    tab.locator("#said", has_text="Revoked token").wait_for()
    assert 401 == gateway.token_client(token=text).get("/session").status_code


def test_by_keyboard_alone(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    From the first page to a cancelled job and back without a pointer.
    """
    (job,) = enqueue(web_daemon, "true", hold=True, queue="keys")
    tab.goto("/")
    tab.keyboard.press("g")
    tab.keyboard.press("j")
    tab.wait_for_url("**/jobs")
    tab.keyboard.press("j")
    assert job == tab.evaluate("document.activeElement.textContent")
    tab.keyboard.press("x")
    tab.locator("#picked", has_text="1 selected").wait_for()
    tab.keyboard.press("Escape")
    tab.keyboard.press("Enter")
    tab.wait_for_url(f"**/jobs/{job}")
    tab.get_by_role("button", name="Cancel", exact=True).focus()
    tab.keyboard.press("Enter")
    tab.locator("dialog[open]").wait_for()
    for _ in range(3):
        if tab.evaluate("document.activeElement.id") == "ask-yes":
            break
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.locator("h1 + .state", has_text="cancelled").wait_for()
    tab.keyboard.press("?")
    tab.get_by_role("heading", name="Keyboard").wait_for()
    tab.get_by_label("Single-key shortcuts").uncheck()
    tab.keyboard.press("Escape")
    tab.keyboard.press("g")
    tab.keyboard.press("o")
    assert f"/jobs/{job}" == path_of(tab)
    tab.reload()
    tab.keyboard.press("Tab")
    assert "Skip to content" == tab.evaluate("document.activeElement.textContent")


PAGES = ("/", "/jobs", "/schedule", "/dead", "/workers", "/queues", "/settings", "/tokens")


def test_a_phone_scrolls_no_page_sideways(
    browser: Any,
    browser_session: httpx.Client,
    gateway: GatewayProcess,
    web_daemon: DaemonProcess,
) -> None:
    """
    Whatever a page holds, it fits a narrow window.
    """
    long = enqueue(web_daemon, "true " + "x" * 3000, id="i" * 128, queue="q" * 128)[0]
    enqueue(web_daemon, "echo " + "y" * 500 + "; exit 9", max_retries=0)
    enqueue(web_daemon, "true", delay_ms=86_400_000)
    web_daemon.wait_for(long, "completed")
    with opened(browser, browser_session, gateway.url, viewport=PHONE) as tab:
        for path in (*PAGES, "/enqueue", "/enqueue?mode=json", f"/jobs/{long}", "/jobs/none"):
            if path == "/jobs/none":
                continue
            tab.goto(path)
            width = tab.evaluate("document.documentElement.scrollWidth")
            assert PHONE["width"] == width, path


def test_what_a_page_weighs(
    browser: Any,
    browser_session: httpx.Client,
    gateway: GatewayProcess,
    web_daemon: DaemonProcess,
) -> None:
    """
    A page and all that it loads at first stays below the limit, with long lists and much output.
    """
    enqueue(web_daemon, *["true " + "z" * 300] * 60, hold=True)
    large = {f"NAME{number}": "v" * 900 for number in range(60)}
    (job,) = enqueue(web_daemon, "seq 1 100000 # " + "c" * 100_000, env=large)
    web_daemon.wait_for(job, "completed")
    for number in range(60):
        enqueue(web_daemon, "true", queue=f"queue-{number}", delay_ms=86_400_000)
        enqueue(web_daemon, *["exit 1"] * 2, queue=f"queue-{number}", delay_ms=86_400_000)
    dead = [JobSpec(command=f"exit {1 + number % 30}", max_retries=0) for number in range(200)]
    for each in web_daemon.enqueue(*dead):
        web_daemon.wait_for(each, "dead")
    for path in (*PAGES, "/enqueue", f"/jobs/{job}"):
        sizes: dict[str, int] = {}

        def count(response: Any, sizes: dict[str, int] = sizes) -> None:
            if "/api/" not in response.url and "fragment=" not in response.url:
                sizes[response.url] = len(response.body())

        with opened(browser, browser_session, gateway.url) as tab:
            tab.on("response", count)
            tab.goto(path, wait_until="load")
            tab.wait_for_timeout(0)
        assert sizes
        assert sum(sizes.values()) <= PAGE_BYTES_MAX, (path, sizes)
