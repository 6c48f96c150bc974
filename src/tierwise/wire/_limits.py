"""How large the tensors of a message may be, whatever protocol brings it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, final

import msgspec

from tierwise._config import Spec
from tierwise._errors import InputError

__all__ = ["UNLIMITED", "TensorLimits"]

Positive = Annotated[int, msgspec.Meta(gt=0)]


@final
class TensorLimits(Spec, frozen=True, kw_only=True):
    """What one message may hold; checked before contents are unpacked.

    Raw numbers share the message's memory. Everything else becomes an object an element, tens of bytes for each byte
    that travelled, and is bounded much lower.

    Attributes:
        tensors: Tensors of a message.
        elements: Elements of a tensor of numbers in raw form.
        listed_elements: Elements of a tensor in typed fields (gRPC) or in JSON (REST).
        bytes_elements: Elements of a BYTES tensor.
    """

    tensors: Positive = 256
    elements: Positive = 1 << 27
    listed_elements: Positive = 1 << 22
    bytes_elements: Positive = 65_536

    def check_count(self, tensors: int) -> None:
        """Refuse a message of too many tensors.

        Raises:
            InputError: It has more than allowed.
        """
        if tensors > self.tensors:
            raise InputError(f"a message may hold at most {self.tensors} tensors", got=tensors)

    def check_tensor(self, name: str, datatype: str, shape: Sequence[int], *, listed: bool) -> None:
        """Refuse a tensor by what its head says.

        Raises:
            InputError: It claims more elements than allowed.
        """
        most = self.listed_elements if listed else self.elements
        if datatype == "BYTES":
            most = min(most, self.bytes_elements)
        count = 1
        for axis in shape:
            # Axes are multiplied only as long as the product stays small; a wrong one is refused elsewhere.
            count *= max(axis, 0)
            if count > most and 0 not in shape:
                raise InputError(
                    f"a tensor of {datatype[:20]} may have at most {most:,} elements"
                    + (" in this form" if listed else ""),
                    got=list(shape)[:40],
                    where=name[:200],
                )

    def check_json(self, name: str, data: bytes | memoryview) -> None:
        """Refuse a JSON list before it is read: a list of n numbers has at least n - 1 commas.

        Raises:
            InputError: It holds more than allowed, whatever its head says.
        """
        if bytes(data).count(b",") > self.listed_elements:
            raise InputError(f"a list may hold at most {self.listed_elements:,} values", where=name[:200])


_LARGEST: Final = 1 << 62

UNLIMITED: Final = TensorLimits(tensors=_LARGEST, elements=_LARGEST, listed_elements=_LARGEST, bytes_elements=_LARGEST)
"""For what comes from whom one asked oneself."""
