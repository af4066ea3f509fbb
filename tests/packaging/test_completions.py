"""
Completions: what may come next, and the same asked for by pressing Tab in real shells.
"""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon_process import PACKAGES, DaemonProcess
from package_files import need

from queuectl.cli import MODULES
from queuectl.client import Client
from queuectl.commands.guide import all_commands
from queuectl.completion import DIRECTORIES, FILES, SCRIPTS, complete, lines_for, split_line
from queuectl.errors import DaemonUnreachable, UsageError
from queuectl.protocol import JobSpec, Queues, SetQueue, StopWorkers, Workers
from queuectl.session import GLOBAL_OPTIONS
from queuectl.settings import SETTINGS
from queuectl.tokens import CreateToken, TokenCreated
from queuectl.views import JOB_STATES

DEADLINE_S = 20.0


def nobody() -> Client:
    raise DaemonUnreachable("nobody listens")


def words(*line: str, connect: Callable[[], Client] = nobody) -> list[str]:
    return [word for word, _ in complete(list(line), connect)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """
    A daemon with a job in each of some states, and a queue.
    """
    daemon = DaemonProcess(os.fspath(tmp_path_factory.mktemp("daemon"))).start()
    try:
        with Client(daemon.socket) as client:
            client.call(StopWorkers(), Workers)
            client.call(SetQueue(name="heavy", concurrency=1), Queues)
            client.enqueue(
                [
                    JobSpec(command="echo one", id="alpha"),
                    JobSpec(command="echo 'two'\n\ttabbed", id="alpine", hold=True),
                    JobSpec(command="echo three", id="beta:x"),
                ]
            )
        yield daemon
    finally:
        daemon.clean_up()


def test_commands() -> None:
    """
    The first word is a command, the second of a group one of its own.
    """
    assert list(MODULES) == words("")
    assert ["doctor"] == words("do")
    assert ["start", "stop", "list"] == words("worker", "")
    assert ["start", "stop", "list"] == words("workers", "")
    assert ["stop", "status"] == [w for w in words("daemon", "st") if w != "start"]
    assert [] == words("nonsense", "")
    assert [] == words("worker", "nonsense", "")
    assert ["worker"] == words("help", "wor")
    assert ["start", "stop"] == words("help", "worker", "st")


def test_every_option_of_every_command() -> None:
    """
    What the definitions have, and nothing else; what was given is not offered again.
    """
    for command in all_commands():
        options = {f"--{option.name}" for option in (*command.options, *GLOBAL_OPTIONS)}
        assert options == set(words(*command.words, "--")), command.name
    assert "--json" not in words("list", "--json", "--j")
    assert "--state" in words("list", "--state", "dead", "--st")
    assert ["--socket"] == words("--so")


def test_values() -> None:
    """
    An option's value is completed after it or after `=`, before the command too.
    """
    assert list(JOB_STATES) == words("list", "--state", "")
    assert ["pending", "processing"] == words("list", "-s", "p")
    assert ["--state=pending", "--state=processing"] == words("list", "--state=p")
    assert ["auto", "always", "never"] == words("--color", "")
    assert ["high"] == words("enqueue", "--priority", "h")
    assert ["file", "journal"] == words("run", "--output", "")
    assert "root" in words("enqueue", "--user", "ro")
    assert [FILES] == words("enqueue", "--script", "")
    assert [DIRECTORIES] == words("enqueue", "--cwd", "x")
    assert [FILES] == words("--socket", "/r")
    assert [] == words("list", "--limit", "")
    assert list(MODULES) == words("--socket", "/run/x", "--json", "")


def test_operands() -> None:
    """
    Settings, shells, and files where a command line is wanted.
    """
    assert list(SETTINGS) == words("config", "set", "")
    assert [] == words("config", "set", "workers", "")
    assert ["bash"] == words("completion", "b")
    assert [FILES] == words("enqueue", "ma")
    assert [FILES] == words("run", "--", "ma")


def test_live_words(daemon: DaemonProcess) -> None:
    """
    Ids of jobs in a state that fits the command, with what they are; queues; none without a daemon.
    """

    def connect() -> Client:
        return Client(daemon.socket)

    assert ["alpine", "alpha"] == words("show", "al", connect=connect)
    assert ["beta:x", "alpine", "alpha"] == words("cancel", "", connect=connect)
    assert ["alpine"] == words("release", "", connect=connect)
    assert [] == words("dlq", "retry", "", connect=connect)
    assert ["alpha,beta:x"] == words("wait", "alpha,b", connect=connect)
    assert [("alpha", "pending echo one")] == complete(["show", "alpha"], connect)
    assert {"default", "heavy"} == set(words("queue", "pause", "", connect=connect))
    assert ["heavy"] == words("list", "--queue", "h", connect=connect)
    assert [] == words("show", "")
    assert ["default"] == words("queue", "show", "")


def test_nothing_in_a_job_ends_a_line(daemon: DaemonProcess) -> None:
    """
    A stranger's command cannot put words into a completion, nor colons into zsh's.
    """

    def connect() -> Client:
        return Client(daemon.socket)

    for shell in SCRIPTS:
        line = ["queuectl show "] if shell == "bash" else ["show", ""]
        assert 3 == len(lines_for(shell, line, connect)), shell
    fish = lines_for("fish", ["show", "alpi"], connect)
    assert ["alpine\theld echo 'two'  tabbed"] == fish
    assert "beta\\:x:pending echo three" in lines_for("zsh", ["show", ""], connect)
    assert ["x"] == lines_for("bash", ["queuectl show beta:"], connect)
    with pytest.raises(UsageError):
        lines_for("tcsh", [""], connect)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("queuectl ", ["queuectl", ""]),
        ("queuectl sh", ["queuectl", "sh"]),
        ("queuectl enqueue 'a b", ["queuectl", "enqueue", "a b"]),
        ('queuectl enqueue "a b" ', ["queuectl", "enqueue", "a b", ""]),
        ("queuectl show a\\ ", ["queuectl", "show", "a "]),
        ("", [""]),
    ],
)
def test_lines_are_split_as_a_shell_does(line: str, expected: list[str]) -> None:
    """
    Quotations may still be open.
    """
    assert expected == split_line(line)


