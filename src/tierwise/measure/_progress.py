"""How long work says how far it is. Rooms take a `Progress`; the command line gives one that draws bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final

__all__ = ["Advance", "Progress", "Silent"]

Advance = Callable[[int], None]


class Progress(Protocol):
    """Receives the start, the advance and the end of every long step."""

    def step(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Open a step of ``total`` units (None: unknown); the value called with n says that n more are done."""
        ...

    def say(self, line: str) -> None:
        """A remark that stays on the screen."""
        ...


@final
class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """See `Progress.step`."""
        yield lambda n: None

    def say(self, line: str) -> None:
        """See `Progress.say`."""
