"""Compares the claims of results.json with weights, stored predictions and records of the runs.

A forged accuracy, interval or conclusion is caught here, and so is a missing claim that the policy
requires.
"""
from dataclasses import dataclass

from analysis import image_losses, run_statistics
from grading.findings import Finding, Measurement, format_value, join_names
from grading.policy import EXACT, Tolerance, is_number
from grading.schema import Place, SchemaError, read_dataclass
from report.freshness import record
from tools.errors import SubmissionError

MAX_CLAIMS = 2_000
MAX_VALUE_LENGTH = 60
MAX_NAME_LENGTH = 100
# Claims that are compared on other images than the official ones; the rest are of few images each.
ON_OTHER_IMAGES = ("/accuracy", "with_tta", "test_accuracy")


@dataclass
class Claim:
    """What results.json claims: a value, its unit and its source, a cell or a run.

    `condition` is that of a conclusion, "<claim> < <number>" or ">", else "".
    """

    value: object  # int, float, str or bool
    unit: str = ""
    source: str = ""
    condition: str = ""

    @classmethod
    def from_content(cls, content, place):
        """The Claim in an entry of results.json. Raises SchemaError."""
        claim = read_dataclass(cls, content, place)
        allowed = type(claim.value) in (int, float, str, bool)
        if not allowed or len(str(claim.value)) > MAX_VALUE_LENGTH:
            raise SchemaError(f"{place} has no value, or a value that is too long")
        return claim

    @property
    def is_number(self):
        """Whether the value is a number; true and false are not."""
        return is_number(self.value)


def read_claims(results, policy):
    """The well-formed claims, name -> Claim, and findings on the others.

    Args:
        results: the content of results.json.
        policy: a Policy.
    """
    entries = None
    if isinstance(results, dict):
        entries = results.get("claims")
    ledger = policy.files.ledger
    if not isinstance(entries, dict) or len(entries) > MAX_CLAIMS:
        message = f"{ledger} has no claims, or more than {MAX_CLAIMS:,}"
        return {}, [Finding("claims", "contradicted", message)]
    claims = {}
    findings = []
    place = Place(ledger, ("claims",))
    for name, entry in entries.items():
        try:
            if len(name) > MAX_NAME_LENGTH:
                raise SchemaError(f"{place.inside(name)} has too long a name")
            claims[name] = Claim.from_content(entry, place.inside(name))
        except SchemaError as error:
            findings.append(Finding(name[:60], "contradicted", str(error)))
    return claims, findings


def check_claims(claims, measurements, policy):
    """Findings on claims compared with what was computed here, within the policy's tolerances.

    Args:
        claims: name -> Claim.
        measurements: a list of Measurement; one without a claim is a finding if the policy
            requires the claim.
        policy: a Policy.
    """
    findings = []
    for measured in measurements:
        name = measured.claim
        if name not in claims:
            findings += _missing_claim(measured, policy)
            continue
        if measured.other_images and not name.endswith(ON_OTHER_IMAGES):
            continue
        tolerance = policy.verify_tolerance(name)
        if measured.other_images:
            tolerance = Tolerance(tolerance.kind, max(tolerance.limit, policy.images.other))
        findings.append(compare(claims[name], measured, tolerance, "verified"))
    return findings


def check_recorded_claims(claims, measurements, policy):
    """Findings on claims that have to be exactly what the records of the runs say."""
    findings = []
    for measured in measurements:
        name = measured.claim
        if name in claims:
            findings.append(compare(claims[name], measured, EXACT, "recorded"))
        else:
            findings += _missing_claim(measured, policy)
    return findings


def compare(claim, measured, tolerance, verdict):
    """The Finding on a Claim and a Measurement: `verdict` if both agree, else "contradicted".

    A claim that is true and above a bound of the policy is "unverified": a person decides.
    """
    message = (
        f"the paper claims {measured.claim} = {format_value(claim.value)}; "
        f"{measured.origin} give {format_value(measured.value)}"
    )
    if not tolerance.agrees(measured.value, claim.value):
        verdict = "contradicted"
        if tolerance.kind == "bound" and EXACT.agrees(measured.value, claim.value):
            verdict = "unverified"
            message += f"; the policy expects at most {tolerance.limit:g}: a person decides"
    return Finding(
        measured.claim,
        verdict,
        message,
        claimed=claim.value,
        found=measured.value,
        tolerance=tolerance.limit,
        source=measured.source,
        other_images=measured.other_images,
    )


def _missing_claim(measured, policy):
    """A list with the finding that a required claim is missing, or an empty one."""
    if not policy.requires(measured.claim):
        return []
    value = format_value(measured.value)
    message = f"the claim {measured.claim} is missing; its value here is {value}"
    return [Finding(measured.claim, "contradicted", message, found=measured.value)]


def check_conclusions(claims, policy):
    """Findings on conclusions: that a claim's 95 % interval lies above or below a number.

    A conclusion is a claim `conclusion/<text>` whose condition is "<claim> < <number>" or ">".

    Args:
        claims: name -> Claim.
        policy: a Policy.
    """
    values = {name: claim.value for name, claim in claims.items()}
    findings = []
    for name, claim in claims.items():
        if not name.startswith("conclusion/"):
            continue
        follows = claim.value is True and _follows(claim.condition, values)
        verdict = "verified"
        message = f"{name}: {claim.condition[:200]}"
        if not claim.condition:
            verdict = "contradicted"
            message = f"{name} states no condition: run the notebook again"
        elif not follows:
            verdict = "contradicted"
            message += " does not hold"
        findings.append(
            Finding(
                name,
                verdict,
                message,
                claimed=claim.value,
                found=follows,
                tolerance=0,
                source=f"the claims of {policy.files.ledger}",
            )
        )
    return findings


