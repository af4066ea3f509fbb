"""
`run`, `logs` and `wait`: watching jobs to their end, through retries and restarts of the daemon.
"""

import os
import re
import signal
import subprocess
from typing import Any

import msgspec
import pytest
from conftest import Outcome, Shell
from daemon_process import DEADLINE_S
from daemon_twin import JOB, DaemonTwin, Peer
from msgspec.structs import replace

from queuectl.protocol import (
    LIST_JOBS_MAX,
    SELECT_JOBS_MAX,
    Enqueued,
    JobDetail,
    Jobs,
    LogEnd,
    Logs,
    Message,
    Output,
    Wait,
    Waited,
)
from queuectl.views import JobState, JobView, RunView


def read_until(process: "subprocess.Popen[bytes]", expected: bytes) -> bytes:
    """
    Return what the process wrote to stdout once it wrote *expected*.
    """
    assert process.stdout is not None
    out = b""
    while expected not in out:
        data = process.stdout.read1(4096)  # type: ignore[attr-defined]
        assert data, out
        out += data
    return out


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("words", "code", "out"),
    [
        (("--", "echo", "a  b"), 0, "a  b\n"),
        (("echo one; exit 7",), 7, "one\n"),
        (("--", "sh", "-c", "kill -KILL $$"), 137, ""),
        (("--timeout", "100ms", "--", "sleep", "1000"), 143, ""),
        (("--", "/nonexistent"), 127, ""),
        (('{"command": "echo $A", "env": {"A": "json"}}',), 0, "json\n"),
    ],
    ids=["argv", "string", "signal", "timeout", "missing", "json"],
)
def test_run_ends_as_the_job_does(
    shared: Shell, words: tuple[str, ...], code: int, out: str
) -> None:
    """
    Output on stdout alone, the job's exit code or 128 and the signal's number.
    """
    outcome = shared("run", *words)

    assert (code, out) == (outcome.code, outcome.out)
    assert (outcome.err == "") == (code == 0)


def test_run_shows_bytes_as_they_are(shared: Shell) -> None:
    """
    A job's output is not text: nothing of it is decoded or escaped.
    """
    process = shared.popen("run", "--", "printf", r"\377\000\033[1m")
    assert process.communicate(timeout=DEADLINE_S) == (b"\xff\0\x1b[1m", b"")


def test_run_shows_output_as_it_comes(shared: Shell) -> None:
    """
    A line is there before the job ends; Ctrl-C leaves the job running and says how to come back.
    """
    process = shared.popen("run", "--id", "detached", "echo one; sleep 1000")
    read_until(process, b"one\n")
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)

    assert (130, "") == (code, out)
    assert err == "queuectl: detached; job detached goes on: queuectl logs -f detached\n"
    assert shared.daemon.state("detached") == "processing"
    shared.ok("cancel", "detached")


def test_run_retries_only_if_asked(shared: Shell) -> None:
    """
    With --max-retries the attempts follow each other, each end is said on stderr.
    """
    shared.ok("config", "set", "backoff_max", "10ms")
    outcome = shared("run", "--max-retries", "2", "echo $QUEUECTL_ATTEMPT; exit 5")

    assert (5, "1\n2\n3\n") == (outcome.code, outcome.out)
    first, second, last = outcome.err.splitlines()
    assert re.match(r"queuectl: attempt 1 of job \d+ failed \(exit code 5\)", first)
    assert re.match(r"queuectl: attempt 2 of job \d+ failed \(exit code 5\)", second)
    assert "is dead" in last


def job_view(state: str, attempt: int, **fields: Any) -> JobView:
    """
    Return job 1 as a daemon shows it.
    """
    return JobView(
        id="1",
        number=1,
        command="true",
        state=state,
        attempts=attempt,
        attempt=attempt,
        max_retries=2,
        priority=0,
        queue="default",
        created_at=1000,
        updated_at=1000,
        **fields,
    )


