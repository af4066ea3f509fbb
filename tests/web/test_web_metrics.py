"""
GET /metrics of a real gateway, and the files that are made for what it shows: documents, alert
rules, dashboard.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess
from markdown_reader import ROOT, Document, code_in, plain
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from queuectl.measures import OTHER_QUEUES, OTHER_USERS, SERIES_MAX, SERIES_USERS_MAX, Metrics
from queuectl.web import exposition
from queuectl.web.configuration import Configuration
from queuectl.web.exposition import Families, families_of_daemon, wants_json
from queuectl.web.gateway import Gateway
from queuectl.web.link import Link
from queuectl.web.traffic import Kind, Traffic
from queuectl.web.visitor import VISITOR, Visitor
from queuectld.core.measuring import PENDING_LOOK_MAX

METRICS = Document("docs/metrics.md")
#: Beside the interpreter is where the Makefile puts it.
PROMTOOL = shutil.which(
    "promtool", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
)
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not here; it is in Debian's prometheus"
)


def families(text: str) -> dict[str, Metric]:
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found
    return found


def promtool(*arguments: str, text: str = "") -> None:
    assert PROMTOOL is not None
    ran = subprocess.run(
        [PROMTOOL, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def scraped(web_daemon: DaemonProcess, client: httpx.Client) -> str:
    """
    What a scraper sees after some jobs.
    """
    (done,) = web_daemon.enqueue("exit 0")
    (dead,) = web_daemon.enqueue("exit 1", queue="mail", max_retries=0)
    for job_id in (done, dead):
        web_daemon.wait_for(job_id)
    client.get("/api/v1/jobs")
    client.get("/no/such/place")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


def value(text: str, name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_what_happened_is_shown(scraped: str) -> None:
    """
    Jobs, attempts and times by queue, and the daemon around them.
    """
    assert value(scraped, "queuectl_jobs_completed_total", queue="default") == 1
    assert value(scraped, "queuectl_jobs_dead_total", queue="mail") == 1
    assert value(scraped, "queuectl_jobs", queue="mail", state="dead") == 1
    assert value(scraped, "queuectl_attempt_run_seconds_count", queue="mail") == 1
    assert value(scraped, "queuectl_job_wait_seconds_bucket", queue="mail", le="+Inf") == 1
    assert value(scraped, "queuectl_runner_connected") == 1
    assert value(scraped, "queuectl_journal_commit_seconds_count") > 2
    assert value(scraped, "queuectl_oldest_pending_age_seconds") == 0


def test_answers_are_counted_by_route(scraped: str) -> None:
    """
    By the route's pattern, never by what somebody asked for: a path is anybody's invention.
    """
    name = "queuectl_web_answers_total"
    assert value(scraped, name, method="GET", route="/api/v1/jobs", status="200") == 1
    assert value(scraped, name, method="GET", route="none", status="404") == 1
    assert "no/such/place" not in scraped


def test_kinds_of_answers_are_few() -> None:
    """
    Methods that were made up count as one.
    """
    traffic = Traffic()
    for method in ("BREW", "PROPFIND", "GET"):
        traffic.answered({"method": method}, 405)
    traffic.answered({}, 101)
    assert traffic.answers == {
        Kind("other", "none", 405): 2,
        Kind("GET", "none", 405): 1,
        Kind("WEBSOCKET", "none", 101): 1,
    }


def test_every_metric_is_documented_and_no_other(scraped: str) -> None:
    """
    With its name, type and labels.
    """
    shown = {}
    for family in families(scraped).values():
        counter = family.type == "counter"
        labels = {label for sample in family.samples for label in sample.labels}
        if not family.samples:
            assert family.name == "queuectl_journal_snapshot_time_seconds"
        name = f"{family.name}_total" if counter else family.name
        shown[name] = (family.type, labels - {"le"})
    documented = {
        plain(row[0]): (plain(row[1]), set(code_in(row[2])))
        for title in ("The daemon", "The gateway")
        for row in METRICS.table(title)
    }
    assert shown == documented


def test_openmetrics_is_told_to_who_asks_for_it(client: httpx.Client) -> None:
    """
    The format of newer scrapers, whole and with its end.
    """
    accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    names = {family.name for family in openmetrics.text_string_to_metric_families(answer.text)}
    assert {"queuectl_jobs", "queuectl_jobs_enqueued", "queuectl_web_answers"} <= names


def test_json_is_told_to_who_asks_for_it(client: httpx.Client, scraped: str) -> None:
    """
    The average and the counts, as an older program did.
    """
    found = client.get("/metrics", headers={"Accept": "application/json"}).json()
    assert found.keys() == {"average_execution_time", "jobs"}
    assert 0 < found["average_execution_time"] < 60
    assert (found["jobs"]["completed"], found["jobs"]["dead"]) == (1, 1)
    assert value(scraped, "queuectl_jobs", queue="default", state="completed") == 1


def test_which_format_is_wanted() -> None:
    """
    Browsers and tools that take anything get text.
    """
    assert wants_json("application/json")
    assert wants_json("text/html, application/json;q=0.9")
    assert not wants_json("text/plain, application/json")
    assert not wants_json("*/*")
    assert not wants_json("")


def test_a_token_without_read_sees_no_metrics(gateway: GatewayProcess) -> None:
    """
    Nobody sees them without a token, and no token that is not for looking.
    """
    assert gateway.client().get("/metrics").status_code in (303, 401)
    answer = gateway.token_client("submit").get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (403, "denied")


def test_who_is_no_admin_sees_nothing_of_the_gateway(web_daemon: DaemonProcess) -> None:
    """
    What others ask the gateway for is not theirs to know.
    """
    of_gateway = {plain(row[0]) for row in METRICS.table("The gateway")}
    shown = {
        admin: set(asyncio.run(scrape_as(web_daemon.socket, admin=admin)))
        for admin in (True, False)
    }
    counters = {f"{name}_total" for name in shown[True]}
    assert of_gateway <= shown[True] | counters
    assert shown[True] - shown[False] == {name.removesuffix("_total") for name in of_gateway}


async def scrape_as(socket: str, *, admin: bool) -> dict[str, Metric]:
    """
    Return what the application shows to a visitor who is an admin, or not.
    """
    link = Link(socket)
    await link.open()
    visitor = Visitor(
        link=link, address="", user="eve", uid=1001, admin=admin, scopes=frozenset({"read"})
    )
    app = Starlette(routes=exposition.routes())
    app.state.gateway = Gateway(Configuration(socket=socket))

    async def known(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, VISITOR: visitor}, receive, send)

    try:
        transport = httpx.ASGITransport(known)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return families((await client.get("/metrics")).text)
    finally:
        link.close()


def many_metrics(queue_count: int) -> Metrics:
    """
    Return what a daemon with that many queues tells, some with names that are hard to write.
    """
    names = ['say-"hi"', "back\\slash", "line\nbreak", "öl", *map(str, range(queue_count))]
    histogram = {"bounds": [1, 10], "counts": [1, 2, 3], "sum": 400}
    journal = {"size_bytes": 1, "segment_count": 1, "durability": "always", "full": False}
    fields = {
        "op": "metrics",
        "version": "1",
        "mode": "system",
        "epoch": 1,
        "started_at": 1_000,
        "uptime_ms": 1_000,
        "runner_connected": True,
        "series": [
            {"queue": name, "user": "eve", "jobs": {"dead": 1}, "run_counts": [1, 0, 1]}
            for name in names
        ],
        "span_bounds_ms": [10, 1000],
        "workers": {"idle": 1},
        "journal": {**journal, "snapshot_at": 1_500, "commits": histogram, "batches": histogram},
        "connections": {"count": 1, "accepted": 1},
        "turns": histogram,
        "oldest_pending_at": 1_250,
    }
    return msgspec.convert(fields, Metrics)


def test_names_are_written_so_that_they_are_read_again() -> None:
    """
    Whatever a queue is called, and however many there are.
    """
    metrics = many_metrics(SERIES_MAX)
    text = generate_latest(Families(families_of_daemon(metrics))).decode()
    jobs = families(text)["queuectl_jobs"]
    assert [each.queue for each in metrics.series] == [s.labels["queue"] for s in jobs.samples]


def test_buckets_count_all_values_up_to_their_bound() -> None:
    """
    As Prometheus wants them, in seconds.
    """
    text = generate_latest(Families(families_of_daemon(many_metrics(0)))).decode()
    turns = families(text)["queuectl_loop_turn_seconds"]
    buckets = {s.labels["le"]: s.value for s in turns.samples if s.name.endswith("_bucket")}
    assert buckets == {"0.001": 1, "0.01": 3, "+Inf": 6}
    assert value(text, "queuectl_loop_turn_seconds_sum") == 0.4
    assert value(text, "queuectl_oldest_pending_age_seconds") == 0.75
    assert value(text, "queuectl_journal_snapshot_time_seconds") == 1.5


# --- the files in docs/ -------------------------------------------------------------------------


@needs_promtool
def test_names_and_words_are_as_prometheus_wants_them(scraped: str) -> None:
    """
    Units, suffixes and help, by Prometheus' own linter.
    """
    promtool("check", "metrics", text=scraped)


@needs_promtool
def test_alerts_come_when_they_must() -> None:
    """
    The rules are valid, and each fires when it is to and not when all is well.
    """
    promtool("check", "rules", str(ROOT / "docs/alerts.yml"))
    promtool("test", "rules", str(ROOT / "tests/web/alerts_test.yml"))


def test_every_alert_is_documented_and_tried() -> None:
    """
    No rule without a line for people, and a test.
    """
    alerts = re.findall(r"alert: (\w+)", (ROOT / "docs/alerts.yml").read_text())
    assert alerts == [plain(row[0]) for row in METRICS.table("Dashboard and alerts")]
    tried = (ROOT / "tests/web/alerts_test.yml").read_text()
    assert [each for each in alerts if each not in tried] == []


def expressions(part: Any) -> Iterator[str]:
    """
    Yield every expression of a dashboard.
    """
    if isinstance(part, dict):
        for key, each in part.items():
            if key == "expr":
                yield each
            else:
                yield from expressions(each)
    elif isinstance(part, list):
        for each in part:
            yield from expressions(each)


DASHBOARD = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
SHOWN = list(expressions(DASHBOARD))


def test_the_dashboard_and_the_alerts_name_metrics_that_there_are() -> None:
    """
    What is misspelt would stay empty, and nobody would know why.
    """
    known = set()
    for title in ("The daemon", "The gateway"):
        for row in METRICS.table(title):
            name, histogram = plain(row[0]), plain(row[1]) == "histogram"
            suffixes = ("_bucket", "_sum", "_count") if histogram else ("",)
            known |= {name + suffix for suffix in suffixes}
    alerts = (ROOT / "docs/alerts.yml").read_text()
    named = set(re.findall(r"\bqueuectl_\w+", " ".join([alerts, *SHOWN])))
    assert named - known == set()
    assert {name for name in known if "_web_" not in name} - named <= NOT_SHOWN


#: What only those need who ask for more than a dashboard has room for.
NOT_SHOWN = {
    "queuectl_connections_accepted_total",
    "queuectl_journal_commit_seconds_count",
    "queuectl_journal_commit_seconds_sum",
    "queuectl_job_wait_seconds_count",
    "queuectl_job_wait_seconds_sum",
    "queuectl_loop_turn_seconds_count",
    "queuectl_loop_turn_seconds_sum",
}


def test_the_dashboard_is_whole() -> None:
    """
    Every panel has an id and a place of its own, and asks the data source that is chosen.
    """
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
        covered = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & covered, panel["title"]
        cells |= covered
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", " ".join(SHOWN))) <= {*names, *GRAFANAS_OWN}


GRAFANAS_OWN = {"__rate_interval", "__interval"}


@needs_promtool
def test_the_dashboards_expressions_are_valid(tmp_path: Path) -> None:
    """
    As rules, by Prometheus' own parser.
    """
    rules = []
    for number, expression in enumerate(SHOWN):
        expression = re.sub(r"\$__\w+", "5m", expression)
        expression = re.sub(r"\$\w+", ".*", expression)
        rules.append({"record": f"dashboard:{number}", "expr": expression})
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


@pytest.mark.parametrize(
    "words",
    [
        f"At most {SERIES_MAX} pairs of these",
        f"accounts beyond {SERIES_USERS_MAX} are the user `{OTHER_USERS}`",
        f"with the queue `{OTHER_QUEUES}`",
        f"of more than {PENDING_LOOK_MAX:,}, one",
    ],
)
def test_figures_in_sentences(words: str) -> None:
    """
    A figure that stands in a sentence is the one of the code.
    """
    assert words in " ".join(METRICS.text.split())
