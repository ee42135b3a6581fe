"""The losses of single images in training, by the steps since the network last saw the image."""
import numpy as np
import pandas as pd
from safetensors.torch import load_file

import training
from analysis.run_statistics import BLOCKS, NORMAL_QUANTILE, interval_of_mean
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
    """Return the loss of each image in each step, float64 (epochs, steps, batch size)."""
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
    frame["difference"] -= frame.groupby("step").difference.transform("mean")
    frame["bin"] = pd.qcut(frame.gap, bins, labels=False, duplicates="drop")
    groups = frame.groupby("bin")
    return pd.DataFrame({
        "steps": groups.gap.mean(),
        "mean": groups.difference.mean(),
        "interval": NORMAL_QUANTILE * groups.difference.sem(),
    })


def slope_since_seen(run, differences):
    """Return how much the loss of an image grows for each epoch that has passed since it was seen.

    A dict: "slope" in nats, and "slope_interval", the half-width of its 95 % interval, from blocks
    of steps. It is empty if images of a step cannot be compared; see `loss_since_seen`, also for
    the arguments. The slope is that of a line through the images of a step: their losses, minus the
    control's, by the epochs since each was last seen.
    """
    frame = differences_since_seen(run, differences)
    centred = frame - frame.groupby("step").transform("mean")
    steps_per_epoch = differences.shape[1]
    blocks = frame.step // max(1, steps_per_epoch // BLOCKS)
    products = (centred.gap * centred.difference).groupby(blocks).sum()
    squares = (centred.gap**2).groupby(blocks).sum()
    if not (squares > 0).all():
        return {}
    slopes = steps_per_epoch * products / squares
    return {"slope": float(slopes.mean()), "slope_interval": interval_of_mean(slopes.to_list())}


def differences_since_seen(run, differences):
    """Return a DataFrame with a row for each image of a step that had been seen before.

    The columns are step, gap (the steps since it was seen) and difference, of `differences`, float
    (epochs, steps, batch size).
    """
    gaps = steps_since_seen(images_by_step(run))
    epochs, steps, _ = gaps.shape
    step = np.arange(epochs * steps).reshape(epochs, steps, 1)
    step = np.broadcast_to(step, gaps.shape)
    seen = gaps > 0
    return pd.DataFrame({"step": step[seen], "gap": gaps[seen], "difference": differences[seen]})
