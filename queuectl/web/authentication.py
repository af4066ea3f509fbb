"""
Who sent a request: by its token, by its session's cookie, or nobody.

A token is good if the daemon says so; a gateway that was asked for one that it does not know opens
a connection with it and sees. That costs the daemon a look-up, so failures are counted: see
throttle.py.
"""

import asyncio
from urllib.parse import quote

from starlette.requests import cookie_parser

from queuectl.errors import QueuectlError, RequestRefused, UsageError
from queuectl.tokens import id_of
from queuectl.web.arrival import Arrival
from queuectl.web.gateway import Gateway, TooManyVisitors
from queuectl.web.link import RECONNECT_SECONDS_MAX, Link
from queuectl.web.log import log
from queuectl.web.refusals import Refusal
from queuectl.web.sessions import Session
from queuectl.web.visitor import Visitor

CHALLENGE = {"WWW-Authenticate": "Bearer"}


async def identify(gateway: Gateway, arrival: Arrival) -> Visitor:
    """
    Return who sent a request. Raises Refusal.
    """
    if "authorization" in arrival.headers:
        authorization = arrival.headers.get("authorization")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Refusal(401, "denied", "Authorization: must be Bearer TOKEN", CHALLENGE)
        return await visitor(gateway, token.strip(), None, arrival.address)
    session = session_of(gateway, arrival)
    if session is not None:
        return await visitor(gateway, session.token, session, arrival.address)
    if arrival.wants_page and not arrival.changes:
        raise Refusal(303, "denied", "log in", {"Location": login_url(arrival)})
    raise Refusal(401, "denied", "no token: send Authorization: Bearer TOKEN, or log in", CHALLENGE)


def session_of(gateway: Gateway, arrival: Arrival) -> Session | None:
    """
    Return the session of a request's cookie; None without one that is good.
    """
    if "cookie" not in arrival.headers:
        return None
    cookies = cookie_parser(arrival.headers.get("cookie"))
    secret = cookies.get(cookie_name(arrival.scheme, arrival.headers.get("host")))
    if secret is None or (arrival.is_websocket and "origin" not in arrival.headers):
        return None  # A browser that opens a WebSocket says for which page.
    return gateway.sessions.find(secret, gateway.clock())


def cookie_name(scheme: str, host: str) -> str:
    """
    Return what the session's cookie is called.

    Browsers keep no cookies apart by port, so the port is in the name: two gateways on one host
    would log each other out. With TLS the prefix makes browsers take it from nobody else.
    """
    port = host.rpartition(":")[2]
    name = f"queuectl-{port}" if port.isdigit() else "queuectl"
    return f"__Host-{name}" if scheme == "https" else name


async def visitor(
    gateway: Gateway, token: str | None, session: Session | None, address: str
) -> Visitor:
    """
    Return the visitor that *token* stands for; without one, this process's own account.

    Raises Refusal.
    """
    link = await _open_link(gateway, token, address)
    welcome = link.welcome
    return Visitor(
        link=link,
        address=address,
        user=welcome.user,
        uid=welcome.uid,
        admin=welcome.admin,
        scopes=frozenset(welcome.scopes),
        session=session,
    )


async def _open_link(gateway: Gateway, token: str | None, address: str) -> Link:
    if token is None or gateway.knows(token):
        return await _ask(gateway, token, address)
    # Few at once: of many that come together each would be asked about before the first has failed.
    tries = gateway.throttle.tries
    try:
        async with asyncio.timeout(RECONNECT_SECONDS_MAX):
            await tries.acquire()
    except TimeoutError:
        wait = {"Retry-After": "1"}
        raise Refusal(503, "try_later", "too many new tokens: wait a little", wait) from None
    try:
        if not gateway.knows(token):
            seconds = gateway.throttle.wait_seconds(address, gateway.clock())
            if seconds > 0:
                wait = {"Retry-After": str(int(seconds) + 1)}
                raise Refusal(429, "try_later", "too many failures: wait a little", wait)
        return await _ask(gateway, token, address)
    finally:
        tries.release()


async def _ask(gateway: Gateway, token: str | None, address: str) -> Link:
    try:
        if token is not None and not gateway.knows(token):
            id_of(token)
        return await gateway.open_link(token)
    except (RequestRefused, UsageError) as error:
        if error.code in ("denied", "usage"):
            gateway.throttle.failed(address, gateway.clock())
            raise Refusal(401, "denied", str(error), CHALLENGE) from None
        raise Refusal(503, error.code, str(error), {"Retry-After": "5"}) from None
    except QueuectlError as error:
        log.warning("web_daemon_unreachable", reason=str(error))
        raise Refusal(503, error.code, str(error), {"Retry-After": "1"}) from None
    except TooManyVisitors:
        raise Refusal(503, "try_later", "too many visitors", {"Retry-After": "5"}) from None


def login_url(arrival: Arrival) -> str:
    """
    Return where a browser is sent to log in and come back from.
    """
    query: bytes = arrival.scope.get("query_string", b"")
    target = arrival.path + (f"?{query.decode('latin-1')}" if query else "")
    return "/login" if target == "/" else f"/login?next={quote(target, safe='/')}"
