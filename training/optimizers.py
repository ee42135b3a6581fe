"""Optimisers: PyTorch's fused ones as a recipe asks for them, and Muon for convolutions."""
import itertools

import torch

# Of the AdamW beside Muon; Recipe.beta2 is that of Adam and AdamW alone.
MUON_ADAMW_BETAS = (0.9, 0.99)


def make_optimizers(model, recipe, dtype=torch.float32):
    """Return the optimisers of `model`: a list; together they hold every parameter that is trained.

    The list holds fused SGD, Adam or AdamW; or Muon for the convolutions' filters and AdamW for
    the rest. Biases and batch norms have no weight decay. It is decoupled with all optimisers.

    Args:
        model: the network, on its device.
        recipe: a Recipe.
        dtype: the number format of the forward pass.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "muon":
        return _make_muon(parameters, recipe, dtype)
    groups = _decay_groups(parameters, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return [_make_sgd(groups, recipe.momentum)]
    # PyTorch's Adam adds the decay to the gradient, which Adam then divides by its size. With the
    # decay decoupled, Adam and AdamW are the same.
    settings = {"betas": (0.9, recipe.beta2), "fused": True, "capturable": True}
    if recipe.optimizer == "adam":
        return [torch.optim.Adam(groups, decoupled_weight_decay=True, **settings)]
    return [torch.optim.AdamW(groups, **settings)]


def _decay_groups(parameters, weight_decay):
    """Two parameter groups: matrices and filters with weight decay, vectors without."""
    decayed = [p for p in parameters if not _is_vector(p)]
    others = [p for p in parameters if _is_vector(p)]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _is_vector(parameter):
    """Whether a parameter is a vector, also one of several dimensions, as a scale (1, C, 1, 1)."""
    if parameter.ndim == 2:
        return False
    return sum(size > 1 for size in parameter.shape) <= 1


class DecoupledSGD(torch.optim.SGD):
    """Fused SGD with Nesterov momentum whose weight decay is decoupled, as AdamW's.

    As with PyTorch's fused optimisers, a step changes nothing if the attribute `found_inf`, a
    tensor on the device, is 1.

    Args:
        groups: parameter groups; the entry "decoupled_weight_decay" is their weight decay.
        momentum: decay of the gradients' running sum.
    """

    def __init__(self, groups, momentum):
        super().__init__(groups, momentum=momentum, nesterov=momentum > 0, fused=True)
        first = next(p for group in self.param_groups for p in group["params"])
        self.found_inf = torch.zeros((), device=first.device)

    @torch.no_grad()
    def step(self, closure=None):
        """Decay the weights, then update them by their gradients; `closure` is not used."""
        for group in self.param_groups:
            if group["decoupled_weight_decay"]:
                factor = 1.0 - group["lr"] * group["decoupled_weight_decay"]
                trained = [p for p in group["params"] if p.grad is not None]
                torch._foreach_mul_(trained, torch.where(self.found_inf > 0, 1.0, factor))
        super().step()


def _make_sgd(groups, momentum):
    for group in groups:
        group["decoupled_weight_decay"] = group.pop("weight_decay")
    sgd = DecoupledSGD(groups, momentum)
    if momentum:
        # PyTorch leaves the buffers uninitialised if a gradient scaler skips the first step.
        for group in groups:
            for p in group["params"]:
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return sgd


def _make_muon(parameters, recipe, dtype):
    filters = [p for p in parameters if p.ndim == 4 and not _is_vector(p)]
    others = [p for p in parameters if p.ndim != 4 or _is_vector(p)]
    optimizers = []
    if filters:
        muon_dtype = torch.float32  # float16's range is too small for its products
        if dtype == torch.bfloat16:
            muon_dtype = torch.bfloat16
        optimizers.append(Muon(filters, recipe.momentum, recipe.weight_decay, muon_dtype))
    groups = _decay_groups(others, recipe.weight_decay)
    adamw = torch.optim.AdamW(groups, betas=MUON_ADAMW_BETAS, fused=True, capturable=True)
    optimizers.append(adamw)
    return optimizers


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for convolutions' filters (out, in, height, width).

    Each update, as a matrix (out, in × height × width), is made orthogonal. Updates have the size
    of Adam's (Liu et al. 2025), so that one learning rate serves both. torch.optim.Muon takes
    matrices alone, one by one, in bfloat16; here the filters of one shape are a parameter group
    and are computed as one batch.

    As with PyTorch's fused optimisers, a step changes nothing if the attribute `found_inf`, a
    tensor on the device, is 1.

    Args:
        filters: parameters of four dimensions.
        momentum: decay of the gradients' running average.
        weight_decay: decoupled, as AdamW's.
        dtype: the number format of the orthogonalisation.
    """

    def __init__(self, filters, momentum, weight_decay, dtype=torch.float32):
        by_shape = itertools.groupby(sorted(filters, key=_shape), key=_shape)
        groups = [{"params": list(group)} for _, group in by_shape]
        settings = {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(groups, settings)
        self.dtype = dtype
        self.found_inf = torch.zeros((), device=filters[0].device)
        for group in self.param_groups:
            # One buffer for a group, kept in the state of its first filter.
            first = group["params"][0]
            shape = len(group["params"]), len(first), first[0].numel()
            self.state[first]["momentum_buffer"] = torch.zeros(shape, device=first.device)

    @torch.no_grad()
    def step(self, closure=None):
        """Update all filters by their gradients; `closure` is not used."""
        for group in self.param_groups:
            self._update(group)

    def _update(self, group):
        """Update the filters of a group; those without a gradient stay as they are."""
        indices = [index for index, f in enumerate(group["params"]) if f.grad is not None]
        if not indices:
            return
        filters = [group["params"][index] for index in indices]
        momentum_of_group = self.state[group["params"][0]]["momentum_buffer"]
        momentum = momentum_of_group
        if len(filters) < len(momentum_of_group):
            momentum = momentum_of_group[indices]  # a copy
        skip = self.found_inf > 0
        decay = group["lr"] * group["weight_decay"]
        height, width = filters[0].shape[2:]
        # Gradients and filters are channels_last: seen in this order, they need no copy.
        gradient = torch.stack([f.grad.permute(0, 2, 3, 1).flatten(1) for f in filters])

        average = momentum.lerp(gradient, 1 - group["momentum"])
        momentum.copy_(torch.where(skip, momentum, average))
        if momentum is not momentum_of_group:
            momentum_of_group[indices] = momentum
        nesterov = gradient.lerp(average, group["momentum"])

        update = orthogonalize(nesterov.to(self.dtype))
        scale = group["lr"] * 0.2 * max(update.shape[1:]) ** 0.5
        change = torch.where(skip, 0.0, scale * update.float()).unflatten(2, (height, width, -1))
        torch._foreach_mul_(filters, torch.where(skip, 1.0, 1.0 - decay))
        torch._foreach_sub_(filters, [c.permute(0, 3, 1, 2) for c in change])


def _shape(parameter):
    return parameter.shape


def orthogonalize(matrices, steps=3):
    """Return roughly the nearest matrices with orthonormal rows or columns.

    Newton and Schulz's iteration with the coefficients of Jordan et al. (2024), which bring
    singular values near 1 rather than to it. Three steps are enough for training, as in Jordan's
    airbench.

    Args:
        matrices: (n, rows, columns), computed one by one.
        steps: of the iteration.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    X = matrices.mT if tall else matrices
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        polynomial = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, polynomial, X, beta=a)
    return X.mT if tall else X
