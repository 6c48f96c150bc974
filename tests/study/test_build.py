from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tierwise.measure import Advance
from tierwise.study import Campaign, StrategySpec, build_study
from tierwise.study._store import DATABASE
from tierwise.tasks import BuiltinTask, ResNet, Training


class Listening:
    """A progress that remembers its titles."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextlib.contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        self.titles.append(title)
        yield lambda n: None

    def say(self, line: str) -> None:
        pass


def campaign(*strategies: StrategySpec) -> Campaign:
    return Campaign(
        name="built",
        task=BuiltinTask(
            name="digits",
            subject=ResNet(depth=8, width=4),
            training=Training(epochs=1, precision="float32"),
            train_items=100,
        ),
        topology="lan",
        strategies=strategies,
    )


def test_building_examines_every_variant_and_times_none(tmp_path: Path) -> None:
    asked = campaign(
        StrategySpec(chain="identity"),
        StrategySpec(chain="sptq+partition", name="left-open"),
        StrategySpec(
            chain="sptq+partition",
            name="named",
            options={"partition": {"cut": "blocks.1"}},
            placements=("mobile|edge",),
        ),
    )
    heard = Listening()
    built = build_study(asked, tmp_path, heard)
    # The cut that is left open is a matter of times, so of it only the uncut model is there.
    assert [one.manifest.provenance.chain for one in built] == ["identity", "sptq", "sptq+partition"]
    for one in built:
        assert [known.split for known in one.manifest.accuracy] == ["test"]
        assert one.directory.is_relative_to(tmp_path)
    assert not (tmp_path / DATABASE).exists()
    assert sum(title.startswith("accuracy of") for title in heard.titles) == 3
    again = Listening()
    assert [one.digest for one in build_study(asked, tmp_path, again)] == [one.digest for one in built]
    assert not [title for title in again.titles if title.startswith(("train", "accuracy", "quantise", "export"))]
