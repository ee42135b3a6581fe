"""The figures of the notebook and the paper, each a function that returns a matplotlib Figure.

They are drawn in the size in which the paper sets them, so that 8 pt are 8 pt, in the paper's font.
"""
import logging

import matplotlib.pyplot as plt
import numpy as np

COLUMN, PAGE = 3.22, 6.8  # inches: one column of the paper, and both
STYLE = {"font.family": ["cmr10", "DejaVu Sans"], "mathtext.fontset": "cm", "axes.formatter.use_mathtext": True,
         "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
         "legend.fontsize": 8, "axes.unicode_minus": False, "axes.spines.top": False, "axes.spines.right": False,
         "axes.linewidth": 0.6, "lines.linewidth": 1, "legend.frameon": False, "pdf.fonttype": 42, "savefig.dpi": 200,
         "figure.constrained_layout.use": True}
plt.rcParams.update(STYLE)
logging.getLogger("fontTools").setLevel(logging.ERROR)  # it finds the font's date of creation strange
BLUE, ORANGE, GREEN, GREY = "#3b6ea8", "#d9822b", "#4b8f5c", "0.6"


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


def paired_losses(differences, published):
    """Left: the running losses of `published` reports. Right: differences of losses from a frozen network's.

    `differences` has for each label a DataFrame with the columns step, mean and error, one row for each window.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 1.8), width_ratios=(1, 1.7))
    for row in published.itertuples():
        colour = "0.1" if row.key == "original" else GREY
        left.plot((100, 500), (row.loss_100, row.loss_500), color=colour, marker="o", markersize=3,
                  zorder=3 if row.key == "original" else 2)
    left.set(xlabel="step", ylabel="running mean of the loss", xticks=(100, 300, 500), title="Published reports")
    colours = dict(zip(differences, (ORANGE, BLUE, GREEN, "#8a5fa8", "0.35", "#a83b54", "#7a6a2f")))
    for label, windows in differences.items():
        right.plot(windows.step, windows["mean"], color=colours[label], marker="o", markersize=2.5)
        right.fill_between(windows.step, windows["mean"] - windows.error, windows["mean"] + windows.error,
                           color=colours[label], alpha=0.25, linewidth=0)
    steps = max((windows.step for windows in differences.values()), key=len)
    ends = {label: windows["mean"].iloc[-1] for label, windows in differences.items()}
    gap, height = 0.11 * (max(0, *ends.values()) - min(0, *ends.values())), -np.inf
    for label, end in sorted(ends.items(), key=lambda item: item[1]):
        height = max(end, height + gap)  # labels of lines that end close together are moved apart
        right.annotate(label, (steps.iloc[-1], height), (5, 0), textcoords="offset points", va="center",
                       color=colours[label])
    right.plot((0, steps.iloc[-1]), (0, 0), color="0.4", linewidth=0.8, linestyle="--", zorder=1)
    right.set(xlabel="step", ylabel="difference of the loss", title="Ours, minus the frozen network's, same batches",
              xlim=(0, 1.6 * steps.iloc[-1]), xticks=steps)
    right.spines["bottom"].set_bounds(0, steps.iloc[-1])
    return figure
