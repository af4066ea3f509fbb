"""
What every folder of tests may use: real daemons, ended by pid when the test is over.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daemon_process import DaemonProcess

#: The folders whose tests share machines that take long to make, and the one place where packages
#: are built.
MACHINES = ("tests/box/", "tests/packaging/")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would all that they
# start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Keep the tests of one file together where tests run side by side, and all that use machines.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "machines" if nodeid.startswith(MACHINES) else nodeid.partition("::")[0]

    return ByFile(config, log)


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


@pytest.fixture
def machine(daemons: Callable[..., DaemonProcess]) -> Iterator[DaemonProcess]:
    """
    The machine's daemon, without a runner, at a socket that every account can reach.
    """
    with tempfile.TemporaryDirectory(dir="/run", prefix="queuectl-test-") as directory:
        os.chmod(directory, 0o711)
        socket = f"{directory}/q.sock"
        daemon = daemons("--system", "--runner-dir", f"{directory}/runner", socket=socket)
        daemon.start()
        os.chmod(socket, 0o666)
        yield daemon
        daemon.clean_up()
