"""
Requirement: sessions, links and failures are bounded in number and in time. The clock is told.
"""

import asyncio

import pytest

from queuectl.web import sessions as limits
from queuectl.web.sessions import Sessions
from queuectl.web.throttle import (
    ADDRESS_FAILURES_MAX,
    ADDRESS_SECONDS,
    ADDRESSES_MAX,
    ALL_FAILURES_MAX,
    Throttle,
)


def test_a_session_ends_when_nobody_uses_it() -> None:
    """
    Each use begins its idle time anew; after that its cookie is worth nothing.
    """
    sessions = Sessions()
    secret, session = sessions.begin("t", 1000, 0.0)
    idle = limits.IDLE_SECONDS_MAX
    assert session is sessions.find(secret, idle)
    assert session is sessions.find(secret, 2 * idle)
    assert sessions.find(secret, 3 * idle + 1) is None
    assert session.ended
    assert 0 == len(sessions)


def test_a_session_ends_when_it_is_old() -> None:
    """
    However much it is used.
    """
    sessions = Sessions()
    secret, session = sessions.begin("t", 1000, 0.0)
    now = 0.0
    while now <= limits.AGE_SECONDS_MAX:
        assert session is sessions.find(secret, now)
        now += limits.IDLE_SECONDS_MAX / 2
    assert sessions.find(secret, now) is None


def test_sessions_are_swept() -> None:
    """
    A session whose browser never comes back is forgotten all the same.
    """
    sessions = Sessions()
    _, session = sessions.begin("t", 1000, 0.0)
    sessions.sweep(limits.IDLE_SECONDS_MAX)
    assert not session.ended
    sessions.sweep(limits.IDLE_SECONDS_MAX + 1)
    assert session.ended


def test_sessions_of_one_account_are_few() -> None:
    """
    Whoever logs in without end, with whatever tokens, loses their own sessions first, and nobody
    else's.
    """
    sessions = Sessions()
    _, other = sessions.begin("other", 1001, 0.0)
    own = [sessions.begin(f"own {i}", 1000, 1.0)[1] for i in range(limits.USER_SESSIONS_MAX + 5)]
    assert [True] * 5 + [False] * limits.USER_SESSIONS_MAX == [each.ended for each in own]
    assert not other.ended


def test_sessions_are_bounded() -> None:
    """
    Of all sessions, the one that was used longest ago ends when there are too many.
    """
    sessions = Sessions()
    made = [sessions.begin(f"{i}", i, 0.0) for i in range(limits.SESSIONS_MAX)]
    sessions.find(made[0][0], 1.0)
    sessions.begin("new", -1, 2.0)
    assert [False, True, False] == [session.ended for _, session in made[:3]]
    assert limits.SESSIONS_MAX == len(sessions)


def test_an_ended_session_takes_its_requests_along() -> None:
    """
    What is being served for it, such as a stream, is cancelled.
    """

    async def run() -> bool:
        sessions = Sessions()
        _, session = sessions.begin("t", 1000, 0.0)
        task = asyncio.create_task(asyncio.Event().wait())
        session.tasks.add(task)
        sessions.end_of_token("t")
        with pytest.raises(asyncio.CancelledError):
            await task
        return session.ended

    assert asyncio.run(run())


def test_a_link_is_good_once_and_not_for_long() -> None:
    """
    A one-time link opens one session, within its time; few are good at the same time.
    """
    sessions = Sessions()
    key = sessions.make_link(0.0)
    assert not sessions.use_link("another", 0.0)
    assert [True, False] == [sessions.use_link(key, limits.LINK_SECONDS_MAX) for _ in range(2)]
    late = sessions.make_link(0.0)
    assert not sessions.use_link(late, limits.LINK_SECONDS_MAX + 1)
    keys = [sessions.make_link(0.0) for _ in range(limits.LINKS_MAX + 1)]
    assert [False, True] == [sessions.use_link(each, 0.0) for each in keys[:2]]


def test_csrf_tokens() -> None:
    """
    Each session has its own.
    """
    sessions = Sessions()
    one, other = (sessions.begin("t", 1000, 0.0)[1] for _ in range(2))
    assert one.has_csrf_token(one.csrf_token)
    assert not one.has_csrf_token(other.csrf_token)
    assert not one.has_csrf_token("é")


def test_an_address_that_fails_must_wait() -> None:
    """
    After some failures one more is allowed each ADDRESS_SECONDS; other addresses are not concerned.
    """
    throttle = Throttle()
    for _ in range(ADDRESS_FAILURES_MAX):
        assert 0 == throttle.wait_seconds("192.0.2.1", 0.0)
        throttle.failed("192.0.2.1", 0.0)
    assert pytest.approx(ADDRESS_SECONDS) == throttle.wait_seconds("192.0.2.1", 0.0)
    assert 0 == throttle.wait_seconds("192.0.2.2", 0.0)
    assert 0 == throttle.wait_seconds("192.0.2.1", ADDRESS_SECONDS)


def test_a_host_has_many_addresses() -> None:
    """
    Of IPv6 a network counts as one.
    """
    throttle = Throttle()
    for i in range(ADDRESS_FAILURES_MAX):
        throttle.failed(f"2001:db8::{i:x}", 0.0)
    assert throttle.wait_seconds("2001:db8::ffff", 0.0) > 0
    assert 0 == throttle.wait_seconds("2001:db8:0:1::1", 0.0)


def test_a_crowd_that_fails_must_wait() -> None:
    """
    Addresses together have an allowance too, and they are not remembered without end.
    """
    throttle = Throttle()
    for i in range(ALL_FAILURES_MAX):
        throttle.failed(f"192.0.2.{i}", 0.0)
    assert throttle.wait_seconds("198.51.100.1", 0.0) > 0
    for i in range(2 * ADDRESSES_MAX):
        throttle.failed(f"10.0.{i >> 8}.{i & 255}", 0.0)
    assert ADDRESSES_MAX == len(throttle._by_address)
