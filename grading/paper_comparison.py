"""Compares the paper handed in with the one that the notebook makes, as text and as pictures.

No PDF is opened in this process: the sandbox turns papers into pictures and text.
"""
import copy
import difflib
import io
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from grading import paper_numbers, sandbox
from grading.archive import ArchiveError, parse_json
from grading.findings import Finding, join_names
from grading.network_measurements import sandbox_code
from grading.sandbox_tasks import PaperText
from grading.schema import Place, read_dataclass, read_value

# Two pages differ if in a square of SQUARE pixels so many differ in a colour by so much: from the
# same pixel, or faintly (as pale yellow does from white) from all pixels around it, so that a shift
# by a part of a pixel makes no difference.
SQUARE = 16
DIFFERENT_PIXELS = 8
DIFFERENT_COLOUR = 100
FAINT_COLOUR = 16
OTHER_LAYOUT = 0.3  # share of words that differ from which on another program made the paper
MOST_CORRECTIONS = 10  # of the prose, made after the paper
CONTEXT = 3  # words beside a corrected one by which it is found in the notebook
# Programs that students pass a PDF through: text comes out of them with other ligatures.
REWRITERS = re.compile(r"Ghostscript|Quartz|Microsoft|Skia|cairo|iLovePDF|Acrobat", re.IGNORECASE)
NUMBER_WORD = re.compile(
    r"\d|(ten|twelve|teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)",
    re.IGNORECASE,
)
REDRAWN = 0.05  # share of different squares from which on a page counts as typeset differently
THUMBNAIL = 420  # pixels, the longer side of the first page's picture


def render_handed_in(submission, policy):
    """The paper handed in, as pictures and text of its pages: name -> bytes.

    Raises ArchiveError if it is missing, sandbox.SandboxError if it cannot be rendered.
    """
    pdf = submission.bytes(policy.files.paper)
    inputs = {**sandbox_code(), "paper.pdf": pdf}
    return sandbox.run_task(inputs, "render_handed_in", policy)


def render_rebuilt(submission, notebook, policy):
    """The paper that the notebook makes, in the same form, with the texts that it consists of."""
    starts = ("figures/", "notebooks/", policy.files.references)
    inputs = sandbox_code()
    for name, content in submission.files.items():
        if name.startswith(starts):
            inputs[name] = content
    inputs[policy.files.notebook] = json.dumps(notebook).encode()
    return sandbox.run_task(inputs, "build_paper", policy)


def compare(handed_in, rebuilt, notebook, explanations, claims):
    """Findings on two papers.

    Args:
        handed_in: what render_handed_in returns.
        rebuilt: what render_rebuilt returns.
        notebook: the notebook.
        explanations: the values that numbers in the paper may have, as paper_numbers.Explanations.
        claims: name -> Claim.
    """
    texts = read_texts(rebuilt)
    words = page_words(handed_in)
    rebuilt_words = page_words(rebuilt)
    of_any_layout = [
        *compare_content(handed_in, rebuilt),
        *paper_numbers.check_numbers_in_paper(texts, explanations, claims),
        *paper_numbers.check_pages(page_texts(rebuilt), texts, explanations),
    ]
    if is_other_layout(handed_in, rebuilt):
        return [
            *paper_numbers.check_other_layout(
                words, notebook, explanations, claims, rebuilt_words
            ),
            *of_any_layout,
        ]
    about = read_about(handed_in)
    rewritten = _rewritten(about.producer, words, rebuilt_words)
    same_words = words == rebuilt_words
    faults = compare_page_images(
        pictures(handed_in), pictures(rebuilt), same_words or bool(rewritten)
    )
    if rewritten:
        for fault in faults:  # such programs also draw lines and areas in another way
            fault.verdict = "implausible"
    findings = [
        *(rewritten or compare_words(words, rebuilt_words)),
        *_uncompared_pages(about),
        *faults,
        *of_any_layout,
    ]
    if all(finding.verdict == "noted" for finding in findings):
        message = "the paper is what the notebook makes, as text and as pictures"
        findings.insert(0, Finding("paper", "verified", message))
    if about.marked_pages:
        pages = join_names([str(number) for number in about.marked_pages])
        message = (
            f"somebody has marked text in the paper's PDF on page {pages}: the marks were left out "
            "of the comparison, so a person has to look at them"
        )
        findings.append(Finding("paper", "noted", message))
    return findings


@dataclass
class AboutPaper:
    """What the sandbox says of the PDF handed in.

    That is the program that wrote it, the pages with a reader's marks, the number of all pages, and
    how many of them are compared as pictures at most.
    """

    producer: str = ""
    marked_pages: list[int] = field(default_factory=list)
    pages: int = 0
    pictures: int = 0


def read_about(handed_in):
    """The AboutPaper in what render_handed_in returns. Raises SchemaError."""
    name = "what the sandbox says of the paper"
    content = parse_json(handed_in.get("about.json", b"{}"), name)
    return read_dataclass(AboutPaper, content, Place(name))


def _uncompared_pages(about):
    """A list with a Finding if the paper has more pages than are compared as pictures."""
    if about.pages <= about.pictures:
        return []
    message = f"the paper has {about.pages} pages, of which {about.pictures} were compared"
    return [Finding("paper", "unverified", message)]


