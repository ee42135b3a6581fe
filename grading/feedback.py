"""The page that a student gets back: accuracies, points with reasons, and what to do about them."""

import functools
from pathlib import Path

import jinja2

from grading.points import total_points

# Heading of each kind of finding, and what a student can do about it.
GROUPS = {
    "contradicted": (
        "What is contradicted",
        "Run make submission, which runs the notebook and builds the paper from it, and hand in "
        "what make zip then packs. If a number is right all the same, tell your teacher which.",
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
    "noted": ("What was noted", "None of this counts against you."),
}
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
    for kind, (heading, advice) in GROUPS.items():
        messages = [finding.message for finding in verdict.findings if finding.verdict == kind]
        if len(messages) > MOST_MESSAGES:
            messages = [*messages[:MOST_MESSAGES], f"and {len(messages) - MOST_MESSAGES} more"]
        if messages:
            groups.append((heading, messages, advice))
    verdicts = [finding.verdict for finding in verdict.findings]
    passed = verdicts.count("verified") + verdicts.count("recorded")
    checks = len(verdicts) - verdicts.count("noted")
    return page_template("feedback.html.j2").render(
        title=title,
        note=note,
        summary=f"{passed} of {checks} checks passed. Result: {verdict.reason}.",
        claimed=percent(verdict.claimed),
        measured=percent(verdict.measured),
        measured_by=verdict.measured_by,
        late=late,
        digest=digest,
        awards=list(awards),
        points=total_points(awards),
        still_open=sum(award.open for award in awards),
        maximum=sum(award.maximum for award in awards),
        groups=groups,
        differences=verdict.differences,
        first_page=verdict.first_page,
    )
