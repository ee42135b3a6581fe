"""House rules that a commit can break: ruff, the notebook's hygiene, references that nobody cites."""
import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest
from helpers import ROOT

from tools.notebook_definitions import NOTEBOOK

STUDY = NOTEBOOK.with_name("study.ipynb")
NOTEBOOKS = [notebook for notebook in (NOTEBOOK, STUDY) if notebook.exists()]  # an archive has no study
both_notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)

# Hidden input: in JupyterLab, on Colab, and in stock nbconvert's HTML and LaTeX
HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form", "transient": {"remove_source": True}}


def test_ruff():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--output-format=concise", str(ROOT)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@both_notebooks
def test_the_notebook_carries_nothing_of_the_machine_it_ran_on(notebook):
    content = json.loads(notebook.read_text())
    assert set(content["metadata"]) == {"kernelspec", "language_info", "title", "authors"}
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    for cell in content["cells"]:
        assert cell["metadata"].keys() - {"tags"} in (set(), set(HIDDEN)), cell["id"]
        assert {key: cell["metadata"].get(key, value) for key, value in HIDDEN.items()} == HIDDEN, cell["id"]
        assert not cell.get("attachments"), cell["id"]
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
    assert not re.search(r"/(home|root|Users|tmp)/", notebook.read_text())


@both_notebooks
def test_the_cell_options_are_quartos(notebook):
    """By the names of https://quarto.org/docs/reference/cells/cells-jupyter.html; more are used by adding them here."""
    known = {"label", "fig-cap", "fig-alt", "fig-env", "tbl-cap"}
    for cell in json.loads(notebook.read_text())["cells"]:
        options = re.findall(r"(?m)^#\| *([^:]*)", "".join(cell["source"]))
        assert set(options) <= known and len(options) == len(set(options)), cell["id"]


@both_notebooks
def test_each_reference_is_cited_where_it_is_listed(notebook):
    document = "study" if notebook == STUDY else "report"
    entries = re.findall(r"^@\w+\{([^,]+),(.*?)^\}", (ROOT / "report" / "references.bib").read_text(), re.M | re.S)
    keywords = {key: re.search(r"keywords = \{(.*)\}", body) for key, body in entries}
    listed = {key for key, found in keywords.items() if document in (found[1] if found else "report").split(", ")}
    sources = "".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"])
    assert listed == set(re.findall(r"\(#ref-(\w+)\)", sources))


def code_cells(notebook):
    return [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]


def lines_of_code(notebook):
    """Without cell options and blank lines."""
    return {cell.id: [line for line in cell.source.splitlines() if line and not line.startswith("#|")]
            for cell in code_cells(notebook)}


@both_notebooks
def test_the_notebook_reads_like_a_tutorial(notebook):
    """Its bars: most of it is text, cells are short, and little comes before the first idea."""
    bars = {NOTEBOOK: (275, (1300, 1800), 62), STUDY: (190, (900, 1800), 42)}
    most_lines, words, most_cells = bars[notebook]
    lines = lines_of_code(notebook)
    assert sum(map(len, lines.values())) <= most_lines
    assert {name: len(found) for name, found in lines.items() if len(found) > 25} == {}
    assert [line for found in lines.values() for line in found if len(line) > 100] == []
    cells = nbformat.read(notebook, 4).cells
    count = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    assert words[0] <= count <= words[1] and len(cells) <= most_cells
    first = next(i for i, cell in enumerate(cells) if cell.source.startswith("# "))
    shown = [cell for cell in cells[:first] if cell.cell_type == "code" and "transient" not in cell.metadata]
    assert sum(len(lines[cell.id]) for cell in shown) <= 25


@both_notebooks
def test_prose_in_code_is_short_and_without_branches(notebook):
    """At most six paragraphs hold computed numbers, beside abstract and banner; no literal is a paragraph in itself."""
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.Constant) or len(str(node.value)) <= 300, cell.id
    prose = [cell for cell in code_cells(notebook) if re.search(r"(?m)^prose\(", cell.source) and cell.id != "ledger"]
    assert len(prose) <= 6
    for cell in prose:
        call = next(node for node in ast.walk(ast.parse(cell.source))
                    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "prose")
        assert call.end_lineno - call.lineno < 5, cell.id
        assert not any(isinstance(node, (ast.IfExp, ast.BoolOp)) for node in ast.walk(call)), cell.id


@both_notebooks
def test_headings_carry_no_typed_numbers(notebook):
    cells = nbformat.read(notebook, 4).cells
    headings = re.findall(r"(?m)^#+ .*", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    assert len(headings) >= 8 and not any(re.search(r"\d", heading) for heading in headings)
