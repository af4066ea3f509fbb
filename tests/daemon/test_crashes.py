"""
kill -9 at any moment: nothing acknowledged is lost, no attempt runs twice, running jobs go on.

Random moments come from a seed, which is printed; QUEUECTL_SEED replays it.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from daemon_process import DaemonProcess, alive, processes_of, wait_until

from queuectl.client import Client
from queuectl.environment import pack_variables
from queuectl.errors import QueuectlError
from queuectl.protocol import (
    Config,
    Enqueue,
    Enqueued,
    JobDetail,
    Jobs,
    JobSpec,
    List,
    SetConfig,
    Show,
)
from queuectl.views import FINISHED_STATES

SEED = int(os.environ.get("QUEUECTL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ROUNDS = 20
#: How the jobs go on after they left their mark.
ENDINGS = ["", "", "", "; sleep 0.05", "; sleep 0.2", "; test $QUEUECTL_ATTEMPT -ge 2", "; exit 9"]


class Submitter(threading.Thread):
    """
    Enqueues jobs until stopped, each request again and again with the same request id until it is
    answered. `acknowledged` are the ids of the jobs by their token.
    """

    def __init__(self, daemon: DaemonProcess, seed: int, name: str) -> None:
        super().__init__(name=name)
        self.daemon_process = daemon
        self.random = random.Random(seed)
        self.acknowledged: dict[str, str] = {}
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._serial = 0

    def run(self) -> None:
        try:
            # At most as much as the slots can keep up with.
            while not self.stopping.wait(0.05):
                self._submit()
        except BaseException as error:
            self.failure = error

    def _submit(self) -> None:
        tokens = [f"{self.name}-{self._serial + n}" for n in range(self.random.randrange(1, 6))]
        self._serial += len(tokens)
        marks = f"{self.daemon_process.directory}/marks"
        jobs = []
        for token in tokens:
            # One line, one write, whatever else is written at the same time.
            mark = f"echo {token}.$QUEUECTL_ATTEMPT >> {marks}"
            after = self.random.choice(ENDINGS)
            jobs.append(JobSpec(command=mark + after, max_retries=1))
        request = Enqueue(
            call=1, jobs=jobs, env=pack_variables({"PATH": os.defpath}), request_id=tokens[0]
        )
        while True:
            try:
                with Client(self.daemon_process.socket) as client:
                    ids = client.call(request, Enqueued, timeout_ms=20_000).ids
            except QueuectlError:
                if self.stopping.wait(0.01):
                    return
            else:
                self.acknowledged.update(
                    (token, job_id)
                    for token, job_id in zip(tokens, ids, strict=True)
                    if job_id is not None
                )
                return


def let_some_time_pass(chance: random.Random) -> None:
    """
    Nothing is waited for here: that the kill may come at any moment is what is tested.
    """
    time.sleep(chance.random() * 0.15)


def configure(daemon: DaemonProcess) -> None:
    with Client(daemon.socket) as client:
        client.call(SetConfig(key="workers", value=12), Config)
        client.call(SetConfig(key="backoff_max", value=20), Config)


def all_details(daemon: DaemonProcess) -> list[JobDetail]:
    """
    Return every job there is, once all have finished.
    """

    def unfinished() -> dict[str, int]:
        counts = daemon.status().jobs
        return {each: n for each, n in counts.items() if n and each not in FINISHED_STATES}

    wait_until(lambda: not unfinished(), 40, f"all jobs have finished ({unfinished()} at first)")
    with Client(daemon.socket) as client:
        page = client.call(List(limit=1000), Jobs)
        views = list(page.jobs)
        while page.next_before is not None:
            page = client.call(List(limit=1000, before_number=page.next_before), Jobs)
            views += page.jobs
        return [client.call(Show(id=view.id), JobDetail) for view in views]


def check_history(
    daemon: DaemonProcess, details: list[JobDetail], acknowledged: dict[str, str], *, exact: bool
) -> None:
    """
    Compare what the daemon remembers with what the jobs themselves wrote down.
    """
    with open(f"{daemon.directory}/marks", encoding="ascii") as file:
        marks = Counter(file.read().split())
    assert {mark: count for mark, count in marks.items() if count > 1} == {}
    by_id = {detail.job.id: detail for detail in details}
    assert len(by_id) == len(details)
    for token, job_id in acknowledged.items():
        assert job_id in by_id, f"{token} was acknowledged as job {job_id} and is lost"
        assert f"echo {token}." in by_id[job_id].job.command
    tokens = [detail.job.command.split()[1].partition(".")[0] for detail in details]
    assert [token for token, count in Counter(tokens).items() if count > 1] == []
    for token, detail in zip(tokens, details, strict=True):
        attempts = [run.attempt for run in detail.runs]
        assert attempts == list(range(1, len(attempts) + 1))
        for run in detail.runs:
            ends = ("exited",) if exact else ("exited", "lost")
            assert run.end in ends, (token, run)
            if run.end == "exited":
                assert marks[f"{token}.{run.attempt}"] == 1, (token, run)
                assert run.exit_code == expected_code(detail.job.command, run.attempt), (token, run)
    assert sum(marks.values()) <= sum(len(detail.runs) for detail in details)


def expected_code(command: str, attempt: int) -> int:
    if command.endswith("exit 9"):
        return 9
    return 1 if command.endswith("-ge 2") and attempt < 2 else 0


@pytest.mark.parametrize("victim", ["daemon", "runner", "both"])
def test_kills_under_load(daemon: DaemonProcess, victim: str) -> None:
    """
    Whoever dies at whatever moment: every acknowledged job is there, once; each attempt ran at most
    once; how an attempt ended is what it said, or `lost`, never a guess. When only the daemon
    dies nothing is lost at all.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    configure(daemon)
    submitters = [Submitter(daemon, chance.randrange(1 << 32), f"s{n}") for n in range(2)]
    for submitter in submitters:
        submitter.start()
    try:
        for _ in range(ROUNDS if victim == "daemon" else ROUNDS // 4):
            runner_pid = daemon.runner_pid if victim != "daemon" else 0
            let_some_time_pass(chance)
            if victim in ("runner", "both"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(runner_pid, signal.SIGKILL)
            if victim in ("daemon", "both"):
                daemon.kill()
                daemon.start()
    finally:
        for submitter in submitters:
            submitter.stopping.set()
        for submitter in submitters:
            submitter.join()
    assert [submitter.failure for submitter in submitters] == [None, None]
    acknowledged: dict[str, str] = {}
    for submitter in submitters:
        acknowledged.update(submitter.acknowledged)
    assert len(acknowledged) > 20
    check_history(daemon, all_details(daemon), acknowledged, exact=victim == "daemon")
    daemon.restart()
    check_history(daemon, all_details(daemon), acknowledged, exact=victim == "daemon")


def test_a_running_job_outlives_a_killed_daemon(daemon: DaemonProcess) -> None:
    """
    It goes on without a daemon; the next one has its true exit code, output and usage.
    """
    gate = f"{daemon.directory}/gate"
    before, after = daemon.enqueue(
        f"until test -e {gate}; do sleep 0.01; done; echo late; exit 5",
        f"until test -e {gate}.2; do sleep 0.01; done; exit 6",
        max_retries=0,
    )
    pids = [daemon.pid_of(before), daemon.pid_of(after)]
    daemon.kill()
    with open(gate, "w", encoding="ascii"):
        pass
    wait_until(lambda: not alive(pids[0]))
    assert alive(pids[1])
    daemon.start()
    detail = daemon.wait_for(before, "dead")
    assert [(run.end, run.exit_code) for run in detail.runs] == [("exited", 5)]
    assert detail.runs[0].memory_max_bytes
    assert daemon.output(before) == b"late\n"
    assert daemon.pid_of(after) == pids[1]
    with open(f"{gate}.2", "w", encoding="ascii"):
        pass
    assert daemon.wait_for(after, "dead").runs[0].exit_code == 6


def test_a_running_job_outlives_a_killed_runner(daemon: DaemonProcess) -> None:
    """
    A new runner adopts it. Its end is known where the kernel can tell, else it is lost: what it is
    not is guessed.
    """
    gate = f"{daemon.directory}/gate"
    (job_id,) = daemon.enqueue(
        f"until test -e {gate}; do sleep 0.01; done; exit 5", max_retries=0, on_lost="dead"
    )
    pid = daemon.pid_of(job_id)
    runner = daemon.runner_pid
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: daemon.runner_pid != runner)
    assert alive(pid)
    assert daemon.pid_of(job_id) == pid
    with open(gate, "w", encoding="ascii"):
        pass
    (run,) = daemon.wait_for(job_id, "dead").runs
    assert (run.end, run.exit_code) in (("exited", 5), ("lost", None))
    # The dead runner was the daemon's child, and must not stay as a zombie.
    assert not os.path.exists(f"/proc/{runner}")


def test_what_ended_unseen_is_lost(daemon: DaemonProcess) -> None:
    """
    Runner and job die while nobody looks: the attempt is lost, and the job's policy says what
    becomes of it.
    """
    with Client(daemon.socket) as client:
        client.call(SetConfig(key="backoff_max", value=20), Config)
        client.call(SetConfig(key="workers", value=3), Config)
    command = "test $QUEUECTL_ATTEMPT = 2 || exec sleep 1000"
    retried, dead, held = (
        daemon.enqueue(command, on_lost=policy)[0] for policy in ("retry", "dead", "hold")
    )
    pids = [daemon.pid_of(job_id) for job_id in (retried, dead, held)]
    runner = daemon.runner_pid
    daemon.kill()
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not alive(runner))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)))
    os.unlink(f"{daemon.state_dir}/runner/ledger")
    daemon.start()
    assert [run.end for run in daemon.wait_for(retried, "completed").runs] == ["lost", "exited"]
    assert [run.end for run in daemon.wait_for(dead, "dead").runs] == ["lost"]
    assert [run.end for run in daemon.wait_for(held, "held").runs] == ["lost"]


