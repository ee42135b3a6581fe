"""make verify: the submission holds, and whatever is tampered with is caught."""
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import nbformat
import pytest
from conftest import ROOT
from fresh import MIME_TYPE
from pypdf import PdfReader, PdfWriter
from safetensors.torch import load_file, save_file
from verify import NOTEBOOK, belonging, numbers, paper_alone, verify

import utils

RUN = json.loads((ROOT / "report" / "results.json").read_text())["claims"]["test_accuracy"]["source"]
needs_weights = pytest.mark.skipif(not (ROOT / "checkpoints" / RUN / "weights.safetensors").exists(),
                                   reason="the weights were left out of this copy")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "data", "tests", ".*_cache", "__pycache__")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(ROOT, tmp_path / "submission", ignore=LEFT_OUT)


def contradicted(table):
    return set(table.claim[table.verdict == "contradicted"])


def change_results(root, change):
    path = root / "report" / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def change_notebook(root, change, change_whole=lambda notebook: None):
    notebook = nbformat.read(root / NOTEBOOK, 4)
    change({cell.id: cell for cell in notebook.cells})
    change_whole(notebook)
    nbformat.write(notebook, root / NOTEBOOK)


def test_the_submission_holds():
    table = verify()
    assert not contradicted(table)
    claims = json.loads((ROOT / "report" / "results.json").read_text())["claims"]
    assert set(claims) <= set(table.claim)
    sources = table.groupby("claim")["from"].agg(set)
    assert "the predictions" in sources["test_accuracy"] and "the definition" in sources["parameters"]
    assert set(table.verdict[table.claim.str.match("(long-)?(restart|frozen)")]) == {"not rerun"}
    assert set(table.verdict[table.claim.str.startswith("conclusion/")]) == {"holds"}


def test_the_command_prints_a_table_and_exits_by_it(copy):
    command = [sys.executable, str(copy / "grading" / "verify.py")]
    bare = {"PATH": os.environ["PATH"], "HOME": str(copy)}  # without CIFAR10_DIR
    done = subprocess.run(command, capture_output=True, text=True, env=bare)
    assert done.returncode == 0 and re.search(r"test_accuracy +\d\d\.\d+ +\d\d\.\d+", done.stdout), done.stderr
    assert "No CIFAR-10 in" in done.stdout
    change_results(copy, lambda results: results["claims"]["test_accuracy"].update(value=99.0))
    done = subprocess.run(command, capture_output=True, text=True, env=bare)
    assert done.returncode == 1 and "contradicted" in done.stdout
    (copy / "report" / "results.json").write_text("{")
    done = subprocess.run(command, capture_output=True, text=True, env=bare)
    assert done.returncode == 1 and "missing or damaged" in done.stderr and "Traceback" not in done.stderr


def test_every_tampered_number_is_caught(copy):
    def tamper(results):
        for claim in results["claims"].values():
            value = claim["value"]
            claim["value"] = "9×9" if isinstance(value, str) else value + max(2, abs(value) / 100)
    change_results(copy, tamper)
    table = verify(copy)
    claims = json.loads((copy / "report" / "results.json").read_text())["claims"]
    assert contradicted(table) == set(claims) | {"report/results.json has been changed since the notebook was run"}


def test_a_claim_more_or_less_is_caught(copy):
    def change(results):
        results["claims"]["invented"] = results["claims"].pop("epochs")
    change_results(copy, change)
    assert {"invented", "epochs"} <= contradicted(verify(copy))


@pytest.mark.parametrize("file", [pytest.param("weights", marks=needs_weights), "predictions"])
def test_swapped_files_of_a_run_are_caught(copy, file):
    path = copy / "checkpoints" / RUN / f"{file}.safetensors"
    save_file({key: value.flip(0) for key, value in load_file(path).items()}, path)
    fault = f"checkpoints/{RUN}/{file}.safetensors is not the file that the notebook was run with"
    assert list(belonging(copy)) == [fault]


@needs_weights
def test_missing_weights_are_allowed_and_missing_predictions_are_not(copy):
    (copy / "checkpoints" / RUN / "weights.safetensors").unlink()
    assert list(belonging(copy)) == []
    (copy / "checkpoints" / RUN / "predictions.safetensors").unlink()
    assert list(belonging(copy)) == [f"checkpoints/{RUN}/predictions.safetensors is missing"]


@pytest.mark.parametrize("missing", ["frozen-0", "course-renamed"])
def test_claims_that_rest_on_a_missing_run_are_caught(copy, missing):
    """A pair or a start that is gone, or whose record was changed, leaves its claims unchecked, without a traceback."""
    if missing == "frozen-0":
        shutil.rmtree(copy / "checkpoints" / missing)
    else:
        path = copy / "checkpoints" / "course" / "run.json"
        path.write_text(path.read_text().replace('"finished"', '"ended"').replace('"run": "course"', '"run": "other"'))
    assert {"restart-0/loss_last", "restart/loss_last", "restart-slower/loss_last"} <= contradicted(verify(copy))


