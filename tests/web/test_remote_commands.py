"""
Requirements on `--host`: every command works on another machine's queue as it does on one's own,
or says that it is about this machine. There is one row for each command that exists.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from daemon_process import DaemonProcess, processes_of
from gateway_process import GatewayProcess

from queuectl.cli import MODULES, load, run
from queuectl.protocol import Queues, SetQueue

HOME = os.path.expanduser("~")


class Row(NamedTuple):
    """
    A command line; what it says, on either stream; its exit code. DONE, DEAD and HELD stand for the
    id of a new job in that state, DIR for a directory of this machine.
    """

    words: str
    says: str = ""
    code: int = 0


ROWS = {
    "enqueue": Row("enqueue --env GREETING=hello 'echo $GREETING'"),
    "run": Row("run 'echo in $PWD; exit 5'", f"in {HOME}\n", 5),
    "status": Row("status", "user mode"),
    "list": Row("list DONE", "it was here"),
    "show": Row("show DONE", "it was here"),
    "logs": Row("logs DONE", "it was here"),
    "logs show": Row("logs show DONE", "it was here"),
    "wait": Row("wait DONE", "completed"),
    "cancel": Row("cancel HELD", "cancelled"),
    "retry": Row("retry DEAD", "retried"),
    "hold": Row("hold DONE", "completed", 4),
    "release": Row("release HELD", "released"),
    "edit": Row("edit HELD --priority 3", ""),
    "prune": Row("prune DONE", "pruned"),
    "dlq list": Row("dlq list", "exit 3"),
    "dlq show": Row("dlq show DEAD", "exit 3"),
    "dlq retry": Row("dlq retry DEAD", "retried"),
    "dlq purge": Row("dlq purge DEAD", "purged"),
    "worker start": Row("worker start --count 1"),
    "worker stop": Row("worker stop"),
    "worker list": Row("worker list"),
    "queue list": Row("queue list"),
    "queue show": Row("queue show nightly", "nightly"),
    "queue set": Row("queue set other --concurrency 2", "other"),
    "queue pause": Row("queue pause nightly", "nightly"),
    "queue resume": Row("queue resume nightly", "nightly"),
    "queue delete": Row("queue delete nightly", "nightly"),
    "config list": Row("config list", "workers"),
    "config show": Row("config show", "workers"),
    "config get": Row("config get workers"),
    "config set": Row("config set retention_count 77", "77"),
    "config unset": Row("config unset retention_count"),
    "web": Row("web", "web: serves the queue of this machine", 2),
    "web token create": Row(
        "web token create x", "a token makes no tokens; on the host itself: ", 77
    ),
    "web token list": Row("web token list"),
    "web token revoke": Row("web token revoke none", "none", 3),
    "daemon start": Row("daemon start", "starts a daemon of this machine", 2),
    "daemon stop": Row("daemon stop", "queuectld stopped"),
    "daemon status": Row("daemon status", "socket     http://127.0.0.1:"),
    "doctor": Row("doctor", "looks at this machine's files", 2),
    "completion": Row("completion bash", "complete"),
    "journal verify": Row("journal verify DIR", "reads files of this machine", 2),
    "journal repair": Row("journal repair --truncate DIR", "changes files of this machine", 2),
    "version": Row("version", "queuectld "),
    "help": Row("help enqueue", "Options of every command"),
}


def names() -> list[str]:
    return [each.name for name in MODULES for each in load(name) if each.words[0] == name]


def test_every_command_has_a_row() -> None:
    """
    A new command says here what it does from another machine.
    """
    assert sorted(names()) == sorted(ROWS)


@pytest.fixture
def elsewhere(
    gateway: GatewayProcess,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """
    A user of another machine: a home and a runtime directory of their own, no daemon, and a token.
    """
    home = tmp_path_factory.mktemp("elsewhere")
    for name in [each for each in os.environ if each.startswith(("QUEUECTL_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    monkeypatch.setenv("QUEUECTL_TOKEN", gateway.make_token())
    monkeypatch.chdir(home)
    yield home
    assert {} == processes_of(str(home)), "a daemon was started here"


def prepare(daemon: DaemonProcess, words: list[str], here: Path) -> list[str]:
    """
    Return *words* with what they name, which is made.
    """
    with daemon.client() as client:
        client.call(SetQueue(name="nightly"), Queues)
    made = {"DIR": str(here)}
    if "DONE" in words:
        (made["DONE"],) = daemon.enqueue("echo it was here")
        daemon.wait_for(made["DONE"], "completed")
    if "DEAD" in words or "dlq" in words:
        (made["DEAD"],) = daemon.enqueue("exit 3", max_retries=0)
        daemon.wait_for(made["DEAD"], "dead")
    if "HELD" in words:
        (made["HELD"],) = daemon.enqueue("true", hold=True)
    return [made.get(word, word) for word in words]


@pytest.mark.parametrize("name", [each for each in names() if each != "daemon stop"])
def test_every_command_from_another_machine(
    name: str,
    web_daemon: DaemonProcess,
    gateway: GatewayProcess,
    elsewhere: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """
    It does what it does here, with the same words and exit code, and starts nothing here.
    """
    row = ROWS[name]
    words = prepare(web_daemon, shlex.split(row.words), elsewhere)
    code = run(["--host", gateway.url, *words])
    sys.stdout.flush()
    said = b"".join(capfdbinary.readouterr()).decode()

    assert (row.code, True) == (code, row.says in said), said


def test_a_daemon_is_stopped_from_another_machine(
    daemon: DaemonProcess,
    gateways: Callable[..., GatewayProcess],
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """
    Where there is no process to wait for, the hang-up says that it has ended. It is not started
    again, and what is asked then says so.
    """
    gateway = gateways(daemon).start()
    monkeypatch.setenv("QUEUECTL_TOKEN", gateway.make_token())
    monkeypatch.setenv("QUEUECTL_HOST", gateway.url)

    assert 0 == run(ROWS["daemon stop"].words.split())
    assert f"queuectld stopped, was pid {daemon.pid}\n" == capfd.readouterr().out
    assert 0 == daemon.wait()
