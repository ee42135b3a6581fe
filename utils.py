"""What the assignment notebook needs beside the network and its training: CIFAR-10 in memory, prediction."""
import dataclasses
import hashlib
import http.client
import os
import socket
import threading
from pathlib import Path

import numpy as np
import torch
import torchvision
from IPython import get_ipython
from PIL import Image
from tqdm import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOST = "www.cs.toronto.edu"  # where torchvision downloads CIFAR-10 from


class SubmissionError(Exception):
    """A foreseeable fault, told in one sentence; a notebook shows that sentence and no traceback."""

    def _render_traceback_(self):  # IPython asks for this method before it formats a traceback
        return [f"{type(self).__name__}: {self}"]


# ---------------------------------------------------------------------------------------------------------- data

@dataclasses.dataclass(frozen=True)
class Data:
    """A classification data set in memory.

    Images are uint8 tensors (N, 3, 32, 32) in RGB order, labels int64 tensors (N,). `source` names the data as
    the paper will; `standin` is true where it is not CIFAR-10.
    """
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple
    source: str
    standin: bool = False

    def fingerprint(self):
        """SHA-256 (hexadecimal) of the decoded pixels and labels, training then test images, in loading order."""
        digest = hashlib.sha256()
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(np.ascontiguousarray(tensor.numpy()))
        return digest.hexdigest()

    def normalisation(self):
        """Mean and standard deviation of each channel of the training images in [0, 1]: two lists of 3 floats."""
        # From the counts of the 256 grey levels, so that no float copy of the data set is made.
        counts = torch.stack([torch.bincount(self.train_images[:, c].flatten(), minlength=256) for c in range(3)])
        share, level = counts.double() / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
        mean = share @ level
        return mean.tolist(), ((share * (level - mean[:, None]) ** 2).sum(1).sqrt()).tolist()

    def held_out(self, n):
        """The same data with `n` training images, drawn at random, in the place of the test images."""
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(0))
        train, held = order[n:], order[:n]
        return Data(self.train_images[train], self.train_labels[train], self.train_images[held],
                    self.train_labels[held], self.classes, f"{self.source}; {n:,} training images held out",
                    self.standin)


def has_data(folder):
    """Whether `folder` has anything that `load_data` would read, damaged or not."""
    official = torchvision.datasets.CIFAR10
    return any((Path(folder) / name).exists() for name in ("train", "test", official.filename, official.base_folder))


def load_data(folder, dataset=""):
    """CIFAR-10 from `folder`, else by download, else scikit-learn's digits as a stand-in.

    `dataset` "cifar10" forbids the stand-in, "digits" asks for it.
    `folder` may hold the official archive or its unpacked batches, or an image tree train/<class>/*, test/<class>/*.
    Raises SubmissionError, with one sentence, where what lies there is damaged or is not CIFAR-10.
    """
    if dataset not in ("", "cifar10", "digits"):
        raise SubmissionError(f"DATASET={dataset} is neither cifar10 nor digits")
    if dataset == "digits":
        return _load_digits()
    folder, official = Path(folder), torchvision.datasets.CIFAR10
    archive, batches = folder / official.filename, folder / official.base_folder
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return _load_tree(folder)
    try:
        return _load_official(folder)
    except (RuntimeError, OSError, EOFError, http.client.HTTPException) as error:
        found = archive if archive.exists() else batches
        if found.exists():
            raise SubmissionError(f"{found} is damaged or incomplete ({error}); delete it, and it is downloaded "
                                  "again or can be copied anew") from error
        print(f"CIFAR-10 could not be downloaded ({error}).")
    if dataset == "cifar10":
        raise SubmissionError(f"no CIFAR-10 in {folder} and none to download: put {official.filename} there, or an "
                              "image tree train/<class>/, test/<class>/; DATASET=cifar10 forbids the stand-in")
    return _load_digits()


