"""The study: its networks, the list of runs, the statistics, and the study as committed."""
import copy
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, tiny, without_settings
from scipy import stats
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import training
import utils
from analysis import environment_table, figures, image_losses, run_statistics
from grading import records
from grading.archive import ArchiveError, read
from grading.policy import read_policy
from grading.verify import judge
from study import experiments, gradients, networks, results, train
from study.course_network import CourseBlock, CourseNetwork
from study.store import Store

POLICY = read_policy()
STORED = ROOT / "checkpoints" / "study"
RESULTS = json.loads((ROOT / "report" / "study.json").read_text(encoding="utf-8"))
CLAIMS = {name: claim["value"] for name, claim in RESULTS["claims"].items()}


# ------------------------------------------------------------------------------------ networks

def count_parameters(network):
    """Return the number of parameters of a network."""
    return sum(p.numel() for p in network.parameters())


def test_the_course_network_is_what_public_copies_say():
    net = CourseNetwork().eval()
    assert count_parameters(net) == 14_750_730
    sizes = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4, net.pool):
        layer.register_forward_hook(lambda _, inputs, out: sizes.append(tuple(out.shape[1:])))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [(64, 8, 8), (256, 4, 4), (512, 2, 2), (1024, 2, 2), (1024, 1, 1)]
    assert counter.get_total_flops() / 1e9 == pytest.approx(0.185, abs=5e-4)
    blocks = [module for module in net.modules() if isinstance(module, CourseBlock)]
    assert len(blocks) == 13


def test_a_course_block_adds_two_branches_after_their_relus():
    torch.manual_seed(0)
    block = CourseBlock(8, 4, 16, downsample=True).eval()
    X = torch.randn(2, 8, 6, 6)
    out = block(X)
    assert out.shape == (2, 16, 3, 3)
    assert (out >= 0).all()
    torch.testing.assert_close(out, block.branch(X) + block.shortcut(X))
    assert (block.branch(X) >= 0).all()
    assert (block.shortcut(X) >= 0).all()


def test_the_course_network_starts_xavier_uniform():
    torch.manual_seed(0)
    for module in CourseNetwork().modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound


def test_variants_change_one_thing():
    submission = count_parameters(networks.submission_network())
    assert submission == 8_898_826
    assert count_parameters(networks.unscaled_branches()) == submission
    assert count_parameters(networks.without_shortcuts()) < submission
    assert count_parameters(networks.projections_everywhere()) > submission
    for block in networks.residual_blocks(networks.submission_network()):
        assert not block.bn3.weight.any()
    images = torch.zeros(1, 3, 32, 32)
    assert networks.small_stem().layer1(images).shape == (1, 64, 32, 32)


def test_a_network_without_shortcuts_is_its_branches_alone():
    X = torch.randn(2, 1024, 2, 2).relu()
    block = networks.residual_blocks(networks.without_shortcuts().eval())[-1]
    branch = block.relu(block.bn1(block.conv1(X)))
    branch = block.relu(block.bn2(block.conv2(branch)))
    branch = block.bn3(block.conv3(branch))
    torch.testing.assert_close(block(X), block.relu(branch))


def test_a_network_with_projections_has_one_in_its_last_block():
    block = networks.residual_blocks(networks.projections_everywhere().eval())[-1]
    assert isinstance(block.shortcut, nn.Sequential)


def test_gradients_are_those_at_the_blocks_inputs():
    torch.manual_seed(0)
    net = networks.unscaled_branches()
    X = torch.randn(4, 3, 32, 32)
    labels = torch.arange(4)
    norms = gradients.gradient_norms(net, X, labels)
    assert len(norms) == 13
    inner = net.layer4[:-1](net.layer3(net.layer2(net.layer1(X)))).detach().requires_grad_()
    out = net.fc(net.pool(net.layer4[-1](inner)).flatten(1))
    nn.functional.cross_entropy(out, labels).backward()
    assert norms[-1] == pytest.approx(inner.grad.norm().item(), rel=1e-3)


# ---------------------------------------------------------------------------- the list of runs

def all_experiments(plan):
    """Return all experiments of a plan, a list."""
    return [experiment for group in experiments.groups(plan).values() for experiment in group]


@pytest.mark.parametrize("plan", experiments.PLANS.values(), ids=experiments.PLANS)
def test_every_run_has_a_name_of_its_own_a_start_before_it_and_a_control(plan):
    listed = {experiment.name: experiment for experiment in all_experiments(plan)}
    assert len(listed) == len(all_experiments(plan))
    known = set()
    for name, experiment in listed.items():
        assert not experiment.start or experiment.start in known, name
        stem = name.rpartition("-")[0]
        known |= {name, *(f"{stem}-{age}" for age in experiment.snapshots)}
        if name.endswith("-control"):
            run = listed[name.removesuffix("-control")]
            assert experiment.recipe.epochs == run.recipe.epochs
            assert can_control(experiment, run), name
        if experiment.start:
            assert any(can_control(other, experiment) for other in listed.values()), name


