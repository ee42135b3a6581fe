"""A notebook's record names every file that its numbers rest on: editing one makes it stale."""

import copy
import shutil

import nbformat
import pytest
from helpers import LEFT_OUT, ROOT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output

from report.freshness import UNPACK_COMMENT, record, stale
from tools.project_files import project_files

UNPACKING = f"{UNPACK_COMMENT}\npass"
CELLS = (
    UNPACKING,
    "from analysis.ledger import Ledger\nimport utils\nledger = Ledger()",
    "ledger.write(utils.load_data(None, 'digits'), [])",
)
EDITED = (
    "analysis/run_statistics.py",
    "analysis/published.csv",
    "analysis/ledger.py",
    "training/__init__.py",
    "utils.py",
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A copy of the project, and a notebook that was run in it."""
    root = shutil.copytree(ROOT, tmp_path_factory.mktemp("stale") / "project", ignore=LEFT_OUT)
    hidden = {"tags": ["notebook-only"]}
    cells = [new_code_cell(source, metadata=hidden) for source in CELLS]
    notebook = new_notebook(cells=cells)
    NotebookClient(notebook, resources={"metadata": {"path": str(root)}}).execute()
    return root, nbformat.from_dict(notebook)


def test_the_record_names_every_file_that_computes_numbers(recorded):
    root, notebook = recorded
    files = {file.relative_to(root).as_posix() for file in project_files("notebook", root)}
    assert files and files <= set(record(notebook)["files"])
    assert list(stale(notebook, root)) == []


@pytest.mark.parametrize("name", EDITED)
def test_editing_a_file_makes_the_notebook_stale(recorded, name):
    root, notebook = recorded
    file = root / name
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    assert f"{name} is not the file that the notebook was run with" in list(stale(notebook, root))
    file.write_bytes(content)


def test_an_expected_error_is_no_fault(recorded):
    root, notebook = recorded
    changed = copy.deepcopy(notebook)
    cell = changed.cells[1]
    cell.outputs = [new_output("error", ename="ValueError", evalue="wrong", traceback=[])]
    assert any("ended in an error" in sentence for sentence in stale(changed, root))
    cell.metadata.tags.append("raises-exception")
    assert list(stale(changed, root)) == []


def test_the_cell_that_unpacks_the_project_may_be_there_or_not(recorded):
    root, notebook = recorded
    assert notebook.cells[0].source == UNPACKING and list(stale(notebook, root)) == []
    without = copy.deepcopy(notebook)
    del without.cells[0]
    assert list(stale(without, root)) == []
    other = copy.deepcopy(without)
    other.cells.insert(0, new_code_cell("# Another comment\npass"))
    assert "changed since" in next(stale(other, root))
