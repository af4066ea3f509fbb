"""
One process, the directory's owner, on a local disk; everyone else is told why not.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from journal_twins import make_journal, pack, read_back, record

from queuectld.journal.errors import JournalFailed, JournalLocked, JournalUnsafe
from queuectld.journal.files import Files


def test_directory_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    """
    Whatever the umask, nobody else can read what is made.
    """
    before = os.umask(0)
    try:
        journal = make_journal(tmp_path / "j")
        journal.open(lambda _: None)
        journal.close()
    finally:
        os.umask(before)

    assert 0o700 == stat.S_IMODE(os.stat(tmp_path / "j").st_mode)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "j").iterdir()}
    assert {0o600} == modes


def test_the_second_opener_is_refused(tmp_path: Path) -> None:
    """
    A held directory is refused at once, and free again when its holder closes.
    """
    first = make_journal(tmp_path / "j")
    first.open(lambda _: None)
    first.commit(pack([record(1)]))
    for _ in range(2):
        with pytest.raises(JournalLocked, match="in use by another queuectld"):
            make_journal(tmp_path / "j").open(lambda _: None)
    first.close()

    assert [record(1)] == read_back(tmp_path / "j")


def test_a_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    """
    A process started while the journal is open inherits nothing of it.
    """
    journal = make_journal(tmp_path / "j")
    journal.open(lambda _: None)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
    )
    try:
        journal.close()
        assert [] == read_back(tmp_path / "j")
    finally:
        child.communicate(b"\n")


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o755, 0o777])
def test_an_open_door_is_refused(tmp_path: Path, mode: int) -> None:
    """
    Any bit for others is refused with the command that takes it away.
    """
    (tmp_path / "j").mkdir(0o700)
    (tmp_path / "j").chmod(mode)
    with pytest.raises(JournalUnsafe, match=f"mode {mode:04o}.*chmod 0700"):
        make_journal(tmp_path / "j").open(lambda _: None)

    assert [] == list((tmp_path / "j").iterdir())


def test_another_owner_is_refused(tmp_path: Path) -> None:
    """
    A directory of somebody else is refused, by root too.
    """

    class ForeignFiles(Files):
        def owner(self) -> int:
            return super().owner() + 1

    with pytest.raises(JournalUnsafe, match="belongs to user"):
        make_journal(tmp_path / "j", ForeignFiles()).open(lambda _: None)


@pytest.mark.parametrize("name", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuseblk"])
def test_remote_file_systems_are_refused(tmp_path: Path, name: str) -> None:
    """
    Where a sync or a lock may mean nothing, nothing is promised.
    """

    class RemoteFiles(Files):
        def filesystem_type(self, fd: int) -> str:
            return name

    with pytest.raises(JournalUnsafe, match=f"{name} file system.*local disk"):
        make_journal(tmp_path / "j", RemoteFiles()).open(lambda _: None)


def test_file_system_of_this_directory_is_known(tmp_path: Path) -> None:
    """
    The real call names a file system that mountinfo knows.
    """
    files = Files()
    fd = files.open_directory(str(tmp_path))
    try:
        name = files.filesystem_type(fd)
    finally:
        files.close(fd)

    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert name in {line.partition(" - ")[2].split(" ")[0] for line in mounts}


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    """
    What cannot be opened is refused with its path and the system's reason.
    """
    (tmp_path / "file").write_text("x")
    for path, reason in [("file", "Not a directory"), ("missing/j", "No such file")]:
        with pytest.raises(JournalFailed, match=f"{path} cannot be opened.*{reason}"):
            make_journal(tmp_path / path).open(lambda _: None)


def test_links_and_fifos_under_our_names_are_not_followed(tmp_path: Path) -> None:
    """
    A name of ours that is not a file of ours is refused, and does not hang the start.
    """
    assert [] == read_back(tmp_path / "j")
    path = tmp_path / "j" / "seg-0000000000000001.qj"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalFailed, match="symbolic links"):
        read_back(tmp_path / "j")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(JournalFailed, match="Illegal seek"):
        read_back(tmp_path / "j")
