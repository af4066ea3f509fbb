"""
A runner is killed between the INTENT of an attempt and its STARTED. Whatever there is by then is
found by the next one, so that no attempt is called lost while its process goes on. The test process
stands in for init.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_accounts import POLICY, UID, USER, Leased, needs_root
from runner_client import DEADLINE_S, PATH, Client, Output, RunnerProcess, wait_until

from queuectld.runner import messages, process
from queuectld.runner.ledger import RECORD_BYTES

pytestmark = pytest.mark.usefixtures("reaper")

INTENT, STARTED = 2, 3
ENV = {"PATH": PATH, "QUEUECTL_JOB_ID": "backup", "QUEUECTL_ATTEMPT": "1"}
#: A runner whose ledger takes so many bytes of the first record of a kind, and kills it; or, where
#: they are less than 0, has no room for records of that kind.
DYING = """
import errno, os, signal, sys
from queuectld.runner import ledger, main

kind, size = int(sys.argv.pop(1)), int(sys.argv.pop(1))

class Dying(ledger.Files):
    def pwrite(self, fd, data, offset):
        if data[0] != kind:
            return super().pwrite(fd, data, offset)
        if size < 0:
            raise OSError(errno.ENOSPC, "no room")
        super().pwrite(fd, data[:size], offset)
        os.kill(os.getpid(), signal.SIGKILL)