def _rewritten(producer, words, rebuilt_words):
    """A list with a Finding if the paper went through another program, which kept its numbers."""
    program = REWRITERS.search(producer)
    if not program:
        return []
    numbers = []
    for pages in (words, rebuilt_words):
        text = " ".join(word for page in pages for word in page)
        numbers.append(Counter(number.value for number in paper_numbers.find_numbers(text)))
    if numbers[0] != numbers[1]:
        return []
    message = (
        f"the paper was passed through another program ({program[0]}); its numbers agree with the "
        "notebook"
    )
    return [Finding("paper", "noted", message)]


def is_other_layout(handed_in, rebuilt):
    """Whether another program than this project's exporter made the paper handed in."""
    handed_in_words = Counter(word for page in page_words(handed_in) for word in page)
    rebuilt_words = Counter(word for page in page_words(rebuilt) for word in page)
    different = (handed_in_words - rebuilt_words) + (rebuilt_words - handed_in_words)
    words = handed_in_words.total() + rebuilt_words.total()
    if different.total() > OTHER_LAYOUT * max(words, 1):
        return True
    shapes = [[page.shape for page in pictures(files)] for files in (handed_in, rebuilt)]
    return not set(shapes[0]) & set(shapes[1])


def undo_corrections(handed_in, rebuilt, submission, notebook, policy):
    """The paper of the notebook as its prose was when the paper was made, and findings.

    Without such corrections of the prose it is `rebuilt` itself. Arguments are those of compare()
    and of render_rebuilt().
    """
    old = [word for page in page_words(handed_in) for word in page]
    new = [word for page in page_words(rebuilt) for word in page]
    if old == new or not rebuilt or is_other_layout(handed_in, rebuilt):
        return rebuilt, []
    if REWRITERS.search(read_about(handed_in).producer):
        return rebuilt, []
    matcher = difflib.SequenceMatcher(None, new, old, autojunk=False)
    changes = [opcode[1:] for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
    if len(changes) > MOST_CORRECTIONS:
        return rebuilt, []
    before = copy.deepcopy(notebook)
    differences = []
    for first, last, start, end in changes:
        corrected = new[first:last]
        printed = old[start:end]
        if any(NUMBER_WORD.search(word) for word in corrected + printed):
            return rebuilt, []
        left = new[max(first - CONTEXT, 0) : first]
        right = new[last : last + CONTEXT]
        if not _replace(before, left, corrected, printed, right):
            return rebuilt, []
        differences.append(f"{' '.join(printed)!r} where the notebook says {' '.join(corrected)!r}")
    try:
        again = render_rebuilt(submission, before, policy)
    except sandbox.SandboxError:
        return rebuilt, []
    if page_words(again) != page_words(handed_in):
        return rebuilt, []
    message = (
        "the prose was corrected after the paper was made: the paper says "
        f"{join_names(differences)}"
    )
    return again, [Finding("paper", "noted", message)]


def _replace(notebook, left, corrected, printed, right):
    """Replace words of the prose that stand in one place between others; whether they did."""
    for size in range(CONTEXT, -1, -1):
        before = left[len(left) - size :] if size else []
        after = right[:size]
        words = [*before, *corrected, *after]
        if not words:
            return False
        pattern = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)")
        matches = [
            (cell, match) for cell in notebook.cells for match in pattern.finditer(_prose(cell))
        ]
        if len(matches) == 1:
            cell, match = matches[0]
            text = " ".join([*before, *printed, *after])
            cell.source = cell.source[: match.start()] + text + cell.source[match.end() :]
            return True
    return False


def _prose(cell):
    """What of a cell was typed for the paper: Markdown, or the options, with captions, at its top.

    It is the start of the cell's source, or all of it.
    """
    if cell.cell_type == "markdown":
        return cell.source
    lines = cell.source.splitlines(keepends=True)
    return "".join(itertools.takewhile(lambda line: line.startswith("#|"), lines))


def pictures(files):
    """The pages in a sandbox's results as arrays of colours (height, width, 3)."""
    pages = []
    for name in sorted(files):
        if not name.endswith(".ppm"):
            continue
        header = re.match(rb"P6\s(?P<width>\d{1,5})\s(?P<height>\d{1,5})\s255\s", files[name])
        if not header:
            raise ArchiveError("a page of the paper came back damaged")
        shape = int(header["height"]), int(header["width"]), 3
        if len(files[name]) - header.end() != shape[0] * shape[1] * shape[2]:
            raise ArchiveError("a page of the paper came back damaged")
        pages.append(np.frombuffer(files[name], np.uint8, offset=header.end()).reshape(shape))
    if not pages:
        raise ArchiveError("the paper has no pages")
    return pages


def page_texts(files):
    """The text of each page, a list of strings."""
    return files.get("text.txt", b"").decode(errors="replace").split("\f")[:-1]


def page_words(files):
    """The words of each page, a list of lists, without hyphens, which depend on line breaks."""
    return [re.sub(r"[-\u00ad\u2010]\n?", "", page).split() for page in page_texts(files)]


