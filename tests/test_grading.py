"""make verify SUBMISSION=… and make grade: forgeries are caught, hostile archives do nothing, the sandbox holds."""
import base64
import copy
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from datetime import date, timedelta

import forgeries
import matplotlib.pyplot as plt
import pytest
import torch
from forgeries import (
    BOOK,
    LEDGER,
    PAPER,
    POLICY,
    edit_cell,
    edit_info,
    edit_results,
    edit_tensors,
    pack,
    read_notebook,
    submission,
    write_notebook,
)
from helpers import ROOT
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.textpath import TextPath
from nbformat.v4 import new_code_cell, new_markdown_cell
from pypdf import PdfReader, PdfWriter
from safetensors.torch import load

from grading import checks, grade, paper_comparison, sandbox, verify
from grading.archive import Refused, read
from report.freshness import MIME_TYPE

needs_sandbox = pytest.mark.skipif(not sandbox.usable(), reason=f"{sandbox.NEEDED}: no proof of the sandbox")
ACCURACY = "test_accuracy"
RUN = "checkpoints/fast-0"
_results, _kept = sandbox.results, {}


def remembered(inputs, task, policy, before=(), data=None):
    """The sandbox's results, kept by what goes in: a paper is built once."""
    digest = hashlib.sha256(task.encode())
    for name, content in sorted(inputs.items()):
        digest.update(name.encode() + (content if isinstance(content, bytes) else content.read_bytes()))
    if task in ("network", "rerun") or digest.digest() not in _kept:
        _kept[digest.digest()] = _results(inputs, task, policy, before, data)
    return _kept[digest.digest()]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The networks' inputs are small here, and two threads wait for each other where others work as well.

    The environment is put back, too: a cluster of dask leaves OMP_NUM_THREADS=1 in it, for all that is started later.
    """
    before, environment = torch.get_num_threads(), dict(os.environ)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return forgeries.small_world(tmp_path_factory.mktemp("small"))


@pytest.fixture
def world(original, monkeypatch):
    monkeypatch.setattr(sandbox, "results", remembered)
    return forgeries.World(dict(original.files), copy.deepcopy(original.policy), original.data)


@pytest.fixture
def no_paper(monkeypatch):
    """Leave the paper out of the verdict: whatever is caught is caught by the numbers."""
    for name, given in (("handed", {}), ("made", {}), ("compared", []), ("first_page", b"")):
        monkeypatch.setattr(paper_comparison, name, lambda *_, given=given: given)


def judged(world, data=True):
    return verify.judge(submission(world), world.policy, world.data if data else None)


# ---------------------------------------------------------------------------------------------- an honest submission


@needs_sandbox
def test_an_honest_submission_holds(world, tmp_path, capsys):
    found = read(pack(tmp_path / "a.zip", {f"one folder/{name}": data for name, data in world.files.items()}),
                 world.policy)
    assert found.files == world.files
    verdict = verify.judge(found, world.policy, world.data)
    verify.tell(verdict)
    said = capsys.readouterr().out
    assert verdict.code == 0, said
    claimed = json.loads(world.files[LEDGER])["claims"][ACCURACY]["value"]
    assert said.startswith(f"a.zip: claimed {claimed:.2f} %, measured {claimed:.2f} % (the weights)")
    assert verdict.first_page.startswith(b"\x89PNG")
    assert {row.verdict for row in verdict.rows} == {"holds", "recorded"}


def test_without_images_or_weights_nothing_passes(world, no_paper):
    verdict = judged(world, data=False)
    assert (verdict.code, verdict.measured_by) == (2, "its predictions") and "no CIFAR-10 here" in verdict.reason
    del world.files[f"{RUN}/weights.safetensors"]
    assert "weights.safetensors is missing" in judged(world).reason and judged(world).code == 2


def test_other_images_have_a_bound(world, no_paper):
    other = forgeries.utils.Data(world.data.train_images, world.data.train_labels, world.data.test_images.flip(0),
                              world.data.test_labels, world.data.classes, "other images")
    world.policy["images"]["other"] = 100.0
    assert judged(forgeries.World(world.files, world.policy, other)).code == 0
    world.policy["images"]["other"] = 0.0
    verdict = judged(forgeries.World(world.files, world.policy, other))
    assert verdict.code == 1 and "on other images than its own" in verdict.reason


@needs_sandbox
def test_changed_definitions_are_judged_fairly_and_shown(world, no_paper):
    edit_cell(world, "class ResNet", lambda cell: cell.update(source=cell.source.replace(
        "self.fc(self.pool(x).flatten(1))", "self.fc(1 * self.pool(x).flatten(1))")))
    verdict = judged(world)
    assert verdict.code == 0 and verdict.measured_by == "the weights, by the student's definitions"
    assert any("+        return self.fc(1 * self.pool" in line for line in verdict.differences)


# -------------------------------------------------------------------------------------------------------- forgeries


def claim(world, name, **changes):
    edit_results(world, lambda results: results["claims"][name].update(changes))


def forged_predictions(world):
    """Predictions that are right in nine of ten cases, and a ledger that fits them."""
    def better(kept):
        labels = kept["labels"]
        kept["predicted"] = torch.where(torch.arange(len(labels)) % 10 == 0, (labels + 1) % 10, labels)
        kept["predicted_with_mirrored"] = kept["predicted"].clone()
    edit_tensors(world, f"{RUN}/predictions.safetensors", better)
    kept = load(world.files[f"{RUN}/predictions.safetensors"])
    edit_info(world, "fast-0", lambda info: info.update(accuracy=90.0))

    def fit(results):
        run = checks.training.Run(checks.Path("fast-0"), {}, None, None, kept)
        for name, value, _ in checks.from_predictions(run, kept["predicted"], kept["predicted"], kept["labels"],
                                                      world.data.classes, True, ""):
            results["claims"].get(name, {})["value"] = value
        seeds = 90.0, results["claims"]["fast-1/accuracy"]["value"]
        results["claims"]["fast/accuracy"]["value"] = sum(seeds) / 2
        results["claims"]["fast/deviation"]["value"] = abs(seeds[0] - seeds[1]) / 2 ** 0.5
        after = load(world.files["checkpoints/restart-0/predictions.safetensors"])
        right = [(predictions["predicted"] == predictions["labels"]).double() for predictions in (after, kept)]
        difference = 100 * (right[0] - right[1])
        results["claims"]["restart-0/change"]["value"] = difference.mean().item()
        results["claims"]["restart-0/change_interval"]["value"] = 1.96 * difference.std().item() / 10
    edit_results(world, fit)
    history = world.files[f"{RUN}/history.csv"].decode().splitlines()
    rows = [line.split(",") for line in history[1:]]
    rows = [",".join([row[0], row[1], "89.0", *row[3:]]) for row in rows]
    world.files[f"{RUN}/history.csv"] = "\n".join([history[0], *rows]).encode()
    write_notebook(world, read_notebook(world))


def predictions_without_weights(world):
    forged_predictions(world)
    del world.files[f"{RUN}/weights.safetensors"]
    write_notebook(world, read_notebook(world))


def labels_as_predicted(world):
    edit_tensors(world, f"{RUN}/predictions.safetensors", lambda kept: kept.update(labels=kept["predicted"].clone()))


def only_the_right_images(world):
    def few(kept):
        right = kept["labels"] == kept["predicted"]
        kept.update({key: value[right] for key, value in kept.items() if key != "train_losses"})
    edit_tensors(world, f"{RUN}/predictions.safetensors", few)


def edit_history(world, column, change, sign=True):
    """Change a column of the main run's history with a function of its value."""
    head, *lines = world.files[f"{RUN}/history.csv"].decode().splitlines()
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[column] = str(change(float(row[column])))
    world.files[f"{RUN}/history.csv"] = "\n".join([head, *map(",".join, rows)]).encode()
    write_notebook(world, read_notebook(world))


