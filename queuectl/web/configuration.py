"""
What a gateway is told when it is started: where it listens, who may name it, whom it asks.

Nothing is read later: no file, and of the environment only what options have as their default.
"""

import ipaddress

from msgspec import Struct

from queuectl.errors import UsageError

BIND_DEFAULT = "127.0.0.1"
PORT_DEFAULT = 8642
PORT_MAX = 65_535

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Configuration(Struct, frozen=True, kw_only=True):
    """
    One gateway. Made by configure(), which checks that its parts fit together.
    """

    socket: str
    bind: str = BIND_DEFAULT
    port: int = PORT_DEFAULT
    allow_hosts: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    proxies: tuple[Network, ...] = ()
    tokens_only: bool = False

    @property
    def scheme(self) -> str:
        """
        What the gateway itself speaks: `https` with a certificate.
        """
        return "https" if self.tls_cert else "http"


def configure(
    *,
    socket: str,
    bind: str = BIND_DEFAULT,
    port: int = PORT_DEFAULT,
    allow_hosts: tuple[str, ...] = (),
    tls_cert: str | None = None,
    tls_key: str | None = None,
    behind_proxy: tuple[str, ...] = (),
    tokens_only: bool = False,
) -> Configuration:
    """
    Return the configuration that these options mean. Raises UsageError.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if bind == "localhost" else bind)
    except ValueError:
        raise UsageError(f"--bind: must be an IP address or localhost; got {bind!r}") from None
    if not 0 <= port <= PORT_MAX:
        raise UsageError(f"--port: must be 0 to {PORT_MAX}; got {port}")
    if bool(tls_cert) != bool(tls_key):
        raise UsageError("--tls-cert and --tls-key: give both")
    if tls_cert and behind_proxy:
        raise UsageError("--tls-cert and --behind-proxy: give one; the proxy ends TLS")
    if not (address.is_loopback or tls_cert or behind_proxy):
        raise UsageError(
            f"--bind {bind}: not without TLS beyond this host, where tokens would be read on the "
            "way: give --tls-cert and --tls-key, or --behind-proxy ADDRESS"
        )
    return Configuration(
        socket=socket,
        bind=str(address),
        port=port,
        allow_hosts=tuple(_host(each) for each in allow_hosts),
        tls_cert=tls_cert,
        tls_key=tls_key,
        proxies=tuple(_network(each) for each in behind_proxy),
        tokens_only=tokens_only,
    )


def host_in_url(address: str) -> str:
    """
    Return an IP address as a URL has it: IPv6 in brackets.
    """
    return f"[{address}]" if ":" in address else address


def _host(name: str) -> str:
    host, colon, port = name.rpartition(":")
    if not colon or name.endswith("]"):
        host, colon, port = name, "", ""
    plain = host.replace("-", "").replace(".", "")
    fit = plain.isalnum() and plain.isascii()
    if host.startswith("[") and host.endswith("]"):
        try:
            fit = bool(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            fit = False
    if not fit or (colon and not (port.isdigit() and port.isascii() and int(port) <= PORT_MAX)):
        raise UsageError(f"--allow-host: must be NAME or NAME:PORT; got {name!r}")
    return name.lower()


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise UsageError(
            f"--behind-proxy: must be the proxy's IP address or network; got {text!r}"
        ) from None
