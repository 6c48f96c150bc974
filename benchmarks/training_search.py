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

    full = costs.predict(Scheme(whole="all")).bytes
    least = table.bytes(Choice(0))
    ladder_k = [(f"last-{k}", Scheme(whole=k)) for k in range(1, len(computing(model)) + 1)]
    inside = [block for block in blocks(model) if len(block.layers) > 1]
    ladder_b = [
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
    rows = []
    for share in BUDGETS:
        most = round(least + share * (full - least))
        outcome = search_scheme(table, Budget(bytes=most), costs.predict)
        tried = [
            ("searched, exactly", outcome.exact.scheme),
            ("searched, by evolution", outcome.evolved.scheme),
            largest(ladder_b, costs.predict, most),
            largest(ladder_k, costs.predict, most),
        ]
        for name, scheme in [one for one in tried if one is not None]:
            row = {"budget_bytes": most, "scheme": name, "what": msgspec.to_builtins(scheme)}
            row |= {"bytes": costs.predict(scheme).bytes, "accuracy": judged(judging, scheme, probe)}
            rows.append(row)
            print(f"{most:9d} {name:50} {row['bytes']:9d} {row['accuracy']['mean']:.4f}", flush=True)
        rows[-1]["gap_of_evolution"] = outcome.gap
        rows[-1]["withheld_bytes"] = outcome.withheld_bytes
    for name, scheme in (("classifier alone", Scheme(whole=1)), ("full", Scheme(whole="all"))):
        row = {"scheme": name, "bytes": costs.predict(scheme).bytes, "accuracy": judged(judging, scheme, probe)}
        rows.append(row)
        print(f"{'':9} {name:50} {row['bytes']:9d} {row['accuracy']['mean']:.4f}", flush=True)

    rng, samples = stream(0, "samples"), []
    for _ in range(12):
        depth = int(rng.integers(1, len(table.depths)))
        slices = [int(rng.choice(group)) for group in table.within(depth) if rng.random() < 0.5]
        samples.append(Choice(depth, tuple(sorted(slices))))
    lesson = Lesson(
        "search", task.encoding, tuple("abcde"), {}, [({"input": batch[0][0].numpy()}, batch[1].numpy())], "s"
    )
    clock = measured_cpu_s(module, lesson, HOW)
    timed = calibrate(table, chosen, costs, clock, Silent())
    errors = [table.bytes(one) / costs.predict(table.scheme(one)).bytes - 1 for one in samples]
    times = [timed.cpu_s(one) / clock(table.scheme(one)) - 1 for one in samples[:4]]
    print("errors of bytes", errors, "of time", times, flush=True)
    if options.save:
        result = {
            "rows": rows,
            "depths": [
                dict(msgspec.to_builtins(one), accuracy=a) for one, a in zip(timed.depths, found.depths, strict=True)
            ],
            "slices": [
                dict(msgspec.to_builtins(one), accuracy=a) for one, a in zip(timed.slices, found.slices, strict=True)
            ],
            "table_bytes_over_captured": errors,
            "table_cpu_s_over_compiled": times,
            "items": {"learnt": LEARNT, "chosen_by": half, "judged_by": len(held) - half},
            "probe": msgspec.to_builtins(probe),
            "judged_seeds": JUDGED_SEEDS,
            "environment": msgspec.to_builtins(read_environment()),
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "training-search.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
