"""The hand-out: solutions, outputs and results are gone, checks and prompts stay."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.assignment import AssignmentError, blank_code, blank_notebook, blank_text

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


def test_text_becomes_its_prompt_and_keeps_its_heading():
    text = "## Results\n\n<!-- PROMPT Describe in three\nsentences. -->\nIt is good.\n\nVery."
    assert blank_text(text) == "## Results\n\n*Describe in three sentences.*"
    assert blank_text("Plain text.") == "Plain text."


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
