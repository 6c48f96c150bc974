"""Running a study from beginning to end, or on from wherever it was stopped."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tierwise import __version__
from tierwise._errors import StoreError, UnavailableError
from tierwise.artifact import Artifact
from tierwise.measure import Progress, usable_cpus
from tierwise.study._campaign import Campaign
from tierwise.study._differ import first_difference
from tierwise.study._golden import GOLDEN, Golden
from tierwise.study._inputs import Inputs, choose_inputs
from tierwise.study._plan import Asked, Plan, asked_strategies
from tierwise.study._results import Strategy
from tierwise.study._session import Equipment, run_session
from tierwise.study._store import DATABASE, Store
from tierwise.study._stored import Prepared, StoredTask, StoredVariant, open_variant
from tierwise.study._toml import toml_text
from tierwise.tasks import Task, load_task
from tierwise.topology import Scaling, Topology, scale

__all__ = ["build_locked", "run_locked"]

# How often a session is opened again in one run because a node died in it.
_REOPENINGS = 3


def build_locked(
    campaign: Campaign, directory: Path, progress: Progress, cache: Path, on: str | None = None
) -> tuple[Artifact, ...]:
    """Build for a study whose directory the caller has locked; see `tierwise.study.build_study`."""
    from tierwise.study._prepare import build_variants

    asked = asked_strategies(campaign, campaign.asked_topology())
    threads = max(1, int(usable_cpus()))
    task = load_task(campaign.task, cache, progress, threads=threads)
    if on is not None:
        from tierwise.study._ray import build_on_ray, ray_address

        build_on_ray(task, campaign.task, asked, directory, cache, progress, ray_address(on))
    return build_variants(task, asked, directory, progress, threads)


def run_locked(
    campaign: Campaign,
    directory: Path,
    progress: Progress,
    cache: Path,
    on: str | None = None,
    *,
    sys_root: Path = Path("/sys"),
) -> None:
    """Run a study whose directory the caller has locked; see `tierwise.study.run_study`.

    Energy meters are looked for under ``sys_root``.
    """
    address = None
    if on is not None:
        from tierwise.study._ray import ray_address

        address = ray_address(on)
    topology = campaign.asked_topology()
    asked = asked_strategies(campaign, topology)
    machine_cpus = usable_cpus()
    fitted, scaling = scale(topology, machine_cpus)
    if not (directory / DATABASE).exists():
        _check_chains(asked)
    with contextlib.closing(Store(directory, create=True)) as store:
        _agree(store, campaign, topology, fitted, scaling, directory)
        threads = max(1, int(machine_cpus))
        task = load_task(campaign.task, cache, progress, threads=threads)
        inputs = _inputs(task, campaign, progress)
        if store.fact(GOLDEN, Golden) is None:
            store.set_fact(GOLDEN, Golden.of(inputs.requests[0]))
        if on is not None and store.fact("task", StoredTask) is None:
            from tierwise.study._ray import build_on_ray

            build_on_ray(task, campaign.task, asked, directory, cache, progress, address)
        prepared = _prepared(store, task, asked, fitted, inputs, directory, progress, threads)
        plan = Plan(
            scenario=campaign.scenario,
            profile=campaign.measured(),
            seed=campaign.seed,
            strategies=tuple(strategy.id for strategy in prepared.strategies),
            samples=len(inputs.labels),
        )
        with tempfile.TemporaryDirectory(prefix="tierwise-") as workdir:
            equipment = Equipment(
                plan=plan,
                strategies={strategy.id: strategy for strategy in prepared.strategies},
                artifacts={
                    key: open_variant(directory, variant.directory, variant.digest)
                    for key, variant in prepared.variants.items()
                },
                inputs=inputs,
                topology=topology,
                machine_cpus=machine_cpus,
                link_means=campaign.link_means,
                limiter=campaign.limiter,
                workdir=Path(workdir),
                sys_root=sys_root,
            )
            _measure(equipment, store, progress)


def _check_chains(asked: Sequence[Asked]) -> None:
    """Refuse what cannot be built before the directory is this study's: a campaign put right may use it again."""
    # Here and not above: this brings torch, which a study that is taken up again does without.
    from tierwise.operators import check_chain, parse_chain

    for entry in asked:
        check_chain(parse_chain(entry.spec.chain, entry.spec.options))


