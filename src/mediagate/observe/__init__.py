"""Listeners: what is written down about requests."""
