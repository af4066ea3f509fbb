"""
What docs/web.md says of limits and events against the code.
"""

import re

import pytest
from markdown_reader import ROOT, Document, code_in, plain

from queuectl.web import (
    arrival,
    bodies,
    configuration,
    connections,
    gateway,
    link,
    look_feed,
    serving,
    sessions,
    throttle,
)
from queuectl.web.guard import REFUSAL_LINE_SECONDS

WEB = Document("docs/web.md")
LIMITS = {
    arrival: ("URL_BYTES_MAX", "HEADERS_BYTES_MAX", "HEADERS_MAX", "HEAD_BYTES_MAX"),
    connections: ("HEAD_SECONDS_MAX", "CONNECTIONS_MAX", "USER_CONNECTIONS_MAX"),
    bodies: (
        *("BODY_BYTES_MAX", "FORM_BYTES_MAX", "LOGIN_BYTES_MAX"),
        *("BODIES_BYTES_MAX", "USER_BODIES_BYTES_MAX", "BODY_SECONDS_MAX"),
    ),
    serving: ("WEBSOCKET_BYTES_MAX", "UNREAD_MS_MAX"),
    gateway: ("LINKS_MAX",),
    link: ("CALLS_MAX", "CALL_SECONDS_MAX"),
    sessions: (
        *("SESSIONS_MAX", "USER_SESSIONS_MAX"),
        *("IDLE_SECONDS_MAX", "AGE_SECONDS_MAX", "LINK_SECONDS_MAX"),
    ),
    throttle: ("ADDRESS_FAILURES_MAX", "ALL_FAILURES_MAX", "TRIES_MAX"),
}


def test_limits() -> None:
    """
    Every limit has its value.
    """
    expected = {name: vars(module)[name] for module, names in LIMITS.items() for name in names}
    rows = WEB.table("Limits")
    assert expected == {plain(row[0]): int(row[1].replace(",", "")) for row in rows}


@pytest.mark.parametrize(
    "words",
    [
        f"then one in {throttle.ADDRESS_SECONDS:.0f} seconds",
        f"ends the gateway within {serving.SHUTDOWN_SECONDS} seconds",
        f"requests wait for it, up to {link.RECONNECT_SECONDS_MAX:.0f} seconds",
        f"after {sessions.IDLE_SECONDS_MAX / 3600:.0f} hours without a request",
        f"after {sessions.AGE_SECONDS_MAX / 86_400:.0f} days",
        f"{look_feed.TURN_SECONDS * 1000:.0f} ms after the one before",
        f"more than {look_feed.GAP_SECONDS / look_feed.TURN_SECONDS:.0f} pages of one account",
    ],
)
def test_figures_in_sentences(words: str) -> None:
    """
    A figure that stands in a sentence is the one of the code.
    """
    assert words in " ".join(WEB.text.split())


def test_rates_in_words() -> None:
    """
    What is said in words of rates.
    """
    assert (0.1, 0.5, 60.0) == (
        throttle.ALL_SECONDS,  # ten a second
        REFUSAL_LINE_SECONDS,  # two a second
        link.CONNECTION_SECONDS_MAX,  # each minute
    )


def test_events() -> None:
    """
    Every event that the gateway logs is in the table, and no other.
    """
    logged = set()
    for path in (ROOT / "queuectl/web").glob("*.py"):
        text = path.read_text()
        logged |= set(re.findall(r'log\.(?:info|warning|error)\(\s*"(\w+)"', text))
        logged |= set(re.findall(r'getattr\(log, level\)\("(\w+)"', text))
    assert logged == {code_in(row[0])[0] for row in WEB.table("The log")}


def test_addresses_of_a_gateway_on_this_host() -> None:
    """
    What is typed as it is written finds a gateway that was started as it is written.
    """
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    ports = re.findall(r"\b(?:localhost|127\.0\.0\.1|192\.0\.2\.7):([0-9]+)", "\n".join(texts))
    assert {str(configuration.PORT_DEFAULT)} == set(ports)


def test_a_token_in_a_file_is_the_token_alone() -> None:
    """
    Where a command writes a token into a file, it writes nothing else.
    """
    lines = [line for path in (ROOT / "docs").glob("*.md") for line in path.read_text().split("\n")]
    made = [line for line in lines if re.search(r"^queuectl .*token create .*> ", line)]
    assert len(made) >= 2
    assert made == [line for line in made if "--quiet" in line]