def losses_of_no_training(world):
    world.files[f"{RUN}/losses.csv"] = ("0.0023\n" * 8).encode()
    edit_history(world, 1, lambda _: 0.0023)


def impossible_speed(world):
    edit_info(world, "fast-0", lambda info: info.update(seconds=1e-5))
    edit_history(world, 4, lambda _: 1e-5)
    claim(world, "training_time", value=1e-5 / 60)


def record(world, change):
    """Change the notebook's record, in notebook and ledger alike."""
    results = json.loads(world.files[LEDGER])
    change(results["code"]["files"])
    world.files[LEDGER] = json.dumps(results).encode()
    notebook = read_notebook(world)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "files" in output.get("data", {}).get(MIME_TYPE, {}):
                output.data[MIME_TYPE] = results["code"]
    write_notebook(world, notebook, sign=False)


def other_picture(world, keep):
    """Have the figure's cell show another PNG, beside its PDF or alone."""
    png = forgeries.drawn([1, 2, 3], "png")
    edit_cell(world, "fig-loss", lambda cell: cell.update(outputs=[forgeries.shown_as({
        **(dict(cell.outputs[0].data) if keep else {}), "image/png": base64.b64encode(png).decode()})]))


def weights_of_another_run(world):
    torch.manual_seed(99)
    edit_tensors(world, f"{RUN}/weights.safetensors", lambda kept: kept.update(
        {key: value.flip(0) for key, value in kept.items() if value.ndim == 4}))


def run_of_other_data(world):
    edit_info(world, "fast-0", lambda info: info["config"].update(data="0" * 64))


