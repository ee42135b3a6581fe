"""Is every number in the paper explained? A number that nothing explains is listed with its place.

A number is explained by a claim, a citation, the template, the records of the runs.
"""
import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from grading.findings import Finding

NUMBER = re.compile(
    r"(?<![\w.,])[-−+±]?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)"
    r"(?P<decimals>\.\d+)?"
    r"(?!\w|[.,]\d)"
    r"\s*(?P<percent>%|per ?cent\b)?",
    re.IGNORECASE,
)
NUMBER_IN_CODE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
INVISIBLE = re.compile(r"[\u200b-\u200f\u2060\ufeff\u00ad]")
MOST_LETTERS = 200_000  # of a bibliography
LARGE = 1_000  # whole numbers from here on need an explanation in text typed by hand
# What a sentence speaks of that tells a result. Numbers in other sentences are only to be read.
RESULT = re.compile(
    r"accura|correct|\bright\b|recogni[sz]|classif|\breach|achiev|\bscore|perform|predict|"
    r"\berrors?\b|mistake|parameters|better|worse|\bloss\b",
    re.IGNORECASE,
)
READABLE = 0.1  # share of a text's words of four letters and more that the notebook has as well
COMMON_WORDS = {"that", "this", "with", "from", "which", "have", "were", "each", "than", "image"}
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n\s*\n")


@dataclass
class PaperNumber:
    """A number in a text.

    Attributes:
        written: as it is written, with its per cent sign.
        value: its value.
        decimals: how many digits follow the decimal point.
        is_percent: whether it is a share in per cent.
    """

    written: str
    value: float
    decimals: int
    is_percent: bool


@dataclass
class Explanations:
    """The values that numbers in a paper may have.

    Attributes:
        typed: a list of floats for texts that were typed by hand.
        computed: a list of floats for outputs of cells, which may say these as well.
    """

    typed: list[float]
    computed: list[float]


def find_numbers(text):
    """The numbers in a text, a list of PaperNumber, whatever its digits look like."""
    normal = unicodedata.normalize("NFKC", text)
    normal = INVISIBLE.sub("", normal).replace("\\%", "%")
    numbers = []
    for match in NUMBER.finditer(normal):
        decimals = match["decimals"] or ""
        digits = match["whole"].replace(",", "") + decimals
        numbers.append(
            PaperNumber(
                written=match[0].strip(),
                value=float(_ascii_digits(digits)),
                decimals=max(len(decimals) - 1, 0),
                is_percent=bool(match["percent"]),
            )
        )
    return numbers


def _ascii_digits(text):
    """Text whose digits of other scripts are replaced by 0 to 9."""
    return "".join(
        str(unicodedata.digit(letter)) if letter.isdigit() else letter for letter in text
    )


def collect_explanations(submission, template, claims, runs, policy):
    """The Explanations of the numbers in a submission's paper.

    Claims, citations and numbers of the template's prose may stand anywhere. Outputs of cells may
    also say numbers of the template's code and of the runs' records, and differences of
    accuracies.
    """
    bibliography = submission.files.get(policy.files.references, b"").decode(errors="replace")
    prose = [cell.source for cell in template.cells if cell.cell_type == "markdown"]
    options = []
    for cell in template.cells:
        options += [line for line in cell.source.splitlines() if line.startswith("#|")]
    typed = [claim.value for claim in claims.values() if claim.is_number]
    for text in (bibliography[:MOST_LETTERS], " ".join(prose), " ".join(options)):
        typed += [number.value for number in find_numbers(text)]
    accuracies = [
        claim.value for claim in claims.values() if claim.is_number and claim.unit == "%"
    ]
    code = [cell.source for cell in template.cells if cell.cell_type == "code"]
    written = NUMBER_IN_CODE.findall(" ".join(code).replace("_", ""))
    computed = [float(number) for number in written]
    computed += _differences(accuracies, accuracies)
    for run in runs.values():
        computed += _run_values(run)
        computed += _differences([run.history.train_accuracy.iloc[-1]], accuracies)
    return Explanations(typed, typed + computed)


def _differences(values, others):
    return [abs(value - other) for value in values for other in others]


def _run_values(run):
    """What a paper may say of a run: its settings, also in per cent, losses, accuracy, minutes."""
    settings = run.record.config.numbers
    last = run.history.iloc[-1]
    return [
        *settings,
        *(100 * value for value in settings),
        last.train_loss,
        last.train_accuracy,
        run.record.seconds / 60,
    ]