def environment_of(daemon: DaemonProcess, folder: Path) -> dict[str, str]:
    """
    Return what a shell needs to find our program and the daemon.
    """
    program = folder / "queuectl"
    if not program.exists():
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m queuectl "$@"\n')
        program.chmod(0o755)
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "PYTHONPATH": PACKAGES,
        "QUEUECTL_SOCKET": daemon.socket,
        "HOME": os.fspath(folder),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


class Terminal:
    """
    A shell at a terminal, to which keys are sent.
    """

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def press(self, keys: str) -> None:
        self.seen = ""
        os.write(self.master, keys.encode())

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} not in {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


#: How each shell comes to the completion: as its user does it, and as the packages do for zsh.
LOADING = {
    "bash": 'eval "$(queuectl completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(queuectl completion zsh)"',
    "zsh installed": "fpath=($PWD/functions $fpath); autoload -Uz compinit; compinit -u -D",
}


@pytest.mark.parametrize("way", LOADING)
def test_tab_in_a_real_shell(way: str, daemon: DaemonProcess, tmp_path: Path) -> None:
    """
    A command, an option's value after `=`, an id and a queue from the daemon, a setting, a file.
    """
    shell = way.partition(" ")[0]
    need(shell)
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/_queuectl").write_text(SCRIPTS["zsh"])
    (tmp_path / "only-file.json").touch()
    environment = environment_of(daemon, tmp_path)
    options = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}[shell]
    terminal = Terminal([shell, *options], environment, tmp_path)
    try:
        prompt = "PS1='ready> '"
        if shell == "zsh":
            prompt += "; unsetopt zle_bracketed_paste"
        terminal.press(f'{prompt}; {LOADING[way]}; echo load""ed\n')
        terminal.wait_for("loaded")
        terminal.wait_for("ready> ")
        for typed, completed in (
            ("queuectl canc\t", "cancel "),
            ("list --state=proc\t", "=processing "),
            ("queuectl show alpha\t", "alpha "),
            ("queuectl show beta\t", "beta"),
            ("queuectl queue pause hea\t", "heavy "),
            ("queuectl config get max_re\t", "max_retries "),
            ("queuectl enqueue -f only\t", "only-file.json "),
        ):
            line = typed if typed.startswith("queuectl") else f"queuectl {typed}"
            terminal.press(line)
            terminal.wait_for(completed)
            terminal.press("\x15")  # The line is thrown away.
    finally:
        terminal.close()


def test_tab_in_fish(daemon: DaemonProcess, tmp_path: Path) -> None:
    """
    fish tells what it would offer, with what it means.
    """
    need("fish")
    (tmp_path / "only-file.json").touch()
    (tmp_path / "completion.fish").write_text(SCRIPTS["fish"])

    def offered(line: str) -> list[str]:
        script = f"source completion.fish; complete -C '{line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            env=environment_of(daemon, tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "" == done.stderr
        return done.stdout.splitlines()

    assert ["cancel\tcancel jobs"] == offered("queuectl canc")
    assert ["alpha\tpending echo one"] == offered("queuectl show alph")
    assert ["heavy"] == [e.partition("\t")[0] for e in offered("queuectl list --queue h")]
    assert ["max_retries"] == [e.partition("\t")[0] for e in offered("queuectl config get max_re")]
    assert ["--state=processing"] == [
        e.partition("\t")[0] for e in offered("queuectl list --state=pro")
    ]
    assert ["only-file.json"] == [e.partition("\t")[0] for e in offered("queuectl enqueue -f only")]


def test_silence_where_nobody_listens(tmp_path: Path) -> None:
    """
    Without a daemon there is nothing to offer, nothing is said, and none is started.
    """
    command = [sys.executable, "-P", "-m", "queuectl", "completion", "words", "bash", "--"]
    socket = tmp_path / "no.sock"
    done = subprocess.run(
        [*command, "queuectl show "],
        env={**os.environ, "PYTHONPATH": PACKAGES, "QUEUECTL_SOCKET": os.fspath(socket)},
        capture_output=True,
        check=False,
    )
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert not socket.exists()


def test_names_of_three_words(daemon: DaemonProcess) -> None:
    """
    What may follow is offered word by word, and tokens where one is asked for.
    """

    def connect() -> Client:
        return Client(daemon.socket)

    with connect() as client:
        made = client.call(CreateToken(scopes=["read"], name="ci"), TokenCreated).token
    assert (made.id, "ci") in complete(["web", "token", "revoke", ""], connect)
    assert "token" in words("web", "")
    assert ["create", "list", "revoke"] == words("web", "token", "")
    assert ["revoke"] == words("help", "web", "token", "r")
    assert [] == words("web", "token", "create", "")
    assert ["read", "submit", "manage"] == words("web", "token", "create", "--scope", "")
