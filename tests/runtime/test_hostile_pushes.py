"""Artifacts that mean harm, pushed to a real node over gRPC and REST: refused, and nothing of them stays."""

import base64
import hashlib
import http.client
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tierwise._errors import RemoteError
from tierwise.artifact import Artifact, read_files
from tierwise.runtime import PROBE
from tierwise.wire import InferenceClient

Start = Callable[..., Any]


@dataclass(frozen=True)
class Attack:
    """Files in place of an artifact's, a name that the manifest lists besides, and what the refusal says."""

    says: str
    files: dict[str, bytes] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    listed: dict[str, bytes] = field(default_factory=dict)


def model(**change: Any) -> Any:
    """x + w -> h, in the place of the first segment of ``chain``."""
    weight = change.get("weight", numpy_helper.from_array(np.zeros((4, 6), np.float32), "w"))
    nodes = change.get("nodes", [helper.make_node("MatMul", ["x", "w"], ["h"])])
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 4), ("h", 6))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
    domains = [helper.make_opsetid("", 18), *(helper.make_opsetid(name, 1) for name in change.get("domains", ()))]
    return helper.make_model(graph, opset_imports=domains, functions=change.get("functions", ()), ir_version=9)


def outside(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 6], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_branch(location: str) -> Any:
    hidden = helper.make_node("Constant", [], ["c"], value=outside(location, "c"))
    branch = helper.make_graph([hidden], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4, 6])])
    choice = helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    return model(nodes=[helper.make_node("MatMul", ["x", "w"], ["h"]), choice])


def in_function(location: str) -> Any:
    hidden = helper.make_node("Constant", [], ["c"], value=outside(location, "c"))
    body = [hidden, helper.make_node("MatMul", ["a", "c"], ["b"])]
    made = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    return model(nodes=[helper.make_node("F", ["x"], ["h"], domain="own")], functions=[made], domains=["own"])


def segment(made: Any) -> dict[str, bytes]:
    return {"segments/0.onnx": made.SerializeToString()}