def run_answered(unstarted: Shell, *answers: Message) -> tuple[Outcome, list[Message]]:
    """
    Return what run did when its requests got these answers, and the requests.
    """
    requests: list[Message] = []

    def answer(peer: Peer) -> None:
        peer.greet()
        for each in answers:
            requests.append(peer.receive())
            peer.send(msgspec.structs.replace(each, call=requests[-1].call))

    with DaemonTwin(unstarted.daemon.socket, answer):
        return unstarted("run", "--max-retries", "2", "true"), requests


@pytest.mark.parametrize("state", ["failed", "pending"])
def test_run_does_not_say_why_a_next_attempt_waits(unstarted: Shell, state: str) -> None:
    """
    An attempt that ended before anybody could look has output to show: the job did not wait.
    """
    outcome, _ = run_answered(
        unstarted,
        Enqueued(call=0, ids=["1"]),
        JobDetail(call=0, job=job_view(state, 1), runs=[], why="of the backoff"),
        LogEnd(call=0, job=job_view("failed", 1, exit_code=5, next_run_at=1010)),
        LogEnd(call=0, job=job_view("completed", 2, exit_code=0)),
    )
    said = "queuectl: attempt 1 of job 1 failed (exit code 5), next attempt in 10 ms\n"
    assert (0, "", said) == outcome


def test_run_leaves_out_no_attempt_of_a_quick_job(unstarted: Shell) -> None:
    """
    The job may have gone on, and ended, before the end of an attempt is told: each attempt is
    followed, and each end is its own.
    """
    runs = [
        RunView(attempt=attempt, worker=1, started_at=1, ended_at=2, exit_code=code)
        for attempt, code in ((1, 5), (2, 6), (3, 7))
    ]
    dead = job_view("dead", 3, exit_code=7, last_error="exit code 7")
    detail = JobDetail(call=0, job=dead, runs=runs)
    outcome, requests = run_answered(
        unstarted,
        Enqueued(call=0, ids=["1"]),
        detail,
        LogEnd(call=0, job=job_view("processing", 2)),
        detail,
        LogEnd(call=0, job=dead),
        detail,
        LogEnd(call=0, job=dead),
    )
    assert [1, 2, 3] == [each.attempt for each in requests if isinstance(each, Logs)]
    assert (7, "") == (outcome.code, outcome.out)
    assert [
        "queuectl: attempt 1 of job 1 failed (exit code 5)",
        "queuectl: attempt 2 of job 1 failed (exit code 6)",
        "queuectl: job 1 is dead: exit code 7",
    ] == outcome.err.splitlines()


def test_run_survives_a_restart_of_the_daemon(fresh: Shell) -> None:
    """
    The job goes on without the daemon, and run finds both again: nothing is shown twice or lost.
    """
    process = fresh.popen("run", "echo one; while ! test -e go; do sleep 0.05; done; echo two")
    seen = read_until(process, b"one\n")
    fresh.daemon.kill()
    fresh.daemon.start()
    with open(f"{fresh.directory}/go", "w"):
        pass
    code, out, err = finish(process)

    assert (0, b"one\n", "two\n", "") == (code, seen, out, err)


def test_run_says_why_it_waits(fresh: Shell) -> None:
    """
    A job that cannot start yet is no silent terminal.
    """
    fresh.ok("worker", "stop")
    process = fresh.popen("run", "--id", "waits", "true")
    assert process.stderr is not None
    assert b"queuectl: job waits is pending: " in process.stderr.readline()
    fresh.ok("worker", "start")
    assert finish(process)[0] == 0


def test_logs_of_each_attempt(shared: Shell) -> None:
    """
    The last attempt's output, or that of the one asked for; the last lines only, if asked.
    """
    shared.ok("config", "set", "backoff_max", "10ms")
    job = shared.ok("enqueue", "--max-retries", "1", "seq 3; echo try $QUEUECTL_ATTEMPT; exit 1")
    shared("wait", job)

    assert shared.ok("logs", job) == "1\n2\n3\ntry 2"
    assert shared.ok("logs", "show", job, "--attempt", "1", "--tail", "2") == "3\ntry 1"
    assert shared("logs", job, "--attempt", "3").code == 3
    assert shared("logs", "nosuch").code == 3
    assert shared("logs", job, "--json").json == {
        "id": job,
        "attempt": 2,
        "dropped_bytes": 0,
        "output": "1\n2\n3\ntry 2\n",
    }


