"""The submission as committed: notebook, ledger, figures, paper and runs belong together."""
import base64
import json
import os
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from helpers import ROOT
from pypdf import PdfReader

import training
import utils
from tools.notebook_definitions import NOTEBOOK, load_definitions

RESULTS = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))
CLAIMS = {name: claim["value"] for name, claim in RESULTS["claims"].items()}
RUN = training.load_run(ROOT / "checkpoints" / RESULTS["claims"]["test_accuracy"]["source"])
CELLS = nbformat.read(NOTEBOOK, 4).cells
PAPER = ROOT / "report" / "report.pdf"


def test_the_notebook_was_run_in_order_without_errors():
    code = [cell for cell in CELLS if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not any(output.output_type == "error" for output in cell.outputs)


@pytest.mark.parametrize("name", ["assignment2", "study"])
def test_no_output_shows_an_object_in_place_of_its_content(name):
    """Such as <Styler at 0x7f54>, which a PDF of the notebook prints where a page has a table."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    shown = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert len(shown) > 1000
    assert re.findall(r"<[\w.]+[^<>]* at 0x[0-9a-f]+>", shown) == []


def test_the_figures_are_those_of_the_notebook():
    shown = 0
    for cell in CELLS:
        label = re.search(r"^#\| label: (fig-\S+)", cell.source, re.MULTILINE)
        for output in cell.get("outputs", []):
            if not label or output.get("metadata", {}).get("caption"):
                continue
            for mime, kind in (("application/pdf", "pdf"), ("image/png", "png")):
                file = ROOT / "figures" / f"{label[1]}.{kind}"
                assert file.read_bytes() == base64.b64decode(output.data[mime]), file
                shown += 1
    named = [name for name in RESULTS["code"]["files"] if name.startswith("figures/")]
    assert shown == len(named) > 0
    assert all((ROOT / name).exists() for name in named)


def test_the_claims_follow_from_the_committed_predictions():
    predicted = RUN.predictions["predicted"]
    labels = RUN.predictions["labels"]
    assert len(labels) == 10_000
    assert labels.bincount().tolist() == [1000] * 10
    accuracy = 100 * (predicted == labels).float().mean().item()
    assert CLAIMS["test_accuracy"] == pytest.approx(accuracy, abs=0.05)
    for number, name in enumerate(utils.CLASSES):
        correct = (predicted[labels == number] == number).float().mean().item()
        assert CLAIMS[f"class_accuracy/{name}"] == pytest.approx(100 * correct, abs=0.5)


@pytest.mark.tex
def test_the_paper_says_what_the_ledger_says():
    done = subprocess.run(
        ["pdftotext", str(PAPER), "-"], capture_output=True, encoding="utf-8", check=True
    )
    text = re.sub(r"\s+", " ", done.stdout)
    assert f"{CLAIMS['test_accuracy']:.2f}" in text
    assert f"{CLAIMS['parameters']:,}" in text
    assert f"{CLAIMS['one-more-epoch/accuracy']:.2f} %" in text
    assert "Limits" in text
    assert RUN.info["source"] in text
    assert "fallback" not in text
    assert "??" not in text
    assert not re.search("[{}]", text)  # an f-string that is none
    assert len(PdfReader(PAPER).pages) <= 3


@pytest.mark.tex
@pytest.mark.slow
def test_plain_nbconvert_makes_a_pdf_without_what_leaves_the_page(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "latex", "--output-dir", tmp_path, NOTEBOOK],
        check=True, capture_output=True,
    )
    for _ in range(2):  # the second time with the labels of the first
        subprocess.run(
            ["xelatex", "-interaction=batchmode", "assignment2.tex"],
            cwd=tmp_path, check=True, capture_output=True,
        )
    log = (tmp_path / "assignment2.log").read_text(errors="replace", encoding="utf-8")
    assert not re.search("Overfull|undefined|Missing character", log)


def test_the_conclusions_follow_from_the_claims():
    """They are computed from the claims of this run, so that they hold for any other run."""
    cell = next(cell for cell in CELLS if "conclusion" in cell.metadata.get("tags", []))
    text = cell.outputs[0].data["text/markdown"]
    text = text.replace("\N{NO-BREAK SPACE}", " ").replace("−", "-")
    accuracy = CLAIMS["test_accuracy"]
    interval = 1.96 * (accuracy * (100 - accuracy) / 10_000) ** 0.5
    distance = (accuracy - CLAIMS["published/original"]) / interval
    if distance > 1:
        words = "above"
    elif distance < -1:
        words = "below"
    else:
        words = "close to"
    assert f"{accuracy:.2f} ± {interval:.2f} %, {words} the" in text
    change = CLAIMS["one-more-epoch-control/change"]
    half = CLAIMS["one-more-epoch-control/change_interval"]
    assert f"the control by {change:+.2f} ± {half:.2f} points" in text
    falls = CLAIMS["one-more-epoch/running_mean_rise"] < 0
    assert ("falls within the epoch, while it rises" in text) == falls


def stored_runs():
    """Return the runs that the submission rests on, name -> Run."""
    names = ("resnet", "one-more-epoch", "one-more-epoch-control")
    return {name: training.load_run(ROOT / "checkpoints" / name) for name in names}


@pytest.mark.slow
def test_the_runs_are_of_the_notebooks_network_on_the_official_images():
    runs = stored_runs()
    for name, run in runs.items():
        config = run.info["config"]
        torch.manual_seed(config["seed"])
        probe = training.network_probe(load_definitions()["ResNet"](), config["seed"])
        assert run.name == name
        assert training.same_probe(config["network"], probe)
        official = "9048fcbac9c08a64d57a7c5a5a66750a974ad4eab380914df129f7e223d823df"
        assert config["data"] == official
        assert config["start"] == ("" if name == "resnet" else runs["resnet"].key)


def test_one_more_epoch_has_other_batches_than_its_parent():
    runs = stored_runs()
    orders = []
    for name in ("resnet", "one-more-epoch"):
        recipe = training.Recipe(seed=runs[name].info["config"]["seed"])
        order, _ = training.image_order(recipe, 100, 0)
        orders.append(order)
    assert not np.array_equal(*orders)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CIFAR10_DIR"), reason="needs CIFAR-10 in CIFAR10_DIR")
def test_the_weights_reach_the_accuracy_claimed():
    data = utils.load_data(os.environ["CIFAR10_DIR"], "cifar10")
    net = training.load_weights(load_definitions()["ResNet"](), RUN.folder)
    probabilities = utils.predict(net, data.test_images, RUN.info["normalisation"])
    accuracy = utils.accuracy_of(probabilities, data.test_labels)
    same_images = data.fingerprint == RUN.info["config"]["data"]
    tolerance = 0.05 if same_images else 2
    assert accuracy == pytest.approx(CLAIMS["test_accuracy"], abs=tolerance)
    if same_images:
        differing = (probabilities.argmax(1) != RUN.predictions["predicted"]).sum()
        assert differing <= 5  # rounding decides a few
