"""Memory of one training step: eager PyTorch beside the compiled step, predicted beside measured.

    python benchmarks/training_memory.py [--only NAME ...] [--batch N] [--schemes sparse bits full]
                                        [--eager ordinary full sparse] [--save]

Every figure is of a fresh process with one thread. Between two steps it holds weights, batch and the optimiser's
tensors, and no gradients; counted is what a step takes on top, at its peak. Three ways of counting:

* ``counted_bytes``: all of malloc, by a counter in front of glibc (allocation_counter.c, needs a C compiler).
  It sees PyTorch's allocator, oneDNN's scratch memory, ONNX Runtime's and NumPy's alike. Ratios are of this one.
* ``resident_bytes``: VmHWM, reset before the step, less VmRSS then; MALLOC_MMAP_THRESHOLD_ is 64 KB, so that what is
  freed leaves the process. A check of the first.
* ``followed_bytes``: sum of the storages that eager PyTorch's operators return (`eager_timeline`). Another check.

``process_bytes`` is VmHWM of a process that did nothing else than open the model and train for some steps, without the
counter. Weights are random; memory does not depend on them. SGD; the sparse schemes are in `MODELS`; ``bits`` is the
same with masks of bits.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
COUNTER = Path(__file__).resolve().parent / "allocation_counter.c"
CLASSES, STEPS = 10, 3
# Subject, pixels or tokens, batches, layers whose biases are trained, pattern of the weights trained beside.
MODELS: dict[str, tuple[str, int, tuple[int, ...], int, str]] = {
    "MobileNetV2-1.0": ("MobileNetV2(width_frac=1.0)", 128, (1, 8), 23, r"blocks\.1[0-6]\.expand"),
    "MobileNetV2-0.35": ("MobileNetV2(width_frac=0.35)", 128, (1, 8), 23, r"blocks\.1[0-6]\.expand"),
    "ResNet-20": ("ResNet(depth=20, width=16)", 32, (1, 8), 8, r"blocks\.[78]\.layers\.0"),
    "ResNet-20-wide": ("ResNet(depth=20, width=64)", 32, (1, 8), 8, r"blocks\.[78]\.layers\.0"),
    "BERT-4x512": (
        "Bert(layers=4, hidden=512, head_width=64, vocabulary=30522, max_length=128)",
        128,
        (1,),
        14,
        r"layer\.3\.(attention|intermediate)",
    ),
    "BERT-2x128": (
        "Bert(layers=2, hidden=128, head_width=64, vocabulary=30522, max_length=128)",
        128,
        (1, 8),
        8,
        r"layer\.1\.(attention|intermediate)",
    ),
}


def module_of(name: str) -> Any:
    import torch

    from tierwise import tasks

    torch.manual_seed(0)
    torch.set_num_threads(1)
    subject = eval(MODELS[name][0], vars(tasks))
    return tasks.build_subject(subject, classes=CLASSES, channels=3)


def batch_of(name: str, items: int) -> tuple[dict[str, Any], Any]:
    rng, size = np.random.default_rng(0), MODELS[name][1]
    labels = rng.integers(0, CLASSES, items)
    if name.startswith("BERT"):
        ids = rng.integers(1, 30522, (items, size))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}, labels
    return {"input": rng.standard_normal((items, 3, size, size)).astype(np.float32)}, labels


def scheme_of(name: str, kind: str, layers: tuple[Any, ...]) -> Any:
    from tierwise.training import Scheme

    if kind == "full":
        return Scheme(whole="all")
    names = [layer.name for layer in layers if layer.computes]
    weights = {one: 1.0 for one in names if re.search(MODELS[name][4], one)}
    return Scheme(biases=MODELS[name][3], whole=1, weights=weights)


# Processes of their own ----------------------------------------------------------------------------------------


def status() -> dict[str, int]:
    text = Path("/proc/self/status").read_text()
    return {key: int(re.search(rf"{key}:\s+(\d+)", text)[1]) * 1024 for key in ("VmHWM", "VmRSS")}  # type: ignore[index]


def counted(before: Callable[[], object], step: Callable[[], object]) -> dict[str, int]:
    """Most that ``step`` takes on top of what is there; the lowest of some steps behind a first one."""
    library = ctypes.CDLL(None)
    for one in ("counted_live", "counted_peak"):
        getattr(library, one).restype = ctypes.c_long
    found = []
    for _ in range(STEPS + 1):
        before()
        Path("/proc/self/clear_refs").write_text("5")
        resident, live = status()["VmRSS"], library.counted_live()
        library.counted_reset()
        step()
        found.append((library.counted_peak() - live, status()["VmHWM"] - resident))
    counted_bytes, resident_bytes = min(found[1:])
    return {"counted_bytes": counted_bytes, "resident_bytes": resident_bytes}


def eager_steps(name: str, items: int, kind: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """``ordinary``: the module in training mode. ``full`` and ``sparse``: as the compiler has it, its norms folded."""
    import torch

    arrays, classes = batch_of(name, items)
    inputs, labels = {n: torch.from_numpy(a) for n, a in arrays.items()}, torch.from_numpy(classes)
    module = module_of(name)
    if kind == "ordinary":
        module.train()
        leaves, forward = list(module.parameters()), lambda: module(**inputs)
    else:
        from tierwise.training.compiler import read_model, resolve

        model = read_model(module.eval(), {n: torch.cat([a, a]) for n, a in inputs.items()})
        held = {n: t.detach() for n, t in model.tensors.items()}
        chosen = resolve(scheme_of(name, kind, model.layers), model)
        for one in chosen:
            held[one.name] = held[one.name].clone().requires_grad_()
        leaves, forward = [held[one.name] for one in chosen], lambda: model(tuple(inputs.values()), held)
    optimiser = torch.optim.SGD(leaves, lr=1e-3)

    def step() -> None:
        torch.nn.functional.cross_entropy(forward(), labels).backward()
        optimiser.step()

    return optimiser.zero_grad, step


def eager(name: str, items: int, kind: str) -> dict[str, int]:
    from tierwise.training.compiler import eager_timeline

    before, step = eager_steps(name, items, kind)
    found = counted(before, step)
    before()
    return {**found, "followed_bytes": eager_timeline(step).peak_bytes}


def eager_process(name: str, items: int, kind: str) -> dict[str, int]:
    before, step = eager_steps(name, items, kind)
    for _ in range(STEPS):
        before()
        step()
    return {"process_bytes": status()["VmHWM"]}


def node_session(folder: str, lean: bool) -> tuple[Any, Callable[[], object]]:
    from tierwise.artifact import open_artifact
    from tierwise.training import TrainingSession
    from tierwise.training._tensor_file import TensorFile

    artifact = open_artifact(Path(folder))
    session = TrainingSession(artifact, lean=lean)
    vectors = TensorFile(artifact.path(session.spec.vectors))
    inputs = {n.removeprefix("input."): np.array(vectors[n][0]) for n in vectors if n.startswith("input.")}
    labels = np.array(vectors["labels"][0])
    assert "torch" not in sys.modules
    return session, lambda: session.step(inputs, labels, 1e-3)


def node(folder: str, lean: bool) -> dict[str, Any]:
    session, step = node_session(folder, lean)
    plan, frozen = session.spec.plan, vars(session)["_frozen"]
    if frozen is not None:  # weights that are read anew in every step are no memory of the step
        frozen.release = lambda: None
    return {
        **counted(lambda: None, step),
        "predicted_bytes": plan.predicted_bytes,
        "predicted_step_bytes": plan.predicted_peak_bytes,
        "predicted_as_exported_bytes": plan.predicted_traced_peak_bytes,
        "predicted_prefix_bytes": plan.predicted_prefix_peak_bytes,
        "border_bytes": plan.border_bytes,
        "state_bytes": plan.state_bytes,
        "prefix_items": session.spec.prefix_items,
        "weight_error": session.verified.weight_error,
    }


def node_process(folder: str, lean: bool) -> dict[str, int]:
    _, step = node_session(folder, lean)
    for _ in range(STEPS):
        step()
    return {"process_bytes": status()["VmHWM"]}


def compile_one(name: str, items: int, kind: str, folder: str) -> dict[str, int]:
    import torch

    from tierwise.artifact import Optimiser, TensorInput, TensorSpec
    from tierwise.training.compiler import Lesson, compile_training, read_model

    module = module_of(name).eval()
    inputs, labels = batch_of(name, items)
    layers = read_model(module, {n: torch.from_numpy(np.concatenate([a, a])) for n, a in inputs.items()}).layers
    tensors = tuple(
        TensorSpec(name=n, dtype="FP32" if a.dtype == np.float32 else "INT64", shape=(-1, *a.shape[1:]))
        for n, a in inputs.items()
    )
    names = tuple(f"c{i}" for i in range(CLASSES))
    lesson = Lesson(name, TensorInput(tensors=tensors), names, {}, [(inputs, labels)], name)
    scheme = scheme_of(name, kind, layers)
    how = Optimiser(rate=1e-3)
    made = compile_training(module, lesson, scheme, how, Path(folder), bit_masks=kind == "bits")
    return {"trained": sum(int(np.prod(one.shape)) for one in made.manifest.training.trained)}


# The table -----------------------------------------------------------------------------------------------------


def fresh(counter: str, *args: str) -> dict[str, Any]:
    """What this file answers in a process of its own, with the allocation counter where ``counter`` names it."""
    wanted = {**os.environ, "OMP_NUM_THREADS": "1", "TIERWISE_MEMORY_ROLE": json.dumps(args)}
    if counter:
        wanted.update(LD_PRELOAD=counter, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
    done = subprocess.run([sys.executable, __file__], env=wanted, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{args} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer(role: str, *args: str) -> Mapping[str, Any]:
    match role:
        case "eager":
            return eager(args[0], int(args[1]), args[2])
        case "eager-process":
            return eager_process(args[0], int(args[1]), args[2])
        case "node":
            return node(args[0], args[1] == "lean")
        case "node-process":
            return node_process(args[0], args[1] == "lean")
        case _:
            return compile_one(args[0], int(args[1]), args[2], args[3])


def measure(name: str, items: int, schemes: list[str], beside: list[str], counter: str) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "size": MODELS[name][1], "batch": items}
    for kind in beside:
        row[f"eager {kind}"] = fresh(counter, "eager", name, str(items), kind)
    if "ordinary" in beside:
        row["eager ordinary"].update(fresh("", "eager-process", name, str(items), "ordinary"))
    with tempfile.TemporaryDirectory(prefix="tierwise-memory-") as folder:
        for kind in schemes:
            artifact = str(Path(folder) / kind)
            about = fresh("", "compile", name, str(items), kind, artifact)
            row[f"compiled {kind}"] = {
                **about,
                **fresh(counter, "node", artifact, "lean"),
                **fresh("", "node-process", artifact, "lean"),
            }
    row["ratios"] = {name: over / under for name, (over, under) in pairs(row).items()}
    return row


def pairs(row: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """What is divided by what."""
    found = {}
    for kind in ("sparse", "bits", "full"):
        one = row.get(f"compiled {kind}")
        if one is None:
            continue
        for beside in ("ordinary", "full", "sparse"):
            if f"eager {beside}" in row:
                eager_bytes = row[f"eager {beside}"]["counted_bytes"]
                found[f"eager {beside} over compiled {kind}"] = eager_bytes, one["counted_bytes"]
        if "eager ordinary" in row:
            processes = row["eager ordinary"]["process_bytes"], one["process_bytes"]
            found[f"process of eager ordinary over compiled {kind}"] = processes
        found[f"predicted over measured, {kind}"] = one["predicted_bytes"], one["counted_bytes"]
    return found


def show(row: dict[str, Any]) -> None:
    print(f"{row['model']}, batch {row['batch']}")
    for kind, values in row.items():
        if isinstance(values, dict) and "counted_bytes" in values:
            shown = {n.removesuffix("_bytes"): round(v / 1e6, 2) for n, v in values.items() if n.endswith("_bytes")}
            print(f"  {kind:16}", "  ".join(f"{n} {v}" for n, v in shown.items()))
    print("  ", {n: round(v, 2) for n, v in row["ratios"].items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", type=int, help="only this one of a model's batches")
    parser.add_argument("--schemes", nargs="+", choices=["sparse", "bits", "full"], default=["sparse", "bits", "full"])
    kinds = ["ordinary", "full", "sparse"]
    parser.add_argument("--eager", nargs="*", choices=kinds, default=kinds, help="what stands beside")
    parser.add_argument("--save", action="store_true", help="what is not measured again stays as it is stored")
    chosen = parser.parse_args()
    import msgspec

    from tierwise.measure import read_environment

    path = RESULTS / "training-memory.json"
    with tempfile.TemporaryDirectory(prefix="tierwise-counter-") as folder:
        counter = str(Path(folder) / "counter.so")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", counter, str(COUNTER)], check=True)
        for name in chosen.only:
            for items in (one for one in MODELS[name][2] if chosen.batch in (None, one)):
                row = measure(name, items, chosen.schemes, chosen.eager, counter)
                show(row)
                if chosen.save:
                    before = json.loads(path.read_text())["rows"] if path.exists() else []
                    others = [one for one in before if (one["model"], one["batch"]) != (name, items)]
                    stored = next((one for one in before if one not in others), {})
                    row = {**stored, **row}
                    row["ratios"] = {what: over / under for what, (over, under) in pairs(row).items()}
                    about = msgspec.to_builtins(read_environment())
                    path.write_text(json.dumps({"environment": about, "rows": [*others, row]}, indent=1) + "\n")


if __name__ == "__main__":
    if "TIERWISE_MEMORY_ROLE" in os.environ:
        print(json.dumps(answer(*json.loads(os.environ["TIERWISE_MEMORY_ROLE"]))))
    else:
        main()
