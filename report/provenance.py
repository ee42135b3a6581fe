"""Finds the provenance of the numbers in a paper: the claims that they state, and their sources.

A number has a claim only if its text was computed, the claim has its value at the precision in
which it is written, and the context supports the claim: its unit, the words of its name, its
interval, or four digits that are unlikely to agree by chance. If several claims fit, the number has
them all.
"""

import json
import math
import re
from dataclasses import dataclass, field

from report.cell_options import read_label
from report.freshness import code_hash, record, results_hash
from tools.errors import SubmissionError
from tools.project_files import ROOT

VERDICT = ROOT / "build" / "verdict.json"  # what `make verify` found last, by results_hash
NUMBER = re.compile(
    # neither in a word or another number, nor after a hyphen, a slash or a multiplication sign
    r"(?<![\w.,/×])(?<![\w][-–−])(?<!×\s)"
    r"(?P<sign>[-−+]\s?)?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)"
    r"(?P<decimals>\.\d+)?"
    r"(?P<exponent>e[-−+]?\d+)?"
    r"(?![\w×]|[.,/]\d|\s×|[-–−]\w)"
)
PLUS_MINUS = re.compile(r"\s*%?\s*±\s*")
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bal\.)\s+(?=[^\W\d_])")
STOP_WORDS = {"a", "of", "the", "from", "to", "first", "last", "best", "one", "more"}
MOST_CLAIMS = 6  # of a number: one that fits more of them says nothing
STEM = 5  # letters that words have in common
CERTAIN = 4  # digits that speak for themselves
PER_CENT = "%"


@dataclass(frozen=True)
class Claim:
    """A number or word of results.json: its name, value, unit and source, a run or a cell."""

    name: str
    value: object
    unit: str
    source: str

    @property
    def is_number(self):
        """Whether the value is a finite number; true and false are none."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            return False
        return math.isfinite(self.value)

    @property
    def words(self):
        """The words of the last part of the name that say what it is, a set."""
        words = re.findall(r"[a-z]+", self.name.rpartition("/")[2].lower())
        return set(words) - STOP_WORDS


@dataclass
class WrittenNumber:
    """A number as it is written in a text."""

    start: int
    end: int
    sign: str
    value: float
    step: float  # of its last digit
    digits: int  # that carry a meaning

    @classmethod
    def read(cls, match):
        """The WrittenNumber of a match of NUMBER."""
        whole = match["whole"].replace(",", "")
        decimals = (match["decimals"] or "")[1:]
        exponent = int((match["exponent"] or "e0")[1:].replace("−", "-"))
        scale = 10.0 ** min(max(exponent, -300), 300)
        digits = (whole + decimals).lstrip("0")
        if not decimals:
            digits = digits.rstrip("0")
        return cls(
            start=match.start(),
            end=match.end(),
            sign=(match["sign"] or "").strip().replace("−", "-"),
            value=float(f"{whole}.{decimals or 0}") * scale,
            step=10.0 ** -len(decimals) * scale,
            digits=len(digits),
        )

    def matches(self, value):
        """Whether a value is written as this number; a fall by 2.5 is written without its sign.

        A short whole number is no rounded value: too many values would be written like it.
        """
        if self.step >= 1 and self.digits < CERTAIN - 1 and value != int(value):
            return False
        if abs(abs(value) - self.value) > 0.501 * self.step:
            return False
        is_signed = bool(self.sign) and self.value > 0
        return not is_signed or (value < 0) == (self.sign == "-")


@dataclass
class Surroundings:
    """What stands around the numbers of a text or a table's cell."""

    words: str = ""  # of the head of a cell's column and of its row's first cell
    row: int = 0  # of a cell, the head not counted
    before: list = field(default_factory=list)  # claims of the cell before, if this one is its ±


@dataclass
class NumberSource:
    """A number's position in its text, and the claims that it may state."""

    start: int
    end: int
    claims: tuple


