"""The progress bar."""

import io

import pytest

from mediagate.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_shows_share_and_rate_and_is_wiped() -> None:
    terminal, seconds = Terminal(), iter([0.0, 2.0])

    with progress(
        label="clip.mp4", total=4 * 1024**2, stream=terminal, clock=lambda: next(seconds)
    ) as bar:
        bar.advance(2 * 1024**2)

    assert (
        "[############            ]  50%  2.0/4.0 MiB  1.0 MiB/s  clip.mp4" in terminal.getvalue()
    )
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_bar_is_wiped_when_the_transfer_fails() -> None:
    terminal = Terminal()

    with (
        pytest.raises(KeyboardInterrupt),
        progress(label="clip.mp4", total=None, stream=terminal, clock=lambda: 0.0) as bar,
    ):
        bar.advance(1)
        raise KeyboardInterrupt

    assert terminal.getvalue().endswith("\r\x1b[K")


def test_bar_is_redrawn_ten_times_a_second_at_most() -> None:
    terminal, now = Terminal(), [0.0]

    with progress(label="clip.mp4", total=None, stream=terminal, clock=lambda: now[0]) as bar:
        for _ in range(1000):
            now[0] += 0.001
            bar.advance(1)

    assert terminal.getvalue().count("MiB/s") <= 11


def test_nothing_is_drawn_where_no_terminal_is() -> None:
    stream = io.StringIO()

    with progress(label="clip.mp4", total=1, stream=stream, clock=lambda: 0.0) as bar:
        bar.advance(1)

    assert stream.getvalue() == ""
