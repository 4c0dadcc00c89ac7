"""Paths below a root path: the same as those by which vLLM's authentication decides."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediagate.dialects.fields import Judge
from mediagate.gateway.media_endpoints import form_conversation, is_files_api
from mediagate.web.asgi import Scope, path_below_root
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import Request, Route


async def answer(_request: Request) -> Reply:
    return JsonReply(None)


ROUTES = [
    Route(path, {"GET": answer})
    for path in (
        *("/v1/files", "/v1/files/{}", "/v1/files/{}/content"),
        *("/v1/uploads", "/v1/uploads/{}", "/v1/uploads/{}/parts"),
    )
]


def sent(target: str, *, root: str = "", mounted: str = "") -> Scope:
    """The scope of a request in vLLM: uvicorn decodes, and FastAPI sets the root path."""
    return {
        "path": mounted + unquote(target),
        "raw_path": (mounted + target).encode(),
        "root_path": root,
    }


def is_guarded(scope: Scope) -> bool:
    """Whether vLLM 0.26 to 0.32 asks for a key at this path."""
    return bool(scope["path"].removeprefix(scope["root_path"]).startswith("/v1"))


def is_ours(scope: Scope) -> bool:
    """Whether a route of ours answers, or files in a form are taken."""
    path = path_below_root(scope)
    return (
        any(route.match(path) is not None for route in ROUTES)
        or form_conversation(path, judge=Judge.ENGINE) is not None
    )


@pytest.mark.parametrize(
    ("target", "root", "path"),
    [
        ("/v1/files", "", b"/v1/files"),
        ("/v1/files/a%2Fb", "", b"/v1/files/a%2Fb"),
        ("/v1/files", "/api", b"/v1/files"),  # a proxy in front took the root path away
        ("/api/v1/files", "/api", b"/v1/files"),
        ("/api/v1/files/a%2Fb", "/api", b"/v1/files/a%2Fb"),
        ("/api/v1/files/%ff", "/api", b"/v1/files/%ff"),
        ("/%61pi/v1/files/a%2Fb", "/api", b"/v1/files/a/b"),
        ("/api/api/v1/files", "/api", b"/api/v1/files"),
        ("/v1/v1/files", "/v1", b"/v1/files"),
        ("/v1/files", "/v1", b"/files"),
        ("/v1/files", "/v", b"1/files"),
        ("/api/v1/files", "/api/", b"v1/files"),
        ("/apix/v1/files", "/api", b"x/v1/files"),
        ("/api", "/api", b""),
    ],
)
def test_root_path_is_cut_off_once_if_it_is_there(target: str, root: str, path: bytes) -> None:
    assert path_below_root(sent(target, root=root)) == path


def test_root_path_of_the_http_server_counts_too() -> None:
    assert path_below_root(sent("/v1/files", root="/api", mounted="/api")) == b"/v1/files"


@pytest.mark.parametrize("raw", [{}, {"raw_path": None}, {"raw_path": b"/v1/models"}])
def test_path_that_another_layer_rewrote_counts_and_not_what_was_sent(raw: Scope) -> None:
    """A server may leave `raw_path` out, and who rewrites `path` may leave it as it was."""
    scope = {"path": "/v1/files/a b?c", "root_path": "", **raw}

    assert path_below_root(scope) == b"/v1/files/a%20b%3Fc"
    assert path_below_root({"path": "/x", "raw_path": b"/v1/files"}) == b"/x"


PIECES = st.sampled_from(
    [
        *("/", "v1", "/v1", "/V1", "/files", "/%66iles", "/uploads", "/file-0", "/content", "/api"),
        *(
            "//",
            "/..",
            "/.",
            "%2f",
            "%2F",
            "%252f",
            ";",
            "?",
            "#",
            "\\",
            "%00",
            "%",
            "%ff",
            "v",
            "1",
        ),
        *("/chat", "/completions", "/responses", "http://h", "é", " "),
    ]
)
TARGETS = st.lists(PIECES, max_size=6).map("".join)
ROOTS = st.lists(PIECES, max_size=3).map("".join)


@given(TARGETS, ROOTS, ROOTS, st.none() | TARGETS)
@example("/v1/files", "/v", "", None)
@example("/v1/files", "/v1", "", None)
@example("/api/v1/files", "/api/", "", None)
@example("/x", "", "", "/v1/files")
def test_nothing_of_ours_is_answered_where_no_key_was_asked_for(
    target: str, root: str, mounted: str, stale: str | None
) -> None:
    """Whatever root path, spelling, or rewriting: what answers here was guarded there."""
    scope = sent(target, root=root, mounted=mounted)
    if stale is not None:
        scope["raw_path"] = stale.encode()

    assert unquote(path_below_root(scope).decode("latin-1")) == scope["path"].removeprefix(root)
    if is_ours(scope):
        assert is_guarded(scope)


@pytest.mark.parametrize("target", ["//v1/files", "/v1/./files", "/V1/files", "/v1%2ffiles"])
def test_other_spellings_below_a_root_path_are_known_for_what_they_are(target: str) -> None:
    """So that they are refused, and do not reach files that an engine may have of its own."""
    for scope in (sent(target, root="/api"), sent("/api" + target, root="/api")):
        assert not is_ours(scope)
        assert is_files_api(path_below_root(scope))
