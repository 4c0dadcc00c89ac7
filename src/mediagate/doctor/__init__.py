"""What works with these settings and this inference server, found out by doing it."""
