"""fit: what it computes, that it repeats, and that nothing stops it for good."""
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import training
import utils
from speed import ProductGradients

RECIPE = training.Recipe(epochs=3, batch_size=64, optimizer="sgd", learning_rate=0.05, schedule="linear", warmup=0.2,
                         weight_decay=5e-4, label_smoothing=0.1, augmentation="crop flip trivialaugment cutmix",
                         pad_with="reflection")


def same(run, other):
    """Whether two finished runs agree to the bit in weights, losses, predictions and history, times aside."""
    weights = [load_file(r.folder / "weights.safetensors") for r in (run, other)]
    return (all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
            and np.array_equal(run.losses, other.losses)
            and all(torch.equal(run.predictions[k], other.predictions[k]) for k in run.predictions)
            and run.history.drop(columns="seconds").equals(other.history.drop(columns="seconds")))


class Faulty(nn.Module):
    """The tiny network, with something happening at its n-th training step."""

    def __init__(self, at, what):
        super().__init__()
        self.net, self.at, self.what, self.calls = tiny(), at, what, 0

    def forward(self, x):
        self.calls += self.training
        out = self.net(x)
        return self.what(out) if self.training and self.calls == self.at else out


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory):
    return training.fit(tiny(), digits, tmp_path_factory.mktemp("runs") / "whole", RECIPE)


def test_learns_and_repeats(digits, uninterrupted, tmp_path):
    assert uninterrupted.history.train_loss.iloc[-1] < uninterrupted.history.train_loss.iloc[0]
    assert uninterrupted.info["accuracy"] > 60  # chance is 10
    assert len(uninterrupted.losses) == 3 * (1437 // 64)
    assert uninterrupted.info["accuracy_in_full_precision"] == uninterrupted.history.test_accuracy.iloc[-1]
    assert same(uninterrupted, training.fit(tiny(), digits, tmp_path / "again", RECIPE))
    assert not same(uninterrupted, training.fit(tiny(), digits, tmp_path / "seed", replace(RECIPE, seed=1)))


def test_finished_run_returns_at_once_and_loads_its_weights(digits, uninterrupted, monkeypatch):
    net = tiny()
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it trained again"))
    run = training.fit(net, digits, uninterrupted.folder, RECIPE)
    found = utils.accuracy_of(utils.predict(net, digits.test_images, run.info["normalisation"]), digits.test_labels)
    assert found == run.info["accuracy"]
    assert not (run.folder / "state.pt").exists()


def test_another_configuration_is_refused(digits, uninterrupted):
    with pytest.raises(utils.SubmissionError, match=r"learning_rate \(0.05 there, 0.1 now\)"):
        training.fit(tiny(), digits, uninterrupted.folder, replace(RECIPE, learning_rate=0.1))
    wider = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(utils.SubmissionError, match="network"):
        training.fit(wider, digits, uninterrupted.folder, RECIPE)


@pytest.mark.parametrize("step", [1, 10, 22, 30])  # the first, mid-epoch, an epoch's last, the second epoch
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_ctrl_c_saves_and_resumes_to_the_same_bits(digits, tmp_path, step, optimizer):
    def interrupt(out):
        os.kill(os.getpid(), signal.SIGINT)
        return out
    folder, recipe = tmp_path / "run", replace(RECIPE, optimizer=optimizer, learning_rate=0.01)
    uninterrupted = training.fit(tiny(), digits, tmp_path / "whole", recipe)
    faulty = Faulty(step, interrupt)
    with pytest.raises(training.TrainingStopped, match="run this again to continue"):
        training.fit(faulty, digits, folder, recipe)
    # Its parameters are named "net.…"; what was saved is renamed so that the plain network can continue it.
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["epoch"] * 22 + state["step"] == step
    state["model"] = {k.removeprefix("net."): v for k, v in state["model"].items()}
    state["config"]["network"] = uninterrupted.info["config"]["network"]
    torch.save(state, folder / "state.pt")
    assert same(uninterrupted, training.fit(tiny(), digits, folder, recipe))


@pytest.mark.parametrize("filter_size, stride, padding",
                         [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (5, 3, 0), (7, 2, 3)])
def test_gradients_by_products_are_those_of_torch(filter_size, stride, padding):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, filter_size, stride, padding).double().to(memory_format=torch.channels_last)
    for height in (h for h in (1, 2, 7, 8) if h + 2 * padding >= filter_size):
        X = torch.randn(2, 4, height, height + 1 + filter_size, dtype=torch.double, requires_grad=True)
        found, of = [], torch.randn_like(layer(X))
        for context in (contextlib.nullcontext(), ProductGradients()):
            with context:
                out = layer(X)
            assert ("_Convolution" in type(out.grad_fn).__name__) == isinstance(context, ProductGradients)
            found.append([out, *torch.autograd.grad(out, [X, *layer.parameters()], of)])
        torch.testing.assert_close(*found)


