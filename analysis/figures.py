"""The figures of notebook and paper: each function returns a matplotlib Figure.

Figures are drawn in the size in which the paper sets them, so that 8 pt are 8 pt. Their font is
Computer Modern, of which the paper's Latin Modern is a copy; it comes with matplotlib, so that a
figure has the same bytes on a machine without TeX. STIX has the characters that it lacks (×, −, γ),
and they are copied from the PDF as what they are. Colours are those of Okabe and Ito, which
colour-blind people can tell apart; lines also differ in their dashes and markers.
"""
import copy
import logging
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch
from torch import nn

from analysis import run_statistics
from analysis.layer_table import filter_words
from report.geometry import COLUMN_INCHES, PAGE_INCHES
from tools.errors import SubmissionError

FONT_POINTS = 8  # of all text
STYLE = {
    "font.family": ["cmr10", "STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "cm",
    "axes.unicode_minus": True,  # not a formula's minus, which is copied as another character
    "font.size": FONT_POINTS,
    "axes.titlesize": FONT_POINTS,
    "axes.labelsize": FONT_POINTS,
    "xtick.labelsize": FONT_POINTS,
    "ytick.labelsize": FONT_POINTS,
    "legend.fontsize": FONT_POINTS,
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
# The font that this would ask a minus of has none, but the second one has.
warnings.filterwarnings("ignore", "cmr10 font should ideally be used with mathtext")
logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the font's creation date

BLACK = "0.1"
BLUE = "#0072b2"
ORANGE = "#d55e00"
# Colour, marker and dashes of lines that are compared.
LINES = (
    {"color": ORANGE, "marker": "o", "linestyle": "-"},
    {"color": BLUE, "marker": "s", "linestyle": "--"},
    {"color": "#009e73", "marker": "^", "linestyle": "-."},
    {"color": "#cc79a7", "marker": "D", "linestyle": ":"},
    {"color": "0.35", "marker": "v", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
    {"color": "#56b4e9", "marker": "P", "linestyle": (0, (8, 2))},
)
MARKER = 2.8  # size of the markers in points
LEGEND = {"loc": "outside upper center", "handlelength": 2, "columnspacing": 1}


def line_styles(count):
    """Return colour, marker and dashes of so many lines, a list of dicts.

    Raises SubmissionError if there are more lines than styles.
    """
    if count > len(LINES):
        raise SubmissionError(f"{count} lines are to be drawn, but there are {len(LINES)} styles")
    return LINES[:count]


# ----------------------------------------------------------------------------- residual blocks

# Sizes in a drawing of blocks, in points.
LINE_HEIGHT = 9.6
PADDING = 2.5  # of a box around its text
ARROW = 7.5  # from one box to the next
BESIDE = 11  # between branch and shortcut
BETWEEN = 14  # between two blocks, at least

CONVOLUTION_COLOUR = "#dcebf7"
ACTIVATION_COLOUR = "#fde6c8"
SHORTCUT_COLOUR = "#e2f2e6"


def plot_residual_blocks(*blocks):
    """Draw flow charts of residual blocks, side by side, read from the modules `blocks`.

    What follows a convolution is what the block runs after it, found by running the block. The
    figure is wider than a column if the blocks need more room.
    """
    charts = [_read_chart(block) for block in blocks]
    figure = plt.figure(figsize=(COLUMN_INCHES, 1))
    figure.set_layout_engine("none")  # the axes are placed by hand
    widths = [_chart_widths(figure, *chart) for chart in charts]
    chart_widths = [sum(parts) for parts in widths]
    needed = sum(chart_widths) + BETWEEN * (len(charts) - 1)
    width = max(72 * COLUMN_INCHES, needed)
    height = max(_chart_height(boxes) for boxes, _ in charts)
    figure.set_size_inches(width / 72, height / 72)
    spare = (width - needed) / (2 * len(charts))  # at each side of a chart
    left = 0
    for (boxes, shortcut), (branch_width, *_), chart_width in zip(charts, widths, chart_widths):
        axes = figure.add_axes([(left + spare) / width, 0, chart_width / width, 1])
        axes.set(xlim=(0, chart_width), ylim=(height, 0))  # points from the upper left corner
        axes.axis("off")
        _draw_chart(axes, boxes, shortcut, branch_width)
        left += 2 * spare + chart_width + BETWEEN
    return figure


def _read_chart(block):
    """Return what a drawing of `block` shows: its boxes from top to bottom, and its shortcut.

    A box is a tuple of text and colour, "none" for text without a box. The shortcut is the text of
    its box; None if the block has no attribute `shortcut`.
    """
    branch, after_sum = _read_branch(block)
    first, _ = branch[0]
    last, _ = branch[-1]
    boxes = [(f"{first.in_channels} channels", "none")]
    for convolution, followers in branch:
        text = _describe_convolution(convolution)
        if followers[:1] == ["BN"]:
            text += "\nBN"
            followers = followers[1:]
        boxes.append((text, CONVOLUTION_COLOUR))
        boxes += [(name, ACTIVATION_COLOUR) for name in followers]
    boxes.append(("+", "white"))
    boxes += [(name, ACTIVATION_COLOUR) for name in after_sum]
    boxes.append((f"{last.out_channels} channels", "none"))
    return boxes, _describe_shortcut(block)


def _describe_shortcut(block):
    """Return what the shortcut of a block does, as lines of text; None if it has no shortcut."""
    if not hasattr(block, "shortcut"):
        return None
    words = []
    for part in block.shortcut.modules():
        if isinstance(part, nn.Conv2d):
            words.append(_describe_convolution(part))
        elif isinstance(part, nn.BatchNorm2d):
            words.append("BN")
        elif not isinstance(part, nn.Identity) and not list(part.children()):
            words.append(type(part).__name__)
    return "\n".join(words) or "identity"


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


def _chart_widths(figure, boxes, shortcut):
    """Return the widths of a chart in points: its branch, the gap beside it and its shortcut."""
    branch_width = max(_text_width(figure, text) for text, _ in boxes) + 2 * PADDING
    if shortcut is None:
        return branch_width, 0, 0
    return branch_width, BESIDE, _text_width(figure, shortcut) + 2 * PADDING


def _text_width(figure, text):
    """Return the width of a text in points, as it is printed in `figure`."""
    label = figure.text(0, 0, text)
    width = label.get_window_extent().width * 72 / figure.dpi
    label.remove()
    return width


def _chart_height(boxes):
    """Return the height of a chart in points."""
    return sum(_box_height(text) for text, _ in boxes) + ARROW * (len(boxes) - 1)


def _box_height(text):
    """Return the height of a box in points."""
    return LINE_HEIGHT * (1 + text.count("\n")) + 2 * PADDING


def _draw_chart(axes, boxes, shortcut, branch_width):
    """Draw a block: its branch on the left, its shortcut on the right.

    `axes` count points from the upper left corner; `branch_width` is that of the branch.
    """
    middle = branch_width / 2
    top = 0
    for text, colour in boxes:
        height = _box_height(text)
        if top:
            _draw_arrow(axes, (middle, top - ARROW), (middle, top))
        width = height if text == "+" else branch_width
        _draw_box(axes, (middle, top + height / 2), (width, height), text, colour)
        if text == "+":
            addition = top + height / 2
        top += height + ARROW
    if shortcut is not None:
        first_text, _ = boxes[0]
        start = _box_height(first_text) + ARROW / 3  # on the arrow into the first convolution
        plus_side = middle + _box_height("+") / 2
        _draw_shortcut(axes, shortcut, (middle, start), (plus_side, addition), branch_width)


def _draw_shortcut(axes, text, start, end, branch_width):
    """Draw a shortcut with its box from `start` to `end`, two points (x, y) of the branch."""
    _, right_edge = axes.get_xlim()
    left_edge = branch_width + BESIDE
    x = (left_edge + right_edge) / 2
    axes.plot((start[0], x, x), (start[1], start[1], end[1]), color="0.2", linewidth=0.8, zorder=1)
    _draw_arrow(axes, (x, end[1]), end)
    size = (right_edge - left_edge, _box_height(text))
    _draw_box(axes, (x, (start[1] + end[1]) / 2), size, text, SHORTCUT_COLOUR)


def _draw_box(axes, centre, size, text, colour):
    """Write text in a box with rounded corners; no box with the colour "none"."""
    x, y = centre
    width, height = size
    if colour != "none":
        axes.add_patch(FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=2.5",
            facecolor=colour,
            edgecolor="0.3",
            linewidth=0.6,
            clip_on=False,
            zorder=3,
        ))
    axes.text(x, y, text, ha="center", va="center", linespacing=1.1, zorder=4)


def _draw_arrow(axes, start, end):
    """Draw an arrow between two points (x, y)."""
    arrow = {
        "arrowstyle": "-|>,head_length=0.3,head_width=0.17",
        "linewidth": 0.8,
        "color": "0.2",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", end, start, zorder=2, arrowprops=arrow)


def _describe_convolution(layer):
    """Return filter size, channels and stride of a convolution as a line of text."""
    text = filter_words(layer)
    if layer.stride[0] != 1:
        text += f", /{layer.stride[0]}"
    return text


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
    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 1.7))
    _plot_losses(left, run)
    _plot_accuracies(right, run)
    for axes in (left, right):
        axes.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.legend(**LEGEND, ncols=4)
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


def _plot_accuracies(axes, run):
    """Draw the training accuracy by epoch, and the test accuracy at the end."""
    history = run.history
    axes.plot(history.epoch, history.train_accuracy, color=BLACK, linestyle="--", marker="s",
              markersize=MARKER, label="training")
    # hollow: the last training accuracy may be behind it
    axes.plot(len(history), run.accuracy, color=ORANGE, marker="o", markersize=5,
              markerfacecolor="none", linestyle="none", label="test")
    axes.set(xlabel="epoch", ylabel="accuracy (%)")
    axes.set_xlim(left=0)


def plot_classes(confusion, names):
    """Draw the confusion matrix in per cent of each true class, whose diagonal is its accuracy.

    `confusion` are counts (C, C), true classes in rows; `names` are C strings.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 2.4))
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", aspect="auto", vmin=0, vmax=130)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 60 else BLACK
        axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


# ------------------------------------------------------------------------------ one more epoch

def plot_one_more_epoch(losses, reports, logged):
    """Draw the running mean of the loss within one more epoch: published ones and ours.

    Left is the running mean, right its rise since a fifth of the epoch. `losses` is a dict
    label -> the loss of each step (steps,) of at most six epochs, `reports` a DataFrame with a row
    for each report, `logged` steps and running means over public logs, two arrays.
    """
    published_steps, _ = logged
    lines = {"mean of five reports": logged}
    for label, values in losses.items():
        lines[label] = run_statistics.running_means(values, len(published_steps))
    legend_rows = -(-(1 + len(lines)) // 2)  # of two columns, rounded up
    size = (COLUMN_INCHES, 1.35 + 0.2 * legend_rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=size)
    _plot_reports(left, right, reports, published_steps)
    styles = [{"color": BLACK, "marker": "D", "linestyle": "-"}, *line_styles(len(losses))]
    for (label, (steps, means)), line in zip(lines.items(), styles):
        x = published_steps[-1] * steps / steps[-1]  # an epoch on other data has fewer steps
        left.plot(x, means, **line, markersize=MARKER, label=label)
        right.plot(x, means - means[0], **line, markersize=MARKER)
    left.set(xlabel="step", ylabel="running mean of loss")
    right.set(xlabel="step", ylabel="rise since step 100")
    figure.legend(**LEGEND, ncols=2)
    for axes in (left, right):
        axes.set_xticks((100, 300, 500))
    return figure


def _plot_reports(left, right, reports, steps):
    """Draw what reports say of the first and the last of `steps`: left the range, right lines."""
    ends = (steps[0], steps[-1])
    lowest = (reports.loss_100.min(), reports.loss_500.min())
    highest = (reports.loss_100.max(), reports.loss_500.max())
    left.fill_between(ends, lowest, highest, color="0.8", linewidth=0, label="all reports")
    for report in reports.itertuples():
        right.plot(ends, (0, report.loss_500 - report.loss_100), color="0.75", linewidth=0.8)


def plot_excess(differences):
    """Draw how far the loss is above the control's within one epoch, as means of blocks of steps.

    `differences` is a dict parent -> losses minus the control's (orders, steps). Each parent has a
    panel, with a line for each order of the batches, at most six.
    """
    size = (PAGE_INCHES, 1.75)
    figure, panels = plt.subplots(1, len(differences), figsize=size, sharey=True, squeeze=False)
    for axes, (parent, losses) in zip(panels[0], differences.items()):
        labels = [f"order {number}" for number in range(1, len(losses) + 1)]
        _plot_excess(axes, dict(zip(labels, losses)))
        axes.set_title(parent)
        axes.label_outer()
    lines = panels[0, 0].get_legend_handles_labels()
    figure.legend(*lines, **LEGEND, ncols=len(lines[0]))
    return figure


def _plot_excess(axes, differences):
    """Draw the lines of `differences`, a dict label -> losses minus the control's (steps,)."""
    axes.axhline(0, color="0.75", linewidth=0.6)
    for (label, losses), line in zip(differences.items(), line_styles(len(differences))):
        means = run_statistics.block_means(losses)
        steps = len(losses) / len(means) * (np.arange(len(means)) + 0.5)  # the middle of each block
        axes.plot(steps, means, **line, markersize=MARKER, label=label)
    axes.set(xlabel="step", ylabel="loss minus control")


def plot_rises(rises):
    """Draw how much the running mean of the loss rises in some epochs, each in a row.

    `rises` is a DataFrame with a row for each epoch, from top to bottom: label, rise, interval, and
    predicted, the rise that a sawtooth of the reported size predicts.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.7 + 0.17 * len(rises)))
    places = np.arange(len(rises))
    axes.axvline(0, color="0.75", linewidth=0.6)
    axes.vlines(rises.predicted, places - 0.4, places + 0.4, color="0.5", linewidth=2,
                label="predicted by a sawtooth")
    axes.errorbar(rises.rise, places, xerr=rises.interval, color=ORANGE, marker="o",
                  markersize=MARKER, linestyle="none", label="measured")
    axes.set_yticks(places, rises.label)
    axes.invert_yaxis()
    axes.set(xlabel="rise of the running mean")
    figure.legend(**LEGEND, ncols=2)
    return figure


def plot_images_and_optimizers(curves, differences):
    """Draw the loss of an image by the steps since it was last seen, and that of epochs by step.

    `curves` is a dict label -> DataFrame with the columns steps, mean and interval, of at most six
    curves, as analysis.image_losses.loss_since_seen returns them; `differences` is a dict
    label -> losses minus the control's (steps,), of at most six epochs, drawn as by `plot_excess`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_INCHES, 2.2))
    for (label, curve), line in zip(curves.items(), line_styles(len(curves))):
        left.errorbar(curve["steps"], curve["mean"], curve["interval"], **line, markersize=MARKER,
                      elinewidth=0.6, label=label)
    left.set(xlabel="steps since the image was last seen", ylabel="relative loss")
    _plot_excess(right, differences)
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def plot_gradient_norms(norms):
    """Draw the norm of the gradient at the input of each residual block, from first to last.

    `norms` is a dict label -> list of floats, of at most six networks.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 1.7))
    for (label, values), line in zip(norms.items(), line_styles(len(norms))):
        blocks = range(1, len(values) + 1)
        axes.plot(blocks, values, **line, markersize=MARKER, label=label)
    axes.set(xlabel="block", ylabel="gradient norm", yscale="log")
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:g}")  # no exponents: their print would be smaller
    axes.yaxis.set_minor_formatter("")
    figure.legend(**LEGEND, ncols=2)
    return figure
