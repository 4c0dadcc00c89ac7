"""The memory driver passes the conformance suite."""

import pytest

from mediagate.blobs.driver import DiskFullError
from mediagate.blobs.memory import MemoryBlobDriver
from mediagate.core.files import new_blob_key
from mediagate.testing.blob_conformance import BlobConformance, TrunkConformance


class TestMemoryBlobDriver(BlobConformance, TrunkConformance):
    @pytest.fixture
    async def driver(self) -> MemoryBlobDriver:
        return MemoryBlobDriver()


async def test_a_full_memory_is_a_full_disk_and_what_did_not_fit_takes_nothing() -> None:
    driver = MemoryBlobDriver(capacity_bytes=10)
    writer = await driver.create(new_blob_key())

    with pytest.raises(DiskFullError):
        await writer.write([bytes(11)])

    await writer.write([bytes(10)])