def test_other_convolutions_are_left_to_torch():
    X = torch.randn(1, 4, 8, 8)
    cases = [(nn.Conv2d(4, 4, 3), X)]  # no gradient is wanted of the first layer's input
    for settings in ({"groups": 2}, {"dilation": 2}, {"bias": False}, {"padding": "same"}):
        cases.append((nn.Conv2d(4, 4, 3, **settings), X.clone().requires_grad_()))
    with ProductGradients():
        for layer, inputs in cases:
            out = layer(inputs)
            assert "_Convolution" not in type(out.grad_fn).__name__
            out.sum().backward()


@pytest.mark.parametrize("change", [{"optimizer": "adamw"}, {"schedule": "cosine"}, {"augmentation": "mixup"}])
def test_unknown_words_in_a_recipe_are_refused(digits, tmp_path, change):
    with pytest.raises(utils.SubmissionError, match=f"{next(iter(change.values()))}' is none of"):
        training.fit(tiny(), digits, tmp_path / "run", replace(RECIPE, **change))


def test_muon_moves_filters_by_orthogonal_matrices_and_the_rest_by_adamw():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    muon, adamw = training._optimizers(layer, training.Recipe(optimizer="muon", momentum=0.95))
    layer(torch.randn(8, 4, 5, 5)).square().mean().backward()
    for optimizer in (muon, adamw):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = 0.01
        optimizer.step()
    moved = (weight - layer.weight).flatten(1) / (0.01 * 0.2 * 36 ** 0.5)  # the size that Liu et al. give it
    assert torch.linalg.svdvals(moved).sub(1).abs().max() < 0.4  # Newton-Schulz: singular values near 1
    torch.testing.assert_close(bias - layer.bias, 0.01 * layer.bias.grad.sign(), rtol=1e-3, atol=1e-6)


def test_other_data_is_refused_for_an_unfinished_run(digits, tmp_path):
    stopped = Faulty(5, lambda out: os.kill(os.getpid(), signal.SIGINT) or out)
    with pytest.raises(training.TrainingStopped):
        training.fit(stopped, digits, tmp_path / "run", RECIPE)
    other = replace(digits, train_labels=digits.train_labels.flip(0))
    with pytest.raises(utils.SubmissionError, match="other data"):
        training.fit(Faulty(0, None), other, tmp_path / "run", RECIPE)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
@pytest.mark.parametrize("poison", [lambda out: out * torch.nan, lambda out: out + (out - out).log().sum()])
def test_a_loss_that_is_not_finite_changes_nothing_and_stops(digits, tmp_path, optimizer, poison, monkeypatch):
    net, seen = Faulty(25, poison), []
    keep = training.Batches.batch  # record the weights before each step
    monkeypatch.setattr(training.Batches, "batch", lambda self, step: (
        seen.append([p.clone() for p in net.parameters()]), keep(self, step))[1])
    with pytest.raises(utils.SubmissionError, match=r"not finite at epoch 2, step 3, learning rate .*try a lower one"):
        training.fit(net, digits, tmp_path / "run", replace(RECIPE, optimizer=optimizer, learning_rate=0.01))
    assert all(torch.equal(a, b) for a, b in zip(seen[24], seen[25], strict=True))  # that update was not applied
    assert not all(torch.equal(a, b) for a, b in zip(seen[23], seen[24], strict=True))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["epoch"] == 1 and all(v.isfinite().all() for v in state["model"].values())


