"""
Making jobs: ids and numbers, batches, requests that come twice, and every rule on a field.
"""

from typing import Any

import pytest
from conversation import START_AT, Conversation

from queuectl.environment import pack_variables
from queuectl.protocol import (
    BATCH_JOBS_MAX,
    COMMAND_BYTES_MAX,
    ENV_BYTES_MAX,
    ID_CHARS_MAX,
    JOB_BYTES_MAX,
    PRIORITY_MAX,
    RETRIES_MAX,
    SPAN_MS_MAX,
    Enqueue,
    Enqueued,
    JobSpec,
)
from queuectld.core import admission

# --- ids ----------------------------------------------------------------------------------------


def test_jobs_without_an_id_are_numbered() -> None:
    """
    The number is the id; a job with an id of its own has a number too.
    """
    talk = Conversation()
    assert ["1", "b", "3"] == [talk.enqueue(), talk.enqueue(id="b"), talk.enqueue()]
    assert 2 == talk.view("b").number
    assert "b" == talk.view("2").id


def test_an_id_is_given_once() -> None:
    """
    An id that a job has, finished or not, is a conflict, whether given or a number.
    """
    talk = Conversation()
    talk.enqueue(id="a")
    talk.exit("a")
    number = talk.enqueue()
    for taken, state in (("a", "completed"), (number, "processing")):
        refused = talk.refused(Enqueue(jobs=[JobSpec(command="x", id=taken)]))
        assert ("conflict", "id") == (refused.code, refused.field)
        assert (
            f"id {taken!r} is taken by a {state} job; "
            "choose another, or leave it out to get a number"
        ) == refused.message


def test_an_id_may_look_like_the_number_of_a_job_that_has_an_id_of_its_own() -> None:
    """
    An id comes before a number: what is called 1 is found by it, not what is first.
    """
    talk = Conversation()
    talk.enqueue(id="a")
    assert "1" == talk.enqueue("second", id="1")
    assert ("second", 2) == (talk.view("1").command, talk.view("1").number)
    assert ("a", "1") == (talk.view("a").id, talk.view("2").id)


def test_numbers_step_over_ids_that_look_like_numbers() -> None:
    """
    A job without an id never gets one that a submitter chose, not even later in the same batch.
    """
    talk = Conversation()
    assert ["2", "2-a"] == [talk.enqueue(id="2"), talk.enqueue(id="2-a")]
    assert "3" == talk.enqueue()
    talk.enqueue(id="5")
    response = talk.request(
        Enqueue(jobs=[JobSpec(command="x"), JobSpec(command="x", id="6"), JobSpec(command="x")])
    )
    assert ["7", "6", "9"] == response.ids
    assert 9 == talk.view("9").number


def test_numbers_are_never_given_again() -> None:
    """
    Not after the newest jobs were forgotten, and not from a snapshot that does not have them.
    """
    talk = Conversation()
    for _ in range(3):
        talk.exit(talk.enqueue())
    talk.act("prune", all=True)
    talk.restart(snapshot=True)
    assert "4" == talk.enqueue()
    talk.exit("4")
    talk.act("prune", "4")
    talk.restart()
    assert "5" == talk.enqueue()


def test_a_forgotten_id_can_be_given_again() -> None:
    """
    What is not in the history cannot be in the way, live and after a replay.
    """
    talk = Conversation()
    for snapshot in (False, True):
        talk.exit(talk.enqueue(id="a"))
        talk.act("prune", "a")
        talk.restart(snapshot=snapshot)
    assert "a" == talk.enqueue(id="a")


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_is_made_whole() -> None:
    """
    All jobs of a batch are made in its order, by one step.
    """
    talk = Conversation(workers=0)
    specs = [JobSpec(command=f"c{n}", queue=f"q{n % 2}") for n in range(5)]
    response = talk.request(Enqueue(jobs=specs, want_jobs=True))
    assert ["1", "2", "3", "4", "5"] == response.ids
    assert [f"c{n}" for n in range(5)] == [view.command for view in response.jobs]
    assert ([], False, True) == (response.errors, response.existing, response.durable)


