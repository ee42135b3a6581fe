"""Looks for an explanation of each number in a paper, and reports the numbers without one.

A number is explained by the claim, the cited publication, the setting of a run or the words of the
template that it stands beside; a value that is right elsewhere explains nothing.
"""

import re
import unicodedata
from dataclasses import dataclass, field

from grading.findings import Finding
from grading.policy import is_number
from grading.records import RECIPE_TYPES

NUMBER = re.compile(
    r"(?<![\w.,])[-−+±]?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+)"
    r"(?P<decimals>\.\d+)?"
    r"(?!\w|[.,]\d)"
    r"\s*(?P<percent>%|per ?cent\b)?",
    re.IGNORECASE,
)
INVISIBLE = re.compile(r"[\u200b-\u200f\u2060\ufeff\u00ad]")
MOST_LETTERS = 200_000  # of a bibliography
LARGE = 1_000  # whole numbers from here on need an explanation in text typed by hand
# Words of sentences about a result
RESULT = re.compile(
    r"accura|correct|right|error|mistake|wrong|recogni|classif|\btest|score|reach|achiev|perform"
    r"|result|parameter|\bloss|per ?cent|\brate\b",
    re.IGNORECASE,
)
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
_UNITS += "fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
SPOKEN_UNITS = {name: value for value, name in enumerate(_UNITS.split())}
SPOKEN_TENS = {name: 10 * value for value, name in enumerate(_TENS.split(), 2)}
_UNIT = "|".join(SPOKEN_UNITS)
_SPOKEN_NUMBER = (  # "ninety", "ninety-six" or "six"
    rf"(?:(?P<tens>{'|'.join(SPOKEN_TENS)})(?:[\s\u2010\u2011-]?(?P<units>{_UNIT}))?"
    rf"|(?P<alone>{_UNIT}))"
)
_SPOKEN_DECIMALS = rf"(?P<decimals> point(?:[ -](?:{_UNIT}))+)?"  # " point three five"
# What is counted is no result, and "two thousand" is another number than two.
_NO_RESULT = "thousand|million|epoch|image|step|minute|second|hour|layer|class|run|seed|channel"
SPOKEN = re.compile(
    rf"\b{_SPOKEN_NUMBER}{_SPOKEN_DECIMALS}\b(?!\s+(?:{_NO_RESULT}))\s*(?P<share>%|per ?cent\b)?"
)
COUNT = re.compile(
    rf"\b(?P<part>\d[\d,]*|{_UNIT}) (?:out )?(?:of|in) (?:the |every |a |one )?"
    r"(?P<whole>10,?000|1,?000|100|10|ten|hundred|thousand)\b"
)
WHOLES = {"10": 10, "ten": 10, "100": 100, "hundred": 100, "1000": 1_000, "thousand": 1_000}
WHOLES |= {"10000": 10_000}
READABLE = 0.1  # share of a text's words of four letters and more that the notebook has as well
COMMON_WORDS = {"that", "this", "with", "from", "which", "have", "were", "each", "than", "image"}


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

    def may_be(self, value):
        """Whether a value is written as this number once it is rounded."""
        return abs(value - self.value) <= 0.501 * 10.0**-self.decimals


@dataclass
class Explanation:
    """A value that a number in the paper may have.

    Attributes:
        value: the value.
        words: a regular expression that the number's sentence or row has to contain, "" for any.
        is_share: whether the value may be written as a share in per cent.
        is_cited: whether it stands in the list of references as well.
    """

    value: float
    words: str = ""
    is_share: bool = True
    is_cited: bool = False


@dataclass
class Explanations:
    """What numbers in a paper may say.

    Attributes:
        typed: a list of Explanation for texts that were typed by hand.
        computed: a list of Explanation for outputs of cells, which may say these as well.
        template: numbers of the template's texts, each between the words beside it.
    """

    typed: list[Explanation]
    computed: list[Explanation]
    template: set[tuple[str, ...]] = field(default_factory=set)


def find_numbers(text):
    """The numbers in a text, a list of PaperNumber, whatever its digits look like."""
    numbers = []
    for match in NUMBER.finditer(_plain(text)):
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


def _plain(text):
    """Text in one form of Unicode, without invisible letters and LaTeX's form of the % sign."""
    return INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).replace("\\%", "%")


