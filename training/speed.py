"""What training owes its speed to, beside the loop in training.py: CUDA graphs, a CPU's gradients, Muon, memory."""
import contextlib
import ctypes
import itertools
import random

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Graph:
    """A function of tensors on a GPU, recorded as a CUDA graph in its fourth call and replayed from then on.

    The assignment's network takes some thousand kernels a step, each a few microseconds long: started one by one from
    Python, they leave a fast GPU idle for nine tenths of the time. What Python itself does in the function happens once
    only; where it draws random numbers on the host, or waits for a value from the GPU, nothing is recorded and each
    call is computed anew. Shapes and dtypes must stay the same.
    """

    def __init__(self, function):
        self.function, self.calls, self.graph, self.stream = function, 0, None, torch.cuda.Stream()

    def __call__(self, *tensors):
        self.calls += 1
        if self.graph is None:
            return self._first_calls(tensors)
        torch._foreach_copy_(self.inputs, tensors)
        self.graph.replay()
        return self.outputs.clone()

    def _first_calls(self, tensors):
        if self.calls == 4:
            self.inputs, graph = [t.clone() for t in tensors], torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    self.outputs = self.function(*self.inputs)
                self.graph = graph
                graph.replay()  # recording computes nothing
                return self.outputs.clone()
            except RuntimeError as error:
                print(f"each step is started from Python, which is slower: {str(error).splitlines()[0]}")
        drawn = _random_states()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(*tensors)
        torch.cuda.current_stream().wait_stream(self.stream)
        if _random_states() != drawn:
            self.calls = 4  # such a function is never recorded
        return outputs


def _random_states():
    """The states of the host's random generators, for comparison."""
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()


class _Convolution(torch.autograd.Function):
    """conv2d of images (N, in, H, W), its filters' gradient a matrix product for each pixel of a filter."""

    @staticmethod
    def forward(ctx, images, filters, bias, stride, padding):
        ctx.save_for_backward(images, filters)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, filters, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad_output):
        images, filters = ctx.saved_tensors
        grad_images, _, _ = torch.ops.aten.convolution_backward(
            grad_output, images, filters, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False))
        (down, across), (below, right) = ctx.stride, ctx.padding
        padded = F.pad(images, (right, right, below, below)) if below or right else images
        height, width = down * grad_output.shape[2], across * grad_output.shape[3]
        rows = grad_output.permute(0, 2, 3, 1).flatten(0, 2)  # channels_last: no copy
        grad_filters = torch.empty_like(filters)
        for i, j in itertools.product(*map(range, filters.shape[2:])):
            window = padded[:, :, i:i + height:down, j:j + width:across]  # what pixel (i, j) of the filters meets
            grad_filters[:, :, i, j] = rows.T @ window.permute(0, 2, 3, 1).flatten(0, 2)
        return grad_images, grad_filters, rows.sum(0), None, None


class ProductGradients(TorchFunctionMode):
    """Within this context nn.Conv2d layers compute their filters' gradients as `_Convolution` does; for CPUs.

    oneDNN's own way took half of a training step of the assignment's network on a processor with AMX.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.conv2d and len(args) == 7:  # as nn.Conv2d calls it
            images, filters, bias, stride, padding, dilation, groups = args
            plain = bias is not None and dilation == (1, 1) and groups == 1 and not isinstance(padding, str)
            if plain and images.requires_grad:  # in the first layer torch's way is good
                dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else filters.dtype
                return _Convolution.apply(images.to(dtype), filters.to(dtype), bias.to(dtype), stride, padding)
        return function(*args, **(kwargs or {}))


class FilterMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on convolutions' filters (out, in, height, width): each update, as a matrix
    (out, in × height × width), is made orthogonal. torch.optim.Muon takes matrices alone, one by one, in bfloat16.

    Updates have the size of Adam's (Liu et al. 2025), so that one learning rate serves both. Filters of one shape are a
    parameter group and are computed as one batch, in `dtype`. As with PyTorch's fused optimisers, a step changes
    nothing where the attribute `found_inf` (a tensor on the device) is 1.
    """

    def __init__(self, filters, momentum, weight_decay, dtype=torch.float32):
        by_shape = itertools.groupby(sorted(filters, key=lambda f: f.shape), key=lambda f: f.shape)
        super().__init__([{"params": list(group)} for _, group in by_shape],
                         {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype, self.found_inf = dtype, torch.zeros((), device=filters[0].device)
        for group in self.param_groups:
            first, *_ = filters = group["params"]
            self.state[first]["momentum_buffer"] = torch.zeros(len(filters), len(first), first[0].numel(),
                                                               device=first.device)

    @torch.no_grad()
    def step(self, closure=None):
        skip = self.found_inf > 0
        for group in self.param_groups:
            filters, decay = group["params"], group["lr"] * group["weight_decay"]
            height, width = filters[0].shape[2:]
            # channels_last: seen so, gradients and filters need no copy
            gradient = torch.stack([f.grad.permute(0, 2, 3, 1).flatten(1) for f in filters])
            buffer = self.state[filters[0]]["momentum_buffer"]
            average = buffer.lerp(gradient, 1 - group["momentum"])
            buffer.copy_(torch.where(skip, buffer, average))
            update = orthogonal(gradient.lerp(average, group["momentum"]).to(self.dtype))  # Nesterov's momentum
            size = group["lr"] * 0.2 * max(update.shape[1:]) ** 0.5
            change = torch.where(skip, 0.0, size * update.float()).unflatten(2, (height, width, -1))
            torch._foreach_mul_(filters, torch.where(skip, 1.0, 1.0 - decay))
            torch._foreach_sub_(filters, [c.permute(0, 3, 1, 2) for c in change])


def orthogonal(matrices, steps=3):
    """The nearest matrices with orthonormal rows or columns, roughly, of `matrices` (n, rows, columns), one by one.

    By Newton and Schulz's iteration with the coefficients of Jordan et al. (2024), which bring singular values near 1
    rather than to it; three steps do for training, as in Jordan's airbench.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if matrices.shape[1] > matrices.shape[2] else X


def keep_freed_memory():
    """Have glibc keep what is freed: given back, each step's tensors cost thousands of page faults anew (on a CPU)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
        mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD: the heap is not trimmed
