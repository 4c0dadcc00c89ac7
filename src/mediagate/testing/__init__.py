"""Conformance suites that every driver passes, ours and others'."""
