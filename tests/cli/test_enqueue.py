"""
`enqueue`, through the real command line and a real daemon.
"""

import json
import os
import pwd
from pathlib import Path

import pytest
from conftest import Shell

from queuectld.runtime.system_journal import SOCKET


@pytest.mark.parametrize(
    "words",
    [
        ("echo one; echo two | tr a-z A-Z",),
        ("--command", "echo one; echo two | tr a-z A-Z"),
        ("-c", "echo one; echo two | tr a-z A-Z"),
        ('{"command": "echo one; echo two | tr a-z A-Z"}',),
        ('{"argv": ["sh", "-c", "echo one; echo TWO"]}',),
        ("--", "printf", "%s\n", "one", "TWO"),
        ("{ echo one; echo TWO; }",),
    ],
    ids=["string", "command", "c", "json", "argv", "rest", "braces"],
)
def test_every_way_to_say_what_runs(shared: Shell, words: tuple[str, ...]) -> None:
    """
    A string is a shell command unless it is a JSON object; after -- nothing is interpreted.
    """
    job = shared.ok("enqueue", *words)
    assert shared("wait", job).code == 0
    assert shared.ok("logs", job) == "one\nTWO"


def test_a_script_is_stored_with_the_job(shared: Shell) -> None:
    """
    The #! line counts, parameters are passed on, and later edits of the file change nothing.
    """
    script = Path(shared.directory) / "script"
    script.write_text('#!/usr/bin/env bash\necho "first: $1, $#"\n')
    job = shared.ok("enqueue", "--hold", "--script", str(script), "--", "a b", "c")
    script.write_text("echo edited\n")
    shared.ok("release", job)
    shared("wait", job)
    assert shared.ok("logs", job) == "first: a b, 2"

    plain = Path(shared.directory) / "plain"
    plain.write_text("echo plain $1\n")
    job = shared.ok("enqueue", "--script", str(plain), "--", "x")
    shared("wait", job)
    assert shared.ok("logs", job) == "plain x"


def test_all_options_reach_the_job(shared: Shell) -> None:
    """
    What was asked for is what the job has.
    """
    outcome = shared(
        "enqueue", "--json", "--id", "all-options", "--queue", "other", "--priority", "low",
        "--max-retries", "7", "--timeout", "1h30m", "--kill-after", "2.5s", "--cwd", "/usr",
        "--env", "A=b c", "--on-lost", "dead", "--run-at", "2030-11-07T10:00:00Z", "true",
    )  # fmt: skip
    job = outcome.json
    expected = {
        "id": "all-options",
        "queue": "other",
        "priority": -10,
        "max_retries": 7,
        "timeout": 5400,
        "kill_after": 2.5,
        "cwd": "/usr",
        "on_lost": "dead",
        "state": "scheduled",
        "run_at": "2030-11-07T10:00:00.000Z",
        "next_run_at": "2030-11-07T10:00:00.000Z",
        "command": "true",
        "attempts": 0,
        "exit_code": None,
        "finished_at": None,
    }
    assert expected == {name: job[name] for name in expected}
    detail = shared("show", "all-options", "--json").json
    assert detail["env"]["A"] == "b c"


def test_in_ones_own_queue_jobs_are_ones_own(shared: Shell) -> None:
    """
    Naming oneself says nothing new, naming another account is refused: as option and as field.
    """
    own = pwd.getpwuid(os.geteuid()).pw_name
    other = "daemon" if own != "daemon" else "bin"
    assert shared.ok("enqueue", "--hold", "--user", own, "true")
    for words in (("--user", other, "true"), (f'{{"command": "true", "user": "{other}"}}',)):
        outcome = shared("enqueue", *words)
        assert (77, "") == (outcome.code, outcome.out)
        assert outcome.err.count("\n") == 1
        assert "the machine's queue" in outcome.err
    outcome = shared("run", "--user", "no-such-account", "true")
    assert (2, True) == (outcome.code, "no-such-account" in outcome.err)


def test_options_beat_fields_for_user_and_output(shared: Shell) -> None:
    """
    Like all others; and an output that there is not is refused with those that there are.
    """
    own = pwd.getpwuid(os.geteuid()).pw_name
    document = '{"command": "true", "user": "no-such-account", "output": "journal"}'
    words = ("enqueue", "--hold", "--json", document, "--user", own, "--output", "file")
    assert "file" == json.loads(shared.ok(*words))["output"]
    outcome = shared("enqueue", '{"command": "true", "output": "syslog"}')
    assert (2, True) == (outcome.code, "file or journal" in outcome.err)


