"""
The documented limits of the control socket against the code: what a client can run into.
"""

import pytest
from markdown_reader import Document, plain

from queuectl import framing, measures, protocol, tokens
from queuectl.settings import SETTINGS
from queuectld.core import admission, measuring, records, state
from queuectld.runtime import connection, deadlines, output, quotas, server, streams, watchers

PROTOCOL = Document("docs/protocol.md")
SECURITY = Document("docs/security.md")


def limits() -> dict[str, int]:
    """
    Return what a client can run into: the public limits of the modules that it meets.
    """
    found: dict[str, int] = {
        name: value
        for module in (protocol, framing, admission, state)
        for name, value in vars(module).items()
        if name.endswith("_MAX") and not name.startswith("ECHO_")
    }
    for module, name in (
        (records, "ATTEMPTS_MAX"),
        (quotas, "CLIENTS_MAX"),
        (quotas, "RESERVED_MAX"),
        (quotas, "ADMIN_RESERVED_MAX"),
        (quotas, "FEW_CONNECTIONS_MAX"),
        (connection, "WRITE_BYTES_MAX"),
        (connection, "UNANSWERED_MAX"),
        (streams, "STREAMS_MAX"),
        (streams, "USER_STREAMS_MAX"),
        (streams, "WAITED_JOBS_MAX"),
        (tokens, "USER_TOKENS_MAX"),
        (watchers, "WATCHERS_MAX"),
        (watchers, "USER_WATCHERS_MAX"),
        (watchers, "CHANGES_MAX"),
        (output, "TAIL_BYTES_MAX"),
    ):
        found[name] = vars(module)[name]
    return found


def test_limits() -> None:
    """
    Every limit is documented with its value and a reason, and no other.
    """
    rows = PROTOCOL.table("Limits")
    assert limits() == {plain(row[0]): int(row[1].replace(",", "")) for row in rows}
    assert all(row[2] for row in rows)


def test_time_limits() -> None:
    """
    Every time limit of a connection is documented with its value, and no other.
    """
    expected = {
        name: value // 1000 for name, value in vars(deadlines).items() if name.endswith("_MS_MAX")
    }
    rows = PROTOCOL.table("Time limits")
    assert expected == {plain(row[0]): int(row[1].replace(",", "")) for row in rows}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (PROTOCOL, f"while more than {connection.WRITE_BYTES_MAX >> 20} MiB of answers"),
        (PROTOCOL, f"or {connection.UNANSWERED_MAX} of its requests"),
        (PROTOCOL, f"At most {quotas.USER_REQUESTS_PER_TURN_MAX} requests of one account"),
        (PROTOCOL, f"At most {measures.SERIES_MAX} pairs of these have totals of their own"),
        (PROTOCOL, f"such accounts beyond {measures.SERIES_USERS_MAX} admins see the sum"),
        (PROTOCOL, f"of more than {measuring.PENDING_LOOK_MAX:,}, one of those"),
        (PROTOCOL, f"at most {admission.ECHO_BYTES_MAX} bytes of UTF-8"),
        (SECURITY, f"{SETTINGS['user_connections_max'].default} connections (["),
        (SECURITY, f"{server.ACCEPTS_PER_TURN_MAX} are accepted in a turn"),
        (SECURITY, f"{quotas.CLIENTS_MAX} in all; the last {quotas.RESERVED_MAX} are for"),
        (SECURITY, f"have fewer than {quotas.FEW_CONNECTIONS_MAX}, the last"),
        (SECURITY, f"the last {quotas.ADMIN_RESERVED_MAX} of these for admins"),
        (SECURITY, f"cut off after {deadlines.HELLO_MS_MAX // 1000} seconds before `hello`"),
        (SECURITY, f"after {deadlines.FRAME_MS_MAX // 1000} within a frame"),
        (SECURITY, f"{quotas.USER_REQUESTS_PER_TURN_MAX} requests in a turn, or one that is long"),
        (SECURITY, f"| {streams.USER_STREAMS_MAX} at once |"),
        (SECURITY, f"| {streams.WAITED_JOBS_MAX:,} at once, each"),
        (SECURITY, f"| {watchers.USER_WATCHERS_MAX} at once; of each {watchers.WINDOW_MS} ms"),
        (PROTOCOL, f"at most one every {watchers.WINDOW_MS} ms"),
        (PROTOCOL, f"the first {watchers.CHANGES_MAX} changes are told"),
        (PROTOCOL, f"to within about {streams.POLL_MS} ms"),
        (PROTOCOL, f"At least the last {state.REQUESTS_MAX:,} request ids"),
    ],
)
def test_figures_in_sentences(document: Document, words: str) -> None:
    """
    A figure of the code that stands in a sentence is the one of the code.
    """
    assert words in " ".join(document.text.split())
