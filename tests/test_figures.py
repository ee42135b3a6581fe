"""Figures: print of 8 pt that nothing covers, characters that are copied as they look."""

import itertools
import shutil

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from paper_helpers import pdf_text
from torch import nn

from analysis import figures, run_statistics
from report.geometry import COLUMN_INCHES, PAGE_INCHES
from study.results import OTHER_ORDERS
from tools.errors import SubmissionError

matplotlib.use("pdf")
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Block(nn.Module):
    """A bottleneck with a projection, as wide as the widest of the assignment's first layers."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(256, 64, 1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.Conv2d(64, 256, 1), nn.BatchNorm2d(256)),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(256, 256, 1, stride=2), nn.BatchNorm2d(256))
        self.relu = nn.ReLU()

    def forward(self, X):
        """The block's output."""
        return self.relu(self.branch(X) + self.shortcut(X))


class Run:
    """What figures read of a run."""

    def __init__(self, slope):
        self.losses = 2 + slope * np.arange(500.0)
        self.history = pd.DataFrame({"epoch": range(1, 6), "train_accuracy": range(50, 75, 5)})
        self.accuracy = 72.0


def confusion():
    counts = np.random.default_rng(0).integers(0, 30, (10, 10))
    np.fill_diagonal(counts, range(640, 940, 30))
    return counts


DIFFERENCES = np.random.default_rng(0).normal(size=(2, 40)) - 1
CURVE = pd.DataFrame({"steps": [1, 200], "mean": [-0.1, 0.2], "interval": [0.1, 0.1]})
EPOCHS = [*(f"{number}, new order" for number in range(1, 6)), *(row[0] for row in OTHER_ORDERS)]
RISES = pd.DataFrame({"label": EPOCHS, "rise": 0.01, "interval": 0.02, "predicted": 0.021})
OPTIMIZERS = [f"Adam, moments filled {number}" for number in range(6)]
PARENTS = ("course parent 1", "course parent 2", "young parent", "long parent")
LABELS = ("no shortcuts", "shortcuts, γ = 1", "shortcuts, γ = 0")
DRAWINGS = {
    "blocks": lambda: figures.plot_residual_blocks(Block(), Block()),
    "images": lambda: figures.plot_images(torch.zeros(10, 3, 32, 32), CLASSES),
    "training": lambda: figures.plot_training(Run(-0.001)),
    "classes": lambda: figures.plot_classes(confusion(), CLASSES),
    "one more epoch": lambda: figures.plot_one_more_epoch(
        {"one more epoch": Run(-0.001).losses, "control": Run(0).losses},
        run_statistics.published()[0],
        run_statistics.published_running_mean(),
    ),
    "excess": lambda: figures.plot_excess(dict.fromkeys(PARENTS, DIFFERENCES)),
    "rises": lambda: figures.plot_rises(RISES),
    "images and optimizers": lambda: figures.plot_images_and_optimizers(
        dict.fromkeys(LABELS, CURVE), dict.fromkeys(OPTIMIZERS, DIFFERENCES[0])
    ),
    "gradients": lambda: figures.plot_gradient_norms(dict.fromkeys(LABELS, [0.05, 2.0, 90.0])),
}


@pytest.fixture(params=DRAWINGS)
def figure(request):
    drawing = DRAWINGS[request.param]()
    drawing.set_label(request.param)
    drawing.canvas.draw()
    yield drawing
    figures.plt.close(drawing)


def visible_texts(figure):
    texts = list(figure.texts)
    for legend in figure.legends:
        texts += legend.get_texts()
    for axes in figure.axes:
        texts += [axes.title, *axes.texts]
        if axes.get_legend():
            texts += axes.get_legend().get_texts()
        if axes.axison:
            texts += axis_texts(axes.xaxis) + axis_texts(axes.yaxis)
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def axis_texts(axis):
    lowest, highest = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    drawn = [tick for tick in ticks if lowest <= tick.get_loc() <= highest]
    return [axis.label, *(tick.label1 for tick in drawn)]


def test_figures_fit_and_have_legible_print_that_nothing_covers(figure):
    texts = visible_texts(figure)
    assert texts and min(text.get_fontsize() for text in texts) >= 8
    # with fig-env: figure*
    is_wide = figure.get_label() in ("images", "images and optimizers", "excess")
    widest = PAGE_INCHES if is_wide else COLUMN_INCHES
    assert figure.get_figwidth() <= widest + 1e-6  # the paper would scale it
    assert not any("^" in text.get_text() for text in texts)  # smaller print
    boxes = [text.get_window_extent() for text in texts if text.get_rotation() != 45]
    inside = figure.bbox.padded(2)
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)
    pairs = itertools.combinations([box.padded(-0.5) for box in boxes], 2)
    assert not any(box.overlaps(other) for box, other in pairs)


def test_each_class_accuracy_stands_once():
    words = [text.get_text() for text in visible_texts(DRAWINGS["classes"]())]
    shares = np.diag(100 * confusion() / confusion().sum(1, keepdims=True))
    assert [words.count(f"{share:.1f}") for share in shares] == 10 * [1]


def test_lines_differ_in_more_than_colour():
    for name in ("color", "marker", "linestyle"):
        values = [str(line[name]) for line in figures.LINES]
        assert len(set(values)) == len(values), name


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs pdftotext")
def test_signs_are_copied_as_what_they_are(tmp_path):
    words = ""
    for name in ("blocks", "excess", "gradients"):
        path = tmp_path / f"{name}.pdf"
        DRAWINGS[name]().savefig(path)
        words += pdf_text(path)
    assert "1×1, 64, /2" in words and "−2" in words and "γ = 1" in words
    assert "ReLU" in words and not set("£¡") & set(words)


def test_no_line_is_left_out_for_want_of_a_style():
    seven = {"parent": np.zeros((7, 20))}
    with pytest.raises(SubmissionError, match="7 lines are to be drawn, but there are 6 styles"):
        figures.plot_excess(seven)
    plt.close("all")
