"""The paper handed in is compared with the notebook, and its numbers with what explains them."""

import io

import matplotlib.pyplot as plt
import pytest
from forgeries import BOOK, PAPER, read_notebook, write_notebook
from grading_fixtures import judged, needs_sandbox
from helpers import ROOT
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.textpath import TextPath
from pypdf import PdfReader, PdfWriter

from grading import paper_numbers
from grading.claim_check import Claim

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

ACCURACY = "test_accuracy"


# What is replaced, by what, and what the verdict says of it
TYPED = {
    "markdown": (
        "The task is",
        "It is right in 96.31 % of cases. The task is",
        "(Implementation) says",
        "96.31 %",
    ),
    "markup": (
        "It is small",
        "It reaches 97<b>.</b>41&nbsp;% and is small",
        "(Discussion of",
        "97.41 %",
    ),
    "formula": (
        "and so is what it learns",
        "and $98.51\\%$ is what it learns",
        "(Discussion of",
        "98.51%",
    ),
    "caption": (
        "The loss of each step",
        "The loss; 95.21 % are right",
        "fig-loss) says",
        "95.21 %",
    ),
    "title": ("A Small Network", "A Network That Is Right in 94.11 %", "front()) says", "94.11 %"),
    "output": ("is right in", "is right in 93.01 % or rather in", "prose()) says", "93.01 %"),
    "thousands": (
        "with a residual",
        "with 25,000,000 parameters and a residual",
        "(Implementation) says",
        "25,000,000",
    ),
    "digits": ("# Discussion", "# Discussion of ９２.１１ %", "(Discussion of", "92.11 %"),
}


@pytest.fixture
def typed(world):
    text = world.files[BOOK].decode()
    for old, new, _, _ in TYPED.values():
        assert old in text
        text = text.replace(old, new.replace("\\", "\\\\"))
    world.files[BOOK] = text.encode()
    write_notebook(world, read_notebook(world))
    return world


@needs_sandbox
def test_every_number_that_nothing_explains_is_listed_with_its_place(typed):
    """Typed in prose, caption, title, markup or strange digits, or put into a signed output."""
    findings = judged(typed).findings
    found = [finding.message for finding in findings if "is no claim, citation" in finding.message]
    for kind, (_, _, place, number) in TYPED.items():
        assert any(place in said and number in said for said in found), (kind, found)
    assert any(
        "the paper handed in says less" in finding.message or "lacks" in finding.message
        for finding in judged(typed).findings
    )


def overlaid(pdf, draw):
    """A PDF with something drawn over its first page."""
    page = PdfReader(io.BytesIO(pdf)).pages[0]
    width, height = float(page.mediabox.width), float(page.mediabox.height)
    figure = plt.figure(figsize=(width / 72, height / 72))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(0, height))
    draw(axes)
    buffer, writer, result = io.BytesIO(), PdfWriter(clone_from=io.BytesIO(pdf)), io.BytesIO()
    figure.savefig(buffer, format="pdf", transparent=True)
    plt.close(figure)
    writer.pages[0].merge_page(PdfReader(buffer).pages[0])
    writer.write(result)
    return result.getvalue()


def white_box(axes):
    axes.add_patch(Rectangle((100, 400), 60, 12, color="white"))
    axes.add_patch(PathPatch(TextPath((100, 402), "96.31 %", size=10), color="black"))


PAPERS = {
    "number_drawn_over_the_page": (
        lambda pdf: overlaid(pdf, white_box),
        1,
        "page 1 of the paper looks different",
    ),
    "number_written_over_the_page": (
        lambda pdf: overlaid(pdf, lambda axes: axes.text(100, 100, "96.31")),
        1,
        "says '96.31' on page 1, which the notebook does not",
    ),
    "no_pdf": (lambda pdf: b"\x89PNG", 2, "the paper was not compared with the notebook"),
    "damaged_pdf": (lambda pdf: pdf[:3000], 2, "the paper was not compared with the notebook"),
    "another_paper": (
        lambda pdf: (ROOT / "report" / "report.pdf").read_bytes(),
        1,
        "which the notebook does not",
    ),
}


@needs_sandbox
@pytest.mark.parametrize("name", PAPERS)
def test_forged_paper(world, name):
    forge, code, words = PAPERS[name]
    world.files[PAPER] = forge(world.files[PAPER])
    verdict = judged(world)
    assert verdict.code == code and words in verdict.reason, verdict.reason


def test_a_missing_paper_is_not_verifiable(world):
    del world.files[PAPER]
    verdict = judged(world)
    assert verdict.code == 2 and verdict.reason.endswith(f"{PAPER} is missing")


@needs_sandbox
def test_a_paper_that_does_not_say_its_accuracy_is_contradicted(world):
    texts = [["cell 1", "typed", "It is good."]]
    explanations = paper_numbers.Explanations([], [])
    findings = paper_numbers.check_numbers(texts, explanations, {ACCURACY: Claim(10.5)})
    assert [finding.message for finding in findings] == [
        "the paper does not say the accuracy claimed, 10.5"
    ]
