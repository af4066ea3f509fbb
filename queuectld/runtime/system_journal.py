"""
The system's journal (journald) as the daemon's log: one event, one entry, with fields.

Fields: MESSAGE for people; MESSAGE_ID and QUEUECTL_EVENT for the kind; PRIORITY; QUEUECTL_JOB, the
job's id; and QUEUECTL_ with each other field's name. `journalctl QUEUECTL_JOB=17` is a job's story.

It is used when stderr is connected to the journal: the service manager says so in JOURNAL_STREAM,
which names the socket that it gave us as stderr. A process that inherited the variable but writes
elsewhere is not meant.

What jobs write goes there over a socket of its own (JournalSocket), which never waits: a journal
that does not keep up must not hold up the queue. Its native protocol is documented by systemd
(JOURNAL_NATIVE_PROTOCOL): one datagram an entry; of each field the name, a newline, the length as
u64 little-endian, the value and a newline, so that nothing in a value can begin another field.
"""

import importlib
import os
import pwd
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from queuectld.runtime import systemd_protocols
from queuectld.runtime.log_events import KINDS

#: The log's levels and syslog's.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
#: An event of level info that tells of an error: normal, but significant.
NOTICE = 5
#: What an entry says of an event's `job`, which is a number, unless `id` is there.
_RENAMED = {"id": "JOB", "job": "NUMBER"}
_VALUE_BYTES_MAX = 4_096
SOCKET = "/run/systemd/journal/socket"
_LENGTH = struct.Struct("<Q")


def sender(stderr_fd: int, stream: str) -> Callable[..., object] | None:
    """
    Return what sends fields to the journal, if *stderr_fd* is *stream* ("device:inode"); else None.
    """
    found = os.fstat(stderr_fd)
    if stream != f"{found.st_dev}:{found.st_ino}":
        return None
    try:
        sendv: Callable[..., object] = importlib.import_module("systemd.journal").sendv
    except ImportError:
        return systemd_protocols.sendv  # There is none for this interpreter.
    return sendv


def own_user() -> str:
    """
    Return the name of the account that this process runs under: in user mode, that of all jobs.
    """
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


class JournalLogger:
    """
    Sends entries. `send` takes fields, bytes each.
    """

    def __init__(self, send: Callable[..., object]) -> None:
        self._send = send

    def msg(self, *fields: bytes) -> None:
        """
        Send an entry, if it can be sent.
        """
        try:
            self._send(*fields)
        except OSError:
            pass

    debug = info = warning = error = critical = msg


class _Fields(dict[str, Any]):
    """
    An event's fields for a format: one that is not there must not lose the entry.
    """

    def __missing__(self, key: str) -> str:
        return "?"


class Renderer:
    """
    The last of structlog's processors: an event's fields become an entry's.
    """

    def __init__(self) -> None:
        self._user = own_user()

    def __call__(
        self, _log: Any, level: str, event: Mapping[str, Any]
    ) -> tuple[tuple[bytes, ...], dict[str, Any]]:
        """
        Return the arguments of JournalLogger.msg().
        """
        name = event["event"]
        fields = _Fields(event)
        if "job" in fields:
            fields.setdefault("id", fields["job"])
            # Whose job it is. Where the daemon serves one user only, that one.
            fields.setdefault("user", self._user)
        kind = KINDS.get(name)
        priority = PRIORITIES[level]
        if level == "info" and fields.get("error"):
            priority = NOTICE
        entry = {"SYSLOG_IDENTIFIER": "queuectld", "PRIORITY": priority, "QUEUECTL_EVENT": name}
        if kind is None:
            entry["MESSAGE"] = name
        else:
            entry["MESSAGE_ID"] = kind.message_id
            entry["MESSAGE"] = (
                kind.message.format_map(fields)
                if isinstance(kind.message, str)
                else kind.message(fields)
            )
        for key, value in fields.items():
            if key != "event" and value is not None:
                entry[f"QUEUECTL_{_RENAMED.get(key, key.upper())}"] = value
        return tuple(_field(key, value) for key, value in entry.items()), {}


def _field(key: str, value: Any) -> bytes:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    data = text.encode(errors="backslashreplace")[:_VALUE_BYTES_MAX]
    return key.encode() + b"=" + data


def pack_entry(fields: Mapping[str, bytes]) -> bytes:
    """
    Return an entry as the journal's socket takes it.
    """
    return b"".join(
        name.encode() + b"\n" + _LENGTH.pack(len(value)) + value + b"\n"
        for name, value in fields.items()
    )


class JournalSocket:
    """
    A connection to the journal's socket at *path*, made when it is needed.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def connect(self) -> bool:
        """
        Return whether a journal listens, as far as can be told now.
        """
        if self._socket is None:
            try:
                connecting = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError:
                return False  # No descriptor is left.
            try:
                connecting.connect(self._path)
            except OSError:
                connecting.close()
                return False
            self._socket = connecting
        return True

    def send(self, entry: bytes) -> bool:
        """
        Send an entry. Returns False if it cannot be sent now: the journal is busy, or away.
        """
        if not self.connect():
            return False
        assert self._socket is not None
        try:
            self._socket.send(entry)
        except BlockingIOError:
            return False
        except OSError:
            self.close()  # Another journal may listen by the next time.
            return False
        return True

    def close(self) -> None:
        """
        Let the socket go.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None
