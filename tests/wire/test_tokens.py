"""Files of tokens, and who they let in."""

import datetime
import os
from pathlib import Path

import pytest

from tierwise._errors import SpecError
from tierwise.wire import TokenBook, new_token, read_tokens, revoke_token

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(days=1)


def test_a_file_holds_no_token_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    secrets = [new_token(file, "a", "infer"), new_token(file, "b", "admin", LATER)]
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert all(len(secret) == 46 and secret not in text and secret[3:] not in text for secret in secrets)
    assert [(token.name, token.scope, token.expires) for token in read_tokens(file)] == [
        ("a", "infer", None),
        ("b", "admin", LATER),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_a_book_finds_whose_a_token_is_until_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    secret = new_token(file, "a", "infer", LATER)
    book = TokenBook(file)
    found = book.find(secret, NOW)
    assert found is not None
    assert found.name == "a"
    assert book.find(secret, LATER) is None
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), "tw_", "\udcff"):
        assert book.find(wrong, NOW) is None


def test_a_book_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierwise.wire._tokens._LOOK_S", 0.0)
    file = tmp_path / "t.json"
    first = new_token(file, "a", "infer")
    book = TokenBook(file)
    second = new_token(file, "b", "admin")
    assert book.find(second, NOW) is not None
    revoke_token(file, "a")
    assert book.find(first, NOW) is None
    # Nobody is let in by a file that cannot be believed, and everybody is again when it can.
    file.chmod(0o666)
    assert book.find(second, NOW) is None
    file.chmod(0o600)
    assert book.find(second, NOW) is not None
    right = file.read_bytes()
    for wrong in (b'{"tok\xffens": []}', b'{"tokens": ' + b"[" * 100_000, b""):
        file.write_bytes(wrong)
        for _ in range(2):
            assert book.find(second, NOW) is None
    file.write_bytes(right)
    assert book.find(second, NOW) is not None
    file.unlink()
    assert book.find(second, NOW) is None


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\nb", "x" * 65, "\u00e4"])
def test_a_token_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="a token's name must be letters, digits"):
        new_token(tmp_path / "t.json", name, "infer")
    assert not (tmp_path / "t.json").exists()


def test_what_is_no_file_of_tokens_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    with pytest.raises(SpecError, match=r"must be readable .* tierwise token new NAME"):
        TokenBook(file)
    new_token(file, "a", "infer")
    with pytest.raises(SpecError, match=r"a token's name must be new, but got a\. Revoke that one first"):
        new_token(file, "a", "infer")
    with pytest.raises(SpecError, match=r"must be one of the file's \(a\), but got b"):
        revoke_token(file, "b")
    os.chmod(file, 0o620)  # noqa: PTH101
    with pytest.raises(SpecError, match=r"only its owner may change .* chmod 600"):
        read_tokens(file)
    file.chmod(0o600)
    for content in (b"junk", b'{"tok\xffens": []}', b'{"tokens": [{"name": "a"}]}', b'{"tokens": [], "more": 1}'):
        file.write_bytes(content)
        with pytest.raises(SpecError, match="must hold tokens"):
            read_tokens(file)