def can_control(control, experiment):
    """Whether an experiment has the start and the batches of another one, at a rate of zero."""
    if control.recipe.learning_rate or control.start != experiment.start:
        return False
    if control.recipe.epochs < experiment.recipe.epochs:
        return False
    return all(getattr(control.recipe, field) == getattr(experiment.recipe, field)
               for field in run_statistics.BATCH_FIELDS)


def test_no_restart_repeats_the_batches_of_a_parent():
    """With the parent's seed, its first epochs would come again, image by image."""
    for plan in experiments.PLANS.values():
        listed = {experiment.name: experiment for experiment in all_experiments(plan)}
        seeds = {experiment.recipe.seed for name, experiment in listed.items()
                 if name.startswith("parent-")}
        for experiment in listed.values():
            if experiment.start.startswith("parent-"):
                assert experiment.recipe.seed not in seeds, experiment.name


def test_the_baseline_is_the_course_script():
    recipe = experiments.parent_experiments(experiments.PLANS["gpu"], 0)[0].recipe
    rates = [recipe.rate(500 * epoch, 500) for epoch in (0, 19, 20, 119)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3 / 3, 1e-3 / 243])
    assert recipe.optimizer == "adam"
    assert recipe.batch_size == 100
    assert recipe.augmentation == "crop flip"
    assert recipe.pad_with == "zeros"
    assert recipe.normalisation == "course"


@pytest.fixture
def small_groups(monkeypatch):
    """Groups of runs of the tiny network that take seconds."""
    recipe = training.Recipe(epochs=2, schedule="step", step_epochs=1, batch_size=100)
    parent = experiments.Experiment("parent-0-2", tiny, recipe, snapshots=(1,))
    two_epochs = training.Recipe(epochs=2, seed=7)
    later = experiments.with_control(
        experiments.Experiment("later", tiny, two_epochs, "parent-0-1", keep_image_losses=True)
    )
    monkeypatch.setattr("study.store.groups", lambda plan: {"parents": [parent], "later": later})


@pytest.mark.slow
def test_a_store_trains_what_is_missing_and_loads_the_rest(
    small_groups, digits, tmp_path, monkeypatch
):
    stored = tmp_path / "stored"
    store = Store(None, digits, tmp_path / "runs", stored)
    missing_run = "the run later is not in .*: train it with python -m study.train"
    with pytest.raises(utils.SubmissionError, match=missing_run):
        store.load("later")
    store.train_all()
    runs, missing = store.load_all()
    assert list(runs) == ["parent-0-2", "parent-0-1", "later", "later-control"]
    assert not missing
    assert runs["later"].info["config"]["start"] == runs["parent-0-1"].key
    assert not (stored / "parent-0-1" / "weights.safetensors").exists()
    monkeypatch.setattr(training.runs, "fit", lambda *_: pytest.fail("it trained again"))
    assert store.train("later").key == runs["later"].key

    record = stored / "later" / "run.json"
    info = json.loads(record.read_text(encoding="utf-8"))
    info["config"]["learning_rate"] = 0.5
    record.write_text(json.dumps(info), encoding="utf-8")
    before = record.read_bytes()
    other = r"of another configuration: learning_rate 0.5 instead of "
    for refused in (store.load_all, store.train_all):  # nothing that is stored is overwritten
        with pytest.raises(utils.SubmissionError, match=other):
            refused()
    assert record.read_bytes() == before

    for weights in (tmp_path / "runs").glob("parent-0-1-*/weights.safetensors"):
        weights.unlink()
    with pytest.raises(utils.SubmissionError, match="weights of the run parent-0-1 are neither"):
        store.train_with_weights("parent-0-1")

    (stored / "parent-0-1" / "run.json").unlink()
    _, missing = store.load_all()
    assert missing == ["parent-0-1", "later", "later-control"]  # of another plan's parent, perhaps


@pytest.mark.parametrize("plan, dataset", [("gpu", "cifar10"), ("cpu", "digits")])
def test_runs_that_are_not_the_studys_need_another_folder(monkeypatch, plan, dataset):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DATASET", dataset)
    options = SimpleNamespace(plan=plan, stored=Path("checkpoints/study"), runs=Path("build"))
    with pytest.raises(utils.SubmissionError, match="would mix with the records of the study"):
        train.open_store(options)


