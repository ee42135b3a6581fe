"""Points: the policy's table is checked when read, and each point lost names its reason."""

import json
from types import SimpleNamespace

import pytest
from helpers import POLICY, ROOT

from grading.claim_check import Claim
from grading.feedback import feedback_page
from grading.findings import Verdict
from grading.grade_exports import gradescope_results
from grading.gradebook import Entry
from grading.points import Award, award_points, total_points
from grading.policy import CHECKS, FAULT_CHECKS, Points, check_points, known_names
from grading.schema import Place, SchemaError, read_dataclass
from grading.verify import unchecked_claims

KNOWN = known_names(POLICY)
BLOCK = {"name": "Layers", "points": 40, "claims": ["parameters", "layer_output/*"]}
ACCURACY = {
    "name": "Accuracy",
    "points": 30,
    "claims": ["test_accuracy", "weights"],
    "ramp": [70, 80],
}
TEXT = {"name": "Text", "points": 30, "by_hand": True}
FREE = {"each": 0, "most": 0}
TABLE = {
    "total": 100,
    "assignment": "ResNet",
    "unverified": "open",
    "contradiction": FREE,
    "item": [BLOCK, ACCURACY, TEXT],
}


def read_points(table, **changes):
    place = Place("policy.toml", ("points",))
    points = read_dataclass(Points, table | changes, place, strict=True)
    check_points(points, KNOWN, place)
    return points


def finding(claim, verdict="verified", found=None, message=""):
    return SimpleNamespace(claim=claim, verdict=verdict, found=found, message=message)


def findings(**verdicts):
    rows = [
        finding("parameters", message="parameters differ"),
        finding("layer_output/1"),
        finding("layer_output/2"),
        finding("test_accuracy", found=82.5),
    ]
    for row in rows:
        row.verdict = verdicts.get(row.claim, row.verdict)
    return rows


def total(awards):
    return sum(award.points for award in awards), sum(award.open for award in awards)


def test_what_holds_gets_its_points_and_text_waits_for_a_person():
    awards = award_points(read_points(TABLE), findings())
    assert [(award.name, award.points, award.open) for award in awards] == [
        ("Layers", 40, 0),
        ("Accuracy", 30, 0),
        ("Text", 0, 30),
    ]


def test_a_contradiction_costs_its_share_and_names_its_finding():
    rows = findings(parameters="contradicted")
    awards = award_points(read_points(TABLE), rows)
    assert awards[0].points == pytest.approx(40 * 2 / 3, abs=0.01) and len(awards) == 3
    assert awards[0].reason == "parameters differ"
    dear = award_points(read_points(TABLE, contradiction={"each": 10, "most": 15}), rows)
    assert dear[-1].points == -10 and "parameters differ" in dear[-1].reason
    rows.append(finding("paper", "contradicted"))
    assert award_points(read_points(TABLE, contradiction={"each": 10, "most": 15}), rows)[
        -1
    ].points == -15
    ruin = read_points(TABLE, contradiction={"each": 1000, "most": 1000})
    assert total(award_points(ruin, rows))[0] == pytest.approx(0)


def test_a_claim_counts_once_however_often_it_was_checked():
    rows = findings() + [finding("parameters", "contradicted", message="the weights differ")]
    award = award_points(read_points(TABLE), rows)[0]
    assert award.points == pytest.approx(40 * 2 / 3, abs=0.01)
    assert award.reason == "the weights differ"


@pytest.mark.parametrize(
    "rule, points, still_open", [("open", 50, 50), ("lost", 50, 0), ("given", 100, 0)]
)
def test_the_policy_says_what_becomes_of_unverified_claims(rule, points, still_open):
    scheme = read_points(TABLE, item=[BLOCK | {"points": 100}], unverified=rule)
    rows = findings(**{"layer_output/1": "unverified"})[:2]
    award = award_points(scheme, rows)[0]
    assert (award.points, award.open) == (points, still_open)


@pytest.mark.parametrize("value, points", [(60, 0), (70, 0), (75, 15), (80, 30), (99, 30)])
def test_a_ramp_gives_part_of_the_points(value, points):
    rows = findings()
    rows[-1].found = value
    award = award_points(read_points(TABLE), rows)[1]
    assert award.points == points and (points == 30) == (award.reason == "")


@pytest.mark.parametrize(
    "row, reason",
    [
        (finding("test_accuracy", "unverified"), "test_accuracy could not be computed"),
        (finding("weights", "unverified", message="weights are missing"), "weights are missing"),
    ],
)
def test_an_accuracy_that_nobody_measured_stays_open(row, reason):
    rows = [*findings()[:-1], row]
    if row.claim == "weights":
        rows = [*findings(), row]
    else:
        row.message = reason
    award = award_points(read_points(TABLE), rows)[1]
    assert (award.points, award.open, award.reason) == (0, 30, reason)


