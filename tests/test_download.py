"""Downloads from local servers: slow, broken, wrong, redirecting, absent."""

import hashlib
import http.server
import itertools
import random
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from tools import download

CONTENT = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `behaviour` says."""

    def do_GET(self):
        """Send the content, or what else the behaviour gives."""
        behaviour = self.server.behaviour
        start = 0
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if behaviour.get("redirect"):
            self.send_response(302)
            self.send_header("Location", behaviour["redirect"])
            self.end_headers()
            return
        content = behaviour.get("content", CONTENT)
        if asked and behaviour.get("ranges", True):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.send_in_blocks(content[start:][: behaviour.get("breaks_after")])

    def send_in_blocks(self, content):
        """Send 10,000 bytes at a time, with a pause after each."""
        for block in range(0, len(content), 10_000):
            try:
                self.wfile.write(content[block : block + 10_000])
            except OSError:
                return  # given up by the other side
            time.sleep(self.server.behaviour.get("pause", 0))

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a server with some behaviour; it has `url` and the ranges `asked`."""
    monkeypatch.setattr(download, "STALL_SECONDS", 5)
    servers = []

    def start(**behaviour):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.behaviour = behaviour
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}/file"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def absent():
    """A server's substitute whose port nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return SimpleNamespace(url=f"http://127.0.0.1:{free.getsockname()[1]}/file", asked=[])


def fetch(folder, *servers):
    """Download from servers into a folder; what its only file then holds."""
    path = download.download(
        [server.url for server in servers], folder / "file", MD5, {"disable": True}
    )
    assert list(folder.iterdir()) == [path]
    return path.read_bytes()


def test_the_first_source_that_delivers_is_enough(serve, tmp_path):
    sources = [absent(), serve(content=b"a login page"), serve(), serve()]
    assert fetch(tmp_path, *sources) == CONTENT
    assert [len(source.asked) for source in sources] == [0, 1, 1, 0]


def test_a_redirect_is_followed(serve, tmp_path):
    assert fetch(tmp_path, serve(redirect=serve().url)) == CONTENT


def test_a_transfer_that_breaks_off_continues_where_it_stopped(serve, tmp_path):
    source = serve(breaks_after=120_000)
    assert fetch(tmp_path, source) == CONTENT
    assert source.asked == [None, "bytes=120000-", "bytes=240000-"]


def test_a_source_without_ranges_starts_again(serve, tmp_path):
    (tmp_path / ".file.part").write_bytes(CONTENT[:1000])
    assert fetch(tmp_path, serve(ranges=False)) == CONTENT


def test_a_later_call_continues_from_another_source(serve, tmp_path):
    (tmp_path / ".file.part").write_bytes(CONTENT[:250_000])
    source = serve()
    assert fetch(tmp_path, source) == CONTENT
    assert source.asked == ["bytes=250000-"]


def test_a_part_that_came_whole_needs_no_byte_more(serve, tmp_path):
    (tmp_path / ".file.part").write_bytes(CONTENT)
    assert fetch(tmp_path, serve()) == CONTENT


def test_the_first_bytes_may_have_been_wrong(serve, tmp_path):
    (tmp_path / ".file.part").write_bytes(b"x" * 1000)
    source = serve()
    assert fetch(tmp_path, source) == CONTENT
    assert source.asked == ["bytes=1000-", None]


def test_a_login_page_does_not_cost_what_has_come(serve, tmp_path):
    (tmp_path / ".file.part").write_bytes(CONTENT[:250_000])
    source = serve()
    assert fetch(tmp_path, serve(content=b"log in", ranges=False), source) == CONTENT
    assert source.asked == ["bytes=250000-"]


def test_a_slow_source_is_given_up_for_the_next(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.05)
    slow = serve(pause=0.02)
    fast = serve()
    assert fetch(tmp_path, slow, fast) == CONTENT
    start = int(fast.asked[0].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start < len(CONTENT)


def test_a_slow_source_is_better_than_none(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.05)
    slow = serve(pause=0.02)
    assert fetch(tmp_path, slow, absent()) == CONTENT
    assert len(slow.asked) == 2


def test_every_source_is_named_with_what_happened(serve, tmp_path):
    sources = [absent(), serve(content=b"a login page"), serve(redirect="http://127.0.0.1:9/")]
    with pytest.raises(download.DownloadError) as caught:
        fetch(tmp_path, *sources)
    message = str(caught.value)
    for words in ("no connection", "it sends another file", "refused"):
        assert words in message
    assert message.count("127.0.0.1") == 3
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_not_the_sources_fault(serve, tmp_path, monkeypatch):
    (tmp_path / "file").mkdir()
    second = serve()
    path = tmp_path / "a file" / "below"
    (tmp_path / "a file").touch()
    with pytest.raises(download.DownloadError, match="cannot be written"):
        download.download([serve().url, second.url], path, MD5, {"disable": True})
    assert not second.asked


def test_the_speed_is_that_of_the_last_seconds(monkeypatch):
    """A source that was fast at first does not keep its good name."""
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(download, "WINDOW_SECONDS", 10)
    blocks = [b"x" * 2_000_000] * 20 + [b"x"] * 30 + [b""]
    answer = SimpleNamespace(read1=lambda size: blocks.pop(0))
    with pytest.raises(download._SlowSourceError):
        for _ in download._blocks(answer, may_be_slow=False):
            pass
    assert 15 < len(blocks) < 31