@pytest.mark.slow
def test_a_store_measures_one_more_epoch(small_groups, digits, tmp_path):
    store = Store(None, digits, tmp_path / "runs", tmp_path / "stored")
    store.train_all()
    runs, _ = store.load_all()
    later = runs["later"]
    parent = runs["parent-0-1"]
    control = run_statistics.control_of(later, runs.values())
    assert control.name == "later-control"
    measures = run_statistics.epoch_measures(later, parent, control)
    assert measures["change"] == pytest.approx(later.accuracy - parent.accuracy)
    assert measures["jump"] == pytest.approx((later.losses - control.losses)[1:11].mean())
    differences = run_statistics.difference_by_epoch(later, control)
    highest = run_statistics.block_means(differences[-1]).max()
    assert measures["highest_block"] == pytest.approx(highest)
    assert {"rise_epoch_1", "rise_epoch_2_interval", "train_loss_change"} <= set(measures)
    assert measures["gap"] == pytest.approx(
        control.history.train_accuracy.iloc[-1] - control.accuracy
    )
    rise = measures["running_mean_last"] - measures["running_mean_first"]
    assert measures["running_mean_rise"] == pytest.approx(rise)
    assert not {"rise", "gap"} & set(run_statistics.epoch_measures(control, parent, control))

    losses = image_losses.read_image_losses(later)
    differences = losses - image_losses.read_image_losses(control)
    curve = image_losses.loss_since_seen(later, differences)
    assert (curve.steps.diff().dropna() > 0).all()
    assert curve.interval.gt(0).all()
    in_same_order = copy.deepcopy(later)
    in_same_order.info["config"]["order"] = "same"
    one_step = "all images of a step were last seen in one step"
    with pytest.raises(utils.SubmissionError, match=one_step):
        image_losses.loss_since_seen(in_same_order, differences)
    assert image_losses.slope_since_seen(in_same_order, differences) == {}
    images = image_losses.images_by_step(later)
    assert losses.mean(2).flatten() == pytest.approx(later.losses, rel=1e-3)
    assert images.shape == losses.shape


# ---------------------------------------------------------------------------------- statistics

@pytest.mark.parametrize("batches, gaps", [
    ([[0, 1], [2, 3], [0, 1], [2, 3]], [[-1, -1], [-1, -1], [2, 2], [2, 2]]),
    ([[0, 1], [2, 3], [3, 2], [1, 0]], [[-1, -1], [-1, -1], [1, 1], [3, 3]]),
    ([[0, 0], [1, 0], [2, 1], [0, 3]], [[-1, -1], [-1, 1], [-1, 1], [2, -1]]),
], ids=["same", "reversed", "twice in a batch"])
def test_steps_since_an_image_was_seen(batches, gaps):
    images = np.array(batches).reshape(2, 2, 2)  # two epochs of two steps
    assert image_losses.steps_since_seen(images).reshape(4, 2).tolist() == gaps


def test_the_rise_in_later_epochs_leaves_out_the_first():
    flat = np.zeros(500)
    steps = np.arange(500) / 500
    differences = np.stack([100 * steps, steps, 2 * steps, flat])
    rises = run_statistics.rise_by_epoch(differences)
    assert rises["rise_in_later_epochs"] == pytest.approx(0.4)  # 400 steps, half as fast
    expected = run_statistics.interval_of_mean([0.4, 0.8, 0.0])
    assert rises["rise_in_later_epochs_interval"] == pytest.approx(expected)
    assert "rise_in_later_epochs" not in run_statistics.rise_by_epoch(differences[:2])
    assert run_statistics.rise_by_epoch(differences[:1]) == {}


@pytest.mark.parametrize("order", ["permutation", "with replacement"])
def test_the_slope_by_the_epochs_since_an_image_was_seen(order):
    """Drift of the weights, the same for all images of a step, has no part in it."""
    recipe = training.Recipe(epochs=3, batch_size=50, order=order)
    run = SimpleNamespace(recipe=recipe, info={"train_images": 5_000})
    gaps = image_losses.steps_since_seen(image_losses.images_by_step(run))
    noise = np.random.default_rng(0).normal(size=gaps.shape)
    drift = np.sin(np.arange(300)).reshape(3, 100, 1)
    measured = image_losses.slope_since_seen(run, 0.2 * gaps / 100 + drift + 0.1 * noise)
    assert 0 < measured["slope_interval"] < 0.02
    assert measured["slope"] == pytest.approx(0.2, abs=2 * measured["slope_interval"])


def test_one_epoch_in_which_no_image_was_seen_before_has_no_slope():
    run = SimpleNamespace(recipe=training.Recipe(batch_size=50), info={"train_images": 500})
    assert image_losses.slope_since_seen(run, np.zeros((1, 10, 50))) == {}


STORED_LOSSES = torch.tensor([[0.5, 1.5], [2.0, 0.0]], dtype=torch.float16)


@pytest.mark.parametrize("stored, message", [
    (STORED_LOSSES, ""),
    (STORED_LOSSES.double(), "does not hold a loss for each image"),
    (STORED_LOSSES[:1], "does not hold a loss for each image"),
    (STORED_LOSSES.flatten(), "does not hold a loss for each image"),
    (STORED_LOSSES + 1, "are not the losses of its steps"),
], ids=["right", "other type", "too few", "other shape", "other means"])
def test_losses_of_images_that_do_not_fit_the_run_are_refused(stored, message):
    submission = SimpleNamespace(files={"losses"}, tensors=lambda _: {"image_losses": stored})
    record = SimpleNamespace(config=SimpleNamespace(epochs=2, batch_size=2), train_images=3)
    arguments = (submission, "losses", record, np.array([1.0, 1.0]))
    if message:
        with pytest.raises(ArchiveError, match=message):
            records.load_image_losses(*arguments)
        return
    assert records.load_image_losses(*arguments).tolist() == [[[0.5, 1.5]], [[2.0, 0.0]]]
    assert records.load_image_losses(submission, "no such file", *arguments[2:]) is None


