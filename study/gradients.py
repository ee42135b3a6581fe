"""The gradient of the loss at the input of each residual block of a network at initialisation."""
import numpy as np
import torch
from torch.nn import functional

from study.networks import residual_blocks


def gradient_norms(network, images, labels):
    """Return the norm of the gradient of the loss at each block's input, first block first: a list.

    `images` are normalised, float32 (N, 3, 32, 32), `labels` int64 (N,). The network is in training
    mode, as at the first step.
    """
    inputs = []

    def keep_input(module, arguments):
        argument, = arguments
        if not argument.requires_grad:
            argument.requires_grad_()
        argument.retain_grad()
        inputs.append(argument)

    blocks = residual_blocks(network)
    hooks = [block.register_forward_pre_hook(keep_input) for block in blocks]
    network.train()
    loss = functional.cross_entropy(network(images), labels)
    loss.backward()
    for hook in hooks:
        hook.remove()
    return [argument.grad.norm().item() for argument in inputs]


def mean_gradient_norms(make_network, images, labels, seeds=range(5)):
    """Return the geometric means of `gradient_norms` over freshly initialised networks: a list.

    `make_network` is a function without arguments; it is called once for each of the `seeds`.
    """
    norms = []
    for seed in seeds:
        torch.manual_seed(seed)
        norms.append(gradient_norms(make_network(), images, labels))
    return np.exp(np.log(norms).mean(0)).tolist()
