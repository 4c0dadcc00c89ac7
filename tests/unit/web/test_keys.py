"""API keys: which scope each opens, and how the file that says so may change under a running server."""

import logging
import os
from pathlib import Path

import pytest

from mediagate.core.errors import Unauthenticated
from mediagate.core.keys import KeyFileError
from mediagate.core.scopes import Scope
from mediagate.web.asgi import Headers
from mediagate.web.keys import LOOK_EVERY_S, Keys


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class KeyFile:
    """A key file, and the server's keys that were read from it."""

    def __init__(self, path: Path, text: str, *, keys: tuple[str, ...] = ()) -> None:
        self.path = path
        self._clock = Clock()
        path.write_text(text)
        self.keys = Keys(keys, file=path, clock=self._clock)

    def change(self, text: str) -> None:
        """Write it anew, in place, with the dates of before: they are not what counts."""
        before = self.path.stat()
        self.path.write_text(text)
        os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def wait(self) -> None:
        self._clock.now += LOOK_EVERY_S


def bearer(key: str) -> Headers:
    return [(b"accept", b"*/*"), (b"authorization", b"Bearer " + key.encode())]


def is_refused(keys: Keys, headers: Headers) -> bool:
    try:
        keys.scope_of(headers)
    except Unauthenticated:
        return True
    return False


def table(**scopes: list[str]) -> str:
    return "[scopes]\n" + "".join(f"{scope} = {keys!r}\n" for scope, keys in scopes.items())


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.toml", table(a=["ka", "ka2"], b=["kb"]), keys=("gateway",))


def test_without_keys_everybody_may_come_in_with_any_scope() -> None:
    keys = Keys()

    assert keys.scope_of([]) is None
    assert keys.scope_of(bearer("whatever")) is None


def test_key_of_the_command_line_opens_every_scope_and_one_of_the_file_its_own(
    file: KeyFile,
) -> None:
    opened = [file.keys.scope_of(bearer(key)) for key in ("gateway", "ka", "ka2", "kb")]

    assert opened == [None, Scope("a"), Scope("a"), Scope("b")]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer("kc"),
        bearer(""),
        bearer("k\xe9"),
        bearer("ka") * 2,
        [(b"authorization", b"ka")],
        [(b"authorization", b"Basic ka")],
        [(b"authorization", b"Basic gateway")],
        [(b"x-api-key", b"ka")],
    ],
)
def test_anything_else_is_refused(file: KeyFile, headers: Headers) -> None:
    assert is_refused(file.keys, headers)


def test_scheme_is_read_in_any_case_and_space_around_the_key_is_no_part_of_it(
    file: KeyFile,
) -> None:
    assert file.keys.scope_of([(b"Authorization", b"bEARER  ka ")]) == "a"


def test_no_key_is_kept_in_clear(file: KeyFile) -> None:
    kept = repr([getattr(file.keys, name) for name in vars(file.keys)])

    assert "gateway" not in kept
    assert "ka2" not in kept


def test_change_of_the_file_is_seen_within_a_second_whatever_its_date(file: KeyFile) -> None:
    file.change(table(a=["ka"], c=["kc2"], b=["kb"]))
    assert file.keys.scope_of(bearer("ka2")) == "a"

    file.wait()

    assert is_refused(file.keys, bearer("ka2"))
    assert file.keys.scope_of(bearer("kc2")) == "c"
    assert file.keys.scope_of(bearer("gateway")) is None


def test_file_that_replaces_another_is_seen(file: KeyFile, tmp_path: Path) -> None:
    """As editors and Kubernetes write."""
    (tmp_path / "new").write_text(table(a=["new"]))
    (tmp_path / "new").rename(file.path)
    file.wait()

    assert file.keys.scope_of(bearer("new")) == "a"
    assert is_refused(file.keys, bearer("ka"))


def test_last_key_taken_back_does_not_open_the_server(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.toml", table(a=["ka"]))
    file.change("[scopes]")
    file.wait()

    assert is_refused(file.keys, bearer("ka"))
    assert is_refused(file.keys, [])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "has no table [scopes]"),
        ("[scopes]\na = ['ka'", "is no TOML (at end of document)"),
        ("[scopes]\na = ['secret' 'x']", "is no TOML (at line 2, column 15)"),
        ("[scopes]\na = ['gateway']", "--api-key"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_file_that_turns_wrong_keeps_the_keys_and_is_logged_once(
    file: KeyFile, caplog: pytest.LogCaptureFixture, bad: str | None, reason: str
) -> None:
    file.path.unlink() if bad is None else file.change(bad)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            file.wait()
            assert file.keys.scope_of(bearer("ka")) == "a"
        (said,) = [record.getMessage() for record in caplog.records]
        file.path.write_text(table(a=["ka", "later"]))
        file.wait()
        assert file.keys.scope_of(bearer("later")) == "a"

    assert reason in said
    assert "\n" not in caplog.records[0].getMessage()
    assert "secret" not in caplog.text
    assert "later" not in caplog.text


def test_same_mistake_made_again_is_logged_again(
    file: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    good = file.path.read_text()
    for text in ("", good, ""):
        file.change(text)
        file.wait()
        file.keys.scope_of(bearer("ka"))

    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 2


@pytest.mark.parametrize(
    "bad", ["", "[scopes", "\xff", "[scopes]\na = ['one']", "[scopes]\na = " + "[" * 9999]
)
def test_file_that_is_wrong_at_the_start_is_an_error(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(bad, encoding="latin-1")

    with pytest.raises(KeyFileError):
        Keys(("one",), file=path)


def test_what_cannot_be_read_again_is_no_key_file(tmp_path: Path) -> None:
    """A pipe would hold up every request from the second reading on."""
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(KeyFileError):
            Keys(file=path)


def test_looking_again_costs_no_descriptor(file: KeyFile) -> None:
    """A directory in its place can be opened, and not be read."""
    file.path.unlink()
    file.path.mkdir()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    for _ in range(3):
        file.wait()
        assert file.keys.scope_of(bearer("ka")) == "a"

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