ledger.Files = Dying
sys.exit(main.main())
"""


class Scene:
    """
    A place with a runner that makes processes in one way, and one job: its output, and a fifo by
    which it is held. `how` says whose it is.
    """

    def __init__(self, place: Path, options: list[str], how: dict[str, Any]) -> None:
        self.place = place
        self.options = options
        self.how = how
        self.output = Output(place / "output")
        self._fifo = place / "fifo"
        os.mkfifo(self._fifo)
        self._fifo.chmod(0o666)
        self._fifo_fd = -1

    @property
    def is_own(self) -> bool:
        return not self.how

    def runner(self) -> RunnerProcess:
        return RunnerProcess(self.place / "runner", *self.options)

    def start(self, client: Client, argv: list[str]) -> None:
        client.start(argv, self.output.fd, cwd=str(self.place), env=ENV, **self.how)

    def die(self, argv: list[str], kind: int, size: int) -> None:
        """
        Have a runner start the job and be killed at that place in its ledger.
        """

        class Dying(RunnerProcess):
            COMMAND = (sys.executable, "-c", DYING, str(kind), str(size))

        with Dying(self.place / "runner", *self.options) as runner:
            self.start(runner.greeted(), argv)
            if size >= 0:
                assert -signal.SIGKILL == runner.process.wait(DEADLINE_S)
            else:
                self.held()
                runner.kill()

    def held(self) -> None:
        """
        Wait until the job waits at the fifo.
        """

        def is_open() -> bool:
            try:
                self._fifo_fd = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return False
            return True

        wait_until(is_open, "the job to open its fifo")

    def let_go(self) -> None:
        if self._fifo_fd < 0:
            self.held()
        os.write(self._fifo_fd, b"\n")

    def close(self) -> None:
        """
        End what a failed test left behind: all that is ours by adoption.
        """
        for name in ("output", "fifo"):
            (self.place / name).unlink()
        if self._fifo_fd >= 0:
            os.close(self._fifo_fd)
        os.close(self.output.fd)
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
        for pid in map(int, children.split()):
            if os.getsid(pid) != os.getsid(0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@pytest.fixture(
    params=[
        "own",
        pytest.param("forked", marks=needs_root),
        pytest.param("executor", marks=needs_root),
    ]
)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    if request.param == "own":
        scene = Scene(tmp_path, [], {})
    else:
        folder = request.getfixturevalue("folder")
        (folder / "policy").write_text(POLICY)
        options = ["--policy", str(folder / "policy")]
        if request.param == "executor":
            options += ["--executor", request.getfixturevalue("executor")]
        scene = Scene(folder, options, {"uid": UID, "user": USER})
    yield scene
    scene.close()


def assert_lost(event: messages.Event) -> None:
    assert isinstance(event, messages.Exited)
    assert (1, 1, False, False) == (event.job, event.attempt, event.known, event.usage_known)


def assert_goes_on(scene: Scene, client: Client, event: messages.Event) -> messages.Exited:
    """
    The attempt is taken to run, and is not started again; its end, once it is let go.
    """
    assert isinstance(event, messages.Running)
    scene.start(client, ["true"])
    assert messages.Refused(1, 1, 17, messages.DUPLICATE) == client.refused()
    scene.let_go()
    assert (event.pid, 0x300) == os.waitpid(event.pid, 0)
    exited = client.exited()
    assert event.started_at == exited.started_at
    return exited


HELD = ["sh", "-c", "echo ran; read line < fifo; exit 3"]


@pytest.mark.parametrize("size", [0, 63, RECORD_BYTES])
def test_killed_before_there_is_a_process(scene: Scene, size: int):
    """
    Nothing ran, and nothing will: an intent that did not arrive is not told, one that did is lost.
    """
    scene.die(HELD, INTENT, size)
    with scene.runner() as runner:
        _, events = runner.meet(2)
        if size == RECORD_BYTES:
            assert_lost(*events)
        else:
            assert [] == events
    assert "" == scene.output.text


@pytest.mark.parametrize("size", [-1, 0, 1, 63])
def test_killed_before_its_process_is_written_down(scene: Scene, size: int):
    """
    Killed there, or later, when there was no room for it: the process goes on, every runner tells
    of it, it is not started again, and its end is not known, though the kernel may tell it.
    """
    scene.die(HELD, STARTED, size)
    with scene.runner() as runner:
        (running,) = runner.meet(2)[1]
        runner.kill()
    with scene.runner() as runner:
        client, events = runner.meet(2)
        assert [running] == events

        assert_lost(assert_goes_on(scene, client, running))
        client.send(messages.pack_ack(1, 1))
    assert "ran\n" == scene.output.text


def test_killed_once_its_process_is_written_down(scene: Scene):
    """
    That is enough: it is the process that was made.
    """
    scene.die(HELD, STARTED, RECORD_BYTES)
    with scene.runner() as runner:
        client, (running,) = runner.meet(2)
        exited = assert_goes_on(scene, client, running)

        # Whether it is known is for the kernel to say.
        assert 0x300 * exited.known == exited.status
    assert "ran\n" == scene.output.text


def test_one_that_ended_meanwhile_is_lost(scene: Scene):
    """
    With nobody to look there is no end to be told, and nothing that runs.
    """
    scene.die(["sh", "-c", "echo ran; exit 0"], STARTED, 0)
    wait_until(lambda: scene.output.text, "its output")
    os.wait()
    with scene.runner() as runner:
        assert_lost(*runner.meet(2)[1])
    assert "ran\n" == scene.output.text


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_found_is_stopped(scene: Scene, signo: int):
    """
    A cancel reaches it and its session.
    """
    scene.die(["sh", "-c", "sleep 1000 & read line < fifo"], STARTED, 0)
    scene.held()
    with scene.runner() as runner:
        client, (running,) = runner.meet(2)
        assert isinstance(running, messages.Running)
        assert 2 == len(process.living({running.pid}))
        client.send(messages.pack_signal(1, 1, signo))
        wait_until(lambda: [] == process.living({running.pid}), "their ends")
        os.waitpid(running.pid, 0)
        assert_lost(client.exited())


@pytest.mark.parametrize(
    ("code", "by"),
    [
        ("exec >/dev/null 2>&1; read line < fifo; exit 3", "variables"),
        ("exec 2>/dev/null env -i /bin/sh -c 'read line < fifo; exit 3'", "output"),
        ("exec >/dev/null env -i /bin/sh -c 'read line < fifo; exit 3'", "error output"),
    ],
)
def test_it_is_found_by_either_of_its_traces(scene: Scene, code: str, by: str):
    """
    One that gave itself other outputs, or other variables. Those of root's processes do not count:
    anybody can have a set-user-ID program started with them.
    """
    scene.die(["sh", "-c", code], STARTED, 0)
    scene.held()
    with scene.runner() as runner:
        client, (event,) = runner.meet(2)
        if by == "variables" and scene.is_own and os.geteuid() == 0:
            assert_lost(event)
        else:
            assert_lost(assert_goes_on(scene, client, event))


def test_one_that_is_no_program_yet_is_found(scene: Scene, request: pytest.FixtureRequest):
    """
    Its file does not open. Under another account it has left the runner behind, and is adopted as
    it is; under our own it still has the lock, and the next runner waits for it.
    """
    leased = Leased(scene.place / "slow", "#!/bin/sh\necho ran; read line < fifo; exit 3\n")
    request.addfinalizer(leased.release)
    if scene.is_own:
        with scene.runner() as runner:
            scene.start(runner.greeted(), [str(leased.path)])
            path = Path(f"/proc/{runner.process.pid}/task/{runner.process.pid}/children")
            made = int(wait_until(path.read_text, "a child"))
            runner.kill()
        directory_fd = os.open(scene.place / "runner", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(directory_fd)
        leased.release()
    else:
        scene.die([str(leased.path)], STARTED, 0)
    with scene.runner() as runner:
        client, (running,) = runner.meet(2)
        if scene.is_own:
            assert made == running.pid
        assert scene.is_own or "" == scene.output.text
        leased.release()
        assert_lost(assert_goes_on(scene, client, running))
    assert "ran\n" == scene.output.text


def test_what_it_left_behind_does_not_end_for_it(scene: Scene):
    """
    A job that ended, and left a process with a session of its own: nothing tells the two apart. The
    attempt lasts for as long as that, but its exit code is never the attempt's.
    """
    scene.die(["setsid", "-f", "sh", "-c", "read line < fifo; exit 3"], STARTED, 0)
    scene.held()
    assert (0, 0) != os.wait()
    with scene.runner() as runner:
        client, (running,) = runner.meet(2)
        assert_lost(assert_goes_on(scene, client, running))


def test_the_job_is_older_than_what_it_made(scene: Scene):
    """
    Of several that bear its traces the oldest is taken.
    """
    code = "echo $$; setsid -f sleep 1000; setsid -f sleep 1000; read line < fifo; exit 3"
    scene.die(["sh", "-c", code], STARTED, 0)
    scene.held()
    with scene.runner() as runner:
        client, (running,) = runner.meet(2)
        assert int(scene.output.text) == running.pid
        assert_lost(assert_goes_on(scene, client, running))
