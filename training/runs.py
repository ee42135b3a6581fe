"""Runs: loading a finished one, training a new one or the rest of one, storing what it leaves."""
import contextlib
import copy
import dataclasses
import json
import os
import re
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from tools.errors import SubmissionError
from tools.project_files import ROOT
from training.batches import Batches, normalisation_of
from training.checkpointing import Checkpointer, load_state, name_disk_faults
from training.console import Console, print_line
from training.engine_key import environment
from training.interrupt import delay_interrupts
from training.lock import lock_run
from training.loop import Trainer, train
from training.metrics import Metrics
from training.network_key import network_probe
from training.progress import Progress
from training.recipe import recipe_of
from training.run_files import (
    FILES,
    HISTORY,
    IMAGE_LOSSES,
    LOSSES,
    PREDICTIONS,
    RECORD,
    STATE,
    WEIGHTS,
    read_files,
)
from training.run_key import configuration, differences_between, folder_key, short_hash
from training.whitening import whiten_first_filters
from utils import DEVICE, accuracy_of, predict

# How many of the first training images, unaugmented, have their loss measured after training.
TRAIN_LOSS_IMAGES = 5_000


@dataclasses.dataclass
class Run:
    """A finished run.

    Attributes:
        folder: where its files are.
        info: the content of run.json.
        history: a DataFrame with a row for each epoch.
        losses: of all steps, float64 (steps,).
        predictions: tensors by name, see `finish`.
        weights_used: whether the weights are wanted, and so belong to what is handed in.
    """

    folder: Path
    info: dict
    history: pd.DataFrame
    losses: np.ndarray
    predictions: dict
    weights_used: bool = False

    @property
    def name(self):
        """The name that was passed to `load_or_train`."""
        return self.info["run"]

    @property
    def recipe(self):
        """Its Recipe; fields that are newer than its record have their default."""
        return recipe_of(self.info["config"])

    @property
    def key(self):
        """A short hash of run.json: eight hexadecimal digits."""
        return short_hash(self.info)

    @property
    def environments(self):
        """The environments that trained it, in order: a list of dicts as from `environment`."""
        last = dict(self.info["choices"])
        return [*last.pop("earlier", []), last]

    @property
    def device(self):
        """The name of the device that trained it; of a run continued on another one, all names."""
        return ", then ".join(dict.fromkeys(entry["device"] for entry in self.environments))

    @property
    def accuracy(self):
        """Its test accuracy in per cent."""
        return self._accuracy("predicted")

    @property
    def flip_tta_accuracy(self):
        """Its test accuracy with flip test-time augmentation in per cent."""
        return self._accuracy("predicted_with_mirrored")

    def _accuracy(self, which):
        correct = self.predictions[which] == self.predictions["labels"]
        return 100 * correct.double().mean().item()

    @property
    def files(self):
        """The files that are handed in with it: a sorted list of paths."""
        names = [name for name in FILES if name != WEIGHTS or self.weights_used]
        return [self.folder / name for name in names if (self.folder / name).exists()]

    @property
    def last_epoch(self):
        """The losses of the last epoch's steps."""
        steps = len(self.losses) // len(self.history)
        return self.losses[-steps:]


# --------------------------------------------------------------------------------------- loading

def load_run(folder):
    """Return the finished Run in `folder`, or None if there is none.

    Raises:
        SubmissionError: if one of its files is missing, damaged or cut off.
    """
    folder = Path(folder)
    if not (folder / RECORD).exists():
        return None
    return Run(folder, *read_files(folder))


def load_weights(model, folder):
    """Load the weights of the run in `folder` into `model`; return `model`.

    Raises:
        SubmissionError: if they are missing, damaged or of another network.
    """
    path = Path(folder) / WEIGHTS
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # each library has its own kinds
        reason = str(error).splitlines()[0]
        raise SubmissionError(
            f"{path} is missing, damaged or of another network ({reason}): undo a change of the "
            f"network, or remove the folder {folder} to train this run again"
        ) from error
    return model


