"""One process per study: a lock that the system takes back when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tierwise._errors import StoreError

__all__ = ["LOCK", "locked"]

LOCK = "study.lock"


@contextlib.contextmanager
def locked(directory: Path, what: str = "a study") -> Iterator[None]:
    """Hold what lies in ``directory`` (made where missing) while the block runs; ``what`` names it in the error.

    Raises:
        StoreError: Another process holds it, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Opened without truncating: until the lock is ours, the number inside is the holder's.
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"the study's directory must be writable ({error.strerror})", where=directory) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise StoreError(
                f"{what} is changed by one process at a time",
                got=f"process {holder or 'unknown'} at work in it",
                where=directory,
                fix="Wait until it ends, stop it, or choose another directory",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        # Closing releases the lock. The file stays: removing it would let two processes lock two files of one name.
        os.close(descriptor)
