"""Is 1e-5 after 20 steps more than float32 can say? Eager PyTorch held against itself in another order of operations.

    python benchmarks/training_rounding.py [--rate RATE] [--save]

All of MobileNetV2-1.0 is trained by Adam on the items and weights of training_models.py, in eager PyTorch alone: as it
is, in float64, with channels innermost, with the items of a batch in another order, and with the compiled step's form
of Adam in place of torch.optim's. All courses take their steps in turn. Of each is written how far its losses and
weights are from eager float32, on which step it parts, how many activations lie on the other side of a kink of ReLU6
there, and what is known of the weights that part. ``--save`` adds to docs/results/training-rounding.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_models import MODELS, batches, with_statistics

from tierwise.artifact import Optimiser
from tierwise.measure import read_environment
from tierwise.training import Scheme
from tierwise.training.compiler import read_model, resolve

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "training-rounding.json"
MODEL, STEPS, PARTED = "mobilenet-v2-1.0", 20, 3e-7
COURSES: dict[str, dict[str, Any]] = {
    "eager": {},
    "float64": {"dtype": torch.float64},
    "channels innermost": {"layout": torch.channels_last},
    "items in another order": {"turned": True},
    "the compiled step's Adam": {"own": True},
}


class Kinks(TorchDispatchMode):
    """Before every ReLU6: the input, and on which side of its kinks it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.hardtanh.default:
            self.seen.append(args[0].detach().clone(memory_format=torch.contiguous_format))
        return func(*args, **(kwargs or {}))


def sides(x: torch.Tensor) -> torch.Tensor:
    return (x > 0).to(torch.int8) + (x >= 6).to(torch.int8)


def course(
    model: Any,
    trained: Any,
    data: Any,
    how: Optimiser,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    turned: bool = False,
    own: bool = False,
) -> Iterator[tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor], list[torch.Tensor]]]:
    """Step by step: the loss, weights and gradients in float64, and the inputs of every ReLU6."""

    def cast(x: torch.Tensor) -> torch.Tensor:
        x = x.to(dtype) if x.is_floating_point() else x
        return x.to(memory_format=layout) if x.ndim == 4 else x

    tensors = {name: cast(x.detach()) for name, x in model.tensors.items()}
    leaves = {one.name: tensors[one.name].clone().requires_grad_() for one in trained}
    tensors.update(leaves)
    slots = {name: (torch.zeros_like(x), torch.zeros_like(x)) for name, x in leaves.items()}
    update = torch.optim.Adam(leaves.values(), lr=how.rate, betas=(how.beta1, how.beta2), eps=how.epsilon)
    for i in range(STEPS):
        inputs, labels = data[i % len(data)]
        inputs = tuple(cast(x.flip(0) if turned else x) for x in inputs)
        with Kinks() as kinks:
            logits = model(inputs, tensors)
        loss = torch.nn.functional.cross_entropy(logits, labels.flip(0) if turned else labels)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        if own:
            rate, correction = how.scalar_values(i + 1, how.rate)
            for name, grad in grads.items():
                mean, square = slots[name]
                mean = how.beta1 * mean + (1 - how.beta1) * grad
                square = how.beta2 * square + (1 - how.beta2) * grad * grad
                slots[name] = (mean, square)
                leaves[name].data = leaves[name].data - rate * mean / (square.sqrt() * correction + how.epsilon)
        else:
            for name, grad in grads.items():
                leaves[name].grad = grad
            update.step()
        wide = ({name: x.detach().double().contiguous() for name, x in some.items()} for some in (leaves, grads))
        weights, slopes = wide
        yield float(loss.detach()), weights, slopes, [x.flip(0) if turned else x for x in kinks.seen]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    over = sum(float((one[name] - x).square().sum()) for name, x in other.items())
    return float((over / sum(float(x.square().sum()) for x in other.values())) ** 0.5)


def at_parting(now: Any, reference: Any) -> dict[str, Any]:
    """What differs on the step on which two courses part: activations across a kink, and the weights that part."""
    _, weights, grads, seen = now
    _, known, slopes, before = reference
    crossed = [sides(a) != sides(b) for a, b in zip(seen, before, strict=True)]
    near = [x.double()[c] for x, c in zip(before, crossed, strict=True) if c.any()]
    nearest = [float(x.abs().minimum((x - 6).abs()).max()) for x in near]
    off = {name: weights[name] - x for name, x in known.items()}
    total = sum(float(x.square().sum()) for x in off.values())
    most = max(off, key=lambda name: float(off[name].square().sum()))
    far = off[most].abs() > 0.3 * off[most].abs().max()
    return {
        "relu6_inputs": sum(x.numel() for x in seen),
        "across_a_kink": sum(int(c.sum()) for c in crossed),
        "farthest_from_the_kink": max(nearest, default=None),
        "tensor_that_parts_most": most,
        "its_frac_of_the_squared_difference": float(off[most].square().sum()) / total,
        "its_weights_that_part": int(far.sum()),
        "of": far.numel(),
        "output_channels_of_these": int(far.flatten(1).any(1).sum()) if far.ndim > 1 else int(far.sum()),
        "median_gradient_of_these": [float(x[most].abs()[far].median()) for x in (slopes, grads)],
        "median_gradient_of_the_tensor": float(slopes[most].abs().median()),
        "largest_gradient_of_the_tensor": float(slopes[most].abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make, size, _ = MODELS[MODEL]
    module = with_statistics(make)
    data = [(tuple(map(torch.from_numpy, x.values())), torch.from_numpy(y)) for x, y in batches(MODEL, size)]
    model = read_model(module, {name: x for name, x in zip(("input",), data[0][0], strict=True)})
    trained, how = resolve(Scheme(whole="all"), model), Optimiser(kind="adam", rate=options.rate)
    start = {one.name: model.tensors[one.name].detach().double() for one in trained}
    running = {name: course(model, trained, data, how, **about) for name, about in COURSES.items()}
    rows: dict[str, Any] = {name: {"loss_error": 0.0, "weight_errors": []} for name in COURSES if name != "eager"}
    for i in range(STEPS):
        now = {name: next(one) for name, one in running.items()}
        for name, row in rows.items():
            loss = now["eager"][0]
            row["loss_error"] = max(row["loss_error"], abs(now[name][0] - loss) / abs(loss))
            row["weight_errors"].append(distance(now[name][1], now["eager"][1]))
            if row["weight_errors"][-1] > PARTED and "parts" not in row:
                row["parts"] = {"step": i + 1, **at_parting(now[name], now["eager"])}
    travel = distance(now["eager"][1], start)
    for name, row in rows.items():
        print(f"{name:<26} losses {row['loss_error']:.1e}, weights after each step "
              + " ".join(f"{x:.1e}" for x in row["weight_errors"]), row.get("parts", ""), flush=True)  # fmt: skip
    print(f"trained by {travel:.4f} of the weights' norm")
    if options.save:
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {"rates": {}}
        known["rates"][str(options.rate)] = {"model": f"all of {MODEL}, Adam", "travel": travel, "courses": rows}
        known["environment"] = msgspec.to_builtins(read_environment())
        RESULT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