def test_the_generalisation_gap_has_the_interval_of_both_accuracies():
    history = pd.DataFrame({"train_accuracy": [20.0, 90.0]})
    control = SimpleNamespace(
        accuracy=50.0, predictions={"labels": torch.zeros(100)}, history=history,
        info={"train_images": 400},
    )
    gap, interval = run_statistics.generalisation_gap(control)
    assert gap == 40
    assert interval == pytest.approx(1.96 * (0.5 * 0.5 / 100 + 0.9 * 0.1 / 400) ** 0.5 * 100)


def test_published_values_span_the_table_of_reports():
    reports, published = run_statistics.published()
    rises = reports.loss_500 - reports.loss_100
    assert published["least_rise"] == rises.min() < published["mean_rise"]
    assert published["greatest_rise"] == rises.max() > published["mean_rise"]
    for column in ("loss_100", "loss_500"):
        values = reports[column]
        assert published[f"least_{column}"] == values.min() < values.max()
        assert published[f"greatest_{column}"] == values.max()
    windows = pd.read_csv(run_statistics.PUBLISHED_WINDOWS).loss
    assert windows.idxmax() == len(windows) - 1  # as the study says of the last fifth
    assert published["worst"] == reports.accuracy.min() < published["best"]


class Claims(dict):
    """Collects claims as a Ledger does."""

    def claim_all(self, prefix, values, unit=None, run=None):
        self |= {f"{prefix}/{name}": value for name, value in values.items()}
        return values


def test_epochs_are_claimed_by_run_and_as_means_over_orders():
    runs = {folder.name: training.load_run(folder) for folder in STORED.glob("long-*")}
    epochs = results.epochs_from(runs, runs["long-0"])
    assert {"long-restart-0", "long-restart-2-control"} <= {run.name for run in epochs}
    assert runs["long-0"] not in epochs
    claims = Claims()
    measures, claimed = results.claim_epochs(claims, runs, [runs["long-0"]])
    assert claimed == epochs
    losses = [claims[f"long-restart-{order}/running_mean_last"] for order in range(3)]
    assert measures["long-restart"]["running_mean_last"] == pytest.approx(np.mean(losses))
    assert claims["long-restart/rise_interval"] == measures["long-restart"]["rise_interval"]
    restarts = [runs[f"long-restart-{order}"] for order in range(3)]
    mean = results.mean_losses(restarts)
    assert mean.mean() == pytest.approx(np.mean(losses))
    differences = results.differences_from_control(restarts, epochs)
    assert differences.shape == (3, 500)
    assert differences.mean() == pytest.approx(measures["long-restart"]["excess"])

    _, published = run_statistics.published()
    parents = {"our network": ("long-restart", runs["long-0"])}
    table = results.replication_table(published, parents, measures)
    assert list(table.iloc[:, 0]) == ["six reports, range", "our network", "its control"]
    assert table["rise"][0] == "0.005 to 0.040"
    gaps = [results.plus_minus(measures["long-restart"], "gap"), ""]
    assert list(table["gap (points)"]) == ["unknown", *gaps]
    assert table["before (%)"][1] == f"{runs['long-0'].accuracy:.2f}"
    assert table["step 500"][1].startswith(f"{np.mean(losses):.3f} ± ")
    correlations = results.block_correlations(restarts, epochs).split(", ")
    expected = [run_statistics.block_autocorrelation(losses) for losses in differences]
    assert correlations == [f"{correlation:.2f}" for correlation in expected]


def test_the_rise_is_that_of_the_running_mean():
    losses = np.linspace(1, 2, 500)
    running = np.cumsum(losses) / np.arange(1, 501)
    assert run_statistics.rise(losses) == pytest.approx(running[499] - running[99])


def test_the_highest_block_is_that_of_the_last_epoch():
    losses = np.zeros((2, 500))
    losses[0] = 8                 # another epoch
    losses[1, 100:125] = 2        # a block
    losses[1, 300] = 20           # a single step, less than 2 on average over its block
    assert run_statistics.loss_differences(losses, 0)["highest_block"] == 2


def test_the_peak_is_compared_with_that_of_the_restart_seed_by_seed():
    measures = {
        "restart-0": {100: {"highest_block": 5.0}, 101: {"highest_block": 9.0}, 102: {}},
        "beta2-0.9": {101: {"highest_block": 8.0}, 100: {"highest_block": 2.0}},
        "beta2-0.99": {100: {"highest_block": 2.0}},   # a single run
        "beta2-0.5": {103: {"highest_block": 1.0}, 102: {"highest_block": 1.0}},  # no pairs
    }
    measures["age-4"] = measures["beta2-0.9"]
    measures["age-4-control"] = {100: {}, 101: {}}
    changes = run_statistics.highest_block_changes(measures)
    assert list(changes) == ["beta2-0.9", "age-4"]
    assert changes["age-4"] == changes["beta2-0.9"]
    assert changes["beta2-0.9"]["highest_block_change"] == -2  # of -3 and -1
    interval = changes["beta2-0.9"]["highest_block_change_interval"]
    assert interval == pytest.approx(stats.t.ppf(0.975, 1) * 1)  # the standard error is 1
    assert run_statistics.highest_block_changes({"beta2-0.9": measures["beta2-0.9"]}) == {}


