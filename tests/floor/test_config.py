from pathlib import Path

import pytest

from tierwise._config import Spec, convert, load_toml, loads_toml
from tierwise._errors import SpecError


class Inner(Spec, frozen=True, kw_only=True):
    cpus: float


class Outer(Spec, frozen=True, kw_only=True):
    name: str
    tiers: tuple[Inner, ...] = ()


def test_good_text_decodes() -> None:
    assert loads_toml('name = "a"\n[[tiers]]\ncpus = 2', Outer, where="x") == Outer(name="a", tiers=(Inner(cpus=2),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\nnmae = 1', ["here.toml", "nmae"]),
        ('name = "a"\n[[tiers]]\ncpus = "two"', ["$.tiers[0].cpus", "float", "str"]),
        ("tiers = []", ["name"]),
        ('name = "a"\n[[tiers]]\ncpus = 2\n[[tiers]]\ncpus = inf', ["here.toml: $.tiers[1].cpus", "finite"]),
        ('name = "a"\ntiers = [{cpus = -nan}]', ["$.tiers[0].cpus", "finite"]),
        ("name = ", ["valid TOML"]),
        ("name = " + "9" * 5000, ["valid TOML"]),
        ("name = " + "[" * 3000 + "]" * 3000, ["valid TOML"]),
    ],
)
def test_errors_carry_the_file_and_the_path(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "here.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_toml(path, Outer)
    for word in words:
        assert word in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="readable UTF-8"):
        load_toml(tmp_path / "none.toml", Outer)
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="readable UTF-8"):
        load_toml(tmp_path / "bin.toml", Outer)


def test_plain_data() -> None:
    assert convert({"name": "b"}, Outer, where="x") == Outer(name="b")
    with pytest.raises(SpecError, match="somewhere"):
        convert({}, Outer, where="somewhere")
