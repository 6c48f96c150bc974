"""An application that shows its own metrics: which path made its answers, and how often it had to change it."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass
from typing import Final, final

from tierwise._clock import Clock
from tierwise._errors import InputError
from tierwise.console._readings import Readings, Span

__all__ = ["ClientGlance", "ClientWatch"]

_PATIENCE_S: Final = 2.0
_MOST_BYTES: Final = 4 << 20
_MANY: Final = 32
_CHOSEN: Final = "chosen"


@final
@dataclass(frozen=True)
class ClientGlance:
    """What an application tells.

    Attributes:
        address: Where.
        up: Whether it answers.
        path: The path most answers lately came by; None where there were none.
        answers: (path, in all, a second).
        fallbacks: (path, why, in all, a second) of answers that came by another path than the one first chosen.
    """

    address: str
    up: bool
    path: str | None = None
    answers: tuple[tuple[str, float, float], ...] = ()
    fallbacks: tuple[tuple[str, str, float, float], ...] = ()


@final
class ClientWatch:
    """Looks at one application; for one thread at a time.

    Args:
        address: Of its metrics, ``http://...``.
        window_s: How far back its figures reach.
        clock: The host's clock.
    """

    def __init__(self, address: str, window_s: float, clock: Clock) -> None:
        self._address, self._window_s, self._clock = address, window_s, clock
        self._readings: deque[Readings] = deque()
        # Addressed directly, whatever proxy the environment names; and no redirects to places nobody named.
        self._opener = urllib.request.OpenerDirector()
        self._opener.add_handler(urllib.request.HTTPHandler())
        self._opener.add_handler(urllib.request.HTTPSHandler())
        self._opener.add_handler(urllib.request.HTTPErrorProcessor())
        self._opener.add_handler(urllib.request.HTTPDefaultErrorHandler())

    def look(self) -> ClientGlance:
        """Look at it; never raises for what the application does."""
        try:
            with self._opener.open(self._address, timeout=_PATIENCE_S) as response:
                text = response.read(_MOST_BYTES).decode()
            now = Readings.parse(text, self._clock.now_ns() / 1e9)
        except (OSError, urllib.error.URLError, ValueError, InputError):
            self._readings.clear()
            return ClientGlance(self._address, False)
        self._readings.append(now)
        while len(self._readings) > 2 and self._readings[1].at_s <= now.at_s - self._window_s:
            self._readings.popleft()
        span = Span(self._readings[0] if len(self._readings) > 1 else None, now)
        name = "tierwise_client_answers_total"
        made = [(have["path"], have["why"], value) for have, value in now.each(name) if {"path", "why"} <= have.keys()]
        paths = sorted({path for path, _, _ in made})[:_MANY]
        answers = tuple((path, now.value(name, path=path) or 0.0, span.rate(name, path=path)) for path in paths)
        lately = max(answers, key=lambda one: one[2], default=None)
        return ClientGlance(
            address=self._address,
            up=True,
            path=lately[0] if lately is not None and lately[2] > 0 else None,
            answers=answers,
            fallbacks=tuple(
                (path, why, value, span.rate(name, path=path, why=why))
                for path, why, value in sorted(made)[:_MANY]
                if why != _CHOSEN and value > 0
            ),
        )