def _reachable(host, seconds=3):
    """Whether a connection to `host` can be opened within `seconds` (name look-ups can hang, hence the thread)."""
    def probe():
        try:
            socket.create_connection((host, 443), timeout=seconds).close()
            answers.append(True)
        except OSError:
            pass
    answers = []
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _load_official(folder):
    """The official archive or its batches, MD5 checked, unpacked or downloaded where they are not there yet."""
    official, tools = torchvision.datasets.CIFAR10, torchvision.datasets.utils
    batches = official.train_list + official.test_list + [[official.meta["filename"], official.meta["md5"]]]
    # torchvision's own download=True overlooks a damaged batches.meta, and asks the network without a time limit
    if not all(tools.check_integrity(folder / official.base_folder / name, md5) for name, md5 in batches):
        if not tools.check_integrity(folder / official.filename, official.tgz_md5) and not _reachable(HOST):
            raise OSError(f"no connection to {HOST}")
        tools.download_and_extract_archive(official.url, folder, filename=official.filename, md5=official.tgz_md5)
    sets = [official(folder, train=train) for train in (True, False)]
    tensors = [t for s in sets for t in (torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous(),
                                         torch.tensor(s.targets))]
    return Data(*tensors, CLASSES, "CIFAR-10, official archive")


def _load_tree(folder):
    """An image tree in the manner of torchvision's ImageFolder, its classes in alphabetical order."""
    tensors, suffixes = [], set()
    for part in ("train", "test"):
        try:
            tree = torchvision.datasets.ImageFolder(folder / part)
        except FileNotFoundError as error:
            raise SubmissionError(f"{folder / part} is not a tree of images: {str(error).split('. ')[0]}") from error
        odd = set(CLASSES) ^ set(tree.classes)
        if odd:
            raise SubmissionError(f"{folder / part} should hold one folder for each class of CIFAR-10; missing or "
                                  f"unknown: {', '.join(sorted(odd))}")
        images = torch.empty(len(tree), 3, 32, 32, dtype=torch.uint8)
        for i, (path, _) in enumerate(tqdm(tree.samples, desc=f"reading {part}", **bar_settings())):
            try:
                pixels = np.asarray(Image.open(path).convert("RGB"))
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them on a broken PNG
                raise SubmissionError(f"{path} is no image, or a damaged one; copy it anew") from error
            if pixels.shape != (32, 32, 3):
                raise SubmissionError(f"{path} has {pixels.shape[1]}×{pixels.shape[0]} pixels instead of 32×32")
            images[i] = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
            suffixes.add(Path(path).suffix.lower())
        tensors += [images, torch.tensor(tree.targets)]
    source = "CIFAR-10, JPEG re-encoded copy" if suffixes & {".jpg", ".jpeg"} else "CIFAR-10, image tree"
    counts = [len(tensors[i]) for i in (1, 3)]
    if counts != [50_000, 10_000]:  # unpacking broke off, or a smaller set was wanted: in any case say so
        source += f" with only {counts[0]:,} training and {counts[1]:,} test images"
    return Data(*tensors, CLASSES, source)


def _load_digits():
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, enlarged to 32×32×3; the last 360 are the test images."""
    from sklearn.datasets import load_digits  # only the stand-in needs scikit-learn
    digits = load_digits()
    images = torch.from_numpy(digits.images * 15.9375).round().to(torch.uint8)  # grey levels 0..16 -> 0..255
    images = images[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    return Data(images[:-360], labels[:-360], images[-360:], labels[-360:], tuple("0123456789"),
                "scikit-learn digits (a stand-in, not CIFAR-10)", standin=True)


# ---------------------------------------------------------------------------------------------------- evaluation

@torch.inference_mode()
def predict(model, images, normalisation, flip=False):
    """Class probabilities, float32 (N, 10) on the CPU, of uint8 `images`, mirrored first if `flip`; in float32."""
    model.to(DEVICE).eval()
    mean, std = (255 * torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in normalisation)
    parts = (part.to(DEVICE).flip(3) if flip else part.to(DEVICE) for part in images.split(500))
    return torch.cat([model((part - mean) / std).softmax(1).cpu() for part in parts])


def accuracy_of(probabilities, labels):
    """Share of images, in percent, whose most probable class is their label."""
    return 100 * (probabilities.argmax(1) == labels).sum().item() / len(labels)


def bar_settings():
    """tqdm's settings: a bar of text that is cleared at its end, and none in a log file."""
    return {"leave": False, "disable": not (os.isatty(2) or in_notebook()), "mininterval": 0.5}


def in_notebook():
    """Whether this runs in a notebook's kernel."""
    return get_ipython() is not None and "IPKernelApp" in get_ipython().config
