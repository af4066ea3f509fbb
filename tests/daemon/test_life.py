"""
Jobs from enqueue to their end, in a real daemon with real processes.
"""

import os
import signal
from collections.abc import Callable

import pytest
from daemon_process import DaemonProcess, alive, processes_of, wait_until

from queuectl.client import Client
from queuectl.errors import RequestRefused
from queuectl.protocol import (
    Act,
    Acted,
    Config,
    Jobs,
    JobSpec,
    List,
    Selection,
    SetConfig,
    StartWorkers,
    StopWorkers,
    Wait,
    Waited,
    Workers,
)

FAST = {"backoff_max": 20}


def configure(daemon: DaemonProcess, **settings: object) -> None:
    with Client(daemon.socket) as client:
        for key, value in settings.items():
            client.call(SetConfig(key=key, value=value), Config)  # type: ignore[arg-type]


def act(daemon: DaemonProcess, action: str, *ids: str) -> Acted:
    with Client(daemon.socket) as client:
        request = Act(action=action, select=Selection(ids=list(ids)))  # type: ignore[arg-type]
        return client.call(request, Acted)


def pid_in(path: str) -> int:
    def written() -> int:
        try:
            with open(path, encoding="ascii") as file:
                text = file.read()
        except FileNotFoundError:
            return 0
        return int(text) if text.endswith("\n") else 0

    return wait_until(written, what=f"a pid in {path}")


def test_a_job_runs_and_its_output_is_kept(daemon: DaemonProcess) -> None:
    """
    A job that exits 0 is completed; its output, exit code and times are there, in order.
    """
    (job_id,) = daemon.enqueue("echo out; echo err >&2; echo $QUEUECTL_JOB_ID.$QUEUECTL_ATTEMPT")
    detail = daemon.wait_for(job_id)
    assert detail.job.state == "completed"
    assert detail.job.exit_code == 0
    (run,) = detail.runs
    assert (run.end, run.exit_code, run.signal) == ("exited", 0, None)
    assert run.ended_at is not None
    assert detail.job.created_at <= run.started_at <= run.ended_at
    assert run.memory_max_bytes
    assert daemon.output(job_id) == f"out\nerr\n{job_id}.1\n".encode()


def test_a_job_gets_its_surroundings(daemon: DaemonProcess) -> None:
    """
    Directory, umask, environment and slot are what was asked for; stdin is /dev/null; the job
    leads its own session.
    """
    spec = JobSpec(
        command="pwd; umask; echo $A $QUEUECTL_QUEUE $QUEUECTL_SLOT; cat; "
        "test $(ps -o sid= -p $$) -eq $$ && echo leader",
        cwd="/usr",
        env={"A": "b c"},
        queue="other",
    )
    (job_id,) = daemon.enqueue(spec)
    assert daemon.wait_for(job_id).job.state == "completed"
    lines = daemon.output(job_id).decode().splitlines()
    assert lines[0] == "/usr"
    assert int(lines[1], 8) == own_umask()
    assert lines[2].rsplit(" ", 1)[0] == "b c other"
    assert lines[3:] == ["leader"]


def own_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def test_the_best_job_starts_first(daemon: DaemonProcess) -> None:
    """
    Pending jobs start by priority, larger first, and in the order of enqueue within one.
    """
    configure(daemon, workers=1)
    gate = f"{daemon.directory}/gate"
    order = f"{daemon.directory}/order"
    daemon.enqueue(f"until test -e {gate}; do sleep 0.01; done")
    jobs = [
        JobSpec(command=f"echo {name} >> {order}", priority=priority)
        for name, priority in (("a", 0), ("b", 10), ("c", -10), ("d", 10), ("e", 0))
    ]
    ids = daemon.enqueue(*jobs)
    with open(gate, "w", encoding="ascii"):
        pass
    for job_id in ids:
        daemon.wait_for(job_id)
    with open(order, encoding="ascii") as file:
        assert file.read().split() == ["b", "d", "a", "e", "c"]


def test_as_many_jobs_run_at_once_as_there_are_slots(daemon: DaemonProcess) -> None:
    """
    With three slots three jobs run together, each in a slot of its own, and no fourth.
    """
    configure(daemon, workers=3)
    gate = f"{daemon.directory}/gate"
    ids = daemon.enqueue(*[f"until test -e {gate}; do sleep 0.01; done"] * 4)
    for job_id in ids[:3]:
        daemon.wait_for(job_id, "processing")
    report = daemon.status()
    assert report.jobs["processing"] == 3
    assert sorted(worker.slot for worker in report.workers if worker.job) == [1, 2, 3]
    assert daemon.state(ids[3]) == "pending"
    with open(gate, "w", encoding="ascii"):
        pass
    assert daemon.wait_for(ids[3]).job.state == "completed"


