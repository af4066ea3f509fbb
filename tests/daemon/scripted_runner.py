"""
The daemon's end of the connection to the runner, and a runner that follows a script.
"""

import os
import select
import socket
from collections.abc import Callable

import structlog

from queuectld.core.events import Event
from queuectld.runner import messages
from queuectld.runner.endpoint import listen
from queuectld.runtime.output import OutputStore
from queuectld.runtime.runner_link import RunnerLink

WELCOME = messages.pack_welcome(messages.Welcome(messages.VERSION, 77, 1000, 5, "1.0"))


class Script:
    """
    Both ends: the link under test, and the socket of a runner that says what a test makes it say.
    """

    def __init__(self, directory: str) -> None:
        os.mkdir(f"{directory}/runner", 0o700)
        directory_fd = os.open(f"{directory}/runner", os.O_RDONLY)
        self.listener = listen(directory_fd)
        os.close(directory_fd)
        self.events: list[Event] = []
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.epoll = select.epoll()
        self.link = RunnerLink(
            f"{directory}/runner",
            epoch=9,
            epoll=self.epoll,
            handlers=self.handlers,
            event=self.events.append,
            output=OutputStore(f"{directory}/output"),
            log=structlog.get_logger(),
            describe=lambda number: {"job": number},
        )
        self.runner: socket.socket | None = None
        self.now = 1_000_000

    def connect(self) -> socket.socket:
        """
        Have the link connect; return the runner's end, on which HELLO has come.
        """
        self.link.attend(self.now)
        self.runner, _ = self.listener.accept()
        self.runner.settimeout(10)
        hello = messages.unpack_request(self.runner.recv(100))
        assert hello == messages.Hello(messages.VERSION, 9)
        return self.runner

    def greet(self) -> socket.socket:
        """
        The same, and go through the greeting with nothing to tell.
        """
        runner = self.connect()
        self.say(WELCOME, messages.pack_ready())
        self.events.clear()
        return runner

    def say(self, *packets: bytes) -> None:
        assert self.runner is not None
        for packet in packets:
            self.runner.send(packet)
        self.pump()

    def pump(self) -> None:
        """
        Let the link hear what there is.
        """
        while ready := self.epoll.poll(0):
            for fd, events in ready:
                self.handlers[fd](events)

    def hang_up(self) -> None:
        """
        Let go of the runner's end of a connection that is over.
        """
        assert self.runner is not None
        self.runner.close()
        self.runner = None

    def close(self) -> None:
        self.link.close()
        if self.runner is not None:
            self.runner.close()
        self.listener.close()
        self.epoll.close()
