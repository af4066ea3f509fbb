"""
The packages, built once for all tests of this folder.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest
from package_files import ROOT, Packages, build

# The programs that make packages, and the boxes to try them in.
sys.path[:0] = [os.fspath(ROOT / "packaging"), os.fspath(ROOT / "tests/box")]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """
    Both packages, in a folder of the tests' own.
    """
    folder = tmp_path_factory.mktemp("packages")
    return Packages(*(Path(shutil.copy2(path, folder)) for path in build()))
