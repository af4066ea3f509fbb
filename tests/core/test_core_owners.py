"""
Jobs that an admin enqueues for another account: whose they are, and what they take over.
"""

from typing import Any

import pytest
from conversation import Conversation

from queuectl.environment import pack_variables
from queuectl.protocol import Enqueue, Enqueued, JobSpec, List, Logs, Refused, Show
from queuectld.core.admission import ACCOUNTS_MAX
from queuectld.core.effects import StartRun
from queuectld.core.host import Account, Host
from queuectld.core.owners import PERSONAL
from queuectld.core.peer import EVERYBODY, Peer

ALICE = Peer(1001, "alice")
CAROL = Peer(1003, "carol", admin=True)
ROOT = Peer(0, "root", admin=True)
HOST = Host(
    {
        "alice": Account(1001, "alice", "/home/alice"),
        "carol": Account(1003, "carol", "/home/carol"),
        "daemon": Account(1, "daemon", ""),
    }
)
ENV = {"PATH": "/root/bin:/bin", "HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "LANG": "C"}


@pytest.fixture
def talk() -> Conversation:
    return Conversation(workers=1)


def ask(talk: Conversation, peer: Peer, *jobs: JobSpec, host: Host = HOST, **fields: Any) -> Any:
    """
    Enqueue with what an admin's session brings along.
    """
    request = Enqueue(jobs=list(jobs), env=pack_variables(ENV), cwd="/root", **fields)
    return talk.request(request, peer, host)


def job(**fields: Any) -> JobSpec:
    return JobSpec(command="true", **fields)


def started(talk: Conversation) -> StartRun:
    (effect,) = [each for each in talk.effects if isinstance(each, StartRun)]
    return effect


@pytest.mark.parametrize("admin", [ROOT, CAROL], ids=["root", "admin"])
def test_the_job_is_the_accounts(talk: Conversation, admin: Peer) -> None:
    """
    It runs as that account, which sees it whole and by its id; the admin sees it like any other
    job of others. So it is after a restart.
    """
    answer = ask(talk, admin, job(user="alice", id="backup"))
    start = started(talk)
    assert (1001, "alice") == (start.uid, start.user)
    # Ids are each account's own: what the admin is told means the job to an admin.
    assert ["1"] == answer.ids
    talk.restart()
    own = talk.request(Show(id="backup"), ALICE)
    assert ("true", "alice", admin.user) == (own.job.command, own.job.user, own.job.enqueued_by)
    others = talk.request(Show(id="1"), admin)
    assert ("(another account's)", {}) == (others.job.command, others.env)
    refused = talk.request(Show(id="backup"), admin)
    hint = "no job 'backup' of yours; name the jobs of others by number"
    assert ("not_found", hint) == (refused.code, refused.message)
    assert "no job '7'" == talk.request(Show(id="7"), admin).message
    assert "by number" in talk.request(Show(id="2026-01-backup"), admin).message
    bob = talk.request(Show(id="backup"), Peer(1002, "bob"))
    assert "no job 'backup'" == bob.message
    assert "not_found" == talk.request(Show(id="last"), admin).code


def test_what_describes_the_admins_session_stays_behind(talk: Conversation) -> None:
    """
    The directory is the account's home and the admin's PATH, HOME and the like are not there. What
    was asked for explicitly is.
    """
    ask(talk, ROOT, job(user="alice"))
    start = started(talk)
    assert "/home/alice" == start.cwd
    given = {name for name in start.env if not name.startswith("QUEUECTL_")}
    assert {"LANG"} == given

    other = Conversation()
    ask(other, ROOT, job(user="alice", cwd="/srv", env={"PATH": "/opt/bin"}))
    start = started(other)
    assert ("/srv", "/opt/bin") == (start.cwd, start.env["PATH"])
    assert PERSONAL & start.env.keys() == {"PATH"}


def test_one_batch_may_have_jobs_of_many(talk: Conversation) -> None:
    """
    Each is its account's, with names of its own; what was the admin's own keeps everything.
    """
    talk.request(Enqueue(jobs=[job(hold=True, id="2")]), ROOT)
    mine = [job(user="alice", id="a"), job(id="a"), job(user="root"), job(user="carol", id="a")]
    answer = ask(talk, ROOT, *mine)
    # "2" means root's own job with that id: no job that root is told of gets that number.
    assert ["3", "a", "5", "6"] == answer.ids
    env = talk.request(Show(id="a"), ROOT).env
    assert ENV == env
    assert {"LANG": "C"} == talk.request(Show(id="a"), ALICE).env
    refused = ask(talk, ROOT, job(user="alice", id="b"), job(user="alice", id="b"))
    assert ("conflict", 1) == (refused.code, refused.index)
    # A home that is no place to be.
    assert isinstance(ask(talk, ROOT, job(user="daemon", id="d")), Enqueued)
    daemon = Peer(1, "daemon")
    assert "/" == talk.request(Show(id="d"), daemon).job.cwd


def test_a_repeated_request_is_known_by_who_sent_it(talk: Conversation) -> None:
    """
    The admin's request id finds the jobs that it made for others, also after a restart, and the
    account itself may use the same.
    """
    first = ask(talk, ROOT, job(user="alice", id="x"), request_id="r", want_jobs=True)
    talk.restart()
    again = ask(talk, ROOT, job(user="alice", id="x"), request_id="r", want_jobs=True)
    assert (["1"], True) == (again.ids, again.existing)
    assert first.jobs[0].id == again.jobs[0].id
    talk.advance(0)
    talk.exit("1", 0)
    talk.act("prune", "1")
    # The name of a job of others is none of the admin's, also when the job is forgotten.
    gone = ask(talk, ROOT, job(user="alice", id="x"), request_id="r")
    assert (["1"], True) == (gone.ids, gone.existing)
    own = talk.request(Enqueue(jobs=[job()], request_id="r"), ALICE)
    assert (["2"], False) == (own.ids, own.existing)


def test_who_may_not_is_told_before_anybody_is_looked_up(talk: Conversation) -> None:
    """
    A member is refused for every name but the own one, whether there is such an account or not.
    """
    answers = [ask(talk, ALICE, job(user=name)) for name in ("carol", "nobody-at-all", "")]
    assert {"denied"} == {answer.code for answer in answers}
    assert 1 == len({answer.message for answer in answers})
    assert "queuectl-admin" in answers[0].message
    assert isinstance(ask(talk, ALICE, job(user="alice"), host=Host()), Enqueued)
    assert "/root" == talk.request(Show(id="last"), ALICE).job.cwd


def test_an_account_that_is_not_there(talk: Conversation) -> None:
    """
    It is refused now, not when the job would start; in a partial batch the others are made.
    """
    refused = ask(talk, ROOT, job(user="alcie"))
    assert ("usage", "user") == (refused.code, refused.field)
    assert "not 'alcie'" in refused.message
    answer = ask(talk, ROOT, job(user="alcie"), job(user="alice"), partial=True)
    assert [None, "1"] == answer.ids
    assert "user" == answer.errors[0].field


def test_accounts_of_one_request_are_few(talk: Conversation) -> None:
    """
    Looking them up keeps everybody waiting.
    """
    refused = ask(talk, ROOT, *[job(user=f"u{n}") for n in range(ACCOUNTS_MAX + 1)])
    assert isinstance(refused, Refused)
    assert str(ACCOUNTS_MAX) in refused.message


def test_in_user_mode_there_is_one_account(talk: Conversation) -> None:
    """
    Naming it says nothing new; another is refused with what to do instead.
    """
    host = Host({"me": Account(None, "me", "/home/me"), "alice": HOST.accounts["alice"]})
    answer = ask(talk, EVERYBODY, job(user="me", id="x"), host=host)
    assert ["x"] == answer.ids
    start = started(talk)
    assert (None, "/root", ENV["PATH"]) == (start.uid, start.cwd, start.env["PATH"])
    refused = ask(talk, EVERYBODY, job(user="alice"), host=host)
    assert ("denied", "user") == (refused.code, refused.field)
    assert "machine's queue" in refused.message


def test_no_more_is_stored_than_is_used(talk: Conversation) -> None:
    """
    An environment that no job got is not remembered. What is, is each account's own, for it counts
    against what the account may have.
    """
    ask(talk, ROOT, job(user="alice"))
    assert [{"LANG": "C"}] == [talk.queue.state.env(n) for n in talk.queue.state.environments]
    request = Enqueue(jobs=[job(), job(user="alice")], env=pack_variables({"LANG": "de"}))
    assert isinstance(talk.request(request, ROOT, HOST), Enqueued)
    owners = [each.owner for each in talk.queue.state.environments.values()]
    assert [ALICE.uid, ROOT.uid, ALICE.uid] == owners


def test_variables_of_many_accounts_must_fit_into_one_batch(talk: Conversation) -> None:
    """
    Each account has the variables once more, and all go to the journal in one piece.
    """
    names = [f"user{uid}" for uid in range(2000, 2080)]
    host = Host({name: Account(2000 + n, name, "/") for n, name in enumerate(names)})
    jobs = [job(user=name) for name in names]
    refused = talk.request(Enqueue(jobs=jobs, env=pack_variables({"A": "x" * 100_000})), ROOT, host)
    assert isinstance(refused, Refused)
    assert ("usage", "jobs", {}) == (refused.code, refused.field, talk.queue.state.environments)


def test_ids_are_the_accounts_own(talk: Conversation) -> None:
    """
    An id that the account has is taken, whoever asks; one that the admin has is not.
    """
    talk.request(Enqueue(jobs=[job(id="hers", hold=True)]), ALICE)
    talk.request(Enqueue(jobs=[job(id="mine", hold=True)]), ROOT)
    refused = ask(talk, ROOT, job(user="alice", id="hers"))
    assert ("conflict", "id") == (refused.code, refused.field)
    assert isinstance(ask(talk, ROOT, job(user="alice", id="mine")), Enqueued)


def test_priority_follows_who_asks(talk: Conversation) -> None:
    """
    An admin may put another's job before others.
    """
    assert isinstance(ask(talk, CAROL, job(user="alice", priority=5)), Enqueued)
    (view,) = talk.request(List(), CAROL).jobs
    assert (5, "alice") == (view.priority, view.user)
    assert "not_found" == talk.request(Logs(id="1"), Peer(1002, "bob")).code


def test_output_to_a_journal_that_does_not_listen(talk: Conversation) -> None:
    """
    It is refused; where one listens it is the job's from then on.
    """
    refused = ask(talk, ALICE, job(output="journal"))
    assert ("usage", "output") == (refused.code, refused.field)
    answer = ask(talk, ALICE, job(output="journal"), host=Host(has_journal=True))
    talk.restart()
    assert "journal" == talk.request(Show(id=answer.ids[0]), ALICE).job.output
