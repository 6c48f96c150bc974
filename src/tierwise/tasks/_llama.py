"""A decoder in LLaMA's style: norms by the root mean square, rotary positions, gated feed-forward, shared key heads."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from tierwise.tasks._llama_spec import Llama

__all__ = ["LlamaNet"]


@final
class RootMeanSquareNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] as it came."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._epsilon) * self.weight


@final
class Attention(nn.Module):
    """Causal attention in which several query heads may read one head of keys and values.

    The query heads of a group stand below each other as rows of one matrix, so nothing is repeated in memory.
    """

    def __init__(self, spec: Llama) -> None:
        super().__init__()
        self._width, self._groups, self._shared = spec.head_width, spec.groups, spec.heads // spec.groups
        self.query = nn.Linear(spec.hidden, spec.hidden, bias=False)
        self.key = nn.Linear(spec.hidden, self._shared * self._width, bias=False)
        self.value = nn.Linear(spec.hidden, self._shared * self._width, bias=False)
        self.out = nn.Linear(spec.hidden, spec.hidden, bias=False)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[n, t, hidden]; ``cosine`` and ``sine`` are [t, head width], ``mask`` is [t, t] and added to the scores."""
        n, t, hidden = x.shape
        wide = (n, t, self._shared, self._groups, self._width)
        query = _rotated(self.query(x).view(wide).permute(0, 2, 3, 1, 4), cosine, sine)
        key = _rotated(self.key(x).view(n, t, self._shared, self._width).transpose(1, 2), cosine, sine)
        value = self.value(x).view(n, t, self._shared, self._width).transpose(1, 2)
        rows = (n, self._shared, self._groups * t, self._width)
        scores = query.reshape(rows) @ key.transpose(2, 3) * self._width**-0.5
        weights = torch.softmax(scores + mask.repeat(self._groups, 1), dim=-1)
        mixed = (weights @ value).view(n, self._shared, self._groups, t, self._width)
        answer: torch.Tensor = self.out(mixed.permute(0, 3, 1, 2, 4).reshape(n, t, hidden))
        return answer


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Each pair (i, i + half) of the last axis, turned by its position's angle."""
    left, right = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-right, left], dim=-1) * sine


@final
class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, spec: Llama) -> None:
        super().__init__()
        self.gate = nn.Linear(spec.hidden, spec.inner, bias=False)
        self.up = nn.Linear(spec.hidden, spec.inner, bias=False)
        self.down = nn.Linear(spec.inner, spec.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, t, hidden] as it came."""
        answer: torch.Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return answer


@final
class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a shortcut."""

    def __init__(self, spec: Llama) -> None:
        super().__init__()
        self.attention_norm = RootMeanSquareNorm(spec.hidden, spec.epsilon)
        self.attention = Attention(spec)
        self.feed_norm = RootMeanSquareNorm(spec.hidden, spec.epsilon)
        self.feed = FeedForward(spec)

    def forward(self, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As `Attention.forward`."""
        x = x + self.attention(self.attention_norm(x), cosine, sine, mask)
        mixed: torch.Tensor = x + self.feed(self.feed_norm(x))
        return mixed


@final
class LlamaNet(nn.Module):
    """The decoder. Rows have ``spec.length`` tokens; what stands behind a token never changes its answer.

    Args:
        spec: Its sizes.
    """

    def __init__(self, spec: Llama) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.vocabulary, spec.hidden)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = RootMeanSquareNorm(spec.hidden, spec.epsilon)
        self.head = nn.Linear(spec.hidden, spec.vocabulary, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        if spec.tied:
            self.head.weight = self.embedding.weight
        turns = spec.rotary_theta ** -(torch.arange(0, spec.head_width, 2).double() / spec.head_width)
        angles = torch.outer(torch.arange(spec.length).double(), turns).repeat(1, 2)
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)
        # A large finite number: infinities turn into NaN where a backward pass multiplies them by zero.
        later = torch.full((spec.length, spec.length), -1e9).triu(1)
        self.register_buffer("mask", later, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, [n, length, vocabulary], of rows [n, length]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine, self.mask)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits
