"""The notebook: its definitions, its form, and the whole way from `make report` to a paper that says what was found."""
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import torch
from conftest import ROOT
from definitions import NOTEBOOK, definitions
from torch import nn

NAMES = definitions()
NUMBER = re.compile(r"\d+\.\d+")


@pytest.mark.parametrize("size, filter_size, stride, padding, expected", [
    (32, 7, 2, 3, 16), (16, 3, 2, 1, 8), (8, 1, 2, 0, 4), (8, 3, 1, 1, 8), (7, 3, 2, 0, 3)])
def test_equation_1(size, filter_size, stride, padding, expected):
    assert NAMES["output_size"](size, filter_size, stride, padding) == expected
    assert nn.Conv2d(1, 1, filter_size, stride, padding)(torch.zeros(1, 1, size, size)).shape[-1] == expected


@pytest.mark.parametrize("arguments, projected, shape", [
    ((64, 64, 256), True, (2, 256, 8, 8)), ((256, 64, 256), False, (2, 256, 8, 8)),
    ((256, 64, 256, True), True, (2, 256, 4, 4))])
def test_both_kinds_of_block(arguments, projected, shape):
    block = NAMES["ResidualBlock"](*arguments)
    assert block(torch.randn(2, arguments[0], 8, 8)).shape == shape
    assert isinstance(block.shortcut, nn.Identity) != projected
    convolutions = [block.conv1, block.conv2, block.conv3]
    assert [c.kernel_size for c in convolutions] == [(1, 1), (3, 3), (1, 1)]
    assert [c.padding for c in convolutions] == [(0, 0), (1, 1), (0, 0)]
    assert [c.stride[0] for c in convolutions] == [2 if arguments[3:] else 1, 1, 1]