def archive(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("../../evil", bytes(10 << 20))
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            tar.addfile(tarfile.TarInfo("../../evil"))
    return out.getvalue()


FOREIGN = helper.make_node("Run", ["x"], ["h"], domain="evil.ops")
MUST_STAY = "a file name must stay inside the artifact"
ATTACKS: dict[str, Attack] = {
    **{
        f"name {name!r}": Attack(MUST_STAY, listed={name: b"x"})
        for name in (
            "../evil",
            "a/../../evil",
            "/etc/cron.d/evil",
            "./evil",
            "a//evil",
            "a/",
            "",
            ".hidden",
            "..",
            "evil.",
            "evil ",
            "C:\\evil",
            "C:evil",
            "a\\..\\evil",
            "\\\\host\\share\\evil",
            "nul\0evil",
            "line\nevil",
            "evil:stream",
            "*/_ORT_MEM_ADDR_/*",
            "~/evil",
            "\u202eevil",
            "MANIFEST.JSON",
            "signature.json",
            "a/" * 9 + "evil",
            "e" * 201,
        )
    },
    "same name but for case": Attack("named once, case aside", listed={"Evil.bin": b"x", "evil.bin": b"y"}),
    "file and folder": Attack("a file cannot be a folder too", listed={"evil": b"x", "evil/x": b"y"}),
    "too many files": Attack("at most 1000 files", listed={f"f{i}": b"" for i in range(1001)}),
    "a file that is not listed": Attack("every file must be listed in the manifest", {"evil.so": b"\x7fELF"}),
    "a file is missing": Attack(
        r"the file 'segments/0\.onnx' of the manifest must be sent", missing=("segments/0.onnx",)
    ),
    "no manifest": Attack(r"must include manifest\.json", missing=("manifest.json",)),
    "a manifest that is none": Attack("the manifest must be valid", {"manifest.json": b"[" * 100_000}),
    "a zip in place of a segment": Attack("must be an ONNX model", {"segments/0.onnx": archive("zip")}),
    "a tar in place of a segment": Attack("must be an ONNX model", {"segments/0.onnx": archive("tar")}),
    "a zip in place of the manifest": Attack("the manifest must be valid", {"manifest.json": archive("zip")}),
    **{
        f"weights in {location}": Attack("must lie in the model or in a file", segment(model(weight=outside(location))))
        for location in ("/etc/passwd", "../../../etc/passwd", "1.onnx/../../manifest.json", "*/_ORT_MEM_ADDR_/*", "")
    },
    "weights of a branch": Attack("must lie in the model or in a file", segment(in_branch("/etc/passwd"))),
    "weights of a function": Attack("must lie in the model or in a file", segment(in_function("/etc/passwd"))),
    "an operator of a library": Attack(
        r"must be ONNX Runtime's own: .* the domain 'evil\.ops'",
        segment(model(nodes=[FOREIGN], domains=["evil.ops"])),
        listed={"evil.so": b"\x7fELF"},
    ),
    "junk": Attack("must be an ONNX model|must be able to load", {"segments/0.onnx": bytes(100)}),
    "another format": Attack("must be an ONNX model", {"segments/0.onnx": b"\x18\0\0\0ORTM" + bytes(100)}),
}


def pushed(attack: Attack, artifact: Artifact) -> dict[str, bytes]:
    """The artifact's files as the attack changes them, under a manifest that fits them where it can."""
    files = read_files(artifact) | attack.listed | attack.files
    manifest = json.loads(files["manifest.json"]) if "manifest.json" not in attack.files else None
    if manifest is not None:
        known = {entry["name"] for entry in manifest["files"]} | set(attack.listed)
        manifest["files"] = [
            {"name": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(files[name])}
            for name in known
        ]
        files["manifest.json"] = json.dumps(manifest).encode()
    return {name: content for name, content in files.items() if name not in attack.missing}


@pytest.fixture(scope="module")
def node(start_node: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("hostile")
    node = start_node("wary", "--rest", "127.0.0.1:0", "--repository", str(home / "models"))
    yield node, home
    # Nothing was left, anywhere it could have been.
    assert sorted(path.name for path in home.rglob("*")) == ["models"]


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused(node: Any, chain: Artifact, name: str) -> None:
    running, _ = node
    attack = ATTACKS[name]
    files = pushed(attack, chain)
    with InferenceClient(running.unix) as client:
        with pytest.raises(RemoteError, match=rf"(?s)INVALID_ARGUMENT: tier wary: .*({attack.says})"):
            client.load("m", files=files)
        assert [entry.name for entry in client.index()] == [PROBE]
    packed = {f"file:1/{key}": base64.b64encode(content).decode() for key, content in files.items()}
    host = http.client.HTTPConnection(running.rest.removeprefix("http://"), timeout=20)
    host.request("POST", "/v2/repository/models/m/load", json.dumps({"parameters": packed}))
    assert host.getresponse().status == 400
    host.close()


@pytest.mark.parametrize("where", ["content", "size", "hash"])
def test_what_is_not_as_the_manifest_says_is_refused(node: Any, chain: Artifact, where: str) -> None:
    files = read_files(chain)
    manifest = json.loads(files["manifest.json"])
    if where == "content":
        changed = bytearray(files["segments/1.onnx"])
        changed[-1] ^= 1
        files["segments/1.onnx"] = bytes(changed)
    elif where == "size":
        manifest["files"][0]["bytes"] += 1
    else:
        manifest["files"][0]["sha256"] = "0" * 64
    files["manifest.json"] = json.dumps(manifest).encode()
    with InferenceClient(node[0].tcp) as client, pytest.raises(RemoteError, match=r"INVALID_ARGUMENT: .*segments/"):
        client.load("m", files=files)


@pytest.mark.parametrize("name", ["../m", "a/b", "", ".m", "m\0", "m" * 129, "*", "C:\\m", "-m"])
def test_a_models_name_is_a_name(node: Any, chain: Artifact, name: str) -> None:
    with InferenceClient(node[0].tcp) as client, pytest.raises(RemoteError, match="a model's name must be"):
        client.load(name, files=read_files(chain))


def test_functions_of_the_model_itself_are_served(start_node: Start, chain: Artifact) -> None:
    """What is refused is the domain of others."""
    body = [helper.make_node("MatMul", ["a", "w"], ["b"])]
    made = helper.make_function("own", "F", ["a", "w"], ["b"], body, [helper.make_opsetid("", 18)])
    content = model(nodes=[helper.make_node("F", ["x", "w"], ["h"], domain="own")], functions=[made], domains=["own"])
    onnx.checker.check_model(content)
    with InferenceClient(start_node("own").tcp) as client:
        client.load("m", files=pushed(Attack("", segment(content)), chain))
        assert client.model_ready("m")