def test_the_interval_of_a_difference_is_that_of_students_t():
    draw = np.random.default_rng(1)
    values, others = draw.normal(size=4), draw.normal(size=9)
    bounds = stats.ttest_ind(values, others).confidence_interval()
    half = run_statistics.difference_interval(values, others)
    assert half == pytest.approx((bounds.high - bounds.low) / 2)
    assert np.isnan(run_statistics.difference_interval(values[:1], others[:1]))


def test_running_means_end_with_the_epoch():
    steps, means = run_statistics.running_means(np.arange(500.0))
    assert steps.tolist() == [100, 200, 300, 400, 500]
    assert means.tolist() == [49.5, 99.5, 149.5, 199.5, 249.5]
    steps, means = run_statistics.running_means(np.arange(14.0))
    assert steps.tolist() == [2, 5, 8, 11, 14]
    assert means[-1] == np.arange(14).mean()
    steps, means = run_statistics.running_means(np.arange(3.0))
    assert steps.tolist() == [1, 2, 3]


def test_figures_of_differences_have_a_line_for_each_epoch():
    losses = np.random.default_rng(0).normal(size=40)
    figure = figures.plot_excess({"a": np.stack([losses, losses + 1]), "b": losses[None]})
    one, other = figure.axes
    assert [one.get_title(), other.get_title(), other.get_ylabel()] == ["a", "b", ""]
    assert len(other.lines) == 2  # that of zero, and one order
    _, first, second = one.lines
    means = losses.reshape(20, 2).mean(1)
    assert first.get_xdata() == pytest.approx(2 * np.arange(20) + 1)  # the middle of each block
    assert first.get_ydata() == pytest.approx(means)
    assert second.get_ydata() == pytest.approx(means + 1)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["order 1", "order 2"]
    curve = pd.DataFrame({"steps": [1, 2], "mean": [0.1, 0.2], "interval": [0.1, 0.1]})
    figure = figures.plot_images_and_optimizers({"a": curve}, {"b": losses})
    left, right = figure.axes
    assert left.get_xlabel() == "steps since the image was last seen"
    assert right.lines[1].get_ydata() == pytest.approx(means)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """On noise with neighbours that resemble each other over a few steps, as losses do."""
    draw = np.random.default_rng(0)
    rises_covered = 0
    means_covered = 0
    trend = 0.001 * np.arange(500)
    truth = trend.mean() - trend[:100].mean()
    for _ in range(1000):
        noise = draw.normal(size=503)
        losses = noise[3:] + noise[2:-1] + noise[1:-2] + trend
        error = abs(run_statistics.rise(losses) - truth)
        rises_covered += error < run_statistics.rise_interval(losses)
        sample = draw.normal(size=3)
        means_covered += abs(sample.mean()) < run_statistics.interval_of_mean(sample)
    assert 920 <= rises_covered <= 990
    assert 930 <= means_covered <= 970
    drift = np.cumsum(draw.normal(size=500))
    noise = draw.normal(size=500)
    assert run_statistics.block_autocorrelation(noise) < 0.6
    assert run_statistics.block_autocorrelation(drift) > 0.6


def test_a_conclusion_needs_an_interval_that_excludes_the_contrary():
    values = {"a": 1.0, "a_interval": 0.4, "b": 1.0, "b_interval": 1.2, "c": 1.0}
    supports = run_statistics.interval_supports
    assert supports(values, "a", ">", 0)
    assert not supports(values, "b", ">", 0)
    assert supports(values, "a", "<", 1.5)
    assert not supports(values, "a", "<", 1.3)
    for name, comparison in (("c", ">"), ("a", "=="), ("d", "<")):
        with pytest.raises(KeyError):
            supports(values, name, comparison, 0)


def test_means_over_runs_have_students_interval():
    mean_over_runs = run_statistics.mean_over_runs
    measured = [
        {"x": 1.0, "x_interval": 9.0},
        {"x": 2.0, "x_interval": 9.0, "y": 1.0},
        {"x": 3.0, "x_interval": 9.0},
    ]
    interval = pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert mean_over_runs(measured) == {"x": 2.0, "x_interval": interval}
    two = mean_over_runs([{"y": 1.0}, {"y": 3.0}])
    assert two["y_interval"] == pytest.approx(12.706, rel=1e-3)
    assert mean_over_runs(measured[:1]) == {"x": 1.0, "x_interval": 9.0}
    gaps = [{"gap": 3.0, "gap_interval": 0.5}, {"gap": 3.2, "gap_interval": 0.7}]
    gap = mean_over_runs(gaps)
    assert gap["gap_interval"] == pytest.approx(0.6)  # of one network on the same images


def make_run(name, seed, device, mistakes):
    """Return a run on ten test images, `mistakes` of them wrong, made on `device`."""
    predictions = {
        "labels": torch.zeros(10),
        "predicted": (torch.arange(10) >= 10 - mistakes).float(),
    }
    info = {
        "run": name,
        "config": {"seed": seed, "learning_rate": 0.1, "start": "a"},
        "choices": {"device": device, "precision": "fp32"},
    }
    return training.Run(ROOT, info, [1], np.ones(10), predictions)


