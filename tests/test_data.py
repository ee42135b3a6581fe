"""The data in all forms and folders, damaged or absent; device and prediction.

Nothing here reaches the network.
"""

import hashlib
import http.client
import io
import os
import pickle
import re
import shutil
import socket
import tarfile
import time
import urllib.request
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from helpers import tiny
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR10

import utils
from tools import download

ARCHIVE = CIFAR10.filename
BATCHES = CIFAR10.base_folder
REACHABLE = download._is_reachable
NAMES = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]


def refusal(folder, dataset=""):
    """The message load_data refuses `folder` with: one sentence, in one line."""
    with pytest.raises(utils.SubmissionError) as caught:
        utils.load_data(folder, dataset)
    assert not re.search(r"\n|[.!?]\s+[A-Z]", str(caught.value)), (
        f"more than one sentence: {caught.value}"
    )
    return str(caught.value)


@pytest.fixture(autouse=True)
def kaggle(tmp_path_factory, monkeypatch):
    """The folder of Kaggle's attached data sets, which is not there yet."""
    folder = tmp_path_factory.mktemp("kaggle") / "input"
    monkeypatch.setattr(utils, "KAGGLE", folder)
    return folder


@pytest.fixture(autouse=True)
def net(monkeypatch):
    """The internet: `reachable`; `answer` to a request, bytes or a fault; number of `requests`."""
    net = SimpleNamespace(reachable=False, answer=URLError("no network"), requests=0)

    def urlopen(*_, **__):
        net.requests += 1
        if isinstance(net.answer, Exception):
            raise net.answer
        stream = io.BytesIO(net.answer)
        stream.length = len(net.answer)
        stream.status = 200
        return stream

    monkeypatch.setattr(download, "_is_reachable", lambda *_, **__: net.reachable)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return net


@pytest.fixture
def whole(tmp_path_factory, monkeypatch):
    """The bytes of an archive like the official one, see check_official.

    Batch b holds images labelled b and b + 1.
    """
    made = tmp_path_factory.mktemp("made")
    md5 = []
    (made / BATCHES).mkdir()
    for b, name in enumerate(NAMES):
        # 1,024 reds, then greens, then blues, row by row.
        pixels = np.zeros((2, 3072), dtype=np.uint8)
        pixels[0, :1024] = 255
        pixels[1, 2048 + 32 * 3 + 5] = 200 + b
        content = pickle.dumps({"data": pixels, "labels": [b, b + 1]}, protocol=2)
        (made / BATCHES / name).write_bytes(content)
        md5.append([name, hashlib.md5(content).hexdigest()])
    shutil.make_archive(made / "archive", "gztar", made, BATCHES)
    archive = (made / "archive.tar.gz").read_bytes()
    for name, value in (
        ("train_list", md5[:5]),
        ("test_list", md5[5:]),
        ("tgz_md5", hashlib.md5(archive).hexdigest()),
    ):
        monkeypatch.setattr(CIFAR10, name, value)
    return archive


def put_archive(whole, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARCHIVE).write_bytes(whole)


