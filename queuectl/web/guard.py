"""
What stands before every route: nothing runs that has not passed here.

In this order: the proxy, if there is one; sizes; Host; method; origin; the body's type and length;
who asks; the body itself; CSRF. What is refused has asked the daemon nothing, but for the token.

Who asks is, in this order:

- `Authorization: Bearer TOKEN`: the token's account. No page of another origin can send it.
- The session cookie: the account that its browser logged in as. What changes something must repeat
  the session's CSRF token, in the header `X-CSRF-Token` or a form's field `csrf_token`.
- Nobody. A few paths are open to nobody: see OPEN. For the others a browser is sent to log in.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from queuectl.web import bodies
from queuectl.web.arrival import (
    ARRIVAL,
    CHANGES,
    LOOKS,
    Arrival,
    believe,
    check_host,
    check_origin,
    check_size,
)
from queuectl.web.authentication import identify
from queuectl.web.connections import introduce, is_whole
from queuectl.web.gateway import Gateway, token_id
from queuectl.web.log import log
from queuectl.web.refusals import Refusal, answer
from queuectl.web.rendering import page
from queuectl.web.sessions import Session
from queuectl.web.throttle import Allowance
from queuectl.web.traffic import Traffic
from queuectl.web.visitor import VISITOR, Visitor

#: Paths that ask nobody who they are: whether the process lives, logging in, and what pages are
#: made of. The second are folders, and stand for all below.
OPEN = frozenset({"/healthz", "/login", "/favicon.ico"})
OPEN_BELOW = ("/login/", "/static/")
#: The type of server-sent events, as Starlette writes it.
EVENTS_TYPE = b"text/event-stream; charset=utf-8"
#: How a WebSocket ends whose session has (RFC 6455 7.4.1).
POLICY = 1008
#: Lines about refusals in a row, and then one in so many seconds: whoever is refused must not be
#: able to fill the log.
REFUSAL_LINES_MAX = 100
REFUSAL_LINE_SECONDS = 0.5


class Guard:
    """
    The gateway's ASGI application: *app* behind the rules above.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._bodies = bodies.Bodies()
        self._refusal_lines = Allowance(REFUSAL_LINES_MAX, REFUSAL_LINE_SECONDS)
        #: Refusals since the last one that was logged.
        self._unlogged_count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request or a WebSocket.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        arrival = Arrival(scope, self._gateway.configuration.scheme)
        reply = _Reply(send, scope, self._gateway.traffic)
        try:
            believe(arrival, self._gateway.configuration.proxies)
            await self._admit(arrival, receive, reply)
        except Refusal as refusal:
            if refusal.status != 303:
                self._log_refusal(refusal, arrival)
            await _answer(refusal, arrival, receive, reply.send)
        except bodies.ClientGone:
            pass

    def _log_refusal(self, refusal: Refusal, arrival: Arrival) -> None:
        """
        Log a refusal; of very many, how many there were.
        """
        if not self._refusal_lines.take(self._gateway.clock()):
            self._unlogged_count += 1
            return
        log.warning(
            "web_refused",
            user=arrival.user,
            address=arrival.address,
            method="WEBSOCKET" if arrival.is_websocket else arrival.method,
            path=arrival.path,
            status=refusal.status,
            reason=refusal.detail,
            unlogged=self._unlogged_count or None,
        )
        self._unlogged_count = 0

    # --- letting through ------------------------------------------------------------------------

    async def _admit(self, arrival: Arrival, receive: Receive, reply: "_Reply") -> None:
        """
        Check everything, then let the routes serve it. Raises Refusal, ClientGone.
        """
        check_size(arrival)
        check_host(arrival, self._gateway.hosts)
        if arrival.method not in LOOKS | CHANGES:
            allow = ", ".join(sorted(LOOKS | CHANGES))
            raise Refusal(405, "usage", f"no method {arrival.method}", {"Allow": allow})
        check_origin(arrival)
        is_open = _is_open(arrival.path)
        bytes_max = bodies.announced_bytes(arrival, is_open=is_open)
        scope = arrival.scope
        scope[ARRIVAL] = arrival
        scope["client"] = (arrival.address, 0)
        kind = "ws" if arrival.is_websocket else "http"
        scope["scheme"] = arrival.scheme.replace("http", kind)
        if is_open:
            with self._bodies.room(None, bytes_max):
                body = await bodies.read_body(receive, bytes_max, arrived=is_whole(scope))
                await self._app(scope, bodies.replay(body, receive), reply.send)
            return
        visitor = scope[VISITOR] = await identify(self._gateway, arrival)
        introduce(scope, visitor.uid)
        arrival.user = visitor.user
        with self._bodies.room(visitor.uid, bytes_max), _Presence(visitor) as presence:
            try:
                body = await bodies.read_body(receive, bytes_max, arrived=is_whole(scope))
                if visitor.session and arrival.changes:
                    _check_csrf(visitor.session, arrival, body)
                await self._serve(visitor, arrival, bodies.replay(body, receive), reply)
            except asyncio.CancelledError:
                if not presence.session_ended():
                    raise
                raise Refusal(401, "denied", "the session has ended: log in again") from None

    async def _serve(
        self, visitor: Visitor, arrival: Arrival, receive: Receive, reply: "_Reply"
    ) -> None:
        """
        Run the route, and log what it changed.
        """
        try:
            await self._app(arrival.scope, receive, reply.send)
        except asyncio.CancelledError:
            session = visitor.session
            if not reply.status or session is None or not session.ended:
                raise
            # A stream ends. Of any other answer the rest is not sent: the connection breaks off, so
            # that nobody takes it for whole.
            if reply.status == 101:
                reason = "the session has ended"
                await reply.send({"type": "websocket.close", "code": POLICY, "reason": reason})
            elif (b"content-type", EVENTS_TYPE) in reply.headers:
                await reply.send({"type": "http.response.body", "body": b""})
        finally:
            if arrival.changes:
                log.info(
                    "web_request",
                    user=visitor.user,
                    uid=visitor.uid,
                    token=token_id(visitor.link.token),
                    address=visitor.address,
                    method="WEBSOCKET" if arrival.is_websocket else arrival.method,
                    path=arrival.path,
                    status=reply.status or None,
                )