def test_no_gpu_memory_is_one_sentence(digits, tmp_path):
    def full(out):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(utils.SubmissionError, match="batch of 64; try BATCH_SIZE=32"):
        training.fit(Faulty(3, full), digits, tmp_path / "run", RECIPE)


def test_compile_failing_falls_back_and_says_so(digits, tmp_path, monkeypatch, capsys, uninterrupted):
    def fail(model):
        raise RuntimeError("no C++ compiler")
    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setitem(training.COMPILE_PAYS, utils.DEVICE.type, 0)
    run = training.fit(tiny(), digits, tmp_path / "run", RECIPE)
    assert "torch.compile failed (no C++ compiler)" in capsys.readouterr().out
    assert not run.info["choices"]["compiled"] and run.info["accuracy"] > 60


def test_a_log_file_gets_lines_and_no_bars(digits, tmp_path, capfd):
    run = training.fit(tiny(), digits, tmp_path / "long", replace(RECIPE, epochs=4))
    training.fit(tiny(), digits, tmp_path / "short", replace(RECIPE, epochs=1, batch_size=12))
    out, err = capfd.readouterr()
    assert err == "" and "\r" not in out
    lines = out.splitlines()
    assert [line.split()[:3] for line in lines[:4]] == [["epoch", str(n), "train_loss"] for n in range(1, 5)]
    assert re.fullmatch(r"Epoch \[1/1\], Step \[100/119\] Loss: \d\.\d{4}", lines[4])
    assert lines[5].startswith("Epoch [1/1], Step [119/119] Loss: ") and len(lines) == 6
    assert list(run.history.epoch) == [1, 2, 3, 4] and run.history.seconds.is_monotonic_increasing


CHILD = """
    import resource, sys
    sys.path[:0] = [{root!r}, {tests!r}]
    import training, utils
    from conftest import tiny
    from test_training import RECIPE
    training.SAVE_EVERY = 0  # save after every step, so that many kills hit the writing
    {before}
    print("ready", flush=True)
    try:
        training.fit(tiny(), utils._load_digits(), {folder!r}, RECIPE)
    except utils.SubmissionError as error:
        sys.exit(str(error))
"""


def child(folder, before="pass"):
    code = textwrap.dedent(CHILD).format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder), before=before)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_at_random_moments_never_loses_or_changes_the_run(uninterrupted, tmp_path):
    folder, dice, kills, reached = tmp_path / "run", random.Random(0), 0, -1
    while not (folder / "run.json").exists():
        process = child(folder)
        process.stdout.readline()
        if kills < 12:
            time.sleep(dice.uniform(0.05, 0.4))
            process.kill()
            kills += 1
        out, err = process.communicate()
        assert not err.strip() or process.returncode == -signal.SIGKILL, err
        if (folder / "state.pt").exists():
            state = torch.load(folder / "state.pt", weights_only=True)  # whole, whenever the kill came
            now = state["epoch"] * 22 + state["step"]
            assert now >= reached
            reached = now
    assert kills > 2 and same(uninterrupted, training.load_run(folder))


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


def test_batches_crop_flip_and_normalise(digits):
    recipe = replace(RECIPE, augmentation="crop flip", pad_with="zeros")
    batches = training.Batches(digits, recipe, torch.device("cpu"))
    batches.start_epoch(3)
    images, labels, _, share = batches.batch(2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in digits.normalisation())
    for i, image in enumerate(images):
        n = batches.order[2 * 64 + i]
        top, left = batches.shift[:, 2 * 64 + i]
        expected = F.pad(digits.train_images[n], (4, 4, 4, 4))[:, top:top + 32, left:left + 32] / 255
        expected = (expected.flip(2) if batches.flip[2 * 64 + i] else expected) - mean
        torch.testing.assert_close(image, expected / std)
        assert labels[i] == digits.train_labels[n]
    assert share == 0 and batches.flip.float().mean() == pytest.approx(0.5, abs=0.05)
    assert set(batches.shift.unique().tolist()) == set(range(9))


