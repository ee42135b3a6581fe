"""Download a file from the first of several sources that delivers it whole.

A transfer that breaks off continues where it stopped, from the same source or from another one,
also in a later session.
"""
import contextlib
import hashlib
import http
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

CONNECT_SECONDS = 3  # for the first connection to a host
STALL_SECONDS = 20  # without a byte, after which a transfer has broken off
WINDOW_SECONDS = 20  # over which the speed of a transfer is measured
SLOWEST = 1_000_000  # bytes per second: a slower source is given up while there is another one
BLOCK = 1 << 16  # bytes read at a time
TRANSFER_FAULTS = (OSError, http.client.HTTPException)


class DownloadError(Exception):
    """No source delivers the file: the text names each of them and what happened."""


class _SourceError(Exception):
    """One source does not deliver the file; the text says why."""


class _SlowSourceError(_SourceError):
    """The source stayed below SLOWEST."""


@dataclass
class _Target:
    """What is downloaded.

    Attributes:
        path: where the whole file will be.
        part: where it grows.
        md5: the sum of the whole file.
        bar_options: keyword arguments of tqdm.
    """

    path: Path
    part: Path
    md5: str
    bar_options: dict

    def size(self):
        """Return how many bytes have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0


def download(sources, path, md5, bar_options=None):
    """Return `path`, which holds the file from then on.

    Sources are tried in their order. One that is slow is given up for the next; if all others
    fail, it is asked again, and may then be slow.

    Args:
        sources: URLs of identical files.
        path: the file to write; it gets this name only when it is whole.
        md5: the file's MD5 sum, hexadecimal.
        bar_options: keyword arguments of tqdm for the progress bar.

    Raises:
        DownloadError: if no source delivers a file with this sum, or it cannot be written.
    """
    path = Path(path)
    target = _Target(path, path.with_name(f".{path.name}.part"), md5, bar_options or {})
    faults = {}
    slow = []
    for source in sources:
        try:
            return _fetch(source, target, may_be_slow=False)
        except _SlowSourceError:
            slow.append(source)
        except _SourceError as error:
            faults[source] = error
    for source in slow:
        try:
            return _fetch(source, target, may_be_slow=True)
        except _SourceError as error:
            faults[source] = error
    raise DownloadError("; ".join(f"{_host(source)}: {faults[source]}" for source in faults))


def _fetch(source, target, may_be_slow):
    """Download from one source; a transfer that breaks off is continued while it makes progress.

    Raises _SourceError if it does not deliver the file, DownloadError if it cannot be written.
    """
    if not _is_reachable(source):
        raise _SourceError("no connection")
    resumed = target.size() > 0
    while True:
        before = target.size()
        try:
            _transfer(source, target, may_be_slow)
        except TRANSFER_FAULTS as error:
            if target.size() > before:
                continue
            raise _SourceError(str(error) or type(error).__name__) from error
        if _md5_of(target.part) == target.md5:
            return target.part.rename(target.path)
        target.part.unlink()
        if not resumed:
            raise _SourceError("it sends another file, perhaps a login page")
        resumed = False  # the first bytes, from elsewhere, may have been the wrong ones


def _transfer(source, target, may_be_slow):
    """Add to the part what it lacks.

    Raises one of TRANSFER_FAULTS if the transfer breaks off, _SourceError if the source is slow or
    sends another file, DownloadError if the part cannot be written.
    """
    start = target.size()
    request = urllib.request.Request(source, headers={"User-Agent": "Mozilla/5.0"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.urlopen(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the part is complete, or longer than the file: its sum will tell
        raise
    with answer:
        length = answer.length
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            if length is not None and length < start:  # a network's login page, for example
                raise _SourceError("it sends another file, perhaps a login page")
            start = 0  # this server cannot continue a file
        total = None if length is None else start + length
        bar = tqdm(
            desc=f"CIFAR-10 from {_host(source)}",
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            **target.bar_options,
        )
        with _open_part(target, start) as part, bar:
            for block in _blocks(answer, may_be_slow):
                _write(part, block)
                bar.update(len(block))
    if total is not None and target.size() < total:
        raise ConnectionError(f"the transfer broke off after {target.size() / 1e6:.1f} MB")


def _blocks(answer, may_be_slow):
    """Yield the bytes of an answer; raises _SlowSourceError."""
    window_start = time.monotonic()
    window_bytes = 0
    while block := answer.read1(BLOCK):
        yield block
        window_bytes += len(block)
        seconds = time.monotonic() - window_start
        if seconds >= WINDOW_SECONDS:
            speed = window_bytes / seconds
            if speed < SLOWEST and not may_be_slow:
                raise _SlowSourceError(f"only {speed / 1e6:.2f} MB/s")
            window_start += seconds
            window_bytes = 0


def _open_part(target, start):
    """Open the part for writing from byte `start` on. Raises DownloadError."""
    try:
        target.part.parent.mkdir(parents=True, exist_ok=True)
        part = open(target.part, "ab")  # noqa: SIM115 (the caller closes it)
        part.truncate(start)
    except OSError as error:
        raise _write_error(target.part, error) from error
    return part


def _write(part, block):
    """Write a block at once, so that the file's size is what has come. Raises DownloadError."""
    try:
        part.write(block)
        part.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            part.close()
        raise _write_error(part.name, error) from error


def _write_error(path, error):
    return DownloadError(f"{path} cannot be written ({error.strerror})")


def _md5_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _host(source):
    return urlsplit(source).hostname


def _is_reachable(source, seconds=CONNECT_SECONDS):
    """Whether a connection to the source's host can be opened within `seconds`."""
    address = urlsplit(source)
    port = address.port or {"http": 80, "https": 443}[address.scheme]
    answers = []

    def probe():
        try:
            socket.create_connection((address.hostname, port), timeout=seconds).close()
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=probe, daemon=True)  # looking up a name can hang
    thread.start()
    thread.join(seconds)
    return bool(answers)
