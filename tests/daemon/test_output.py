"""
Output: of real jobs through a real daemon, and the files alone, with holes and at every boundary.
"""

import errno
import os
import struct
from collections.abc import Iterator

import pytest
from daemon_process import DaemonProcess, wait_until

from queuectl.client import Client
from queuectl.protocol import Act, Acted, Config, LogEnd, Logs, Output, Selection, SetConfig
from queuectld.runtime import output
from queuectld.runtime.output import OutputStore, punch_hole, read_chunk, tail_offset

BLOCK = 64 << 10


@pytest.fixture
def file(tmp_path: os.PathLike[str]) -> Iterator[int]:
    fd = os.open(os.path.join(tmp_path, "out"), os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def read_all(fd: int, offset: int = 0) -> tuple[bytes, int]:
    """
    Return what a reader gets from *offset* on, and how many bytes it is told were dropped.
    """
    data, dropped_bytes = b"", 0
    while True:
        chunk = read_chunk(fd, offset)
        if not chunk.data and not chunk.dropped_bytes:
            return data, dropped_bytes
        assert chunk.offset == offset + chunk.dropped_bytes
        data += chunk.data
        dropped_bytes += chunk.dropped_bytes
        offset = chunk.offset + len(chunk.data)


# --- files ----------------------------------------------------------------------------------------


def test_the_folders_of_output_are_spread_where_the_file_system_can(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The flag is asked for once and kept with what else is set; a file system without flags, or one
    that does not take this one, changes nothing.
    """
    asked: list[int] = []
    flags = [0x80000]

    def ioctl(_fd: int, request: int, argument: bytes) -> bytes:
        if request == output._FS_IOC_SETFLAGS:
            (flags[0],) = struct.unpack("i", argument)
            asked.append(flags[0])
        return struct.pack("i", flags[0])

    monkeypatch.setattr(output.fcntl, "ioctl", ioctl)
    for _ in range(2):
        OutputStore(f"{tmp_path}/output")
    assert [0x80000 | output._FS_TOPDIR_FL] == asked

    def refuse(_fd: int, _request: int, _argument: bytes) -> bytes:
        raise OSError(errno.ENOTTY, "no flags here")

    monkeypatch.setattr(output.fcntl, "ioctl", refuse)
    os.close(OutputStore(f"{tmp_path}/output").create(1, 1))


def test_a_chunk_is_what_is_there(file: int) -> None:
    """
    From every offset on: the rest of the file, and nothing at or beyond its end.
    """
    text = bytes(range(256)) * 3
    os.write(file, text)
    for offset in range(len(text) + 2):
        assert read_all(file, offset) == (text[offset:], 0)
    assert read_chunk(file, 1 << 63) == (1 << 63, b"", 0)


@pytest.mark.parametrize("start", [0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_a_hole_is_dropped_bytes_not_zeros(file: int, start: int) -> None:
    """
    Whichever offset a reader comes from, it gets the data around the hole and the hole's size.
    """
    size = 6 * BLOCK
    os.write(file, b"x" * size)
    punch_hole(file, 2 * BLOCK, 2 * BLOCK)
    data, dropped_bytes = read_all(file, start)
    assert data == b"x" * len(data)
    assert len(data) + dropped_bytes == size - start
    assert dropped_bytes == min(2 * BLOCK, 4 * BLOCK - start)


def test_a_hole_at_the_end_is_dropped_bytes(file: int) -> None:
    """
    What follows a hole may not be there yet.
    """
    os.write(file, b"x" * BLOCK)
    os.ftruncate(file, 3 * BLOCK)
    assert read_all(file, 5) == (b"x" * (BLOCK - 5), 2 * BLOCK)


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"a", b"a\n", b"a\nb", b"a\nb\n", b"\n\n\n", b"a\n\nb"]
)
def test_the_last_lines_are_those_of_tail(file: int, text: bytes) -> None:
    """
    For every count: as many lines from the end as there are, the last with or without newline.
    """
    os.write(file, text)
    lines = text.splitlines(keepends=True)
    for count in range(6):
        expected = b"".join(lines[len(lines) - count :]) if count < len(lines) else text
        assert text[tail_offset(file, count) :] == (expected if count else b"")


def test_the_last_lines_are_found_across_blocks(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Wherever the boundary of the blocks read backwards lies within a line or at its newline.
    """
    text = b"".join(b"%d" % n * (n % 4) + b"\n" for n in range(40))
    os.write(file, text)
    lines = text.splitlines(keepends=True)
    for block_bytes in range(1, 20):
        monkeypatch.setattr(output, "_TAIL_BLOCK_BYTES", block_bytes)
        for count in range(1, len(lines) + 2):
            expected = b"".join(lines[-count:])
            assert text[tail_offset(file, count) :] == expected, (block_bytes, count)


def test_the_last_lines_are_not_looked_for_before_a_hole(file: int) -> None:
    """
    Nor further back than the limit: a file without newlines is not read as a whole.
    """
    os.write(file, b"line\n" * (6 * BLOCK // 5))
    punch_hole(file, 2 * BLOCK, 2 * BLOCK)
    assert tail_offset(file, 1_000_000) == 4 * BLOCK
    os.ftruncate(file, 0)
    os.ftruncate(file, output.TAIL_BYTES_MAX + 5)
    os.pwrite(file, b"x", 3)
    assert tail_offset(file, 7) >= 5


def test_the_middle_is_dropped(tmp_path: os.PathLike[str]) -> None:
    """
    Beginning and end stay where they are; the size on disk is within the limit afterwards.
    """
    store = OutputStore(f"{tmp_path}/output")
    fd = store.create(1, 1)
    for n in range(100):
        os.write(fd, b"%07d\n" % n * (BLOCK // 8))
    bytes_max = 16 * BLOCK
    dropped_bytes = store.limit(1, 1, bytes_max)
    assert dropped_bytes > 80 * BLOCK
    assert store.used_bytes(1, 1) <= bytes_max
    assert store.limit(1, 1, bytes_max) == 0
    os.write(fd, b"last\n")
    os.close(fd)
    reader = store.open(1, 1)
    assert reader is not None
    data, dropped = read_all(reader)
    os.close(reader)
    assert data.startswith(b"0000000\n")
    assert data.endswith(b"0000099\nlast\n")
    assert len(data) + dropped == 100 * BLOCK + 5


def test_small_output_is_not_cut(tmp_path: os.PathLike[str]) -> None:
    """
    Where there is no middle of a block's size, nothing is dropped.
    """
    store = OutputStore(f"{tmp_path}/output")
    fd = store.create(1, 1)
    os.write(fd, b"x" * (2 * BLOCK - 1))
    os.close(fd)
    assert store.limit(1, 1, BLOCK) == 0


def test_files_are_found_and_deleted(tmp_path: os.PathLike[str]) -> None:
    """
    Deleting the last file of a folder deletes the folder; what is not there is not missed.
    """
    store = OutputStore(f"{tmp_path}/output")
    for number, attempt in ((1, 1), (1, 2), (999, 1), (1000, 1)):
        os.close(store.create(number, attempt))
    assert sorted(store.buckets()) == ["0", "1"]
    assert sorted(number for _, number in store.files("0")) == [1, 1, 999]
    store.delete(1, [1, 2, 3])
    store.delete(1000, [1])
    assert store.buckets() == ["0"]
    assert store.files("1") == []
    assert store.open(1, 1) is None
    os.close(store.create(1000, 2))
    assert sorted(store.buckets()) == ["0", "1"]


# --- real jobs ------------------------------------------------------------------------------------


def configure(daemon: DaemonProcess, key: str, value: int) -> None:
    with Client(daemon.socket) as client:
        client.call(SetConfig(key=key, value=value), Config)


def test_much_output_is_followed_as_it_comes(daemon: DaemonProcess) -> None:
    """
    50 MB arrive complete and in order, and the daemon holds little of it at a time.
    """
    size = 50_000_000
    (job_id,) = daemon.enqueue(f"head -c {size} /dev/zero | tr '\\0' 'x'; echo end")
    before = daemon.rss_bytes()
    got = most = 0
    last = b""
    with Client(daemon.socket) as client:
        for part in client.stream(Logs(id=job_id, follow=True), Output, LogEnd):
            if isinstance(part, Output):
                assert (part.offset, part.dropped_bytes) == (got, 0)
                got += len(part.data)
                last = part.data
                most = max(most, daemon.rss_bytes())
            else:
                assert isinstance(part, LogEnd)
                assert part.job.state == "completed"
    assert got == size + 4
    assert last.endswith(b"xend\n")
    assert most - before < 40 << 20


def test_a_follower_that_stops_reading_holds_up_nobody(daemon: DaemonProcess) -> None:
    """
    The daemon keeps little for it, serves others, and goes on when it reads again.
    """
    size = 20_000_000
    (job_id,) = daemon.enqueue(f"head -c {size} /dev/zero")
    with Client(daemon.socket) as deaf:
        stream = deaf.stream(Logs(id=job_id, follow=True), Output, LogEnd)
        first = next(stream)
        assert isinstance(first, Output)
        got = len(first.data)
        before = daemon.rss_bytes()
        (other,) = daemon.enqueue("echo other")
        assert daemon.wait_for(other).job.state == "completed"
        assert daemon.wait_for(job_id).job.state == "completed"
        assert daemon.rss_bytes() - before < 20 << 20
        got += sum(len(part.data) for part in stream if isinstance(part, Output))
    assert got == size


def test_following_begins_before_the_job_does(daemon: DaemonProcess) -> None:
    """
    Whoever follows a job that waits gets all of it; one that is cancelled first ends with nothing.
    """
    ran, cancelled = daemon.enqueue("echo one; echo two", "echo never", hold=True)
    with daemon.client() as first, daemon.client() as second, daemon.client() as other:
        first.send(Logs(id=ran, follow=True))
        second.send(Logs(id=cancelled, follow=True))
        other.call(Act(action="release", select=Selection(ids=[ran])), Acted)
        other.call(Act(action="cancel", select=Selection(ids=[cancelled])), Acted)
        assert second.receive(LogEnd, timeout_ms=20_000).job.state == "cancelled"
        part = first.receive(Output, timeout_ms=20_000)
        text = part.data
        while len(text) < 8:
            text += first.receive(Output, timeout_ms=20_000).data
        assert text == b"one\ntwo\n"
        assert first.receive(LogEnd, timeout_ms=20_000).job.state == "completed"


def test_one_attempt_or_the_last_or_its_last_lines(daemon: DaemonProcess) -> None:
    """
    logs shows the last attempt unless another is named; tail and offset count within it.
    """
    configure(daemon, "backoff_max", 20)
    (job_id,) = daemon.enqueue(
        "for n in 1 2 3; do echo $QUEUECTL_ATTEMPT-$n; done; exit 1", max_retries=1
    )
    daemon.wait_for(job_id, "dead")
    assert daemon.output(job_id) == b"2-1\n2-2\n2-3\n"
    assert daemon.output(job_id, attempt=1) == b"1-1\n1-2\n1-3\n"
    assert daemon.output(job_id, tail_lines=1) == b"2-3\n"
    assert daemon.output(job_id, offset=5) == b"-2\n2-3\n"


def test_output_over_the_limit_loses_its_middle(daemon: DaemonProcess) -> None:
    """
    A reader is told how much; beginning and end are there. Also for a job that ended at once.
    """
    configure(daemon, "output_limit", 1 << 20)
    (job_id,) = daemon.enqueue("echo first; head -c 10000000 /dev/zero; echo; echo last")
    daemon.wait_for(job_id)
    wait_until(lambda: "output_dropped" in daemon.log, what="the middle was dropped")
    with Client(daemon.socket) as client:
        parts = [
            part
            for part in client.stream(Logs(id=job_id), Output, LogEnd)
            if isinstance(part, Output)
        ]
    data = b"".join(part.data for part in parts)
    assert data.startswith(b"first\n")
    assert data.endswith(b"\nlast\n")
    assert len(data) <= 1 << 20
    assert len(data) + sum(part.dropped_bytes for part in parts) == 10_000_000 + 12
    assert daemon.output(job_id, tail_lines=1) == b"last\n"


def test_the_limit_is_kept_while_a_job_runs(daemon: DaemonProcess) -> None:
    """
    A job that never ends does not fill the disk.
    """
    configure(daemon, "output_limit", 1 << 20)
    (job_id,) = daemon.enqueue("while :; do head -c 1000000 /dev/zero; sleep 0.05; done")
    wait_until(lambda: daemon.log.count("output_dropped") >= 2, what="dropped twice")
    with Client(daemon.socket) as client:
        client.call(Act(action="cancel", select=Selection(ids=[job_id])), Acted)
    assert daemon.wait_for(job_id).job.state == "cancelled"


def test_a_forgotten_job_takes_its_output_along(daemon: DaemonProcess) -> None:
    """
    Its files are deleted; a stray one of no job is deleted some time after a start.
    """
    (job_id,) = daemon.enqueue("echo some")
    daemon.wait_for(job_id)
    folder = f"{daemon.state_dir}/output/0"
    assert os.listdir(folder) == ["1.1.log"]
    with Client(daemon.socket) as client:
        client.call(Act(action="prune", select=Selection(ids=[job_id])), Acted)
    assert not os.path.exists(folder)
    os.mkdir(folder, 0o700)
    with open(f"{folder}/77.1.log", "w", encoding="ascii"):
        pass
    daemon.restart()
    wait_until(lambda: not os.path.exists(f"{folder}/77.1.log"), what="the stray file is gone")
