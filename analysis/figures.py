"""The figures of the notebook and the paper, each a function that returns a matplotlib Figure.

They are drawn in the size in which the paper sets them, so that 8 pt are 8 pt, in the paper's font.
"""
import logging

import matplotlib.pyplot as plt
import numpy as np

from analysis import run_statistics

COLUMN, PAGE = 3.22, 6.8  # inches: one column of the paper, and both
STYLE = {"font.family": ["cmr10", "DejaVu Sans"], "mathtext.fontset": "cm", "axes.formatter.use_mathtext": True,
         "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
         "legend.fontsize": 8, "axes.unicode_minus": False, "axes.spines.top": False, "axes.spines.right": False,
         "axes.linewidth": 0.6, "lines.linewidth": 1, "legend.frameon": False, "pdf.fonttype": 42, "savefig.dpi": 200,
         "figure.constrained_layout.use": True}
plt.rcParams.update(STYLE)
logging.getLogger("fontTools").setLevel(logging.ERROR)  # it finds the font's date of creation strange
BLUE, ORANGE, GREEN = "#3b6ea8", "#d9822b", "#4b8f5c"
COLOURS = (ORANGE, BLUE, GREEN, "#8a5fa8", "0.35", "#a83b54")  # of lines that are compared


def residual_blocks(*blocks):
    """Flow charts of residual blocks, read from their modules: how the shape changes from top to bottom."""
    figure, panels = plt.subplots(1, len(blocks), figsize=(COLUMN, 2.6))
    for axes, block in zip(panels, blocks):
        axes.set(xlim=(-0.95, 2.65), ylim=(-0.75, 5.3))
        axes.axis("off")
        _box(axes, 0, 5.1, f"{block.conv1.in_channels} channels", "none")
        for i, layer in enumerate((block.conv1, block.conv2, block.conv3)):
            _arrow(axes, (0, 4.92 - 1.3 * i), (0, 4.36 - 1.3 * i))
            _box(axes, 0, 4.0 - 1.3 * i, _convolution(layer) + ("BN, ReLU" if i < 2 else "BN"), "#dbe9f6")
        _arrow(axes, (0, 1.02), (0, 0.43))
        axes.plot((0, 1.85, 1.85), (4.76, 4.76, 0.25), color="0.2", linewidth=0.8)
        _arrow(axes, (1.85, 0.25), (0.2, 0.25))
        projection = [part for part in block.shortcut.modules() if hasattr(part, "kernel_size")]
        _box(axes, 1.85, 2.6, _convolution(projection[0]) + "BN" if projection else "identity", "#e8f3e1")
        _box(axes, 0, 0.25, "+", "#f7e3c8")
        _arrow(axes, (0, 0.05), (0, -0.4))
        _box(axes, 0, -0.62, f"ReLU, {block.conv3.out_channels} channels", "none")
    return figure


def _box(axes, x, y, text, colour):
    edge = "none" if colour == "none" else "0.3"
    axes.text(x, y, text, ha="center", va="center", linespacing=1.1, zorder=3,
              bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": edge, "linewidth": 0.6})


def _arrow(axes, start, end):
    axes.annotate("", end, start, zorder=2, arrowprops={"arrowstyle": "-|>,head_length=0.35,head_width=0.2",
                                                        "linewidth": 0.8, "color": "0.2", "shrinkA": 0, "shrinkB": 0})


def _convolution(layer):
    stride = ", /2" if layer.stride == (2, 2) else ""
    return f"${layer.kernel_size[0]} \\times {layer.kernel_size[0]}$, {layer.out_channels}{stride}\n"


def images(pixels, titles, width=PAGE, columns=10):
    """Small images, float in [0, 1] or uint8 (N, 3, 32, 32), each with its title, in rows of `columns`."""
    rows = -(-len(pixels) // columns)
    lines = 1 + max(title.count("\n") for title in titles)
    figure, panels = plt.subplots(rows, columns, figsize=(width, rows * (width / columns + 0.14 * lines)))
    for axes, image, title in zip(panels.flat, pixels, titles):
        axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(title, pad=2)
    for axes in panels.flat:
        axes.axis("off")
    return figure


def training(run):
    """How a run went: the loss of each step with its running mean since the epoch's start, the accuracies by epoch."""
    history, per_epoch = run.history, len(run.losses) // len(run.history)
    epochs = np.arange(1, len(run.losses) + 1) / per_epoch
    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN, 1.5))
    left.plot(epochs, run.losses, color="0.75", linewidth=0.6, label="step")
    for first in range(0, len(run.losses), per_epoch):
        losses = run.losses[first:first + per_epoch]
        left.plot(epochs[first:first + per_epoch], np.cumsum(losses) / np.arange(1, len(losses) + 1), color=BLUE,
                  label="running mean" if not first else None)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(loc="upper right", handlelength=1)
    right.plot(history.epoch, history.train_accuracy, color=BLUE, marker=".", markersize=4, label="training")
    right.plot(len(history), run.accuracy, color=ORANGE, marker="o", markersize=4, linestyle="none", label="test")
    right.set(xlabel="epoch", ylabel="accuracy (%)")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure


