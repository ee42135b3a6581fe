"""Detects memorised test images, by evaluating networks on images that nobody can have stored.

Definitions or weights can hold a table from test images to labels. A change that no honest network
notices, drawn anew for each verdict, misses the table; training images are not in it.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from grading.findings import Finding

MOST_IMAGES = 1_000  # of each kind
GREY_LEVELS = 2  # by which a pixel changes at most
CERTAIN = 4  # standard errors by which a drop exceeds its bound before it proves anything

# Points by which an honest network's accuracy may drop. Measured on 2,000 images: bottleneck
# networks of 82 and 91 % lost up to 0.2 by noise, 0.6 by noise and a shift, none in the mirror; a
# small convolutional network that has overfitted 5,000 images without augmentation 0.4, 2.6 and
# 1.0; all were better on training images.
MOST_DROPS = {"noise": 4.0, "shift": 12.0, "mirror": 15.0, "training": 4.0}
CHANGES = {
    "noise": f"once each pixel changes by {GREY_LEVELS} of 255 grey levels, which nobody sees",
    "shift": "once each image moves by one pixel",
    "mirror": "of their mirror images",
    "training": "of as many training images, which a network knows better than test images",
}


@dataclass
class Probes:
    """Images on which a network is also evaluated.

    Attributes:
        images: uint8 (3N, 3, 32, 32): test images with noise, moved ones, training images.
        chosen: which test images they are made of, a tensor (N,).
        labels: kind -> the labels, a tensor (N,).
    """

    images: torch.Tensor
    chosen: torch.Tensor
    labels: dict[str, torch.Tensor]


def unpredictable():
    """A random generator with a seed that nobody knows: torch's own starts with a known one."""
    generator = torch.Generator()
    generator.seed()
    return generator


def make_probes(data):
    """The Probes of utils.Data, at random."""
    generator = unpredictable()
    count = min(MOST_IMAGES, len(data.test_labels), len(data.train_labels))
    chosen = torch.randperm(len(data.test_labels), generator=generator)[:count]
    training = torch.randperm(len(data.train_labels), generator=generator)[:count]
    images = data.test_images[chosen]
    probes = [
        add_noise(images, generator),
        add_noise(move(images, generator), generator),
        add_noise(data.train_images[training], generator),
    ]
    labels = data.test_labels[chosen]
    by_kind = {"noise": labels, "shift": labels, "training": data.train_labels[training]}
    return Probes(torch.cat(probes), chosen, by_kind)


def add_noise(images, generator):
    """Images, uint8 (N, 3, 32, 32), with up to GREY_LEVELS more or less in each value."""
    noise = torch.randint(-GREY_LEVELS, GREY_LEVELS + 1, images.shape, generator=generator)
    return (images.int() + noise).clamp(0, 255).byte()


def move(images, generator):
    """Images, uint8 (N, 3, H, W), moved by one pixel to a random side; edges are reflected."""
    height, width = images.shape[2:]
    larger = pad(images.float(), (1, 1, 1, 1), mode="reflect").byte()
    moved = torch.empty_like(images)
    side = torch.randint(4, (len(images),), generator=generator)
    for number, (down, right) in enumerate(((0, 1), (2, 1), (1, 0), (1, 2))):
        moved[side == number] = larger[side == number][
            :, :, down : down + height, right : right + width
        ]
    return moved


def check(run, plain, mirrored, probed, probes, test_labels):
    """A list with the Finding that a network's accuracy is memorised, or an empty one.

    Args:
        run: the run's name.
        plain: probabilities of the test images, a tensor (M, 10).
        mirrored: those of their mirror images.
        probed: those of the probes, (3N, 10).
        probes: the Probes.
        test_labels: a tensor (M,).
    """
    right = (plain.argmax(1) == test_labels).double()
    kinds = {"mirror": (right, (mirrored.argmax(1) == test_labels).double())}
    for part, (kind, labels) in zip(probed.chunk(3), probes.labels.items()):
        kinds[kind] = right[probes.chosen], (part.argmax(1) == labels).double()
    for kind in ("noise", "training", "shift", "mirror"):
        before, after = kinds[kind]
        accuracy_drop = 100 * (before.mean() - after.mean())
        variance = before.var() + after.var()
        error = 100 * (variance / len(after)).sqrt()
        if accuracy_drop <= MOST_DROPS[kind] + CERTAIN * error:
            continue
        message = (
            f"the weights of {run} have memorised the test images: {100 * before.mean():.1f} % of "
            f"them are right, but only {100 * after.mean():.1f} % {CHANGES[kind]}; honest "
            f"networks lose less than {MOST_DROPS[kind]:.0f} points"
        )
        return [Finding("memorisation", "contradicted", message)]
    return []
