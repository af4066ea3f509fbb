"""
The documents of the protocol, the journal and the architecture against the code.

Byte layouts are held by reading: the offsets and types of a document's table must find, in bytes
that the code packed, the values that were packed.
"""

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from markdown_reader import Document, code_in, plain
from msgspec import inspect as types

from queuectl import framing, messages, protocol, views
from queuectl.environment import pack_variables
from queuectl.framing import FrameReader, pack_frame
from queuectld.core import records
from queuectld.core.job import TRANSITIONS
from queuectld.journal import compaction, directory, frames, header
from queuectld.journal.journal import (
    RUNWAY_BYTES,
    SEALED_BYTES_MIN,
    SEALED_COUNT_MAX,
    SEGMENT_BYTES,
)
from queuectld.journal.opening import RUNWAY_BYTES_MIN

PROTOCOL = Document("docs/protocol.md")
JOURNAL = Document("docs/journal.md")

REQUESTS = get_args(messages.Request)
RESPONSES = get_args(messages.Response)


# --- messages ------------------------------------------------------------------------------------


def tag(message: type) -> str:
    info = types.type_info(message)
    assert isinstance(info, types.StructType)
    return str(info.tag)


def parts() -> dict[str, type]:
    """
    Return every struct that messages are made of, by name.
    """
    found: dict[str, type] = {}
    waiting: list[types.Type] = [types.type_info(each) for each in (*REQUESTS, *RESPONSES)]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, types.StructType):
            if kind.tag is None:
                found[kind.cls.__name__] = kind.cls
            waiting += [field.type for field in kind.fields]
        elif isinstance(kind, types.UnionType):
            waiting += kind.types
        elif isinstance(kind, types.ListType):
            waiting.append(kind.item_type)
        elif isinstance(kind, types.DictType):
            waiting.append(kind.value_type)
    return found


PARTS = parts()
STRUCTS = {**{tag(each): each for each in (*REQUESTS, *RESPONSES)}, **PARTS}


def type_name(kind: types.Type) -> str:
    """
    Return a type as the document writes it.
    """
    if isinstance(kind, types.UnionType):
        return " or ".join(map(type_name, kind.types))
    if isinstance(kind, types.ListType):
        return f"array of {type_name(kind.item_type)}"
    if isinstance(kind, types.DictType):
        return f"map of {type_name(kind.value_type)}"
    if isinstance(kind, types.StructType):
        return kind.cls.__name__
    return {
        types.StrType: "string",
        types.IntType: "int",
        types.FloatType: "float",
        types.BoolType: "bool",
        types.BytesType: "bytes",
        types.NoneType: "nil",
        types.LiteralType: "word",
        types.RawType: "map of string",  # Variables: the one field that is not unpacked with all.
    }[type(kind)]


def default_text(field: types.Field) -> str:
    """
    Return a default as the document writes it; nothing for a required field.
    """
    if field.required:
        return ""
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Raw):
        value = msgspec.msgpack.decode(value)
    return "nil" if value is None else msgspec.json.encode(value).decode()


def test_every_message_is_documented_and_no_other() -> None:
    """
    Each request, response and part has a section, under the heading of its kind.
    """
    for heading, names in (
        ("Requests", [tag(each) for each in REQUESTS]),
        ("Responses", [tag(each) for each in RESPONSES]),
        ("Parts", list(PARTS)),
    ):
        assert sorted(names) == sorted(each.title for each in PROTOCOL.below(heading))


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_of_a_message(name: str) -> None:
    """
    Fields of a message are documented in their order, with type and default.
    """
    info = types.type_info(STRUCTS[name])
    assert isinstance(info, types.StructType)
    expected = [
        (field.name, type_name(field.type), default_text(field))
        for field in info.fields
        if field.name != "call"
    ]
    section = PROTOCOL.section(name)
    rows = section.tables[0][1:] if section.tables else []
    assert expected == [(plain(row[0]), plain(row[1]), plain(row[2])) for row in rows]
    assert bool(rows) or "No fields." in section.prose


def test_refusal_codes() -> None:
    """
    Every code of a refusal is documented.
    """
    rows = PROTOCOL.table("Refusals")
    assert list(get_args(views.RefusalCode)) == [plain(row[0]) for row in rows]


