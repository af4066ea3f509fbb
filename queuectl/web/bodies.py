"""
The bodies of requests: what type they may have, how long they may be, and reading them.

A body is read whole before a route runs, so that what is too long or too slow never gets that far.
Nothing is accepted that a page of another origin can make a browser send without asking first
(text/plain, multipart), except a form, and that only where pages are and with a CSRF token in it.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

from starlette.types import Message, Receive

from queuectl.web.arrival import Arrival
from queuectl.web.refusals import Refusal

#: A batch of jobs is one frame of 4 MiB to the daemon; JSON spells the same out at greater length.
BODY_BYTES_MAX = 8 << 20
FORM_BYTES_MAX = 64 << 10
#: Fields of a form: many jobs may be named by one each.
FORM_FIELDS_MAX = 16_384
#: What may come from who is not known: a token, in a form.
LOGIN_BYTES_MAX = 4 << 10
#: Bodies that are held at once: all, and those of one account, or of all who are not known.
BODIES_BYTES_MAX = 64 << 20
USER_BODIES_BYTES_MAX = 16 << 20
#: How long a body may take to arrive.
BODY_SECONDS_MAX = 30.0

FORM_TYPE = "application/x-www-form-urlencoded"
JSON_TYPES = frozenset({"application/json", "application/x-ndjson"})

_CLOSE = {"Connection": "close"}


class Bodies:
    """
    The bodies that are held now, by the uid of who sent them; None for those who are not known.
    """

    def __init__(self) -> None:
        self._held_bytes: Counter[int | None] = Counter()

    @contextmanager
    def room(self, uid: int | None, count: int) -> Iterator[None]:
        """
        Make room for a body of *count* bytes meanwhile. Raises Refusal.
        """
        own = self._held_bytes[uid] + count
        if own > USER_BODIES_BYTES_MAX or self._held_bytes.total() + count > BODIES_BYTES_MAX:
            raise Refusal(503, "try_later", "too many long requests at once", {"Retry-After": "1"})
        self._held_bytes[uid] = own
        try:
            yield
        finally:
            self._held_bytes[uid] -= count
            if not self._held_bytes[uid]:
                del self._held_bytes[uid]


def announced_bytes(arrival: Arrival, *, is_open: bool) -> int:
    """
    Return how long a request says that its body is; the most there may be, if it does not say.

    Refuses what may have no body, what has too long a one and what has one of a wrong type. Paths
    that are open to everybody take forms alone.
    """
    headers = arrival.headers
    text = headers.get("content-length", "0")
    length = int(text) if text.isascii() and text.isdigit() else -1
    if length < 0:
        raise Refusal(400, "usage", "Content-Length is not a number")
    chunked = "transfer-encoding" in headers
    if chunked and "content-length" in headers:
        # Whoever forwarded it may have seen another end of it than we do (RFC 9112 6.3).
        raise Refusal(400, "usage", "Content-Length with Transfer-Encoding", _CLOSE)
    if not length and not chunked:
        return 0
    if arrival.is_websocket or not arrival.changes:
        raise Refusal(400, "usage", f"{arrival.method} takes no body")
    limit = _check_type(arrival, is_open)
    if length > limit:
        raise Refusal(413, "usage", f"the body has {length} bytes, the limit is {limit}")
    return limit if chunked else length


def _check_type(arrival: Arrival, is_open: bool) -> int:
    """
    Return how long a body of its type may be.
    """
    headers = arrival.headers
    given = headers.get("content-type").partition(";")[0].strip().lower()
    form = is_form(arrival)
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity" or not (form or (given in JSON_TYPES and not is_open)):
        raise Refusal(415, "usage", "Content-Type must be application/json")
    if is_open:
        return LOGIN_BYTES_MAX
    return FORM_BYTES_MAX if form else BODY_BYTES_MAX


def is_form(arrival: Arrival) -> bool:
    """
    Whether it is a form of a page. The API takes none.
    """
    given = arrival.headers.get("content-type").partition(";")[0].strip().lower()
    return given == FORM_TYPE and not arrival.path.startswith("/api/")


async def read_body(receive: Receive, bytes_max: int, *, arrived: bool) -> bytes:
    """
    Return the whole body, of *bytes_max* at most. One that has *arrived* is not waited for, others
    BODY_SECONDS_MAX. Raises Refusal, ClientGone.
    """
    if not bytes_max:
        return b""
    if arrived:  # As most have: a timer for each would cost more than the rest of this.
        return await _collect(receive, bytes_max)
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await _collect(receive, bytes_max)
    except TimeoutError:
        late = f"the body did not arrive within {BODY_SECONDS_MAX:.0f} seconds"
        raise Refusal(408, "timed_out", late, _CLOSE) from None


async def _collect(receive: Receive, bytes_max: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > bytes_max:
            long = f"the body is over the limit of {bytes_max} bytes"
            raise Refusal(413, "usage", long, _CLOSE)
        if not message.get("more_body", False):
            return bytes(body)


class ClientGone(Exception):
    """
    The client hung up before its body was whole: there is nobody to answer.
    """


def replay(body: bytes, receive: Receive) -> Receive:
    """
    Return what gives *body*, if there is one, first and then goes on with *receive*.
    """
    if not body:
        return receive
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def form_field(body: bytes, name: str) -> str:
    """
    Return a field of a form; nothing if it is not there once.
    """
    try:
        values = parse_qs(body.decode(), max_num_fields=FORM_FIELDS_MAX).get(name, [])
    except ValueError:
        return ""
    return values[0] if len(values) == 1 else ""
