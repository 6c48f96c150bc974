"""What every test shares: where the real data lie, and one thread for every library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before NumPy or torch start their pools: two cores shared with node processes do not bear more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "TIERWISE_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["TIERWISE_DATA"] = str(_BESIDE)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; skips where there is none."""
    root = os.environ.get("TIERWISE_DATA")
    if root is None:
        pytest.skip("TIERWISE_DATA is not set: this test needs the real data it names")
    return Path(root)
