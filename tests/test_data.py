"""load_data: the forms CIFAR-10 may lie in, what is damaged, and the stand-in; nothing here reaches the network."""
import hashlib
import http.client
import io
import pickle
import re
import shutil
import socket
import time
import urllib.request
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

import utils

ARCHIVE, BATCHES, REACHABLE = CIFAR10.filename, CIFAR10.base_folder, utils._reachable


def refusal(folder, dataset=""):
    """The message load_data refuses `folder` with: one sentence, in one line."""
    with pytest.raises(utils.SubmissionError) as caught:
        utils.load_data(folder, dataset)
    assert not re.search(r"\n|[.!?]\s+[A-Z]", str(caught.value)), f"more than one sentence: {caught.value}"
    return str(caught.value)


@pytest.fixture(autouse=True)
def net(monkeypatch):
    """The internet: whether the probe finds it, what it answers to a request (bytes, or a fault), and how many came."""
    net = SimpleNamespace(reachable=False, answer=URLError("no network"), requests=0)

    def urlopen(request, *_, **__):
        net.requests += 1
        if isinstance(net.answer, Exception):
            raise net.answer
        stream = io.BytesIO(net.answer)
        stream.length, stream.url = len(net.answer), request.full_url
        return stream
    monkeypatch.setattr(utils, "_reachable", lambda *_, **__: net.reachable)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return net


@pytest.fixture
def whole(tmp_path_factory, monkeypatch):
    """The bytes of an archive like the official one; batch b holds images labelled b and b + 1, see check_official."""
    made, md5 = tmp_path_factory.mktemp("made"), []
    (made / BATCHES).mkdir()
    for b, name in enumerate([name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + ["batches.meta"]):
        pixels = np.zeros((2, 3072), dtype=np.uint8)  # 1,024 reds, then greens, then blues, row by row
        pixels[0, :1024], pixels[1, 2048 + 32 * 3 + 5] = 255, 200 + b
        content = pickle.dumps({"data": pixels, "labels": [b, b + 1], "label_names": utils.CLASSES}, protocol=2)
        (made / BATCHES / name).write_bytes(content)
        md5.append([name, hashlib.md5(content).hexdigest()])
    shutil.make_archive(made / "archive", "gztar", made, BATCHES)
    archive = (made / "archive.tar.gz").read_bytes()
    for name, value in (("train_list", md5[:5]), ("test_list", md5[5:6]), ("meta", CIFAR10.meta | {"md5": md5[6][1]}),
                        ("tgz_md5", hashlib.md5(archive).hexdigest())):
        monkeypatch.setattr(CIFAR10, name, value)
    return archive


def check_official(data):
    expected = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    expected[::2, 0] = 255  # red
    expected[1::2, 2, 3, 5] = torch.arange(200, 206, dtype=torch.uint8)  # one blue pixel: row 3, column 5
    assert torch.equal(torch.cat([data.train_images, data.test_images]), expected)
    assert data.train_labels.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5] and data.test_labels.tolist() == [5, 6]
    assert (data.classes[3], data.source, data.standin) == ("cat", "CIFAR-10, official archive", False)


