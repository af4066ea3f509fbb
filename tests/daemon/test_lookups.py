"""
What is looked up on the host for a request: no more than it needs, nothing for who may not ask.
"""

import os
import pwd
import resource
from pathlib import Path

import pytest
from journal_twin import JournalTwin

from queuectl.protocol import Enqueue, JobSpec, Status
from queuectld.core.admission import ACCOUNTS_MAX
from queuectld.core.host import NOTHING, Account
from queuectld.core.peer import EVERYBODY, Peer
from queuectld.runtime.lookups import look_up

ROOT = Peer(0, "root", admin=True)
DAEMON = pwd.getpwnam("daemon")


def enqueue(*users: str | None) -> Enqueue:
    return Enqueue(jobs=[JobSpec(command="true", user=user) for user in users])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """
    The names that the host was asked for.
    """
    names: list[str] = []

    def getpwnam(name: str) -> pwd.struct_passwd:
        names.append(name)
        return pwd_getpwnam(name)

    pwd_getpwnam = pwd.getpwnam
    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    return names


def test_each_name_is_looked_up_once(asked: list[str]) -> None:
    """
    For an admin; a name that no account can have, or none has, is not there.
    """
    names = ("daemon", None, "daemon", "no-such-account", "a\0b", "", "x" * 100_000)
    host = look_up(enqueue(*names), ROOT)
    assert {"daemon": Account(DAEMON.pw_uid, "daemon", DAEMON.pw_dir)} == host.accounts
    assert 5 == len(asked)


def test_what_needs_no_looking_up_asks_nobody(asked: list[str]) -> None:
    """
    Members' requests, too many names, and requests that name nobody.
    """
    too_many = [f"u{number}" for number in range(ACCOUNTS_MAX + 1)]
    assert NOTHING == look_up(enqueue("daemon"), Peer(1001, "alice"))
    assert {} == look_up(enqueue(*too_many), ROOT).accounts
    assert NOTHING == look_up(enqueue(None), ROOT)
    assert NOTHING == look_up(Status(), ROOT)
    assert [] == asked


def test_in_user_mode_the_one_account_has_no_uid() -> None:
    """
    Whoever the daemon runs as is the account that there is; others are others.
    """
    own = pwd.getpwuid(os.geteuid())
    found = look_up(enqueue(own.pw_name, "daemon"), EVERYBODY).accounts
    assert found[own.pw_name].uid is None
    assert found["daemon"].uid == (None if own.pw_uid == DAEMON.pw_uid else DAEMON.pw_uid)


def test_a_journal_is_there_when_it_listens(tmp_path: Path) -> None:
    """
    A file that was left behind is none.
    """
    path = str(tmp_path / "socket")
    request = Enqueue(jobs=[JobSpec(command="true", output="journal")])
    assert not look_up(request, EVERYBODY, path).has_journal
    twin = JournalTwin(path)
    assert look_up(request, EVERYBODY, path).has_journal
    twin.close()
    (tmp_path / "socket").write_text("")
    assert not look_up(request, EVERYBODY, path).has_journal


def test_without_a_descriptor_the_journal_is_not_there(tmp_path: Path) -> None:
    """
    Who asks for it is refused; the daemon goes on.
    """
    twin = JournalTwin(f"{tmp_path}/journal.sock")
    request = Enqueue(jobs=[JobSpec(command="true", output="journal")])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert look_up(request, EVERYBODY, twin.path).has_journal
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        assert not look_up(request, EVERYBODY, twin.path).has_journal
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        twin.close()
