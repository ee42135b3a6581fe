"""Undoes what editors do to a notebook when they save it: lost tags, flags and re-encoded pictures.

What is compared afterwards is what the notebook shows, not how it was saved.
"""

import base64
import hashlib

from grading import sandbox
from grading.archive import parse_json
from grading.cell_code import code_key, figure_label
from grading.network_measurements import sandbox_code
from tools.errors import SubmissionError

CAPTION_START = r"{\captionsetup{"


def repair_notebook(notebook, template, submission, recorded, policy):
    """Repair a notebook in place; return sentences on what was repaired, a list.

    Args:
        notebook: nbformat's node.
        template: this copy's notebook.
        submission: a Submission.
        recorded: the files that the notebook's run has recorded, name -> SHA-256.
        policy: a Policy.
    """
    notes = []
    restored = _restore_tags(notebook, template)
    if restored:
        notes.append(
            f"The notebook's cells have lost their tags; {restored} of them were recognised by "
            "their code or text."
        )
    _restore_captions(notebook)
    pictures = _restore_pictures(notebook, submission, recorded, policy)
    if pictures:
        names = ", ".join(pictures)
        notes.append(f"Pictures were saved anew, with the same pixels: {names}.")
    return notes


def _restore_tags(notebook, template):
    """Give cells their tags again if all of them have lost them; return how many got some."""
    if any(cell.metadata.get("tags") for cell in notebook.cells):
        return 0
    known = {}
    for cell in template.cells:
        if cell.metadata.get("tags"):
            known[_cell_key(cell)] = cell.metadata.tags
    restored = 0
    for cell in notebook.cells:
        tags = known.get(_cell_key(cell))
        if tags:
            cell.metadata["tags"] = list(tags)
            restored += 1
    return restored


def _cell_key(cell):
    if cell.cell_type == "code":
        return code_key(cell.source)
    return " ".join(cell.source.split())


def _restore_captions(notebook):
    """Flag the captions that show_figure() and show_table() show; the paper makes its own."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            latex = output.get("data", {}).get("text/latex", "")
            if latex.startswith(CAPTION_START) and "tabular" not in latex:
                output.metadata["caption"] = True


# --------------------------------------------------------------------------------------- pictures


def _restore_pictures(notebook, submission, recorded, policy):
    """Put the recorded figures where pictures have the same pixels; return their labels."""
    changed = {}  # label -> (the output's data, the recorded PNG)
    for cell in notebook.cells:
        label = figure_label(cell)
        if not label:
            continue
        name = f"figures/{label}.png"
        if not _is_as_recorded(name, submission, recorded):
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" not in data:
                continue
            shown = _decoded(data["image/png"])
            is_same = hashlib.sha256(shown).hexdigest() == recorded[name]
            if not is_same or "application/pdf" not in data:
                changed[label] = data, shown
    equal = _equal_pictures(changed, submission, policy)
    for label in equal:
        data, _ = changed[label]
        _restore_picture(data, f"figures/{label}.png", "image/png", submission, recorded)
        if "application/pdf" not in data:
            _restore_picture(data, f"figures/{label}.pdf", "application/pdf", submission, recorded)
    return equal


def _restore_picture(data, name, mime_type, submission, recorded):
    """Put a figure's file into an output's data if it is the recorded one."""
    if _is_as_recorded(name, submission, recorded):
        data[mime_type] = base64.b64encode(submission.bytes(name)).decode()


def _is_as_recorded(name, submission, recorded):
    """Whether the submission has a file of this name, and it is the one that the run recorded."""
    return name in submission.files and submission.hash(name) == recorded.get(name)


def _decoded(text):
    try:
        return base64.b64decode(str(text))
    except ValueError:
        return b""


def _equal_pictures(changed, submission, policy):
    """The labels of those pictures that have the recorded figures' pixels; decoded in a sandbox."""
    if not changed:
        return []
    inputs = sandbox_code()
    for label, (_, shown) in changed.items():
        inputs[f"pictures/{label}.shown"] = shown
        inputs[f"pictures/{label}.recorded"] = submission.bytes(f"figures/{label}.png")
    try:
        results = sandbox.run_task(inputs, "find_equal_pictures", policy)
        equal = parse_json(results.get("equal.json", b"[]"), "the comparison of pictures")
    except SubmissionError:
        return []
    return [label for label in changed if isinstance(equal, list) and label in equal]
