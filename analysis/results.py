"""What the assignment's notebook claims and tabulates, from the network and its runs."""
import pandas as pd

from analysis import run_statistics

OFFICIAL_IMAGES = 10_000  # test images of CIFAR-10, on which reports state their accuracy


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


def claim_evaluation(ledger, run, accuracy, accuracy_with_tta, confusion, classes):
    """Claim what the test images say of the network of `run`.

    Accuracies are in per cent; `confusion` are counts (C, C), true classes in rows; `classes` are
    the names of the C classes.
    """
    ledger.claim("test_accuracy", accuracy, "%", run)
    ledger.claim("test_accuracy_flips_averaged", accuracy_with_tta, "%", run)
    class_accuracies = run_statistics.class_accuracies(confusion).tolist()
    ledger.claim_all("class_accuracy", dict(zip(classes, class_accuracies)), "%", run)
    _, _, share = run_statistics.most_confused(confusion)
    ledger.claim("most_confused_share", float(share), "%", run)


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
    rows = []
    for label, accuracy in accuracies.items():
        rows.append((label, accuracy, run_statistics.accuracy_interval(accuracy, images)))
    original = published["original"]
    interval = run_statistics.accuracy_interval(original, OFFICIAL_IMAGES)
    rows.append(("original report", original, interval))
    mean = published["others_mean"]
    rows.append(("public reports, mean of five", mean, published["others_interval"]))
    return pd.DataFrame(rows, columns=["network", "%", "±"])


def plus_minus(values, name, form):
    """Return a value with its interval as text, "-2.52 ± 0.63".

    `values` is a dict with `name` and `<name>_interval`, `form` a format such as "+.2f" or ".3f".
    """
    value = format(values[name], form)
    interval = format(values[f"{name}_interval"], form.removeprefix("+"))
    return f"{value} ± {interval}"


def compare(value, interval, reference):
    """Return whether `value` ± `interval` lies above or below `reference`, in words."""
    if value + interval < reference:
        return "below"
    if value - interval > reference:
        return "above"
    return "about as much as"
