"""Shared by several tests: the project's folder, a small network, changes to a copy of it."""

import json
import re
import shutil

import nbformat
import pytest
import torch
from torch import nn

from grading.policy import read_policy
from tools.project_files import ROOT

POLICY = read_policy()
NOTEBOOK = POLICY.files.notebook
RESULTS = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))
RUN = RESULTS["claims"]["test_accuracy"]["source"]  # the name of the submission's main run

needs_weights = pytest.mark.skipif(
    not (ROOT / "checkpoints" / RUN / "weights.safetensors").exists(),
    reason="the weights were left out of this copy",
)

# what a copy of the project does without
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "build", "data", "tests", ".*_cache", ".hypothesis", "__pycache__"
)


def tiny(seed=0):
    """A network of the same layers as the assignment's, small enough to train in seconds."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 49, 10),
    )


def without_settings(text):
    """Return text without learning rates and β2 of the study's runs behind the words rate and β₂.

    The study's prose and the README may type these numbers; others have to be computed.
    """
    from study import experiments  # a submission has these tests without the study

    plan = experiments.PLANS[experiments.STORED_PLAN]
    settings = set()
    for group in experiments.groups(plan).values():
        for experiment in group:
            settings.add(f"{experiment.recipe.learning_rate:g}")
            settings.add(f"{experiment.recipe.beta2:g}")

    def keep(number):
        _, _, sentence = text[max(0, number.start() - 40) : number.start()].rpartition(". ")
        is_setting = number[0] in settings and re.search(r"β₂|\brate\b", sentence)
        return "" if is_setting else number[0]

    return re.sub(r"\d+\.\d+", keep, text)


def change_results(root, change):
    """Change the results.json of the copy `root` in place, by a function of its content."""
    path = root / "report" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    change(results)
    path.write_text(json.dumps(results), encoding="utf-8")


def change_notebook(root, change, change_whole=lambda notebook: None):
    """Change the notebook of the copy `root` in place.

    Args:
        root: the copy's folder.
        change: is called with the cells, a dict id -> cell.
        change_whole: is called with the whole notebook.
    """
    notebook = nbformat.read(root / NOTEBOOK, 4)
    change({cell.id: cell for cell in notebook.cells})
    change_whole(notebook)
    nbformat.write(notebook, root / NOTEBOOK)
