"""The statistics that notebooks and verification share: intervals, paired differences, what reports published."""
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from training import Recipe

PUBLISHED = Path(__file__).with_name("published.csv")
PUBLISHED_WINDOWS = Path(__file__).with_name("published_windows.csv")  # the mean loss of each 100 steps of five logs


def accuracy_interval(accuracy, images):
    """Half of the 95 % interval, in points, of an accuracy in per cent that was measured on so many images."""
    return 1.96 * (accuracy * (100 - accuracy) / images) ** 0.5


def confusion_matrix(predicted, labels, classes):
    """Counts (classes, classes): true classes in rows, predicted ones in columns, of two uint8 or int tensors (N,)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels.long().numpy(), predicted.long().numpy()), 1)
    return counts


def most_confused(confusion):
    """The pair of classes confused most, either way: their numbers, and the share of all mistakes in per cent."""
    pairs = np.triu(confusion + confusion.T, 1)
    first, second = np.unravel_index(pairs.argmax(), pairs.shape)
    return first, second, 100 * pairs[first, second] / max(confusion.sum() - confusion.trace(), 1)


def paired_accuracy(run, other):
    """The difference of two runs' accuracies on the same test images, and half its 95 % interval, both in points."""
    right, others = ((r.predictions["predicted"] == r.predictions["labels"]).double() for r in (run, other))
    difference = 100 * (right - others)
    return difference.mean().item(), 1.96 * difference.std().item() / len(difference) ** 0.5


def interval_of_mean(values):
    """Half of the 95 % interval of the mean of independent `values`, by Student's t; NaN for a single one."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def interval_supports(values, name, comparison, bound):
    """Whether the 95 % interval of the claim `name`, in a dict of values by name, lies above (">") or below ("<") a
    number. Raises KeyError where the claim has no interval.
    """
    value, interval = values[name], values[f"{name}_interval"]
    if comparison == ">":
        return bool(value - interval > bound)
    if comparison == "<":
        return bool(value + interval < bound)
    raise KeyError(comparison)


def summarize_seeds(runs):
    """Of runs with several seeds: the mean of their accuracies in per cent with half its 95 % interval, their standard
    deviation, and the least minutes that one took.
    """
    reached = [run.accuracy for run in runs]
    return {
        "accuracy": statistics.mean(reached),
        "accuracy_interval": interval_of_mean(reached),
        "deviation": statistics.stdev(reached),
        "least_minutes": min(run.info["seconds"] for run in runs) / 60,
    }


def group_name(name):
    """The name of the group of a run: its own without the number of its seed, so "fast" for "fast-0"."""
    return re.sub(r"-\d(?=$|-control$)", "", name)


def reference_groups(group):
    """The groups of runs that a group is compared with, a tuple; `gain` takes those of the same machine from them.

    Without shortcuts, branches that start at zero would pass nothing on; the reference starts them at one as well.
    """
    if group == "ablation-no-shortcuts":
        return ("ablation-no-zero-init",)
    if group.startswith("ablation-"):
        return ("fast", "fast-gpu")
    if group.startswith("trial-"):
        return ("trial-base",)
    return ()


def same_machine(run, other):
    """Whether two runs were made on one kind of device and in one number format."""
    made, others = run.info["choices"], other.info["choices"]
    return (made["device"], made["precision"]) == (others["device"], others["precision"])


def gain(runs, others):
    """The mean difference of the accuracies of `runs` from those of `others`, seed by seed, and half its 95 % interval.

    Only runs of the same kind of machine and number format are compared; KeyError where one has no partner. With one
    seed, the interval is that over test images of the two networks; it says nothing about other seeds.
    """
    seeds = {setting(run, "seed"): run for run in others if same_machine(run, runs[0])}
    pairs = [(run, seeds[setting(run, "seed")]) for run in runs]
    if len(pairs) == 1:
        difference, interval = paired_accuracy(*pairs[0])
    else:
        differences = [run.accuracy - other.accuracy for run, other in pairs]
        difference, interval = statistics.mean(differences), interval_of_mean(differences)
    return {"gain": difference, "gain_interval": interval}


# ---------------------------------------------------------------------------------------------------- one more epoch

BLOCKS = 20  # of an epoch's steps, whose means are taken as independent; see `block_autocorrelation`
FIRST = 5  # the first running mean that reports print, at step 100 of 500, is that of the first fifth
# What a run's batches and their loss rest on, beside the data.
BATCHES = ("batch_size", "augmentation", "pad_with", "normalisation", "order", "seed", "label_smoothing")


def setting(run, name):
    """A field of a run's recipe; its default where the record is older than the field."""
    return run.info["config"].get(name, getattr(Recipe, name))


def control_of(run, runs):
    """The zero-learning-rate control of `run` among `runs`, or None: a run from its start, on its batches, made on the
    same kind of machine; one of as many epochs, if there is one, else a longer one.
    """
    controls = [
        other for other in runs
        if setting(other, "learning_rate") == 0
        and other.info["config"]["start"] == run.info["config"]["start"]
        and setting(other, "epochs") >= setting(run, "epochs")
        and same_machine(run, other)
        and all(setting(other, name) == setting(run, name) for name in BATCHES)
    ]
    return min(controls, key=lambda other: setting(other, "epochs"), default=None)