def test_a_lost_ledger_starts_nothing_twice(daemon: DaemonProcess) -> None:
    """
    The runner is killed and its ledger is gone, while the job runs: the next runner knows nothing
    of it, and that is no proof that it never began.
    """
    marks = f"{daemon.directory}/marks"
    (job_id,) = daemon.enqueue(
        f"echo $QUEUECTL_ATTEMPT >> {marks}; exec sleep 1000", on_lost="dead"
    )
    daemon.pid_of(job_id)
    wait_until(lambda: os.path.exists(marks) and os.path.getsize(marks))
    runner = daemon.runner_pid
    os.unlink(f"{daemon.state_dir}/runner/ledger")
    os.kill(runner, signal.SIGKILL)
    assert [run.end for run in daemon.wait_for(job_id, "dead").runs] == ["lost"]
    with open(marks, encoding="ascii") as file:
        assert file.read() == "1\n"


def test_a_stop_that_the_daemon_did_not_live_to_see_is_carried_out(
    daemons: Callable[..., DaemonProcess],
) -> None:
    """
    A timeout that passed while there was no daemon ends the attempt at the next start.
    """
    daemon = daemons().start()
    (job_id,) = daemon.enqueue("sleep 1000", timeout_ms=300, kill_after_ms=100, max_retries=0)
    pid = daemon.pid_of(job_id)
    due_at = daemon.show(job_id).runs[0].started_at + 300
    daemon.kill()
    # There is nobody whom one could ask whether it has passed but the clock.
    wait_until(lambda: time.time() * 1000 > due_at + 100)
    assert alive(pid)
    daemon.start()
    assert daemon.wait_for(job_id, "dead").runs[0].end == "timeout"
    assert not alive(pid)
    assert len(processes_of(daemon.directory)) == 2
