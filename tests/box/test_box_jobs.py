"""
What becomes of running jobs when their queue's units are restarted, stopped, killed: each row of
the table in docs/systemd.md, on a booted systemd.
"""

from collections.abc import Callable

import pytest
from box_steps import kernel_tells_afterwards, kill_daemon, kill_runner, reload_runner
from debian_box import Box, wait_until
from installation import write
from queue_in_box import DAEMON, RUNNER, SOCKET, WAIT_S, QueueInBox

RUNS_ON, TOLD = ("exited", 7, None), ("exited", 9, None)
LOST = ("lost", None, None)
#: Whether the kernel, which is the box's too, tells how a process ended that somebody else reaped.
EXACT = None


def restart_daemon(queue: QueueInBox) -> None:
    queue.systemctl("restart", DAEMON)


def reload_daemon(queue: QueueInBox) -> None:
    queue.systemctl("reload", DAEMON)


def stop_and_start_daemon(queue: QueueInBox) -> None:
    queue.systemctl("stop", DAEMON, SOCKET)
    queue.systemctl("start", SOCKET, DAEMON)


def terminate_daemon(queue: QueueInBox) -> None:
    before = queue.main_pid(DAEMON)
    queue.kill(DAEMON)
    wait_until(lambda: queue.main_pid(DAEMON) != before, WAIT_S, "the daemon has left")
    queue.queuectl("status")  # The socket starts it again.


def kill_both(queue: QueueInBox) -> None:
    before = queue.main_pid(RUNNER), queue.main_pid(DAEMON)
    queue.kill(RUNNER, "--kill-whom=main", "--signal=KILL")
    queue.kill(DAEMON, "--signal=KILL")
    queue.wait_for_other_main_pid(RUNNER, before[0])
    queue.wait_for_other_main_pid(DAEMON, before[1])


def restart_runner(queue: QueueInBox) -> None:
    queue.systemctl("restart", RUNNER)


def stop_and_start_runner(queue: QueueInBox) -> None:
    queue.systemctl("stop", RUNNER)
    queue.systemctl("start", RUNNER)


def terminate_runner(queue: QueueInBox) -> None:
    before = queue.main_pid(RUNNER)
    queue.kill(RUNNER)
    queue.wait_for_other_main_pid(RUNNER, before)


def restart_socket(queue: QueueInBox) -> None:
    queue.systemctl("restart", SOCKET)


def stop_and_start_socket(queue: QueueInBox) -> None:
    queue.systemctl("stop", SOCKET)
    queue.systemctl("start", SOCKET)


def kill_socket(queue: QueueInBox) -> None:
    queue.kill(SOCKET, "--signal=KILL")


def reexec_systemd(queue: QueueInBox) -> None:
    queue.systemctl("daemon-reexec")


def reload_systemd(queue: QueueInBox) -> None:
    queue.systemctl("daemon-reload")


#: What is done, and how the job that ran meanwhile ends.
ROWS: list[tuple[Callable[[QueueInBox], None], tuple[object, ...] | None]] = [
    (restart_daemon, RUNS_ON),
    (reload_daemon, RUNS_ON),
    (stop_and_start_daemon, RUNS_ON),
    (kill_daemon, RUNS_ON),
    (terminate_daemon, RUNS_ON),
    (reload_runner, RUNS_ON),
    (kill_runner, EXACT),
    (kill_both, EXACT),
    (restart_runner, TOLD),
    (stop_and_start_runner, TOLD),
    (terminate_runner, TOLD),
    (restart_socket, RUNS_ON),
    (stop_and_start_socket, RUNS_ON),
    (kill_socket, RUNS_ON),
    (reexec_systemd, RUNS_ON),
    (reload_systemd, RUNS_ON),
]


@pytest.fixture(scope="module")
def queue(make_box: Callable[[str], Box]) -> QueueInBox:
    """
    The machine's queue on a booted machine.
    """
    box = make_box("jobs")
    write(box, "/etc/queuectl/queuectld.toml", "workers = 2\n")
    box.boot()
    return QueueInBox(box)


@pytest.mark.parametrize(("act", "expected"), ROWS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_running_job(
    queue: QueueInBox,
    act: Callable[[QueueInBox], None],
    expected: tuple[object, ...] | None,
) -> None:
    """
    A job that runs meanwhile ends as the table says, with its true exit code, after one attempt.
    """
    if expected is None:
        expected = RUNS_ON if kernel_tells_afterwards() else LOST
    job_id = act.__name__
    queue.start_patient(job_id)
    act(queue)
    if expected != TOLD:
        assert "processing" == queue.state(job_id)
        queue.let_go(job_id)
    assert expected == queue.end_of(job_id)
    queue.enqueue(f"{job_id}-after", "true")
    queue.wait_for_state(f"{job_id}-after", "completed")


def test_an_end_while_the_daemon_is_away_is_known(queue: QueueInBox) -> None:
    """
    A job that ends while no daemon runs has its exit code afterwards.
    """
    queue.start_patient("away")
    pid = queue.pid_of("away")
    queue.systemctl("stop", SOCKET, DAEMON)
    queue.let_go("away")
    wait_until(
        lambda: queue.box.run("test", "-e", f"/proc/{pid}", check=False).returncode, WAIT_S, "gone"
    )
    queue.systemctl("start", SOCKET, DAEMON)
    assert RUNS_ON == queue.end_of("away")


@pytest.mark.parametrize("cut", [False, True], ids=["reboot", "power cut"])
def test_a_reboot(queue: QueueInBox, cut: bool) -> None:
    """
    Queued and scheduled jobs are there after a reboot; a running one was lost, and its on_lost
    decides; nothing has run twice.
    """
    box, name = queue.box, "cut" if cut else "reboot"
    queue.start_patient(f"{name}-dead")
    queue.enqueue(f"{name}-held", "echo once; sleep 600", "--on-lost", "hold")
    queue.wait_for_output(f"{name}-held", "once")
    queue.enqueue(f"{name}-later", "true", "--delay", "1h")
    queue.enqueue(f"{name}-queued", "true", "--priority=-5")
    assert "pending" == queue.state(f"{name}-queued")
    if cut:
        box.cut_power()
        box.boot()
    else:
        box.reboot()
    assert LOST == queue.end_of(f"{name}-dead")
    assert "dead" == queue.state(f"{name}-dead")
    assert LOST == queue.end_of(f"{name}-held")
    assert "held" == queue.state(f"{name}-held")
    assert "scheduled" == queue.state(f"{name}-later")
    queue.wait_for_state(f"{name}-queued", "completed")
    assert "once" == queue.queuectl("logs", f"{name}-held")
