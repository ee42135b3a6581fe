"""fit: what it computes, that it repeats, and that nothing stops it for good."""

import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, tiny
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.v2 import functional as transforms

import training
import utils
from tools.project_files import project_files
from training import checkpointing, engine_key, loop, network_key, runs
from training.augmentation import OPERATIONS
from training.metrics import Metrics
from training.optimizers import orthogonalize
from training.speed import CudaGraph, MatmulConvGradients

RECIPE = training.Recipe(
    epochs=3,
    batch_size=64,
    optimizer="sgd",
    learning_rate=0.05,
    schedule="linear",
    warmup=0.2,
    weight_decay=5e-4,
    label_smoothing=0.1,
    augmentation="crop flip trivialaugment cutmix",
    pad_with="reflection",
)


def same(run, other):
    """Whether two runs agree to the bit in weights, losses, predictions and history, not times."""
    weights = [load_file(r.folder / "weights.safetensors") for r in (run, other)]
    return (
        all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
        and np.array_equal(run.losses, other.losses)
        and all(torch.equal(run.predictions[k], other.predictions[k]) for k in run.predictions)
        and run.history.drop(columns="seconds").equals(other.history.drop(columns="seconds"))
    )


def faulty(at, what):
    """The tiny network, with `what` done to its output at its training step number `at`."""

    def hook(module, inputs, out):
        if out.dtype == torch.float64:  # the probe of a run's identity
            return None
        calls.extend([1] * module.training)
        # A step that draws on the host is never recorded as a CUDA graph: each calls the hook.
        random.random()
        return what(out) if module.training and len(calls) == at else None

    calls = []
    net = tiny()
    net.register_forward_hook(hook)
    return net


def press_ctrl_c(out):
    os.kill(os.getpid(), signal.SIGINT)


def set_precision(monkeypatch, precision):
    """Have runs train in another number format than this machine's."""
    here = training.environment()
    here["precision"] = precision
    monkeypatch.setattr(runs, "environment", lambda: here)


@pytest.fixture(params=["as here", "fp16"])
def precision(request, monkeypatch):
    """The number format of this machine, and a T4's: float16 with a gradient scaler."""
    if request.param == "as here":
        return training.environment()["precision"]
    set_precision(monkeypatch, request.param)
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    return training.fit(tiny(), digits, tmp_path_factory.mktemp("runs") / "whole", RECIPE)


@pytest.mark.slow
def test_learns_and_repeats(digits, tmp_path, precision):
    run = training.fit(tiny(), digits, tmp_path / "run", RECIPE)
    assert run.history.train_loss.iloc[-1] < run.history.train_loss.iloc[0]
    assert run.info["accuracy"] > 60  # chance is 10
    assert len(run.losses) == 3 * (1437 // 64)
    assert run.info["choices"]["precision"] == precision
    assert same(run, training.fit(tiny(), digits, tmp_path / "again", RECIPE))
    assert not same(run, training.fit(tiny(), digits, tmp_path / "seed", replace(RECIPE, seed=1)))


def test_finished_run_returns_at_once_and_loads_its_weights(digits, uninterrupted, monkeypatch):
    net = tiny()
    monkeypatch.setattr(runs, "train", lambda *_: pytest.fail("it trained again"))
    run = training.fit(net, digits, uninterrupted.folder, RECIPE)
    found = utils.accuracy_of(
        utils.predict(net, digits.test_images, run.info["normalisation"]), digits.test_labels
    )
    assert found == run.info["accuracy"]
    assert not (run.folder / "state.pt").exists()


def test_another_configuration_is_refused(digits, uninterrupted):
    with pytest.raises(
        utils.SubmissionError, match="learning_rate 0.05 instead of 0.1"
    ):
        training.fit(tiny(), digits, uninterrupted.folder, replace(RECIPE, learning_rate=0.1))
    wider = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(utils.SubmissionError, match="network"):
        training.fit(wider, digits, uninterrupted.folder, RECIPE)


@pytest.fixture
def stored(digits, tmp_path):
    """A folder with a finished run named "run" of the tiny network."""
    training.load_or_train("run", tiny, RECIPE, digits, tmp_path / "runs", weights=True)
    (folder,) = (tmp_path / "runs").iterdir()
    folder.rename(tmp_path / "stored")
    (tmp_path / "stored" / "run").mkdir(parents=True)
    for file in list((tmp_path / "stored").glob("*.*")):
        file.rename(tmp_path / "stored" / "run" / file.name)
    return tmp_path / "stored"


@pytest.mark.slow
def test_a_run_is_used_where_it_is_of_the_same_network_recipe_data_and_start(
    digits, stored, tmp_path, capsys
):
    def obtained(network=tiny, recipe=RECIPE, data=digits, **settings):
        capsys.readouterr()
        run = training.load_or_train(
            "run", network, recipe, data, tmp_path / "runs", stored, **settings
        )
        return "stored" if run.folder == stored / "run" else "trained", capsys.readouterr().out

    others = {
        "network": lambda: nn.Sequential(*tiny(), nn.Dropout(0.1)),
        "start": training.load_run(stored / "run"),
        "recipe": replace(RECIPE, learning_rate=0.04),
        "data": digits.held_out(200),
    }
    differences = {
        "network": "another network (it computes something else)",
        "start": "another start (the run whose weights were loaded)",
        "recipe": f"learning_rate {RECIPE.learning_rate} instead of 0.04",
        "data": "other images or labels",
    }
    assert obtained() == ("stored", "")
    for what, other in others.items():
        where, said = obtained(**{what: other})
        message = f"run: the run in {stored / 'run'} is not used: {differences[what]}\n"
        assert where == "trained" and message in said, what
    assert len(list((tmp_path / "runs").iterdir())) == 4  # each in a folder of its own
    (stored / "run" / "weights.safetensors").unlink()
    assert obtained()[0] == "stored"
    where, said = obtained(weights=True)
    assert where == "trained" and "not used: no weights.safetensors" in said


@pytest.mark.slow
def test_a_run_asked_for_again_is_loaded_or_continued(digits, tmp_path, monkeypatch):
    calls = []
    train = loop.train
    monkeypatch.setattr(runs, "train", lambda *a: (calls.append(1), train(*a)))
    press = iter([True])

    def network():
        return faulty(30, press_ctrl_c if next(press, False) else lambda out: None)

    with pytest.raises(training.TrainingStopped):
        training.load_or_train("run", network, RECIPE, digits, tmp_path)
    continued = training.load_or_train("run", network, RECIPE, digits, tmp_path)
    loaded = training.load_or_train("run", network, RECIPE, digits, tmp_path)
    assert len(calls) == 2
    assert same(continued, loaded)
    assert same(continued, training.fit(tiny(), digits, tmp_path / "whole", RECIPE))
    assert continued.name == "run"
    assert "weights.safetensors" not in [file.name for file in continued.files]


@pytest.mark.slow
def test_a_run_starts_with_the_weights_of_another(digits, stored, tmp_path):
    start = training.load_run(stored / "run")
    recipe = replace(RECIPE, epochs=1, learning_rate=0)
    run = training.load_or_train("next", tiny, recipe, digits, tmp_path, start=start)
    before, after = (load_file(r.folder / "weights.safetensors") for r in (start, run))
    assert all(
        torch.equal(before[k], after[k]) for k in before if "running" not in k and "num" not in k
    )
    assert run.info["config"]["start"] == start.key


@pytest.mark.slow
def test_initial_weights_are_drawn_with_the_recipes_seed(digits, tmp_path):
    """Whatever was drawn before; with whitening the first filters look at the data instead."""

    def network():
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(392, 10)
        )

    def first_filters(seed, kind):
        torch.rand(seed + 3)
        recipe = replace(RECIPE, epochs=1, learning_rate=0, seed=seed, first_filters=kind)
        runs = tmp_path / str(len(list(tmp_path.iterdir())))
        run = training.load_or_train(f"{kind}-{seed}", network, recipe, digits, runs)
        return load_file(run.folder / "weights.safetensors")["0.weight"].float()

    one, again, other = (first_filters(seed, "random") for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    white = first_filters(0, "whitening").flatten(1)
    length = white.norm(dim=1)
    torch.testing.assert_close(white[:4], -white[4:])
    torch.testing.assert_close(
        white[:4] @ white[:4].T, torch.diag(length[:4] ** 2), atol=1e-3, rtol=0
    )
    patches = (
        nn.functional.unfold((digits.train_images[:500] / 255.0 - 0.305) / 0.375, 5, stride=4)
        .transpose(1, 2)
        .flatten(0, 1)
    )
    sizes = (patches @ white[:4].T).square().mean(0)
    assert (sizes.diff() < 0).all()  # the largest components, in order


# The first step, mid-epoch, an epoch's last, the second epoch.
@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 10, 22, 30])
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_ctrl_c_saves_and_resumes_to_the_same_bits(digits, tmp_path, step, optimizer, precision):
    folder = tmp_path / "run"
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01)
    uninterrupted = training.fit(tiny(), digits, tmp_path / "whole", recipe)
    with pytest.raises(training.TrainingStopped, match="run this again to continue"):
        training.fit(faulty(step, press_ctrl_c), digits, folder, recipe)
    progress = torch.load(folder / "state.pt", weights_only=True)["progress"]
    assert progress["epoch"] * 22 + progress["step"] == step
    assert same(uninterrupted, training.fit(tiny(), digits, folder, recipe))


