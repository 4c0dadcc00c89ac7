"""Standard error that nobody reads."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from mediagate.observe.stderr import LogStream, write_to_stderr

LINE = b"x" * 299 + b"\n"


@contextlib.contextmanager
def piped() -> Iterator[int]:
    """The end of the pipe that standard error is meanwhile; no fixture, as pytest gives every phase another one."""
    before = os.dup(2)
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield read
    finally:
        os.dup2(before, 2)
        os.close(before)
        with contextlib.suppress(OSError):
            os.close(read)


def fill() -> int:
    """Write lines until there is no room; how many."""
    for lines in range(10_000):
        try:
            write_to_stderr(LINE)
        except BlockingIOError:
            return lines
    raise AssertionError("there is always room")


def test_line_is_written_as_it_is() -> None:
    with piped() as reader:
        write_to_stderr(b'{"op":"x"}\n')

        assert os.read(reader, 100) == b'{"op":"x"}\n'


def test_nobody_waits_for_a_reader_and_no_line_is_cut() -> None:
    """H97: where the log is not read, lines are lost, and requests are answered."""
    with piped() as reader:
        lines = fill()
        LogStream().write("lost\n")
        kept = os.read(reader, 2**20)
        LogStream().write("there is room again\n")

        assert kept == LINE * lines
        assert os.read(reader, 100) == b"there is room again\n"


def test_long_message_is_written_as_far_as_there_is_room() -> None:
    """A traceback is longer than what a pipe takes in one piece."""
    with piped() as reader:
        write_to_stderr(b"y" * 30_000)
        with pytest.raises(BlockingIOError):
            write_to_stderr(b"z" * 200_000)

        assert os.read(reader, 2**20).startswith(b"y" * 30_000 + b"z" * 4096)


def test_reader_that_left_is_nobodys_trouble() -> None:
    with piped() as reader:
        os.close(reader)

        with pytest.raises(BrokenPipeError):
            write_to_stderr(LINE)
        LogStream().write("\ud800 is no character\n")
