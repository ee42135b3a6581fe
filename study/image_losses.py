"""What only the study computes: the loss of an image since it was last seen, and gradients at initialisation."""
import dataclasses

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import training
from study.networks import residual_blocks
from training import Recipe
from utils import SubmissionError


def recipe_of(run):
    """The Recipe that a run was trained by."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    return Recipe(**{name: run.info["config"][name] for name in names if name in run.info["config"]})


def images_by_step(run):
    """The number of the image at each place of each batch, int64 (epochs, steps, batch size)."""
    recipe = recipe_of(run)
    steps = run.info["train_images"] // recipe.batch_size
    used = steps * recipe.batch_size
    orders = [training.image_order(recipe, run.info["train_images"], epoch)[0][:used] for epoch in range(recipe.epochs)]
    return np.stack(orders).reshape(recipe.epochs, steps, recipe.batch_size)


def image_losses(run):
    """The loss of each image in each step, float64 (epochs, steps, batch size)."""
    losses = load_file(run.folder / "image_losses.safetensors")["image_losses"].double().numpy()
    return losses.reshape(len(run.history), -1, losses.shape[1])


def steps_since_seen(images):
    """The number of steps since each image was last in a batch, for images (epochs, steps, batch size), flattened over
    all steps; -1 where it had not been seen before. Of an image twice in a batch neither has seen the other.
    """
    batches = images.reshape(-1, images.shape[-1])
    last_seen = np.full(images.max() + 1, -1)
    gaps = np.empty(batches.shape, int)
    for step, batch in enumerate(batches):
        gaps[step] = np.where(last_seen[batch] < 0, -1, step - last_seen[batch])
        last_seen[batch] = step
    return gaps.reshape(images.shape)


def loss_since_seen(run, control, bins=10):
    """The loss of an image minus the control's for the same image, against the steps since it was last seen.

    All images of a step share its weights, and weights drift. So each step's mean difference is subtracted first: what
    is left compares images within a step. Where all images of a step were last seen in one step, as with the same or
    the reversed order, nothing can be said; SubmissionError then.

    A DataFrame with a row for each of at most `bins` bins with as many images each: steps, the mean of what is left,
    and half its 95 % interval over images.
    """
    gaps = steps_since_seen(images_by_step(run))
    differences = image_losses(run) - image_losses(control)
    seen = gaps > 0
    step = np.broadcast_to(np.arange(gaps[..., 0].size).reshape(*gaps.shape[:2], 1), gaps.shape)
    frame = pd.DataFrame({"step": step[seen], "gap": gaps[seen], "difference": differences[seen]})
    if not frame.groupby("step").gap.nunique().gt(1).any():
        raise SubmissionError(f"in the run {run.name} all images of a step were last seen in one step")
    frame["difference"] -= frame.groupby("step").difference.transform("mean")
    frame["bin"] = pd.qcut(frame.gap, bins, labels=False, duplicates="drop")
    groups = frame.groupby("bin")
    return pd.DataFrame({
        "steps": groups.gap.mean(),
        "mean": groups.difference.mean(),
        "interval": 1.96 * groups.difference.sem(),
    })


def gradient_norms(network, images, labels):
    """The norm of the loss's gradient with respect to the input of each residual block, first block first: a list.

    `images` are normalised float32 (N, 3, 32, 32); the network is in training mode, as at the first step.
    """
    inputs = []

    def keep(module, arguments):
        argument, = arguments
        if not argument.requires_grad:
            argument.requires_grad_()
        argument.retain_grad()
        inputs.append(argument)
    hooks = [block.register_forward_pre_hook(keep) for block in residual_blocks(network)]
    F.cross_entropy(network.train()(images), labels).backward()
    for hook in hooks:
        hook.remove()
    return [argument.grad.norm().item() for argument in inputs]


def mean_gradient_norms(make_network, images, labels, seeds=range(5)):
    """The geometric mean of `gradient_norms` over freshly initialised networks, one for each seed: a list."""
    norms = []
    for seed in seeds:
        torch.manual_seed(seed)
        norms.append(gradient_norms(make_network(), images, labels))
    return np.exp(np.log(norms).mean(0)).tolist()
