"""The losses of single images in training, by the steps since the network last saw the image."""
import numpy as np
import pandas as pd
from safetensors.torch import load_file
from scipy import stats

import training
from analysis.run_statistics import BLOCKS, NORMAL_QUANTILE
from tools.errors import SubmissionError
from training.runs import IMAGE_LOSSES


def images_by_step(run):
    """Return the number of each image in each batch, int64 (epochs, steps, batch size)."""
    recipe = run.recipe
    images = run.info["train_images"]
    steps = images // recipe.batch_size
    used = steps * recipe.batch_size  # an incomplete batch is left out
    orders = []
    for epoch in range(recipe.epochs):
        order, _ = training.image_order(recipe, images, epoch)
        orders.append(order[:used])
    return np.stack(orders).reshape(recipe.epochs, steps, recipe.batch_size)


def read_image_losses(run):
    """Return the loss of each image in each step, float64 (epochs, steps, batch size).

    It is None if they were not stored.
    """
    if not (run.folder / IMAGE_LOSSES).exists():
        return None
    losses = load_file(run.folder / IMAGE_LOSSES)["image_losses"].double().numpy()
    batch_size = losses.shape[1]
    return losses.reshape(len(run.history), -1, batch_size)


def steps_since_seen(images):
    """Return the number of steps since each image was last in a batch, in the shape of `images`.

    `images` is int64 (epochs, steps, batch size). Steps are counted over all epochs; -1 stands for
    an image that had not been seen before. Of an image twice in a batch neither has seen the other.
    """
    batches = images.reshape(-1, images.shape[-1])
    last_seen = np.full(images.max() + 1, -1)
    gaps = np.empty(batches.shape, int)
    for step, batch in enumerate(batches):
        gaps[step] = np.where(last_seen[batch] < 0, -1, step - last_seen[batch])
        last_seen[batch] = step
    return gaps.reshape(images.shape)


def loss_since_seen(run, differences, bins=10):
    """Return the loss of an image, minus the control's, by the steps since it was last seen.

    It is a DataFrame with a row for each of at most `bins` bins with as many images each: steps,
    the mean over images, and the half-width of its 95 % interval. `differences` are the losses of
    `run` minus those of its control, float (epochs, steps, batch size).

    All images of a step share its weights, and weights drift. So the mean difference of each step
    is subtracted first, and what is left compares images within a step. Raises SubmissionError if
    all images of each step were last seen in one step, as with the same or the reversed order of
    images: then nothing can be compared.
    """
    frame = differences_since_seen(run, differences)
    if not frame.groupby("step").gap.nunique().gt(1).any():
        raise SubmissionError(
            f"in the run {run.name} all images of a step were last seen in one step: images of a "
            "step cannot be compared by it"
        )
    frame["bin"] = pd.qcut(frame.gap, bins, labels=False, duplicates="drop")
    groups = frame.groupby("bin")
    return pd.DataFrame({
        "steps": groups.gap.mean(),
        "mean": groups.centred_difference.mean(),
        "interval": NORMAL_QUANTILE * groups.centred_difference.sem(),
    })


def slope_since_seen(run, differences):
    """Return how much the loss of an image grows for each epoch that has passed since it was seen.

    A dict: "slope" in nats, and "slope_interval", the half-width of its 95 % interval. It is empty
    if images of a step cannot be compared; see `loss_since_seen`, also for the arguments. The slope
    is that of a line through the images of each step, the same for all steps: their losses, minus
    the control's, by the epochs since each was last seen. The interval is that of the jackknife
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11): the slope is
    computed without each block of steps in turn.
    """
    frame = differences_since_seen(run, differences)
    steps_per_epoch = differences.shape[1]
    blocks = frame.step // max(1, steps_per_epoch // BLOCKS)
    products = (frame.centred_gap * frame.centred_difference).groupby(blocks).sum().to_numpy()
    squares = (frame.centred_gap**2).groupby(blocks).sum().to_numpy()
    if np.count_nonzero(squares) < 2:
        return {}
    slope = steps_per_epoch * products.sum() / squares.sum()
    without_block = (products.sum() - products) / (squares.sum() - squares)
    blocks_left = len(products) - 1
    variance = blocks_left * np.var(steps_per_epoch * without_block)
    quantile = stats.t.ppf(0.975, blocks_left)
    return {"slope": float(slope), "slope_interval": float(quantile * variance**0.5)}


def differences_since_seen(run, differences):
    """Return a DataFrame with a row for each image of a step that had been seen before.

    The columns are step, gap (the steps since it was seen), and both centred_gap and
    centred_difference: the gap and the number in `differences`, float (epochs, steps, batch size),
    minus their means over the images of the step.
    """
    gaps = steps_since_seen(images_by_step(run))
    epochs, steps, _ = gaps.shape
    step = np.arange(epochs * steps).reshape(epochs, steps, 1)
    step = np.broadcast_to(step, gaps.shape)
    seen = gaps > 0
    frame = pd.DataFrame({"step": step[seen], "gap": gaps[seen], "difference": differences[seen]})
    means = frame.groupby("step")[["gap", "difference"]].transform("mean")
    return pd.DataFrame({
        "step": frame.step,
        "gap": frame.gap,
        "centred_gap": frame.gap - means.gap,
        "centred_difference": frame.difference - means.difference,
    })


def differences_from_control(run, control, read):
    """Return the loss of each image minus the control's, float (epochs, steps, batch size).

    `read` returns the losses of a run's images in this shape, or None if they were not stored. The
    result is None without them, and for a control.
    """
    if control is None or control.name == run.name:
        return None
    losses = read(run)
    control_losses = read(control)
    if losses is None or control_losses is None:
        return None
    return losses - control_losses[:len(losses)]  # a control may have more epochs