def test_a_failing_job_is_retried_and_then_dead(daemon: DaemonProcess) -> None:
    """
    max_retries counts the attempts after the first; then the job is in the dead letter queue, and
    a retry by hand gives it a fresh budget and keeps its history.
    """
    configure(daemon, **FAST)
    (job_id,) = daemon.enqueue("echo try $QUEUECTL_ATTEMPT; exit 3", max_retries=2)
    detail = daemon.wait_for(job_id, "dead")
    assert [run.exit_code for run in detail.runs] == [3, 3, 3]
    assert daemon.status().dlq == 1
    assert daemon.output(job_id, attempt=2) == b"try 2\n"
    assert act(daemon, "retry", job_id).ids == [job_id]
    detail = wait_until(
        lambda: (each := daemon.wait_for(job_id, "dead")) and len(each.runs) == 6 and each
    )
    assert [run.attempt for run in detail.runs] == [1, 2, 3, 4, 5, 6]


def test_a_job_that_succeeds_on_its_second_attempt_is_completed(daemon: DaemonProcess) -> None:
    """
    A retry can succeed; what is followed goes from one attempt to the next.
    """
    configure(daemon, **FAST)
    (job_id,) = daemon.enqueue("echo $QUEUECTL_ATTEMPT; test $QUEUECTL_ATTEMPT = 2")
    assert daemon.output(job_id, follow=True) == b"1\n2\n"
    assert daemon.state(job_id) == "completed"


def test_a_command_that_does_not_exist_says_so(daemon: DaemonProcess) -> None:
    """
    A shell's 127 is an exit code; an argv that cannot be executed could not start, with 127 too.
    """
    shell, argv, directory = daemon.enqueue(
        JobSpec(command="no-such-command-anywhere", max_retries=0),
        JobSpec(argv=["no-such-command-anywhere"], max_retries=0),
        JobSpec(argv=["true"], cwd="/no/such/directory", max_retries=0),
    )
    (run,) = daemon.wait_for(shell, "dead").runs
    assert (run.end, run.exit_code) == ("exited", 127)
    (run,) = daemon.wait_for(argv, "dead").runs
    assert (run.end, run.exit_code) == ("could_not_start", 127)
    assert run.error is not None
    assert "no-such-command-anywhere" in run.error
    (run,) = daemon.wait_for(directory, "dead").runs
    assert run.error is not None
    assert "/no/such/directory" in run.error


def test_a_script_runs_with_its_parameters(daemon: DaemonProcess) -> None:
    """
    A script's text is stored with the job and run by its first line, however large it is.
    """
    filler = "# " + "x" * 100_000 + "\n"
    small, large = daemon.enqueue(
        JobSpec(script="#!/bin/sh\necho $1-$2\n", argv=["a", "b"]),
        JobSpec(script="#!/bin/sh\n" + filler + "echo $1\n", argv=["c"]),
    )
    assert daemon.wait_for(small).job.state == "completed"
    assert daemon.output(small) == b"a-b\n"
    assert daemon.wait_for(large).job.state == "completed"
    assert daemon.output(large) == b"c\n"


@pytest.mark.parametrize("why", ["timeout", "cancel"])
def test_a_stopped_job_goes_with_its_whole_tree(daemon: DaemonProcess, why: str) -> None:
    """
    SIGTERM to the whole tree, and after the grace time SIGKILL to whoever ignores it.
    """
    pid_file = f"{daemon.directory}/pid"
    command = (
        f"sh -c 'trap \"\" TERM; echo $$ > {pid_file}; while :; do sleep 0.05; done' & "
        "trap 'exit 7' TERM; while :; do sleep 0.05; done"
    )
    timeout_ms = 500 if why == "timeout" else None
    (job_id,) = daemon.enqueue(command, timeout_ms=timeout_ms, kill_after_ms=300, max_retries=0)
    grandchild = pid_in(pid_file)
    assert alive(grandchild)
    if why == "cancel":
        assert act(daemon, "cancel", job_id).ids == [job_id]
    detail = daemon.wait_for(job_id)
    assert not alive(grandchild)
    (run,) = detail.runs
    assert detail.job.state == {"timeout": "dead", "cancel": "cancelled"}[why]
    assert run.end == {"timeout": "timeout", "cancel": "cancelled"}[why]


def test_a_job_that_dies_of_a_signal_says_which(daemon: DaemonProcess) -> None:
    """
    Exit code and signal are two fields.
    """
    (job_id,) = daemon.enqueue("kill -9 $$", max_retries=0)
    (run,) = daemon.wait_for(job_id, "dead").runs
    assert (run.end, run.exit_code, run.signal) == ("signalled", None, signal.SIGKILL)


def test_held_jobs_wait_for_their_release(daemon: DaemonProcess) -> None:
    """
    A held job does not start; cancelling one that has not run leaves it without attempts.
    """
    held, other = daemon.enqueue("echo ran", "echo never", hold=True)
    (after,) = daemon.enqueue("true")
    daemon.wait_for(after)
    assert daemon.state(held) == "held"
    act(daemon, "release", held)
    act(daemon, "cancel", other)
    assert daemon.wait_for(held).job.state == "completed"
    assert daemon.wait_for(other).job.state == "cancelled"
    assert daemon.show(other).runs == []
    refused = act(daemon, "hold", held)
    assert [error.code for error in refused.errors] == ["conflict"]


