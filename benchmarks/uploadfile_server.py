"""What mediagate is compared with: an upload handler as frameworks teach it, and as vLLM's pull request #39003 has it.

The framework parses the form and spools the file to disk; then the handler reads it in chunks of 1 MiB and writes it to
the store. No digest, no type check, no quota. Arguments: port, directory, and "fsync" or "no-fsync".
"""

import os
import secrets
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

CHUNK_BYTES = 1024**2


def make_app(directory: Path, *, durable: bool) -> Starlette:
    """The application."""

    async def create_file(request: Request) -> JSONResponse:
        async with request.form() as form:
            file = form["file"]
            assert isinstance(file, UploadFile)  # noqa: S101 - for the type checker
            name = secrets.token_hex(16)
            partial = directory / f"{name}.partial"
            size_bytes = 0
            with partial.open("wb") as out:
                while chunk := await file.read(CHUNK_BYTES):
                    await run_in_threadpool(out.write, chunk)
                    size_bytes += len(chunk)
                out.flush()
                if durable:
                    await run_in_threadpool(os.fsync, out.fileno())
            partial.rename(directory / name)
            if durable:
                await run_in_threadpool(_sync_directory, directory)
        return JSONResponse({"id": name, "bytes": size_bytes})

    async def answer(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/files", create_file, methods=["POST"]),
            Route("/health", answer),
            Route("/v1/models", answer),
        ]
    )


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    uvicorn.run(
        make_app(Path(sys.argv[2]), durable=sys.argv[3] == "fsync"),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
