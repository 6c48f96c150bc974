"""Generate the protocol's Python from its .proto: ``python scripts/generate_stubs.py`` (``make stubs``).

The result is committed. It needs grpcio-tools 1.75, whose code runs with every protobuf that the package allows.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

STUBS = Path(__file__).resolve().parents[1] / "src" / "tierwise" / "wire" / "_stubs"
PROTO = "open_inference.proto"


def generate(target: Path) -> None:
    """Write ``open_inference_pb2.py`` and its types into ``target``.

    Raises:
        SystemExit: The compiler is missing or fails, or its output is not what this script knows how to change.
    """
    if importlib.util.find_spec("grpc_tools") is None:
        sys.exit("grpcio-tools must be installed: pip install 'grpcio-tools==1.75.*'")
    from grpc_tools import protoc

    if protoc.main(["protoc", f"-I{STUBS}", f"--python_out={target}", f"--pyi_out={target}", PROTO]) != 0:
        sys.exit("the compiler failed; its message is above")
    module = target / PROTO.replace(".proto", "_pb2.py")
    text = module.read_text()
    # Other clients of the protocol register messages of the same names in protobuf's default pool, which takes each
    # name once in a process. Ours live in a pool of their own, whose classes come from the message factory (the usual
    # builder writes to the default symbol database).
    for old, new in (
        ("from google.protobuf import descriptor_pool as _descriptor_pool\n", ""),
        ("from google.protobuf import symbol_database as _symbol_database\n", ""),
        ("from google.protobuf.internal import builder as _builder\n", ""),
        ("_sym_db = _symbol_database.Default()\n", ""),
        (
            "from google.protobuf import descriptor as _descriptor\n",
            "from google.protobuf import descriptor as _descriptor\n"
            "from google.protobuf import descriptor_pool as _descriptor_pool\n"
            "from google.protobuf import message_factory as _message_factory\n",
        ),
        ("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"),
    ):
        if old not in text:
            sys.exit(f"the compiler's output must contain {old!r}; adapt this script to the new compiler")
        text = text.replace(old, new)
    head, mark, _ = text.partition("_globals = globals()\n")
    if not mark:
        sys.exit("the compiler's output must build its classes after '_globals = globals()'; adapt this script")
    module.write_text(
        head + "for _name, _message in DESCRIPTOR.message_types_by_name.items():\n"
        "  globals()[_name] = _message_factory.GetMessageClass(_message)\n"
    )


def main() -> None:
    """Generate into a folder beside, then put the files in place."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            (STUBS / path.name).write_bytes(path.read_bytes())
            print(STUBS / path.name)


if __name__ == "__main__":
    main()
