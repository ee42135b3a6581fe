"""Reports what differs from the template: definitions as a diff, cells and modules by name."""
import difflib

from grading.cell_code import code_key, find_definitions
from report.cell_options import cell_tags
from report.freshness import cell_names
from tools.project_files import ROOT

MOST_LINES = 200
LINE_LENGTH = 160
MOST_NAMES = 20


def differences(submission, notebook, template):
    """Lines that say what differs from the template, a list of strings.

    Args:
        submission: a Submission.
        notebook: its notebook.
        template: this copy's notebook.
    """
    lines = definitions_diff(notebook, template)
    if lines:
        lines.insert(0, "The network's definitions have been changed:")
    cells = other_cells(notebook, template)
    if cells:
        names = "; ".join(cells[:MOST_NAMES])[:600]
        lines.append(f"{len(cells)} code cells are not the template's: {names}.")
    modules = other_modules(submission)
    if modules:
        names = ", ".join(modules[:MOST_NAMES])
        lines.append(f"Modules that are not the template's (run in the sandbox at most): {names}.")
    return lines


def definitions_diff(notebook, template):
    """A unified diff of the definition cells' sources, a list of lines."""
    diff = difflib.unified_diff(
        definition_lines(template, template),
        definition_lines(notebook, template),
        "the template's definitions",
        "the submission's",
        lineterm="",
        n=1,
    )
    return [f"  {line[:LINE_LENGTH]}" for line in diff][:MOST_LINES]


def definition_lines(notebook, template):
    """The lines of a notebook's definition cells."""
    sources = [cell.source for cell in find_definitions(notebook, template)]
    return "\n\n".join(sources).splitlines()


def other_cells(notebook, template):
    """Names of code cells, without definitions, whose code is not in the template."""
    known = {code_key(cell.source) for cell in template.cells if cell.cell_type == "code"}
    names = []
    for cell, name in zip(notebook.cells, cell_names(notebook)):
        is_definition = "definition" in cell_tags(cell)
        if cell.cell_type != "code" or is_definition or not cell.source.strip():
            continue
        if code_key(cell.source) not in known:
            names.append(name)
    return names


def code_of(notebook):
    """The sources of a notebook's code cells, without cell options: a list of strings."""
    sources = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.startswith("#|")]
            sources.append("\n".join(lines))
    return sources


def other_modules(submission):
    """Names of the submission's Python files that this copy has not, or has with other content."""
    names = []
    for name in sorted(submission.files):
        own = ROOT / name
        is_same = own.is_file() and own.read_bytes() == submission.files[name]
        if name.endswith(".py") and not is_same:
            names.append(name)
    return names
