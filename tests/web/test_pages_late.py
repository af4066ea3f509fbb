"""
Requirement: what a page asked for changes nothing under the reader's hands when it comes late:
after they scrolled, ticked, were asked something, or asked for something else.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from chromium import opened, rows_scrolled_to
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess

from queuectl.protocol import Act, Acted, JobSpec, Selection

#: The pages that are asked for without anybody having asked.
LOOKS = "**/*fragment=main*"


@pytest.fixture
def tab(browser: Any, browser_session: httpx.Client, gateway: GatewayProcess) -> Iterator[Any]:
    """
    A tab that is logged in, with a window which a list does not fit into.
    """
    size = {"width": 1_000, "height": 400}
    with opened(browser, browser_session, gateway.url, viewport=size) as made:
        yield made


@pytest.fixture
def listed(web_daemon: DaemonProcess) -> Iterator[list[str]]:
    """
    The jobs of the queue "late", none of which runs.
    """
    yield web_daemon.enqueue(*[JobSpec(command="true", hold=True, queue="late")] * 460)
    with web_daemon.client() as client:
        client.call(Act(action="cancel", select=Selection(queue="late")), Acted)
        client.call(Act(action="prune", select=Selection(queue="late")), Acted)


def wait_for(tab: Any, condition: Callable[[], bool]) -> None:
    """
    Wait for what the browser tells: it is heard only while it is waited for.
    """

    def heard() -> bool:
        tab.wait_for_timeout(10)
        return condition()

    wait_until(heard)


class Held:
    """
    The first *most* requests of a tab that match *pattern*: each waits until it is let go.
    """

    def __init__(self, tab: Any, pattern: str, most: int = 1) -> None:
        self._tab = tab
        self._most = most
        self.routes: list[Any] = []
        tab.route(pattern, self._take)

    def _take(self, route: Any) -> None:
        if len(self.routes) < self._most:
            self.routes.append(route)
        else:
            route.continue_()

    def wait_for(self, count: int = 1) -> None:
        """
        Wait until so many are held.
        """
        wait_for(self._tab, lambda: len(self.routes) >= count)

    def let_go(self, index: int = 0) -> None:
        """
        Have one answered, and the page do what it does then.
        """
        with self._tab.expect_event("requestfinished"):
            self.routes[index].continue_()
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self._tab.evaluate(frames)


def to_the_end(tab: Any) -> None:
    tab.evaluate("scrollTo(0, document.body.scrollHeight)")


def test_a_list_that_has_grown(tab: Any, listed: list[str]) -> None:
    """
    A page that was asked for while the list was short does not shorten it, nor does the part that
    comes next leave a gap.
    """
    looks, parts = Held(tab, LOOKS), Held(tab, "**/*fragment=rows*", 2)
    tab.goto("/jobs?queue=late")
    looks.wait_for()
    to_the_end(tab)
    parts.wait_for(1)
    parts.let_go(0)
    wait_until(lambda: tab.locator("[data-list] tr[data-n]").count() == 250)
    to_the_end(tab)
    parts.wait_for(2)
    tab.evaluate("scrollTo(0, 0)")
    looks.let_go()
    parts.let_go(1)
    assert rows_scrolled_to(tab, len(listed)) == [int(each) for each in reversed(listed)]


def test_a_list_that_was_scrolled(tab: Any, web_daemon: DaemonProcess, listed: list[str]) -> None:
    """
    A page that was asked for at the list's start takes nothing away from who has gone on and ticked
    a row since.
    """
    tab.goto("/jobs?queue=late")
    rows_scrolled_to(tab, len(listed))
    tab.evaluate("scrollTo(0, 0)")
    looks = Held(tab, LOOKS)
    web_daemon.enqueue("true")
    looks.wait_for()
    tab.locator("[data-list] input[name=id]").nth(200).check()
    looks.let_go()
    assert "1 selected" == tab.locator("#picked").inner_text()
    assert len(listed) == tab.locator("[data-list] tr[data-n]").count()


def test_a_list_with_much_that_is_new(
    tab: Any, web_daemon: DaemonProcess, listed: list[str]
) -> None:
    """
    More than joins on to the list waits for as long as something is selected. What is there goes on
    being brought up to date.
    """
    tab.goto("/jobs?queue=late")
    rows = tab.locator("[data-list] tr[data-n]")
    rows_scrolled_to(tab, len(listed))
    tab.evaluate("scrollTo(0, 0)")
    box = rows.nth(0).locator("input[name=id]")
    box.check()
    held = JobSpec(command="true", hold=True, queue="late")
    web_daemon.enqueue(*[held] * 100)
    with web_daemon.client() as client:
        client.call(Act(action="cancel", select=Selection(ids=[listed[-2]])), Acted)
    rows.nth(1).get_by_text("cancelled").wait_for()
    assert "1 selected" == tab.locator("#picked").inner_text()
    assert len(listed) == rows.count()
    box.uncheck()
    (last,) = web_daemon.enqueue(held)
    wait_until(lambda: rows.nth(0).get_attribute("data-n") == last)


def test_a_list_in_a_tall_window(
    browser: Any, browser_session: httpx.Client, gateway: GatewayProcess, listed: list[str]
) -> None:
    """
    It shows more than the server does at first, and so do the pages that it asks for: nothing goes
    that has to be fetched again.
    """
    size = {"width": 1_000, "height": 2_000}
    with opened(browser, browser_session, gateway.url, viewport=size) as tab:
        parts: list[Any] = []
        tab.on("request", lambda request: parts.append(request) if "=rows" in request.url else 0)
        looks = Held(tab, LOOKS)
        tab.goto("/jobs?queue=late")
        rows = tab.locator("[data-list] tr[data-n]")
        wait_until(lambda: rows.count() == 250)
        looks.wait_for()
        looks.let_go()
        assert listed[:-201:-1] == rows.evaluate_all("all => all.map(row => row.dataset.n)")
        assert 1 == len(parts)


def test_a_question_that_is_being_asked(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    Yes is the answer to what was asked, and not to what the page would ask by then: the job ended
    meanwhile, and where it was to be cancelled it could now be forgotten.
    """
    marker = os.path.join(web_daemon.directory, "late-go-on")
    (job,) = web_daemon.enqueue(f"until [ -e {marker} ]; do sleep 0.05; done")
    web_daemon.wait_for(job, "processing")
    looks = Held(tab, LOOKS)
    tab.goto(f"/jobs/{job}")
    looks.wait_for()
    tab.get_by_role("button", name="Cancel", exact=True).click()
    open(marker, "x").close()
    web_daemon.wait_for(job, "completed")
    looks.let_go()
    assert "processing" == tab.locator("h1 + .state").inner_text()
    tab.get_by_role("button", name="Yes, cancel").click()
    tab.locator("#said", has_text="is completed").wait_for()
    assert "completed" == web_daemon.state(job)