def test_ctrl_c_in_the_last_step_stops_as_well(digits, tmp_path, uninterrupted):
    with pytest.raises(training.TrainingStopped, match="had just finished"):
        training.fit(faulty(66, press_ctrl_c), digits, tmp_path / "run", RECIPE)
    assert same(uninterrupted, training.fit(tiny(), digits, tmp_path / "run", RECIPE))


def test_a_run_goes_on_in_the_number_format_of_the_device_it_is_on(
    digits, tmp_path, monkeypatch, capsys
):
    for first, then in (("fp32", "fp16"), ("fp16", "fp32")):
        set_precision(monkeypatch, first)
        with pytest.raises(training.TrainingStopped):
            training.fit(faulty(5, press_ctrl_c), digits, tmp_path / first, RECIPE)
        set_precision(monkeypatch, then)
        run = training.fit(tiny(), digits, tmp_path / first, RECIPE)
        assert run.info["choices"]["precision"] == then and run.info["accuracy"] > 60
        message = f"its environment has changed: precision {first} before, {then} now"
        assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    "filter_size, stride, padding",
    [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (5, 3, 0), (7, 2, 3)],
)
def test_gradients_by_products_are_those_of_torch(filter_size, stride, padding):
    torch.manual_seed(0)
    layer = (
        nn.Conv2d(4, 6, filter_size, stride, padding).double().to(memory_format=torch.channels_last)
    )
    for height in (h for h in (1, 2, 7, 8) if h + 2 * padding >= filter_size):
        X = torch.randn(
            2, 4, height, height + 1 + filter_size, dtype=torch.double, requires_grad=True
        )
        found = []
        of = torch.randn_like(layer(X))
        for context in (contextlib.nullcontext(), MatmulConvGradients()):
            with context:
                out = layer(X)
            assert ("MatmulConvolution" in type(out.grad_fn).__name__) == isinstance(
                context, MatmulConvGradients
            )
            found.append([out, *torch.autograd.grad(out, [X, *layer.parameters()], of)])
        torch.testing.assert_close(*found)


def test_other_convolutions_are_left_to_torch():
    X = torch.randn(1, 4, 8, 8)
    cases = [(nn.Conv2d(4, 4, 3), X)]  # no gradient is wanted of the first layer's input
    for settings in ({"groups": 2}, {"dilation": 2}, {"bias": False}, {"padding": "same"}):
        cases.append((nn.Conv2d(4, 4, 3, **settings), X.clone().requires_grad_()))
    with MatmulConvGradients():
        for layer, inputs in cases:
            out = layer(inputs)
            assert "MatmulConvolution" not in type(out.grad_fn).__name__
            out.sum().backward()


