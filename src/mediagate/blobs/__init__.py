"""Bytes: drivers that keep them, and the one store above the drivers."""
