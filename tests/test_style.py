"""House rules that a commit can break: ruff, the notebook's hygiene, references that nobody cites."""
import json
import re
import subprocess
import sys

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
