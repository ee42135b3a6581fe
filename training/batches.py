"""Batches of training images: their order, normalisation and augmentation, all on the device."""
import numpy as np
import torch

from training.augmentation import PADDING, crop_and_flip, cutmix, pad_images, trivial_augment

# Means and standard deviations of red, green and blue in [0, 1] in the course's training script.
COURSE_NORMALISATION = [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]


def normalisation_of(kind, data):
    """Return means and standard deviations of the three channels in [0, 1]: two lists of 3 floats.

    Args:
        kind: "training set" for the training images' own, "course" for the course's constants.
        data: a utils.Data.
    """
    if kind == "course":
        return COURSE_NORMALISATION
    return data.normalisation()


def image_order(recipe, images, epoch):
    """Return the order of the images in an epoch, int64 (images,), and the epoch's generator.

    The order is one of Recipe.CHOICES["order"]:
    - "permutation": a new permutation in each epoch;
    - "same": the first epoch's permutation in all epochs;
    - "reversed": each epoch runs through the images in the reverse order of the last;
    - "with replacement": each image is drawn from all.

    Args:
        recipe: a Recipe.
        images: how many there are.
        epoch: counted from 0.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    order = rng.permutation(images)  # always drawn: crops and flips come from the same generator
    if recipe.order == "with replacement":
        # The same stream as (seed, epoch), since NumPy ignores zeros at the end. Stored runs depend
        # on it.
        order = np.random.default_rng((recipe.seed, epoch, 0)).integers(0, images, images)
    elif recipe.order in ("same", "reversed"):
        order = np.random.default_rng((recipe.seed, 0)).permutation(images)
        if recipe.order == "reversed" and epoch % 2:
            order = order[::-1].copy()
    return order, rng


class Batches:
    """The training images on the device, padded once; batches are augmented there.

    Every random number derives from (seed, epoch, step) on the CPU, so each device sees the same
    batches in the same order. Images that do not fill a batch sit the epoch out.
    """

    def __init__(self, data, recipe, device):
        self.recipe = recipe
        self.device = device
        self.kinds = recipe.augmentation.split()
        self.labels = data.train_labels.to(device)
        self.images = pad_images(data.train_images, recipe.pad_with).to(device)
        self.size = data.train_images.shape[-1]
        self.steps = len(self.labels) // recipe.batch_size
        mean, std = normalisation_of(recipe.normalisation, data)
        self.mean = self._grey_levels(mean)
        self.std = self._grey_levels(std)

    def _grey_levels(self, channels):
        """Three values in [0, 1] as grey levels, (3, 1, 1) on the device."""
        return 255 * torch.tensor(channels, device=self.device).view(3, 1, 1)

    def start_epoch(self, epoch):
        """Draw the order of the epoch's images, their crops and flips."""
        n = len(self.labels)
        order, rng = image_order(self.recipe, n, epoch)
        if "crop" in self.kinds:
            corners = rng.integers(0, 2 * PADDING + 1, (2, n))
        else:
            corners = np.full((2, n), PADDING)
        if "flip" in self.kinds:
            flips = rng.random(n) < 0.5
        else:
            flips = np.zeros(n, bool)
        self.epoch = epoch
        self.order = torch.from_numpy(order).to(self.device)
        self.corners = torch.from_numpy(corners).to(self.device)
        self.flips = torch.from_numpy(flips).to(self.device)

    def batch(self, step):
        """Return batch `step` of the epoch: images, labels, mixed_labels, lam.

        CutMix changes each batch with probability 0.5; TrivialAugment changes every batch that
        CutMix has not changed. `start_epoch` comes first.

        Returns:
            images: float32 (B, 3, H, W), normalised.
            labels: int64 (B,).
            mixed_labels: int64 (B,), those of the images that CutMix pastes in; else `labels`.
            lam: the weight of `labels` in the loss, a float; 1 without CutMix.
        """
        first = step * self.recipe.batch_size
        part = slice(first, first + self.recipe.batch_size)
        rng = np.random.default_rng((self.recipe.seed, self.epoch, step))
        mixed = "cutmix" in self.kinds and rng.random() < 0.5

        index = self.order[part]
        labels = self.labels[index]
        images = crop_and_flip(
            self.images, index, self.corners[:, part], self.flips[part], self.size
        )
        if "trivialaugment" in self.kinds and not mixed:
            images = trivial_augment(images, rng, self.mean)
        images = (images - self.mean) / self.std
        if not mixed:
            return images, labels, labels, 1.0
        images, mixed_labels, lam = cutmix(images, labels, rng)
        return images, labels, mixed_labels, lam
