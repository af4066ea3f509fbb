"""
Which accounts can have jobs, against a database of the test's own.
"""

from pathlib import Path

import pytest
from runner_accounts import needs_root

from queuectld.runner import messages
from queuectld.runner.accounts import (
    CACHE_COUNT_MAX,
    CACHE_MS_MAX,
    PATH,
    Account,
    Accounts,
    Database,
    Entry,
    Shadow,
    read_shadow,
    reason_against,
)
from queuectld.runner.program import SpawnError

GIDS = {"alice": 1001, "users": 100, "docker": 999}


class FakeDatabase(Database):
    """
    Accounts as a test wants them, and how often they were looked up.
    """

    def __init__(self) -> None:
        self.entries = {
            0: Entry("root", 0, "/root", "/bin/bash"),
            33: Entry("www-data", 33, "/var/www", "/usr/sbin/nologin"),
            1001: Entry("alice", 1001, "/home/alice", "/bin/zsh"),
        }
        self.members = {"alice": [1001, 100]}
        self.shadows: dict[str, Shadow] = {}
        self.version = 0
        self.look_up_count = 0
        self.error: OSError | None = None

    def entry(self, uid: int) -> Entry | None:
        self.look_up_count += 1
        if self.error is not None:
            raise self.error
        return self.entries.get(uid)

    def groups(self, name: str, gid: int) -> list[int]:
        return self.members.get(name, [gid])

    def gid_of(self, group: str) -> int | None:
        return GIDS.get(group)

    def shadow(self, name: str) -> Shadow | None:
        return self.shadows.get(name)

    def stamp(self) -> tuple[object, ...]:
        return (self.version,)


@pytest.fixture
def policy_path(folder: Path) -> Path:
    path = folder / "runner.toml"
    path.write_text('allow_users = ["www-data"]\nallow_groups = ["users"]\n')
    return path


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


def refusal(accounts: Accounts, uid: int, user: bytes) -> tuple[int, int]:
    with pytest.raises(SpawnError) as caught:
        accounts.admit(uid, user)
    return caught.value.stage, caught.value.reason


@needs_root
def test_an_account_is_what_the_database_says(policy_path: Path, database: FakeDatabase):
    """
    Ids, all groups in order and once each, and the four variables that name the account.
    """
    database.members["alice"] = [100, 1001, 999, 100]
    account = Accounts(str(policy_path), database).admit(1001, b"alice")

    env = {b"HOME": b"/home/alice", b"USER": b"alice", b"LOGNAME": b"alice", b"SHELL": b"/bin/zsh"}
    assert Account(1001, 1001, [100, 999, 1001], env) == account


def test_the_environment_is_the_jobs_with_the_account_in_it():
    """
    The account's own variables are told whatever was asked; PATH only where there is none.
    """
    account = Account(1, 1, [1], {b"HOME": b"/home/alice"})

    assert {b"HOME": b"/home/alice", b"A": b"1", b"PATH": PATH} == account.environment(
        {b"HOME": b"/root", b"A": b"1"}
    )
    assert {b"HOME": b"/home/alice", b"PATH": b""} == account.environment({b"PATH": b""})


@needs_root
@pytest.mark.parametrize(
    ("shell", "told"),
    [("", b"/bin/sh"), ("/usr/sbin/nologin", b"/bin/sh"), ("/bin/dash", b"/bin/dash")],
)
def test_a_shell_that_is_none_is_not_told(
    policy_path: Path, database: FakeDatabase, shell: str, told: bytes
):
    """
    Programs execute $SHELL: the one of an account without logins would do nothing.
    """
    database.entries[33] = Entry("www-data", 33, "/var/www", shell)
    account = Accounts(str(policy_path), database).admit(33, b"www-data")

    assert told == account.env[b"SHELL"]


@needs_root
@pytest.mark.parametrize(
    ("uid", "user", "change", "reason"),
    [
        (1002, b"alice", None, messages.GONE),
        (1001, b"bob", None, messages.RECYCLED),
        (1001, b"", None, messages.RECYCLED),
        (1001, b"alice", Shadow("!$6$hash", None), messages.LOCKED),
        (1001, b"alice", Shadow("$6$hash", 1), messages.EXPIRED),
        (1001, b"alice", "/usr/sbin/nologin", messages.SHELL),
        (1001, b"alice", "/bin/false", messages.SHELL),
    ],
)
def test_what_became_of_an_account_refuses(
    policy_path: Path,
    database: FakeDatabase,
    uid: int,
    user: bytes,
    change: Shadow | str | None,
    reason: int,
):
    """
    Deleted, renamed or given away, locked, expired, without a login shell: each by its reason.
    """
    if isinstance(change, Shadow):
        database.shadows["alice"] = change
    elif change is not None:
        database.entries[1001] = database.entries[1001]._replace(shell=change)

    accounts = Accounts(str(policy_path), database)
    assert (messages.ACCOUNT, reason) == refusal(accounts, uid, user)


