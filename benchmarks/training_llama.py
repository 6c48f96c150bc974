"""Tokens a second of low-rank and sparse fine-tuning of a LLaMA-style decoder: compiled, on ONNX Runtime, and PyTorch.

    python benchmarks/training_llama.py [--rounds 15] [--steps 300] [--seeds 3] [--artifacts FOLDER]
                                        [--only trained|larger] [--save]

Reads from $TIERWISE_DATA: weights_aidreams260k (a trained decoder of 260 thousand weights) and tinyshakespeare, whose
language it does not know. One thread, denormals flushed in all. Quality: every way takes the same number of steps on
the same items, for several orders of them; then the loss on the last tenth of the text, which nobody learns from.
Speed: in every round each way takes its steps in random order, so that a machine that changes its pace hits all alike;
CPU time, medians, ratios with BCa bootstrap intervals over the rounds. The larger decoder has random weights, which do
not decide how long a step takes. Eager low-rank training keeps what it always keeps; its attention is tried written
out and as PyTorch's fused operator, both are shown. ``--save`` writes figures and environment to docs/results/.
"""

from __future__ import annotations

import argparse
import copy
import json
import lzma
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from llama_files import Tokens, read_checkpoint
from torch import nn

from tierwise._seeds import stream
from tierwise.artifact import Optimiser, TensorInput, TensorSpec, open_artifact
from tierwise.measure import Samples, block, bootstrap, read_environment
from tierwise.tasks import Llama, build_decoder
from tierwise.training import Feed, LoRA, Scheme, TrainingSession, next_tokens
from tierwise.training.compiler import Lesson, compile_training

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "training-llama.json"
RANK, RATE, BATCH = 8, 3e-3, 4
LARGER_RATE = 3e-4  # at the other, Adam makes steps of rounding: 1.2e-5 from PyTorch, and refused
ADAPTED = ("query", "key", "value", "out", "gate", "up", "down")
LARGER = Llama(layers=6, hidden=288, heads=6, kv_heads=2, inner=768, vocabulary=512, length=128)
Step = Callable[[np.ndarray, np.ndarray], float]


class Adapted(nn.Module):
    """A linear layer with an adapter, in eager PyTorch, with the values that the compiler begins with."""

    def __init__(self, name: str, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        values = stream(0, "lora", name).standard_normal((RANK, linear.in_features)) * linear.in_features**-0.5
        self.a = nn.Parameter(torch.from_numpy(values).float())
        self.b = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer, with what the adapter adds."""
        return self.linear(x) + nn.functional.linear(nn.functional.linear(x, self.a), self.b)


def fused(attention: Any) -> None:
    """Let an attention use PyTorch's fused operator."""
    from tierwise.tasks._llama import _rotated

    def forward(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, t, hidden = x.shape
        width = attention._width
        query, key, value = (
            layer(x).view(n, t, -1, width).transpose(1, 2)
            for layer in (attention.query, attention.key, attention.value)
        )
        query, key = _rotated(query, cosine, sine), _rotated(key, cosine, sine)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return attention.out(mixed.transpose(1, 2).reshape(n, t, hidden))

    attention.forward = forward


class Eager:
    """Fine-tuning as one writes it in PyTorch."""

    def __init__(self, model: nn.Module, how: str, *, fuse: bool) -> None:
        self.model = copy.deepcopy(model)
        for parameter in self.model.parameters():
            parameter.requires_grad_(how == "full")
        if how == "lora":
            for name, part in list(self.model.named_modules()):
                if name.rpartition(".")[2] in ADAPTED:
                    owner = self.model.get_submodule(name.rpartition(".")[0])
                    setattr(owner, name.rpartition(".")[2], Adapted(name, part))
        if fuse:
            for one in self.model.blocks:
                fused(one.attention)
        self.update = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=RATE)

    def step(self, rows: np.ndarray, labels: np.ndarray) -> float:
        """One step; the loss before it."""
        logits = self.model(torch.from_numpy(rows))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).flatten())
        self.update.zero_grad(set_to_none=True)
        loss.backward()
        self.update.step()
        return float(loss.detach())

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Logits."""
        with torch.no_grad():
            return self.model(torch.from_numpy(rows)).numpy()


class Compiled:
    """The artifact, as a node runs it."""

    def __init__(self, model: nn.Module, spec: Llama, scheme: Scheme, batch: int, folder: Path) -> None:
        rate = LARGER_RATE if spec == LARGER else RATE
        rng = np.random.default_rng(0)
        batches = []
        for _ in range(2):
            rows = rng.integers(0, spec.vocabulary, (batch, spec.length + 1))
            batches.append(({"tokens": rows[:, :-1].copy()}, rows[:, 1:].copy()))
        tensors = (TensorSpec(name="tokens", dtype="INT64", shape=(-1, spec.length)),)
        lesson = Lesson("llama", TensorInput(tensors=tensors), (), {}, batches, "llama")
        if not folder.exists():
            compile_training(model, lesson, scheme, Optimiser(kind="adam", rate=rate), folder)
        self.session = TrainingSession(open_artifact(folder))

    def step(self, rows: np.ndarray, labels: np.ndarray) -> float:
        """One step; the loss before it."""
        return self.session.step({"tokens": rows}, labels)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Logits."""
        return self.session.predict({"tokens": rows})


