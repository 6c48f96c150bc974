"""A model whose front is a narrow encoder, a codec and a decoder, while it is trained and as it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from tierwise.operators._folding import folded
from tierwise.operators._lesson import Lesson
from tierwise.operators._rounding import Rounding
from tierwise.tasks import answer

__all__ = ["Deployed", "LessonLoss", "Narrowed", "Seen", "stops_at_the_cut"]


@final
@dataclass(frozen=True)
class Seen:
    """What a forward pass left for the loss.

    Attributes:
        features: The decoder's output, then what was watched in the tail.
        bits: Of each item, [n].
    """

    features: tuple[torch.Tensor, ...]
    bits: torch.Tensor


@final
class Narrowed(nn.Module):
    """Encoder, codec, decoder and tail in a row.

    Args:
        front: What the encoder reads from the input; never changed.
        encoder: The narrow part on the device.
        rounding: The codec, as training sees it.
        decoder: From what arrived to the features that the tail continues from.
        tail: Gives the answer, or that and watched tensors.
        prefixes: How many channels may be sent; several are drawn from while the model is trained.
    """

    def __init__(
        self,
        front: nn.Module,
        encoder: nn.Module,
        rounding: Rounding,
        decoder: nn.Module,
        tail: nn.Module,
        prefixes: Sequence[int],
    ) -> None:
        super().__init__()
        self.front, self.encoder, self.rounding = front, encoder, rounding
        self.decoder, self.tail = decoder, tail
        self._prefixes = tuple(prefixes)
        self._lesson = Lesson()
        # In a tuple, so that it is no part of this module: neither kept nor laid out nor optimised with it.
        self._swift: tuple[nn.Module, ...] = ()
        self.seen: Seen | None = None

    def learn(self, lesson: Lesson) -> None:
        """Let only what ``lesson`` trains be changed from now on.

        A tail that keeps its weights is trained through as a copy with its norms folded into its convolutions; one that
        the loss does not ask for is left out of training.
        """
        self._lesson = lesson
        self._swift = () if "tail" in lesson.trains else (folded(self.tail),)
        self.requires_grad_(False)
        for part in self._learning():
            part.requires_grad_(True)
        self.train(self.training)

    def _learning(self) -> list[nn.Module]:
        names = self._lesson.trains
        return [getattr(self, name) for name in names] + ([self.rounding] if "encoder" in names else [])

    def train(self, mode: bool = True) -> Narrowed:
        """As any module's, but what is not learning keeps its statistics."""
        super().train(mode)
        learning = self._learning()
        for part in (self.front, self.encoder, self.decoder, self.tail):
            if not any(part is one for one in learning):
                part.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The answer; `seen` holds the rest. In a lesson that ends at the cut, while training, only `seen` says any."""
        # In float32 whatever the rest is in: 256 levels and a density's tails need more digits than bfloat16 has.
        with torch.autocast("cpu", enabled=False):
            latent = self.encoder(self.front(x))
            arrived, bits = self.rounding(latent, self._lesson.codec, self._sent())
        decoded = self.decoder(arrived)
        if self.training and stops_at_the_cut(self._lesson):
            self.seen = Seen((decoded,), bits)
            return torch.zeros(())
        made = (self._swift[0] if self.training and self._swift else self.tail)(decoded)
        answers, watched = (made[0], made[1:]) if isinstance(made, tuple) else (made, ())
        self.seen = Seen((decoded, *watched), bits)
        first: torch.Tensor = answers
        return first

    def _sent(self) -> int | None:
        if not self.training or len(self._prefixes) < 2:
            return None
        return self._prefixes[int(torch.randint(len(self._prefixes), ()))]

    @torch.no_grad()
    def latents(self, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the encoder makes of some inputs, [n, c, h, w]."""
        self.eval()
        return torch.cat([self.encoder(self.front(batch)) for batch in batches])


@final
class Deployed(nn.Module):
    """The same without its codec, which stands between the exported parts; gives the answer and the latent."""

    def __init__(self, narrowed: Narrowed) -> None:
        super().__init__()
        self.encoder = nn.Sequential(narrowed.front, narrowed.encoder)
        self.decoder, self.tail = narrowed.decoder, narrowed.tail

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(answer, latent)."""
        latent = self.encoder(x)
        made = self.tail(self.decoder(latent))
        return (made[0] if isinstance(made, tuple) else made), latent


@final
class LessonLoss:
    """The loss of one lesson, an objective of `tierwise.tasks.fine_tune`.

    Args:
        lesson: Its terms and their weights.
        teacher: The model before, as `folded` gives it: the answer, the features at the cut and those watched in the
            tail; for a lesson that ends at the cut only those there.
        watched: Which of the watched tensors, in the tail's order, this lesson compares (the cut always, if any).
        labelled: The loss of (answer, labels) that ``cross_entropy`` weighs; None where nothing does.
    """

    def __init__(
        self,
        lesson: Lesson,
        teacher: nn.Module,
        watched: Sequence[int],
        labelled: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self._lesson, self._teacher, self._labelled = lesson, teacher, labelled
        self._watched = [0, *(1 + i for i in watched)] if lesson.features else []

    def __call__(self, model: nn.Module, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """The loss of a `Narrowed` on a batch."""
        lesson = self._lesson
        logits = answer(model, batch).float()
        seen = model.seen
        assert isinstance(seen, Seen), "a forward pass leaves what it saw"
        loss = logits.new_zeros(())
        if self._watched or lesson.soft:
            wanted, features = self._told(batch)
            for i in self._watched:
                # Subtracted in float32: of two bfloat16 that nearly agree little is left.
                distance = (seen.features[i].float() - features[i].float()).square().flatten(1).sum(1).mean()
                loss = loss + lesson.features_weight * distance
            if lesson.soft:
                loss = loss + lesson.soft * _soft(logits, wanted.float(), lesson.temperature)
        if lesson.cross_entropy:
            assert self._labelled is not None, "a lesson of labels has their loss"
            loss = loss + lesson.cross_entropy * self._labelled(logits, labels)
        if lesson.rate:
            loss = loss + lesson.rate * seen.bits.mean()
        return loss

    @torch.no_grad()
    def _told(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """The teacher's answer and features."""
        given = next(iter(batch.values())).contiguous(memory_format=torch.channels_last)
        made = self._teacher(given)
        if isinstance(made, tuple):
            return made[0], made[1:]
        return made.new_zeros(()), (made,)


def stops_at_the_cut(lesson: Lesson) -> bool:
    """Whether the loss of a resolved lesson needs nothing behind the cut."""
    return len(lesson.features) == 1 and not lesson.soft and not lesson.cross_entropy


def _soft(logits: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    own, other = (nn.functional.log_softmax(one / temperature, dim=-1) for one in (logits, wanted))
    return temperature**2 * nn.functional.kl_div(own, other, reduction="batchmean", log_target=True)
