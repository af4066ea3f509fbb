"""
The log: entries of the system's journal, the catalog that explains them, sums under load, levels.
"""

import ast
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_process import PACKAGES

from queuectld.core.records import (
    JobEnqueued,
    JobMoved,
    RunEnded,
    RunStarted,
    TokenForgotten,
    TokenMade,
    store,
)
from queuectld.core.state import State
from queuectld.runtime import systemd_protocols
from queuectld.runtime.job_log import EVENTS_MAX, WARNINGS_MAX, JobLog, job_fields
from queuectld.runtime.log import LineLogger, Log
from queuectld.runtime.log_events import KINDS
from queuectld.runtime.system_journal import PRIORITIES, JournalLogger, Renderer, own_user, sender

ROOT = Path(__file__).resolve().parent.parent.parent


class Collected:
    """
    A log that keeps what it is told.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        assert level in PRIORITIES
        return lambda event, **fields: self.events.append((level, event, fields))


def logged_events() -> dict[str, set[str]]:
    """
    Return what the daemon's sources log: event -> the fields that are named there.
    """
    found: dict[str, set[str]] = {}
    for path in (ROOT / "queuectld").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            level = (name.rpartition(".")[2] in PRIORITIES and "log" in name) or name == "level"
            if level and node.args:
                for constant in ast.walk(node.args[0]):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        fields = {keyword.arg or "**" for keyword in node.keywords}
                        found.setdefault(constant.value, set()).update(fields)
    return found


def test_every_event_has_a_kind() -> None:
    """
    What is logged is listed, and what is listed is logged; each with an id of its own.
    """
    assert set(KINDS) == set(logged_events())
    ids = [kind.message_id for kind in KINDS.values()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_messages_use_fields_that_are_there() -> None:
    """
    A message names only fields that its event has.
    """
    for event, fields in logged_events().items():
        message = KINDS[event].message
        if isinstance(message, str):
            used = set(re.findall(r"{(\w+)}", message))
            given = fields | (
                {"id", "queue", "user"} if "**" in fields or "job" in fields else set()
            )
            assert used <= given, event


def test_the_catalog_explains_every_kind() -> None:
    """
    Each id has an entry with a subject, and the catalog has no others.
    """
    text = (ROOT / "systemd/queuectl.catalog").read_text()
    entries = re.findall(
        r"^-- ([0-9a-f]{32})\nSubject: .+\nDefined-By: queuectl\n", text, re.MULTILINE
    )
    assert len(re.findall("^-- ", text, re.MULTILINE)) == len(entries)
    assert sorted(kind.message_id for kind in KINDS.values()) == sorted(entries)


def entry(level: str, **event: Any) -> dict[str, str]:
    """
    Return the journal's fields of an event.
    """
    fields, nothing = Renderer()(None, level, event)
    assert {} == nothing
    return dict(field.decode().split("=", 1) for field in fields)


def test_an_entry_has_the_fields_of_its_event() -> None:
    """
    Names, priority, id and message of an end.
    """
    event = {"job": 3, "id": "nightly", "queue": "q", "attempt": 2, "error": "exit code 3"}
    found = entry("info", event="run_ended", **event, state="failed", span_ms=1500, signal=None)
    user = found.pop("QUEUECTL_USER")
    assert user
    expected = {
        "SYSLOG_IDENTIFIER": "queuectld",
        "PRIORITY": "5",
        "MESSAGE_ID": KINDS["run_ended"].message_id,
        "MESSAGE": "Job nightly: attempt 2: exit code 3, after 1.5 s; it is failed",
        "QUEUECTL_EVENT": "run_ended",
        "QUEUECTL_NUMBER": "3",
        "QUEUECTL_JOB": "nightly",
        "QUEUECTL_QUEUE": "q",
        "QUEUECTL_ATTEMPT": "2",
        "QUEUECTL_ERROR": "exit code 3",
        "QUEUECTL_STATE": "failed",
        "QUEUECTL_SPAN_MS": "1500",
    }
    assert expected == found


def test_no_event_is_lost_for_its_form() -> None:
    """
    A missing field, an unknown event, text that is not UTF-8 and text without end make an entry.
    """
    assert "Listening at ?" == entry("info", event="listening")["MESSAGE"]
    assert "invented" == entry("error", event="invented")["MESSAGE"]
    assert "5" == entry("info", event="job_moved", job=5, state="held")["QUEUECTL_JOB"]
    assert "bob" == entry("info", event="job_moved", job=5, user="bob")["QUEUECTL_USER"]
    odd = entry("error", event="refused_to_run", reason="\udcff" + "x" * 100_000)
    assert odd["MESSAGE"].startswith("Refused to run: \\udcffxxx")
    assert max(len(value) for value in odd.values()) < 5_000


def test_the_journal_is_used_when_stderr_is_it(tmp_path: Path) -> None:
    """
    Only a stderr that is the very stream named counts; a journal that is gone loses no more than
    the entry.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, open(tmp_path / "log", "w") as file:
        found = os.fstat(ours.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        assert sender(file.fileno(), stream) is None
        assert sender(ours.fileno(), "") is None
        assert sender(theirs.fileno(), stream) is None

    def gone(*_fields: bytes) -> None:
        raise ConnectionRefusedError

    JournalLogger(gone).info(b"MESSAGE=x")


def fields_of(entry: bytes) -> dict[bytes, bytes]:
    """
    Return what the system's journal would read from a datagram.
    """
    fields: dict[bytes, bytes] = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            end = 8 + int.from_bytes(entry[:8], "little")
            value, entry = entry[8:end], entry[end:]
            assert entry.startswith(b"\n")
            entry = entry[1:]
        fields[name] = value
    return fields


def test_entries_without_systemd_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    An interpreter that lacks the module sends entries itself, whatever bytes a field holds; none
    that the daemon makes is too large for a datagram.
    """
    path = f"{tmp_path}/journal"
    monkeypatch.setitem(sys.modules, "systemd.journal", None)  # It cannot be imported.
    monkeypatch.setattr(systemd_protocols, "JOURNAL_SOCKET", path)
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        found = os.fstat(ours.fileno())
        send = sender(ours.fileno(), f"{found.st_dev}:{found.st_ino}")
        assert send is not None
        for message in (b"plain", b"", b"a=b", b"two\nlines\n", b"\n", b"\0\xff\nPRIORITY=0\n"):
            send(b"MESSAGE=" + message, b"PRIORITY=6")
            assert {b"MESSAGE": message, b"PRIORITY": b"6"} == fields_of(journal.recv(65_536))
        largest = [b"F%d=" % number + b"x" * 4_096 for number in range(40)]
        send(*largest)
        assert 40 == len(fields_of(journal.recv(1 << 20)))


def test_the_level_changes_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    """
    A logger that is in use follows a change of level.
    """
    log_config = Log()
    try:
        log_config.configure()
        log = structlog.get_logger()
        log.info("one")
        log_config.set_level("warning")
        log.info("two")
        log.warning("three")
        log_config.set_level("debug")
        log.debug("four")
    finally:
        structlog.reset_defaults()
    lines = capfd.readouterr().err.splitlines()
    assert ["one", "three", "four"] == [re.findall('"event":"(.*?)"', line)[0] for line in lines]
    LineLogger(-1).info("nobody reads it")


def enqueued(number: int, **fields: Any) -> JobEnqueued:
    """
    Return the beginning of a job.
    """
    return JobEnqueued(number, 5, "pending", 0, "q", 0, 1, "/", 18, command="true", **fields)


def test_a_jobs_events_say_whose_it_is() -> None:
    """
    In system mode the account that the job runs as; of a job that is forgotten nothing is known,
    and nothing is said.
    """
    state = State()
    for record in (enqueued(1, uid=1001, user="alice", name="mine"), enqueued(2)):
        state.apply(record, store(record).body)
    fields = job_fields(state, 1)
    assert {"job": 1, "id": "mine", "queue": "q", "user": "alice"} == fields
    found = entry("warning", event="output_dropped", **fields, attempt=1, dropped_bytes=5)
    assert "alice" == found["QUEUECTL_USER"]
    own = entry("info", event="job_moved", **job_fields(state, 2), state="held")
    assert own_user() == own["QUEUECTL_USER"]
    gone = entry("debug", event="job_forgotten", **job_fields(state, 3))
    assert ("3", None) == (gone["QUEUECTL_JOB"], gone.get("QUEUECTL_USER"))


def test_who_enqueued_for_whom_is_told() -> None:
    """
    A job that an admin gives to another account is an event of its own; one's own is none.
    """
    log, state = Collected(), State()
    record = enqueued(1, uid=1001, user="alice", by_uid=0, by_user="root")
    state.apply(record, store(record).body)
    job_log = JobLog(log)
    job_log.tell(record, state, 5_000)
    job_log.tell(enqueued(2, uid=1001, user="alice"), state, 5_000)
    ((level, event, fields),) = log.events
    assert ("info", "job_enqueued_for") == (level, event)
    assert ("alice", "root") == (fields["user"], fields["by"])
    expected = "Job 1: enqueued for alice by root, queue q"
    assert expected == entry(level, event=event, **fields)["MESSAGE"]


def ended(number: int, *, state: str = "completed", end: str = "exited") -> RunEnded:
    """
    Return the end of a run.
    """
    error = None if state == "completed" else "exit code 1"
    fields: Mapping[str, Any] = {
        "number": number,
        "at": 2_000,
        "attempt": 1,
        "slot": 1,
        "started_at": 1_000,
        "end": end,
        "state": state,
        "due_at": 0,
        "attempts_before": 0,
        "exit_code": 0 if error is None else 1,
        "signal": None,
        "error": error,
        "user_ms": None,
        "system_ms": None,
        "memory_max_bytes": None,
    }
    return RunEnded(**fields)


def test_what_wants_somebody_to_look_is_a_warning() -> None:
    """
    A dead job and a lost attempt are warnings, a failure that is retried is not.
    """
    log, state = Collected(), State()
    job_log = JobLog(log)
    for record in (
        ended(1),
        ended(2, state="failed"),
        ended(3, state="dead"),
        ended(4, state="failed", end="lost"),
    ):
        job_log.tell(record, state, 0)
    assert ["info", "info", "warning", "warning"] == [level for level, _, _ in log.events]


def test_what_becomes_of_tokens_is_told() -> None:
    """
    Whose it is, and who made or revoked it where that is somebody else or known; never its digest.
    """
    log, state = Collected(), State()
    job_log = JobLog(log)
    for record in (
        TokenMade(10, 5, b"digest", ["read", "submit"], "ci", 0, 1001, "alice", "root"),
        TokenForgotten(10, 6, "revoked", "alice", "alice"),
        TokenForgotten(11, 7, "expired"),
    ):
        job_log.tell(record, state, 5_000)
    entries = [entry(level, event=event, **fields) for level, event, fields in log.events]
    assert [
        "Token 000000000a of alice made by root: read,submit",
        "Token 000000000a of alice revoked by alice",
        "Token 000000000b expired",
    ] == [each["MESSAGE"] for each in entries]
    made = entries[0]
    assert ("000000000a", "root") == (made["QUEUECTL_TOKEN"], made["QUEUECTL_BY"])
    assert "digest" not in str(entries)


def test_a_busy_second_is_summed_up() -> None:
    """
    Beyond the first of a second, ordinary events and warnings are counted, each on their own
    account, and the counts are told when the second is over.
    """
    log, state = Collected(), State()
    job_log = JobLog(log)
    assert job_log.next_deadline() is None
    for number in range(1_000):
        job_log.tell(RunStarted(number, 5, 1, 1, 1, 0), state, 10_000 + number // 2)
        job_log.tell(ended(number), state, 10_000 + number // 2)
        job_log.tell(ended(number, state="dead"), state, 10_000 + number // 2)
    job_log.tell(JobMoved(1, 5, "held", 0, 0, 0, None), state, 10_600)
    levels = [level for level, _, _ in log.events]
    assert (EVENTS_MAX, WARNINGS_MAX) == (levels.count("info"), levels.count("warning"))
    assert 11_000 == job_log.next_deadline()
    job_log.attend(10_999)
    assert len(levels) == len(log.events)
    job_log.attend(11_000)
    assert [
        ("info", "runs_summed", {"started": 950, "ended": 950, "moved": 1}),
        ("warning", "failures_summed", {"dead": 800, "lost": 0}),
    ] == log.events[-2:]
    assert job_log.next_deadline() is None
    job_log.tell(ended(1), state, 11_100)
    assert "run_ended" == log.events[-1][1]


def test_a_start_does_not_wait_for_rich() -> None:
    """
    What only prints for people is not imported: it is a good part of the time of a start.
    """
    program = "import sys, queuectld.main; sys.exit('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], env={"PYTHONPATH": PACKAGES})
    assert 0 == done.returncode
