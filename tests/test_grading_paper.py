"""The paper handed in is compared with the notebook, and its numbers with what explains them."""

import base64
import io
import re
import subprocess

import matplotlib.pyplot as plt
import pytest
from forgeries import BOOK, PAPER, edit_info, read_notebook, submission, write_notebook
from grading_fixtures import judged, needs_sandbox
from helpers import POLICY, ROOT
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.textpath import TextPath
from nbformat.v4 import new_markdown_cell, new_notebook
from pypdf import PdfReader, PdfWriter
from pypdf.actions import JavaScript
from pypdf.annotations import FreeText, Highlight
from pypdf.generic import (
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    FloatObject,
    NameObject,
    NumberObject,
)

from grading import paper_numbers, records
from grading.claim_check import Claim
from grading.sandbox_tasks import PaperText

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
    "words": (
        "is what it learns",
        "is what it learns. It is right in ninety-one per cent of cases",
        "(Discussion of",
        "ninety-one per cent",
    ),
    "count": (
        "to classify small images",
        "to classify small images, 87 of 100 correctly, and more",
        "(Implementation) says",
        "87 of 100",
    ),
    "parts_of_a_formula": (
        "small images,",
        "small images, which it does in $9{7}.{1}5\\%$ of cases,",
        "page 1 says",
        "97.15%",
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
    notebook = read_notebook(world)
    png = base64.b64encode(world.files["figures/fig-loss.png"]).decode()
    for cell in notebook.cells:
        if "draw()" in cell.source:
            cell.outputs[0].data["application/pdf"] = base64.b64encode(titled_figure()).decode()
        if "# Discussion" in cell.source:
            cell.source += "\n\n![a picture](attachment:a.png)"
            cell.attachments = {"a.png": {"image/png": png}}
    write_notebook(world, notebook)
    return world


def titled_figure():
    """A figure whose title says an accuracy, as PDF."""
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.set_title("90.17 % are right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf")
    plt.close(figure)
    return buffer.getvalue()


@needs_sandbox
def test_every_number_that_nothing_explains_is_listed_with_its_place(typed):
    """Typed in prose, caption, title, markup or strange digits, or put into a signed output."""
    findings = judged(typed).findings
    found = [finding.message for finding in findings if finding.verdict == "unverified"]
    assert any("fig-loss) says" in said and "90.17 %" in said for said in found)
    noted = [finding.message for finding in findings if finding.verdict == "noted"]
    assert any("(Discussion of" in said and "shows a picture" in said for said in noted)
    for kind, (_, _, place, number) in TYPED.items():
        assert any(place in said and number in said for said in found), (kind, found)


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


def digit_in(colour):
    """A digit as a shape in a colour, over the page's white margin."""
    shape = TextPath((30, 402), "9", size=9)
    return lambda axes: axes.add_patch(PathPatch(shape, facecolor=colour, linewidth=0))


def redrawn_digit(pdf):
    """A PDF with the last digit of a number in its table covered by another; its text stays."""
    words = subprocess.run(["pdftotext", "-bbox", "-", "-"], input=pdf, capture_output=True).stdout
    box = re.search(r'xMin="(.+)" yMin="(.+)" xMax="(.+)" yMax="(.+)">\d+\.\d\d<', words.decode())
    left, top, right, bottom = map(float, box.groups())
    width = (right - left) / 5
    height = float(PdfReader(io.BytesIO(pdf)).pages[0].mediabox.height)
    x, y = right - width, height - bottom

    def draw(axes):
        axes.add_patch(Rectangle((x, y), width, bottom - top, color="white", linewidth=0))
        axes.add_patch(PathPatch(TextPath((x, y + 2), "8", size=8), color="black", linewidth=0))

    return overlaid(pdf, draw)


def changed(change):
    """A function that gives a PDF changed by a function of its PdfWriter."""

    def forge(pdf):
        writer = PdfWriter(clone_from=io.BytesIO(pdf))
        change(writer)
        result = io.BytesIO()
        writer.write(result)
        return result.getvalue()

    return forge


def add_layer(writer):
    layer = writer._add_object(DictionaryObject({NameObject("/Type"): NameObject("/OCG")}))
    layers = DictionaryObject({NameObject("/OCGs"): ArrayObject([layer])})
    writer.root_object[NameObject("/OCProperties")] = layers


def add_note_for_printers(writer):
    note = FreeText(text="96.31 %", rect=(100, 100, 200, 120))
    note[NameObject("/F")] = NumberObject(4 | 32)  # printed, not on the screen
    writer.add_annotation(0, note)


def add_speaking_highlight(writer):
    """A highlighter's mark that writes a number; no blank is before the operator for text."""
    box = ArrayObject([FloatObject(value) for value in (100, 400, 300, 420)])
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font")})
    font[NameObject("/Subtype")] = NameObject("/Type1")
    font[NameObject("/BaseFont")] = NameObject("/Helvetica")
    fonts = DictionaryObject({NameObject("/F"): font})
    form = DecodedStreamObject()
    form.set_data(b"1 1 0 rg 100 400 200 20 re f 0 g BT/F 12 Tf 105 405 Td(96.31)Tj ET")
    form[NameObject("/Type")] = NameObject("/XObject")
    form[NameObject("/Subtype")] = NameObject("/Form")
    form[NameObject("/BBox")] = box
    form[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    corners = [FloatObject(value) for value in (100, 420, 300, 420, 100, 400, 300, 400)]
    mark = Highlight(rect=(100, 400, 300, 420), quad_points=ArrayObject(corners))
    appearance = DictionaryObject({NameObject("/N"): writer._add_object(form)})
    mark[NameObject("/AP")] = appearance
    writer.add_annotation(0, mark)


PAPERS = {
    "number_in_a_highlighters_mark": (
        changed(add_speaking_highlight),
        1,
        "page 1 of the paper looks different",
    ),
    "digit_in_pale_yellow": (lambda pdf: overlaid(pdf, digit_in("#ffffcc")), 1, "looks different"),
    "digit_in_light_grey": (lambda pdf: overlaid(pdf, digit_in("0.9")), 1, "looks different"),
    "digit_in_orange": (lambda pdf: overlaid(pdf, digit_in("orange")), 1, "looks different"),
    "digit_redrawn": (redrawn_digit, 1, "looks different"),
    "layers": (changed(add_layer), 2, "has layers that a viewer shows, hides or only prints"),
    "note_for_printers": (
        changed(add_note_for_printers),
        2,
        "has a comment of the kind FreeText, which need not look the same everywhere",
    ),
    "script": (
        changed(lambda writer: writer.add_open_action(JavaScript("app.alert(1)"))),
        2,
        "has a script",
    ),
    "program_attached": (
        changed(lambda writer: writer.add_attachment("x.exe", b"MZ")),
        2,
        "has an attached file 'x.exe'",
    ),
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
    texts = [PaperText("cell 1", "typed", "It is good.")]
    explanations = paper_numbers.Explanations([], [])
    findings = paper_numbers.check_numbers_in_paper(texts, explanations, {ACCURACY: Claim(10.5)})
    assert [finding.message for finding in findings] == [
        "the paper does not say the accuracy claimed, 10.5"
    ]


# A sentence -> whether what is known explains its number
SAID = {
    "The network is right in 20 % of cases.": False,  # the weight decay, 0.2
    "Its weight decay is 20 % of the rate.": True,
    "It is right in 77.77 % of cases.": False,  # the training accuracy
    "Its training accuracy is 77.77 %.": True,
    "It recognises 91.2 % of the images.": False,  # the accuracy of ships
    "It recognises 91.2 % of the ships.": True,
    "Our network reaches 83.33 %.": False,  # a report's
    "Another report reaches 83.33 %.": True,
    "Our network reaches 94 % now.": False,  # a title in the bibliography
    "He (2020) reaches 94 %.": True,
    "It is right in 88 % of cases.": False,  # an uncited title
    "It is right in 66 % of cases.": False,  # a key of run.json that no recipe has
    "It is right in 40.12 % of cases, an accuracy of 0.4012.": True,
    "Its error is 59.88 %.": True,
    "± is half a 95 % interval.": True,
    "Ninety-five images of a hundred are recognised.": False,
    "The accuracy is right for ninety-seven.": False,
    "It takes fifty epochs to reach its accuracy.": True,
    "It classifies images of ten classes, 32 of 500 batches.": True,
    "The disk holds 3.5 or 4,000 things.": True,
}


@pytest.mark.parametrize("sentence", SAID)
def test_a_number_is_explained_by_what_it_stands_beside(world, sentence):
    claims = {
        ACCURACY: Claim(40.12, "%", "fast-0"),
        "class_accuracy/ship": Claim(91.2, "%", "fast-0"),
        "published/best": Claim(83.33),
    }
    world.files[POLICY.files.references] = (
        b"@misc{a2020, title={94\\% at once}}\n@misc{b2020, title={88\\% and more}}"
    )
    edit_info(world, "fast-0", lambda info: info["config"].update(weight_decay=0.2, magic=66))
    runs, _ = records.load_runs(submission(world), ["fast-0"], world.policy)
    runs["fast-0"].history.train_accuracy = 77.77
    notebook = new_notebook(cells=[new_markdown_cell("[He (2020)](#ref-a2020)")])
    known = paper_numbers.collect_explanations(
        submission(world), notebook, new_notebook(), claims, runs, world.policy
    )
    texts = [PaperText("cell 1", "computed", f"{sentence} It is 40.12.")]
    found = paper_numbers.check_numbers_in_paper(texts, known, claims)
    assert bool(found) is not SAID[sentence], found