def read_texts(files):
    """The texts that the sandbox found, a list of PaperText. Raises SchemaError."""
    name = "the paper's texts"
    content = parse_json(files.get("texts.json", b""), name)
    return read_value(list[PaperText], content, Place(name))


def first_page(files):
    """The first page in a sandbox's results as a small PNG, in bytes."""
    picture = Image.fromarray(pictures(files)[0])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def compare_words(handed_in, rebuilt):
    """Findings if two papers' words differ, in whatever order pages and columns have them."""
    handed_in_words = Counter(word for page in handed_in for word in page)
    rebuilt_words = Counter(word for page in rebuilt for word in page)
    added = handed_in_words - rebuilt_words
    missing = rebuilt_words - handed_in_words
    if not (added or missing):
        return []
    message = "the paper handed in says less than the notebook"
    if added:
        pages = []
        for number, page in enumerate(handed_in, 1):
            if added.keys() & set(page):
                pages.append(str(number))
        message = (
            f"the paper handed in says {_shown_words(added)} on page {', '.join(pages)}, "
            "which the notebook does not"
        )
    if missing:
        message += f"; it lacks {_shown_words(missing)}"
    if not any(NUMBER_WORD.search(word) for word in added + missing):
        message += ". No number is among them: perhaps the prose was changed after it was made"
        return [Finding("paper", "unverified", message)]
    return [Finding("paper", "contradicted", message)]


def _shown_words(words):
    """The first words of a Counter, those with digits before others."""
    order = sorted(words, key=lambda word: not any(letter.isdigit() for letter in word))
    return join_names([repr(word[:30]) for word in order])


def compare_page_images(handed_in, rebuilt, same_words):
    """Findings if pages look different.

    In few places, somebody drew over the page; everywhere, another TeX typeset it.
    """
    shapes = [page.shape for page in handed_in]
    if shapes != [page.shape for page in rebuilt]:
        if len(handed_in) == len(rebuilt) and not same_words:
            return []  # the words' finding says more
        message = (
            f"the paper handed in has {len(handed_in)} pages, or pages of another size, the "
            f"notebook's has {len(rebuilt)}: compare their pictures by eye"
        )
        return [Finding("paper", "unverified", message)]
    findings = []
    for number, (page, rebuilt_page) in enumerate(zip(handed_in, rebuilt), 1):
        squares = different_squares(page, rebuilt_page)
        if squares.mean() > REDRAWN:
            message = (
                f"page {number} is typeset in another way than here, perhaps by another TeX, so "
                "its picture was not compared"
            )
            findings.append(Finding("paper", "unverified", message))
        elif squares.any():
            row, column = np.argwhere(squares)[0]
            down = 100 * row // squares.shape[0]
            right = 100 * column // squares.shape[1]
            message = (
                f"page {number} of the paper looks different from what the notebook makes, "
                f"{down} % from its top and {right} % from its left"
            )
            verdict = "unverified"  # other words move others
            if same_words:
                verdict = "contradicted"
            findings.append(Finding("paper", verdict, message))
    return findings


def different_squares(page, other):
    """Which squares of two pages, (height, width, 3), differ: a Boolean array of squares."""
    rows = page.shape[0] // SQUARE
    columns = page.shape[1] // SQUARE
    if np.array_equal(page, other):
        return np.zeros((rows, columns), bool)
    page = page[: rows * SQUARE, : columns * SQUARE].astype(np.int16)
    other = other[: rows * SQUARE, : columns * SQUARE].astype(np.int16)
    strong = (np.abs(page - other) > DIFFERENT_COLOUR).any(2)
    faint = _is_outside(page, other) | _is_outside(other, page)
    squares = [
        pixels.reshape(rows, SQUARE, columns, SQUARE).sum((1, 3)) >= DIFFERENT_PIXELS
        for pixels in (strong, faint)
    ]
    return squares[0] | squares[1]


def _is_outside(page, other):
    """Which pixels of a page have a colour beyond those of the nine pixels around in another."""
    lowest = other.copy()
    highest = other.copy()
    for axis in (0, 1):
        for pixels, choose in ((lowest, np.minimum), (highest, np.maximum)):
            moved = [np.roll(pixels, step, axis) for step in (1, -1)]
            choose(choose(pixels, moved[0]), moved[1], out=pixels)
    return ((page > highest + FAINT_COLOUR) | (page < lowest - FAINT_COLOUR)).any(2)


def compare_content(handed_in, rebuilt):
    """Findings on what the PDF handed in has beyond text and pictures, and the rebuilt has not."""
    expected = read_content(rebuilt)
    added = [phrase[:120] for phrase in read_content(handed_in) if phrase not in expected]
    if not added:
        return []
    message = (
        f"the paper handed in has {join_names(added)}, which no "
        "paper needs: do not open it in a program that runs or prints such things"
    )
    return [Finding("paper", "unverified", message)]


def read_content(files):
    """Phrases on what a PDF has beyond text and pictures, a list, by the sandbox's results."""
    name = "the paper's content"
    content = parse_json(files.get("content.json", b"[]"), name)
    return read_value(list[str], content, Place(name))
