"""Statistics that notebooks and verification share: intervals, differences between runs, reports.

Every ± in this project is half of a 95 % interval.
"""
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tools.errors import SubmissionError

PUBLISHED = Path(__file__).with_name("published.csv")  # a row for each report
PUBLISHED_WINDOWS = Path(__file__).with_name("published_windows.csv")  # mean loss of each 100 steps
NORMAL_QUANTILE = 1.96  # 95 % of a normal distribution lie within so many standard deviations


# ------------------------------------------------------------------------------------- measures

# Units of measures of epochs, seeds and reports; all others are losses, in nats.
UNITS_OF_MEASURES = {
    "accuracy": "%",
    "change": "points",
    "change_from_control": "points",
    "gap": "points",
    "deviation": "points",
    "least_minutes": "min",
    "original": "%",
    "worst": "%",
    "best": "%",
    "others_mean": "%",
    "others_interval": "points",
    "reports": "",
    "rising": "",
}


def unit_of_measure(name):
    """Return the unit of a measure: "%", "points", "nats" or ""; intervals of "%" are in points.

    Measures are those of `epoch_measures`, `summarize_seeds` and `published`, and what is derived
    from them.
    """
    if name in UNITS_OF_MEASURES:
        return UNITS_OF_MEASURES[name]
    unit = UNITS_OF_MEASURES.get(name.removesuffix("_interval"), "nats")
    return "points" if unit == "%" else unit


# -------------------------------------------------------------------------------- test accuracy

def accuracy_interval(accuracy, images):
    """Return half of the 95 % interval, in points, of an accuracy in per cent on `images` images.

    It is the normal approximation of the binomial distribution.
    """
    return NORMAL_QUANTILE * (accuracy * (100 - accuracy) / images) ** 0.5


def confusion_matrix(predicted, labels, classes):
    """Return counts, int (classes, classes): true classes in rows, predicted ones in columns.

    `predicted` and `labels` are integer tensors (N,).
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels.long().numpy(), predicted.long().numpy()), 1)
    return counts


def class_accuracies(confusion):
    """Return the accuracy of each class in per cent, float (classes,), from a confusion matrix."""
    return 100 * confusion.diagonal() / confusion.sum(1)


def most_confused(confusion):
    """Return the two classes confused most, either way, and their share of all mistakes, in %."""
    pairs = np.triu(confusion + confusion.T, 1)
    first, second = np.unravel_index(pairs.argmax(), pairs.shape)
    mistakes = confusion.sum() - confusion.trace()
    return first, second, 100 * pairs[first, second] / max(mistakes, 1)


def paired_accuracy(run, other):
    """Return the difference of two runs' accuracies on the same images, and half its interval.

    Both are in points. The interval is that of the mean of the differences image by image.
    """
    return mean_paired_accuracy([(run, other)])


def mean_paired_accuracy(pairs):
    """Return the mean over pairs of runs of what `paired_accuracy` returns for one pair.

    All runs classified the same images. The interval is over images: it says nothing about pairs of
    other seeds.
    """
    differences = []
    for run, other in pairs:
        differences.append(100 * (correct_predictions(run) - correct_predictions(other)))
    difference = sum(differences) / len(differences)
    interval = NORMAL_QUANTILE * difference.std().item() / len(difference) ** 0.5
    return difference.mean().item(), interval


def correct_predictions(run):
    """Return 1 for each test image that a run classifies correctly, else 0; float64 tensor (N,)."""
    return (run.predictions["predicted"] == run.predictions["labels"]).double()


# ------------------------------------------------------------------------------------ intervals

def interval_of_mean(values):
    """Return half of the 95 % interval of the mean of independent values, by Student's t.

    It is NaN for a single value.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def interval_supports(values, name, comparison, bound):
    """Return whether the 95 % interval of a claim lies above (">") or below ("<") a number.

    `values` is a dict of claims, `name` the claim's. Raises KeyError if the claim has no interval
    or `comparison` is another one.
    """
    value = values[name]
    interval = values[f"{name}_interval"]
    if comparison == ">":
        return bool(value - interval > bound)
    if comparison == "<":
        return bool(value + interval < bound)
    raise KeyError(comparison)


