"""Processes that never outlive their owner, and whose last words are kept."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import final

from tierwise._errors import UnavailableError

__all__ = ["Child", "Spawner"]

_LAUNCH = str(Path(__file__).with_name("_launch.py"))


@final
class Child:
    """A process that was started, the pipe of its standard output and the log of its standard error."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.log = name, log
        self._process = process
        self._text = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def line(self, timeout_s: float) -> str:
        """The next line of its standard output.

        Raises:
            UnavailableError: It ended or said nothing in time; the message holds the end of its log.
        """
        assert self._process.stdout is not None  # a pipe was asked for
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._text:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([self._process.stdout], [], [], left_s)[0]:
                raise self.failure(f"the {self.name} process must answer within {timeout_s:g} s", got="silence")
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                self._process.wait()
                raise self.failure(f"the {self.name} process must start")
            self._text += chunk
        line, _, self._text = self._text.partition(b"\n")
        return line.decode("utf-8", "replace")

    def failure(self, must: str, got: str | None = None) -> UnavailableError:
        """An error that carries how the process ended and the end of its log."""
        code = self._process.poll()
        if got is None:
            got = "a running process" if code is None else _ending(code)
        tail = self.last_words()
        return UnavailableError(must, got=f"{got}; it wrote: {tail}" if tail else got, fix=f"Its log is {self.log}")

    def last_words(self, lines: int = 6) -> str:
        """The last lines of its standard error, joined."""
        with contextlib.suppress(OSError):
            return " | ".join(self.log.read_text("utf-8", "replace").strip().splitlines()[-lines:])
        return ""

    def stop(self, grace_s: float = 3.0) -> None:
        """Ask it to end, and make it end when it does not."""
        if self.alive():
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as the kernel does when memory runs out" if name == "SIGKILL" else name


@final
class Spawner:
    """Starts processes; when it is closed, or its owner ends in whatever way, they end too.

    The kernel watches the starting *thread*, which is why all of them start from one that lives as long as this.

    Args:
        logs: Folder for standard error, one file a process.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tierwise-spawner")
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], *, groups: Sequence[Path] = ()) -> Child:
        """Start ``command`` inside the control groups ``groups``; its log is ``NAME.log``."""
        launch = [sys.executable, "-I", "-S", _LAUNCH, str(os.getpid())]
        for group in groups:
            launch += ["--cgroup", str(group / "cgroup.procs")]
        log = self._logs / f"{name}.log"

        def start() -> subprocess.Popen[bytes]:
            with log.open("ab") as errors:
                # A session of its own: Ctrl-C at the terminal is for the owner, who then ends its processes in order.
                return subprocess.Popen(
                    [*launch, "--", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )

        child = Child(name, self._thread.submit(start).result(), log)
        self._children.append(child)
        return child

    @staticmethod
    def module_command(module: str, *arguments: str, prefix: Sequence[str] = ()) -> list[str]:
        """The command that runs ``main(arguments)`` of an importable module, through ``prefix``."""
        # Not by -m: the package's own __init__ may have imported the module before, of which runpy complains.
        program = f"import sys; from {module} import main; main(sys.argv[1:])"
        return [*prefix, sys.executable, "-c", program, *arguments]

    def start_module(self, name: str, module: str, *arguments: str, prefix: Sequence[str] = ()) -> Child:
        """`start` with `module_command`."""
        return self.start(name, self.module_command(module, *arguments, prefix=prefix))

    def stop(self, child: Child) -> None:
        """End one process."""
        child.stop()
        self._children.remove(child)

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the processes that were started and not stopped, in that order."""
        return tuple(child.name for child in self._children)

    def dead(self) -> Child | None:
        """The first process that has ended by itself, if any."""
        return next((child for child in self._children if not child.alive()), None)

    def close(self) -> None:
        """End all processes, all asked first and then waited for."""
        for child in self._children:
            if child.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        self._thread.shutdown()

    def __enter__(self) -> Spawner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
