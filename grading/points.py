"""Points for a verdict, as the policy's table [points] says; each point lost names its finding."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from grading.findings import CODES
from grading.policy import FAULT_CHECKS, is_number

GOOD, CONTRADICTED = 0, 1  # of CODES; whatever is neither could not be checked
MOST_REASONS = 5
CONTRADICTIONS = "contradictions"  # the name of the Award for what they cost


@dataclass(frozen=True)
class Award:
    """What an item gives: points, points that a person still decides, and the reason for losses.

    Each line of `reason` is one.
    """

    name: str
    points: float
    open: float
    maximum: float
    reason: str = ""

    @property
    def short_reason(self):
        """The reason in one line."""
        return " | ".join(self.reason.splitlines())


def award_points(points, findings):
    """An Award for each item, and one for contradictions if there are any that cost something.

    Args:
        points: the policy's Points.
        findings: objects with claim, verdict, message and found (the value that was computed, or
            None).
    """
    awards = [award_item(item, findings, points.unverified) for item in points.item]
    contradicted = [row for row in findings if CODES[row.verdict] == CONTRADICTED]
    rule = points.contradiction
    cost = min(rule.each * len(contradicted), rule.most, sum(award.points for award in awards))
    if cost:
        reason = (
            f"each contradicted check costs {rule.each:g} points, at most {rule.most:g} in "
            f"all; here: {len(contradicted)}\nthe first: {contradicted[0].message}"
        )
        awards.append(Award(CONTRADICTIONS, round(-cost, 2), 0.0, 0.0, reason))
    return awards


def total_points(awards):
    """The points that a list of Award gives together; deductions leave at least none."""
    return round(max(0.0, sum(award.points for award in awards)), 2)


def award_item(item, findings, unverified):
    """The Award for one PointItem; `unverified` is the policy's rule for what was not checked."""
    if item.by_hand:
        return Award(item.name, 0.0, item.points, item.points, "a person decides")
    claims, missing = _findings_by_claim(item.claims, findings)
    if item.ramp and not missing:
        return _award_ramp(item, claims, unverified)
    lost = []
    unchecked = []
    for found in claims.values():
        bad = [row for row in found if CODES[row.verdict] != GOOD]
        contradicted = [row for row in bad if CODES[row.verdict] == CONTRADICTED]
        if contradicted:
            lost.append(contradicted[0].message)
        elif bad:
            unchecked.append(bad[0].message)
    excuse = _why_nothing_was_checked(findings)
    for pattern in missing:
        if excuse:
            unchecked.append(excuse)
        else:
            lost.append(f"results.json has no claim {pattern}")
    share = item.points / max(len(claims) + len(missing), 1)
    return _settle(item, share * len(lost), share * len(unchecked), [*lost, *unchecked], unverified)


def _findings_by_claim(patterns, findings):
    """Findings by the name of their claim, and the patterns that should have some and have none.

    Checks that speak of faults alone may have none.
    """
    claims = {}
    missing = []
    for pattern in patterns:
        fitting = [row for row in findings if fnmatchcase(row.claim, pattern)]
        for row in fitting:
            claims.setdefault(row.claim, []).append(row)
        is_check = any(fnmatchcase(name, pattern) for name in FAULT_CHECKS)
        if not fitting and not is_check:
            missing.append(pattern)
    return claims, missing


def _why_nothing_was_checked(findings):
    """The message of a finding that explains why a claim has no finding, "" if none does."""
    for row in findings:
        if row.claim in ("submission", "claims") and CODES[row.verdict] != CONTRADICTED:
            return row.message
    return ""


def _award_ramp(item, claims, unverified):
    """The Award for an item whose points depend on the value of its first claim.

    The item is lost if another of its claims and checks, such as that of the weights, is
    contradicted.
    """
    low, high = item.ramp
    name = item.claims[0]
    rows = [row for found in claims.values() for row in found]
    faults = []  # of what the value rests on; a value claimed wrongly counts as computed
    for row in rows:
        if CODES[row.verdict] == CONTRADICTED and not fnmatchcase(row.claim, name):
            faults.append(row.message)
    if faults:
        return _settle(item, item.points, 0.0, faults, unverified)
    unchecked = [row.message for row in rows if CODES[row.verdict] not in (GOOD, CONTRADICTED)]
    values = [row.found for row in rows if fnmatchcase(row.claim, name) and is_number(row.found)]
    if unchecked or not values:
        reasons = unchecked or [f"{name} could not be computed"]
        return _settle(item, 0.0, item.points, reasons, unverified)
    value = min(values)
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    reasons = []
    if share < 1:
        reasons.append(f"{name} is {value:.2f}: all points from {high:g} on, none up to {low:g}")
    return _settle(item, item.points * (1 - share), 0.0, reasons, unverified)


def _settle(item, lost, unchecked, reasons, unverified):
    """The Award for an item of which `lost` points are lost and `unchecked` undecided."""
    given = item.points - lost - unchecked
    still_open = 0.0
    if unverified == "open":
        still_open = unchecked
    elif unverified == "given":
        given += unchecked
    shown = list(dict.fromkeys(reasons))
    if len(shown) > MOST_REASONS:
        shown = [*shown[:MOST_REASONS], f"and {len(shown) - MOST_REASONS} more"]
    reason = "\n".join(shown)
    return Award(item.name, round(given, 2), round(still_open, 2), item.points, reason)
