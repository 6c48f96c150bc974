"""Does a searched scheme learn better than others of the same memory, and are costs and gains additive?

    python benchmarks/training_search.py [--save] [--cache DIR]

A ResNet-14 is trained on five classes of Fashion-MNIST, then learns the other five from 300 items.
Everything is chosen by one half of the validation split's items of these classes and judged on the other; the test
split is not read. ``--save`` writes docs/results/training-search.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import msgspec
import numpy as np
import torch

from tierwise._seeds import stream
from tierwise.artifact import Optimiser
from tierwise.measure import Silent, read_environment
from tierwise.tasks import BuiltinTask, ResNet, build_subject, load_task
from tierwise.training import Scheme
from tierwise.training.compiler import Lesson, blocks, computing, reach, read_model
from tierwise.training.search import (
    Budget,
    Choice,
    Probe,
    ProbeSet,
    Trials,
    calibrate,
    candidates,
    measure_contributions,
    measure_costs,
    measured_cpu_s,
    search_scheme,
)

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
BATCH, LEARNT, RATIOS = 8, 300, (0.25, 0.5, 1.0)
JUDGED_SEEDS = (10, 11, 12)
BUDGETS = (0.25, 0.5, 0.75)
HOW = Optimiser(kind="momentum", rate=0.01)


def tensors(task, split, classes):
    places = np.flatnonzero(np.isin(split.labels, classes))
    chosen = split.take(places)
    (pictures,) = task.tensors(chosen.items).values()
    return torch.from_numpy(pictures), torch.from_numpy(np.searchsorted(classes, chosen.labels))


def pretrained(pictures, labels):
    torch.manual_seed(0)
    module = build_subject(ResNet(depth=14, width=8), channels=1, classes=5)
    update, order = torch.optim.Adam(module.parameters(), lr=2e-3), stream(0, "pretraining")
    for _ in range(2):
        for places in torch.from_numpy(order.permutation(len(labels))).split(64):
            loss = torch.nn.functional.cross_entropy(module(pictures[places]), labels[places])
            update.zero_grad()
            loss.backward()
            update.step()
    return module.eval()


def judged(trials, scheme, probe):
    found = [trials.accuracy(scheme, msgspec.structs.replace(probe, seeds=(seed,))) for seed in JUDGED_SEEDS]
    return {"mean": statistics.mean(found), "stdev": statistics.stdev(found)}


def largest(schemes, predict, most):
    """The last of rising schemes whose captured step fits."""
    fitting = [(name, scheme) for name, scheme in schemes if predict(scheme).bytes <= most]
    return fitting[-1] if fitting else None


def ladders(model):
    """Schemes that rise in memory: whole last layers, and the published pattern over the last blocks."""
    inside = [block for block in blocks(model) if len(block.layers) > 1]
    by_blocks = [
        (
            f"biases and first convolutions of the last {n} blocks",
            Scheme(
                biases=reach(model, inside[-n].layers[0]),
                whole=1,
                weights={name: 1.0 for block in inside[-n:] for name in block.weights},
            ),
        )
        for n in range(1, len(inside) + 1)
    ]
    return by_blocks, [(f"last-{k}", Scheme(whole=k)) for k in range(1, len(computing(model)) + 1)]


def rows_of(model, table, costs, judge):
    """What is found within each budget beside the ladders, the classifier alone and all of the model, judged."""
    by_blocks, by_layers = ladders(model)
    full, least = costs.predict(Scheme(whole="all")).bytes, table.bytes(Choice(0))
    rows = []

    def add(name, scheme, **about):
        row = {**about, "scheme": name, "what": msgspec.to_builtins(scheme)}
        rows.append(row | {"bytes": costs.predict(scheme).bytes, "accuracy": judge(scheme)})
        print(f"{about} {name:50} {rows[-1]['bytes']:9d} {rows[-1]['accuracy']['mean']:.4f}", flush=True)

    for share in BUDGETS:
        most = round(least + share * (full - least))
        outcome = search_scheme(table, Budget(bytes=most), costs.predict)
        tried = [
            ("searched, exactly", outcome.exact.scheme),
            ("searched, by evolution", outcome.evolved.scheme),
            largest(by_blocks, costs.predict, most),
            largest(by_layers, costs.predict, most),
        ]
        for name, scheme in [one for one in tried if one is not None]:
            add(name, scheme, budget_bytes=most)
        rows[-1]["gap_of_evolution"] = outcome.gap
        rows[-1]["withheld_bytes"] = outcome.withheld_bytes
    for name, scheme in (("classifier alone", Scheme(whole=1)), ("full", Scheme(whole="all"))):
        add(name, scheme)
    return rows


def errors_of(table, timed, costs, clock):
    """How far the table's sums are off captured bytes and measured CPU time, for schemes drawn at random."""
    rng, samples = stream(0, "samples"), []
    for _ in range(12):
        depth = int(rng.integers(1, len(table.depths)))
        slices = [int(rng.choice(group)) for group in table.within(depth) if rng.random() < 0.5]
        samples.append(Choice(depth, tuple(sorted(slices))))
    sizes = [table.bytes(one) / costs.predict(table.scheme(one)).bytes - 1 for one in samples]
    return sizes, [timed.cpu_s(one) / clock(table.scheme(one)) - 1 for one in samples[:4]]


