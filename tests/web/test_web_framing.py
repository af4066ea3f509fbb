"""
Requirement: a request that two readers could read differently, or that is larger than anything of
ours, is refused, and no handler sees it. The handler that is counted is that of the login form,
which logs each try.
"""

import pytest
from gateway_process import GatewayProcess
from raw_http import RawHttp, statuses

from queuectl.web.arrival import HEAD_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, URL_BYTES_MAX
from queuectl.web.bodies import BODY_BYTES_MAX, FORM_BYTES_MAX, LOGIN_BYTES_MAX
from queuectl.web.connections import HEAD_SECONDS_MAX

FORM = "Content-Type: application/x-www-form-urlencoded"
SMUGGLED = b"POST /login HTTP/1.1\r\n\r\n"

MALFORMED = {
    "two lengths": ["Content-Length: 7", "Content-Length: 8"],
    "two lengths in one": ["Content-Length: 7, 8"],
    "length with a sign": ["Content-Length: +7"],
    "length with an underscore": ["Content-Length: 0_7"],
    "negative length": ["Content-Length: -7"],
    "length in hex": ["Content-Length: 0x7"],
    "length and chunked": ["Content-Length: 7", "Transfer-Encoding: chunked"],
    "two encodings": ["Transfer-Encoding: gzip, chunked"],
    "chunked twice": ["Transfer-Encoding: chunked, chunked"],
    "chunked, misspelt": ["Transfer-Encoding: xchunked"],
    "space before the colon": ["Transfer-Encoding : chunked"],
    "a name with a NUL": ["X\0: a"],
    "a value with a NUL": ["X: a\0b"],
    "a value with a carriage return": ["X: a\rContent-Length: 7"],
    "a header without a colon": ["nonsense"],
    "a second Host": ["Host: evil.example"],
}


def tries(gateway: GatewayProcess) -> int:
    return len(gateway.events("web_login_refused"))


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=list(MALFORMED))
def test_framing_that_can_be_read_in_two_ways(gateway: GatewayProcess, headers: list[str]) -> None:
    """
    It is answered with 4xx or 5xx once, the connection ends, and what follows is no request.
    """
    before = tries(gateway)
    with RawHttp(gateway) as http:
        http.request("POST", "/login", [FORM, *headers], b"0\r\n\r\n" + SMUGGLED)
        said = http.read_all()
    (status,) = statuses(said)
    assert b"x-content-type-options: nosniff" in said
    assert 400 <= status < 600
    assert before == tries(gateway)


@pytest.mark.parametrize(
    "line",
    [
        "POST /login HTTP/9.9",
        "POST  /login HTTP/1.1",
        "POST /login",
        "POST /log in HTTP/1.1",
        "POST /login\0 HTTP/1.1",
        "PO\x01ST /login HTTP/1.1",
        "\x16\x03\x01",
    ],
)
def test_lines_that_begin_no_request(gateway: GatewayProcess, line: str) -> None:
    """
    It is answered with 400.
    """
    before = tries(gateway)
    with RawHttp(gateway) as http:
        http.send(f"{line}\r\nHost: {http.host}\r\n\r\n".encode("latin-1"))
        assert 400 == http.read_status()
    assert before == tries(gateway)


def test_a_path_that_names_another_host(gateway: GatewayProcess) -> None:
    """
    What is asked for is a path here, whatever else the line could say.
    """
    with RawHttp(gateway) as http:
        http.request("GET", "http://evil.example/healthz", ["Connection: close"])
        assert [400] == statuses(http.read_all())


def test_without_a_host(gateway: GatewayProcess) -> None:
    """
    HTTP/1.1 demands one; HTTP/1.0 does not, but this gateway does.
    """
    for version, status in (("1.1", 400), ("1.0", 421)):
        with RawHttp(gateway) as http:
            http.send(f"GET /healthz HTTP/{version}\r\n\r\n".encode())
            assert [status] == statuses(http.read_all())


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/healthz?" + "a" * URL_BYTES_MAX, [], 414),
        ("/" + "a" * URL_BYTES_MAX, [], 414),
        ("/healthz", [f"X-{i}: a" for i in range(HEADERS_MAX)], 431),
        ("/healthz", ["X: " + "a" * HEADERS_BYTES_MAX], 431),
        ("/healthz", ["X: " + "a" * 8 * HEAD_BYTES_MAX], 400),
    ],
)
def test_heads_that_are_too_long(
    gateway: GatewayProcess, path: str, headers: list[str], status: int
) -> None:
    """
    URL, headers and the whole head have limits.
    """
    with RawHttp(gateway) as http:
        http.request("GET", path, [*headers, "Connection: close"])
        assert status == http.read_status()


@pytest.mark.parametrize(
    ("path", "kind", "bytes_max"),
    [
        ("/login", "application/x-www-form-urlencoded", LOGIN_BYTES_MAX),
        ("/theme", "application/x-www-form-urlencoded", FORM_BYTES_MAX),
        ("/theme", "application/json", BODY_BYTES_MAX),
    ],
)
def test_bodies_that_are_too_long(
    gateway: GatewayProcess, path: str, kind: str, bytes_max: int
) -> None:
    """
    A body that says it is too long is refused at once, unread; one that does not say, when it is.
    """
    before = tries(gateway)
    head = [f"Authorization: Bearer {gateway.make_token()}", f"Content-Type: {kind}"]
    with RawHttp(gateway) as http:
        http.request("POST", path, [*head, f"Content-Length: {bytes_max + 1}"])
        assert 413 == http.read_status()
    chunk = b"%x\r\n%s\r\n" % (65_536, b"a" * 65_536)
    with RawHttp(gateway) as http:
        http.request("POST", path, [*head, "Transfer-Encoding: chunked"])
        for _ in range(bytes_max // 65_536 + 1):
            http.send(chunk)
        assert 413 == http.read_status()
    assert before == tries(gateway)


def test_heads_that_take_too_long(gateway: GatewayProcess) -> None:
    """
    Who says nothing, and who begins a request and never ends it, is cut off without an answer.
    """
    with RawHttp(gateway) as silent, RawHttp(gateway) as slow, RawHttp(gateway) as later:
        slow.send(b"GET /healthz HTTP/1.1\r\nHost: ")
        later.request("HEAD", "/healthz")
        assert 200 == later.read_status()
        later.send(b"GET /healthz HTT")
        for each in (silent, slow, later):
            each.socket.settimeout(HEAD_SECONDS_MAX + 10)
            assert b"" == each.read_all()
