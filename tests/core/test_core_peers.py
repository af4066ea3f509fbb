"""
System mode: whose jobs they are, who sees them, and who may change what is everybody's.
"""

from typing import Any

import pytest
from conversation import Conversation

from queuectl.environment import pack_variables
from queuectl.protocol import (
    Act,
    Acted,
    DeleteQueue,
    Enqueue,
    Enqueued,
    JobDetail,
    Jobs,
    JobSpec,
    List,
    ListWorkers,
    Logs,
    Refused,
    Selection,
    SetConfig,
    SetQueue,
    Show,
    Shutdown,
    StartWorkers,
    StopWorkers,
    Wait,
)
from queuectld.core.effects import StartRun
from queuectld.core.peer import Peer
from queuectld.core.views import job_counts

ALICE = Peer(1001, "alice")
BOB = Peer(1002, "bob")
CAROL = Peer(1003, "carol")
ROOT = Peer(0, "root", admin=True)


@pytest.fixture
def talk() -> Conversation:
    return Conversation(workers=1)


def enqueue(talk: Conversation, peer: Peer, **fields: Any) -> str:
    spec = JobSpec(**{"command": "true", **fields})
    answer = talk.request(Enqueue(jobs=[spec], env=pack_variables({"A": peer.user})), peer)
    assert isinstance(answer, Enqueued), answer
    (job_id,) = answer.ids
    assert job_id is not None
    return job_id


def listed(talk: Conversation, peer: Peer) -> list[str]:
    answer = talk.request(List(), peer)
    assert isinstance(answer, Jobs)
    return [job.id for job in answer.jobs]


def test_a_job_runs_as_the_account_that_enqueued_it(talk: Conversation) -> None:
    """
    The account comes with the connection; it is recorded with the job and handed to the runner.
    """
    enqueue(talk, ALICE)

    (start,) = [effect for effect in talk.effects if isinstance(effect, StartRun)]
    assert (1001, "alice") == (start.uid, start.user)
    talk.restart()
    assert [] == listed(talk, BOB)
    assert ["1"] == listed(talk, ALICE)


@pytest.mark.parametrize(
    "request_for",
    [
        lambda job: Show(id=job),
        lambda job: Logs(id=job),
        lambda job: Wait(ids=[job]),
        lambda job: List(ids=[job]),
        lambda job: List(after=job),
    ],
    ids=["show", "logs", "wait", "list", "after"],
)
@pytest.mark.parametrize("by", ["number", "name"])
def test_a_job_of_another_account_does_not_exist(
    talk: Conversation, request_for: Any, by: str
) -> None:
    """
    The answer is the same as for a job that never was: nobody learns of others' ids.
    """
    job = enqueue(talk, ALICE) if by == "number" else enqueue(talk, ALICE, id="secret")
    never = "2" if by == "number" else "nothing"

    refused = talk.request(request_for(job), BOB)
    assert isinstance(refused, Refused)
    assert refused.code == "not_found"
    as_if = talk.request(request_for(never), BOB)
    assert refused.message.replace(job, never) == as_if.message


@pytest.mark.parametrize("action", ["cancel", "retry", "hold", "release", "purge", "prune"])
def test_no_verb_reaches_another_accounts_job(talk: Conversation, action: Any) -> None:
    """
    By id it does not exist; a filter passes over it.
    """
    enqueue(talk, ALICE)
    job = enqueue(talk, ALICE, id="waits")
    for select in (Selection(ids=[job]), Selection(ids=["1-2"])):
        answer = talk.request(Act(action=action, select=select), BOB)
        assert isinstance(answer, Acted)
        assert ([], ["not_found"]) == (answer.ids, [error.code for error in answer.errors])
    answer = talk.request(Act(action=action, select=Selection(all=True)), BOB)
    assert ([], []) == (answer.ids, answer.errors)
    assert talk.request(Show(id=job), ALICE).job.state == "pending"


