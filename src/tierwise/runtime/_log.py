"""What a node writes: one event a line, as JSON for machines or as text for eyes. Never contents, never tokens."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO, final

from tierwise._clock import Clock
from tierwise.runtime._observability import ObservabilitySpec

__all__ = ["EventLog", "Field", "open_log"]

Field = str | int | float | bool | None
"""What an event may carry. There is no type for contents: bytes and tensors do not fit."""

# What comes from strangers (names, request ids, messages) must not fill a disk.
_LONGEST: Final = 300
_MOST_PER_S: Final = 20
_PLAIN: Final = re.compile(r"[\w.,:;/@+|<>()\[\]%'-][\w .,:;/@+|<>()\[\]%'-]*", re.ASCII)


@final
class EventLog:
    """Events of one node, written through `logging`; may be used from several threads.

    Of one kind of event at most 20 lines a second are written: a flood of bad requests must not become one of lines.
    What was left out is counted on the next line of the kind (``left_out``).

    Args:
        logger: Where the events go.
        tier: The node's tier.
        clock: Tells the seconds of the bound.
    """

    def __init__(self, logger: logging.Logger, tier: str, clock: Clock) -> None:
        self._logger, self._tier, self._clock = logger, tier, clock
        self._mutex = threading.Lock()
        self._written: dict[str, tuple[int, int, int]] = {}

    def debug(self, event: str, **fields: Field) -> None:
        """What matters to who looks for a defect."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Field) -> None:
        """What happens on a good day."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        """What somebody should look at one day."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """What somebody should look at now."""
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: Mapping[str, Field]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        second = self._clock.now_ns() // 1_000_000_000
        with self._mutex:
            began, count, left_out = self._written.get(event, (second, 0, 0))
            if second != began:
                began, count = second, 0
            if count >= _MOST_PER_S:
                self._written[event] = (began, count, left_out + 1)
                return
            self._written[event] = (began, count + 1, 0)
        said = {"tier": self._tier, **{key: value for key, value in fields.items() if value is not None}}
        if left_out:
            said["left_out"] = left_out
        self._logger.log(level, event, extra={"fields": said})


@final
class _JsonLines(logging.Formatter):
    """``{"time": ..., "level": ..., "tier": ..., "event": ..., ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        head = {"time": _time(record), "level": record.levelname.lower(), "tier": fields.pop("tier", None)}
        # ASCII only: a reader that splits lines at U+2028, and a terminal, see none of what a stranger sent.
        return json.dumps({**head, "event": record.getMessage(), **fields})


@final
class _TextLines(logging.Formatter):
    """``TIME LEVEL TIER EVENT key=value ...``; values that are more than plain words are quoted and escaped."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        tier = fields.pop("tier", "-")
        said = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"{_time(record)[11:]} {record.levelname.lower():<7} {tier:<8} {record.getMessage()}  {said}".rstrip()


def _fields(record: logging.LogRecord) -> dict[str, Field]:
    fields: dict[str, Field] = dict(getattr(record, "fields", {}))
    return {key: value[:_LONGEST] if isinstance(value, str) else value for key, value in fields.items()}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: Field) -> str:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and " " not in value else json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower()


def open_log(spec: ObservabilitySpec, tier: str, clock: Clock, stream: TextIO | None = None) -> EventLog:
    """The log of one node.

    Args:
        spec: Level and format.
        tier: The node's tier.
        clock: The host's clock.
        stream: Where the lines go; None: stderr.
    """
    target = sys.stderr if stream is None else stream
    lines = logging.StreamHandler(target)
    as_text = spec.log_format == "text" or (spec.log_format == "auto" and target.isatty())
    lines.setFormatter(_TextLines() if as_text else _JsonLines())
    # A logger of its own, outside the process's tree: several nodes in one process do not share levels or streams.
    logger = logging.Logger("tierwise.node", getattr(logging, spec.log_level.upper()))
    logger.addHandler(lines)
    return EventLog(logger, tier, clock)
