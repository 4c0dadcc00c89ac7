"""Listeners of core events and of requests."""
