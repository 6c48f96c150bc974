"""What a stranger's bytes can reach in Tierwise, as a table of functions for `fuzz.py` and the tests.

A target takes any bytes and either returns or raises a `tierwise` error; everything else is a finding. Seeds are made
here, so that no file has to be kept for them.
"""

from __future__ import annotations

import contextlib
import datetime
import random
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from tierwise._config import loads_toml
from tierwise._errors import TierwiseError
from tierwise.artifact import (
    MANIFEST,
    Artifact,
    ImageInput,
    Manifest,
    Preprocessor,
    Provenance,
    Segment,
    TensorInput,
    TensorSpec,
    open_artifact,
    read_files,
    receive_files,
    to_payload,
    write_artifact,
)
from tierwise.codecs import (
    AffineCodec,
    AffineTables,
    ChannelTable,
    Codec,
    PriorCodec,
    PriorTables,
    RawCodec,
    decode,
    encode,
    encode_picture,
    read_affine,
    read_frame,
    read_prior,
    whole_frequencies,
    write_affine,
    write_prior,
)
from tierwise.runtime import NodeSpec
from tierwise.runtime._external import check_contents
from tierwise.wire import (
    Credentials,
    Push,
    TokenBook,
    TraceContext,
    decode_push,
    decode_request,
    decode_response,
    infer_request,
    infer_response,
    load_keyring,
    new_token,
    protocol,
    rest_push,
    rest_request,
    rest_response,
)
from tierwise.wire._frames import encode_field

__all__ = ["TARGETS", "Target", "mutated"]


@dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
        read: Takes bytes as a stranger may send them.
        seeds: Bytes that are right, to begin with.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]

    def try_(self, content: bytes) -> None:
        """Read ``content``; a refusal is as good as an answer, and all else leaves this as it came."""
        try:
            self.read(content)
        except TierwiseError as error:
            str(error).encode("utf-8", "replace")


def mutated(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Seeds cut short, joined, with bits and bytes changed, repeated and left out; the same for the same ``seed``."""
    rng = random.Random(seed)
    for _ in range(count):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(content))
            size = min(rng.randint(1, 16), len(content) - at)
            match rng.randrange(7):
                case 0:
                    del content[at:]
                case 1:
                    del content[at : at + size]
                case 2:
                    content[at:at] = rng.randbytes(rng.randint(1, 8))
                case 3:
                    content[at:at] = content[at : at + size] * rng.randint(1, 8)
                case 4:
                    content[at : at + size] = rng.choice((b"\xff", b"\x00", b"\x80", b"9", b"[", b'"')) * size
                case 5:
                    other = rng.choice(seeds)
                    content[at:] = other[rng.randint(0, len(other)) :]
                case _:
                    if at < len(content):
                        content[at] ^= 1 << rng.randrange(8)
        yield bytes(content)


_PRIOR: Final = PriorTables(
    (
        *(ChannelTable(0.25 * i, -2, whole_frequencies([1, 4, 9, 4, 1, 0.1])) for i in range(4)),
        ChannelTable(0.0, 0, whole_frequencies(range(1, 90))),
    )
)
_AFFINE: Final = AffineTables(3, (-1.0, 0.0, 0.5), (0.5, 0.25, 1.0))
_CODECS: Final[tuple[Codec, ...]] = (
    RawCodec(),
    AffineCodec(_AFFINE),
    PriorCodec(_PRIOR),
    PriorCodec(_PRIOR, "python"),
)


def _latent(channels: int, items: int = 2) -> Any:
    return np.random.default_rng(0).normal(size=(items, channels, 3, 5)).astype(np.float32)


def _frame(content: bytes) -> None:
    """The first byte says which codec; tables' tag and checksum are made right, for no search would find them."""
    with contextlib.suppress(TierwiseError):
        decode(_CODECS[0], content)
    if len(content) < 2:
        return
    codec = _CODECS[content[0] % len(_CODECS)]
    body = bytes((0x54, 1 << 4 | codec.NUMBER, content[1])) + codec.tag[:3] + content[2:]
    read_frame(body + zlib.crc32(body).to_bytes(4, "little"))
    # Large enough for every way through, small enough for many inputs a second.
    decode(codec, body + zlib.crc32(body).to_bytes(4, "little"), 1 << 14)


def _frame_seeds() -> list[bytes]:
    tensors = (_latent(2), _latent(3), _latent(5, 1), 40.0 * _latent(4))
    frames = [encode(codec, tensor) for codec, tensor in zip(_CODECS, tensors, strict=True)]
    return [bytes((i,)) + frame[2:3] + frame[6:-4] for i, frame in enumerate(frames)] + frames


def _tables(content: bytes) -> None:
    """Tables that can be read must code and decode."""
    if content[:1] == b"a":
        affine = read_affine(content[1:])
        if len(affine.low) <= 64:
            codec: Codec = AffineCodec(affine)
            decode(codec, encode(codec, _latent(len(affine.low))))
        return
    prior = read_prior(content[1:])
    if len(prior.channels) <= 64:
        codec = PriorCodec(prior)
        decode(codec, encode(codec, _latent(len(prior.channels))))


def _message(content: bytes) -> None:
    """A request and an answer, with all their tensors."""
    for read in (decode_request, decode_response):
        try:
            framed = read(content)
            framed.tensors()
            framed.encode()
        except TierwiseError:
            continue


def _message_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    texts = np.array([[b"one"], [b""]], dtype=object)
    tensors = {"x": rng.normal(size=(2, 3)).astype(np.float32), "t": texts, "b": np.array([True, False])}
    large = {"x": rng.normal(size=(1, 4500)).astype(np.float32)}  # such contents are found in the bytes themselves
    request = infer_request("m", tensors, ["y"])
    request.message.parameters["timeout"].int64_param = 5
    typed = protocol.ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -2])
    typed.inputs.add(name="s", datatype="BYTES", shape=[1]).contents.bytes_contents.extend([b"ab"])
    answers = [infer_response("m", "7", tensors).encode(), infer_response("m", "7", large).encode()]
    return [request.encode(), infer_request("m", large).encode(), typed.SerializeToString(), *answers]