class Provenance:
    """The claims of a notebook's results, with the source and the last check of each.

    Args:
        notebook: the executed notebook.
        results: the content of its results.json, {} without one.
    """

    def __init__(self, notebook, results):
        entries = results.get("claims") if isinstance(results, dict) else None
        self.claims = _read_claims(entries)
        self.record = record(notebook)
        self.cell_hashes = _cell_hashes(notebook)
        self.findings = _read_findings(results)
        self.tolerances = _tolerances() if self.claims else None

    def find(self, text, around=None):
        """The NumberSources of the numbers in a text, a list in the order in which they stand.

        Args:
            text: a paragraph, or what a cell of a table says.
            around: the Surroundings of a table's cell.
        """
        numbers = [WrittenNumber.read(match) for match in NUMBER.finditer(text)]
        found = []
        previous = None  # the number before, and its claims
        for number, following in zip(numbers, [*numbers[1:], None]):
            interval = None
            if following and PLUS_MINUS.fullmatch(text, number.end, following.start):
                interval = following
            if previous and PLUS_MINUS.fullmatch(text, previous[0].end, number.start):
                claims = self._intervals(number, previous[1])
            elif around and around.before:
                claims = self._intervals(number, around.before)
            else:
                claims = self._measured(number, interval, text, around)
            previous = (number, claims)
            if claims and len(claims) <= MOST_CLAIMS:
                found.append(NumberSource(number.start, number.end, tuple(claims)))
        if around and not found:
            found = self._word(text, around)
        return found

    def _measured(self, number, interval, text, around):
        """The claims that a number may state; `interval` is the number behind its ±, or None."""
        fitting = [
            claim
            for claim in self.claims.values()
            if claim.is_number and number.matches(claim.value)
        ]
        is_share = text[number.end :].lstrip().startswith(PER_CENT)
        if is_share:
            fitting = [claim for claim in fitting if claim.unit in ("", PER_CENT, "points")]
        if interval:
            confirmed = [claim for claim in fitting if self._intervals(interval, [claim])]
            if confirmed:
                return confirmed
        return [
            claim for claim in fitting if has_supporting_context(claim, number, text, around)
        ]

    def _intervals(self, number, claims):
        """The claims that a number behind a ± may state: the intervals of others."""
        found = []
        for claim in claims:
            for name in (f"{claim.name}_interval", re.sub("_mean$", "_interval", claim.name)):
                other = self.claims.get(name)
                if other and other != claim and other.is_number and number.matches(other.value):
                    found.append(other)
        return list(dict.fromkeys(found))

    def _word(self, text, around):
        """The NumberSource of a table's cell that says a word which is claimed, in a list."""
        written = text.strip()
        claims = [
            claim
            for claim in self.claims.values()
            if claim.value == written
            and isinstance(claim.value, str)
            and any(has_word(around.words, word) for word in re.findall("[a-z]+", claim.name))
        ]
        of_row = [claim for claim in claims if claim.name.endswith(f"/{around.row}")]
        claims = of_row or claims
        if not written or not claims or len(claims) > MOST_CLAIMS:
            return []
        start = text.index(written)
        return [NumberSource(start, start + len(written), tuple(claims))]

    # ------------------------------------------------------------------------------ what is known

    def origin(self, claim):
        """What a claim rests on: ("run" or "cell", the hash of the run's record or cell's code).

        Both are "" where the record of the run does not have the source.
        """
        for name, digest in self.record.get("files", {}).items():
            if str(name).endswith(f"/{claim.source}/run.json"):
                return "run", str(digest)
        if claim.source in self.cell_hashes:
            return "cell", self.cell_hashes[claim.source]
        return "", ""

    def tolerance(self, claim):
        """How far `make verify` allows the claim to be off, in words; "" if that is not known."""
        if self.tolerances is None:
            return ""
        tolerance = self.tolerances(claim.name)
        if tolerance.kind == "bound":
            return f"both between 0 and {tolerance.limit:g}"
        if tolerance.limit:
            return f"±{tolerance.limit:g}"
        return "none: the same value"

    def verdict(self, claim):
        """What `make verify` said last of the claim, (verdict, sentence), or None."""
        return self.findings.get(claim.name)


def has_supporting_context(claim, number, text, around):
    """Whether the context of a number supports a claim that has its value."""
    sentence = _sentence_around(text, number)
    behind = text[number.end :].lstrip().lower()
    if around:
        sentence = f"{around.words} {text}"
    named = claim.words and all(has_word(sentence, word) for word in claim.words)
    if claim.name.startswith("class_accuracy/") and not named:
        return False
    if number.digits >= CERTAIN:
        return True
    unit = claim.unit.lower().partition(" ")[0]
    has_unit = bool(unit) and (behind.startswith(unit) or (around and unit in around.words.lower()))
    if number.digits == CERTAIN - 1:
        return has_unit or bool(named)
    if len(claim.words) > 1:
        return number.digits > 1 and bool(named)
    if around:
        says_words = any(character.isalpha() for character in text)  # a label, as "rate 0.01"
        return bool(named) and not says_words
    return any(re.match(rf"{re.escape(word[:STEM])}", behind) for word in claim.words)


def has_word(text, word):
    """Whether a text has a word, or one that starts as it does."""
    return bool(re.search(rf"\b{re.escape(word[:STEM])}", text, re.IGNORECASE))


def format_claim(claim):
    """The value of a claim with its unit."""
    value = str(claim.value)
    if isinstance(claim.value, int) and not isinstance(claim.value, bool):
        value = f"{claim.value:,}"
    elif isinstance(claim.value, float):
        value = f"{claim.value:.10g}"
    return f"{value.replace('-', '−') if claim.is_number else value} {claim.unit}".strip()


def _sentence_around(text, number):
    start = 0
    for end in SENTENCE_END.finditer(text):
        if end.start() >= number.end:
            return text[start : end.start()]
        start = end.end()
    return text[start:]


def _read_claims(entries):
    """Name -> Claim of the well-formed claims."""
    claims = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("value"), int | float | str):
            unit, source = str(entry.get("unit", "")), str(entry.get("source", ""))
            claims[name] = Claim(name, entry["value"], unit, source)
    return claims


def _cell_hashes(notebook):
    """Id and label of each cell of code -> the hash of its code."""
    hashes = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        digest = code_hash(cell["source"])
        hashes[str(cell.get("id", ""))] = digest
        if label := read_label(cell["source"]):
            hashes[label] = digest
    return hashes


def _read_findings(results):
    """Claim -> (verdict, sentence) of the last `make verify`, {} if it was of other results."""
    try:
        content = json.loads(VERDICT.read_text(encoding="utf-8"))
        findings = content[results_hash(results)]
        return {name: (str(verdict), str(words)) for name, verdict, words in findings}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _tolerances():
    """The function that gives the tolerance of a claim's name, None if there is no valid policy."""
    try:  # a sandbox has the builder without the grader
        from grading.policy import EXACT, is_recorded_claim, read_policy

        policy = read_policy()
    except (ImportError, SubmissionError, OSError):
        return None

    def tolerance_of(name):
        return EXACT if is_recorded_claim(name) else policy.verify_tolerance(name)

    return tolerance_of
