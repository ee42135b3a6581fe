"""Reads the files of a finished run; a damaged one is named in one sentence."""
import contextlib
import io
import json

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from tools.errors import SubmissionError

RECORD = "run.json"
HISTORY = "history.csv"
LOSSES = "losses.csv"
PREDICTIONS = "predictions.safetensors"
WEIGHTS = "weights.safetensors"
IMAGE_LOSSES = "image_losses.safetensors"
FILES = (HISTORY, IMAGE_LOSSES, LOSSES, PREDICTIONS, RECORD, WEIGHTS)
STATE = "state.pt"  # of an unfinished run

RECORD_ENTRIES = {
    "run": str,
    "config": dict,
    "choices": dict,
    "source": str,
    "train_images": int,
    "normalisation": list,
    "seconds": float,
    "finished": str,
    "accuracy": float,
}
HISTORY_COLUMNS = ["epoch", "train_loss", "train_accuracy", "learning_rate", "seconds"]
PREDICTED = ("labels", "predicted", "predicted_with_mirrored")  # of each test image


def read_files(folder):
    """Return record, history, losses and predictions of the finished run in `folder`.

    Returns:
        a dict; a DataFrame; float64 (steps,); a dict name -> tensor.

    Raises:
        SubmissionError: if one of the files is missing, damaged or cut off.
    """
    with _name_damage(folder, RECORD):
        info = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        for name, kind in RECORD_ENTRIES.items():
            _demand(name in info, f"it has no entry {name}")
            _demand(isinstance(info[name], kind), f"{name} is not a {kind.__name__}")
        epochs = info["config"]["epochs"]
        steps = info["train_images"] // info["config"]["batch_size"]
    with _name_damage(folder, HISTORY):
        history = pd.read_csv(io.StringIO(_whole_text(folder / HISTORY)))
        _demand(list(history) == HISTORY_COLUMNS, f"its columns are {', '.join(history)}")
        _demand(len(history) == epochs, f"it has {len(history)} rows for {epochs} epochs")
    with _name_damage(folder, LOSSES):
        losses = np.loadtxt(_whole_text(folder / LOSSES).splitlines(), ndmin=1)
        expected = epochs * steps
        _demand(len(losses) == expected, f"it has {len(losses)} losses for {expected} steps")
        _demand(np.isfinite(losses).all(), "it has losses that are not finite")
    with _name_damage(folder, PREDICTIONS):
        predictions = load_file(folder / PREDICTIONS)
        for name in PREDICTED:
            _demand(name in predictions, f"it has no tensor {name}")
        sizes = {len(predictions[name]) for name in PREDICTED}
        _demand(len(sizes) == 1, "its tensors are not of one length")
    return info, history, losses, predictions


def _whole_text(path):
    """The text of a file that ends with its last line's end, so that no number is cut off."""
    text = path.read_text(encoding="utf-8")
    _demand(text.endswith("\n"), "its last line is cut off")
    return text


def _demand(holds, fault):
    if not holds:
        raise ValueError(fault)


@contextlib.contextmanager
def _name_damage(folder, name):
    """Turn whatever reading a file raises into a SubmissionError."""
    try:
        yield
    except Exception as error:  # each library has its own kinds
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SubmissionError(
            f"{folder / name} is missing or damaged ({reason}): copy it anew, or remove the folder "
            f"{folder} to train this run again"
        ) from error