def test_network_is_the_assignments():
    net = NAMES["ResNet"]()
    biases = sum(m.bias.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    assert sum(p.numel() for p in net.parameters()) == 8_898_826
    assert sum(p.numel() for p in net.parameters()) - biases == 8_882_762
    table = NAMES["layer_table"](net.eval())
    assert table.output.tolist() == ["", "8×8", "", "4×4", "", "2×2", "2×2", "1×1", "10"]
    assert table.network[6] == "[1×1, 256; 3×3, 256; 1×1, 1024] ×6"


def test_zero_init_makes_each_block_its_shortcut():
    net, X = NAMES["ResNet"](zero_init_residual=True).eval(), torch.randn(2, 1024, 2, 2).relu()
    assert torch.equal(net.layer4[1](X), X)
    assert not torch.equal(NAMES["ResNet"]().eval().layer4[1](X), X)


def cells():
    return nbformat.read(NOTEBOOK, 4).cells


@pytest.mark.parametrize("settings, stages", [
    ({}, ["hundred-epochs (0)", "headline (False)"]), ({"FRESH": 1}, ["headline (1)"]),
    ({"EPOCHS": 3}, ["headline (3)"]), ({"standin": True}, ["headline (True)"]),
    ({"FRESH": 1, "long": True}, ["hundred-epochs (1)", "headline (1)"]),
    ({"FRESH": 1, "long": True, "EPOCHS": 3}, ["headline (1)"])])
def test_it_is_trained_in_two_stages_as_submitted_and_otherwise_in_one(tmp_path, settings, stages):
    def obtain(name, model, recipe, again, weights, start=None):
        asked.append(f"{name} ({again})")
        assert (start is not None) == (name == "headline" and len(stages) > 1)
        return SimpleNamespace(folder=tmp_path, history=pd.DataFrame({"epoch": [1, 2, 3]}))
    for file in ("headline/weights.safetensors", "hundred-epochs/run.json"):
        (tmp_path / "checkpoints" / file).parent.mkdir(parents=True)
        (tmp_path / "checkpoints" / file).touch()
    asked, source = [], next(c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.id == "training")
    names = {"torch": torch, "pd": pd, "ResNet": NAMES["ResNet"], "ROOT": tmp_path, "PLACE": "", "SEED": 0,
             "obtain": obtain, "recipe": None, "first_recipe": None, "long": False, "FRESH": 0, "EPOCHS": 0,
             "data": SimpleNamespace(standin=settings.get("standin", False))}
    exec(source, names | settings)
    assert asked == stages


def test_form_of_the_notebook():
    nbformat.validate(nbformat.read(NOTEBOOK, 4))
    for cell in cells():
        source, options = cell.source, dict(re.findall(r"^#\| ([\w-]+): (.+)$", cell.source, re.MULTILINE))
        assert len(source.splitlines()) <= 45, cell.id
        assert re.fullmatch(r"[a-z][a-z0-9-]+", cell.id)  # a name somebody gave, so that it stays
        if "fig-cap" in options:
            assert options["label"].startswith("fig-") and len(options["fig-alt"]) > 20
        if cell.cell_type == "markdown":
            assert not NUMBER.search(re.sub(r"^#+ .*$|\]\(.*?\)", "", source, flags=re.MULTILINE)), cell.id
    tags = [tag for cell in cells() for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == tags.count("abstract") == tags.count("front-matter") == tags.count("banner") == 1


def test_every_check_says_what_it_expected():
    checks = [c for c in cells() if c.cell_type == "code" and "assert " in c.source]
    assert len(checks) >= 6
    for cell in checks:
        assert "expected" in cell.source or "agree" in cell.source, cell.id
        assert "torch.randn" not in cell.source or "torch.manual_seed(" in cell.source, cell.id


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A copy of the project, its path with a space and an umlaut, after `make report` on the stand-in."""
    folder = tmp_path_factory.mktemp("päper of") / "the project"
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "data", "weights.safetensors", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=left_out)
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "EPOCHS": "1", "DATASET": "digits", "MAKEFLAGS": ""}
    done = subprocess.run(["make", "report"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "build/report.pdf" in done.stdout
    return folder


def pdf_text(path, order="-layout"):
    return subprocess.run(["pdftotext", order, str(path), "-"], capture_output=True, text=True, check=True).stdout


def test_report_says_what_the_ledger_says(report):
    results = json.loads((report / "build" / "results.json").read_text())
    text = re.sub(r"\s+", " ", pdf_text(report / "build" / "report.pdf", "-raw"))  # in the order it was typeset in
    for words in ("A Residual Network for CIFAR-10", "Abstract", "1 Implementation", "1.1 Residual block", "1.2 Layers",
                  "2 Result", "3 Discussion", "4 Reproducibility", "References", "Figure 1", "Figure 6", "Table 1",
                  "Table 4", "8,898,826", "These results are not for CIFAR-10"):
        assert words in text, words
    assert f"{results['claims']['test_accuracy']['value']:.2f} %" in text
    assert "??" not in text and "[?]" not in text and "Step [" not in text and "epoch 1/1" not in text
    assert results["data"]["standin"] and "running_loss/100" not in results["claims"]
    assert {"value", "unit", "source", "tolerance"} == set(results["claims"]["parameters"])
    assert not any(name.startswith("hundred-epochs") for name in results["claims"])  # this run had no first stage
    assert not re.search("[{}]", text)  # an f-string that is none


def test_report_leaves_the_submission_alone(report):
    for name in ("notebooks/assignment2.ipynb", "report/report.pdf", "report/results.json"):
        assert (report / name).exists() == (ROOT / name).exists()
        assert not (ROOT / name).exists() or (report / name).read_bytes() == (ROOT / name).read_bytes()


def test_latex_has_nothing_undefined_and_nothing_in_the_margin(report):
    subprocess.run(["xelatex", "-interaction=batchmode", "-output-directory", str(report), "report.tex"],
                   cwd=report / "build", capture_output=True)
    log = (report / "report.log").read_text(errors="replace")
    assert "Missing character" not in log
    assert [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(w) > 5] == []


def test_executed_notebook_holds_no_debris(report):
    for cell in nbformat.read(report / "build" / "assignment2.ipynb", 4).cells:
        for output in cell.get("outputs", []):
            assert "\r" not in output.get("text", "") and "it/s" not in output.get("text", ""), cell.id
            assert output.output_type != "error" and "widget" not in str(output.get("data", {}).keys())


def test_stock_pdf_and_html(report):
    for kind in ("pdf", "html"):
        done = subprocess.run([sys.executable, "-m", "nbconvert", "--to", kind, "--output-dir", str(report / "stock"),
                               str(report / "build" / "assignment2.ipynb")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    text = pdf_text(report / "stock" / "assignment2.pdf")
    assert "class ResidualBlock" in text and "[?]" not in text and "it/s" not in text and "References" in text
    page = (report / "stock" / "assignment2.html").read_text()
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) >= 5 and all(re.search(r'alt="[^"]{3,}"', image) for image in images)
    assert page.count("<table") >= 2