def classes_swapped(world):
    def swap(results):
        claims = results["claims"]
        names = sorted((name for name in claims if name.startswith("class_")), key=lambda name: claims[name]["value"])
        claims[names[0]], claims[names[-1]] = claims[names[-1]], claims[names[0]]
    edit_results(world, swap)


def control_left_out(world):
    for name in [name for name in world.files if name.startswith("checkpoints/control-0/")]:
        del world.files[name]
    edit_results(world, lambda results: results["claims"].pop("control-0/accuracy"))


CONCLUSION = "conclusion/the accuracy changes by less than its interval allows"


def just_above(world):
    """A conclusion that the point estimate supports and its interval does not."""
    claims = json.loads(world.files[LEDGER])["claims"]
    bound = claims["restart-0/change"]["value"] + claims["restart-0/change_interval"]["value"] / 2
    return f"restart-0/change < {bound}"


# name: (what is done, exit code, words of the sentence)
FORGERIES = {
    "accuracy_claimed_higher": (lambda w: claim(w, ACCURACY, value=96.31), 1, "claims test_accuracy = 96.31"),
    "ledger_edited_and_not_signed": (lambda w: edit_results(
        w, lambda r: r["claims"][ACCURACY].update(value=10.51), sign=False), 1, "has been changed since"),
    "accuracy_claim_missing": (lambda w: edit_results(w, lambda r: r["claims"].pop(ACCURACY)), 1, "rests on a run"),
    "class_claim_missing": (lambda w: edit_results(w, lambda r: r["claims"].pop("class_accuracy/3")), 1,
                            "class_accuracy/3 is missing"),
    "claim_renamed": (lambda w: edit_results(w, lambda r: r["claims"].update(
        Parameters=r["claims"].pop("parameters"))), 1, "the claim parameters is missing"),
    "raised_with_a_tolerance_of_its_own": (lambda w: claim(w, ACCURACY, tolerance=99, value=12.0), 1,
                                           "claims test_accuracy = 12"),
    "nan_as_value": (lambda w: claim(w, ACCURACY, value=float("nan")), 2, "holds NaN, which is no number"),
    "infinite_value": (lambda w: w.files.update({LEDGER: w.files[LEDGER].replace(
        b'"value": 82.37', b'"value": 1e999')}), 2, "holds 1e999, which is no number"),
    "value_as_text": (lambda w: claim(w, ACCURACY, value="96.31"), 1, "claims test_accuracy = 96.31"),
    "value_as_list": (lambda w: claim(w, "parameters", value=[1]), 1, "parameters has no value, or too long a one"),
    "claim_invented": (lambda w: edit_results(w, lambda r: r["claims"].update(
        robustness={"value": 99.9, "unit": "%", "source": "fast-0"})), 2,
        "nothing here checks robustness = 99.9"),
    "claim_named_like_a_check": (lambda w: edit_results(w, lambda r: r["claims"].update(
        paper={"value": 99.9, "unit": "%", "source": "fast-0"})), 2, "here checks paper = 99.9"),
    "conclusion_that_is_false": (lambda w: claim(w, CONCLUSION, unit="restart-0/change > 99.5"), 1, "does not hold"),
    "conclusion_within_its_interval": (lambda w: claim(w, CONCLUSION, unit=just_above(w)), 1, "does not hold"),
    "conclusion_without_an_interval": (lambda w: claim(w, CONCLUSION, unit="fast/deviation < 99.5"), 1,
                                       "does not hold"),
    "interval_made_small": (lambda w: claim(w, "restart-0/change_interval", value=1e-6), 1,
                            "claims restart-0/change_interval"),
    "published_number_changed": (lambda w: claim(w, "published/original", value=8.0), 1, "claims published/original"),
    "change_by_an_epoch_claimed": (lambda w: claim(w, "restart-0/change", value=3.0), 1, "claims restart-0/change = 3"),
    "control_left_out": (control_left_out, 2, "nothing here checks restart-0/excess"),
    "best_seed_as_the_mean": (lambda w: claim(w, "fast/deviation", value=0.001), 1, "claims fast/deviation"),
    "predictions_of_another_seed": (lambda w: edit_tensors(w, "checkpoints/fast-1/predictions.safetensors", lambda kept:
                             kept.update(predicted=kept["labels"].clone())), 1, "the run fast-1: its record says"),
    "classes_swapped": (classes_swapped, 1, "claims class_accuracy/"),
    "fewer_parameters": (lambda w: claim(w, "parameters", value=1_000_000), 1, "claims parameters = 1000000"),
    "more_epochs": (lambda w: claim(w, "epochs", value=300), 1, "claims epochs = 300"),
    "better_predictions": (forged_predictions, 1, "the weights give"),
    "better_predictions_without_weights": (predictions_without_weights, 2, "weights.safetensors is missing"),
    "labels_as_predicted": (labels_as_predicted, 1, "labels are not those of the 100 official test images"),
    "only_the_right_images": (only_the_right_images, 1, "are not one class for each of 100 test images"),
    "weights_of_another_run": (weights_of_another_run, 1, "the weights give"),
    "weights_of_another_shape": (lambda w: edit_tensors(w, f"{RUN}/weights.safetensors", lambda kept: kept.update(
        {"fc.weight": torch.zeros(10, 2000)})), 1, "not of the network that the notebook defines"),
    "weights_not_finite": (lambda w: edit_tensors(w, f"{RUN}/weights.safetensors", lambda kept: kept.update(
        {"fc.bias": torch.full((10,), float("nan"))})), 1, "weights.safetensors holds numbers that are not finite"),
    "results_of_a_stand_in": (lambda w: edit_results(w, lambda r: r["data"].update(standin=True)), 1,
                              "not of the data that the assignment asks for"),
    "results_of_other_data": (lambda w: edit_results(w, lambda r: r["data"].update(fingerprint="0" * 64)), 1,
                              "trained on other data than the ledger says"),
    "run_of_other_data": (run_of_other_data, 1, "trained on other data than the ledger says"),
    "run_named_outside": (lambda w: claim(w, ACCURACY, source="../../secret"), 1, "rests on a run '../../secret'"),
    "loss_in_history_edited": (lambda w: edit_history(w, 1, lambda loss: loss / 2), 1, "by its losses"),
    "rate_in_history_edited": (lambda w: edit_history(w, 3, lambda rate: rate / 2), 1, "by its schedule"),
    "time_in_history_edited": (lambda w: edit_history(w, 4, lambda seconds: seconds / 2), 1, "history ends after"),
    "epochs_added_to_recipe": (lambda w: edit_info(w, "fast-0", lambda i: i["config"].update(epochs=300)), 1,
                               "history has 2 epochs, its recipe 300"),
    "accuracy_in_a_record_edited": (lambda w: edit_info(w, "fast-1", lambda i: i.update(accuracy=96.31)), 1,
                                    "the run fast-1: its record says 96.31 %"),
    "losses_of_no_training": (losses_of_no_training, 2, "which no untrained network has"),
    "impossible_speed": (impossible_speed, 2, "images a second"),
    "finished_in_the_future": (lambda w: edit_info(w, "fast-0", lambda i: i.update(
        finished=str(date.today() + timedelta(40)))), 2, "it will have finished on"),
    "test_far_above_training": (lambda w: (w.policy["plausible"].update(test_above_training=-100.0)), 2,
                                "far above the training accuracy"),
    "record_names_a_device": (lambda w: record(w, lambda files: files.update({"/dev/zero": "0"})), 1,
                              "names '/dev/zero', which is no file of a submission"),
    "record_names_a_secret": (lambda w: record(w, lambda files: files.update({"../../secret": "0"})), 1,
                              "names '../../secret', which is no file of a submission"),
    "record_names_a_missing_file": (lambda w: record(w, lambda files: files.update({"figures/fig-9.png": "0"})), 1,
                                    "figures/fig-9.png is missing, or not"),
    "code_edited_and_not_signed": (lambda w: edit_cell(w, "prose()", lambda cell: cell.update(source="prose(1)"),
                                                       sign=False), 1, "changed since the notebook was run"),
    "output_edited_and_not_signed": (lambda w: edit_cell(w, "prose()", lambda cell: cell.outputs[0].data.update(
        {"text/markdown": "It is right in 96.31 % of cases."}), sign=False), 1, "was not shown by prose()"),
    "picture_without_pdf": (lambda w: other_picture(w, keep=False), 1, "was not shown by prose()"),
    "picture_beside_a_true_pdf": (lambda w: other_picture(w, keep=True), 1, "is not among the figures of its run"),
    "notebook_never_run": (lambda w: edit_cell(w, "ledger.write()", lambda cell: cell.update(outputs=[]), sign=False),
                           1, "was not run to its end"),
    "losses_missing": (lambda w: w.files.pop(f"{RUN}/losses.csv"), 1, "losses.csv is missing"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery(world, no_paper, name):
    forge, code, words = FORGERIES[name]
    forge(world)
    verdict = judged(world)
    assert (verdict.code, words in verdict.reason) == (code, True), verdict.reason


# What a definition does to the process that runs it, with a claim of 96.31 %
DEFINITIONS = {
    "replaces_the_judges_functions": (
        "import utils\nfrom analysis import run_statistics\n"
        "utils.accuracy_of = run_statistics.most_confused = lambda *_: (1, 2, 96.31)\n", "96.31"),
    "ends_the_process": ("import os\nos._exit(0)", "did not run in the sandbox"),
    "runs_forever": ("while True:\n    pass", "did not run in the sandbox"),
    "tells_its_own_facts": (
        "import __main__\n__main__.facts = lambda *_: [['test_accuracy', 96.31], ['class_accuracy/3', 9.0]]", "96.31"),
    "gives_what_it_likes": (
        "import os, sys\nos.write(3, b'x' * 99)\nclass Out(dict): pass\nprint('96.31')\nos._exit(0)", "sandbox"),
}


@needs_sandbox
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_cannot_reach_the_judge(world, no_paper, tmp_path, name):
    source, words = DEFINITIONS[name]
    claim(world, ACCURACY, value=96.31)
    claim(world, "fast-0/accuracy", value=96.31)
    write = f"open({str(tmp_path / 'was here')!r}, 'w')"
    edit_cell(world, "class ResNet", lambda cell: cell.update(
        source=f"{cell.source}\ntry:\n    {write}\nexcept OSError:\n    pass\n{source}"))
    world.policy["sandbox"] |= {"processor_seconds": 30, "seconds": 60}
    if name == "runs_forever":
        world.policy["sandbox"] |= {"processor_seconds": 9}
    verdict = judged(world)
    assert any(words in row.said and row.verdict != "holds" for row in verdict.rows), verdict.rows
    assert verdict.code == 1  # its predictions are not 96.31 % right in any case
    assert not [row for row in verdict.rows if row.found == 96.31]
    assert not (tmp_path / "was here").exists()
    assert forgeries.utils.accuracy_of(torch.eye(2), torch.arange(2)) == 100


# -------------------------------------------------------------------------------------------------------- the paper


# What is replaced, by what, and what the verdict says of it
TYPED = {
    "markdown": ("The task is", "It is right in 96.31 % of cases. The task is", "(Implementation) says", "96.31 %"),
    "markup": ("It is small", "It reaches 97<b>.</b>41&nbsp;% and is small", "(Discussion of", "97.41 %"),
    "formula": ("and so is what it learns", "and $98.51\\%$ is what it learns", "(Discussion of", "98.51%"),
    "caption": ("The loss of each step", "The loss; 95.21 % are right", "fig-loss) says", "95.21 %"),
    "title": ("A Small Network", "A Network That Is Right in 94.11 %", "front()) says", "94.11 %"),
    "output": ("is right in", "is right in 93.01 % or rather in", "prose()) says", "93.01 %"),
    "thousands": ("with a residual", "with 25,000,000 parameters and a residual", "(Implementation) says",
                  "25,000,000"),
    "digits": ("# Discussion", "# Discussion of ９２.１１ %", "(Discussion of", "92.11 %"),
}


@pytest.fixture
def typed(world):
    text = world.files[BOOK].decode()
    for old, new, _, _ in TYPED.values():
        assert old in text
        text = text.replace(old, new.replace("\\", "\\\\"))
    world.files[BOOK] = text.encode()
    write_notebook(world, read_notebook(world))
    return world


@needs_sandbox
def test_every_number_that_nothing_explains_is_listed_with_its_place(typed):
    """Typed by hand in prose, caption, title, markup, formula or strange digits, or put into an output and signed."""
    found = [row.said for row in judged(typed).rows if "is no claim, citation" in row.said]
    for kind, (_, _, place, number) in TYPED.items():
        assert any(place in said and number in said for said in found), (kind, found)
    assert any("the paper handed in says less" in row.said or "lacks" in row.said for row in judged(typed).rows)


def overlaid(pdf, draw):
    """A PDF with something drawn over its first page."""
    page = PdfReader(io.BytesIO(pdf)).pages[0]
    width, height = float(page.mediabox.width), float(page.mediabox.height)
    figure = plt.figure(figsize=(width / 72, height / 72))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(0, height))
    draw(axes)
    buffer, writer, result = io.BytesIO(), PdfWriter(clone_from=io.BytesIO(pdf)), io.BytesIO()
    figure.savefig(buffer, format="pdf", transparent=True)
    plt.close(figure)
    writer.pages[0].merge_page(PdfReader(buffer).pages[0])
    writer.write(result)
    return result.getvalue()


def white_box(axes):
    axes.add_patch(Rectangle((100, 400), 60, 12, color="white"))
    axes.add_patch(PathPatch(TextPath((100, 402), "96.31 %", size=10), color="black"))


PAPERS = {
    "number_drawn_over_the_page": (lambda pdf: overlaid(pdf, white_box), 1, "page 1 of the paper looks different"),
    "number_written_over_the_page": (lambda pdf: overlaid(pdf, lambda axes: axes.text(100, 100, "96.31")), 1,
                                     "says '96.31' on page 1, which the notebook does not"),
    "no_pdf": (lambda pdf: b"\x89PNG", 2, "the paper was not held against the notebook"),
    "damaged_pdf": (lambda pdf: pdf[:3000], 2, "the paper was not held against the notebook"),
    "another_paper": (lambda pdf: (ROOT / "report" / "report.pdf").read_bytes(), 1, "which the notebook does not"),
}


@needs_sandbox
@pytest.mark.parametrize("name", PAPERS)
def test_forged_paper(world, name):
    forge, code, words = PAPERS[name]
    world.files[PAPER] = forge(world.files[PAPER])
    verdict = judged(world)
    assert verdict.code == code and words in verdict.reason, verdict.reason


def test_a_missing_paper_is_contradicted(world):
    del world.files[PAPER]
    verdict = judged(world)
    assert verdict.code == 1 and verdict.reason.endswith(f"{PAPER} is missing")


@needs_sandbox
def test_a_paper_that_does_not_say_its_accuracy_is_contradicted(world):
    claims = {ACCURACY: {"value": 10.5}}
    rows = list(paper_comparison.number_rows([["cell 1", "typed", "It is good."]], ([], []), claims))
    assert [row.said for row in rows] == ["the paper does not say the accuracy claimed, 10.5"]


# ------------------------------------------------------------------------------------------------ hostile archives


def member(name, mode=0o644 | stat.S_IFREG):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def lying(path, files):
    """A zip file whose headers say that a file is smaller than it is."""
    data = pack(path, {**files, LEDGER: b" " * 5_000_000}, zipfile.ZIP_DEFLATED).read_bytes()
    path.write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    return path


def many(path, files):
    return pack(path, {**files, **{f"figures/{number}.png": b"" for number in range(2_000)}})


def twice(path, files):
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        for name in (*files, BOOK):
            archive.writestr(name, files[name])
    return path


def changed(name, data, compression=zipfile.ZIP_DEFLATED):
    return lambda path, files: pack(path, {**files, name: data}, compression)


def more(*members):
    return lambda path, files: pack(path, {**files, **dict.fromkeys(members, b"x")})


CELL = json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}, "source": "<!--" * 20_000}], "metadata": {},
                   "nbformat": 4, "nbformat_minor": 4}).encode()
