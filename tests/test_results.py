"""Numbers as readers see them: rounded to their interval, and in tables with the best in bold."""

import pytest
from torch import nn

from analysis import display as cell_display
from analysis import layer_table, results
from analysis.ledger import Ledger
from tools.errors import SubmissionError


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (-4.973, 0.639, "−5.0 ± 0.6"),
        (82.694, 0.2478, "82.69 ± 0.25"),
        (-0.0339, 0.0181, "−0.034 ± 0.018"),
        (0.0521, 0.00354, "0.0521 ± 0.0035"),
        (0.0521, 0.00356, "0.052 ± 0.004"),
        (90.77, 0.567, "90.8 ± 0.6"),
        (80.05, 0.78, "80.1 ± 0.8"),
        (9.9, 0.97, "9.9 ± 1.0"),
        (412.3, 41.0, "412 ± 41"),
        (-0.04, 0.9, "0.0 ± 0.9"),
        (81.5, float("nan"), "81.50"),
        (81.5, 0.0, "81.50"),
    ],
)
def test_a_value_is_rounded_to_its_interval(value, interval, text):
    assert results.with_interval(value, interval) == text


def test_differences_have_a_sign():
    values = {"rise": 0.0212, "rise_interval": 0.005}
    assert results.plus_minus(values, "rise", signed=True) == "+0.021 ± 0.005"


def test_a_noun_has_the_number_of_its_count():
    assert results.count_of(1, "thread") == "1 thread"
    assert results.count_of(2, "thread") == "2 threads"


def test_small_numbers_have_a_power_of_ten():
    assert results.power_of_ten(4.1e-6) == r"$4.1 \times 10^{-6}$"
    assert results.power_of_ten(-123456, digits=3) == r"$-1.23 \times 10^{5}$"


def test_measures_have_units():
    ledger = Ledger()
    measures = {"accuracy": 1, "change_interval": 1, "excess": 1, "slope_interval": 1}
    assert ledger.claim_all("run", measures) == measures
    published = {"best": 1, "others_interval": 1, "rising": 1, "least_loss_100": 1}
    ledger.claim_all("published", published)
    units = [claim.unit for claim in ledger.claims.values()]
    assert units == ["%", "points", "nats", "nats", "%", "points", "", "nats"]
    ledger.claim_all("class_accuracy", {"cat": 1}, "%")
    assert ledger.claims["class_accuracy/cat"].unit == "%"


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_the_padding_of_a_convolution_may_be_a_word(padding):
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=padding), nn.Flatten())
    ((size, filter_size, stride, pixels, output),) = layer_table.output_sizes(net)
    assert (size + 2 * pixels - filter_size) // stride + 1 == output
    described = layer_table.describe(net[0], nn.Linear)
    assert described == f"3×3, 2, stride 1, padding {pixels}"


def test_the_best_row_of_each_kind_is_bold(monkeypatch):
    published = {"reports": 6, "original": 82.37, "others_mean": 82.33}
    accuracies = {"scratch": 82.57, "TTA & more": 83.6, "one epoch": 80.05}
    shown = []
    options = {"label": "tbl-a", "tbl-cap": "A table."}
    monkeypatch.setattr(cell_display, "cell_options", lambda: options)
    monkeypatch.setattr(cell_display, "display", lambda data, **_: shown.append(data))
    cell_display.show_table(results.accuracy_table(accuracies, 10_000, published))
    rows = [line for line in shown[0]["text/latex"].split("\n") if "±" in line]
    assert [r"\textbf" in row for row in rows] == [False, True, False, True, False]
    assert r"\textbf{TTA \& more} & \textbf{1} & \textbf{10,000} & \textbf{83.6 ± 0.7}" in rows[1]
    assert rows[4].startswith("public reports, mean & 5 & 10,000 & 82.3 ± 0.7")
    assert "<b>83.6 ± 0.7</b>" in shown[0]["text/html"]
    assert shown[0]["text/html"].count("<b>10,000</b>") == 2
    alone = results.compare_accuracies([("ours", 1, 100, 50.0)])
    assert alone.attrs["bold"] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a change of -0.5 and -3", "a change of −0.5 and −3"),
        ("- one\n  - two -- three", "- one\n  - two -- three"),
        ("`cmd -x` and $x -y$", "`cmd -x` and $x -y$"),
        ("5-7", "5-7"),
    ],
)
def test_prose_has_minus_signs_before_numbers_alone(monkeypatch, text, shown):
    displayed = []
    monkeypatch.setattr(cell_display, "display", lambda markdown: displayed.append(markdown.data))
    cell_display.prose(text)
    assert displayed == [shown]


def test_a_reference_to_another_kind_of_label_is_refused():
    with pytest.raises(SubmissionError, match="the label tab-x must start with fig- or tbl-"):
        cell_display.reference("tab-x")
