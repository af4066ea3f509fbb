"""
Requirement: whoever the daemon does not know sees nothing; who is known is known for as long as
they should be.
"""

from collections.abc import Callable

from daemon_process import DaemonProcess
from gateway_process import GatewayProcess

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


def test_logging_out_ends_the_session(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    After logging out the cookie is worth nothing, even to who kept it.
    """
    gateway = gateways(daemon).start()
    browser = gateway.browser()
    cookies = dict(browser.cookies)
    assert 303 == browser.post("/logout").status_code
    assert not browser.cookies
    thief = gateway.client()
    thief.cookies.update(cookies)
    assert 401 == thief.get("/session").status_code