def classes(confusion, names):
    """Left: which classes are taken for which, counts (C, C), true ones in rows. Right: the accuracy of each class."""
    accuracy = 100 * confusion.diagonal() / confusion.sum(1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.0), width_ratios=(1.15, 1))
    left.imshow(confusion, cmap="Blues", aspect="auto", vmax=1.3 * confusion.max())
    for (row, column), count in np.ndenumerate(confusion):
        left.text(column, row, count, ha="center", va="center", color="white" if row == column else "0.15")
    left.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    left.set_yticks(range(len(names)), names)
    left.set(xlabel="predicted class", ylabel="true class")
    left.spines[:].set_visible(False)
    left.tick_params(length=0)
    right.barh(range(len(names)), accuracy, color="#9dbbd9")
    for i, value in enumerate(accuracy):
        right.text(2, i, f"{value:.1f}", va="center")
    right.axvline(100 * confusion.trace() / confusion.sum(), color="0.3", linewidth=0.8, linestyle="--")
    right.set_yticks(range(len(names)), names)
    right.set(xlabel="accuracy (%); dashed: over all images", xlim=(0, 100), ylim=(len(names) - 0.5, -0.5))
    return figure


def mistakes(data, probabilities, count=10):
    """The `count` mistakes of which the network, by `probabilities` (N, C) of the test images, was most certain."""
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != data.test_labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
    titles = [f"{data.classes[predicted[i]]}\n{100 * confidence[i]:.1f} %\n({data.classes[data.test_labels[i]]})"
              for i in wrong]
    return images(data.test_images[wrong], titles)


def one_more_epoch(run, control, reports, logged):
    """The running mean of the loss within one more epoch: published ones, `run`'s and its zero-rate control's.

    Left the loss itself, right what it rose from a fifth of the epoch on. `reports` is a DataFrame with a row for each
    report, `logged` the steps and running means over the public logs, two arrays.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN, 1.7))
    steps, running = logged
    lines = [(steps, running, "0.1", "published, mean of five")]
    for losses, colour, label in ((run.losses, ORANGE, "this run"), (control.losses, BLUE, "control")):
        lines.append((*running_means(losses, len(steps)), colour, label))
    left.fill_between((steps[0], steps[-1]), (reports.loss_100.min(), reports.loss_500.min()),
                      (reports.loss_100.max(), reports.loss_500.max()), color="0.8", linewidth=0)
    for row in reports.itertuples():
        right.plot((steps[0], steps[-1]), (0, row.loss_500 - row.loss_100), color="0.75", linewidth=0.8)
    for x, values, colour, label in lines:
        x = steps[-1] * x / x[-1]  # an epoch of fewer steps, on other data
        left.plot(x, values, color=colour, marker="o", markersize=2.5, label=label)
        right.plot(x, values - values[0], color=colour, marker="o", markersize=2.5)
    left.set(xlabel="step", ylabel="running mean of the loss")
    right.set(xlabel="step", ylabel="rise since step 100")
    figure.legend(loc="outside upper center", ncols=3, handlelength=1, columnspacing=1)
    for axes in (left, right):
        axes.set_xticks((100, 300, 500))
    return figure


def running_means(losses, count=5):
    """The running mean of an epoch's losses (steps,) at `count` equally spaced steps: the steps, and the means."""
    ends = len(losses) // count * np.arange(1, count + 1)
    return ends, np.cumsum(losses)[ends - 1] / ends


def windows_by_run(runs):
    """Losses of several epochs minus their control's, in windows: one line for each run.

    `runs` is a dict label -> (differences (epochs, steps)); the band is half a 95 % interval.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.0))
    colours = dict(zip(runs, COLOURS))
    for label, differences in runs.items():
        for epoch, values in enumerate(differences):
            ends, means, intervals = window_means(values)
            axes.plot(epoch + ends / len(values), means, color=colours[label], marker="o", markersize=2.5,
                      label=None if epoch else label)
            axes.fill_between(epoch + ends / len(values), means - intervals, means + intervals, color=colours[label],
                              alpha=0.2, linewidth=0)
    axes.set(xlabel="epoch after the restart", ylabel="loss minus the control's")
    axes.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.legend(loc="outside upper center", ncols=2, handlelength=1)
    return figure


def window_means(values, count=5):
    """The last steps, the means and half the 95 % intervals of `count` windows of an epoch's values (steps,)."""
    width = len(values) // count
    parts = values[:count * width].reshape(count, width)
    intervals = [run_statistics.interval_of_mean(run_statistics.block_means(part, blocks=4)) for part in parts]
    return width * np.arange(1, count + 1), parts.mean(1), np.array(intervals)


def since_last_seen(curves):
    """The loss of an image, minus the control's, against the number of steps since the image was last seen.

    `curves` is a dict label -> DataFrame with the columns steps, mean and interval, of at most six curves.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.0))
    for (label, curve), colour in zip(curves.items(), COLOURS):
        axes.errorbar(curve.steps, curve["mean"], curve.interval, color=colour, marker="o", markersize=2.5,
                      elinewidth=0.6, label=label)
    axes.set(xlabel="steps since the image was last seen", ylabel="relative loss")
    figure.legend(loc="outside upper center", ncols=2, handlelength=1)
    return figure


def gradient_norms(norms):
    """The gradient's norm at each residual block's input, from the first block to the last: dict label -> list."""
    figure, axes = plt.subplots(figsize=(COLUMN, 1.8))
    for (label, values), colour in zip(norms.items(), COLOURS):
        axes.plot(range(1, len(values) + 1), values, color=colour, marker="o", markersize=3, label=label)
    axes.set(xlabel="block", ylabel="norm of the gradient", yscale="log")
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=1, handlelength=1)
    return figure
