"""Who is let in by a real node, for what, over both fronts."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, new_signing_key, open_artifact, read_files, sign, write_artifact
from tierwise.runtime import PROBE, AdaptivePipeline, load_paths
from tierwise.wire import ClientTls, Credentials, InferenceClient, new_token, revoke_token, status_of

Start = Callable[..., Any]
WORK = {"work": np.array([0])}
NOBODY = grpc.StatusCode.UNAUTHENTICATED
FORBIDDEN = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tokens.json`` and the tokens it knows: ``infer``, ``admin``."""
    folder = tmp_path_factory.mktemp("tokens")
    for scope in ("infer", "admin"):
        (folder / scope).write_text(new_token(folder / "tokens.json", f"the-{scope}", scope))
    (folder / "wrong").write_text("tw_" + "x" * 43)
    return folder


def configured(folder: Path, text: str) -> tuple[str, str]:
    """The options for a configuration file."""
    file = folder / "node.toml"
    file.write_text(text)
    return "--config", str(file)


@pytest.fixture(scope="module")
def guarded(start_node: Start, tokens: Path, certificates: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node with TLS and tokens that treats its own machine as it does others."""
    options = configured(tmp_path_factory.mktemp("guarded"), '[security]\nlocal = "token"\n')
    tls = ("--tls-certificate", certificates.file("node.pem"), "--tls-key", certificates.file("node.key"))
    return start_node("guarded", "--rest", "127.0.0.1:0", *options, *tls, "--tokens", str(tokens / "tokens.json"))


@pytest.fixture(scope="module")
def mutual(start_node: Start, certificates: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node that serves clients with a certificate only."""
    text = f"""
[security]
local = "trusted"
admin_certificates = ["admin.test"]
[security.tls]
certificate = "{certificates.file("node.pem")}"
key = "{certificates.file("node.key")}"
client_authority = "{certificates.file("ca.pem")}"
"""
    options = configured(tmp_path_factory.mktemp("mutual"), text)
    return start_node("mutual", "--rest", "127.0.0.1:0", *options)


def client_of(node: Any, certificates: Any, token: Path | None = None, own: str | None = None) -> InferenceClient:
    shown = (
        {} if own is None else {"certificate": certificates.file(f"{own}.pem"), "key": certificates.file(f"{own}.key")}
    )
    tls = ClientTls(authority=certificates.file("ca.pem"), **shown)
    file = None if token is None else str(token)
    return InferenceClient(node.tcp, credentials=Credentials(tls=tls, token_file=file))


def ask(
    node: Any,
    certificates: Any,
    verb: str,
    path: str,
    body: Any = None,
    token: str | None = None,
    own: str | None = None,
) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=certificates.file("ca.pem"))
    if own is not None:
        context.load_cert_chain(certificates.file(f"{own}.pem"), certificates.file(f"{own}.key"))
    host = http.client.HTTPSConnection(node.rest.removeprefix("https://"), context=context, timeout=20)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        host.request(verb, path, None if body is None else json.dumps(body), headers)
        answer = host.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if answer.headers["content-type"] == "application/json" else content
    finally:
        host.close()


REST_WORK = {"inputs": [{"name": "work", "datatype": "INT64", "shape": [1], "data": [0]}]}