def schemes(spec: Llama) -> dict[str, Scheme]:
    """Three ways to train little.

    Adapters on all linear layers of all blocks; on those of the last half; attention and first feed-forward layers of
    the last sixth of the blocks, at least one, which is the share of PockEngine's scheme (arXiv 2310.17752).
    """
    half = range(spec.layers // 2, spec.layers)
    last = range(spec.layers - max(1, round(spec.layers / 6)), spec.layers)
    first = ("attention.query", "attention.key", "attention.value", "attention.out", "feed.gate", "feed.up")
    return {
        "compiled LoRA": Scheme(lora={"blocks.*": LoRA(rank=RANK)}),
        "compiled LoRA, last half": Scheme(lora={f"blocks.{i}.*": LoRA(rank=RANK) for i in half}),
        "compiled sparse": Scheme(biases="all", weights={f"blocks.{i}.{name}": 1.0 for i in last for name in first}),
    }


def ways(model: nn.Module, spec: Llama, batch: int, folder: Path) -> dict[str, Callable[[], Any]]:
    made: dict[str, Callable[[], Any]] = {
        "eager full": lambda: Eager(model, "full", fuse=True),
        "eager LoRA": lambda: Eager(model, "lora", fuse=False),
        "eager LoRA, fused attention": lambda: Eager(model, "lora", fuse=True),
    }
    for i, (name, scheme) in enumerate(schemes(spec).items()):
        place = folder / f"{spec.hidden}-{batch}-{i}"
        compiled, start = Compiled(model, spec, scheme, batch, place), place.with_suffix(".state")
        compiled.session.save(start)

        def fresh(compiled: Compiled = compiled, start: Path = start) -> Compiled:
            compiled.session.resume(start)
            return compiled

        made[name] = fresh
    return made


def held_out(way: Any, rows: np.ndarray, labels: np.ndarray) -> float:
    """Mean loss of a next token."""
    total = 0.0
    for i in range(0, len(rows), 16):
        logits = torch.from_numpy(way.predict(rows[i : i + 16])).flatten(0, 1)
        total += float(
            nn.functional.cross_entropy(logits, torch.from_numpy(labels[i : i + 16]).flatten(), reduction="sum")
        )
    return total / int((labels >= 0).sum())


def quality(
    made: dict[str, Callable[[], Any]], tokens: np.ndarray, length: int, steps: int, seeds: int
) -> dict[str, Any]:
    cut = int(0.9 * len(tokens))
    rows, labels = next_tokens(tokens[:cut], length)
    test_rows, test_labels = (part[:128] for part in next_tokens(tokens[cut:], length))
    found: dict[str, Any] = {"before": held_out(next(iter(made.values()))(), test_rows, test_labels)}
    for name, begin in made.items():
        losses = []
        for seed in range(seeds):
            way, feed = begin(), Feed(len(rows), BATCH, seed)
            for i in range(steps):
                chosen = feed.indices(i)
                way.step(rows[chosen], labels[chosen])
            losses.append(held_out(way, test_rows, test_labels))
        found[name] = losses
        print(f"  {name:<30}held-out loss {np.mean(losses):.4f}  {[round(x, 4) for x in losses]}", flush=True)
    return found


def speed(
    made: dict[str, Callable[[], Any]], spec: Llama, batch: int, rounds: int, tokens: np.ndarray
) -> dict[str, Any]:
    rows, labels = next_tokens(tokens[: batch * spec.length + 1], spec.length)
    ready = {name: begin() for name, begin in made.items()}
    seen: dict[str, list[float]] = {name: [] for name in ready}
    order, shuffled = list(ready), random.Random(0)
    for i in range(rounds + 2):
        shuffled.shuffle(order)
        for name in order:
            started_s = time.process_time()
            for _ in range(3):
                ready[name].step(rows, labels)
            if i >= 2:
                seen[name].append((time.process_time() - started_s) / 3)
    at = np.arange(rounds)
    drawn = bootstrap(blocked=block({name: Samples(np.array(took), at) for name, took in seen.items()}), p=0.5)
    figures: dict[str, Any] = {}
    for name, took in seen.items():
        median_s = float(np.median(took))
        ratios = {other: drawn.ratio(other, name) for other in seen if other.startswith("eager") and other != name}
        figures[name] = {
            "median_cpu_s": median_s,
            "tokens_per_s": batch * spec.length / median_s,
            "times_faster_than": msgspec.to_builtins(ratios),
            "steps_cpu_s": took,
        }
        against = ratios.get("eager LoRA, fused attention")
        shown = f"{against.value:.2f} [{against.low:.2f}, {against.high:.2f}]" if against else ""
        print(
            f"  {name:<30}{batch * spec.length / median_s:>9.0f} tokens/s {1e3 * median_s:>8.1f} ms  {shown}",
            flush=True,
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--artifacts", type=Path, help="Compiled here, once; default: anew, in a temporary folder.")
    parser.add_argument("--only", choices=["trained", "larger"], help="One of the two; figures of the other are kept.")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    root, environment = Path(os.environ["TIERWISE_DATA"]), read_environment()
    trained = root / "weights_aidreams260k" / "data"
    spec, model = read_checkpoint(trained / "aidreams260K.bin")
    text = lzma.decompress((root / "tinyshakespeare" / "input.txt.xz").read_bytes()).decode()
    tokens = Tokens(trained / "tok512.bin")(text)
    torch.manual_seed(0)
    larger = build_decoder(LARGER)
    content: dict[str, Any] = {
        "command": f"python benchmarks/training_llama.py --rounds {arguments.rounds} --steps {arguments.steps} "
        f"--seeds {arguments.seeds} --save",
        "rank": RANK, "rate": RATE, "steps": arguments.steps, "batch_of_quality": BATCH, "speed": {},
        "trained": msgspec.to_builtins(spec), "larger": msgspec.to_builtins(LARGER),
        "environment": msgspec.to_builtins(environment),
    }  # fmt: skip
    if arguments.only and RESULT.exists():
        content.update({key: json.loads(RESULT.read_text())[key] for key in ("speed", "quality")})
    with tempfile.TemporaryDirectory(prefix="tierwise-llama-") as name:
        for title, one, net, batch in (
            ("trained, batch 4", spec, model, 4),
            ("larger, batch 1", LARGER, larger, 1),
        ):
            if arguments.only and not title.startswith(arguments.only):
                continue
            print(title, flush=True)
            made = ways(net, one, batch, arguments.artifacts or Path(name))
            content["speed"][title] = speed(made, one, batch, arguments.rounds, tokens)
            if title == f"trained, batch {BATCH}" and arguments.seeds:
                content["quality"] = quality(made, tokens, one.length, arguments.steps, arguments.seeds)
            if arguments.save:
                RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
