"""The networks of the study: the submission's, variants of it with one thing changed, and the course's."""
import functools

import torch
from torch import nn

from tools.notebook_definitions import NOTEBOOK, load_definitions


@functools.cache
def submission_classes():
    """The classes `ResNet` and `ResidualBlock` that the submission's notebook defines."""
    names = load_definitions(NOTEBOOK)
    return names["ResNet"], names["ResidualBlock"]


def submission_network():
    """The network of the submission, freshly initialised."""
    resnet, _ = submission_classes()
    return resnet()


def residual_blocks(network):
    """The residual blocks of the submission's network, from input to output: a list."""
    _, block = submission_classes()
    return [module for module in network.modules() if isinstance(module, block)]


def unscaled_branches():
    """No zero-initialised branches: the scale of each block's last batch normalisation starts at 1, not at 0."""
    network = submission_network()
    for block in residual_blocks(network):
        nn.init.ones_(block.bn3.weight)
    return network


class NoShortcut(nn.Module):
    """A shortcut that carries nothing."""

    def forward(self, x):
        return torch.zeros((), dtype=x.dtype, device=x.device)


def without_shortcuts():
    """A plain network: each block is its branch alone.

    Its branches start with scale 1, since blocks that start at 0 would pass nothing on; it is to be compared with
    `unscaled_branches`.
    """
    network = unscaled_branches()
    for block in residual_blocks(network):
        block.shortcut = NoShortcut()
    return network


def projections_everywhere():
    """A projection, 1×1 convolution and batch normalisation, as the shortcut of every block."""
    network = submission_network()
    for block in residual_blocks(network):
        if isinstance(block.shortcut, nn.Identity):
            convolution = nn.Conv2d(block.conv1.in_channels, block.conv3.out_channels, 1, block.conv1.stride)
            block.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(block.conv3.out_channels))
    return network


def small_stem():
    """A 3×3 convolution with stride 1 and no pooling in place of the 7×7 stem: blocks see 32×32 positions, not 8×8."""
    network = submission_network()
    network.layer1 = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
    return network


