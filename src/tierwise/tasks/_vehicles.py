"""Two public sets of vehicles with boxes, cut so that no scene and no near-duplicate is in two splits."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from tierwise.tasks._box_files import BoxedPicture, yolo_boxes
from tierwise.tasks._source import Source, SourceFile

__all__ = ["VEHICLES", "Vehicles", "read_vehicles", "vehicle_files"]

Vehicles = Literal["traffic-vehicles", "emergency-vehicles"]

VEHICLES: dict[Vehicles, tuple[str, ...]] = {
    "traffic-vehicles": ("vehicle",),
    # The set's own file of names has the two the wrong way round, as its pictures show.
    "emergency-vehicles": ("ambulance", "other vehicle"),
}
"""Class names of each set."""

_TRAFFIC = SourceFile(
    "traffic_vehicles",
    "traffic_vehicles_sub.tar",
    "2948d35bb1d84e0a65b16ad0bd892172fcd1b656f2af2ce628640bb38acca74a",
    (),
    "https://github.com/KushanManahara/Dynamic-Traffic-Flow-Analysis-using-YOLOv8",
)
_EMERGENCY_ORIGIN = "https://github.com/nayakantaryami/Yolo_v8_emergency"
_EMERGENCY = SourceFile(
    "emergency_vehicles",
    "emergency_vehicles.tar",
    "bfbcd08265206fba83ed4e6d55113f56edbf68639da4766a9fe9213212fdcc23",
    (),
    _EMERGENCY_ORIGIN,
)
_SUSPECTS = SourceFile(
    "emergency_vehicles",
    "suspect_labels.tsv",
    "7e6a3ae07a3b7407b92f517037f74dc6065b22953212059ca3c6b53f0f910131",
    (),
    _EMERGENCY_ORIGIN,
)

# Videos by their prefix. Some show one place (1 and 6 a bridge; 8, test and test2 a sunken road; 3 and 13, 12 and 14
# a motorway) and stay on one side.
_TRAFFIC_TEST = ("3", "13", "7", "10", "15")
_TRAFFIC_VALIDATION = ("2", "11", "test3")
_CALIBRATION_EVERY = 10
"""One of so many frames of the train split's videos becomes a calibration item."""

_DUPLICATE = "near-duplicate of "


def vehicle_files(name: Vehicles) -> tuple[SourceFile, ...]:
    """The data files of a set."""
    return (_TRAFFIC,) if name == "traffic-vehicles" else (_EMERGENCY, _SUSPECTS)


def read_vehicles(name: Vehicles, source: Source, *, keep_suspects: bool = False) -> dict[str, list[BoxedPicture]]:
    """The four splits of a set.

    Args:
        name: Which.
        source: Gives its files.
        keep_suspects: Whether pictures stay whose class is probably wrong (`emergency-vehicles` lists about 40).

    Raises:
        UnavailableError: A file can be had neither from ``$TIERWISE_DATA`` nor by download.
    """
    if name == "traffic-vehicles":
        return _traffic(_pictures(source.read(_TRAFFIC), 1))
    pictures = _pictures(source.read(_EMERGENCY), 2)
    return _emergency(pictures, source.read(_SUSPECTS).decode(), keep_suspects)


def _pictures(packed: bytes, classes: int) -> dict[str, BoxedPicture]:
    """Pictures by their stem, from a tar of YOLO folders; nothing is unpacked to disk."""
    contents: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isreg() else None
            path = PurePosixPath(member.name)
            if opened is None or path.parent.name not in ("images", "labels"):
                continue
            if path.parent.name == "images":
                contents[path.stem] = opened.read()
            else:
                texts[path.stem] = opened.read().decode()
    return {
        stem: BoxedPicture(stem, contents[stem], yolo_boxes(texts.get(stem, ""), stem, classes))
        for stem in sorted(contents)
    }


def _traffic(pictures: dict[str, BoxedPicture]) -> dict[str, list[BoxedPicture]]:
    splits: dict[str, list[BoxedPicture]] = {"train": [], "calibration": [], "validation": [], "test": []}
    known = 0
    for stem, picture in pictures.items():
        video = stem.split("_mp4")[0]
        if video in _TRAFFIC_TEST:
            splits["test"].append(picture)
        elif video in _TRAFFIC_VALIDATION:
            splits["validation"].append(picture)
        else:
            known += 1
            splits["train" if known % _CALIBRATION_EVERY else "calibration"].append(picture)
    return splits


def _emergency(pictures: dict[str, BoxedPicture], listed: str, keep: bool) -> dict[str, list[BoxedPicture]]:
    suspects: set[str] = set()
    groups = {stem: stem for stem in pictures}

    def root(stem: str) -> str:
        while groups[stem] != stem:
            stem = groups[stem]
        return stem

    for line in listed.splitlines():
        path, remark = line.split("\t", 1)
        stem, remark = PurePosixPath(path).stem, remark.strip()
        if remark.startswith(_DUPLICATE):
            ones = root(stem), root(PurePosixPath(remark.removeprefix(_DUPLICATE)).stem)
            groups[max(ones)] = min(ones)
        else:
            suspects.add(stem)
    # Pictures of one content, which the list does not name, belong together too.
    first: dict[bytes, str] = {}
    for stem, picture in pictures.items():
        ones = root(stem), root(first.setdefault(hashlib.sha256(picture.content).digest(), stem))
        groups[max(ones)] = min(ones)
    splits: dict[str, list[BoxedPicture]] = {"train": [], "calibration": [], "validation": [], "test": []}
    for stem, picture in pictures.items():
        if stem not in suspects or keep:
            splits[_side(root(stem))].append(picture)
    return splits


def _side(group: str) -> str:
    """A split for a group of near-duplicates: by a hash, so that it does not hang on what else is in the set."""
    share = np.frombuffer(hashlib.sha256(group.encode()).digest()[:4], "<u4")[0] / 2**32
    return "test" if share < 0.2 else "validation" if share < 0.35 else "calibration" if share < 0.42 else "train"
