"""
Requirement: pages of the dashboard that see the same are told together when to look, and share what
they then see. Nothing is shared with anybody else, and nothing of a session is shared at all.
"""

import asyncio
import os
import pwd
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import httpx
import pytest
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess
from jinja2 import UndefinedError
from live_clients import event_stream, until_end

from queuectl.client import Client
from queuectl.protocol import Done, JobSpec
from queuectl.tokens import CreateToken, RevokeToken, TokenCreated, id_of
from queuectl.watching import Changed
from queuectl.web import look_feed
from queuectl.web.event_feed import Batch, EventFeed
from queuectl.web.feed import End
from queuectl.web.link import Link
from queuectl.web.look_feed import Look, LookFeed
from queuectl.web.pages_rendering import SAID_COOKIE, shared_fragment

LOOKS = "/looks"
FRAGMENT = "/?fragment=main"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: connects as other accounts")


def newest_jobs(client: httpx.Client) -> list[str]:
    """
    Return the ids that the shared fragment shows.
    """
    answer = client.get(FRAGMENT)
    assert (200, "no-store") == (answer.status_code, answer.headers["cache-control"])
    return re.findall(r'<a class="id" href="/jobs/[^"]+"><bdi>([^<]+)', answer.text)


def csrf_token(client: httpx.Client) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


# --- who shares ----------------------------------------------------------------------------------


def make_job_and_token(uid: int, daemon: DaemonProcess, job_id: str) -> str:
    """
    Make a job as another account, and a token of it.
    """
    os.seteuid(uid)
    try:
        client = Client(daemon.socket)
    finally:
        os.seteuid(0)
    with client:
        client.enqueue([JobSpec(command="true", hold=True, id=job_id)], cwd="/", env={})
        return client.call(CreateToken(scopes=["read"]), TokenCreated).text


@as_root
def test_two_accounts(machine: DaemonProcess, gateways: Callable[..., GatewayProcess]) -> None:
    """
    Each sees its own job and never the other's, whoever looks first.
    """
    uids = sorted({each.pw_uid for each in pwd.getpwall()} - {0, 65534})[:2]
    names = ("of-the-one", "of-the-other")
    tokens = [make_job_and_token(uid, machine, name) for uid, name in zip(uids, names, strict=True)]
    gateway = gateways(machine, "--tokens-only").start()
    one, other = (gateway.token_client(token=token) for token in tokens)
    with event_stream(one, LOOKS), event_stream(other, LOOKS):
        for _ in range(3):
            assert [names[0]] == newest_jobs(one)
            assert [names[1]] == newest_jobs(other)
        for _ in range(3):
            assert [names[1]] == newest_jobs(other)
            assert [names[0]] == newest_jobs(one)


def test_two_sessions(gateway: GatewayProcess, web_daemon: DaemonProcess) -> None:
    """
    Two browsers of one account share what both see. Neither gets the other's CSRF token, nor what
    was said to the other.
    """
    token = gateway.make_token()
    browsers = [gateway.client(Accept="text/html") for _ in range(2)]
    for each in browsers:
        each.post("/login", data={"token": token})
    (job_id,) = web_daemon.enqueue("true", hold=True)
    acting, looking = browsers
    with event_stream(acting, LOOKS), event_stream(looking, LOOKS):
        tokens = [csrf_token(each) for each in browsers]
        assert tokens[0] != tokens[1]
        fields = {"csrf_token": tokens[0], "action": "release", "id": job_id}
        assert 303 == acting.post("/jobs/act", data=fields).status_code
        assert SAID_COOKIE in acting.cookies
        first, second = (each.get(FRAGMENT).text for each in browsers)
        assert first == second
        found = [text for text in (*tokens, "csrf_token", 'id="said"') if text in first]
        assert [] == found
        assert tokens == [csrf_token(each) for each in browsers]


def test_a_form_cannot_be_shared(web_daemon: DaemonProcess) -> None:
    """
    A page with a form has a CSRF token in it: as a shared fragment it is not made at all.
    """
    report = web_daemon.status()
    with pytest.raises(UndefinedError, match="csrf_token"):
        shared_fragment("queues.html", "/queues", report, may_manage=True)


def test_a_token_that_is_revoked(web_daemon: DaemonProcess, gateway: GatewayProcess) -> None:
    """
    It is told that this was all, and what its pages shared is not shown to it any more.
    """
    token = gateway.make_token("read")
    client = gateway.token_client(token=token)
    with event_stream(client, LOOKS) as told:
        assert 200 == client.get(FRAGMENT).status_code
        with Client(web_daemon.socket) as daemon:
            daemon.call(RevokeToken(id=id_of(token)), Done)
        assert "denied" == until_end(told)[-1].data["reason"]
        assert 401 == client.get(FRAGMENT).status_code


