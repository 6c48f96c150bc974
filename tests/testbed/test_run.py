"""Names tell whose they are, and only what nobody owns any more is swept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tierwise.testbed._run import new_run_name, owner_lives, run_folder, sweep_folders


def name_of_a_dead_run() -> str:
    code = "from tierwise.testbed._run import new_run_name; print(new_run_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_this_run_lives_and_an_ended_one_does_not() -> None:
    name = new_run_name()
    assert owner_lives(name) is True
    assert new_run_name() != name
    assert owner_lives(name_of_a_dead_run()) is False


def test_a_reused_process_id_is_not_mistaken_for_the_owner() -> None:
    first, namespace, pid, start, rest = new_run_name().split("-")
    assert owner_lives("-".join((first, namespace, pid, str(int(start) - 1), rest))) is False


@pytest.mark.parametrize("name", ["tierwise-1-2-3-abcdef01", "tierwise-artifacts", "tierwise", "other-4-5-6-abcdef01"])
def test_what_another_pid_namespace_or_program_owns_is_not_judged(name: str) -> None:
    assert owner_lives(name) is None


def test_only_folders_of_dead_runs_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierwise.testbed._run._home", lambda: tmp_path)
    dead = tmp_path / name_of_a_dead_run()
    (dead / "sub").mkdir(parents=True)
    kept = [tmp_path / name for name in (new_run_name(), "tierwise-1-2-3-abcdef01", "tierwise-notes")]
    for folder in kept:
        folder.mkdir()
    assert sweep_folders() == [dead]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_run_folder_is_private_short_and_removed() -> None:
    with run_folder(new_run_name()) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.getuid()
        assert len(str(folder / ("x" * 32 + ".sock"))) < 108
    assert not folder.exists()
