"""Rows: which files exist, who owns them, how much space is taken, what is leased."""
