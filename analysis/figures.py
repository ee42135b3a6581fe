"""The figures of notebook and paper: each function returns a matplotlib Figure.

Figures are drawn in the size in which the paper sets them, so that 8 pt are 8 pt, in its font.
"""
import copy
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from analysis import run_statistics
from report.geometry import COLUMN_INCHES, PAGE_INCHES
from tools.errors import SubmissionError

STYLE = {
    "font.family": ["cmr10", "DejaVu Sans"],
    "mathtext.fontset": "cm",
    "axes.formatter.use_mathtext": True,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.unicode_minus": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
}
plt.rcParams.update(STYLE)
logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the font's creation date

BLUE = "#3b6ea8"
ORANGE = "#d9822b"
GREEN = "#4b8f5c"
COLOURS = (ORANGE, BLUE, GREEN, "#8a5fa8", "0.35", "#a83b54")  # of lines that are compared


# ----------------------------------------------------------------------------- residual blocks

# Where the parts of a block are drawn: heights of the text boxes from top to bottom, and the
# distance of the shortcut from the branch.
INPUT_HEIGHT = 5.1
FIRST_HEIGHT = 4.0  # of the branch's convolutions
LAST_HEIGHT = 1.4
SHORTCUT_HEIGHT = 2.6
SUM_HEIGHT = 0.25
OUTPUT_HEIGHT = -0.62
SHORTCUT_X = 1.85


def plot_residual_blocks(*blocks):
    """Draw flow charts of residual blocks, side by side, read from the modules `blocks`.

    What follows a convolution is what the block runs after it, found by running the block.
    """
    figure, panels = plt.subplots(1, len(blocks), figsize=(COLUMN_INCHES, 2.6))
    for axes, block in zip(np.atleast_1d(panels), blocks):
        axes.set(xlim=(-0.95, 2.65), ylim=(-0.75, 5.3))
        axes.axis("off")
        branch, after_sum = _read_branch(block)
        _draw_branch(axes, branch)
        _draw_shortcut(axes, block)
        _draw_box(axes, 0, SUM_HEIGHT, "+", "#f7e3c8")
        _draw_arrow(axes, (0, 0.05), (0, -0.4))
        last, _ = branch[-1]
        text = ", ".join([*after_sum, f"{last.out_channels} channels"])
        _draw_box(axes, 0, OUTPUT_HEIGHT, text, "none")
    return figure


def _read_branch(block):
    """Return the convolutions of a block's branch, and names of what it runs after the addition.

    The first is a list of tuples: a convolution and a list with the names of what follows it. What
    follows the last one and is no batch normalisation counts as run after the addition.
    """
    block = copy.deepcopy(block).eval()
    shortcut = getattr(block, "shortcut", nn.Identity())
    outside = set(shortcut.modules())
    parts = [part for part in block.modules() if part not in outside and not list(part.children())]
    order = []
    for part in parts:
        part.register_forward_hook(lambda part, inputs, output: order.append(part))
    channels = [part.in_channels for part in parts if isinstance(part, nn.Conv2d)]
    if channels:
        with torch.no_grad():
            block(torch.zeros(1, channels[0], 8, 8))
    branch = []
    for part in order:
        if isinstance(part, nn.Conv2d):
            branch.append((part, []))
        elif branch:
            branch[-1][1].append("BN" if isinstance(part, nn.BatchNorm2d) else type(part).__name__)
    if not branch:
        raise SubmissionError(f"{type(block).__name__} runs no nn.Conv2d that could be drawn")
    last, followers = branch[-1]
    branch[-1] = last, [name for name in followers if name == "BN"]
    return branch, [name for name in followers if name != "BN"]


def _draw_branch(axes, branch):
    """Draw the input and the convolutions of a block, down to its addition."""
    first, _ = branch[0]
    _draw_box(axes, 0, INPUT_HEIGHT, f"{first.in_channels} channels", "none")
    heights = np.linspace(FIRST_HEIGHT, LAST_HEIGHT, len(branch))
    start = INPUT_HEIGHT - 0.18
    for (convolution, followers), height in zip(branch, heights):
        _draw_arrow(axes, (0, start), (0, height + 0.36))
        text = "\n".join([_describe_convolution(convolution), ", ".join(followers)])
        _draw_box(axes, 0, height, text.strip(), "#dbe9f6")
        start = height - 0.38
    _draw_arrow(axes, (0, start), (0, 0.43))


def _draw_shortcut(axes, block):
    """Draw the shortcut of a block, from the input to the addition; nothing if it has none."""
    if not hasattr(block, "shortcut"):
        return
    axes.plot(
        (0, SHORTCUT_X, SHORTCUT_X), (4.76, 4.76, SUM_HEIGHT), color="0.2", linewidth=0.8
    )
    _draw_arrow(axes, (SHORTCUT_X, SUM_HEIGHT), (0.2, SUM_HEIGHT))
    words = []
    for part in block.shortcut.modules():
        if isinstance(part, nn.Conv2d):
            words.append(_describe_convolution(part))
        elif isinstance(part, nn.BatchNorm2d):
            words.append("BN")
        elif not isinstance(part, nn.Identity) and not list(part.children()):
            words.append(type(part).__name__)
    _draw_box(axes, SHORTCUT_X, SHORTCUT_HEIGHT, "\n".join(words) or "identity", "#e8f3e1")


