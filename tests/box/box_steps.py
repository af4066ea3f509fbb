"""
What is done to the units of a queue, each step until it is over.
"""

import os

from debian_box import wait_until
from queue_in_box import DAEMON, RUNNER, WAIT_S, QueueInBox

from queuectld.runner.process import exit_status


def kill_daemon(queue: QueueInBox) -> None:
    """
    SIGKILL; the next daemon serves.
    """
    before = queue.main_pid(DAEMON)
    queue.kill(DAEMON, "--signal=KILL")
    queue.wait_for_other_main_pid(DAEMON, before)


def kill_runner(queue: QueueInBox) -> None:
    """
    SIGKILL; the next runner has adopted the jobs.
    """
    before = queue.main_pid(RUNNER)
    queue.kill(RUNNER, "--kill-whom=main", "--signal=KILL")
    queue.wait_for_other_main_pid(RUNNER, before)


def reload_runner(queue: QueueInBox) -> None:
    """
    The runner has executed its program anew, in the same process.
    """
    pid = queue.main_pid(RUNNER)

    def program() -> str:
        # Holds addresses that each execve(2) chooses at random.
        return queue.box.shell(f"od -An -tx8 /proc/{pid}/auxv")

    before = program()
    queue.systemctl("reload", RUNNER)
    wait_until(lambda: program() != before, WAIT_S, "the runner has executed its program")
    assert pid == queue.main_pid(RUNNER)


def kernel_tells_afterwards() -> bool:
    """
    Whether PIDFD_GET_INFO answers for a process that was reaped. The kernel is the box's too.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        return exit_status(pidfd) is not None
    except OSError:
        return False
    finally:
        os.close(pidfd)