# ------------------------------------------------------------------------- runs and their seeds

def summarize_seeds(runs):
    """Return statistics over runs that differ by their seeds, a dict.

    - accuracy: the mean of their test accuracies in per cent, with accuracy_interval
    - deviation: the standard deviation of these accuracies, in points
    - least_minutes: the shortest training time
    """
    accuracies = [run.accuracy for run in runs]
    return {
        "accuracy": statistics.mean(accuracies),
        "accuracy_interval": interval_of_mean(accuracies),
        "deviation": statistics.stdev(accuracies),
        "least_minutes": min(run.info["seconds"] for run in runs) / 60,
    }


def group_name(name):
    """Return a run's name without the number of its seed: "fast" for "fast-0".

    The number at the end of a parent's name is that of its epochs, and stays.
    """
    if name.startswith("parent-"):
        return name
    return re.sub(r"-\d+(?=$|-control$)", "", name)


def group_runs(runs):
    """Return runs by the name of their group: a dict name -> list of runs."""
    groups = {}
    for run in runs:
        groups.setdefault(group_name(run.name), []).append(run)
    return groups


def reference_groups(group):
    """Return the names of the groups that a group is compared with, a tuple.

    `gain` takes the runs of the same machine from them. The network without shortcuts starts with
    γ = 1, as its branches would pass nothing on otherwise; so does its reference.
    """
    if group == "ablation-no-shortcuts":
        return ("ablation-no-zero-init",)
    if group.startswith("ablation-"):
        return ("fast", "fast-gpu")
    if group.startswith("trial-"):
        return ("trial-base",)
    return ()


def same_machine(run, other):
    """Return whether two runs were made on one kind of device and in one number format."""
    machines = [
        (entry["device"], entry["precision"]) for entry in run.environments + other.environments
    ]
    return all(machine == machines[0] for machine in machines)


def reference_of(run, others):
    """Return the run among `others` with the seed of `run`, of the same machine and number format.

    Raises SubmissionError if there is none.
    """
    for other in others:
        if other.recipe.seed == run.recipe.seed and same_machine(run, other):
            return other
    names = ", ".join(other.name for other in others)
    raise SubmissionError(
        f"the run {run.name} has no reference: none of {names or 'no runs'} has its seed, "
        f"{run.recipe.seed}, its kind of device and its number format"
    )


LEAST_SEEDS = 3  # for an interval over seeds; that of two is 12.7 standard errors to each side


def gain(runs, others):
    """Return the mean difference of the accuracies of `runs` from `others`, seed by seed: a dict.

    "gain" and "gain_interval" are in points. The interval is over seeds, by Student's t, from
    LEAST_SEEDS on. For fewer it is over test images, see `mean_paired_accuracy`. Raises
    SubmissionError as `reference_of` does.
    """
    pairs = [(run, reference_of(run, others)) for run in runs]
    if len(pairs) < LEAST_SEEDS:
        difference, interval = mean_paired_accuracy(pairs)
    else:
        differences = [run.accuracy - other.accuracy for run, other in pairs]
        difference = statistics.mean(differences)
        interval = interval_of_mean(differences)
    return {"gain": difference, "gain_interval": interval}


# ------------------------------------------------------------------------------- one more epoch

BLOCKS = 20  # of an epoch's steps; their means count as independent, see `block_autocorrelation`
WINDOWS = 5  # of an epoch: reports print the running mean at steps 100, 200, …, 500 of 500
# Fields of a recipe on which a run's batches and their loss depend.
BATCH_FIELDS = (
    "batch_size",
    "augmentation",
    "pad_with",
    "normalisation",
    "order",
    "seed",
    "label_smoothing",
)


def control_of(run, runs):
    """Return the zero-learning-rate control of `run` among `runs`, or None.

    A control has the start and the batches of the run, is from the same kind of machine, and
    has as many epochs or more; the shortest one is returned.
    """
    controls = [other for other in runs if is_control(other, run)]
    return min(controls, key=lambda control: control.recipe.epochs, default=None)


