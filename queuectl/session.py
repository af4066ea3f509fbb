"""
What a command has at hand: the daemon, the two output streams, and how to write to them.

stdout is for results alone, so that it can be piped: text, or with `--json` exactly one JSON
document. What is said to the user goes to stderr. Text is escaped for the terminal on both.
"""

import os
import sys
import time
from collections.abc import Iterable

from queuectl import discovery
from queuectl.client import Client
from queuectl.errors import CallTimedOut, DaemonUnreachable, UsageError
from queuectl.escape import printable
from queuectl.options import Arguments, Option

#: How long a daemon may be away in the middle of a command. Long journals take a while to read.
_RECONNECT_SECONDS = 15.0

#: Options that every command has, before its name or after.
GLOBAL_OPTIONS = (
    Option("socket", "the daemon's socket", value="PATH"),
    Option("host", "another machine's queue, by its gateway: https://HOST[:PORT]", value="URL"),
    Option("ca", "with --host: trust the certificates in FILE, not the system's", value="FILE"),
    Option("json", "print one JSON document"),
    Option("jsonl", "print one JSON document per line"),
    Option("quiet", "print ids only", short="q"),
    Option(
        "color",
        "color on stdout (default: auto)",
        value="WHEN",
        choices=("auto", "always", "never"),
    ),
    Option("no-color", "the same as --color never"),
    Option("help", "show this help", short="h"),
)


class Session:
    """
    One run of one command.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.json = arguments.flag("json")
        self.jsonl = arguments.flag("jsonl")
        self.quiet = arguments.flag("quiet")
        if self.json + self.jsonl + self.quiet > 1:
            raise UsageError("--json, --jsonl and --quiet: give one of them")
        self._socket = arguments.value("socket")
        #: The gateway of another machine whose daemon is asked; None for one of this machine.
        self.host = _host(arguments.value("host"), self._socket)
        self._ca = arguments.value("ca")
        #: The options that lead to the same place again.
        self._host_words = f"--host {self.host} " if arguments.flag("host") else ""
        if self._ca is not None and self.host is None:
            raise UsageError("--ca: goes with --host")
        self._color = "never" if arguments.flag("no-color") else arguments.value("color") or "auto"
        #: When the command was given: what `now` means in its arguments, milliseconds.
        self.now = time.time_ns() // 1_000_000

    @property
    def structured(self) -> bool:
        """
        Whether the output is JSON, in either form.
        """
        return self.json or self.jsonl

    @property
    def place(self) -> discovery.Place:
        """
        Where the daemon is to be found.
        """
        return discovery.locate(self._socket)

    def connect(self) -> Client:
        """
        Return a connection to the daemon, started first where that is ours to do.
        """
        if self.host is not None:
            return self._connect_remote(self.host)
        return Client(self.place.socket, start=self._start)

    def connect_running(self, open_seconds: float | None = None) -> Client:
        """
        Return a connection to the daemon if it runs; to another machine's within *open_seconds*.
        Raises DaemonUnreachable.
        """
        if self.host is not None:
            return self._connect_remote(self.host, open_seconds)
        return Client(self.place.socket)

    def reconnect(self, deadline: float | None = None) -> Client:
        """
        Return a new connection to a daemon that went away and may come back: a restart, an upgrade.

        Starts none: it may have been stopped on purpose. Raises DaemonUnreachable, and CallTimedOut
        once *deadline*, of the monotonic clock, has passed.
        """
        give_up_at = time.monotonic() + _RECONNECT_SECONDS
        # Many may wait for the same gateway.
        pause_seconds = 0.05 if self.host is None else 0.2
        while True:
            left_seconds = None if deadline is None else deadline - time.monotonic()
            if left_seconds is not None and left_seconds <= 0:
                raise CallTimedOut("the connection was lost, and not made again in time")
            try:
                return self.connect_running(left_seconds)
            except DaemonUnreachable:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(pause_seconds)

    def refuse_host(self, command: str, why: str) -> None:
        """
        Raise UsageError if another machine's queue is asked for, which *command* is not about.
        """
        if self.host is not None:
            raise UsageError(
                f"{command}: {why}; it does not go with --host or QUEUECTL_HOST ({self.host}): "
                "run it on that machine, or leave them out"
            )

    def again(self, words: str) -> str:
        """
        Return the command line that means *words* where this one was given.
        """
        return f"queuectl {self._host_words}{words}"

    def _connect_remote(self, host: str, open_seconds: float | None = None) -> Client:
        # Only who asks for another machine pays for the import.
        from queuectl.remote import RemoteClient, find_token, parse_address

        address = parse_address(host)
        ca = self._ca or os.environ.get("QUEUECTL_CA") or None
        return RemoteClient(address, find_token(address), ca=ca, open_seconds=open_seconds)

    def _start(self) -> None:
        # Most commands find a daemon running and need none of this.
        from queuectl.autostart import start_at

        start_at(self.place)

    def print(self, text: str) -> None:
        """
        Write *text*, which is already fit for a terminal, and a newline to stdout.
        """
        sys.stdout.write(text + "\n")

    def flush(self) -> None:
        """
        Give the reader of stdout what was printed so far.
        """
        sys.stdout.flush()

    def print_json(self, document: object) -> None:
        """
        Write *document* as JSON: indented with `--json`, on one line with `--jsonl`.
        """
        from queuectl.documents import encode_json

        self.print(encode_json(document, indent=0 if self.jsonl else 2))

    def print_json_array(self, items: Iterable[object]) -> None:
        """
        Write *items* as they come: as one JSON array, or with `--jsonl` one per line.
        """
        from queuectl.documents import encode_json

        if self.jsonl:
            for item in items:
                self.print(encode_json(item))
            return
        lead = "["
        for item in items:
            self.print(lead)
            lead = ","
            sys.stdout.write(encode_json(item, indent=2))
        self.print("[]" if lead == "[" else "\n]")

    def complain(self, text: str) -> None:
        """
        Write one line to stderr, after what stdout was given so far.
        """
        sys.stdout.flush()
        sys.stderr.write(f"queuectl: {printable(text)}\n")
        sys.stderr.flush()

    @property
    def on_terminal(self) -> bool:
        """
        Whether a person reads stdout.
        """
        return sys.stdout.isatty()

    @property
    def colored(self) -> bool:
        """
        Whether stdout gets colors. See https://no-color.org for NO_COLOR.
        """
        if self._color != "auto":
            return self._color == "always"
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        return self.on_terminal and not os.environ.get("NO_COLOR") and not dumb


def _host(named: str | None, socket: str | None) -> str | None:
    """
    Return the gateway that the command line or the environment names. An option beats a variable;
    two of a kind exclude each other.
    """
    if named is not None and socket is not None:
        raise UsageError("--host and --socket: give one of them")
    if named is not None or socket is not None:
        return named
    variable = os.environ.get("QUEUECTL_HOST") or None
    if variable and os.environ.get("QUEUECTL_SOCKET"):
        raise UsageError("QUEUECTL_HOST and QUEUECTL_SOCKET: unset one, or give --host or --socket")
    return variable
