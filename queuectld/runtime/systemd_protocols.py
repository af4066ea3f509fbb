"""
What the daemon needs of systemd-python, for interpreters that lack it.

RHEL 9 has python3-systemd for its Python 3.9 alone, and a virtual environment has none unless it
was built there, for which it needs headers. A service of Type=notify must not fail for that. The
functions have the names, arguments and effects of those in systemd.daemon and systemd.journal,
which are used wherever they can be imported. The protocols are documented as stable: sd_notify(3),
sd_listen_fds(3) and https://systemd.io/JOURNAL_NATIVE_PROTOCOL.

Left out is what the daemon does not use: a NOTIFY_SOCKET that is no Unix socket, and entries that
are too large for a datagram, which the journal takes as a file.
"""

import os
import socket

#: sd_listen_fds(3): the first descriptor that is passed.
LISTEN_FDS_START = 3
JOURNAL_SOCKET = "/run/systemd/journal/socket"

_LENGTH_BYTES = 8


def notify(status: str) -> bool:
    """
    Send lines to the service manager. False if there is none. Raises OSError.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] == "@":  # It has a name and no file.
        address = "\0" + address[1:]
    _send(address, status.encode())
    return True


def listen_fds(unset_environment: bool = True) -> list[int]:
    """
    Return the descriptors that were passed to this process; programs it starts do not get them.
    """
    count = os.environ.get("LISTEN_FDS", "")
    passed: list[int] = []
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and count.isdigit():
        passed = list(range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)))
    for fd in passed:
        os.set_inheritable(fd, False)
    if unset_environment:
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)
    return passed


def sendv(*fields: bytes) -> None:
    """
    Send an entry to the system's journal; each field is NAME=value. Raises OSError.
    """
    _send(JOURNAL_SOCKET, b"".join(_lines(field) for field in fields))


def _lines(field: bytes) -> bytes:
    """
    Return a field as the journal reads it: one that holds a line's end is preceded by its length.
    """
    if b"\n" not in field:
        return field + b"\n"
    name, _, value = field.partition(b"=")
    return name + b"\n" + len(value).to_bytes(_LENGTH_BYTES, "little") + value + b"\n"


def _send(address: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, address)