def put_batches(whole, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        for name in NAMES:
            (folder / name).write_bytes(archive.extractfile(f"{BATCHES}/{name}").read())


def put_link(whole, folder):
    put_batches(whole, folder.parent / ".elsewhere")
    folder.symlink_to(folder.parent / ".elsewhere", target_is_directory=True)


def check_official(data):
    expected = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    expected[::2, 0] = 255  # red
    # One blue pixel: row 3, column 5.
    expected[1::2, 2, 3, 5] = torch.arange(200, 206, dtype=torch.uint8)
    assert torch.equal(torch.cat([data.train_images, data.test_images]), expected)
    assert data.train_labels.tolist() == [
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
    ] and data.test_labels.tolist() == [5, 6]
    assert (data.classes[3], data.source, data.is_fallback) == ("cat", "CIFAR-10", False)


@pytest.mark.parametrize(
    "put, where, asked",
    [
        (put_batches, BATCHES, ""),
        (put_batches, "", ""),
        (put_batches, BATCHES, BATCHES),
        (put_batches, "cifar", ""),
        (put_batches, f"a/{BATCHES}", ""),
        (put_batches, f"{BATCHES}/{BATCHES}", ""),
        (put_link, "link", ""),
        (put_archive, "", ""),
        (put_archive, "a", ""),
        (put_archive, "", ARCHIVE),
    ],
    ids=lambda value: getattr(value, "__name__", value or "."),
)
def test_the_official_files_are_found_in_the_folder_or_a_level_off(
    tmp_path, whole, put, where, asked
):
    put(whole, tmp_path / where)
    assert utils.has_data(tmp_path / asked)
    before = sorted(tmp_path.rglob("*"))
    check_official(utils.load_data(str(tmp_path / asked)))
    assert sorted(tmp_path.rglob("*")) == before, (
        "something was written beside the data, which may be read-only"
    )


@pytest.mark.parametrize("put", [put_archive, put_batches])
@pytest.mark.parametrize(
    "where", ["cifar-10", f"cifar10-python/{BATCHES}", f"datasets/someone/cifar10/{BATCHES}"]
)
def test_data_sets_attached_on_kaggle_are_found(
    tmp_path, kaggle, whole, put, where, monkeypatch
):
    monkeypatch.setattr(utils, "DEFAULT_FOLDER", tmp_path / "data")  # which is not there
    put(whole, kaggle / where)
    (kaggle / "another").mkdir()
    for folder in (tmp_path, utils.DEFAULT_FOLDER):
        assert utils.has_data(folder)
        check_official(utils.load_data(folder, "cifar10"))


def test_on_kaggle_other_data_sets_alone_are_no_reason_for_digits(tmp_path, kaggle, whole, net):
    (kaggle / "mnist").mkdir(parents=True)
    assert "mnist" in refusal(tmp_path) and not utils.has_data(tmp_path)
    net.reachable = True
    net.answer = whole
    check_official(utils.load_data(tmp_path))  # they do not stand in the way of a download


@pytest.mark.parametrize(
    "damage",
    [lambda a: a[: len(a) // 2], lambda a: a[:9], lambda a: b"<html>"],
    ids=["truncated", "header only", "a web page"],
)
def test_a_damaged_archive_is_refused_until_replaced(tmp_path, whole, net, damage):
    put_archive(damage(whole), tmp_path)
    for _ in range(2):  # what the first call leaves behind is not believed by the second
        assert f"{ARCHIVE} is damaged" in refusal(tmp_path) and utils.has_data(tmp_path)
    put_archive(whole, tmp_path)
    check_official(utils.load_data(tmp_path))
    assert not net.requests, (
        "the probe had found no network, and a download, which can hang, was begun all the same"
    )


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda batch: batch.write_bytes(batch.read_bytes()[:-20]), "is damaged"),
        (lambda batch: batch.unlink(), "lacks"),
    ],
    ids=["truncated", "missing"],
)
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_batches_that_are_not_whole_are_refused_unless_the_archive_is(
    tmp_path, whole, name, damage, said
):
    put_batches(whole, tmp_path / BATCHES)
    damage(tmp_path / BATCHES / name)
    message = refusal(tmp_path)
    assert all(words in message for words in (name, said, str(tmp_path / BATCHES)))
    put_archive(whole, tmp_path)
    check_official(utils.load_data(tmp_path))


def test_batches_are_not_unpickled_before_their_sum_is_checked(tmp_path, whole, monkeypatch):
    put_batches(whole, tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": "other"}))
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("unpickled"))
    assert "data_batch_1" in refusal(tmp_path)


def test_download(tmp_path, whole, net, monkeypatch):
    net.reachable = True
    net.answer = whole[:-30]  # the connection breaks off
    assert utils.load_data(tmp_path).is_fallback
    assert not utils.has_data(tmp_path)  # the part that came is not believed
    net.answer = whole
    check_official(utils.load_data(tmp_path))
    monkeypatch.setattr(utils, "DEFAULT_FOLDER", tmp_path / "data")
    check_official(utils.load_data(tmp_path / "data"))
    net.reachable = False
    check_official(utils.load_data(tmp_path / "data"))


@pytest.mark.parametrize(
    "fault", [None, URLError("refused"), http.client.BadStatusLine("a portal")], ids=repr
)
@pytest.mark.parametrize("folder", ["", "data"], ids=["empty", "the default, absent"])
def test_without_cifar10_the_stand_in_unless_forbidden(
    tmp_path, net, digits, monkeypatch, capsys, folder, fault
):
    monkeypatch.setattr(utils, "DEFAULT_FOLDER", tmp_path / "data")
    folder = tmp_path / folder
    net.reachable = bool(fault)
    net.answer = fault or net.answer
    assert not utils.has_data(folder)
    data = utils.load_data(folder)
    assert data.is_fallback and "fallback" in data.source and data.fingerprint == digits.fingerprint
    told = capsys.readouterr().out.splitlines()[-1]
    assert str(folder) in told and "fallback data set is used, scikit-learn's digits" in told
    message = refusal(folder, "cifar10")
    assert str(folder) in message and ARCHIVE in message
    assert bool(net.requests) == bool(fault)  # none where the probe finds no network


