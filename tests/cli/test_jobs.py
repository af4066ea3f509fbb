"""
Looking at jobs and acting on them: list, show, cancel, retry, hold, release, prune, dlq.
"""

import re
import signal
from pathlib import Path

from conftest import Shell
from daemon_process import wait_until

JOB_FIELDS = [
    "id",
    "command",
    "state",
    "attempts",
    "max_retries",
    "priority",
    "queue",
    "created_at",
    "updated_at",
    "run_at",
    "next_run_at",
    "started_at",
    "finished_at",
    "exit_code",
    "signal",
    "last_error",
    "worker",
    "pid",
]


def finished_job(shell: Shell, words: tuple[str, ...]) -> str:
    job = shell.ok("enqueue", *words)
    shell("wait", job)
    return job


def test_a_fresh_queue_is_empty(fresh: Shell) -> None:
    """
    Nothing is an empty array, not an error.
    """
    assert fresh("list", "--json") == (0, "[]\n", "")
    assert fresh("dlq", "list", "--json") == (0, "[]\n", "")
    assert fresh("list", "--jsonl") == (0, "", "")
    outcome = fresh("list")
    assert (0, "", "queuectl: no job matches\n") == outcome
    assert fresh("show", "last").code == 3


def test_the_json_of_a_job(shared: Shell) -> None:
    """
    At least the fields that are promised, times in UTC, null for what there is not.
    """
    job = shared.ok("enqueue", "exit 3", "--max-retries", "0")
    shared("wait", job)
    (listed,) = [each for each in shared("list", "--json").json if each["id"] == job]
    shown = shared("show", job, "--json").json

    assert set(JOB_FIELDS) <= listed.keys()
    assert listed == {name: shown[name] for name in listed}
    assert (listed["state"], listed["exit_code"], listed["attempts"]) == ("dead", 3, 1)
    assert listed["signal"] is listed["pid"] is listed["next_run_at"] is None
    for name in ("created_at", "started_at", "finished_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", listed[name])
    (run,) = shown["runs"]
    assert (run["attempt"], run["end"], run["exit_code"]) == (1, "exited", 3)
    assert run["duration"] >= 0
    assert run["memory_max_bytes"] > 0
    assert shown["why"]
    assert "dlq retry" in shown["next"]


def test_show_says_everything_to_people(shared: Shell) -> None:
    """
    State and why, what happens next, the attempts.
    """
    job = shared.ok("enqueue", "exit 3", "--max-retries", "0", "--env", "COLOR=blue")
    shared("wait", job)
    out = shared.ok("show", job)

    for expected in (
        "given up after 1 attempt",
        "queuectl dlq retry",
        "exit code 3",
        "COLOR=blue",
        "ATTEMPT",
    ):
        assert expected in out


def test_lists_are_filtered(fresh: Shell) -> None:
    """
    By state and queue; newest first; ids select too.
    """
    for name, options in {
        "a": ("--hold",),
        "b": ("--hold", "--queue", "q2"),
        "c": ("--delay", "1h"),
    }.items():
        fresh.ok("enqueue", "--id", name, *options, "true")

    assert fresh.ok("list", "-q").split() == ["c", "b", "a"]
    assert fresh.ok("ls", "-q", "--state", "held").split() == ["b", "a"]
    assert fresh.ok("list", "-q", "-s", "held,scheduled", "--queue", "q2").split() == ["b"]
    assert fresh.ok("list", "-q", "--state", "held", "--state", "scheduled").split() == list("cba")
    assert fresh.ok("list", "-q", "1-2,c").split() == ["a", "b", "c"]
    assert fresh("list", "nosuch").code == 3
    assert fresh("list", "--state", "hold").err == (
        "queuectl: --state: 'hold' is no state (did you mean held?); one of scheduled, held, "
        "pending, processing, failed, completed, dead, cancelled\n"
    )
    lines = fresh.ok("list").splitlines()
    assert lines[0].split() == ["ID", "STATE", "TRIES", "PRI", "QUEUE", "WHEN", "COMMAND"]
    assert [each.split()[0] for each in lines[1:]] == ["c", "b", "a"]


def test_names_cannot_write_on_the_terminal(shared: Shell) -> None:
    """
    Escape sequences, line breaks and reversed text of a command are shown, not obeyed.
    """
    job = shared.ok("enqueue", "--hold", "true # \x1b[2J\n\u202egpj.exe\x9b1m")
    for words in (("list", job), ("show", job), ("list", job, "--json"), ("show", job, "--json")):
        out = shared.ok(*words)
        assert not set("\x1b\u202e\x9b") & set(out)
        assert "\\u202egpj.exe" in out


def test_hold_and_release(shared: Shell) -> None:
    """
    A held job waits; released, it runs.
    """
    job = shared.ok("enqueue", "--delay", "1h", "true")
    assert shared.ok("hold", job) == f"held {job}"
    assert shared.daemon.state(job) == "held"
    assert shared("hold", job).code == 4
    assert shared.ok("release", job, "-q") == job
    assert shared.daemon.state(job) == "scheduled"
    assert shared("cancel", job, "--json").json == {"ids": [job], "errors": []}
    assert shared.daemon.state(job) == "cancelled"


def test_cancel_ends_a_running_job(shared: Shell) -> None:
    """
    SIGTERM reaches the job and what it started.
    """
    job = shared.ok("enqueue", "sleep 1000 & sleep 1000")
    shared.daemon.wait_for(job, "processing")
    assert shared.ok("cancel", job) == f"cancelled {job}"
    detail = shared.daemon.wait_for(job, "cancelled")
    assert detail.runs[-1].signal == signal.SIGTERM


