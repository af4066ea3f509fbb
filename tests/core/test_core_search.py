"""
Lists that look for a text, or for the jobs of one account.
"""

import pytest
from conversation import Conversation

from queuectl.protocol import SEARCH_CHARS_MAX, Enqueue, Jobs, JobSpec, List
from queuectld.core import selection
from queuectld.core.peer import Peer

ALICE = Peer(1001, "alice")
BOB = Peer(1002, "bob")
ROOT = Peer(0, "root", admin=True)


def found(talk: Conversation, peer: Peer | None = None, **request: object) -> list[str]:
    """
    Return the ids of the jobs that match, over all pages.
    """
    ids: list[str] = []
    before = None
    while True:
        ask = List(before_number=before, **request)  # type: ignore[arg-type]
        page = talk.request(ask, peer) if peer is not None else talk.request(ask)
        assert isinstance(page, Jobs), page
        ids += [job.id for job in page.jobs]
        if page.next_before is None:
            return ids
        before = page.next_before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nightly", ["nightly-1"]),
        ("NIGHTLY", ["nightly-1"]),
        ("make -j2", ["argv"]),
        ("MAKE", ["argv", "make"]),
        ("build.sh", ["script"]),
        ("straße", ["german"]),
        ("STRASSE", ["german"]),
        ("nothing like it", []),
        ("secret", []),
        ("", ["german", "script", "argv", "make", "nightly-1"]),
    ],
)
def test_a_text_is_looked_for_in_the_id_and_in_what_runs(text: str, expected: list[str]) -> None:
    """
    As it is shown, whatever its case; not in the directory, the variables or a script's text.
    """
    talk = Conversation(workers=0, replay_every=0)
    talk.enqueue("true", id="nightly-1", cwd="/secret")
    talk.enqueue("make all", id="make", env={"SECRET": "secret"})
    talk.enqueue(argv=["make", "-j2"], id="argv")
    talk.enqueue(script="secret", script_name="build.sh", id="script")
    talk.enqueue("cd Straße", id="german")

    assert expected == found(talk, search=text)


def test_a_job_without_an_id_is_found_by_its_number() -> None:
    """
    Its number is what it is called.
    """
    talk = Conversation(workers=0, replay_every=0)
    for _ in range(12):
        talk.enqueue()
    assert ["12", "11", "10", "1"] == found(talk, search="1")


@pytest.mark.parametrize("states", [[], ["held"], ["pending"]])
@pytest.mark.parametrize("limit", [1, 100])
def test_one_request_searches_a_bounded_part(
    monkeypatch: pytest.MonkeyPatch, states: list[str], limit: int
) -> None:
    """
    The answer is then a short page, even an empty one, with the place to go on; together the pages
    are whole.
    """
    monkeypatch.setattr(selection, "SEARCH_BYTES_MAX", 500)
    talk = Conversation(workers=0, replay_every=0)
    expected = []
    for n in range(40):
        job = talk.enqueue("find me" if n % 13 == 0 else "echo", hold=n % 2 == 0)
        if n % 13 == 0 and (not states or states == ["held"] * (n % 2 == 0)):
            expected.append(job)
        if n % 13 == 0 and states == ["pending"] and n % 2:
            expected.append(job)
    first = talk.request(List(states=states, search="find"))  # type: ignore[arg-type]
    assert first.next_before is not None
    assert len(first.jobs) < len(expected) or not first.jobs
    assert expected[::-1] == found(talk, states=states, search="find", limit=limit)


def test_a_text_that_is_too_long_is_refused() -> None:
    """
    With the limit in the message.
    """
    refused = Conversation().refused(List(search="x" * (SEARCH_CHARS_MAX + 1)))
    assert ("usage", "search") == (refused.code, refused.field)
    assert str(SEARCH_CHARS_MAX) in refused.message


def enqueue(talk: Conversation, peer: Peer, command: str, job_id: str) -> None:
    talk.request(Enqueue(jobs=[JobSpec(command=command, id=job_id)]), peer)


def test_a_search_tells_nobody_what_others_run() -> None:
    """
    An admin finds another account's job by its id, not by its command, which is not shown either;
    a member does not find it at all.
    """
    talk = Conversation(workers=0)
    enqueue(talk, ALICE, "curl --token hunter2", "fetch")

    assert ["fetch"] == found(talk, ALICE, search="hunter2")
    assert [] == found(talk, ROOT, search="hunter2")
    assert ["fetch"] == found(talk, ROOT, search="FETCH")
    assert [] == found(talk, BOB, search="fetch")


def test_an_admin_lists_the_jobs_of_one_user() -> None:
    """
    Members have nobody's but their own to list, whoever they ask for.
    """
    talk = Conversation(workers=0)
    for peer, job_id in ((ALICE, "a1"), (BOB, "b1"), (ALICE, "a2")):
        enqueue(talk, peer, "true", job_id)

    assert ["a2", "a1"] == found(talk, ROOT, user="alice")
    assert ["a2", "a1"] == found(talk, ROOT, user="alice", states=["pending"], limit=1)
    assert [] == found(talk, ROOT, user="nobody")
    assert ["b1"] == found(talk, BOB, user="bob")
    assert [] == found(talk, BOB, user="alice")