def test_actions() -> None:
    """
    Every action of `act` is documented.
    """
    (row,) = [row for row in PROTOCOL.table("act") if plain(row[0]) == "action"]
    assert list(get_args(protocol.Action)) == code_in(row[3])


# --- the examples --------------------------------------------------------------------------------

EXAMPLES = {
    "hello": protocol.Hello(protocol=protocol.PROTOCOL_VERSION),
    "enqueue": protocol.Enqueue(
        call=1, jobs=[protocol.JobSpec(command="echo hi")], cwd="/tmp", request_id="r1"
    ),
    "welcome": protocol.Welcome(
        protocol=protocol.PROTOCOL_VERSION,
        version="0.1.0",
        pid=4711,
        epoch=3,
        uid=1000,
        user="ann",
        admin=True,
    ),
    "enqueued": protocol.Enqueued(call=1, ids=["17"]),
}


def documented_bytes(name: str) -> bytes:
    (block,) = [
        each for each in PROTOCOL.section("A worked example").blocks if each.info == f"hex {name}"
    ]
    return bytes.fromhex("".join(line.partition("#")[0] for line in block.text.split("\n")))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_in_bytes(name: str) -> None:
    """
    The bytes of the worked example are what the code sends, and it reads them as what is said.
    """
    data = documented_bytes(name)
    assert pack_frame(protocol.encode(EXAMPLES[name])) == data
    reader = FrameReader()
    reader.feed(data)
    (payload,) = reader
    assert EXAMPLES[name] == protocol.decoder(type(EXAMPLES[name])).decode(payload)


def test_the_protocol_of_the_document() -> None:
    """
    The document describes the version that is spoken.
    """
    assert f"This is protocol {protocol.PROTOCOL_VERSION}." in PROTOCOL.section("Versions").prose


