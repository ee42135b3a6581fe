"""The notebook that is being run: its cells' code, the running cell, where outputs are written."""
import json
import os

from IPython import get_ipython

from report.cell_options import read_cell_options
from report.freshness import code_hash
from tools.project_files import ROOT

SUBMISSION = os.environ.get("OUTPUT") == "submission"
OUTPUT_FOLDER = ROOT if SUBMISSION else ROOT / "build"


cell_ids = {}  # execution count -> the id of the cell, where the front end tells it
failed_counts = set()  # execution counts of cells that ended in an error or were interrupted


def note_start(info):
    """Note the id of a cell that starts; IPython calls this."""
    if getattr(info, "cell_id", None) and info.store_history:
        cell_ids[get_ipython().execution_count] = info.cell_id


def note_end(result):
    """Note whether a cell failed; IPython calls this."""
    if result.execution_count is not None and not result.success:
        failed_counts.add(result.execution_count)


def watch_cells():
    """Have IPython call the two functions above for each cell from now on."""
    shell = get_ipython()
    if shell is not None:
        shell.events.register("pre_run_cell", note_start)
        shell.events.register("post_run_cell", note_end)


watch_cells()


def last_runs():
    """Return execution counts and sources, a dict: of each cell its last run, the running one last.

    A cell that was run again, after an interruption or an edit, counts once. It is known by its
    id, or by its source where the front end tells no ids. The dict is empty outside IPython.
    """
    shell = get_ipython()
    sources = shell.history_manager.input_hist_raw if shell else []
    last = {}
    for count, source in enumerate(sources[1:], 1):
        last[cell_ids.get(count, source)] = count
    return {count: sources[count] for count in sorted(last.values())}


def executed_sources():
    """Return the sources of `last_runs`, a list."""
    return list(last_runs().values())


def failed_sources():
    """Return the sources of those that failed, a list: an edited cell may stand in their place."""
    return [source for count, source in last_runs().items() if count in failed_counts]


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
