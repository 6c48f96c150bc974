"""Speed and size of the codecs, beside CompressAI's coder on the same symbols with the same tables.

    python benchmarks/codecs.py [--rounds 30] [--home FOLDER] [--save]

Latents of 24x55x55 are drawn from the tables they are coded with: discrete Laplace distributions of several widths, one
table for each channel. Everything runs on one core with one thread. In every round all take turns in random order, and
intervals resample rounds. Our times are of whole frames: 32-bit floats to bytes, and bytes to floats. CompressAI comes
from the package index into a virtual environment of its own under ``--home``. Of it only the coder is loaded, a module
in C++ that takes and gives Python lists; it is timed with lists at hand, and from arrays of whole numbers to bytes and
back. Its arithmetic gets the very frequencies of our tables. ``--save`` writes the figures and the environment to
docs/results/codecs.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise.codecs import (
    AffineCodec,
    ChannelTable,
    Codec,
    PriorCodec,
    PriorTables,
    calibrated,
    decode,
    encode,
    read_frame,
    whole_frequencies,
)
from tierwise.measure import Bootstrap, Samples, block, bootstrap, read_environment

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SHAPE = (1, 24, 55, 55)
# (scale of the Laplace distribution, largest whole number in the table)
WIDTHS = ((0.15, 2), (0.25, 3), (0.5, 4), (1.0, 7), (2.0, 15), (4.0, 30))
SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 55)
CALLS = 7
PEER = "compressai==1.2.8"
_PEER = """
import glob, importlib.util, json, os, sys, time
import numpy as np

file, = glob.glob(os.path.join(sys.argv[1], "ans.*.so"))
spec = importlib.util.spec_from_file_location("compressai.ans", file)
ans = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ans)
cases = {}
for path in sys.argv[2:]:
    with np.load(path) as file:
        cases[os.path.basename(path)] = {name: file[name] for name in file.files}

def clocked(call):
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start

for line in sys.stdin:
    name, calls = json.loads(line)
    case = cases[name]
    tables = [row.tolist() for row in (case["cdfs"], case["sizes"], case["lowest"])]
    symbols, channels = case["symbols"].ravel().tolist(), case["channels"].tolist()
    took = {"encode": [], "decode": [], "encode from arrays": [], "decode to arrays": []}
    for _ in range(calls):
        content, seconds = clocked(lambda: ans.RansEncoder().encode_with_indexes(symbols, channels, *tables))
        took["encode"].append(seconds)
        found, seconds = clocked(lambda: ans.RansDecoder().decode_with_indexes(content, channels, *tables))
        took["decode"].append(seconds)
        assert found == symbols
        _, seconds = clocked(lambda: ans.RansEncoder().encode_with_indexes(
            case["symbols"].ravel().tolist(), case["channels"].tolist(), *tables))
        took["encode from arrays"].append(seconds)
        _, seconds = clocked(lambda: np.array(ans.RansDecoder().decode_with_indexes(
            content, case["channels"].tolist(), *tables), np.int32))
        took["decode to arrays"].append(seconds)
    print(json.dumps({"bytes": len(content), "took": took}), flush=True)
"""
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """A latent, and how it is coded."""

    name: str
    codec: Codec
    latent: npt.NDArray[np.float32]


def tables_of(scale: float, reach: int) -> PriorTables:
    """A table for each channel, with medians of their own."""
    shares = np.append(np.exp(-np.abs(np.arange(-reach, reach + 1)) / scale), 1e-4)
    frequencies = whole_frequencies(shares)
    return PriorTables(tuple(ChannelTable(0.25 * i, -reach, frequencies) for i in range(SHAPE[1])))


def drawn(tables: PriorTables, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A latent as the tables say; values outside them are left out."""
    latent = np.empty(shape, np.float32)
    for i, table in enumerate(tables.channels[: shape[1]]):
        shares = np.array(table.frequencies[:-1], np.float64)
        values = table.lowest + rng.choice(len(shares), latent[:, i].shape, p=shares / shares.sum())
        latent[:, i] = values + np.float32(table.median)
    return latent


def ours(case: Case) -> Times:
    """Seconds of some encodings and decodings of a frame."""
    took: Times = {"encode": [], "decode": []}
    for _ in range(CALLS):
        start_s = time.perf_counter()
        frame = encode(case.codec, case.latent)
        encoded_s = time.perf_counter()
        decode(case.codec, frame)
        took["decode"].append(time.perf_counter() - encoded_s)
        took["encode"].append(encoded_s - start_s)
    return took


