"""The statistics that notebook and verification share: standard errors, paired differences, what reports published."""
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


def epoch_measures(run, frozen, before):
    """What one more epoch did, by name: paired with the `frozen` network's epoch, and with the run it started from."""
    windows, difference = paired_windows(run, frozen), run.last_epoch - frozen.last_epoch
    change, change_error = paired_accuracy(run, before)
    return {"loss_first": windows["mean"].iloc[0], "loss_first_error": windows.error.iloc[0],
            "loss_last": windows["mean"].iloc[-1], "loss_last_error": windows.error.iloc[-1],
            "loss_difference": difference.mean(),
            "loss_difference_error": difference.std(ddof=1) / len(difference) ** 0.5,
            "accuracy": run.accuracy, "change": change, "change_error": change_error}


def published():
    """What reports of this assignment published, as a DataFrame; and of the rises of their losses: mean, t and p."""
    reports = pd.read_csv(PUBLISHED)
    rises = reports.loss_500 - reports.loss_100
    test = stats.ttest_1samp(rises, 0)
    return reports, {"mean_rise": rises.mean(), "t": float(test.statistic), "p": float(test.pvalue),
                     "original": float(reports.accuracy[0]), "others_mean": float(reports.accuracy[1:].mean()),
                     "others_error": float(reports.accuracy[1:].sem())}
