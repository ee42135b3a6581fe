"""`make assignment`: what an instructor gives to students, made from the submission itself.

The notebook marks what students do not get. A code cell has lines between `# BEGIN SOLUTION: hint`
and `# END SOLUTION`, with any number of #: a place for the student's code stands there, with the
hint. A comment PROMPT asks for text, `<!-- PROMPT question -->` in a Markdown cell or `# PROMPT
question` at the top of a code cell: the question replaces the cell's text or code; without a
question the cell is left out. `<!-- TASK text -->` becomes a Markdown cell behind its own.
Exercises stay, their solutions do not: `<details>` with the summary Solution. Outputs, results
and runs are left out, and placeholders replace the author.
"""

import ast
import re
import shutil
import sys

import nbformat
from nbformat.v4 import new_markdown_cell

from grading.policy import read_policy
from tools.errors import SubmissionError
from tools.packing import PLACEHOLDERS, QUESTION, print_written, write_archive, write_colab
from tools.project_files import COLAB_NAME, NOTEBOOK, NOTEBOOK_NAME, ROOT, project_files
from tools.run_notebook import CODE_PLACEHOLDER
from tools.terminal import replace_unprintable

README = "tools/assignment_readme.md"  # becomes the hand-out's README.md
POLICY = "grading/policy.toml"
# Commands whose files students do not get.
OMITTED_COMMANDS = ("study", "assignment", "test", "test-fast", "bench")
BEGIN = re.compile(r"(?P<indent>\s*)#+ *BEGIN SOLUTION:? *(?P<hint>.*)")
END = re.compile(r"\s*#+ *END SOLUTION.*")
PROMPT = re.compile(r"<!--\s*PROMPT\b\s*(?P<text>.*?)\s*-->\n*", re.DOTALL)
CODE_PROMPT = re.compile(r"(?m)^#+ *PROMPT\b(?P<text>.*(?:\n# .*)*)")
TASK = re.compile(r"<!--\s*TASK\b\s*(?P<text>.*?)\s*-->\n*", re.DOTALL)
ANSWER = re.compile(
    r"\n*<details>\s*<summary>Solution</summary>(?:(?!<details>).)*?</details>", re.DOTALL
)
POINTS = re.compile(r"(?P<name>[A-Z][a-z]*(?: [a-z]+)*): (?P<points>\d+(?:\.\d+)?) points")
NAME, NUMBER, UNIVERSITY, EMAIL, ACCOUNT = PLACEHOLDERS
AUTHOR = {"name": NAME, "student_number": NUMBER, "university": UNIVERSITY, "email": EMAIL}
UNSIGNED = {  # name of a setting -> the code that sets it in the hand-out
    "REPOSITORY": f'REPOSITORY = "https://github.com/{ACCOUNT}/resnet-cifar10"',
    "AUTHORS": f"""\
AUTHORS = [{{"name": "{NAME}", "student_number": "{NUMBER}",  # edit this
            "university": "{UNIVERSITY}", "email": "{EMAIL}"}}]""",
}


# A line that sets a variable, in a cell that is not plain Python, such as one with %time.
SET_SOMEWHERE = r"\b{name}\b\s*(?:[:,][^()\n]*|[-+|*]?)=(?!=)"


class AssignmentError(SubmissionError):
    """The source notebook's markers are wrong: one sentence names the cell and the marker."""


# -------------------------------------------------------------------------------------------- code


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
    first = f"{indent}{CODE_PLACEHOLDER}"
    if hint:
        first += f": {hint}"
    return [first, f"{indent}raise NotImplementedError"]


