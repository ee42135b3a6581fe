"""House rules that a commit can break: ruff, the notebook's hygiene, references that nobody cites."""
import ast
import json
import re
import subprocess
import sys

import nbformat
from conftest import ROOT
from definitions import NOTEBOOK

# Hidden input: in JupyterLab, on Colab, and in stock nbconvert's HTML and LaTeX
HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form", "transient": {"remove_source": True}}


def test_ruff():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--output-format=concise", str(ROOT)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_notebook_carries_nothing_of_the_machine_it_ran_on():
    notebook = json.loads(NOTEBOOK.read_text())
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "title", "authors"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell["metadata"].keys() - {"tags"} in (set(), set(HIDDEN)), cell["id"]
        assert {key: cell["metadata"].get(key, value) for key, value in HIDDEN.items()} == HIDDEN, cell["id"]
        assert not cell.get("attachments"), cell["id"]
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert not re.search(r"/(home|root|Users|tmp)/", NOTEBOOK.read_text())


def test_the_cell_options_are_quartos():
    """By the names of https://quarto.org/docs/reference/cells/cells-jupyter.html; more are used by adding them here."""
    known = {"label", "fig-cap", "fig-alt", "fig-env", "tbl-cap"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        options = re.findall(r"(?m)^#\| *([^:]*)", "".join(cell["source"]))
        assert set(options) <= known and len(options) == len(set(options)), cell["id"]


def test_each_reference_is_cited():
    keys = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "report" / "references.bib").read_text(), re.M))
    sources = "".join("".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"])
    assert keys == set(re.findall(r"\(#ref-(\w+)\)", sources))


CODE = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
LINES = {cell.id: [line for line in cell.source.splitlines() if not line.startswith("#|")] for cell in CODE}


def test_the_notebook_reads_like_a_tutorial():
    """Its bars: most of it is text, cells are short, and little comes before the first idea."""
    assert sum(map(len, LINES.values())) <= 330
    assert {name: len(lines) for name, lines in LINES.items() if len(lines) > 25} == {}
    assert [line for lines in LINES.values() for line in lines if len(line) > 120] == []
    cells = nbformat.read(NOTEBOOK, 4).cells
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    assert 1500 <= words <= 2500 and len(cells) <= 67
    first = next(i for i, cell in enumerate(cells) if cell.source.startswith("# "))
    shown = [cell for cell in cells[:first] if cell.cell_type == "code" and "transient" not in cell.metadata]
    assert sum(len(LINES[cell.id]) for cell in shown) <= 25


def test_prose_in_code_is_short_and_without_branches():
    """At most six paragraphs hold computed numbers, beside abstract and banner; no literal is a paragraph in itself."""
    for cell in CODE:
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.Constant) or len(str(node.value)) <= 300, cell.id
    prose = [cell for cell in CODE if re.search(r"(?m)^prose\(", cell.source) and cell.id != "ledger"]
    assert len(prose) <= 6
    for cell in prose:
        call = next(node for node in ast.walk(ast.parse(cell.source))
                    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "prose")
        assert call.end_lineno - call.lineno < 4, cell.id
        assert not any(isinstance(node, (ast.IfExp, ast.BoolOp)) for node in ast.walk(call)), cell.id


def test_headings_carry_no_typed_numbers():
    cells = nbformat.read(NOTEBOOK, 4).cells
    headings = re.findall(r"(?m)^#+ .*", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    assert len(headings) >= 8 and not any(re.search(r"\d", heading) for heading in headings)