HOSTILE = {
    "no_zip": (lambda path, files: path.write_bytes(b"MZ" * 99) and path, "is no zip file"),
    "empty": (lambda path, files: pack(path, {}), "has no notebooks/assignment2.ipynb"),
    "path_upwards": (more("../../.bashrc"), "a path that leads out of it"),
    "path_absolute": (more("/etc/cron.d/x"), "a path that leads out of it"),
    "path_of_windows": (more("figures\\..\\x.png"), "control character or backslash"),
    "link": (lambda path, files: pack(path, {**files, member("figures/x.png", 0o777 | stat.S_IFLNK): b"/etc/passwd"}),
             "a link or device in it"),
    "device": (lambda path, files: pack(path, {**files, member("figures/x.png", 0o666 | stat.S_IFCHR): b""}),
               "a link or device in it"),
    "name_twice": (twice, "a name twice"),
    "name_twice_in_other_letters": (more("Notebooks/Assignment2.ipynb"), "a name twice"),
    "bomb": (changed(f"{RUN}/losses.csv", b"0" * 30_000_000), "times its size"),
    "large_file": (changed(f"{RUN}/losses.csv", b"0" * 46_000_000), "more than the policy reads"),
    "many_members": (many, "more than 1,000 members"),
    "headers_that_lie": (lying, "is damaged"),
    "packed_unusually": (changed(LEDGER, b"{}", zipfile.ZIP_BZIP2), "packed in an unusual way"),
    "two_notebooks": (lambda path, files: pack(path, {f"{part}/{name}": data for part in "ab"
                                                      for name, data in files.items()}), "two notebooks"),
    "json_without_end": (changed(LEDGER, b"[" * 500_000), "is no JSON, or damaged"),
    "json_of_many_values": (changed(
        LEDGER, b"[" + b"{}," * 600_000 + b"0]", zipfile.ZIP_STORED), "more than a million values"),
    "json_with_a_key_twice": (changed(LEDGER, b'{"claims": {}, "claims": {}}'), "gives a key twice"),
    "number_of_many_digits": (changed(LEDGER, b"9" * 100_000), "is no JSON, or damaged"),
    "notebook_of_one_long_cell": (changed(BOOK, CELL), "a cell of more than 50,000 characters"),
    "notebook_of_no_kind": (changed(BOOK, b'{"nbformat": 4, "cells": [7]}'), "is no valid notebook"),
    "tensors_with_a_large_header": (changed(f"{RUN}/predictions.safetensors", (10 ** 9).to_bytes(8, "little") + b"{}"),
                                    "a header of more than 1 MB"),
    "losses_of_words": (changed(f"{RUN}/losses.csv", b"__import__('os')\n"), "holds something that is no number"),
    "losses_not_finite": (changed(f"{RUN}/losses.csv", b"nan\n" * 8), "not finite"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive(world, no_paper, tmp_path, name):
    make, words = HOSTILE[name]
    start = time.monotonic()
    try:
        verdict = verify.judge(read(make(tmp_path / "a.zip", world.files), world.policy), world.policy)
        assert verdict.code and any(words in row.said for row in verdict.rows), verdict.rows
    except Refused as error:
        assert words in str(error)
    assert time.monotonic() - start < 60 and os.listdir(tmp_path) == ["a.zip"]


def test_whatever_the_judge_stumbles_over_is_no_pass(world, monkeypatch):
    monkeypatch.setattr(checks, "load_runs", lambda *_: 1 / 0)
    assert judged(world).code == 2 and "the judge stumbled (ZeroDivisionError" in judged(world).reason


def test_judging_has_an_end(world, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(verify, "read_policy", lambda: world.policy | {"verdict": {"seconds": 1}})
    monkeypatch.setattr(checks, "together", lambda *_: time.sleep(30))
    with pytest.raises(SystemExit) as ended:
        verify.main(pack(tmp_path / "a.zip", world.files), "")
    assert ended.value.code == 2 and "took more than 1 seconds" in capsys.readouterr().out


def test_a_folder_is_read_without_following_links(world, tmp_path):
    for name, data in world.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".git").mkdir()
    assert read(tmp_path, world.policy).files == world.files
    (tmp_path / "figures" / "x.png").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="a link or device in it, figures/x.png"):
        read(tmp_path, world.policy)
    (tmp_path / "figures" / "x.png").unlink()
    os.mkfifo(tmp_path / "figures" / "x.png")
    with pytest.raises(Refused, match="a link or device in it"):
        read(tmp_path, world.policy)


RUNS_CODE = "import pathlib; pathlib.Path({!r}).touch()"


def test_nothing_of_an_archive_is_run_by_the_command(world, tmp_path):
    """Shadowing modules, start-up files, Makefile, configuration: the command ends by its verdict, without a trace."""
    trace = tmp_path / "trace"
    code = RUNS_CODE.format(str(trace)).encode()
    names = ("html.py", "traitlets.py", "sitecustomize.py", "usercustomize.py", "conftest.py", "utils.py",
             "training/__init__.py", "report/html.py", "report/exporter.py", "report/config.py", "grading/verify.py",
             "tools/notebook_definitions.py", "notebooks/utils.py", "x.pth", ".venv/lib/x.pth", "setup.py",
             "__pycache__/utils.cpython-311.pyc")
    make = f"all verify:\n\ttouch {trace}\n".encode()
    files = {**world.files, **dict.fromkeys(names, code), "Makefile": make, ".git/config": make,
             "requirements.txt": b"./evil.whl\n", "report/results.json": b"{"}
    path, cwd = pack(tmp_path / "a.zip", files), tmp_path / "cwd"
    cwd.mkdir()
    zipfile.ZipFile(path).extractall(cwd)  # as somebody who looks around in it before
    own = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}  # the grader's copy, from any folder
    done = subprocess.run([sys.executable, "-m", "grading.verify", str(path)], capture_output=True, text=True, cwd=cwd,
                          env={"PATH": os.environ["PATH"]} | own)
    assert done.returncode == 2 and "is no JSON, or damaged" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not trace.exists()