def put(*names):
    """A function that puts empty files into a folder; a name that ends in a slash is a folder."""

    def files(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).mkdir(exist_ok=True) if name.endswith("/") else (folder / name).touch()

    return files


OTHER = {  # what lies in the folder, which folder is asked for, what the sentence has to name
    "absent": (put(), "data", "/data does not exist: correct CIFAR10_DIR"),
    "absent archive": (put(), ARCHIVE, f"{ARCHIVE} does not exist"),
    "file": (put("notes.txt"), "notes.txt", "notes.txt is damaged, or is not CIFAR-10"),
    "other things": (put("notes.txt", "photos/"), "", "holds photos, notes.txt;"),
    "many things": (put(*(f"{i}.txt" for i in range(1200))), "", "and 1,192 more;"),
    "CIFAR-100": (
        put("cifar-100-python/train", "cifar-100-python/test"),
        "",
        "holds cifar-100-python,",
    ),
    "inside CIFAR-100": (
        put("cifar-100-python/train"),
        "cifar-100-python",
        "cifar-100-python, which holds train;",
    ),
    "binary version": (
        put("cifar-10-batches-bin/data_batch_1.bin"),
        "",
        "holds cifar-10-batches-bin,",
    ),
    "binary archive": (put("cifar-10-binary.tar.gz"), "", "holds cifar-10-binary.tar.gz;"),
    "Matlab version": (put("data_batch_1.mat"), "", "holds data_batch_1.mat;"),
    "batches' folder empty": (
        put(f"{BATCHES}/"),
        "",
        f"{BATCHES} lacks data_batch_1, data_batch_2,",
    ),
    "some batches": (put("data_batch_1", "data_batch_3"), "", "lacks data_batch_2, data_batch_4,"),
    "classes only": (put("dog/", "cat/1.png"), "", "holds cat, dog,"),
    "images without folders": (
        put("train/1.png", "test/1.png"),
        "",
        "/train is not a tree of images",
    ),
    "two levels off": (put(f"a/b/c/{BATCHES}/data_batch_1"), "", "holds a, a/b, a/b/c;"),
}


@pytest.mark.parametrize("fill, asked, named", OTHER.values(), ids=OTHER.keys())
def test_what_does_not_serve_is_said_and_never_replaced(tmp_path, whole, net, fill, asked, named):
    fill(tmp_path)
    net.reachable = True
    net.answer = whole
    assert utils.has_data(tmp_path / asked)
    for dataset in ("", "cifar10"):
        message = refusal(tmp_path / asked, dataset)
        assert (
            named in message
            and str(tmp_path) in message
            and len(message) < 500 + len(str(tmp_path))
        )
        assert "lacks" in message or (ARCHIVE in message and "train/<class>/*" in message), (
            "what is expected"
        )
    assert not net.requests


def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch):
    def denied(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "listdir", denied)  # the rights of a folder do not bind root
    assert f"{tmp_path} cannot be read (Permission denied)" in refusal(tmp_path)


def write_tree(root, suffix=".png"):
    """An image tree with two training images and a test image for each class.

    Class k of the alphabet has the colour (20 k, 0, 250 - 20 k).
    """
    for k, name in reversed(list(enumerate(sorted(utils.CLASSES)))):
        for file in (f"train/{name}/0", f"train/{name}/1", f"test/{name}/0"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (20 * k, 0, 250 - 20 * k)).save(root / (file + suffix))


@pytest.mark.parametrize(
    "suffix, where, asked",
    [
        (".png", "", ""),
        (".jpg", "cifar10", ""),
        (".JPEG", "a/b", ""),
        (".png", "", "train"),
        (".png", "", "test"),
        (".png", None, ""),
    ],
)
def test_image_tree(tmp_path, kaggle, suffix, where, asked):
    write_tree(
        kaggle / "datasets/someone/pngs/cifar10/cifar10" if where is None else tmp_path / where,
        suffix,
    )
    assert utils.has_data(tmp_path / asked)
    data = utils.load_data(tmp_path / asked, "cifar10")
    assert (
        data.source == "CIFAR-10, image tree with only 20 training and 10 test images"
        and not data.is_fallback
    )
    assert list(data.classes) == sorted(utils.CLASSES)
    for images, labels, each in (
        (data.train_images, data.train_labels, 2),
        (data.test_images, data.test_labels, 1),
    ):
        assert labels.tolist() == [k for k in range(10) for _ in range(each)]
        colour = torch.stack([20 * labels, 0 * labels, 250 - 20 * labels], 1)[..., None, None]
        assert (images - colour).abs().max() <= (0 if suffix == ".png" else 4)
    assert utils.load_data(tmp_path, "digits").is_fallback and "DATASET=cifar" in refusal(
        tmp_path, "cifar"
    )


