"""
Disks that are full, that fail, and that should not grow without bounds.
"""

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest
from daemon_process import DaemonProcess, wait_until

from queuectl.client import Client
from queuectl.errors import DaemonUnreachable, QueuectlError, RequestRefused
from queuectl.protocol import (
    Act,
    Acted,
    Action,
    Config,
    Enqueue,
    Enqueued,
    JobSpec,
    Selection,
    SetConfig,
    Status,
    StatusReport,
)
from queuectl.views import JobView, RunView
from queuectld.main import EXIT_STORAGE

Daemons = Callable[..., DaemonProcess]

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs root and a mount namespace of its own",
)
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None
    or subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="needs strace",
)


class SmallDisk:
    """
    A daemon whose state is on a tmpfs of a few MiB, in a mount namespace of its own.
    """

    def __init__(self, daemons: Daemons, options: str) -> None:
        mount = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
        daemon = daemons()
        os.mkdir(daemon.state_dir, 0o700)
        options += ",mode=0700"
        daemon.command = ("unshare", "-m", "sh", "-c", mount, "sh", options, daemon.state_dir)
        self.daemon = daemon.start()
        self.directory = f"/proc/{daemon.pid}/root{daemon.state_dir}"

    def fill(self) -> None:
        """
        Take all the room there is.
        """
        block = bytes(1 << 16)
        with open(f"{self.directory}/filler", "ab", buffering=0) as file:
            try:
                while file.write(block) == len(block):
                    pass
            except OSError:
                pass

    def free(self) -> None:
        """
        Give the room back.
        """
        os.unlink(f"{self.directory}/filler")


def enqueue_until_refused(daemon: DaemonProcess) -> tuple[list[str], RequestRefused]:
    """
    Enqueue jobs of 100 kB; return the ids of those confirmed, and the refusal.
    """
    ids = []
    while True:
        try:
            ids += daemon.enqueue("#" * 100_000, hold=True)
        except RequestRefused as refusal:
            return ids, refusal
        assert len(ids) < 1000


@needs_mounts
def test_a_full_disk_is_a_state(daemons: Daemons) -> None:
    """
    Enqueues are refused, running jobs' ends are recorded, nothing confirmed is lost, and when there
    is room again all goes on by itself.
    """
    disk = SmallDisk(daemons, "size=24m")
    daemon = disk.daemon
    gate = f"{daemon.directory}/gate"
    with daemon.client() as client:
        client.call(SetConfig(key="workers", value=1), Config)
    (running,) = daemon.enqueue(f"until test -e {gate}; do sleep 0.01; done; exit 7", max_retries=0)
    daemon.pid_of(running)
    (waiting,) = daemon.enqueue("true")  # For the one slot.
    disk.fill()
    ids, refusal = enqueue_until_refused(daemon)
    assert refusal.code == "try_later"
    assert "disk" in str(refusal)
    assert daemon.status().journal.state == "full"
    assert any("disk" in note for note in daemon.status().notes)
    with open(gate, "w", encoding="ascii"):
        pass
    assert daemon.wait_for(running).runs[0].exit_code == 7
    # The slot is free, but nothing is started whose output could not be kept.
    assert daemon.show(waiting).job.state == "pending"
    disk.free()
    assert daemon.wait_for(waiting).job.state == "completed"
    wait_until(lambda: daemon.status().journal.state == "ok")
    ids += daemon.enqueue("true", hold=True)
    assert daemon.status().jobs["held"] == len(ids)


@needs_mounts
def test_a_batch_without_room_waits_and_others_can_look(daemons: Daemons) -> None:
    """
    A batch too large for what is left is confirmed once there is room. Meanwhile status and show
    answer, and other enqueues are refused at once.
    """
    disk = SmallDisk(daemons, "size=24m")
    daemon = disk.daemon
    (first,) = daemon.enqueue("true", hold=True)
    disk.fill()
    big = [JobSpec(command="#" * 100_000, hold=True) for _ in range(40)]
    with daemon.client() as client:
        client.send(Enqueue(call=1, jobs=big[:30], request_id="one"))
        client.send(Enqueue(call=2, jobs=big, request_id="two"))
        wait_until(lambda: daemon.status().journal.state == "full")
        assert daemon.state(first) == "held"
        with pytest.raises(RequestRefused, match="disk"):
            daemon.enqueue("true")
        disk.free()
        answers = dict(answer_of(client) for _ in range(2))
    confirmed = sum(answers.values())
    assert confirmed in (30, 40, 70)
    wait_until(lambda: daemon.status().journal.state == "ok")
    assert daemon.status().jobs["held"] == 1 + confirmed


def answer_of(client: Client) -> tuple[int, int]:
    """
    Return the call that was answered, and how many jobs were made.
    """
    try:
        answer = client.receive(Enqueued, timeout_ms=20_000)
    except RequestRefused as refusal:
        return refusal.call, 0
    return answer.call, len(answer.ids)


