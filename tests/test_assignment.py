"""The hand-out: solutions, outputs and results are gone; filled in, it is the submission again."""

import ast
import copy
import re
import subprocess
import sys

import nbformat
import pytest
import torch
from helpers import POLICY, ROOT, RUN
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from paper_helpers import latex_of

import training
from analysis import layer_table
from grading.policy import PointItem
from tools import assignment
from tools.assignment import AssignmentError, blank_code, blank_notebook, blank_text
from tools.notebook_definitions import load_definitions

SOURCE = """def area(width, height):
    '''The area of a rectangle.'''
    ### BEGIN SOLUTION: multiply
    product = width * height
    return product
    ### END SOLUTION

# BEGIN SOLUTION
print(area(2, 3))
#END SOLUTION
assert area(2, 3) == 6"""
BLANK = """def area(width, height):
    '''The area of a rectangle.'''
    # YOUR CODE HERE: multiply
    raise NotImplementedError

# YOUR CODE HERE
raise NotImplementedError
assert area(2, 3) == 6"""
POINTS = {
    "block": 20,
    "network": 20,
    "training step": 10,
    "training": 10,
    "test accuracy": 20,
    "one more epoch": 10,
    "text": 5,
    "figures": 5,
}


def test_solutions_become_places_for_code():
    assert blank_code(SOURCE, "cell 1") == BLANK
    assert blank_code("x = 1  # BEGIN SOLUTION is no marker here", "cell 1").startswith("x = 1")


@pytest.mark.parametrize(
    "source, words",
    [
        ("# BEGIN SOLUTION\nx = 1", "without # END SOLUTION"),
        ("x = 1\n# END SOLUTION", "without # BEGIN SOLUTION"),
        ("# BEGIN SOLUTION\n# BEGIN SOLUTION\n# END SOLUTION", "within another one"),
    ],
)
def test_markers_that_do_not_pair_are_named_with_their_cell(source, words):
    notebook = new_notebook(cells=[new_code_cell(source, id="block")])
    with pytest.raises(AssignmentError, match=rf"cell 1 \(block\).*{words}"):
        blank_notebook(notebook)


def test_text_becomes_its_question_and_keeps_its_heading():
    text = "## Results\n\n<!-- PROMPT Describe in three\nsentences. -->\nIt is good.\n\nVery."
    assert blank_text(text) == "## Results\n\n*YOUR TEXT HERE: Describe in three sentences.*"
    assert blank_text("Plain text.") == "Plain text."
    assert blank_text("<!-- PROMPT -->\n\n## Ours alone") == ""


def blanked(*cells):
    """The cells that students get for some cells and one solution."""
    notebook = new_notebook(cells=[*cells, new_code_cell(SOURCE, id="solution")])
    return blank_notebook(notebook).cells[:-1]


