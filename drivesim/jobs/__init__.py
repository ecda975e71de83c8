"""A module per command; the only place where rooms are tied together. Imports nothing itself: `--help` is quick."""
