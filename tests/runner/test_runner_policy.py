"""
The policy: its rules, and the file that only root may have written.
"""

import os
from pathlib import Path

import pytest
from runner_accounts import needs_root

from queuectld.runner import messages
from queuectld.runner.policy import Policy, PolicyError, read_policy

GIDS = {"alice": 1001, "users": 100, "docker": 999}


@pytest.mark.parametrize(
    ("policy", "uid", "user", "groups", "reason"),
    [
        (Policy(), 1000, "alice", [1001], 0),
        (Policy(), 999, "alice", [1001], messages.BELOW_UID_MIN),
        (Policy(uid_min=0), 1, "daemon", [1], 0),
        (Policy(uid_min=2000), 1999, "alice", [1001], messages.BELOW_UID_MIN),
        (Policy(), 0, "root", [0], messages.ROOT),
        (Policy(uid_min=0), 0, "root", [0], messages.ROOT),
        (Policy(allow_users=frozenset({"root"})), 0, "root", [0], messages.ROOT),
        (Policy(allow_root=True), 0, "root", [0], 0),
        (Policy(allow_root=True, allow_users=frozenset({"alice"})), 0, "root", [0], 0),
        (Policy(allow_users=frozenset({"www-data"})), 33, "www-data", [33], 0),
        (Policy(allow_users=frozenset({"bob"})), 1001, "alice", [1001], messages.NOT_ALLOWED),
        (Policy(allow_groups=frozenset({"users"})), 1001, "alice", [1001], messages.NOT_ALLOWED),
        (Policy(allow_groups=frozenset({"users"})), 1001, "alice", [100, 1001], 0),
        (Policy(allow_groups=frozenset({"users"})), 33, "www", [100], messages.BELOW_UID_MIN),
        (Policy(allow_groups=frozenset({"missing"})), 1001, "a", [1001], messages.NOT_ALLOWED),
        (
            Policy(allow_users=frozenset({"bob"}), allow_groups=frozenset({"users"})),
            1001,
            "alice",
            [100],
            0,
        ),
        (Policy(deny_users=frozenset({"alice"})), 1001, "alice", [1001], messages.DENIED_USER),
        (
            Policy(deny_users=frozenset({"alice"}), allow_users=frozenset({"alice"})),
            1001,
            "alice",
            [1001],
            messages.DENIED_USER,
        ),
        (
            Policy(deny_groups=frozenset({"docker"}), allow_users=frozenset({"alice"})),
            1001,
            "alice",
            [999, 1001],
            messages.DENIED_GROUP,
        ),
        (Policy(deny_groups=frozenset({"docker", "missing"})), 1001, "alice", [1001], 0),
    ],
)
def test_the_rules_of_a_policy(policy: Policy, uid: int, user: str, groups: list[int], reason: int):
    """
    Denied goes before allowed, a name in allow_users before uid_min, and root is a matter of
    allow_root alone.
    """
    assert reason == policy.reason_against(uid, user, groups, GIDS.get)


@needs_root
def test_a_policy_says_what_it_says(folder: Path):
    """
    Every key, and the defaults of an empty file.
    """
    path = folder / "policy"
    path.write_text("")
    assert Policy(1000, allow_root=False) == read_policy(str(path))
    path.write_text(
        'uid_min = 500\nallow_users = ["a"]\ndeny_users = ["b"]\nallow_groups = ["c"]\n'
        'deny_groups = ["d"]\nallow_root = true\n'
    )
    a, b, c, d = (frozenset({name}) for name in "abcd")
    assert Policy(500, a, b, c, d, True) == read_policy(str(path))


@needs_root
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alow_users = []", "unknown key alow_users; the nearest is allow_users"),
        ("zzz = 1", "unknown key zzz; the nearest is"),
        ("'a\\nb' = 1", r"unknown key a\\nb; the nearest is"),
        ("uid_min = true", "uid_min must be a number"),
        ("uid_min = -1", "uid_min must be a number"),
        ("uid_min = 4294967295", "uid_min must be a number"),
        ("uid_min = 1.5", "uid_min must be a number"),
        ("allow_root = 1", "allow_root must be true or false"),
        ('allow_users = "alice"', "allow_users must be a list of names"),
        ("deny_groups = [1]", "deny_groups must be a list of names"),
        ('deny_users = [""]', "deny_users must be a list of names"),
        ("[table]\nx = 1", "unknown key table"),
        ("uid_min = ", "Invalid value"),
        ("\xff", "codec"),
    ],
)
def test_a_policy_that_says_something_else_is_refused(folder: Path, text: str, said: str):
    """
    The message names the file, the key, and what is near it.
    """
    path = folder / "policy"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(PolicyError) as caught:
        read_policy(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def open_to_all(path: Path) -> None:
    path.chmod(0o646)


def open_to_the_group(path: Path) -> None:
    path.chmod(0o664)


def of_another(path: Path) -> None:
    os.chown(path, 1, 0)


def below_an_open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def below_anothers_folder(path: Path) -> None:
    os.chown(path.parent, 1, 0)


def a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@needs_root
@pytest.mark.parametrize(
    "spoil",
    [
        open_to_all,
        open_to_the_group,
        of_another,
        below_an_open_folder,
        below_anothers_folder,
        a_fifo,
        a_folder,
    ],
)
def test_a_policy_that_others_can_change_is_refused(folder: Path, spoil):
    """
    The file and every folder above it are root's alone; anything but a plain file is refused too.
    """
    (folder / "etc").mkdir(mode=0o755)
    path = folder / "etc" / "policy"
    path.write_text("")
    read_policy(str(path))
    spoil(path)
    with pytest.raises(PolicyError):
        read_policy(str(path))


@needs_root
def test_a_policy_behind_a_link_is_refused(folder: Path):
    """
    The file itself may be no link, nor may a folder on the way to it.
    """
    path = folder / "policy"
    path.write_text("")
    a_link(path)
    with pytest.raises(OSError, match="symbolic link"):
        read_policy(str(path))
    (folder / "by").symlink_to(".")
    with pytest.raises(PolicyError, match="is not a directory"):
        read_policy(str(folder / "by" / "real"))
    assert Policy() == read_policy(str(folder / "real"))


@needs_root
def test_a_policy_that_is_missing_is_an_error(folder: Path):
    """
    Without its policy the runner would not know whom to refuse.
    """
    with pytest.raises(FileNotFoundError):
        read_policy(str(folder / "missing"))
