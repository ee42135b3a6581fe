"""The study: the course's network, the list of runs, what is computed from them, and the study as committed."""
import copy
import json
import os
import re
from dataclasses import asdict, replace

import nbformat
import numpy as np
import pytest
import torch
from helpers import ROOT, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import training
import utils
from analysis import run_statistics
from grading import checks
from grading.archive import read
from grading.verify import judge
from study import experiments, image_losses, networks
from study.course_network import CourseBlock, CourseNetwork
from study.store import Store

POLICY = checks.read_policy()
STORED = ROOT / "checkpoints" / "study"
RESULTS = json.loads((ROOT / "report" / "study.json").read_text(encoding="utf-8"))
CLAIMS = {name: claim["value"] for name, claim in RESULTS["claims"].items()}


# ------------------------------------------------------------------------------------------------------- networks

def test_the_course_network_is_what_public_copies_say():
    net, sizes = CourseNetwork().eval(), []
    assert sum(p.numel() for p in net.parameters()) == 14_750_730
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4, net.pool):
        layer.register_forward_hook(lambda module, inputs, out: sizes.append(tuple(out.shape[1:])))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [(64, 8, 8), (256, 4, 4), (512, 2, 2), (1024, 2, 2), (1024, 1, 1)]
    assert counter.get_total_flops() / 1e9 == pytest.approx(0.185, abs=5e-4)
    blocks = [module for module in net.modules() if isinstance(module, CourseBlock)]
    assert len(blocks) == 13


def test_a_course_block_adds_two_branches_after_their_relus():
    torch.manual_seed(0)
    block, X = CourseBlock(8, 4, 16, downsample=True).eval(), torch.randn(2, 8, 6, 6)
    out = block(X)
    assert out.shape == (2, 16, 3, 3) and (out >= 0).all()
    torch.testing.assert_close(out, block.branch(X) + block.shortcut(X))
    assert (block.branch(X) >= 0).all() and (block.shortcut(X) >= 0).all()


def test_the_course_network_starts_xavier_uniform():
    torch.manual_seed(0)
    for module in CourseNetwork().modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound


def test_variants_change_one_thing():
    parameters = {name: sum(p.numel() for p in make().parameters()) for name, make in (
        ("submission", networks.submission_network), ("unscaled", networks.unscaled_branches),
        ("plain", networks.without_shortcuts), ("projections", networks.projections_everywhere))}
    assert parameters["submission"] == parameters["unscaled"] == 8_898_826
    assert parameters["plain"] < parameters["submission"] < parameters["projections"]
    X = torch.randn(2, 1024, 2, 2).relu()
    plain, projected = (networks.residual_blocks(make().eval())[-1] for make in (
        networks.without_shortcuts, networks.projections_everywhere))
    torch.testing.assert_close(plain(X), plain.relu(plain.bn3(plain.conv3(plain.relu(plain.bn2(plain.conv2(
        plain.relu(plain.bn1(plain.conv1(X)))))))) + 0 * X))
    assert isinstance(projected.shortcut, nn.Sequential)
    assert not any(block.bn3.weight.any() for block in networks.residual_blocks(networks.submission_network()))
    assert networks.small_stem().layer1(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)


def test_gradients_are_those_at_the_blocks_inputs():
    torch.manual_seed(0)
    net, X, labels = networks.unscaled_branches(), torch.randn(4, 3, 32, 32), torch.arange(4)
    norms = image_losses.gradient_norms(net, X, labels)
    assert len(norms) == 13
    inner = net.layer4[:-1](net.layer3(net.layer2(net.layer1(X)))).detach().requires_grad_()
    out = net.fc(net.pool(net.layer4[-1](inner)).flatten(1))
    nn.functional.cross_entropy(out, labels).backward()
    assert norms[-1] == pytest.approx(inner.grad.norm().item(), rel=1e-3)


# ------------------------------------------------------------------------------------------------- the list of runs

def all_experiments(plan):
    return [experiment for group in experiments.groups(plan).values() for experiment in group]


@pytest.mark.parametrize("plan", experiments.PLANS.values(), ids=experiments.PLANS)
def test_every_run_has_a_name_of_its_own_a_start_before_it_and_a_control(plan):
    listed = all_experiments(plan)
    names = [experiment.name for experiment in listed]
    assert len(set(names)) == len(names)
    known = set()
    for experiment in listed:
        assert not experiment.start or experiment.start in known, experiment.name
        known |= {experiment.name, *(f"{experiment.name.rpartition('-')[0]}-{age}" for age in experiment.snapshots)}
        if experiment.name.endswith("-control"):
            run = next(other for other in listed if other.name == experiment.name.removesuffix("-control"))
            same = ("epochs", *run_statistics.BATCHES)
            assert experiment.recipe.learning_rate == 0 and experiment.start == run.start
            assert all(getattr(experiment.recipe, name) == getattr(run.recipe, name) for name in same)


