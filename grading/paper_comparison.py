"""The paper handed in, held against the one that this copy's exporter makes of the notebook: as text and as pictures.

Nothing of a PDF is read in the judge's process: the sandbox makes grey pictures and text of it.
"""
import io
import re
import unicodedata
from collections import Counter

import numpy as np
from PIL import Image

from grading import sandbox
from grading.archive import Refused, parse_json
from grading.checks import Row, code, listed

SQUARE, DARKER, DOTS = 16, 100, 8  # two pages differ where in a square this many dots differ by this much grey
NUMBER = re.compile(r"(?<![\w.,])[-−+±]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?!\w|[.,]\d)\s*(%|per ?cent\b)?", re.I)


def handed(submission, notebook, policy):
    """The paper handed in, as pictures and text of its pages; Refused or Stopped where that cannot be."""
    pdf = submission.bytes(policy["files"]["paper"])
    return sandbox.results({**code(), "paper.pdf": pdf}, "look", policy)


def made(submission, notebook, policy):
    """The paper that the notebook makes, in the same form; and its texts with their places."""
    names = policy["files"]
    files = {name: data for name, data in submission.files.items()
             if name.startswith(("figures/", "notebooks/", names["references"]))}
    return sandbox.results({**code(), **files, names["notebook"]: sandbox.packed(notebook)}, "paper", policy)


def compared(submission, there, here, template, claims, runs, policy):
    """Rows on two papers, as from `handed` and `made`."""
    texts, words = said(here), [spoken(files) for files in (there, here)]
    rows = [*text_rows(*words), *picture_rows(pictures(there), pictures(here), words[0] == words[1]),
            *number_rows(texts, explained(texts, template, submission, claims, runs, policy), claims)]
    return rows or [Row("paper", "holds", "the paper is what the notebook makes, as text and as pictures")]


def pictures(files):
    """The pages in a sandbox's results as arrays of grey (height, width)."""
    pages = []
    for name in sorted(name for name in files if name.endswith(".pgm")):
        head = re.match(rb"P5\s(\d{1,5})\s(\d{1,5})\s255\s", files[name])
        if not head or len(files[name]) - head.end() != int(head[1]) * int(head[2]):
            raise Refused("a page of the paper came back damaged")
        data = np.frombuffer(files[name], np.uint8, offset=head.end())
        pages.append(data.reshape(int(head[2]), int(head[1])))
    if not pages:
        raise Refused("the paper has no pages")
    return pages


def spoken(files):
    """The words of each page in a sandbox's results: a list of lists; hyphens do not count, nor where lines break."""
    text = files.get("text.txt", b"").decode(errors="replace")
    return [re.sub(r"[-\u00ad\u2010]\n?", "", page).split() for page in text.split("\f")][:-1]


def said(files):
    """The texts that the sandbox found, as [place, kind, text]."""
    texts = parse_json(files.get("texts.json", b""), "the paper's texts")
    if not isinstance(texts, list) or not all(isinstance(part, str) for row in texts for part in row):
        raise Refused("the paper's texts came back damaged")
    return texts


def first_page(files, height=420):
    """The first page in a sandbox's results as a small PNG, in bytes."""
    picture, buffer = Image.fromarray(pictures(files)[0]), io.BytesIO()
    picture.thumbnail((height, height))
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def text_rows(handed, made):
    """Rows where the words of two papers differ, in whatever order pages and columns show them."""
    there, here = (Counter(word for page in pages for word in page) for pages in (handed, made))
    more, less = there - here, here - there
    if more or less:
        pages = [number for number, page in enumerate(handed, 1) if more.keys() & set(page)]
        yield Row("paper", "contradicted", "the paper handed in "
                  + (f"says {first_of(more)} on page {', '.join(map(str, pages))}, which the notebook does not"
                     if more else "says less than the notebook")
                  + (f"; it lacks {first_of(less)}" if less else ""))


def first_of(words):
    """The first words of a Counter, numbers before others."""
    order = sorted(words, key=lambda word: not any(letter.isdigit() for letter in word))
    return listed([repr(word[:30]) for word in order])


