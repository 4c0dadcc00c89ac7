"""The memory index is an index."""

from collections.abc import AsyncIterator

import pytest

from mediagate.index.driver import Index
from mediagate.index.memory import MemoryIndex
from mediagate.testing.index_conformance import IndexConformance
from mediagate.testing.upload_conformance import UploadConformance


class TestMemoryIndex(IndexConformance, UploadConformance):
    @pytest.fixture
    async def index(self) -> AsyncIterator[Index]:
        index = MemoryIndex()
        await index.open()
        yield index
        await index.close()
