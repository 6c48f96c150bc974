"""Where the real data come from: a folder the user names, or a verified and resumable download."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import lzma
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tierwise._errors import UnavailableError
from tierwise.measure import Progress

__all__ = ["Source", "SourceFile"]

_ENVIRONMENT = "TIERWISE_DATA"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 20.0
_ATTEMPTS = 3
"""How often a transfer that broke off is taken up again before its URL counts as failed."""


@final
@dataclass(frozen=True)
class SourceFile:
    """One file of a public data set.

    Attributes:
        folder: Folder under ``$TIERWISE_DATA``.
        name: File name there; ``name`` + ``.xz`` is read too.
        sha256: Of the content (after ``.xz`` is undone).
        urls: Public addresses of this very content, tried in order.
        origin: Where a person finds the data set.
    """

    folder: str
    name: str
    sha256: str
    urls: tuple[str, ...]
    origin: str


class _FetchError(Exception):
    """One address did not work; another may."""


@final
class Source:
    """Reads data files, verified by their SHA-256.

    Args:
        cache: Downloads are kept in its ``downloads`` folder.
        progress: Shows each download.
        root: The user's folder of data; ``$TIERWISE_DATA`` where None.
    """

    def __init__(self, cache: Path, progress: Progress, root: Path | None = None) -> None:
        named = os.environ.get(_ENVIRONMENT)
        self._root = root if root is not None else Path(named) if named else None
        self._cache = cache / "downloads"
        self._progress = progress

    def read(self, file: SourceFile) -> bytes:
        """The content of ``file``.

        A file under the user's folder goes before a download; one that is there with another content is not used.

        Raises:
            UnavailableError: Neither way worked; the message names the path looked at, the addresses and the causes.
        """
        causes: list[str] = []
        for content in (self._read_local(file, causes), self._read_kept(file)):
            if content is not None:
                return content
        for url in file.urls:
            try:
                return self._download(file, url)
            except _FetchError as error:
                causes.append(f"{url}: {error}")
        if not file.urls:
            causes.append(f"no public address offers this very file (its pictures or texts come from {file.origin})")
        where = f"{file.folder}/{file.name}"
        online = " or connect this machine to the internet and run again" if file.urls else ""
        raise UnavailableError(
            f"the data file must be readable under ${_ENVIRONMENT} or by download",
            got="; ".join(causes),
            where=where,
            fix=f"Set {_ENVIRONMENT} to the folder that holds {where}{online}",
        )

    def _read_local(self, file: SourceFile, causes: list[str]) -> bytes | None:
        if self._root is None:
            causes.append(f"${_ENVIRONMENT} is not set")
            return None
        path = self._root / file.folder / file.name
        packed = path.with_name(f"{path.name}.xz")
        try:
            content = path.read_bytes() if path.is_file() else lzma.decompress(packed.read_bytes())
        except (OSError, lzma.LZMAError) as error:
            causes.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
            return None
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            causes.append(f"{path}: its sha256 is {found}, wanted {file.sha256}")
            return None
        return content

    def _read_kept(self, file: SourceFile) -> bytes | None:
        path = self._kept_path(file)
        if not path.is_file():
            return None
        content = path.read_bytes()
        # A file that was damaged after its download is fetched again.
        return content if hashlib.sha256(content).hexdigest() == file.sha256 else None

    def _kept_path(self, file: SourceFile) -> Path:
        return self._cache / file.folder / file.name

    def _download(self, file: SourceFile, url: str) -> bytes:
        target = self._kept_path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with part.open("ab") as stream:
            # Two processes that want the same file take turns; the second finds it finished.
            fcntl.flock(stream, fcntl.LOCK_EX)
            content = self._read_kept(file)
            if content is not None:
                part.unlink(missing_ok=True)
                return content
            resumed = stream.tell() > 0
            self._transfer(url, stream, target.name)
            content = part.read_bytes()
            if hashlib.sha256(content).hexdigest() != file.sha256 and resumed:
                # What an earlier run left may be of another content than what the server sends today.
                stream.truncate(0)
                self._transfer(url, stream, target.name)
                content = part.read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != file.sha256:
                part.unlink()
                raise _FetchError(f"{len(content)} bytes with sha256 {found} came, wanted {file.sha256}")
            part.replace(target)
            return content

    def _transfer(self, url: str, stream: Any, title: str) -> None:
        """Append to ``stream`` until it holds all that ``url`` has."""
        for attempt in range(_ATTEMPTS):
            before = stream.seek(0, os.SEEK_END)
            try:
                if self._append(url, stream, title):
                    return
                cause = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and before > 0:
                    # As long as the whole or longer: the sum decides in the first case, a fresh start in the second.
                    if _length(error.headers.get("Content-Range")) == before:
                        return
                    stream.truncate(0)
                    continue
                raise _FetchError(f"HTTP {error.code} {error.reason}") from error
            except (OSError, http.client.HTTPException) as error:
                cause = str(getattr(error, "reason", error)) or type(error).__name__
            # Worth another attempt only if something came: a name that does not resolve will not do so at once.
            if stream.seek(0, os.SEEK_END) == before or attempt + 1 == _ATTEMPTS:
                raise _FetchError(cause)

    def _append(self, url: str, stream: Any, title: str) -> bool:
        """One request; says whether all came."""
        start = stream.seek(0, os.SEEK_END)
        request = urllib.request.Request(url, headers={"User-Agent": "tierwise"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
            if reply.status != http.client.PARTIAL_CONTENT:
                stream.truncate(0)
                start = 0
            size = reply.headers.get("Content-Length")
            total = None if size is None else start + int(size)
            with self._progress.step(f"download {title}", total) as advance:
                advance(start)
                _copy(reply, stream, advance)
        stream.flush()
        return total is None or stream.tell() == total


def _copy(reply: http.client.HTTPResponse, stream: Any, advance: Callable[[int], None]) -> None:
    try:
        while chunk := reply.read(_CHUNK_BYTES):
            stream.write(chunk)
            advance(len(chunk))
    finally:
        # What came before a broken connection is kept, to go on from there.
        stream.flush()


def _length(content_range: str | None) -> int | None:
    """The whole size from ``bytes */1234``."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None
