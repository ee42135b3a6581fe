"""The policy is checked when it is read: each mistake is named by file, table and key."""

import re

import pytest
from helpers import POLICY

from grading.claim_check import Claim, check_claims, check_recorded_claims
from grading.findings import Measurement
from grading.policy import EXACT, FILE, Tolerance, is_recorded_claim, read_policy
from grading.schema import SchemaError
from report.provenance import Provenance
from tools.errors import SubmissionError

# what is replaced, by what, and what the message says
MISTAKES = {
    "unknown_key": ("members = 1_000", "member = 1_000", "archive.member is an unknown key; did"),
    "unknown_table": ("[plausible]", "[plausibel]", "plausibel is an unknown key; did you mean p"),
    "unlike_any_key": ("members = 1_000", "x = 1", "archive.x is an unknown key; known here: mem"),
    "text_for_a_number": (
        "seconds = 900",
        'seconds = "900"',
        "verdict.seconds is '900'; expected a",
    ),
    "number_for_text": (
        'runs = "checkpoints"',
        "runs = 7",
        "files.runs is 7; expected text in quo",
    ),
    "number_for_a_list": ('required = ["test', "required = 7 #", "required is 7; expected a list"),
    "true_for_a_number": ("other = 3.0", "other = true", "images.other is True; expected a number"),
    "fraction_of_a_file": (
        "one_file = 45",
        "one_file = 4.5",
        "archive.one_file is 4.5; expected a w",
    ),
    "number_among_texts": ('["airplane",', "[1,", "images.classes.1 is 1; expected text in quot"),
    "tolerance_as_text": ("parameters = 0", 'parameters = "0"', "claims.parameters is '0'; expect"),
    "negative_tolerance": (
        "parameters = 0",
        "parameters = -1",
        "claims.parameters is -1; expected",
    ),
    "infinite_tolerance": ("parameters = 0", "parameters = inf", "claims.parameters is inf; expec"),
    "unknown_kind": ("{ bound = 1e-5 }", "{ most = 1e-5 }", "claims.block_difference is {'most'"),
    "missing_key": ("rows = 1_000_000", "", "archive.rows is missing"),
    "missing_table": ("[verdict]\nseconds = 900", "", "verdict is missing"),
    "no_official_data": ("[data.official]", "[data.own]", "data.official is missing"),
    "no_classes": ("classes = [", "classes = [] # ", "images.classes is empty"),
    "bounds_reversed": ("[1.0, 30.0]", "[30.0, 1.0]", "plausible.first_loss is [30.0, 1.0]; expec"),
    "one_bound": ("[1.0, 30.0]", "[1.0]", "plausible.first_loss is [1.0]; expected [lowest, high"),
    "no_time": ("seconds = 900", "seconds = 0", "verdict.seconds is 0; expected a number above 0"),
    "no_points": ("[points]", "[point]", "point is an unknown key; did you mean points"),
    "sum_of_points": ("total = 100", "total = 90", "points.total is 90, but the items sum to 100"),
    "unknown_claim": (
        '"block_difference"]',
        '"block_diference"]',
        "points, item 'block': 'block_diference' fits no claim and no check; known are param",
    ),
    "ramp_reversed": (
        "ramp = [60, 80]",
        "ramp = [80, 60]",
        "item 'test accuracy': ramp is [80.0, 60.0]; expected [value without points, value with",
    ),
    "negative_cost": ("each = 5", "each = -5", "points.contradiction.each is -5; expected a num"),
    "deadline_without_zone": (
        "[deadline]",
        '[deadline]\ntime = "2026-12-01 23:59"',
        "deadline.zone is missing",
    ),
    "unknown_zone": (
        "[deadline]",
        '[deadline]\ntime = "2026-12-01 23:59"\nzone = "Seoul"',
        "deadline.zone is 'Seoul'; expected the name of a time zone like",
    ),
    "no_time_of_day": (
        "[deadline]",
        '[deadline]\ntime = "tomorrow"\nzone = "Asia/Seoul"',
        "deadline.time is 'tomorrow'; expected a time like",
    ),
    "two_zones": (
        "[deadline]",
        '[deadline]\ntime = "2026-12-01T23:59Z"\nzone = "Asia/Seoul"',
        "deadline.time has a time zone of its own",
    ),
    "share_above_one": (
        "shared_mistakes = 0.9",
        "shared_mistakes = 90",
        "similarity.shared_mistakes is 90; expected a number between 0 and 1",
    ),
    "no_steps": ("equal_losses = 50", "equal_losses = 0", "similarity.equal_losses is 0; expected"),
    "no_toml": ("[verdict]", "[verdict", "is not valid TOML: "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_policy_is_named(tmp_path, name):
    old, new, words = MISTAKES[name]
    text = re.sub(r" +#.*", "", FILE.read_text(encoding="utf-8"))
    assert old in text
    file = tmp_path / "policy.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SchemaError) as raised:
        read_policy(file)
    message = str(raised.value)
    assert message.startswith("policy.toml") and words in message and "\n" not in message
    assert issubclass(SchemaError, SubmissionError)


def test_a_missing_policy_is_named(tmp_path):
    with pytest.raises(SchemaError, match="^policy.toml is missing$"):
        read_policy(tmp_path / "policy.toml")


def test_the_first_pattern_that_fits_a_claim_counts():
    policy = read_policy()
    assert policy.tolerance("test_accuracy_with_tta") == Tolerance("value", 0.05)
    assert policy.tolerance("one-more-epoch/change_interval") == Tolerance("value", 0.5)
    assert policy.tolerance("block_difference").kind == "bound"
    assert policy.tolerance("training_time").kind == "any"
    assert policy.tolerance("robustness") is None


@pytest.mark.parametrize(
    "name, tolerance",
    [
        ("test_accuracy", Tolerance("value", 0.05)),
        ("class_accuracy/cat", Tolerance("value", 0.5)),
        ("block_difference", Tolerance("bound", 1e-5)),
        ("published/original", Tolerance("value", 1e-6)),
        ("layer_output/1", EXACT),
        ("conclusion/it is small", EXACT),
        # of the records of the runs, whatever the policy says of a new run
        ("epochs", EXACT),
        ("training_time", EXACT),
        ("resnet/accuracy", EXACT),
        ("one-more-epoch/change_interval", EXACT),
        ("robustness", EXACT),
    ],
)
def test_the_page_shows_the_tolerance_that_the_check_applies(name, tolerance):
    is_recorded = is_recorded_claim(name)
    measured = Measurement(name, 1e-6, "a test")
    check = check_recorded_claims if is_recorded else check_claims
    (finding,) = check({name: Claim(1e-6)}, [measured], POLICY)
    assert finding.tolerance == tolerance.limit
    shown = "none: the same value"
    if tolerance.kind == "bound":
        shown = "both between 0 and 1e-05"
    elif tolerance.limit:
        shown = f"±{tolerance.limit:g}"
    results = {"claims": {name: {"value": 1e-6}}}
    known = Provenance({"cells": []}, results)
    assert known.tolerance(known.claims[name]) == shown


def test_the_study_has_files_and_claims_of_its_own():
    policy = read_policy()
    study = policy.for_study()
    assert study.files.notebook != policy.files.notebook and study.required != policy.required
    assert study.claims == policy.claims and study.data == policy.data


TOLERANCES = [
    (Tolerance("value"), 3, 3, True),
    (Tolerance("value"), 3, 4, False),
    (Tolerance("value"), 1 / 3, 0.333333, True),  # the six digits of CSV files
    (Tolerance("value", 0.5), 80.0, 80.4, True),
    (Tolerance("value", 0.5), 80.0, "80.0", False),
    (Tolerance("value", 0.5), True, True, True),
    (Tolerance("value", 0.5), 1, True, False),
    (Tolerance("value"), "8×8", "8×8", True),
    (Tolerance("value"), "8×8", "4×4", False),
    (Tolerance("bound", 1e-5), 2e-6, 9e-6, True),
    (Tolerance("bound", 1e-5), 2e-6, 2e-5, False),
    (Tolerance("bound", 1e-5), 2e-6, -1e-6, False),
    (Tolerance("any"), 1, 99, True),
]


@pytest.mark.parametrize("tolerance, computed, claimed, agrees", TOLERANCES)
def test_values_agree_within_a_tolerance(tolerance, computed, claimed, agrees):
    assert tolerance.agrees(computed, claimed) is agrees


def test_a_deadline_has_a_time_zone(tmp_path):
    text = FILE.read_text(encoding="utf-8")
    file = tmp_path / "policy.toml"
    file.write_text(text.replace("# time", "time").replace("# zone", "zone"), encoding="utf-8")
    moment = read_policy(file).deadline.moment
    assert moment.isoformat() == "2026-12-01T23:59:00+09:00"
    assert read_policy().deadline is None
