"""`make assignment`: what an instructor gives to students, made from the submission itself.

In code cells, lines between `# BEGIN SOLUTION: hint` and `# END SOLUTION` become a place for the
student's code with that hint; the number of # does not matter. In Markdown cells, a comment that
starts with PROMPT holds what the student is asked: it replaces the cell's text. Outputs, results
and runs are left out.
"""

import re
import shutil
import sys
import zipfile

import nbformat

from tools.errors import SubmissionError
from tools.project_files import ROOT, project_files

NOTEBOOK = "notebooks/assignment2.ipynb"
BEGIN = re.compile(r"(?P<indent>\s*)#+ *BEGIN SOLUTION:? *(?P<hint>.*)")
END = re.compile(r"\s*#+ *END SOLUTION.*")
PROMPT = re.compile(r"<!--\s*PROMPT\s+(?P<text>.*?)\s*-->", re.DOTALL)


class AssignmentError(SubmissionError):
    """The source notebook's markers are wrong: one sentence names the cell and the marker."""


def blank_code(source, cell):
    """Return the source of a code cell with a place for code instead of each solution.

    `cell` is what messages call the cell. Raises AssignmentError for markers that do not pair.
    """
    lines = []
    begin = None
    for line in source.split("\n"):
        starts = BEGIN.fullmatch(line)
        if starts and begin:
            raise AssignmentError(f"{cell} begins a solution within another one: end the first")
        if starts:
            begin = starts
            lines += placeholder(starts["indent"], starts["hint"])
        elif END.fullmatch(line):
            if not begin:
                raise AssignmentError(f"{cell} has # END SOLUTION without # BEGIN SOLUTION above")
            begin = None
        elif not begin:
            lines.append(line)
    if begin:
        raise AssignmentError(f"{cell} has # BEGIN SOLUTION without # END SOLUTION after it")
    return "\n".join(lines)


def placeholder(indent, hint):
    """The lines that stand in the place of a solution."""
    first = f"{indent}# YOUR CODE HERE"
    if hint:
        first += f": {hint}"
    return [first, f"{indent}raise NotImplementedError"]


def blank_text(source):
    """Return the source of a Markdown cell: its prompts where it has some, else as it is."""
    prompts = [found["text"] for found in PROMPT.finditer(source)]
    if not prompts:
        return source
    headings = re.findall(r"^(?:#+ .*|<a id=.*)$", source, re.MULTILINE)
    questions = [f"*{' '.join(prompt.split())}*" for prompt in prompts]
    return "\n\n".join([*headings, *questions])


def blank_notebook(notebook):
    """Return a copy of a notebook as students get it: solutions blank, no outputs.

    Raises AssignmentError where markers do not pair, or where no solution is marked at all.
    """
    blank = nbformat.from_dict(notebook)
    solutions = 0
    for number, cell in enumerate(blank.cells, 1):
        if cell.cell_type == "code":
            source = blank_code(cell.source, f"cell {number} ({cell.get('id', 'no id')})")
            solutions += source != cell.source
            cell.source = source
            cell.outputs = []
            cell.execution_count = None
        elif cell.cell_type == "markdown":
            cell.source = blank_text(cell.source)
    if not solutions:
        raise AssignmentError("no cell of the notebook has # BEGIN SOLUTION: nothing to hand out")
    return blank


def write_assignment(target):
    """Write the hand-out to the folder `target`, whose previous content is removed."""
    notebook = blank_notebook(nbformat.read(ROOT / NOTEBOOK, 4))
    shutil.rmtree(target, ignore_errors=True)
    for file in project_files("assignment"):
        copy = target / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    (target / NOTEBOOK).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target / NOTEBOOK)


def pack_folder(folder, archive):
    """Write the files below `folder` to the zip file `archive`, in a folder of the same name."""
    new = archive.with_suffix(".new")
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                name = file.relative_to(folder.parent).as_posix()
                entry = zipfile.ZipInfo(name)  # without a date: same files, same bytes
                entry.compress_type = zipfile.ZIP_DEFLATED
                packed.writestr(entry, file.read_bytes())
    new.replace(archive)


def main():
    """Write build/assignment/ and build/assignment.zip."""
    target = ROOT / "build" / "assignment"
    try:
        write_assignment(target)
        pack_folder(target, target.with_suffix(".zip"))
    except (SubmissionError, OSError) as error:
        sys.exit(f"make assignment: {error}")
    print(target.with_suffix(".zip"))


if __name__ == "__main__":
    main()
