"""
Jobs of another account: what the change of user costs, through a whole daemon in system mode.

Two daemons take turns: one of a single account, as in `drain`, and one whose runner is root and
whose jobs are another account's, once with an empty queue and once with a million more jobs in it.
Only root can start such jobs.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, Target, take_turns
from bench.runs import drain_per_s
from bench.service import PATIENCE_S, ROOT, Place, Service
from queuectl.client import Client
from queuectl.protocol import JobSpec

#: An account that every Linux host has and nobody uses, given jobs by name.
ACCOUNT = "daemon"
JOBS_PER_REQUEST = 1_000


def measure(place: Place) -> list[Row]:
    """
    Measure jobs a second, those of another account beside those of the runner's own.
    """
    if os.geteuid() != 0:
        sys.stderr.write("accounts: skipped: only root can start jobs of other accounts\n")
        return []
    count, queued_count = place.count(2_000), place.count(1_000_000)
    name = f"drain of {count:,} jobs of another account"
    target = Target(">=", 0.6, "ratio")
    rows = []
    with (
        Service(place, slots=0) as own,
        SystemService(place) as system,
        own.client() as admin,
        system.client() as other_admin,
        system.member() as other,
    ):
        for service in (own, system):
            service.spread_output(queued_count + 2 * place.rounds * count)
        for queued in ("none queued", f"{queued_count:,} queued"):
            ours, peer = take_turns(
                place.rounds,
                lambda: drain_per_s(other_admin, count, other),
                lambda: drain_per_s(admin, count),
            )
            row = Row(f"{name}, {queued}", ours, "/s", peer, "own account, none queued", target)
            rows.append(row)
            if len(rows) == 1:
                fill(other, queued_count)
    return rows


def fill(client: Client, count: int) -> None:
    """
    Queue jobs that come after those that are measured.
    """
    for first in range(0, count, JOBS_PER_REQUEST):
        size = min(JOBS_PER_REQUEST, count - first)
        client.enqueue([JobSpec(command="true", priority=-10)] * size, cwd="/")


class SystemService(Service):
    """
    A daemon in system mode, with a runner that starts the jobs of ACCOUNT.
    """

    def __init__(self, place: Place) -> None:
        source = ROOT / "queuectld/runner/executor.c"
        compiled = place.compile("executor", source, "-static")
        # What the runner trusts must lie where only root can write, up to the root.
        self._trusted = Path(tempfile.mkdtemp(prefix="queuectl-bench-", dir="/var/lib"))
        policy = self._trusted / "policy"
        policy.write_text(f'allow_users = ["{ACCOUNT}"]\n')
        policy.chmod(0o600)
        # One account is to have all the jobs.
        limits = 'user_queued_max = 2000000\nuser_bytes_max = "4G"\n'
        (self._trusted / "queuectld.toml").write_text(limits)
        executor = shutil.copy2(compiled, self._trusted)
        os.chmod(executor, 0o700)
        command = [sys.executable, "-P", "-m", "queuectld.runner.main", "--stay"]
        command += ["--dir", str(self._trusted / "run"), "--policy", str(policy)]
        # The daemon is root here as well: the interpreter may lie where nobody else can read.
        command += ["--daemon-user", "root", "--executor", str(executor)]
        self._runner = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        options = ("--system", "--config-dir", str(self._trusted))
        runner = {"QUEUECTL_RUNNER_DIR": str(self._trusted / "run")}
        try:
            super().__init__(place, slots=0, options=options, environment=runner)
        except BaseException:
            self._runner.terminate()
            self._end()
            raise

    def member(self, account: str = ACCOUNT) -> Client:
        """
        Return a connection of an account's: what counts is who made it.
        """
        folder = Path(self.socket).parent
        folder.chmod(0o711)
        os.chmod(self.socket, 0o666)
        with _acting_as(pwd.getpwnam(account).pw_uid):
            return self.client()

    def stop(self) -> None:
        """
        End all three, and what was made for them.
        """
        super().stop()
        self._end()

    def _end(self) -> None:
        self._runner.wait(PATIENCE_S)
        shutil.rmtree(self._trusted)


@contextlib.contextmanager
def _acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
