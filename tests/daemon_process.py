"""
A real queuectld with its runner, in folders of its own, and everything it left behind at the end.

A process is recognised as ours by the state directory: in its command line (daemon, runner,
compactor) or as the place of its output (jobs). So it is ended by pid, whatever happened before.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import queuectl
from queuectl.client import Client
from queuectl.protocol import JobDetail, JobSpec, LogEnd, Logs, Output, Show, Status, StatusReport
from queuectl.views import FINISHED_STATES, JobState

T = TypeVar("T")

PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(queuectl.__file__)))
POLL_S = 0.01
DEADLINE_S = 20.0


def wait_until(condition: Callable[[], T], timeout_s: float = DEADLINE_S, what: str = "") -> T:
    """
    Return the first true value of *condition*, asked again and again.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            name = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{name}: not within {timeout_s} s; last seen: {found!r}")
        time.sleep(POLL_S)


def alive(pid: int) -> bool:
    """
    Whether a process runs; a zombie does not.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_of(directory: str) -> dict[int, str]:
    """
    Return pid -> command line of every process that works for the state in *directory*.
    """
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().decode(errors="replace").replace("\0", " ")
            ours = directory in command
            for fd in ("1", "2"):
                ours = ours or os.readlink(f"/proc/{pid}/fd/{fd}").startswith(directory)
            if ours and alive(int(pid)):
                found[int(pid)] = command
    return found


class DaemonProcess:
    """
    One state directory and the daemon that serves it, now or again.
    """

    def __init__(
        self,
        directory: str,
        *options: str,
        command: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        state_dir: str | None = None,
        socket: str | None = None,
    ) -> None:
        self.directory = directory
        self.state_dir = state_dir or f"{directory}/state"
        self.socket = socket or f"{directory}/q.sock"
        self.log_path = f"{directory}/daemon.log"
        self.options = options
        #: Put before the daemon's own command: strace, unshare, ...
        self.command = command
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": PACKAGES,
            "HOME": directory,
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": f"{directory}/run",
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    # --- life -------------------------------------------------------------------------------

    def launch(self, *options: str) -> str:
        """
        Start the daemon; return what it said about being ready: `ready`, or `error: ...`.
        """
        assert self.process is None
        reader, writer = os.pipe()
        command = [*self.command, sys.executable, "-P", "-m", "queuectld"]
        if "--ephemeral" not in (*self.options, *options):
            command += ["--state-dir", self.state_dir]
        command += ["--socket", self.socket, "--ready-fd", str(writer)]
        with open(self.log_path, "ab") as log, open(reader, "rb") as ready:
            self.process = subprocess.Popen(
                [*command, *self.options, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self.environment,
                pass_fds=(writer,),
            )
            os.close(writer)
            readable, _, _ = select.select([ready], [], [], DEADLINE_S)
            assert readable, f"not ready within {DEADLINE_S} s\n{self.log}"
            # Not to the end of file: a strace around the daemon holds the pipe open too.
            return ready.readline().decode().strip()

    def start(self, *options: str) -> "DaemonProcess":
        """
        Start the daemon, which must get ready.
        """
        said = self.launch(*options)
        assert said == "ready", f"{said}\n{self.log}"
        return self

    def wait(self) -> int:
        """
        Wait for the daemon's end; return its exit code.
        """
        assert self.process is not None
        process, self.process = self.process, None
        try:
            code = process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the daemon did not end\n{self.log}") from None
        self._close_clients()
        return code

    def stop(self) -> int:
        """
        SIGTERM; return the exit code.
        """
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """
        SIGKILL, at whatever moment this is.
        """
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self, *options: str) -> "DaemonProcess":
        """
        Stop it if it runs, and start it again.
        """
        if self.process is not None:
            assert self.stop() == 0, self.log
        return self.start(*options)

    def signal(self, signo: int) -> None:
        """
        Send a signal to the daemon.
        """
        os.kill(self.pid, signo)

    def clean_up(self) -> None:
        """
        End everything that works for this state directory. Called whatever happened before.
        """
        self._close_clients()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

        def gone() -> bool:
            found = processes_of(self.directory)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found

        wait_until(gone)

    # --- looking ----------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """
        The daemon's process id.
        """
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """
        What the daemon logged so far.
        """
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def rss_bytes(self) -> int:
        """
        How much memory the daemon holds.
        """
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def rss_peak_bytes(self) -> int:
        """
        How much memory the daemon held at most so far.
        """
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            (peak,) = [line for line in file if line.startswith("VmHWM:")]
        return int(peak.split()[1]) * 1024

    def client(self) -> Client:
        """
        Return a connection, closed at the latest with the daemon.
        """
        client = Client(self.socket)
        self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def status(self) -> StatusReport:
        """
        Ask the daemon how it is.
        """
        with Client(self.socket) as client:
            return client.call(Status(), StatusReport, timeout_ms=int(DEADLINE_S * 1000))

    @property
    def runner_pid(self) -> int:
        """
        The runner's process id, once the daemon is connected to it.
        """
        return wait_until(lambda: (runner := self.status().runner) and runner.pid)

    # --- jobs -------------------------------------------------------------------------------

    def enqueue(self, *jobs: str | JobSpec, **fields: Any) -> list[str]:
        """
        Make jobs, of a shell command each or as specified, all with *fields*; return their ids.
        """
        specs = [
            job if isinstance(job, JobSpec) else JobSpec(command=job, **fields) for job in jobs
        ]
        with Client(self.socket) as client:
            ids = client.enqueue(specs, env={"PATH": os.defpath}, cwd=self.directory).ids
        assert all(ids)
        return [job_id for job_id in ids if job_id is not None]

    def show(self, job_id: str) -> JobDetail:
        """
        Return all about a job.
        """
        with Client(self.socket) as client:
            return client.call(Show(id=job_id), JobDetail, timeout_ms=int(DEADLINE_S * 1000))

    def state(self, job_id: str) -> JobState:
        """
        Return a job's state.
        """
        return self.show(job_id).job.state

    def wait_for(self, job_id: str, *states: JobState) -> JobDetail:
        """
        Return a job once it is in one of *states*, or without any, once it has finished.
        """
        wanted = states or tuple(FINISHED_STATES)

        def reached() -> JobDetail | None:
            detail = self.show(job_id)
            return detail if detail.job.state in wanted else None

        return wait_until(reached, what=f"job {job_id} is one of {wanted}")

    def pid_of(self, job_id: str) -> int:
        """
        Return the process id of a job once its process is known.
        """
        return wait_until(lambda: self.show(job_id).job.pid, what=f"the pid of job {job_id}") or 0

    def output(self, job_id: str, *, attempt: int | None = None, **fields: Any) -> bytes:
        """
        Return a job's output as `logs` shows it.
        """
        request = Logs(id=job_id, attempt=attempt, **fields)
        with Client(self.socket) as client:
            parts = list(client.stream(request, Output, LogEnd))
        return b"".join(each.data for each in parts if isinstance(each, Output))
