"""
Building the packages, and reading what is in them.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Packages(NamedTuple):
    """
    The two files.
    """

    deb: Path
    rpm: Path


def build(
    environment: dict[str, str] | None = None, *, umask: int = 0o022, tree: Path = ROOT
) -> Packages:
    """
    Build both, as `make packages` does, from the sources in *tree*.
    """
    done = subprocess.run(
        [sys.executable, tree / "packaging/build.py"],
        env={**os.environ, **(environment or {})},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "'pip', 'download'" in done.stderr:
        pytest.skip(f"what the packages bring cannot be downloaded: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (deb,) = (tree / "dist").glob("*.deb")
    (rpm,) = (tree / "dist").glob("*.rpm")
    return Packages(deb, rpm)


def unpacked(tree: Path) -> Path:
    """
    Return *tree*, made: the sources as an archive of the commit has them, without git, and with the
    modes that tar gives them for who works with umask 002; what was downloaded already comes along.
    """
    from build import SOURCES, source_date_epoch

    for name in (*SOURCES, "build/wheels", "build/nfpm"):
        source, target = ROOT / name, tree / name
        if not source.exists():
            continue  # Nothing was downloaded yet.
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copy2 if source.is_file() else shutil.copytree
        copy(source, target)
    seconds = source_date_epoch()
    for path in tree.rglob("*"):
        os.utime(path, (seconds, seconds))
        path.chmod(path.stat().st_mode | 0o020)
    return tree


def need(*programs: str) -> None:
    """
    Skip the test, with the reason, where a program is missing.
    """
    missing = [each for each in programs if shutil.which(each) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def output(*command: str | Path) -> str:
    """
    Return what a command that must succeed writes.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done)
    return done.stdout


def deb_members(deb: Path, part: str = "--fsys-tarfile") -> dict[str, tarfile.TarInfo]:
    """
    Return the files and directories of a deb by path.
    """
    data = subprocess.run(["dpkg-deb", part, deb], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {"/" + each.name.removeprefix("./").rstrip("/"): each for each in archive}


def control_file(deb: Path, name: str) -> str:
    """
    Return one of the files that dpkg works by; nothing if it is not there.
    """
    data = subprocess.run(["dpkg-deb", "--info", deb, name], capture_output=True, check=False)
    return data.stdout.decode()


def deb_fields(deb: Path) -> dict[str, str]:
    """
    Return the fields of a deb that stand on one line.
    """
    text = output("dpkg-deb", "--field", deb)
    return dict(re.findall(r"^(\S+): (.*)$", text, re.MULTILINE))


def rpm_query(rpm: Path, form: str) -> list[str]:
    """
    Return the lines of a query.
    """
    return output("rpm", "-qp", "--queryformat", form, rpm).splitlines()
