"""Load from h2load, which is written in C: the client takes little of what is measured, and the same from everybody."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = ["Call", "Seen", "put_load"]


@final
@dataclass(frozen=True)
class Call:
    """One request as bytes.

    Attributes:
        url: Where it goes.
        body: What is posted.
        headers: ``name: value`` lines.
        http1: HTTP/1.1 in place of HTTP/2.
    """

    url: str
    body: bytes
    headers: tuple[str, ...]
    http1: bool


@final
@dataclass(frozen=True)
class Seen:
    """What one run of h2load saw.

    Attributes:
        latencies_s: Of every request that was answered with a status of success.
        failed: Requests that were not.
        per_s: Answers a second over the whole run.
        answer_bytes: Payload bytes of an answer, the mean.
    """

    latencies_s: npt.NDArray[np.float64]
    failed: int
    per_s: float
    answer_bytes: float


def put_load(call: Call, *, clients: int, requests: int, prefix: Sequence[str] = ()) -> Seen:
    """Let ``clients`` connections ask, each the next when it has its answer, until there were ``requests``.

    Raises:
        RuntimeError: h2load failed or printed something unexpected.
    """
    with tempfile.TemporaryDirectory(prefix="tw-") as name:
        body, log = Path(name) / "body", Path(name) / "log"
        body.write_bytes(call.body)
        headers = [part for header in call.headers for part in ("-H", header)]
        command = ["h2load", "-n", str(requests), "-c", str(clients), "-m", "1", "-t", "1", "-d", str(body)]
        command += [f"--log-file={log}", *(["--h1"] if call.http1 else []), *headers, call.url]
        done = subprocess.run([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        finished = re.search(r"finished in ([\d.]+)(us|ms|s|min)", done.stdout)
        traffic = re.search(r"traffic: .*\((\d+)\) data", done.stdout)
        if done.returncode or finished is None or traffic is None or not log.exists():
            raise RuntimeError(f"h2load must finish with its figures, but printed:\n{done.stdout[-2000:]}")
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2)  # start in us, status, duration in us
    good = (rows[:, 1] >= 200) & (rows[:, 1] < 300)
    took_s = float(finished[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}[finished[2]]
    return Seen(
        latencies_s=rows[good, 2] / 1e6,
        failed=requests - int(good.sum()),
        per_s=int(good.sum()) / took_s,
        answer_bytes=int(traffic[1]) / max(1, len(rows)),
    )
