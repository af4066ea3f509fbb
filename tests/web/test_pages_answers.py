"""
Answers that pages share, without a daemon: who is shown which, and how often it is asked.
"""

import asyncio

import pytest

from queuectl.web.pages_answers import Rounds


class Question:
    """
    Something that is asked: each time it waits to be answered, with how often it was asked.
    """

    def __init__(self) -> None:
        self.count = 0
        self.answers: list[asyncio.Future[int]] = []

    async def ask(self) -> int:
        self.count += 1
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer


async def settle() -> None:
    """
    Let every task go on as far as it can: each of them waits for a future of a test.
    """
    for _ in range(10):
        await asyncio.sleep(0)


def test_nobody_is_shown_what_was_before_they_asked() -> None:
    """
    Those who come while a question is on its way share the next one, which is asked after it.
    """

    async def conversation() -> None:
        rounds: Rounds[int] = Rounds()
        question = Question()
        first = asyncio.create_task(rounds.get("alice", question.ask))
        await settle()
        later = [asyncio.create_task(rounds.get("alice", question.ask)) for _ in range(3)]
        await settle()
        assert 1 == question.count
        question.answers[0].set_result(1)
        await settle()
        assert 2 == question.count
        assert 1 == await first
        question.answers[1].set_result(2)
        assert [2, 2, 2] == await asyncio.gather(*later)
        again = asyncio.create_task(rounds.get("alice", question.ask))
        await settle()
        question.answers[2].set_result(3)
        assert 3 == await again

    asyncio.run(conversation())


def test_others_and_those_who_leave() -> None:
    """
    Another visitor's question is another one; who leaves takes the answer from nobody; what goes
    wrong, all who asked hear, and the next question is asked all the same.
    """

    async def conversation() -> None:
        rounds: Rounds[int] = Rounds()
        question = Question()
        alice = asyncio.create_task(rounds.get("alice", question.ask))
        await settle()
        bob = asyncio.create_task(rounds.get("bob", question.ask))
        waiting = asyncio.create_task(rounds.get("alice", question.ask))
        await settle()
        assert 2 == question.count
        alice.cancel()
        question.answers[0].set_result(1)
        question.answers[1].set_exception(OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            await bob
        await settle()
        question.answers[2].set_result(2)
        assert 2 == await waiting

    asyncio.run(conversation())
