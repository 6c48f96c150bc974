"""Which channels of a torch module can leave together, how much each matters, and their removal.

The one place that knows Torch-Pruning (Fang et al. 2023, arXiv 2301.12900), whose graph of dependencies tells which
tensors must shrink together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import nn

from tierwise._errors import InputError, UnavailableError

__all__ = ["ChannelGroup", "Example", "Importance", "channel_groups", "channel_scores", "remove_channels"]

Example = Mapping[str, torch.Tensor]
Importance = Literal["magnitude", "taylor"]

_HEAD_SIZES = ("attention_head_size", "head_dim")
"""Attributes by which attention modules tell how wide one head is."""


@final
@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can leave a module only together in all layers that hold them.

    Attributes:
        name: The layer they are named after.
        channels: How many there are.
        parts: Groups of the grouped convolutions among the layers; as many channels leave each of them.
        head: Channels of one attention head, which leaves as a whole; 0 where there are no heads.
    """

    name: str
    channels: int
    parts: int = 1
    head: int = 0

    @property
    def unit(self) -> int:
        """Channels that leave at once."""
        return self.head or self.parts

    def rounded(self, channels: float, multiple: int) -> int:
        """The nearest number of channels to keep that is possible and a multiple of ``multiple``; never none."""
        grain = self.unit if self.head else math.lcm(self.unit, multiple)
        if grain >= self.channels:
            return self.channels
        return min(self.channels, max(grain, grain * math.floor(channels / grain + 0.5)))

    def indices(self, units: Sequence[int]) -> list[int]:
        """The channels that belong to ``units``."""
        if self.head:
            return [unit * self.head + offset for unit in units for offset in range(self.head)]
        size = self.channels // self.parts
        return [part * size + unit for part in range(self.parts) for unit in units]

    def per_unit(self, scores: torch.Tensor) -> torch.Tensor:
        """The mean of a score per channel over each unit's channels."""
        return scores.view(-1, self.head).mean(1) if self.head else scores.view(self.parts, -1).mean(0)


def channel_groups(module: nn.Module, example: Example) -> tuple[ChannelGroup, ...]:
    """All groups of channels that may leave ``module``.

    Channels of the answer stay, and so does the width of a transformer's residual stream (whatever a layer norm or an
    embedding takes part in): of transformers, attention heads and the inner width of the feed-forward parts may leave.

    Args:
        module: The model.
        example: Its inputs in order.

    Raises:
        InputError: The module cannot be traced, or nothing of it may leave.
        UnavailableError: Torch-Pruning is not installed.
    """
    with _traced(module, example) as graph:
        found = tuple(group for group, _ in _groups(module, graph, example))
    if not found:
        raise InputError(
            "the model must have channels that can leave it",
            got="none outside its answer, layer norms and embeddings",
            where=type(module).__name__,
            fix='Prune its weights instead (structure = "weights")',
        )
    return found


def channel_scores(module: nn.Module, example: Example, importance: Importance) -> dict[str, torch.Tensor]:
    """How much each unit of each group matters, with mean 1 in each group.

    ``magnitude`` is the mean squared norm of all weights that would leave with it; ``taylor`` the first-order change of
    the loss (Molchanov et al. 2019, arXiv 1906.10771), from the gradients that the parameters hold.

    Args:
        module: The model; for ``taylor`` after a backward pass.
        example: Its inputs in order.
        importance: Which measure.
    """
    with _traced(module, example) as graph:
        import torch_pruning

        measure = (
            torch_pruning.importance.GroupTaylorImportance()
            if importance == "taylor"
            else torch_pruning.importance.GroupMagnitudeImportance(p=2)
        )
        return {
            group.name: group.per_unit(measure(dependencies).detach().float())
            for group, dependencies in _groups(module, graph, example)
        }


def remove_channels(
    module: nn.Module, example: Example, widths: Mapping[str, int], scores: Mapping[str, torch.Tensor]
) -> None:
    """Shrink ``module`` in place: of each group named in ``widths`` so many channels stay, those of the best scores.

    Args:
        module: The model.
        example: Its inputs in order.
        widths: Channels to keep, by group.
        scores: From `channel_scores`.

    Raises:
        InputError: A name or a number does not fit the module, or it does not run without those channels.
    """
    with _traced(module, example) as graph:
        found = {group.name: (group, members) for group, members in _groups(module, graph, example)}
        for name, width in widths.items():
            if name not in found:
                raise InputError(f"widths must name groups of channels: {', '.join(found)}", got=repr(name))
            group, members = found[name]
            if not 0 < width <= group.channels or width % group.unit:
                raise InputError(
                    f"the width of {name} must be a multiple of {group.unit} up to {group.channels}", got=width
                )
            leaving = (group.channels - width) // group.unit
            if leaving == 0:
                continue
            # Sorted stably, so that equal scores are broken by position, the same everywhere.
            units = torch.argsort(scores[name], stable=True)[:leaving].tolist()
            root = members[0].dep
            graph.get_pruning_group(root.target.module, root.handler, sorted(group.indices(units))).prune()
        for parameter in module.parameters():
            parameter.grad = None
    try:
        with torch.no_grad():
            module.eval()(*example.values())
    except Exception as error:  # whatever the model's forward raises
        raise InputError(
            f"the model must run with fewer channels ({str(error).partition(chr(10))[0]})",
            where=type(module).__name__,
            fix="Let its forward take sizes from its tensors instead of constants, or prune its weights instead "
            '(structure = "weights")',
        ) from error


@contextmanager
def _traced(module: nn.Module, example: Example) -> Iterator[Any]:
    """The graph of dependencies."""
    try:
        import torch_pruning
    except ImportError as error:
        raise UnavailableError(
            "structured pruning needs the Torch-Pruning library", fix="Install it with: pip install 'tierwise[train]'"
        ) from error
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(
                module.eval(), example_inputs=tuple(example.values())
            )
        except Exception as error:  # the library raises whatever its tracing meets
            raise InputError(
                f"Torch-Pruning must be able to trace the model ({str(error).partition(chr(10))[0]})",
                where=type(module).__name__,
                fix='Prune its weights instead (structure = "weights")',
            ) from error
        yield graph


def _groups(module: nn.Module, graph: Any, example: Example) -> Iterator[tuple[ChannelGroup, Any]]:
    names = {submodule: name for name, submodule in module.named_modules()}
    last = _last_layer(module, example)
    for members in graph.get_all_groups(ignored_layers=[last]):
        layers = [dependency.target.module for dependency, _ in members]
        if any(isinstance(layer, (nn.LayerNorm, nn.Embedding, nn.Parameter)) for layer in layers):
            continue
        root = layers[0]
        parts = max([layer.groups for layer in layers if _grouped(layer)], default=1)
        width = graph.get_out_channels(root)
        yield ChannelGroup(names[root], width, parts, _head(module, names[root])), members


def _grouped(layer: Any) -> bool:
    # A depthwise convolution has nothing to share out: its groups are its channels.
    return isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.out_channels


def _head(module: nn.Module, name: str) -> int:
    parent = module.get_submodule(name.rpartition(".")[0])
    return next((size for key in _HEAD_SIZES if isinstance(size := getattr(parent, key, None), int)), 0)


def _last_layer(module: nn.Module, example: Example) -> nn.Module | None:
    """The layer that runs last, which makes the answer."""
    ran: list[nn.Module] = []
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in layers]
    try:
        with torch.no_grad():
            module(*example.values())
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1] if ran else None
