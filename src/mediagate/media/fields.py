"""Numbers in the head of a file; what lies behind the head counts as nothing, so no reader needs to measure first."""


def big(head: bytes, start: int, size: int) -> int:
    """A big-endian number of `size` bytes."""
    return int.from_bytes(head[start : start + size], "big")


def little(head: bytes, start: int, size: int) -> int:
    """A little-endian number of `size` bytes."""
    return int.from_bytes(head[start : start + size], "little")
