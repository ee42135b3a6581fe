"""Compares the records of a run with each other.

Forged histories, losses, labels and stored predictions are caught here.
"""
import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import training
from grading.archive import ArchiveError, MissingFileError
from grading.findings import Finding
from grading.schema import Place, SchemaError, read_dataclass, read_value
from report.freshness import file_hash
from tools.errors import SubmissionError
from tools.project_files import ROOT, is_handout
from training.runs import IMAGE_LOSSES, WEIGHTS

HISTORY = "epoch,train_loss,train_accuracy,learning_rate,seconds"
HALF_PRECISION = 1e-3  # relative error of a number stored in half precision, rounded up
RECIPE_TYPES = {setting.name: type(setting.default) for setting in fields(training.Recipe)}


@dataclass
class DataRecord:
    """What results.json says of the data; `is_fallback` tells of the fallback data set."""

    source: str
    fingerprint: str
    train_images: int
    test_images: int
    is_fallback: bool


@dataclass
class RunConfig:
    """The configuration of a run: its recipe's settings, its data, the run that it starts from."""

    epochs: int
    batch_size: int
    data: str
    start: str
    settings: dict[str, object]  # all of the configuration

    @classmethod
    def from_content(cls, content, place):
        """The RunConfig in a table of run.json. Raises SchemaError."""
        settings = read_value(dict[str, object], content, place)
        for name, kind in RECIPE_TYPES.items():
            if name in settings:
                read_value(kind, settings[name], place.inside(name))
        for name in ("epochs", "batch_size", "data", "start"):
            if name not in settings:
                raise SchemaError(f"{place.inside(name)} is missing")
        for name in ("epochs", "batch_size"):
            if settings[name] < 1:
                raise SchemaError(f"{place.inside(name)} is {settings[name]}; expected at least 1")
        return cls(
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            data=read_value(str, settings["data"], place.inside("data")),
            start=read_value(str, settings["start"], place.inside("start")),
            settings=settings,
        )

    @property
    def augmentation(self):
        """The names of the augmentations, a set of strings."""
        return set(self.settings.get("augmentation", "").split())

    def learning_rate(self, step, steps_per_epoch):
        """The rate at a step by the schedule; None for recipes that this copy does not know."""
        try:
            return training.recipe_of(self.settings).rate(step, steps_per_epoch)
        except SubmissionError:
            return None


@dataclass
class RunRecord:
    """The content of run.json."""

    run: str
    config: RunConfig
    train_images: int
    seconds: float
    accuracy: float
    normalisation: list[list[float]]
    finished: str = ""
    choices: dict[str, object] = field(default_factory=dict)

    @property
    def machine(self):
        """The kind of device and the number format, None if the record does not say."""
        if "device" in self.choices and "precision" in self.choices:
            return self.choices["device"], self.choices["precision"]
        return None


@dataclass
class SubmittedRun(training.Run):
    """A run of a submission, with the typed content of its run.json.

    `image_losses` are the losses of single images, float (epochs, steps, batch size), or None.
    """

    record: RunRecord = field(kw_only=True)
    image_losses: np.ndarray | None = field(kw_only=True, default=None)


# ------------------------------------------------------------------------------------------- data


def check_data(results, policy):
    """What results.json says of the data, a DataRecord or None, and findings on it.

    The data may be another copy of CIFAR-10, but not the fallback data set.
    """
    place = Place(policy.files.ledger, ("data",))
    try:
        data = read_dataclass(DataRecord, results.get("data"), place)
    except SchemaError as error:
        return None, [Finding("data", "contradicted", str(error))]
    official = policy.data["official"]
    counts = (data.train_images, data.test_images)
    if data.is_fallback or counts != (official.train_images, official.test_images):
        message = (
            f"the results are of {data.source[:60]!r} with {counts[0]} and {counts[1]} images, "
            "not of the data that the assignment asks for"
        )
        return data, [Finding("data", "contradicted", message)]
    if data.fingerprint != official.fingerprint:
        message = (
            "the results are of another copy of the data than the official one: its labels "
            "cannot be checked"
        )
        return data, [Finding("data", "unverified", message)]
    message = "the results are of the official data"
    return data, [Finding("data", "verified", message, source="their fingerprint")]


