"""
Requirement: the dashboard is for everybody. axe-core finds no violation on any page, in both
themes, at both widths, with jobs and without.
"""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from chromium import DESK, PHONE, opened
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess

from queuectl.client import Client
from queuectl.protocol import JobSpec, Queues, SetQueue
from queuectl.tokens import CreateToken, TokenCreated

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core here")

PAGES = (
    "/",
    "/?span=day",
    "/jobs",
    "/jobs?state=dead&order=longest",
    "/jobs?search=nothing-has-this",
    "/schedule",
    "/dead",
    "/workers",
    "/queues",
    "/settings",
    "/tokens",
    "/enqueue",
    "/enqueue?mode=json",
)
#: With those of level AAA that a tool can judge left out: contrast 7 to 1.
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Check:
    """
    Looks at pages and gathers what axe-core says is wrong with them, and at which elements.
    """

    def __init__(self) -> None:
        self.wrong: list[tuple[str, str, list[str]]] = []

    def __call__(self, tab: Any, where: str) -> None:
        rules = {"runOnly": {"type": "tag", "values": STANDARDS}}
        for each in axe.Axe().run(tab, options=rules).response["violations"]:
            nodes = [node["html"][:160] for node in each["nodes"][:3]]
            self.wrong.append((where, each["id"], nodes))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page(
    browser: Any,
    browser_session: httpx.Client,
    gateway: GatewayProcess,
    web_daemon: DaemonProcess,
    theme: str,
) -> None:
    """
    Pages with jobs in every state, a job with attempts and output, dialogs, refusals.
    """
    check = Check()
    with web_daemon.client() as client:
        failing = fill(client, web_daemon)
    url = gateway.url
    with opened(browser, browser_session, url, ("status of 404",), color_scheme=theme) as tab:
        for path in (*PAGES, f"/jobs/{failing}", "/jobs/none"):
            tab.goto(path)
            check(tab, path)
        tab.goto("/jobs")
        tab.locator("#rows input").first.check()
        check(tab, "a selection")
        tab.get_by_role("button", name="Cancel", exact=True).click()
        check(tab, "a question")
    with opened(browser, None, url, color_scheme=theme) as tab:
        tab.goto("/login")
        check(tab, "/login")
    narrow = {"viewport": PHONE, "color_scheme": theme}
    with opened(browser, browser_session, url, **narrow) as tab:
        for path in ("/", "/jobs", f"/jobs/{failing}", "/dead", "/workers"):
            tab.goto(path)
            check(tab, f"{path}, narrow")
    assert not check.wrong, "\n".join(map(str, check.wrong))


def fill(client: Client, daemon: DaemonProcess) -> str:
    """
    Make jobs of every state, a queue that is paused and a token; return a dead job's id.
    """
    colors = r"printf '\033[31mred\033[2m dim\033[0m\n'; exit 3"
    (failing,) = daemon.enqueue(JobSpec(command=colors, max_retries=0))
    daemon.enqueue(
        "true",
        "sleep 600",
        JobSpec(command="exit 1", max_retries=5),
        JobSpec(command="true", hold=True),
        JobSpec(command="true", delay_ms=3_600_000),
        JobSpec(command="true", queue="paused"),
    )
    client.call(SetQueue(name="paused", concurrency=1, paused=True), Queues)
    client.call(CreateToken(name="a token", scopes=["read"], lifetime_ms=86_400_000), TokenCreated)
    daemon.wait_for(failing, "dead")
    return failing


def test_pages_of_an_empty_queue(
    browser: Any, daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    Where there is nothing yet, pages teach the command that would change that.
    """
    check = Check()
    gateway = gateways(daemon).start()
    with opened(browser, gateway.browser(), gateway.url, viewport=DESK) as tab:
        for path in ("/", "/jobs", "/schedule", "/dead", "/tokens"):
            tab.goto(path)
            check(tab, path)
            assert "queuectl " in tab.locator(".empty code").first.inner_text(), path
    assert not check.wrong, "\n".join(map(str, check.wrong))