def test_each_account_has_names_and_a_last_job_of_its_own(talk: Conversation) -> None:
    """
    A name that another account took is free; `last` is the last of one's own.
    """
    assert "backup" == enqueue(talk, ALICE, id="backup")
    assert "backup" == enqueue(talk, BOB, id="backup")
    assert "3" == enqueue(talk, ALICE)
    assert 2 == talk.request(Show(id="last"), BOB).job.number
    assert 1 == talk.request(Show(id="backup"), ALICE).job.number
    refused = talk.request(Enqueue(jobs=[JobSpec(command="true", id="backup")]), BOB)
    assert refused.code == "conflict"


def test_a_request_id_is_remembered_for_its_own_account(talk: Conversation) -> None:
    """
    Another account's request with the same id is another request.
    """
    request = Enqueue(jobs=[JobSpec(command="true")], request_id="x")
    assert ["1"] == talk.request(request, ALICE).ids
    assert ["2"] == talk.request(request, BOB).ids
    again = talk.request(request, ALICE)
    assert (["1"], True) == (again.ids, again.existing)


def test_an_admin_manages_all_but_reads_no_commands(talk: Conversation) -> None:
    """
    Environment and command are shown to their owner alone.
    """
    job = enqueue(talk, ALICE, command="echo secret", hold=True)
    detail = talk.request(Show(id=job), ROOT)
    assert isinstance(detail, JobDetail)
    assert ({}, None) == (detail.env, detail.job.cwd)
    assert "secret" not in str(detail)
    assert "echo secret" == talk.request(Show(id=job), ALICE).job.command
    assert [job] == talk.request(Act(action="release", select=Selection(ids=[job])), ROOT).ids


def test_workers_show_others_jobs_as_busy_slots_only(talk: Conversation) -> None:
    """
    That a slot is taken is everybody's business; by what is not. An admin is told whose job it is
    and its number, which is what an admin calls it.
    """
    enqueue(talk, ALICE, id="report", command="echo secret")
    for peer, shown in (
        (ALICE, ("report", 1, "alice", "echo secret")),
        (BOB, (None, None, None, None)),
        (ROOT, ("report", 1, "alice", None)),
    ):
        (worker,) = talk.request(ListWorkers(), peer).workers
        assert "busy" == worker.state
        assert shown == (worker.job, worker.number, worker.user, worker.command)


def test_counts_are_of_the_jobs_that_one_sees(talk: Conversation) -> None:
    """
    One's own; an admin's are all; of who has none there are zeros.
    """
    for peer in (ALICE, BOB, BOB):
        enqueue(talk, peer, hold=True)
    enqueue(talk, ALICE)
    seen = [
        (counts["held"], counts["processing"], sum(counts.values()))
        for counts in (job_counts(talk.queue, each) for each in (ALICE, BOB, ROOT, CAROL))
    ]
    assert [(1, 1, 2), (2, 0, 2), (3, 1, 4), (0, 0, 0)] == seen


@pytest.mark.parametrize(
    "request_",
    [
        StartWorkers(count=1),
        StopWorkers(),
        SetConfig(key="max_retries", value=1),
        SetQueue(name="q", concurrency=1),
        DeleteQueue(name="q"),
        Shutdown(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_everybodys_is_changed_by_admins(talk: Conversation, request_: Any) -> None:
    """
    Others are refused, and nothing changes.
    """
    refused = talk.request(request_, ALICE)
    assert isinstance(refused, Refused)
    assert refused.code == "denied"
    assert [] == talk.records


def test_priority_above_zero_is_the_admins(talk: Conversation) -> None:
    """
    Nobody overtakes others by saying so.
    """
    refused = talk.request(Enqueue(jobs=[JobSpec(command="true", priority=1)]), ALICE)
    assert ("denied", "priority") == (refused.code, refused.field)
    enqueue(talk, ALICE, priority=-5)
    enqueue(talk, ROOT, priority=10)