def test_runs_are_compared_on_one_machine_alone():
    runs = [make_run("x-0", 0, "cpu", 5), make_run("x-1", 1, "cpu", 4)]
    others = [
        make_run("fast-0", 0, "cpu", 6),
        make_run("fast-gpu-0", 0, "gpu", 9),
        make_run("fast-1", 1, "cpu", 6),
    ]
    of_two = run_statistics.gain(runs, others)
    assert of_two["gain"] == pytest.approx(15)
    by_image = 100 * np.array([0, 0, 0, 0, 0.5, 1, 0, 0, 0, 0])  # the mean of both seeds
    assert of_two["gain_interval"] == pytest.approx(1.96 * stats.sem(by_image), rel=1e-3)
    runs.append(make_run("x-2", 2, "cpu", 1))
    others.append(make_run("fast-2", 2, "cpu", 4))
    gains = [10, 20, 30]
    of_three = run_statistics.gain(runs, others)
    assert of_three["gain"] == pytest.approx(np.mean(gains))
    assert of_three["gain_interval"] == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(gains))
    with pytest.raises(utils.SubmissionError, match="the run x-1 has no reference: none of fast-0"):
        run_statistics.gain(runs, others[:2])
    on_two_machines = [make_run("x-0", 0, "gpu", 5), runs[1]]
    of_both = run_statistics.gain(on_two_machines, others)
    assert of_both["gain"] == pytest.approx((40 + 20) / 2)
    control = make_run("control", 0, "gpu", 5)
    control.info["config"]["learning_rate"] = 0
    assert run_statistics.control_of(make_run("x", 0, "gpu", 5), [control]) is control
    assert run_statistics.control_of(make_run("x", 0, "cpu", 5), [control]) is None


@pytest.mark.slow
def test_every_variant_of_the_fast_recipe_can_be_trained(digits):
    """Its first step on a few images, with its recipe's first filters and optimiser."""
    for experiment in experiments.ablations(experiments.PLANS["gpu"]):
        if experiment.recipe.seed == 0:
            network = experiment.network()
            if experiment.recipe.first_filters == "whitening":
                normalisation = digits.normalisation()
                training.whiten_first_filters(network, digits, normalisation, images=20)
            recipe = replace(experiment.recipe, batch_size=4)
            batches = training.Batches(digits, recipe, torch.device("cpu"))
            batches.start_epoch(0)
            trainer = training.Trainer(network, recipe, "fp32")
            loss, *_ = trainer.step(batches.batch(0), 0.001)
            assert loss.isfinite(), experiment.name


@pytest.mark.parametrize("name, group", [
    ("fast-0", "fast"),
    ("fast-gpu-4", "fast-gpu"),
    ("beta2-0.9-0", "beta2-0.9"),
    ("restart-0-0-control", "restart-0-control"),
    ("long-restart-2-control", "long-restart-control"),
    ("trial-rate-0.005", "trial-rate-0.005"),
    ("ablation-sgd-1", "ablation-sgd"),
    ("age-4-0-control", "age-4-control"),
    ("fast-12", "fast"),
    ("parent-0-4", "parent-0-4"),
    ("parent-0-16", "parent-0-16"),
    ("resnet", "resnet"),
])
def test_groups_of_runs(name, group):
    assert run_statistics.group_name(name) == group


def test_a_run_continued_elsewhere_shows_both_environments():
    here = {"device": "A", "precision": "fp32", "threads": 2, "torch": "2.14.1+cpu"}
    there = here | {"device": "B", "precision": "bf16", "earlier": [here]}
    info = {"choices": there}
    run = training.Run(None, info, None, None, {})
    described = environment_table.describe_versions(run)
    assert described == "2 threads, fp32, torch 2.14.1, then 2 threads, bf16, torch 2.14.1"
    run = training.Run(None, {"choices": here}, None, None, {})
    assert environment_table.describe_versions(run) == "2 threads, fp32, torch 2.14.1"


def test_code_that_computes_the_same_is_no_earlier_version(monkeypatch):
    run = training.Run(None, {"choices": {"engine": "a"}}, None, None, {})
    assert environment_table.is_of_earlier_code(run)
    monkeypatch.setattr(environment_table, "EQUIVALENT_ENGINES", {training.ENGINE: ("a",)})
    assert not environment_table.is_of_earlier_code(run)
    monkeypatch.setattr(environment_table, "EQUIVALENT_ENGINES", {"the last one": ("a",)})
    assert environment_table.is_of_earlier_code(run)


def test_runs_of_one_kind_or_start_share_a_row_of_the_environment_table(monkeypatch):
    """The notebook's row is left out: it needs a running notebook."""
    monkeypatch.setattr(environment_table, "notebook_row", lambda: ("notebook", "", "", "", ""))
    names = ["parent-0-16", "sgd", "beta2-0.9-0", "trial-base", "trial-decay-0.5", "long-0"]
    runs = [training.load_run(ROOT / "checkpoints" / "study" / name) for name in names]
    table = environment_table.environment_table(None, runs).set_index("item")
    _, *items = [item.removesuffix(" *") for item in table.index]
    assert items == ["parent-0-16", "from parent-0-16 (2 runs)", "trial (2 runs)", "long"]
    minutes = (runs[1].info["seconds"] + runs[2].info["seconds"]) / 60
    assert float(table["min"].iloc[2]) == pytest.approx(minutes, abs=0.05)


