"""What the assignment notebook needs beside the network itself: data, augmentation, training, evaluation.

Top to bottom: loading CIFAR-10 into two uint8 tensors; drawing augmented batches from them; `fit`, one training
loop that can be stopped at any moment and continued to the same bits; prediction.
"""
import contextlib
import dataclasses
import hashlib
import http.client
import json
import math
import os
import platform
import signal
import socket
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from IPython import get_ipython
from IPython.display import clear_output
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from tqdm import tqdm

from kernels import FilterMuon, ProductGradients, keep_freed_memory

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits only with a fixed workspace
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOST = "www.cs.toronto.edu"  # where torchvision downloads CIFAR-10 from
SAVE_EVERY = 180  # seconds between two saves within an epoch
PADDING = 4  # pixels on each side of an image before a crop
# Training images from which torch.compile earns its start-up; on a CPU it measured no faster than channels_last.
COMPILE_PAYS = {"cpu": math.inf, "cuda": 2_000_000}


class SubmissionError(Exception):
    """A foreseeable fault, told in one sentence; a notebook shows that sentence and no traceback."""

    def _render_traceback_(self):  # IPython asks for this method before it formats a traceback
        return [f"{type(self).__name__}: {self}"]


class TrainingStopped(SubmissionError, KeyboardInterrupt):
    """Training was interrupted by Ctrl-C or the notebook's stop button; its state is saved."""


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

    def held_out(self, n=5000, seed=0):
        """The same data with `n` training images, drawn at random, in the place of the test images."""
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(seed))
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
    if has_data(folder) or _reachable(HOST):
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
        for i, (path, _) in enumerate(tqdm(tree.samples, desc=f"reading {part}", **_bar())):
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


# -------------------------------------------------------------------------------------------------- augmentation