@needs_mounts
def test_no_room_for_an_output_file_does_not_count(daemons: Daemons) -> None:
    """
    A job that could not start for want of an inode waits and starts again, its budget untouched.
    """
    disk = SmallDisk(daemons, "size=24m,nr_inodes=64")
    daemon = disk.daemon
    assert daemon.runner_pid
    made = []
    try:
        for n in range(64):
            with open(f"{disk.directory}/inode-{n}", "wb"):
                made.append(n)
    except OSError:
        pass
    (job_id,) = daemon.enqueue("true", max_retries=0)
    detail = daemon.wait_for(job_id, "failed")
    assert detail.runs[0].end == "could_not_start"
    assert "No space" in (detail.runs[0].error or "")
    for n in made:
        os.unlink(f"{disk.directory}/inode-{n}")
    detail = daemon.wait_for(job_id)
    assert detail.job.state == "completed"
    assert detail.job.attempts == 1


@needs_mounts
def test_a_job_that_fills_the_disk_hurts_itself(daemons: Daemons) -> None:
    """
    It sees the error and fails; the daemon goes on.
    """
    disk = SmallDisk(daemons, "size=24m")
    daemon = disk.daemon
    (job_id,) = daemon.enqueue("head -c 50000000 /dev/zero", max_retries=0)
    assert daemon.wait_for(job_id).job.state == "dead"
    assert daemon.status().daemon.pid == daemon.pid


def enqueue_until_it_fails(daemon: DaemonProcess) -> tuple[list[str], str]:
    """
    Enqueue jobs one by one; return the ids of those confirmed, and the word for the failure.
    """
    confirmed: list[str] = []
    while len(confirmed) < 1000:
        try:
            confirmed += daemon.enqueue("true", hold=True)
        except QueuectlError as error:
            return confirmed, error.code
    raise AssertionError("it does not fail")


@needs_strace
@pytest.mark.parametrize("when", [6, 9, 17])
def test_a_failing_sync_ends_it(daemons: Daemons, when: int) -> None:
    """
    After a failed fdatasync nothing more is confirmed and the exit code is 74; the next start has
    all that was confirmed.
    """
    daemon = daemons()
    inject = f"inject=fdatasync:error=EIO:when={when}"
    daemon.command = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        inject,
    )
    daemon.start()
    # A runner that never met a daemon would stay for ten seconds, and strace with it.
    assert daemon.runner_pid
    confirmed, code = enqueue_until_it_fails(daemon)
    assert code in ("storage", "unreachable")
    with pytest.raises(DaemonUnreachable), Client(daemon.socket) as client:
        client.call(Status(), StatusReport, timeout_ms=20_000)
    assert daemon.wait() == EXIT_STORAGE
    daemon.command = ()
    daemon.start()
    for job_id in confirmed:
        assert daemon.state(job_id) == "held"
    # The one that was not confirmed may have survived; nothing else may be there.
    assert len(confirmed) <= daemon.status().jobs["held"] <= len(confirmed) + 1


@needs_strace
def test_a_failing_write_ends_it(daemons: Daemons) -> None:
    """
    The same for a write that fails for another reason than want of room.
    """
    daemon = daemons()
    inject = "inject=pwrite64:error=EIO:when=40"
    daemon.command = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=pwrite64",
        "-e",
        inject,
    )
    daemon.start()
    # A runner that never met a daemon would stay for ten seconds, and strace with it.
    assert daemon.runner_pid
    confirmed, _ = enqueue_until_it_fails(daemon)
    assert daemon.wait() == EXIT_STORAGE
    daemon.command = ()
    daemon.start()
    assert daemon.status().jobs["held"] in (len(confirmed), len(confirmed) + 1)


def act(daemon: DaemonProcess, action: Action, *ids: str) -> None:
    with Client(daemon.socket) as client:
        assert client.call(Act(action=action, select=Selection(ids=[*ids])), Acted).ids == [*ids]


def everything(daemon: DaemonProcess, ids: list[str]) -> list[tuple[JobView, list[RunView]]]:
    details = [daemon.show(job_id) for job_id in ids]
    return [(detail.job, detail.runs) for detail in details]


def test_a_snapshot_keeps_everything(daemon: DaemonProcess) -> None:
    """
    One is taken by itself while jobs run; what is known after a kill -9 is what was known before,
    and the journal has become smaller.
    """
    gate = f"{daemon.directory}/gate"
    finished = daemon.enqueue("true", "exit 3", max_retries=0)
    for job_id in finished:
        daemon.wait_for(job_id)
    kept = daemon.enqueue("true", "false", hold=True)
    delayed = daemon.enqueue("true", delay_ms=3_600_000)
    running = daemon.enqueue(f"until test -e {gate}; do sleep 0.01; done; exit 4", max_retries=0)
    daemon.pid_of(*running)
    for _ in range(3):  # The files of the snapshot before are kept until the next.
        gone = daemon.enqueue(*["#" * 100_000] * 30, hold=True)
        act(daemon, "cancel", *gone)
        act(daemon, "prune", *gone)
        # What was written before a start is what a snapshot is made of.
        daemon.restart()
        daemon.enqueue("true", hold=True)
        wait_until(lambda: daemon.status().journal.snapshot_at, what="a snapshot")
    assert daemon.status().journal.size_bytes < 4 << 20
    daemon.pid_of(*running)
    ids = [*finished, *kept, *delayed, *running]
    before = everything(daemon, ids)
    counts = daemon.status().jobs
    daemon.kill()
    daemon.start()
    daemon.pid_of(*running)
    assert everything(daemon, ids) == before
    assert daemon.status().jobs == counts
    with open(gate, "w", encoding="ascii"):
        pass
    assert daemon.wait_for(*running).runs[0].exit_code == 4
