"""From what the device holds (picture, pixels, text) to the tensors a model takes. Runs on a node, without torch.

Training uses the same code, so that a model never sees other numbers in service than it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, final

import msgspec
import numpy as np
import numpy.typing as npt

from tierwise._config import Spec
from tierwise._errors import InputError, UnavailableError
from tierwise.artifact._canvas import placed_at
from tierwise.artifact._manifest import ImageInput, InputEncoding, TensorInput, TensorSpec, TextInput
from tierwise.artifact._picture import opened, pixels_of

__all__ = ["PAYLOAD_INPUT", "Preprocessor", "request_tensors", "to_payload"]

PAYLOAD_INPUT = "payload"
"""Name of the one tensor a client sends for pictures and text."""

Tensors = dict[str, npt.NDArray[Any]]
Positive = Annotated[int, msgspec.Meta(gt=0)]


@final
class InputLimits(Spec, frozen=True, kw_only=True):
    """What one request may become when it is unpacked: a few bytes can claim gigapixels.

    Attributes:
        picture_pixels: Pixels of one picture, as its head says, before it is decoded.
        request_pixels: Pixels of all pictures of a request.
        text_bytes: Bytes of one text.
        prepared_elements: Elements of one tensor that the items become (rows of tokens, pictures as the model wants
            them).
        latent_elements: Elements of the latent that one frame may stand for.
    """

    picture_pixels: Positive = 64_000_000
    request_pixels: Positive = 256_000_000
    text_bytes: Positive = 256 << 10
    prepared_elements: Positive = 1 << 27
    latent_elements: Positive = 1 << 24


_LARGEST: Final = 1 << 62
# Items of one's own (training, calibration) come by the whole split.
_OWN_ITEMS: Final = InputLimits(request_pixels=_LARGEST, text_bytes=_LARGEST, prepared_elements=_LARGEST)

_GREY = 114
"""Around a letterboxed picture: what detectors are usually trained with, near the mean of photographs."""


def request_tensors(encoding: InputEncoding) -> tuple[TensorSpec, ...]:
    """What a client sends for an input encoding: the model's own tensors, or the one payload."""
    match encoding:
        case TensorInput(tensors=tensors):
            return tensors
        case ImageInput(encoding="uint8", channels=channels):
            return (TensorSpec(name=PAYLOAD_INPUT, dtype="UINT8", shape=(-1, -1, -1, channels)),)
        case ImageInput():
            return (TensorSpec(name=PAYLOAD_INPUT, dtype="BYTES", shape=(-1, 1)),)
        case TextInput(pair=pair):
            return (TensorSpec(name=PAYLOAD_INPUT, dtype="BYTES", shape=(-1, 1 + pair)),)


def to_payload(encoding: InputEncoding, items: Sequence[Any]) -> npt.NDArray[Any]:
    """Pack items, as the device holds them, into the tensor a client sends.

    Args:
        encoding: The artifact's input encoding.
        items: bytes (encoded pictures), uint8 arrays [height, width, channels], texts, or pairs of texts.

    Returns:
        Object array of bytes [n, 1] or [n, 2], or uint8 array [n, height, width, channels].

    Raises:
        InputError: The items do not fit the encoding.
    """
    match encoding:
        case ImageInput(encoding="uint8"):
            pictures = [_pixels(item) for item in items]
            if len({picture.shape for picture in pictures}) != 1:
                raise InputError(
                    "a request must hold at least one picture, all of one shape",
                    got=[list(picture.shape) for picture in pictures[:8]],
                )
            return np.stack(pictures)
        case ImageInput():
            return _object_column([[_file(item)] for item in items])
        case TextInput(pair=pair):
            return _object_column([_texts(item, pair) for item in items])
        case TensorInput():
            raise InputError(
                "items of a tensor model have no payload form", fix="Send the model's own input tensors by name"
            )


def _pixels(item: Any) -> npt.NDArray[np.uint8]:
    try:
        pixels = np.asarray(item)
    except ValueError as error:  # rows of unlike lengths
        raise InputError(f"pixels must be an array ({error})", got=type(item).__name__) from error
    if pixels.dtype != np.uint8:
        raise InputError("pixels must be uint8, 0 to 255", got=pixels.dtype, fix="Scale and convert them first")
    return pixels


def _file(item: Any) -> bytes:
    if not isinstance(item, bytes | bytearray | memoryview):
        raise InputError("each item must be the bytes of an encoded picture", got=type(item).__name__)
    return bytes(item)