def is_control(control, run):
    """Return whether `control` is a zero-learning-rate control of `run`.

    It has the epochs of `run`, or more.
    """
    same_start = control.info["config"]["start"] == run.info["config"]["start"]
    if not same_start or not same_machine(control, run):
        return False
    recipe = run.recipe
    control_recipe = control.recipe
    same_batches = all(
        getattr(control_recipe, name) == getattr(recipe, name) for name in BATCH_FIELDS
    )
    long_enough = control_recipe.epochs >= recipe.epochs
    return same_batches and long_enough and control_recipe.learning_rate == 0


def losses_by_epoch(run):
    """Return the loss of each step, float (epochs, steps)."""
    return run.losses.reshape(len(run.history), -1)


def running_means(losses, count=WINDOWS):
    """Return the running mean of one epoch's losses (steps,) at `count` equally spaced steps.

    Two arrays: the numbers of the steps, from 1, and the means of the losses up to them. The last
    one is the mean of the epoch. An epoch of fewer steps than `count` has one value for each step.
    """
    ends = len(losses) * np.arange(1, count + 1) // count
    ends = np.unique(np.maximum(ends, 1))
    return ends, np.array([losses[:end].mean() for end in ends])


def rise(losses):
    """Return how much the running mean of one epoch's losses (steps,) rises.

    It is counted from the first value that reports print, after a fifth of the epoch, to its end.
    """
    _, means = running_means(losses)
    return float(means[-1] - means[0])


def rise_interval(losses):
    """Return half of the 95 % interval of `rise`.

    `rise` is the mean of the steps after the first fifth minus that of the first fifth, times the
    share of these later steps; this is the interval of that difference.
    """
    blocks = block_means(losses)
    first, rest = np.split(blocks, [first_window(blocks)])
    return len(rest) / len(blocks) * difference_interval(first, rest)


def difference_interval(values, others):
    """Return half of the 95 % interval of the difference of two means, of independent values.

    It is the two-sample interval by Student's t with pooled variance; NaN for a single value each.
    """
    degrees_of_freedom = len(values) + len(others) - 2
    if degrees_of_freedom < 1:
        return float("nan")
    squares = ((values - values.mean()) ** 2).sum() + ((others - others.mean()) ** 2).sum()
    variance = squares / degrees_of_freedom
    error = (variance * (1 / len(values) + 1 / len(others))) ** 0.5
    return float(stats.t.ppf(0.975, degrees_of_freedom) * error)


