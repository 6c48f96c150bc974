import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageOps

from tierwise._errors import InputError
from tierwise.artifact import (
    ImageInput,
    Preprocessor,
    TensorInput,
    TensorSpec,
    TextInput,
    picture_size,
    request_tensors,
    to_payload,
)
from tierwise.cli._infer import _file_inputs
from tierwise.training._folder import read_folder


def picture(mode: str, size: tuple[int, int], form: str, seed: int = 0) -> bytes:
    channels = {"L": 1, "RGB": 3}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze() if mode == "L" else pixels).save(out, form)
    return out.getvalue()


def image_input(encoding: str = "png", side: int = 8, channels: int = 3) -> ImageInput:
    return ImageInput(
        encoding=encoding,  # type: ignore[arg-type]
        height=side,
        width=side,
        channels=channels,  # type: ignore[arg-type]
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
    )


def test_pictures_become_normalised_nchw() -> None:
    data = picture("RGB", (8, 8), "PNG")
    spec = image_input()
    batch = Preprocessor(spec)(to_payload(spec, [data, data]))["input"]
    raw = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64)
    want = ((raw / 255 - 0.4) / 0.2).transpose(2, 0, 1)
    assert batch.dtype == np.float32
    assert batch.shape == (2, 3, 8, 8)
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch[1], want, atol=1e-5)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_format_mode_and_size(form: str, mode: str, channels: int) -> None:
    spec = image_input(channels=channels)
    batch = Preprocessor(spec)(to_payload(spec, [picture(mode, (13, 21), form)]))["input"]
    assert batch.shape == (1, channels, 8, 8)
    assert np.isfinite(batch).all()


def test_raw_pixels_equal_the_same_picture_as_png() -> None:
    data = picture("L", (8, 8), "PNG")
    pixels = np.asarray(Image.open(io.BytesIO(data)))[:, :, None]
    raw, png = image_input("uint8", channels=1), image_input("png", channels=1)
    np.testing.assert_array_equal(
        Preprocessor(raw)(to_payload(raw, [pixels]))["input"], Preprocessor(png)(to_payload(png, [data]))["input"]
    )


@pytest.mark.parametrize("items", [[], [np.zeros((8, 8, 1), np.uint8), np.zeros((8, 9, 1), np.uint8)]])
def test_pixels_must_be_of_one_shape_and_at_least_one_picture(items: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="at least one picture, all of one shape"):
        to_payload(image_input("uint8", channels=1), items)