def load_or_train(name, network, recipe, data, runs, stored=None, *, start=None, weights=False,
                  keep_image_losses=False, snapshots=None, followed_by=()):
    """Return the Run `name`: loaded if it is finished, else trained or continued in `runs`.

    A run is identified by its network (see `network_probe`), recipe, data and start. A stored run
    that differs in any of them is not used, and a printed line says why.

    Args:
        name: of the run, and of its folder in `stored`.
        network: a function that returns a new network; its weights are drawn by the recipe's seed.
        recipe: a Recipe.
        data: a utils.Data.
        runs: the folder in which runs are trained.
        stored: a folder of finished runs, if any.
        start: a Run whose weights are loaded before training.
        weights: whether the weights are needed; a stored run without them is not used.
        keep_image_losses: whether the loss of each image in each step is needed.
        snapshots: dict epochs -> name of runs of fewer epochs that are kept on the way.
        followed_by: the recipes of runs that will start from this one; a message counts them.

    Raises:
        SubmissionError: as `fit` does; if a stored run, or the weights of `start`, are missing or
            damaged; if a finished run in `runs` lacks what is needed.
    """
    needed = []
    if weights:
        needed.append(WEIGHTS)
    if keep_image_losses:
        needed.append(IMAGE_LOSSES)
    torch.manual_seed(recipe.seed)
    model = network()
    config = configuration(network_probe(model, recipe.seed), recipe, data, start)

    if stored:
        run = _load_matching(name, Path(stored) / name, config, needed)
        if run:
            return dataclasses.replace(run, weights_used=weights)

    if start:
        load_weights(model, start.folder)
    elif recipe.first_filters == "whitening":
        whiten_first_filters(model, data, normalisation_of(recipe.normalisation, data))
    folder = Path(runs) / f"{name}-{folder_key(config)}"
    if (folder / RECORD).exists():
        shown = _short_path(folder)
        print_line(f"{name}: loaded from {shown}; to train it again, remove this folder")
    elif followed_by:
        epochs = sum(recipe.epochs for recipe in followed_by)
        print_line(
            f"{name} is trained first, then {len(followed_by)} runs that start from it "
            f"({epochs} more epochs)"
        )
    run = fit(
        model,
        data,
        folder,
        recipe,
        name=name,
        config=config,
        keep_image_losses=keep_image_losses,
        snapshots=snapshots,
    )
    missing = _missing_files(run, needed)
    if missing:
        raise SubmissionError(
            f"{run.folder} lacks {', '.join(missing)}: remove it to train this run again"
        )
    return dataclasses.replace(run, weights_used=weights)


def _load_matching(name, folder, requested, needed):
    """The finished run in `folder` if it is the requested one; else None, and a line says why."""
    run = load_run(folder)
    if run is None:
        return None
    differences = differences_between(run.info["config"], requested)
    differences += [f"no {file}" for file in _missing_files(run, needed)]
    if differences:
        shown = _short_path(run.folder)
        print_line(f"{name}: the run in {shown} is not used: {', '.join(differences)}")
        return None
    return run


def _short_path(folder):
    """A folder's path as messages show it: relative to the project's root, if it is in there."""
    if folder.resolve().is_relative_to(ROOT):
        return folder.resolve().relative_to(ROOT)
    return folder


def _missing_files(run, needed):
    return [file for file in needed if not (run.folder / file).exists()]


# -------------------------------------------------------------------------------------- training

def fit(model, data, folder, recipe, *, start=None, name=None, config=None,
        keep_image_losses=False, snapshots=None):
    """Train `model` in place and return the finished Run; its state is kept in `folder`.

    An unfinished run is continued, to the bits that an uninterrupted one would have reached on the
    same device and versions. A finished run is returned at once, its weights in `model`.

    Args:
        model: the network.
        data: a utils.Data.
        folder: of the run.
        recipe: a Recipe.
        start: the Run that the model's weights come from; recorded, not loaded.
        name: of the run; by default the folder's.
        config: the run's configuration, if `model` is not freshly initialised; it names the start.
        keep_image_losses: whether to keep the loss of each image in each step.
        snapshots: dict epochs -> name of runs of fewer epochs, kept beside `folder`.

    Raises:
        SubmissionError: if the folder holds another run or another process trains it, if the loss
            is not finite, if there is not enough memory or disk.
        TrainingStopped: on Ctrl-C, once the state is saved.
    """
    folder = Path(folder)
    name = name or folder.name
    if config is None:
        config = configuration(network_probe(model, recipe.seed), recipe, data, start)
    _check_request(recipe, data, snapshots)

    run = _finished_run(model, folder, config)
    if run:
        return run
    with name_disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        run = _finished_run(model, folder, config)  # by the process that held the lock before
        if run:
            return run
        state = load_state(folder)
        if state:
            _check_same_run(folder, state["config"], config)
        with _threads_of(state), delay_interrupts(folder) as interrupt:
            environment_record = _environment_after(state)
            _announce(name, recipe, data, state, environment_record)
            checkpointer = Checkpointer(folder, config, environment_record, interrupt)
            take_snapshot = _snapshot_taker(
                model, data, folder.parent, config, snapshots, environment_record
            )
            progress = _train_from(
                state, model, data, recipe, checkpointer, keep_image_losses, take_snapshot
            )
            return finish(model, data, folder, name, config, progress, environment_record)


