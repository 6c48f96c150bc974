"""What every test shares: where the real data lie, one thread for every library, and one browser."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

# Before NumPy or torch start their pools: two cores shared with node processes do not bear more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "TIERWISE_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["TIERWISE_DATA"] = str(_BESIDE)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; skips where there is none."""
    root = os.environ.get("TIERWISE_DATA")
    if root is None:
        pytest.skip("TIERWISE_DATA is not set: this test needs the real data it names")
    return Path(root)


def load_program(path: str) -> ModuleType:
    """Load a program of this project, which is in no package, by its path from the root."""
    whole = Path(__file__).resolve().parents[1] / path
    spec = importlib.util.spec_from_file_location(whole.stem, whole)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def program() -> Callable[[str], ModuleType]:
    """See `load_program`."""
    return load_program


@pytest.fixture(scope="session")
def tiny_bert() -> Callable[..., Any]:
    """Makes an untrained encoder of two layers for 16 of 50 tokens; keywords go to its configuration."""

    def make(**options: Any) -> Any:
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        class TinyBert(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                config = BertConfig(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=64,
                    vocab_size=50,
                    max_position_embeddings=16,
                    **options,
                )
                self.net = BertForSequenceClassification(config)

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                return self.net(input_ids=input_ids, attention_mask=attention_mask).logits

        return TinyBert()

    return make


@dataclass
class Node:
    """A running node process and where it listens; the last of ``addresses`` is that of REST where it has one."""

    process: subprocess.Popen[str]
    tier: str
    tcp: str
    unix: str
    rest: str
    addresses: tuple[str, ...]

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self.process.kill()
        self.process.wait()

    def children(self) -> list[int]:
        """Processes that it has started."""
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(number) for path in found for number in path.read_text().split()]


@contextlib.contextmanager
def _running_nodes() -> Iterator[Callable[..., Node]]:
    # Paths of sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="tw-"))
    nodes: list[Node] = []

    def start(tier: str = "node", *options: str) -> Node:
        unix = f"unix:{folder}/{len(nodes)}.sock"
        listen = ["--listen", "127.0.0.1:0", "--listen", unix, "--tier", tier, "--threads", "1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tierwise", "node", *listen, *options],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"tierwise node {tier} ready on 127.0.0.1:"), line
        addresses = line.split(" ready on ")[1].strip().split(", ")
        nodes.append(Node(process, tier, addresses[0], unix, addresses[-1], tuple(addresses)))
        return nodes[-1]

    try:
        yield start
    finally:
        for node in nodes:
            node.process.terminate()
        for node in nodes:
            node.process.wait(10)
            assert node.process.stdout is not None
            node.process.stdout.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def running_nodes() -> Callable[[], contextlib.AbstractContextManager[Callable[..., Node]]]:
    """Gives what starts nodes of a tier with further options; they end with the context."""
    return _running_nodes


@dataclass(frozen=True)
class Certificates:
    """Where the files are: ``NAME.pem`` and ``NAME.key``."""

    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)


def make_certificates(folder: Path) -> Certificates:
    """An authority ``ca`` with ``node``, ``client``, ``admin`` and ``ended`` (no longer valid); another, ``other``."""
    for authority in ("ca", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(authority, authority, key.public_key(), 1)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        _write(folder, authority, key, builder.sign(key, hashes.SHA256()))
        if authority == "ca":
            for name, days in (("node", 1), ("client", 1), ("admin", 1), ("ended", -1)):
                own = ec.generate_private_key(ec.SECP256R1())
                signed = _builder(name, "ca", own.public_key(), days).add_extension(
                    x509.SubjectAlternativeName(
                        [x509.DNSName(f"{name}.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                    ),
                    critical=False,
                )
                _write(folder, name, own, signed.sign(key, hashes.SHA256()))
    return Certificates(folder)


def _builder(name: str, issuer: str, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = folder / f"{name}.key"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """`make_certificates`, made once."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips where there is none. One for all rooms: a process can drive one Playwright at a time."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser: install one with `apt-get install chromium`")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()
