"""Progress as plain lines, without any library: for logs, pipes and commands that need no bars."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import click

from tierwise._units import format_seconds
from tierwise.measure import Advance

__all__ = ["LineProgress"]


@final
class LineProgress:
    """A `tierwise.measure.Progress` for logs: a line at the start and the end of a step and every ten seconds."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s = every_s

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """See `tierwise.measure.Progress.step`."""
        start = last = time.monotonic()
        done = 0
        click.echo(f"{title} ...", err=True)

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last >= self._every_s and total:
                last = now
                left = (now - start) / max(done, 1) * (total - done)
                click.echo(f"{title}: {done}/{total}, about {format_seconds(left)} left", err=True)

        yield advance
        click.echo(f"{title}: done in {format_seconds(time.monotonic() - start)}", err=True)

    def say(self, line: str) -> None:
        """See `tierwise.measure.Progress.say`."""
        click.echo(line, err=True)
