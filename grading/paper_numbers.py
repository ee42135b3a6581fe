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
        for number in find_numbers(text):
            if number.decimals == 2:
                values.append(number.value)
            if _needs_explanation(number, kind) and not _is_explained(number, known):
                unexplained.setdefault(place, []).append(number.written)
    findings = _missing_accuracy(claims, values)
    for place, written in unexplained.items():
        message = (
            f"{place} says {', '.join(dict.fromkeys(written))}, which is no claim, citation or "
            "number of the template"
        )
        findings.append(Finding("paper", "unverified", message))
    return findings


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