def _draw_box(axes, x, y, text, colour):
    """Write text in a rounded box, centred on (x, y); no box with the colour "none"."""
    box = {
        "boxstyle": "round,pad=0.25",
        "facecolor": colour,
        "edgecolor": "none" if colour == "none" else "0.3",
        "linewidth": 0.6,
    }
    axes.text(x, y, text, ha="center", va="center", linespacing=1.1, zorder=3, bbox=box)


def _draw_arrow(axes, start, end):
    """Draw an arrow between two points (x, y)."""
    arrow = {
        "arrowstyle": "-|>,head_length=0.35,head_width=0.2",
        "linewidth": 0.8,
        "color": "0.2",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", end, start, zorder=2, arrowprops=arrow)


def _describe_convolution(layer):
    """Return filter size, channels and stride of a convolution as a line of text."""
    size = layer.kernel_size[0]
    stride = ", /2" if layer.stride == (2, 2) else ""
    return f"${size} \\times {size}$, {layer.out_channels}{stride}"


# -------------------------------------------------------------------------------------- images

def plot_images(pixels, titles, width=PAGE_INCHES, columns=10):
    """Draw small images in rows of `columns`, each with its title.

    `pixels` is a tensor (N, 3, 32, 32), float in [0, 1] or uint8; `titles` are N strings; `width`
    is that of the figure in inches.
    """
    rows = -(-len(pixels) // columns)  # rounded up
    title_lines = 1 + max(title.count("\n") for title in titles)
    height = rows * (width / columns + 0.14 * title_lines)
    figure, panels = plt.subplots(rows, columns, figsize=(width, height))
    for axes, image, title in zip(panels.flat, pixels, titles):
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(title, pad=2)
    for axes in panels.flat:
        axes.axis("off")
    return figure


def plot_mistakes(data, probabilities, count=10):
    """Draw the `count` wrongly classified test images of which the network was most certain.

    `probabilities` are those of the classes for each test image, float (N, C). A title says the
    predicted class, its probability, and the true class in parentheses.
    """
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != data.test_labels).nonzero().flatten()
    most_certain = confidence[wrong].argsort(descending=True, stable=True)
    wrong = wrong[most_certain][:count]
    if not len(wrong):
        figure = plt.figure(figsize=(PAGE_INCHES, 0.4))
        figure.text(0.5, 0.5, "All test images are classified correctly.", ha="center", va="center")
        return figure
    titles = []
    for i in wrong:
        predicted_class = data.classes[predicted[i]]
        true_class = data.classes[data.test_labels[i]]
        titles.append(f"{predicted_class}\n{100 * confidence[i]:.1f} %\n({true_class})")
    return plot_images(data.test_images[wrong], titles)


# ------------------------------------------------------------------------ training and results

def plot_training(run):
    """Draw the loss of each step with its running mean since the epoch's start, and accuracies."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 1.5))
    _plot_losses(left, run)
    _plot_accuracies(right, run)
    for axes in (left, right):
        axes.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


def _plot_losses(axes, run):
    """Draw the loss of each step, and a running mean for each epoch."""
    steps_per_epoch = len(run.losses) // len(run.history)
    epochs = np.arange(1, len(run.losses) + 1) / steps_per_epoch
    axes.plot(epochs, run.losses, color="0.75", linewidth=0.6, label="step")
    label = "running mean"  # of the first line; the legend has one entry for all
    for first in range(0, len(run.losses), steps_per_epoch):
        losses = run.losses[first:first + steps_per_epoch]
        running_mean = np.cumsum(losses) / np.arange(1, len(losses) + 1)
        axes.plot(epochs[first:first + steps_per_epoch], running_mean, color=BLUE, label=label)
        label = None
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend(loc="upper right", handlelength=1)


def _plot_accuracies(axes, run):
    """Draw the training accuracy by epoch, and the test accuracy at the end."""
    history = run.history
    axes.plot(history.epoch, history.train_accuracy, color=BLUE, marker=".", markersize=4,
              label="training")
    axes.plot(len(history), run.accuracy, color=ORANGE, marker="o", markersize=4,
              linestyle="none", label="test")
    axes.set(xlabel="epoch", ylabel="accuracy (%)")
    axes.legend(loc="lower right")


def plot_classes(confusion, names):
    """Draw the confusion matrix, and the accuracy of each class.

    `confusion` are counts (C, C), true classes in rows; `names` are C strings.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_INCHES, 2.0), width_ratios=(1.15, 1))
    _plot_confusion(left, confusion, names)
    _plot_class_accuracies(right, confusion, names)
    return figure


