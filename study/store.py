"""Finds the runs of the study among those stored in the repository, or trains them."""
import dataclasses
import functools
import shutil
from pathlib import Path

import torch

import training
from study.experiments import HELD_OUT, groups
from utils import SubmissionError

WEIGHTS = "weights.safetensors"
IMAGE_LOSSES = "image_losses.safetensors"
RECORD = ("history.csv", "losses.csv", "predictions.safetensors", IMAGE_LOSSES, "run.json")  # in this order


@functools.cache
def initial_probe(network, seed):
    """The probe of what the function `network` makes, by which its runs are identified."""
    torch.manual_seed(seed)
    return training.network_probe(network(), seed)


class Store:
    """The runs of a plan on `data`: finished records in the folder `stored`, training and weights in `runs`."""

    def __init__(self, plan, data, runs, stored):
        self.data = data
        self.held_out = data.held_out(min(HELD_OUT, len(data.train_labels) // 10))
        self.runs = Path(runs)
        self.stored = Path(stored)
        self.groups = groups(plan)
        self.experiments = {}
        for group in self.groups.values():
            for experiment in group:
                self.add(experiment)

    def add(self, experiment):
        """Enter an experiment and the runs of fewer epochs that are kept on its way."""
        self.experiments[experiment.name] = experiment
        for epochs, name in self.snapshot_names(experiment).items():
            recipe = dataclasses.replace(experiment.recipe, epochs=epochs)
            self.experiments[name] = dataclasses.replace(experiment, name=name, recipe=recipe, snapshots=())

    def snapshot_names(self, experiment):
        """The names of the runs kept on the way of an experiment: epochs -> name."""
        stem = experiment.name.rpartition("-")[0]
        return {epochs: f"{stem}-{epochs}" for epochs in experiment.snapshots}

    def load(self, name, match_recipe_only=False):
        """The stored run `name`. Raises SubmissionError where it is missing or of another configuration.

        `match_recipe_only` compares the recipe alone, for a notebook that runs on other data.
        """
        experiment = self.experiments[name]
        run = training.load_run(self.stored / name)
        if run is None:
            raise SubmissionError(f"the run {name} is not in {self.stored}: train it with python -m study.train")
        wanted = dataclasses.asdict(experiment.recipe)
        if not match_recipe_only:
            start = self.load(experiment.start) if experiment.start else None
            probe = initial_probe(experiment.network, experiment.recipe.seed)
            wanted = training.configuration(probe, experiment.recipe, self.data_of(experiment), start)
        differences = training.differences_between(run.info["config"], wanted)
        if experiment.keep_image_losses and not (run.folder / IMAGE_LOSSES).exists():
            differences.append(f"no {IMAGE_LOSSES}")
        if differences:
            raise SubmissionError(f"the run {name} in {self.stored} is of another configuration: "
                                  f"{', '.join(differences)}; remove it and train it with python -m study.train")
        return run

    def data_of(self, experiment):
        """The data that an experiment trains on."""
        return self.held_out if experiment.held_out else self.data

    def has_record(self, name):
        """Whether a record of the run `name` is stored, of whatever configuration."""
        return (self.stored / name / "run.json").exists()

    def load_all(self, match_recipe_only=False):
        """The stored runs, name -> Run, in the order of the experiments; and the names of those that are missing.

        A run whose start is not stored counts as missing. Raises SubmissionError where a stored run is of another
        configuration.
        """
        present, missing = {}, []
        for name, experiment in self.experiments.items():
            if self.has_record(name) and (not experiment.start or self.has_record(experiment.start)):
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
        """The run `name`, trained unless it is stored; its record, without weights, is stored as soon as it is done.

        Raises SubmissionError where a record of another configuration is stored, where the weights that it starts from
        are not at hand, and as training.fit does.
        """
        if self.has_record(name):
            return self.load(name)
        experiment = self.experiments[name]
        run = training.load_or_train(
            name,
            experiment.network,
            experiment.recipe,
            self.data_of(experiment),
            self.runs,
            start=self.with_weights(experiment.start) if experiment.start else None,
            keep_image_losses=experiment.keep_image_losses,
            snapshots=self.snapshot_names(experiment),
        )
        self.keep(run)
        for snapshot in self.snapshot_names(experiment).values():
            self.train(snapshot)  # finished on the way: found in `runs`
        return run

    def with_weights(self, name):
        """The stored run `name`, or its copy in `runs`, where the weights are."""
        run = self.train(name)
        if not (run.folder / WEIGHTS).exists():
            for folder in sorted(self.runs.glob(f"{name}-*")):
                copy = training.load_run(folder)
                if copy and copy.key == run.key:
                    return copy
        return run

    def keep(self, run):
        """Copy a finished run's record to the folder `stored`, run.json last: with it the run counts as finished."""
        target = self.stored / run.name
        target.mkdir(parents=True, exist_ok=True)
        for name in RECORD:
            if (run.folder / name).exists():
                shutil.copy(run.folder / name, target)
