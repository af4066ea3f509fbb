"""
Requirement: of output that goes on for long, or draws over itself, a page shows what a terminal
would, and of what it leaves out it says how much that is.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from chromium import chromium, opened
from gateway_process import GatewayProcess

from queuectl.web.pages_static import static_url

#: Writes the texts on a screen of so many lines, and returns the lines that it has.
WRITE = """async ([path, lines, ...texts]) => {
  const { Screen } = await import(path);
  const element = document.createElement("pre");
  const screen = new Screen(element, lines);
  for (const each of texts) screen.write(each);
  return [...element.children].map((line) => line.textContent);
}"""


@pytest.fixture(scope="module")
def tab(gateway: GatewayProcess, browser_session: httpx.Client) -> Iterator[Any]:
    """
    A page whose modules may be asked.
    """
    with chromium() as browser, opened(browser, browser_session, gateway.url) as made:
        made.goto("/jobs")
        yield made


def shown(tab: Any, lines: int, *texts: str) -> list[str]:
    """
    Return what a screen of so many lines shows after these texts.
    """
    found: list[str] = tab.evaluate(WRITE, [static_url("ansi.js"), lines, *texts])
    return found


def test_earlier_lines_are_counted(tab: Any) -> None:
    """
    However often some more are left out.
    """
    assert ["1", "2", "3"] == shown(tab, 3, "1\n2\n3\n")
    told = "… 1 earlier lines are in the download"
    assert [told, "2", "3", "4"] == shown(tab, 3, "1\n2\n3\n", "4\n")
    told = "… 4 earlier lines are in the download"
    assert [told, "5", "6", "7"] == shown(tab, 3, "1\n2\n3\n", "4\n", "5\n6\n", "7\n")


def test_a_line_drawn_over_itself_is_one(tab: Any) -> None:
    """
    A wheel that turns by backspaces goes on in its place for ever.
    """
    assert ["done"] == shown(tab, 3, "|\b" * 30_000 + "done\n")
