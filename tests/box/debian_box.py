"""
A disposable Debian with systemd as PID 1, booted in seconds: what a user's machine does with the
units, tried without one.

A box is a directory tree made once per suite by mmdebstrap, copied for each box, and booted by
systemd-nspawn in namespaces of its own: no network, no registration with a systemd outside, so it
boots on hosts that have none. Commands go in with nsenter, through the box's PID 1.

It needs root, mmdebstrap and systemd-nspawn; `unavailable()` says what is missing. The trees are
kept in QUEUECTL_BOX_DIR (default /var/tmp/queuectl-box), because making one takes a minute.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from control_group import ControlGroup

#: Debian's name -> the Python it brings.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
PACKAGES = (
    "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,"
    "python3,python3-systemd,procps,adduser,util-linux,rpm"
)
HOME = Path(os.environ.get("QUEUECTL_BOX_DIR", "/var/tmp/queuectl-box"))
BOOT_S_MAX = 60.0
COMMAND_S_MAX = 60.0
#: What tells why a command hangs.
STATE = """
ps -eo pid,etimes,stat,wchan:24,args; systemctl list-jobs; journalctl --no-pager --lines=80
"""
POLL_S = 0.05
#: Everything a command inside may take from outside.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}


class NoTree(Exception):
    """
    A tree could not be made: there is no way to a mirror, or no room.
    """


def unavailable() -> str | None:
    """
    Why there can be no box here, or None.
    """
    if os.geteuid() != 0:
        return "booting a box needs root"
    for program in ("mmdebstrap", "systemd-nspawn", "nsenter", "cc"):
        if shutil.which(program) is None:
            return f"booting a box needs {program}"
    return None


def base_tree(suite: str) -> Path:
    """
    Return the tree that boxes of *suite* are copied from, made if it is not there. Raises NoTree.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    name = f"base-{suite}-{zlib.crc32(PACKAGES.encode()):08x}"  # Kept as long as it has them all.
    tree = HOME / name
    with open(HOME / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Another run may be making it.
        if tree.exists():
            return tree
        part = HOME / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        command = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", suite, part]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise NoTree(f"mmdebstrap made no tree of {suite}: {made.stderr.strip()[-1000:]}")
        (part / "etc/machine-id").write_text("")
        (part / "etc/resolv.conf").unlink(missing_ok=True)
        part.rename(tree)
        return tree


class Box:
    """
    One machine. It exists from `Box(...)` to `destroy()`, and runs from `boot()` to `cut_power()`.
    """

    def __init__(self, name: str, suite: str = "bookworm") -> None:
        self.name = f"{name}-{os.getpid()}"
        self.tree = HOME / self.name
        self.console = HOME / f"{self.name}.console"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._group: ControlGroup | None = None
        self._boot_count = 0
        subprocess.run(["cp", "-a", "--reflink=auto", base_tree(suite), self.tree], check=True)

    # --- power ------------------------------------------------------------------------------

    def boot(self) -> "Box":
        """
        Start it on the disk as it is; return when systemd has started everything.
        """
        assert self._nspawn is None
        self._boot_count += 1
        self._group = ControlGroup(f"queuectl-{self.name}-{self._boot_count}")
        with open(self.console, "ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", f"--directory={self.tree}"),
                    *(f"--machine={self.name[-60:]}", "--register=no", "--keep-unit"),
                    *("--private-network", "--boot"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
                preexec_fn=self._group.enter,
            )
        self.wait_for_boot()
        return self

    def wait_for_boot(self) -> None:
        """
        Wait until everything that is started at boot is.
        """

        def up() -> bool:
            said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return said in ("running", "degraded")

        wait_until(up, BOOT_S_MAX, f"{self.name} has booted; see {self.console}")

    def cut_power(self) -> None:
        """
        SIGKILL for every process of the box at once. The disk stays.
        """
        if self._nspawn is None:
            return
        leader = self.leader()
        if leader is not None:
            os.kill(leader, signal.SIGKILL)  # With its PID 1 a pid namespace ends.
        try:
            self._nspawn.wait(10)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._ended()

    def reboot(self) -> None:
        """
        What `systemctl reboot` does: everything is stopped in order, and the machine boots again.
        """
        assert self._nspawn is not None
        self.run("systemctl", "reboot", check=False)
        # Asked to reboot, systemd-nspawn ends, for a unit around it to start it again. We are that.
        self._nspawn.wait(BOOT_S_MAX)
        self._ended()
        self.boot()

    def _ended(self) -> None:
        assert self._group is not None
        self._group.remove()
        self._nspawn = self._group = None

    def destroy(self) -> None:
        """
        End it and remove its disk.
        """
        self.cut_power()
        shutil.rmtree(self.tree, ignore_errors=True)
        self.console.unlink(missing_ok=True)

    def leader(self) -> int | None:
        """
        The pid, outside, of the box's PID 1.
        """
        if self._nspawn is None:
            return None
        outer = self._nspawn.pid
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None

    # --- inside -----------------------------------------------------------------------------

    def command(self, *argv: str, user: str | None = None) -> list[str]:
        """
        Return the command line that runs *argv* inside.
        """
        leader = self.leader()
        assert leader is not None, f"{self.name} is not up"
        assert self._group is not None
        join = "".join(f"echo 0 >{each}; " for each in self._group.visitors())
        switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        environment = dict(ENVIRONMENT)
        if user:
            environment |= {"HOME": f"/home/{user}", "USER": user, "LOGNAME": user}
        variables = [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", "--target", str(leader), "--all", "--wdns=/"]
        inside = [*enter, "env", "-i", *variables, *switch, *argv]
        return ["sh", "-c", f'{join}exec "$@"', "sh", *inside]

    def run(
        self,
        *argv: str,
        check: bool = True,
        user: str | None = None,
        stdin: str = "",
        timeout_s: float = COMMAND_S_MAX,
    ) -> "subprocess.CompletedProcess[str]":
        """
        Run a command inside, as root or as *user*; with *check* it must end with 0.
        """
        if self.leader() is None:
            assert not check, f"{self.name} is not up"
            return subprocess.CompletedProcess(argv, -1, "", "not up")
        try:
            ended = self._enter(self.command(*argv, user=user), stdin, timeout_s)
        except subprocess.TimeoutExpired:
            state = self._enter(self.command("sh", "-c", STATE), "", COMMAND_S_MAX).stdout
            raise AssertionError(f"{argv}: not within {timeout_s} s\n{state}") from None
        assert not check or ended.returncode == 0, (argv, ended.returncode, ended)
        return ended

    def _enter(
        self, command: list[str], stdin: str, timeout_s: float
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def shell(self, script: str, *, check: bool = True, user: str | None = None) -> str:
        """
        Run a shell script inside; return what it wrote, without the last line's end.
        """
        return self.run("sh", "-c", script, check=check, user=user).stdout.rstrip("\n")

    def path(self, inside: str) -> Path:
        """
        Return where a path of the box's is found outside. Not for what is mounted inside, as /run.
        """
        return self.tree / inside.lstrip("/")

    def push(self, source: Path, inside: str) -> None:
        """
        Copy a file or a folder in, to the very path *inside*, as root's.
        """
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cp", "-rT", "--preserve=mode", "--no-preserve=ownership", source, target],
            check=True,
        )


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """
    Wait for *condition* to be true.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(POLL_S)
