"""One training loop, which can be stopped at any moment and continued to the same bits.

Top to bottom: the recipe; a run, and how one is asked for; batches; the loop (`train` and `Learner.step`); what is
measured, shown and saved beside it.
"""
import ast
import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import signal
import time
import tokenize
from datetime import date
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pandas as pd
import torch
from IPython.display import clear_output
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V
from tqdm import tqdm

from tools.project_files import ROOT, project_files
from training.speed import FilterMuon, Graph, ProductGradients, keep_freed_memory
from utils import DEVICE, SubmissionError, accuracy_of, in_notebook, predict, progress_bar_options

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits only with a fixed workspace
SAVE_EVERY = 180  # seconds between two saves
FIRST_FETCHES = (5, 10, 15)  # steps after which a run knows how long its steps take, and notices a pause
FIXED = 5_000  # the first training images, on which a finished run's loss is measured without augmentation
PADDING = 4  # pixels on each side of an image before a crop
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Means and standard deviations of red, green and blue in [0, 1] in the course's training script.
COURSE_NORMALISATION = [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]


class TrainingStopped(SubmissionError, KeyboardInterrupt):
    """Training was interrupted by Ctrl-C or the notebook's stop button; its state is saved."""


# -------------------------------------------------------------------------------------------------------- recipe

@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a run. The defaults are those of the course's own training loop.

    A field that is added later needs the default that leaves stored runs as they are: a stored recipe without the
    field is read as one with the default. Raises SubmissionError where a value is not among `CHOICES`, not within
    `LIMITS`, or of another type.
    """
    epochs: int = 1
    batch_size: int = 100
    optimizer: str = "adam"            # Kingma and Ba 2015; "sgd", with Nesterov momentum; "muon", AdamW for the rest
    learning_rate: float = 1e-3        # the highest one of the schedule
    schedule: str = "constant"         # or "linear" (to zero), "step" (divided by 3 after every `step_epochs` epochs)
    step_epochs: int = 20              # of the schedule "step"
    zero_rate_epochs: int = 0          # epochs at the start with a rate of zero: Adam's moments fill, no weight moves
    warmup: float = 0.0                # share of the steps in which the rate rises, with "linear"
    momentum: float = 0.9              # of SGD and Muon; Adam keeps its own
    beta2: float = 0.999               # of Adam: the decay of its average of squared gradients
    weight_decay: float = 0.0          # on convolutions and the linear layer, never on biases and batch norms
    label_smoothing: float = 0.0
    augmentation: str = "crop flip"    # any of "crop", "flip", "trivialaugment", "cutmix", or ""
    pad_with: str = "zeros"            # at the edges, before a crop; or "reflection"
    first_filters: str = "random"      # those of the first convolution at the start; or "whitening"
    normalisation: str = "training set"  # by its own means and deviations; or "course", by COURSE_NORMALISATION
    order: str = "permutation"         # of the images, a new one in each epoch; or another of CHOICES["order"]
    seed: int = 0                      # of the initial weights, the order of the images and their augmentation

    CHOICES = {
        "optimizer": ("adam", "adamw", "sgd", "muon"),
        "schedule": ("constant", "linear", "step"),
        "augmentation": ("crop", "flip", "trivialaugment", "cutmix"),
        "pad_with": ("zeros", "reflection"),
        "first_filters": ("random", "whitening"),
        "normalisation": ("training set", "course"),
        "order": ("permutation", "same", "reversed", "with replacement"),
    }
    LIMITS = {
        "epochs": (1, 10_000),
        "batch_size": (1, 1_000_000),
        "learning_rate": (0, 10),
        "step_epochs": (1, 10_000),
        "zero_rate_epochs": (0, 10_000),
        "warmup": (0, 0.99),
        "momentum": (0, 0.9999),
        "beta2": (0, 0.99999),
        "weight_decay": (0, 10),
        "label_smoothing": (0, 0.99),
        "seed": (0, 2**32 - 1),
    }

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if choices := self.CHOICES.get(name):
                words = str(value).split() if name == "augmentation" else [value]
                if not set(words) <= set(choices):
                    raise SubmissionError(f"{name}={value!r} is none of {', '.join(choices)}")
            else:
                (low, high), whole = self.LIMITS[name], type(getattr(Recipe, name)) is int
                if not (type(value) in ((int,) if whole else (int, float)) and low <= value <= high):
                    raise SubmissionError(f"{name}={value!r} is no {'whole ' * whole}number from {low:,} to {high:,}")

    def rate(self, step, steps_per_epoch):
        """The learning rate at `step`, counted from the start of the run."""
        epoch = step // steps_per_epoch
        if epoch < self.zero_rate_epochs:
            return 0.0
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            return self.learning_rate / 3 ** (epoch // self.step_epochs)
        steps = self.epochs * steps_per_epoch
        progress = (step + 1) / (steps + 1)
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        return self.learning_rate * (1 - progress) / (1 - self.warmup)


def recipe_of(config):
    """The Recipe in a run's configuration; fields that it lacks have their default."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    return Recipe(**{name: config[name] for name in names if name in config})


