"""What changes training images: padding, crop and flip, TrivialAugment, CutMix, by batch."""
import math

import numpy as np
import torch
from torch import nn
from torchvision.transforms.v2 import functional as transforms

PADDING = 4  # pixels on each side of an image before a crop


# ------------------------------------------------------------------------------ crop and flip

def pad_images(images, mode):
    """Return uint8 `images` (N, C, H, W) with PADDING more pixels on each side.

    Args:
        images: uint8 (N, C, H, W), with H = W.
        mode: "zeros" or "reflection".
    """
    if mode == "zeros":
        return nn.functional.pad(images, [PADDING] * 4)
    size = images.shape[-1]
    last = size - 1
    position = torch.arange(-PADDING, size + PADDING).abs()  # reflected at the first pixel
    source = last - (last - position).abs()  # and at the last one
    return images[:, :, source[:, None], source]


def crop_and_flip(images, index, corners, flips, size):
    """Return windows of padded images, (B, C, size, size), mirrored where `flips` says so.

    One look-up does it all, so that no intermediate batch is made.

    Args:
        images: padded images (N, C, H, W).
        index: which images, int64 (B,).
        corners: the first row and the first column of each window, int64 (2, B).
        flips: whether a window is mirrored left to right, bool (B,).
        size: height and width of a window in pixels.
    """
    device = images.device
    across = torch.arange(size, device=device)
    channels = torch.arange(images.shape[1], device=device)
    top, left = corners[:, :, None]
    rows = top + across
    columns = left + torch.where(flips[:, None], across.flip(0), across)
    return images[
        index[:, None, None, None],
        channels[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


# ------------------------------------------------------------------------------ TrivialAugment

def _affine(xx, xy, x, yx, yy, y):
    """Matrices (B, 2, 3) that map an output position to an input position, from six columns."""
    columns = np.broadcast_arrays(xx, xy, x, yx, yy, y)
    return np.stack(columns, 1).reshape(-1, 2, 3)


def _rotation(strength, shift):
    angle = 0.75 * np.pi * strength
    cos, sin = np.cos(angle), np.sin(angle)
    return _affine(cos, -sin, 0, sin, cos, 0)


# Operations that move pixels: name -> a function of strengths in [-1, 1], (B,), and of the largest
# shift in units of half an image. They are put together into one resampling.
GEOMETRIC_OPERATIONS = {
    "shear x": lambda strength, shift: _affine(1, 0.99 * strength, 0, 0, 1, 0),
    "shear y": lambda strength, shift: _affine(1, 0, 0, 0.99 * strength, 1, 0),
    "translate x": lambda strength, shift: _affine(1, 0, shift * strength, 0, 1, 0),
    "translate y": lambda strength, shift: _affine(1, 0, 0, 0, 1, shift * strength),
    "rotate": _rotation,
}
# Operations that change colours: name -> a function of uint8 images and a level.
COLOUR_OPERATIONS = {
    "brightness": transforms.adjust_brightness,
    "saturation": transforms.adjust_saturation,
    "contrast": transforms.adjust_contrast,
    "sharpness": transforms.adjust_sharpness,
    "posterize": transforms.posterize,
    "solarize": transforms.solarize,
    "autocontrast": lambda images, level: transforms.autocontrast(images),
    "equalize": lambda images, level: transforms.equalize(images),
}
# In the order in which an operation is drawn: stored runs depend on it.
OPERATIONS = np.array([*GEOMETRIC_OPERATIONS, "identity", *COLOUR_OPERATIONS])
LARGEST_SHIFT = 32  # pixels


def trivial_augment(images, rng, fill):
    """Return `images`, each changed by one operation of random kind and strength.

    This is TrivialAugment in its wide version (Müller and Hutter 2021). Images of a batch that get
    the same colour operation share its level.

    Args:
        images: uint8 (B, 3, H, W).
        rng: a NumPy generator.
        fill: what lies beyond the edges, (3, 1, 1) in grey levels.
    """
    names = OPERATIONS[rng.integers(len(OPERATIONS), size=len(images))]
    strengths = rng.uniform(-1, 1, len(images))
    images = _move_pixels(images, names, strengths, fill)
    levels = _draw_levels(rng)
    for name, operation in COLOUR_OPERATIONS.items():
        chosen = torch.from_numpy(np.flatnonzero(names == name)).to(images.device)
        if len(chosen):
            images[chosen] = operation(images[chosen], levels.get(name))
    return images


def _move_pixels(images, names, strengths, fill):
    """The images after their geometric operations; others come out exactly as they are."""
    shift = 2 * LARGEST_SHIFT / images.shape[-1]
    matrices = np.tile(np.eye(2, 3), (len(images), 1, 1))
    for name, operation in GEOMETRIC_OPERATIONS.items():
        chosen = (names == name)[:, None, None]
        matrices = np.where(chosen, operation(strengths, shift), matrices)
    matrices = torch.from_numpy(matrices.astype(np.float32)).to(images.device)
    grid = nn.functional.affine_grid(matrices, images.shape, align_corners=False)
    moved = nn.functional.grid_sample(images - fill, grid, align_corners=False) + fill
    return moved.round().byte()


def _draw_levels(rng):
    """The levels of a batch's colour operations, by name; two operations have none."""
    brightness, saturation, contrast, sharpness = rng.uniform(0.01, 1.99, 4)
    return {
        "brightness": brightness,
        "saturation": saturation,
        "contrast": contrast,
        "sharpness": sharpness,
        "posterize": int(rng.integers(2, 9)),  # bits that are kept
        "solarize": float(rng.uniform(0, 255)),  # grey level above which colours are inverted
    }


# -------------------------------------------------------------------------------------- CutMix

def cutmix(images, labels, rng):
    """Paste a rectangle of another image into each image; CutMix (Yun et al. 2019).

    The other image is the one before it in the batch. The rectangle's area is uniform in [0, 1],
    and it is cut off at the image's edges.

    Args:
        images: (B, C, H, W), changed in place.
        labels: int64 (B,).
        rng: a NumPy generator.

    Returns:
        images; mixed_labels, the other images' labels, int64 (B,); lam, the weight of an image's
        own label, a float.
    """
    size = images.shape[-1]
    half = size * math.sqrt(rng.random()) / 2
    centre = size * rng.random(2)
    top, left = _round_within(centre - half, size)
    bottom, right = _round_within(centre + half, size)
    images[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    area = (bottom - top) * (right - left) / size ** 2
    return images, labels.roll(1, 0), float(1 - area)


def _round_within(position, size):
    """Whole pixels from 0 to `size`."""
    return np.clip(np.rint(position), 0, size).astype(int)