def picture_rows(handed, made, same_words):
    """Rows where pages look different: in few places somebody drew over them, everywhere another TeX set them."""
    if len(handed) != len(made) or [page.shape for page in handed] != [page.shape for page in made]:
        if same_words or len(handed) != len(made):
            yield Row("paper", "unverified", f"the paper handed in has {len(handed)} pages, or pages of another size, "
                      f"the notebook's has {len(made)}: compare their pictures by eye")
        return
    for number, (there, here) in enumerate(zip(handed, made), 1):
        height, width = (size // SQUARE * SQUARE for size in there.shape)
        different = np.abs(there.astype(int) - here)[:height, :width] > DARKER
        squares = different.reshape(height // SQUARE, SQUARE, width // SQUARE, SQUARE).sum((1, 3)) >= DOTS
        if squares.mean() > 0.05:
            yield Row("paper", "unverified", f"page {number} is set in another way than here, perhaps by another TeX: "
                      "look at both")
        elif squares.any():
            row, column = np.argwhere(squares)[0]
            down, right = 100 * row // squares.shape[0], 100 * column // squares.shape[1]
            yield Row("paper", "contradicted", f"page {number} of the paper looks different from what the notebook "
                      f"makes, {down} % from its top and {right} % from its left")


# ------------------------------------------------------------------------------------------------------------ numbers

def numbers(text):
    """Yield (as written, value, decimals, whether per cent) of the numbers in a text, whatever its digits look like."""
    text = re.sub(r"[\u200b-\u200f\u2060\ufeff\u00ad]", "", unicodedata.normalize("NFKC", text)).replace("\\%", "%")
    for found in NUMBER.finditer(text):
        value = "".join(str(unicodedata.digit(letter)) if letter.isdigit() else letter
                        for letter in (found[1] + (found[2] or "")).replace(",", ""))
        yield found[0].strip(), float(value), len(found[2] or ".") - 1, bool(found[3])


def explained(texts, template, submission, claims, runs, policy):
    """What numbers may say, two lists of values: those typed by hand, and those that the notebook computed.

    Both may say claims, citations and numbers of the template's prose; the second also what is in the records of the
    runs and in the template's code, and differences of accuracies.
    """
    bibliography = submission.files.get(policy["files"]["references"], b"").decode(errors="replace")
    prose = " ".join(cell.source for cell in template.cells if cell.cell_type == "markdown")
    captions = " ".join(line for cell in template.cells for line in cell.source.splitlines() if line.startswith("#|"))
    typed = [claim["value"] for claim in claims.values() if not isinstance(claim["value"], str)]
    accuracies = [claim["value"] for claim in claims.values() if claim.get("unit") == "%"
                  and not isinstance(claim["value"], str)]
    typed += [value for text in (bibliography[:200_000], prose, captions) for _, value, _, _ in numbers(text)]
    source = " ".join(cell.source for cell in template.cells if cell.cell_type == "code").replace("_", "")
    computed = [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", source)]
    computed += [abs(a - b) for a in accuracies for b in accuracies]
    for run in runs.values():
        settings = [value for value in run.info["config"].values() if type(value) in (int, float)]
        loss, trained = run.history.iloc[-1][["train_loss", "train_accuracy"]]
        computed += [*settings, *(100 * value for value in settings), loss, trained, run.info["seconds"] / 60]
        computed += [abs(trained - accuracy) for accuracy in accuracies]
    return typed, typed + computed


def number_rows(texts, explanations, claims):
    """Rows for numbers in the paper that nothing explains: typed ones, and shares of any kind."""
    typed, computed = (np.array([float(value) for value in values]) for values in explanations)
    open_places, accuracy = {}, claims.get("test_accuracy", {}).get("value")
    stated = False
    for place, kind, text in texts:
        known = computed if kind == "computed" else typed
        for written, value, decimals, percent in numbers(text):
            stated |= isinstance(accuracy, (int, float)) and decimals == 2 and abs(value - accuracy) < 0.00501
            counts = percent or kind == "typed" and (decimals or value >= 1000)
            if counts and not np.any(np.abs(known - value) <= 0.501 * 10.0 ** -decimals):
                open_places.setdefault(place, []).append(written)
    if not stated and accuracy is not None:
        yield Row("paper", "contradicted", f"the paper does not say the accuracy claimed, {accuracy}")
    for place, found in open_places.items():
        yield Row("paper", "unverified", f"{place} says {', '.join(dict.fromkeys(found))}, which is no claim, citation "
                  "or number of the template")
