"""The network of the course's starter code, rebuilt from public copies of the course's material.

It follows the assignment's table of layers, as ours does, but its blocks are not those of He et al.
(2016): each has a projection, and a ReLU on branch and shortcut before the addition, none after it.
"""
import torch
from torch import nn


def conv_bn_relu(in_channels, out_channels, kernel_size, stride=1, padding=0):
    """Return convolution with bias, batch normalisation and ReLU as one module.

    (N, in_channels, H, W) -> (N, out_channels, H', W').
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class CourseBlock(nn.Module):
    """Bottleneck with a projection: (N, in_channels, H, W) -> (N, out_channels, H, W).

    With down-sampling, width and height are halved.
    """

    def __init__(self, in_channels, middle_channels, out_channels, downsample=False):
        super().__init__()
        stride = 2 if downsample else 1
        self.branch = nn.Sequential(
            conv_bn_relu(in_channels, middle_channels, 1, stride),
            conv_bn_relu(middle_channels, middle_channels, 3, padding=1),
            conv_bn_relu(middle_channels, out_channels, 1),
        )
        self.shortcut = conv_bn_relu(in_channels, out_channels, 1, stride)

    def forward(self, x):
        """Return the sum of branch and shortcut."""
        return self.branch(x) + self.shortcut(x)


class CourseNetwork(nn.Module):
    """Images (N, 3, 32, 32) -> logits (N, 10), with 14,750,730 parameters.

    Weights are drawn Xavier-uniform (Glorot and Bengio 2010).
    """

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(
            conv_bn_relu(3, 64, 7, stride=2, padding=3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.layer2 = nn.Sequential(
            CourseBlock(64, 64, 256),
            CourseBlock(256, 64, 256),
            CourseBlock(256, 64, 256, downsample=True),
        )
        self.layer3 = nn.Sequential(
            CourseBlock(256, 128, 512),
            CourseBlock(512, 128, 512),
            CourseBlock(512, 128, 512),
            CourseBlock(512, 128, 512, downsample=True),
        )
        self.layer4 = nn.Sequential(
            CourseBlock(512, 256, 1024),
            *(CourseBlock(1024, 256, 1024) for _ in range(5)),
        )
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(1024, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, x):
        """Return logits (N, 10) of normalised images (N, 3, 32, 32)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.pool(x), 1))