def test_an_edited_cell_is_caught_and_an_edited_caption_is_not(copy):
    def caption(cells):
        cells["fig-training"].source = cells["fig-training"].source.replace("Training by", "The training by")
        cells["layers"].source += " More prose."
    change_notebook(copy, caption)
    assert list(belonging(copy)) == []

    def code(cells):
        cells["recipe"].source += "\n# and more"
    change_notebook(copy, code)
    assert [re.sub(r"cell \d+ \(.*\) ", "", said) for said in belonging(copy)] == ["changed since the notebook was run"]


def test_an_output_that_the_paper_does_not_say_is_caught(copy):
    def output(cells):
        data = cells["accuracy-prose"].outputs[0].data
        data["text/markdown"] = re.sub(r"reaches \d\d\.\d\d", "reaches 98.76", data["text/markdown"])
    change_notebook(copy, output)
    shows, lacks = belonging(copy)
    assert re.match(r"what cell \d+ \(.*\) shows was not shown by prose\(\)", shows)
    assert "report.pdf lacks" in lacks and "98.76" in lacks


def test_a_paper_of_another_run_is_caught(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")

    def output(cells):
        for cell in cells.values():
            for out in cell.get("outputs", []):
                out.get("data", {}).pop(MIME_TYPE, None)  # the record, or this would not be built
                for kind in {"text/markdown", "text/latex"} & set(out.get("data", {})):
                    out.data[kind] = re.sub(r"(\d\d\.\d)\d", r"\g<1>5", out.data[kind])
    change_notebook(other, output)
    subprocess.run([sys.executable, "-m", "nbconvert", "--config", str(other / "report" / "config.py"),
                    str(other / NOTEBOOK)], check=True, capture_output=True)
    shutil.copy(other / "report" / "report.pdf", copy / "report")
    assert [fault for fault in belonging(copy) if "report.pdf lacks" in fault]


def test_a_paper_is_checked_against_its_attachments_alone(copy, tmp_path):
    paper = copy / "report" / "report.pdf"
    assert list(paper_alone(paper)) == []
    reader = PdfReader(paper)
    assert set(reader.attachments) == {"assignment2.ipynb", "results.json", "references.bib", "environment.txt"}
    assert reader.metadata.title.startswith("A Residual Network") and reader.metadata.author
    assert reader.trailer["/Root"]["/Lang"] == "en"

    def changed(name, data):
        writer = PdfWriter(clone_from=PdfReader(paper))
        for old in list(writer.attachment_list):
            if old.name == name:
                old.content = data
        writer.write(tmp_path / "changed.pdf")
        return list(paper_alone(tmp_path / "changed.pdf"))
    results = json.loads(reader.attachments["results.json"][0])
    results["claims"]["test_accuracy"]["value"] = 99.01
    assert any("99.01" in fault for fault in changed("results.json", json.dumps(results).encode()))
    notebook = reader.attachments["assignment2.ipynb"][0].decode()
    cases = (" points", " and 9.87 points", "lacks"), ("momentum=0.95", "momentum=0.8", "changed since")
    for old, new, fault in cases:
        assert any(fault in found for found in changed("assignment2.ipynb", notebook.replace(old, new).encode()))


@pytest.mark.parametrize("accuracy, change, verdicts", [
    (-0.5, {}, ["holds"]), (-3, {}, ["contradicted"]), (-0.5, {"data": "of other images"}, []),
    (-0.5, {"network": "another"}, []), (-0.5, {"epochs": 500}, []), (-0.5, {"learning_rate": 1.0}, [])])
def test_a_new_run_of_the_same_recipe_is_held_against_the_paper(copy, accuracy, change, verdicts):
    new = shutil.copytree(copy / "checkpoints" / RUN, copy / "build" / "checkpoints" / f"{RUN}-12345678")
    info = json.loads((new / "run.json").read_text())
    info |= {"accuracy": info["accuracy"] + accuracy, "config": info["config"] | change, "finished": "2030-01-01"}
    (new / "run.json").write_text(json.dumps(info))
    table = verify(copy)
    assert list(table.verdict[table["from"] == "a new run, finished 2030-01-01"]) == verdicts


@needs_weights
def test_other_images_are_indicative(digits):
    other = replace(digits, classes=utils.CLASSES)
    table = verify(ROOT, other)
    rows = table[table["from"] == "the weights"]
    assert "test_accuracy" in set(rows.claim) and set(rows.verdict) == {"indicative"}


def test_numbers_are_those_with_a_point_or_thousands():
    assert numbers("8,898,826 of 10,000 in 3.5 s, 2 and 0.2740.") == {"8,898,826", "10,000", "3.5", "0.2740"}