def _follows(condition, values):
    """Whether "<claim> < <number>" or ">" follows from values, a dict by claim, and intervals."""
    parts = condition.split()
    if len(parts) != 3:
        return False
    name, comparison, bound = parts
    needed = (values.get(name), values.get(f"{name}_interval"))
    if comparison not in ("<", ">") or not all(isinstance(value, int | float) for value in needed):
        return False
    try:
        return run_statistics.interval_supports(values, name, comparison, float(bound))
    except ValueError:  # the bound is no number
        return False


def runs_with_claims(names, notebook, claims, policy):
    """Those of some runs that a claim or the notebook's record names, and findings on the others.

    Runs left in an archive on which nothing rests, such as the template's, are not checked.
    Without claims, or for a document without required ones, all runs are.
    """
    if not claims or not policy.required:
        return names, []
    recorded = {name.split("/")[1] for name in record(notebook).get("files", {}) if "/" in name}
    used = {claim.source for claim in claims.values()}
    used |= {name.partition("/")[0] for name in claims} | recorded
    unused = [name for name in names if name not in used]
    if not unused:
        return names, []
    message = (
        f"no claim rests on the runs {join_names(unused)} in the archive: they were not checked"
    )
    used_names = [name for name in names if name in used]
    return used_names, [Finding("runs", "noted", message)]


# ---------------------------------------------------------------------- values from the records


def published_measurements():
    """Measurements of what published reports say, from the table in analysis/."""
    _, values = run_statistics.published()
    source = "the reports in analysis/published.csv"
    return [
        Measurement(f"published/{name}", float(value), source)
        for name, value in values.items()
    ]


def recorded_measurements(main, runs, claims):
    """Measurements from the records of the runs, which are not computed again.

    Names start with the run's name; those of means over seeds with the name of the group.

    Args:
        main: the SubmittedRun whose accuracy is claimed, or None.
        runs: name -> SubmittedRun.
        claims: name -> Claim; only runs count whose accuracy is claimed.
    """
    source = "the runs' records"
    measurements = []
    if main:
        measurements.append(Measurement("epochs", len(main.history), source))
        measurements.append(Measurement("training_time", main.record.seconds / 60, source))
    claimed = [run for name, run in runs.items() if f"{name}/accuracy" in claims]
    groups = {}
    values_of = {}
    for run in claimed:
        name = str(run.folder)
        values_of[name] = _values_of_run(run, claimed)
        measurements += _measurements(name, values_of[name], source)
        groups.setdefault(run_statistics.group_name(run.name), []).append(run)
    by_seed = {}
    for group, members in groups.items():
        values = {}
        by_seed[group] = {}
        for run in members:  # the recipe may be one that this copy does not know
            seed = run.record.config.settings.get("seed", 0)
            by_seed[group][seed] = values_of[str(run.folder)]
        if len(members) > 1:
            of_members = [values_of[str(run.folder)] for run in members]
            values |= run_statistics.mean_over_runs(of_members)
            values |= run_statistics.summarize_seeds(members)
            for run in members:
                measurements += _measurements(run.name, _gain(group, [run], groups), source)
        values |= _gain(group, members, groups)
        measurements += _measurements(group, values, source)
    for group, changes in run_statistics.highest_block_changes(by_seed).items():
        measurements += _measurements(group, changes, source)
    return measurements


def _measurements(prefix, values, source):
    return [Measurement(f"{prefix}/{name}", value, source) for name, value in values.items()]


def _values_of_run(run, claimed):
    """What the records of one run give: a dict name -> float."""
    images = len(run.predictions["labels"])
    values = {
        "accuracy": run.accuracy,
        "accuracy_with_tta": run.flip_tta_accuracy,
        "accuracy_interval": run_statistics.accuracy_interval(run.accuracy, images),
    }
    before = [other for other in claimed if other.key == run.record.config.start]
    if before and _comparable(run, before[0]):
        candidates = [other for other in claimed if _can_control(run, other)]
        control = run_statistics.control_of(run, candidates)
        values |= run_statistics.epoch_measures(run, before[0], control)
        values |= _slope_since_seen(run, control)
    return values


def _slope_since_seen(run, control):
    """How an image's loss depends on the epochs since it was seen: {} without such losses."""
    differences = image_losses.differences_from_control(
        run, control, lambda each: each.image_losses
    )
    return {} if differences is None else image_losses.slope_since_seen(run, differences)


def _gain(group, members, groups):
    """The mean gain of a group of runs over its reference, {} if there is no such comparison."""
    references = []
    for name in run_statistics.reference_groups(group):
        references += [run for run in groups.get(name, []) if _comparable(run, members[0])]
    try:
        return run_statistics.gain(members, references)
    except SubmissionError:  # a run has no partner of its seed and machine
        return {}


def _comparable(run, other):
    """Whether two runs have as many test images, and as many losses in each of their epochs."""
    tested = len(run.predictions["labels"]) == len(other.predictions["labels"])
    return tested and _has_whole_epochs(run) and _has_whole_epochs(other)


def _has_whole_epochs(run):
    return len(run.losses) % len(run.history) == 0


def _can_control(run, other):
    """Whether `other` has what a comparison with `run` needs, step by step and image by image."""
    if not (run.record.machine and other.record.machine and _comparable(run, other)):
        return False
    steps = len(run.losses) // len(run.history)
    if len(other.losses) // len(other.history) != steps:
        return False
    losses = run.predictions.get("train_losses")
    other_losses = other.predictions.get("train_losses")
    return losses is not None and other_losses is not None and losses.shape == other_losses.shape
