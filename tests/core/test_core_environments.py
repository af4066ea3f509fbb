"""
The variables that jobs share: stored once, each account's own, and read from whatever bytes come.
"""

import msgspec
import pytest
from conversation import Conversation

from queuectl.environment import pack_variables
from queuectl.protocol import Enqueue, JobSpec
from queuectld.core.peer import Peer

JOB = JobSpec(command="x")
ALICE = Peer(1001, "alice")
BOB = Peer(1002, "bob")


def test_jobs_with_the_same_environment_share_it() -> None:
    """
    An environment is stored once for as long as a job has it, in whatever order it was given; no
    two environments are taken for each other.
    """
    talk = Conversation()
    environments = [{"A": "1", "B": "2"}, {"B": "2", "A": "1"}, {"A": "2"}, {}, {"A": "2"}]
    for env in environments:
        (job,) = talk.request(Enqueue(jobs=[JobSpec(command="x")], env=pack_variables(env))).ids
        assert env == talk.detail(job).env
        talk.restart(snapshot=True)
    assert 3 == len(talk.queue.state.environments)
    for job in ("3", "5", "1", "2"):
        talk.act("cancel", job)
        if job in talk.processing():
            talk.exit(job)
        talk.act("prune", job)
    (job,) = talk.request(Enqueue(jobs=[JobSpec(command="x")], env=pack_variables({"C": "3"}))).ids
    assert [{}, {"C": "3"}] == [talk.detail(each).env for each in ("4", job)]
    assert 2 == len(talk.queue.state.environments)


@pytest.mark.parametrize("env", [{}, {"A": "1"}])
def test_a_forgotten_environment_is_stored_anew(env: dict[str, str]) -> None:
    """
    Who asks for the variables of the request before shares them, unless its jobs were forgotten.
    """
    talk = Conversation()
    for _ in range(2):
        for job in ("a", "b"):
            talk.request(Enqueue(jobs=[JobSpec(command="x", id=job)], env=pack_variables(env)))
            assert (env, 1) == (talk.detail(job).env, len(talk.queue.state.environments))
        talk.exit("a")
        talk.exit("b")
        talk.act("prune", "a", "b")
        assert {} == talk.queue.state.environments


def test_the_same_bytes_are_each_accounts_own() -> None:
    """
    Accounts that bring the same variables in turn do not share them: they count against what each
    may have, and are forgotten with its jobs.
    """
    talk = Conversation(workers=0)
    for _ in range(3):
        for peer in (ALICE, BOB):
            talk.request(Enqueue(jobs=[JOB], env=pack_variables({"A": "1"})), peer)
    stored = talk.queue.state.environments.values()
    assert [(1001, 3), (1002, 3)] == [(each.owner, each.jobs) for each in stored]


@pytest.mark.parametrize(
    ("packed", "fault"),
    [
        (b"\x05", "Expected `object`, got `int` - at `$.env`"),
        (b"\xc0", "Expected `object`, got `None` - at `$.env`"),
        (b"\x81\xa1A\x01", "Expected `str`, got `int` - at `$.env[...]`"),
        (b"\x81\x01\xa1A", "Expected `str`, got `int` - at `key` in `$.env`"),
        (b"\x81\xa1A\xa1\xff", "'utf-8' codec can't decode byte 0xff"),
    ],
    ids=["number", "nil", "value", "name", "text"],
)
def test_variables_that_are_not_a_map_of_strings_are_refused(packed: bytes, fault: str) -> None:
    """
    The fault is named as that of any other field, in every request that has it, whatever came
    before; nothing is made.
    """
    talk = Conversation(workers=0)
    for _ in range(2):
        refused = talk.refused(Enqueue(jobs=[JOB], env=msgspec.Raw(packed)))
        assert ("usage", "env") == (refused.code, refused.field)
        assert refused.message.startswith(f"the request is malformed: {fault}")
        assert {} == talk.queue.state.environments
    for _ in range(3):
        talk.request(Enqueue(jobs=[JOB], env=pack_variables({"A": "1"})))
    refused = talk.refused(Enqueue(jobs=[JOB], env=msgspec.Raw(packed)))
    assert "env" == refused.field
    assert 3 == len(talk.queue.state.jobs)