class Batches:
    """The training images on the device, padded once; batches are cropped, flipped and mixed there.

    Every draw derives from (seed, epoch, step) on the CPU, so each device sees the same batches in the same order.
    """

    def __init__(self, data, recipe, device):
        self.recipe, self.device, self.labels = recipe, device, data.train_labels.to(device)
        self.mean, self.std = (255 * torch.tensor(v, device=device).view(3, 1, 1) for v in data.normalisation())
        pad, size = PADDING, data.train_images.shape[-1]
        position = torch.arange(-pad, size + pad)
        inside = (size - 1) - ((size - 1) - position.abs()).abs()  # reflected at both edges
        self.images = data.train_images[:, :, inside[:, None], inside].to(device)
        if recipe.pad_with == "zeros":
            outside = (position < 0) | (position >= size)
            self.images[:, :, outside.to(device)] = 0
            self.images[:, :, :, outside.to(device)] = 0
        self.size, self.steps = size, len(self.labels) // recipe.batch_size  # the rest sits this epoch out

    def start_epoch(self, epoch):
        """Draw the epoch's order, crops and flips."""
        draw, n = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch), len(self.labels)
        order = torch.randperm(n, generator=draw)
        shift = torch.randint(0, 2 * PADDING + 1, (2, n), generator=draw)
        flip = torch.rand(n, generator=draw) < (0.5 if "flip" in self.recipe.augmentation else 0)
        if "crop" not in self.recipe.augmentation:
            shift[:] = PADDING
        self.boxes = torch.rand(self.steps, 4, generator=draw)  # of CutMix: applied where below half, area, centre
        if "cutmix" not in self.recipe.augmentation:
            self.boxes[:, 0] = 1
        self.order, self.shift, self.flip = order.to(self.device), shift.to(self.device), flip.to(self.device)

    def batch(self, step):
        """Batch `step` of the epoch: images float32 (B, 3, 32, 32), labels (B,), second labels (B,), their weight.

        The second labels are those of the images pasted in by CutMix (Yun et al. 2019); without it they weigh 0.
        """
        part = slice(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        index, (top, left) = self.order[part], self.shift[:, part, None]
        across, channel = torch.arange(self.size, device=self.device), torch.arange(3, device=self.device)
        columns = left + torch.where(self.flip[part, None], across.flip(0), across)
        images = self.images[index[:, None, None, None], channel[:, None, None],
                             (top + across)[:, None, :, None], columns[:, None, None, :]]
        images, labels = (images - self.mean) / self.std, self.labels[index]
        apply, area, row, column = self.boxes[step].tolist()
        if apply > 0.5:
            return images, labels, labels, 0.0
        # Yun et al. draw the area kept from Beta(1, 1), which is uniform; partners are the batch rolled by one.
        half = self.size * math.sqrt(area) / 2
        low_high = [[min(max(round(centre * self.size + side * half), 0), self.size) for side in (-1, 1)]
                    for centre in (row, column)]
        rows, columns = (slice(*ends) for ends in low_high)
        images[:, :, rows, columns] = images.roll(1, 0)[:, :, rows, columns]
        return images, labels, labels.roll(1, 0), math.prod(high - low for low, high in low_high) / self.size ** 2


# ------------------------------------------------------------------------------------------------------ training

@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a run. The defaults are those of the course's own training loop."""
    epochs: int = 1
    batch_size: int = 100
    optimizer: str = "adam"            # Kingma and Ba 2015; "sgd", with Nesterov momentum; "muon", with Adam's help
    learning_rate: float = 1e-3        # the highest one of the schedule
    schedule: str = "constant"         # or "linear" (to zero), "thirds" (a third every 20 epochs)
    warmup: float = 0.0                # share of the steps in which the rate rises, with "linear"
    momentum: float = 0.9
    weight_decay: float = 0.0          # on convolutions and the linear layer, never on biases and batch norms
    label_smoothing: float = 0.0
    augmentation: str = "crop flip"    # any of "crop", "flip", "cutmix"
    pad_with: str = "zeros"            # at the edges, before a crop; or "reflection"
    seed: int = 0                      # of the order of the images and of their augmentation
    start: str = ""                    # names the weights the run begins with; "" from scratch; kept, not acted on

    def rate(self, step, steps_per_epoch):
        """The learning rate at `step`, counted from the start of the run."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "thirds":
            return self.learning_rate / 3 ** (step // steps_per_epoch // 20)
        progress = (step + 1) / (self.epochs * steps_per_epoch + 1)
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        return self.learning_rate * (1 - progress) / (1 - self.warmup)


@dataclasses.dataclass
class Run:
    """A finished run: `info` is its run.json, `history` has a row per epoch, `losses` one value per step."""
    folder: Path
    info: dict
    history: pd.DataFrame
    losses: np.ndarray
    predictions: dict

    @property
    def last_epoch(self):
        """The losses of the last epoch's steps."""
        return self.losses[-(len(self.losses) // len(self.history)):]


def load_run(folder):
    """The finished run in `folder`, or None where there is none."""
    folder = Path(folder)
    if not (folder / "run.json").exists():
        return None
    return Run(folder, json.loads((folder / "run.json").read_text()), pd.read_csv(folder / "history.csv"),
               np.loadtxt(folder / "losses.csv", ndmin=1), load_file(folder / "predictions.safetensors"))


def load_weights(model, folder):
    """`model` with the released weights of the run in `folder`; SubmissionError where they do not fit."""
    try:
        model.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
        return model
    except Exception as error:  # no file, a damaged one, other shapes: each library has its own kinds
        raise SubmissionError(f"{folder}/weights.safetensors is missing, damaged or of another network "
                              f"({str(error).splitlines()[0]})") from error


def fit(model, data, folder, recipe):
    """Train `model` in place on `data` by `recipe`, keeping the state in `folder`; returns the finished Run.

    Called again it continues an unfinished run, to the bits an uninterrupted one would have reached on the same
    device and versions; a finished run is returned at once, its weights in `model`, whatever `data` is.
    Raises SubmissionError where the folder holds another run, where the loss is no longer finite, where memory or
    disk are short; TrainingStopped, after saving, on Ctrl-C.
    """
    folder, names = Path(folder), [f"{name} {tuple(p.shape)}" for name, p in model.named_parameters()]
    config = dataclasses.asdict(recipe) | {"network": key_of(*names)}
    run = load_run(folder)
    if run:
        _refuse_other(folder, run.info["config"], config)
        load_weights(model, folder)
        return run
    if len(data.train_labels) < recipe.batch_size:
        raise SubmissionError(f"a batch of {recipe.batch_size} is more than the {len(data.train_labels)} training "
                              "images; choose a smaller BATCH_SIZE")
    config["data"] = data.fingerprint()
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = _load_state(folder)
    if state:
        _refuse_other(folder, state["config"], config)
        model.load_state_dict(state["model"])
        torch.set_num_threads(state["choices"]["threads"])
        print(f"{folder.name}: continuing at epoch {state['epoch'] + 1}, step {state['step'] + 1}")
        if state["choices"] != (here := choices(state["choices"]["compiled"])):
            print(f"{folder.name}: started with {state['choices']}, continued with {here}; its bits will differ")
    else:
        compiled = recipe.epochs * len(data.train_labels) >= COMPILE_PAYS[DEVICE.type]
        state = {"config": config, "choices": choices(compiled), "epoch": 0, "step": 0, "partial": [[], []],
                 "losses": [], "history": [], "seconds": 0.0, "compile_seconds": 0.0}
    try:
        _train(model, data, folder, recipe, state)
    except torch.OutOfMemoryError as error:
        raise SubmissionError(f"no GPU memory for a batch of {recipe.batch_size}; try "
                              f"BATCH_SIZE={max(recipe.batch_size // 2, 1)}") from error
    return _finish(model, data, folder, state)


def key_of(*parts):
    """Eight hexadecimal digits that tell one configuration, given as printable parts, from another."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def choices(compiled=False):
    """What influences the bits of a run on this machine beside its configuration, as a dict."""
    if DEVICE.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 would only emulate it
        name, precision = torch.cuda.get_device_name(), "bf16" if native else "fp16"
    else:
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        name, precision = capabilities.get("cpu_name", platform.machine()), "bf16" if native else "fp32"
    return {"device": name, "precision": precision, "compiled": compiled, "threads": torch.get_num_threads(),
            "torch": str(torch.__version__)}


def _optimizers(model, recipe):
    """Fused SGD or Adam, or Muon on the filters with fused AdamW for the rest; no decay of biases and batch norms."""
    muon = recipe.optimizer == "muon"
    filters = [p for p in model.parameters() if muon and p.ndim == 4]
    others = [p for p in model.parameters() if not (muon and p.ndim == 4)]
    groups = [{"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
              {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=True, fused=True)]
    if recipe.optimizer == "adam":
        return [torch.optim.Adam(groups, fused=True)]
    return [FilterMuon(filters, momentum=recipe.momentum, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)]


def _train(model, data, folder, recipe, state):
    """The loop: from `state`'s epoch and step to the end of the last epoch; `state` follows and is saved on the way."""
    keep_freed_memory()
    batches, compiled = Batches(data, recipe, DEVICE), state["choices"]["compiled"]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[state["choices"]["precision"]]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    model.to(DEVICE, memory_format=torch.channels_last)
    optimizers = _optimizers(model, recipe)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype == torch.float16)
    gradients = ProductGradients() if DEVICE.type == "cpu" else contextlib.nullcontext()
    if "optimizers" in state:
        for optimizer, kept in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(kept)
        scaler.load_state_dict(state["scaler"])

    def forward(step):
        images, labels, others, share = batches.batch(step)
        with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32), gradients:
            logits = net(images.contiguous(memory_format=torch.channels_last)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if share:
            mixed = F.cross_entropy(logits, others, label_smoothing=recipe.label_smoothing)
            loss = (1 - share) * loss + share * mixed
        return loss, (logits.argmax(1) == labels).float().mean()

    def update(step):
        """One step; its loss (NaN where it or its gradient is not finite: then the weights stay) and accuracy."""
        loss, accuracy = forward(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale(loss).backward()
        finite = loss.detach().isfinite()
        if not scaler.is_enabled():  # a scaler finds gradients that are not finite itself, and expects a few
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            finite &= norm.isfinite()
            for optimizer in optimizers:
                optimizer.found_inf = 1 - finite.float()  # read by the optimiser, on the device
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        return torch.stack([torch.where(finite, loss.detach(), torch.nan), accuracy])

    def log(line):
        lines.append(line)
        tqdm.write(line)

    net, lines = model.train(), []
    if compiled:  # tried on one step, which is then undone
        before, began = {k: v.clone() for k, v in model.state_dict().items()}, time.perf_counter()
        try:
            net = torch.compile(model)
            batches.start_epoch(0)
            forward(0)[0].backward()
        except Exception as error:  # no C++ compiler, an unsupported platform, ...: many kinds, one remedy
            print(f"torch.compile failed ({str(error).splitlines()[0][:100]}); training without it, more slowly")
            net, state["choices"]["compiled"] = model, False
        model.load_state_dict(before)
        state["compile_seconds"] += time.perf_counter() - began
    with _ctrl_c() as stop:
        mark = saved = time.perf_counter()
        while state["epoch"] < recipe.epochs:
            epoch, first = state["epoch"], state["step"]
            batches.start_epoch(epoch)
            model.train()
            stats = torch.zeros(2, batches.steps, device=DEVICE)  # losses and accuracies stay on the device
            stats[:, :first] = torch.tensor(state["partial"], device=DEVICE)
            bar = tqdm(total=batches.steps, initial=first, desc=f"epoch {epoch + 1}/{recipe.epochs}", **_bar())
            for step in range(first, batches.steps):
                done, everything = step + 1, epoch * batches.steps + step
                torch.manual_seed(recipe.seed + 1_000_003 * everything)  # for layers that draw, such as dropout
                rate = recipe.rate(everything, batches.steps)
                for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                    group["lr"] = rate
                stats[:, step] = update(step)
                bar.update()
                now, last = time.perf_counter(), done == batches.steps
                due = bool(stop) or now - saved > SAVE_EVERY or last
                if done % 100 and not due:
                    continue
                state["seconds"], mark = state["seconds"] + now - mark, now
                losses, accuracies = stats[:, :done].cpu()  # the only crossing to the host
                if not losses.isfinite().all():
                    where = int(losses.isfinite().logical_not().nonzero()[0]) + 1
                    raise SubmissionError(f"the loss is not finite at epoch {epoch + 1}, step {where}, learning rate "
                                          f"{rate:.3g}; try a lower one or a longer warm-up ({folder} keeps the last "
                                          "finite state)")
                loss, accuracy = losses.mean().item(), 100 * accuracies.mean().item()
                bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.1f}%", rate=f"{rate:.2g}")
                if recipe.epochs <= 3 and (done % 100 == 0 or last):  # the course's log line: the running mean
                    log(f"Epoch [{epoch + 1}/{recipe.epochs}], Step [{done}/{batches.steps}] Loss: {loss:.4f}")
                state.update(step=done, partial=[losses.tolist(), accuracies.tolist()])
                if last:
                    bar.close()
                    row = {"epoch": epoch + 1, "train_loss": loss, "train_accuracy": accuracy, "learning_rate": rate}
                    if (epoch + 1) % max(1, recipe.epochs // 10) == 0:  # for a curve; nothing is chosen by it
                        row["test_accuracy"] = accuracy_of(
                            predict(model, data.test_images, data.normalisation()), data.test_labels)
                    row["seconds"] = state["seconds"] + time.perf_counter() - mark
                    if recipe.epochs > 3:
                        log("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
                    state["history"].append(row)
                    state.update(epoch=epoch + 1, step=0, partial=[[], []], losses=state["losses"] + losses.tolist())
                if due:
                    state.update(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers],
                                 scaler=scaler.state_dict())
                    _save_state(folder, state)
                    saved = time.perf_counter()
                if stop and state["epoch"] < recipe.epochs:
                    raise TrainingStopped(f"stopped at epoch {epoch + 1}, step {done}; run this again to continue "
                                          f"(the state is in {folder})")
    if _in_notebook():  # what is left of the bars would stay in the saved notebook
        clear_output(wait=True)
        print(*lines, sep="\n")


@contextlib.contextmanager
def _ctrl_c():
    """Collect Ctrl-C in a list, so that no update is cut in two; in the main thread only, as signals are."""
    pressed = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse_other(folder, kept, wanted):
    """Raise SubmissionError, naming what differs, where the run kept in `folder` is not the one wanted."""
    differing = [f"{k} ({kept.get(k)} there, {wanted[k]} now)" for k in wanted if kept.get(k) != wanted[k]]
    if differing:
        raise SubmissionError(f"{folder} holds a run with other {', '.join(differing)}: take another folder, "
                              "or remove it (FRESH=1 does)")


@contextlib.contextmanager
def _disk(folder):
    """Turn a full or read-only disk into one sentence."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells a full disk as a RuntimeError
        raise SubmissionError(f"{folder} cannot be written ({error}); what was saved before is kept: make room and run "
                              "this again to continue") from error


def _save_state(folder, state):
    """Write state.pt so that at every moment a whole one lies there: temporary file, flush to disk, rename."""
    if not all(value.isfinite().all() for value in state["model"].values()):
        raise SubmissionError(f"the network holds values that are not finite; {folder} keeps the last finite state: "
                              "try a lower learning rate")
    temporary = folder / "state.tmp"
    try:
        with _disk(folder), open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, folder / "state.pt")
    finally:
        temporary.unlink(missing_ok=True)


def _load_state(folder):
    """The state kept in `folder`, tensors on the CPU; None where there is none."""
    if not (folder / "state.pt").exists():
        return None
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file shows as any of several kinds
        raise SubmissionError(f"{folder}/state.pt is damaged; remove it to start this run again") from error


def _finish(model, data, folder, state):
    """Write what a finished run leaves: weights, predictions, history, losses and, last, run.json."""
    mean_std, labels = data.normalisation(), data.test_labels
    # Cloned: on a CPU these would else be the model's own tensors, which loading the halves would round.
    full = {k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
    half = {k: v.half() if v.ndim > 1 else v for k, v in full.items()}
    probabilities, accuracy = {}, {}
    for name, weights in (("full", full), ("half", half)):
        model.load_state_dict(weights)
        probabilities[name] = predict(model, data.test_images, mean_std)
        accuracy[name] = accuracy_of(probabilities[name], labels)
    # Half precision is released where the reported accuracy does not show it.
    released = "half" if abs(accuracy["half"] - accuracy["full"]) <= 0.05 else "full"
    weights, probabilities = {"half": half, "full": full}[released], probabilities[released]
    model.load_state_dict(weights)
    mirrored = predict(model, data.test_images, mean_std, flip=True)
    info = {"run": folder.name, "config": state["config"], "choices": state["choices"], "source": data.source,
            "train_images": len(data.train_labels), "normalisation": mean_std, "seconds": state["seconds"],
            "compile_seconds": state["compile_seconds"], "finished": date.today().isoformat(), "weights": released,
            "accuracy": accuracy[released], "accuracy_in_full_precision": accuracy["full"]}
    with _disk(folder):
        save_file(weights, folder / "weights.safetensors")
        save_file({"predicted": probabilities.argmax(1).byte(), "labels": labels.byte(),
                   "predicted_with_mirrored": (probabilities + mirrored).argmax(1).byte()},
                  folder / "predictions.safetensors")
        pd.DataFrame(state["history"]).to_csv(folder / "history.csv", index=False)
        np.savetxt(folder / "losses.csv", state["losses"], "%.6g")
        (folder / "run.json.tmp").write_text(json.dumps(info, indent=1) + "\n")
        os.replace(folder / "run.json.tmp", folder / "run.json")  # from here on the run counts as finished
        (folder / "state.pt").unlink()
    return load_run(folder)


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


def _bar():
    """tqdm's settings: a bar of text that is cleared at its end, and none in a log file."""
    return {"leave": False, "disable": not (os.isatty(2) or _in_notebook()), "mininterval": 0.5}


def _in_notebook():
    return get_ipython() is not None and "IPKernelApp" in get_ipython().config
