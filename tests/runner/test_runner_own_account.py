"""
The runner's own account, by a database that is told what to say.
"""

import os

import pytest

from queuectld.runner.accounts import CACHE_MS_MAX, PATH, Account, Database, Entry, directory_of
from queuectld.runner.messages import Body
from queuectld.runner.own_account import OwnAccount

ALICE = Entry("alice", 1001, "/home/alice", "/bin/zsh")
NAMES = {b"HOME": b"/home/alice", b"USER": b"alice", b"LOGNAME": b"alice", b"SHELL": b"/bin/zsh"}


class TwinDatabase(Database):
    """
    A database of at most one account, whatever its number.
    """

    def __init__(self, found: Entry | None = ALICE) -> None:
        self.found = found

    def entry(self, uid: int) -> Entry | None:
        assert os.geteuid() == uid
        return self.found


def body(cwd: bytes = b"/", **env: bytes) -> Body:
    return Body(cwd, [b"true"], {name.encode(): value for name, value in env.items()}, b"", b"")


def test_what_was_said_wins():
    """
    Only what the request left out is the account's.
    """
    completed = OwnAccount(TwinDatabase()).complete(body(b"/srv", HOME=b"/h", PATH=b"", A=b"1"))

    assert b"/srv" == completed.cwd
    assert NAMES | {b"HOME": b"/h", b"PATH": b"", b"A": b"1"} == completed.env


@pytest.mark.parametrize(
    ("cwd", "home", "found"),
    [
        (b"~", b"/home/alice", b"/home/alice"),
        (b"~/", b"/home/alice", b"/home/alice/"),
        (b"~/src", b"/home/alice", b"/home/alice/src"),
        (b"~", b"", b"/"),
        (b"~/src", b"home", b"//src"),
        (b"~", None, b"~"),
        (b"~alice", b"/home/alice", b"~alice"),
        (b"/~", b"/home/alice", b"/~"),
    ],
)
def test_home_is_where_the_database_says(cwd: bytes, home: bytes | None, found: bytes):
    """
    `~` and what is below it; nothing else is touched.
    """
    assert found == directory_of(cwd, home)


def test_an_account_of_its_own_has_another_home():
    """
    A job of another account is at home where that one is, whatever HOME it was given.
    """
    account = Account(1, 1, [1], NAMES)

    completed = account.complete(body(b"~/src", HOME=b"/root"))
    assert b"/home/alice/src" == completed.cwd
    assert NAMES | {b"PATH": PATH} == completed.env


def test_an_account_that_is_not_in_the_database_has_no_home():
    """
    Its jobs have a PATH and are refused at `~`, which no process can enter.
    """
    completed = OwnAccount(TwinDatabase(None)).complete(body(b"~"))

    assert (b"~", {b"PATH": PATH}) == (completed.cwd, completed.env)


def test_a_change_is_seen_after_a_while():
    """
    The database is asked again after CACHE_MS_MAX, not at each job.
    """
    now = 0
    database = TwinDatabase()
    account = OwnAccount(database, lambda: now)
    account.complete(body())
    database.found = ALICE._replace(home="/new")

    now = CACHE_MS_MAX - 1
    assert b"/home/alice" == account.complete(body(b"~")).cwd
    now = CACHE_MS_MAX
    assert b"/new" == account.complete(body(b"~")).cwd
