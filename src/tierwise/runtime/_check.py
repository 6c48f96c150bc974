"""Whether a node could serve as its spec says, found out without serving."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from pathlib import Path

from tierwise._errors import TierwiseError
from tierwise.runtime._dangers import dangers
from tierwise.runtime._shelf import Shelf
from tierwise.runtime._spec import NodeSpec

__all__ = ["check"]


def check(spec: NodeSpec) -> list[str]:
    """What would keep a node from serving, one sentence each; empty where nothing would.

    Addresses are bound for a moment, and every artifact that the repository would serve again is read and verified.
    Nothing is changed.
    """
    problems = [
        f"listen: an address must be given once, but got {address} {count} times"
        for address, count in Counter((*spec.listen, *spec.rest)).items()
        if count > 1 and not address.endswith(":0")
    ]
    metrics = () if spec.observability.metrics_listen is None else (spec.observability.metrics_listen,)
    for address in dict.fromkeys((*spec.listen, *spec.rest, *metrics)):
        problems += _address(address)
    problems += dangers(spec)
    if spec.repository is not None:
        problems += _repository(Path(spec.repository))
    if spec.training_folder is not None and not Path(spec.training_folder).is_dir():
        problems.append(f"training_folder: the folder to learn from must exist, but got {spec.training_folder}")
    return problems


def _address(address: str) -> list[str]:
    if address.startswith("unix:"):
        folder = Path(address.removeprefix("unix:")).absolute().parent
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return []
        return [f"{address}: the socket's folder must exist and be writable, but got {folder}"]
    host, port = address.rpartition(":")[::2]
    if not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        return [f"{address}: an address must be HOST:PORT or unix:PATH"]
    try:
        families = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, target = families[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        return [f"{address}: the node must be able to listen there, but got {error}"]
    return []


def _repository(folder: Path) -> list[str]:
    if not folder.exists():
        parent = next(path for path in folder.absolute().parents if path.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return []
        return [f"{folder}: the repository must exist or be creatable, but got {parent}, which cannot be written"]
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [f"{folder}: the repository must be a folder that can be read and written"]
    problems = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        shelf = Shelf(path)
        try:
            for version in shelf.record().served:
                shelf.open(int(version))
        except (TierwiseError, OSError, ValueError) as error:
            problems.append(str(error))
    return problems