# --- when they look ------------------------------------------------------------------------------


def test_a_page_is_told_to_look(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Until it has seen what happened last, though it looked just before that.
    """
    with event_stream(client, LOOKS) as told:
        for _ in range(3):
            newest_jobs(client)
            (job_id,) = web_daemon.enqueue("true", hold=True)
            while job_id != newest_jobs(client)[0]:
                assert "look" == next(told).event


def test_nobody_goes_back(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Who has loaded a whole page is not shown what was before.
    """
    with event_stream(client, LOOKS) as told:
        web_daemon.enqueue("true", hold=True)
        next(told)
        for _ in range(3):
            newest_jobs(client)
            (job_id,) = web_daemon.enqueue("true", hold=True)
            assert f">{job_id}</bdi>" in client.get("/").text
            assert job_id == newest_jobs(client)[0]


class Conversation:
    """
    What some pages are told of events that a test makes up.
    """

    def __init__(self) -> None:
        self.events = EventFeed(Link("/nowhere"))
        self.feed = LookFeed(self._enter)
        self.told: list[int] = []
        self.ends: list[End] = []

    @asynccontextmanager
    async def _enter(self) -> AsyncIterator[EventFeed]:
        yield self.events

    def happens(self) -> None:
        """
        Something.
        """
        self.events.add(Batch(self.events.next, Changed(tables=["queues"]), None), 1, 1)

    async def page(self, number: int) -> None:
        """
        Be a page, to the end.
        """
        self.feed.followers += 1
        async for item in self.feed.follow(self.feed.next):
            if isinstance(item, Look):
                self.told.append(number)
            elif isinstance(item, End):
                self.ends.append(item)

    async def until_told(self, count: int) -> None:
        """
        Return when pages were told so often.
        """
        while len(self.told) < count:
            await asyncio.sleep(0.001)


def run(scenario: Callable[[Conversation], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        conversation = Conversation()
        conversation.feed.start()
        await conversation.feed.begun()
        async with asyncio.timeout(20):
            await scenario(conversation)

    asyncio.run(main())


def test_pages_look_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not all in the same instant: who comes second waits for its turn.
    """
    monkeypatch.setattr(look_feed, "TURN_SECONDS", 3600.0)

    async def scenario(told: Conversation) -> None:
        pages = [asyncio.create_task(told.page(number)) for number in range(3)]
        await asyncio.sleep(0)
        told.happens()
        await told.until_told(1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert [0] == told.told
        for page in pages:
            page.cancel()

    run(scenario)


def test_pages_look_once_in_a_gap() -> None:
    """
    What happens many times in it is one look, of each page; all hear why it ends.
    """

    async def scenario(told: Conversation) -> None:
        pages = [asyncio.create_task(told.page(number)) for number in range(5)]
        await asyncio.sleep(0)
        told.happens()
        await told.until_told(5)
        for _ in range(20):
            told.happens()
            await asyncio.sleep(0.001)
        await told.until_told(10)
        assert [*range(5)] * 2 == told.told
        assert 2 == told.feed.next
        told.feed.stop(End(reason="stopping"))
        await asyncio.gather(*pages)
        assert [End(reason="stopping")] * 5 == told.ends

    run(scenario)


def test_what_pages_share() -> None:
    """
    It is made once, until there is something new to look at or it is forgotten; what goes wrong all
    hear.
    """

    async def scenario(told: Conversation) -> None:
        made = 0

        async def make() -> bytes:
            nonlocal made
            made += 1
            await asyncio.sleep(0)
            return b"%d" % made

        async def fail() -> bytes:
            raise OSError("gone")

        share = told.feed.share
        assert [b"1"] * 3 == await asyncio.gather(*(share("hour", make) for _ in range(3)))
        assert b"1" == await share("hour", make)
        assert b"2" == await share("day", make)
        page = asyncio.create_task(told.page(0))
        await asyncio.sleep(0)
        told.happens()
        await told.until_told(1)
        assert b"3" == await share("hour", make)
        told.feed.forget()
        leaving = asyncio.create_task(share("hour", make))
        await asyncio.sleep(0)
        leaving.cancel()
        assert b"4" == await share("hour", make)
        wrong = await asyncio.gather(*(share("x", fail) for _ in range(2)), return_exceptions=True)
        assert ["gone", "gone"] == [str(each) for each in wrong]
        told.feed.stop(End(reason="stopping"))
        await page

    run(scenario)