@pytest.fixture
def replays(monkeypatch):
    """Stand-ins for what records CUDA graphs; the list grows with each replay."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    replays = []
    for name, stand_in in (
        ("Stream", lambda: stream),
        ("current_stream", lambda: stream),
        ("stream", lambda s: contextlib.nullcontext()),
        ("graph", lambda graph: contextlib.nullcontext()),
        ("CUDAGraph", lambda: SimpleNamespace(replay=lambda: replays.append(1))),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return replays


def test_a_step_is_recorded_once_and_replayed_on_new_inputs(replays):
    calls = []
    graph = CudaGraph(lambda x, y: (calls.append(1), x + y)[1])
    for i in range(7):
        out = graph(torch.full((2,), float(i)), torch.ones(2))
    # Three calls and the recording; from the fourth on it is replayed.
    assert len(calls) == 4
    assert len(replays) == 4
    # The inputs are the last ones; the output is the recording's, since no GPU computes here.
    assert graph.inputs[0].tolist() == [6, 6]
    assert out.tolist() == [4, 4]


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1).item()])
def test_a_step_that_draws_on_the_host_is_never_recorded(replays, draw):
    graph = CudaGraph(lambda x: (calls.append(draw()), x + 1)[1])
    calls = []
    assert [graph(torch.tensor(float(i))).item() for i in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    assert len(calls) == 7 and len(set(calls)) == 7 and not replays


def test_a_step_that_cannot_be_recorded_is_computed_each_time(replays, monkeypatch, capsys):
    @contextlib.contextmanager
    def refuse(graph):
        yield
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    graph = CudaGraph(lambda x: x + 1)
    assert [graph(torch.tensor(float(i))).item() for i in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    assert capsys.readouterr().out == (
        "training is slower: its steps cannot be recorded as a CUDA graph "
        "(operation not permitted when stream is capturing)\n"
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"optimizer": "adagrad"},
        {"schedule": "cosine"},
        {"augmentation": "crop mixup"},
        {"pad_with": "zero"},
    ],
)
def test_unknown_words_in_a_recipe_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(
        utils.SubmissionError, match=f"^{name}='{value}' is not known; choose from [a-z, ]+$"
    ):
        training.Recipe(**setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": -1},
        {"epochs": "abc"},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"batch_size": -5},
        {"seed": -1},
        {"seed": 10**14},
        {"learning_rate": math.nan},
        {"learning_rate": -0.1},
        {"momentum": 1},
        {"warmup": 1},
        {"label_smoothing": None},
        {"epochs": True},
        {"weight_decay": math.inf},
    ],
)
def test_a_setting_out_of_range_is_one_sentence(setting):
    ((name, value),) = setting.items()
    sentence = rf"^{name}={value!r} must be a (whole )?number from [\d.]+ to [\d.,]+$"
    with pytest.raises(utils.SubmissionError, match=sentence):
        training.Recipe(**setting)


@pytest.mark.slow
def test_recipes_at_the_limits_train(digits, tmp_path):
    for i, setting in enumerate(
        ({"momentum": 0}, {"seed": 2**32 - 1}, {"learning_rate": 0}, {"augmentation": ""})
    ):
        training.fit(tiny(), digits, tmp_path / str(i), replace(RECIPE, epochs=1, **setting))
    with pytest.raises(
        utils.SubmissionError, match="a batch of 2000 is more than the 1437 training images"
    ):
        training.fit(tiny(), digits, tmp_path / "large", replace(RECIPE, batch_size=2000))


def test_orthogonal_matrices():
    torch.manual_seed(0)
    for shape in ((2, 6, 36), (3, 36, 6)):
        matrices = torch.randn(shape)
        U, _, V = torch.linalg.svd(matrices, full_matrices=False)
        assert torch.linalg.svdvals(orthogonalize(matrices, steps=5)).sub(1).abs().max() < 0.35
        torch.testing.assert_close(orthogonalize(matrices, steps=5), U @ V, atol=0.15, rtol=0)
        # One by one.
        torch.testing.assert_close(orthogonalize(matrices)[1], orthogonalize(matrices[1:2])[0])


def test_muon_with_momentum_on_filters_and_adamw_on_the_rest():
    """Two steps against the definition: average, look ahead, make orthogonal, decay, subtract."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 6, 3),
        nn.Flatten(),
        nn.Linear(54, 3),
    ).to(memory_format=torch.channels_last)
    recipe = training.Recipe(optimizer="muon", momentum=0.8, weight_decay=0.5)
    muon, adamw = training.make_optimizers(net, recipe)
    filters = [net[i].weight for i in range(3)]
    expected = [f.detach().clone() for f in filters]
    averages = [torch.zeros_like(f) for f in filters]
    before = [p.detach().clone() for p in (net[0].bias, net[4].weight)]
    for rate in (0.01, 0.02):
        net.zero_grad()
        net(torch.randn(8, 3, 5, 5)).square().mean().backward()
        for i, f in enumerate(filters):
            averages[i] = 0.8 * averages[i] + 0.2 * f.grad
            matrix = (0.2 * f.grad + 0.8 * averages[i]).permute(0, 2, 3, 1).flatten(1)
            step = orthogonalize(matrix[None])[0].unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
            expected[i] = (
                expected[i] * (1 - 0.5 * rate) - rate * 0.2 * max(matrix.shape) ** 0.5 * step
            )
        for optimizer in (muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        if (
            rate == 0.01
        ):  # AdamW's first step: the gradient's sign; decay on matrices, none on biases
            for p, old, decay in zip((net[0].bias, net[4].weight), before, (1, 1 - 0.5 * rate)):
                torch.testing.assert_close(
                    p.detach(), old * decay - rate * p.grad.sign(), rtol=1e-3, atol=1e-5
                )
    for f, value in zip(filters, expected):
        torch.testing.assert_close(f.detach(), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_frozen_layers_stay_as_they_are(digits, optimizer):
    recipe = replace(RECIPE, optimizer=optimizer, augmentation="")
    net = tiny()
    for p in net[0].parameters():
        p.requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    training.Trainer(net, recipe, "fp32").step(batches_of(digits, recipe).batch(0), 0.1)
    moved = [not torch.equal(p, old) for p, old in zip(net.parameters(), before)]
    assert moved == [False, False, True, True, True, True]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_and_decay_are_the_recipes(optimizer):
    recipe = training.Recipe(optimizer=optimizer, momentum=0.8, weight_decay=0.3)
    (found,) = training.make_optimizers(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)), recipe
    )
    name = "decoupled_weight_decay" if optimizer == "sgd" else "weight_decay"
    decay = {p.ndim: group[name] for group in found.param_groups for p in group["params"]}
    assert decay == {4: 0.3, 2: 0.3, 1: 0.0}
    assert {group.get("momentum") for group in found.param_groups} == {
        0.8 if optimizer == "sgd" else None
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_a_first_step_that_overflows_leaves_no_trace(digits, optimizer):
    """As a gradient scaler's first steps do. Optimisers may not start from uninitialised memory."""
    recipe = replace(RECIPE, optimizer=optimizer, augmentation="")
    batches = training.Batches(digits, recipe, torch.device("cpu"))
    batches.start_epoch(0)
    results = []
    for overflows in (False, True):
        trainer = training.Trainer(tiny(), recipe, "fp16")
        # Freed at once, so that it is there to be reused.
        garbage = [torch.full((n,), 1e9) for n in range(1, 4000, 7)]
        del garbage
        if overflows:
            scale = trainer.scaler.scale(torch.ones(())).item()
            trainer.scaler._scale.fill_(3e38)
            before = {
                k: v.clone() for k, v in trainer.model.state_dict().items() if "running" not in k
            }
            loss, *_ = trainer.step(batches.batch(0), 0.1)
            assert loss.isfinite() and trainer.scaler.get_scale() < 3e38
            assert all(
                torch.equal(before[k], trainer.model.state_dict()[k])
                for k in before
                if "num_b" not in k
            )
            trainer.scaler._scale.fill_(scale)
        trainer.step(batches.batch(1), 0.1)
        results.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_other_data_is_refused_for_an_unfinished_run(digits, tmp_path):
    with pytest.raises(training.TrainingStopped):
        training.fit(faulty(5, press_ctrl_c), digits, tmp_path / "run", RECIPE)
    other = replace(digits, train_labels=digits.train_labels.flip(0))
    with pytest.raises(utils.SubmissionError, match="other images or labels"):
        training.fit(tiny(), other, tmp_path / "run", RECIPE)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
@pytest.mark.parametrize(
    "poison", [lambda out: out * torch.nan, lambda out: out + (out - out).log().sum()]
)
def test_a_loss_that_is_not_finite_changes_nothing_and_stops(
    digits, tmp_path, optimizer, poison, monkeypatch
):
    net = faulty(25, poison)
    seen = []
    monkeypatch.setattr(checkpointing, "SAVE_EVERY", 0)
    keep = training.Batches.batch  # record the weights before each step
    monkeypatch.setattr(
        training.Batches,
        "batch",
        lambda self, step: (seen.append([p.clone() for p in net.parameters()]), keep(self, step))[
            1
        ],
    )
    with pytest.raises(
        utils.SubmissionError,
        match=r"not finite at epoch 2, step 3, learning rate .*try a lower one",
    ):
        training.fit(
            net, digits, tmp_path / "run", replace(RECIPE, optimizer=optimizer, learning_rate=0.01)
        )
    # No such update was applied.
    assert all(torch.equal(a, b) for a, b in zip(seen[24], net.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[23], seen[24], strict=True))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["progress"]["epoch"] == 1 and all(
        v.isfinite().all() for v in state["trainer"]["model"].values()
    )


def test_no_gpu_memory_is_one_sentence_and_frees_the_failed_step(digits, tmp_path):
    def fill(out):
        large = torch.zeros(10)
        failed.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    failed = []
    with pytest.raises(utils.SubmissionError, match="batch of 64; try BATCH_SIZE=32") as caught:
        training.fit(faulty(3, fill), digits, tmp_path / "run", RECIPE)
    # Else the smaller batch would have no room either.
    assert caught.value.__context__ is None
    assert failed[0]() is None


def test_a_fault_of_the_device_is_not_told_as_a_full_disk(digits, tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(training.Trainer, "state_dict", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        training.fit(tiny(), digits, tmp_path / "run", RECIPE)


def test_state_is_saved_by_the_clock_and_at_the_end(digits, tmp_path, monkeypatch):
    def note(folder, state):
        saved.append(state["progress"]["epoch"])
        save(folder, state)

    saved = []
    save = checkpointing.save_state
    monkeypatch.setattr(checkpointing, "save_state", note)
    training.fit(tiny(), digits, tmp_path / "run", RECIPE)
    assert saved == [3]  # on a fast GPU every epoch would be too often


@pytest.mark.slow
def test_a_log_file_gets_lines_and_no_bars(digits, tmp_path, capfd):
    run = training.fit(tiny(), digits, tmp_path / "long", replace(RECIPE, epochs=4))
    training.fit(tiny(), digits, tmp_path / "short", replace(RECIPE, epochs=1, batch_size=12))
    out, err = capfd.readouterr()
    assert err == "" and "\r" not in out
    first, *lines = out.splitlines()
    assert re.fullmatch("long: training for 4 epochs of 22 steps on .+", first)
    assert lines.pop(4).startswith("short: training for 1 epoch of 119 steps on ")
    assert [line.split()[:3] for line in lines[:4]] == [
        ["epoch", str(n), "train_loss"] for n in range(1, 5)
    ]
    assert re.fullmatch(r"Epoch \[1/1\], Step \[100/119\] Loss: \d\.\d{4}", lines[4])
    assert lines[5].startswith("Epoch [1/1], Step [119/119] Loss: ") and len(lines) == 6
    assert list(run.history.epoch) == [1, 2, 3, 4] and run.history.seconds.is_monotonic_increasing


CHILD = """
    import resource, sys
    sys.path[:0] = [{root!r}, {tests!r}]
    import training, utils
    from helpers import tiny
    from test_training import RECIPE
    training.checkpointing.SAVE_EVERY = 0  # after every step: many kills hit the writing
    {before}
    print("ready", flush=True)
    try:
        training.fit(tiny(), utils._load_digits(), {folder!r}, RECIPE)
    except utils.SubmissionError as error:
        sys.exit(str(error))
"""


def child(folder, before="pass"):
    code = textwrap.dedent(CHILD).format(
        root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder), before=before
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_kill_at_random_moments_never_loses_or_changes_the_run(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    dice = random.Random(0)
    kills = 0
    reached = -1
    while not (folder / "run.json").exists():
        process = child(folder)
        process.stdout.readline()
        if kills < 4:
            time.sleep(dice.uniform(0.05, 0.4))
            process.kill()
            kills += 1
        out, err = process.communicate()
        assert not err.strip() or process.returncode == -signal.SIGKILL, err
        if (folder / "state.pt").exists():
            # Whole, whenever the kill came.
            state = torch.load(folder / "state.pt", weights_only=True)
            now = state["progress"]["epoch"] * 22 + state["progress"]["step"]
            assert now >= reached
            reached = now
    assert kills > 2 and same(uninterrupted, training.load_run(folder))


@pytest.mark.slow
def test_a_full_disk_keeps_the_state_before_and_says_so(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = child(folder)
    while not (folder / "state.pt").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = (folder / "state.pt").read_bytes()
    process = child(folder, "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))")
    _, err = process.communicate()
    assert process.returncode == 1 and "cannot be written" in err and "Traceback" not in err
    assert (folder / "state.pt").read_bytes() == before and not (folder / "state.tmp").exists()
    process = child(folder)
    process.communicate()
    assert same(uninterrupted, training.load_run(folder))


def test_a_damaged_state_is_named(digits, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(utils.SubmissionError, match="state.pt is damaged"):
        training.fit(tiny(), digits, tmp_path, RECIPE)


def test_a_state_of_another_version_is_refused_in_one_sentence(digits, tmp_path):
    """The form of states before this one, and one whose progress has other fields."""
    with pytest.raises(training.TrainingStopped):
        training.fit(faulty(5, press_ctrl_c), digits, tmp_path, RECIPE)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    progress = {**state["progress"], "accuracy": 0}
    older = {"config": state["config"], "choices": {}, "learner": {}, "progress": state["progress"]}
    for other in (older, {**state, "progress": progress}, [1]):
        torch.save(other, tmp_path / "state.pt")
        with pytest.raises(
            utils.SubmissionError, match="saved by another version of the training code"
        ):
            training.fit(tiny(), digits, tmp_path, RECIPE)


def batches_of(data, recipe, epoch=0, device="cpu"):
    batches = training.Batches(data, recipe, torch.device(device))
    batches.start_epoch(epoch)
    return batches


def test_batches_crop_flip_and_normalise(digits):
    batches = batches_of(
        digits, replace(RECIPE, augmentation="crop flip", pad_with="zeros"), epoch=3
    )
    images, labels, _, lam = batches.batch(2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in digits.normalisation())
    for i, image in enumerate(images):
        n = batches.order[2 * 64 + i]
        top, left = batches.corners[:, 2 * 64 + i]
        expected = (
            nn.functional.pad(digits.train_images[n], (4, 4, 4, 4))[
                :, top : top + 32, left : left + 32
            ]
            / 255
        )
        expected = (expected.flip(2) if batches.flips[2 * 64 + i] else expected) - mean
        torch.testing.assert_close(image, expected / std)
        assert labels[i] == digits.train_labels[n]
    assert lam == 1 and batches.flips.float().mean() == pytest.approx(0.5, abs=0.05)
    assert set(batches.corners.unique().tolist()) == set(range(9))


def test_reflection_repeats_the_image_at_its_edges(digits):
    expected = nn.functional.pad(
        digits.train_images[:5].float(), (4, 4, 4, 4), mode="reflect"
    ).byte()
    assert torch.equal(batches_of(digits, RECIPE).images[:5], expected)


def test_cutmix_pastes_a_box_of_the_batch_rolled_by_one_and_weighs_labels_by_its_area(digits):
    torch.manual_seed(0)
    noise = torch.randint(0, 256, digits.train_images.shape, dtype=torch.uint8)
    data = replace(digits, train_images=noise)
    recipe = replace(RECIPE, augmentation="cutmix", batch_size=32)
    batches = batches_of(data, recipe)
    plain = batches_of(data, replace(recipe, augmentation=""))
    pasted_shares = []
    for step in range(batches.steps):
        images, labels, mixed_labels, lam = batches.batch(step)
        original, expected, *_ = plain.batch(step)
        assert torch.equal(labels, expected)
        assert torch.equal(mixed_labels, labels.roll(1) if lam < 1 else labels)
        pasted = (images != original).any(1).any(0)  # of the batch: where any image has changed
        assert pasted.sum() == round((1 - lam) * 1024)
        assert pasted.any(0).sum() * pasted.any(1).sum() == pasted.sum()  # a box
        assert torch.equal(images, torch.where(pasted, original.roll(1, 0), original))
        pasted_shares.append(1 - lam)
    mixed = np.array([share for share in pasted_shares if share])
    assert 0.3 * batches.steps < len(mixed) < 0.7 * batches.steps
    assert mixed.min() < 0.2 and mixed.max() > 0.5  # no constant


def test_the_loss_mixes_both_labels_by_lam_and_smooths_them(digits):
    recipe = replace(RECIPE, label_smoothing=0.3)
    trainer = training.Trainer(tiny(), recipe, "fp32")
    batches = batches_of(digits, replace(recipe, augmentation="cutmix"))
    batch = next(b for b in map(batches.batch, range(batches.steps)) if 0.6 < b[3] < 0.95)
    images, labels, mixed_labels, lam = batch
    losses, accuracy = trainer.forward(*batch)
    logits = tiny().train()(images)
    one_hot = nn.functional.one_hot
    targets = lam * one_hot(labels, 10) + (1 - lam) * one_hot(mixed_labels, 10)
    expected = -((0.7 * targets + 0.03) * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(losses, expected)
    assert accuracy == (logits.argmax(1) == labels).float().mean()


def test_trivialaugment_derives_from_seed_epoch_and_step_alone(digits):
    """Batches with CutMix, and all other draws, are as without it."""
    recipe = replace(RECIPE, augmentation="crop flip cutmix trivialaugment")
    changed = batches_of(digits, recipe, 2)
    again = batches_of(digits, recipe, 2)
    plain = batches_of(digits, replace(recipe, augmentation="crop flip cutmix"), 2)
    differing = 0
    for step in reversed(range(changed.steps)):
        images, labels, mixed_labels, lam = changed.batch(step)
        assert torch.equal(again.batch(step)[0], images)
        original, *expected = plain.batch(step)
        assert torch.equal(labels, expected[0])
        assert torch.equal(mixed_labels, expected[1])
        assert lam == expected[2]
        assert lam == 1 or torch.equal(images, original)
        differing += not torch.equal(images, original)
    assert differing > 5


STRENGTH = 0.25
LEVELS = (0.4, 0.6, 1.3, 1.8)  # brightness, saturation, contrast, sharpness


def fixed_draw(operation):
    """A generator that draws `operation` for each image, and strengths of our choice."""
    drawn = {1: np.array([STRENGTH]), 4: LEVELS, None: 100.0}
    number = list(OPERATIONS).index(operation)

    def integers(low, high=None, size=None):
        return np.full(size, number) if size else 3

    def uniform(low, high, size=None):
        return drawn[size]

    return SimpleNamespace(integers=integers, uniform=uniform)


def test_trivialaugment_moves_pixels():
    """Where the pixels of each geometric operation, and of the identity, come from."""
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    ramps = (4 * torch.stack([x, y, x]) + 128).byte()[None]
    angle = torch.tensor(STRENGTH * math.radians(135))
    cos, sin = angle.cos(), angle.sin()
    come_from = {
        "shear x": (x + 0.99 * STRENGTH * y, y),
        "shear y": (x, y + 0.99 * STRENGTH * x),
        "translate x": (x + 32 * STRENGTH, y),
        "translate y": (x, y + 32 * STRENGTH),
        "rotate": (cos * x - sin * y, sin * x + cos * y),
        "identity": (x, y),
    }
    assert list(come_from) == list(OPERATIONS[:6])
    fill = torch.full((3, 1, 1), 128.0)
    for operation, (from_x, from_y) in come_from.items():
        found = training.trivial_augment(ramps, fixed_draw(operation), fill)[0].float()
        inside = (from_x.abs() < 15) & (from_y.abs() < 15)
        outside = (from_x.abs() > 17) | (from_y.abs() > 17)
        difference = (found - 128) / 4 - torch.stack([from_x, from_y, from_x])
        assert difference[:, inside].abs().max() < 0.3, operation
        assert (found[:, outside] == 128).all(), operation
        assert (operation == "identity") == torch.equal(found, ramps[0].float())


def test_trivialaugment_changes_colours_as_torchvision_does():
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    brightness, saturation, contrast, sharpness = LEVELS
    expected = {
        "brightness": transforms.adjust_brightness(noise, brightness),
        "saturation": transforms.adjust_saturation(noise, saturation),
        "contrast": transforms.adjust_contrast(noise, contrast),
        "sharpness": transforms.adjust_sharpness(noise, sharpness),
        "posterize": transforms.posterize(noise, 3),
        "solarize": transforms.solarize(noise, 100.0),
        "autocontrast": transforms.autocontrast(noise),
        "equalize": transforms.equalize(noise),
    }
    assert list(expected) == list(OPERATIONS[6:])
    fill = torch.full((3, 1, 1), 128.0)
    for operation, images in expected.items():
        found = training.trivial_augment(noise, fixed_draw(operation), fill)
        assert torch.equal(found, images), operation


@pytest.mark.parametrize("augmentation", ["crop flip", "crop flip cutmix trivialaugment"])
def test_nothing_stays_on_the_cpu_that_belongs_on_the_gpu(digits, augmentation):
    """Rehearsed with tensors that have a device and no values: a GPU is not needed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    images = SimpleNamespace(**vars(digits))
    normalisation = digits.normalisation()
    images.normalisation = lambda: normalisation
    with FakeTensorMode(allow_non_fake_inputs=True):
        batches = batches_of(images, replace(RECIPE, augmentation=augmentation), device="cuda")
        with torch.device("cuda"):
            net = tiny()
        for step in range(batches.steps):
            images, labels, mixed_labels, _ = batches.batch(step)
            tensors = (images, labels, mixed_labels, net(images))
            assert {t.device.type for t in tensors} == {"cuda"}


def test_a_table_of_recipes_leaves_out_what_none_sets():
    table = training.recipe_table({"one": RECIPE, "two": training.Recipe(seed=3)})
    assert table.loc["learning rate"].tolist() == ["0.05", "0.001"] and table.loc[
        "cutmix"
    ].tolist() == ["yes", "no"]
    assert not {"momentum", "beta2", "order", "normalisation", "seed", "zero rate epochs"} & set(
        table.index
    )


def test_schedules():
    linear = training.Recipe(epochs=10, learning_rate=1.0, schedule="linear", warmup=0.2)
    rates = [linear.rate(step, 100) for step in range(1000)]
    assert max(rates) == pytest.approx(1, abs=0.01) and 198 <= np.argmax(rates) <= 201
    assert rates[0] < 0.01 and rates[-1] < 0.01 and rates[600] == pytest.approx(0.5, abs=0.01)
    course = replace(linear, schedule="step", warmup=0, step_epochs=4, epochs=24)
    assert [course.rate(100 * e, 100) for e in (0, 3.99, 4, 8, 23.99)] == pytest.approx(
        [1, 1, 1 / 3, 1 / 9, 1 / 243]
    )
    assert replace(linear, schedule="constant", warmup=0).rate(7, 100) == 1
    with pytest.raises(utils.SubmissionError, match="^warmup=0.2 has no effect with sched.*step"):
        replace(linear, schedule="step")


def test_normalisation_is_that_of_the_training_images(digits):
    images = digits.train_images.double() / 255
    mean, std = digits.normalisation()
    assert mean == pytest.approx(images.mean((0, 2, 3)).tolist()) and std == pytest.approx(
        images.std((0, 2, 3), unbiased=False).tolist()
    )


def test_held_out_images_are_not_trained_on(digits):
    part = digits.held_out(200)
    assert (
        len(part.train_labels) == 1237
        and len(part.test_labels) == 200
        and "held out" in part.source
    )
    everything = torch.cat([part.train_images, part.test_images]).flatten(1).sum(1).sort().values
    assert torch.equal(everything, digits.train_images.flatten(1).sum(1).sort().values)


def test_no_second_float_copy_of_the_data():
    """In memory: the images, one padded copy in uint8, and a batch at a time in float32."""
    code = f"""
        import resource, sys
        sys.path[:0] = [{str(ROOT)!r}]
        import torch, training, utils
        images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
        labels = torch.zeros(50_000, dtype=torch.int64)
        data = utils.Data(images, labels, images[:10], labels[:10], utils.CLASSES, "noise")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        recipe = training.Recipe(batch_size=500, augmentation="crop flip cutmix")
        batches = training.Batches(data, recipe, torch.device("cpu"))
        batches.start_epoch(0)
        for step in range(5):
            batches.batch(step)
        more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(more / batches.images.nbytes)
    """
    ratio = float(
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
    )
    assert ratio < 1.5  # a float32 copy would be 4


# ------------------------------------------------------------------------------ a run's identity

DROP = 0.0
SHIFTS = [0.0]
OFFSET = torch.zeros(8)
act = nn.functional.relu


class Scale(nn.Module):
    """A helper whose forward reads a class attribute."""

    factor = 1.0

    def forward(self, x):
        return self.factor * x


HELPER = Scale()


class Probed(nn.Module):
    """A network that depends on its surroundings in all ways that its own text does not show."""

    drop = 0.0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 49, 10)
        self.helper = Scale()
        # As in a zero-initialised residual branch: nothing behind it may hide.
        nn.init.zeros_(self.bn.weight)

    def forward(self, x):
        x = act(self.bn(self.conv(x) + OFFSET.to(x).view(-1, 1, 1)))
        x = HELPER(nn.functional.dropout(x + SHIFTS[0], max(DROP, self.drop), self.training))
        return self.fc(self.helper(x).flatten(1))


def probe(network=Probed, seed=0):
    torch.manual_seed(seed)
    return training.network_probe(network(), seed)


@pytest.mark.parametrize(
    "name, value",
    [
        ("Probed.drop", 0.9),
        ("DROP", 0.5),
        ("SHIFTS", [0.1]),
        ("OFFSET", torch.ones(8)),
        ("act", nn.functional.gelu),
        ("act", nn.functional.relu6),
        ("act", partial(nn.functional.leaky_relu, negative_slope=0.1)),
        ("HELPER", nn.Tanh()),
        ("Scale.factor", 2.0),
    ],
)
def test_whatever_changes_what_a_network_computes_changes_its_identity(monkeypatch, name, value):
    before = probe()
    assert training.same_probe(before, probe())
    *owner, name = name.split(".")
    monkeypatch.setattr(globals()[owner[0]] if owner else sys.modules[__name__], name, value)
    assert not training.same_probe(before, probe())


@pytest.mark.slow
def test_initial_weights_hooks_running_statistics_and_gradients_are_part_of_the_identity():
    def initialised():
        net = Probed()
        nn.init.xavier_uniform_(net.conv.weight)
        return net

    def hooked():
        net = Probed()
        net.bn.register_forward_hook(lambda module, inputs, out: 2 * out)
        return net

    def slower():
        net = Probed()
        net.bn.momentum = 0.01
        return net

    class Detached(Probed):
        def forward(self, x):
            return (
                super().forward(x) - self.fc(act(self.bn(self.conv(x))).flatten(1)).detach() * 0.5
            )

    before = probe()
    for network in (initialised, hooked, slower, Detached):
        assert not training.same_probe(before, probe(network)), network
    assert not training.same_probe(before, probe(seed=1))


def test_code_that_computes_the_same_is_the_same_network():
    class Rewritten(nn.Module):
        """Other names, annotations, an unused method, keywords: nothing of it is computed."""

        def __init__(self, unused: int = 3):
            super().__init__()
            self.conv = nn.Conv2d(in_channels=3, out_channels=8, kernel_size=5, stride=4)
            self.bn = nn.BatchNorm2d(8)
            self.fc = nn.Linear(392, 10)
            self.bn.weight.data.zero_()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.flatten(torch.relu(self.bn(self.conv(images))), 1))

        def unused(self):
            return None

    assert training.same_probe(probe(), probe(Rewritten))


def test_a_probe_is_finite_where_large_scales_are_not():
    class Scaled(Probed):
        """Learnable temperatures, which have to be positive."""

        def __init__(self, power=0.5):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(10))
            self.power = power

        def forward(self, x):
            return super().forward(x) / self.temperature.pow(self.power)

    large = network_key._with_random_constants(Scaled(), 4.0)
    assert (
        not np.isfinite(network_key._probe_on_some_device(large, 0)).all()
        and np.isfinite(probe(Scaled)).all()
    )
    assert training.same_probe(probe(Scaled), probe(Scaled))
    assert not training.same_probe(probe(Scaled), probe(lambda: Scaled(0.25)))


@pytest.mark.parametrize("filters, size", [(64, 3), (7, 3), (1, 1), (16, 5)])
def test_any_number_of_filters_can_be_whitened(digits, filters, size):
    """As many as there are components, once with either sign; the others stay random."""
    net = nn.Sequential(nn.Conv2d(3, filters, size, padding=size // 2), nn.BatchNorm2d(filters))
    before = net[0].weight.detach().clone()
    training.whiten_first_filters(net, digits, digits.normalisation(), images=50)
    half = min(filters // 2, 3 * size * size)
    weight = net[0].weight.detach()
    torch.testing.assert_close(weight[:half], -weight[half : 2 * half])
    assert torch.equal(weight[2 * half :], before[2 * half :]) and weight.isfinite().all()
    training.whiten_first_filters(
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), digits, digits.normalisation()
    )


def test_a_probe_leaves_model_and_random_numbers_as_they_are_and_takes_any_dtype():
    torch.manual_seed(3)
    net = Probed()
    before = [p.clone() for p in net.state_dict().values()]
    state = torch.get_rng_state()
    training.network_probe(net, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values()))
    assert torch.equal(state, torch.get_rng_state()) and net.training

    class OnlySingle(Probed):
        def forward(self, x):
            return super().forward(x.float())

    single = probe(OnlySingle)
    double = probe()
    assert single != double
    assert training.same_probe(single, double)  # precisions differ by more than machines do


def test_a_field_that_a_stored_recipe_lacks_has_its_default(digits, stored, tmp_path):
    """A new field of Recipe leaves stored runs valid; a value that is not the default does not."""
    record = stored / "run" / "run.json"
    info = json.loads(record.read_text(encoding="utf-8"))
    for name in ("beta2", "order", "zero_rate_epochs"):
        del info["config"][name]
    record.write_text(json.dumps(info), encoding="utf-8")
    assert (
        training.load_or_train("run", tiny, RECIPE, digits, tmp_path, stored).folder
        == stored / "run"
    )
    other = training.load_or_train(
        "run", tiny, replace(RECIPE, order="same"), digits, tmp_path, stored
    )
    assert other.folder.parent == tmp_path
    config = training.configuration(training.network_probe(tiny(), 0), RECIPE, digits)
    assert training.folder_key(config) == training.folder_key(
        {k: v for k, v in config.items() if k != "beta2"}
    )


def test_a_run_records_the_code_that_made_it(uninterrupted, tmp_path):
    for file in project_files("training"):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(
            file.read_text(encoding="utf-8") + "\n# a comment\n\n    # and another\n",
            encoding="utf-8",
        )
    assert (
        training.engine_hash(tmp_path) == uninterrupted.info["choices"]["engine"] == training.ENGINE
    )
    metrics = tmp_path / "training" / "metrics.py"
    source = metrics.read_text(encoding="utf-8")
    in_other_words = source.replace("gradients overflow", "a gradient overflows")
    metrics.write_text(in_other_words, encoding="utf-8")
    assert in_other_words != source and training.engine_hash(tmp_path) == training.ENGINE
    without_error = source.replace("raise SubmissionError(", "SubmissionError(")
    metrics.write_text(without_error, encoding="utf-8")
    assert without_error != source and training.engine_hash(tmp_path) != training.ENGINE
    metrics.write_text(source, encoding="utf-8")
    for line, other in (
        ("if x:\n    f()\n    raise A", "if x:\n    f()\nraise A"),  # in another block
        ("if x: raise A", "if y: raise A"),
        ("a = 1; print(b)", "a = 2; print(b)"),
    ):
        assert engine_key._bare_lines(line) != engine_key._bare_lines(other)
    assert engine_key._bare_lines("if ä: raise A('ü')  # x") == ["if ä: raise"]
    changed = tmp_path / "training" / "augmentation.py"
    changed.write_text(
        changed.read_text(encoding="utf-8").replace("PADDING = 4", "PADDING = 0"), encoding="utf-8"
    )
    assert training.engine_hash(tmp_path) != training.ENGINE


# ------------------------------------------------------------------------ what the study asks for


def test_orders_of_the_images(digits):
    n = len(digits.train_labels)

    def orders(kind):
        recipe = training.Recipe(order=kind, seed=5)
        return [training.image_order(recipe, n, epoch)[0] for epoch in range(4)]

    for kind in ("permutation", "same", "reversed"):
        assert all(np.array_equal(np.sort(order), np.arange(n)) for order in orders(kind)), kind
    first, second, *_ = orders("permutation")
    assert not np.array_equal(first, second)
    assert all(np.array_equal(order, first) for order in orders("same"))
    back = orders("reversed")
    assert (
        np.array_equal(back[0], first)
        and np.array_equal(back[1], first[::-1])
        and np.array_equal(back[2], first)
    )
    drawn = orders("with replacement")
    assert not np.array_equal(drawn[0], drawn[1])
    assert len(np.unique(drawn[0])) / n == pytest.approx(1 - math.exp(-1), abs=0.03)


def test_the_loss_of_each_image_is_kept(digits, tmp_path):
    recipe = replace(RECIPE, order="with replacement", augmentation="crop flip")
    run = training.load_or_train("run", tiny, recipe, digits, tmp_path, keep_image_losses=True)
    losses = load_file(run.folder / "image_losses.safetensors")["image_losses"].double()
    assert losses.shape == (66, 64)
    assert losses.mean(1).numpy() == pytest.approx(run.losses, rel=1e-3)
    with pytest.raises(training.TrainingStopped):
        training.fit(
            faulty(30, press_ctrl_c), digits, tmp_path / "stopped", recipe, keep_image_losses=True
        )
    again = training.fit(tiny(), digits, tmp_path / "stopped", recipe, keep_image_losses=True)
    assert torch.equal(
        load_file(again.folder / "image_losses.safetensors")["image_losses"].double(), losses
    )
    plain = training.load_or_train("plain", tiny, recipe, digits, tmp_path)
    assert "image_losses.safetensors" not in [file.name for file in plain.files] and same(
        plain, run
    )
    with pytest.raises(
        utils.SubmissionError, match=r"lacks image_losses\.safetensors: remove it to train"
    ):
        training.load_or_train("plain", tiny, recipe, digits, tmp_path, keep_image_losses=True)


def test_a_snapshot_is_the_run_of_so_many_epochs(digits, tmp_path):
    recipe = replace(
        RECIPE,
        epochs=4,
        optimizer="adam",
        schedule="step",
        warmup=0,
        step_epochs=2,
        learning_rate=0.01,
    )
    snapshots = {1: "short", 3: "longer"}
    run = training.load_or_train("run", tiny, recipe, digits, tmp_path / "a", snapshots=snapshots)
    for epochs, name in snapshots.items():
        alone = training.load_or_train(
            name, tiny, replace(recipe, epochs=epochs), digits, tmp_path / "b"
        )
        (taken,) = (tmp_path / "a").glob(f"{name}-*")
        assert taken.name == alone.folder.name and same(training.load_run(taken), alone)
    assert same(run, training.load_or_train("run", tiny, recipe, digits, tmp_path / "b"))
    with pytest.raises(utils.SubmissionError, match="has no snapshots"):
        training.load_or_train("run", tiny, RECIPE, digits, tmp_path / "c", snapshots=snapshots)


def test_a_rate_of_zero_moves_no_weight_but_fills_adams_moments(digits, tmp_path):
    """The control run without gradients has the losses of one with them."""
    recipe = training.Recipe(epochs=2, zero_rate_epochs=2)
    zero = replace(recipe, zero_rate_epochs=0, learning_rate=0)
    control = training.load_or_train("zero", tiny, zero, digits, tmp_path)
    filled = training.load_or_train("filled", tiny, recipe, digits, tmp_path)
    weights = [load_file(run.folder / "weights.safetensors") for run in (control, filled)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert control.losses == pytest.approx(filled.losses, rel=1e-5)
    trainer = training.Trainer(tiny(), replace(recipe, epochs=3), "fp32")
    for step in range(3):
        trainer.step(batches_of(digits, recipe).batch(step), 0.0)
    state = trainer.optimizers[0].state_dict()["state"]
    assert all(values["step"] == 3 and values["exp_avg_sq"].any() for values in state.values())


def test_the_course_normalises_by_its_own_constants(digits, tmp_path):
    recipe = replace(RECIPE, normalisation="course", augmentation="")
    run = training.load_or_train("run", tiny, recipe, digits, tmp_path)
    assert run.info["normalisation"] == training.COURSE_NORMALISATION
    batches = batches_of(digits, recipe)
    image = batches.batch(0)[0][0]
    label = digits.train_images[batches.order[0]] / 255
    torch.testing.assert_close(image[1], (label[1] - 0.4822) / 0.1994)
    probabilities = utils.predict(
        training.load_weights(tiny(), run.folder), digits.test_images, training.COURSE_NORMALISATION
    )
    assert utils.accuracy_of(probabilities, digits.test_labels) == run.info["accuracy"]


@pytest.mark.parametrize(
    "optimizer, kind", [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_beta2_is_the_recipes(optimizer, kind):
    (found,) = training.make_optimizers(tiny(), training.Recipe(optimizer=optimizer, beta2=0.9))
    assert type(found) is kind and {group["betas"] for group in found.param_groups} == {(0.9, 0.9)}


def test_a_pause_does_not_count_as_training(digits, tmp_path, monkeypatch):
    """A process stops for an hour in its fourth stretch of steps; its clock ticks as it is read."""
    now = iter(range(10**6))
    pauses = []
    monkeypatch.setattr(time, "perf_counter", lambda: next(now) + sum(pauses))
    add_seconds = Metrics.add_seconds

    def pause(self, steps):
        if len(self.progress.step_seconds) == 3:
            pauses.append(3600)
        add_seconds(self, steps)

    monkeypatch.setattr(Metrics, "add_seconds", pause)
    run = training.load_or_train("run", tiny, replace(RECIPE, augmentation=""), digits, tmp_path)
    assert pauses == [3600] and run.info["seconds"] < 3 * 22 * 10