def test_logs_follow_a_job_that_has_not_started(shared: Shell) -> None:
    """
    It is waited for, and its end is the end; the exit code does not judge.
    """
    job = shared.ok("enqueue", "--hold", "--max-retries", "0", "echo started; exit 9")
    process = shared.popen("logs", "-f", job)
    assert process.stderr is not None
    assert b"is held" in process.stderr.readline()
    shared.ok("release", job)

    assert finish(process)[:2] == (0, "started\n")


def test_logs_into_a_closed_pipe(shared: Shell) -> None:
    """
    head(1) has enough: no traceback, no message.
    """
    job = shared.ok("enqueue", "seq 200000")
    shared("wait", job)
    process = shared.popen("logs", job)
    read_until(process, b"1\n")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(DEADLINE_S) == 1


def test_wait(shared: Shell) -> None:
    """
    0 if all completed, 1 if one did not, 3 for no such job.
    """
    good, bad = shared.ok("enqueue", "true"), shared.ok("enqueue", "--max-retries", "0", "false")
    assert shared.ok("wait", good) == f"{good} completed"
    assert shared("wait", good, bad) == (1, f"{good} completed\n{bad} dead\n", "")
    assert [job["state"] for job in shared("wait", f"{good},{bad}", "--json").json] == [
        "completed", "dead",
    ]  # fmt: skip
    assert shared("wait", "nosuch").code == 3


def test_wait_gives_up_in_time(shared: Shell) -> None:
    """
    124, and the jobs are untouched.
    """
    job = shared.ok("enqueue", "--hold", "true")
    outcome = shared("wait", job, "--timeout", "50ms")

    assert (124, "") == (outcome.code, outcome.out)
    assert shared.daemon.state(job) == "held"
    assert shared("wait", job, "--timeout", "soon").code == 2


def test_wait_for_any(shared: Shell) -> None:
    """
    The first one that ends decides.
    """
    held, job = shared.ok("enqueue", "--hold", "true"), shared.ok("enqueue", "true")

    assert shared.ok("wait", "--any", held, job) == f"{job} completed"


def test_wait_for_what_filters_match(shared: Shell) -> None:
    """
    The jobs that match and have not finished, held ones too. None is as good as all, but not in a
    queue that is not there.
    """
    other = shared.ok("enqueue", "--queue", "waited-not", "--hold", "true")
    done = shared.ok("enqueue", "--queue", "waited", "true")
    assert shared.ok("wait", done) == f"{done} completed"
    nothing = "queuectl: no job matches that has not finished\n"
    assert (0, "", nothing) == shared("wait", "--queue", "waited")
    assert (0, "", nothing) == shared("wait", "--state", "completed,dead", "--any")
    assert [] == shared("wait", "--queue", "waited", "--json").json
    assert 3 == shared("wait", "--queue", "wated").code
    held = shared.ok("enqueue", "--queue", "waited", "--hold", "true")
    assert 124 == shared("wait", "--queue", "waited", "--timeout", "50ms").code
    assert 0 == shared("wait", "--queue", "waited", "--state", "pending,processing").code
    assert 2 == shared("wait").code
    assert 2 == shared("wait", held, "--all").code
    shared.ok("cancel", held, other)