class _Presence:
    """
    A visitor's request while it is served: it holds its link, and ends with its session.
    """

    def __init__(self, visitor: Visitor) -> None:
        self._link = visitor.link
        self._session = visitor.session
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    def __enter__(self) -> "_Presence":
        if self._session:
            if self._session.ended:  # While the daemon was asked.
                raise Refusal(401, "denied", "the session has ended: log in again")
            self._session.tasks.add(self._task)
        self._link.holders += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._link.holders -= 1
        if self._session:
            self._session.tasks.discard(self._task)

    def session_ended(self) -> bool:
        """
        Whether that is why the task was cancelled.
        """
        if self._session is None or not self._session.ended:
            return False
        self._task.uncancel()
        return True


class _Reply:
    """
    What is said to a request: counted, and remembered as far as it matters how it began.
    """

    def __init__(self, send: Send, scope: Scope, traffic: Traffic) -> None:
        self._send = send
        self._scope = scope
        self._traffic = traffic
        #: What it began with; 0 before that, 101 of a WebSocket that was accepted.
        self.status = 0
        self.headers: Iterable[tuple[bytes, bytes]] = ()

    async def send(self, message: Message) -> None:
        """
        Pass on a message of the application.
        """
        if not self.status:
            if "status" in message:
                self.status = message["status"]
                self.headers = message.get("headers", ())
            elif message["type"] == "websocket.accept":
                self.status = 101
            if self.status:
                self._traffic.answered(self._scope, self.status)
        await self._send(message)


async def _answer(refusal: Refusal, arrival: Arrival, receive: Receive, send: Send) -> None:
    """
    Answer with a refusal: a person with a page, a program with a problem.
    """
    if not arrival.wants_page:
        await answer(refusal, arrival.scope, send)
        return
    away = refusal.status == HTTPStatus.SERVICE_UNAVAILABLE and not arrival.changes
    response = page(
        "refused.html",
        status=refusal.status,
        title=HTTPStatus(refusal.status).phrase,
        detail=refusal.detail,
        login=refusal.status == 401,
        again_s=refusal.headers.get("Retry-After") if away else None,
    )
    response.headers.update(refusal.headers)
    await response(arrival.scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_BELOW)


def _check_csrf(session: Session, arrival: Arrival, body: bytes) -> None:
    if arrival.is_websocket:
        return  # Its Origin was checked, and no browser can be made to leave that out.
    given = arrival.headers.get("x-csrf-token")
    if not given and bodies.is_form(arrival):
        given = bodies.form_field(body, "csrf_token")
    if not given or not session.has_csrf_token(given):
        raise Refusal(
            403, "denied", "X-CSRF-Token: must be that of the session; load the page again"
        )