def _ascii_digits(text):
    """Text whose digits of other scripts are replaced by 0 to 9."""
    return "".join(
        str(unicodedata.digit(letter)) if letter.isdigit() else letter for letter in text
    )


# ----------------------------------------------------------------------------------- explanations

# Words that have to stand beside a number, by what it is.
DIFFERENCE = r"point|differ|chang|gain|more|less|higher|lower|above|below|drop|fall|rise|between"
INTERVAL = r"±|interval|deviation|error"
PUBLISHED = r"report|publish|original|earlier|course|other|literature|reference|, 20\d\d"
MISTAKES = r"mistake|error|wrong|confus|between|misclass"
TRAINING = r"training (accuracy|images?|set|data|examples?)|\btrain(ing)?\b.{0,20}accuracy"


def collect_explanations(submission, notebook, template, claims, runs, policy):
    """The Explanations of the numbers in a submission's paper.

    A claim explains a number in a sentence that is about it, a cited publication one in a sentence
    that cites it, the template one that stands between the same words. Outputs of cells may also
    say settings of a run, its training accuracy, and differences of accuracies.
    """
    typed = []
    for name, claim in claims.items():
        typed += _explanations_of_claim(name, claim)
    bibliography = submission.files.get(policy.files.references, b"").decode(errors="replace")
    typed += _cited_numbers(bibliography[:MOST_LETTERS], notebook)
    accuracies = [
        claim.value for name, claim in claims.items() if _is_accuracy(name) and claim.is_number
    ]
    computed = [
        Explanation(abs(value - other), DIFFERENCE) for value in accuracies for other in accuracies
    ]
    for run in runs.values():
        computed += _explanations_of_run(run)
    return Explanations(typed, typed + computed, _template_numbers(template))


def _is_accuracy(name):
    """Whether a claim of this name is an accuracy of a whole network."""
    return bool(re.search(r"(^|/|test_)accuracy(_with_tta)?$", name))


def _explanations_of_claim(name, claim):
    """What a claim explains, a list of Explanation."""
    if not claim.is_number:
        return []
    if _is_accuracy(name):
        return [
            Explanation(claim.value),
            Explanation(claim.value / 100, is_share=False),
            Explanation(100 - claim.value, MISTAKES),
        ]
    start, _, rest = name.partition("/")
    if start == "class_accuracy":
        words = rf"\b{re.escape(rest)}(s|es)?\b|\bclass(es)?\b"
        return [Explanation(claim.value, words)]
    if name.endswith(("_interval", "deviation")):
        return [Explanation(claim.value, INTERVAL)]
    if start == "published":
        return [Explanation(claim.value, PUBLISHED)]
    if name == "most_confused_share":
        return [Explanation(claim.value, MISTAKES)]
    if name.endswith(("gain", "change", "change_from_control")):
        return [Explanation(abs(claim.value), DIFFERENCE), Explanation(claim.value, is_share=False)]
    is_share = claim.unit == "%"
    return [Explanation(claim.value, is_share=is_share)]


def _explanations_of_run(run):
    """What a run's record explains: settings and the training accuracy, named as such."""
    found = [Explanation(run.history.train_accuracy.iloc[-1], TRAINING)]
    for name, value in run.record.config.settings.items():
        if name in RECIPE_TYPES and is_number(value):  # a record may have more, which means nothing
            words = "|".join(re.findall(r"[a-z]{4,}", name))
            found += [Explanation(value, words or name), Explanation(100 * value, words or name)]
    return found


def _cited_numbers(bibliography, notebook):
    """Explanation of each number in an entry of a BibTeX file that a sentence cites."""
    sources = "\n".join(cell.source for cell in notebook.cells)
    citations = {}  # key -> what the sentences say for it
    for text, key in re.findall(r"\[([^][\n]{1,80})\]\(#ref-([\w:.-]{1,60})\)", sources):
        citations.setdefault(key, set()).add(" ".join(text.split()))
    found = []
    for entry in re.split(r"\n[ \t]*@\w+[ \t]*\{", "\n" + bibliography):
        texts = citations.get(entry.partition(",")[0].strip())
        if texts:
            words = "|".join(map(re.escape, sorted(texts)))
            found += [
                Explanation(number.value, words, is_cited=True) for number in find_numbers(entry)
            ]
    return found