def test_a_filter_that_was_typed_further(tab: Any, listed: list[str]) -> None:
    """
    The list is that of what was typed last, whichever answer comes last.
    """
    tab.goto("/jobs?queue=late")
    first = Held(tab, "**/jobs?search=tr&queue=late")
    tab.locator("#search").fill("tr")
    first.wait_for()
    tab.locator("#search").fill("trash")
    tab.wait_for_url("**/jobs?search=trash&queue=late")
    nothing = tab.get_by_role("heading", name="No job matches")
    nothing.wait_for()
    first.let_go()
    assert tab.url.endswith("/jobs?search=trash&queue=late")
    assert nothing.is_visible()


def test_an_action_overtakes_a_look(tab: Any, web_daemon: DaemonProcess) -> None:
    """
    What a page asks for by itself is let go when something is done: it may be about a job that is
    forgotten by then.
    """
    (job,) = web_daemon.enqueue("true")
    web_daemon.wait_for(job, "completed")
    tab.goto(f"/jobs/{job}")
    tab.locator("#out-state", has_text="complete").wait_for()
    let_go: list[Any] = []
    looks = Held(tab, LOOKS)
    tab.on("requestfailed", lambda request: let_go.append(request))
    # Something of it changes, so that the page looks.
    web_daemon.enqueue("true")
    looks.wait_for()
    tab.get_by_role("button", name="Forget", exact=True).click()
    tab.get_by_role("button", name="Yes, forget").click()
    tab.wait_for_url("**/jobs")
    wait_for(tab, lambda: bool(let_go))
    assert [each.request for each in looks.routes] == let_go


def test_a_page_that_is_being_left(browser: Any, gateway: GatewayProcess) -> None:
    """
    Who logs out lets go of what the page listens to at once: behind the end of the session it would
    be refused, and the page be loaded again.
    """
    with opened(browser, None, gateway.url) as tab:
        tab.goto("/login?next=/queues")
        tab.fill("#token", gateway.make_token())
        let_go: list[Any] = []
        tab.on("requestfailed", lambda request: let_go.append(request))
        streams, leaving = Held(tab, "**/looks"), Held(tab, "**/logout")
        tab.click("button")
        streams.wait_for()
        tab.locator("form[action='/logout'] button").click(no_wait_after=True)
        leaving.wait_for()
        wait_for(tab, lambda: streams.routes[0].request in let_go)
        leaving.routes[0].continue_()
        tab.wait_for_url(f"{gateway.url}/login")
