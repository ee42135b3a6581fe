"""Finds the runs of the study among those stored in the repository, or trains them."""
import dataclasses
import functools
import shutil
from pathlib import Path

import torch

import training
from study.experiments import VALIDATION_IMAGES, groups
from tools.errors import SubmissionError
from training.run_files import HISTORY, IMAGE_LOSSES, LOSSES, PREDICTIONS, RECORD, WEIGHTS

# The files of a record in the order of copying; with the last one a run counts as finished.
RECORD_FILES = (HISTORY, LOSSES, PREDICTIONS, IMAGE_LOSSES, RECORD)


@functools.cache
def initial_probe(network, seed):
    """Return the probe of what the function `network` makes, which identifies its runs."""
    torch.manual_seed(seed)
    return training.network_probe(network(), seed)


class Store:
    """The runs of a plan on `data`, a utils.Data.

    Records of finished runs are in the folder `stored`; training and weights are in `runs`.
    """

    def __init__(self, plan, data, runs, stored):
        self.data = data
        self.validation_split = data.held_out(min(VALIDATION_IMAGES, len(data.train_labels) // 10))
        self.runs = Path(runs)
        self.stored = Path(stored)
        self.groups = groups(plan)
        self.experiments = {}
        for group in self.groups.values():
            for experiment in group:
                self.add(experiment)

    def add(self, experiment):
        """Enter an experiment and its snapshots, the runs of fewer epochs kept on the way."""
        self.experiments[experiment.name] = experiment
        for epochs, name in self.snapshot_names(experiment).items():
            recipe = dataclasses.replace(experiment.recipe, epochs=epochs)
            self.experiments[name] = dataclasses.replace(
                experiment, name=name, recipe=recipe, snapshots=()
            )

    def snapshot_names(self, experiment):
        """Return the names of an experiment's snapshots: a dict epochs -> name."""
        stem = experiment.name.rpartition("-")[0]
        return {epochs: f"{stem}-{epochs}" for epochs in experiment.snapshots}

    def load(self, name, match_recipe_only=False):
        """Load the stored run `name`, a training.Run.

        `match_recipe_only` compares the recipe alone, for a notebook that runs on other data.
        Raises SubmissionError if the run is missing, damaged or of another configuration, or if it
        lacks losses of images that the experiment needs.
        """
        experiment = self.experiments[name]
        run = training.load_run(self.stored / name)
        if run is None:
            raise SubmissionError(f"the run {name} is not in {self.stored}: "
                                  f"train it with python -m study.train {name}")
        if match_recipe_only:
            wanted = dataclasses.asdict(experiment.recipe)
        else:
            wanted = self.configuration_of(experiment)
        remedy = f"remove its folder, then train it with python -m study.train {name}"
        differences = training.differences_between(run.info["config"], wanted)
        if differences:
            raise SubmissionError(
                f"the run {name} in {self.stored} is of another configuration: "
                f"{', '.join(differences)}; {remedy}"
            )
        if experiment.keep_image_losses and not (run.folder / IMAGE_LOSSES).exists():
            raise SubmissionError(f"the run {name} in {self.stored} lacks {IMAGE_LOSSES}; {remedy}")
        return run

    def configuration_of(self, experiment):
        """Return the configuration that identifies the run of an experiment, a dict."""
        start = self.load(experiment.start) if experiment.start else None
        probe = initial_probe(experiment.network, experiment.recipe.seed)
        return training.configuration(probe, experiment.recipe, self.data_of(experiment), start)

    def data_of(self, experiment):
        """Return the data that an experiment trains on."""
        return self.validation_split if experiment.uses_validation_set else self.data

    def has_record(self, name):
        """Return whether a record of the run `name` is stored, of whatever configuration."""
        return (self.stored / name / RECORD).exists()

    def load_all(self, match_recipe_only=False):
        """Load the stored runs; return them, name -> Run, and the names of missing ones, a list.

        Both are in the order of the experiments. A run whose start is not stored counts as missing.
        Raises SubmissionError if a stored run is of another configuration.
        """
        present = {}
        missing = []
        for name, experiment in self.experiments.items():
            has_start = not experiment.start or self.has_record(experiment.start)
            if self.has_record(name) and has_start:
                present[name] = self.load(name, match_recipe_only)
            else:
                missing.append(name)
        return present, missing

    def train_all(self):
        """Train every run that is not stored, in the order of the groups."""
        for group in self.groups.values():
            for experiment in group:
                self.train(experiment.name)

    def train(self, name):
        """Load the run `name`; train it unless it is stored.

        Its record, without weights, is stored when it is finished. Raises SubmissionError if a
        record of another configuration is stored, if the weights that the run starts from are
        missing, and as training.fit does.
        """
        if self.has_record(name):
            return self.load(name)
        experiment = self.experiments[name]
        start = self.train_with_weights(experiment.start) if experiment.start else None
        run = training.load_or_train(
            name,
            experiment.network,
            experiment.recipe,
            self.data_of(experiment),
            self.runs,
            start=start,
            keep_image_losses=experiment.keep_image_losses,
            snapshots=self.snapshot_names(experiment),
        )
        self.store_record(run)
        for snapshot in self.snapshot_names(experiment).values():
            self.train(snapshot)  # finished on the way: found in `runs`
        return run

    def train_with_weights(self, name):
        """Load or train the run `name`; return it from the folder with its weights.

        That is in `stored` or in `runs`. Raises SubmissionError if neither has them.
        """
        run = self.train(name)
        if (run.folder / WEIGHTS).exists():
            return run
        for folder in sorted(self.runs.glob(f"{name}-*")):
            copy = training.load_run(folder)
            if copy and copy.key == run.key and (folder / WEIGHTS).exists():
                return copy
        raise SubmissionError(
            f"the weights of the run {name} are neither in {self.stored} nor in {self.runs}, only "
            f"its record: to train from them, remove {run.folder} and the runs that start from it, "
            "then train all of them again"
        )

    def store_record(self, run):
        """Copy the record of a finished run to the folder `stored`."""
        folder = self.stored / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in RECORD_FILES:
            if (run.folder / name).exists():
                shutil.copy(run.folder / name, folder)
