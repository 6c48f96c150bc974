"""The model as it is: the baseline that every other chain is compared with."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tierwise._config import Spec
from tierwise.operators._work import Context, Stage, Work

__all__ = ["Identity", "identity"]


class Identity(Spec, frozen=True, kw_only=True, tag="identity", tag_field="op"):
    """Leave the model as it was exported."""

    NAME: ClassVar[str] = "identity"
    STAGE: ClassVar[Stage] = Stage.ALONE
    NEEDS_TORCH: ClassVar[bool] = False
    PACKAGES: ClassVar[tuple[str, ...]] = ()
    REVISION: ClassVar[int] = 1


def identity(spec: Identity, work: Work, context: Context) -> Work:
    """The same work with ``spec`` in its history."""
    return dataclasses.replace(work, history=(*work.history, spec))
