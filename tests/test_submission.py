"""The submission as committed: notebook, ledger, figures, paper and finished run belong together."""
import base64
import json
import os
import re
import subprocess

import nbformat
import pytest
from conftest import ROOT
from definitions import NOTEBOOK, definitions
from pypdf import PdfReader

import training
import utils

RESULTS = json.loads((ROOT / "report" / "results.json").read_text())
CLAIMS = {name: claim["value"] for name, claim in RESULTS["claims"].items()}
RUN = training.load_run(ROOT / "checkpoints" / RESULTS["claims"]["test_accuracy"]["source"])
CELLS = nbformat.read(NOTEBOOK, 4).cells


def test_the_notebook_was_run_in_order_without_errors():
    code = [cell for cell in CELLS if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_the_figures_are_those_of_the_notebook():
    shown = 0
    for cell in CELLS:
        label = re.search(r"^#\| label: (fig-\S+)", cell.source, re.MULTILINE)
        for output in cell.get("outputs", []) if label else []:
            if output.metadata.get("caption"):
                continue
            for mime, kind in (("application/pdf", "pdf"), ("image/png", "png")):
                file = ROOT / "figures" / f"{label[1]}.{kind}"
                assert file.read_bytes() == base64.b64decode(output.data[mime]), file
                shown += 1
    assert shown == len(list((ROOT / "figures").glob("fig-*"))) > 0


def test_the_claims_follow_from_the_committed_predictions():
    predicted, labels = RUN.predictions["predicted"], RUN.predictions["labels"]
    assert len(labels) == 10_000 and labels.bincount().tolist() == [1000] * 10
    assert CLAIMS["test_accuracy"] == pytest.approx(100 * (predicted == labels).float().mean().item(), abs=0.05)
    for c, name in enumerate(utils.CLASSES):
        right = (predicted[labels == c] == c).float().mean().item()
        assert CLAIMS[f"class_accuracy/{name}"] == pytest.approx(100 * right, abs=0.5)


def test_the_paper_says_what_the_ledger_says():
    text = subprocess.run(["pdftotext", str(ROOT / "report" / "report.pdf"), "-"], capture_output=True, text=True,
                          check=True).stdout
    text = re.sub(r"\s+", " ", text)
    assert f"{CLAIMS['test_accuracy']:.2f}" in text and f"{CLAIMS['parameters']:,}" in text
    assert f"{CLAIMS['seeds/mean_accuracy']:.2f} %" in text and "Limits" in text
    assert RUN.info["source"] in text and "stand-in" not in text and "??" not in text
    assert not re.search("[{}]", text)  # an f-string that is none
    assert len(PdfReader(ROOT / "report" / "report.pdf").pages) <= 4


def test_the_conclusions_follow_from_the_claims():
    names = [name for name in CLAIMS if name.startswith("conclusion/")]
    assert len(names) >= 5 and all(CLAIMS[name] is True for name in names)


def test_the_readme_says_what_the_ledger_says():
    readme = (ROOT / "README.md").read_text()
    assert f"{CLAIMS['seeds/mean_accuracy']:.2f} % ± {CLAIMS['seeds/deviation']:.2f}" in readme
    for name in (name for name in CLAIMS if re.fullmatch(r"fast-\d/accuracy", name)):
        run = training.load_run(ROOT / "checkpoints" / name.partition("/")[0])
        assert CLAIMS[name] == run.info["accuracy"]
        assert f"| `{run.name}` | {run.info['accuracy']:.2f} % | {run.info['seconds'] / 60:.1f} |" in readme


def test_the_runs_are_of_the_notebooks_network_on_the_official_images():
    runs = list(filter(None, map(training.load_run, (ROOT / "checkpoints").iterdir())))
    first = next(run for run in runs if run.name == "fast-0")
    for run in runs:
        assert run.folder.name == run.name
        assert run.info["config"]["network"] == training.network_key(definitions()["ResNet"]())
        assert run.info["config"]["data"] == "9048fcbac9c08a64d57a7c5a5a66750a974ad4eab380914df129f7e223d823df"
        assert run.info["config"]["start"] == (first.key if run.name.startswith("epoch-") else "")
    assert sum(file.stat().st_size for file in (ROOT / "checkpoints").rglob("*") if file.is_file()) < 40e6


@pytest.mark.skipif(not os.environ.get("CIFAR10_DIR"), reason="needs CIFAR-10 in CIFAR10_DIR")
def test_the_weights_reach_the_accuracy_claimed():
    data = utils.load_data(os.environ["CIFAR10_DIR"], "cifar10")
    net = training.load_weights(definitions()["ResNet"](), RUN.folder)
    probabilities = utils.predict(net, data.test_images, RUN.info["normalisation"])
    same = data.fingerprint == RUN.info["config"]["data"]
    assert utils.accuracy_of(probabilities, data.test_labels) == pytest.approx(CLAIMS["test_accuracy"],
                                                                              abs=0.05 if same else 2)
    if same:
        assert (probabilities.argmax(1) != RUN.predictions["predicted"]).sum() <= 5  # rounding decides a few