def _template_numbers(template):
    """The numbers in the template's texts and code, each between the words beside it."""
    found = set()
    for cell in template.cells:
        # what is handed in is read by sentences, too: no word follows on the last number of one
        for sentence in sentences(cell.source.replace('"\n', " ")):
            found.update(context for _, context in _numbers_in_context(sentence))
    return found


# ------------------------------------------------------------------------------------ the numbers


def sentences(text):
    """The sentences of a text, a list of strings; "et al." ends none."""
    return re.split(r"(?<=[.!?])(?<!\bal\.)(?<!\bFig\.)\s+(?=\S)", _plain(text))


def _numbers_in_context(text):
    """Yield each number of a text, a PaperNumber, with (word before, number, word after)."""
    text = _plain(text)
    for match in NUMBER.finditer(text):
        before = re.findall(r"\w+|±", text[max(match.start() - 40, 0) : match.start()])
        after = re.findall(r"\w+", text[match.end() : match.end() + 40])
        for number in find_numbers(match[0].strip()):  # one at most
            context = (*before[-1:], number.written, *after[:1])
            yield number, context


def _spoken_numbers(sentence):
    """Shares in a sentence that are written in words, or as a count: a list of PaperNumber.

    "ninety-six per cent", "ninety-six are right", "96 of a hundred", "nine out of ten".
    """
    found = []
    text = sentence.lower()
    for match in SPOKEN.finditer(text):
        value = SPOKEN_TENS.get(match["tens"], 0) + SPOKEN_UNITS.get(match["units"], 0)
        value += SPOKEN_UNITS.get(match["alone"], 0)
        decimals = re.findall("[a-z]+", (match["decimals"] or "").removeprefix(" point"))
        digits = "".join(str(SPOKEN_UNITS[name]) for name in decimals)
        value += float(f"0.{digits or 0}")
        is_share = bool(match["share"])
        if is_share or (match["tens"] and value >= 50 and RESULT.search(text)):
            found.append(PaperNumber(match[0].strip(), value, len(digits), True))
    for match in COUNT.finditer(text):
        whole = WHOLES.get(match["whole"].replace(",", ""))
        digits = match["part"].replace(",", "")
        part = SPOKEN_UNITS.get(digits)
        if digits.isdigit():
            part = int(digits)
        if not whole or part is None or part > whole or not RESULT.search(text):
            continue
        decimals = max(len(str(whole)) - 3, 0)  # of the share in per cent: 1 of 10,000 is 0.01 %
        found.append(PaperNumber(match[0].strip(), 100 * part / whole, decimals, True))
    return found


def check_numbers_in_paper(texts, explanations, claims):
    """Findings on numbers in the paper that nothing explains, and on pictures.

    In outputs of cells only shares in per cent need an explanation, in figures also what may be an
    accuracy, in text typed by hand also numbers with decimals and large ones. Those that do not
    read like a result, and pictures, are noted.

    Args:
        texts: all that the paper says, a list of sandbox_tasks.PaperText.
        explanations: an Explanations.
        claims: name -> Claim; the test accuracy among them has to be in the paper.
    """
    unexplained = {}
    values = []
    pictures = []
    for text in texts:
        if text.kind == "picture":
            pictures.append(text.cell)
        values += [number.value for number in find_numbers(text.content) if number.decimals == 2]
        for written, verdict in _unexplained(text.content, text.kind, explanations, claims):
            unexplained.setdefault((text.cell, verdict), []).append(written)
    findings = _missing_accuracy(claims, values)
    for (cell, verdict), written in unexplained.items():
        message = (
            f"{cell} says {', '.join(dict.fromkeys(written))}, which is no claim, citation or "
            "number of the template that belongs there"
        )
        if verdict == "noted":
            message += "; it does not read like a result"
        findings.append(Finding("paper", verdict, message))
    for cell in dict.fromkeys(pictures):
        message = f"{cell} shows a picture that no program here can read: see if it says a result"
        findings.append(Finding("paper", "noted", message))
    return findings


