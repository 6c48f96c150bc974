"""Which colour and which shape stands for what. Colours are CSS variables: the page has light and dark values."""

from __future__ import annotations

from collections.abc import Sequence

from tierwise.measure import STAGES

__all__ = ["MEANINGS", "OTHER", "SHAPES", "STAGE_ORDER", "chain_colours", "placement_shapes", "stage_colour"]

OTHER = "other"
"""What of a latency no stage accounts for."""

STAGE_ORDER = (*STAGES, OTHER)
"""Stages in the order they are drawn and listed, on every page."""

MEANINGS = {
    "preprocess": "decoding, resizing, tokenising what the device holds",
    "head": "first segment of a cut model",
    "middle": "an inner segment of a cut model",
    "infer": "the whole, uncut model",
    "encode": "tensors into messages",
    "uplink": "on the way up, between two tiers",
    "queue": "waiting for the executor",
    "decode": "messages into tensors",
    "tail": "last segment of a cut model",
    "downlink": "on the way back",
    "local": "between the application and the node of its own device, there and back",
    "postprocess": "making the answer",
    "network": "up and back together, between machines with different clocks",
    OTHER: "what no stage accounts for",
}
"""What each stage is, for a legend."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
"""Vega's names of point shapes that are easily told apart."""

_CHAIN_COLOURS = 6


def stage_colour(stage: str) -> str:
    """The CSS variable of a stage: compute blue, links orange, messages purple, pre- and postprocessing green."""
    return f"var(--stage-{stage})"


def chain_colours(chains: Sequence[str]) -> dict[str, str]:
    """A CSS variable for each operator chain, in order of appearance; beyond six they repeat (the shape still differs).

    Example:
        >>> chain_colours(["identity", "sptq", "identity"])
        {'identity': 'var(--chain-0)', 'sptq': 'var(--chain-1)'}
    """
    return {chain: f"var(--chain-{i % _CHAIN_COLOURS})" for i, chain in enumerate(dict.fromkeys(chains))}


def placement_shapes(placements: Sequence[str]) -> dict[str, str]:
    """A point shape for each placement, in order of appearance; beyond six they repeat.

    Example:
        >>> placement_shapes(["mobile", "edge"])
        {'mobile': 'circle', 'edge': 'square'}
    """
    return {placement: SHAPES[i % len(SHAPES)] for i, placement in enumerate(dict.fromkeys(placements))}
