"""The notebook that is being run: its cells' code, the running cell, where outputs are written."""
import json
import os

from IPython import get_ipython

from report.cell_options import read_cell_options
from report.freshness import code_hash
from tools.project_files import ROOT

SUBMISSION = os.environ.get("OUTPUT") == "submission"
OUTPUT_FOLDER = ROOT if SUBMISSION else ROOT / "build"


def executed_sources():
    """Return the source of each code cell executed so far, the running one last; a list.

    The list is empty outside IPython.
    """
    shell = get_ipython()
    if shell is None:
        return []
    return shell.history_manager.input_hist_raw[1:]


def running_source():
    """Return the source of the cell that is being run, "" outside IPython."""
    sources = executed_sources()
    return sources[-1] if sources else ""


def cell_options():
    """Return the options of the cell that is being run, a dict."""
    return read_cell_options(running_source())


def cell_name(notebook):
    """Return the name of the cell that is being run: its id, else its label, else "cell N".

    The id is looked up by the cell's code in the file `notebook`, a path. A cell that was edited
    and not saved is not found there; then its option `label` names it, or its execution count.
    """
    source = running_source()
    code = code_hash(source)
    for cell in saved_cells(notebook):
        is_code = cell.get("cell_type") == "code"
        if is_code and code_hash("".join(cell["source"])) == code and "id" in cell:
            return cell["id"]
    return read_cell_options(source).get("label") or f"cell {len(executed_sources())}"


def saved_cells(notebook):
    """Return the cells of the file `notebook` as dicts; [] if it is missing or not a notebook."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return []
