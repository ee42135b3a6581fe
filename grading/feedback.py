"""The page that a student gets back: accuracies, points with reasons, and what to do about them."""

from pathlib import Path

import jinja2

# Heading of each kind of finding, and what a student can do about it.
GROUPS = {
    "contradicted": (
        "What does not hold",
        "Run make submission, which runs the notebook and builds the paper from it, and hand in "
        "what make zip then packs. If you think that a number holds, tell your teacher which one.",
    ),
    "unverified": (
        "What could not be checked",
        "Hand in the weights with your archive: make zip packs them unless WEIGHTS=0 is set.",
    ),
    "implausible": (
        "What your teacher may ask you about",
        "This is no accusation. Think of how you would explain it.",
    ),
    "noted": ("What was noted", "Nothing of this counts against you."),
}
MOST_MESSAGES = 20


def percent(value):
    """An accuracy as the page shows it."""
    if value is None:
        return "–"
    return f"{value:.2f} %"


def feedback_page(name, verdict, awards=(), late=None, digest=""):
    """Return one self-contained page of HTML; all text is escaped.

    `name` is the student's, or the archive's where nobody was matched. `verdict` has code, reason,
    findings, claimed, measured, differences and first_page (a PNG in base 64). `awards` are the
    Awards of grading.points, `digest` the archive's SHA-256.
    """
    groups = []
    for kind, (heading, advice) in GROUPS.items():
        messages = [finding.message for finding in verdict.findings if finding.verdict == kind]
        if len(messages) > MOST_MESSAGES:
            messages = [*messages[:MOST_MESSAGES], f"and {len(messages) - MOST_MESSAGES} more"]
        if messages:
            groups.append((heading, messages, advice))
    held = sum(finding.verdict in ("holds", "recorded") for finding in verdict.findings)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("feedback.html.j2").render(
        title=f"Feedback: {name}",
        summary=f"{held} of {len(verdict.findings)} checks hold. Result: {verdict.reason}.",
        claimed=percent(verdict.claimed),
        measured=percent(verdict.measured),
        late=late,
        digest=digest,
        awards=list(awards),
        points=sum(award.points for award in awards),
        still_open=sum(award.open for award in awards),
        maximum=sum(award.maximum for award in awards),
        groups=groups,
        differences=verdict.differences[:200],
        first_page=verdict.first_page,
    )
