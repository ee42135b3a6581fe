"""The saved state of an unfinished run: when it is written, how, and how it is read."""
import contextlib
import dataclasses
import os
import time

import torch
from safetensors import SafetensorError

from tools.errors import SubmissionError
from training.interrupt import TrainingStopped
from training.progress import Progress
from training.run_files import STATE

SAVE_EVERY = 180  # seconds
STATE_KEYS = {"config", "environment", "trainer", "progress"}


class Checkpointer:
    """Saves the state of a run every three minutes, on Ctrl-C, and whenever it is asked to.

    Args:
        folder: the run's folder.
        config: the run's configuration, from `configuration`.
        environment: from `environment`.
        interrupt: the Interrupt that Ctrl-C sets.
    """

    def __init__(self, folder, config, environment, interrupt):
        self.folder = folder
        self.config = config
        self.environment = environment
        self.interrupt = interrupt
        self.last_save = time.perf_counter()

    def due(self):
        """Whether it is time to save."""
        return self.interrupt.requested or time.perf_counter() - self.last_save > SAVE_EVERY

    def save(self, trainer, progress):
        """Write the state; raise TrainingStopped after Ctrl-C, unless the run is at its end."""
        save_state(self.folder, {
            "config": self.config,
            "environment": self.environment,
            "trainer": trainer.state_dict(),
            "progress": dataclasses.asdict(progress),
        })
        self.last_save = time.perf_counter()
        if self.interrupt.requested and progress.epoch < trainer.recipe.epochs:
            raise TrainingStopped(
                f"stopped at epoch {progress.epoch + 1}, step {progress.step}; run this again to "
                f"continue (the state is in {self.folder})"
            )


def save_state(folder, state):
    """Write state.pt so that a whole one exists at every moment: write, flush to disk, rename.

    Raises:
        SubmissionError: if a weight is not finite, or the disk cannot be written.
    """
    if not all(value.isfinite().all() for value in state["trainer"]["model"].values()):
        raise SubmissionError(
            f"the network holds values that are not finite: try a lower learning rate ({folder} "
            "keeps the last finite state, if one was saved)"
        )
    temporary = folder / "state.tmp"
    try:
        with name_disk_faults(folder), open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        with name_disk_faults(folder):
            os.replace(temporary, folder / STATE)  # Windows refuses this for an open file
    finally:
        temporary.unlink(missing_ok=True)


def load_state(folder):
    """Return the state saved in `folder`, tensors on the CPU; None if there is none.

    Raises:
        SubmissionError: if the file is damaged, or of another version of the training code.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file shows as any of several kinds
        raise SubmissionError(f"{path} is damaged: remove it to start this run again") from error
    if not _has_known_form(state):
        raise SubmissionError(
            f"{path} was saved by another version of the training code and cannot be continued: "
            "remove it to start this run again"
        )
    return state


def _has_known_form(state):
    """Whether a loaded state has the entries that `Checkpointer.save` writes."""
    if not isinstance(state, dict) or set(state) != STATE_KEYS:
        return False
    fields = {field.name for field in dataclasses.fields(Progress)}
    return set(state["progress"]) == fields


@contextlib.contextmanager
def name_disk_faults(folder):
    """Turn the exceptions of a full or read-only disk into a SubmissionError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError
        raise SubmissionError(
            f"{folder} cannot be written ({error}); what was saved before is kept: make room and "
            "run this again to continue"
        ) from error
