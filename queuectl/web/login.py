"""
Logging in and out: a token from a form, or a one-time link, becomes a session with a cookie.

The cookie is HttpOnly (no script reads it), SameSite=Strict (no other site can make a browser send
it) and, with TLS, Secure. A one-time link is opened by GET, as links are; a browser that only looks
ahead, or asks with HEAD, does not use it up. What it answers is a page that goes on by itself: its
next request is from a page of ours, so that the cookie is sent even if the link was clicked in a
web page.
"""

import os

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from queuectl.web.arrival import ARRIVAL, Arrival
from queuectl.web.authentication import cookie_name, session_of, visitor
from queuectl.web.bodies import form_field
from queuectl.web.gateway import Gateway, token_id
from queuectl.web.log import log
from queuectl.web.pages_forms import local_path
from queuectl.web.refusals import Refusal
from queuectl.web.rendering import page
from queuectl.web.sessions import AGE_SECONDS_MAX
from queuectl.web.visitor import visitor_of

HOME = "/"


def routes() -> list[BaseRoute]:
    """
    Return the routes of this file.
    """
    return [
        Route("/login", show_login, methods=["GET"]),
        Route("/login", log_in, methods=["POST"]),
        Route("/login/{key}", open_link, methods=["GET"]),
        Route("/logout", log_out, methods=["POST"]),
        Route("/session", show_session, methods=["GET"]),
    ]


async def show_login(request: Request) -> Response:
    """
    Show the form for a token.
    """
    return _form(request, request.query_params.get("next", HOME))


async def log_in(request: Request) -> Response:
    """
    Begin a session for the token of the form.
    """
    body = await request.body()
    token, target = form_field(body, "token").strip(), form_field(body, "next")
    gateway: Gateway = request.app.state.gateway
    address = _address(request)
    try:
        if not token:
            raise Refusal(401, "denied", "give a token")
        who = await visitor(gateway, token, None, address)
    except Refusal as refusal:
        log.warning(
            "web_login_refused", address=address, token=token_id(token), reason=refusal.detail
        )
        response = _form(request, target, status=refusal.status, error=refusal.detail)
        response.headers.update(refusal.headers)
        return response
    log.info("web_login", user=who.user, uid=who.uid, token=token_id(token), address=address)
    response = RedirectResponse(local_path(target, HOME), status_code=303)
    return _begin(request, response, token, who.uid)


async def open_link(request: Request) -> Response:
    """
    Begin a session for this process's own account, with a one-time link.
    """
    gateway: Gateway = request.app.state.gateway
    address = _address(request)
    ahead = request.headers.get("sec-purpose", request.headers.get("purpose", ""))
    if request.method != "GET" or "prefetch" in ahead:
        return Response(status_code=204)
    if not gateway.sessions.use_link(request.path_params["key"], gateway.clock()):
        # Not counted as a failure: nobody guesses a key, and the daemon was not asked.
        log.warning("web_login_refused", address=address, reason="no good one-time link")
        error = "This link was used already, or its time is up: log in with a token."
        return _form(request, HOME, status=401, error=error)
    log.info("web_login", address=address, link=True)
    return _begin(request, page("welcome.html", target=HOME), None, os.getuid())


async def log_out(request: Request) -> Response:
    """
    End the session of the request's cookie.
    """
    gateway: Gateway = request.app.state.gateway
    session = visitor_of(request).session
    if session is not None:
        gateway.sessions.end(session)
        log.info("web_logout", token=token_id(session.token), address=_address(request))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(_cookie(request))
    return response


async def show_session(request: Request) -> Response:
    """
    Say who asks, and to a browser's script the CSRF token of its session.
    """
    who = visitor_of(request)
    return JSONResponse(
        {
            "user": who.user,
            "uid": who.uid,
            "admin": who.admin,
            "scopes": sorted(who.scopes),
            "csrf_token": who.session.csrf_token if who.session else None,
        }
    )


def _begin(request: Request, response: Response, token: str | None, uid: int | None) -> Response:
    gateway: Gateway = request.app.state.gateway
    before = session_of(gateway, request.scope[ARRIVAL])
    if before is not None:
        gateway.sessions.end(before)
    secret, _ = gateway.sessions.begin(token, uid, gateway.clock())
    response.set_cookie(
        _cookie(request),
        secret,
        max_age=int(AGE_SECONDS_MAX),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


def _form(request: Request, target: str, *, status: int = 200, error: str = "") -> Response:
    gateway: Gateway = request.app.state.gateway
    return page(
        "login.html",
        status=status,
        error=error,
        target=local_path(target, HOME),
        own=not gateway.configuration.tokens_only,
    )


def _cookie(request: Request) -> str:
    arrival: Arrival = request.scope[ARRIVAL]
    return cookie_name(arrival.scheme, arrival.headers.get("host"))


def _address(request: Request) -> str:
    arrival: Arrival = request.scope[ARRIVAL]
    return arrival.address
