"""Tiers, links and topologies: what is asked of the machines, as frozen specs. Torch-free."""

from tierwise.topology._presets import load, preset_names, scale
from tierwise.topology._topology import Link, PowerModel, Scaling, Tier, Topology

__all__ = ["Link", "PowerModel", "Scaling", "Tier", "Topology", "load", "preset_names", "scale"]
