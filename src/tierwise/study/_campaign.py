"""What a study shall do: the TOML a user writes, as a frozen spec."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tierwise._config import Spec, load_toml, loads_toml
from tierwise._errors import SpecError
from tierwise.measure import Profile, ProfileName, Scenario, SingleStream, profile
from tierwise.tasks import TaskSpec
from tierwise.topology import Topology, load

__all__ = ["Campaign", "StrategySpec", "campaign_names", "campaign_text", "load_campaign"]

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class StrategySpec(Spec, frozen=True, kw_only=True):
    """One operator chain and where it shall run.

    Attributes:
        chain: Operators joined by ``+``, as ``sptq+partition``.
        placements: ``auto`` takes every legal placement on the tiers of the topology; else a list such as
            ``["edge", "mobile|cloud"]``: one tier per segment, from the device upward.
        options: Values that differ from an operator's defaults, by operator name.
        name: What to call it in place of the chain; needed where one chain occurs twice with different options.
    """

    chain: str
    placements: Literal["auto"] | tuple[str, ...] = "auto"
    options: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - msgspec copies an empty mutable default
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9+._-]{0,63}$")] | None = None


class Campaign(Spec, frozen=True, kw_only=True):
    """A study: what is deployed, how, on what, and how it is measured.

    Attributes:
        name: Name of the study.
        task: What is deployed (``[task]``, see `tierwise.tasks`).
        topology: Name of a preset, path of a file, or the topology itself.
        profile: ``quick``, ``study``, ``full``, or the numbers themselves.
        scenario: How load is put on the strategies.
        strategies: What is compared.
        seed: Root of the order, the choice of inputs and the arrivals, each a stream of its own.
        link_means: ``netem``, ``tun`` or ``proxy``; None takes the best this machine offers.
        limiter: ``cgroup-v2``, ``cgroup-v1`` or ``duty``; None takes the best this machine offers.
    """

    name: Name
    task: TaskSpec
    topology: str | Topology = "wifi-lte"
    profile: ProfileName | Profile = "quick"
    scenario: Scenario = SingleStream()
    strategies: Annotated[tuple[StrategySpec, ...], msgspec.Meta(min_length=1)]
    seed: int = 0
    link_means: Literal["netem", "tun", "proxy"] | None = None
    limiter: Literal["cgroup-v2", "cgroup-v1", "duty"] | None = None

    def measured(self) -> Profile:
        """How much is measured, as numbers."""
        return profile(self.profile) if isinstance(self.profile, str) else self.profile

    def asked_topology(self) -> Topology:
        """The topology, loaded where it is given by name or path.

        Raises:
            SpecError: As `tierwise.topology.load`.
        """
        return load(self.topology) if isinstance(self.topology, str) else self.topology


def campaign_names() -> tuple[str, ...]:
    """Names that `load_campaign` knows without a file."""
    folder = resources.files("tierwise.study") / "campaigns"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def campaign_text(name_or_path: str) -> str:
    """The TOML text of an embedded campaign or of a file.

    Raises:
        SpecError: Neither an embedded campaign nor a readable file.
    """
    if name_or_path in campaign_names():
        return (resources.files("tierwise.study") / "campaigns" / f"{name_or_path}.toml").read_text("utf-8")
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.exists():
        raise SpecError(
            f"a study must be one of {', '.join(campaign_names())} or a .toml file",
            got=repr(name_or_path),
            fix="Name one of them or give the path of your file",
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the file must be readable UTF-8 text ({error})", where=path) from error


def load_campaign(name_or_path: str) -> Campaign:
    """An embedded campaign by its name, or one from a TOML file.

    Raises:
        SpecError: Neither, or the text is not a campaign; the message ends with the path inside it.
    """
    if name_or_path not in campaign_names() and Path(name_or_path).exists():
        return load_toml(Path(name_or_path), Campaign)
    return loads_toml(campaign_text(name_or_path), Campaign, where=f"study {name_or_path}")