ANSWERS = [
    "<details>\n<summary>Solution</summary>\n\n{}\n\n</details>",
    "<details><summary>Solution</summary>{}</details>",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_exercises_stay_without_their_solutions(answer):
    exercises = [f"**Exercise {n}.** Why?\n\n{answer.format('Because.')}" for n in (1, 2)]
    more = "<details><summary>More</summary>\n\nA hint.\n\n</details>"
    (given,) = blanked(new_markdown_cell("\n\n".join([*exercises, more, "End."])))
    assert given.source == f"**Exercise 1.** Why?\n\n**Exercise 2.** Why?\n\n{more}\n\nEnd."
    with pytest.raises(AssignmentError, match=r"cell 1 \(look\) has a solution that would be"):
        blanked(new_markdown_cell(exercises[0].replace("</details>", ""), id="look"))


def test_tasks_are_cells_of_their_own():
    text = (
        "## Block\n\n<!-- PROMPT Describe it. -->\n<!-- TASK\nBuild it.\n\n| a |\n|---|\n-->\n\nX."
    )
    described, task = blanked(new_markdown_cell(text, id="block"))
    assert described.source == "## Block\n\n*YOUR TEXT HERE: Describe it.*"
    assert task.source == "Build it.\n\n| a |\n|---|"
    assert task.id == "block-task" and task.metadata.tags == ["notebook-only"]


def test_computed_text_becomes_a_question():
    source = "# PROMPT Say how\n# good it is.\nprose(f'{accuracy} %')  # PROMPT"
    (asked,) = blanked(new_code_cell(source, id="a", metadata={"tags": ["conclusion"]}))
    assert asked.cell_type == "markdown" and asked.metadata.tags == ["conclusion"]
    assert asked.source == "*YOUR TEXT HERE: Say how good it is.*"
    assert blanked(new_code_cell("# PROMPT\nprose('')", id="a")) == []


def test_a_notebook_is_handed_out_without_outputs():
    cell = new_code_cell(SOURCE, outputs=[new_output("stream", text="6")], execution_count=3)
    notebook = new_notebook(cells=[cell, new_markdown_cell("Text.")])
    before = nbformat.writes(notebook)
    blank = blank_notebook(notebook)
    assert blank.cells[0].outputs == [] and blank.cells[0].execution_count is None
    assert "product" not in nbformat.writes(blank) and "Text." in nbformat.writes(blank)
    assert nbformat.writes(notebook) == before
    with pytest.raises(AssignmentError, match="no cell"):
        blank_notebook(new_notebook(cells=[new_markdown_cell("Text.")]))


def test_a_notebook_is_handed_out_without_its_author():
    source = (
        'X = 1\nAUTHORS = [{"name": "Lovelace",\n            "email": "lovelace@x.org"}]\nY = 2'
    )
    notebook = new_notebook(
        cells=[
            new_code_cell(source),
            new_code_cell('REPOSITORY = "https://github.com/lovelace/resnet-cifar10"'),
            new_code_cell(SOURCE),
        ],
        metadata={"authors": [{"name": "Lovelace"}]},
    )
    blank = blank_notebook(notebook)
    assert "lovelace" not in nbformat.writes(blank).lower()
    names = {}
    exec("\n".join(cell.source for cell in blank.cells[:2]), names)
    assert names["AUTHORS"] == blank.metadata.authors == [assignment.AUTHOR]
    assert (names["X"], names["Y"]) == (1, 2)
    notebook.cells[0].source = "%time\nAUTHORS = []"
    with pytest.raises(AssignmentError, match="cell 1 .*AUTHORS"):
        blank_notebook(notebook)


@pytest.mark.parametrize(
    "line",
    [
        'REPOSITORY="https://github.com/lovelace/x"',
        'REPOSITORY  =  "https://github.com/lovelace/x"',
        'REPOSITORY: str = "https://github.com/lovelace/x"',
        'REPOSITORY = (\n    "https://github.com/lovelace/x"\n)',
        'AUTHORS=[{"name": "Lovelace"}]',
        'AUTHORS: list[dict] = [{"name": "Lovelace"}]',
    ],
)
def test_an_author_is_removed_however_the_setting_is_written(line):
    blank = assignment.without_author(f"X = 1\n{line}\nY = 2", "cell 1")
    assert "lovelace" not in blank.lower()
    names = {}
    exec(blank, names)
    assert (names["X"], names["Y"]) == (1, 2)


@pytest.mark.parametrize(
    "source",
    [
        'AUTHORS, REPOSITORY = [{"name": "Lovelace"}], ""',
        'if True:\n    AUTHORS = [{"name": "Lovelace"}]',
        'AUTHORS = []\nAUTHORS += [{"name": "Lovelace"}]',
        '%time\nAUTHORS=[{"name": "Lovelace"}]',
        '!ls\nAUTHORS: list = [{"name": "Lovelace"}]',
        '%time AUTHORS = [{"name": "Lovelace"}]',
        '%%time\nAUTHORS, REPOSITORY = [{"name": "Lovelace"}], ""',
        '!ls\nAUTHORS += [{"name": "Lovelace"}]',
        'AUTHORS = [{}]\nAUTHORS[0]["name"] = "Lovelace"',
        'AUTHORS = []\nAUTHORS.append({"name": "Lovelace"})',
        'AUTHORS = [{"name": "Lovelace"}]; X = 1',
    ],
)
def test_an_author_that_cannot_be_removed_is_not_handed_out(source):
    with pytest.raises(AssignmentError, match="cell 1 sets .* author cannot be removed"):
        assignment.without_author(source, "cell 1")


def test_a_cell_that_only_uses_the_author_stays_as_it_is():
    in_magic = ("%time show(authors=AUTHORS)", "!ls\nAUTHORS == []")
    for source in ("show(authors=AUTHORS)", "own.AUTHORS = 1", *in_magic):
        assert assignment.without_author(source, "cell 1") == source


def test_the_points_in_the_text_are_the_policys():
    notebook = nbformat.read(ROOT / assignment.NOTEBOOK_NAME, 4)
    in_text = assignment.points_in_text(notebook)
    assert in_text == POINTS and sum(in_text.values()) == 100
    assignment.check_points(in_text, assignment.points_in_policy(POLICY))


def test_other_points_in_the_policy_are_named():
    policy = copy.deepcopy(POLICY)
    policy.points.item = [PointItem("Block", 25), PointItem("Style", 5)]
    in_policy = assignment.points_in_policy(policy)
    words = r"block \(20 in the notebook, 25 in the policy\), style \(none in .*, 5 in the policy\)"
    with pytest.raises(AssignmentError, match=words):
        assignment.check_points({"block": 20}, in_policy)


# ------------------------------------------------------------------------- the assignment itself

PLACE = re.compile(r" *# YOUR CODE HERE.*\n *raise NotImplementedError")
SOLUTION = re.compile(r"(?s) *#+ BEGIN SOLUTION[^\n]*\n(.*?)\n *#+ END SOLUTION")


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    """The folder that `make assignment` writes."""
    folder = tmp_path_factory.mktemp("hand out") / "assignment"
    assignment.write_assignment(folder)
    return folder


def code_of(folder):
    """The code cells of a notebook, id -> source."""
    cells = nbformat.read(folder / assignment.NOTEBOOK_NAME, 4).cells
    return {cell.id: cell.source for cell in cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def filled(handout):
    """The hand-out's notebook with our solutions, and a student's text for each question."""
    notebook = nbformat.read(handout / assignment.NOTEBOOK_NAME, 4)
    ours = code_of(ROOT)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            solutions = iter(SOLUTION.findall(ours[cell.id]))
            cell.source = PLACE.sub(lambda _, solutions=solutions: next(solutions), cell.source)
            assert next(solutions, None) is None, cell.id
        else:
            mine = f"My text of {cell.id}."
            cell.source = re.sub(r"\*YOUR TEXT HERE: .*\*", mine, cell.source)
    return notebook


def test_the_hand_out_holds_nothing_of_ours(handout):
    names = {file.relative_to(handout).as_posix() for file in handout.rglob("*") if file.is_file()}
    assert {"README.md", "Makefile", "utils.py", "report/config.py", POLICY.files.notebook} <= names
    ours = r"(figures|checkpoints|study|tests|build)/|report/(report|results|study)\.|.*\.pdf$"
    assert [name for name in names if re.match(ours, name)] == []
    notebook = nbformat.read(handout / assignment.NOTEBOOK_NAME, 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    text = nbformat.writes(notebook)
    assert "study.ipynb" not in text and "<!--" not in text and "# PROMPT" not in text
    assert "<details>" not in text and "Solution" not in text
    ours = nbformat.writes(nbformat.read(ROOT / assignment.NOTEBOOK_NAME, 4))
    assert text.count("**Exercise ") == 6
    assert ours.count("<summary>Solution</summary>") == 6 + 1  # and one of a prediction
    solutions = [part for source in code_of(ROOT).values() for part in SOLUTION.findall(source)]
    assert len(solutions) == len(PLACE.findall("\n".join(code_of(handout).values()))) == 6
    for solution in solutions:
        assert not set(solution.split("\n")) & set("\n".join(code_of(handout).values()).split("\n"))


def test_the_hand_out_lists_only_commands_that_it_has(handout):
    makefile = (handout / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?m)^([a-z-]+):  ## ", makefile)
    given = ["help", "report", "submission", "paper", "zip", "colab", "verify", "grade", "clean"]
    assert targets == given
    phony = re.search(r"(?m)^\.PHONY: (.*)", makefile)[1].split()
    assert phony == targets
    assert set(assignment.OMITTED_COMMANDS).isdisjoint(targets)
    command = [sys.executable, "-m", "tools"]
    listed = subprocess.run(command, cwd=handout, capture_output=True, encoding="utf-8")
    assert re.findall(r"(?m)^  ([a-z-]+)", listed.stdout) == targets[1:-1]  # make alone cleans
    for name in assignment.OMITTED_COMMANDS:
        done = subprocess.run(
            [*command, name], cwd=handout, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"python -m tools knows no command '{name}'; it takes")


def test_the_hand_out_for_colab_carries_the_others(handout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = nbformat.read(handout / assignment.COLAB_NAME, 4).cells
    exec(next(cell.source for cell in cells if cell.cell_type == "code"), {})
    unpacked = tmp_path / "resnet-cifar10"
    assert (unpacked / "tools" / "colab.py").exists()
    assert code_of(unpacked) == code_of(handout)


def test_the_hand_out_runs_until_the_first_place_for_code(handout, monkeypatch, capsys):
    monkeypatch.chdir(handout / "notebooks")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the first cell adds to it
    monkeypatch.setenv("DATASET", "digits")
    names = {}
    ran = []
    with pytest.raises(NotImplementedError):
        for cell, source in code_of(handout).items():
            ran.append(cell)
            exec(source, names)
    assert ran[-2:] == ["block-definition", "block-check"]
    assert "expected 24, found 24" in capsys.readouterr().out  # the check before it
    assert names["DATASET"] == "digits" and names["ROOT"] == handout


def run_checks(names, notebook):
    """Execute the cells that check what is built, with the names that they need."""
    code = {cell.id: cell.source for cell in notebook.cells}
    names["table"] = layer_table.layer_table(names["ResNet"]().eval(), names["ResidualBlock"])
    names["images"] = torch.randn(8, 3, 32, 32)
    names["labels"] = torch.arange(8)
    checks = [cell.id for cell in notebook.cells if "checks.finish()" in cell.source]
    for cell in sorted([*checks, "train-epoch"], key=list(code).index):
        if cell not in ("engine", "evaluate"):  # which need data
            exec(code[cell], names)


def test_filled_in_it_is_the_submissions_network_and_passes_its_checks(filled, tmp_path):
    nbformat.write(filled, tmp_path / "filled.ipynb")
    names = load_definitions(tmp_path / "filled.ipynb")
    run = training.load_run(ROOT / "checkpoints" / RUN)
    torch.manual_seed(run.info["config"]["seed"])
    probe = training.network_probe(names["ResNet"](), run.info["config"]["seed"])
    assert training.same_probe(run.info["config"]["network"], probe)
    run_checks(names, filled)


@pytest.mark.parametrize(
    "cell, old, new",
    [
        ("block-definition", "stride=stride, padding=0", "stride=1, padding=0"),
        ("block-definition", "and not downsample", ""),
        ("network-definition", "range(5)", "range(4)"),
        ("network-definition", "stride=2, padding=3", "stride=2, padding=1"),
        ("train-epoch", "        optimizer.step()\n", ""),
    ],
)
def test_a_wrong_solution_fails_a_check(filled, tmp_path, cell, old, new):
    notebook = nbformat.from_dict(filled)
    wrong = next(each for each in notebook.cells if each.id == cell)
    assert old in wrong.source
    wrong.source = wrong.source.replace(old, new)
    nbformat.write(notebook, tmp_path / "wrong.ipynb")
    with pytest.raises((AssertionError, RuntimeError)):  # torch's own where shapes do not fit
        run_checks(load_definitions(tmp_path / "wrong.ipynb"), notebook)


def test_filled_in_it_computes_what_the_submission_computes(filled):
    """All other tests of the notebook, with its way to a paper, then hold for it as well."""
    ours = code_of(ROOT)
    code = [cell for cell in filled.cells if cell.cell_type == "code"]
    changed = [
        cell.id
        for cell in code
        if ast.dump(ast.parse(cell.source)) != ast.dump(ast.parse(ours[cell.id]))
    ]
    assert changed == []
    text_of_ours = {name for name, source in ours.items() if "# PROMPT" in source}
    assert ours.keys() - {cell.id for cell in code} == text_of_ours


def test_filled_in_its_paper_holds_the_students_text(filled):
    shown = {cell.id: cell for cell in nbformat.read(ROOT / assignment.NOTEBOOK_NAME, 4).cells}
    for cell in filled.cells:
        if cell.cell_type == "code":
            cell.outputs = shown[cell.id].outputs
    text, _ = latex_of(filled, check_freshness=False)
    for name in ("abstract", "block", "accuracy-prose", "discussion"):
        assert f"My text of {name}." in text, name
    assert "8,898,826" in text
    assert not re.search("YOUR TEXT|TASK|20 points|What to do", text)
