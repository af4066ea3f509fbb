"""
Boxes for the tests: installed, booted, and gone at the end.
"""

from collections.abc import Callable, Iterator

import pytest
from debian_box import SUITES, Box, NoTree, base_tree, unavailable
from installation import install

REASON = unavailable()


@pytest.fixture(scope="module", params=list(SUITES))
def make_box(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Box]]:
    """
    A function that installs a box, not booted, for each suite.
    """
    if REASON is not None:
        pytest.skip(REASON)
    try:
        base_tree(request.param)
    except NoTree as error:
        pytest.skip(str(error))
    made: list[Box] = []

    def make(name: str) -> Box:
        box = Box(name, request.param)
        made.append(box)
        install(box, request.param)
        return box

    yield make
    for box in made:
        box.destroy()
