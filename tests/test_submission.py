"""The submission as committed: notebook, ledger, figures, paper and finished run belong together."""
import base64
import json
import os
import re
import subprocess
import sys

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
    assert all(f"{CLAIMS[f'{name}/accuracy']:.2f} %" in text for name in ("fast", "long-0")) and "Limits" in text
    assert RUN.info["source"] in text and "stand-in" not in text and "??" not in text
    assert not re.search("[{}]", text)  # an f-string that is none
    assert len(PdfReader(ROOT / "report" / "report.pdf").pages) <= 4


def test_plain_nbconvert_makes_a_pdf_without_what_leaves_the_page(tmp_path):
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "latex", "--output-dir", tmp_path, NOTEBOOK], check=True,
                   capture_output=True)
    for _ in range(2):  # the second time with the labels of the first
        subprocess.run(["xelatex", "-interaction=batchmode", "assignment2.tex"], cwd=tmp_path, check=True,
                       capture_output=True)
    log = (tmp_path / "assignment2.log").read_text(errors="replace")
    assert not re.search("Overfull|undefined|Missing character", log)


def test_the_conclusions_follow_from_the_claims():
    names = [name for name in CLAIMS if name.startswith("conclusion/")]
    assert len(names) >= 5 and all(CLAIMS[name] is True for name in names)


def test_the_readme_says_what_the_ledger_says():
    readme, runs = (ROOT / "README.md").read_text(), stored_runs()
    said = [f"{CLAIMS[f'{name}/accuracy']:.2f} % ± {CLAIMS[f'{name}/deviation']:.2f}" for name in ("fast", "fast-gpu")]
    best = CLAIMS["long-0/accuracy"], CLAIMS["long-0/accuracy_flips_averaged"]
    said += [f"{best[0]:.2f} % (", f"({best[1]:.2f} % with mirrored", f"| {CLAIMS['course/accuracy']:.2f} % |"]
    for name, digits in (("fast-", 1), ("fast-gpu-", 2), ("long-0", 2), ("course", 2)):
        minutes = sorted(run.info["seconds"] / 60 for run in runs.values() if re.fullmatch(rf"{name}\d?", run.name))
        written = dict.fromkeys(f"{value:.{digits}f}" for value in (minutes[0], minutes[-1]))
        said.append(f"| {' to '.join(written)} |")
    headline = readme.partition("\n\n")[2].partition("\n")[0]
    said += [f"{60 * CLAIMS['fast-gpu/least_minutes']:.1f} seconds",
             f"{CLAIMS['fast/least_minutes']:.0f} minutes on two CPU cores"]
    assert [words for words in said if words not in readme] == [] and f"{best[0]:.2f} %" in headline
    assert said[0] in headline and said[-1] in headline and said[-2] in headline
    assert f"{runs['long-0'].info['seconds']:.0f} seconds" in headline


def stored_runs():
    return {run.name: run for run in map(training.load_run, (ROOT / "checkpoints").iterdir())}


def test_the_runs_are_of_the_notebooks_network_on_the_official_images():
    runs = stored_runs()
    for name, run in runs.items():
        assert run.folder.name == name
        assert run.info["config"]["network"] == training.network_key(definitions()["ResNet"]())
        if not name.startswith("trial-"):  # whose data lack the images held out
            assert run.info["config"]["data"] == "9048fcbac9c08a64d57a7c5a5a66750a974ad4eab380914df129f7e223d823df"
        kind = re.sub(r"-.*", "", name.removeprefix("long-"))
        start = ("long-0" if name.startswith("long-") else "course") if kind in ("restart", "frozen") else None
        assert run.info["config"]["start"] == (runs[start].key if start else "")
    assert sum(file.stat().st_size for file in (ROOT / "checkpoints").rglob("*") if file.is_file()) < 40e6


@pytest.mark.skipif(not os.environ.get("CIFAR10_DIR"), reason="needs CIFAR-10 in CIFAR10_DIR")
@pytest.mark.parametrize("name", ["fast-0", "long-0"])
def test_the_weights_reach_the_accuracy_claimed(name):
    data, run = utils.load_data(os.environ["CIFAR10_DIR"], "cifar10"), stored_runs()[name]
    net = training.load_weights(definitions()["ResNet"](), run.folder)
    probabilities = utils.predict(net, data.test_images, run.info["normalisation"])
    same = data.fingerprint == run.info["config"]["data"]
    assert utils.accuracy_of(probabilities, data.test_labels) == pytest.approx(CLAIMS[f"{name}/accuracy"],
                                                                              abs=0.05 if same else 2)
    if same:
        assert (probabilities.argmax(1) != run.predictions["predicted"]).sum() <= 5  # rounding decides a few
