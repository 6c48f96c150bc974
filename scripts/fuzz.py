"""Coverage-guided fuzzing of what reads a stranger's bytes (needs atheris, which the extra ``dev`` brings on Linux).

    python scripts/fuzz.py [--target NAME]... [--seconds 180] [--corpus DIR] [--save]
    python scripts/fuzz.py --target NAME --replay FILE

Each target of `fuzz_targets.TARGETS` runs in a process of its own until the time is over or something is found:
anything but a return or a Tierwise error, an input that takes longer than 5 s, or a process that wants more than
1.5 GB. What was found is written beside the corpus as ``NAME-crash-...`` (or ``oom``, ``timeout``). Only Python code is
counted as coverage; what is written in C (msgspec, Pillow, protobuf) is run, but does not guide the search.
``--save`` writes docs/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
MOST_BYTES, LONGEST_S, LONGEST_INPUT_BYTES = 1536 << 20, 5, 40_000
_DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+)", re.MULTILINE)
_RUNS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+)", re.MULTILINE)


def child(name: str, corpus: str, seconds: int) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["tierwise"]):
        from fuzz_targets import TARGETS
    target = TARGETS[name]
    for i, seed in enumerate(target.seeds()):
        Path(corpus, f"seed-{i}").write_bytes(seed)
    be_strict()
    limits = [f"-max_total_time={seconds}", f"-timeout={LONGEST_S}", f"-max_len={LONGEST_INPUT_BYTES}"]
    kept = [f"-artifact_prefix={corpus}/../{name}-", f"-rss_limit_mb={MOST_BYTES >> 20}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], corpus, *limits, *kept], target.try_)
    atheris.Fuzz()


def be_strict() -> None:
    """Bound what this process may do without a word."""
    # A computation that left the numbers is wrong tables or a wrong frame that nobody refused.
    warnings.filterwarnings("error", category=RuntimeWarning, module="tierwise|numpy")
    # Memory that is asked for and not touched counts too: a frame shall not be able to ask for it.
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))


def fuzz(name: str, folder: Path, seconds: int) -> dict[str, Any]:
    """What came of one target."""
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob(f"{name}-*"))
    command = [sys.executable, __file__, "--child", name, "--corpus", str(corpus), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + 120, check=False)
    found = sorted(path.name for path in {*folder.glob(f"{name}-*")} - before)
    last = _DONE.findall(done.stderr) or _RUNS.findall(done.stderr)
    figures: dict[str, Any] = {"seconds": seconds, "found": found, "exit": done.returncode}
    if last:
        figures |= {"inputs": int(last[-1][0]), "coverage_edges": int(last[-1][1])}
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
    return figures


def replay(name: str, path: Path) -> None:
    """Read one file as the target does; its error, if any, is seen."""
    from fuzz_targets import TARGETS

    be_strict()
    TARGETS[name].try_(path.read_bytes())
    print(f"{name}: {path} is read or refused")


def main() -> None:
    """Parse, fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="Name; several times for several; all where none is given.")
    parser.add_argument("--seconds", type=int, default=180, help="For each target.")
    parser.add_argument("--corpus", type=Path, help="Folder to keep inputs that reached new code [default: temporary].")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="Read this one file and stop.")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, str(arguments.corpus), arguments.seconds)
    from fuzz_targets import TARGETS

    wanted = arguments.target or list(TARGETS)
    if set(wanted) - set(TARGETS):
        parser.error(f"--target must be one of {', '.join(TARGETS)}")
    if arguments.replay:
        return replay(wanted[0], arguments.replay)
    path = RESULTS / "fuzz.json"
    stored: dict[str, Any] = json.loads(path.read_text())["targets"] if arguments.save and path.exists() else {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="tierwise-fuzz-") as temporary:
        for name in wanted:
            stored[name] = fuzz(name, arguments.corpus or Path(temporary), arguments.seconds)
            failed |= stored[name]["exit"] != 0
            print(name, json.dumps(stored[name]), flush=True)
    if arguments.save:
        save(path, stored)
    if failed:
        raise SystemExit("something was found: see above; read it again with --replay")
    return None


def save(path: Path, targets: dict[str, Any]) -> None:
    """The figures with the machine they were made on."""
    import msgspec

    from tierwise.measure import read_environment

    limits = {"memory_bytes": MOST_BYTES, "input_s": LONGEST_S, "input_bytes": LONGEST_INPUT_BYTES}
    content = {"limits": limits, "targets": targets, "environment": msgspec.to_builtins(read_environment())}
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
