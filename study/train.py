"""Train the runs of the study that are not stored yet.

After an interruption, the same command goes on where it stopped.

python -m study.train              # all groups of runs, in order
python -m study.train ablations    # one group, or the names of single runs
python -m study.train --list       # which runs are stored, which are missing
"""
import argparse
import os
import sys
from pathlib import Path

import utils
from study.experiments import PLANS, STORED_PLAN
from study.store import Store
from tools.errors import SubmissionError
from tools.project_files import ROOT
from tools.terminal import replace_unprintable

STORED = ROOT / "checkpoints" / "study"
RUNS = ROOT / "build" / "checkpoints"


def select_runs(store, names):
    """Return the names of the runs that `names` stand for, groups or single runs: a list.

    Without names, all runs. Raises SubmissionError for a name of neither.
    """
    selected = []
    for name in names or store.groups:
        if name in store.groups:
            selected += [experiment.name for experiment in store.groups[name]]
        elif name in store.experiments:
            selected.append(name)
        else:
            raise SubmissionError(f"no run and no group of runs is named {name}; the groups are "
                                  f"{', '.join(store.groups)}")
    return selected


def parse_options():
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m study.train", description="Train the runs of the study."
    )
    parser.add_argument("groups", nargs="*", help="groups or names of runs to train; default: all")
    parser.add_argument("--plan", choices=PLANS, default=STORED_PLAN,
                        help=f"how much is trained; the notebook shows {STORED_PLAN}")
    parser.add_argument("--stored", type=Path, default=STORED,
                        help="folder with the records of finished runs")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder in which runs are trained")
    parser.add_argument("--list", action="store_true", help="list the runs, train nothing")
    return parser.parse_args()


def open_store(options):
    """Return the Store that the command line's options name.

    Raises SubmissionError if runs of another plan, or on other data, would mix with the records of
    the study, and as utils.load_data does.
    """
    folder = Path(os.environ.get("CIFAR10_DIR") or ROOT / "data")
    dataset = os.environ.get("DATASET") or "cifar10"
    is_study = dataset == "cifar10" and options.plan == STORED_PLAN
    if options.stored.resolve() == STORED.resolve() and not is_study:
        raise SubmissionError(
            f"runs of the plan {options.plan} on {dataset} would mix with the records of the study "
            f"in {STORED}: name another folder with --stored FOLDER"
        )
    data = utils.load_data(folder, dataset)
    return Store(PLANS[options.plan], data, options.runs, options.stored)


def list_runs(store, names):
    """Print which of the runs are stored and which are missing."""
    for name in names:
        state = "stored" if store.has_record(name) else "missing"
        epochs = store.experiments[name].recipe.epochs
        print(f"{state}  {name}  {epochs} epochs", flush=True)


def train_runs(store, names):
    """Train the runs that are not stored; say how many they are, then accuracy and time of each."""
    missing = [name for name in names if not store.has_record(name)]
    epochs = sum(store.experiments[name].recipe.epochs for name in missing)
    print(f"{len(missing)} runs of {epochs} epochs in all are to be trained", flush=True)
    for name in names:
        run = store.train(name)
        print(f"{run.name}: {run.accuracy:.2f} %, {run.info['seconds']:.0f} s", flush=True)


def main():
    """Parse the command line, then list or train."""
    options = parse_options()
    replace_unprintable()
    try:
        store = open_store(options)
        names = select_runs(store, options.groups)
        if options.list:
            list_runs(store, names)
        else:
            train_runs(store, names)
    except SubmissionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
