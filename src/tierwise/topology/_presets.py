"""Named topologies and how a topology is fitted to the machine at hand."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from tierwise._config import load_toml, loads_toml
from tierwise._errors import SpecError
from tierwise.topology._topology import Scaling, Topology

__all__ = ["load", "preset_names", "scale"]


def preset_names() -> tuple[str, ...]:
    """Names that `load` knows without a file."""
    folder = resources.files("tierwise.topology") / "presets"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load(name_or_path: str) -> Topology:
    """A preset by its name, or a topology from a TOML file.

    Raises:
        SpecError: Neither a preset nor a readable file, or the file does not hold a topology.
    """
    if name_or_path in preset_names():
        text = (resources.files("tierwise.topology") / "presets" / f"{name_or_path}.toml").read_text("utf-8")
        return loads_toml(text, Topology, where=f"preset {name_or_path}")
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.exists():
        raise SpecError(
            f"a topology must be one of the presets {', '.join(preset_names())} or a .toml file",
            got=repr(name_or_path),
            fix="`tierwise topologies` shows the presets; `tierwise topologies --show NAME` prints one to start from",
        )
    return load_toml(path, Topology)


def scale(topology: Topology, machine_cpus: float) -> tuple[Topology, Scaling]:
    """Fit the emulated tiers to a machine by one common factor; links and remote tiers stay as they are.

    The tiers of an emulated topology compute one after another for one request, so the largest of them must fit the
    machine, not their sum. Memory is scaled by the same factor.

    Args:
        topology: What was asked for.
        machine_cpus: CPUs that this process may really use (quota and affinity).

    Returns:
        The fitted topology and how it was fitted.
    """
    emulated = [tier for tier in topology.tiers if tier.address is None]
    wanted = max((tier.cpus for tier in emulated), default=0.0)
    factor = min(1.0, machine_cpus / wanted) if wanted else 1.0
    tiers = tuple(
        tier
        if tier.address is not None
        else msgspec.structs.replace(tier, cpus=tier.cpus * factor, memory_bytes=round(tier.memory_bytes * factor))
        for tier in topology.tiers
    )
    scaling = Scaling(factor=factor, wanted_cpus=wanted, machine_cpus=machine_cpus)
    return msgspec.structs.replace(topology, tiers=tiers), scaling
