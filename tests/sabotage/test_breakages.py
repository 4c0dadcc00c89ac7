"""The list is whole and fits the code; `make sabotage` shows that each entry turns its test red."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sabotage.run import ROOT, Breakage, StaleError, read_list

BREAKAGES = read_list()


def test_there_are_at_least_twenty_each_with_a_name_of_its_own() -> None:
    names = Counter(breakage.name for breakage in BREAKAGES)

    assert len(names) >= 20
    assert names.total() == len(names)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_a_breakage_fits_and_its_test_exists(breakage: Breakage) -> None:
    path, _, name = breakage.test.partition("::")

    broken = breakage.apply(ROOT)

    assert broken != (ROOT / breakage.file).read_text()
    assert (ROOT / path).is_file()
    assert name


@pytest.mark.parametrize(
    ("text", "new"), [("x = 1\n", "y"), ("a = 1\na = 1\n", "b"), ("a = 1\n", "a = (")]
)
def test_a_breakage_that_fits_nowhere_twice_or_makes_no_python_is_told(
    tmp_path: Path, text: str, new: str
) -> None:
    (tmp_path / "module.py").write_text(text)
    breakage = replace(BREAKAGES[0], file="module.py", old="a = 1", new=new)

    with pytest.raises(StaleError):
        breakage.apply(tmp_path)
