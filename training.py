"""One training loop, `fit`: it can be stopped at any moment and continued to the same bits.

Top to bottom: drawing augmented batches, the recipe, a run and its folder, the loop, saving.
"""
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import platform
import signal
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import clear_output
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.transforms import v2
from tqdm import tqdm

from speed import FilterMuon, ProductGradients, keep_freed_memory
from utils import DEVICE, SubmissionError, accuracy_of, bar_settings, in_notebook, predict

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats its bits only with a fixed workspace
SAVE_EVERY = 180  # seconds between two saves within an epoch
PADDING = 4  # pixels on each side of an image before a crop
# Training images from which torch.compile earns its start-up: on a CPU it measured no faster; for a GPU a guess.
COMPILE_PAYS = {"cpu": math.inf, "cuda": 2_000_000}


class TrainingStopped(SubmissionError, KeyboardInterrupt):
    """Training was interrupted by Ctrl-C or the notebook's stop button; its state is saved."""


# -------------------------------------------------------------------------------------------------- augmentation

class Batches:
    """The training images on the device, padded once; batches are cropped, flipped and mixed there.

    Every draw derives from (seed, epoch, step) on the CPU, so each device sees the same batches in the same order.
    """

    def __init__(self, data, recipe, device):
        words = ("crop", "flip", "trivialaugment", "cutmix")
        if unknown := set(recipe.augmentation.split()).difference(words):
            raise SubmissionError(f"augmentation={unknown.pop()!r} is none of {', '.join(words)}")
        self.recipe, self.device, self.labels = recipe, device, data.train_labels.to(device)
        self.mean, self.std = (255 * torch.tensor(v, device=device).view(3, 1, 1) for v in data.normalisation())
        size = data.train_images.shape[-1]
        if recipe.pad_with == "zeros":
            self.images = F.pad(data.train_images, 4 * [PADDING]).to(device)
        else:
            position = torch.arange(-PADDING, size + PADDING).abs()
            inside = (size - 1) - ((size - 1) - position).abs()  # reflected at both edges
            self.images = data.train_images[:, :, inside[:, None], inside].to(device)
        self.size, self.steps = size, len(self.labels) // recipe.batch_size  # the rest sits this epoch out
        bilinear = v2.InterpolationMode.BILINEAR
        self.change = v2.TrivialAugmentWide(interpolation=bilinear, fill=self.mean.flatten().tolist())

    def start_epoch(self, epoch):
        """Draw the epoch's order, crops and flips, and what CutMix and TrivialAugment draw from."""
        draw, n = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch), len(self.labels)
        order = torch.randperm(n, generator=draw)
        shift = torch.randint(0, 2 * PADDING + 1, (2, n), generator=draw)
        flip = torch.rand(n, generator=draw) < (0.5 if "flip" in self.recipe.augmentation else 0)
        if "crop" not in self.recipe.augmentation:
            shift[:] = PADDING
        self.boxes = torch.rand(self.steps, 4, generator=draw)  # of CutMix: applied where below half, area, centre
        if "cutmix" not in self.recipe.augmentation:
            self.boxes[:, 0] = 1
        self.seeds = torch.randint(2 ** 31, (self.steps,), generator=draw).tolist()  # of TrivialAugment
        self.order, self.shift, self.flip = order.to(self.device), shift.to(self.device), flip.to(self.device)

    def batch(self, step):
        """Batch `step` of the epoch: images float32 (B, 3, 32, 32), labels (B,), second labels (B,), their weight.

        TrivialAugment (Müller and Hutter 2021) changes images by one operation of random kind and strength; here eight
        share it, which takes less time, and batches with CutMix (Yun et al. 2019) are left out. The second labels are
        those of the images pasted in by CutMix; without it they weigh 0.
        """
        part = slice(step * self.recipe.batch_size, (step + 1) * self.recipe.batch_size)
        index, (top, left) = self.order[part], self.shift[:, part, None]
        across, channel = torch.arange(self.size, device=self.device), torch.arange(3, device=self.device)
        columns = left + torch.where(self.flip[part, None], across.flip(0), across)
        images = self.images[index[:, None, None, None], channel[:, None, None],
                             (top + across)[:, None, :, None], columns[:, None, None, :]]
        apply, area, row, column = self.boxes[step].tolist()
        if "trivialaugment" in self.recipe.augmentation and apply > 0.5:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seeds[step])
                images = torch.cat([self.change(few) for few in images.split(8)])
        images, labels = (images - self.mean) / self.std, self.labels[index]
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
    optimizer: str = "adam"            # Kingma and Ba 2015; "sgd", with Nesterov momentum; "muon", AdamW for the rest
    learning_rate: float = 1e-3        # the highest one of the schedule
    schedule: str = "constant"         # or "linear" (to zero), "thirds" (a third every 20 epochs)
    warmup: float = 0.0                # share of the steps in which the rate rises, with "linear"
    momentum: float = 0.9              # of SGD and Muon; Adam keeps its own
    weight_decay: float = 0.0          # on convolutions and the linear layer, never on biases and batch norms
    label_smoothing: float = 0.0
    augmentation: str = "crop flip"    # any of "crop", "flip", "trivialaugment", "cutmix"
    pad_with: str = "zeros"            # at the edges, before a crop; or "reflection"
    seed: int = 0                      # of the order of the images and of their augmentation
    start: str = ""                    # names the weights the run begins with; "" from scratch; kept, not acted on

    def rate(self, step, steps_per_epoch):
        """The learning rate at `step`, counted from the start of the run."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "thirds":
            return self.learning_rate / 3 ** (step // steps_per_epoch // 20)
        if self.schedule != "linear":
            raise SubmissionError(f"schedule={self.schedule!r} is none of constant, thirds, linear")
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
    parameters, muon = list(model.parameters()), recipe.optimizer == "muon"
    groups = [{"params": [p for p in parameters if p.ndim > 1 and not (muon and p.ndim == 4)],
               "weight_decay": recipe.weight_decay},
              {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=True, fused=True)]
    if recipe.optimizer == "adam":
        return [torch.optim.Adam(groups, fused=True)]
    if muon:
        filters = [p for p in parameters if p.ndim == 4]
        return [FilterMuon(filters, momentum=recipe.momentum, weight_decay=recipe.weight_decay),
                torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)]
    raise SubmissionError(f"optimizer={recipe.optimizer!r} is none of adam, sgd, muon")


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
            bar = tqdm(total=batches.steps, initial=first, desc=f"epoch {epoch + 1}/{recipe.epochs}", **bar_settings())
            for step in range(first, batches.steps):
                done, global_step = step + 1, epoch * batches.steps + step
                torch.manual_seed(recipe.seed + 1_000_003 * global_step)  # for layers that draw, such as dropout
                rate = recipe.rate(global_step, batches.steps)
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
                    if (recipe.epochs - epoch - 1) % max(1, recipe.epochs // 10) == 0:  # nothing is chosen by it
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
    if in_notebook():  # what is left of the bars would stay in the saved notebook
        clear_output(wait=True)
        print(*lines, sep="\n")


@contextlib.contextmanager
def _ctrl_c():
    """Collect Ctrl-C in a list, so that no update is cut in two."""
    pressed = []
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
    exact = predict(model, data.test_images, mean_std)
    weights = {k: v.half() if v.ndim > 1 else v for k, v in full.items()}
    model.load_state_dict(weights)
    probabilities = predict(model, data.test_images, mean_std)
    accuracy, in_full = (accuracy_of(p, labels) for p in (probabilities, exact))
    if abs(accuracy - in_full) > 0.05:  # half precision is released where the reported accuracy does not show it
        weights, probabilities, accuracy = full, exact, in_full
        model.load_state_dict(weights)
    mirrored = predict(model, data.test_images, mean_std, flip=True)
    info = {"run": folder.name, "config": state["config"], "choices": state["choices"], "source": data.source,
            "train_images": len(data.train_labels), "normalisation": mean_std, "seconds": state["seconds"],
            "compile_seconds": state["compile_seconds"], "finished": date.today().isoformat(),
            "accuracy": accuracy, "accuracy_in_full_precision": in_full}
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
