"""The page that a student gets back: accuracies, points with reasons, and what to do about them."""

import functools
from pathlib import Path

import jinja2

from grading.findings import CODES

# Heading of each kind of finding, and what a student can do about it.
GROUPS = {
    "contradicted": (
        "What does not hold",
        "Run make submission, which runs the notebook and builds the paper from it, and hand in "
        "what make zip then packs. If you think that a number holds, tell your teacher which one.",
    ),
    "unverified": (
        "What could not be checked",
        "This is no fault by itself; your teacher decides. If weights are missing, hand in what "
        "make zip packs without WEIGHTS=0.",
    ),
    "implausible": (
        "What your teacher may ask you about",
        "This is no accusation. Think of how you would explain it.",
    ),
    "noted": ("What was noted", "Nothing of this counts against you."),
}
OTHER = ("What is different", "These differences are no fault.")  # of kinds that count as good
MOST_MESSAGES = 20


@functools.cache
def page_template(name):
    """The template of a page of HTML, a file beside this one; what it shows is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def percent(value):
    """An accuracy as the page shows it."""
    if value is None:
        return "–"
    return f"{value:.2f} %"


def feedback_page(title, verdict, awards=(), late=None, digest="", note=""):
    """One self-contained page of HTML, as text; what it shows is escaped.

    Args:
        title: the page's title.
        verdict: an object with reason, findings, claimed, measured, measured_by, differences and
            first_page (a PNG in base 64).
        awards: a list of Award.
        late: whether it was handed in late, None if that is not known.
        digest: SHA-256 of the archive, "" to leave it out.
        note: a sentence below the title, or "".
    """
    groups = []
    others = [kind for kind in CODES if kind not in (*GROUPS, "holds", "recorded")]
    for kind, (heading, advice) in (GROUPS | dict.fromkeys(others, OTHER)).items():
        messages = [finding.message for finding in verdict.findings if finding.verdict == kind]
        if len(messages) > MOST_MESSAGES:
            messages = [*messages[:MOST_MESSAGES], f"and {len(messages) - MOST_MESSAGES} more"]
        if messages:
            groups.append((heading, messages, advice))
    held = sum(CODES[finding.verdict] == 0 for finding in verdict.findings)
    return page_template("feedback.html.j2").render(
        title=title,
        note=note,
        summary=f"{held} of {len(verdict.findings)} checks hold. Result: {verdict.reason}.",
        claimed=percent(verdict.claimed),
        measured=percent(verdict.measured),
        measured_by=verdict.measured_by,
        late=late,
        digest=digest,
        awards=list(awards),
        points=sum(award.points for award in awards),
        still_open=sum(award.open for award in awards),
        maximum=sum(award.maximum for award in awards),
        groups=groups,
        differences=verdict.differences,
        first_page=verdict.first_page,
    )
