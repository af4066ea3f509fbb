import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from forwarding_bench import Bench
from stepped_server import Stepped


@pytest.fixture
def stepped(tmp_path: os.PathLike[str]) -> Iterator[Stepped]:
    stepped = Stepped(f"{tmp_path}/q.sock")
    yield stepped
    stepped.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()