def _plot_confusion(axes, confusion, names):
    """Draw a confusion matrix with its counts."""
    axes.imshow(confusion, cmap="Blues", aspect="auto", vmax=1.3 * confusion.max())
    for (row, column), count in np.ndenumerate(confusion):
        colour = "white" if row == column else "0.15"
        axes.text(column, row, count, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _plot_class_accuracies(axes, confusion, names):
    """Draw the accuracy of each class as a bar, that of all images as a dashed line."""
    accuracies = run_statistics.class_accuracies(confusion)
    axes.barh(range(len(names)), accuracies, color="#9dbbd9")
    for i, accuracy in enumerate(accuracies):
        axes.text(2, i, f"{accuracy:.1f}", va="center")
    overall = 100 * confusion.trace() / confusion.sum()
    axes.axvline(overall, color="0.3", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="accuracy (%); dashed: over all images", xlim=(0, 100),
             ylim=(len(names) - 0.5, -0.5))


# ------------------------------------------------------------------------------ one more epoch

def plot_one_more_epoch(run, control, reports, logged):
    """Draw the running mean of the loss within one more epoch: published, this run, its control.

    Left is the running mean, right its rise since a fifth of the epoch. `reports` is a DataFrame
    with a row for each report, `logged` steps and running means over public logs, two arrays.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 1.7))
    published_steps, _ = logged
    _plot_reports(left, right, reports, published_steps)
    lines = {
        "published, mean of five": logged,
        "this run": run_statistics.running_means(run.losses, len(published_steps)),
        "control": run_statistics.running_means(control.losses, len(published_steps)),
    }
    for (label, (steps, means)), colour in zip(lines.items(), ("0.1", ORANGE, BLUE)):
        x = published_steps[-1] * steps / steps[-1]  # an epoch on other data has fewer steps
        left.plot(x, means, color=colour, marker="o", markersize=2.5, label=label)
        right.plot(x, means - means[0], color=colour, marker="o", markersize=2.5)
    left.set(xlabel="step", ylabel="running mean of the loss")
    right.set(xlabel="step", ylabel="rise since step 100")
    figure.legend(loc="outside upper center", ncols=3, handlelength=1, columnspacing=1)
    for axes in (left, right):
        axes.set_xticks((100, 300, 500))
    return figure


def _plot_reports(left, right, reports, steps):
    """Draw what reports say of the first and the last of `steps`: left the range, right lines."""
    ends = (steps[0], steps[-1])
    lowest = (reports.loss_100.min(), reports.loss_500.min())
    highest = (reports.loss_100.max(), reports.loss_500.max())
    left.fill_between(ends, lowest, highest, color="0.8", linewidth=0)
    for report in reports.itertuples():
        right.plot(ends, (0, report.loss_500 - report.loss_100), color="0.75", linewidth=0.8)


def plot_windows_by_run(runs):
    """Draw losses minus their control's over several epochs, in windows: a line for each run.

    `runs` is a dict label -> differences, float (epochs, steps), of at most six runs. A band is
    half of a 95 % interval to each side.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 2.0))
    for (label, differences), colour in zip(runs.items(), COLOURS):
        for epoch, values in enumerate(differences):
            ends, means, intervals = run_statistics.window_means(values)
            epochs = epoch + ends / len(values)
            axes.plot(epochs, means, color=colour, marker="o", markersize=2.5,
                      label=label if epoch == 0 else None)
            axes.fill_between(epochs, means - intervals, means + intervals, color=colour,
                              alpha=0.2, linewidth=0)
    axes.set(xlabel="epoch after the restart", ylabel="loss minus the control's")
    axes.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.legend(loc="outside upper center", ncols=2, handlelength=1)
    return figure


def plot_since_last_seen(curves):
    """Draw the loss of an image, minus the control's, by the steps since it was last seen.

    `curves` is a dict label -> DataFrame with the columns steps, mean and interval, of at most six
    curves, as study.image_losses.loss_since_seen returns them.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 2.0))
    for (label, curve), colour in zip(curves.items(), COLOURS):
        axes.errorbar(curve["steps"], curve["mean"], curve["interval"], color=colour, marker="o",
                      markersize=2.5, elinewidth=0.6, label=label)
    axes.set(xlabel="steps since the image was last seen", ylabel="relative loss")
    figure.legend(loc="outside upper center", ncols=2, handlelength=1)
    return figure


def plot_gradient_norms(norms):
    """Draw the norm of the gradient at the input of each residual block, from first to last.

    `norms` is a dict label -> list of floats, of at most six networks.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 1.8))
    for (label, values), colour in zip(norms.items(), COLOURS):
        blocks = range(1, len(values) + 1)
        axes.plot(blocks, values, color=colour, marker="o", markersize=3, label=label)
    axes.set(xlabel="block", ylabel="norm of the gradient", yscale="log")
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=1, handlelength=1)
    return figure
