"""`mediagate` with a reservation that looks first and takes afterwards: the mistake that quota tests must see."""

import sys

from mediagate.cli.main import main
from mediagate.core.files import FileId
from mediagate.core.quotas import Quota
from mediagate.index.sql import SqlIndex

_take = SqlIndex.reserve


async def _look_then_take(
    self: SqlIndex, file_id: FileId, extra_bytes: int, *, quota: Quota
) -> bool:
    if (await self.usage()).used_bytes + extra_bytes > quota.store_bytes:
        return False
    return await _take(self, file_id, extra_bytes, quota=Quota(store_bytes=2**62))


if __name__ == "__main__":
    SqlIndex.reserve = _look_then_take  # type: ignore[method-assign]
    sys.exit(main())
