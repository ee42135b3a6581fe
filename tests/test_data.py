"""load_data: every form CIFAR-10 may lie in, what is damaged, and the stand-in; nothing here reaches the network."""
import hashlib
import http.client
import io
import pickle
import re
import shutil
import socket
import tarfile
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

import utils

ARCHIVE, BATCHES = CIFAR10.filename, CIFAR10.base_folder


def refusal(folder, **options):
    """The message load_data refuses `folder` with: one sentence, in one line."""
    with pytest.raises(utils.SubmissionError) as caught:
        utils.load_data(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and not re.search(r"[.!?]\s+[A-Z]", message), f"more than one sentence: {message}"
    return message


@pytest.fixture(autouse=True)
def internet(monkeypatch):
    """The internet as these tests have it: off unless `reachable` is set; `serve` then answers, or raises."""
    net = SimpleNamespace(reachable=False, requests=0)
    net.serve = lambda: (_ for _ in ()).throw(urllib.error.URLError("no network"))

    def urlopen(request, *_, **__):
        net.requests += 1
        stream = io.BytesIO(net.serve())
        stream.length, stream.url = len(stream.getvalue()), request.full_url
        return stream
    monkeypatch.setattr(utils, "_reachable", lambda *_, **__: net.reachable)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return net


@pytest.fixture
def archive(monkeypatch):
    """The bytes of an archive like the official one; batch b holds images labelled b and b + 1, see check_official."""
    files = {"batches.meta": {"label_names": list(utils.CLASSES)}}
    for b, name in enumerate([name for name, _ in CIFAR10.train_list + CIFAR10.test_list]):
        pixels = np.zeros((2, 3072), dtype=np.uint8)  # 1,024 reds, then greens, then blues, row by row
        pixels[0, :1024], pixels[1, 2048 + 32 * 3 + 5] = 255, 200 + b
        files[name] = {"data": pixels, "labels": [b, b + 1]}
    files = {name: pickle.dumps(value, protocol=2) for name, value in files.items()}
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{BATCHES}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, part, [[name, md5[name]] for name, _ in getattr(CIFAR10, part)])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    return packed.getvalue()


def check_official(data):
    expected = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    expected[::2, 0] = 255  # red
    expected[1::2, 2, 3, 5] = torch.arange(200, 206, dtype=torch.uint8)  # one blue pixel: row 3, column 5
    assert torch.equal(torch.cat([data.train_images, data.test_images]), expected)
    assert data.train_labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5] and data.test_labels.tolist() == [5, 6]
    assert (data.classes[3], data.source, data.standin) == ("cat", "CIFAR-10, official archive", False)


def test_official_from_the_archive_and_then_from_its_batches(tmp_path, archive, internet):
    (tmp_path / ARCHIVE).write_bytes(archive)
    check_official(utils.load_data(tmp_path))
    (tmp_path / ARCHIVE).unlink()
    check_official(utils.load_data(str(tmp_path), "cifar10"))
    assert not internet.requests


