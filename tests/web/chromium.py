"""
Chromium without a window, driven by Playwright, for tests of pages as people use them.

Whatever is wrong with a page and shows nowhere on it fails the test that opened it: an error or a
warning on the console, an exception of a script, a violation of the content security policy, a
dialog that a script opened.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from daemon_process import wait_until

#: The size of a small phone's window.
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
#: Tells the console of violations of the policy that the browser itself does not.
_TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error("violated", event.violatedDirective, event.blockedURI));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """
    Start a browser; skip the tests where there is none.
    """
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
    # As root its sandbox does not start. It sees nothing here but pages of ours.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any,
    session: httpx.Client | None,
    url: str,
    expected: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[Any]:
    """
    Open a tab that is logged in like *session*. What goes wrong unseen fails at the end, but for
    console messages that hold one of *expected*.
    """
    context = browser.new_context(base_url=url, **{"viewport": DESK, **options})
    context.set_default_timeout(15_000)
    if session is not None:
        cookies = [{"name": n, "value": v, "url": url} for n, v in session.cookies.items()]
        context.add_cookies(cookies)
    context.add_init_script(_TELL_VIOLATIONS)
    wrong: list[str] = []
    tab = context.new_page()
    tab.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def told(message: Any) -> None:
        known = any(each in message.text for each in expected)
        if message.type in ("error", "warning") and not known:
            wrong.append(f"console: {message.text} at {message.location}")

    tab.on("console", told)
    try:
        yield tab
        assert not wrong, wrong
    finally:
        context.close()


def rows_scrolled_to(tab: Any, count: int) -> list[int]:
    """
    Return the numbers of a list's rows once there are *count* of them, scrolled to as one would.
    """
    rows = tab.locator("[data-list] tr[data-n]")

    def scrolled() -> bool:
        tab.evaluate("scrollTo(0, document.body.scrollHeight)")
        return bool(rows.count() == count)

    wait_until(scrolled, what=f"{count} rows")
    return [int(each) for each in rows.evaluate_all("all => all.map(row => row.dataset.n)")]