@needs_root
def test_our_own_account_is_not_for_jobs(folder: Path, database: FakeDatabase):
    """
    UID_OWN under a policy would be root without its name: refused even where root is allowed.
    """
    path = folder / "policy"
    path.write_text("allow_root = true")
    accounts = Accounts(str(path), database)

    assert (messages.POLICY, messages.ROOT) == refusal(accounts, messages.UID_OWN, b"")
    assert 0 == accounts.admit(0, b"root").uid


@needs_root
def test_a_database_that_fails_refuses(policy_path: Path, database: FakeDatabase):
    """
    What cannot be looked up is not allowed; the errno is told.
    """
    database.error = OSError(5, "I/O error")
    accounts = Accounts(str(policy_path), database)
    with pytest.raises(SpawnError) as caught:
        accounts.admit(1001, b"alice")
    assert (messages.SWITCH, 5, 0) == (
        caught.value.stage,
        caught.value.errno,
        caught.value.reason,
    )


@needs_root
def test_an_account_is_remembered_while_nothing_changes(policy_path: Path, database: FakeDatabase):
    """
    Not looked up again until a file changed or the time is over; refusals are not remembered.
    """
    now = 5_000
    accounts = Accounts(str(policy_path), database, lambda: now)
    accounts.admit(1001, b"alice")
    now += CACHE_MS_MAX - 1
    accounts.admit(1001, b"alice")
    assert 1 == database.look_up_count
    now += 1
    accounts.admit(1001, b"alice")
    assert 2 == database.look_up_count

    del database.entries[1001]
    database.version += 1
    for count in (3, 4):
        assert (messages.ACCOUNT, messages.GONE) == refusal(accounts, 1001, b"alice")
        assert count == database.look_up_count
    database.entries[1001] = Entry("bob", 1001, "/", "/bin/sh")
    assert (messages.ACCOUNT, messages.RECYCLED) == refusal(accounts, 1001, b"alice")


@needs_root
def test_what_is_remembered_is_bounded(folder: Path, database: FakeDatabase):
    """
    However many accounts are asked for.
    """
    path = folder / "policy"
    path.write_text("")
    accounts = Accounts(str(path), database, lambda: 0)
    for uid in range(2_000, 2_001 + CACHE_COUNT_MAX):
        database.entries[uid] = Entry(f"u{uid}", uid, "/", "/bin/sh")
        accounts.admit(uid, b"u%d" % uid)
    accounts.admit(2_000, b"u2000")
    assert CACHE_COUNT_MAX + 2 == database.look_up_count


@pytest.mark.parametrize(
    ("shadow", "reason"),
    [
        (None, 0),
        (Shadow("$6$hash", None), 0),
        (Shadow("", None), 0),
        (Shadow("*", None), 0),
        (Shadow("!", None), 0),
        (Shadow("!!", None), 0),
        (Shadow("!*", None), 0),
        (Shadow("!$y$hash", None), messages.LOCKED),
        (Shadow("!!$6$hash", None), messages.LOCKED),
        (Shadow("$6$hash", 100), messages.EXPIRED),
        (Shadow("$6$hash", 99), messages.EXPIRED),
        (Shadow("*", 0), messages.EXPIRED),
        (Shadow("$6$hash", 101), 0),
    ],
)
def test_what_shadow_says_against_an_account(shadow: Shadow | None, reason: int):
    """
    On day 100: locked is a "!" before a hash, expired the day itself and all after it.
    """
    assert reason == reason_against(shadow, 100)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("root", Shadow("*", None)),
        ("alice", Shadow("!$6$a", 19000)),
        ("al", Shadow("$6$al", 0)),
        ("never", Shadow("x", None)),
        ("odd", Shadow("x", 0)),
        ("short", Shadow("x", None)),
        ("bare", Shadow("", None)),
        ("ali", None),
        ("", None),
    ],
)
def test_shadow_is_read_by_its_fields(name: str, expected: Shadow | None):
    """
    The name is the whole of the first field; lines that are cut short, and an expiry that is no
    number, are read as what refuses rather than allows.
    """
    text = b"""root:*:19000:0:99999:7:::
alice:!$6$a:19000:0:99999:7::19000:
al:$6$al:19000:0:99999:7::0:
never:x:1:::::-1:
odd:x:1:::::soon:
short:x
bare:
"""
    assert expected == read_shadow(text, name)


@needs_root
def test_the_database_of_the_host_is_read():
    """
    Accounts that every Linux host has.
    """
    database = Database()
    root = database.entry(0)
    assert root is not None
    assert ("root", 0, "/root") == (root.name, root.gid, root.home)
    assert 0 in database.groups("root", 0)
    assert 0 == database.gid_of("root")
    assert database.entry(0xFFFFFFF0) is None
    assert database.gid_of("no-such-group") is None
    assert database.shadow("no-such-account") is None
    assert database.stamp() == database.stamp()
