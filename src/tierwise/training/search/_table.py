"""What each part of a scheme adds, in gain and in cost; a scheme is a depth and a share of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import msgspec

from tierwise._config import Spec
from tierwise.training._scheme import Scheme

__all__ = ["Budget", "Choice", "Depth", "Slice", "Table"]


class Depth(Spec, frozen=True, kw_only=True):
    """Biases of the last layers, and the classifier.

    Attributes:
        biases: Of how many layers; `Scheme.biases`.
        gain: Accuracy over that of training the classifier alone.
        step_peak_bytes: As in `Prediction`.
        prefix_peak_bytes: As in `Prediction`.
        state_bytes: As in `Prediction`.
        cpu_s: CPU time of a step.
    """

    biases: int
    gain: float
    step_peak_bytes: int
    prefix_peak_bytes: int
    state_bytes: int
    cpu_s: float = 0.0


class Slice(Spec, frozen=True, kw_only=True):
    """A share of one layer's weights, trained beside the biases.

    Attributes:
        layer: Its name.
        ratio: Share of its input channels.
        biases: Least `Depth.biases` that reaches it.
        gain: Accuracy that it adds.
        step_peak_bytes: What it adds to the peak of the step.
        state_bytes: What it adds to the state.
        cpu_s: What it adds to the CPU time.
    """

    layer: str
    ratio: float
    biases: int
    gain: float
    step_peak_bytes: int
    state_bytes: int
    cpu_s: float = 0.0


class Budget(Spec, frozen=True, kw_only=True):
    """What a step may take.

    Attributes:
        bytes: Beyond the frozen weights: the larger peak of prefix and step, and the state.
        cpu_s: CPU time of one step on one thread; None: any.
    """

    bytes: int
    cpu_s: float | None = None


@final
@dataclass(frozen=True)
class Choice:
    """A scheme, as places in a table.

    Attributes:
        depth: Place in `Table.depths`.
        slices: Places in `Table.slices`, rising.
    """

    depth: int
    slices: tuple[int, ...] = ()


class Table(Spec, frozen=True, kw_only=True):
    """Gains and costs, taken to add up (Lin et al., arXiv 2206.15472, section 2.2).

    Attributes:
        depths: From the shallowest to the deepest.
        slices: Of all layers and ratios.
    """

    depths: tuple[Depth, ...]
    slices: tuple[Slice, ...]

    def gain(self, choice: Choice) -> float:
        """Accuracy over that of training the classifier alone."""
        return self.depths[choice.depth].gain + sum(self.slices[i].gain for i in choice.slices)

    def bytes(self, choice: Choice) -> int:
        """What a step needs beyond the frozen weights."""
        depth, slices = self.depths[choice.depth], [self.slices[i] for i in choice.slices]
        peak = depth.step_peak_bytes + sum(one.step_peak_bytes for one in slices)
        state = depth.state_bytes + sum(one.state_bytes for one in slices)
        return max(peak, depth.prefix_peak_bytes) + state

    def cpu_s(self, choice: Choice) -> float:
        """CPU time of a step."""
        return self.depths[choice.depth].cpu_s + sum(self.slices[i].cpu_s for i in choice.slices)

    def fits(self, choice: Choice, budget: Budget) -> bool:
        """Whether each layer is chosen once at most and within reach, and the costs are within ``budget``."""
        layers = [self.slices[i].layer for i in choice.slices]
        reached = all(self.slices[i].biases <= self.depths[choice.depth].biases for i in choice.slices)
        in_time = budget.cpu_s is None or self.cpu_s(choice) <= budget.cpu_s
        return len(set(layers)) == len(layers) and reached and in_time and self.bytes(choice) <= budget.bytes

    def within(self, depth: int) -> list[tuple[int, ...]]:
        """Places of the slices that ``depth`` reaches, a tuple for each layer."""
        layers: dict[str, list[int]] = {}
        for place, one in enumerate(self.slices):
            if one.biases <= self.depths[depth].biases:
                layers.setdefault(one.layer, []).append(place)
        return [tuple(places) for places in layers.values()]

    def scheme(self, choice: Choice) -> Scheme:
        """What the compiler takes."""
        weights = {self.slices[i].layer: self.slices[i].ratio for i in choice.slices}
        return Scheme(biases=self.depths[choice.depth].biases, whole=1, weights=weights)

    def timed(self, depths_s: Sequence[float], slices_s: Sequence[float]) -> Table:
        """The same with other CPU times."""
        replace = msgspec.structs.replace
        depths = tuple(replace(one, cpu_s=s) for one, s in zip(self.depths, depths_s, strict=True))
        slices = tuple(replace(one, cpu_s=s) for one, s in zip(self.slices, slices_s, strict=True))
        return Table(depths=depths, slices=slices)