def test_a_claim_that_is_missing_gets_nothing():
    award = award_points(read_points(TABLE), findings()[1:])[0]
    assert award.points == pytest.approx(40 * 2 / 3, abs=0.01)
    assert award.reason == "results.json has no claim parameters"


def test_a_claim_of_ones_own_does_not_excuse_a_missing_one():
    unchecked = unchecked_claims({"my/claim": Claim(3)}, [])
    award = award_points(read_points(TABLE), findings()[1:] + unchecked)[0]
    assert award.points == pytest.approx(40 * 2 / 3, abs=0.01) and award.open == 0
    assert award.reason == "results.json has no claim parameters"


def test_without_claims_the_missing_ones_stay_open():
    row = finding("claims", "unverified", message="results.json is missing")
    award = award_points(read_points(TABLE), [*findings()[1:], row])[0]
    assert award.open == pytest.approx(40 / 3, abs=0.01)
    assert award.reason == "results.json is missing"


def test_an_accuracy_of_contradicted_weights_gets_no_points():
    scheme = read_points(TABLE)
    rows = [*findings(), finding("weights", "contradicted", message="they are not its weights")]
    award = award_points(scheme, rows)[1]
    assert (award.points, award.open) == (0, 0)
    assert award.reason == "they are not its weights"
    rows[-2].verdict = "contradicted"  # a value claimed wrongly: the value found counts
    assert award_points(scheme, rows[:-1])[1].points == 30


def test_the_projects_policy_takes_the_points_of_memorised_images():
    rows = [finding("test_accuracy", found=99.0), finding("memorisation", "contradicted")]
    (award,) = [one for one in award_points(POLICY.points, rows) if one.name == "test accuracy"]
    assert award.points == 0 and award.open == 0


def test_the_policy_may_name_every_check():
    for name in ("memorisation", "own training", "execution", "other claims"):
        scheme = read_points(TABLE, item=[BLOCK, ACCURACY | {"claims": [name]}, TEXT])
        assert scheme.item[1].claims == [name]


def test_an_archive_that_cannot_be_read_stays_open():
    row = finding("submission", "unverified", message="the archive is damaged")
    awards = award_points(read_points(TABLE), [row])
    assert total(awards) == (0, 100)
    assert awards[0].reason == "the archive is damaged"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"item": []}, "points.total is 100, but the items sum to 0 points"),
        ({"item": [TEXT]}, "but the items sum to 30 points"),
        ({"item": [BLOCK, BLOCK]}, "item 'Layers' needs a name that no other item has"),
        ({"item": [TEXT | {"name": " "}]}, "needs a name"),
        ({"bonus": 5}, "points.bonus is an unknown key"),
        ({"item": [TEXT | {"points": "30"}]}, "points.item.1.points is '30'; expected a number"),
        ({"item": [TEXT | {"points": -1}]}, "points is -1; expected a number of at least 0"),
        ({"item": [{"points": 3}]}, "points.item.1.name is missing"),
        ({"item": [{"name": "a"}]}, "points.item.1.points is missing"),
        ({"item": [{"name": "a", "points": 1}]}, r'needs claims = \["…"\] or by_hand = true'),
        ({"item": [BLOCK | {"claims": ["acuracy"]}]}, "'acuracy' fits no claim and no check"),
        ({"item": [BLOCK | {"claims": ["class_acuracy/*"]}]}, "fits no claim and no check"),
        ({"item": [TEXT | {"claims": ["files"]}]}, "remove either"),
        ({"item": [ACCURACY | {"ramp": [80, 70]}]}, "the first below the second"),
        ({"item": [ACCURACY | {"ramp": [70]}]}, "expected .value without points, value with all"),
        ({"item": [ACCURACY | {"ramp": 70}]}, "points.item.1.ramp is 70; expected a list"),
        ({"unverified": "zero"}, "points.unverified is 'zero'; expected one of open, lost, given"),
        ({"contradiction": 5}, "points.contradiction is 5; expected a table"),
        ({"contradiction": {"each": -5, "most": 5}}, "contradiction.each is -5; expected"),
        ({"item": ["Text"]}, "points.item.1 is 'Text'; expected a table"),
    ],
)
def test_mistakes_of_the_policy_are_one_sentence(changes, words):
    with pytest.raises(SchemaError, match=words) as error:
        read_points(TABLE, **changes)
    assert str(error.value).startswith("policy.toml: points") and "\n" not in str(error.value)


def test_the_names_that_points_may_fit_are_those_of_the_notebook():
    claims = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))["claims"]
    assert set(KNOWN) - {*CHECKS, *FAULT_CHECKS} <= set(claims)


def test_a_deduction_leaves_the_same_total_in_every_file():
    awards = [Award("Block", 10.0, 0.0, 20), Award("late", -12.5, 0.0, 0, "given by a person")]
    assert total_points(awards) == 0
    assert Entry("a.zip", None, None, awards=awards).points == 0
    assert json.loads(gradescope_results(awards))["score"] == 0
    page = feedback_page("Feedback", Verdict("a.zip"), awards)
    assert "-2.5" not in page
