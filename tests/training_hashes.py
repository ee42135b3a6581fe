"""Print hashes of what short runs give, by recipe and number format: losses, weights, predictions.

    python -m tests.training_hashes > before.txt

Run it before and after a change of the training code on one machine. If all lines but the first
agree, the changed code computes the same bit for bit, and `EQUIVALENT_ENGINES` in
`analysis/environment_table.py` may name the earlier version.
"""

import contextlib
import io
import tempfile
from dataclasses import replace

import torch

import training
from study.experiments import FAST, RESTART
from study.networks import submission_network
from tools.terminal import replace_unprintable
from training import runs
from training.run_files import LOSSES, PREDICTIONS, WEIGHTS
from utils import Data

BATCH_SIZE = 64
BATCHES = 6
SHORT_FAST = replace(FAST, batch_size=BATCH_SIZE, epochs=2)
SHORT_RESTART = replace(RESTART, batch_size=BATCH_SIZE, epochs=2)
RECIPES = {
    "fast": SHORT_FAST,
    "augmentation": replace(SHORT_FAST, augmentation="crop flip trivialaugment cutmix"),
    "random stem": replace(SHORT_FAST, first_filters="random", pad_with="zeros"),
    "adamw": replace(SHORT_FAST, optimizer="adamw", learning_rate=0.002),
    "sgd": replace(SHORT_FAST, optimizer="sgd", learning_rate=0.1, momentum=0.9),
    "adam": SHORT_RESTART,
    "control": replace(SHORT_RESTART, learning_rate=0.0),
    "filled moments": replace(SHORT_RESTART, zero_rate_epochs=1),
    "with replacement": replace(SHORT_RESTART, order="with replacement"),
    "reversed": replace(SHORT_RESTART, order="reversed", augmentation=""),
}


def random_data():
    """Return random images and labels, a utils.Data: the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (BATCHES * BATCH_SIZE, 3, 32, 32), dtype=torch.uint8, generator=generator
    )
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    return Data(images, labels, images[:BATCH_SIZE], labels[:BATCH_SIZE], tuple("0123456789"), "")


def hash_of_run(recipe, data):
    """Train the assignment's network by a recipe; return the hash of the files of its run."""
    log = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, log:
        run = training.load_or_train("run", submission_network, recipe, data, folder)
        contents = [(run.folder / name).read_bytes() for name in (LOSSES, WEIGHTS, PREDICTIONS)]
    return training.short_hash(*contents)


def main():
    """Print the version of the training code, then a line for each recipe."""
    replace_unprintable()
    data = random_data()
    environment = training.environment()
    print(f"training code {environment['engine']} on {environment['device']}")
    for precision in ("fp32", "bf16"):
        runs.environment = lambda: environment | {"precision": precision}  # noqa: B023 - used here
        for name, recipe in RECIPES.items():
            print(f"{precision}  {name:18}{hash_of_run(recipe, data)}", flush=True)


if __name__ == "__main__":
    main()
