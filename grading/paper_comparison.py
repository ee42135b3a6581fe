"""Is the paper handed in the one that the notebook makes? Pages are compared as text and pictures.

No PDF is opened in this process: the sandbox turns papers into pictures and text.
"""
import io
import json
import re
from collections import Counter

import numpy as np
from PIL import Image

from grading import paper_numbers, sandbox
from grading.archive import ArchiveError, parse_json
from grading.findings import Finding, join_names
from grading.network_measurements import sandbox_code
from grading.schema import Place, read_value

# Two pages differ if in a square of SQUARE pixels so many differ in a colour by so much: from the
# same pixel, or faintly (as pale yellow does from white) from all pixels around it, so that a shift
# by a part of a pixel makes no difference.
SQUARE = 16
DIFFERENT_PIXELS = 8
DIFFERENT_COLOUR = 100
FAINT_COLOUR = 16
REDRAWN = 0.05  # share of different squares from which on a page counts as typeset differently
THUMBNAIL = 420  # pixels, the longer side of the first page's picture


def render_handed_in(submission, notebook, policy):
    """The paper handed in, as pictures and text of its pages: name -> bytes.

    Raises ArchiveError if it is missing, sandbox.SandboxError if it cannot be rendered.
    """
    pdf = submission.bytes(policy.files.paper)
    return sandbox.results({**sandbox_code(), "paper.pdf": pdf}, "look", policy)


def render_rebuilt(submission, notebook, policy):
    """The paper that the notebook makes, in the same form, with the texts that it consists of."""
    starts = ("figures/", "notebooks/", policy.files.references)
    inputs = sandbox_code()
    for name, content in submission.files.items():
        if name.startswith(starts):
            inputs[name] = content
    inputs[policy.files.notebook] = json.dumps(notebook).encode()
    return sandbox.results(inputs, "paper", policy)


def compare(handed_in, rebuilt, explanations, claims):
    """Findings on two papers.

    Args:
        handed_in: what render_handed_in returns.
        rebuilt: what render_rebuilt returns.
        explanations: the values that numbers in the paper may have, as paper_numbers.Explanations.
        claims: name -> Claim.
    """
    texts = read_texts(rebuilt)
    words = page_words(handed_in)
    rebuilt_words = page_words(rebuilt)
    findings = [
        *compare_words(words, rebuilt_words),
        *compare_content(handed_in, rebuilt),
        *compare_pictures(pictures(handed_in), pictures(rebuilt), words == rebuilt_words),
        *paper_numbers.check_numbers(texts, explanations, claims),
        *paper_numbers.check_pages(page_texts(rebuilt), texts, explanations),
    ]
    if not findings:
        message = "the paper is what the notebook makes, as text and as pictures"
        findings.append(Finding("paper", "holds", message))
    return findings


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
    """The texts that the sandbox found, as [place, kind, text]. Raises SchemaError."""
    name = "the paper's texts"
    content = parse_json(files.get("texts.json", b""), name)
    texts = read_value(list[list[str]], content, Place(name))
    if any(len(text) != 3 for text in texts):
        raise ArchiveError(f"{name} came back damaged")
    return texts


def first_page(files):
    """The first page in a sandbox's results as a small PNG, in bytes."""
    picture = Image.fromarray(pictures(files)[0])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def compare_words(handed_in, rebuilt):
    """Findings if two papers' words differ, in whatever order pages and columns have them."""
    there = Counter(word for page in handed_in for word in page)
    here = Counter(word for page in rebuilt for word in page)
    added = there - here
    missing = here - there
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
    return [Finding("paper", "contradicted", message)]


def _shown_words(words):
    """The first words of a Counter, those with digits before others."""
    order = sorted(words, key=lambda word: not any(letter.isdigit() for letter in word))
    return join_names([repr(word[:30]) for word in order])


def compare_pictures(handed_in, rebuilt, same_words):
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
    for number, (there, here) in enumerate(zip(handed_in, rebuilt), 1):
        squares = different_squares(there, here)
        if squares.mean() > REDRAWN:
            message = (
                f"page {number} is typeset in another way than here, perhaps by another TeX: "
                "look at both"
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
            findings.append(Finding("paper", "contradicted", message))
    return findings


def different_squares(there, here):
    """Which squares of two pages, (height, width, 3), differ: a Boolean array of squares."""
    rows = there.shape[0] // SQUARE
    columns = there.shape[1] // SQUARE
    if np.array_equal(there, here):
        return np.zeros((rows, columns), bool)
    there = there[: rows * SQUARE, : columns * SQUARE].astype(np.int16)
    here = here[: rows * SQUARE, : columns * SQUARE].astype(np.int16)
    strong = (np.abs(there - here) > DIFFERENT_COLOUR).any(2)
    faint = _is_outside(there, here) | _is_outside(here, there)
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
    there, here = (
        read_value(
            list[str],
            parse_json(files.get("content.json", b"[]"), "the paper's content"),
            Place("the paper's content"),
        )
        for files in (handed_in, rebuilt)
    )
    added = [phrase[:120] for phrase in there if phrase not in here]
    if not added:
        return []
    message = (
        f"the paper handed in has {join_names(added)}, which no "
        "paper needs: do not open it in a program that runs or prints such things"
    )
    return [Finding("paper", "unverified", message)]
