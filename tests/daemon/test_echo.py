"""
What errors repeat of the input: little of it, and nothing that a terminal would obey. And what a
message claims to hold costs nothing before it is there.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from daemon_process import DaemonProcess
from raw_connection import HELLO, Raw, check_served

from queuectl.framing import FRAME_BYTES_MAX, pack_frame
from queuectl.messages import Request
from queuectl.protocol import BATCH_JOBS_MAX, ID_CHARS_MAX, SELECT_JOBS_MAX, Refused
from queuectl.watching import Changed
from queuectld.core.admission import ECHO_BYTES_MAX, excerpt, shorten

inspect = msgspec.inspect

# Shown as they are, of two to four bytes; and those whose escapes are longest.
CHARACTERS = ["ж", "語", "𠀀", "\x1b", "\u202e", "\U0010ffff"]
LENGTHS = [ID_CHARS_MAX, 5_000]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while Raw.made:
        Raw.made.pop().close()


def sample(kind: Any) -> Any:
    """
    Return a value that a required field may have.
    """
    if isinstance(kind, inspect.UnionType):
        return sample(kind.types[0])
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, inspect.StructType):
        return {each.encode_name: sample(each.type) for each in kind.fields if each.required}
    simple = {inspect.StrType: "x", inspect.IntType: 1, inspect.ListType: []}
    return simple[type(kind)]


def holders(kind: Any) -> Iterator[Callable[[str], Any]]:
    """
    Yield, for each place in a value of this type that holds text, what puts a text there.
    """
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from holders(each)
    elif isinstance(kind, inspect.StrType | inspect.LiteralType):
        yield lambda text: text
    elif isinstance(kind, inspect.ListType):
        for inner in holders(kind.item_type):
            yield lambda text, inner=inner: [inner(text)]
    elif isinstance(kind, inspect.DictType):
        yield lambda text: {text: "x"}
        yield lambda text: {f"{text}=": "x"}
        yield lambda text: {"x": text}
    elif isinstance(kind, inspect.StructType):
        required = sample(kind)
        for field in kind.fields:
            for inner in holders(field.type):
                yield lambda text, inner=inner, name=field.encode_name: {
                    **required,
                    name: inner(text),
                }


def requests(text: str) -> Iterator[dict[str, Any]]:
    """
    Yield every request with *text* in one place, for each of its places; and as its name.
    """
    yield {"op": text}
    for each in Request.__args__:
        tag = each.__struct_config__.tag
        if tag in ("hello", "shutdown"):
            continue
        for holder in holders(inspect.type_info(each)):
            yield {"op": tag, **holder(text)}
    # Two wrongs: what is found first must not hide what is found next.
    for job in ({"id": text}, {"queue": text}, {"cwd": text}, {"env": {text: "\0"}}):
        yield {"op": "enqueue", "jobs": [{"command": "true", "hold": True, **job}]}
        twice = [{"command": "true", "hold": True, **job}] * 2
        yield {"op": "enqueue", "jobs": twice, "partial": True}
    for name in ("concurrency", "paused"):
        yield {"op": "queue_set", "name": text, name: True if name == "paused" else 1}
    yield {"op": "queue_delete", "name": text}
    for action in ("hold", "release", "retry", "purge"):
        yield {"op": "act", "action": action, "select": {"ids": [text]}}
    yield {"op": "logs", "id": text, "attempt": 7}


def errors_in(answer: Any) -> Iterator[str]:
    """
    Yield every text of an answer that explains an error.
    """
    if isinstance(answer, Refused):
        yield answer.message
        yield answer.field or ""
    for error in getattr(answer, "errors", ()):
        yield error.message
        yield error.id or ""
        yield error.field or ""


@pytest.mark.parametrize("character", CHARACTERS, ids=ascii)
def test_errors_repeat_little_of_the_input(daemon: DaemonProcess, character: str) -> None:
    """
    Whatever field of whatever request a text is in, as long as an id may be and longer: at most
    ECHO_BYTES_MAX of it come back in an error, and no control character does.
    """
    shown = character if character.isprintable() else repr(character)[1:-1]
    raw = Raw(daemon.socket)
    raw.send(HELLO)
    raw.receive()
    error_count = call = 0
    for length in LENGTHS:
        for request in requests(character * length):
            call += 1
            raw.send(pack_frame(msgspec.msgpack.encode({**request, "call": call})))
            answer = raw.receive()
            while isinstance(answer, Changed) and answer.call < call:
                answer = raw.receive()  # The ones who watch are told, on the same connection.
            assert answer is not None, request["op"]
            assert answer.call == call
            for text in errors_in(answer):
                echoed_bytes = text.count(shown) * len(shown.encode())
                assert echoed_bytes <= ECHO_BYTES_MAX, (request["op"], text)
                assert text.isprintable(), (request["op"], text)
                error_count += bool(text)
    assert error_count > 100
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("fields", [{"argv": ["ж" * 5_000]}, {"cwd": "/" + "ж" * 2_000}])
def test_what_could_not_start_is_told_in_short(daemon: DaemonProcess, fields: Any) -> None:
    """
    The program and the directory come back in the job's last error, which stays in the journal.
    """
    raw = Raw(daemon.socket)
    job = {"max_retries": 0, **({} if "argv" in fields else {"command": "true"}), **fields}
    raw.send(
        HELLO + pack_frame(msgspec.msgpack.encode({"op": "enqueue", "call": 1, "jobs": [job]}))
    )
    raw.receive()
    (job_id,) = raw.receive().ids
    last_error = daemon.wait_for(job_id, "dead").job.last_error
    assert last_error is not None
    assert 0 < last_error.count("ж") * 2 <= ECHO_BYTES_MAX


@pytest.mark.parametrize("character", [*CHARACTERS, "x", "'", "\\", "\n"], ids=ascii)
def test_what_is_repeated_is_bounded_and_marked(character: str) -> None:
    """
    At any length: printable, at most ECHO_BYTES_MAX, whole if it fits, else with a mark.
    """
    for length in (*range(210), 5_000):
        text = character * length
        for function in (shorten, excerpt):
            told = function(text)
            assert len(told.encode()) <= ECHO_BYTES_MAX
            assert told.isprintable()
            escaped = text if function is excerpt and text.isprintable() else repr(text)
            assert ("…" in told) == (told.strip("'\"") != escaped.strip("'\"")), told


# --- claims ---------------------------------------------------------------------------------------

CLAIM = struct.pack(">I", 2**32 - 1)
MANY = struct.pack(">I", FRAME_BYTES_MAX - 64)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x82\xa2op\xa4wait\xa3ids\xdd" + CLAIM + b"\xa11",
        b"\x82\xa2op\xa7enqueue\xa4jobs\xdd" + CLAIM + b"\x80",
        b"\x82\xa2op\xa7enqueue\xa3env\xdf" + CLAIM,
        b"\x82\xa2op\xa4show\xa2id\xdb" + CLAIM + b"x",
        b"\x82\xa2op\xa4show\xa1x\xdd" + CLAIM,
        b"\x82\xa2op\xa4show\xa1x\xc6" + CLAIM,
        b"\xdf" + CLAIM + b"\xa2op\xa6status",
        # As many as fit, of one byte each, which become objects of hundreds.
        b"\x82\xa2op\xa7enqueue\xa4jobs\xdd" + MANY + b"\x80" * (FRAME_BYTES_MAX - 64),
        b"\x82\xa2op\xa4wait\xa3ids\xdd" + MANY + b"\xa0" * (FRAME_BYTES_MAX - 64),
    ],
    ids=lambda payload: payload[1:24].hex(),
)
def test_what_is_claimed_is_not_allocated(daemon: DaemonProcess, payload: bytes) -> None:
    """
    Four billion elements that do not come, and millions that do: refused at the length.
    """
    check_served(daemon)
    peak_before = daemon.rss_peak_bytes()
    for _ in range(3):
        raw = Raw(daemon.socket)
        raw.send(HELLO + pack_frame(payload))
        raw.receive()
        assert raw.receive().code == "usage"
        raw.close()
    check_served(daemon)
    # The frame itself, as it came and as it was cut out.
    assert daemon.rss_peak_bytes() - peak_before < 8 * FRAME_BYTES_MAX


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("jobs", {"op": "enqueue", "jobs": [{}] * (BATCH_JOBS_MAX + 1)}),
        ("ids", {"op": "wait", "ids": ["1"] * (SELECT_JOBS_MAX + 1)}),
        ("ids", {"op": "list", "ids": ["1"] * (SELECT_JOBS_MAX + 1)}),
        ("ids", {"op": "act", "action": "hold", "select": {"ids": ["1"] * (SELECT_JOBS_MAX + 1)}}),
    ],
)
def test_one_too_many_is_told_the_limit(
    daemon: DaemonProcess, field: str, message: dict[str, Any]
) -> None:
    """
    Which list, and how long it may be.
    """
    raw = Raw(daemon.socket)
    raw.send(HELLO + pack_frame(msgspec.msgpack.encode({**message, "call": 3})))
    raw.receive()
    refused = raw.receive()
    assert (refused.call, refused.code) == (3, "usage")
    assert "10000" in refused.message
    assert field in refused.message
