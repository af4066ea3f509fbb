import os
from collections.abc import Iterator

import pytest
from stepped_server import Stepped


@pytest.fixture
def stepped(tmp_path: os.PathLike[str]) -> Iterator[Stepped]:
    stepped = Stepped(f"{tmp_path}/q.sock")
    yield stepped
    stepped.close()