def _rest(content: bytes) -> None:
    """Two bytes say where the JSON ends, or that it is all there is; what can be read is written back."""
    if len(content) < 2:
        return
    told = int.from_bytes(content[:2], "big")
    framed, form = rest_request("m", "", content[2:], None if told == 0xFFFF else told)
    tensors = framed.tensors()
    rest_response(infer_response("m", framed.message.id, tensors), form)


def _rest_seeds() -> list[bytes]:
    whole = b'{"id": "a", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, -3e2, 0]}]}'
    nested = (
        b'{"inputs": [{"name": "x", "datatype": "INT8", "shape": [2, 1], "data": [[1], [2]], "parameters": {"k": 1.5}},'
        b'{"name": "s", "datatype": "BYTES", "shape": [1], "data": ["text\\u00e9"]},'
        b'{"name": "b", "datatype": "BOOL", "shape": [1], "data": [true]}],'
        b'"outputs": [{"name": "y", "parameters": {"binary_data": true}}], "parameters": {"binary_data_output": false}}'
    )
    head = (
        b'{"inputs": [{"name": "x", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}},'
        b'{"name": "s", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 6}}]}'
    )
    binary = head + b"\x00\x3c\x00\x40" + b"\x02\x00\x00\x00hi"
    return [b"\xff\xff" + whole, b"\xff\xff" + nested, len(head).to_bytes(2, "big") + binary]


