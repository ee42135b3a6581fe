"""What identifies a network: a probe of what it computes, and the comparison of two probes."""
import contextlib
import copy

import numpy as np
import torch

from utils import DEVICE

PROBE_IMAGES = 4
PROJECTIONS = 4  # of the outputs, in training mode and in evaluation mode
TOLERANCE = 1e-4  # of the values' size: more than machines and versions differ by


def network_probe(model, seed):
    """Return what the freshly initialised network `model` computes: a list of nine floats.

    Four values are projections of its outputs for fixed random images in training mode, four are
    the same in evaluation mode after it, the ninth is the norm of the gradient. They are computed
    in double precision on the CPU if the network allows it. Whatever changes the function, its
    gradient, its initial weights or its running statistics changes the probe, wherever the change
    is in the code. Code that computes the same gives the same probe.

    Parameters that are constant, such as batch norm's, are replaced by large random values first:
    a scale of zero would hide the branch behind it, and small activations the difference of a ReLU
    and a ReLU6. If this leads to values that are not finite, small positive values are added
    instead. The model itself stays as it is.

    Args:
        model: the network.
        seed: for layers that draw random numbers, such as dropout.
    """
    values = _probe_with_noise(model, seed, size=4.0)
    if not np.isfinite(values).all():
        values = _probe_with_noise(model, seed, size=None)
    return values


def _probe_with_noise(model, seed, size):
    probed = _with_random_constants(copy.deepcopy(model).cpu(), size)
    return _probe_on_some_device(probed, seed)


@torch.no_grad()
def _with_random_constants(model, size):
    """`model` with noise on its constant parameters.

    Args:
        model: changed in place.
        size: the noise's standard deviation; None for positive noise below 0.1.
    """
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        if not _is_constant(parameter):
            continue
        shape = tuple(parameter.shape)
        noise = rng.uniform(0, 0.1, shape) if size is None else size * rng.standard_normal(shape)
        parameter.add_(torch.as_tensor(noise).to(parameter.dtype))
    return model


def _is_constant(parameter):
    if not parameter.numel() or not parameter.is_floating_point():
        return False
    return bool(parameter.min() == parameter.max())


def _probe_on_some_device(model, seed):
    """The probe in double precision on the CPU; else in single; else in single on the device."""
    noise = np.random.default_rng(2).standard_normal((PROBE_IMAGES, 3, 32, 32))
    images = torch.from_numpy(noise)
    cpu = torch.device("cpu")
    with torch.random.fork_rng(), torch.enable_grad():
        for device, dtype in ((cpu, torch.float64), (cpu, torch.float32)):
            with contextlib.suppress(RuntimeError):  # code that demands another dtype or a GPU
                moved = copy.deepcopy(model).to(device, dtype)
                return _probe_outputs(moved, images.to(device, dtype), seed)
        moved = copy.deepcopy(model).to(DEVICE, torch.float32)
        return _probe_outputs(moved, images.to(DEVICE, torch.float32), seed)


def _probe_outputs(model, images, seed):
    """The nine values of a probe, for `images` of the model's dtype and on its device."""
    torch.manual_seed(seed)
    outputs = model.train()(images).flatten()
    weights = np.random.default_rng(1).standard_normal((PROJECTIONS, outputs.numel()))
    weights = torch.from_numpy(weights).to(outputs)
    in_training = weights @ outputs
    norm = _gradient_norm(model, in_training.sum())
    with torch.no_grad():
        in_evaluation = weights @ model.eval()(images).flatten()
    values = [*in_training, *in_evaluation, norm]
    return [float(f"{value.item():.8g}") for value in values]


def _gradient_norm(model, value):
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.nn.utils.get_total_norm([g for g in gradients if g is not None])


def same_probe(stored, computed):
    """Whether two probes agree within TOLERANCE of the values' size.

    Args:
        stored: from a run's record; other things than a probe agree with none.
        computed: from `network_probe`.
    """
    if not isinstance(stored, list) or len(stored) != len(computed):
        return False
    groups = (slice(0, PROJECTIONS), slice(PROJECTIONS, 2 * PROJECTIONS), slice(-1, None))
    return all(_agree(stored[group], computed[group]) for group in groups)


def _agree(stored, computed):
    largest = max(abs(value) for value in computed)
    return np.allclose(stored, computed, rtol=0, atol=TOLERANCE * largest, equal_nan=True)
