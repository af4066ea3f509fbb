"""
Requirement: a gateway starts only where it is safe, says when it is ready and when it ends, and
tells what happened without telling a secret.
"""

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import DEADLINE_S, DaemonProcess
from gateway_process import GatewayProcess
from raw_http import RawHttp

from queuectl.errors import UsageError
from queuectl.web.configuration import configure
from queuectl.web.connections import CONNECTIONS_MAX
from queuectl.web.throttle import ADDRESS_FAILURES_MAX

Gateways = Callable[..., GatewayProcess]
#: Resident memory of a gateway.
RSS_BYTES_MAX = 60 << 20
BAD_TOKEN = "qctl_0a1b2c3d4e_" + 43 * "s"


def refused_start(daemon: DaemonProcess, *options: str) -> tuple[int, str]:
    """
    Return the exit code and the words of a gateway that must not start.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "queuectl", "--socket", daemon.socket, "web", *options],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert "" == done.stdout
    (line,) = done.stderr.splitlines()
    return done.returncode, line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bind": "0.0.0.0"}, "not without TLS beyond this host"),
        ({"bind": "::"}, "not without TLS beyond this host"),
        ({"bind": "192.0.2.1"}, "not without TLS beyond this host"),
        ({"bind": "example.org"}, "--bind: must be an IP address"),
        ({"tls_cert": "a"}, "give both"),
        ({"tls_key": "a"}, "give both"),
        ({"tls_cert": "a", "tls_key": "b", "behind_proxy": ("127.0.0.1",)}, "give one"),
        ({"behind_proxy": ("proxy.example.org",)}, "--behind-proxy: must be"),
        ({"allow_hosts": ("https://example.org",)}, "--allow-host: must be NAME"),
        ({"allow_hosts": ("example.org:http",)}, "--allow-host: must be NAME"),
        ({"allow_hosts": ("*",)}, "--allow-host: must be NAME"),
        ({"port": 65_536}, "--port: must be 0 to 65535"),
    ],
)
def test_what_is_not_safe_is_not_started(options: dict[str, Any], words: str) -> None:
    """
    The refusal names the option and what would be right.
    """
    with pytest.raises(UsageError, match=words):
        configure(socket="/q.sock", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"bind": "localhost"},
        {"bind": "::1"},
        {"bind": "127.8.8.8"},
        {"bind": "0.0.0.0", "tls_cert": "a", "tls_key": "b"},
        {"bind": "0.0.0.0", "behind_proxy": ("192.0.2.0/24", "2001:db8::1")},
        {"allow_hosts": ("queue.example.org", "localhost:9000", "[2001:db8::1]:443")},
    ],
)
def test_what_is_safe_is_started(options: dict[str, Any]) -> None:
    """
    This host, whatever the address; others with TLS or behind a proxy.
    """
    configure(socket="/q.sock", **options)


def test_refusals_to_start_are_one_line(web_daemon: DaemonProcess, tmp_path: Path) -> None:
    """
    An address that is taken, a certificate that is none: exit code 2 and what to do.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, line = refused_start(web_daemon, "--port", str(taken.getsockname()[1]))
    assert (2, True) == (code, "Address already in use; try --port 0" in line)
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    files = ["--tls-cert", str(nothing), "--tls-key", str(nothing)]
    code, line = refused_start(web_daemon, "--port", "0", *files)
    assert (2, True) == (code, "--tls-cert, --tls-key: cannot be used" in line)


def test_without_the_packages(web_daemon: DaemonProcess) -> None:
    """
    Who did not install the extra is told how.
    """
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "from queuectl.cli import run; sys.exit(run(['web']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=web_daemon.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (2, True) == (done.returncode, "pip install 'queuectl[web]'" in done.stderr)