def without_author(source, cell):
    """Return the source of a code cell with placeholders for the author and their repository.

    `cell` is what messages call the cell. Raises AssignmentError for a cell that sets them in a way
    that cannot be replaced.
    """
    for name, text in UNSIGNED.items():
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            if re.search(SET_SOMEWHERE.format(name=name), source):
                raise AssignmentError(
                    f"{cell} sets {name} and is not plain Python: the author cannot be removed "
                    "from it"
                ) from None
            continue
        lines = source.split("\n")
        for statement in reversed(statements):
            others = [other for other in statements if other is not statement]
            is_alone = not any(shares_a_line(statement, other) for other in others)
            if name in assigned_names(statement) and is_alone:
                lines[statement.lineno - 1 : statement.end_lineno] = [text]
            elif any(changes_variable(node, name) for node in ast.walk(statement)):
                raise AssignmentError(
                    f"{cell} sets or changes {name} in a way that cannot be replaced: the author "
                    f"cannot be removed from it. Write {name} = … as a statement of its own, on "
                    "lines of its own"
                )
        source = "\n".join(lines)
    return source


def assigned_names(statement):
    """The targets of an assignment, with or without an annotation, as text; [] for others."""
    targets = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [ast.unparse(target) for target in targets]


def changes_variable(node, name):
    """Whether a node of a syntax tree sets the variable `name` or a part of it, or adds to it."""
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Store)
    if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node.value))
    if isinstance(node, ast.Attribute) and node.attr in ("append", "extend", "insert"):
        return isinstance(node.value, ast.Name) and node.value.id == name
    return False


def shares_a_line(statement, other):
    """Whether two statements of a cell stand on one line, at least in part."""
    return statement.lineno <= other.end_lineno and other.lineno <= statement.end_lineno


# -------------------------------------------------------------------------------------------- text


def question(text):
    """What stands in the place of an author's text."""
    return f"*{QUESTION} {' '.join(text.split())}*"


def without_answers(source, cell):
    """Return the source of a Markdown cell without the solutions of its exercises.

    `cell` is what messages call the cell. Raises AssignmentError for a solution that does not end.
    """
    left = ANSWER.sub("", source)
    if re.search(r"<summary>\s*Solution", left):
        raise AssignmentError(
            f"{cell} has a solution that would be handed out: write it between "
            "<details><summary>Solution</summary> and </details>"
        )
    return left


def blank_text(source):
    """Return the source of a Markdown cell as students get it, "" for a cell that is left out.

    Questions replace the text below the headings; a cell without questions stays as it is.
    """
    prompts = [found["text"] for found in PROMPT.finditer(source)]
    if not prompts:
        return TASK.sub("", source).strip()
    if not any(prompts):
        return ""
    headings = re.findall(r"^(?:#+ .*|<a id=.*)$", TASK.sub("", source), re.MULTILINE)
    return "\n\n".join([*headings, *map(question, prompts)])


def question_of_code(source):
    """Return the question at the top of a code cell that the author's text is computed in.

    It is "" for a cell that is left out, and None for a cell that students get.
    """
    prompt = CODE_PROMPT.match(source)
    if not prompt:
        return None
    return " ".join(prompt["text"].replace("\n#", " ").split())


# -------------------------------------------------------------------------------------- notebook


def blank_cells(cell, name):
    """Return the cells that students get for a cell: a list of none, one or two.

    `name` is what messages call the cell.
    """
    if cell.cell_type == "code":
        asked = question_of_code(cell.source)
        if asked is None:
            cell.source = without_author(blank_code(cell.source, name), name)
            cell.outputs = []
            cell.execution_count = None
            return [cell]
        if not asked:
            return []
        metadata = {"tags": cell.metadata.get("tags", [])}
        return [new_markdown_cell(question(asked), id=cell.id, metadata=metadata)]
    if cell.cell_type != "markdown":
        return [cell]
    tasks = [found["text"] for found in TASK.finditer(cell.source)]
    cell.source = blank_text(without_answers(cell.source, name))
    cells = [cell] if cell.source else []
    if tasks:
        metadata = {"tags": ["notebook-only"]}
        cells.append(new_markdown_cell("\n\n".join(tasks), id=f"{cell.id}-task", metadata=metadata))
    return cells


