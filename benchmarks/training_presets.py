"""Do the published schemes resolve on full-size architectures, and what would a step of them take?

    python benchmarks/training_presets.py [--save] [PRESET ...]

Weights are random: capture and sizes do not depend on them. LLaMA's lie on PyTorch's device ``meta``, without memory;
its sizes are those of the order that was traced, all others' are planned as the compiler does it. Each step is captured
twice, with the scheme and with all tensors trained. ``--save`` writes docs/results/training-presets.json, where rows of
presets that were not asked for stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
TOKENS = 128

# MCUNet at 5 frames a second: (leaving channels, inner channels, kernel, stride) of each block, read off the training
# graph that its authors published (mit-han-lab/tinyengine, assets/49kb-int8-graph.json, commit fad6a9f).
MCUNET = (
    (8, 16, 3, 1), (16, 32, 3, 2), (16, 48, 3, 1), (24, 48, 7, 2), (24, 120, 3, 1),
    (40, 120, 3, 2), (40, 160, 7, 1), (48, 160, 5, 1), (48, 144, 3, 1), (48, 192, 3, 1),
    (96, 240, 7, 2), (96, 384, 5, 1), (96, 384, 5, 1), (160, 576, 3, 1),
)  # fmt: skip


def mcunet(classes: int):
    import torch
    from torch import nn

    def conv(arriving, leaving, kernel, stride=1, groups=1):
        layer = nn.Conv2d(arriving, leaving, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(leaving))

    class Block(nn.Module):
        def __init__(self, arriving, leaving, inner, kernel, stride):
            super().__init__()
            self.expand = conv(arriving, inner, 1) if inner != arriving else None
            self.depthwise = conv(inner, inner, kernel, stride, inner)
            self.project = conv(inner, leaving, 1)
            self.adds = stride == 1 and arriving == leaving

        def forward(self, x):
            y = x if self.expand is None else nn.functional.relu6(self.expand(x))
            y = self.project(nn.functional.relu6(self.depthwise(y)))
            return x + y if self.adds else y

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, arriving, blocks = conv(3, 16, 3, 2), 16, []
            for leaving, inner, kernel, stride in MCUNET:
                blocks.append(Block(arriving, leaving, inner, kernel, stride))
                arriving = leaving
            self.blocks, self.classifier = nn.Sequential(*blocks), nn.Linear(arriving, classes)

        def forward(self, input):
            features = self.blocks(nn.functional.relu6(self.stem(input)))
            return self.classifier(torch.nn.functional.adaptive_avg_pool2d(features, 1).flatten(1))

    return Net()


def encoder(kind: str):
    """BERT-base, DistilBERT or LLaMA2-7B with a classifier on one token."""
    import torch
    import transformers
    from torch import nn

    class Rotary(nn.Module):
        """The library's own switches gradients off inside, which a captured graph of one piece cannot hold."""

        def __init__(self, width, theta):
            super().__init__()
            self.width, self.theta = width, theta

        def forward(self, x, position_ids):
            powers = torch.arange(0, self.width, 2, dtype=torch.float32) / self.width
            angles = position_ids[..., None].to(torch.float32) * self.theta**-powers
            both = torch.cat([angles, angles], dim=-1)
            return both.cos(), both.sin()

    if kind == "bert":
        from tierwise.tasks import Bert, build_subject

        return build_subject(Bert(size="base", vocabulary=30522, max_length=TOKENS), classes=2)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(attn_implementation="eager")
        whole = transformers.DistilBertModel(config)
    else:
        config = transformers.LlamaConfig(attn_implementation="eager", use_cache=False)  # its defaults are LLaMA2-7B
        whole = transformers.LlamaModel(config)
        whole.rotary_emb = Rotary(
            config.hidden_size // config.num_attention_heads, config.rope_parameters["rope_theta"]
        )

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.head = whole, nn.Linear(config.hidden_size, 2)

        def forward(self, input_ids, attention_mask):
            mask = (attention_mask[:, None, None, :].to(torch.float32) - 1.0) * 64.0
            if kind == "llama":
                length = input_ids.shape[1]
                later = torch.full((length, length), -64.0).triu(1)
                mask = mask + later[None, None]
            states = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
            return self.head(states[:, -1 if kind == "llama" else 0])

    return Classifier()


