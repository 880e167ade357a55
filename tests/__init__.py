"""Behaviour, in sentences. The package name keeps `tests.` ours where another is installed."""