def recipe_table(recipes):
    """Hyper-parameters side by side: a DataFrame of strings, a column for each item of the dict `recipes`.

    Fields that are at their default in all recipes, and kinds of augmentation that none uses, are left out of it.
    """
    columns = {title: dataclasses.asdict(recipe) for title, recipe in recipes.items()}
    for field in dataclasses.fields(Recipe):
        if all(column[field.name] == field.default for column in columns.values()) and field.name != "augmentation":
            for column in columns.values():
                del column[field.name]
    used = " ".join(recipe.augmentation for recipe in recipes.values()).split()
    for column in columns.values():
        column.pop("seed", None)  # the same recipe with any
        words = column.pop("augmentation").split()
        for kind in Recipe.CHOICES["augmentation"]:
            if kind in used:
                column[kind] = "yes" if kind in words else "no"
        if "momentum" in column and column.get("optimizer", "adam").startswith("adam"):
            column["momentum"] = "–"
    table = pd.DataFrame(columns).map(lambda value: f"{value:g}" if type(value) is float else str(value))
    return table.rename(index=lambda name: name.replace("_", " ")).rename_axis("hyper-parameter")


# ---------------------------------------------------------------------------------------------------------- runs

@dataclasses.dataclass
class Run:
    """A finished run: `info` is its run.json, `history` has a row per epoch, `losses` one value per step."""
    folder: Path
    info: dict
    history: pd.DataFrame
    losses: np.ndarray
    predictions: dict
    weights_used: bool = False  # whether the weights are wanted, and so belong to what is handed in

    @property
    def name(self):
        """What it was asked for by."""
        return self.info["run"]

    @property
    def recipe(self):
        """The Recipe that it was trained by; fields that are newer than its record have their default."""
        return recipe_of(self.info["config"])

    @property
    def key(self):
        """Eight hexadecimal digits that tell it from runs of another configuration or result."""
        return short_hash(self.info)

    @property
    def accuracy(self):
        """Share of the test images, in per cent, that its predictions get right."""
        return self._accuracy("predicted")

    @property
    def flip_tta_accuracy(self):
        """The same, of predictions averaged with those for the mirrored images."""
        return self._accuracy("predicted_with_mirrored")

    def _accuracy(self, which):
        return 100 * (self.predictions[which] == self.predictions["labels"]).double().mean().item()

    @property
    def files(self):
        """The files that belong to it: a sorted list of paths."""
        without = () if self.weights_used else ("weights.safetensors",)
        return sorted(file for file in self.folder.iterdir() if file.name not in without)

    @property
    def last_epoch(self):
        """The losses of the last epoch's steps."""
        return self.losses[-(len(self.losses) // len(self.history)):]


def load_or_train(name, network, recipe, data, runs, stored=None, start=None, weights=False, match_recipe_only=False,
                  keep_image_losses=False, snapshots=None):
    """Load the finished Run `name` from the folder `stored` or `runs`, or train it in `runs`.

    A run is identified by its network (see `network_probe`), recipe, data and start: one that differs in any of them is
    not used, unless `match_recipe_only`, which compares the recipe alone for a stored one. `network` is called for the
    network to train, whose initial weights are drawn with the recipe's seed; with `start`, a Run, they are that run's.
    A run that lacks its weights is not used with `weights`, nor one without the losses of single images with
    `keep_image_losses`. `snapshots`, a dict epochs -> name, names runs of fewer epochs that are kept on the way.
    Raises SubmissionError as `fit` does.
    """
    needed = []
    if weights:
        needed.append("weights.safetensors")
    if keep_image_losses:
        needed.append("image_losses.safetensors")
    torch.manual_seed(recipe.seed)
    model = network()
    config = configuration(network_probe(model, recipe.seed), recipe, data, start)
    run = load_run(Path(stored) / name) if stored else None
    if run:
        wanted = dataclasses.asdict(recipe) if match_recipe_only else config
        differences = differences_between(run.info["config"], wanted)
        differences += [f"no {file}" for file in needed if not (run.folder / file).exists()]
        if not differences:
            return dataclasses.replace(run, weights_used=weights)
        print(f"{name}: the run in {run.folder} is not used: {', '.join(differences)}")
    if start:
        load_weights(model, start.folder)
    elif recipe.first_filters == "whitening":
        whiten_first_filters(model, data, normalisation_of(recipe.normalisation, data))
    folder = Path(runs) / f"{name}-{folder_key(config)}"
    run = fit(model, data, folder, recipe, start, name, config, keep_image_losses, snapshots)
    lacking = [file for file in needed if not (run.folder / file).exists()]
    if lacking:
        raise SubmissionError(f"{run.folder} lacks {', '.join(lacking)}: remove it to train this run again")
    return dataclasses.replace(run, weights_used=weights)


@torch.no_grad()
def whiten_first_filters(model, data, normalisation, images=2_000):
    """Have `model`'s first convolution and the batch norm after it whiten what they see, as Jordan's airbench does.

    The filters become the largest principal components of patches of the first training images, once with either sign,
    in the mean length of PyTorch's initial filters; the batch norm gives each of them its size. Filters for which no
    component is left stay random. A network without a convolution stays as it is.
    """
    layer = next((module for module in model.modules() if isinstance(module, torch.nn.Conv2d)), None)
    if layer is None:
        return
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in normalisation)
    patches = F.unfold((data.train_images[:images] / 255 - mean) / std, layer.kernel_size, stride=4)
    patches = patches.transpose(1, 2).flatten(0, 1)
    _, components = torch.linalg.eigh(patches.T @ patches)
    half = min(layer.out_channels // 2, components.shape[1])
    filters = components.flip(1)[:, :half].T.view(-1, *layer.weight.shape[1:])
    length = layer.weight.flatten(1).norm(dim=1).mean()
    layer.weight[:2 * half] = torch.cat([filters, -filters]) * length


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


def configuration(probe, recipe, data, start=None):
    """What identifies a run, as a dict: the recipe's fields, the probe of the freshly initialised network, the keys of
    data and start.
    """
    return dataclasses.asdict(recipe) | {"network": probe, "data": data.fingerprint,
                                         "start": start.key if start else ""}


def differences_between(there, here):
    """What differs between a stored configuration and `here`, in words: a list of strings."""
    defaults = dataclasses.asdict(Recipe())
    differences = []
    for name, value in here.items():
        other = there.get(name, defaults.get(name))
        if name == "network":
            if not same_probe(other, value):
                differences.append("other network (it computes something else)")
        elif other != value:
            differences.append(f"other {name} ({str(other):.20} there, {str(value):.20} here)")
    return differences


def folder_key(config):
    """Eight hexadecimal digits for the name of a run's folder; fields at their default do not count."""
    defaults = dataclasses.asdict(Recipe())
    parts = {name: value for name, value in config.items() if name not in defaults or value != defaults[name]}
    parts["network"] = [f"{value:.4g}" for value in config["network"]]
    return short_hash(parts)


def short_hash(*parts):
    """Eight hexadecimal digits that tell one configuration, given as printable parts, from another."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


PROBE_IMAGES = 4  # that a network is probed with


def network_probe(model, seed):
    """What the freshly initialised network `model` computes, as a list of nine floats; the model stays as it is.

    Eight are projections of its outputs for fixed random images, four in training mode and four in evaluation mode
    after it; the ninth is the norm of the gradient. All is computed in double precision on the CPU, where this is
    possible. So whatever changes the function, its gradient, its initial weights or its running statistics changes the
    probe, wherever the change stands; code that computes the same does not.

    Parameters that are constant, such as batch norm's, are replaced by large random values first: a scale of zero
    would hide the branch behind it, and small activations the difference of a ReLU and a ReLU6. Where this leads to
    values that are not finite, small positive values are added instead.
    """
    for size in (4.0, None):
        probed = _with_random_constants(copy.deepcopy(model).cpu(), size)
        values = _probe_on_some_device(probed, seed)
        if np.isfinite(values).all():
            break
    return values


@torch.no_grad()
def _with_random_constants(model, size):
    """`model` with noise of the deviation `size` on its constant parameters, or positive noise below 0.1 for None."""
    draw = np.random.default_rng(0)
    for parameter in model.parameters():
        if parameter.numel() and parameter.is_floating_point() and parameter.min() == parameter.max():
            if size is None:
                noise = draw.uniform(0, 0.1, tuple(parameter.shape))
            else:
                noise = size * draw.standard_normal(tuple(parameter.shape))
            parameter.add_(torch.as_tensor(noise).to(parameter.dtype))
    return model


def _probe_on_some_device(model, seed):
    """The probe in double precision on the CPU, or in single where the code demands it, or on the device."""
    images = torch.from_numpy(np.random.default_rng(2).standard_normal((PROBE_IMAGES, 3, 32, 32)))
    attempts = [(torch.device("cpu"), torch.float64), (torch.device("cpu"), torch.float32), (DEVICE, torch.float32)]
    with torch.random.fork_rng(), torch.enable_grad():
        for device, dtype in attempts:
            try:
                return _probe_outputs(copy.deepcopy(model).to(device, dtype), images.to(device, dtype), seed)
            except RuntimeError:
                if (device, dtype) == attempts[-1]:
                    raise


def _probe_outputs(model, images, seed):
    """The nine values of a probe, for `images` of the model's dtype and on its device."""
    torch.manual_seed(seed)  # for layers that draw, such as dropout
    outputs = model.train()(images).flatten()
    weights = np.random.default_rng(1).standard_normal((4, outputs.numel()))
    weights = torch.from_numpy(weights).to(outputs)
    gradients = torch.autograd.grad((weights @ outputs).sum(), [p for p in model.parameters() if p.requires_grad],
                                    allow_unused=True)
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    with torch.no_grad():
        values = [*(weights @ outputs), *(weights @ model.eval()(images).flatten()), norm]
    return [float(f"{float(value):.8g}") for value in values]


def same_probe(stored, computed):
    """Whether two probes agree within 1e-4 of the values' size, which is more than machines and versions differ by."""
    if not isinstance(stored, list) or len(stored) != len(computed):
        return False
    groups = (slice(0, 4), slice(4, 8), slice(8, 9))
    return all(np.allclose(stored[group], computed[group], rtol=0, atol=1e-4 * max(map(abs, computed[group])),
                           equal_nan=True) for group in groups)


def engine_hash(folder):
    """Eight hexadecimal digits of the code that trains in the project `folder`, comments and docstrings left out."""
    files = project_files("training", folder)
    return short_hash(*(_bare_lines(file.read_text(encoding="utf-8")) for file in files))


def _bare_lines(source):
    """The lines of Python source without comments and docstrings; every version of Python finds the same."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        if documented and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            for row in range(docstring.lineno, docstring.end_lineno + 1):
                lines[row - 1] = ""
    return [line.rstrip() for line in lines if line.strip()]


ENGINE = engine_hash(ROOT)  # of the code that is loaded: the files may change while a run goes on


def fit(model, data, folder, recipe, start=None, name=None, config=None, keep_image_losses=False, snapshots=None):
    """Train `model` in place on `data` by `recipe`, keeping the state in `folder`; returns the finished Run `name`.

    Called again it continues an unfinished run, to the bits an uninterrupted one would have reached on the same
    device and versions; a finished run is returned at once, its weights in `model`. `start` is recorded, not loaded;
    where `model` is not freshly initialised, `config` is the configuration of the one that was. `keep_image_losses`
    keeps the loss of each image in each step. `snapshots`, epochs -> name, keeps runs of fewer epochs beside `folder`.
    Raises SubmissionError where the folder holds another run, where the loss is no longer finite, where memory or
    disk are short; TrainingStopped, after saving, on Ctrl-C.
    """
    folder = Path(folder)
    name = name or folder.name
    config = config or configuration(network_probe(model, recipe.seed), recipe, data, start)
    if snapshots and recipe.schedule == "linear":
        raise SubmissionError("a run with the schedule linear has no snapshots: its rates depend on its last epoch")
    run, state = load_run(folder), _load_state(folder)
    if run or state:
        if differences := differences_between((run.info if run else state)["config"], config):
            raise SubmissionError(f"{folder} holds a run with {', '.join(differences)}: remove it or take another one")
    if run:
        load_weights(model, folder)
        return run
    if len(data.train_labels) < recipe.batch_size:
        raise SubmissionError(f"a batch of {recipe.batch_size} is more than the {len(data.train_labels)} training "
                              "images; choose a smaller BATCH_SIZE")
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if state:
        progress = Progress(**state["progress"])
        print(f"{folder.name}: continuing at epoch {progress.epoch + 1}, step {progress.step + 1}")
        torch.set_num_threads(state["choices"]["threads"])
        if state["choices"] != (here := environment()):
            print(f"{folder.name}: started with {state['choices']}, continued with {here}; its bits will differ")
    else:
        progress = Progress()
    enough_memory = True
    with _ctrl_c(folder) as pressed:
        try:
            learner, batches = Learner(model, recipe, environment()["precision"]), Batches(data, recipe, DEVICE)
            if state:
                learner.load_state_dict(state["learner"])
            monitor = Monitor(learner, progress, recipe, batches.steps, folder, config, pressed)
            monitor.keep_image_losses = keep_image_losses
            monitor.take_snapshot = _snapshot_taker(model, data, folder.parent, config, snapshots or {})
            train(learner, batches, recipe, progress, monitor)
        except torch.OutOfMemoryError:
            enough_memory = False
        if not enough_memory:  # said only now that the failed step's tensors are no longer held by the exception
            raise SubmissionError(f"no GPU memory for a batch of {recipe.batch_size}; try "
                                  f"BATCH_SIZE={max(recipe.batch_size // 2, 1)}")
        return _finish(model, data, folder, name, config, progress)


def _snapshot_taker(model, data, runs, config, snapshots):
    """A function of a run's progress that keeps, after the epochs named, what a run of so many epochs would leave."""
    def take_snapshot(progress):
        if progress.epoch not in snapshots:
            return
        name = snapshots[progress.epoch]
        shorter = config | {"epochs": progress.epoch}
        folder = runs / f"{name}-{folder_key(shorter)}"
        with _disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
        _finish(copy.deepcopy(model), data, folder, name, shorter, progress)
    return take_snapshot


def environment():
    """What influences the bits of a run beside its configuration, as a dict: machine, number format, versions, code."""
    if DEVICE.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 would only emulate it
        name, precision = torch.cuda.get_device_name(), "bf16" if native else "fp16"
    else:
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        name, precision = capabilities.get("cpu_name", platform.machine()), "bf16" if native else "fp32"
    return {"device": name, "precision": precision, "threads": torch.get_num_threads(),
            "torch": str(torch.__version__), "engine": ENGINE}


# ------------------------------------------------------------------------------------------------------- batches

def normalisation_of(kind, data):
    """Means and standard deviations of the three channels in [0, 1]: a training set's own, or the course's."""
    if kind == "course":
        return COURSE_NORMALISATION
    return data.normalisation()


def image_order(recipe, images, epoch):
    """The numbers of the images, int64 (images,), in the order in which `epoch` takes them, and its random generator.

    "permutation": a new one in each epoch; "same": that of the first epoch in all; "reversed": each epoch runs through
    the images in the reverse order of the last; "with replacement": each image is drawn from all.
    """
    draw = np.random.default_rng((recipe.seed, epoch))
    order = draw.permutation(images)
    if recipe.order == "with replacement":
        order = np.random.default_rng((recipe.seed, epoch, 0)).integers(0, images, images)
    elif recipe.order != "permutation":
        order = np.random.default_rng((recipe.seed, 0)).permutation(images)
        if recipe.order == "reversed" and epoch % 2:
            order = order[::-1].copy()
    return order, draw


class Batches:
    """The training images on the device, padded once; batches are cropped, flipped and mixed there.

    Every draw derives from (seed, epoch, step) on the CPU, so each device sees the same batches in the same order.
    """

    def __init__(self, data, recipe, device):
        self.recipe, self.device, self.labels = recipe, device, data.train_labels.to(device)
        constants = normalisation_of(recipe.normalisation, data)
        self.mean, self.std = (255 * torch.tensor(v, device=device).view(3, 1, 1) for v in constants)
        size = data.train_images.shape[-1]
        if recipe.pad_with == "zeros":
            self.images = F.pad(data.train_images, 4 * [PADDING]).to(device)
        else:
            position = torch.arange(-PADDING, size + PADDING).abs()
            inside = (size - 1) - ((size - 1) - position).abs()  # reflected at both edges
            self.images = data.train_images[:, :, inside[:, None], inside].to(device)
        self.size, self.steps = size, len(self.labels) // recipe.batch_size  # the rest sits this epoch out

    def start_epoch(self, epoch):
        """Draw the order of the epoch's images, their crops and flips."""
        n, words = len(self.labels), self.recipe.augmentation
        order, draw = image_order(self.recipe, n, epoch)
        shift = draw.integers(0, 2 * PADDING + 1, (2, n)) if "crop" in words else np.full((2, n), PADDING)
        flip = draw.random(n) < 0.5 if "flip" in words else np.zeros(n, bool)
        self.epoch = epoch
        self.order, self.shift, self.flip = (torch.from_numpy(a).to(self.device) for a in (order, shift, flip))

    def batch(self, step):
        """Batch `step` of the epoch: images float32 (B, 3, 32, 32), labels (B,), second labels (B,), their share.

        CutMix (Yun et al. 2019), in half of the batches, pastes a rectangle of another image into each; the second
        labels are the other images', their share is the rectangle's. Elsewhere the share is 0, and TrivialAugment
        (Müller and Hutter 2021) changes the images.
        """
        recipe, part = self.recipe, slice(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        draw = np.random.default_rng((recipe.seed, self.epoch, step))
        mixed = "cutmix" in recipe.augmentation and draw.random() < 0.5
        index, (top, left) = self.order[part], self.shift[:, part, None]
        across, channel = torch.arange(self.size, device=self.device), torch.arange(3, device=self.device)
        columns = left + torch.where(self.flip[part, None], across.flip(0), across)
        images = self.images[index[:, None, None, None], channel[:, None, None],
                             (top + across)[:, None, :, None], columns[:, None, None, :]]
        labels = others = self.labels[index]
        share = 0.0
        if "trivialaugment" in recipe.augmentation and not mixed:
            images = trivial_augment(images, draw, self.mean)
        images = (images - self.mean) / self.std
        if mixed:
            # The area is Beta(1, 1), which is uniform; partners are the batch rolled by one.
            half, centre = self.size * math.sqrt(draw.random()) / 2, self.size * draw.random(2)
            (top, left), (bottom, right) = (np.clip(np.rint(centre + side * half), 0, self.size).astype(int)
                                            for side in (-1, 1))
            images[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
            others, share = labels.roll(1, 0), (bottom - top) * (right - left) / self.size ** 2
        return images, labels, others, float(share)


def trivial_augment(images, draw, fill):
    """TrivialAugment, wide: each of `images`, uint8 (B, 3, H, W), changed by one operation of random kind and strength.

    All geometric operations are one resampling, with a matrix for each image, `fill` (3, 1, 1) beyond the edges; the
    images of a batch that get the same other operation share its strength. `draw` is a NumPy generator.
    """
    kind, strength = draw.integers(14, size=len(images)), draw.uniform(-1, 1, len(images))
    shear_x, shear_y, move_x, move_y, turn = (np.where(kind == k, strength, 0) for k in range(5))  # 5: the identity
    cos, sin, most = np.cos(0.75 * np.pi * turn), np.sin(0.75 * np.pi * turn), 64 / images.shape[-1]  # 32 pixels
    matrix = np.stack([cos, 0.99 * shear_x - sin, most * move_x, 0.99 * shear_y + sin, cos, most * move_y], 1)
    matrix = torch.from_numpy(matrix.astype(np.float32).reshape(-1, 2, 3)).to(images.device)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    images = (F.grid_sample(images - fill, grid, align_corners=False) + fill).round().byte()  # exact where not moved
    brightness, saturation, contrast, sharpness = draw.uniform(0.01, 1.99, 4)
    bits, threshold = int(draw.integers(2, 9)), float(draw.uniform(0, 255))
    others = (lambda x: V.adjust_brightness(x, brightness), lambda x: V.adjust_saturation(x, saturation),
              lambda x: V.adjust_contrast(x, contrast), lambda x: V.adjust_sharpness(x, sharpness),
              lambda x: V.posterize(x, bits), lambda x: V.solarize(x, threshold), V.autocontrast, V.equalize)
    for k, operation in enumerate(others, 6):
        chosen = torch.from_numpy(np.flatnonzero(kind == k)).to(images.device)
        if len(chosen):
            images[chosen] = operation(images[chosen])
    return images


# ------------------------------------------------------------------------------------------------------ the loop

def train(learner, batches, recipe, progress, monitor):
    """Every epoch, every step, from where `progress` is; `monitor` measures, shows and saves."""
    for epoch in range(progress.epoch, recipe.epochs):
        batches.start_epoch(epoch)
        monitor.start_epoch()
        for step in range(progress.step, batches.steps):
            count = epoch * batches.steps + step
            torch.manual_seed(recipe.seed + 1_000_003 * count)  # for layers that draw, such as dropout
            learning_rate = recipe.rate(count, batches.steps)
            measured = learner.step(batches.batch(step), learning_rate)
            monitor.after_step(measured, learning_rate)
        monitor.end_epoch(learning_rate)


class Learner:
    """A network on the device with what a training step needs: optimisers, number format, gradient scaler."""

    def __init__(self, model, recipe, precision):
        keep_freed_memory()
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.model = model.to(DEVICE, memory_format=torch.channels_last).train()
        self.dtype, self.smoothing = DTYPES[precision], recipe.label_smoothing
        self.optimizers = make_optimizers(model, recipe, self.dtype)
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=self.dtype == torch.float16)
        self.gradients = ProductGradients() if DEVICE.type == "cpu" else contextlib.nullcontext()
        self.only_measures = recipe.learning_rate == 0  # a zero-rate control needs no gradients
        self.rate = torch.zeros((), device=DEVICE)  # a tensor: a recorded step reads it anew
        recorded = DEVICE.type == "cuda" and not self.scaler.is_enabled()
        self.update = Graph(self._update) if recorded else self._update

    def forward(self, images, labels, others, share):
        """The loss of each image of a batch as from `Batches.batch`, (B,), and the share classified right."""
        with torch.autocast(DEVICE.type, self.dtype, enabled=self.dtype != torch.float32), self.gradients:
            logits = self.model(images.contiguous(memory_format=torch.channels_last)).float()
        losses, losses_of_others = (F.cross_entropy(logits, of, label_smoothing=self.smoothing, reduction="none")
                                    for of in (labels, others))
        return losses.lerp(losses_of_others, share), (logits.argmax(1) == labels).float().mean()

    def step(self, batch, learning_rate):
        """One update by a batch as from `Batches.batch`; its loss, its accuracy and the loss of each of its images, one
        tensor (2 + B,) on the device.

        Where a gradient is not finite nothing changes, and the loss returned is NaN; only with a gradient scaler, which
        expects that now and then, it stays what it is.
        """
        self.rate.fill_(learning_rate)
        *tensors, share = batch
        return self.update(*tensors, torch.full((), share, device=DEVICE))

    def _update(self, images, labels, others, share):
        with torch.set_grad_enabled(not self.only_measures):
            losses, accuracy = self.forward(images, labels, others, share)
        loss = losses.mean()
        if self.only_measures:
            return torch.cat([torch.stack([loss, accuracy]), losses])
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        finite = torch.nn.utils.get_total_norm(gradients).isfinite()
        for optimizer in self.optimizers:
            optimizer.found_inf = 1 - finite.float()  # all of them skip this step, or none
            for group in optimizer.param_groups:
                group["lr"] = self.rate
            optimizer.step()
        self.scaler.update()
        told = finite | self.scaler.is_enabled()
        loss = torch.where(told, loss.detach(), torch.nan)
        return torch.cat([torch.stack([loss, accuracy]), losses.detach()])

    def state_dict(self):
        """The state of network, optimisers and scaler, with all tensors on the CPU."""
        state = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
                 "scaler": self.scaler.state_dict()}
        return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, state)

    def load_state_dict(self, state):
        """Continue from what `state_dict` gave, on any device."""
        self.model.load_state_dict(state["model"])
        for optimizer, its_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        if state["scaler"] and self.scaler.is_enabled():  # a run may go on in another number format
            self.scaler.load_state_dict(state["scaler"])


def make_optimizers(model, recipe, dtype=torch.float32):
    """Fused SGD, Adam or AdamW, or Muon on the filters with AdamW for the rest; no decay of biases and batch norms."""
    parameters, muon = [p for p in model.parameters() if p.requires_grad], recipe.optimizer == "muon"
    groups = [{"params": [p for p in parameters if p.ndim > 1 and not (muon and p.ndim == 4)],
               "weight_decay": recipe.weight_decay},
              {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
    if recipe.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        return [kind(groups, betas=(0.9, recipe.beta2), fused=True, capturable=True)]
    if muon:
        filters = [p for p in parameters if p.ndim == 4]
        dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        return [*([FilterMuon(filters, recipe.momentum, recipe.weight_decay, dtype)] if filters else []),
                torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True, capturable=True)]
    sgd = torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    if recipe.momentum:
        for p in parameters:  # left to itself it would use uninitialised memory after a first step that is skipped
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return [sgd]


# ----------------------------------------------------------------------------------- measuring, showing and saving

@dataclasses.dataclass
class Progress:
    """How far a run is: whole epochs, steps of the present one, and what was measured on the way."""
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    losses: list = dataclasses.field(default_factory=list)      # of all steps
    accuracies: list = dataclasses.field(default_factory=list)  # of the present epoch's steps, in [0, 1]
    image_losses: list = dataclasses.field(default_factory=list)  # float16 tensors (steps, B), where they are kept
    step_seconds: list = dataclasses.field(default_factory=list)  # seconds per step, of each stretch between fetches
    history: list = dataclasses.field(default_factory=list)     # a dict for each whole epoch


class Monitor:
    """What happens beside training: fetching losses from the device and checking them, bars, log lines, saving."""

    def __init__(self, learner, progress, recipe, steps, folder, config, pressed):
        self.learner, self.progress, self.recipe, self.steps = learner, progress, recipe, steps
        self.folder, self.config, self.pressed = folder, config, pressed
        self.fetched = self.saved = time.perf_counter()
        self.pending, self.lines = [], []  # measurements still on the device; what was logged
        self.keep_image_losses, self.take_snapshot = False, lambda progress: None

    def start_epoch(self):
        self.bar = tqdm(total=self.steps, initial=self.progress.step, **progress_bar_options(),
                        desc=f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}")

    def after_step(self, measured, learning_rate):
        """Note a step's measurements; every hundred steps fetch them, every three minutes and on Ctrl-C save."""
        self.pending.append(measured if self.keep_image_losses else measured[:2])
        self.progress.step += 1
        self.bar.update()
        last = self.progress.step == self.steps
        early = self.progress.epoch == 0 and self.progress.step in FIRST_FETCHES
        if last or self.due() or early or self.progress.step % 100 == 0:
            self.fetch(learning_rate, last)
        if self.due() and not last:
            self.save()

    def end_epoch(self, learning_rate):
        """Close the epoch in the history."""
        progress = self.progress
        self.bar.close()
        row = {"epoch": progress.epoch + 1, "train_loss": fmean(progress.losses[-self.steps:]),
               "train_accuracy": 100 * fmean(progress.accuracies), "learning_rate": learning_rate,
               "seconds": progress.seconds}
        if self.recipe.epochs > 3:
            self.log("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        progress.history.append(row)
        progress.epoch, progress.step, progress.accuracies = progress.epoch + 1, 0, []
        self.take_snapshot(progress)
        self.fetched = time.perf_counter()  # which is no training
        done = progress.epoch == self.recipe.epochs
        if self.due() or done:
            self.save()
        if done and in_notebook():  # what is left of the bars would stay in the saved notebook
            clear_output(wait=True)
            print(*self.lines, sep="\n")

    def due(self):
        """Whether it is time to save."""
        return bool(self.pressed) or time.perf_counter() - self.saved > SAVE_EVERY

    def fetch(self, learning_rate, last):
        """Bring what was measured to the host, the only crossing; check it, show it."""
        progress, first = self.progress, self.progress.step - len(self.pending)
        measured = torch.stack(self.pending).cpu().double()
        losses, accuracies = measured[:, 0], measured[:, 1]
        if not losses.isfinite().all() or self.learner.scaler.get_scale() < 1:
            where = first + 1 + int(losses.isfinite().logical_not().byte().argmax())
            raise SubmissionError(f"the loss is not finite at epoch {progress.epoch + 1}, step {where}, learning rate "
                                  f"{learning_rate:.3g}; try a lower one or a longer warm-up ({self.folder} keeps the "
                                  "last finite state, if one was saved)")
        self.add_seconds(len(self.pending))
        self.pending = []
        if self.keep_image_losses:
            progress.image_losses.append(measured[:, 2:].half())
        progress.losses += losses.tolist()
        progress.accuracies += accuracies.tolist()
        loss, accuracy = fmean(progress.losses[-progress.step:]), 100 * fmean(progress.accuracies)
        self.bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{accuracy:.1f}%", rate=f"{learning_rate:.2g}")
        if self.recipe.epochs <= 3 and (progress.step % 100 == 0 or last):  # the course's log line: the running mean
            self.log(f"Epoch [{progress.epoch + 1}/{self.recipe.epochs}], Step [{progress.step}/{self.steps}] "
                     f"Loss: {loss:.4f}")

    def add_seconds(self, steps):
        """Count the time since the last call, in which `steps` steps were done; a pause of the process does not count.

        A stretch that took more than ten times the median time for a step, after three of them, was paused within.
        """
        now = time.perf_counter()
        seconds_per_step = (now - self.fetched) / steps
        self.fetched = now
        known = self.progress.step_seconds
        if len(known) >= 3:
            seconds_per_step = min(seconds_per_step, 10 * median(known))
        known.append(seconds_per_step)
        self.progress.seconds += seconds_per_step * steps

    def log(self, line):
        self.lines.append(line)
        tqdm.write(line)

    def save(self):
        """Write the state; after Ctrl-C stop, unless the run is at its end."""
        _save_state(self.folder, {"config": self.config, "choices": environment(), "learner": self.learner.state_dict(),
                                  "progress": dataclasses.asdict(self.progress)})
        self.saved = time.perf_counter()
        if self.pressed and self.progress.epoch < self.recipe.epochs:
            self.bar.close()
            raise TrainingStopped(f"stopped at epoch {self.progress.epoch + 1}, step {self.progress.step}; run this "
                                  f"again to continue (the state is in {self.folder})")


@contextlib.contextmanager
def _ctrl_c(folder):
    """Collect Ctrl-C in a list, so that no update is cut in two; what was pressed and not answered stops at the end."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise TrainingStopped(f"stopped; the run in {folder} had just finished, run this again to go on with it")


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
    if not all(value.isfinite().all() for value in state["learner"]["model"].values()):
        raise SubmissionError(f"the network holds values that are not finite; {folder} keeps the last finite state, if "
                              "one was saved: try a lower learning rate")
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


def _finish(model, data, folder, name, config, progress):
    """Write what a finished run leaves: weights, predictions, history, losses and, last, run.json.

    Filters and matrices are released in half precision; what is measured is what is released: the classes predicted of
    the test images, uint8 (N,), and the cross-entropy of each of the first training images, float32 (5,000,).
    """
    weights = {k: (v.half() if v.ndim > 1 else v).cpu().clone(memory_format=torch.contiguous_format)
               for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    normalisation = normalisation_of(config["normalisation"], data)
    probabilities, mirrored = (predict(model, data.test_images, normalisation, flip) for flip in (False, True))
    fixed = predict(model, data.train_images[:FIXED], normalisation)
    train_losses = -fixed.gather(1, data.train_labels[:FIXED, None]).clamp_min(1e-30).log().flatten()
    info = {"run": name, "config": config, "choices": environment(), "source": data.source,
            "train_images": len(data.train_labels), "normalisation": normalisation, "seconds": progress.seconds,
            "finished": date.today().isoformat(), "accuracy": accuracy_of(probabilities, data.test_labels)}
    with _disk(folder):
        save_file(weights, folder / "weights.safetensors")
        save_file({"predicted": probabilities.argmax(1).byte(), "labels": data.test_labels.byte(),
                   "predicted_with_mirrored": (probabilities + mirrored).argmax(1).byte(),
                   "train_losses": train_losses}, folder / "predictions.safetensors")
        if sum(map(len, progress.image_losses)) == len(progress.losses):  # kept from the first step on
            save_file({"image_losses": torch.cat(progress.image_losses)}, folder / "image_losses.safetensors")
        pd.DataFrame(progress.history).to_csv(folder / "history.csv", index=False)
        np.savetxt(folder / "losses.csv", progress.losses, "%.6g")
        (folder / "run.json.tmp").write_text(_json_lines(info) + "\n", encoding="utf-8")
        os.replace(folder / "run.json.tmp", folder / "run.json")  # from here on the run counts as finished
        (folder / "state.pt").unlink(missing_ok=True)  # a snapshot has none
    return load_run(folder)


def _json_lines(info):
    """A record as JSON, an entry a line, lists on one line."""
    text = json.dumps(info, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
