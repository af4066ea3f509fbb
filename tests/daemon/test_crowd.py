"""
A crowd at the socket that says a byte a second and connects again and again, while somebody else is
served. How soon is for the benchmark of the same name to say.
"""

import os
import pwd
import select
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
from daemon_process import DEADLINE_S, DaemonProcess, wait_until
from raw_connection import Raw

from queuectl.client import Client
from queuectl.errors import RequestRefused
from queuectl.protocol import (
    JobDetail,
    JobSpec,
    LogEnd,
    Logs,
    Refused,
    Show,
    Status,
    StatusReport,
)
from queuectl.settings import SETTINGS
from queuectld.runtime.listening import OWN_DESCRIPTORS_MAX
from queuectld.runtime.quotas import CLIENTS_MAX
from queuectld.runtime.streams import USER_STREAMS_MAX

USER_CONNECTIONS_MAX = int(SETTINGS["user_connections_max"].default or 0)
ROOT = Path(__file__).resolve().parents[2]
SLOW_CLIENTS, CONNECTIONS_OF_ONE = 1_000, 2_000
# Seconds of the crowd that are watched.
REPORTS = 4
GROWTH_BYTES_MAX = 32 << 20

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: connects as other accounts")


class Crowd:
    """
    Slow clients of some accounts: see bench/slow_clients.py.
    """

    def __init__(self, path: str, count: int, *uids: int) -> None:
        command = [sys.executable, "-P", "-m", "bench.slow_clients", path, str(count)]
        self._process = subprocess.Popen(
            [*command, *map(str, uids)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.report_count = 0
        #: Connections that were refused or cut off.
        self.ended_count = 0

    def listen(self) -> None:
        """
        Take what it reports, if it does.
        """
        assert self._process.stdout is not None
        assert self._process.poll() is None
        while select.select([self._process.stdout], [], [], 0)[0]:
            words = self._process.stdout.readline().split()
            if len(words) == 2:
                self.report_count += 1
                self.ended_count = int(words[1])

    def ended(self) -> int:
        """
        How many connections were refused or cut off, as it last reported.
        """
        self.listen()
        return self.ended_count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=DEADLINE_S)


def connect_as(uid: int, path: str) -> Client:
    os.seteuid(uid)
    try:
        return Client(path)
    finally:
        os.seteuid(0)


def ask(client: Client) -> int:
    return client.call(Status(), StatusReport, timeout_ms=int(DEADLINE_S * 1000)).daemon.pid


def is_over_its_limit(uid: int, path: str) -> bool:
    """
    Whether one more connection of the account is refused for that.
    """
    os.seteuid(uid)
    try:
        late = Raw(path)
    finally:
        os.seteuid(0)
    refused = late.receive()
    late.close()
    assert isinstance(refused, Refused)
    return f"your account has {USER_CONNECTIONS_MAX} connections" in refused.message


@as_root
def test_another_user_is_served_in_a_crowd(machine: DaemonProcess) -> None:
    """
    A thousand slow clients of many accounts and two thousand connections of one: each status that
    another member asks for comes, over its connection and over new ones; the one account has no
    more than its connections, the daemon no more than all, and its memory does not grow by more
    than those may hold.
    """
    known = {each.pw_uid for each in pwd.getpwall()} - {0, 65534}
    honest, greedy, *slow = sorted(known)
    before_bytes = machine.rss_bytes()
    with (
        connect_as(honest, machine.socket) as kept,
        Crowd(machine.socket, SLOW_CLIENTS, *slow) as many,
        Crowd(machine.socket, CONNECTIONS_OF_ONE, greedy) as one,
    ):
        while min(many.report_count, one.report_count) < REPORTS:
            assert machine.pid == ask(kept)
            with connect_as(honest, machine.socket) as fresh:
                assert machine.pid == ask(fresh)
            many.listen()
            one.listen()
        descriptors = len(os.listdir(f"/proc/{machine.pid}/fd"))
        assert descriptors <= CLIENTS_MAX + OWN_DESCRIPTORS_MAX
        # Those that were cut off a moment ago are back within a second.
        wait_until(lambda: is_over_its_limit(greedy, machine.socket))
        # Each of them is told, and those that were let in are cut off in the middle of their hello.
        wait_until(lambda: one.ended() >= CONNECTIONS_OF_ONE - USER_CONNECTIONS_MAX)
        wait_until(lambda: many.ended() > 0)
        grown_bytes = machine.rss_bytes() - before_bytes
    assert grown_bytes < GROWTH_BYTES_MAX
    assert "Traceback" not in machine.log


@as_root
def test_one_account_does_not_read_all_output_at_once(machine: DaemonProcess) -> None:
    """
    Log streams hold descriptors: each account has a part of them, and admins what is left.
    """
    one, other = sorted({each.pw_uid for each in pwd.getpwall()} - {0, 65534})[:2]
    for uid, refused_count in ((one, 3), (other, 0), (0, 0)):
        count = 10 if uid == other else USER_STREAMS_MAX + 3
        with connect_as(uid, machine.socket) as client:
            (job_id,) = client.enqueue([JobSpec(command="true", hold=True)], cwd="/").ids
            assert job_id is not None
            calls = [client.send(Logs(id=job_id, follow=True)) for _ in range(count)]
            refusals = []
            for _ in range(refused_count):
                with pytest.raises(RequestRefused) as caught:
                    client.receive(LogEnd, timeout_ms=int(DEADLINE_S * 1000))
                refusals.append((caught.value.call, caught.value.code))
            assert [(call, "try_later") for call in calls[count - refused_count :]] == refusals
            # Nobody but those is refused: what comes next is the answer to this.
            assert client.call(Show(id=job_id), JobDetail).job.id == job_id


def test_who_is_connected_is_served_in_a_crowd_of_its_own(daemon: DaemonProcess) -> None:
    """
    In user mode there is one account. It can fill its own daemon with connections, and what is
    connected already goes on; when the crowd is gone there is room again.
    """
    before_bytes = daemon.rss_bytes()
    with daemon.client() as kept:
        with Crowd(daemon.socket, SLOW_CLIENTS, os.geteuid()) as crowd:
            while crowd.report_count < REPORTS:
                assert daemon.pid == ask(kept)
                crowd.listen()
            grown_bytes = daemon.rss_bytes() - before_bytes
        assert crowd.ended_count >= SLOW_CLIENTS - CLIENTS_MAX
        assert grown_bytes < GROWTH_BYTES_MAX
        assert daemon.pid == ask(kept)
    with daemon.client() as fresh:
        assert daemon.pid == ask(fresh)
    assert "Traceback" not in daemon.log