@pytest.mark.parametrize("bad", [JobSpec(command=""), JobSpec(command="x", id="a")])
def test_a_batch_with_a_mistake_makes_nothing(bad: JobSpec) -> None:
    """
    The refusal names the job by its index; no job, queue or environment was made.
    """
    talk = Conversation()
    specs = [JobSpec(command="x", id="a", queue="new"), bad, JobSpec(command="x")]
    refused = talk.refused(Enqueue(jobs=specs, env=pack_variables({"A": "1"})))
    assert 1 == refused.index
    assert ([], {}) == (talk.records, talk.queue.state.environments)
    assert "1" == talk.enqueue()


def test_a_partial_batch_makes_what_can_be_made() -> None:
    """
    With partial there is an id or an error for each job of the batch.
    """
    talk = Conversation(workers=0)
    specs = [
        JobSpec(command="x", id="a"),
        JobSpec(command=" "),
        JobSpec(command="x", id="a"),
        JobSpec(command="x"),
    ]
    response = talk.request(Enqueue(jobs=specs, partial=True, want_jobs=True))
    assert ["a", None, None, "2"] == response.ids
    assert [(1, "usage", "command", None), (2, "conflict", "id", "a")] == [
        (error.index, error.code, error.field, error.id) for error in response.errors
    ]
    assert ["a", "2"] == [view.id for view in response.jobs]


def test_a_partial_batch_of_mistakes_leaves_nothing() -> None:
    """
    Not even its environment.
    """
    talk = Conversation()
    response = talk.request(
        Enqueue(
            jobs=[JobSpec(command="")], env=pack_variables({"A": "1"}), partial=True, request_id="r"
        )
    )
    assert ([None], []) == (response.ids, talk.records)


# --- requests that come twice -------------------------------------------------------------------


def repeat(talk: Conversation, request: Enqueue) -> Enqueued:
    """
    Send a request again, which must make nothing.
    """
    response = talk.request(request)
    assert isinstance(response, Enqueued)
    assert (True, []) == (response.existing, talk.records)
    return response


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_repeated_request_makes_no_second_job(snapshot: bool) -> None:
    """
    The answer is that of the first time, also after a restart, and with a full disk.
    """
    talk = Conversation()
    specs = [JobSpec(command="x"), JobSpec(command="x", id="b")]
    request = Enqueue(jobs=specs, request_id="r1", want_jobs=True)
    first = talk.request(request)
    assert ["1", "b"] == first.ids
    talk.storage(full=True)
    assert first.ids == repeat(talk, request).ids
    talk.restart(snapshot=snapshot)
    again = repeat(talk, request)
    assert (first.ids, ["1", "b"]) == (again.ids, [view.id for view in again.jobs])
    assert "3" == talk.enqueue()


def test_a_repeated_request_is_known_when_its_jobs_are_gone() -> None:
    """
    Forgotten jobs are not made again, and keep their ids in the answer.
    """
    talk = Conversation()
    request = Enqueue(
        jobs=[JobSpec(command="x"), JobSpec(command="x", id="b")], request_id="r", want_jobs=True
    )
    talk.request(request)
    talk.exit("1")
    talk.exit("b")
    talk.act("prune", all=True)
    again = repeat(talk, request)
    assert (["1", "b"], []) == (again.ids, again.jobs)


def test_a_repeated_partial_request_says_what_was_left_out() -> None:
    """
    What could not be made the first time is not made the second time.
    """
    talk = Conversation()
    talk.enqueue(id="a")
    request = Enqueue(
        jobs=[JobSpec(command="x", id="a"), JobSpec(command="x")], partial=True, request_id="r"
    )
    assert [None, "2"] == talk.request(request).ids
    talk.exit("a")
    talk.act("prune", "a")
    again = repeat(talk, request)
    assert [None, "2"] == again.ids
    assert [(0, "a")] == [(error.index, error.id) for error in again.errors]


