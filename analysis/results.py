"""What the assignment's notebook claims and tabulates, from the network and its runs."""
import math

import pandas as pd

import training
from analysis import run_statistics
from utils import OFFICIAL_TEST_IMAGES


def claim_network(ledger, table, parameters, forward_cost, block_difference):
    """Claim the size of the network and the outputs in its layer table.

    `table` is the DataFrame of `layer_table`; `parameters` their number; `forward_cost` in GFLOP
    per image; `block_difference` the largest difference from torchvision's block.
    """
    ledger.claim("parameters", parameters)
    ledger.claim("forward_cost", forward_cost, "GFLOP per image")
    ledger.claim("block_difference", block_difference)
    for row in table[table.output != ""].itertuples():
        ledger.claim(f"layer_output/{row.Index + 1}", row.output)


def claim_evaluation(ledger, run, evaluation, classes):
    """Claim what the test images say of the network of `run`.

    `evaluation` is a `summary.Evaluation`; `classes` are the names of the classes, in the order of
    its confusion matrix.
    """
    ledger.claim("test_accuracy", evaluation.accuracy.value, "%", run)
    ledger.claim("test_accuracy_interval", evaluation.accuracy.half_interval, "points", run)
    ledger.claim("test_accuracy_with_tta", evaluation.accuracy_with_tta, "%", run)
    class_accuracies = run_statistics.class_accuracies(evaluation.confusion).tolist()
    ledger.claim_all("class_accuracy", dict(zip(classes, class_accuracies)), "%", run)
    ledger.claim("most_confused_share", float(evaluation.most_confused_share), "%", run)


def claim_epoch(ledger, run, before, control):
    """Claim what the epochs of `run` did to the network of the run `before`; return it, a dict.

    See `run_statistics.epoch_measures`; `control` is the zero-learning-rate control, or None.
    """
    measures = run_statistics.epoch_measures(run, before, control)
    return ledger.claim_all(run.name, measures, run=run)


def accuracy_table(accuracies, images, published):
    """Return a table of test accuracies with intervals, ours and the published ones: a DataFrame.

    `accuracies` is a dict label -> accuracy in per cent on `images` test images, `published` the
    statistics of `run_statistics.published`.
    """
    ours = [(label, 1, images, accuracy) for label, accuracy in accuracies.items()]
    return compare_accuracies(ours, published_rows(published))


def published_rows(published):
    """Return the rows of `compare_accuracies` for what reports published, a list of tuples."""
    others = published["reports"] - 1
    return [
        ("original report", 1, OFFICIAL_TEST_IMAGES, published["original"]),
        ("public reports, mean", others, OFFICIAL_TEST_IMAGES, published["others_mean"]),
    ]


def compare_accuracies(*row_groups):
    """Return a table of accuracies with the best row of each group in bold: a DataFrame.

    A group is a list of rows: label, number of runs, number of test images, and the accuracy in
    per cent, that of several runs their mean. ± is computed in each row in the same way: half of a
    95 % interval over the test images. Several runs see the same images, so that their number does
    not narrow it.
    """
    rows = []
    bold = []
    for group in row_groups:
        accuracies = [accuracy for *_, accuracy in group]
        if len(group) > 1:
            bold.append(len(rows) + accuracies.index(max(accuracies)))
        for label, runs, images, accuracy in group:
            interval = run_statistics.accuracy_interval(accuracy, images)
            rows.append((label, runs, images, with_interval(accuracy, interval)))
    table = pd.DataFrame(rows, columns=["network", "runs", "images", "accuracy (%)"])
    table.attrs["bold"] = bold  # which rows `display.show_table` sets in bold
    return table


NAMES_OF_FIELDS = {
    "first filters": "stem initialisation",
    "pad with": "padding of shifted images",
    "warmup": "warm-up (fraction of steps)",
    "crop": "random shifts",
    "flip": "random mirroring",
}
NAMES_OF_VALUES = {
    "muon": "Muon",
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD",
    "whitening": "principal components",
}


def recipe_table(recipes, continued=()):
    """Return hyper-parameters side by side in words for readers: a DataFrame.

    `recipes` is a dict title of a column -> training.Recipe; `continued` names the columns of runs
    that start from trained weights and so initialise none.
    """
    table = training.recipe_table(recipes).rename(index=NAMES_OF_FIELDS).replace(NAMES_OF_VALUES)
    for title in continued:
        if "stem initialisation" in table.index:
            table.loc["stem initialisation", title] = "–"
    return table


# --------------------------------------------------------------------------- numbers as text

def with_interval(value, interval, signed=False):
    """Return a value with its interval as text, both rounded to what the interval says.

    "−5.0 ± 0.6", "82.69 ± 0.25": the interval has one digit, or two below 3.55 times a power of
    ten, as the Particle Data Group rounds. Without an interval (NaN or 0) the value has two
    decimals. `signed` asks for a plus sign in front of positive values.
    """
    decimals = 2
    value += math.copysign(1e-9, value)  # 80.05 is a little less in binary, and 80.1 here
    if interval > 0:
        power = math.floor(math.log10(interval))
        digits = 2 if interval / 10**power < 3.55 else 1
        decimals = max(0, digits - 1 - power)
    is_zero = round(value, decimals) == 0
    sign = "+" if signed and not is_zero else ""
    text = f"{value:{sign}z.{decimals}f}".replace("-", "−")
    return f"{text} ± {interval:.{decimals}f}" if interval > 0 else text


def count_of(number, noun):
    """Return a number with its noun as text: "1 epoch", "5 epochs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plus_minus(values, name, signed=False):
    """Return a value with its interval as text, see `with_interval`.

    `values` is a dict with `name` and `<name>_interval`.
    """
    return with_interval(values[name], values[f"{name}_interval"], signed)


def in_points(value, interval):
    """Return a change in points with its interval, both with two decimals: "−2.52 ± 0.63".

    Accuracies have two decimals everywhere, so differences of such numbers agree with them.
    """
    return f"{signed_text(value, 2)} ± {interval:.2f}"


def signed_text(value, decimals):
    """Return a number with its sign, a true minus: "−0.007", "+0.033"; zero is "+0.000"."""
    return f"{value:+z.{decimals}f}".replace("-", "−")


def power_of_ten(value, digits=2):
    r"""Return a number with a power of ten as a formula of Markdown.

    It is `$4.1 \times 10^{-6}$` for 0.0000041.
    """
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"


def compare(value, interval, reference):
    """Return "above" or "below", or "close to" if `value` ± `interval` contains `reference`."""
    if value + interval < reference:
        return "below"
    if value - interval > reference:
        return "above"
    return "close to"
