"""House rules that a commit can break: ruff, hygiene of the notebooks, uncited references."""

import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest
from helpers import ROOT

from report.bibliography import entries_of
from tools.project_files import NOTEBOOK

STUDY = NOTEBOOK.with_name("study.ipynb")
NOTEBOOKS = [notebook for notebook in (NOTEBOOK, STUDY) if notebook.exists()]  # an archive has one
both_notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)

# Input is hidden by three keys: in JupyterLab, on Colab, and in nbconvert's own HTML and LaTeX.
HIDDEN = {
    "jupyter": {"source_hidden": True},
    "cellView": "form",
    "transient": {"remove_source": True},
}

# Names of https://quarto.org/docs/reference/cells/cells-jupyter.html that the notebooks use.
CELL_OPTIONS = {"label", "fig-cap", "fig-alt", "fig-env", "tbl-cap"}

LONGEST_LINE = 100  # of code in a notebook, in characters; longer ones need a scroll bar
LONGEST_LITERAL = 300  # characters; a longer text is prose, and belongs in a Markdown cell


def test_ruff():
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", str(ROOT)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


@both_notebooks
def test_the_notebook_carries_nothing_of_the_machine_it_ran_on(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert set(content["metadata"]) == {"kernelspec", "language_info", "title", "authors"}
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert not any(cell.get("attachments") for cell in content["cells"])
    assert not re.search(r"/(home|root|Users|tmp)/", notebook.read_text(encoding="utf-8"))


@both_notebooks
def test_cells_have_ids_of_their_own(notebook):
    ids = [cell["id"] for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]
    assert len(set(ids)) == len(ids)


@both_notebooks
def test_hidden_cells_are_hidden_everywhere(notebook):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        settings = {key: value for key, value in cell["metadata"].items() if key != "tags"}
        assert settings in ({}, HIDDEN), cell["id"]


@both_notebooks
def test_the_cell_options_are_quartos(notebook):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        options = re.findall(r"(?m)^#\| *([^:]*)", "".join(cell["source"]))
        assert set(options) <= CELL_OPTIONS, cell["id"]
        assert len(options) == len(set(options)), cell["id"]


@both_notebooks
def test_each_reference_is_cited_where_it_is_listed(notebook):
    document = "study" if notebook == STUDY else "report"
    listed = {entry.key for entry in entries_of(document)}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = "".join("".join(cell["source"]) for cell in cells)
    assert listed == set(re.findall(r"\(#ref-(\w+)\)", sources))


def code_cells(notebook):
    return [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]


@both_notebooks
def test_lines_of_code_fit_into_the_window(notebook):
    for cell in code_cells(notebook):
        code = [line for line in cell.source.splitlines() if not line.startswith("#|")]
        assert max(map(len, code), default=0) <= LONGEST_LINE, cell.id


@both_notebooks
def test_prose_is_in_markdown_cells(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            is_long = isinstance(node, ast.Constant) and len(str(node.value)) > LONGEST_LITERAL
            assert not is_long, cell.id


def calls_of_prose(cell):
    """Syntax trees of the calls of prose() in a cell."""
    calls = []
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "prose":
            calls.append(node)
    return calls


@both_notebooks
def test_computed_sentences_are_without_branches(notebook):
    """A sentence with an if in it is hard to read in the notebook, and hard to check."""
    found = 0
    for cell in code_cells(notebook):
        if cell.id == "ledger":
            continue
        for call in calls_of_prose(cell):
            found += 1
            branches = [node for node in ast.walk(call) if isinstance(node, ast.IfExp | ast.BoolOp)]
            assert not branches, cell.id
    assert found


@both_notebooks
def test_headings_carry_no_typed_numbers(notebook):
    cells = nbformat.read(notebook, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"(?m)^#+ .*", text)
    assert headings
    assert not any(re.search(r"\d", heading) for heading in headings)