@pytest.mark.skipif(os.path.exists(SOCKET), reason="the system's journal listens here")
def test_without_a_journal_no_output_goes_there(shared: Shell) -> None:
    """
    It is refused at once.
    """
    outcome = shared("enqueue", "--output", "journal", "true")
    assert (2, 1) == (outcome.code, outcome.err.count("\n"))
    assert "journal" in outcome.err


def test_a_job_gets_little_of_the_environment(shared: Shell) -> None:
    """
    Allowed variables and those named; all only when asked for. The directory is the caller's.
    """
    command = 'echo "$PWD|$SECRET|$LC_TIME|$EXTRA|$QUEUECTL_JOB_ID|$QUEUECTL_ATTEMPT"'
    variables = {"SECRET": "s", "LC_TIME": "C", "EXTRA": "e"}

    def output(*options: str) -> str:
        job = shared("enqueue", *options, command, **variables).out.strip()
        shared("wait", job)
        return shared.ok("logs", job).replace(f"|{job}|", "|ID|")

    assert output() == f"{shared.directory}||C||ID|1"
    assert output("--env", "EXTRA") == f"{shared.directory}||C|e|ID|1"
    assert output("--env-all") == f"{shared.directory}|s|C|e|ID|1"


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((), 2, "nothing to run: give a command, a JSON object, -f FILE or -- ARGV"),
        (
            ("a", "b"),
            2,
            "one string is a shell command, several are not: quote it, or write -- a b",
        ),
        (("--",), 2, "nothing follows --: give the program and its arguments"),
        (("a", "-c", "b"), 2, "give the command once: a string, --command, or -- ARGV"),
        (("",), 2, "--command: must not be empty; got ''"),
        (('{"comand": "x"}',), 2, "unknown field 'comand' (did you mean command?)"),
        (("{bad",), 2, "not valid JSON: "),
        (("{'id': 'x'}",), 2, "not valid JSON: "),
        (("--priorty", "1", "x"), 2, "unknown option --priorty (did you mean --priority?)"),
        (("--timeout", "5x", "x"), 2, "--timeout: must be a duration such as 90,"),
        (("--env", "NOT_SET", "x"), 2, "--env: 'NOT_SET' is not set here; write NAME=VALUE"),
        (("--id", "a,b", "x"), 2, "id must be printable, without spaces, commas"),
        (("--priority", "1001", "x"), 2, "priority must be between -1000 and 1000"),
        (("-f", "/nonexistent"), 1, "/nonexistent: No such file or directory"),
        (("-f", "/"), 1, "/: Is a directory"),
        (("-f", "-", "x"), 2, "-f: the file says what runs; give nothing else to run"),
        (("-f", "-"), 2, "stdin: no job in it"),
        (("--partial", "x"), 2, "--partial: goes with -f FILE"),
        (("--json", "-q", "x"), 2, "--json, --jsonl and --quiet: give one of them"),
    ],
)
def test_bad_input_is_one_line(
    shared: Shell, words: tuple[str, ...], code: int, expected: str
) -> None:
    """
    The offending field or option, the rule, what would be right; nothing is enqueued.
    """
    before = shared.daemon.status().jobs
    outcome = shared("enqueue", *words)

    assert code == outcome.code
    assert outcome.out == ""
    assert outcome.err.startswith(f"queuectl: {expected}")
    assert outcome.err.count("\n") == 1
    assert before == shared.daemon.status().jobs


def test_a_duplicate_id_is_a_conflict(shared: Shell) -> None:
    """
    Exit code 4, and the first job is untouched.
    """
    shared.ok("enqueue", "--id", "twice", "--hold", "true")
    outcome = shared("enqueue", "--id", "twice", "false")

    assert outcome.code == 4
    assert "'twice' is taken" in outcome.err
    assert shared("show", "twice", "--json").json["command"] == "true"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"id": "%s1", "command": "true"}', ["1"]),
        ('{\n  "id": "%s1",\n  "command": "true"\n}\n', ["1"]),
        ('[{"id": "%s1", "command": "true"}, {"id": "%s2", "command": "true"}]', ["1", "2"]),
        ('{"id": "%s1", "command": "true"}\n\n{"id": "%s2", "command": "true"}', ["1", "2"]),
    ],
    ids=["object", "pretty", "array", "lines"],
)
def test_files(shared: Shell, text: str, expected: list[str], request: object) -> None:
    """
    A JSON object, an array, or an object per line; from a file or stdin; options beat fields.
    """
    for source in ("file", "-"):
        prefix = f"{len(text)}-{source.strip('-')}-"
        data = text.replace("%s", prefix)
        Path(shared.directory, "file").write_text(data)
        out = shared.ok("enqueue", "-f", source, "--hold", stdin=data.encode())
        assert out.split() == [prefix + each for each in expected]
        assert shared("show", prefix + "1", "--json").json["state"] == "held"