def first_fifth(values):
    """How many of an epoch's steps or blocks come before the first running mean that counts; one at least."""
    return max(1, len(values) // FIRST)


def losses_by_epoch(run):
    """The loss of each step as an array (epochs, steps)."""
    return run.losses.reshape(len(run.history), -1)


def block_means(values, blocks=BLOCKS):
    """The means of equal blocks of an array (steps,); of each step, where there are fewer steps."""
    length = max(1, len(values) // blocks)
    blocks = len(values) // length
    return values[:blocks * length].reshape(blocks, length).mean(1)


def block_autocorrelation(differences):
    """The correlation of neighbouring blocks' means of an epoch's differences from the control, after its first fifth.

    Near zero, the blocks are long enough to be independent.
    """
    blocks = block_means(differences)
    blocks = blocks[first_fifth(blocks):]
    return float(np.corrcoef(blocks[:-1], blocks[1:])[0, 1])


def rise(losses):
    """How much the running mean of one epoch's losses (steps,) rises from a fifth of the epoch to its end."""
    return float(losses.mean() - losses[:first_fifth(losses)].mean())


def rise_interval(losses):
    """Half of the 95 % interval of `rise`, from the blocks of the first fifth and of the rest, by Student's t."""
    blocks = block_means(losses)
    first, rest = np.split(blocks, [first_fifth(blocks)])
    freedom = len(blocks) - 2
    variance = (((first - first.mean()) ** 2).sum() + ((rest - rest.mean()) ** 2).sum()) / freedom
    error = len(rest) / len(blocks) * (variance * (1 / len(first) + 1 / len(rest))) ** 0.5
    return float(stats.t.ppf(0.975, freedom) * error)


def epoch_measures(run, before, control):
    """What one more epoch or several did to the network of the run `before`: a dict name -> float.

    Accuracies are in per cent, losses in nats. `<name>_interval` is half a 95 % interval. What compares with the
    zero-learning-rate `control` is left out for a control itself, and where there is none (None).

    - accuracy, change: test accuracy afterwards, and minus that before
    - running_mean_first, running_mean_last: of the last epoch's loss, after a fifth of its steps and after all
    - jump: the loss of ten steps after the first update minus the control's
    - excess: that of all steps of the last epoch
    - rise: of the running mean of the difference from the control, in the last epoch; rise_epoch_<n> in each of several
    - change_from_control: of the test accuracy, beyond that of a control of as many epochs
    - train_loss_change: of the first training images without augmentation, beyond that of such a control
    """
    change, change_interval = paired_accuracy(run, before)
    losses = losses_by_epoch(run)
    found = {
        "accuracy": run.accuracy,
        "change": change,
        "change_interval": change_interval,
        "running_mean_first": losses[-1, :first_fifth(losses[-1])].mean(),
        "running_mean_last": losses[-1].mean(),
    }
    if control and control.name != run.name:
        differences = losses - losses_by_epoch(control)[:len(losses)]
        first = min(setting(run, "zero_rate_epochs"), len(losses) - 1)
        found |= {
            "jump": differences[first, 1:11].mean(),  # the first loss is that of the weights before any update
            "excess": differences[-1].mean(),
            "excess_interval": interval_of_mean(block_means(differences[-1])),
            "rise": rise(differences[-1]),
            "rise_interval": rise_interval(differences[-1]),
        }
        if len(control.history) == len(run.history):
            after, earlier = (r.predictions["train_losses"].double().numpy() for r in (run, control))
            found["change_from_control"], found["change_from_control_interval"] = paired_accuracy(run, control)
            found["train_loss_change"] = (after - earlier).mean()
            found["train_loss_change_interval"] = 1.96 * stats.sem(after - earlier)
        if len(losses) > 1:
            for number, epoch in enumerate(differences, 1):
                found[f"rise_epoch_{number}"] = rise(epoch)
                found[f"rise_epoch_{number}_interval"] = rise_interval(epoch)
    return {name: float(value) for name, value in found.items()}


def mean_over_runs(measured):
    """Means over runs that differ by their seeds alone, from a list of dicts name -> float.

    `<name>_interval` is half the 95 % interval of each mean over runs; of one run it stays as it is.
    """
    if len(measured) == 1:
        return measured[0]
    names = [name for name in measured[0] if all(name in one for one in measured)]
    values = {name: [one[name] for one in measured] for name in names if not name.endswith("_interval")}
    means = {name: statistics.mean(value) for name, value in values.items()}
    return means | {f"{name}_interval": interval_of_mean(value) for name, value in values.items()}


# ---------------------------------------------------------------------------------------------------------- published

def published():
    """What reports of this assignment published: a DataFrame with a row for each, and a dict of what follows from it.

    The rise is that of the running mean from step 100 to step 500. No test is made of it: all reports start from one
    checkpoint, and one of them suggested the question.
    """
    reports = pd.read_csv(PUBLISHED)
    rises = reports.loss_500 - reports.loss_100
    others = reports.accuracy[1:]
    return reports, {
        "mean_rise": float(rises.mean()),
        "rising": int((rises > 0).sum()),
        "reports": len(reports),
        "original": float(reports.accuracy[0]),
        "best": float(reports.accuracy.max()),
        "others_mean": float(others.mean()),
        "others_interval": interval_of_mean(others),
    }


def published_running_mean():
    """The running mean of the loss at steps 100 to 500 over the five public logs, as two arrays (5,)."""
    logged = pd.read_csv(PUBLISHED_WINDOWS)
    return logged.step.to_numpy(), logged.loss.expanding().mean().to_numpy()
