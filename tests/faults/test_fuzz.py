"""The fuzzer's targets without the fuzzer: what is right is read, and what is nearly right is read or refused."""

import warnings

import pytest

from tierwise._errors import InputError

from ..conftest import load_program

FUZZ = load_program("scripts/fuzz_targets.py")


@pytest.mark.parametrize("name", list(FUZZ.TARGETS))
def test_what_a_stranger_sends_is_read_or_refused(name: str) -> None:
    target = FUZZ.TARGETS[name]
    seeds = target.seeds()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Image size")  # of pictures that are refused for it
        for seed in seeds:
            target.try_(seed)
        for content in (b"", b"\0", *FUZZ.mutated(seeds, 800, seed=1)):
            target.try_(content)


def test_a_target_tells_refusals_from_errors() -> None:
    def refuses(_: bytes) -> None:
        raise InputError("it must be right")

    def fails(_: bytes) -> None:
        raise ValueError

    FUZZ.Target(refuses, list).try_(b"")
    with pytest.raises(ValueError, match=r"^$"):
        FUZZ.Target(fails, list).try_(b"")