def test_wait_for_more_than_one_page(unstarted: Shell) -> None:
    """
    However many match at first, all are waited for, as many at a time as were listed at a time.
    A lost connection is made again, what was forgotten meanwhile does not count, and one that
    failed decides.
    """
    jobs = [replace(JOB, id=str(n), number=n, state="pending") for n in range(4)]
    asked: list[Wait] = []

    def answer(peer: Peer, *words: JobState) -> None:
        asked.append(peer.receive())
        ids = asked[-1].ids[: len(words)]
        pairs = zip(ids, words, strict=True)
        ended = [replace(JOB, id=n, state=word) for n, word in pairs]
        peer.send(Waited(call=asked[-1].call, jobs=ended))

    def first(peer: Peer) -> None:
        peer.greet()
        request = peer.receive()
        assert ("processing" in request.states, "completed" in request.states) == (True, False)
        peer.send(Jobs(call=request.call, jobs=jobs[:0:-1], next_before=1))
        request = peer.receive()
        assert request.before_number == 1
        peer.send(Jobs(call=request.call, jobs=jobs[:1]))
        answer(peer, "dead")
        peer.receive()

    def second(peer: Peer) -> None:
        peer.greet()
        answer(peer, "completed", "cancelled")

    with DaemonTwin(unstarted.daemon.socket, first, second):
        outcome = unstarted("wait", "--all")
    assert (1, "0 dead\n1 completed\n2 cancelled\n", "") == outcome
    assert [["0"], ["1", "2", "3"]] == [each.ids for each in asked]
    assert all(each.skip_missing for each in asked)


def test_wait_for_any_of_too_many(unstarted: Shell) -> None:
    """
    One request has to name them all, and there is a limit to that.
    """

    def lists(peer: Peer) -> None:
        peer.greet()
        for _ in range(SELECT_JOBS_MAX // LIST_JOBS_MAX + 1):
            request = peer.receive()
            jobs = [replace(JOB, state="pending")] * LIST_JOBS_MAX
            peer.send(Jobs(call=request.call, jobs=jobs, next_before=1))

    with DaemonTwin(unstarted.daemon.socket, lists):
        outcome = unstarted("wait", "--all", "--any")
    assert (2, "") == (outcome.code, outcome.out)
    assert "--any: waits for at most 10000 jobs, and more match; choose fewer" in outcome.err


def test_wait_in_time_for_all_of_it(unstarted: Shell) -> None:
    """
    The time is for lists and for new connections too: a daemon that says nothing, or went away and
    does not come back, is given up. With none left there is time for one answer.
    """

    def silent(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        assert peer.receive() is None

    def gone(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        os.unlink(unstarted.daemon.socket)

    for script in (silent, gone):
        with DaemonTwin(unstarted.daemon.socket, script):
            assert (124, "") == unstarted("wait", "--all", "--timeout", "300ms")[:2]
        if script is silent:
            os.unlink(unstarted.daemon.socket)


def test_wait_survives_a_restart_of_the_daemon(unstarted: Shell) -> None:
    """
    A connection lost while waiting is made again, and the question asked again.
    """
    requests = []

    def hang_up(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())

    def answer(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())
        peer.send(Waited(call=requests[-1].call, jobs=[]))

    with DaemonTwin(unstarted.daemon.socket, hang_up, answer):
        assert unstarted("wait", "1-3", "--any") == (0, "", "")
    assert [(each.ids, each.any) for each in requests] == [(["1-3"], True)] * 2


def test_logs_go_on_where_a_connection_was_lost(unstarted: Shell) -> None:
    """
    Output that is read in a pager for hours comes whole, though nobody keeps a connection for it so
    long. The attempt is the one that it began with. What never came is not asked for again.
    """
    requests: list[Logs] = []

    def part(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())
        call = requests[-1].call
        peer.send(Output(call=call, attempt=2, offset=100, data=b"one\n", dropped_bytes=100))

    def rest(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())
        call = requests[-1].call
        peer.send(Output(call=call, attempt=2, offset=104, data=b"two\n"))
        peer.send(LogEnd(call=call, job=job_view("completed", 3), attempt=2))

    def nothing(peer: Peer) -> None:
        peer.greet()
        peer.receive()

    with DaemonTwin(unstarted.daemon.socket, part, rest):
        outcome = unstarted("logs", "7", "--tail", "9")
    assert (0, "one\ntwo\n") == (outcome.code, outcome.out)
    assert [
        Logs(call=requests[0].call, id="7", tail_lines=9),
        Logs(call=requests[1].call, id="7", attempt=2, offset=104),
    ] == requests

    os.unlink(unstarted.daemon.socket)
    with DaemonTwin(unstarted.daemon.socket, nothing):
        assert 69 == unstarted("logs", "7").code