def test_what_can_be_done_is_done(shared: Shell) -> None:
    """
    Each problem is a line; 3 for a missing job beats 4 for a wrong state beats 1 for nothing.
    """
    jobs = [shared.ok("enqueue", "--hold", "true") for _ in range(2)]
    done = finished_job(shared, ("true",))
    outcome = shared("release", jobs[0], "nosuch", done, jobs[1])

    assert outcome.code == 3
    assert outcome.out == f"released {jobs[0]} {jobs[1]}\n"
    assert len(outcome.err.splitlines()) == 2
    assert shared("cancel", done).code == 4
    assert shared("cancel", "--state", "held", "--queue", "empty").code == 1
    assert shared("cancel").code == 2
    assert shared("cancel", "1", "--all").code == 2


def test_the_dead_letter_queue(fresh: Shell) -> None:
    """
    A job whose attempts are used up is listed, shown, retried with its history kept, and purged.
    """
    fresh.ok("enqueue", "--id", "job1", "--max-retries", "0", "exit 1")
    fresh.ok("enqueue", "--id", "good", "true")
    assert fresh("wait", "job1", "good").code == 1
    assert [job["id"] for job in fresh("dlq", "list", "--json").json] == ["job1"]
    assert fresh("dlq", "show", "job1", "--json").json["state"] == "dead"
    assert fresh("dlq", "show", "good").code == 4
    assert fresh.ok("dlq", "retry", "job1") == "retried job1"
    wait_until(lambda: len(fresh.daemon.show("job1").runs) == 2)
    fresh.daemon.wait_for("job1", "dead")

    outcome = fresh("dlq", "retry", "good", "nosuch", "job1")
    assert (3, "retried job1\n") == (outcome.code, outcome.out)
    assert "job good is completed, not in the dead letter queue" in outcome.err
    wait_until(lambda: len(fresh.daemon.show("job1").runs) == 3)
    fresh.daemon.wait_for("job1", "dead")
    assert fresh.ok("dlq", "retry", "--all", "-q") == "job1"
    wait_until(lambda: len(fresh.daemon.show("job1").runs) == 4)
    fresh.daemon.wait_for("job1", "dead")
    assert fresh.ok("dlq", "purge", "--all") == "purged job1"
    assert fresh("dlq", "purge", "--all").code == 1
    assert fresh("dlq", "purge").code == 2
    assert fresh("show", "job1").code == 3


def test_prune(fresh: Shell) -> None:
    """
    Finished jobs go; with filters those that match; others never.
    """
    fresh.ok("enqueue", "--id", "done", "true")
    fresh.ok("enqueue", "--id", "waiting", "--hold", "true")
    fresh("wait", "done")
    assert fresh("prune", "--older-than", "1h").code == 1
    assert fresh("prune", "--state", "cancelled").code == 1
    assert fresh.ok("prune", "--state", "completed") == "pruned done"
    assert fresh.ok("list", "-q") == "waiting"
    assert fresh("prune", "--older-than", "x").err.startswith("queuectl: --older-than: must be")


def test_every_page_of_a_large_selection_is_acted_on(fresh: Shell) -> None:
    """
    Thousands of jobs take several requests, and one command.
    """
    data = b'{"command": "true", "delay": "1h"}\n' * 9_000
    for _ in range(3):
        fresh.ok("enqueue", "-f", "-", stdin=data)
    assert fresh.ok("cancel", "--all") == "cancelled 27000 jobs"
    assert fresh("status", "--json").json["jobs"]["cancelled"] == 27_000


def test_edit_changes_the_order_of_jobs_that_wait(fresh: Shell) -> None:
    """
    Jobs that have not started take the place of their new priority; one that runs is an error.
    """
    fresh.ok("queue", "pause", "default")
    first, second, third = (fresh.ok("enqueue", f"echo {n} >>order") for n in (1, 2, 3))
    assert fresh.ok("edit", third, "--priority", "high") == f"edited {third}"
    assert fresh("edit", first, "--priority", "-5", "--json").json == {"ids": [first], "errors": []}
    listed = fresh("list", "--json").json
    assert [(each["id"], each["priority"]) for each in listed] == [
        (third, 10),
        (second, 0),
        (first, -5),
    ]
    fresh.ok("config", "set", "workers", "1")
    fresh.ok("queue", "resume", "default")
    assert fresh("wait", first, second, third).code == 0
    assert Path(fresh.directory, "order").read_text() == "3\n2\n1\n"

    outcome = fresh("edit", first, "--priority", "1")
    assert outcome.code == 4
    assert "edit works on jobs that are scheduled, held, pending, failed" in outcome.err


def test_edit_says_what_it_needs(shared: Shell) -> None:
    """
    A priority and jobs.
    """
    outcome = shared("edit", "1")
    assert (2, "queuectl: edit: nothing to change; give --priority N\n") == outcome[::2]
    outcome = shared("edit", "--priority", "urgent", "1")
    assert outcome.code == 2
    assert "high, medium or low" in outcome.err
    assert shared("edit", "--priority", "1").code == 2
    assert shared("edit", "--priority", "1", "nobody").code == 3


def test_list_finds_a_text(shared: Shell) -> None:
    """
    In ids and commands, whatever the case; together with the other filters.
    """
    found = shared.ok("enqueue", "true Needle", "--hold")
    named = shared.ok("enqueue", "true", "--hold", "--id", "needle-1", "--queue", "hay")
    assert shared.ok("list", "--search", "NEEDLE", "-q").split() == [named, found]
    assert shared.ok("list", "--search", "needle", "--queue", "hay", "-q") == named
    assert shared("list", "--search", "no such needle").err == "queuectl: no job matches\n"
    assert shared("list", found, "--search", "needle").code == 2
