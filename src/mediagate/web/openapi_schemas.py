"""What our JSON looks like, as JSON Schema: the components of `/openapi.json`.

Answers of ours are closed (`additionalProperties: false`), so that checking a server against its description finds a
field too many as well as one too few. Requests are open: the official clients may send more than we read.
"""

from typing import Any

from mediagate.core.expiry import MAX_EXPIRES_AFTER_S, MIN_EXPIRES_AFTER_S
from mediagate.core.files import Purpose

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
UNIX_SECONDS: Json = {"type": "integer", "minimum": 0, "description": "Unix seconds"}
BINARY: Json = {"type": "string", "format": "binary"}
FILE_ID: Json = {"type": "string", "pattern": "^file-[0-9a-f]{32}$"}
UPLOAD_ID: Json = {"type": "string", "pattern": "^upload_[0-9a-f]{32}$"}
PART_ID: Json = {"type": "string", "pattern": "^part_[0-9a-f]{32}$"}
MD5: Json = {"type": "string", "pattern": "^[0-9a-fA-F]{32}$"}
PURPOSE: Json = {"type": "string", "enum": [str(purpose) for purpose in Purpose]}
EXPIRES_AFTER: Json = {
    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
    "expires_after[seconds]": {
        "type": "integer",
        "minimum": MIN_EXPIRES_AFTER_S,
        "maximum": MAX_EXPIRES_AFTER_S,
    },
}
"""Two fields that need each other."""


def closed(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    """An object that has these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def nullable(schema: Json) -> Json:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Json:
    """One of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def one(value: object) -> Json:
    """Exactly that."""
    return {"const": value}


def _listed(item: str) -> Json:
    return closed(
        {
            "object": one("list"),
            "data": {"type": "array", "items": ref(item)},
            "first_id": nullable(FILE_ID),
            "last_id": nullable(FILE_ID),
            "has_more": {"type": "boolean"},
        }
    )


_FILE = closed(
    {
        "id": FILE_ID,
        "object": one("file"),
        "bytes": {"type": "integer", "minimum": 1},
        "created_at": UNIX_SECONDS,
        "filename": {"type": "string", "minLength": 1},
        "purpose": PURPOSE,
        "status": one("processed"),
        "mime_type": {"type": "string", "pattern": "^(image|audio|video)/"},
        "expires_at": UNIX_SECONDS,
    },
    optional=("expires_at",),
)

_UPLOAD_PROPERTIES: Json = {
    "id": UPLOAD_ID,
    "object": one("upload"),
    "bytes": {"type": "integer", "minimum": 1},
    "created_at": UNIX_SECONDS,
    "expires_at": UNIX_SECONDS,
    "filename": {"type": "string", "minLength": 1},
    "purpose": PURPOSE,
    "status": {"enum": ["pending", "completed", "cancelled", "expired"]},
    "file": ref("File"),
}
_UPLOAD_PART = closed(
    {
        "id": PART_ID,
        "object": one("upload.part"),
        "created_at": UNIX_SECONDS,
        "upload_id": UPLOAD_ID,
        "bytes": {"type": "integer", "minimum": 1},
    }
)

_MODEL = closed(
    {"id": TEXT, "object": one("model"), "created": UNIX_SECONDS, "owned_by": one("mediagate")}
)

_USAGE = closed({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
_CHOICE = closed(
    {
        "index": one(0),
        "message": closed(
            {"role": one("assistant"), "content": TEXT, "refusal": {"type": "null"}},
        ),
        "logprobs": {"type": "null"},
        "finish_reason": one("stop"),
    }
)
_COMPLETION = closed(
    {
        "id": {"type": "string", "pattern": "^chatcmpl-[0-9a-f]{32}$"},
        "object": one("chat.completion"),
        "created": UNIX_SECONDS,
        "model": TEXT,
        "choices": {"type": "array", "items": _CHOICE, "minItems": 1, "maxItems": 1},
        "usage": _USAGE,
    }
)

_MEDIA: Json = {
    "type": "string",
    "pattern": "^((vllm-file://)?file-[0-9a-f]{32}$|data:|https?://)",
    "description": "`vllm-file://<id>`, `<id>`, a `data:` URL with base64, or an http(s) URL",
}


def _part(kind: str, holder: Json) -> Json:
    return {
        "type": "object",
        "properties": {"type": one(kind), kind: holder},
        "required": ["type", kind],
    }


def _holding(key: str, schema: Json) -> Json:
    return {"type": "object", "properties": {key: schema}, "required": [key]}


_PARTS = [
    _part("text", TEXT),
    *(_part(kind, _holding("url", _MEDIA)) for kind in ("image_url", "video_url", "audio_url")),
    _part("input_audio", _holding("data", {"type": "string", "minLength": 1})),
    _part("file", _holding("file_id", FILE_ID)),
]


def messages(*, inspected: bool) -> Json:
    """The `messages` of a chat: what the built-in inspector knows, or whatever the upstream does."""
    part = {"oneOf": _PARTS} if inspected else {"type": "object"}
    content = {"anyOf": [TEXT, {"type": "null"}, {"type": "array", "items": part}]}
    message = {
        "type": "object",
        "properties": {"role": TEXT, "content": content},
        "required": ["role"],
    }
    return {"type": "array", "items": message, "minItems": 1}


SCHEMAS: Json = {
    "File": _FILE,
    "FileList": _listed("File"),
    "DeletedFile": closed({"id": FILE_ID, "object": one("file"), "deleted": one(True)}),
    "Upload": closed(_UPLOAD_PROPERTIES, optional=("file",)),
    "UploadAndParts": closed(
        _UPLOAD_PROPERTIES | {"parts": {"type": "array", "items": ref("UploadPart")}},
        optional=("file",),
    ),
    "UploadPart": _UPLOAD_PART,
    "Model": _MODEL,
    "ModelList": closed(
        {"object": one("list"), "data": {"type": "array", "items": ref("Model")}},
    ),
    "ChatCompletion": _COMPLETION,
    "Health": closed({"status": one("ok")}),
    "Readiness": closed({"status": one("ready")}),
}