def test_a_delayed_job_starts_when_it_is_due(daemon: DaemonProcess) -> None:
    """
    It is scheduled until then, never early.
    """
    (job_id,) = daemon.enqueue("true", delay_ms=300)
    detail = daemon.wait_for(job_id)
    assert detail.runs[0].started_at >= detail.job.created_at + 300


def test_workers_are_added_and_drained(daemon: DaemonProcess) -> None:
    """
    Draining lets running jobs finish; without workers nothing starts; cancelling ends them too.
    """
    gate = f"{daemon.directory}/gate"
    (running,) = daemon.enqueue(f"until test -e {gate}; do sleep 0.01; done")
    daemon.wait_for(running, "processing")
    with daemon.client() as client:
        workers = client.call(StopWorkers(), Workers)
        assert [worker.state for worker in workers.workers] == ["draining"]
        (waiting,) = daemon.enqueue("sleep 1000")
        with open(gate, "w", encoding="ascii"):
            pass
        assert daemon.wait_for(running).job.state == "completed"
        assert daemon.state(waiting) == "pending"
        assert daemon.status().workers == []
        assert len(client.call(StartWorkers(count=1), Workers).added) == 1
        daemon.wait_for(waiting, "processing")
        client.call(StopWorkers(cancel_running=True), Workers)
    assert daemon.wait_for(waiting).job.state == "cancelled"


def test_waits_are_answered_when_jobs_have_finished(daemon: DaemonProcess) -> None:
    """
    Any: when one has; all: when every one has. Thousands at once, in one answer.
    """
    configure(daemon, workers=2)
    gate = f"{daemon.directory}/gate"
    blocked = daemon.enqueue(f"until test -e {gate}; do sleep 0.01; done", priority=100)
    ids = daemon.enqueue(*["/bin/true"] * 300)
    held = daemon.enqueue(*["/bin/true"] * 3000, hold=True)
    with daemon.client() as every, daemon.client() as any_, daemon.client() as cancelled:
        every.send(Wait(ids=[*blocked, *ids]))
        any_.send(Wait(ids=[*blocked, ids[7], ids[9]], any=True))
        cancelled.send(Wait(ids=held))
        first = any_.receive(Waited, timeout_ms=30_000)
        assert (
            {("completed", ids[7]), ("completed", ids[9])}
            >= {(job.state, job.id) for job in first.jobs}
            != set()
        )
        with open(gate, "w", encoding="ascii"):
            pass
        states = {job.state for job in every.receive(Waited, timeout_ms=60_000).jobs}
        assert states == {"completed"}
        act(daemon, "cancel", f"{held[0]}-{held[-1]}")
        jobs = cancelled.receive(Waited, timeout_ms=30_000).jobs
        assert len(jobs) == len(held)
        with pytest.raises(RequestRefused, match="no job '999999'"):
            any_.call(Wait(ids=["999999"]), Waited)


def test_a_stopped_daemon_leaves_its_jobs_running(daemon: DaemonProcess) -> None:
    """
    SIGTERM: exit code 0, jobs go on, and how they ended is known after the next start.
    """
    gate = f"{daemon.directory}/gate"
    (job_id,) = daemon.enqueue(
        f"until test -e {gate}; do sleep 0.01; done; echo done; exit 5", max_retries=0
    )
    pid = daemon.pid_of(job_id)
    assert daemon.stop() == 0
    assert alive(pid)
    assert not os.path.exists(daemon.socket)
    with open(gate, "w", encoding="ascii"):
        pass
    wait_until(lambda: not alive(pid))
    daemon.start()
    (run,) = daemon.wait_for(job_id, "dead").runs
    assert (run.end, run.exit_code) == ("exited", 5)
    assert daemon.output(job_id) == b"done\n"


def test_the_list_is_newest_first_and_pages(daemon: DaemonProcess) -> None:
    """
    Pages follow each other without a gap or a repeat.
    """
    ids = daemon.enqueue(*["true"] * 25, hold=True)
    seen: list[str] = []
    with daemon.client() as client:
        before = None
        while True:
            page = client.call(List(limit=10, before_number=before), Jobs)
            seen += [job.id for job in page.jobs]
            before = page.next_before
            if before is None:
                break
    assert seen == ids[::-1]


def test_nothing_of_a_stopped_daemon_stays(daemons: Callable[..., DaemonProcess]) -> None:
    """
    An idle daemon's runner leaves soon after it; no process and no socket is left.
    """
    daemon = daemons().start()
    (job_id,) = daemon.enqueue("true")
    daemon.wait_for(job_id)
    assert daemon.stop() == 0
    wait_until(lambda: not processes_of(daemon.directory), what="everything has gone")
    assert not os.path.exists(f"{daemon.state_dir}/runner/runner.sock")