@pytest.mark.parametrize("damage", [lambda a: a[:len(a) // 2], lambda a: a + b"X"], ids=["truncated", "wrong MD5"])
def test_a_damaged_archive_is_refused_until_replaced(tmp_path, whole, net, damage):
    (tmp_path / ARCHIVE).write_bytes(damage(whole))
    for _ in range(2):  # what the first call leaves behind is not believed by the second
        assert ARCHIVE in refusal(tmp_path)
    (tmp_path / ARCHIVE).write_bytes(whole)
    check_official(utils.load_data(tmp_path))
    assert not net.requests, "the probe had found no network, and a download, which can hang, was begun all the same"


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_batches_load_alone_and_half_unpacked_are_refused_or_repaired(tmp_path, whole, name):
    (tmp_path / ARCHIVE).write_bytes(whole)
    check_official(utils.load_data(tmp_path))
    (tmp_path / ARCHIVE).unlink()
    check_official(utils.load_data(str(tmp_path), "cifar10"))
    batch = tmp_path / BATCHES / name
    batch.write_bytes(batch.read_bytes()[:-20])
    assert BATCHES in refusal(tmp_path)
    (tmp_path / ARCHIVE).write_bytes(whole)
    check_official(utils.load_data(tmp_path))


def test_download(tmp_path, whole, net):
    net.reachable, net.answer = True, whole[:-30]  # the connection breaks off
    assert ARCHIVE in refusal(tmp_path)
    net.answer = whole
    check_official(utils.load_data(tmp_path / "not there yet"))
    check_official(utils.load_data(tmp_path))  # the part that had come is not believed


@pytest.mark.parametrize("fault", [None, URLError("refused"), http.client.BadStatusLine("a portal")], ids=repr)
def test_without_cifar10_the_stand_in_unless_forbidden(tmp_path, net, digits, fault):
    net.reachable, net.answer = bool(fault), fault or net.answer
    data = utils.load_data(tmp_path)
    assert data.standin and "stand-in" in data.source and data.fingerprint() == digits.fingerprint()
    message = refusal(tmp_path, "cifar10")
    assert str(tmp_path) in message and "DATASET=cifar10" in message
    assert bool(net.requests) == bool(fault)  # none where the probe finds no network


def write_tree(root, suffix=".png"):
    """An image tree, two training images and a test image a class: class k of the alphabet is (20 k, 0, 250 - 20 k)."""
    for k, name in reversed(list(enumerate(sorted(utils.CLASSES)))):
        for file in (f"train/{name}/0", f"train/{name}/1", f"test/{name}/0"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (20 * k, 0, 250 - 20 * k)).save(root / (file + suffix))


@pytest.mark.parametrize("suffix, kind", [(".png", "image tree"), (".jpg", "JPEG re-encoded copy"),
                                          (".JPEG", "JPEG re-encoded copy")])
def test_image_tree(tmp_path, suffix, kind):
    write_tree(tmp_path, suffix)
    data = utils.load_data(tmp_path, "cifar10")
    assert data.source.startswith(f"CIFAR-10, {kind} with only ") and not data.standin
    assert list(data.classes) == sorted(utils.CLASSES)
    for images, labels, each in ((data.train_images, data.train_labels, 2), (data.test_images, data.test_labels, 1)):
        assert labels.tolist() == [k for k in range(10) for _ in range(each)]
        colour = torch.stack([20 * labels, 0 * labels, 250 - 20 * labels], 1)[..., None, None]
        assert (images - colour).abs().max() <= (0 if suffix == ".png" else 4)
    assert utils.load_data(tmp_path, "digits").standin and "DATASET=cifar" in refusal(tmp_path, "cifar")


DOG = "train/dog/1.png"
WRONG = {
    "class missing": (lambda root: shutil.rmtree(root / "test/cat"), "cat"),
    "class unknown": (lambda root: (root / "train/frog").rename(root / "train/toad"), "toad"),
    "class too many": (lambda root: shutil.copytree(root / "test/frog", root / "test/toad"), "toad"),
    "class empty": (lambda root: (root / "test/ship/0.png").unlink(), "ship"),
    "no test": (lambda root: shutil.rmtree(root / "test"), "/test"),
    "size": (lambda root: Image.new("RGB", (28, 32)).save(root / "test/deer/0.png"), "/test/deer/0.png has 28×32"),
    "text": (lambda root: (root / DOG).write_bytes(b"not an image"), DOG),
    "empty file": (lambda root: (root / DOG).write_bytes(b""), DOG),
    "truncated": (lambda root: (root / DOG).write_bytes((root / DOG).read_bytes()[:60]), DOG),
    "broken header": (lambda root: (root / DOG).write_bytes((root / DOG).read_bytes().replace(b"\rIH", b"\0IH")), DOG),
}


@pytest.mark.parametrize("damage, named", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_tree_is_refused_by_name(tmp_path, damage, named):
    write_tree(tmp_path)
    damage(tmp_path)
    assert named in refusal(tmp_path).replace(str(tmp_path), "")


@pytest.mark.parametrize("connect, found", [(lambda: time.sleep(2), False), (lambda: socket.inet_aton("x"), False),
                                            (io.BytesIO, True)], ids=["hangs", "fails", "answers"])
def test_the_probe_ends_in_time(monkeypatch, connect, found):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: connect() or io.BytesIO())
    began = time.monotonic()
    assert REACHABLE("example.invalid", seconds=0.3) == found
    assert time.monotonic() - began < 1.5
