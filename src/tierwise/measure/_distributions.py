"""The distributions that tests need, from SciPy; it is imported when a test is made, so that a node never brings it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tierwise._errors import UnavailableError

__all__ = ["chi_square_sf", "fair_coin_p", "ranks", "scipy_stats", "student_t_two_sided"]


def scipy_stats() -> Any:
    """The module ``scipy.stats``.

    Raises:
        UnavailableError: SciPy is not installed.
    """
    try:
        import scipy.stats
    except ImportError as error:
        raise UnavailableError(
            "comparing strategies needs SciPy", fix="Install it with: pip install 'tierwise[study]'"
        ) from error
    return scipy.stats


def chi_square_sf(statistic: float, df: int) -> float:
    """P(X >= statistic) for X chi-square with ``df`` degrees of freedom."""
    return float(scipy_stats().chi2.sf(statistic, df))


def student_t_two_sided(t: npt.NDArray[np.float64], df: float) -> npt.NDArray[np.float64]:
    """P(|T| >= |t|) for T Student with ``df`` degrees of freedom."""
    return np.asarray(2 * scipy_stats().t.sf(np.abs(t), df), dtype=np.float64)


def fair_coin_p(heads: int, throws: int) -> float:
    """Two-sided exact p of ``heads`` in ``throws`` of a fair coin."""
    return float(scipy_stats().binomtest(heads, throws, 0.5).pvalue) if throws else 1.0


def ranks(values: npt.NDArray[np.float64], axis: int | None = None) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of their ranks."""
    return np.asarray(scipy_stats().rankdata(values, axis=axis), dtype=np.float64)
