"""What training owes its speed to, beside the loop in training.py: filters' gradients on a CPU, Muon, memory."""
import contextlib
import ctypes
import itertools

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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


class FilterMuon(torch.optim.Muon):
    """Muon (Jordan et al. 2024: each update of a matrix is made orthogonal) on filters (out, in, height, width).

    torch.optim.Muon takes matrices alone: it gets views (out, height × width × in) of the filters and of their
    gradients, which share their memory. Updates have the size of Adam's (Liu et al. 2025), so that one learning rate
    serves both. As with the fused optimisers, nothing changes in a step at which `found_inf` is 1.
    """

    def __init__(self, filters, **settings):
        def matrix(tensor):
            return tensor.permute(0, 2, 3, 1).view(len(tensor), -1)  # channels_last: channels are innermost
        super().__init__([torch.nn.Parameter(matrix(f.detach())) for f in filters],
                         adjust_lr_fn="match_rms_adamw", **settings)
        for view, f in zip(self.param_groups[0]["params"], filters):
            f.grad = torch.zeros_like(f)
            view.grad = matrix(f.grad)
        self.found_inf = torch.zeros((), device=filters[0].device)

    def zero_grad(self, set_to_none=False):
        super().zero_grad(set_to_none=False)  # the gradients have to stay where the views look

    @torch.no_grad()
    def step(self, closure=None):
        if self.found_inf.is_cpu:  # nothing to wait for
            return None if self.found_inf else super().step(closure)
        kept = [t for p in self.param_groups[0]["params"] for t in (p, *self.state[p].values())]
        before = [t.clone() for t in kept]
        super().step(closure)
        for now, old in zip(kept, before):
            torch.where(self.found_inf > 0, old, now, out=now)


def keep_freed_memory():
    """Have glibc keep what is freed: given back, each step's tensors cost thousands of page faults anew (on a CPU)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
        mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD: the heap is not trimmed
