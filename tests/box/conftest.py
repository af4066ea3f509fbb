"""
Boxes for the tests: installed, booted, and gone at the end.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debian_box import SUITES, Box, NoTree, base_tree, unavailable
from installation import ROOT, install

# What builds the packages.
sys.path.append(os.fspath(ROOT / "tests/packaging"))

REASON = unavailable()
#: Who is on the machine with the package: name -> groups. carol and grace may not use the queue;
#: dave manages it.
PEOPLE = {
    "alice": "queuectl",
    "bob": "queuectl",
    "carol": "",
    "dave": "queuectl,queuectl-admin",
    "erin": "queuectl",
    "frank": "queuectl",
    "grace": "",
    "heidi": "queuectl",
}


def need_tree(suite: str) -> None:
    """
    Skip the test, saying why, where there can be no boxes of *suite*.
    """
    if REASON is not None:
        pytest.skip(REASON)
    try:
        base_tree(suite)
    except NoTree as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=list(SUITES))
def make_box(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Box]]:
    """
    A function that installs a box, not booted, for each suite.
    """
    need_tree(request.param)
    made: list[Box] = []

    def make(name: str) -> Box:
        box = Box(name, request.param)
        made.append(box)
        install(box, request.param)
        return box

    yield make
    for box in made:
        box.destroy()


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The package for Debian, in a folder of the tests' own.
    """
    if REASON is not None:
        pytest.skip(REASON)
    from package_files import build

    return Path(shutil.copy2(build().deb, tmp_path_factory.mktemp("package")))


@pytest.fixture(scope="session", params=list(SUITES))
def box(request: pytest.FixtureRequest, deb: Path) -> Iterator[Box]:
    """
    A machine with the package, booted, and PEOPLE. Several modules use it, each its own jobs.
    """
    need_tree(request.param)
    machine = Box("people", request.param)
    try:
        machine.boot()
        machine.push(deb, "/var/tmp/queuectl.deb")
        machine.run("dpkg", "--install", "/var/tmp/queuectl.deb")
        for name, groups in PEOPLE.items():
            machine.run("useradd", "-m", "-s", "/bin/sh", "-G", groups, name)
        yield machine
    finally:
        machine.destroy()