@pytest.mark.parametrize("shown", [None, "wrong"])
def test_nobody_is_told_that_the_node_lives_and_nothing_else(
    guarded: Any, certificates: Any, tokens: Path, shown: str | None
) -> None:
    with client_of(guarded, certificates, None if shown is None else tokens / shown) as client:
        assert client.live()
        assert client.ready()
        asked: list[Callable[[], Any]] = [
            client.server_metadata,
            client.index,
            client.metrics,
            lambda: client.model_ready(PROBE),
            lambda: client.model_metadata(PROBE),
            lambda: client.infer(PROBE, WORK),
            lambda: client.load("m", files={"manifest.json": b""}),
            lambda: client.unload("m"),
        ]
        for call in asked:
            with pytest.raises(RemoteError, match="tier guarded: ") as caught:
                call()
            assert status_of(caught.value) is NOBODY
    token = None if shown is None else (tokens / shown).read_text()
    for verb, path in (
        ("GET", "/v2"),
        ("GET", "/metrics"),
        ("GET", "/v2/openapi.json"),
        ("GET", f"/v2/models/{PROBE}"),
        ("POST", f"/v2/models/{PROBE}/infer"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/m/load"),
    ):
        assert ask(guarded, certificates, verb, path, {}, token)[0] == 401, path
    assert ask(guarded, certificates, "GET", "/v2/health/live", token=token)[0] == 200


def test_a_token_to_infer_changes_nothing_and_one_of_an_admin_does(
    guarded: Any, certificates: Any, tokens: Path, chain: Artifact, inputs: Any
) -> None:
    files, infer, admin = read_files(chain), (tokens / "infer").read_text(), (tokens / "admin").read_text()
    with client_of(guarded, certificates, tokens / "infer") as client:
        client.infer(PROBE, WORK)
        assert "tierwise_" in client.metrics()
        refused: list[Callable[[], None]] = [lambda: client.load("m", files=files), lambda: client.unload("m")]
        for call in refused:
            with pytest.raises(
                RemoteError, match=r"only by who may administer .* Use a token of scope admin"
            ) as caught:
                call()
            assert status_of(caught.value) is FORBIDDEN
        with client_of(guarded, certificates, tokens / "admin") as other:
            other.load("m", files=files)
        assert client.infer("m", inputs).outputs["y"].shape == (2, 3)
    assert ask(guarded, certificates, "POST", f"/v2/models/{PROBE}/infer", REST_WORK, infer)[0] == 200
    assert ask(guarded, certificates, "GET", "/metrics", token=infer)[0] == 200
    assert ask(guarded, certificates, "POST", "/v2/repository/models/m/unload", {}, infer)[0] == 403
    assert ask(guarded, certificates, "POST", "/v2/repository/models/m/unload", {}, admin)[0] == 200


def test_a_revoked_or_ended_token_lets_nobody_in(guarded: Any, certificates: Any, tokens: Path, tmp_path: Path) -> None:
    file = tmp_path / "brief"
    file.write_text(new_token(tokens / "tokens.json", "brief", "infer"))
    with client_of(guarded, certificates, file) as client:
        deadline_s = time.monotonic() + 10
        while True:  # until the node has looked at the file again
            try:
                client.server_metadata()
                break
            except RemoteError:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        revoke_token(tokens / "tokens.json", "brief")
        time.sleep(1.0)
        with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
            client.server_metadata()


def test_who_does_not_know_the_authority_or_speaks_plainly_is_not_served(guarded: Any, certificates: Any) -> None:
    with InferenceClient(guarded.tcp, timeout_s=3.0) as plain:
        assert not plain.live()
    wrong = Credentials(tls=ClientTls(authority=certificates.file("other.pem")))
    with InferenceClient(guarded.tcp, 3.0, wrong) as client, pytest.raises(RemoteError, match="UNAVAILABLE"):
        client.server_metadata()
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(guarded.rest.removeprefix("https://"), timeout=5).request("GET", "/v2")


def test_a_certificate_lets_in_and_the_right_one_changes_models(
    mutual: Any, certificates: Any, chain: Artifact, inputs: Any
) -> None:
    with client_of(mutual, certificates) as client:
        assert not client.live()
    with client_of(mutual, certificates, own="ended") as client:
        assert not client.live()
    # Loopback peers are trusted, and with a certificate they are still who it says.
    with client_of(mutual, certificates, own="client") as client:
        client.infer(PROBE, WORK)
        with pytest.raises(RemoteError, match="PERMISSION_DENIED"):
            client.load("m", files=read_files(chain))
        with client_of(mutual, certificates, own="admin") as admin:
            admin.load("m", files=read_files(chain))
        assert client.infer("m", inputs).outputs["y"].shape == (2, 3)
    with pytest.raises((ssl.SSLError, OSError)):
        ask(mutual, certificates, "GET", "/v2")
    assert ask(mutual, certificates, "POST", f"/v2/models/{PROBE}/infer", REST_WORK, own="client")[0] == 200
    assert ask(mutual, certificates, "POST", "/v2/repository/models/m/unload", {}, own="client")[0] == 403
    assert ask(mutual, certificates, "POST", "/v2/repository/models/m/unload", {}, own="admin")[0] == 200


def own_address() -> str:
    """An address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has only its loopback address")
        address: str = one.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has only its loopback address")
    return address


def test_strangers_may_ask_but_not_change_what_is_served_unless_told_otherwise(
    start_node: Start, chain: Artifact, tmp_path: Path
) -> None:
    host = own_address()
    open_to_all = start_node("open", "--listen", f"{host}:0", "--rest", f"{host}:0", *configured(tmp_path, ""))
    with InferenceClient(open_to_all.addresses[2]) as stranger:
        stranger.infer(PROBE, WORK)
        with pytest.raises(RemoteError, match=r"PERMISSION_DENIED: .* over its unix socket"):
            stranger.load("m", files=read_files(chain))
        # Where nobody may load models, nobody can send messages of their size either.
        with pytest.raises(RemoteError, match="RESOURCE_EXHAUSTED"):
            stranger.infer(PROBE, {"blob": np.zeros(66 << 20, np.uint8)})
    connection = http.client.HTTPConnection(open_to_all.rest.removeprefix("http://"), timeout=20)
    connection.request("POST", "/v2/repository/models/m/load", "{}")
    assert connection.getresponse().status == 403
    connection.close()
    with InferenceClient(open_to_all.unix) as local:
        local.load("m", files=read_files(chain))


def test_a_hop_to_the_next_node_is_secured_as_the_keyring_says(
    start_node: Start, guarded: Any, certificates: Any, tokens: Path, chain: Artifact, inputs: Any, tmp_path: Path
) -> None:
    keyring = tmp_path / "keyring.toml"
    keyring.write_text(
        f'[[node]]\nmatch = "{guarded.tcp}"\ntoken_file = "{tokens / "infer"}"\n'
        f'[node.tls]\nauthority = "{certificates.file("ca.pem")}"\n'
    )
    text = f'[security]\nforward_to = ["127.0.0.1:*"]\nforward_credentials = "{keyring}"\n'
    below = start_node("below", *configured(tmp_path, text))
    with client_of(guarded, certificates, tokens / "admin") as admin:
        admin.load("hop", b'{"segments": [1, 3]}', read_files(chain))
    with InferenceClient(below.tcp) as client:
        client.load("hop", f'{{"segments": [0, 1], "forward": "{guarded.tcp}"}}'.encode(), read_files(chain))
        assert client.infer("hop", inputs).outputs["y"].shape == (2, 3)
        with pytest.raises(RemoteError, match="this node's configuration allows"):
            client.load("far", b'{"segments": [0, 1], "forward": "10.0.0.1:22"}', read_files(chain))


def test_paths_name_their_keyring(guarded: Any, certificates: Any, tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "keyring.toml").write_text(
        f'[[node]]\ntoken_file = "{tokens / "infer"}"\n[node.tls]\nauthority = "{certificates.file("ca.pem")}"\n'
    )
    (tmp_path / "paths.toml").write_text(
        f'credentials = "keyring.toml"\nrefresh_s = 0.0\n[[paths]]\nname = "up"\naccuracy_frac = 1.0\n'
        f'node = "{guarded.tcp}"\nmodel = "{PROBE}"\nlink = "l"\nover_link = true\n'
    )
    with AdaptivePipeline(load_paths(tmp_path / "paths.toml")) as pipeline:
        assert "wall_ns" in pipeline.infer(WORK, 20.0).outputs


def test_only_what_a_trusted_key_signed_is_served_also_after_a_start(
    start_node: Start, chain: Artifact, inputs: Any, tmp_path: Path
) -> None:
    mine, others = new_signing_key(tmp_path / "mine"), new_signing_key(tmp_path / "others")
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "mine.pub").write_bytes(mine.file.read_bytes())
    options = ("--repository", str(tmp_path / "models"), "--require-signature", str(keys))
    node = start_node("signed", "--rest", "127.0.0.1:0", *options)
    artifact = write_artifact(
        tmp_path / "a",
        chain.manifest,
        {entry.name: chain.path(entry.name) for entry in chain.manifest.files},
    )
    with InferenceClient(node.tcp) as client:
        with pytest.raises(RemoteError, match=r"PERMISSION_DENIED: .* but got no signature"):
            client.load("m", files=read_files(artifact))
        sign(artifact, tmp_path / "others")
        with pytest.raises(RemoteError, match=rf"PERMISSION_DENIED: .* but got signatures by {others.id}"):
            client.load("m", files=read_files(artifact))
        sign(artifact, tmp_path / "mine")
        files = read_files(open_artifact(tmp_path / "a"))
        for name in sorted(set(files) - {"signature.json"}):
            changed = bytearray(files[name])
            changed[len(changed) // 2] ^= 1
            with pytest.raises(RemoteError, match=r"INVALID_ARGUMENT|PERMISSION_DENIED"):
                client.load("m", files=files | {name: bytes(changed)})
        # The signature of one artifact is none for another.
        with pytest.raises(RemoteError, match="PERMISSION_DENIED"):
            client.load(
                "m",
                files=read_files(chain)
                | {"manifest.json": files["manifest.json"] + b" ", "signature.json": files["signature.json"]},
            )
        assert [model.name for model in client.index()] == [PROBE]
        client.load("m", files=files)
        client.infer("m", inputs)
    node.process.terminate()
    node.process.wait(10)
    (keys / "mine.pub").unlink()
    (keys / "others.pub").write_bytes(others.file.read_bytes())
    again = start_node("signed", "--rest", "127.0.0.1:0", *options)
    with InferenceClient(again.tcp) as client:
        entry = next(entry for entry in client.index() if entry.name == "m")
        # Signed by both: the other key vouches for it too.
        assert entry.state == "READY"
    again.process.terminate()
    again.process.wait(10)
    (keys / "others.pub").unlink()
    new_signing_key(tmp_path / "third")
    (keys / "third.pub").write_bytes((tmp_path / "third.pub").read_bytes())
    last = start_node("signed", "--rest", "127.0.0.1:0", *options)
    with InferenceClient(last.tcp) as client:
        entry = next(entry for entry in client.index() if entry.name == "m")
        assert entry.state == "UNAVAILABLE"
        assert "must be signed" in entry.reason