# ---------------------------------------------------------------------- the study as committed

def find_experiment(name):
    """Return the experiment `name` of the plan that the notebook shows."""
    for experiment in all_experiments(experiments.PLANS[experiments.STORED_PLAN]):
        if experiment.name == name:
            return experiment
    raise LookupError(name)


@pytest.mark.slow
def test_the_stored_runs_are_what_the_list_says():
    """On the official images' fingerprint, without the images."""
    for folder in sorted(STORED.iterdir()):
        run = training.load_run(folder)
        assert run.name == folder.name
        experiment = find_experiment(run.name)
        recipe = experiment.recipe
        start = training.load_run(STORED / experiment.start) if experiment.start else None
        data = POLICY.data["held_out" if experiment.uses_validation_set else "official"]
        torch.manual_seed(recipe.seed)
        expected = asdict(recipe)
        expected["network"] = training.network_probe(experiment.network(), recipe.seed)
        expected["data"] = data.fingerprint
        expected["start"] = start.key if start else ""
        assert not training.differences_between(run.info["config"], expected), run.name


def test_the_stored_runs_are_small_enough_for_a_repository():
    files = [file for file in (ROOT / "checkpoints").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 80e6


def judge_study(change=lambda submission: None):
    """Return the verdict on the committed study after `change` of what was read."""
    policy = POLICY.for_study()
    submission = read(ROOT, policy)
    change(submission)
    return judge(submission, policy)


@pytest.mark.tex
@pytest.mark.sandbox
@pytest.mark.slow
def test_the_study_holds():
    verdict = judge_study()
    good = ("verified", "recorded")
    assert not [row.message for row in verdict.findings if row.verdict not in good]
    assert len(CLAIMS) > 50
    assert set(CLAIMS) <= {row.claim for row in verdict.findings}


@pytest.mark.tex
@pytest.mark.sandbox
@pytest.mark.slow
def test_a_number_of_the_study_that_is_not_the_runs_is_found():
    def forge(submission):
        results = json.loads(submission.files["report/study.json"])
        results["claims"]["long-restart/rise"]["value"] = 0.027
        submission.files["report/study.json"] = json.dumps(results).encode()

    findings = judge_study(forge).findings
    contradictions = [row.message for row in findings if row.verdict == "contradicted"]
    found = "the paper claims long-restart/rise = 0.027; the runs' records give"
    assert any(found in message for message in contradictions)


def test_the_conclusions_follow_from_the_claims():
    names = [name for name in CLAIMS if name.startswith("conclusion/")]
    assert len(names) >= 5
    assert all(CLAIMS[name] is True for name in names)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CIFAR10_DIR"), reason="needs CIFAR-10 in CIFAR10_DIR")
def test_the_long_recipes_weights_reach_the_accuracy_claimed():
    data = utils.load_data(os.environ["CIFAR10_DIR"], "cifar10")
    run = training.load_run(STORED / "long-0")
    net = training.load_weights(networks.submission_network(), run.folder)
    probabilities = utils.predict(net, data.test_images, run.info["normalisation"])
    accuracy = utils.accuracy_of(probabilities, data.test_labels)
    assert accuracy == pytest.approx(CLAIMS["long-0/accuracy"], abs=0.05)
    differing = (probabilities.argmax(1) != run.predictions["predicted"]).sum()
    assert differing <= 5  # rounding decides a few


def result_words():
    """What README and docs have to say of the study's results: a list of strings."""
    return [
        f"{CLAIMS['fast/accuracy']:.2f} ± {CLAIMS['fast/accuracy_interval']:.2f}",
        f"{CLAIMS['fast-gpu/accuracy']:.2f} ± {CLAIMS['fast-gpu/accuracy_interval']:.2f}",
        f"{CLAIMS['long-0/accuracy']:.2f} ± {CLAIMS['long-0/accuracy_interval']:.2f}",
        f"{60 * CLAIMS['fast-gpu/least_minutes']:.1f} seconds",
        f"{CLAIMS['fast/least_minutes']:.0f} minutes",
        f"{training.load_run(STORED / 'long-0').info['seconds']:.0f} seconds",
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/how-it-works.md"])
def test_the_results_tables_say_what_the_study_says(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [words for words in result_words() if words not in text] == []


PEAK = 0.2  # a block of the loss above the control's; without a peak the highest is 0.14 or less
# One more epoch from each course parent, in three orders.
COURSE_EPOCHS = [f"restart-{seed}-{order}" for seed in range(2) for order in range(3)]


def count_peaks():
    """Return in how many of COURSE_EPOCHS a block of the loss was above PEAK."""
    return sum(CLAIMS[f"{name}/highest_block"] > PEAK for name in COURSE_EPOCHS)


def count_rises():
    """Return in how many of COURSE_EPOCHS the running mean rose."""
    return sum(CLAIMS[f"{name}/running_mean_rise"] > 0 for name in COURSE_EPOCHS)


def test_the_study_counts_peaks_and_rises_as_its_text_does():
    without_peak = [f"{results.YOUNG_GROUP}-{order}" for order in range(3)]
    without_peak += [f"long-restart-{order}" for order in range(3)]
    assert count_peaks() == 5
    assert max(CLAIMS[f"{name}/highest_block"] for name in without_peak) < PEAK
    assert count_rises() == 4
    cells = nbformat.read(ROOT / "notebooks" / "study.ipynb", 4).cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "to a peak in five of six epochs" in text and "in four of our six epochs" in text
    assert "in the four whose climb begins after the first hundred steps" in text
    assert "test accuracy falls in each of the twelve epochs" in text
    twelve = COURSE_EPOCHS + without_peak
    assert len(twelve) == 12
    for name in twelve:
        change = f"{name}/change_from_control"
        assert CLAIMS[change] + CLAIMS[f"{change}_interval"] < 0, name
    lowest = min(COURSE_EPOCHS, key=lambda name: CLAIMS[f"{name}/accuracy"])
    assert lowest == "restart-1-0"  # the text names it: course parent 2, order 1


def test_the_readmes_findings_are_the_studys():
    """Its sentences, with the numbers computed; the text has to hold each of them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    c = CLAIMS
    falls = sorted(-c[f"{name}/change_from_control"] for name in COURSE_EPOCHS)
    rises = sorted(c[f"{name}/running_mean_rise"] for name in COURSE_EPOCHS)
    number_words = {4: "four", 5: "five", 6: "six"}
    expected = [
        f"one more epoch | | | {c['published/original']:.2f} |",
        f"in {c['published/rising']} of {c['published/reports']} reports",
        f"by {c['restart-0/excess']:.3f} ± {c['restart-0/excess_interval']:.3f} and "
        f"{c['restart-1/excess']:.3f} ± {c['restart-1/excess_interval']:.3f} for the course's",
        f"by {c['long-restart/excess']:.3f} ± {c['long-restart/excess_interval']:.3f} for our",
        f"in every epoch: by {falls[0]:.1f} to {falls[-1]:.1f} points more",
        f"by {-c['long-restart/change_from_control']:.1f} ± "
        f"{c['long-restart/change_from_control_interval']:.1f} for ours",
        f"We trained {number_words[len(COURSE_EPOCHS)]} such epochs",
        f"In {number_words[count_peaks()]} of them the loss climbs to a peak",
        f"by −{-rises[0]:.3f} to +{rises[-1]:.3f}: it rises in the "
        f"{number_words[count_rises()]} epochs",
        f"by −{-c['long-restart/rise']:.3f} ± {c['long-restart/rise_interval']:.3f} beyond",
        f"show {c['published/mean_rise']:+.3f} on average",
        f"lower by {-c['beta2-0.9/highest_block_change']:.2f} ± "
        f"{c['beta2-0.9/highest_block_change_interval']:.2f} if",
        f"rises, too**, by {c['five-epochs/rise_in_later_epochs']:.3f} ± "
        f"{c['five-epochs/rise_in_later_epochs_interval']:.3f},",
        f"is {-c['ablation-no-shortcuts-0/gain']:.1f} and "
        f"{-c['ablation-no-shortcuts-1/gain']:.1f} points lower",
    ]
    assert [words for words in expected if words not in readme] == []


# decimals that are no measurements of ours: airbench's time, versions
CITED = ("3.29 seconds", "arxiv.org/abs/2404.00498", "Python 3.11")


@pytest.mark.parametrize("page", ["README.md", "docs/how-it-works.md"])
def test_each_decimal_of_the_docs_is_a_claim(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for words in CITED:
        text = text.replace(words, "")
    text = without_settings(text)
    submission = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))
    values = [claim["value"] for claim in submission["claims"].values()]
    values += [*CLAIMS.values(), 60 * CLAIMS["fast-gpu/least_minutes"]]
    printed = set()
    for value in values:
        if isinstance(value, float):
            printed.update(f"{abs(value):.{digits}f}" for digits in (1, 2, 3))
    decimals = re.findall(r"\d+\.\d+", text)
    assert decimals
    assert [number for number in decimals if number not in printed] == []


def recorded_figures(results):
    """Return the names of the figures in the record of a results file, a set."""
    return {name for name in results["code"]["files"] if name.startswith("figures/")}


def test_nothing_of_the_study_is_in_the_submission():
    """Its network, figures, claims and runs are its own; no label belongs to both notebooks."""
    submission = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))
    assert not [name for name in submission["code"]["files"] if "study" in name]
    assert recorded_figures(submission)
    assert recorded_figures(RESULTS)
    assert not recorded_figures(submission) & recorded_figures(RESULTS)
    cells = nbformat.read(ROOT / POLICY.files.notebook, 4).cells
    sources = " ".join(cell.source for cell in cells if cell.cell_type == "code")
    assert not re.search(r"\bstudy\b|fast-|long-|trial-", sources)
