"""The range coder of the library ``constriction``, with the bytes of `tierwise.codecs._range_coder`."""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from tierwise._errors import InputError
from tierwise.codecs._range_coder import PRECISION, add_to, close

__all__ = ["FastDecoder", "FastEncoder", "model_of"]

_SEALED: Final = 1 << 64


def model_of(constriction: Any, cumulative: npt.NDArray[np.int64]) -> Any:
    """The library's model with exactly these frequencies.

    Args:
        constriction: The library.
        cumulative: [k + 1] from 0 to 2^24.
    """
    # Frequencies are multiples of its own resolution, so the nearest representable table is the table itself.
    probabilities = np.diff(cumulative) / float(1 << PRECISION)
    return constriction.stream.model.Categorical(probabilities, perfect=True)


@final
class FastEncoder:
    """As `PythonEncoder`, over models of `model_of`.

    Args:
        constriction: The library.
    """

    def __init__(self, constriction: Any) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: npt.NDArray[np.int32], model: Any) -> None:
        """Add symbols [n]."""
        if len(symbols):
            self._encoder.encode(symbols, model)

    def finish(self) -> bytes:
        """What was coded, as `close` makes it."""
        count, (lower, width) = self._encoder.pos()
        written = bytearray(self._encoder.get_compressed()[:count].astype(">u4").tobytes())
        # The library ends at another point of the last interval than we do; its carry into the words is not ours.
        if lower + (1 << 32) - 1 >= _SEALED and written:
            add_to(written, -1)
        return close(written, lower, width)


@final
class FastDecoder:
    """As `PythonDecoder`, over models of `model_of`."""

    def __init__(self, constriction: Any, content: bytes) -> None:
        # Two words of zeros stand for the end without end.
        padded = content.ljust(-(-len(content) // 4) * 4 + 8, b"\0")
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def decode(self, count: int, model: Any) -> npt.NDArray[np.int32]:
        """The next ``count`` symbols.

        Raises:
            InputError: No coder with this model can have written the stream.
        """
        if not count:
            return np.empty(0, np.int32)
        try:
            symbols: npt.NDArray[np.int32] = self._decoder.decode(model, count)
        except AssertionError as error:  # the library's word for it
            raise InputError(f"a payload must be of the tables that it is read with ({error})") from error
        return symbols
