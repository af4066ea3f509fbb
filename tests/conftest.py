"""
What every folder of tests may use: real daemons, ended by pid when the test is over.
"""

import os
from collections.abc import Callable, Iterator

import pytest
from daemon_process import DaemonProcess


@pytest.fixture
def daemons(tmp_path: os.PathLike[str]) -> Iterator[Callable[..., DaemonProcess]]:
    """
    A function that makes a DaemonProcess, not started, in a directory of its own.
    """
    made: list[DaemonProcess] = []

    def make(*options: str, **arguments: object) -> DaemonProcess:
        directory = f"{os.fspath(tmp_path)}/{len(made)}"
        os.mkdir(directory, 0o700)
        daemon = DaemonProcess(directory, *options, **arguments)  # type: ignore[arg-type]
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.clean_up()


@pytest.fixture
def daemon(daemons: Callable[..., DaemonProcess]) -> DaemonProcess:
    """
    A daemon that runs.
    """
    return daemons().start()
