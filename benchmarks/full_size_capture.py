"""Do full-size models build, export, and cut? Time and memory of each step, one model a process.

    python benchmarks/full_size_capture.py [--save] [MODEL ...]

Weights are random: nothing here depends on them. ``--save`` writes the figures and the environment to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

MODELS = ("wide_resnet101_2", "resnext101_64x4d", "bert-base", "roberta-base")
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
TOKENS = 128


def build(name: str):
    """The module and an example of its inputs."""
    import torch

    from tierwise.tasks import Bert, FullSize, Roberta, build_subject

    torch.manual_seed(0)
    if name.endswith("-base"):
        kind, words = (Roberta, 50265) if name.startswith("roberta") else (Bert, 30522)
        module = build_subject(kind(size="base", vocabulary=words, max_length=TOKENS), classes=2)
        ids = torch.randint(5, words, (2, TOKENS))
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return module, text | ({} if kind is Roberta else {"token_type_ids": torch.zeros_like(ids)})
    return build_subject(FullSize(architecture=name), classes=1000), {"input": torch.randn(2, 3, 224, 224)}


def measure(name: str) -> dict[str, object]:
    """All steps for one model, in this process."""
    from tierwise.capture import composition_error, cut_points, export, read_graph, split

    figures: dict[str, object] = {"model": name}

    def timed(step, function, *arguments):
        started = time.perf_counter()
        result = function(*arguments)
        figures[f"{step}_s"] = round(time.perf_counter() - started, 2)
        return result

    module, example = timed("build", build, name)
    model = timed("export", export, module.eval(), example, ["logits"])
    del module
    graph = timed("read", read_graph, model)
    cuts = timed("cuts", cut_points, graph)
    middle = min(cuts, key=lambda cut: abs(cut.head_macs - cut.tail_macs))
    parts = timed("split", split, model, middle)
    feeds = {key: tensor[:1].numpy() for key, tensor in example.items()}
    error = timed("check", composition_error, model, parts, feeds)
    figures |= {
        "nodes": len(graph.nodes),
        "giga_macs": round(graph.macs / 1e9, 2),
        "megabytes": round(model.ByteSize() / 1e6, 1),
        "cuts": len(cuts),
        "middle_cut": middle.label,
        "middle_bytes": middle.bytes,
        "carried": [tensor.name for tensor in middle.carried],
        "composition_error": error,
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    return figures


COLUMNS = (
    "model", "megabytes", "giga_macs", "nodes", "cuts", "build_s", "export_s", "read_s", "cuts_s", "split_s", "check_s",
    "composition_error", "peak_gigabytes", "middle_cut", "carried",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--save", action="store_true", help="write docs/results/full-size-capture.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.models[0])))
        return
    rows = []
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name in options.models:
        # Its own process: peak memory is a figure of the process.
        done = subprocess.run([sys.executable, __file__, "--here", name], stdout=subprocess.PIPE, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("| " + " | ".join(str(rows[-1][column]) for column in COLUMNS) + " |", flush=True)
    if options.save:
        import msgspec

        from tierwise.measure import read_environment

        RESULTS.mkdir(parents=True, exist_ok=True)
        result = {"rows": rows, "environment": msgspec.to_builtins(read_environment())}
        (RESULTS / "full-size-capture.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
