"""
A request as it arrived, before anybody looked at what it asks for: where it is from, whom it means,
which page sent it. The rules here need nothing but its headers.

- Host (RFC 9110 7.2) must be a name of this gateway. A page whose own name was made to point at
  this host (DNS rebinding) sends its own name, and gets 421.
- Origin and Sec-Fetch-Site say which page made a browser send this. What changes something, and
  what opens a WebSocket, must come from a page of ours or from no page: else 403. Programs send
  neither header; what they send instead is a token.
- A look may come from elsewhere only as what a person sees in the address bar: a link that was
  clicked. So no other site can embed or measure what is here.

Behind a proxy the sender's address and the scheme are what the proxy says, in X-Forwarded-For and
X-Forwarded-Proto, and nobody else may connect. The proxy passes Host on as it came.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from starlette.types import Scope

from queuectl.web.configuration import Configuration, Network, host_in_url
from queuectl.web.refusals import Refusal

#: Where in an ASGI scope its Arrival is.
ARRIVAL: Final = "queuectl.arrival"
#: What changes nothing (RFC 9110 9.2.1). No route answers OPTIONS: there is no CORS.
LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
VERSIONS = frozenset({"1.0", "1.1"})
#: A path with its query: the longest are lists of ids.
URL_BYTES_MAX = 8_192
#: All headers of a request. The server itself gives up reading them at HEAD_BYTES_MAX.
HEADERS_BYTES_MAX = 16_384
HEADERS_MAX = 100
HEAD_BYTES_MAX = 32_768


class RequestHeaders:
    """
    A request's headers, by lower-case name. Each request asks for a dozen: so they are in a dict.
    """

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in raw:
            self._values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def get(self, name: str, default: str = "") -> str:
        """
        Return the first value, or *default*.
        """
        values = self._values.get(name)
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        """
        Return every value.
        """
        return self._values.get(name, [])

    def __contains__(self, name: str) -> bool:
        return name in self._values


class Arrival:
    """
    What the headers of a request or WebSocket say. *scheme* is what this gateway speaks.
    """

    def __init__(self, scope: Scope, scheme: str) -> None:
        self.scope = scope
        self.headers = RequestHeaders(scope["headers"])
        self.path: str = scope["path"]
        self.is_websocket = scope["type"] == "websocket"
        self.method: str = scope.get("method", "GET")
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        self.scheme = scheme
        #: Who sent it, once that is known.
        self.user: str | None = None

    @property
    def changes(self) -> bool:
        """
        Whether it is to be looked at as something that changes the queue.
        """
        return self.is_websocket or self.method not in LOOKS

    @property
    def wants_page(self) -> bool:
        """
        Whether a person looks at the answer.
        """
        api = self.is_websocket or self.path.startswith("/api/")
        return not api and "text/html" in self.headers.get("accept")

    @property
    def origin(self) -> str:
        """
        The origin that pages of this gateway have, as the sender of this request names it.
        """
        return f"{self.scheme}://{self.headers.get('host').lower()}"


def believe(arrival: Arrival, proxies: tuple[Network, ...]) -> None:
    """
    Take the sender's address and the scheme from the proxy, if this is behind one. Raises Refusal.
    """
    if not proxies:
        return
    if not _is_in(arrival.address, proxies):
        raise Refusal(403, "denied", f"{arrival.address} is not the proxy that this is behind")
    hops = [
        each.strip()
        for value in arrival.headers.all("x-forwarded-for")
        for each in value.split(",")
    ]
    # The last one that is no proxy of ours: what stands before it anybody may have written.
    while hops and _is_in(arrival.address, proxies) and _is_address(hops[-1]):
        arrival.address = hops.pop()
    said = arrival.headers.get("x-forwarded-proto", "http")
    arrival.scheme = "https" if said.rpartition(",")[2].strip() == "https" else "http"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def hosts_of(configuration: Configuration, port: int) -> frozenset[str]:
    """
    Return what a Host header may be: names of this host with *port*, and what was allowed.

    A name that was allowed without a port may come with *port* or, as behind a proxy, without one.
    """
    names = {"localhost", "127.0.0.1", "[::1]"}
    if not ipaddress.ip_address(configuration.bind).is_unspecified:
        names.add(host_in_url(configuration.bind))
    hosts = {f"{name}:{port}" for name in names}
    if port == {"http": 80, "https": 443}[configuration.scheme]:
        hosts |= names
    for name in configuration.allow_hosts:
        hosts.add(name)
        if name.endswith("]") or ":" not in name:
            hosts.add(f"{name}:{port}")
    return frozenset(hosts)


def check_size(arrival: Arrival) -> None:
    """
    Refuse what has a longer URL or more headers than anything of ours.
    """
    scope = arrival.scope
    url_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    if url_bytes > URL_BYTES_MAX:
        raise Refusal(414, "usage", f"the URL has {url_bytes} bytes, the limit is {URL_BYTES_MAX}")
    headers = scope["headers"]
    headers_bytes = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > HEADERS_MAX or headers_bytes > HEADERS_BYTES_MAX:
        raise Refusal(
            431,
            "usage",
            f"{len(headers)} headers of {headers_bytes} bytes, the limit is {HEADERS_MAX} and "
            f"{HEADERS_BYTES_MAX}",
        )


def check_host(arrival: Arrival, hosts: frozenset[str]) -> None:
    """
    Refuse what names another host.
    """
    named = arrival.headers.all("host")
    if len(named) != 1 or named[0].lower() not in hosts:
        raise Refusal(
            421,
            "denied",
            "this is no name of this gateway: open it by one that it knows, or start it with "
            "--allow-host NAME",
        )
    if not arrival.path.startswith("/") or arrival.scope["http_version"] not in VERSIONS:
        raise Refusal(400, "usage", "the request names no path, or no version of HTTP")


def check_origin(arrival: Arrival) -> None:
    """
    Refuse what a page of another origin made a browser send.
    """
    headers = arrival.headers
    origins = headers.all("origin")
    sites = headers.all("sec-fetch-site")
    if arrival.changes:
        foreign = any(each.lower() != arrival.origin for each in origins)
        if foreign or any(each not in ("same-origin", "none") for each in sites):
            raise Refusal(403, "denied", "sent by a page of another origin")
        return
    if all(each in ("same-origin", "none") for each in sites):
        return
    seen = headers.get("sec-fetch-mode") == "navigate"
    if not seen or headers.get("sec-fetch-dest", "document") != "document":
        raise Refusal(403, "denied", "embedded or fetched by a page of another origin")