def _finished_run(model, folder, config):
    """The finished run in `folder`, its weights in `model`; None if it is not finished."""
    run = load_run(folder)
    if run:
        _check_same_run(folder, run.info["config"], config)
        load_weights(model, folder)
    return run


def _check_request(recipe, data, snapshots):
    """Raise SubmissionError for a request that no training can answer."""
    if snapshots and recipe.schedule == "linear":
        raise SubmissionError(
            "a run with schedule='linear' has no snapshots, since its rates depend on its last "
            "epoch: train each number of epochs as a run of its own"
        )
    images = len(data.train_labels)
    if images < recipe.batch_size:
        raise SubmissionError(
            f"a batch of {recipe.batch_size} is more than the {images} training images; choose a "
            "smaller BATCH_SIZE"
        )


def _check_same_run(folder, stored, requested):
    """Raise SubmissionError if the folder holds a run of another configuration."""
    differences = differences_between(stored, requested)
    if differences:
        raise SubmissionError(
            f"{folder} holds a run of another configuration: {', '.join(differences)}; remove it "
            "or choose another folder"
        )


@contextlib.contextmanager
def _threads_of(state):
    """Compute with as many CPU threads as the saved state of a run, in this context alone."""
    before = torch.get_num_threads()
    threads = state["environment"]["threads"] if state else before
    if threads != before:
        print_line(
            f"This run continues with {threads} CPU threads, as it began; afterwards there are "
            f"{before} again."
        )
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _environment_after(state):
    """The environment, with the entry "earlier": those in which a saved run was trained before.

    There is no such entry if they are all the same.
    """
    environment_record = dict(environment())
    if state:
        before = dict(state["environment"])
        earlier = before.pop("earlier", [])
        if before != environment_record:
            earlier = [*earlier, before]
        if earlier:
            environment_record["earlier"] = earlier
    return environment_record


def _announce(name, recipe, data, state, environment_record):
    """Print what is trained, or where it continues; warn if its environment has changed."""
    steps = len(data.train_labels) // recipe.batch_size
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    if state is None:
        device = environment_record["device"]
        print_line(f"{name}: training for {epochs} of {steps} steps on {device}")
        return
    progress = Progress(**state["progress"])
    print_line(
        f"{name}: continuing at epoch {progress.epoch + 1} of {recipe.epochs}, step "
        f"{progress.step + 1} of {steps}"
    )
    before = state["environment"]
    changes = []
    for entry in environment():
        if before.get(entry) != environment_record[entry]:
            changes.append(f"{entry} {before.get(entry)} before, {environment_record[entry]} now")
    if changes:
        print_line(
            f"{name}: the result may differ slightly from that of an uninterrupted run, because "
            f"its environment has changed: {'; '.join(changes)}"
        )


def _train_from(state, model, data, recipe, checkpointer, keep_image_losses, take_snapshot):
    """Train from a saved state, or from the start if it is None; return the Progress."""
    try:
        trainer = Trainer(model, recipe, checkpointer.environment["precision"])
        batches = Batches(data, recipe, DEVICE)
        progress = Progress()
        if state:
            trainer.load_state_dict(state["trainer"])
            progress = Progress(**state["progress"])
        metrics = Metrics(progress, checkpointer.folder, keep_image_losses)
        with contextlib.closing(Console(progress, recipe.epochs, batches.steps)) as console:
            train(trainer, batches, progress, metrics, console, checkpointer, take_snapshot)
        return progress
    except torch.OutOfMemoryError:
        pass  # reported below: while it is handled, it holds the failed step's tensors
    if recipe.batch_size == 1:
        remedy = "stop other programs that use the GPU, or choose a smaller network"
    else:
        remedy = f"try BATCH_SIZE={recipe.batch_size // 2}"
    raise SubmissionError(f"no GPU memory for a batch of {recipe.batch_size}; {remedy}")


