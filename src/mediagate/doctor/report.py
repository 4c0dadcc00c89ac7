"""What the doctor says: one check a line, and a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How a check ended."""

    OK = "ok"
    NO = "no"
    NOT_TRIED = "--"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        mark: How that ended.
        subject: What it was, in a word or two.
        text: What was found, in one line: if it does not work, why, and what to do; if it was not tried, why.
    """

    mark: Mark
    subject: str
    text: str


Tell = Callable[[Check], None]
"""Is told of each check as soon as it is done."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What it comes to.

    Attributes:
        works: Whether the upstream gets a file that a chat names, as `mediagate serve` would deliver it.
        lines: For the operator.
    """

    works: bool
    lines: Sequence[str]
