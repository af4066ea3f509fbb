"""
Requirement: nothing is answered without the headers that tell browsers to be strict, by whichever
part of the gateway or of its libraries.
"""

from collections.abc import Sequence

import httpx
import pytest
from gateway_process import GatewayProcess
from raw_http import RawHttp

from queuectl.web.pages_static import static_url
from queuectl.web.strictness import HSTS, STRICT_HEADERS

UPGRADE = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
CLOSE = "Connection: close"


def headers_of(answer: bytes) -> tuple[int, dict[str, list[str]]]:
    """
    Return the status of an answer, and every value of each of its headers.
    """
    first, *lines = answer.partition(b"\r\n\r\n")[0].decode().splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return int(first.split()[1]), found


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        (200, "GET", "/healthz", [CLOSE]),
        (200, "HEAD", "/healthz", [CLOSE]),
        (401, "GET", "/nothing", [CLOSE]),  # Nobody is told what there is.
        (404, "GET", "/static/x/y", [CLOSE]),
        (401, "GET", "/api/v1/status", [CLOSE]),
        (303, "GET", "/jobs", ["Accept: text/html", CLOSE]),
        (400, "G ET", "/", []),
        (400, "GET", "/healthz", ["Host: evil.example"]),
        (401, "GET", "/api/v1/events/socket", [*UPGRADE, KEY]),
        (400, "GET", "/api/v1/events/socket", UPGRADE),
        (405, "POST", "/api/v1/events/socket", [*UPGRADE, KEY]),
    ],
)
def test_answers(
    gateway: GatewayProcess, status: int, method: str, path: str, headers: Sequence[str]
) -> None:
    """
    Each of them is there once, and says that nothing may be kept.
    """
    with RawHttp(gateway) as http:
        http.request(method, path, headers)
        answered, found = headers_of(http.read_all())
    assert (status, ["no-store"]) == (answered, found["cache-control"])
    assert {name: [value] for name, value in STRICT_HEADERS.items()} == {
        name: found.get(name.lower()) for name in STRICT_HEADERS
    }
    assert not HSTS.keys() & {name.title() for name in found}


def test_what_pages_are_made_of(gateway: GatewayProcess) -> None:
    """
    It may be kept, as it says itself; all else holds for it too.
    """
    answer = gateway.client().get(static_url("style.css"))
    assert ["public, max-age=31536000, immutable"] == answer.headers.get_list("cache-control")
    assert (
        STRICT_HEADERS.items()
        <= {name: answer.headers.get(name) for name in STRICT_HEADERS}.items()
    )


def test_a_stream(gateway: GatewayProcess, client: httpx.Client) -> None:
    """
    Its head comes at once, with all of them.
    """
    with client.stream("GET", "/api/v1/events") as answer:
        assert "no-store" == answer.headers["cache-control"]
        assert (
            STRICT_HEADERS.items()
            <= {name: answer.headers.get(name) for name in STRICT_HEADERS}.items()
        )
