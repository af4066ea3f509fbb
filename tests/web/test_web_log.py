"""
Requirement: under systemd the gateway's log is in the journal, with fields that nobody can forge.
"""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from daemon_process import DEADLINE_S, PACKAGES

LOG = """
import sys
from queuectl.web import log
log.JOURNAL_SOCKET = sys.argv[1]
log.configure()
log.log.warning("web_refused", path="/a\\nPRIORITY=0\\n", reason=None, address="x" * 1000)
"""


def fields_of(entry: bytes) -> list[tuple[str, str]]:
    """
    Read an entry as journald does.
    """
    found = []
    while entry:
        name, _, rest = entry.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        found.append((name.decode(), rest[8 : 8 + length].decode()))
        assert b"\n" == rest[8 + length : 9 + length]
        entry = rest[9 + length :]
    return found


def test_entries_of_the_journal(tmp_path: Path) -> None:
    """
    An event is one entry; what a stranger sent stays inside its field, and is cut.
    """
    path = f"{tmp_path}/journal.sock"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal,
        open(f"{tmp_path}/stderr", "wb") as stderr,
    ):
        journal.bind(path)
        journal.settimeout(DEADLINE_S)
        found = os.fstat(stderr.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        subprocess.run(
            [sys.executable, "-P", "-c", LOG, path],
            env={"PYTHONPATH": PACKAGES, "JOURNAL_STREAM": stream},
            stderr=stderr,
            check=True,
            timeout=DEADLINE_S,
        )
        fields = fields_of(journal.recv(65_536))
    assert len(fields) == len(dict(fields))
    told = dict(fields)
    assert ("4", "queuectl-web", "web_refused") == (
        told["PRIORITY"],
        told["SYSLOG_IDENTIFIER"],
        told["QUEUECTL_EVENT"],
    )
    assert "/a\nPRIORITY=0\n" == told["QUEUECTL_PATH"]
    assert 500 == len(told["QUEUECTL_ADDRESS"])
    assert "QUEUECTL_REASON" not in told
    assert b"" == Path(f"{tmp_path}/stderr").read_bytes()
