"""What a node takes for a message of its own, measured on a real one."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from tierwise._errors import UnavailableError
from tierwise.runtime import PROBE
from tierwise.study._compute import PAUSE_S
from tierwise.wire import InferenceClient

__all__ = ["measure_message_s"]

_WARM, _ASKED = 10, 30


def measure_message_s() -> float:
    """Median seconds of a request that asks a node on this machine for nothing, there and back.

    Requests are apart from each other, as those of a study are. The figure is taken as it is for every tier: limits of
    emulated tiers slow down the models on them, and hardly the messages.

    Raises:
        UnavailableError: The node does not start.
    """
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        address = f"unix:{folder}/node"
        command = [sys.executable, "-m", "tierwise", "node", "--listen", address, "--threads", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                line = process.stdout.readline() if process.stdout is not None else ""
                if " ready on " not in line:
                    raise UnavailableError("a node must start on this machine", got=repr(line[:200]))
                return _median_s(address)
            finally:
                process.terminate()


def _median_s(address: str) -> float:
    nothing = {"work": np.zeros(1, np.int64)}
    took_s = []
    with InferenceClient(address) as client:
        for _ in range(_WARM + _ASKED):
            time.sleep(PAUSE_S)
            started_s = time.perf_counter()
            client.infer(PROBE, nothing)
            took_s.append(time.perf_counter() - started_s)
    return statistics.median(took_s[_WARM:])