def test_no_restart_repeats_the_batches_of_a_parent():
    """With the parent's seed, its first epochs would come again, image by image and crop by crop."""
    for plan in experiments.PLANS.values():
        listed = {experiment.name: experiment for experiment in all_experiments(plan)}
        seeds = {experiment.recipe.seed for name, experiment in listed.items() if name.startswith("parent-")}
        for experiment in listed.values():
            if experiment.start.startswith("parent-"):
                assert experiment.recipe.seed not in seeds, experiment.name


def test_the_baseline_is_the_course_script():
    recipe = experiments.parents(experiments.PLANS["gpu"], 0)[0].recipe
    assert [recipe.rate(500 * epoch, 500) for epoch in (0, 19, 20, 119)] == pytest.approx(
        [1e-3, 1e-3, 1e-3 / 3, 1e-3 / 243])
    assert (recipe.optimizer, recipe.batch_size, recipe.augmentation, recipe.pad_with, recipe.normalisation) == (
        "adam", 100, "crop flip", "zeros", "course")


@pytest.fixture
def small_groups(monkeypatch):
    """Groups of runs of the tiny network that take seconds."""
    recipe = training.Recipe(epochs=2, schedule="step", step_epochs=1, batch_size=100)
    parent = experiments.Experiment("parent-0-2", tiny, recipe, snapshots=(1,))
    two_epochs = training.Recipe(epochs=2, seed=7)
    later = experiments.with_control(experiments.Experiment("later", tiny, two_epochs, "parent-0-1",
                                                            keep_image_losses=True))
    monkeypatch.setattr("study.store.groups", lambda plan: {"parents": [parent], "later": later})


def test_a_store_trains_what_is_missing_and_loads_the_rest(small_groups, digits, tmp_path, monkeypatch):
    store = Store(None, digits, tmp_path / "runs", tmp_path / "stored")
    with pytest.raises(utils.SubmissionError, match="the run later is not in .*: train it with python -m study.train"):
        store.load("later")
    store.train_all()
    runs, missing = store.load_all()
    assert list(runs) == ["parent-0-2", "parent-0-1", "later", "later-control"] and not missing
    assert runs["later"].info["config"]["start"] == runs["parent-0-1"].key
    assert not (tmp_path / "stored" / "parent-0-1" / "weights.safetensors").exists()
    monkeypatch.setattr(training.engine, "fit", lambda *_: pytest.fail("it trained again"))
    assert store.train("later").key == runs["later"].key
    record = tmp_path / "stored" / "later" / "run.json"
    info = json.loads(record.read_text())
    info["config"]["learning_rate"] = 0.5
    record.write_text(json.dumps(info))
    before = record.read_bytes()
    for refused in (store.load_all, store.train_all):  # nothing that is stored is overwritten
        with pytest.raises(utils.SubmissionError, match=r"of another configuration: other learning_rate \(0.5 there"):
            refused()
    assert record.read_bytes() == before
    (tmp_path / "stored" / "parent-0-1" / "run.json").unlink()
    assert store.load_all()[1] == ["parent-0-1", "later", "later-control"]  # of another plan's parent, perhaps


def test_a_store_measures_one_more_epoch(small_groups, digits, tmp_path):
    store = Store(None, digits, tmp_path / "runs", tmp_path / "stored")
    store.train_all()
    runs, _ = store.load_all()
    control = run_statistics.control_of(runs["later"], runs.values())
    assert control.name == "later-control"
    found = run_statistics.epoch_measures(runs["later"], runs["parent-0-1"], control)
    assert found["change"] == pytest.approx(runs["later"].accuracy - runs["parent-0-1"].accuracy)
    assert found["jump"] == pytest.approx((runs["later"].losses - control.losses)[1:11].mean())
    assert {"rise_epoch_1", "rise_epoch_2_interval", "train_loss_change"} <= set(found)
    assert "rise" not in run_statistics.epoch_measures(control, runs["parent-0-1"], control)
    curve = image_losses.loss_since_seen(runs["later"], control)
    assert (curve.steps.diff().dropna() > 0).all() and curve.interval.gt(0).all()
    in_same_order = copy.deepcopy(runs["later"])
    in_same_order.info["config"]["order"] = "same"
    with pytest.raises(utils.SubmissionError, match="all images of a step were last seen in one step"):
        image_losses.loss_since_seen(in_same_order, control)
    images = image_losses.images_by_step(runs["later"])
    losses = image_losses.image_losses(runs["later"])
    assert losses.mean(2).flatten() == pytest.approx(runs["later"].losses, rel=1e-3) and images.shape == losses.shape


# ----------------------------------------------------------------------------------------------------- statistics