def _unexplained(text, kind, explanations, claims):
    """The numbers of a text, as they are written, that nothing explains, each with its verdict."""
    known = explanations.typed if kind == "typed" else explanations.computed
    parts = [_plain(text)]
    if kind in ("typed", "computed"):
        parts = sentences(text)
    for part in parts:
        numbers = list(_numbers_in_context(part))
        if kind != "figure":
            numbers += [(number, ()) for number in _spoken_numbers(part)]
        for number, context in numbers:
            if not _needs_explanation(number, kind):
                continue
            if context in explanations.template or _is_level(number, part):
                continue
            if kind == "figure" and _is_tick(number, numbers):
                continue
            if not _is_explained(number, known, part):
                yield number.written, _verdict_on(number, part, kind, claims)


def _verdict_on(number, sentence, kind, claims):
    """The verdict on a number that nothing explains: "noted" unless it may be read as a result.

    A share in per cent above the accuracy claimed may be, and so may numbers in a sentence that
    speaks of results, and in a table.
    """
    accuracy = claims.get("test_accuracy")
    highest = accuracy.value if accuracy and accuracy.is_number else 0
    is_result = RESULT.search(unicodedata.normalize("NFKC", sentence))
    is_high = number.is_percent and number.value > highest
    if kind in ("computed", "figure") or is_result or is_high:
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
    known = [explanation.value for explanation in explanations.computed]
    for source in (all_text(notebook), here):
        known += [number.value for number in find_numbers(source)]
    numbers = [
        number for number in find_numbers(text) if number.is_percent or number.decimals >= 2
    ]
    foreign = [number.written for number in numbers if not any(map(number.may_be, known))]
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
    if kind == "names":
        return False
    if number.is_percent:
        return True
    if kind == "figure":
        return number.decimals >= 2 and 50 <= number.value <= 100
    if kind != "typed" or (number.decimals == 0 and number.value < LARGE):
        return False
    is_year = number.decimals == 0 and 1900 <= number.value <= 2100 and "," not in number.written
    return not is_year


def _is_level(number, sentence):
    """Whether a number is the level of a confidence interval."""
    return number.value in (90, 95, 99) and bool(
        re.search(rf"{number.value:.0f}\s*(%|per ?cent)\s+(confidence|interval|CI\b)", sentence)
    )


def _is_tick(number, numbers):
    """Whether a whole share in a figure is a tick of an axis: two more are as far apart."""
    values = {other.value for other, _ in numbers if other.is_percent and not other.decimals}
    steps = {abs(value - number.value) for value in values} - {0}
    return any(
        {number.value + step, number.value + 2 * step} <= values
        or {number.value - step, number.value + step} <= values
        or {number.value - step, number.value - 2 * step} <= values
        for step in steps
    )


def _is_explained(number, known, sentence):
    """Whether one of the known Explanations belongs to a number and its sentence or row."""
    for explanation in known:
        if not number.may_be(abs(explanation.value)):
            continue
        if number.is_percent and not explanation.is_share:
            continue
        if not explanation.words or re.search(explanation.words, sentence, re.IGNORECASE):
            return True
    return False


def check_pages(pages, texts, explanations):
    """Findings on shares on the pages of the notebook's paper that are in none of its texts.

    They were put together by a formula, so that the text has other digits than the page.

    Args:
        pages: the text of each page.
        texts: all that the paper says, a list of sandbox_tasks.PaperText.
        explanations: an Explanations.
    """
    known = {number.value for text in texts for number in find_numbers(text.content)}
    known |= {explanation.value for explanation in explanations.typed if explanation.is_cited}
    findings = []
    for page, text in enumerate(pages, 1):
        written = [
            number.written
            for number in find_numbers(text.replace("\n\n", " | "))
            if number.value not in known
            and (number.is_percent or (number.decimals and 50 <= number.value <= 100))
        ]
        if written:
            message = (
                f"page {page} says {', '.join(dict.fromkeys(written))}, but no text of the "
                "notebook does: a formula may have put it together"
            )
            findings.append(Finding("paper", "unverified", message))
    return findings


def _missing_accuracy(claims, values):
    """A list with a finding if the test accuracy claimed is not among values of two decimals."""
    if "test_accuracy" not in claims:
        return []
    claim = claims["test_accuracy"]
    if claim.is_number and any(abs(value - claim.value) < 0.00501 for value in values):
        return []
    message = f"the paper does not say the accuracy claimed, {claim.value}"
    return [Finding("paper", "contradicted", message)]
