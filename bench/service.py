"""
The things a benchmark needs around it: a place on disk, a daemon, C peers. All of it is gone when
the `with` block ends, and every process is ended by a descriptor of its own (pidfd), so nothing
else can be hit.
"""

import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from queuectl.client import Client
from queuectl.protocol import StartWorkers, Status, StatusReport, StopWorkers, Workers
from queuectld.runtime.output import BUCKET_JOBS, OutputStore

ROOT = Path(__file__).resolve().parent.parent
# What is given to anything that should start or end by itself.
PATIENCE_S = 120
# Of how many places on disk those of the output are chosen.
PLACES = 1024


def rss_bytes(pid: int) -> int:
    """
    Return the resident memory of a process.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class Place:
    """
    A new folder below *parent*, which must be on a disk, and how much work is asked for: *scale*
    times the counts of the targets, *rounds* times each.
    """

    def __init__(self, parent: Path, scale: float, rounds: int) -> None:
        self.scale = scale
        self.rounds = rounds
        self.path = Path(tempfile.mkdtemp(prefix="queuectl-bench-", dir=parent))
        # Elsewhere: a socket's path must fit into 107 bytes, and it is no matter of the disk.
        self._sockets = tempfile.TemporaryDirectory()
        self._socket_count = 0

    def count(self, full: int) -> int:
        """
        Return how many to do where the target speaks of *full*.
        """
        return max(int(full * self.scale), 2)

    def folder(self, name: str) -> Path:
        """
        Return a new folder, private to us.
        """
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.path))

    def socket(self) -> str:
        """
        Return a path for a new socket.
        """
        self._socket_count += 1
        return f"{self._sockets.name}/{self._socket_count}"

    def compile(self, name: str, source: Path | None = None, *options: str) -> str:
        """
        Return the path of the program that *source* becomes, which is bench/<name>.c if not given.
        """
        program = self.path / name
        if not program.exists():
            source = source or Path(__file__).with_name(f"{name}.c")
            subprocess.run(["gcc", "-O2", *options, "-o", program, source], check=True)
        return str(program)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.cleanup()
        shutil.rmtree(self.path)


class Service:
    """
    A daemon of this checkout with *slots* slots, on a new state directory. stop() and
    start() make another one on the same state. *options* and *environment* are the daemon's.
    """

    def __init__(
        self,
        place: Place,
        slots: int,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = place.folder("state")
        self.socket = place.socket()
        command = [sys.executable, "-P", "-m", "queuectld", "--state-dir", str(self.folder / "q")]
        self._command = [*command, "--socket", self.socket, *options]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        #: From the start of the process until it served.
        self.start_s = 0.0
        self.start()
        with self.client() as client:
            client.call(StopWorkers(), Workers)
            if slots:
                client.call(StartWorkers(count=slots), Workers)

    def client(self) -> Client:
        """
        Return a new connection.
        """
        return Client(self.socket)

    def rss_bytes(self) -> int:
        """
        Return the daemon's resident memory.
        """
        return rss_bytes(self._daemon.pid)

    @property
    def processor_s(self) -> float:
        """
        The processor time that the daemon has had.
        """
        stat = Path(f"/proc/{self._daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def journal(self) -> str:
        """
        The directory of the journal.
        """
        return str(self.folder / "q" / "journal")

    def spread_output(self, job_count: int) -> None:
        """
        Make the folders for the output of the first *job_count* jobs, each at a place of its own.

        ext4 gives a folder the place that has the fewest, and that is where one was just deleted:
        those of the run before, so that its files would cost time (README, "What to know when
        reading it"). So more are made than needed, and which of them are used is left to chance.
        """
        store = OutputStore(str(self.folder / "q" / "output"))
        numbers = range(0, job_count + 1, BUCKET_JOBS)
        folders = [os.path.dirname(store.path(number, 1)) for number in numbers]
        output = os.path.dirname(folders[0])
        places = [f"{output}/{number}.place" for number in range(max(PLACES, len(folders)))]
        for place in places:
            os.mkdir(place, mode=0o700)
        random.shuffle(places)
        for folder in folders:
            os.rename(places.pop(), folder)
        for place in places:
            os.rmdir(place)

    def start(self) -> None:
        """
        Start a daemon on the state that is there; return when it serves.
        """
        reader, writer = os.pipe()
        begin = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*self._command, "--ready-fd", str(writer)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(writer,),
            )
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            said = answer.readline()
        self.start_s = time.monotonic() - begin
        if said != b"ready\n":
            self._daemon.wait(PATIENCE_S)
            raise RuntimeError(f"the daemon did not start: {said.decode()}")
        self.watch_runner()

    def activate(self, listening: socket.socket) -> None:
        """
        Start a daemon as systemd does for a socket with clients; return at once. watch_runner()
        must follow.
        """
        # The shell has the pid that the daemon will have, and the socket as its input.
        script = 'exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", *self._command],
                env=self._environment,
                stdin=listening,
                stderr=log,
            )

    def watch_runner(self) -> None:
        """
        Wait until the daemon has its runner, which ends with it.
        """
        deadline = time.monotonic() + PATIENCE_S
        with self.client() as client:
            while time.monotonic() < deadline:
                runner = client.call(Status(), StatusReport).runner
                if runner is not None:
                    self._runner_fd = os.pidfd_open(runner.pid)
                    return
                time.sleep(0.01)
        raise RuntimeError("the runner did not start")

    def stop(self) -> None:
        """
        End the daemon and its runner. The state stays.
        """
        self._daemon.terminate()
        self._daemon.wait(PATIENCE_S)
        try:
            signal.pidfd_send_signal(self._runner_fd, signal.SIGTERM)
        except ProcessLookupError:
            pass  # It left by itself: nobody needed it any more.
        ended, _, _ = select.select([self._runner_fd], [], [], PATIENCE_S)
        os.close(self._runner_fd)
        if not ended:
            raise RuntimeError("the runner did not end")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
