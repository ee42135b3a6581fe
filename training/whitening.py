"""Stem initialisation by principal components of image patches, after Jordan's airbench.

A recipe calls it `first_filters="whitening"`, the name of the layer in airbench.
"""
import torch
from torch import nn


@torch.no_grad()
def whiten_first_filters(model, data, normalisation, images=2_000):
    """Set the first convolution's filters to principal components of image patches, in place.

    The filters become the largest principal components, once with either sign, in the mean length
    of PyTorch's initial filters; the batch norm after them gives each its size. Filters for which
    no component is left stay random. A network without a convolution stays as it is.

    Args:
        model: the freshly initialised network.
        data: a utils.Data.
        normalisation: means and standard deviations of the channels in [0, 1].
        images: how many of the first training images the patches come from.
    """
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    layer = next(convolutions, None)
    if layer is None:
        return
    components = _principal_components(data.train_images[:images], normalisation, layer.kernel_size)
    half = min(layer.out_channels // 2, len(components))
    filters = components[:half].view(-1, *layer.weight.shape[1:])
    length = layer.weight.flatten(1).norm(dim=1).mean()
    layer.weight[:2 * half] = torch.cat([filters, -filters]) * length


def _principal_components(images, normalisation, kernel_size):
    """Unit vectors (D, D), the largest component first, D = 3 × height × width of a patch."""
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in normalisation)
    patches = nn.functional.unfold((images / 255 - mean) / std, kernel_size, stride=4)
    patches = patches.transpose(1, 2).flatten(0, 1)
    _, components = torch.linalg.eigh(patches.T @ patches)  # in columns, the smallest first
    return components.flip(1).T
