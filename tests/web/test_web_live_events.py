"""
What happens to jobs, live: told to whom, through which filter, and what follows a gap.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess
from live_clients import Told, event_stream, messages_of, open_socket

from queuectl.client import Client
from queuectl.protocol import Queues, SetQueue
from queuectl.web.event_feed import KEPT_CHANGES_MAX

EVENTS = "/api/v1/events"


def changes_until(told: Iterator[Told], state: str) -> list[dict[str, Any]]:
    """
    Return all changes up to one into *state*.
    """
    found: list[dict[str, Any]] = []
    while not found or found[-1]["state"] != state:
        each = next(told)
        assert each.event == "changed", each
        found += each.data["changes"]
    return found


def test_a_job_from_beginning_to_end(
    web_daemon: DaemonProcess, gateway: GatewayProcess, client: httpx.Client
) -> None:
    """
    From `ready` on everything is told, by both ways the same.
    """
    token = client.headers["Authorization"].removeprefix("Bearer ")
    with (
        event_stream(client, EVENTS) as events,
        open_socket(gateway, f"{EVENTS}/socket", token) as socket,
    ):
        messages = messages_of(socket)
        assert "ready" == next(events).event == next(messages).event
        (job_id,) = web_daemon.enqueue("exit 0")
        by_events = changes_until(events, "completed")
        assert by_events == changes_until(messages, "completed")
    assert ["enqueued", "started", "ended"] == [each["what"] for each in by_events]
    assert {job_id} == {each["id"] for each in by_events}
    assert 0 == by_events[-1]["exit_code"]


def test_filters(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Queues and states may be named more than once; what does not pass is not told at all.
    """
    with event_stream(client, f"{EVENTS}?queue=one,two&state=held&state=cancelled") as told:
        assert "ready" == next(told).event
        for queue in ("zero", "one", "two"):
            web_daemon.enqueue("true", hold=True, queue=queue)
        web_daemon.enqueue("true", queue="one")
        web_daemon.enqueue("true", hold=True, queue="one", id="final")
        found = []
        while not found or found[-1]["id"] != "final":
            found += next(told).data["changes"]
    assert ["one", "two", "one"] == [each["queue"] for each in found]
    assert {"held"} == {each["state"] for each in found}
    refused = client.get(f"{EVENTS}?state=running")
    assert (400, "state") == (refused.status_code, refused.json()["field"])


def test_what_else_changes(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Whatever filter one has: what changed as a whole is named.
    """
    with event_stream(client, f"{EVENTS}?queue=none") as told:
        assert "ready" == next(told).event
        with Client(web_daemon.socket) as daemon:
            daemon.call(SetQueue(name="limited", concurrency=2), Queues)
        assert {"changes": [], "tables": ["queues"]} == next(told).data


def test_a_browser_that_comes_back(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    What happened while it was away is told next; where that is not known any more, that is.
    """
    with event_stream(client, EVENTS) as told:
        ready = next(told)
        (first,) = web_daemon.enqueue("true", hold=True)
        last = next(told)
    web_daemon.enqueue("true", hold=True, id="while-away")
    for headers in ({"Last-Event-ID": last.id or ""}, {"Last-Event-ID": ready.id or ""}):
        with event_stream(client, EVENTS, **headers) as told:
            assert headers["Last-Event-ID"] == next(told).id
            ids = [each["id"] for each in next(told).data["changes"]]
            if headers["Last-Event-ID"] == ready.id:
                assert [first] == ids
                ids = [each["id"] for each in next(told).data["changes"]]
            assert ["while-away"] == ids
    for strange in ("other:5", "x", f"{(last.id or '').partition(':')[0]}:999999"):
        with event_stream(client, f"{EVENTS}?after={strange}") as told:
            assert "ready" == next(told).event
            missed = next(told)
            assert ("missed", {"missed_count": None}) == (missed.event, missed.data)


def test_more_than_anybody_reads(web_daemon: DaemonProcess, client: httpx.Client) -> None:
    """
    Told and missed are all that happened, however fast it did.
    """
    count = KEPT_CHANGES_MAX // 5
    with event_stream(client, f"{EVENTS}?state=held&queue=flood") as told:
        assert "ready" == next(told).event
        web_daemon.enqueue(*["true"] * count, hold=True, queue="flood")
        found = missed_count = 0
        while found + missed_count < count:
            each = next(told)
            found += len(each.data.get("changes", ()))
            missed_count += each.data.get("missed_count", 0)
    assert found + missed_count == count
    assert missed_count


def test_the_daemon_restarts(
    daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]
) -> None:
    """
    Nobody knows what happened meanwhile, so that is told, and then what happens.
    """
    client = gateways(daemon).start().token_client()
    with event_stream(client, EVENTS) as told:
        assert "ready" == next(told).event
        daemon.restart()
        daemon.enqueue("true", hold=True)
        found = [next(told)]
        assert ("missed", {"missed_count": None}) == (found[0].event, found[0].data)
        daemon.enqueue("true", hold=True, id="after")
        while not any(each["id"] == "after" for each in found[-1].data.get("changes", ())):
            found.append(next(told))