# ----------------------------------------------------------------------------------------------------------- rerun


LIMITS = {"processor_seconds": 20, "seconds": 20, "memory": 3_000, "processes": 30, "disk": 20, "output": 2}
RERUN = """
import json, os, pathlib
ledger = json.loads({ledger!r})
assert pathlib.Path(os.environ["CIFAR10_DIR"], "images").read_text() == "pixels"
folder = pathlib.Path("../build")
folder.mkdir(exist_ok=True)
(folder / "results.json").write_text(json.dumps(ledger))
"""


@needs_sandbox
@pytest.mark.parametrize("change, code", [(0, 0), (0.04, 0), (3, 1)])
def test_a_rerun_is_held_against_the_ledger(world, no_paper, tmp_path, change, code):
    (tmp_path / "images").write_text("pixels")
    tmp_path.chmod(0o755)  # where root grades, the sandbox's user is another one
    again = {"claims": json.loads(world.files[LEDGER])["claims"]}
    again["claims"][ACCURACY]["value"] += change
    notebook = read_notebook(world)
    notebook.cells = [new_markdown_cell("# Again"), new_code_cell(RERUN.format(ledger=json.dumps(again)))]
    claims = json.loads(world.files[LEDGER])["claims"]
    rows = verify.rerun_rows(submission(world), notebook, claims, world.policy, tmp_path)
    verdict = verify.Verdict("", rows)
    assert verdict.code == code, verdict.reason
    assert code == 0 or "a new run gives" in verdict.reason


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user reads its own files in the sandbox")
def test_root_is_told_of_images_that_the_sandbox_may_not_read(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "images").write_text("pixels")
    assert sandbox.run({}, ["cat", "/data/images"], LIMITS, tmp_path) == b"pixels"
    (tmp_path / "images").chmod(0o600)
    with pytest.raises(sandbox.Stopped, match="others than root may not read .*/images: chmod -R a.rX"):
        sandbox.run({}, ["cat", "/data/images"], LIMITS, tmp_path)