@pytest.mark.parametrize("damage", [lambda a: a[:len(a) // 2], lambda a: a[:-9] + b"X" + a[-8:], lambda a: b""],
                         ids=["truncated", "wrong MD5", "empty"])
def test_a_damaged_archive_is_refused_and_replaced(tmp_path, archive, internet, damage):
    (tmp_path / ARCHIVE).write_bytes(damage(archive))
    for _ in range(2):  # what the first call leaves behind is not believed by the second
        assert ARCHIVE in refusal(tmp_path)
    assert not internet.requests, "the probe found no network, and a download was begun all the same: it can hang"
    (tmp_path / ARCHIVE).write_bytes(archive)
    check_official(utils.load_data(tmp_path))


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
@pytest.mark.parametrize("lost", [False, True], ids=["truncated", "lost"])
def test_half_unpacked_batches_are_refused_alone_and_repaired_from_the_archive(tmp_path, archive, name, lost):
    (tmp_path / ARCHIVE).write_bytes(archive)
    utils.load_data(tmp_path)
    (tmp_path / ARCHIVE).unlink()
    batch = tmp_path / BATCHES / name
    batch.unlink() if lost else batch.write_bytes(batch.read_bytes()[:-20])
    assert BATCHES in refusal(tmp_path)
    (tmp_path / ARCHIVE).write_bytes(archive)
    check_official(utils.load_data(tmp_path))


def test_download(tmp_path, archive, internet):
    internet.reachable, internet.serve = True, lambda: archive[:-30]  # the connection breaks off
    assert ARCHIVE in refusal(tmp_path)
    internet.serve = lambda: archive
    check_official(utils.load_data(tmp_path / "not there yet"))
    check_official(utils.load_data(tmp_path))  # the part that had come is not believed


@pytest.mark.parametrize("fault", [None, urllib.error.URLError("refused"), http.client.BadStatusLine("a portal")], ids=repr)
def test_without_cifar10_the_stand_in_unless_forbidden(tmp_path, internet, digits, fault):
    if fault:  # the probe succeeds, the download does not
        internet.reachable, internet.serve = True, lambda: (_ for _ in ()).throw(fault)
    data = utils.load_data(tmp_path)
    assert data.standin and "stand-in" in data.source and data.fingerprint() == digits.fingerprint()
    assert (data.train_images.shape, data.test_images.shape) == ((1437, 3, 32, 32), (360, 3, 32, 32))
    assert data.train_images.max() == 255 and data.test_labels.unique().tolist() == list(range(10))
    message = refusal(tmp_path, dataset="cifar10")
    assert str(tmp_path) in message and "DATASET=cifar10" in message


@pytest.fixture
def tree(tmp_path):
    """Writes an image tree, two training images and a test image a class: class k is (20 k, 0, 250 - 20 k)."""
    def write(suffix=".png"):
        for k, name in reversed(list(enumerate(sorted(utils.CLASSES)))):
            for path in ("train/{}/0", "train/{}/1", "test/{}/0"):
                file = tmp_path / (path.format(name) + suffix)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (20 * k, 0, 250 - 20 * k)).save(file)
        return tmp_path
    return write


@pytest.mark.parametrize("suffix, source", [(".png", "CIFAR-10, image tree"), (".jpg", "CIFAR-10, JPEG re-encoded copy"),
                                            (".JPEG", "CIFAR-10, JPEG re-encoded copy")])
def test_image_tree(tree, internet, suffix, source):
    data = utils.load_data(tree(suffix), "cifar10")
    assert (data.source, data.standin, list(data.classes)) == (source, False, sorted(data.classes))
    for images, labels, each in ((data.train_images, data.train_labels, 2), (data.test_images, data.test_labels, 1)):
        assert labels.dtype == torch.int64 and labels.tolist() == [k for k in range(10) for _ in range(each)]
        colour = torch.stack([20 * labels, 0 * labels, 250 - 20 * labels], 1)[..., None, None]
        assert (images - colour).abs().max() <= (0 if suffix == ".png" else 4) and images.dtype == torch.uint8
    assert not internet.requests


def edit(path, change):
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


@pytest.mark.parametrize("damage, named", [
    (lambda root: shutil.rmtree(root / "train/cat"), "cat"),
    (lambda root: shutil.rmtree(root / "test/cat"), "cat"),
    (lambda root: (root / "train/frog").rename(root / "train/toad"), "toad"),
    (lambda root: shutil.copytree(root / "test/frog", root / "test/toad"), "toad"),
    (lambda root: (root / "test/ship/0.png").unlink(), "ship"),
    (lambda root: shutil.rmtree(root / "test"), "test"),
    (edit("train/dog/1.png", lambda image: b"not an image"), "train/dog/1.png"),
    (edit("test/dog/0.png", lambda image: b""), "test/dog/0.png"),
    (edit("train/dog/1.png", lambda image: image[:60]), "train/dog/1.png"),
    (edit("train/dog/1.png", lambda image: image.replace(b"\rIHDR", b"\0IHDR")), "train/dog/1.png"),
    (lambda root: Image.new("RGB", (28, 32)).save(root / "test/deer/0.png"), "test/deer/0.png has 28×32 pixels"),
], ids=["class missing in train", "in test", "class unknown in train", "one too many in test", "class empty", "no test",
        "no image", "empty file", "truncated", "broken header", "size"])
def test_a_damaged_tree_is_refused_by_name(tree, damage, named):
    root = tree()
    damage(root)
    assert named in refusal(root).replace(str(root), "")


@pytest.mark.parametrize("connect, answer", [(lambda *_, **__: time.sleep(2), False), (lambda *_, **__: io.BytesIO(), True),
                                             (lambda *_, **__: (_ for _ in ()).throw(socket.gaierror()), False)],
                         ids=["hangs", "answers", "unknown host"])
def test_the_probe_ends_in_time(monkeypatch, connect, answer):
    monkeypatch.undo()  # the fixture's _reachable
    monkeypatch.setattr(socket, "create_connection", connect)
    began = time.monotonic()
    assert utils._reachable("example.invalid", seconds=0.3) is answer
    assert time.monotonic() - began < 1.5