def blank_notebook(notebook):
    """Return a copy of a notebook as students get it: solutions blank, no outputs, no author.

    Raises AssignmentError where markers do not pair, or where no solution is marked at all.
    """
    blank = nbformat.from_dict(notebook)
    before = "\n".join(cell.source for cell in blank.cells if cell.cell_type == "code")
    cells = []
    for number, cell in enumerate(blank.cells, 1):
        cells += blank_cells(cell, f"cell {number} ({cell.get('id', 'no id')})")
    blank.cells = cells
    if not re.search(f"(?m)^{BEGIN.pattern}", before):
        raise AssignmentError("no cell of the notebook has # BEGIN SOLUTION: nothing to hand out")
    if "authors" in blank.metadata:
        blank.metadata.authors = [AUTHOR]
    return blank


# ----------------------------------------------------------------------------------------- points


def points_in_text(notebook):
    """The points that a notebook's Markdown names: a dict, name in lower case -> points."""
    points = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for found in POINTS.finditer(cell.source):
                points[found["name"].lower()] = float(found["points"])
    return points


def points_in_policy(policy):
    """The points that a Policy gives: as `points_in_text`."""
    return {item.name.lower(): item.points for item in policy.points.item}


def shown_points(points, name):
    """The points of an item, among points by name, as a message shows them."""
    if name not in points:
        return "none"
    return f"{points[name]:g}"


def check_points(in_text, in_policy):
    """Raise AssignmentError where text and policy name other points."""
    differing = []
    for name in dict.fromkeys([*in_text, *in_policy]):
        if in_text.get(name) != in_policy.get(name):
            text_points = shown_points(in_text, name)
            policy_points = shown_points(in_policy, name)
            differing.append(
                f"{name} ({text_points} in the notebook, {policy_points} in the policy)"
            )
    if differing:
        raise AssignmentError(
            f"the points in the text of {NOTEBOOK_NAME} are not those of {POLICY}: "
            f"{', '.join(differing)}; change one of them"
        )


# ------------------------------------------------------------------------------------------ files


def makefile_of_students(text):
    """Return the text of the Makefile without the commands whose files students do not get."""
    for name in OMITTED_COMMANDS:
        text = re.sub(rf"(?m)^{name}:.*\n(?:\t.*\n)*\n?", "", text)
        text = re.sub(rf"(?m)^(\.PHONY:.*) {name}(?= |$)", r"\1", text)
    return text


def write_assignment(target):
    """Write the hand-out to the folder `target`, whose previous content is removed.

    Raises AssignmentError as `blank_notebook` and `check_points`, SchemaError as `read_policy`.
    """
    notebook = blank_notebook(nbformat.read(NOTEBOOK, 4))
    check_points(points_in_text(notebook), points_in_policy(read_policy()))
    shutil.rmtree(target, ignore_errors=True)
    for file in project_files("assignment"):
        name = file.relative_to(ROOT).as_posix()
        copy = target / ("README.md" if name == README else name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    makefile = target / "Makefile"
    text = makefile_of_students(makefile.read_text(encoding="utf-8"))
    makefile.write_text(text, encoding="utf-8", newline="\n")
    (target / NOTEBOOK_NAME).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target / NOTEBOOK_NAME)
    write_colab(notebook, files_below(target), target / COLAB_NAME, target)


def files_below(folder):
    """All files below a folder: a sorted list of paths."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def main():
    """Write build/assignment/ and build/assignment.zip."""
    replace_unprintable()
    target = ROOT / "build" / "assignment"
    archive = target.with_suffix(".zip")
    new = target.with_suffix(".new")
    try:
        write_assignment(target)
        write_archive(new, files_below(target), target.name, target)
        new.replace(archive)
    except (SubmissionError, OSError) as error:
        sys.exit(f"make assignment: {error}")
    print_written(archive)


if __name__ == "__main__":
    main()
