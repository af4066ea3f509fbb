"""
Requirement: whoever the daemon does not know sees nothing; who is known is known for as long as
they should be.
"""

from collections.abc import Callable

import httpx
from daemon_process import DaemonProcess
from gateway_process import GatewayProcess

from queuectl.client import Client
from queuectl.protocol import Done
from queuectl.tokens import RevokeToken, id_of

Gateways = Callable[..., GatewayProcess]


def test_health_asks_nobody(gateway: GatewayProcess) -> None:
    """
    Whether the process lives is for everybody to know, and nothing else.
    """
    answer = gateway.client().get("/healthz")
    assert (200, {"status": "ok"}) == (answer.status_code, answer.json())


def test_without_a_token_nothing_is_told(gateway: GatewayProcess) -> None:
    """
    A program is told how to say who it is, a browser is sent to log in.
    """
    answer = gateway.client().get("/session")
    assert (401, "Bearer") == (answer.status_code, answer.headers["www-authenticate"])
    assert "application/problem+json" == answer.headers["content-type"]
    answer = gateway.client(Accept="text/html").get("/session?a=1")
    assert (303, "/login?next=/session%3Fa%3D1") == (
        answer.status_code,
        answer.headers["location"],
    )


def test_a_link_is_good_once(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    The link that is printed logs one browser in; whoever comes with it later is told to log in.
    """
    gateway = gateways(daemon).start()
    link = gateway.link
    assert link is not None
    assert 204 == gateway.client(Purpose="prefetch").get(link).status_code
    assert 200 == gateway.browser().get("/session").status_code
    again = gateway.client().get(link)
    assert 401 == again.status_code
    assert "used already" in again.text
    assert not again.cookies


def test_a_token_is_its_account(client: httpx.Client) -> None:
    """
    A token is served as the account that made it, and needs no CSRF token.
    """
    said = client.get("/session").json()
    assert {"read", "submit", "manage"} == set(said["scopes"])
    assert said["user"]
    assert said["csrf_token"] is None


def test_a_revoked_token_ends_at_once(gateway: GatewayProcess, web_daemon: DaemonProcess) -> None:
    """
    A token that was revoked is refused with the next request, and so are the sessions that it
    began.
    """
    token = gateway.make_token()
    browser = gateway.client()
    login = browser.post("/login", data={"token": token})
    assert (303, "/") == (login.status_code, login.headers["location"])
    program = gateway.token_client(token=token)
    assert [200, 200] == [each.get("/session").status_code for each in (browser, program)]
    with Client(web_daemon.socket) as client:
        client.call(RevokeToken(id=id_of(token)), Done)
    assert [401, 401] == [each.get("/session").status_code for each in (browser, program)]


def test_logging_out_ends_the_session(gateway: GatewayProcess) -> None:
    """
    After logging out the cookie is worth nothing, even to who kept it.
    """
    browser = gateway.client()
    browser.post("/login", data={"token": gateway.make_token()})
    browser.headers["X-CSRF-Token"] = browser.get("/session").json()["csrf_token"]
    cookies = dict(browser.cookies)
    assert 303 == browser.post("/logout").status_code
    assert not browser.cookies
    thief = gateway.client()
    thief.cookies.update(cookies)
    assert 401 == thief.get("/session").status_code


def test_logging_in_again_ends_the_session_before(gateway: GatewayProcess) -> None:
    """
    A browser has one session: the cookie that it had is worth nothing when it has another.
    """
    browser, thief = gateway.client(), gateway.client()
    form = {"token": gateway.make_token()}
    browser.post("/login", data=form)
    thief.cookies.update(dict(browser.cookies))
    assert 200 == thief.get("/session").status_code
    browser.post("/login", data=form)
    assert [200, 401] == [each.get("/session").status_code for each in (browser, thief)]


def test_a_person_is_told_with_a_page(gateway: GatewayProcess) -> None:
    """
    What a browser shows of a refusal is a page that says why, as text; a program gets a problem.
    """
    evil = {"Host": "<script>.example", "Accept": "text/html"}
    answer = gateway.client(**evil).get("/jobs")
    assert (421, "text/html; charset=utf-8") == (
        answer.status_code,
        answer.headers["content-type"],
    )
    assert "no name of this gateway" in answer.text
    assert "<script>" not in answer.text
    lost = gateway.client(Accept="text/html").post("/enqueue", data={"command": "true"})
    assert (401, True) == (lost.status_code, 'href="/login"' in lost.text)
    assert gateway.client(Accept="text/html").get("/api/v1/jobs").json()["code"] == "denied"