# --------------------------------------------------------------------------------------------------------- a class


JUDGE = """
import json, os, pathlib, sys, time
name, report = pathlib.Path(sys.argv[1]).name, pathlib.Path(sys.argv[2])
with open(pathlib.Path(__file__).parents[1] / "calls", "a") as file:
    file.write(name + "\\n")
if "crash" in name:
    os.kill(os.getpid(), 11)
if "hang" in name:
    time.sleep(99)
if "slow" in name:
    time.sleep(float(os.environ.get("SLOW", 0)))
row = {"verdict": "contradicted", "said": "the paper says <script>alert(1)</script>"}
report.write_text(json.dumps({"code": int("bad" in name), "reason": row["said"] if "bad" in name else "all holds",
    "rows": [row] * ("bad" in name), "claimed": 82.5, "measured": 82.456, "weights": "same" * ("twin" in name),
    "seconds": 1.0, "first_page": "AAAA"}))
sys.exit(int("bad" in name))
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder of archives, and a judge that does by their names what archives may bring about."""
    own = tmp_path / "own"
    shutil.copytree(ROOT / "grading", own / "grading")
    (own / "grading" / "verify.py").write_text(JUDGE)
    (own / "notebooks").mkdir()
    shutil.copy(ROOT / BOOK, own / "notebooks")
    monkeypatch.setattr(grade, "ROOT", own)
    monkeypatch.setattr(grade, "read_policy", lambda: POLICY | {"verdict": {"seconds": -57}})
    folder = tmp_path / "course"
    for name in ("Müller, Jörg_77_file_/a.zip", "=HYPERLINK(1)<b>.zip", "bad.zip", "crash.zip", "hang.zip",
                 "twin 1.zip", "twin 2.zip", "slow.zip"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pack(folder / name, {"a": b"b"})
    (folder / "notes.txt").write_text("no archive")
    return folder


def graded(folder, code=0):
    with pytest.raises(SystemExit) as ended:
        grade.main(folder, folder.parent / "build")
    assert (ended.value.code or 0) == code
    with open(folder.parent / "build" / "grades.csv", newline="") as file:
        return {row["archive"]: row for row in csv.DictReader(file)}, (
            folder.parent / "build" / "grades.html").read_text()


def test_a_class_is_graded_whatever_an_archive_does(course, monkeypatch):
    rows, page = graded(course)
    assert len(rows) == 8
    assert rows["Müller, Jörg_77_file_/a.zip"] | {"seconds": ""} == {
        "archive": "Müller, Jörg_77_file_/a.zip", "verdict": "holds", "claimed": "82.5", "measured": "82.46",
        "contradictions": "0", "unverified": "0", "seconds": "", "reason": "all holds"}
    assert rows["bad.zip"]["verdict"] == "contradicted" and rows["bad.zip"]["contradictions"] == "1"
    assert "'=HYPERLINK(1)<b>.zip" in rows
    for name in ("crash.zip", "hang.zip"):
        assert rows[name]["verdict"] == "not verifiable" and "did not end as it should" in rows[name]["reason"]
    assert "its weights are also those of twin 1.zip" == rows["twin 2.zip"]["reason"]
    assert rows["twin 1.zip"]["verdict"] == "not verifiable"
    assert page.count("<tr") == 9 and page.count("<script>") == 1 and "<b>" not in page
    assert page.count('<img alt="first page"') == 6
    calls = course.parent / "own" / "calls"
    before = len(calls.read_text().splitlines())
    graded(course)  # all verdicts are kept
    pack(course / "bad.zip", {"a": b"other"})
    graded(course)
    assert len(calls.read_text().splitlines()) == before + 1


def test_grading_can_be_stopped_and_goes_on(course, monkeypatch):
    monkeypatch.setenv("SLOW", "60")
    monkeypatch.setattr(grade, "read_policy", lambda: POLICY)
    for name in ("hang.zip", "crash.zip"):
        (course / name).unlink()
    timer = threading.Timer(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    rows, _ = graded(course, 130)
    assert "bad.zip" in rows and "slow.zip" not in rows
    monkeypatch.setenv("SLOW", "0")
    assert graded(course)[0].keys() == rows.keys() | {"slow.zip"}


def test_a_cluster_grades(course, monkeypatch):
    distributed = pytest.importorskip("distributed")
    for name in ("hang.zip", "slow.zip"):
        (course / name).unlink()
    with distributed.LocalCluster(1, threads_per_worker=2, dashboard_address=None) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        assert len(graded(course)[0]) == 6