def _agree(
    store: Store, campaign: Campaign, topology: Topology, fitted: Topology, scaling: Scaling, directory: Path
) -> None:
    """Write down what is asked the first time; later, insist on it.

    Raises:
        StoreError: The directory holds another study, or one begun on another machine; the message names the
            difference.
    """
    facts: tuple[tuple[str, msgspec.Struct], ...] = (
        ("campaign", campaign),
        ("topology", topology),
        ("fitted", fitted),
        ("scaling", scaling),
    )
    if store.fact("campaign", Campaign) is None:
        with store.transaction():
            for name, value in facts:
                store.set_fact(name, value)
            store.set_fact("campaign_toml", toml_text(campaign))
            store.set_fact("tierwise_version", __version__)
        return
    for name, value in facts:
        difference = first_difference(store.fact(name, type(value)), value)
        if difference is None:
            continue
        path, before, now = difference
        if name in ("campaign", "topology"):
            raise StoreError(
                f"this directory holds a study in which {path} is {before}",
                got=now,
                where=directory,
                fix="Ask for the same study to go on with it, or choose another directory",
            )
        raise StoreError(
            f"a study must be finished on a machine like the one it was begun on ({name}: {path} was {before})",
            got=now,
            where=directory,
            fix="Go on where it was begun, or choose another directory",
        )


def _inputs(task: Task, campaign: Campaign, progress: Progress) -> Inputs:
    with progress.step("load inputs", None):
        return choose_inputs(task, campaign.measured().samples, campaign.seed)


def _prepared(
    store: Store,
    task: Task,
    asked: Sequence[Asked],
    fitted: Topology,
    inputs: Inputs,
    directory: Path,
    progress: Progress,
    threads: int,
) -> Prepared:
    """What the store has, or what is built now and then stored in one step."""
    known = store.fact("task", StoredTask)
    if known is None:
        # Here and not above: this brings torch, which a study that is taken up again does without.
        from tierwise.study._prepare import prepare

        prepared = prepare(task, asked, fitted, inputs, directory, progress, threads)
        with store.transaction():
            store.put_all("variants", prepared.variants)
            store.put_all("strategies", {strategy.id: strategy for strategy in prepared.strategies})
            if prepared.answers is not None:
                store.put_answers(prepared.answers)
            store.set_fact(
                "task",
                StoredTask(
                    name=task.name,
                    fingerprint=task.fingerprint,
                    metric=task.metric,
                    test_items=len(task.splits["test"]),
                    load_items=len(inputs.labels),
                ),
            )
        return prepared
    if known.fingerprint != task.fingerprint:
        raise StoreError(
            f"the task must still be the one this study was begun with (fingerprint {known.fingerprint[:16]})",
            got=f"{task.fingerprint[:16]}",
            where=directory,
            fix="Restore the task's model and data, or choose another directory",
        )
    return Prepared(
        strategies=tuple(store.get_all("strategies", Strategy).values()),
        variants=store.get_all("variants", StoredVariant),
    )


def _measure(equipment: Equipment, store: Store, progress: Progress) -> None:
    plan = equipment.plan
    for number in range(plan.profile.sessions):
        for _ in range(_REOPENINGS + 1):
            if plan.complete(number, store.keys(number), functools.partial(store.measured_s, number)):
                break
            if not run_session(equipment, store, number, progress):
                progress.say(f"A node died in session {number + 1}; it is opened again.")
        else:
            raise UnavailableError(
                f"the nodes of a session must stay alive (session {number + 1} was opened {_REOPENINGS + 1} times)",
                got="a node that died each time",
                fix="See the errors in the records (tierwise study report); give the tiers more memory",
            )
