"""
queuectl put into a box by hand, at the places where a package puts it.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import structlog
from debian_box import HOME, SUITES, Box

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = "/usr/lib/queuectl"
USERS = ("alice", "bob")
#: A program's module. The package's own launchers do the same with more care.
PROGRAMS = {
    "queuectl": "queuectl.cli",
    "queuectld": "queuectld.main",
    "queuectl-runner": "queuectld.runner.main",
}
LAUNCHER = """#!/bin/sh
export PYTHONPATH={library}
exec /usr/bin/python3 -P -c 'import sys; from {module} import main; sys.exit(main())' "$@"
"""


def dependencies(suite: str) -> list[Path]:
    """
    Return the folders of what we import and Debian lacks, for the Python of *suite*.
    """
    version = SUITES[suite]
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return [Path(module.__file__).parent for module in (msgspec, structlog)]
    target = HOME / f"wheels-{version}"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        part = target.with_suffix(".part")
        command += [str(part), "--python-version", version, "--only-binary", ":all:"]
        subprocess.run([*command, "msgspec", "structlog"], check=True)
        for wheel in part.glob("*.whl"):
            subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, part], check=True)
        part.rename(target)
    return [target / "msgspec", target / "structlog"]


def install(box: Box, suite: str = "bookworm") -> None:
    """
    Put programs, units and accounts into a box that is not up yet.
    """
    for package in (ROOT / "queuectl", ROOT / "queuectld", *dependencies(suite)):
        box.push(package, f"{LIBRARY}/{package.name}")
    for program, module in PROGRAMS.items():
        write(box, f"/usr/bin/{program}", LAUNCHER.format(library=LIBRARY, module=module), 0o755)
    for unit in (ROOT / "systemd").glob("*.s*"):
        box.push(unit, f"/usr/lib/systemd/system/{unit.name}")
    for unit in (ROOT / "systemd/user").iterdir():
        box.push(unit, f"/usr/lib/systemd/user/{unit.name}")
    write(box, "/etc/queuectl/runner.toml", (ROOT / "packaging/etc/runner.toml").read_text())
    source, program = ROOT / "queuectld/runner/executor.c", box.path(f"{LIBRARY}/executor")
    subprocess.run(["cc", "-static", "-O2", "-o", program, source], check=True)
    box.push(ROOT / "systemd/sysusers.conf", "/usr/lib/sysusers.d/queuectl.conf")
    box.push(ROOT / "systemd/tmpfiles.conf", "/usr/lib/tmpfiles.d/queuectl.conf")
    box.push(ROOT / "systemd/queuectl.catalog", "/usr/lib/systemd/catalog/queuectl.catalog")
    inside = [
        # Whoever runs a program there may not write what it was compiled to, and would compile it
        # at every start. The packages do this as well.
        f"/usr/bin/python3 -IS -m compileall -q {LIBRARY}",
        "systemd-sysusers",
        "systemctl enable queuectld.service",
        "journalctl --update-catalog",
    ]
    inside += [f"useradd -m -G queuectl -s /bin/bash {user}" for user in USERS]
    for command in inside:
        subprocess.run(
            ["chroot", box.tree, *command.split()], check=True, capture_output=True, text=True
        )


def write(box: Box, inside: str, text: str, mode: int = 0o644) -> None:
    """
    Write a file into a box.
    """
    path = box.path(inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
