"""What a client shows and trusts, by address."""

from pathlib import Path
from typing import Any

import pytest

from tierwise._errors import SpecError
from tierwise.wire import (
    CREDENTIALS_VARIABLE,
    ClientTls,
    Credentials,
    InferenceClient,
    ServerTls,
    certificate_problems,
    find_credentials,
    load_keyring,
    server_context,
    server_tls,
)

KEYRING = """
[[node]]
match = "10.0.0.7:*"
token_file = "token"
[node.tls]
authority = "ca.pem"
[[node]]
match = "127.0.0.1:*"
token_env = "NODE_TOKEN"
"""


def test_a_keyring_is_found_by_address_and_its_files_beside_it(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "keys.toml").write_text(KEYRING)
    (tmp_path / "token").write_text("tw_abc\n")
    keyring = load_keyring(tmp_path / "keys.toml")
    found = keyring.find("10.0.0.7:8001")
    assert found is not None
    assert found.tls == ClientTls(authority=str(tmp_path / "ca.pem"))
    assert found.token("10.0.0.7:8001") == "tw_abc"
    assert keyring.find("10.0.0.8:8001") is None
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(tmp_path / "keys.toml"))
    monkeypatch.setenv("NODE_TOKEN", "tw_local")
    local = find_credentials("127.0.0.1:1")
    assert local is not None
    assert local.token("127.0.0.1:1") == "tw_local"
    assert find_credentials("unix:/x") is None


def test_a_token_does_not_travel_in_the_clear(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("tw_abc")
    with pytest.raises(SpecError, match="a token must travel over TLS, but got credentials without tls"):
        InferenceClient("10.0.0.7:8001", credentials=Credentials(token_file=str(file)))
    InferenceClient("10.0.0.7:8001", credentials=Credentials(token_file=str(file), plain_token=True)).close()
    InferenceClient("127.0.0.1:8001", credentials=Credentials(token_file=str(file))).close()


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "\u00e4", "x" * 5000])
def test_a_token_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(SpecError, match="a token must be one line of printable ASCII, but got"):
        Credentials(token_file=str(tmp_path / "token")).token("unix:/x")


@pytest.mark.parametrize(
    "address", ["dns:///evil:1", "ipv4:1.2.3.4:5", "10.0.0.7", "xds:///x", "a b:1", "unix-abstract:x"]
)
def test_other_forms_of_addresses_are_refused(address: str) -> None:
    with pytest.raises(SpecError, match="an address must be HOST:PORT or unix:PATH"):
        InferenceClient(address)


def test_certificates_that_cannot_serve_are_told_before(certificates: Any, tmp_path: Path) -> None:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    good = ServerTls(certificate=certificates.file("node.pem"), key=certificates.file("node.key"))
    assert certificate_problems(good, now) == []
    [late] = certificate_problems(good, now + datetime.timedelta(days=9))
    assert "the certificate must be valid now" in late
    other = ServerTls(certificate=certificates.file("node.pem"), key=certificates.file("client.key"))
    [unfit] = certificate_problems(other, now)
    assert "must hold a certificate that the key" in unfit
    (tmp_path / "junk.pem").write_text("junk")
    for make in (server_tls, server_context):
        with pytest.raises(SpecError, match="must hold a certificate that the key"):
            make(other)
        with pytest.raises(SpecError, match="the file must be PEM"):
            make(ServerTls(certificate=str(tmp_path / "junk.pem"), key=certificates.file("node.key")))
        with pytest.raises(SpecError, match="must be readable"):
            make(ServerTls(certificate=str(tmp_path / "none.pem"), key=certificates.file("node.key")))
    with pytest.raises(SpecError, match="must be readable"):
        InferenceClient("10.0.0.7:1", credentials=Credentials(tls=ClientTls(authority=str(tmp_path / "none.pem"))))


def test_a_home_that_does_not_exist_is_said(tmp_path: Path) -> None:
    file = tmp_path / "keyring.toml"
    file.write_text('[[node]]\ntoken_file = "~nobody-has-this-name/token"\n')
    with pytest.raises(SpecError, match=r"in a home that exists, but got '~nobody-has-this-name/token'"):
        load_keyring(file)
