"""ASGI: parse, authorise, call one operation, serialise."""
