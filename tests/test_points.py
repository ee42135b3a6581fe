"""Points: the policy's table is checked when read, and each point lost names its reason."""

from types import SimpleNamespace

import pytest

from grading.points import PointsError, award_points, read_scheme

KNOWN = ("parameters", "layer_output/1", "layer_output/2", "test_accuracy", "files")
BLOCK = {"name": "Layers", "points": 40, "claims": ["parameters", "layer_output/*"]}
ACCURACY = {"name": "Accuracy", "points": 30, "claims": ["test_accuracy"], "ramp": [70, 80]}
TEXT = {"name": "Text", "points": 30, "by_hand": True}
TABLE = {"item": [BLOCK, ACCURACY, TEXT]}


def finding(claim, verdict="holds", found=None, message=""):
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
    awards = award_points(read_scheme(TABLE, KNOWN), findings())
    assert [(award.name, award.points, award.open) for award in awards] == [
        ("Layers", 40, 0),
        ("Accuracy", 30, 0),
        ("Text", 0, 30),
    ]


def test_a_contradiction_costs_its_share_and_names_its_finding():
    awards = award_points(read_scheme(TABLE, KNOWN), findings(parameters="contradicted"))
    assert awards[0].points == pytest.approx(40 * 2 / 3, abs=0.01)
    assert awards[0].reason == "parameters differ"
    dear = read_scheme(TABLE | {"contradiction": 10}, KNOWN)
    more = award_points(dear, findings(parameters="contradicted"))
    assert more[-1].points == -10 and "parameters differ" in more[-1].reason
    ruin = read_scheme(TABLE | {"contradiction": 1000}, KNOWN)
    assert total(award_points(ruin, findings(parameters="contradicted")))[0] == pytest.approx(0)


@pytest.mark.parametrize(
    "rule, points, still_open", [("open", 20, 20), ("lost", 20, 0), ("given", 40, 0)]
)
def test_the_policy_says_what_becomes_of_unverified_claims(rule, points, still_open):
    scheme = read_scheme({"item": [BLOCK | {"points": 100}], "unverified": rule}, KNOWN)
    rows = findings(**{"layer_output/1": "unverified"})[:2]
    award = award_points(scheme, rows)[0]
    assert award.points == points * 2.5 and award.open == still_open * 2.5


@pytest.mark.parametrize("value, points", [(60, 0), (70, 0), (75, 15), (80, 30), (99, 30)])
def test_a_ramp_gives_part_of_the_points(value, points):
    rows = findings()
    rows[-1].found = value
    award = award_points(read_scheme(TABLE, KNOWN), rows)[1]
    assert award.points == points and (points == 30) == (award.reason == "")


def test_an_accuracy_that_nobody_measured_stays_open():
    rows = findings(test_accuracy="unverified")
    rows[-1].found = None
    award = award_points(read_scheme(TABLE, KNOWN), rows)[1]
    assert (award.points, award.open) == (0, 30)


def test_a_claim_that_is_missing_gets_nothing():
    award = award_points(read_scheme(TABLE, KNOWN), findings()[1:])[0]
    assert award.points == 0 and award.reason == "parameters is not claimed"


@pytest.mark.parametrize(
    "table, words",
    [
        ({}, "has no .*points.item"),
        ({"item": []}, "has no .*points.item"),
        ({"item": [TEXT]}, "sum to 30 points, not 100"),
        ({"item": [BLOCK, BLOCK]}, "two items named 'Layers'"),
        ({"item": [TEXT], "bonus": 5}, "the key 'bonus'"),
        ({"item": [TEXT | {"points": "30"}]}, "points of item 1 .* is '30'"),
        ({"item": [TEXT | {"points": -1}]}, "zero or more"),
        ({"item": [{"points": 3}]}, "item 1 of .points. has no name"),
        ({"item": [{"name": "a"}]}, "has no points"),
        ({"item": [{"name": "a", "points": 1}]}, "needs claims"),
        ({"item": [BLOCK | {"claims": ["acuracy"]}]}, "is named 'acuracy'"),
        ({"item": [TEXT | {"claims": ["files"]}]}, "remove either"),
        ({"item": [ACCURACY | {"ramp": [80, 70]}]}, "below the second"),
        ({"item": [ACCURACY | {"ramp": 70}]}, "two numbers"),
        ({"item": [BLOCK | {"ramp": [1, 2]}]}, "exactly one claim"),
        ({"item": [TEXT | {"points": 100}], "unverified": "zero"}, "one of open, lost, given"),
        ({"item": ["Text"]}, "is no table"),
    ],
)
def test_mistakes_of_the_policy_are_one_sentence(table, words):
    with pytest.raises(PointsError, match=words) as error:
        read_scheme(table, KNOWN)
    assert "\n" not in str(error.value)