def install(home: Path) -> str | None:
    """Put CompressAI's wheel, without what only its models need, into an environment; why that failed, or None."""
    python = home / "compressai" / "bin" / "python"
    done = home / "compressai" / "installed"
    if done.exists():
        return None
    home.mkdir(parents=True, exist_ok=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    for command in (
        [sys.executable, "-m", "venv", str(python.parents[1])],
        [*pip, "numpy<2"],
        [*pip, "--no-deps", PEER],
    ):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else "pip said nothing"
    done.touch()
    return None


def write_case(case: Case, folder: Path) -> Path:
    """Symbols and tables as the peer takes them."""
    assert isinstance(case.codec, PriorCodec)
    tables = case.codec.tables.channels
    medians = np.array([table.median for table in tables], np.float32).reshape(-1, 1, 1)
    symbols = np.rint(case.latent - medians).astype(np.int32)
    sums = [np.concatenate([[0], np.cumsum(table.frequencies)]) for table in tables]
    path = folder / f"{case.name}.npz"
    with path.open("wb") as file:
        np.savez(
            file,
            symbols=symbols,
            channels=np.repeat(np.arange(len(tables), dtype=np.int32), symbols[0, 0].size),
            cdfs=np.array(sums, np.int32),
            sizes=np.array([len(one) for one in sums], np.int32),
            lowest=np.array([table.lowest for table in tables], np.int32),
        )
    return path


@contextlib.contextmanager
def peer(home: Path, cases: Sequence[Case]) -> Iterator[Callable[[Case], dict[str, Any]]]:
    """What asks CompressAI's coder, in a process of its own, for the bytes and the times of a case."""
    environment = home / "compressai"
    package = environment / "lib" / f"python3.{sys.version_info[1]}" / "site-packages" / "compressai"
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        files = [str(write_case(case, Path(folder))) for case in cases]
        command = [str(environment / "bin" / "python"), "-c", _PEER, str(package), *files]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            answers, questions = process.stdout, process.stdin

            def ask(case: Case) -> dict[str, Any]:
                questions.write(json.dumps([f"{case.name}.npz", CALLS]) + "\n")
                questions.flush()
                return dict(json.loads(answers.readline()))

            yield ask
            questions.close()


def measured(
    cases: Sequence[Case], ask: Callable[[Case], dict[str, Any]] | None, rounds: int
) -> tuple[dict[str, Bootstrap], dict[str, int]]:
    """Times of every case, and the peer's bytes."""
    took: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    sizes: dict[str, int] = {}
    rng = random.Random(0)
    for number in range(-1, rounds):  # the first round warms up
        turns = [(case, who) for case in cases for who in ("tierwise", "compressai")]
        rng.shuffle(turns)
        for case, who in turns:
            if who == "tierwise":
                times = ours(case)
            elif ask is not None and isinstance(case.codec, PriorCodec):
                answer = ask(case)
                times, sizes[case.name] = answer["took"], answer["bytes"]
            else:
                continue
            if number >= 0:
                for ends in (("encode", "decode"), ("encode from arrays", "decode to arrays")):
                    if ends[0] in times:
                        both = [sum(pair) for pair in zip(*(times[end] for end in ends), strict=True)]
                        label = "both" if ends[0] == "encode" else "both, arrays"
                        times = {**times, label: both}
                for what, values in times.items():
                    took[case.name][f"{who} {what}"] += values
    return {name: _intervals(one, rounds) for name, one in took.items()}, sizes


def _intervals(took: dict[str, list[float]], rounds: int) -> Bootstrap:
    of_round = np.repeat(np.arange(rounds), CALLS)
    return bootstrap(block({name: Samples(np.array(values), of_round) for name, values in took.items()}))


def speed_row(case: Case, times: Bootstrap, peer_bytes: int | None) -> dict[str, Any]:
    """The figures of one case."""
    frame = encode(case.codec, case.latent)
    payload = len(read_frame(frame).payload)
    row: dict[str, Any] = {"case": case.name, "frame_bytes": len(frame), "payload_bytes": payload}
    if isinstance(case.codec, PriorCodec):
        row["table_bytes"] = case.codec.tables.bits(case.latent) / 8
        row["bits_per_value"] = 8 * row["table_bytes"] / case.latent.size
    if peer_bytes is not None:
        row["compressai_bytes"] = peer_bytes
    row["seconds"] = {name: msgspec.to_builtins(times.quantile(name)) for name in times.names}
    if "compressai both" in times.names:
        pairs = (("encode", "encode"), ("decode", "decode"), ("both", "both"))
        arrays = (("encode", "encode from arrays"), ("decode", "decode to arrays"), ("both", "both, arrays"))
        row["compressai_over_tierwise"] = {
            theirs: msgspec.to_builtins(times.ratio(f"compressai {theirs}", f"tierwise {mine}"))
            for mine, theirs in pairs + arrays
        }
    return row


def rate_rows(draws: int = 20) -> list[dict[str, Any]]:
    """What payloads of all sizes take beyond what the tables say, in the mean and at most, in bytes."""
    rows, rng = [], np.random.default_rng(1)
    for scale, reach in WIDTHS:
        tables = tables_of(scale, reach)
        codec = PriorCodec(tables)
        for side in SIDES:
            seen = []
            for _ in range(draws):
                latent = drawn(tables, (1, SHAPE[1], side, side), rng)
                frame = encode(codec, latent)
                payload = len(read_frame(frame).payload)
                seen.append((tables.bits(latent) / 8, payload, len(frame) - payload))
            table, payload, around = (np.array(values) for values in zip(*seen, strict=True))
            rows.append(
                {
                    "scale": scale,
                    "values": SHAPE[1] * side * side,
                    "table_bytes": float(table.mean()),
                    "payload_bytes": float(payload.mean()),
                    "over_bytes_most": float((payload - table).max()),
                    "over_frac_most": float(((payload - table) / table).max()),
                    "frame_adds_bytes": int(around.max()),
                }
            )
    return rows


def step_rows(symbols: int = 18_000, runs: int = 41) -> list[dict[str, Any]]:
    """Median seconds of the library for one symbol of tables of several sizes: both its coders, called directly."""
    import constriction

    rows, rng = [], np.random.default_rng(2)
    queue, stack = constriction.stream.queue, constriction.stream.stack
    for entries in (2, 16, 256, 4096):
        model = constriction.stream.model.Categorical(np.full(entries, 1 / entries), perfect=False)
        drawn_symbols = rng.integers(0, entries, symbols, np.int32)
        took = defaultdict(list)
        for _ in range(runs):
            stamps_s = [time.perf_counter()]
            ranged = queue.RangeEncoder()
            ranged.encode(drawn_symbols, model)
            ranged_words = ranged.get_compressed()
            stamps_s.append(time.perf_counter())
            queue.RangeDecoder(ranged_words).decode(model, symbols)
            stamps_s.append(time.perf_counter())
            stacked = stack.AnsCoder()
            stacked.encode_reverse(drawn_symbols, model)
            stacked_words = stacked.get_compressed()
            stamps_s.append(time.perf_counter())
            stack.AnsCoder(stacked_words).decode(model, symbols)
            stamps_s.append(time.perf_counter())
            names = ("range encode", "range decode", "ans encode", "ans decode")
            for name, seconds in zip(names, np.diff(stamps_s), strict=True):
                took[name].append(float(seconds) / symbols)
        rows.append({"entries": entries, "seconds": {name: float(np.median(one)) for name, one in took.items()}})
    return rows


def print_table(content: dict[str, Any]) -> None:
    """What a person reads."""
    print("24x55x55: ms to encode, to decode, both [interval]; bytes; CompressAI's coder with lists, with arrays")
    for row in content["speed"]:
        seconds = row["seconds"]
        both = seconds["tierwise both"]
        line = f"{row['case']:<12}" + "".join(f"{1e3 * seconds['tierwise ' + end]['value']:7.2f}" for end in ENDS)
        line += f" [{1e3 * both['low']:.2f}, {1e3 * both['high']:.2f}]{row['frame_bytes']:8}"
        if "compressai_bytes" in row:
            line += f"   {row['compressai_bytes']} B, slower by " + ", ".join(
                f"{row['compressai_over_tierwise'][key]['value']:.2f}" for key in ("both", "both, arrays")
            )
        print(line)
    for row in content["library_step"]:
        steps = ", ".join(f"{name} {1e9 * value:.1f}" for name, value in row["seconds"].items())
        print(f"the library's step with {row['entries']} entries, ns: {steps}")
    large = [row for row in content["rate"] if row["table_bytes"] > 1000]
    print(f"over the tables above 1 kB: at most {100 * max(row['over_frac_most'] for row in large):.3f} %")
    print(f"at any size: at most {max(row['over_bytes_most'] for row in content['rate']):.2f} bytes")


ENDS = ("encode", "decode", "both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "tierwise-peers")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    missing = install(arguments.home)
    if missing is not None:
        print(f"CompressAI is left out: {missing}")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the peer inherits it
    environment, rng = read_environment(), np.random.default_rng(0)
    cases = []
    for scale, reach in WIDTHS:
        tables = tables_of(scale, reach)
        cases.append(Case(f"prior {scale:g}", PriorCodec(tables, "constriction"), drawn(tables, SHAPE, rng)))
    latent = rng.normal(0, 3, SHAPE).astype(np.float32)
    cases += [Case(f"int{bits}", AffineCodec(calibrated(latent, bits)), latent) for bits in range(2, 9)]
    with contextlib.ExitStack() as stack:
        priors = [case for case in cases if isinstance(case.codec, PriorCodec)]
        ask = stack.enter_context(peer(arguments.home, priors)) if missing is None else None
        times, sizes = measured(cases, ask, arguments.rounds)
    content = {
        "command": f"python benchmarks/codecs.py --rounds {arguments.rounds} --save",
        "shape": SHAPE,
        "speed": [speed_row(case, times[case.name], sizes.get(case.name)) for case in cases],
        "library_step": step_rows(),
        "rate": rate_rows(),
        "peer": PEER if missing is None else f"left out: {missing}",
        "constriction": importlib.metadata.version("constriction"),
        "environment": msgspec.to_builtins(environment),
    }
    print_table(content)
    if arguments.save:
        (RESULTS / "codecs.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