def first_window(values):
    """Return how many of an epoch's steps or blocks are its first fifth; at least one."""
    return max(1, len(values) // WINDOWS)


def block_means(values, blocks=BLOCKS):
    """Return the means of equal blocks of an array (steps,); the values, if there are fewer."""
    length = max(1, len(values) // blocks)
    blocks = len(values) // length
    return values[:blocks * length].reshape(blocks, length).mean(1)


def block_autocorrelation(differences):
    """Return the correlation of neighbouring blocks' means of one epoch, after its first fifth.

    `differences` (steps,) are those of the losses from the control's. Near zero, the blocks are
    long enough to be independent.
    """
    blocks = block_means(differences)
    blocks = blocks[first_window(blocks):]
    return float(np.corrcoef(blocks[:-1], blocks[1:])[0, 1])


def epoch_measures(run, before, control):
    """Return what one or more epochs did to the network of the run `before`: a dict of floats.

    Accuracies are in per cent, losses in nats. `<name>_interval` is half of a 95 % interval. What
    is compared with the zero-learning-rate `control` is left out if there is none (None), and for
    a control itself.

    - accuracy, change: test accuracy afterwards, and minus that before
    - running_mean_first, running_mean_last: of the last epoch's loss, after a fifth of its steps
      and after all; running_mean_rise, the last minus the first
    - gap: see `generalisation_gap`
    - jump: the loss of ten steps after the first update minus the control's
    - excess: that of all steps of the last epoch
    - highest_block: the greatest mean of that over a block of steps of the last epoch, see
      `block_means`; it lies above excess also if the loss has no peak, since blocks scatter
    - rise: of the running mean of the difference from the control, in the last epoch;
      rise_epoch_<n> in each of several, rise_in_later_epochs the mean of those after the first
    - change_from_control: of the test accuracy, beyond that of a control of as many epochs
    - train_loss_change: of the first training images without augmentation, beyond that of such a
      control
    """
    change, change_interval = paired_accuracy(run, before)
    _, means = running_means(losses_by_epoch(run)[-1])
    measures = {
        "accuracy": run.accuracy,
        "change": change,
        "change_interval": change_interval,
        "running_mean_first": means[0],
        "running_mean_last": means[-1],
        "running_mean_rise": means[-1] - means[0],
    }
    if control and control.name != run.name:
        gap, gap_interval = generalisation_gap(control)
        measures |= {"gap": gap, "gap_interval": gap_interval}
        differences = difference_by_epoch(run, control)
        measures.update(loss_differences(differences, run.recipe.zero_rate_epochs))
        if len(control.history) == len(run.history):
            measures.update(final_differences(run, control))
        measures.update(rise_by_epoch(differences))
    return {name: float(value) for name, value in measures.items()}


def generalisation_gap(control):
    """Return the training accuracy of a parent minus its test accuracy, and half its interval.

    Both are in points. They are those of `control`, the zero-learning-rate control of an epoch from
    the parent, which has the parent's weights. It sees each training image once, as training
    changes it, so the gap on images as they are is larger. In training it normalises by the
    statistics of the batch, in testing by the running statistics of the same batches.
    """
    training_accuracy = control.history.train_accuracy.iloc[-1]
    training_interval = accuracy_interval(training_accuracy, control.info["train_images"])
    test_interval = accuracy_interval(control.accuracy, len(control.predictions["labels"]))
    gap = training_accuracy - control.accuracy
    return float(gap), float(np.hypot(training_interval, test_interval))


def loss_differences(differences, zero_rate_epochs):
    """Return jump, excess, highest_block and rise of `epoch_measures`, a dict.

    The first and the third have no interval, the others have that from blocks of steps.

    `differences` are those of `difference_by_epoch`, float (epochs, steps); weights do not change
    in the first `zero_rate_epochs` epochs.
    """
    last = differences[-1]
    first_epoch = min(zero_rate_epochs, len(differences) - 1)  # with updates
    return {
        "jump": differences[first_epoch, 1:11].mean(),  # the first step's weights are the start's
        "excess": last.mean(),
        "excess_interval": interval_of_mean(block_means(last)),
        "highest_block": block_means(last).max(),
        "rise": rise(last),
        "rise_interval": rise_interval(last),
    }


def final_differences(run, control):
    """Return change_from_control and train_loss_change of `epoch_measures`: a dict."""
    change, change_interval = paired_accuracy(run, control)
    train_losses = run.predictions["train_losses"].double().numpy()
    loss_change = train_losses - control.predictions["train_losses"].double().numpy()
    return {
        "change_from_control": change,
        "change_from_control_interval": change_interval,
        "train_loss_change": loss_change.mean(),
        "train_loss_change_interval": NORMAL_QUANTILE * stats.sem(loss_change),
    }


def rise_by_epoch(differences):
    """Return the rise in each of several epochs, with intervals: a dict; {} for one epoch.

    `differences` are those of `difference_by_epoch`, float (epochs, steps). With more than two
    epochs, the mean of the rises after the first epoch is `rise_in_later_epochs`, with the interval
    over these epochs.
    """
    if len(differences) == 1:
        return {}
    rises = {}
    for number, losses in enumerate(differences, 1):
        rises[f"rise_epoch_{number}"] = rise(losses)
        rises[f"rise_epoch_{number}_interval"] = rise_interval(losses)
    if len(differences) > 2:
        later = [rise(losses) for losses in differences[1:]]
        rises["rise_in_later_epochs"] = statistics.mean(later)
        rises["rise_in_later_epochs_interval"] = interval_of_mean(later)
    return rises


def difference_by_epoch(run, control):
    """Return the loss of each step minus that of the control's step, float (epochs, steps)."""
    losses = losses_by_epoch(run)
    return losses - losses_by_epoch(control)[:len(losses)]


# Measures of runs that are not independent: all are of one network on the same test images.
OF_ONE_NETWORK = ("gap",)


def mean_over_runs(measured):
    """Return the means over runs that differ by their seeds, from a list of dicts name -> float.

    `<name>_interval` is half of the 95 % interval of the mean over runs; of one run it stays as it
    is. For measures OF_ONE_NETWORK it is the mean of those of the runs.
    """
    if len(measured) == 1:
        return measured[0]
    values = {}
    for name in measured[0]:
        if not name.endswith("_interval") and all(name in measures for measures in measured):
            values[name] = [measures[name] for measures in measured]
    means = {name: statistics.mean(numbers) for name, numbers in values.items()}
    intervals = {f"{name}_interval": interval_of_mean(numbers) for name, numbers in values.items()}
    for name in OF_ONE_NETWORK:
        if name in means:
            of_runs = [measures[f"{name}_interval"] for measures in measured]
            intervals[f"{name}_interval"] = statistics.mean(of_runs)
    return means | intervals


def highest_block_changes(measures):
    """Return how other groups of one more epoch differ from "restart-0": a dict group -> changes.

    `measures` is a dict group -> dict seed -> dict of `epoch_measures`. Groups named "beta2-…" have
    another β2 of Adam, groups named "age-…" a parent of fewer epochs. They are compared seed by
    seed, since runs with the same seed see the same batches. "highest_block_change" is the mean
    over seeds, "highest_block_change_interval" half of its 95 % interval. Groups of one run, or
    without runs to compare with, are left out.
    """
    changes = {}
    for group, by_seed in measures.items():
        if not group.startswith(("beta2-", "age-")):
            continue
        differences = []
        for seed, of_run in by_seed.items():
            reference = measures.get("restart-0", {}).get(seed, {})
            if "highest_block" in of_run and "highest_block" in reference:
                differences.append(of_run["highest_block"] - reference["highest_block"])
        if len(differences) > 1:
            changes[group] = {
                "highest_block_change": statistics.mean(differences),
                "highest_block_change_interval": interval_of_mean(differences),
            }
    return changes


# ------------------------------------------------------------------------------------ published

def published():
    """Return what reports of this assignment published: a DataFrame, and a dict of statistics.

    The DataFrame has a row for each report, the original first. A rise is that of the running mean
    from step 100 to step 500. No test is made of it: all reports start from one checkpoint, and
    one of them suggested the question. "slope" is that of a loss which grows evenly and has the
    mean rise: in nats for an epoch of 500 steps, in which the running mean grows half as fast.
    """
    reports = pd.read_csv(PUBLISHED)
    rises = reports.loss_500 - reports.loss_100
    share_of_epoch = (500 - 100) / 500
    others = reports.accuracy[1:]
    return reports, {
        "mean_rise": float(rises.mean()),
        "slope": float(2 * rises.mean() / share_of_epoch),
        "least_rise": float(rises.min()),
        "greatest_rise": float(rises.max()),
        "rising": int((rises > 0).sum()),
        "least_loss_100": float(reports.loss_100.min()),
        "greatest_loss_100": float(reports.loss_100.max()),
        "least_loss_500": float(reports.loss_500.min()),
        "greatest_loss_500": float(reports.loss_500.max()),
        "reports": len(reports),
        "original": float(reports.accuracy[0]),
        "worst": float(reports.accuracy.min()),
        "best": float(reports.accuracy.max()),
        "others_mean": float(others.mean()),
        "others_interval": interval_of_mean(others),
    }


def published_running_mean():
    """Return steps and running mean of the loss, the mean of five public logs: two arrays (5,)."""
    logged = pd.read_csv(PUBLISHED_WINDOWS)
    return logged.step.to_numpy(), logged.loss.expanding().mean().to_numpy()