def subject(preset: str):
    """The module, one batch of inputs by name, and what both are in words."""
    import torch

    from tierwise.tasks import FullSize, MobileNetV2, build_subject

    if preset.startswith("mcunet"):
        return mcunet(10), {"input": torch.zeros(1, 3, 128, 128)}, "MCUNet 5fps, 128x128, batch 1"
    if preset.startswith("mobilenetv2"):
        width, pixels, batch = (1.0, 224, 8) if preset == "mobilenetv2" else (0.35, 128, 1)
        module = build_subject(MobileNetV2(width_frac=width), classes=10)
        return module, {"input": torch.zeros(batch, 3, pixels, pixels)}, f"MobileNetV2-{width}, {pixels}, batch {batch}"
    if preset == "resnet50":
        module = build_subject(FullSize(architecture="resnet50"), classes=10)
        return module, {"input": torch.zeros(8, 3, 224, 224)}, "ResNet-50, 224x224, batch 8"
    ids = torch.zeros(1, TOKENS, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": ids}
    inputs |= {"token_type_ids": ids} if preset == "bert" else {}
    name = {"bert": "BERT-base", "distilbert": "DistilBERT-base", "llama": "LLaMA2-7B"}[preset]
    return encoder(preset), inputs, f"{name}, {TOKENS} tokens, batch 1"


def measure(preset: str) -> dict[str, object]:
    import torch

    from tierwise.artifact import Optimiser
    from tierwise.training import PRESETS, read_scheme
    from tierwise.training.compiler import predict_step, read_model, resolve, settled

    started = time.perf_counter()
    device = "meta" if preset == "llama" else "cpu"
    with torch.device(device):
        module, inputs, words = subject(preset)
        parameters = sum(p.numel() for p in module.parameters())
        two = {name: torch.cat([x, x]) if len(x) < 2 else x for name, x in inputs.items()}
        model = read_model(module.eval(), two)
        batch = (tuple(inputs.values()), torch.zeros(len(next(iter(inputs.values()))), dtype=torch.int64))
        found = {}
        for kind, text in (("scheme", preset), ("full", "full")):
            trained = resolve(read_scheme(text), model)
            found[kind] = (trained, predict_step(model, trained, Optimiser(kind="sgd"), batch))
        scheme = settled(read_scheme(preset), model)
    (trained, sparse), (everything, full) = found["scheme"], found["full"]
    elements = sum(math.prod(one.shape) for one in trained)
    return {
        "preset": preset,
        "subject": words,
        "source": PRESETS[preset].source,
        "numbers_read_at_source": PRESETS[preset].verified,
        "device": device,
        "parameters": parameters,
        "biases_of_last_layers": scheme.biases,
        "weights_of_layers": len(scheme.weights),
        "trained_tensors": len(trained),
        "trained_tensors_full": len(everything),
        "trained_elements": elements,
        "trained_frac": elements / sum(math.prod(one.shape) for one in everything),
        "bytes": sparse.bytes,
        "bytes_full": full.bytes,
        "bytes_ratio": full.bytes / sparse.bytes,
        "macs": sparse.step_macs + sparse.prefix_macs,
        "macs_full": full.step_macs + full.prefix_macs,
        "macs_frac": (sparse.step_macs + sparse.prefix_macs) / (full.step_macs + full.prefix_macs),
        "seconds_to_capture": round(time.perf_counter() - started, 1),
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    from tierwise.training import PRESETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--save", action="store_true", help="write docs/results/training-presets.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.presets[0])))
        return
    rows = []
    for name in options.presets:
        done = subprocess.run([sys.executable, __file__, "--here", name], stdout=subprocess.PIPE, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{name:18} {row['subject']:36} {row['trained_frac']:7.2%} of weights, {row['bytes'] / 1e6:9.2f} MB of "
            f"{row['bytes_full'] / 1e6:9.2f} MB ({row['bytes_ratio']:.1f}x), MACs {row['macs_frac']:.2f}",
            flush=True,
        )
    if options.save:
        import msgspec

        from tierwise.measure import read_environment

        path = RESULTS / "training-presets.json"
        old = json.loads(path.read_text())["rows"] if path.is_file() else []
        known = {row["preset"]: row for row in [*old, *rows]}
        kept = [known[name] for name in PRESETS if name in known]
        result = {"optimiser": "sgd", "rows": kept, "environment": msgspec.to_builtins(read_environment())}
        RESULTS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
