"""A decoder in LLaMA's style by its sizes. Importing this needs no torch."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tierwise._config import Spec
from tierwise._errors import SpecError

__all__ = ["Llama"]

Positive = Annotated[int, msgspec.Meta(gt=0)]


class Llama(Spec, frozen=True, kw_only=True):
    """A decoder that predicts the next token (Touvron et al. 2023, arXiv 2302.13971), for rows of one length.

    Attributes:
        layers: Number of blocks.
        hidden: Width.
        heads: Query heads; the width is a multiple of them, and a head's width is even.
        kv_heads: Heads of keys and values, each read by several query heads where fewer (Ainslie et al. 2023,
            arXiv 2305.13245); None: one for each query head.
        inner: Width of the feed-forward part.
        vocabulary: Number of tokens; 256 for bytes.
        length: Tokens of a row.
        tied: Whether the output layer's weight is the embedding.
        rotary_theta: Base of the rotary angles (Su et al. 2021, arXiv 2104.09864).
        epsilon: Of the norms.

    Example:
        >>> Llama(hidden=64, heads=4, kv_heads=2).head_width
        16
    """

    layers: Positive = 4
    hidden: Positive = 64
    heads: Positive = 4
    kv_heads: Positive | None = None
    inner: Positive = 172
    vocabulary: Annotated[int, msgspec.Meta(ge=2)] = 256
    length: Positive = 128
    tied: bool = True
    rotary_theta: Annotated[float, msgspec.Meta(gt=0)] = 10_000.0
    epsilon: Annotated[float, msgspec.Meta(gt=0)] = 1e-5

    @property
    def head_width(self) -> int:
        """Width of a head.

        Raises:
            SpecError: The heads do not fit the width.
        """
        if self.hidden % (2 * self.heads):
            raise SpecError(
                "the width must be an even multiple of the heads", got=f"{self.hidden}, {self.heads}", where="llama"
            )
        return self.hidden // self.heads

    @property
    def groups(self) -> int:
        """Query heads that read the same keys and values.

        Raises:
            SpecError: The query heads are no multiple of the others.
        """
        shared = self.kv_heads or self.heads
        if self.heads % shared:
            raise SpecError("heads must be a multiple of kv_heads", got=f"{self.heads}, {shared}", where="llama")
        return self.heads // shared
