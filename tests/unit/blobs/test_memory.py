"""The memory driver passes the conformance suite."""

import pytest

from mediagate.blobs.driver import DiskFullError
from mediagate.blobs.memory import MemoryBlobDriver
from mediagate.core.files import new_blob_key
from mediagate.testing.blob_conformance import BlobConformance


class TestMemoryBlobDriver(BlobConformance):
    @pytest.fixture
    async def driver(self) -> MemoryBlobDriver:
        return MemoryBlobDriver()


async def test_a_full_memory_is_a_full_disk() -> None:
    driver = MemoryBlobDriver(capacity_bytes=10)
    writer = await driver.create(new_blob_key())

    with pytest.raises(DiskFullError):
        await writer.write([bytes(11)])

    assert await driver.free_bytes() == 10