def check_numbers(texts, explanations, claims):
    """Findings on numbers in the paper that nothing explains.

    In outputs of cells only shares in per cent need an explanation; in text typed by hand also
    numbers with decimals and large ones.

    Args:
        texts: [place, kind, text] of all that the paper says.
        explanations: an Explanations.
        claims: name -> Claim; the test accuracy among them has to be in the paper.
    """
    typed = np.array(explanations.typed, dtype=float)
    computed = np.array(explanations.computed, dtype=float)
    unexplained = {}
    values = []
    for place, kind, text in texts:
        known = computed if kind == "computed" else typed
        values += [number.value for number in find_numbers(text) if number.decimals == 2]
        for sentence in SENTENCE_END.split(text):
            for number in find_numbers(sentence):
                if _needs_explanation(number, kind) and not _is_explained(number, known):
                    verdict = _verdict_on(number, sentence, kind, claims)
                    unexplained.setdefault((place, verdict), []).append(number.written)
    findings = _missing_accuracy(claims, values)
    for (place, verdict), written in unexplained.items():
        message = (
            f"{place} says {', '.join(dict.fromkeys(written))}, which is no claim, citation or "
            "number of the template"
        )
        if verdict == "noted":
            message += "; it does not read like a result"
        findings.append(Finding("paper", verdict, message))
    return findings


def _verdict_on(number, sentence, kind, claims):
    """The verdict on a number that nothing explains: "noted" unless it may be read as a result.

    A share in per cent above the accuracy claimed may be, and so may numbers in a sentence that
    speaks of results, and in a table.
    """
    accuracy = claims.get("test_accuracy")
    highest = accuracy.value if accuracy and accuracy.is_number else 0
    is_result = RESULT.search(unicodedata.normalize("NFKC", sentence))
    if kind == "computed" or is_result or (number.is_percent and number.value > highest):
        return "unverified"
    return "noted"


# --------------------------------------------------------------------------------- another layout


def check_other_layout(words, notebook, explanations, claims, rebuilt_words=()):
    """Findings on a paper that was not made by this project's exporter.

    Its numbers have to be claims, or to stand in the notebook: shares in per cent and those of two
    and more decimals.

    Args:
        words: the words of each page, a list of lists.
        notebook: the notebook.
        explanations: an Explanations.
        claims: name -> Claim.
        rebuilt_words: the words of the paper that the notebook makes here, with those in its
            figures; without them a number that is found nowhere may be one of a figure.
    """
    what = "the paper has another layout than make paper gives it"
    text = " ".join(word for page in words for word in page)
    if not text:
        message = f"{what}, and no text that can be read: its numbers were not compared"
        return [Finding("paper", "unverified", message)]
    if not _is_readable(text, notebook):
        message = f"{what}, and its text cannot be read: its numbers were not compared"
        return [Finding("paper", "unverified", message)]
    here = " ".join(word for page in rebuilt_words for word in page)
    known = explanations.computed + [
        number.value for source in (all_text(notebook), here) for number in find_numbers(source)
    ]
    known = np.array(known, dtype=float)
    numbers = [
        number for number in find_numbers(text) if number.is_percent or number.decimals >= 2
    ]
    foreign = [number.written for number in numbers if not _is_explained(number, known)]
    if foreign:
        shown = ", ".join(list(dict.fromkeys(foreign))[:8])
        message = f"{what} and says {shown}, which the notebook does not"
        return [Finding("paper", "contradicted" if here else "unverified", message)]
    values = [number.value for number in numbers]
    if claims and _missing_accuracy(claims, values):
        message = f"{what} and does not say the accuracy claimed"
        return [Finding("paper", "unverified", message)]
    message = (
        f"{what}; its numbers agree with the notebook ({len(numbers)} were compared). Its pictures "
        "were not compared: look at them"
    )
    return [Finding("paper", "noted", message)]


def _is_readable(text, notebook):
    """Whether a PDF's text is words: some programs leave glyphs' numbers instead of letters."""
    words = re.findall(r"[^\W\d_]{4,}", text.lower())
    known = set(re.findall(r"[^\W\d_]{4,}", all_text(notebook).lower())) | COMMON_WORDS
    return sum(word in known for word in words) >= READABLE * len(words)


def all_text(notebook):
    """All text of a notebook: the sources of its cells and the texts of its outputs."""
    texts = []
    for cell in notebook.cells:
        texts.append(cell.source)
        for output in cell.get("outputs", []):
            texts.append(str(output.get("text", "")))
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    texts.append(re.sub(r"src=\"data:[^\"]*\"|<[^<>]{0,500}>", " ", str(content)))
    return "\n".join(texts)


def _needs_explanation(number, kind):
    if number.is_percent:
        return True
    return kind == "typed" and (number.decimals > 0 or number.value >= LARGE)


def _is_explained(number, known):
    """Whether one of the known values, an array of floats, is written as this number."""
    rounding = 0.501 * 10.0**-number.decimals
    return bool(np.any(np.abs(known - number.value) <= rounding))


def _missing_accuracy(claims, values):
    """A list with a finding if the test accuracy claimed is not among values of two decimals."""
    if "test_accuracy" not in claims:
        return []
    claim = claims["test_accuracy"]
    if claim.is_number and any(abs(value - claim.value) < 0.00501 for value in values):
        return []
    message = f"the paper does not say the accuracy claimed, {claim.value}"
    return [Finding("paper", "contradicted", message)]
