"""The ledger and the display of cells: sources of claims, numbers of captions, faults of cells."""
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from analysis import display, ledger, notebook_run
from tools.errors import SubmissionError

LABELLED = "#| label: tbl-sizes\n#| tbl-cap: Sizes.\nledger.claim('size', 1)"


@pytest.fixture
def notebook(tmp_path):
    """The path of a saved notebook with two code cells."""
    cells = [new_code_cell("first()"), new_code_cell(LABELLED)]
    cells[0].id = "start"
    cells[1].id = "sizes"
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def run_cell(monkeypatch):
    """A function that makes its argument, a source, the cell that is being run."""
    sources = []
    monkeypatch.setattr(notebook_run, "executed_sources", lambda: sources)
    return sources.append


def test_a_cell_is_named_by_its_id(notebook, run_cell):
    run_cell("first()")
    assert notebook_run.cell_name(notebook) == "start"
    run_cell(LABELLED.replace("Sizes.", "An edited caption.") + "\n")
    assert notebook_run.cell_name(notebook) == "sizes"


def test_a_cell_that_is_not_in_the_file_is_named_by_its_label_or_number(notebook, run_cell):
    run_cell("first()")
    run_cell(LABELLED + " + 1")
    assert notebook_run.cell_name(notebook) == "tbl-sizes"
    run_cell("edited()")
    assert notebook_run.cell_name(notebook) == "cell 3"


@pytest.mark.parametrize("content", ["", "{}", '{"worksheets": []}', "no JSON"])
def test_a_cell_is_named_without_a_notebook_that_can_be_read(tmp_path, run_cell, content):
    run_cell("first()")
    (tmp_path / "notebook.ipynb").write_text(content, encoding="utf-8")
    assert notebook_run.cell_name(tmp_path / "notebook.ipynb") == "cell 1"
    assert notebook_run.cell_name(tmp_path / "missing.ipynb") == "cell 1"


def test_a_cell_without_an_id_is_named_by_its_number(tmp_path, run_cell):
    """As in notebooks of an older format."""
    cell = {"cell_type": "code", "source": ["first()"], "metadata": {}, "outputs": []}
    path = tmp_path / "notebook.ipynb"
    notebook = {"cells": [cell], "nbformat": 4, "nbformat_minor": 2}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    run_cell("first()")
    assert notebook_run.cell_name(path) == "cell 1"


class FakeRun:
    """A run of which only the name counts."""

    name = "resnet"


def test_a_claim_has_a_source(run_cell, notebook, monkeypatch):
    monkeypatch.setattr(ledger, "NOTEBOOK", notebook)
    claims = ledger.Ledger()
    run_cell(LABELLED)
    assert claims.claim("size", 3) == 3
    assert claims.claim_all("run", {"a": 1, "b": 2}, "%", FakeRun()) == {"a": 1, "b": 2}
    assert claims.claims == {
        "size": ledger.Claim(3, "", "sizes"),
        "run/a": ledger.Claim(1, "%", "resnet"),
        "run/b": ledger.Claim(2, "%", "resnet"),
    }


def test_a_conclusion_that_does_not_hold_stops_a_submission(run_cell, monkeypatch):
    run_cell("conclude()")
    claims = ledger.Ledger()
    claims.claim_all("x", {"gain": 1.0, "gain_interval": 2.0})
    monkeypatch.setattr(ledger, "SUBMISSION", False)
    assert not claims.conclude("it gains", "x/gain", ">", 0)
    assert claims.claims["conclusion/it gains"].unit == "x/gain > 0"
    monkeypatch.setattr(ledger, "SUBMISSION", True)
    with pytest.raises(SubmissionError, match="'it gains' does not hold: x/gain is 1 ± 2"):
        claims.conclude("it gains", "x/gain", ">", 0)
    assert claims.conclude("it is above -2", "x/gain", ">", -2)


def test_figures_and_tables_are_numbered_in_the_order_of_their_first_display():
    shown = display.Shown()
    labels = ("fig-b", "tbl-a", "fig-a", "fig-b")
    assert [shown.number_of(label) for label in labels] == [1, 1, 2, 1]


@pytest.mark.parametrize("source, words", [
    ("show_table(frame)", "no `label`: add `#| label: "),
    ("#| label: tbl-a\nshow_table(frame)", "no `tbl-cap`: add `#| tbl-cap: "),
    ("#| label: a\n#| tbl-cap: A.\nshow_table(frame)", "label a of this cell must start with"),
    ("#| label: tbl-a\n#| tbl-cap: a: b: c\nshow_table(frame)", "cannot be read .*double quotes"),
])
def test_a_cell_that_lacks_an_option_is_told_which(run_cell, source, words):
    run_cell(source)
    with pytest.raises(SubmissionError, match=f"(?s){words}"):
        display.latex_caption(notebook_run.cell_options())
