"""The command ``tierwise``: parse, call, print."""

from tierwise.cli._main import main

__all__ = ["main"]
