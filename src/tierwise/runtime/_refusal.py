"""Refusals: errors with the one code that says, in every protocol, what kind of no it is."""

from __future__ import annotations

import enum
from typing import final

from tierwise._errors import InputError, SignatureError, TierwiseError, UnavailableError

__all__ = ["Code", "RefusalError", "code_of"]


@final
class Code(enum.Enum):
    """Why a request is not answered. Each front has one table from these to its own statuses.

    * INVALID: the request itself is wrong; the same request will be refused again.
    * NOT_FOUND: no such model, version or method.
    * UNSUITED: the request is right, but this node as it stands cannot do it (a library or a way on is missing).
    * UNAUTHENTICATED: nobody knows who asks.
    * FORBIDDEN: who asks may not.
    * TOO_LARGE: larger than this node takes.
    * FULL: there is no room for another model; not until one is unloaded.
    * EXHAUSTED: no room now, or no time for it before its deadline; ask again later.
    * TOO_LATE: the deadline passed while it was here.
    * UNAVAILABLE: the node is going away, or one it needs is.
    * INTERNAL: something failed that the asker cannot help.
    """

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    UNSUITED = "unsuited"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    FULL = "full"
    EXHAUSTED = "exhausted"
    TOO_LATE = "too_late"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@final
class RefusalError(Exception):
    """An error and its code; the only exception that leaves the desk. Never leaves the node: a front answers it.

    Attributes:
        code: What kind of no it is.
        text: What the asker is told.
        retry_after_s: When asking again may help; None where nobody knows or it never will.
        told: Whether ``text`` names this node already.
    """

    def __init__(
        self, code: Code, error: TierwiseError | str, retry_after_s: float | None = None, *, told: bool = False
    ) -> None:
        super().__init__(str(error))
        self.code, self.text, self.retry_after_s, self.told = code, str(error), retry_after_s, told


def code_of(error: Exception) -> Code:
    """The code of an error that carries none of its own."""
    match error:
        case RefusalError():
            return error.code
        case SignatureError():
            return Code.FORBIDDEN
        case InputError():
            return Code.INVALID
        case UnavailableError():
            return Code.UNSUITED
        case _:
            return Code.INTERNAL