@pytest.mark.parametrize(
    ("encoding", "item", "message"),
    [
        ("uint8", np.full((8, 8, 1), 0.9, np.float32), "pixels must be uint8, 0 to 255, but got float32"),
        ("uint8", [[1, 2], [3]], "pixels must be an array"),
        ("png", "picture.png", "must be the bytes of an encoded picture, but got str"),
        ("png", 5, "must be the bytes of an encoded picture, but got int"),
        ("png", np.zeros((8, 8, 1), np.uint8), "must be the bytes of an encoded picture, but got ndarray"),
    ],
)
def test_items_are_not_made_to_fit_in_silence(encoding: str, item: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_payload(image_input(encoding, channels=1), [item])


@pytest.mark.parametrize(
    ("pair", "item"), [(False, b"text"), (False, 5), (True, "ab"), (True, ("a", None)), (False, "\ud800")]
)
def test_texts_are_texts(pair: bool, item: Any) -> None:
    with pytest.raises(InputError, match="must be"):
        to_payload(TextInput(max_length=4, pair=pair), [item])


def bomb() -> bytes:
    """A PNG header that claims 30000 x 30000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data", [b"", b"hello", picture("RGB", (8, 8), "PNG")[:40], bomb()], ids=["empty", "text", "cut short", "bomb"]
)
def test_what_is_no_picture_is_refused_and_named(data: bytes) -> None:
    spec = image_input()
    with pytest.raises(InputError, match=r"payload\[1\]"):
        Preprocessor(spec)(to_payload(spec, [picture("RGB", (8, 8), "PNG"), data]))


@pytest.mark.parametrize(
    "payload",
    [
        np.zeros((1, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 1), np.float32),
    ],
)
def test_wrong_pixel_tensors(payload: np.ndarray) -> None:
    with pytest.raises(InputError, match="UINT8"):
        Preprocessor(image_input("uint8", channels=1))(payload)


@pytest.mark.parametrize(("mean", "std"), [(0.4, 0.0), (0.4, -1.0), (float("inf"), 0.2), (0.4, float("nan"))])
def test_a_scale_that_no_pixel_survives_is_refused(mean: float, std: float) -> None:
    spec = ImageInput(encoding="png", height=8, width=8, channels=1, mean=(mean,), std=(std,))
    with pytest.raises(InputError, match="std must be from"):
        Preprocessor(spec)


def test_wrong_byte_tensors() -> None:
    with pytest.raises(InputError, match=r"BYTES \[n, 1\]"):
        Preprocessor(image_input())(np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="'payload'"):
        Preprocessor(image_input())({"image": np.zeros(1)})
    with pytest.raises(InputError, match="per channel"):
        Preprocessor(ImageInput(encoding="png", height=8, width=8, channels=3, mean=(0.5,), std=(0.5,)))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]")
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_text_is_padded_and_cut_to_length(tokenizer: Path) -> None:
    spec = TextInput(max_length=4)
    out = Preprocessor(spec, tokenizer)(to_payload(spec, ["a b", "a a a a a b", "é"]))
    np.testing.assert_array_equal(out["input_ids"], [[2, 3, 0, 0], [2, 2, 2, 2], [1, 0, 0, 0]])
    np.testing.assert_array_equal(out["attention_mask"], [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert out["input_ids"].dtype == np.int64


def test_pairs(tokenizer: Path) -> None:
    spec = TextInput(max_length=6, pair=True, type_ids="token_type_ids")
    out = Preprocessor(spec, tokenizer)(to_payload(spec, [("a", "b b")]))
    np.testing.assert_array_equal(out["input_ids"], [[2, 3, 3, 0, 0, 0]])
    np.testing.assert_array_equal(out["token_type_ids"], [[0, 1, 1, 0, 0, 0]])
    with pytest.raises(InputError, match="pair"):
        to_payload(spec, [("a", "b", "c")])


def test_text_errors(tokenizer: Path) -> None:
    spec = TextInput(max_length=4)
    bad = np.empty((1, 1), dtype=object)
    bad[0, 0] = b"\xff"
    with pytest.raises(InputError, match="UTF-8"):
        Preprocessor(spec, tokenizer)(bad)
    (tokenizer / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        Preprocessor(spec, tokenizer)


def test_tensors_pass_through_and_missing_ones_are_named() -> None:
    spec = TensorInput(tensors=(TensorSpec(name="x", dtype="FP32", shape=(-1, 2)),))
    x = np.ones((1, 2), np.float32)
    assert Preprocessor(spec)({"x": x, "more": x}) == {"x": x}
    with pytest.raises(InputError, match=r"\['x'\]"):
        Preprocessor(spec)({"y": x})


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_it_is_shown_wherever_it_is_read(tmp_path: Path, orientation: int) -> None:
    """By a node, from a folder to learn from, and where somebody asks for an answer at the command line."""
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a" / "x.png"
    file.parent.mkdir()
    stored.save(file, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    height, width = shown.shape[:2]
    assert picture_size(file.read_bytes(), "x") == (height, width)
    spec = msgspec.structs.replace(image_input("uint8"), height=height, width=width)
    (learnt,), _ = read_folder(tmp_path, ("a",), spec)
    asked = _file_inputs(file, request_tensors(spec))["payload"][0]
    encoded = msgspec.structs.replace(spec, encoding="png")
    served = Preprocessor(encoded)(to_payload(encoded, [file.read_bytes()]))["input"]
    np.testing.assert_array_equal(learnt, shown)
    np.testing.assert_array_equal(asked, shown)
    np.testing.assert_array_equal(served, Preprocessor(spec)(to_payload(spec, [shown]))["input"])


@pytest.mark.parametrize("encoding", ["uint8", "png"])
def test_a_folder_to_learn_from_names_the_file_that_breaks_off(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a" / "x.png"
    file.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-60])
    spec = msgspec.structs.replace(image_input(encoding), height=6, width=8)
    with pytest.raises(InputError, match=rf"^{file}: the file must be a picture, "):
        read_folder(tmp_path, ("a",), spec)
