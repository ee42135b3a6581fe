"""Train the runs of the study that are not stored yet; again after an interruption, it goes on where it stopped.

    python -m study.train              # all groups of runs, in order
    python -m study.train ablations    # one group, or the names of single runs
    python -m study.train --list       # which runs are stored, which are missing
"""
import argparse
import os
import sys
from pathlib import Path

import utils
from study.experiments import PLANS
from study.store import Store
from tools.project_files import ROOT

STORED = ROOT / "checkpoints" / "study"


def selected(store, names):
    """The names of the runs in the groups named, and of the runs named; of all runs, where none is."""
    found = []
    for name in names or store.groups:
        if name in store.groups:
            found += [experiment.name for experiment in store.groups[name]]
        elif name in store.experiments:
            found.append(name)
        else:
            raise utils.SubmissionError(f"no run and no group of runs is named {name}; the groups are "
                                        f"{', '.join(store.groups)}")
    return found


def main():
    """Parse the command line, then list or train."""
    parser = argparse.ArgumentParser(prog="python -m study.train", description="Train the runs of the study.")
    parser.add_argument("groups", nargs="*", help="groups of runs, or runs, to train; without them, all")
    parser.add_argument("--plan", choices=PLANS, default="gpu", help="how much is trained; the notebook reads gpu")
    parser.add_argument("--stored", type=Path, default=STORED, help="where records of finished runs are")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "checkpoints", help="where runs are trained")
    parser.add_argument("--list", action="store_true", help="list the runs, train nothing")
    options = parser.parse_args()
    folder = Path(os.environ.get("CIFAR10_DIR") or ROOT / "data")
    dataset = os.environ.get("DATASET") or "cifar10"
    try:
        if options.stored == STORED and (dataset != "cifar10" or options.plan == "rehearsal"):
            raise utils.SubmissionError("a rehearsal needs a folder of its own: add --stored FOLDER")
        store = Store(PLANS[options.plan], utils.load_data(folder, dataset), options.runs, options.stored)
        for name in selected(store, options.groups):
            if options.list:
                state = "stored" if store.has_record(name) else "missing"
                print(f"{state}  {name}  {store.experiments[name].recipe.epochs} epochs", flush=True)
            else:
                run = store.train(name)
                print(f"{run.name}: {run.accuracy:.2f} %, {run.info['seconds']:.0f} s", flush=True)
    except utils.SubmissionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
