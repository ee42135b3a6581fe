"""What a student may meet in training: damaged runs, two programs at once, odd parameters."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, tiny
from safetensors.torch import load_file, save_file
from test_training import RECIPE, batches_of, faulty, press_ctrl_c
from torch import nn

import training
import utils
from training import console, runs
from training.console import Console
from training.lock import lock_run
from training.metrics import Metrics
from training.progress import Progress

RUN = ROOT / "checkpoints" / "resnet"
READ = ("run.json", "history.csv", "losses.csv", "predictions.safetensors")


@pytest.fixture
def run_folder(tmp_path):
    """A copy of a stored run."""
    left_out = shutil.ignore_patterns("weights*")
    return shutil.copytree(RUN, tmp_path / "resnet", ignore=left_out)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("share", [0, 0.5, 0.97, 1])
def test_a_file_that_is_cut_off_is_named_in_one_sentence(run_folder, name, share):
    assert training.load_run(run_folder).accuracy > 50
    content = (run_folder / name).read_bytes()
    cut = int(share * (len(content) - 3))  # "1" loses the last number's end
    (run_folder / name).write_bytes(content[:cut])
    with pytest.raises(utils.SubmissionError, match="is missing or damaged") as caught:
        training.load_run(run_folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"{run_folder / name} is") and "\n" not in sentence
    (run_folder / name).unlink()
    if name == "run.json":  # without it there is no run
        assert training.load_run(run_folder) is None
    else:
        with pytest.raises(utils.SubmissionError, match=f"{name} is missing or damaged"):
            training.load_run(run_folder)


def test_a_record_or_tensor_that_is_missing_is_named(run_folder):
    record = run_folder / "run.json"
    info = json.loads(record.read_text(encoding="utf-8"))
    without_source = {name: value for name, value in info.items() if name != "source"}
    record.write_text(json.dumps(without_source), encoding="utf-8")
    with pytest.raises(utils.SubmissionError, match=r"run.json .*\(it has no entry source"):
        training.load_run(run_folder)
    record.write_text(json.dumps(info), encoding="utf-8")
    predictions = load_file(run_folder / "predictions.safetensors")
    del predictions["labels"]
    save_file(predictions, run_folder / "predictions.safetensors")
    with pytest.raises(utils.SubmissionError, match=r"predictions.*\(it has no tensor labels"):
        training.load_run(run_folder)


def test_a_history_that_lacks_an_epoch_is_no_whole_one(run_folder):
    file = run_folder / "history.csv"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(utils.SubmissionError, match="it has 4 rows for 5 epochs"):
        training.load_run(run_folder)


# ------------------------------------------------------------------------- two programs, a pause


def test_a_run_is_trained_by_one_program_at_a_time(digits, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = replace(RECIPE, epochs=1, augmentation="")
    with lock_run(folder), pytest.raises(utils.SubmissionError, match="another program"):
        training.fit(tiny(), digits, folder, recipe)
    (folder / "lock").touch()  # as a program leaves it that was killed
    run = training.fit(tiny(), digits, folder, recipe)
    assert not (folder / "lock").exists()
    assert "lock" not in [file.name for file in run.files]


def test_a_resumed_run_has_its_threads_and_names_all_machines(
    digits, tmp_path, monkeypatch, capsys
):
    recipe = replace(RECIPE, epochs=1, augmentation="")
    here = training.environment()
    monkeypatch.setattr(runs, "environment", lambda: {**here, "threads": torch.get_num_threads()})
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    with pytest.raises(training.TrainingStopped):
        training.fit(faulty(5, press_ctrl_c), digits, tmp_path / "run", recipe)
    torch.set_num_threads(before)
    capsys.readouterr()
    other = {**here, "device": "another one"}
    monkeypatch.setattr(runs, "environment", lambda: {**other, "threads": before + 1})
    run = training.fit(tiny(), digits, tmp_path / "run", recipe)
    assert torch.get_num_threads() == before
    said = capsys.readouterr().out
    assert f"continues with {before + 1} CPU threads, as it began" in said
    assert "continuing at epoch 1 of 1, step 6 of 22" in said
    assert f"device {here['device']} before, another one now" in said
    assert run.device == f"{here['device']}, then another one"
    assert [entry["device"] for entry in run.environments] == [here["device"], "another one"]


def test_log_lines_of_earlier_epochs_are_shown_after_a_resume():
    row = {"epoch": 1, "train_loss": 0.5}
    assert Console(Progress(epoch=1, history=[row]), 5, 22).lines == ["epoch 1  train_loss 0.5"]
    losses = [1.0] * 100 + [2.0] * 19 + [3.0] * 7
    lines = Console(Progress(epoch=1, step=7, losses=losses), 2, 119).lines
    assert lines == [
        "Epoch [1/2], Step [100/119] Loss: 1.0000",
        "Epoch [1/2], Step [119/119] Loss: 1.1597",
    ]


def test_a_notebook_keeps_what_the_running_cell_printed_before_a_run_ended(capsys, monkeypatch):
    cell = SimpleNamespace(execution_count=7)
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    monkeypatch.setattr(console, "get_ipython", lambda: cell)
    monkeypatch.setattr(console, "clear_output", lambda wait: None)
    console.print_line("of another cell")
    cell.execution_count = 8
    console.print_line("the first run is not used: other images")
    row = {"epoch": 1, "train_loss": 0.5, "seconds": 12345.6}
    Console(Progress(epoch=1, history=[row]), 5, 22).finish()
    console.print_line("the second run")
    capsys.readouterr()
    Console(Progress(), 5, 22).finish()
    assert capsys.readouterr().out.splitlines() == [
        "the first run is not used: other images",
        "epoch 1  train_loss 0.5  seconds 12346",
        "the second run",
    ]


def test_gradients_that_overflow_are_not_called_a_loss(tmp_path):
    metrics = Metrics(Progress(epoch=2, step=7), tmp_path)
    metrics.add(torch.tensor([0.5, 0.9, 0.5]))
    sentence = "^gradients overflow in float16 at epoch 3, before step 8, learning rate 0.1; try"
    with pytest.raises(utils.SubmissionError, match=sentence):
        metrics.fetch(0.1, loss_scale=0.5)


@pytest.mark.parametrize("setting", [{"optimizer": ["adam"]}, {"augmentation": None}])
def test_a_choice_that_is_no_text_is_one_sentence(setting):
    with pytest.raises(utils.SubmissionError, match="is not known; choose from"):
        training.Recipe(**setting)


def test_a_whole_number_for_a_fraction_makes_no_other_run(digits):
    keys = []
    for momentum in (0, 0.0):
        recipe = replace(RECIPE, momentum=momentum)
        keys.append(training.folder_key(training.configuration([0.0] * 9, recipe, digits)))
    assert keys[0] == keys[1]


def test_settings_without_effect_have_a_dash_in_the_table():
    recipes = {
        "adam": training.Recipe(beta2=0.9),
        "sgd": training.Recipe(optimizer="sgd", momentum=0.8),
    }
    table = training.recipe_table(recipes)
    assert list(table.loc["momentum"]) == ["–", "0.8"]
    assert list(table.loc["beta2"]) == ["0.9", "–"]


def test_training_says_how_much_follows_and_that_a_finished_run_is_loaded(
    digits, tmp_path, capsys
):
    recipe = replace(RECIPE, epochs=1, augmentation="")
    for _ in range(2):
        training.load_or_train("net", tiny, recipe, digits, tmp_path, followed_by=(recipe, recipe))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "net is trained first, then 2 runs that start from it (2 more epochs)"
    assert said[1].startswith("net: training for 1 epoch of 22 steps on ")
    assert said[-1].startswith("net: loaded from ") and "remove this folder" in said[-1]


def test_a_long_run_says_how_long_it_takes(capsys):
    console = Console(Progress(), 5, 100)
    progress = Progress(step=15, losses=[1.0] * 15, accuracies=[0.5] * 15)
    console.start_epoch(progress)
    for seconds in ([], [2.0, 2.0, 2.0]):
        progress.step_seconds = seconds
        console.show_step(progress, 0.1)
        console.show_step(progress, 0.1)
    console.close()
    assert capsys.readouterr().out == "about 16 minutes to go\n"  # once


# ----------------------------------------------------------------------- optimisers, odd networks


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_weight_decay_is_decoupled(optimizer):
    """Where gradients are zero, a step shrinks the weights alone; a skipped step does not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    recipe = training.Recipe(optimizer=optimizer, weight_decay=0.3)
    optimizers = training.make_optimizers(net, recipe)
    for found_inf, kept in ((0.0, 1 - 0.1 * 0.3), (1.0, 1.0)):
        before = [p.detach().clone() for p in net.parameters()]
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        for each in optimizers:
            each.found_inf = torch.tensor(found_inf)
            for group in each.param_groups:
                group["lr"] = torch.tensor(0.1)
            each.step()
        for p, old in zip(net.parameters(), before):
            torch.testing.assert_close(p.detach(), old * (kept if p.ndim > 1 else 1.0))