def check_run_data(main, data, policy):
    """Findings if the main run was trained on other data than results.json says, a DataRecord."""
    if main is None or main.record.config.data == data.fingerprint:
        return []
    message = f"the run {main.folder} was trained on other data than {policy.files.ledger} says"
    return [Finding("data", "contradicted", message)]


# ------------------------------------------------------------------------------------------- runs


def check_own_training(submission, main, policy):
    """A list with a Finding if the main run is one that this copy has stored, or an empty one.

    A student's own folder has no runs but the student's.
    """
    if main is None or submission.is_own_copy or is_handout():
        return []
    weights = submission.hash(f"{policy.files.runs}/{main.folder}/{WEIGHTS}")
    for folder in sorted((ROOT / policy.files.runs).glob("*/")):
        record = folder / "run.json"
        if not record.exists():
            continue
        if json.loads(record.read_text(encoding="utf-8")) == main.info:
            same = "is"
        elif weights is not None and weights == file_hash(folder / WEIGHTS):
            same = "has the same weights as"
        else:
            continue
        message = (
            f"the run {main.folder}, on which the accuracy rests, {same} the one stored in the "
            f"grader's copy ({policy.files.runs}/{folder.name}): the notebook loaded it instead of "
            "training a run of its own"
        )
        return [Finding("own training", "implausible", message)]
    return []


def run_names(submission, policy):
    """The names of the runs of which a submission has files, a sorted list."""
    start = f"{policy.files.runs}/"
    names = set()
    for file in submission.files:
        if file.startswith(start):
            names.add(file.removeprefix(start).partition("/")[0])
    return sorted(names)


def load_runs(submission, names, policy):
    """The runs of some names that can be read, name -> SubmittedRun, and findings.

    There are findings for runs that cannot be read, that contradict themselves, or whose data the
    policy does not know.
    """
    runs = {}
    findings = []
    for name in names:
        try:
            run = _load_run(submission, name, f"{policy.files.runs}/{name}")
            known = policy.known_data(run.record.config.data)
            check_predictions(run, known)
        except MissingFileError as error:
            findings.append(_run_finding(name, "unverified", error))
            continue
        except SubmissionError as error:
            findings.append(_run_finding(name, "contradicted", error))
            continue
        for fault in run_faults(run, known):
            findings.append(_run_finding(name, "contradicted", fault))
        if known is None:
            message = f"the run {name} is of data that this copy does not know"
            findings.append(
                Finding(f"run {name}", "unverified", f"{message}: its labels cannot be checked")
            )
        runs[name] = run
    return runs, findings


def _run_finding(name, verdict, fault):
    return Finding(f"run {name}", verdict, f"the run {name}: {fault}")


def _load_run(submission, name, folder):
    """The SubmittedRun whose files are in `folder`, without its weights."""
    rows = submission.numbers(f"{folder}/history.csv", HISTORY)
    losses = np.array(submission.numbers(f"{folder}/losses.csv"))[:, 0]
    file = f"{folder}/run.json"
    info = submission.json(file)
    record = read_dataclass(RunRecord, info, Place(file))
    earlier = record.choices.get("earlier", [])  # machines, of a run that was continued elsewhere
    read_value(list[dict[str, object]], earlier, Place(file, ("choices", "earlier")))
    return SubmittedRun(
        folder=Path(name),
        info=info,
        history=pd.DataFrame(rows, columns=HISTORY.split(",")),
        losses=losses,
        predictions=submission.tensors(f"{folder}/predictions.safetensors"),
        record=record,
        image_losses=load_image_losses(submission, f"{folder}/{IMAGE_LOSSES}", record, losses),
    )


def load_image_losses(submission, file, record, losses):
    """The losses of single images, (epochs, steps, batch size); None without them.

    Raises ArchiveError if there are not as many as the run's steps and batches say, or if their
    means are not the losses of the steps.
    """
    if file not in submission.files:
        return None
    config = record.config
    steps = record.train_images // config.batch_size
    expected_shape = (config.epochs * steps, config.batch_size)
    found = submission.tensors(file).get("image_losses")
    is_half_precision = found is not None and found.dtype == torch.float16
    if not is_half_precision or tuple(found.shape) != expected_shape or len(losses) != len(found):
        raise ArchiveError(f"its {IMAGE_LOSSES} does not hold a loss for each image of each step")
    found = found.double().numpy()
    if not np.allclose(found.mean(1), losses, rtol=HALF_PRECISION, atol=HALF_PRECISION):
        raise ArchiveError(f"the means of its {IMAGE_LOSSES} are not the losses of its steps")
    return found.reshape(config.epochs, steps, config.batch_size)


