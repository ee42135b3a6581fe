"""The policy is checked when it is read: each mistake is named by file, table and key."""

import re

import pytest

from grading.policy import FILE, Tolerance, read_policy
from grading.schema import SchemaError
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
    assert policy.tolerance("test_accuracy_flips_averaged") == Tolerance("value", 0.05)
    assert policy.tolerance("one-more-epoch/change_interval") == Tolerance("value", 0.5)
    assert policy.tolerance("block_difference").kind == "bound"
    assert policy.tolerance("training_time").kind == "any"
    assert policy.tolerance("robustness") is None


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
