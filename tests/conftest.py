import pytest
import torch
from torch import nn

import utils
from tools.project_files import ROOT  # noqa: F401 (tests import it from here)


def tiny(seed=0):
    """A network of the same layers as the assignment's, small enough to train in seconds."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * 49, 10))


@pytest.fixture(scope="session")
def digits():
    return utils._load_digits()
