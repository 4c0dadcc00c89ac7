"""vLLM's logs without what opens a file: the ids of files, of Uploads and their parts, and the handles of media.

uvicorn writes the path of each request, ids and queries included; vLLM, where it is told to write down requests or
answers, writes the ids that stand in them. Both log with the standard library, so a filter is enough.
"""

import contextlib
import logging
from collections.abc import Iterator

from mediagate.observe.logs import mask_target, mask_text

PATHS_IN = ("uvicorn.access", "uvicorn.error", "uvicorn.asgi")
"""Loggers that write paths: of requests, of WebSockets, and at level `trace`."""

TEXTS_IN = "vllm"
"""The logger above all of vLLM's."""


def mask_access_log() -> None:
    """Mask from now on, in this process. Idempotent.

    To be called when logging has been set up, which for uvicorn is before the lifespan of the app begins. A filter of
    a logger survives a new configuration; one of a handler goes with it.
    """
    for name in PATHS_IN:
        logging.getLogger(name).addFilter(_masked)
    # A logger's filter does not see what comes from the loggers below it; that of a handler does.
    for handler in _handlers_of(logging.getLogger(TEXTS_IN)):
        handler.addFilter(_masked)
    # It would repeat what a client sent, filenames too.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class Masked(logging.Filter):
    """Changes records, keeps all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask in place: whatever formats the record later, and wherever it is written, sees no id."""
        # What cannot be formatted is for the handler to report.
        with contextlib.suppress(Exception):
            if record.name in PATHS_IN and isinstance(record.args, tuple):
                # One by one: uvicorn's own formatter takes them out of the record again.
                record.args = tuple(map(_mask_argument, record.args))
            _mask_message(record)
            _mask_traceback(record)
        return True


_masked = Masked()


def _mask_argument(argument: object) -> object:
    # A path, with its query: uvicorn has quoted what could part it.
    if isinstance(argument, str) and "/" in argument and len(argument.split()) == 1:
        return mask_target(argument)
    return argument


def _mask_message(record: logging.LogRecord) -> None:
    message = record.getMessage()
    masked = mask_text(message)
    if masked != message:
        record.msg, record.args = masked, ()


def _mask_traceback(record: logging.LogRecord) -> None:
    if not record.exc_info:
        return
    text = record.exc_text or logging.Formatter().formatException(record.exc_info)
    masked = mask_text(text)
    if masked != text:
        record.exc_info, record.exc_text = None, masked


def _handlers_of(logger: logging.Logger) -> Iterator[logging.Handler]:
    """What the records of `logger` come to; where it has no handler, to the one of last resort."""
    above: logging.Logger | None = logger
    while above is not None:
        yield from above.handlers
        above = above.parent if above.propagate else None
    if logging.lastResort is not None:
        yield logging.lastResort
