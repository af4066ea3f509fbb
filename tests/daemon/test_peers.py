"""
Who is on the other end: the kernel's word for each account, or no service.
"""

import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from queuectld.core.peer import EVERYBODY, Peer
from queuectld.runtime.peers import PeerRefused, identify

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: connects as other accounts")

# Connects as the account with the id given, says so, and holds the connection.
CONNECT = """
import os, socket, sys
uid = int(sys.argv[2])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
connected = socket.socket(socket.AF_UNIX)
connected.connect(sys.argv[1])
connected.recv(1)
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    # Others must be able to reach it, which they cannot in pytest's own directories.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as each:
        os.chmod(directory, 0o755)
        each.bind(f"{directory}/s")
        os.chmod(f"{directory}/s", 0o666)
        each.listen(1)
        yield each


def peer_of(listener: socket.socket, uid: int, *, system: bool) -> Peer:
    path = listener.getsockname()
    command = [sys.executable, "-I", "-S", "-c", CONNECT, path, str(uid)]
    with subprocess.Popen(command) as process:
        connected, _ = listener.accept()
        try:
            return identify(connected, system=system)
        finally:
            connected.close()
            assert process.wait() == 0


@as_root
def test_in_system_mode_every_account_is_itself(listener: socket.socket) -> None:
    """
    Root and the daemon's own account are admins, others are not.
    """
    daemon = pwd.getpwnam("daemon")
    assert Peer(0, "root", admin=True) == peer_of(listener, 0, system=True)
    assert Peer(daemon.pw_uid, "daemon") == peer_of(listener, daemon.pw_uid, system=True)


@as_root
@pytest.mark.parametrize(("uid", "why"), [(65534, "has no id here"), (54321, "no account")])
def test_who_is_nobody_is_not_served(listener: socket.socket, uid: int, why: str) -> None:
    """
    An id that stands for none, or that no account has.
    """
    with pytest.raises(PeerRefused, match=why):
        peer_of(listener, uid, system=True)


@as_root
def test_in_user_mode_others_are_not_served(listener: socket.socket) -> None:
    """
    The socket is closed to them anyway; the daemon looks too.
    """
    assert EVERYBODY == peer_of(listener, 0, system=False)
    with pytest.raises(PeerRefused, match="serves the account"):
        peer_of(listener, pwd.getpwnam("daemon").pw_uid, system=False)


def test_a_connection_without_credentials_is_refused() -> None:
    """
    Every way of not knowing ends in a refusal, never in a default.
    """
    with socket.socket(socket.AF_INET) as other, pytest.raises(PeerRefused):
        identify(other, system=True)
    closed = socket.socket(socket.AF_UNIX)
    closed.close()
    with pytest.raises(PeerRefused):
        identify(closed, system=True)


def test_a_name_that_no_record_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Directory services may have such names. Whoever has one is not served; the daemon goes on.
    """
    found = pwd.getpwuid(os.geteuid())
    named = pwd.struct_passwd(("caf\udce9", *found[1:]))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: named)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid])
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(PeerRefused, match="UTF-8"):
        identify(ours, system=True)
