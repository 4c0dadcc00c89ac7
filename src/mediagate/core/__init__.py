"""The domain: what is decided, never how bytes move. Standard library only; no I/O, no clock, no async."""
