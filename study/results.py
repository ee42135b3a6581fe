"""What the study claims, tabulates and concludes, from its stored runs."""

import numpy as np
import pandas as pd

from analysis import image_losses, run_statistics
from analysis.results import (
    claim_epoch,
    compare_accuracies,
    in_points,
    plus_minus,
    published_rows,
    signed_text,
    with_interval,
)
from study.experiments import FAST, LONG, PLANS, STORED_PLAN
from utils import OFFICIAL_TEST_IMAGES

# What a group of runs changes in its recipe or network, as the table of ablations says it.
CHANGES = {
    "ablation-no-shortcuts": "no shortcuts, γ = 1",
    "ablation-no-zero-init": "γ = 1",
    "ablation-all-projections": "a projection in every block",
    "ablation-adamw": "AdamW, one rate (0.002), not Muon",
    "ablation-sgd": "SGD, one rate (0.1), not Muon",
    "ablation-random-stem": "random stem initialisation",
    "ablation-no-smoothing": "no label smoothing",
    "ablation-zero-padding": "zero padding",
    "ablation-small-stem": "3×3 stem without pooling",
    "trial-rate-0.005": "learning rate 0.005",
    "trial-decay-0.05": "weight decay 0.05",
    "trial-decay-0.5": "weight decay 0.5",
    "trial-no-smoothing": "no label smoothing",
    "trial-rate-0.02-decay-0.1": "rate 0.02, weight decay 0.1",
}
# The group of runs of one more epoch from the parent of fewest epochs.
YOUNG_GROUP = f"age-{PLANS[STORED_PLAN].parent_epochs[0]}"
# What it is compared with, by the first group of `run_statistics.reference_groups`.
REFERENCES = {"fast": "the recipe", "ablation-no-zero-init": "γ = 1", "trial-base": "rate 0.01"}
BASE_OF_TRIALS = "none: rate 0.01, weight decay 0.2"


# ---------------------------------------------------------------------------------- accuracies

def claim_accuracies(ledger, runs, published):
    """Claim what reports published, the accuracy of each run, and what a network with TTA reaches.

    `runs` is a dict name -> training.Run, `published` the dict of `run_statistics.published`.
    """
    ledger.claim_all("published", published)
    for run in runs.values():
        ledger.claim(f"{run.name}/accuracy", run.accuracy, "%", run)
    best = runs["long-0"]
    interval = run_statistics.accuracy_interval(best.accuracy, OFFICIAL_TEST_IMAGES)
    ledger.claim(f"{best.name}/accuracy_with_tta", best.flip_tta_accuracy, "%", best)
    ledger.claim(f"{best.name}/accuracy_interval", interval, "points", best)


def claim_seeds(ledger, group, runs):
    """Claim the statistics of runs that differ by their seeds; return them, a dict.

    `group` is the name of the group of `runs`, a list; see `run_statistics.summarize_seeds`.
    """
    return ledger.claim_all(group, run_statistics.summarize_seeds(runs))


def accuracy_table(groups, fast, fast_gpu, best, published):
    """Return the table of test accuracies, a DataFrame.

    `groups` is a dict name -> list of runs; `fast` and `fast_gpu` are statistics of the seeds of
    the groups of these names, `best` is the run of the long recipe, `published` the dict of
    `run_statistics.published`.
    """
    rows = [
        ("fast, CPU", len(groups["fast"]), OFFICIAL_TEST_IMAGES, fast["accuracy"]),
        ("fast, GPU", len(groups["fast-gpu"]), OFFICIAL_TEST_IMAGES, fast_gpu["accuracy"]),
        ("long", 1, OFFICIAL_TEST_IMAGES, best.accuracy),
        ("long, with TTA", 1, OFFICIAL_TEST_IMAGES, best.flip_tta_accuracy),
    ]
    table = compare_accuracies(rows, published_rows(published))
    over_seeds = [fast["accuracy_interval"], fast_gpu["accuracy_interval"]]
    others = len(table) - len(over_seeds)
    table = table.drop(columns="images")  # the same in all rows
    table["± over seeds"] = [f"{value:.2f}" for value in over_seeds] + ["–"] * others
    return table.rename(columns={"network": "recipe"})