def save(result) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    result["environment"] = msgspec.to_builtins(read_environment())
    (RESULTS / "training-search.json").write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write docs/results/training-search.json")
    parser.add_argument("--cache", type=Path, default=Path(".tierwise"))
    options = parser.parse_args()
    task = load_task(BuiltinTask(name="fashion-mnist", train_items=8000), options.cache)
    known, new = np.arange(0, 10, 2), np.arange(1, 10, 2)
    module = pretrained(*tensors(task, task.splits["train"], known))
    pictures, labels = (x[:LEARNT] for x in tensors(task, task.splits["train"], new))
    held, held_labels = tensors(task, task.splits["validation"], new)
    half = len(held) // 2
    choosing = ProbeSet((pictures,), labels, (held[:half],), held_labels[:half])
    model = read_model(module, {"input": pictures[:2]})
    chosen, home = candidates(model, (), RATIOS), options.cache / "schemes"
    judging = Trials(model, ProbeSet((pictures,), labels, (held[half:],), held_labels[half:]), home)
    batch = ((pictures[:BATCH],), labels[:BATCH])
    probe = Probe(steps=60, batch=BATCH, optimiser=HOW, seeds=(0, 1, 2))
    print(f"{len(chosen.depths)} depths, {len(chosen.slices)} slices, {half} items to choose by", flush=True)
    costs = measure_costs(model, chosen, HOW, batch, home, Silent())
    print("costs measured", flush=True)
    found = measure_contributions(model, chosen, choosing, probe, home, Silent())
    print("contributions measured", flush=True)
    table = costs.table(chosen, found.depth_gains(), found.slice_gains())
    rows = rows_of(model, table, costs, lambda scheme: judged(judging, scheme, probe))
    example = [({"input": batch[0][0].numpy()}, batch[1].numpy())]
    clock = measured_cpu_s(module, Lesson("search", task.encoding, tuple("abcde"), {}, example, "s"), HOW)
    timed = calibrate(table, chosen, costs, clock, Silent())
    sizes, times = errors_of(table, timed, costs, clock)
    print("errors of bytes", sizes, "of time", times, flush=True)
    if not options.save:
        return
    save(
        {
            "rows": rows,
            "depths": [
                dict(msgspec.to_builtins(one), accuracy=a) for one, a in zip(timed.depths, found.depths, strict=True)
            ],
            "slices": [
                dict(msgspec.to_builtins(one), accuracy=a) for one, a in zip(timed.slices, found.slices, strict=True)
            ],
            "table_bytes_over_captured": sizes,
            "table_cpu_s_over_compiled": times,
            "items": {"learnt": LEARNT, "chosen_by": half, "judged_by": len(held) - half},
            "probe": msgspec.to_builtins(probe),
            "judged_seeds": JUDGED_SEEDS,
        }
    )


if __name__ == "__main__":
    main()
