"""The settings of the notebooks and of all commands: environment variables of the same names."""
import os

# They replace the values in a notebook's cell tagged `parameters`.
NOTEBOOK_SETTINGS = ("SEED", "EPOCHS", "BATCH_SIZE", "CIFAR10_DIR", "DATASET", "FRESH", "RUNS")
SETTINGS = (
    *NOTEBOOK_SETTINGS,
    *("DRAFT", "STRICT", "WEIGHTS", "SUBMISSION", "RERUN", "SUBMISSIONS", "ROSTER", "JOBS"),
)


def is_set(name):
    """Whether a setting is switched on: without a value, or with 0, it is off."""
    return os.environ.get(name, "0") not in ("", "0")
