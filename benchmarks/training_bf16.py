"""What bfloat16 spares a training step on this CPU: CPU time in float32 over CPU time under bfloat16 autocast.

    python benchmarks/training_bf16.py [--rounds 15] [--save]

One thread. In every round both precisions take one step each, as the training loop does (loss, gradient, clipping,
AdamW), in random order, so that a machine that changes its pace hits both alike; ratios of medians with BCa bootstrap
intervals over the rounds. Weights and inputs are random: neither decides how long it takes. ``--save`` writes the
figures and the environment to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from tierwise.measure import Samples, block, bootstrap, read_environment
from tierwise.tasks import Bert, ResNet, Subject, build_subject
from tierwise.tasks._training import bfloat16_is_fast, cross_entropy, threads_set

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SUBJECTS: dict[str, tuple[Subject, int, int]] = {
    # What is trained, pixels or tokens, items a step.
    "ResNet-8, width 16, 28x28, batch 128": (ResNet(depth=8, width=16), 28, 128),
    "ResNet-20, width 64, 28x28, batch 64": (ResNet(depth=20, width=64), 28, 64),
    "BERT 2x128, 64 tokens, batch 64": (Bert(), 64, 64),
    "BERT 6x384, 128 tokens, batch 16": (
        Bert(layers=6, hidden=384, head_width=32, vocabulary=30_522, max_length=128),
        128,
        16,
    ),
}


def inputs(subject: Subject, size: int, items: int) -> dict[str, torch.Tensor]:
    if isinstance(subject, Bert):
        ids = torch.randint(0, subject.vocabulary, (items, size))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {"input": torch.randn(items, 1, size, size)}


def step_s(
    net: nn.Module,
    batch: dict[str, torch.Tensor],
    labels: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    bfloat16: bool,
) -> float:
    """CPU seconds of one step."""
    started_s = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        loss = cross_entropy(net, batch, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    return time.process_time() - started_s


def measure(subject: Subject, size: int, items: int, rounds: int) -> dict[str, list[float]]:
    torch.manual_seed(0)
    net = build_subject(subject, classes=2, channels=1).train()
    if not isinstance(subject, Bert):
        net = net.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5)
    batch, labels = inputs(subject, size, items), torch.randint(0, 2, (items,))
    seen: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    order, shuffled = list(seen), random.Random(0)
    for i in range(rounds + 2):
        shuffled.shuffle(order)
        for name in order:
            took_s = step_s(net, batch, labels, optimiser, name == "bfloat16")
            if i >= 2:
                seen[name].append(took_s)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    environment, figures = read_environment(), {}
    print(f"bfloat16 in hardware, as `precision = auto` sees it: {bfloat16_is_fast()}")
    print(f"{arguments.rounds} rounds; CPU ms of a step, and how many times less with bfloat16 [95 % interval]")
    with threads_set(1):
        for name, (subject, size, items) in SUBJECTS.items():
            seen = measure(subject, size, items, arguments.rounds)
            rounds = np.arange(arguments.rounds)
            blocks = block({key: Samples(np.array(took), rounds) for key, took in seen.items()})
            ratio = bootstrap(blocked=blocks, p=0.5).ratio("float32", "bfloat16")
            medians = {key: float(np.median(took)) for key, took in seen.items()}
            print(
                f"{name:<40}{1e3 * medians['float32']:>8.0f}{1e3 * medians['bfloat16']:>8.0f}"
                f"   {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            )
            figures[name] = {"median_cpu_s": medians, "ratio": msgspec.to_builtins(ratio), "steps_cpu_s": seen}
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        content = {
            "command": "python benchmarks/training_bf16.py --save",
            "rounds": arguments.rounds,
            "bfloat16_in_hardware": bfloat16_is_fast(),
            "figures": figures,
            "environment": msgspec.to_builtins(environment),
        }
        (RESULTS / "training-bf16.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