def test_readiness_and_the_end(daemon: DaemonProcess, gateways: Gateways, tmp_path: Path) -> None:
    """
    The service manager hears READY when it listens and STOPPING when SIGTERM came; it ends with 0.
    """
    path = f"{tmp_path}/notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(DEADLINE_S)
        daemon.environment["NOTIFY_SOCKET"] = path
        gateway = gateways(daemon).start()
        del daemon.environment["NOTIFY_SOCKET"]
        assert [b"READY=1", b"STATUS=Serving " + gateway.url.encode()] == manager.recv(999).split(
            b"\n"
        )
        assert 200 == gateway.client().get("/healthz").status_code
        assert 0 == gateway.stop()
        assert b"STOPPING=1" == manager.recv(999)


def test_tokens_only(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    Without an account of its own it prints no link, and lets in who has a token.
    """
    gateway = gateways(daemon, "--tokens-only").start()
    assert gateway.link is None
    assert 200 == gateway.token_client("read").get("/session").status_code
    assert "printed" not in gateway.client().get("/login").text


def test_the_log_tells_what_happened_and_no_secret(
    daemon: DaemonProcess, gateways: Gateways
) -> None:
    """
    Logins, changes and refusals are there, with who and from where; what lets one in is not.
    """
    gateway = gateways(daemon).start()
    browser = gateway.browser()
    token = gateway.make_token()
    program = gateway.token_client(token=token)
    assert 404 == program.post("/api/v1/nothing", json={}).status_code
    assert 401 == gateway.token_client(token=BAD_TOKEN).get("/session").status_code
    assert 401 == gateway.client().post("/login", data={"token": BAD_TOKEN}).status_code
    cookies = [*browser.cookies.values()]
    assert cookies
    assert 303 == browser.post("/logout").status_code
    ((login,), (refused,)) = gateway.events("web_login"), gateway.events("web_login_refused")
    assert (True, "127.0.0.1") == (login["link"], login["address"])
    assert ("0a1b2c3d4e", "127.0.0.1") == (refused["token"], refused["address"])
    request, *_ = gateway.events("web_request")
    assert ("POST", "/api/v1/nothing", 404) == (
        request["method"],
        request["path"],
        request["status"],
    )
    assert token.split("_")[1] == request["token"]
    assert request["user"]
    assert [401] == [each["status"] for each in gateway.events("web_refused")]
    assert gateway.events("web_logout")
    assert gateway.link is not None
    secrets = [token.split("_", 2)[2], 43 * "s", gateway.link.rpartition("/")[2]]
    secrets += [*cookies, browser.headers["X-CSRF-Token"]]
    assert [] == [each for each in secrets if each in gateway.log]


def test_failures_are_throttled(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    Who fails again and again must wait, at the login page too; who is known need not.
    """
    gateway = gateways(daemon).start()
    browser, program = gateway.browser(), gateway.token_client()
    assert 200 == program.get("/session").status_code
    guesser = gateway.token_client(token=BAD_TOKEN)
    found = [guesser.get("/session").status_code for _ in range(ADDRESS_FAILURES_MAX)]
    assert {401} == set(found)
    late = guesser.get("/session")
    assert 429 == late.status_code
    assert int(late.headers["retry-after"]) > 0
    login = gateway.client().post("/login", data={"token": gateway.make_token()})
    assert 429 == login.status_code
    assert [200, 200] == [each.get("/session").status_code for each in (browser, program)]


def test_a_daemon_that_restarts_is_waited_for(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    A browser that asks meanwhile gets its answer when the daemon is back, and is still logged in.
    """
    browser = gateways(daemon).start().browser()
    daemon.restart()
    assert 200 == browser.get("/session").status_code


def test_strangers_give_way(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    When all places are taken, whoever comes gets one of those who never said who they are; who did
    keeps theirs.
    """
    gateway = gateways(daemon).start()
    known = gateway.token_client()
    assert 200 == known.get("/session").status_code
    strangers = [RawHttp(gateway) for _ in range(CONNECTIONS_MAX)]
    try:
        assert 200 == gateway.token_client().get("/session").status_code
        assert b"" == strangers[0].read_all()
        assert 200 == known.get("/session").status_code
    finally:
        for each in strangers:
            each.socket.close()


def test_it_stays_small(gateway: GatewayProcess, browser_session: httpx.Client) -> None:
    """
    A gateway that has served pages and refused requests holds at most 60 MiB.
    """
    stranger = gateway.client()
    for _ in range(100):
        browser_session.get("/session")
        stranger.get("/login")
        browser_session.post("/api/v1/nothing", json={"a": "b" * 10_000})
    assert gateway.rss_bytes() <= RSS_BYTES_MAX


# --- TLS and proxies -----------------------------------------------------------------------------


def test_with_a_certificate(
    daemon: DaemonProcess, gateways: Gateways, certificate: tuple[str, str]
) -> None:
    """
    It speaks TLS, its cookie is for TLS alone, and browsers are told to come back with it.
    """
    cert, key = certificate
    gateway = gateways(daemon, "--tls-cert", cert, "--tls-key", key).start()
    assert gateway.url.startswith("https://")
    context = ssl.create_default_context(cafile=cert)
    with httpx.Client(base_url=gateway.url, verify=context, trust_env=False) as browser:
        answer = browser.get(gateway.link or "")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"__Host-queuectl-{gateway.port}=")
        assert {"httponly", "samesite=strict", "secure", "path=/"} <= {
            each.strip().lower() for each in cookie.split(";")
        }
        assert "max-age" in answer.headers["strict-transport-security"]
        assert 200 == browser.get("/session").status_code


def test_behind_a_proxy(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    What the proxy says of the sender and the scheme is believed, no further than the proxy knows.
    """
    gateway = gateways(
        daemon, "--behind-proxy", "127.0.0.0/8", "--allow-host", "queue.example.org"
    ).start()
    proxy = gateway.client(
        **{
            "Host": "queue.example.org",
            "X-Forwarded-For": "203.0.113.9, 198.51.100.7, 127.0.0.2",
            "X-Forwarded-Proto": "https",
        }
    )
    token = gateway.make_token()
    foreign = proxy.post("/login", data={"token": token}, headers={"Origin": gateway.url})
    assert 403 == foreign.status_code
    own = {"Origin": "https://queue.example.org"}
    login = proxy.post("/login", data={"token": token}, headers=own)
    assert 303 == login.status_code
    assert login.headers["set-cookie"].startswith("__Host-queuectl=")
    assert "198.51.100.7" == gateway.events("web_login")[0]["address"]
    proxy.headers["Cookie"] = login.headers["set-cookie"].partition(";")[0]
    csrf_token = proxy.get("/session").json()["csrf_token"]
    logout = proxy.post("/logout", headers={**own, "X-CSRF-Token": csrf_token})
    assert (303, 401) == (logout.status_code, proxy.get("/session").status_code)


def test_nobody_but_the_proxy(daemon: DaemonProcess, gateways: Gateways) -> None:
    """
    Behind a proxy, who comes past it is refused, whatever they say.
    """
    gateway = gateways(daemon, "--behind-proxy", "192.0.2.1").start()
    answer = gateway.client(**{"X-Forwarded-For": "192.0.2.1"}).get("/healthz")
    assert 403 == answer.status_code


# --- the login page ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/jobs?state=dead", "/jobs?state=dead"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_where_a_login_leads(gateway: GatewayProcess, target: str, location: str) -> None:
    """
    Only to a page of this gateway.
    """
    form = {"token": gateway.make_token(), "next": target}
    answer = gateway.client().post("/login", data=form)
    assert (303, location) == (answer.status_code, answer.headers["location"])


def test_the_login_page_shows_text(gateway: GatewayProcess) -> None:
    """
    What stands in the address or in the form is never markup.
    """
    evil = '/"><script>alert(1)</script>'
    page = gateway.client().get("/login", params={"next": evil})
    assert 200 == page.status_code
    assert "<script>" not in page.text
    page = gateway.client().post("/login", data={"next": evil, "token": evil})
    assert 401 == page.status_code
    assert "<script>" not in page.text
