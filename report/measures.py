"""The statistics that notebook and verification share: standard errors, paired differences, what reports published."""
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

PUBLISHED = Path(__file__).with_name("published.csv")


def accuracy_error(accuracy, images):
    """Standard error, in points, of an accuracy in per cent that was measured on so many images."""
    return (accuracy * (100 - accuracy) / images) ** 0.5


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


def paired_windows(run, other, width=100):
    """Differences of the last epochs' losses of two runs on the same batches: a DataFrame with a row for each window.

    Columns: step, the last one of the window; mean and its standard error over the window's steps.
    """
    difference = run.last_epoch - other.last_epoch
    width = max(2, min(width, len(difference) // 2))
    windows = difference[:len(difference) // width * width].reshape(-1, width)
    return pd.DataFrame({"step": width * np.arange(1, len(windows) + 1), "mean": windows.mean(1),
                         "error": windows.std(1, ddof=1) / width ** 0.5})


def paired_accuracy(run, other):
    """The difference of two runs' accuracies on the same test images and its standard error, both in points."""
    right, others = ((r.predictions["predicted"] == r.predictions["labels"]).double() for r in (run, other))
    difference = 100 * (right - others)
    return difference.mean().item(), difference.std().item() / len(difference) ** 0.5


def of_seeds(runs):
    """Mean and standard deviation of the accuracies of `runs` in per cent, and the least minutes that one took."""
    reached = [run.accuracy for run in runs]
    return {"accuracy": statistics.mean(reached), "deviation": statistics.stdev(reached),
            "least_minutes": min(run.info["seconds"] for run in runs) / 60}


def gains(runs):
    """Of each run by name, on the images held out: accuracy, gain over the first run and that gain's paired error."""
    found = {run.name: (run.accuracy, *paired_accuracy(run, runs[0])) for run in runs}
    return {name: dict(zip(("accuracy", "gain", "gain_error"), values)) for name, values in found.items()}


def epoch_title(run):
    """What one more epoch was trained with, in words."""
    config = run.info["config"]
    optimizer = {"adam": "Adam", "sgd": "SGD", "muon": "Muon"}[config["optimizer"]]
    rate = np.format_float_positional(config["learning_rate"], 2, fractional=False, trim="-")
    words = [f"{optimizer}, rate {rate}" if config["learning_rate"] else "frozen"]
    words += ["with warm-up"] * (config["warmup"] > 0) + ["no augmentation"] * (not config["augmentation"])
    return ", ".join(words + [f"{config['epochs']} epochs"] * (config["epochs"] > 1))


def frozen_twin(run, runs):
    """The run among `runs` that had the batches and the start of `run` at a rate of zero, or None."""
    batches = ("batch_size", "augmentation", "pad_with", "seed", "network", "data", "start")
    same = {name: run.info["config"][name] for name in batches} | {"learning_rate": 0}
    return next((other for other in runs if same.items() <= other.info["config"].items()), None)


def epoch_measures(run, before, frozen):
    """What one more epoch did, by name, beside the `frozen` network on its batches; a frozen one beside the run before.

    Accuracies are in per cent, losses in nats; each `<name>_error` is the standard error of what it is named after.
    """
    other, losses = before if run.name == frozen.name else frozen, run.last_epoch
    change, change_error = paired_accuracy(run, other)
    after, earlier = (r.predictions["train_losses"].double().numpy() for r in (run, other))
    found = {"accuracy": run.accuracy, "change": change, "change_error": change_error, "train_loss": after.mean(),
             "train_loss_change": (after - earlier).mean(), "train_loss_change_error": stats.sem(after - earlier),
             "rise": losses.mean() - losses[:100].mean()}  # of the running mean after step 100, as reports print it
    if len(run.history) == len(frozen.history):
        difference = losses - frozen.last_epoch
        for name, steps in (("at_once", slice(10)), ("last", slice(-100, None)), ("difference", slice(None))):
            found[f"loss_{name}"] = difference[steps].mean()
            found[f"loss_{name}_error"] = stats.sem(difference[steps])
        found["loss_highest"] = paired_windows(run, frozen)["mean"].max()
    return {name: float(value) for name, value in found.items()}


def over_seeds(measured):
    """Means over runs of several seeds, from a list of dicts by name; each `<name>_error` is then that of the mean."""
    frame = pd.DataFrame(measured)
    if len(frame) == 1:
        return measured[0]
    return {name: float(frame[name.removesuffix("_error")].sem() if name.endswith("_error") else frame[name].mean())
            for name in frame}


def one_more_epoch(epochs):
    """The measures, and the groups of runs that differ by their seeds alone, of `epochs`: name -> (run before, run).

    Measures are a dict by the runs' names and, with means over seeds, by the groups' names; a group's name is that of
    its runs without the number. Groups are a dict name -> (name of the run before, title, list of (run, frozen)).
    """
    runs, measured, groups = [run for _, run in epochs.values()], {}, {}
    for name, (before, run) in epochs.items():
        frozen = frozen_twin(run, runs)
        measured[name] = epoch_measures(run, before, frozen)
        group = re.sub(r"-\d$", "", name)
        groups.setdefault(group, (before.name, epoch_title(run), []))[2].append((run, frozen))
    for group, (_, _, members) in groups.items():
        measured[group] = over_seeds([measured[run.name] for run, _ in members])
    return measured, groups


def published():
    """What reports of this assignment published, as a DataFrame; and of the rises of their losses: mean, t and p."""
    reports = pd.read_csv(PUBLISHED)
    rises = reports.loss_500 - reports.loss_100
    test = stats.ttest_1samp(rises, 0)
    others = reports.accuracy[1:]
    return reports, {"mean_rise": rises.mean(), "t": float(test.statistic), "p": float(test.pvalue),
                     "original": float(reports.accuracy[0]), "best": float(reports.accuracy.max()),
                     "others_mean": float(others.mean()), "others_error": float(others.sem())}
