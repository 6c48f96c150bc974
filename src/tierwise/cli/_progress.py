"""Progress on a terminal: bars with the time that is left; plain lines where the output is a file or a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from tierwise.cli._plain import LineProgress
from tierwise.measure import Advance

__all__ = ["LineProgress", "TerminalProgress", "progress_for_stderr"]


@final
class TerminalProgress:
    """A `tierwise.measure.Progress` that draws one bar per open step."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(),
            console=console,
            expand=False,
        )
        self._open = 0

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """See `tierwise.measure.Progress.step`."""
        if self._open == 0:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(title, total=total)
        try:
            yield lambda n: self._bars.advance(task, n)
            if total is None:
                self._bars.update(task, total=1, completed=1)
        finally:
            self._bars.stop_task(task)
            self._open -= 1
            if self._open == 0:
                # What is drawn stays on the screen; a new display starts below it.
                self._bars.stop()
                for done in list(self._bars.task_ids):
                    self._bars.remove_task(done)

    def say(self, line: str) -> None:
        """See `tierwise.measure.Progress.say`."""
        self._bars.console.print(line, markup=False, highlight=False)


def progress_for_stderr() -> TerminalProgress | LineProgress:
    """Bars where stderr is a terminal, lines where it is not."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal else LineProgress()
