"""How a command fails, and how it prints what others wrote."""

import unicodedata


class CommandFailed(Exception):
    """The command could not do it; the message is one line for the person who typed it."""


def printable(text: str, *, keep: str = "") -> str:
    """`text` without what could steer a terminal: a server, a model or a filename may hold anything."""
    return "".join(c for c in text if c in keep or unicodedata.category(c)[0] != "C")