def _texts(item: Any, pair: bool) -> list[bytes]:
    texts = item if pair and isinstance(item, tuple | list) else (item,)
    if len(texts) != 1 + pair or not all(isinstance(text, str) for text in texts):
        raise InputError(f"each item must be {'a pair of texts' if pair else 'one text'}", got=repr(item)[:80])
    try:
        return [text.encode() for text in texts]
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise InputError(f"a text must be encodable as UTF-8 ({error})", got=repr(item)[:80]) from error


def _object_column(rows: Sequence[Sequence[bytes]]) -> npt.NDArray[Any]:
    packed = np.empty((len(rows), len(rows[0]) if rows else 1), dtype=object)
    for i, row in enumerate(rows):
        for j, element in enumerate(row):
            packed[i, j] = element
    return packed


@final
class Preprocessor:
    """Turns request tensors into model tensors, as an artifact's input encoding says.

    Args:
        encoding: What the client sends.
        directory: The artifact's directory (the tokenizer's file is read from there).
        limits: What a request may become; None: what it likes, as long as a picture is not absurd.

    Raises:
        UnavailableError: A text model, and the ``tokenizers`` library is not installed.
        InputError: The tokenizer's file cannot be read.
    """

    def __init__(
        self, encoding: InputEncoding, directory: Path | None = None, limits: InputLimits | None = None
    ) -> None:
        self.encoding = encoding
        self._limits = _OWN_ITEMS if limits is None else limits
        self._tokenizer: Any = None
        if isinstance(encoding, TextInput):
            if directory is None:
                raise InputError("a text encoding needs the artifact's directory", where=encoding.tokenizer)
            self._tokenizer = _load_tokenizer(directory / encoding.tokenizer, encoding.max_length)
        elif isinstance(encoding, ImageInput):
            if len(encoding.mean) != encoding.channels or len(encoding.std) != encoding.channels:
                raise InputError(
                    "mean and std must have one value per channel",
                    got=f"{len(encoding.mean)} and {len(encoding.std)} for {encoding.channels} channels",
                )
            if not (all(1e-6 <= s <= 1e6 for s in encoding.std) and all(abs(m) <= 1e6 for m in encoding.mean)):
                raise InputError(
                    "std must be from 1e-6 to 1e6 and mean within 1e6",
                    got=f"std {list(encoding.std)}, mean {list(encoding.mean)}",
                )
            # (x / 255 - mean) / std as one multiplication and one addition.
            std = np.asarray(encoding.std, dtype=np.float32).reshape(-1, 1, 1)
            mean = np.asarray(encoding.mean, dtype=np.float32).reshape(-1, 1, 1)
            self._gain = (1.0 / (255.0 * std)).astype(np.float32)
            self._offset = (-mean / std).astype(np.float32)

    def __call__(self, tensors: Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any]) -> Tensors:
        """Model tensors for one request.

        Args:
            tensors: The request's tensors by name; for pictures and text also the payload tensor itself.

        Returns:
            Model inputs by name, batch axis first.

        Raises:
            InputError: A tensor is missing or has the wrong type or shape, or a picture or text cannot be decoded;
                the message says which item.
        """
        encoding = self.encoding
        if isinstance(encoding, TensorInput):
            return _check_tensors(encoding, tensors)
        payload = tensors.get(PAYLOAD_INPUT) if isinstance(tensors, Mapping) else tensors
        if payload is None:
            raise InputError(f"the request must hold the tensor {PAYLOAD_INPUT!r}", got=sorted(tensors))
        if isinstance(encoding, TextInput):
            return self._tokenise(encoding, payload)
        return {encoding.tensor: self._pictures(encoding, payload)}

    def _pictures(self, spec: ImageInput, payload: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        size = spec.height * spec.width * spec.channels
        if spec.encoding == "uint8":
            if payload.dtype != np.uint8 or payload.ndim != 4 or payload.shape[3] != spec.channels:
                raise InputError(
                    f"raw pixels must be UINT8 [n, height, width, {spec.channels}]",
                    got=f"{payload.dtype} {list(payload.shape)}",
                    where=PAYLOAD_INPUT,
                )
            self._check_size(len(payload), size)
            pixels = payload
            if payload.shape[1:3] != (spec.height, spec.width):
                if payload.size == 0:
                    raise InputError("a picture must have pixels", got=list(payload.shape), where=PAYLOAD_INPUT)
                pixels = np.stack([_resize(picture, spec) for picture in payload])
        else:
            rows = _byte_rows(payload, 1)
            self._check_size(len(rows), size)
            pixels = np.empty((len(rows), spec.height, spec.width, spec.channels), np.uint8)
            left = self._limits.request_pixels
            for i, row in enumerate(rows):
                pixels[i], opened = _decode(row[0], spec, i, min(self._limits.picture_pixels, left))
                left -= opened
        if spec.order == "bgr":
            pixels = pixels[:, :, :, ::-1]
        batch: npt.NDArray[np.float32] = pixels.transpose(0, 3, 1, 2).astype(np.float32)
        batch *= self._gain
        batch += self._offset
        return np.ascontiguousarray(batch)

    def _check_size(self, items: int, elements: int) -> None:
        most = self._limits.prepared_elements // elements
        if items > most:
            raise InputError(
                f"a request may hold at most {most} items of {elements} elements each", got=items, where=PAYLOAD_INPUT
            )

    def _tokenise(self, spec: TextInput, payload: npt.NDArray[Any]) -> Tensors:
        rows = _byte_rows(payload, 1 + spec.pair)
        self._check_size(len(rows), spec.max_length)
        longest = max(len(part) for row in rows for part in row)
        if longest > self._limits.text_bytes:
            raise InputError(
                f"a text may have at most {self._limits.text_bytes:,} bytes", got=f"{longest:,}", where=PAYLOAD_INPUT
            )
        try:
            texts = [tuple(part.decode() for part in row) if spec.pair else row[0].decode() for row in rows]
        except UnicodeDecodeError as error:
            raise InputError(f"text must be UTF-8 ({error})", where=PAYLOAD_INPUT) from error
        encoded = self._tokenizer.encode_batch(texts)
        tensors: Tensors = {spec.ids: np.array([e.ids for e in encoded], dtype=np.int64)}
        if spec.mask is not None:
            tensors[spec.mask] = np.array([e.attention_mask for e in encoded], dtype=np.int64)
        if spec.type_ids is not None:
            tensors[spec.type_ids] = np.array([e.type_ids for e in encoded], dtype=np.int64)
        return tensors


def _load_tokenizer(path: Path, max_length: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UnavailableError(
            "a text model needs the tokenizers library", fix="Install it with: pip install 'tierwise[text]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise InputError(f"the tokenizer's file cannot be read ({error})", where=path) from error
    tokenizer.enable_truncation(max_length)
    pad = next((token for token in ("[PAD]", "<pad>") if tokenizer.token_to_id(token) is not None), None)
    if pad is None:
        raise InputError("the tokenizer must know a padding token, [PAD] or <pad>", where=path)
    tokenizer.enable_padding(length=max_length, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return tokenizer


def _byte_rows(payload: npt.NDArray[Any], columns: int) -> list[Any]:
    rows = payload.reshape(-1, 1) if payload.ndim == 1 and columns == 1 else payload
    if rows.dtype != object or rows.ndim != 2 or rows.shape[1] != columns or rows.shape[0] == 0:
        raise InputError(
            f"the payload must be BYTES [n, {columns}] with n >= 1",
            got=f"{payload.dtype} {list(payload.shape)}",
            where=PAYLOAD_INPUT,
        )
    return [list(row) for row in rows]


def _decode(content: bytes, spec: ImageInput, index: int, most_pixels: int) -> tuple[npt.NDArray[np.uint8], int]:
    """The picture as the model wants it, and how many pixels it had."""
    where = f"{PAYLOAD_INPUT}[{index}]"
    with opened(content, where, "bytes") as picture:
        count = picture.width * picture.height
        if count > most_pixels:
            raise InputError(
                f"a picture may have at most {most_pixels:,} pixels (those before it in the request count too)",
                got=f"{picture.width} x {picture.height}",
                where=where,
            )
        pixels = pixels_of(picture, spec.channels)
    return _resize(pixels, spec), count


def _resize(pixels: npt.NDArray[np.uint8], spec: ImageInput) -> npt.NDArray[np.uint8]:
    if pixels.shape[:2] == (spec.height, spec.width):
        return pixels
    from PIL import Image

    left, top, width, height = placed_at(spec, *pixels.shape[:2])
    picture = Image.fromarray(pixels[:, :, 0] if spec.channels == 1 else pixels)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)
    if (width, height) == (spec.width, spec.height):
        return resized
    canvas = np.full((spec.height, spec.width, spec.channels), _GREY, np.uint8)
    canvas[top : top + height, left : left + width] = resized
    return canvas


def _check_tensors(encoding: TensorInput, tensors: Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any]) -> Tensors:
    wanted = [spec.name for spec in encoding.tensors]
    if not isinstance(tensors, Mapping):
        tensors = {wanted[0]: tensors}
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise InputError(f"the request must hold the tensors {wanted}", got=sorted(tensors))
    return {name: tensors[name] for name in wanted}
