"""The ledger and the display of cells: sources of claims, numbers of captions, faults of cells."""
import json
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from analysis import display, ledger, notebook_run
from report.freshness import code_hash, stale
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
    assert claims.claims["conclusion/it gains"].condition == "x/gain > 0"
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
    ("#| label: a\n#| tbl-cap: A.\nshow_table(frame)", "label a must start with"),
    ("#| label: tbl-a\n#| tbl-cap: a: b: c\nshow_table(frame)", "cannot be read .*double quotes"),
])
def test_a_cell_that_lacks_an_option_is_told_which(run_cell, source, words):
    run_cell(source)
    with pytest.raises(SubmissionError, match=f"(?s){words}"):
        display.latex_caption(notebook_run.cell_options())


@pytest.fixture
def shell(monkeypatch):
    """A function that runs a cell in a stand-in for IPython: its source, id and whether it fails.

    It returns the record of the cells so far.
    """
    history = SimpleNamespace(input_hist_raw=[""])
    shell = SimpleNamespace(history_manager=history, execution_count=1)
    monkeypatch.setattr(notebook_run, "get_ipython", lambda: shell)
    monkeypatch.setattr(notebook_run, "cell_ids", {})
    monkeypatch.setattr(notebook_run, "failed_counts", set())

    def run(source, cell_id=None, fails=False):
        count = shell.execution_count
        notebook_run.note_start(SimpleNamespace(cell_id=cell_id, store_history=True))
        history.input_hist_raw.append(source)
        shell.execution_count += 1
        record = {
            "cells": [code_hash(source) for source in notebook_run.executed_sources()],
            "failed": [code_hash(source) for source in notebook_run.failed_sources()],
        }
        notebook_run.note_end(SimpleNamespace(execution_count=count, success=not fails))
        return record

    return run


def faults(sources, record):
    """What report.freshness says of a notebook with these code cells and this record."""
    cells = [new_code_cell(source) for source in sources]
    data = {display.MIME_TYPE: {"texts": [], "files": {}, **record}}
    cells[-1].outputs = [nbformat.v4.new_output("display_data", data=data)]
    return list(stale(new_notebook(cells=cells), None))


@pytest.mark.parametrize("ids", [True, False], ids=["cell ids", "no cell ids"])
def test_a_cell_that_was_stopped_and_run_again_counts_once(shell, ids):
    for source, fails in (("load()", False), ("train()", True), ("train()", False)):
        shell(source, source if ids else None, fails)
    record = shell("ledger.write()", "ledger" if ids else None)
    assert len(record["cells"]) == 3
    assert faults(["load()", "train()", "ledger.write()", "more()"], record) == []


@pytest.mark.parametrize("ids", [True, False], ids=["cell ids", "no cell ids"])
def test_a_cell_that_failed_and_was_corrected_counts_as_it_is_now(shell, ids):
    for source, fails in (("load()", False), ("tarin()", True), ("train()", False)):
        shell(source, source[-4:] if ids else None, fails)
    record = shell("ledger.write()")
    assert faults(["load()", "train()", "ledger.write()"], record) == []
    assert "train() changed" not in str(faults(["load()", "tarin()", "ledger.write()"], record))
    assert faults(["load()", "other()", "train()", "ledger.write()"], record)


def test_a_cell_that_was_run_again_after_later_ones_makes_them_stale(shell):
    for source in ("load()", "train()", "load()"):
        shell(source)
    words = "the notebook's cells were not run once each from top to bottom"
    assert faults(["load()", "train()", "end()"], shell("end()")) == [words]


def test_cells_with_the_same_code_and_cells_that_may_fail_are_no_fault(shell):
    for source, fails in (("show()", False), ("1 / 0", True), ("show()", False)):
        shell(source, fails=fails)
    assert faults(["show()", "1 / 0", "show()", "end()"], shell("end()")) == []


def test_an_edited_cell_counts_once_where_ids_are_known(shell):
    for source, cell_id in (("load()", "a"), ("width = 1", "b"), ("width = 2", "b")):
        shell(source, cell_id)
    assert faults(["load()", "width = 2", "end()"], shell("end()", "c")) == []


def test_the_ledger_knows_the_runs_that_claims_rest_on(run_cell):
    run_cell("claim()")
    book = ledger.Ledger()
    runs = [SimpleNamespace(name=name) for name in ("net", "more", "net")]
    for run in runs:
        book.claim(f"{run.name}/accuracy", 1.0, "%", run)
    assert book.runs == runs[:2]