def test_steps_since_an_image_was_seen():
    orders = {"same": [[0, 1], [2, 3], [0, 1], [2, 3]], "reversed": [[0, 1], [2, 3], [3, 2], [1, 0]],
              "twice": [[0, 0], [1, 0], [2, 1], [0, 3]]}
    found = {name: image_losses.steps_since_seen(np.array(steps).reshape(2, 2, 2)).reshape(4, 2).tolist()
             for name, steps in orders.items()}
    assert found == {"same": [[-1, -1], [-1, -1], [2, 2], [2, 2]], "reversed": [[-1, -1], [-1, -1], [1, 1], [3, 3]],
                     "twice": [[-1, -1], [-1, 1], [-1, 1], [2, -1]]}


def test_the_rise_is_that_of_the_running_mean():
    losses = np.linspace(1, 2, 500)
    running = np.cumsum(losses) / np.arange(1, 501)
    assert run_statistics.rise(losses) == pytest.approx(running[499] - running[99])


def test_intervals_cover_the_truth_as_often_as_they_say():
    """On noise with neighbours that resemble each other over a few steps, as losses do."""
    draw, hits, means = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        noise = draw.normal(size=503)
        losses = (noise[3:] + noise[2:-1] + noise[1:-2]) + 0.001 * np.arange(500)
        truth = 0.001 * (np.arange(500).mean() - np.arange(100).mean())
        hits += abs(run_statistics.rise(losses) - truth) < run_statistics.rise_interval(losses)
        sample = draw.normal(size=3)
        means += abs(sample.mean()) < run_statistics.interval_of_mean(sample)
    assert 920 <= hits <= 990 and 930 <= means <= 970
    drift = np.cumsum(draw.normal(size=500))
    noise = draw.normal(size=500)
    assert run_statistics.block_autocorrelation(noise) < 0.6 < run_statistics.block_autocorrelation(drift)


def test_a_conclusion_needs_an_interval_that_excludes_the_contrary():
    values = {"a": 1.0, "a_interval": 0.4, "b": 1.0, "b_interval": 1.2, "c": 1.0}
    supports = run_statistics.interval_supports
    assert supports(values, "a", ">", 0) and not supports(values, "b", ">", 0)
    assert supports(values, "a", "<", 1.5) and not supports(values, "a", "<", 1.3)
    for name, comparison in (("c", ">"), ("a", "=="), ("d", "<")):
        with pytest.raises(KeyError):
            run_statistics.interval_supports(values, name, comparison, 0)


def test_means_over_runs_have_students_interval():
    found = run_statistics.mean_over_runs([{"x": 1.0, "x_interval": 9.0}, {"x": 2.0, "x_interval": 9.0, "y": 1.0},
                                {"x": 3.0, "x_interval": 9.0}])
    assert found == {"x": 2.0, "x_interval": pytest.approx(4.303 / 3**0.5, rel=1e-3)}
    assert run_statistics.mean_over_runs([{"y": 1.0}, {"y": 3.0}])["y_interval"] == pytest.approx(12.706, rel=1e-3)
    assert run_statistics.mean_over_runs([{"x": 1.0, "x_interval": 9.0}]) == {"x": 1.0, "x_interval": 9.0}


def test_runs_are_compared_on_one_machine_alone():
    def run(name, seed, device, right):
        predictions = {"labels": torch.zeros(10), "predicted": (torch.arange(10) >= right).float()}
        config = {"seed": seed, "learning_rate": 0.1, "start": "a"}
        info = {"run": name, "config": config, "choices": {"device": device, "precision": "fp32"}}
        return training.Run(ROOT, info, [1], np.ones(10), predictions)
    runs = [run("x-0", 0, "cpu", 5), run("x-1", 1, "cpu", 6)]
    others = [run("fast-0", 0, "cpu", 4), run("fast-gpu-0", 0, "gpu", 1), run("fast-1", 1, "cpu", 4)]
    assert run_statistics.gain(runs, others)["gain"] == pytest.approx(15)
    with pytest.raises(KeyError):
        run_statistics.gain(runs, others[:2])
    control = run("control", 0, "gpu", 5)
    control.info["config"]["learning_rate"] = 0
    assert run_statistics.control_of(run("x", 0, "gpu", 5), [control]) is control
    assert run_statistics.control_of(run("x", 0, "cpu", 5), [control]) is None


def test_every_variant_of_the_fast_recipe_can_be_trained(digits):
    """Its first step on a few images, with its recipe's first filters and optimiser."""
    for experiment in experiments.ablations(experiments.PLANS["gpu"]):
        if experiment.recipe.seed == 0:
            network = experiment.network()
            if experiment.recipe.first_filters == "whitening":
                training.whiten_first_filters(network, digits, digits.normalisation(), images=20)
            recipe = replace(experiment.recipe, batch_size=4)
            batches = training.Batches(digits, recipe, torch.device("cpu"))
            batches.start_epoch(0)
            loss, *_ = training.Learner(network, recipe, "fp32").step(batches.batch(0), 0.001)
            assert loss.isfinite(), experiment.name


