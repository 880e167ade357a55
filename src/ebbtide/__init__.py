"""Asynchronous model inference that costs nothing while nobody asks."""

__version__ = "0.1.0"