def _snapshot_taker(model, data, runs, config, snapshots, environment_record):
    """Return a callback that stores the state as a finished run after the epochs in `snapshots`."""
    def take_snapshot(progress):
        if progress.epoch not in (snapshots or {}):
            return
        name = snapshots[progress.epoch]
        shorter = {**config, "epochs": progress.epoch}
        folder = runs / f"{name}-{folder_key(shorter)}"
        with name_disk_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        finish(copy.deepcopy(model), data, folder, name, shorter, progress, environment_record)
    return take_snapshot


# --------------------------------------------------------------------------------------- storing

def finish(model, data, folder, name, config, progress, environment_record):
    """Evaluate a trained network, write the files of its run and return the Run.

    Floats of two or more dimensions are rounded to half precision and loaded into `model`, so that
    the stored weights are what is evaluated. predictions.safetensors holds, for the test
    images, uint8 (N,): `labels`; `predicted`, the classes predicted; `predicted_with_mirrored`, the
    same with flip test-time augmentation. Also `train_losses`, float32 (5,000,): the cross-entropy
    of each of the first training images. `environment_record` is as from `_environment_after`.
    """
    weights = _released_weights(model)
    model.load_state_dict(weights)
    normalisation = normalisation_of(config["normalisation"], data)
    probabilities = predict(model, data.test_images, normalisation)
    predictions = _predictions(model, data, normalisation, probabilities)
    info = {
        "run": name,
        "config": config,
        "choices": environment_record,
        "source": data.source,
        "train_images": len(data.train_labels),
        "normalisation": normalisation,
        "seconds": progress.seconds,
        "finished": date.today().isoformat(),
        "accuracy": accuracy_of(probabilities, data.test_labels),
    }
    with name_disk_faults(folder):
        save_file(weights, folder / WEIGHTS)
        save_file(predictions, folder / PREDICTIONS)
        if _has_all_image_losses(progress):
            losses = torch.cat(progress.image_losses)
            save_file({"image_losses": losses}, folder / IMAGE_LOSSES)
        pd.DataFrame(progress.history).to_csv(folder / HISTORY, index=False)
        np.savetxt(folder / LOSSES, progress.losses, "%.6g")
        temporary = folder / f"{RECORD}.tmp"
        temporary.write_text(_to_json(info) + "\n", encoding="utf-8")
        os.replace(temporary, folder / RECORD)  # now the run counts as finished
        (folder / STATE).unlink(missing_ok=True)  # a snapshot has none
    return load_run(folder)


def _released_weights(model):
    """The network's state on the CPU, floats of two or more dimensions in half precision."""
    weights = {}
    for name, value in model.state_dict().items():
        if value.ndim > 1 and value.is_floating_point():
            value = value.half()
        weights[name] = value.cpu().clone(memory_format=torch.contiguous_format)
    return weights


def _predictions(model, data, normalisation, probabilities):
    """The tensors of predictions.safetensors; `probabilities` are those of the test images."""
    mirrored = predict(model, data.test_images, normalisation, flip=True)
    of_train_images = predict(model, data.train_images[:TRAIN_LOSS_IMAGES], normalisation)
    correct = of_train_images.gather(1, data.train_labels[:TRAIN_LOSS_IMAGES, None])
    return {
        "predicted": probabilities.argmax(1).byte(),
        "labels": data.test_labels.byte(),
        "predicted_with_mirrored": (probabilities + mirrored).argmax(1).byte(),
        "train_losses": -correct.clamp_min(1e-30).log().flatten(),
    }


def _has_all_image_losses(progress):
    """Whether the losses of single images were kept from the first step on."""
    steps = sum(len(losses) for losses in progress.image_losses)
    return steps == len(progress.losses)


def _to_json(info):
    """A record as JSON, an entry a line, lists of numbers on one line."""
    text = json.dumps(info, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", _on_one_line, text)


def _on_one_line(match):
    return f"[{' '.join(match[1].split())}]"
