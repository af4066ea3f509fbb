"""
The daemon of another machine, by way of its gateway: which one, with which token, and what a job
takes over from here.

A RemoteClient is a Client whose bytes go through a tunnel (tunnel.py) instead of a Unix socket: the
same frames, the same answers, and no second way to do what a command does.

A token is worth what its account may do, so it comes from the environment or from a file that
nobody else can read, never from the command line, where every user of the machine sees it. It is
sent over TLS, whose certificate is always verified, and without TLS to this machine alone. Imported
only when a host is given.
"""

import ipaddress
import os
import stat
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from queuectl.client import Client, Surroundings
from queuectl.errors import AccessDenied, DaemonUnreachable, ProtocolError, UsageError
from queuectl.protocol import HOME

if TYPE_CHECKING:
    from queuectl.tunnel import Tunnel

_PORTS = {"https": 443, "http": 80}
_PORT_MAX = 65_535
#: A file with a token for each of many hosts is shorter; what is longer is another file.
_TOKEN_FILE_BYTES_MAX = 64 << 10
_TOKEN_CHARS_MAX = 512
#: How long a gateway may be away before an enqueue whose answer was lost is given up.
RECONNECT_SECONDS_MAX = 15.0
_RECONNECT_EVERY_SECONDS = 0.2
#: Of jobs from another machine, unless they set their own: what accounts have as a rule.
_UMASK = 0o022


class Address(NamedTuple):
    """
    Where a gateway listens. `prefix` is the path below which a proxy has put it, without a slash
    at its end.
    """

    scheme: str  # "https", or "http" for this machine's own
    host: str  # without the brackets of an IPv6 address
    port: int
    prefix: str = ""

    @property
    def authority(self) -> str:
        """
        The host, and the port where it is not the scheme's own: as HTTP's Host has it.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """
        The address as people write it.
        """
        return f"{self.scheme}://{self.authority}{self.prefix}"


class RemoteClient(Client):
    """
    A connection to the daemon behind the gateway at *address*, as the account of *token*.

    *ca* names a file of certificates to trust instead of the system's; *open_seconds* is how long
    connecting may take, if not as long as a restart there. Raises DaemonUnreachable, AccessDenied,
    ProtocolError, UsageError, RequestRefused (`try_later`).
    """

    def __init__(
        self,
        address: Address,
        token: str,
        *,
        ca: str | None = None,
        open_seconds: float | None = None,
    ) -> None:
        self._address = address
        self._bearer = token
        self._ca = ca
        self._open_seconds = open_seconds
        super().__init__(address.url)

    def _dial(self) -> "Tunnel":
        try:
            from queuectl.tunnel import OPEN_SECONDS_MAX, Tunnel
        except ModuleNotFoundError as error:
            raise DaemonUnreachable(
                f"a gateway is reached with the Python package websockets: {error}"
            ) from error
        seconds = self._open_seconds or OPEN_SECONDS_MAX
        return Tunnel(self._address, self._bearer, ca=self._ca, open_seconds=seconds)

    def _reopen(self) -> None:
        # Nothing can be started from here: a gateway that restarts is waited for.
        deadline = time.monotonic() + RECONNECT_SECONDS_MAX
        while True:
            try:
                self._open()
                return
            except DaemonUnreachable as error:
                if isinstance(error, ProtocolError) or time.monotonic() > deadline:
                    raise
            time.sleep(_RECONNECT_EVERY_SECONDS)

    def _surroundings(
        self, env: Mapping[str, str] | None, cwd: str | None, umask: int | None
    ) -> Surroundings:
        # This machine's directory and variables mean nothing there.
        return Surroundings(
            env=env or {},
            cwd=HOME if cwd is None else cwd,
            umask=_UMASK if umask is None else umask,
        )


def parse_address(text: str) -> Address:
    """
    Return the address that *text* names: `https://host`, perhaps with a port and a path; without a
    scheme it is https. Raises UsageError.
    """
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        port = parts.port
        host = (parts.hostname or "").encode("idna" if not text.isascii() else "ascii").decode()
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    whole = parts.scheme in _PORTS and host and parts.username is None and port != 0
    if not whole or parts.query or parts.fragment or not _is_plain(host + parts.path):
        raise UsageError(
            f"--host: must be a gateway's address such as https://build.example.org; got {text!a}"
        )
    prefix = parts.path.rstrip("/")
    address = Address(parts.scheme, host, port or _PORTS[parts.scheme], prefix)
    if address.scheme == "http" and not _is_loopback(host) and not _may_do_without_tls():
        raise UsageError(
            f"--host {address.url}: not without TLS, where everybody on the way could read the "
            f"token: give https://, or set QUEUECTL_ALLOW_HTTP=1 if the network is encrypted itself"
        )
    return address


def find_token(address: Address) -> str:
    """
    Return the token for the gateway at *address*: $QUEUECTL_TOKEN, or that of the token file.

    Raises AccessDenied.
    """
    token = os.environ.get("QUEUECTL_TOKEN")
    source = "QUEUECTL_TOKEN"
    if not token:
        source = token_path()
        token = _token_of(_read_private(source), address)
    if token is None:
        raise AccessDenied(
            f"no token for {address.url}: neither in QUEUECTL_TOKEN nor in {source}; to make one, "
            "there: queuectl web token create"
        )
    if not _is_plain(token) or len(token) > _TOKEN_CHARS_MAX:
        raise AccessDenied(f"{source}: this is no token, which begins with qctl_ and is one word")
    return token


def token_path() -> str:
    """
    Return where the token file is, or would be.
    """
    named = os.environ.get("QUEUECTL_TOKEN_FILE")
    if named:
        return named
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):  # The XDG specification: anything else is to be ignored.
        base = os.path.expanduser("~/.config")
    return os.path.join(base, "queuectl/token")


def _read_private(path: str) -> str:
    """
    Return what the file at *path* says; nothing if there is none. Raises AccessDenied, OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid not in (0, os.geteuid()):
            raise AccessDenied(f"{path} is owned by user {found.st_uid}: refusing to use its token")
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise AccessDenied(
                f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):o}, needs 600): "
                f"chmod 600 {path}"
            )
        data = file.read(_TOKEN_FILE_BYTES_MAX + 1)
    if len(data) > _TOKEN_FILE_BYTES_MAX:
        raise AccessDenied(f"{path}: longer than {_TOKEN_FILE_BYTES_MAX} bytes: no token file")
    return data.decode("utf-8", "replace")


def _token_of(text: str, address: Address) -> str | None:
    """
    Return the token of a file: of the line for this host, else of a line for every host.
    """
    for_all = None
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 1:
            for_all = for_all or words[0]
        elif words[0].rstrip("/") == address.url:
            return words[1]
    return for_all


def _is_plain(text: str) -> bool:
    # What goes into an HTTP header or request line as it is.
    return text.isascii() and text.isprintable() and " " not in text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _may_do_without_tls() -> bool:
    return os.environ.get("QUEUECTL_ALLOW_HTTP") == "1"