def test_a_file_is_enqueued_whole_or_not_at_all(shared: Shell) -> None:
    """
    The error names the line, whether this side found it or the daemon did.
    """
    before = shared("list", "--json").json
    for bad, where, code in (
        ('{"command": ""}', "stdin line 2: command: must not be empty", 2),
        ('{"command": "x", "id": "a b"}', "stdin line 2: id must be printable", 2),
        ("{", "stdin line 2: not valid JSON", 2),
        ('{"command": "x", "id": "last"}', "stdin line 2: id must not read like a selector", 2),
    ):
        data = f'{{"command": "true"}}\n{bad}\n'.encode()
        outcome = shared("enqueue", "-f", "-", stdin=data)
        assert (code, "") == (outcome.code, outcome.out)
        assert outcome.err.startswith(f"queuectl: {where}")
    assert before == shared("list", "--json").json


def test_a_batch_over_the_limit_points_to_partial(shared: Shell) -> None:
    """
    10,000 jobs are a batch; more are said to be too many before anything is sent.
    """
    data = b'{"command": "true"}\n' * 10_001
    outcome = shared("enqueue", "-f", "-", stdin=data)

    assert outcome.code == 2
    assert "10001 jobs, the limit of one batch is 10000: use --partial" in outcome.err


def test_all_jobs_are_told_also_when_one_answer_cannot_hold_them(shared: Shell) -> None:
    """
    The daemon leaves out of an answer what is too long for a frame; the client asks again.
    """
    shared.ok("worker", "stop")
    lines = [f'{{"command": "true {number} {"x" * 60_000}"}}' for number in range(60)]
    jobs = shared("enqueue", "-f", "-", "--json", stdin="\n".join(lines).encode()).json

    assert [line[13:30] for line in lines] == [job["command"][:17] for job in jobs]
    shared.ok("cancel", "-q", "--all")
    shared.ok("worker", "start")


def test_partial_makes_what_can_be_made(shared: Shell) -> None:
    """
    A result per line, on stderr what went wrong, and the exit code of the first failure.
    """
    lines = [
        '{"id": "part1", "command": "true", "hold": true}',
        '{"command": ""}',
        "nonsense",
        '{"id": "part1", "command": "true"}',
        '{"id": "part2", "command": "true", "hold": true}',
    ]
    outcome = shared("enqueue", "-f", "-", "--partial", stdin="\n".join(lines).encode())
    assert (2, "part1\npart2\n") == (outcome.code, outcome.out)
    assert [each.partition(": ")[2][:13] for each in outcome.err.splitlines()] == [
        "stdin line 2:", "stdin line 3:", "stdin line 4:",
    ]  # fmt: skip

    outcome = shared("enqueue", "-f", "-", "--partial", "--jsonl", stdin="\n".join(lines).encode())
    results = [json.loads(line) for line in outcome.out.splitlines()]
    assert [each["line"] for each in results] == [1, 2, 3, 4, 5]
    assert [each["error"]["code"] for each in results] == [
        "conflict", "usage", "usage", "conflict", "conflict",
    ]  # fmt: skip
    assert outcome.code == 4

    outcome = shared("enqueue", "-f", "-", "--partial", "--json", stdin=b"")
    assert (0, []) == (outcome.code, outcome.json)


def test_partial_sends_a_large_file_in_pieces(fresh: Shell) -> None:
    """
    A file over the limit of one batch is taken whole, in order.
    """
    data = b"".join(b'{"command": "true", "hold": true, "id": "n%d"}\n' % n for n in range(10_500))
    out = fresh.ok("enqueue", "-f", "-", "--partial", stdin=data)

    assert out.split() == [f"n{n}" for n in range(10_500)]
    assert fresh("status", "--json").json["jobs"]["held"] == 10_500
    assert len(fresh("list", "-q", "--limit", "0").out.split()) == 10_500
    assert fresh("list", "-q", "--limit", "3").out.split() == ["n10499", "n10498", "n10497"]
    assert fresh("list", "-q", "--limit", "2", "--after", "n10498").out.split() == [
        "n10497", "n10496",
    ]  # fmt: skip


def test_the_umask_is_the_callers(shared: Shell) -> None:
    """
    Files that a job makes have the mode they would have had in the caller's shell.
    """
    old = os.umask(0o027)
    try:
        job = shared.ok("enqueue", "touch made")
    finally:
        os.umask(old)
    shared("wait", job)

    assert os.stat(f"{shared.directory}/made").st_mode & 0o777 == 0o640