# ----------------------------------------------------------------------------------- ablations

def claim_ablations(ledger, groups):
    """Claim the gain of each ablation and trial over its reference; return the gains by group.

    `groups` is a dict name -> list of runs. A gain is a dict of `run_statistics.gain`; ablations
    without runs or without runs to compare with have none. Of several runs, each has a gain that is
    claimed as well.
    """
    gains = {}
    for name in CHANGES:
        references = []
        for reference in run_statistics.reference_groups(name):
            references += groups.get(reference, [])
        if name in groups and references:
            gain = run_statistics.gain(groups[name], references)
            gains[name] = ledger.claim_all(name, gain, "points")
            if len(groups[name]) > 1:
                claim_seeds(ledger, name, groups[name])
                for run in groups[name]:
                    gain = run_statistics.gain([run], references)
                    ledger.claim_all(run.name, gain, "points", run)
    return gains


def accuracy_drops_as_text(ledger, runs):
    """Return by how many points each run is worse than its reference, as `ledger` claims, as text.

    A run that is better has a negative number.
    """
    return join_numbers([f"{-gain:.1f}" for gain in claimed_values(ledger, runs, "gain")])


def ablation_table(groups, gains):
    """Return the table of ablations and trials, a DataFrame.

    `groups` is a dict name -> list of runs, `gains` what `claim_ablations` returns. The settings
    that trials are compared with have a row of their own before them.
    """
    rows = []
    for name, gain in gains.items():
        runs = groups[name]
        accuracy = sum(run.accuracy for run in runs) / len(runs)
        difference = in_points(gain["gain"], gain["gain_interval"])
        first_reference = run_statistics.reference_groups(name)[0]
        reference = REFERENCES[first_reference]
        is_trial = name.startswith("trial")
        if is_trial and not any(row[0] == "long" for row in rows):
            base = groups["trial-base"][0]
            rows.append(("long", BASE_OF_TRIALS, 1, base.accuracy, "–", "–"))
        recipe = "long" if is_trial else "fast"
        rows.append((recipe, CHANGES[name], len(runs), accuracy, difference, reference))
    columns = ["recipe", "change", "runs", "accuracy (%)", "difference", "reference"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------ one more epoch

def mechanism_table():
    """Return in which epochs the running loss rises by each mechanism, a DataFrame."""
    rows = [
        ("restart", "no", "no", "no", "no", "no", "no"),
        ("forgetting", "no", "yes", "no", "no", "no", "no"),
        ("sawtooth", "yes", "yes", "yes", "no", "twice", "a quarter"),
    ]
    columns = [
        "mechanism",
        "1st epoch, no gap",
        "1st epoch, gap",
        "later epochs",
        "same",
        "reversed",
        "replacement",
    ]
    return pd.DataFrame(rows, columns=columns)


def epochs_from(runs, parent):
    """Return the runs that start from the weights of the run `parent`: a list.

    `runs` is a dict name -> run.
    """
    return [run for run in runs.values() if run.info["config"]["start"] == parent.key]


def claim_epochs(ledger, runs, parents):
    """Claim what more epochs did to the networks of `parents`, a list of runs.

    `runs` is a dict name -> run. Returns measures by group and the runs that start from a parent, a
    list. Measures are a dict group -> dict, see `run_statistics.epoch_measures` and
    `image_losses.slope_since_seen`. Those of several runs that differ by their seeds are means, see
    `run_statistics.mean_over_runs`, and claimed as well, and so are
    `run_statistics.highest_block_changes`.
    """
    measures = {}
    epochs = []
    for parent in parents:
        from_parent = epochs_from(runs, parent)
        epochs += from_parent
        for run in from_parent:
            control = run_statistics.control_of(run, from_parent)
            of_run = claim_epoch(ledger, run, parent, control)
            of_run |= ledger.claim_all(run.name, slope_since_seen(run, control), run=run)
            group = run_statistics.group_name(run.name)
            measures.setdefault(group, {})[run.recipe.seed] = of_run
    means = {}
    for group, by_seed in measures.items():
        means[group] = run_statistics.mean_over_runs(list(by_seed.values()))
        if len(by_seed) > 1:
            ledger.claim_all(group, means[group])
    for group, changes in run_statistics.highest_block_changes(measures).items():
        means[group] |= ledger.claim_all(group, changes)
    return means, epochs


def stored_image_differences(run, control):
    """Return `image_losses.differences_from_control` of losses stored with the runs."""
    read = image_losses.read_image_losses
    return image_losses.differences_from_control(run, control, read)


def slope_since_seen(run, control):
    """Return `image_losses.slope_since_seen` of a run; {} if losses of images were not stored."""
    differences = stored_image_differences(run, control)
    return {} if differences is None else image_losses.slope_since_seen(run, differences)


def mean_losses(runs):
    """Return the loss of each step, the mean over runs of one epoch: float (steps,)."""
    return np.mean([run.losses for run in runs], axis=0)


def differences_from_control(runs, epochs):
    """Return the losses of the runs' last epoch minus those of their controls, (runs, steps).

    They are floats. `epochs` are runs among which the controls are, a list.
    """
    differences = []
    for run in runs:
        control = run_statistics.control_of(run, epochs)
        differences.append(run_statistics.difference_by_epoch(run, control)[-1])
    return np.array(differences)


def replication_table(published, parents, measures):
    """Return gap, running mean of the loss and accuracy, published and ours: a DataFrame.

    `published` is the dict of `run_statistics.published`; `parents` is a dict label -> group and
    the run that its epochs start from; `measures` is what `claim_epochs` returns, of all parents.
    """
    ranges = []
    for name in ("loss_100", "loss_500", "rise"):
        least = published[f"least_{name}"]
        greatest = published[f"greatest_{name}"]
        ranges.append(f"{least:.3f} to {greatest:.3f}")
    accuracies = f"{published['worst']:.2f} to {published['best']:.2f}"
    rows = [("six reports, range", "unknown", *ranges, "unknown", "unknown", accuracies)]
    for label, (group, before) in parents.items():
        gap = plus_minus(measures[group], "gap")
        rise = plus_minus(measures[group], "rise", signed=True)
        of_parent = (group, label, gap, rise)
        of_control = (f"{group}-control", "its control", "", "")
        for name, row_label, gap_text, rise_text in (of_parent, of_control):
            values = measures[name]
            rows.append((
                row_label,
                gap_text,
                plus_minus(values, "running_mean_first"),
                plus_minus(values, "running_mean_last"),
                plus_minus(values, "running_mean_rise"),
                rise_text,
                f"{before.accuracy:.2f}",
                plus_minus(values, "accuracy"),
            ))
    columns = [
        "one more epoch from",
        "gap (points)",
        "step 100",
        "step 500",
        "rise",
        "beyond control",
        "before (%)",
        "after (%)",
    ]
    return pd.DataFrame(rows, columns=columns)


# Other orders of the images in the second epoch: label, the group of runs, and how many times their
# sawtooth is as steep as with a new permutation in each epoch.
OTHER_ORDERS = [
    ("2, same order", "order-same", 0),
    ("2, reversed order", "order-reversed", 2),
    # At step t of the second epoch, an image was last seen 500 (1 - exp(-1 - t / 500)) steps ago on
    # average; one that was not seen yet counts from the start of the run.
    ("2, with replacement", "order-with-replacement", 0.25),
]


def rises_in_epochs(measures, mean_rise):
    """Return the rises in epochs from course parent 1, a DataFrame as in `figures.plot_rises`.

    `measures` is what `claim_epochs` returns, `mean_rise` that of the reports.
    """
    rows = []
    for number in range(1, 6):
        rows.append((f"{number}, new order", "five-epochs", number, 1))
    for label, group, steepness in OTHER_ORDERS:
        rows.append((label, group, 2, steepness))
    rises = []
    for label, group, number, steepness in rows:
        rise = measures[group][f"rise_epoch_{number}"]
        interval = measures[group][f"rise_epoch_{number}_interval"]
        rises.append((label, rise, interval, steepness * mean_rise))
    return pd.DataFrame(rises, columns=["label", "rise", "interval", "predicted"])


def curves_since_seen(runs):
    """Return the curves of `figures.plot_images_and_optimizers`, a dict label -> DataFrame.

    `runs` is a dict label -> run and its control.
    """
    curves = {}
    for label, (run, control) in runs.items():
        differences = stored_image_differences(run, control)
        curves[label] = image_losses.loss_since_seen(run, differences)
    return curves


def block_correlations(runs, epochs):
    """Return `run_statistics.block_autocorrelation` of each epoch of some runs, as text.

    `runs` are a list; `epochs` are runs among which their controls are, a list.
    """
    correlations = []
    for run in runs:
        control = run_statistics.control_of(run, epochs)
        for differences in run_statistics.difference_by_epoch(run, control):
            correlations.append(f"{run_statistics.block_autocorrelation(differences):.2f}")
    return ", ".join(correlations)


# --------------------------------------------------------------------------------- conclusions

def claimed_values(ledger, runs, measure):
    """Return a measure of each run, as `ledger` claims it: a list of floats."""
    return [ledger.claims[f"{run.name}/{measure}"].value for run in runs]


def rises_as_text(ledger, runs):
    """Return how much the running mean of the loss changes in each run of one epoch, as text."""
    rises = claimed_values(ledger, runs, "running_mean_rise")
    return join_numbers([signed_text(rise, 3) for rise in rises])


def highest_blocks_as_text(ledger, runs):
    """Return the measure highest_block of each run, as text."""
    return join_numbers([f"{loss:.3f}" for loss in claimed_values(ledger, runs, "highest_block")])


def join_numbers(numbers):
    """Return two or more numbers, a list of strings, as in "1, 2 and 3"."""
    return f"{', '.join(numbers[:-1])} and {numbers[-1]}"


def abstract(ledger, fast, best, drops_without_shortcuts, measures, course_epochs):
    """Return the abstract as Markdown.

    `fast` are statistics of the seeds of the fast recipe, `best` is the run of the long recipe,
    `measures` what `claim_epochs` returns. `drops_without_shortcuts`, of the accuracy in points for
    each seed, is text. `course_epochs` are the runs of one more epoch from the course parents.
    """
    young_epochs, epochs = PLANS[STORED_PLAN].parent_epochs
    excess = plus_minus(measures["restart-0"], "excess")
    other_excess = plus_minus(measures["restart-1"], "excess")
    rises = sorted(claimed_values(ledger, course_epochs, "running_mean_rise"))
    range_of_rises = f"{signed_text(rises[0], 3)} to {signed_text(rises[-1], 3)}"
    young_excess = plus_minus(measures[YOUNG_GROUP], "excess")
    long_excess = plus_minus(measures["long-restart"], "excess")
    later_rise = plus_minus(measures["five-epochs"], "rise_in_later_epochs")
    low_beta2 = measures["beta2-0.9"]
    fall_of_peak = with_interval(
        -low_beta2["highest_block_change"], low_beta2["highest_block_change_interval"]
    )
    return (
        "A residual network with the layers of a course assignment reaches "
        f"{fast['accuracy']:.2f} % on CIFAR-10 after {FAST.epochs} epochs (mean of five seeds), "
        f"and {best.accuracy:.2f} % after {LONG.epochs} with stronger augmentation. With the same "
        f"initialisation, {FAST.epochs} epochs without shortcuts reach {drops_without_shortcuts} "
        "points less than with them (two seeds). The gradient does not vanish without them at the "
        "start of training; it grows towards the first block. In all six reports of one more "
        "epoch with another network, that of the course, the running mean of the loss rises. We "
        "repeat this epoch with the course's network, which we trained anew with two seeds. The "
        f"learning-rate restart raises the loss by {excess} and {other_excess}. In five of six "
        f"epochs the loss climbs to a peak; the running mean changes by {range_of_rises}. The peak "
        f"is lower by {fall_of_peak} (one parent) if β₂, the decay rate of Adam's second moments, "
        "is 0.9 instead of 0.999. In later epochs (one run) the running "
        f"mean rises by {later_rise}, and the loss of an image grows until it is seen again. "
        "Without such a peak, the restart also raises the loss of the same network trained for "
        f"{young_epochs} epochs instead of {epochs}, by {young_excess}, and of our network of the "
        f"long recipe, by {long_excess}. Which effect the reports show remains open."
    )


def conclude(ledger, published):
    """Enter what the text concludes; return whether each conclusion holds, a Series.

    `published` is the dict of `run_statistics.published`. The text is in the notebook, most of it
    in the cells `conclusions` and `outcome-summary`. Raises SubmissionError as `Ledger.conclude`
    does.
    """
    best_report = published["best"]
    mean_rise = published["mean_rise"]
    conclusions = {
        "the long recipe goes beyond all reports": ("long-0/accuracy", ">", best_report),
        "the network is worse without shortcuts": ("ablation-no-shortcuts/gain", "<", 0),
        "a projection in every block is worse": ("ablation-all-projections/gain", "<", 0),
        "the restart raises the loss of the course's network": ("restart-0/excess", ">", 0),
        "it lowers this network's test accuracy": ("restart-0/change_from_control", "<", 0),
        "it raises the loss of the second course parent": ("restart-1/excess", ">", 0),
        "it lowers the second course parent's test accuracy in order 1": (
            "restart-1-0/change_from_control", "<", 0
        ),
        "it lowers it in order 2": ("restart-1-1/change_from_control", "<", 0),
        "it lowers it in order 3": ("restart-1-2/change_from_control", "<", 0),
        "the restart raises the loss of the young parent": (f"{YOUNG_GROUP}/excess", ">", 0),
        "it lowers the young parent's test accuracy": (
            f"{YOUNG_GROUP}/change_from_control", "<", 0
        ),
        "a rise of the published size is excluded for the young parent": (
            f"{YOUNG_GROUP}/rise", "<", mean_rise
        ),
        "the highest block is lower from the young parent": (
            f"{YOUNG_GROUP}/highest_block_change", "<", 0
        ),
        "the restart raises the loss of the long recipe": ("long-restart/excess", ">", 0),
        "it lowers that network's test accuracy": ("long-restart/change_from_control", "<", 0),
        "a rise of the published size is excluded there": ("long-restart/rise", "<", mean_rise),
        "it is excluded in a second epoch, too": (
            "long-order-permutation/rise_epoch_2", "<", mean_rise
        ),
        "the running mean rises in later epochs": ("five-epochs/rise_in_later_epochs", ">", 0),
        "the rise in later epochs is less than the mean of the reports": (
            "five-epochs/rise_in_later_epochs", "<", mean_rise
        ),
        "the loss of an image grows until it is seen again": ("five-epochs/slope", ">", 0),
        "it grows by less than the reports would need": (
            "five-epochs/slope", "<", published["slope"]
        ),
        "the peak is lower with β2 = 0.9": ("beta2-0.9/highest_block_change", "<", 0),
        "the restart raises the loss with β2 = 0.9, too": ("beta2-0.9/excess", ">", 0),
        "the running mean rises with the same order in both epochs": (
            "order-same/rise_epoch_2", ">", 0
        ),
    }
    holds = {}
    for name, (claim, comparison, bound) in conclusions.items():
        holds[name] = ledger.conclude(name, claim, comparison, bound)
    return pd.Series(holds)
