"""The command line as a person meets it: real processes, exit codes, one line per error."""

import subprocess
import sys

import pytest


def tierwise(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tierwise", *words], capture_output=True, text=True, timeout=timeout, check=False
    )


def test_help_of_everything_has_examples() -> None:
    top = tierwise("--help")
    assert top.returncode == 0
    assert "tierwise study run digits" in top.stdout
    for name in ["doctor", "infer", "node", "study", "tasks", "topologies"]:
        assert name in top.stdout
    for words in [
        ("infer",),
        ("node",),
        ("study", "build"),
        ("study", "run"),
        ("study", "report"),
        ("study", "export"),
        ("topologies",),
    ]:
        text = tierwise(*words, "--help").stdout
        assert "Example" in text or "In a campaign file" in text, words


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nodes",), 2, "No such command 'nodes'"),
        (("node", "--pace", "3"), 2, "'--pace'"),
        (("node", "--listen", "nowhere"), 2, "neither HOST:PORT nor unix:PATH"),
        (("node", "--listen", "256.0.0.1:1"), 3, "256.0.0.1:1"),
        (("topologies", "nope"), 2, "lan, paper, wifi-lte"),
        (("topologies", "--show", "nope"), 2, "lan, paper, wifi-lte"),
        (("infer", "m"), 2, "either a FILE or --text"),
        (("infer", "m", "--text", "x", "--node", "127.0.0.1:9"), 5, "127.0.0.1:9"),
        (("study", "run", "nope"), 2, "nope"),
        (("study", "build", "nope"), 2, "nope"),
        (("study", "report", "/nowhere"), 6, "/nowhere"),
        (("study", "export", "/nowhere", "--out", "/nowhere/figures"), 6, "/nowhere"),
    ],
)
def test_errors_are_one_line_with_the_right_code(words: tuple[str, ...], code: int, said: str) -> None:
    done = tierwise(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback_anywhere_on_the_line() -> None:
    done = tierwise("topologies", "nope", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_preset_shown_is_a_file_that_works(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tierwise("topologies", "--show", "wifi-lte").stdout)
    assert tierwise("topologies", str(path)).stdout == tierwise("topologies", "wifi-lte").stdout


def test_the_lists() -> None:
    assert {line.split()[0] for line in tierwise("tasks").stdout.splitlines() if line} >= {"digits", "mrpc", "sst2"}
    assert tierwise("--version").stdout.startswith("tierwise, version ")


def test_the_doctor_names_every_means_and_how_to_get_it() -> None:
    done = tierwise("doctor")
    assert done.returncode == 0
    for word in ["cgroup", "netem", "TUN", "namespaces", "browser", "RAPL"]:
        assert word.lower() in done.stdout.lower(), word
