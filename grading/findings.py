"""Findings and the verdict: what the checks of a submission have found.

A finding has one of six verdicts:

verified      computed here, and equal within the policy's tolerance
recorded      agrees with the records of the runs, which are not computed again here
noted         an honest difference, or something to read: it counts for nothing
contradicted  a value that is not what weights, records or data give, or files made to look so
unverified    could not be checked here
implausible   possible, but a reason to ask the student: no proof of anything
"""
from dataclasses import dataclass, field

# How a finding counts for the exit code: 0 verified, 1 contradicted, 2 not verifiable.
CODES = {
    "verified": 0,
    "recorded": 0,
    "noted": 0,
    "contradicted": 1,
    "unverified": 2,
    "implausible": 2,
}


@dataclass
class Measurement:
    """A value that a check has computed, and what it was computed from.

    `other_images` says that the accuracy was measured on other test images than the run's own.
    """

    claim: str
    value: object
    source: str
    other_images: bool = False

    @property
    def origin(self):
        """The source as messages and reports name it."""
        if self.other_images:
            return f"{self.source}, on other images than its own"
        return self.source


@dataclass
class Finding:
    """One line of the verdict.

    Attributes:
        claim: the name of a claim, or what else was checked: "files", "data", "run <name>".
        verdict: a key of CODES.
        message: a sentence.
        claimed: the value claimed; None for findings that compare no values.
        found: the value computed.
        tolerance: how far both may differ.
        source: what the value was computed from, or what was compared.
        other_images: whether it was computed on other test images than the run's own.
    """

    claim: str
    verdict: str
    message: str
    claimed: object = None
    found: object = None
    tolerance: float | None = None
    source: str = ""
    other_images: bool = False


@dataclass
class Verdict:
    """What is known of a submission after all checks.

    Attributes:
        name: the archive's name.
        findings: a list of Finding, in the order in which a grader wants to read them.
        claimed: the test accuracy claimed, in per cent.
        measured: the test accuracy of the weights or, without them, of the stored predictions.
        measured_by: what it was measured with.
        differences: lines that say what differs from the template.
        authors: the Authors that the notebook states, see grading/roster.py.
        work: what is compared with other submissions, a similarity.Work, or None.
        first_page: the first page of the paper handed in, a PNG.
    """

    name: str
    findings: list[Finding] = field(default_factory=list)
    claimed: float | None = None
    measured: float | None = None
    measured_by: str = ""
    differences: list[str] = field(default_factory=list)
    authors: list = field(default_factory=list)
    work: object = None
    first_page: bytes = b""

    @property
    def code(self):
        """0 verified, 1 contradicted, 2 not verifiable; also 2 if nothing was checked."""
        codes = {CODES[finding.verdict] for finding in self.findings}
        if 1 in codes:
            return 1
        return max(codes, default=2)

    @property
    def reason(self):
        """The first reason for the exit code, in one sentence."""
        if not self.findings:
            return "nothing was checked"
        for finding in self.findings:
            if self.code and CODES[finding.verdict] == self.code:
                return finding.message
        return "all checks passed"


def format_value(value):
    """A value as messages show it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def join_names(names, most=8):
    """The first of some names, and how many follow."""
    text = ", ".join(names[:most])
    if len(names) > most:
        text += f" and {len(names) - most} more"
    return text
