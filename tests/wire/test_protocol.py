import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tierwise.wire import METHODS, protocol

ROOT = Path(__file__).resolve().parents[2]

# Both put messages called `inference.ModelInferRequest` into protobuf; each must keep its own.
BOTH = """
{imports}
request = protocol.ModelInferRequest(model_name="m", raw_input_contents=[b"1"])
request.parameters["p"].int64_param = 3
theirs = tritonclient.grpc.service_pb2.ModelInferRequest.FromString(request.SerializeToString())
assert theirs.parameters["p"].int64_param == 3
assert protocol.ModelInferRequest.FromString(theirs.SerializeToString()) == request
"""
OURS, THEIRS = "from tierwise.wire import protocol", "import tritonclient.grpc"


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours-first", "theirs-first"])
def test_another_client_of_the_protocol_lives_in_the_same_process(order: tuple[str, str], implementation: str) -> None:
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
    code = BOTH.format(imports="\n".join(order))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def fields(message: Any) -> dict[str, Any]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.containing_oneof.name if field.containing_oneof else None,
            fields(field.message_type) if field.message_type else None,
        )
        for field in message.fields
    }


def assert_part_of(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    """Every field of ours is one of theirs; they may have more, which clients skip."""
    for field, (*facts, inner) in ours.items():
        assert field in theirs, f"{name}.{field}"
        assert facts == list(theirs[field][:-1]), f"{name}.{field}"
        if inner is not None:
            assert_part_of(inner, theirs[field][-1], f"{name}.{field}")


def test_names_and_numbers_are_the_protocols() -> None:
    from tritonclient.grpc import service_pb2

    theirs = service_pb2.DESCRIPTOR
    assert protocol.DESCRIPTOR.package == theirs.package
    for name, message in protocol.DESCRIPTOR.message_types_by_name.items():
        ours = fields(message)
        if name == "ModelMetadataResponse":
            # KServe's field, which Triton's form of the message leaves free.
            assert ours.pop("properties")[0] == 6
            assert 6 not in {field.number for field in theirs.message_types_by_name[name].fields}
        assert_part_of(ours, fields(theirs.message_types_by_name[name]), name)
    service = theirs.services_by_name["GRPCInferenceService"]
    for name, (path, _, _) in METHODS.items():
        assert path == f"/{service.full_name}/{name}"
        assert name in service.methods_by_name


def test_the_committed_stubs_are_what_the_script_makes(tmp_path: Path, program: Callable[[str], ModuleType]) -> None:
    program("scripts/generate_stubs.py").generate(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stubs = ROOT / "src" / "tierwise" / "wire" / "_stubs"
    assert made == {name: (stubs / name).read_text() for name in ("open_inference_pb2.py", "open_inference_pb2.pyi")}
