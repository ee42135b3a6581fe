"""The networks of the study: the submission's, and variants of it with one thing changed."""
import functools

import torch
from torch import nn

from tools.notebook_definitions import NOTEBOOK, load_definitions


@functools.cache
def submission_classes():
    """Return the classes `ResNet` and `ResidualBlock` that the submission's notebook defines."""
    names = load_definitions(NOTEBOOK)
    return names["ResNet"], names["ResidualBlock"]


def submission_network():
    """Return the network of the submission, freshly initialised."""
    resnet, _ = submission_classes()
    return resnet()


def residual_blocks(network):
    """Return the residual blocks of the submission's network, from input to output: a list."""
    _, block = submission_classes()
    return [module for module in network.modules() if isinstance(module, block)]


def unscaled_branches():
    """Return the network without zero-initialised branches.

    γ, the scale of the last batch normalisation of each block, starts at 1 and not at 0.
    """
    network = submission_network()
    for block in residual_blocks(network):
        nn.init.ones_(block.bn3.weight)
    return network


class NoShortcut(nn.Module):
    """A shortcut that passes nothing on."""

    def forward(self, x):
        """Return zero, a scalar of the type of `x`."""
        return torch.zeros((), dtype=x.dtype, device=x.device)


def without_shortcuts():
    """Return a plain network: each block is its branch alone.

    Its branches start with γ = 1, since blocks that start at 0 would pass nothing on; compare it
    with `unscaled_branches`.
    """
    network = unscaled_branches()
    for block in residual_blocks(network):
        block.shortcut = NoShortcut()
    return network


def projections_everywhere():
    """Return the network with a projection as the shortcut of every block.

    A projection is a 1×1 convolution with batch normalisation.
    """
    network = submission_network()
    for block in residual_blocks(network):
        if isinstance(block.shortcut, nn.Identity):
            in_channels = block.conv1.in_channels
            out_channels = block.conv3.out_channels
            projection = nn.Conv2d(in_channels, out_channels, 1, block.conv1.stride)
            block.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    return network


def small_stem():
    """Return the network with a 3×3 stem of stride 1 without pooling, in place of the 7×7 one.

    Its first block sees 32×32 positions, not 8×8.
    """
    network = submission_network()
    convolution = nn.Conv2d(3, 64, 3, padding=1)
    network.layer1 = nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU())
    return network