def check_predictions(run, known):
    """Raise ArchiveError if stored predictions are not one class for each test image.

    Args:
        run: a SubmittedRun.
        known: the DataSet of the policy that it was trained on, or None.
    """
    names = ("predicted", "predicted_with_mirrored", "labels")
    for name in names:
        if name not in run.predictions:
            raise ArchiveError(f"its predictions.safetensors lacks {name}")
    images = len(run.predictions["labels"].flatten())
    if known:
        images = known.test_images
    for name in names:
        values = run.predictions[name]
        is_class = values.dtype == torch.uint8 and values.shape == (images,) and images > 0
        if not is_class or values.max() >= 10:
            raise ArchiveError(
                f"its predictions are not one class for each of {images:,} test images"
            )


def run_faults(run, known):
    """What in the records of a run contradicts the rest of them, a list of phrases.

    `known` is the policy's DataSet that it was trained on, or None.
    """
    faults = []
    if run.record.run != run.folder.name:
        faults.append(f"its record is that of a run {run.record.run[:40]!r}")
    faults += _data_faults(run, known)
    faults += _history_faults(run)
    last = run.history.seconds.iloc[-1]
    seconds = run.record.seconds
    if not run.history.seconds.is_monotonic_increasing:
        faults.append("the seconds in its history.csv do not increase")
    if not math.isclose(last, seconds, rel_tol=1e-6):
        faults.append(
            f"its history ends after {last:.0f} seconds, its record says {seconds:.0f}"
        )
    if not math.isclose(run.accuracy, run.record.accuracy, abs_tol=1e-6):
        faults.append(
            f"its record says {run.record.accuracy} % and its predictions {run.accuracy:.2f} %"
        )
    return faults


def _data_faults(run, known):
    """Phrases on labels, numbers of images and losses that are not those of the run's data."""
    faults = []
    train_losses = run.predictions.get("train_losses")
    if train_losses is not None:
        images = min(training.TRAIN_LOSS_IMAGES, run.record.train_images)
        if train_losses.dtype != torch.float32 or train_losses.shape != (images,):
            faults.append("its losses of the first training images are not one for each")
    if known:
        labels = hashlib.sha256(run.predictions["labels"].numpy().tobytes()).hexdigest()
        if labels != known.test_labels:
            faults.append(
                f"its labels are not those of the {known.test_images:,} official test images"
            )
        if run.record.train_images != known.train_images:
            faults.append(
                f"it was trained on {run.record.train_images} images, not {known.train_images:,}"
            )
    return faults


def _history_faults(run):
    """Phrases on epochs, losses and learning rates that contradict each other."""
    config = run.record.config
    history = run.history
    epochs = len(history)
    steps = run.record.train_images // config.batch_size
    if epochs != config.epochs or list(history.epoch) != list(range(1, epochs + 1)):
        return [f"its history has {epochs} epochs, its recipe {config.epochs}"]
    if len(run.losses) != steps * epochs:
        return [f"it has {len(run.losses):,} losses for {epochs} epochs of {steps} steps"]
    faults = []
    means = run.losses.reshape(epochs, steps).mean(1)
    for row, mean in zip(history.itertuples(), means):
        if not math.isclose(mean, row.train_loss, rel_tol=1e-4):
            faults.append(
                f"the loss of epoch {row.epoch:.0f} is {row.train_loss:.4f} in its history "
                f"and {mean:.4f} by its losses"
            )
        rate = config.learning_rate(int(row.epoch) * steps - 1, steps)
        if rate is not None and not math.isclose(
            rate, row.learning_rate, rel_tol=1e-6, abs_tol=1e-12
        ):
            faults.append(
                f"the rate of epoch {row.epoch:.0f} is {row.learning_rate:.4g} in its history "
                f"and {rate:.4g} by its schedule"
            )
    return faults