def frames_of(connection: socket.socket) -> Iterator[bytes]:
    reader = FrameReader()
    while data := connection.recv(65536):
        reader.feed(data)
        yield from reader


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        (protocol.Enqueued(call=1, ids=["17"]), "17\n"),
        (protocol.Refused(call=1, code="usage", message="command must not be empty"), None),
    ],
    ids=["enqueued", "refused"],
)
def test_the_small_client(tmp_path: Path, answer: protocol.Message, printed: str | None) -> None:
    """
    The client of the document has 25 lines, needs nothing of ours, and is understood.
    """
    section = PROTOCOL.section("A client in 25 lines")
    (program,) = [each.text for each in section.blocks if each.info == "python"]
    assert len(program.split("\n")) <= 25
    assert "import queuectl" not in program
    path = f"{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(20)
        client = subprocess.Popen(
            [sys.executable, "-P", "-c", program, "echo hi"],
            env={"QUEUECTL_SOCKET": path, "PATH": "/bin"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                received = frames_of(connection)
                decode = protocol.decoder(*REQUESTS).decode
                assert decode(next(received)) == EXAMPLES["hello"]
                request = decode(next(received))
                for message in (EXAMPLES["welcome"], answer):
                    connection.sendall(pack_frame(protocol.encode(message)))
                printed_text, _ = client.communicate(timeout=20)
        finally:
            client.kill()
            client.wait()
    assert isinstance(request, protocol.Enqueue)
    assert [protocol.JobSpec(command="echo hi")] == request.jobs
    assert (1, str(tmp_path)) == (request.call, request.cwd)
    assert pack_variables({"PATH": "/bin"}) == request.env
    assert request.request_id
    assert client.returncode == 0
    assert printed_text == (printed or "command must not be empty\n")


# --- states --------------------------------------------------------------------------------------


def test_the_table_of_moves() -> None:
    """
    The documented moves between states are those that the code allows.
    """
    rows = PROTOCOL.table("States")
    documented = {plain(row[0]): set(code_in(row[1])) for row in rows}
    assert {name: set(targets) for name, targets in TRANSITIONS.items()} == documented


def test_the_state_diagram() -> None:
    """
    The diagram has every move to another state and every state that a job begins in.
    """
    (diagram,) = [each.text for each in PROTOCOL.section("States").blocks]
    arrows = re.findall(r"^ +(\S+) --> (\w+)", diagram, re.MULTILINE)
    expected = {
        (name, target)
        for name, targets in TRANSITIONS.items()
        for target in targets
        if target != name
    }
    assert expected == {arrow for arrow in arrows if arrow[0] != "[*]"}
    assert {"scheduled", "pending", "held"} == {to for start, to in arrows if start == "[*]"}


# --- the journal ---------------------------------------------------------------------------------

_INTEGERS = {"u8": "<B", "u16": "<H", "u32": "<I", "u64": "<Q", "u32 big-endian": ">I"}


def read_by_table(rows: list[list[str]], data: bytes) -> list[int | bytes]:
    """
    Return the fields of *data* at the offsets and of the types that a table gives.

    Fields must follow each other without a gap. One of another type is the rest of the data.
    """
    found: list[int | bytes] = []
    end = 0
    for offset_text, kind, _ in rows:
        offset = int(offset_text)
        assert end == offset, f"between byte {end} and {offset} there is no field, or two"
        sized = re.fullmatch(r"(\d+) bytes", kind)
        if kind in _INTEGERS:
            found += struct.unpack_from(_INTEGERS[kind], data, offset)
            end += struct.calcsize(_INTEGERS[kind])
        else:
            end = offset + int(sized[1]) if sized else len(data)
            found.append(data[offset:end])
    assert end == len(data)
    return found


def test_layout_of_a_file_header() -> None:
    """
    A file header read by its table gives what was packed.
    """
    position = frames.Position(offset=11, batch_seq=12, lsn=13, crc=14)
    packed = header.FileHeader(
        header.SEGMENT_MAGIC, b"u" * 16, 15, position, b"salt----", 16, 17, b"0.1.0", 18, 19, 20
    ).pack()
    rows = JOURNAL.table("Header")
    uuid, salt, version = b"u" * 16, b"salt----", b"0.1.0".ljust(16, b"\0")
    before = [header.SEGMENT_MAGIC, header.FORMAT_MAJOR, header.FORMAT_MINOR, 18, 19, 20, uuid]
    after = [15, 12, 13, salt, 11, 14, 16, 17, version, bytes(44)]
    crc = struct.unpack("<I", packed[-4:])[0]
    assert [*before, *after, crc] == read_by_table(rows, packed)
    assert f"first {header.HEADER_BYTES} bytes" in JOURNAL.section("Header").prose
    documented = [each.encode().decode("unicode_escape") for each in code_in(rows[0][2])]
    magics = [header.SEGMENT_MAGIC.decode("latin-1"), header.SNAPSHOT_MAGIC.decode("latin-1")]
    assert magics == documented
    assert rows[1][2].endswith(f", {header.FORMAT_MAJOR}")
    assert rows[2][2].endswith(f", {header.FORMAT_MINOR}")


def test_layout_of_a_frame() -> None:
    """
    A frame read by its table gives what was packed, with the checksums in their places.
    """
    payload = frames.pack_record(1, 0, 2, 3, b"body")
    position = frames.Position(offset=11, batch_seq=12, lsn=13, crc=14)
    data, crc = frames.pack_frame(payload, 1, position, 15, frames.FRAME_AFTER_SYNC, seed=16)
    found = read_by_table(JOURNAL.table("Frames"), data)
    frame = frames.unpack_frame(data, 0, seed=16)
    assert frame is not None
    head = [frames.FRAME_MAGIC, frames.FRAME_VERSION, frames.FRAME_AFTER_SYNC, 15, 1, 12, 13]
    assert [*head, len(payload), 14, frame.payload_crc, crc, payload] == found
    rows = JOURNAL.table("Frames")
    assert [frames.FRAME_MAGIC.decode()] == code_in(rows[0][2])
    assert f"at most {frames.BATCH_BYTES_MAX:,}" in " ".join(row[2] for row in rows)


def test_layout_of_a_record() -> None:
    """
    A record read by its table gives what was packed, padding included.
    """
    data = frames.pack_record(7, frames.RECORD_FORGET, 17, 1 << 40, b"body-")
    found = read_by_table(JOURNAL.table("Records"), data)
    assert [5, 7, frames.RECORD_FORGET, 17, 1 << 40, b"body-\0\0\0"] == found
    flags = JOURNAL.table("Records")[2][2]
    assert f"flags: {frames.RECORD_SKIPPABLE} a reader may ignore" in flags
    assert f", {frames.RECORD_FORGET} it erases" in flags


def test_layout_of_the_wire() -> None:
    """
    A frame of the socket read by its table gives what was packed.
    """
    rows = PROTOCOL.table("Frames")
    assert [7, b"payload"] == read_by_table(rows, pack_frame(b"payload"))
    assert f"at most {framing.FRAME_BYTES_MAX:,}" in rows[0][2]


def test_flags_of_frames() -> None:
    """
    Every flag of a frame is documented.
    """
    expected = {
        (value, name)
        for name, value in vars(frames).items()
        if name.startswith("FRAME_") and name.split("_")[1] in ("CLOSE", "SEAL", "AFTER", "FOOTER")
    }
    sections = JOURNAL.section("Frames").tables
    assert expected == {(int(row[0]), plain(row[1])) for row in sections[1][1:]}


def part_text(record: Any) -> str:
    """
    Return a record's part as the document writes it, from what store() makes of it.
    """
    stored = records.store(record)
    if stored.flags & records.FORGET:
        return "all"
    if isinstance(record, records.RunStarted | records.RunEnded):
        assert stored.part == records.ATTEMPT_PART + record.attempt
        return f"{records.ATTEMPT_PART} + attempt"
    return str(stored.part)


def sample_record(cls: type[records.Record]) -> Any:
    simple: dict[type, Any] = {types.StrType: "x", types.IntType: 1, types.BoolType: False}
    simple |= {types.DictType: {}, types.ListType: [], types.BytesType: b""}
    info = types.type_info(cls)
    assert isinstance(info, types.StructType)
    values = {
        field.name: field.type.values[0]
        if isinstance(field.type, types.LiteralType)
        else simple[type(field.type)]
        for field in info.fields
        if field.required
    }
    return cls(**values)


def test_kinds_of_records() -> None:
    """
    Every kind of record is documented with its number, name, part and fields in order.
    """
    expected = [
        (kind, record.__name__, part_text(sample_record(record)), list(record.__struct_fields__))
        for kind, record in records.KINDS.items()
    ]
    rows = JOURNAL.table("Record kinds")
    assert expected == [(int(row[0]), plain(row[1]), row[2], code_in(row[3])) for row in rows]


def test_names_of_the_journals_files() -> None:
    """
    The documented names are those that the code gives its files.
    """
    names = [plain(row[0]) for row in JOURNAL.table("Files")]
    assert [directory.FORMAT, directory.segment_name(42), directory.snapshot_name(42)] == names[:3]
    assert f"queuectl-state {directory.FORMAT_VERSION} UUID" in JOURNAL.text


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (JOURNAL, f"A segment is replaced after {SEGMENT_BYTES >> 20} MiB"),
        (JOURNAL, f"some of {RUNWAY_BYTES >> 20} MiB of runway"),
        (JOURNAL, f"makes do with {RUNWAY_BYTES_MIN >> 10} KiB of runway"),
        (JOURNAL, f"and at least {SEALED_BYTES_MIN >> 20} MiB"),
    ],
)
def test_figures_in_sentences(document: Document, words: str) -> None:
    """
    A figure of the code that stands in a sentence is the one of the code.
    """
    assert words in " ".join(document.text.split())


def test_small_numbers_in_words() -> None:
    """
    Numbers that the journal's document writes as words are those of the code.
    """
    assert SEALED_COUNT_MAX == 4
    assert "more than four finished segments" in " ".join(JOURNAL.text.split())
    kept = directory.Listing(
        segments=[1, 2, 3, 4], snapshots=[2, 3, 4], unfinished=[], has_format=True
    )
    assert [directory.snapshot_name(2), *map(directory.segment_name, (1, 2))] == (
        compaction.removable(kept)
    )
    assert "The newest two snapshots are kept, and every segment since the older one" in (
        " ".join(JOURNAL.text.split())
    )
