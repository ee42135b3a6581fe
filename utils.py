"""What the assignment notebook needs beside the network and its training: CIFAR-10 in memory, prediction."""
import dataclasses
import functools
import hashlib
import http.client
import os
import pickle
import re
import socket
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision
from IPython import get_ipython
from PIL import Image
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from tools.errors import SubmissionError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOST = "www.cs.toronto.edu"  # where torchvision downloads CIFAR-10 from
DEFAULT_FOLDER = Path(__file__).resolve().parent / "data"  # need not exist: a download makes it
KAGGLE = Path("/kaggle/input")  # Kaggle's attached data sets, read-only
EXPECTED = (f"expected is {CIFAR10.filename}, its unpacked folder {CIFAR10.base_folder}, or an image tree "
            "train/<class>/*, test/<class>/*")


def select_device():
    """The GPU if this torch has code for it, else the CPU; a GPU left unused for that is named in a printed line."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    here, built = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    codes = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(built))  # none in a build for AMD
    # machine code (sm) also runs on later minor versions of its major one, PTX (compute) on everything later
    if not codes or any((int(major), int(minor)) <= here and (kind == "compute" or int(major) == here[0])
                        for kind, major, minor in codes):
        return torch.device("cuda")
    print(f"{torch.cuda.get_device_name()} (sm_{here[0]}{here[1]}) stays unused, the CPU computes: "
          f"this torch is built for {', '.join(built)}.")
    return torch.device("cpu")


DEVICE = select_device()
torch.backends.cudnn.conv.fp32_precision = "ieee"  # a GPU's float32 convolutions are TF32 otherwise


# ---------------------------------------------------------------------------------------------------------- data

@dataclasses.dataclass(frozen=True)
class Data:
    """A classification data set in memory.

    Images are uint8 tensors (N, 3, 32, 32) in RGB order, labels int64 tensors (N,). `source` names the data as
    the paper will; `is_fallback` is true where it is not CIFAR-10.
    """
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple
    source: str
    is_fallback: bool = False

    @functools.cached_property
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
                    self.is_fallback)


def has_data(folder):
    """Whether `load_data` would find something in `folder` to read or to refuse, rather than download CIFAR-10."""
    try:
        return bool(_places(folder))
    except SubmissionError:
        return True


def load_data(folder, dataset=""):
    """CIFAR-10 from `folder`, else from Kaggle's attached data sets, by download, or scikit-learn's digits instead.

    `folder` or a folder in it holds the official archive, its unpacked batches, or an image tree train/<class>/*,
    test/<class>/*. `dataset` "cifar10" forbids the digits, "digits" asks for them; otherwise a printed line says so.
    Raises SubmissionError, with one sentence, where `folder` is missing or what lies there is not CIFAR-10 or damaged.
    """
    if dataset not in ("", "cifar10", "digits"):
        raise SubmissionError(f"DATASET={dataset} is neither cifar10 nor digits")
    if dataset == "digits":
        return _load_digits()
    faults = []
    for place in _places(folder):
        try:
            return _load_tree(place) if (place / "train").is_dir() else _load_official(place)
        except SubmissionError as error:
            faults.append(error)
    if faults:
        raise faults[0]
    try:
        return _load_official(_download(Path(folder)))
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        reason = f"nothing lies in {folder}, and the download failed ({error})"
    attached = _look(KAGGLE)[1]
    if attached:
        reason += f"; {KAGGLE} holds {_few(attached)}"
    if attached or dataset == "cifar10":
        raise SubmissionError(f"no CIFAR-10: {reason}; {EXPECTED}; only DATASET=digits runs without it")
    print(f"No CIFAR-10: {reason}; scikit-learn's digits stand in for it.")
    return _load_digits()


def _places(folder):
    """Where CIFAR-10 seems to lie: archives, and folders of batches or of an image tree; [] where nothing lies at all.

    Raises SubmissionError where `folder` is missing or holds other things only.
    """
    folder = Path(folder)
    if os.path.isfile(folder):
        return [folder]
    try:
        os.listdir(folder)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise SubmissionError(f"the folder {folder} cannot be read ({error.strerror})") from error
        if folder.resolve() != DEFAULT_FOLDER:
            raise SubmissionError(f"the folder {folder} does not exist: correct CIFAR10_DIR; {EXPECTED}") from error
    places, seen = _look(folder)
    if not places and folder.name in ("train", "test"):  # one folder too deep in an image tree
        places, _ = _look(folder.parent, depth=0)
    if seen and not places:
        raise SubmissionError(f"no CIFAR-10 in {folder}, which holds {_few(seen)}; {EXPECTED}")
    return places or _look(KAGGLE, depth=5)[0]  # datasets/<owner>/<name>/ and two folders more


def _look(folder, depth=2):
    """Where CIFAR-10 seems to lie in `folder` and down to `depth` folders below it, and all names seen on the way."""
    places, seen, batches = [], [], {name for name, _ in CIFAR10.train_list + CIFAR10.test_list}
    for path, folders, files in os.walk(folder, followlinks=True):
        path = Path(path)
        folders[:], files = (sorted(name for name in names if name[0] != ".") for names in (folders, files))
        seen += [(path / name).relative_to(folder).as_posix() for name in folders + files]
        if "train" in folders or path.name == CIFAR10.base_folder or batches & set(files):
            places.append(path)
        if CIFAR10.filename in files:
            places.append(path / CIFAR10.filename)
        if "train" in folders or len(path.relative_to(folder).parts) == depth:
            folders.clear()
    return places, seen


def _few(names):
    """The first eight names, and how many follow."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


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


def _download(folder):
    """The official archive, downloaded into `folder`; it bears its name only when it is whole."""
    if not _reachable(HOST):  # torchvision asks without a time limit
        raise OSError(f"no connection to {HOST}")
    part = folder / f".{CIFAR10.filename}.part"
    torchvision.datasets.utils.download_url(CIFAR10.url, folder, part.name, CIFAR10.tgz_md5)
    return part.rename(folder / CIFAR10.filename)


def _load_official(place):
    """The official batches, from their folder or an archive of it; nothing is unpickled before its MD5 is checked."""
    md5, contents = dict(CIFAR10.train_list + CIFAR10.test_list), {}
    try:
        if place.is_dir():
            contents = {name: (place / name).read_bytes() for name in md5 if (place / name).exists()}
        else:
            with tarfile.open(place) as archive:
                contents = {Path(member.name).name: archive.extractfile(member).read() for member in archive
                            if Path(member.name).name in md5 and member.isfile()}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SubmissionError(f"{place} is damaged, or is not CIFAR-10 ({type(error).__name__}): copy it anew or "
                              f"delete it; {EXPECTED}") from error
    missing = [name for name in md5 if name not in contents]
    if missing:
        raise SubmissionError(f"{place} lacks {', '.join(missing)}; copy it anew, whole")
    for name, content in contents.items():
        if hashlib.md5(content).hexdigest() != md5[name]:
            raise SubmissionError(f"{name} in {place} is damaged, or not CIFAR-10's; copy it anew")
    batches = [pickle.loads(contents[name], encoding="latin1") for name in md5]
    tensors = []
    for part in (batches[:-1], batches[-1:]):
        tensors += [torch.from_numpy(np.concatenate([batch["data"] for batch in part])).view(-1, 3, 32, 32),
                    torch.tensor([label for batch in part for label in batch["labels"]])]
    return Data(*tensors, CLASSES, "CIFAR-10")


def _load_tree(folder):
    """An image tree in the manner of torchvision's ImageFolder, its classes in alphabetical order."""
    tensors = []
    for part in ("train", "test"):
        try:
            tree = torchvision.datasets.ImageFolder(folder / part)
        except FileNotFoundError as error:
            fault = str(error).split(". ")[0] if (folder / part).is_dir() else "it does not exist"
            raise SubmissionError(f"{folder / part} is not a tree of images: {fault}; {EXPECTED}") from error
        odd = set(CLASSES) ^ set(tree.classes)
        if odd:
            raise SubmissionError(f"{folder / part} should hold one folder for each class of CIFAR-10; missing or "
                                  f"unknown: {_few(sorted(odd))}")
        images = torch.empty(len(tree), 3, 32, 32, dtype=torch.uint8)
        for i, (path, _) in enumerate(tqdm(tree.samples, desc=f"reading {part}", **progress_bar_options())):
            try:
                pixels = np.asarray(Image.open(path).convert("RGB"))
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them on a broken PNG
                raise SubmissionError(f"{path} is no image, or a damaged one; copy it anew") from error
            if pixels.shape != (32, 32, 3):
                raise SubmissionError(f"{path} has {pixels.shape[1]}×{pixels.shape[0]} pixels instead of 32×32")
            images[i] = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        tensors += [images, torch.tensor(tree.targets)]
    source = "CIFAR-10, image tree"
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
                "scikit-learn digits (a stand-in, not CIFAR-10)", is_fallback=True)


# ---------------------------------------------------------------------------------------------------- evaluation

@torch.no_grad()  # not inference_mode: weights that move to a GPU in it can never be trained or loaded again
def predict(model, images, normalisation, flip=False):
    """Class probabilities, float32 (N, 10) on the CPU, of uint8 `images`, mirrored first if `flip`; in float32."""
    model.to(DEVICE).eval()
    mean, std = (255 * torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in normalisation)
    parts = (part.to(DEVICE).flip(3) if flip else part.to(DEVICE) for part in images.split(500))
    return torch.cat([model((part - mean) / std).softmax(1).cpu() for part in parts])


def accuracy_of(probabilities, labels):
    """Share of images, in percent, whose most probable class is their label."""
    return 100 * (probabilities.argmax(1) == labels).sum().item() / len(labels)


def progress_bar_options():
    """tqdm's settings: a bar of text that is cleared at its end, and none in a log file."""
    return {"leave": False, "disable": not (os.isatty(2) or in_notebook()), "mininterval": 0.5}


def in_notebook():
    """Whether this runs in a notebook's kernel."""
    return get_ipython() is not None and "IPKernelApp" in get_ipython().config
