"""A real store with a clock that tests move."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import stores
from stores import Clock, Store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path, clock) as opened:
        yield opened
