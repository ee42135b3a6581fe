"""Performance: CUDA graphs, gradients of convolutions by matrix products, and memory."""
import contextlib
import ctypes
import itertools
import random

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from training.console import print_line

WARM_UP_CALLS = 3  # before a function is recorded: libraries choose algorithms, buffers are made


class CudaGraph:
    """A function of tensors on a GPU, recorded as a CUDA graph in its fourth call, then replayed.

    The assignment's network takes some thousand kernels a step, each a few microseconds long.
    Started one by one from Python, they leave a fast GPU idle for nine tenths of the time.

    What Python itself does in the function happens only when it is recorded. A function is never
    recorded if it draws random numbers on the host or waits for a value from the GPU: each call is
    then computed anew. Shapes and dtypes must stay the same.
    """

    def __init__(self, function):
        self.function = function
        self.calls = 0
        self.graph = None
        self.can_be_recorded = True
        self.stream = torch.cuda.Stream()

    def __call__(self, *tensors):
        """Return the function's output for `tensors`, one tensor of its own memory."""
        if self.graph is None and self.can_be_recorded and self.calls == WARM_UP_CALLS:
            self._record(tensors)
        self.calls += 1
        if self.graph is None:
            return self._call_function(tensors)
        torch._foreach_copy_(self.inputs, tensors)
        self.graph.replay()
        return self.outputs.clone()

    def _record(self, tensors):
        """Record the function, which computes nothing yet."""
        self.inputs = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.outputs = self.function(*self.inputs)
        except RuntimeError as error:
            self.can_be_recorded = False
            reason = str(error).splitlines()[0]
            print_line(
                f"training is slower: its steps cannot be recorded as a CUDA graph ({reason})"
            )
            return
        self.graph = graph

    def _call_function(self, tensors):
        """Compute the function on a stream of its own, as recording needs it."""
        before = _random_states()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(*tensors)
        torch.cuda.current_stream().wait_stream(self.stream)
        if _random_states() != before:
            self.can_be_recorded = False
        return outputs


def _random_states():
    """The states of the host's random generators, for comparison."""
    numpy_state = np.random.get_state()[1].tobytes()
    torch_state = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), numpy_state, torch_state


class _MatmulConvolution(torch.autograd.Function):
    """conv2d of images (N, in, H, W); a matrix product per filter pixel gives its gradient."""

    @staticmethod
    def forward(ctx, images, filters, bias, stride, padding):
        ctx.save_for_backward(images, filters)
        ctx.stride = stride
        ctx.padding = padding
        return nn.functional.conv2d(images, filters, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad_output):
        images, filters = ctx.saved_tensors
        # PyTorch's own gradient of the images alone.
        grad_images, _, _ = torch.ops.aten.convolution_backward(
            grad_output, images, filters, None, ctx.stride, ctx.padding,
            (1, 1), False, (0, 0), 1, (True, False, False),
        )
        rows = grad_output.permute(0, 2, 3, 1).flatten(0, 2)  # channels_last: no copy
        grad_filters = _filter_gradient(images, filters, rows, grad_output.shape[2:], ctx)
        return grad_images, grad_filters, rows.sum(0), None, None


def _filter_gradient(images, filters, rows, output_size, ctx):
    """The gradient of `filters`; `rows` is the output's gradient, (positions, out channels)."""
    row_stride, column_stride = ctx.stride
    row_padding, column_padding = ctx.padding
    if row_padding or column_padding:
        border = (column_padding, column_padding, row_padding, row_padding)
        images = nn.functional.pad(images, border)
    height = row_stride * output_size[0]
    width = column_stride * output_size[1]
    gradient = torch.empty_like(filters)
    for i, j in itertools.product(range(filters.shape[2]), range(filters.shape[3])):
        # What pixel (i, j) of the filters is multiplied by, position by position.
        window = images[:, :, i:i + height:row_stride, j:j + width:column_stride]
        gradient[:, :, i, j] = rows.T @ window.permute(0, 2, 3, 1).flatten(0, 2)
    return gradient


class MatmulConvGradients(TorchFunctionMode):
    """Within this context nn.Conv2d layers compute their filters' gradients by matrix products.

    For CPUs: oneDNN's own way took half of a training step of the assignment's network on a
    processor with AMX. Layers with groups, dilation or without bias are left to PyTorch, and so is
    the first layer, where PyTorch's way is as fast.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch.conv2d or len(args) != 7:  # as nn.Conv2d calls it
            return function(*args, **(kwargs or {}))
        images, filters, bias, stride, padding, dilation, groups = args
        supported = bias is not None and dilation == (1, 1) and groups == 1
        if not supported or isinstance(padding, str) or not images.requires_grad:
            return function(*args)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        else:
            dtype = filters.dtype
        return _MatmulConvolution.apply(
            images.to(dtype), filters.to(dtype), bias.to(dtype), stride, padding
        )


def keep_freed_memory():
    """Have glibc keep freed memory for the next step; other systems are left as they are.

    Given back to the system, each step's tensors cost thousands of page faults anew on a CPU.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)  # no allocation gets a mapping of its own
        mallopt(trim_threshold, 2 ** 31 - 1)  # the heap is not trimmed
