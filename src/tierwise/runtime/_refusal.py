"""Errors that a client is told with a status of their own."""

from __future__ import annotations

from typing import final

import grpc

from tierwise._errors import TierwiseError

__all__ = ["RefusalError"]


@final
class RefusalError(Exception):
    """An error and the status it is answered with, where the kind of error alone does not decide it.

    Never leaves the node: the service answers it.
    """

    def __init__(self, status: grpc.StatusCode, error: TierwiseError) -> None:
        super().__init__(str(error))
        self.status = status
