"""Metrics of training steps: collected on the device, fetched now and then, checked."""
import time

import torch

from tools.errors import SubmissionError

FETCH_EVERY = 100  # steps; a fetch waits for the device
# Steps of a run after which its speed is known, so that a pause is noticed.
FIRST_FETCHES = (5, 10, 15)


class Metrics:
    """Brings the measurements of steps from the device into a run's Progress.

    Args:
        progress: the run's Progress.
        folder: the run's folder, for messages.
        keep_image_losses: whether to keep the loss of each image in each step.
    """

    def __init__(self, progress, folder, keep_image_losses=False):
        self.progress = progress
        self.folder = folder
        self.keep_image_losses = keep_image_losses
        self.pending = []  # still on the device
        self.last_reading = time.perf_counter()

    def add(self, measured):
        """Note what `Trainer.step` returned, without waiting for the device."""
        if not self.keep_image_losses:
            measured = measured[:2]
        self.pending.append(measured)

    def due(self):
        """Whether it is time to fetch."""
        step = self.progress.step
        if self.progress.epoch == 0 and step in FIRST_FETCHES:
            return True
        return step % FETCH_EVERY == 0

    def fetch(self, learning_rate, loss_scale):
        """Enter all pending measurements into the progress.

        This is the only place where training waits for the device.

        Args:
            learning_rate: of the last step, for the message.
            loss_scale: the gradient scaler's; below 1, gradients overflow whatever it does.

        Raises:
            SubmissionError: if a loss or a gradient is not finite.
        """
        progress = self.progress
        measured = torch.stack(self.pending).cpu().double()
        losses = measured[:, 0]
        if not losses.isfinite().all():
            self._refuse_losses(losses, learning_rate)
        if loss_scale < 1:
            self._refuse_overflow(learning_rate)
        self.add_seconds(len(self.pending))
        self.pending = []
        progress.losses += losses.tolist()
        progress.accuracies += measured[:, 1].tolist()
        if self.keep_image_losses:
            progress.image_losses.append(measured[:, 2:].half())

    def _refuse_losses(self, losses, learning_rate):
        """Raise the error for losses that are not finite, with the first such step.

        `Trainer.step` also returns NaN as the loss if a gradient is not finite.
        """
        before = self.progress.step - len(losses)
        step = before + 1 + int(losses.isfinite().logical_not().byte().argmax())
        raise SubmissionError(
            f"the loss or a gradient is not finite at epoch {self.progress.epoch + 1}, step "
            f"{step}, learning rate {learning_rate:.3g}; {self._advice()}"
        )

    def _refuse_overflow(self, learning_rate):
        """Raise the error for gradients that overflow in float16, however small their scale."""
        raise SubmissionError(
            f"gradients overflow in float16 at epoch {self.progress.epoch + 1}, before step "
            f"{self.progress.step + 1}, learning rate {learning_rate:.3g}; {self._advice()}"
        )

    def _advice(self):
        return (
            "try a lower one, or a longer warm-up with schedule='linear' "
            f"({self.folder} keeps the last finite state, if one was saved)"
        )

    def add_seconds(self, steps):
        """Count the time since the last reading of the clock, in which `steps` steps were done."""
        now = time.perf_counter()
        self.progress.add_time(now - self.last_reading, steps)
        self.last_reading = now

    def restart_clock(self):
        """Leave out the time since the last reading, in which nothing was trained."""
        self.last_reading = time.perf_counter()