class Odd(nn.Module):
    """A filter that gets no gradient, a scale of four dimensions and a table of whole numbers."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1, 3, 1, 1))
        self.register_buffer("table", torch.full((2, 2), 40_001))
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        return self.fc((self.scale * self.used(x)).mean((2, 3)))


def test_muon_leaves_filters_without_gradient_and_scales_alone(digits, tmp_path):
    torch.manual_seed(0)
    net = Odd()
    unused = net.unused.weight.detach().clone()
    recipe = replace(RECIPE, optimizer="muon", weight_decay=0.5, augmentation="")
    muon, adamw = training.make_optimizers(net, recipe)
    assert len(muon.param_groups[0]["params"]) == 2
    decays = {id(p): g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert decays[id(net.scale)] == 0 and decays[id(net.fc.weight)] == 0.5
    run = training.fit(net, digits, tmp_path / "run", replace(recipe, epochs=1))
    assert torch.equal(net.unused.weight.detach(), unused.half().float())
    assert load_file(run.folder / "weights.safetensors")["table"].tolist() == [[40_001] * 2] * 2


def test_muon_moves_the_other_filters_as_if_those_without_gradient_were_not_there(digits):
    recipe = replace(RECIPE, optimizer="muon", augmentation="", weight_decay=0.1)
    moved = []
    for frozen in (False, True):
        torch.manual_seed(0)
        net = Odd()
        net.unused.weight.requires_grad_(not frozen)  # then Muon does not have it at all
        trainer = training.Trainer(net, recipe, "fp32")
        for step in range(3):
            trainer.step(batches_of(digits, recipe).batch(step), 0.1)
        moved.append(net.used.weight.detach().clone())
    torch.testing.assert_close(*moved)


def test_numbers_of_numpy_are_numbers():
    recipe = training.Recipe(learning_rate=np.float64(0.01), epochs=np.int64(2))
    assert recipe == training.Recipe(learning_rate=0.01, epochs=2)
    assert repr(recipe) == repr(training.Recipe(learning_rate=0.01, epochs=2))  # the folder's key
    for value in (np.float64(1.5), np.bool_(True), True, "1"):
        with pytest.raises(utils.SubmissionError, match="must be a whole number"):
            training.Recipe(epochs=value)
