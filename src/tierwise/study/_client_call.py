"""How a client asks a deployment: the command, and the same in Python with any client of the protocol."""

from __future__ import annotations

import shlex

from tierwise.artifact import PAYLOAD_INPUT, ImageInput, InputEncoding, TextInput
from tierwise.study._deployment import DeploymentPlan

__all__ = ["client_calls"]


def client_calls(plan: DeploymentPlan) -> tuple[str, str]:
    """The command line and the Python program (NumPy and ``tritonclient[grpc]``) that send one item."""
    address, encoding = plan.hops[0].placed.control, plan.artifact.manifest.input
    command = f"tierwise infer {shlex.quote(plan.name)} {_words(encoding)} --node {shlex.quote(address)}"
    outputs = "\n".join(f"print(answer.as_numpy({spec.name!r}))" for spec in plan.artifact.manifest.outputs)
    program = (
        f"import numpy as np\n{_imports(encoding)}import tritonclient.grpc as grpc\n\n"
        f"client = grpc.InferenceServerClient({address!r})\n{_inputs(encoding)}\n"
        f"answer = client.infer({plan.name!r}, inputs)\n{outputs}\n"
    )
    return command, program


def _words(encoding: InputEncoding) -> str:
    if isinstance(encoding, TextInput):
        return "--text 'one text' --text 'another'" if encoding.pair else "--text 'a text'"
    return "picture.png" if isinstance(encoding, ImageInput) else "tensors.npz"


def _imports(encoding: InputEncoding) -> str:
    return "from PIL import Image\n" if isinstance(encoding, ImageInput) and encoding.encoding == "uint8" else ""


def _inputs(encoding: InputEncoding) -> str:
    if isinstance(encoding, ImageInput) and encoding.encoding == "uint8":
        mode = "L" if encoding.channels == 1 else "RGB"
        return (
            f'picture = Image.open("picture.png").convert({mode!r})\n'
            f"pixels = np.asarray(picture).reshape(1, picture.height, picture.width, {encoding.channels})\n"
            f'inputs = [grpc.InferInput({PAYLOAD_INPUT!r}, pixels.shape, "UINT8")]\n'
            "inputs[0].set_data_from_numpy(pixels)"
        )
    if isinstance(encoding, ImageInput | TextInput):
        pair = isinstance(encoding, TextInput) and encoding.pair
        text = '"one text".encode(), "another".encode()' if pair else '"a text".encode()'
        row = text if isinstance(encoding, TextInput) else 'open("picture.png", "rb").read()'
        return (
            f"payload = np.array([[{row}]], dtype=object)\n"
            f'inputs = [grpc.InferInput({PAYLOAD_INPUT!r}, payload.shape, "BYTES")]\n'
            "inputs[0].set_data_from_numpy(payload)"
        )
    types = ", ".join(f"{spec.name!r}: {spec.dtype!r}" for spec in encoding.tensors)
    return (
        f'types, tensors = {{{types}}}, np.load("tensors.npz")\n'
        "inputs = [grpc.InferInput(name, tensors[name].shape, kind) for name, kind in types.items()]\n"
        "for sent in inputs:\n    sent.set_data_from_numpy(tensors[sent.name()])"
    )
