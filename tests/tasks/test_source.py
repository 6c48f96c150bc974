from __future__ import annotations

import hashlib
import lzma
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tierwise._errors import UnavailableError
from tierwise.measure import Silent
from tierwise.tasks._source import Source, SourceFile

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Host(ThreadingHTTPServer):
    """Serves CONTENT with byte ranges; misbehaves on request."""

    daemon_threads = True
    ranges = True
    break_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Answer(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path == "/missing":
            self.send_error(404)
            return
        body = b"something else" if self.path == "/other" else CONTENT
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = len(body) if self.server.break_after is None else start + self.server.break_after
        self.wfile.write(body[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_user_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERWISE_DATA", raising=False)


def a_file(*urls: str, sha256: str = SHA256) -> SourceFile:
    return SourceFile("set", "file.bin", sha256, urls, "https://example.org/set")


def kept(cache: Path) -> Path:
    return cache / "downloads" / "set" / "file.bin"


def test_downloads_once_and_keeps(host: Host, tmp_path: Path) -> None:
    source = Source(tmp_path, Silent())
    file = a_file(host.url("file"))
    assert source.read(file) == CONTENT
    assert source.read(file) == CONTENT
    assert host.asked == [("/file", None)]
    assert [path.name for path in kept(tmp_path).parent.iterdir()] == ["file.bin"]


def test_goes_on_where_an_earlier_run_stopped(host: Host, tmp_path: Path) -> None:
    part = kept(tmp_path).with_name("file.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert Source(tmp_path, Silent()).read(a_file(host.url("file"))) == CONTENT
    assert host.asked == [("/file", "bytes=1000-")]


def test_takes_up_a_broken_connection(host: Host, tmp_path: Path) -> None:
    host.break_after = len(CONTENT) // 2
    assert Source(tmp_path, Silent()).read(a_file(host.url("file"))) == CONTENT
    assert host.asked == [("/file", None), ("/file", f"bytes={len(CONTENT) // 2}-")]


def test_a_connection_that_keeps_breaking_leaves_what_came(host: Host, tmp_path: Path) -> None:
    host.break_after = 1000
    with pytest.raises(UnavailableError, match="the connection ended early"):
        Source(tmp_path, Silent()).read(a_file(host.url("file")))
    assert kept(tmp_path).with_name("file.bin.part").read_bytes() == CONTENT[:3000]
    host.break_after = None
    assert Source(tmp_path, Silent()).read(a_file(host.url("file"))) == CONTENT


def test_a_server_without_ranges_starts_again(host: Host, tmp_path: Path) -> None:
    host.ranges = False
    part = kept(tmp_path).with_name("file.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert Source(tmp_path, Silent()).read(a_file(host.url("file"))) == CONTENT


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5), CONTENT])
def test_a_wrong_part_is_replaced(host: Host, tmp_path: Path, left: bytes) -> None:
    part = kept(tmp_path).with_name("file.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert Source(tmp_path, Silent()).read(a_file(host.url("file"))) == CONTENT
    assert not part.exists()


def test_a_damaged_download_is_fetched_again(host: Host, tmp_path: Path) -> None:
    source = Source(tmp_path, Silent())
    source.read(a_file(host.url("file")))
    kept(tmp_path).write_bytes(CONTENT[:-1])
    assert source.read(a_file(host.url("file"))) == CONTENT


def test_second_address_when_the_first_has_other_content(host: Host, tmp_path: Path) -> None:
    file = a_file(host.url("missing"), host.url("other"), host.url("file"))
    assert Source(tmp_path, Silent()).read(file) == CONTENT


def test_error_names_both_ways(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    file = a_file(host.url("missing"), host.url("other"))
    with pytest.raises(UnavailableError) as caught:
        Source(tmp_path, Silent(), root).read(file)
    text = str(caught.value)
    assert f"{root}/set/file.bin: No such file or directory" in text
    assert f"{host.url('missing')}: HTTP 404 Not Found" in text
    assert f"{host.url('other')}: 14 bytes with sha256 {hashlib.sha256(b'something else').hexdigest()} came" in text
    assert "Set TIERWISE_DATA to the folder that holds set/file.bin or connect this machine to the internet" in text
    assert not list(kept(tmp_path).parent.iterdir())


def test_error_without_a_public_address(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        Source(tmp_path, Silent()).read(a_file())
    text = str(caught.value)
    assert "$TIERWISE_DATA is not set" in text
    assert "no public address offers this very file (its pictures or texts come from https://example.org/set)" in text
    assert text.endswith("Set TIERWISE_DATA to the folder that holds set/file.bin.")


def test_error_when_nothing_listens(host: Host, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/file"
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9/file: .*refused"):
        Source(tmp_path, Silent()).read(a_file(url))


@pytest.mark.parametrize("packed", [False, True])
def test_the_users_folder_goes_first(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    folder = tmp_path / "mine" / "set"
    folder.mkdir(parents=True)
    (folder / ("file.bin.xz" if packed else "file.bin")).write_bytes(lzma.compress(CONTENT) if packed else CONTENT)
    monkeypatch.setenv("TIERWISE_DATA", str(tmp_path / "mine"))
    assert Source(tmp_path, Silent()).read(a_file(host.url("file"))) == CONTENT
    assert host.asked == []


def test_a_wrong_file_in_the_users_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "file.bin").write_bytes(CONTENT[:-1])
    wrong = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(UnavailableError, match=f"its sha256 is {wrong}, wanted {SHA256}"):
        Source(tmp_path, Silent(), tmp_path).read(a_file())