def test_requests_without_an_id_are_all_new() -> None:
    """
    Only a request id makes two requests the same.
    """
    talk = Conversation()
    request = Enqueue(jobs=[JobSpec(command="x")])
    assert ["1"] == talk.request(request).ids
    assert ["2"] == talk.request(request).ids


def test_the_latest_request_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    At least REQUESTS_MAX of them, at most twice as many.
    """
    monkeypatch.setattr("queuectld.core.state.REQUESTS_MAX", 5)
    talk = Conversation(workers=0)
    requests = [Enqueue(jobs=[JobSpec(command="x")], request_id=f"r{n}") for n in range(23)]
    for request in requests:
        talk.request(request)
    for request in requests[-5:]:
        repeat(talk, request)
    known = [each for each in requests if talk.queue.state.made_by(each.request_id)]
    assert 5 <= len(known) <= 10


# --- when it is due -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "state", "due_at"),
    [
        ({}, "processing", None),
        ({"delay_ms": 0}, "processing", None),
        ({"delay_ms": 1}, "scheduled", START_AT + 1),
        ({"run_at": START_AT + 1}, "scheduled", START_AT + 1),
        ({"run_at": START_AT}, "processing", None),
        ({"run_at": 0}, "processing", None),
        ({"hold": True}, "held", None),
        ({"hold": True, "delay_ms": 5}, "held", START_AT + 5),
        ({"hold": True, "run_at": 5}, "held", None),
    ],
)
def test_a_job_begins_in_the_state_that_its_times_ask_for(
    fields: dict[str, Any], state: str, due_at: int | None
) -> None:
    """
    A time that has come is no reason to wait; a held job keeps its time.
    """
    talk = Conversation()
    view = talk.view(talk.enqueue(**fields))
    assert (state, due_at) == (view.state, view.next_run_at)


# --- rules --------------------------------------------------------------------------------------

# field, what breaks its rule, the rule as the message says it
RULES: list[tuple[str, dict[str, Any], str]] = [
    ("command", {}, "a job needs command, argv or script; give exactly one"),
    ("command", {"command": "x", "argv": ["x"]}, "more than one of"),
    ("command", {"command": "x", "script": "x"}, "more than one of"),
    ("command", {"command": "x", "script": "x", "argv": ["x"]}, "more than one of"),
    ("command", {"command": " \n"}, "must not be empty, for example: echo hi"),
    ("command", {"command": "a\0b"}, "NUL"),
    ("command", {"command": "é" * (COMMAND_BYTES_MAX // 2 + 1)}, f"at most {COMMAND_BYTES_MAX}"),
    ("script", {"script": ""}, "must not be empty"),
    ("script", {"script": "x" * (JOB_BYTES_MAX + 1)}, f"at most {JOB_BYTES_MAX} bytes"),
    ("script_name", {"script": "x", "script_name": "a\0"}, "NUL"),
    ("argv", {"argv": []}, 'must name a program, for example ["make", "-j2"]'),
    ("argv", {"argv": ["", "x"]}, "must name a program"),
    ("argv", {"argv": ["x", "\0"]}, "NUL"),
    ("argv", {"argv": ["x", "x" * (COMMAND_BYTES_MAX + 1)]}, f"at most {COMMAND_BYTES_MAX}"),
    ("argv", {"argv": ["é" * 60_000] * 3}, f"at most {JOB_BYTES_MAX} bytes"),
    ("argv", {"script": "x" * JOB_BYTES_MAX, "argv": ["x"]}, f"at most {JOB_BYTES_MAX} bytes"),
    ("id", {"id": ""}, "must not be empty, like job-1; got ''"),
    ("id", {"id": "x" * (ID_CHARS_MAX + 1)}, f"at most {ID_CHARS_MAX} characters"),
    ("id", {"id": "-x"}, "must not begin with a dash"),
    *(("id", {"id": bad}, "must not be . or ..") for bad in (".", "..")),
    ("id", {"id": "last"}, "must not read like a selector (last, 1-3)"),
    ("id", {"id": "1-3"}, "must not read like a selector"),
    *(
        ("id", {"id": bad}, "printable, without spaces, commas, slashes and quotes")
        for bad in (
            "a b",
            "a,b",
            "a/b",
            "a'b",
            'a"b',
            "a\\b",
            "a\nb",
            "\x1b[m",
            "a\u00a0b",
            "\u202e",
        )
    ),
    ("queue", {"queue": ""}, "must not be empty"),
    ("queue", {"queue": "a b"}, "printable"),
    ("priority", {"priority": PRIORITY_MAX + 1}, "between -1000 and 1000"),
    ("priority", {"priority": -PRIORITY_MAX - 1}, "between -1000 and 1000"),
    ("max_retries", {"max_retries": -1}, f"between 0 and {RETRIES_MAX}"),
    ("max_retries", {"max_retries": RETRIES_MAX + 1}, f"between 0 and {RETRIES_MAX}"),
    ("timeout", {"timeout_ms": 0}, f"between 1 and {SPAN_MS_MAX} ms"),
    ("timeout", {"timeout_ms": SPAN_MS_MAX + 1}, "between"),
    ("kill_after", {"kill_after_ms": -1}, "between 0 and"),
    ("delay", {"delay_ms": -1}, "between 0 and"),
    ("delay", {"delay_ms": SPAN_MS_MAX + 1}, "between 0 and"),
    ("run_at", {"run_at": 5, "delay_ms": 0}, "run_at and delay exclude each other"),
    ("run_at", {"run_at": -1}, "must be a time within the next ten years"),
    ("run_at", {"run_at": START_AT + SPAN_MS_MAX + 1}, "within the next ten years"),
    (
        "cwd",
        {"cwd": ""},
        "must be an absolute path, or begin with ~ for the account's home, not ''",
    ),
    ("cwd", {"cwd": "tmp"}, "must be an absolute path, or begin with ~"),
    ("cwd", {"cwd": "~alice"}, "or begin with ~ for the account's home, not '~alice'"),
    ("cwd", {"cwd": "/" * 4096}, "at most 4095 bytes"),
    ("cwd", {"cwd": "/\0"}, "NUL"),
    ("env", {"env": {"": "x"}}, "must be NAME=VALUE without NUL and with a name"),
    ("env", {"env": {"A=B": "x"}}, "got 'A=B'"),
    ("env", {"env": {"A": "\0"}}, "NUL"),
    ("env", {"env": {"A": "é" * (COMMAND_BYTES_MAX // 2)}}, f"at most {COMMAND_BYTES_MAX} bytes"),
    ("env", {"env": dict.fromkeys("ab", "x" * 70_000)}, f"at most {ENV_BYTES_MAX} bytes"),
]


@pytest.mark.parametrize(
    ("field", "fields", "rule"), RULES, ids=[f"{n}-{rule[0]}" for n, rule in enumerate(RULES)]
)
def test_every_refusal_names_the_field_and_the_rule(
    field: str, fields: dict[str, Any], rule: str
) -> None:
    """
    A broken rule is one line that names the field and what would be right; control characters of
    the input are not repeated, nor all of it.
    """
    talk = Conversation()
    if not fields.keys() & {"command", "argv", "script"} and fields:
        fields = {"command": "x", **fields}
    refused = talk.refused(Enqueue(jobs=[JobSpec(**fields)]))
    assert ("usage", field, None) == (refused.code, refused.field, refused.index)
    assert field in refused.message
    assert rule in refused.message
    assert refused.message.isprintable()
    assert len(refused.message) < 200


def test_the_limits_themselves_are_allowed() -> None:
    """
    What is exactly at a limit is within it.
    """
    talk = Conversation(workers=0)
    for fields in (
        {"command": "x" * COMMAND_BYTES_MAX},
        {"script": "x" * JOB_BYTES_MAX},
        {"argv": ["x", "x" * COMMAND_BYTES_MAX, "x" * COMMAND_BYTES_MAX]},
        {"id": "é" * ID_CHARS_MAX},
        {"priority": PRIORITY_MAX},
        {"priority": -PRIORITY_MAX},
        {"max_retries": RETRIES_MAX},
        {"timeout_ms": 1},
        {"kill_after_ms": 0},
        {"delay_ms": SPAN_MS_MAX},
        {"run_at": START_AT + SPAN_MS_MAX},
        {"cwd": "/" + "x" * 4094},
        {"id": "a-1-b.c_d:e@f#g"},
    ):
        talk.enqueue(**fields)


def test_a_batch_is_refused_as_a_whole_for_what_all_its_jobs_share() -> None:
    """
    No jobs, too many, a bad environment, an overlong request id.
    """
    talk = Conversation(workers=0)
    job = JobSpec(command="x")
    for request, field, rule in (
        (Enqueue(jobs=[]), "jobs", "must not be empty"),
        (Enqueue(jobs=[job] * (BATCH_JOBS_MAX + 1)), "jobs", f"at most {BATCH_JOBS_MAX} jobs"),
        (Enqueue(jobs=[job], env=pack_variables({"": "x"})), "env", "NAME=VALUE"),
        (Enqueue(jobs=[job], request_id="x" * 129), "request_id", "at most 128 characters"),
    ):
        refused = talk.refused(request)
        assert ("usage", field) == (refused.code, refused.field)
        assert rule in refused.message


def test_a_batch_that_the_journal_could_not_take_is_refused() -> None:
    """
    What jobs share is spelled out in each record: a batch that is small on the wire may be too
    large for the journal.
    """
    talk = Conversation(workers=0, replay_every=0)
    specs = [JobSpec(command="x")] * BATCH_JOBS_MAX
    refused = talk.refused(Enqueue(jobs=specs, cwd="/" + "x" * 1000))
    assert ("usage", "jobs") == (refused.code, refused.field)
    assert "the jobs of a batch must have at most 6291456 bytes in all; split it" == refused.message
    assert BATCH_JOBS_MAX == len(talk.request(Enqueue(jobs=specs, cwd="/" + "x" * 200)).ids)


def test_a_full_queue_refuses_jobs_until_some_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The number of jobs that are kept has a limit; the refusal says how to make room.
    """
    monkeypatch.setattr(admission, "JOBS_MAX", 3)
    talk = Conversation()
    for _ in range(2):
        talk.exit(talk.enqueue())
    refused = talk.refused(Enqueue(jobs=[JobSpec(command="x")] * 2))
    assert ("try_later", "jobs") == (refused.code, refused.field)
    assert "there are 2 jobs of at most 3" in refused.message
    talk.act("prune", "1")
    talk.request(Enqueue(jobs=[JobSpec(command="x")] * 2))


def test_a_full_disk_refuses_jobs_and_starts_nothing_but_records_ends() -> None:
    """
    While the disk is full enqueues are refused, pending jobs say why they wait, running ones end
    and are recorded; with room everything goes on by itself.
    """
    talk = Conversation(workers=1)
    running, waiting = talk.enqueue(), talk.enqueue()
    talk.storage(full=True)
    refused = talk.refused(Enqueue(jobs=[JobSpec(command="x")]))
    assert "try_later" == refused.code
    assert "the disk of the journal is full; make room, then try again" == refused.message
    talk.exit(running)
    assert ["completed", "pending"] == talk.states(running, waiting)
    assert talk.detail(waiting).why.startswith("the disk of the journal is full")
    talk.storage(full=False)
    assert "processing" == talk.state(waiting)