def test_groups_of_runs():
    names = {"fast-0": "fast", "fast-gpu-4": "fast-gpu", "long-restart-2-control": "long-restart-control",
             "trial-rate-0.005": "trial-rate-0.005", "ablation-sgd-1": "ablation-sgd", "resnet": "resnet"}
    assert {name: run_statistics.group_name(name) for name in names} == names


# --------------------------------------------------------------------------------------------- the study as committed

def test_the_stored_runs_are_what_the_list_says():
    """On the official images' fingerprint, without the images."""
    for name in sorted(path.name for path in STORED.iterdir()):
        run = training.load_run(STORED / name)
        assert run.name == name
        experiment = next(found for plan in experiments.PLANS.values() for found in all_experiments(plan)
                          if found.name == name)
        start = training.load_run(STORED / experiment.start) if experiment.start else None
        torch.manual_seed(experiment.recipe.seed)
        expected = asdict(experiment.recipe) | {
            "network": training.network_probe(experiment.network(), experiment.recipe.seed),
            "data": POLICY.data["held_out" if experiment.held_out else "official"].fingerprint,
            "start": start.key if start else ""}
        assert not training.differences_between(run.info["config"], expected), name
    assert sum(file.stat().st_size for file in (ROOT / "checkpoints").rglob("*") if file.is_file()) < 80e6


def test_the_study_holds():
    policy = POLICY.for_study()
    verdict = judge(read(ROOT, policy), policy)
    assert not [row.message for row in verdict.findings if row.verdict != "holds" and row.verdict != "recorded"]
    assert len(CLAIMS) > 50 and set(CLAIMS) <= {row.claim for row in verdict.findings}


def test_a_number_of_the_study_that_is_not_the_runs_is_found(tmp_path):
    policy = POLICY.for_study()
    submission = read(ROOT, policy)
    forged = json.loads(submission.files["report/study.json"])
    forged["claims"]["long-restart/rise"]["value"] = 0.027
    submission.files["report/study.json"] = json.dumps(forged).encode()
    said = [row.message for row in judge(submission, policy).findings if row.verdict == "contradicted"]
    assert any("the paper claims long-restart/rise = 0.027; the runs' records give" in row for row in said)


def test_the_conclusions_follow_from_the_claims():
    names = [name for name in CLAIMS if name.startswith("conclusion/")]
    assert len(names) >= 5 and all(CLAIMS[name] is True for name in names)


@pytest.mark.skipif(not os.environ.get("CIFAR10_DIR"), reason="needs CIFAR-10 in CIFAR10_DIR")
def test_the_long_recipes_weights_reach_the_accuracy_claimed():
    data, run = utils.load_data(os.environ["CIFAR10_DIR"], "cifar10"), training.load_run(STORED / "long-0")
    net = training.load_weights(networks.submission_network(), run.folder)
    probabilities = utils.predict(net, data.test_images, run.info["normalisation"])
    assert utils.accuracy_of(probabilities, data.test_labels) == pytest.approx(CLAIMS["long-0/accuracy"], abs=0.05)
    assert (probabilities.argmax(1) != run.predictions["predicted"]).sum() <= 5  # rounding decides a few


def test_the_readme_says_what_the_study_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    headline = readme.partition("\n\n")[2].partition("\n\n")[0]
    best = training.load_run(STORED / "long-0")
    for words in (f"{CLAIMS['fast/accuracy']:.2f} % ± {CLAIMS['fast/accuracy_interval']:.2f}",
                  f"{60 * CLAIMS['fast-gpu/least_minutes']:.1f} seconds on one H200",
                  f"{CLAIMS['fast/least_minutes']:.0f} minutes on two CPU cores",
                  f"{CLAIMS['long-0/accuracy']:.2f} %", f"{best.info['seconds']:.0f} seconds"):
        assert words in headline, words


def test_nothing_of_the_study_is_in_the_submission():
    """Its network, figures, claims and runs are its own; no label and no figure belongs to both notebooks."""
    submission, study = (json.loads((ROOT / "report" / name).read_text(encoding="utf-8")) for name in (
        "results.json", "study.json"))
    assert not [name for name in submission["code"]["files"] if "study" in name]
    figures = [{name for name in found["code"]["files"] if name.startswith("figures/")}
               for found in (submission, study)]
    assert figures[0] and figures[1] and not figures[0] & figures[1]
    sources = " ".join(cell.source for cell in nbformat.read(ROOT / POLICY.files.notebook, 4).cells
                       if cell.cell_type == "code")
    assert not re.search(r"\bstudy\b|fast-|long-|trial-", sources)
