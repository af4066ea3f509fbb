"""
Boxes for the tests: installed, booted, and gone at the end.
"""

from collections.abc import Callable, Iterator

import pytest
from debian_box import SUITES, Box, unavailable
from installation import install

REASON = unavailable()


@pytest.fixture(scope="module", params=list(SUITES))
def make_box(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Box]]:
    """
    A function that installs a box, not booted, for each suite.
    """
    if REASON is not None:
        pytest.skip(REASON)
    made: list[Box] = []

    def make(name: str) -> Box:
        box = Box(name, request.param)
        made.append(box)
        install(box, request.param)
        return box

    yield make
    for box in made:
        box.destroy()