DOG = "train/dog/1.png"
WRONG = {
    "class missing": (lambda root: shutil.rmtree(root / "test/cat"), "cat"),
    "class unknown": (lambda root: (root / "train/frog").rename(root / "train/toad"), "toad"),
    "class too many": (
        lambda root: shutil.copytree(root / "test/frog", root / "test/toad"),
        "toad",
    ),
    "class empty": (lambda root: (root / "test/ship/0.png").unlink(), "ship"),
    "no test": (
        lambda root: shutil.rmtree(root / "test"),
        "/test is not a tree of images: it does not exist",
    ),
    "size": (
        lambda root: Image.new("RGB", (28, 32)).save(root / "test/deer/0.png"),
        "/test/deer/0.png has 28×32",
    ),
    "text": (lambda root: (root / DOG).write_bytes(b"not an image"), DOG),
    "empty file": (lambda root: (root / DOG).write_bytes(b""), DOG),
    "truncated": (lambda root: (root / DOG).write_bytes((root / DOG).read_bytes()[:60]), DOG),
    "broken header": (
        lambda root: (root / DOG).write_bytes((root / DOG).read_bytes().replace(b"\rIH", b"\0IH")),
        DOG,
    ),
}


@pytest.mark.parametrize("damage, named", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_tree_is_refused_by_name(tmp_path, damage, named):
    write_tree(tmp_path)
    damage(tmp_path)
    assert named in refusal(tmp_path).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "connect, found",
    [(lambda: time.sleep(2), False), (lambda: socket.inet_aton("x"), False), (io.BytesIO, True)],
    ids=["hangs", "fails", "answers"],
)
def test_the_probe_ends_in_time(monkeypatch, connect, found):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: connect() or io.BytesIO())
    began = time.monotonic()
    assert REACHABLE("https://example.invalid/", seconds=0.3) == found
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "capability, built, used",
    [
        ((6, 0), ["sm_75", "sm_80", "sm_120"], "cpu"),
        ((7, 5), ["sm_75", "sm_80"], "cuda"),
        ((8, 9), ["sm_80"], "cuda"),
        ((8, 0), ["sm_86"], "cpu"),
        ((9, 0), ["sm_80", "sm_86"], "cpu"),
        ((9, 0), ["sm_80", "compute_80"], "cuda"),
        ((6, 0), ["sm_75", "compute_75"], "cpu"),
        ((12, 0), ["sm_90", "sm_120"], "cuda"),
        ((9, 0), ["sm_90a"], "cuda"),
        ((9, 4), ["gfx942"], "cuda"),
        (None, [], "cpu"),
    ],
    ids=repr,
)
def test_a_gpu_that_this_torch_has_no_code_for_is_left_unused(
    monkeypatch, capsys, capability, built, used
):
    for name, value in (
        ("is_available", capability is not None),
        ("get_device_capability", capability),
        ("get_arch_list", built),
        ("get_device_name", "Tesla P100"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert utils.select_device().type == used
    told = capsys.readouterr().out
    assert told.count("\n") == ("Tesla P100" in told) == (used == "cpu" and capability is not None)


def test_a_model_that_moved_to_be_evaluated_can_still_be_loaded_into_and_trained(
    monkeypatch, digits
):
    def move(module, *_, **__):  # as to another device: every parameter is a new one
        for part in module.modules():
            part._parameters = {
                name: nn.Parameter(value.clone()) for name, value in part._parameters.items()
            }
            part._buffers = {name: value.clone() for name, value in part._buffers.items()}
        return module

    monkeypatch.setattr(nn.Module, "to", move)
    model = tiny()
    probabilities = utils.predict(model, digits.test_images, digits.normalisation())
    assert (
        probabilities.shape == (360, 10) and not probabilities.requires_grad and not model.training
    )
    model.load_state_dict(tiny(1).state_dict())
    model.train()(digits.test_images[:8].float()).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_float32_is_no_tf32():
    assert (
        torch.backends.cudnn.conv.fp32_precision == "ieee"
        and torch.backends.cuda.matmul.fp32_precision != "tf32"
    )
