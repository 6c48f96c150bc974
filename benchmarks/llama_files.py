"""A trained decoder of 260 thousand weights and its tokens, from files of the llama2.c project's format."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tierwise.tasks import Llama, build_decoder

_BYTES_FROM = 3


def read_checkpoint(path: Path) -> tuple[Llama, torch.nn.Module]:
    """Sizes and model.

    The file: seven int32 (width, inner width, layers, heads, key heads, vocabulary, length), then float32 weights, each
    kind for all layers. Rotations pair neighbouring rows of queries and keys there, and halves here.
    """
    content = path.read_bytes()
    hidden, inner, layers, heads, kv_heads, vocabulary, length = struct.unpack("7i", content[:28])
    spec = Llama(
        layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, inner=inner, vocabulary=abs(vocabulary),
        length=length, tied=vocabulary > 0,
    )  # fmt: skip
    values, place = np.frombuffer(content, np.float32, offset=28), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        count = int(np.prod(shape))
        place += count
        return torch.from_numpy(values[place - count : place].reshape(shape).copy())

    def halves(weight: torch.Tensor) -> torch.Tensor:
        rows = weight.view(-1, spec.head_width // 2, 2, hidden)
        return rows.transpose(1, 2).reshape(weight.shape)

    shared = kv_heads * spec.head_width
    state = {"embedding.weight": take(spec.vocabulary, hidden)}
    kinds = [
        ("attention_norm", (hidden,)), ("attention.query", (hidden, hidden)), ("attention.key", (shared, hidden)),
        ("attention.value", (shared, hidden)), ("attention.out", (hidden, hidden)), ("feed_norm", (hidden,)),
        ("feed.gate", (inner, hidden)), ("feed.down", (hidden, inner)), ("feed.up", (inner, hidden)),
    ]  # fmt: skip
    for name, shape in kinds:
        for i in range(layers):
            weight = take(*shape)
            paired = name in ("attention.query", "attention.key")
            state[f"blocks.{i}.{name}.weight"] = halves(weight) if paired else weight
    state["norm.weight"] = take(hidden)
    take(length, spec.head_width)  # angles, which the model computes itself
    state["head.weight"] = state["embedding.weight"] if spec.tied else take(spec.vocabulary, hidden)
    model = build_decoder(spec)
    model.load_state_dict(state)
    return spec, model


class Tokens:
    """Byte pairs joined by score, as SentencePiece does (Kudo and Richardson 2018, arXiv 1808.06226)."""

    def __init__(self, path: Path) -> None:
        content, place = path.read_bytes(), 4
        self._scores: dict[bytes, tuple[float, int]] = {}
        number = 0
        while place < len(content):
            score, size = struct.unpack("fi", content[place : place + 8])
            self._scores.setdefault(content[place + 8 : place + 8 + size], (score, number))
            place, number = place + 8 + size, number + 1

    def __call__(self, text: str) -> npt.NDArray[np.int64]:
        """Numbers of the tokens of ``text``. No token has a space but in front, so words can be taken one by one."""
        words = re.findall(r" ?[^ ]+| ", " " + text)
        return np.array([token for word in words for token in self._word(word)], np.int64)

    @lru_cache(maxsize=100_000)  # noqa: B019  one object, which lives as long as the program
    def _word(self, word: str) -> tuple[int, ...]:
        parts = [one.encode() for one in word]
        while True:
            pairs = [(-self._scores[a + b][0], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in self._scores]
            if not pairs:
                break
            place = min(pairs)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        found: list[int] = []
        for part in parts:
            known = self._scores.get(part)
            found += [known[1]] if known else [byte + _BYTES_FROM for byte in part]
        return tuple(found)
