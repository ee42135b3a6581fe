"""Points for a verdict, as the policy's table [points] says; each point lost names its finding."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tools.errors import SubmissionError

TOTAL = 100
UNVERIFIED = ("open", "lost", "given")
GOOD = ("holds", "recorded", "noted")


class PointsError(SubmissionError):
    """The policy's table [points] is wrong: one sentence names the entry and the remedy."""


@dataclass(frozen=True)
class Item:
    """What points are given for.

    `claims` are patterns of the claims or checks that have to hold. With `ramp`, two values, the
    value found decides: no points at the first one, all at the second. `by_hand`: a person decides.
    """

    name: str
    points: float
    claims: tuple = ()
    ramp: tuple | None = None
    by_hand: bool = False


@dataclass(frozen=True)
class Scheme:
    """The policy's table of points: its items, and what happens to what could not be checked.

    `unverified` is "open" (a person decides), "lost" or "given"; `contradiction` are points lost
    for each contradicted finding, beyond those of its item.
    """

    items: tuple
    unverified: str = "open"
    contradiction: float = 0.0


@dataclass(frozen=True)
class Award:
    """What an item gives: points, points that a person still decides, and the reason for losses."""

    name: str
    points: float
    open: float
    maximum: float
    reason: str = ""


def read_scheme(table, known):
    """Return the Scheme in the policy's table [points].

    `known` are the names of all claims and checks that a verdict can have. Raises PointsError for
    an unknown key, a value of another type, items that do not sum to 100, and a pattern that fits
    no known name.
    """
    check_keys(table, ("item", "unverified", "contradiction"), "[points]")
    entries = table.get("item")
    if not isinstance(entries, list) or not entries:
        raise PointsError("[points] has no [[points.item]]: add at least one")
    items = tuple(read_item(entry, number, known) for number, entry in enumerate(entries, 1))
    names = [item.name for item in items]
    for name in names:
        if names.count(name) > 1:
            raise PointsError(f"[points] has two items named {name!r}: rename one")
    total = sum(item.points for item in items)
    if abs(total - TOTAL) > 1e-9:
        raise PointsError(f"the items of [points] sum to {total:g} points, not {TOTAL}")
    unverified = table.get("unverified", "open")
    if unverified not in UNVERIFIED:
        options = ", ".join(UNVERIFIED)
        raise PointsError(f"[points] has unverified = {unverified!r}; it is one of {options}")
    cost = number_of(table.get("contradiction", 0), "contradiction in [points]")
    return Scheme(items, unverified, cost)


def read_item(entry, number, known):
    """Return the Item in an entry of the policy, the `number`-th one."""
    place = f"item {number} of [points]"
    if not isinstance(entry, dict):
        raise PointsError(f"{place} is no table: write [[points.item]] above it")
    check_keys(entry, ("name", "points", "claims", "ramp", "by_hand"), place)
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise PointsError(f'{place} has no name: add name = "…"')
    place = f"{place} ({name})"
    if "points" not in entry:
        raise PointsError(f"{place} has no points: add points = …")
    points = number_of(entry["points"], f"points of {place}")
    if entry.get("by_hand") is True:
        if "claims" in entry or "ramp" in entry:
            raise PointsError(f"{place} is given by hand and has claims or a ramp: remove either")
        return Item(name, points, by_hand=True)
    claims = read_patterns(entry.get("claims"), place, known)
    return Item(name, points, claims, read_ramp(entry, claims, place))


def read_patterns(claims, place, known):
    """Return the patterns of an item as a tuple, each of which fits a known name."""
    if not isinstance(claims, list) or not claims or not all(isinstance(c, str) for c in claims):
        raise PointsError(f'{place} needs claims = ["…"], or by_hand = true')
    for pattern in claims:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise PointsError(f"{place}: no claim and no check is named {pattern!r}: correct it")
    return tuple(claims)


def read_ramp(entry, claims, place):
    """Return the two values of a ramp, or None."""
    if "ramp" not in entry:
        return None
    ramp = entry["ramp"]
    if not isinstance(ramp, list) or len(ramp) != 2:
        raise PointsError(f"{place}: ramp is two numbers, as in ramp = [70, 82]")
    low, high = (number_of(value, f"ramp of {place}") for value in ramp)
    if low >= high:
        raise PointsError(f"{place}: the first value of ramp has to be below the second")
    if len(claims) != 1:
        raise PointsError(f"{place}: a ramp needs exactly one claim")
    return low, high


def check_keys(table, allowed, place):
    """Raise PointsError for a key that the policy does not have there."""
    for key in table:
        if key not in allowed:
            raise PointsError(f"{place} has the key {key!r}; its keys are {', '.join(allowed)}")


def number_of(value, what):
    """Return a number of the policy as a float; PointsError where it is none, or negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise PointsError(f"{what} is {value!r}; it has to be a number, zero or more")
    return float(value)


# ------------------------------------------------------------------------------------------ giving


def award_points(scheme, findings):
    """Return an Award for each item of the Scheme, and one for contradictions where these cost.

    `findings` have claim, verdict, message and found (the value that the grader's copy found, or
    None).
    """
    awards = [award_item(item, findings, scheme.unverified) for item in scheme.items]
    contradicted = [finding for finding in findings if finding.verdict == "contradicted"]
    if scheme.contradiction and contradicted:
        given = sum(award.points for award in awards)
        cost = min(given, scheme.contradiction * len(contradicted))
        reason = f"{len(contradicted)} × {scheme.contradiction:g}: {contradicted[0].message}"
        awards.append(Award("contradictions", -cost, 0.0, 0.0, reason))
    return awards


def award_item(item, findings, unverified):
    """Return the Award for one item."""
    if item.by_hand:
        return Award(item.name, 0.0, item.points, item.points, "a person decides")
    found = []
    for pattern in item.claims:
        fitting = [finding for finding in findings if fnmatchcase(finding.claim, pattern)]
        if not fitting:
            return Award(item.name, 0.0, 0.0, item.points, f"{pattern} is not claimed")
        found += fitting
    if item.ramp:
        return award_ramp(item, found, unverified)
    share = item.points / len(found)
    lost = []
    unchecked = []
    for finding in found:
        if finding.verdict == "contradicted":
            lost.append(finding.message)
        elif finding.verdict not in GOOD:
            unchecked.append(finding.message)
    return settle(item, share * len(lost), share * len(unchecked), [*lost, *unchecked], unverified)


def award_ramp(item, findings, unverified):
    """Return the Award for an item whose points depend on a value."""
    low, high = item.ramp
    values = [finding.found for finding in findings if isinstance(finding.found, int | float)]
    if not values:
        reason = f"{item.claims[0]} could not be checked"
        return settle(item, 0.0, item.points, [reason], unverified)
    value = min(values)
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    reasons = []
    if share < 1:
        bounds = f"all points from {high:g}, none at {low:g}"
        reasons.append(f"{item.claims[0]} is {value:.2f}; {bounds}")
    return settle(item, item.points * (1 - share), 0.0, reasons, unverified)


def settle(item, lost, unchecked, reasons, unverified):
    """Return the Award for an item of which `lost` points are lost and `unchecked` undecided."""
    given = item.points - lost - unchecked
    still_open = 0.0
    if unverified == "open":
        still_open = unchecked
    elif unverified == "given":
        given += unchecked
    return Award(
        item.name, round(given, 2), round(still_open, 2), item.points, "; ".join(reasons[:5])
    )