def test_reflection_repeats_the_image_at_its_edges(digits):
    batches = training.Batches(digits, RECIPE, torch.device("cpu"))
    expected = F.pad(digits.train_images[:5].float(), (4, 4, 4, 4), mode="reflect").byte()
    assert torch.equal(batches.images[:5], expected)


def test_cutmix_weighs_labels_by_area(digits):
    recipe = replace(RECIPE, augmentation="cutmix", batch_size=32)
    batches, plain = (training.Batches(digits, replace(recipe, augmentation=words), torch.device("cpu"))
                      for words in ("cutmix", ""))
    batches.start_epoch(0)
    plain.start_epoch(0)
    mixed = 0
    for step in range(batches.steps):
        images, labels, others, share = batches.batch(step)
        original = plain.batch(step)[0]
        pasted = (images != original).any(1).any(0)  # of the batch: where any image has changed
        assert torch.equal(others, labels.roll(1) if share else labels)
        assert pasted.float().mean() <= share + 1e-6
        mixed += share > 0
    assert 0.3 * batches.steps < mixed < 0.7 * batches.steps


def test_trivialaugment_derives_from_seed_epoch_and_step_alone(digits):
    """Eight images by eight share an operation; batches with CutMix, and all other draws, are as without it."""
    recipe = replace(RECIPE, augmentation="crop flip cutmix trivialaugment")
    changed, again, plain = (training.Batches(digits, replace(recipe, augmentation=words), torch.device("cpu"))
                             for words in (recipe.augmentation, recipe.augmentation, "crop flip cutmix"))
    for batches in (changed, again, plain):
        batches.start_epoch(2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in digits.normalisation())
    torch.manual_seed(7)
    before, differing = torch.get_rng_state(), 0
    for step in reversed(range(changed.steps)):
        images, labels, others, share = changed.batch(step)
        assert torch.equal(again.batch(step)[0], images) and torch.equal(torch.get_rng_state(), before)
        original, *expected = plain.batch(step)
        assert torch.equal(labels, expected[0]) and torch.equal(others, expected[1]) and share == expected[2]
        if share:
            assert torch.equal(images, original)
        else:
            differing += not torch.equal(images, original)
            first = ((original[:8] * std + mean) * 255).round().byte()
            with torch.random.fork_rng():
                torch.manual_seed(changed.seeds[step])
                torch.testing.assert_close(images[:8], (changed.change(first) / 255 - mean) / std, atol=1e-5, rtol=0)
    assert differing > 5


def test_schedules():
    linear = training.Recipe(epochs=10, learning_rate=1.0, schedule="linear", warmup=0.2)
    rates = [linear.rate(step, 100) for step in range(1000)]
    assert max(rates) == pytest.approx(1, abs=0.01) and 198 <= np.argmax(rates) <= 201
    assert rates[0] < 0.01 and rates[-1] < 0.01 and rates[600] == pytest.approx(0.5, abs=0.01)
    course = replace(linear, schedule="thirds")
    assert [course.rate(100 * e, 100) for e in (0, 19, 20, 40)] == pytest.approx([1, 1, 1 / 3, 1 / 9])
    assert replace(linear, schedule="constant").rate(7, 100) == 1


def test_normalisation_is_that_of_the_training_images(digits):
    images = digits.train_images.double() / 255
    mean, std = digits.normalisation()
    assert mean == pytest.approx(images.mean((0, 2, 3)).tolist()) and std == pytest.approx(
        images.std((0, 2, 3), unbiased=False).tolist())


def test_held_out_images_are_not_trained_on(digits):
    part = digits.held_out(200)
    assert len(part.train_labels) == 1237 and len(part.test_labels) == 200 and "held out" in part.source
    everything = torch.cat([part.train_images, part.test_images]).flatten(1).sum(1).sort().values
    assert torch.equal(everything, digits.train_images.flatten(1).sum(1).sort().values)


def test_no_second_float_copy_of_the_data():
    """In memory: beside the images themselves one padded copy in uint8, and a batch at a time in float32."""
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
    ratio = float(subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
                                 check=True).stdout)
    assert ratio < 1.5  # a float32 copy would be 4