def _push(content: bytes) -> None:
    """A load request in both forms."""
    for read in (decode_push, lambda body: rest_push("m", body)):
        try:
            push = read(content)
            push.encode() if push.config is None else msgspec.json.decode(push.config)
        except (TierwiseError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The share in a push is decoded by the node, which refuses these.
            continue


def _push_seeds() -> list[bytes]:
    files = {MANIFEST: b"{}", "m.onnx": bytes(40)}
    rest = b'{"parameters": {"config": "{\\"segments\\": [0, 1]}", "file:1/manifest.json": "e30=", "file:1/a": ""}}'
    return [Push("m", b'{"label": "l"}', files).encode(), Push("m", None, {}).encode(), rest]


def _manifest() -> Manifest:
    x, y = (TensorSpec(name=name, dtype="FP32", shape=(-1, 4)) for name in "xy")
    segment = Segment(file="m.onnx", inputs=(x,), outputs=(y,), macs=1)
    provenance = Provenance(task="t", task_fingerprint="f", chain="identity", specs=({"op": "a"},), versions={"a": "1"})
    encoding = TensorInput(tensors=(x,))
    return Manifest(name="m", input=encoding, outputs=(y,), segments=(segment,), files=(), provenance=provenance)


def _artifact(content: bytes) -> None:
    """A manifest as it is pushed to a node, and as it is found on a disk."""
    with tempfile.TemporaryDirectory(prefix="tw-fuzz-") as folder:
        lying = Path(folder, "lying")
        lying.mkdir()
        (lying / MANIFEST).write_bytes(content)
        (lying / "m.onnx").write_bytes(b"onnx")
        for read in (open_artifact, lambda _: receive_files(Path(folder, "a"), {MANIFEST: content, "m.onnx": b"onnx"})):
            try:
                artifact = read(lying)
                Preprocessor(artifact.manifest.input, artifact.directory)
                read_files(artifact)
            except TierwiseError:
                continue
        left = sorted(path.name for path in Path(folder).iterdir() if path.name not in ("lying", "a"))
        if left:
            raise RuntimeError(f"left behind: {left}")


def _artifact_seeds() -> list[bytes]:
    pictures = ImageInput(encoding="jpeg", height=8, width=8, channels=1, mean=(0.0,), std=(1.0,))
    with tempfile.TemporaryDirectory(prefix="tw-fuzz-") as folder:
        return [
            write_artifact(Path(folder, str(i)), one, {"m.onnx": b"onnx"}).path(MANIFEST).read_bytes()
            for i, one in enumerate((_manifest(), msgspec.structs.replace(_manifest(), input=pictures)))
        ]


def _picture(content: bytes) -> None:
    """A picture as a client sends it."""
    encoding = ImageInput(encoding="jpeg", height=8, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    Preprocessor(encoding)(to_payload(encoding, [content]))


def _picture_seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    return [encode_picture(pixels, kind) for kind in ("jpeg", "png", "webp")]


def _config(content: bytes) -> None:
    """A node's configuration."""
    loads_toml(content.decode("utf-8", "replace"), NodeSpec, where="node.toml")


def _config_seeds() -> list[bytes]:
    text = 'listen = ["127.0.0.1:0"]\ntier = "edge"\ncpus = 1.5\n[batching]\nbudget_s = 0.02\nmost_items = 8\n'
    return [text.encode(), b"max_waiting = 4\nobservability = { log_level = 'debug' }\n"]


def _secret_file(content: bytes, suffix: str, read: Callable[[Path], object]) -> None:
    """A file that a node or a client reads its secrets from."""
    with tempfile.TemporaryDirectory(prefix="tw-fuzz-") as folder:
        path = Path(folder, f"file{suffix}")
        path.write_bytes(content)
        path.chmod(0o600)
        read(path)


def _tokens(content: bytes) -> None:
    """A file of tokens, and a look-up of what nobody knows."""
    now = datetime.datetime.now(datetime.UTC)

    def ask(path: Path) -> None:
        if TokenBook(path).find(content.decode("utf-8", "surrogateescape"), now) is not None:
            raise RuntimeError("a file must not let in who shows its content")

    _secret_file(content, ".json", ask)


def _tokens_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory(prefix="tw-fuzz-") as folder:
        path = Path(folder, "tokens.json")
        new_token(path, "one", "admin", datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
        new_token(path, "two", "infer")
        return [path.read_bytes(), b'{"tokens": []}']


def _keyring(content: bytes) -> None:
    """A file of credentials, what it has for an address, and a token's own file."""

    def ask(path: Path) -> None:
        with contextlib.suppress(TierwiseError):
            Credentials(token_file=str(path)).token("127.0.0.1:1")
        known = load_keyring(path).find("127.0.0.1:1")
        # What it names is not there, or is this file: never another of this machine.
        if known is not None and known.token_file == str(path):
            known.token("127.0.0.1:1")

    _secret_file(content, ".toml", ask)


def _keyring_seeds() -> list[bytes]:
    text = '[[node]]\nmatch = "127.*"\ntoken_file = "file.toml"\n[node.tls]\nauthority = "a.pem"\n'
    other = '[[node]]\ntoken_env = "T"\nplain_token = true\n[[node]]\ntls = { certificate = "c", key = "k" }\n'
    return [text.encode(), other.encode(), b"tw_abc\n"]


def _onnx(content: bytes) -> None:
    """A segment of a pushed model, before ONNX Runtime sees it."""
    with tempfile.TemporaryDirectory(prefix="tw-fuzz-") as folder:
        Path(folder, "m.onnx").write_bytes(content)
        check_contents(Artifact(Path(folder), _manifest(), "0" * 64), "m.onnx")


def _onnx_seeds() -> list[bytes]:
    def field(number: int, *parts: bytes) -> bytes:
        return b"".join(bytes(part) for part in encode_field(number, parts))

    def entry(key: bytes, value: bytes) -> bytes:
        return field(13, field(1, key), field(2, value))

    # Numbers of onnx.proto: a model's graph 7, function 25; a graph's node 1, tensor 5; a node's domain 7, attribute 5.
    tensor = field(5, entry(b"location", b"m.onnx"), entry(b"offset", b"0"))
    node = field(1, field(4, b"Relu"), field(7, b"ai.onnx"), field(5, field(5, entry(b"location", b"../w"))))
    inner = field(1, field(5, field(6, node)))
    function = field(25, field(10, b"own"), field(7, field(7, b"own")))
    return [field(7, node, tensor), field(7, inner) + function, b"\x08\x09" + field(7, tensor)]


def _trace(content: bytes) -> None:
    found = TraceContext.parse(content)
    if found is not None and TraceContext.parse(found.header()) != found:
        raise RuntimeError("a context must survive its own header")


TARGETS: Final[dict[str, Target]] = {
    "frame": Target(_frame, _frame_seeds),
    "tables": Target(_tables, lambda: [b"p" + write_prior(_PRIOR), b"a" + write_affine(_AFFINE)]),
    "message": Target(_message, _message_seeds),
    "rest": Target(_rest, _rest_seeds),
    "push": Target(_push, _push_seeds),
    "artifact": Target(_artifact, _artifact_seeds),
    "picture": Target(_picture, _picture_seeds),
    "config": Target(_config, _config_seeds),
    "tokens": Target(_tokens, _tokens_seeds),
    "keyring": Target(_keyring, _keyring_seeds),
    "onnx": Target(_onnx, _onnx_seeds),
    "trace": Target(_trace, lambda: [TraceContext.new().header().encode(), b"01-" + b"a" * 32 + b"-" + b"b" * 16]),
}
