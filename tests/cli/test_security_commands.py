"""Keys, tokens and the check of a node's configuration, as typed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def tierwise(*words: str, where: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tierwise", *words],
        capture_output=True, text=True, timeout=60, cwd=where, env=os.environ | variables,
    )  # fmt: skip


def test_a_token_is_shown_once_and_can_be_taken_back(tmp_path: Path) -> None:
    made = tierwise("token", "new", "bot", "--scope", "admin", "--days", "3", "--tokens", "t.json", where=tmp_path)
    assert made.returncode == 0
    assert made.stdout.startswith("tw_")
    assert len(made.stdout.split()) == 1
    assert made.stdout.strip() not in (tmp_path / "t.json").read_text()
    listed = tierwise("token", "list", "--tokens", "t.json", where=tmp_path).stdout
    assert listed.split()[:2] == ["bot", "admin"]
    assert tierwise("token", "revoke", "bot", "--tokens", "t.json", where=tmp_path).returncode == 0
    assert tierwise("token", "list", "--tokens", "t.json", where=tmp_path).stdout == ""
    again = tierwise("token", "revoke", "bot", "--tokens", "t.json", where=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "must be one of the file's (none), but got bot" in again.stderr


def test_keys_are_made_and_an_artifact_that_is_none_is_not_signed(tmp_path: Path) -> None:
    made = tierwise("artifact", "keygen", "k", where=tmp_path)
    assert made.returncode == 0
    assert (tmp_path / "k.pub").is_file()
    again = tierwise("artifact", "keygen", "k", where=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    (tmp_path / "a").mkdir()
    for words in (("sign", "a", "--key", "k"), ("verify", "a", "--keys", "k.pub")):
        refused = tierwise("artifact", *words, where=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "manifest.json" in refused.stderr


CHECKS = {
    "a key of another certificate": (
        '[security.tls]\ncertificate = "{node.pem}"\nkey = "{client.key}"\n',
        "must hold a certificate that the key",
    ),
    "an ended certificate": ('[security.tls]\ncertificate = "{ended.pem}"\nkey = "{ended.key}"\n', "must be valid now"),
    "no tokens": ('[security]\ntokens = "none.json"\n', "the file of tokens must be readable"),
    "no keys": ('[security]\nrequire_signature = true\ntrusted_keys = ["."]\n', r"there must be a public key"),
    "no keyring": ('[security]\nforward_credentials = "none.toml"\n', "none.toml"),
    "signatures without keys": ("[security]\nrequire_signature = true\n", "require_signature needs trusted_keys"),
    "everybody locked out": ('[security]\nlocal = "token"\n', "or nobody could load a model"),
    "names without certificates": ('[security]\nadmin_certificates = ["a"]\n', "admin_certificates needs tls"),
    "an unknown key": ("[security]\ntoken = 'x'\n", "unknown field `token`"),
    "no table": ("security = 5\n", "Expected `object`"),
    "a limit of nothing": ("[limits]\nmodels = 0\n", "limits.models"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_bad_configuration_is_told_and_nothing_starts(name: str, certificates: Any, tmp_path: Path) -> None:
    text, says = CHECKS[name]
    for file in ("node.pem", "client.key", "ended.pem", "ended.key"):
        text = text.replace(f"{{{file}}}", certificates.file(file))
    (tmp_path / "node.toml").write_text('listen = ["127.0.0.1:0"]\n' + text)
    told = tierwise("node", "--config", "node.toml", "--check", where=tmp_path)
    assert told.returncode == 2
    assert says in told.stderr
    assert "Traceback" not in told.stderr


def test_a_good_one_is_told_with_what_is_unwise(certificates: Any, tmp_path: Path) -> None:
    tierwise("token", "new", "bot", "--tokens", "t.json", where=tmp_path)
    (tmp_path / "t.json").chmod(0o644)
    tls = ("--tls-certificate", certificates.file("node.pem"), "--tls-key", certificates.file("node.key"))
    told = tierwise("node", "--listen", "0.0.0.0:0", *tls, "--tokens", "t.json", "--check", where=tmp_path)
    assert told.returncode == 0
    assert "caution: t.json: others on this machine can read the token file; chmod 600 it" in told.stderr
    assert "without TLS" not in told.stderr
    plain = tierwise("node", "--listen", "0.0.0.0:0", "--check", where=tmp_path)
    assert plain.returncode == 0
    assert "caution: 0.0.0.0:0: without TLS, whoever sees the network" in plain.stderr
    assert "caution: 0.0.0.0:0: without tokens or client certificates, whoever reaches it" in plain.stderr
    assert tierwise("node", "--check", "--listen", "127.0.0.1:0", where=tmp_path).stderr == ""
    half = tierwise("node", "--tls-key", "x", "--check", where=tmp_path)
    assert half.returncode == 2
    assert "certificate" in half.stderr


def test_credentials_that_are_none_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("[[node]]\nmatch = 5\n")
    refused = tierwise("infer", "m", "keys.toml", "--credentials", "keys.toml", where=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "keys.toml" in refused.stderr
