"""A tier's own network: a nameless network namespace and what is configured inside."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import final

from tierwise._errors import UnavailableError
from tierwise.testbed._links import Availability
from tierwise.testbed._native import new_network

__all__ = ["Namespace", "namespaces_availability"]

# Cubic is Linux' default and has no phases of its own making (BBR empties the pipe every ten seconds, and paces short
# transfers by what it saw of the last ones). A kernel whose own default is another refuses it inside a namespace; Reno,
# which none refuses, then stands in: they differ only after losses. And what one connection learnt about a link must
# not speed up or slow down the next one.
_SETTINGS = (
    ("ipv4/tcp_congestion_control", "reno"),
    ("ipv4/tcp_congestion_control", "cubic"),
    ("ipv4/tcp_no_metrics_save", "1"),
)


@final
class Namespace:
    """A network namespace that lives as long as this object, its owner or a process inside."""

    def __init__(self) -> None:
        self._file = new_network(_SETTINGS)

    @property
    def path(self) -> str:
        """Path by which other processes of this user find it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it runs inside."""
        return ["nsenter", f"--net={self.path}", "--"]

    def run(self, tool: str, *lines: str) -> None:
        """Have ``ip`` or ``tc`` do what ``lines`` say, inside.

        Raises:
            UnavailableError: A line was refused; the message holds the tool's own words.
        """
        result = subprocess.run(
            [*self.prefix, tool, "-batch", "-"],
            input="\n".join(lines) + "\n",
            text=True,
            capture_output=True,
            check=False,
        )
        if result.returncode:
            words = " ".join(result.stderr.split())
            raise UnavailableError(
                f"`{tool}` must accept {'; '.join(lines)!r}", got=words or f"exit code {result.returncode}"
            )

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def namespaces_availability() -> Availability:
    """Whether this process can make network namespaces and configure them."""
    missing = [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]
    if missing:
        return Availability(
            ok=False, reason=f"the command {missing[0]} is not installed", remedy="Install iproute2 and util-linux"
        )
    try:
        with Namespace() as namespace:
            namespace.run("ip", "link set lo up")
    except PermissionError:
        return Availability(
            ok=False, reason="an ordinary user may not make network namespaces", remedy="Run as root (sudo)"
        )
    except (OSError, UnavailableError) as error:
        return Availability(ok=False, reason=str(error), remedy="Use a kernel with CONFIG_NET_NS, outside a container")
    return Availability(ok=True, reason="network namespaces can be made")
