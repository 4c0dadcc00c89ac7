"""What each operation takes and answers: the tables of `/openapi.json`.

Here stands what a route does not say of itself. Paths, summaries, keys and the codes of errors are not repeated here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mediagate.core.uploads import MAX_PARTS
from mediagate.index.driver import Order
from mediagate.web.openapi_schemas import (
    BINARY,
    EXPIRES_AFTER,
    FILE_ID,
    MD5,
    PART_ID,
    PURPOSE,
    TEXT,
    Json,
    messages,
    nullable,
    one,
    ref,
)
from mediagate.web.wire import MAX_LIST_LIMIT

_STORE = (503,)
_BODY = (408, 413)
_CHAT_FILES = (404, 503, 507)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route does not say of itself.

    Attributes:
        id: `operationId`: a name for generated clients.
        answers: By status, those that are no errors.
        errors: Statuses of errors, beside those that any request may get; None: another server's pass too, so none
            is promised.
        parameters: Of the query and the headers; those in the path are in the path.
        body: `requestBody`.
    """

    id: str
    answers: Json
    errors: Sequence[int] | None = ()
    parameters: Sequence[Json] = ()
    body: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A path that is answered behind the routes: by the inference server, or by the inspector in its place."""

    method: str
    path: str
    summary: str
    operation: Operation


def json_answer(schema: Json, *, description: str, links: Json | None = None) -> Json:
    """A response in JSON."""
    answer = {"description": description, "content": {"application/json": {"schema": schema}}}
    return answer | ({"links": links} if links else {})


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def required_header(schema: Json) -> Json:
    """A header that such a response always has."""
    return {"required": True, "schema": schema}


def _form(properties: Json, *, required: Sequence[str], more: Json | None = None) -> Json:
    schema: Json = {"type": "object", "properties": properties, "required": list(required)}
    return {"multipart/form-data": {"schema": schema | (more or {})}}


def _json_body(properties: Json, *, required: Sequence[str]) -> Json:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_BOTH_HALVES = {"dependentRequired": {name: list(EXPIRES_AFTER) for name in EXPIRES_AFTER}}

_FILE_LINKS = {
    name: {"operationId": name, "parameters": {"file_id": "$response.body#/id"}}
    for name in ("retrieveFile", "downloadFile", "deleteFile")
}
_STORED = {"200": json_answer(ref("File"), description="The file", links=_FILE_LINKS)}
_UPLOAD_ERRORS = (*_BODY, 503, 507)

_CONTENT: Json = {
    "description": "The bytes",
    "headers": {
        "accept-ranges": required_header(one("bytes")),
        "content-disposition": required_header({"type": "string", "pattern": "^attachment"}),
        "content-length": required_header({"type": "string", "pattern": "^[0-9]+$"}),
        "etag": required_header({"type": "string", "pattern": '^"[0-9a-f]{64}"$'}),
        "x-content-type-options": required_header(one("nosniff")),
    },
    "content": {f"{kind}/*": {"schema": BINARY} for kind in ("image", "audio", "video")},
}
_RANGE_HEADERS: Json = {
    "content-range": required_header({"type": "string", "pattern": "^bytes [0-9]"})
}

_FILE_IDS: Json = {
    "x-mediagate-file-ids": {
        "schema": TEXT,
        "description": "The files that came as parts of the request, by their ids, with commas",
    }
}

_UPLOAD_LINKS = {
    name: {"operationId": name, "parameters": {"upload_id": "$response.body#/id"}}
    for name in ("retrieveUpload", "addUploadPart", "completeUpload", "cancelUpload")
}
_PART_IDS = {"type": "array", "items": PART_ID, "minItems": 1, "maxItems": MAX_PARTS}
_EXPIRES_AFTER_OBJECT = {
    "type": "object",
    "properties": {
        name[len("expires_after[") : -1]: schema for name, schema in EXPIRES_AFTER.items()
    },
    "required": ["anchor", "seconds"],
}


def _upload_operation(
    operation_id: str, *, body: Json | None = None, errors: Sequence[int] = ()
) -> Operation:
    return Operation(
        id=operation_id,
        body=body,
        answers={"200": json_answer(ref("Upload"), description="The Upload")},
        errors=(404, *_STORE, *errors),
    )


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/v1/files"): Operation(
        id="listFiles",
        parameters=(
            _query(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIST_LIMIT},
                "Files on one page",
            ),
            _query("order", {"type": "string", "enum": [str(order) for order in Order]}, "By age"),
            _query("after", FILE_ID, "The last file of the page before"),
            _query("purpose", PURPOSE, "Only these"),
        ),
        answers={"200": json_answer(ref("FileList"), description="One page")},
        errors=(403, 404, *_STORE),  # where listing is switched off
    ),
    ("POST", "/v1/files"): Operation(
        id="createFile",
        body={
            "required": True,
            "description": "Other text fields are ignored. A raw body is taken too, as with PUT.",
            "content": _form(
                {"file": BINARY, "purpose": PURPOSE, **EXPIRES_AFTER},
                required=("file",),
                more=_BOTH_HALVES,
            ),
        },
        answers=_STORED,
        errors=_UPLOAD_ERRORS,
    ),
    ("PUT", "/v1/files"): Operation(
        id="createFileFromRawBody",
        parameters=(
            _query("filename", TEXT, "The last component is kept"),
            _query("purpose", PURPOSE, "OpenAI's field"),
            *(
                _query(name, schema, "With its other half")
                for name, schema in EXPIRES_AFTER.items()
            ),
        ),
        body={
            "required": True,
            "content": {"application/octet-stream": {"schema": BINARY}},
        },
        answers=_STORED,
        errors=_UPLOAD_ERRORS,
    ),
    ("GET", "/v1/files/{}"): Operation(
        id="retrieveFile",
        answers={"200": json_answer(ref("File"), description="The file")},
        errors=(404, *_STORE),
    ),
    ("DELETE", "/v1/files/{}"): Operation(
        id="deleteFile",
        answers={"200": json_answer(ref("DeletedFile"), description="It is gone")},
        errors=(404, *_STORE),
    ),
    ("GET", "/v1/files/{}/content"): Operation(
        id="downloadFile",
        parameters=(
            {
                "name": "Range",
                "in": "header",
                "schema": TEXT,
                "description": "One byte range (RFC 9110 §14); anything else is ignored",
            },
        ),
        answers={
            "200": _CONTENT,
            "206": _CONTENT | {"headers": _CONTENT["headers"] | _RANGE_HEADERS},
        },
        errors=(404, 416, *_STORE),
    ),
    ("POST", "/v1/uploads"): Operation(
        id="createUpload",
        body=_json_body(
            {
                "bytes": {"type": "integer", "minimum": 1},
                "filename": TEXT,
                "mime_type": TEXT,
                "purpose": PURPOSE,
                "expires_after": _EXPIRES_AFTER_OBJECT,
            },
            required=("bytes",),
        ),
        answers={"200": json_answer(ref("Upload"), description="The Upload", links=_UPLOAD_LINKS)},
        errors=(*_BODY, 503, 507),
    ),
    ("GET", "/v1/uploads/{}"): Operation(
        id="retrieveUpload",
        answers={"200": json_answer(ref("UploadAndParts"), description="The Upload")},
        errors=(404, *_STORE),
    ),
    ("POST", "/v1/uploads/{}/parts"): Operation(
        id="addUploadPart",
        body={"required": True, "content": _form({"data": BINARY}, required=("data",))},
        answers={"200": json_answer(ref("UploadPart"), description="The part")},
        errors=(404, *_BODY, 503, 507),
    ),
    ("POST", "/v1/uploads/{}/complete"): _upload_operation(
        "completeUpload",
        body=_json_body(
            {"part_ids": _PART_IDS, "md5": MD5},
            required=("part_ids",),
        ),
        errors=(*_BODY, 507),
    ),
    ("POST", "/v1/uploads/{}/cancel"): _upload_operation("cancelUpload"),
    ("GET", "/health"): Operation(
        id="health", answers={"200": json_answer(ref("Health"), description="The process is alive")}
    ),
    ("GET", "/ready"): Operation(
        id="ready",
        answers={"200": json_answer(ref("Readiness"), description="The store answers")},
        errors=_STORE,
    ),
    ("GET", "/metrics"): Operation(
        id="metrics",
        answers={
            "200": {
                "description": "Prometheus text",
                "content": {"text/plain": {"schema": {"type": "string", "minLength": 1}}},
            }
        },
        errors=_STORE,
    ),
    ("GET", "/openapi.json"): Operation(
        id="openapi",
        answers={"200": json_answer({"type": "object"}, description="OpenAPI 3.1")},
    ),
}
"""By method and path of a route."""


def inspector_answers() -> Sequence[Answered]:
    """What the built-in inspector serves."""
    model = json_answer(ref("Model"), description="The model")
    return (
        Answered(
            method="GET",
            path="/v1/models",
            summary="The inspector's model",
            operation=Operation(
                id="listModels",
                answers={"200": json_answer(ref("ModelList"), description="One model")},
            ),
        ),
        Answered(
            method="GET",
            path="/v1/models/{model}",
            summary="The inspector's model, by its name",
            operation=Operation(id="retrieveModel", answers={"200": model}, errors=(404,)),
        ),
        Answered(
            method="POST",
            path="/v1/chat/completions",
            summary="What the inspector measured of the media in the messages",
            operation=Operation(
                id="createChatCompletion",
                body=_conversation({"messages": messages(inspected=True), "n": nullable(one(1))}),
                answers={
                    "200": {
                        "description": "Whole, or as server-sent events",
                        "headers": _FILE_IDS,
                        "content": {
                            "application/json": {"schema": ref("ChatCompletion")},
                            "text/event-stream": {},
                        },
                    }
                },
                errors=(*_BODY, *_CHAT_FILES),
            ),
        ),
    )


def upstream_answers() -> Sequence[Answered]:
    """What is read on the way to the inference server, whose answers pass as they come."""
    passed = {
        "default": {
            "description": "The inference server's answer, as it came; or an error of ours, in OpenAI's shape",
            "headers": _FILE_IDS,
        }
    }

    def passing(path: str, operation_id: str, body: Json) -> Answered:
        return Answered(
            method="POST",
            path=path,
            summary="Answered by the inference server; files that the body names are resolved",
            operation=Operation(id=operation_id, body=body, answers=passed, errors=None),
        )

    chat = {"messages": messages(inspected=False)}
    items = {"anyOf": [TEXT, {"type": "array", "items": {"type": "object"}}]}
    return (
        passing("/v1/chat/completions", "createChatCompletion", _conversation(chat)),
        passing("/v1/responses", "createResponse", _conversation({"input": items})),
        passing("/v1/messages", "createMessage", _json_body(chat, required=("messages",))),
    )


def _conversation(properties: Json) -> Json:
    """The body of a chat: JSON, or a form of that JSON and files."""
    payload = {
        "type": "object",
        "properties": {
            "model": nullable(TEXT),
            "stream": nullable({"type": "boolean"}),
            **properties,
        },
        "required": [next(iter(properties))],
    }
    files = {"type": "array", "items": BINARY}
    form = _form(
        {"payload": payload, "file": files},
        required=("payload",),
        more={"additionalProperties": False},
    )
    form["multipart/form-data"]["encoding"] = {"payload": {"contentType": "application/json"}}
    return {
        "required": True,
        "description": (
            "As a form: the JSON in `payload`, and files, in parts of any name, which become files of the store. "
            "A media field names one as `attachment://<field or file name>`."
        ),
        "content": {"application/json": {"schema": payload}, **form},
    }
