"""How far a run is, and what was measured on the way."""
import dataclasses
from statistics import fmean, median

STRETCHES_BEFORE_PAUSES = 3  # that say how long a step takes
LONGEST_STRETCH = 10  # times the median; a process that was paused takes longer


@dataclasses.dataclass
class Progress:
    """Whole epochs, steps of the current one, and the measurements of both.

    A run's saved state holds these fields.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    # The loss of each step of the run.
    losses: list = dataclasses.field(default_factory=list)
    # The accuracy of each step of the current epoch, in [0, 1].
    accuracies: list = dataclasses.field(default_factory=list)
    # Losses of single images, float16 tensors (steps, B), if they are wanted.
    image_losses: list = dataclasses.field(default_factory=list)
    # Seconds per step of each stretch of steps between two readings of the clock.
    step_seconds: list = dataclasses.field(default_factory=list)
    # A dict for each whole epoch.
    history: list = dataclasses.field(default_factory=list)

    @property
    def running_loss(self):
        """The mean loss of the current epoch's steps."""
        return fmean(self.losses[-self.step:])

    @property
    def running_accuracy(self):
        """The mean accuracy of the current epoch's steps, in per cent."""
        return 100 * fmean(self.accuracies)

    def add_time(self, seconds, steps):
        """Count the time of a stretch of steps; a pause of the process does not count.

        A stretch was paused if its steps took more than ten times the median, once three stretches
        are known. Its steps then count as ten times the median.

        Args:
            seconds: that the stretch took.
            steps: how many.
        """
        seconds_per_step = seconds / steps
        if len(self.step_seconds) >= STRETCHES_BEFORE_PAUSES:
            longest = LONGEST_STRETCH * median(self.step_seconds)
            seconds_per_step = min(seconds_per_step, longest)
        self.step_seconds.append(seconds_per_step)
        self.seconds += seconds_per_step * steps

    def end_epoch(self, learning_rate):
        """Close the current epoch in the history.

        Args:
            learning_rate: that of the epoch's last step.
        """
        self.history.append({
            "epoch": self.epoch + 1,
            "train_loss": self.running_loss,
            "train_accuracy": self.running_accuracy,
            "learning_rate": learning_rate,
            "seconds": self.seconds,
        })
        self.epoch += 1
        self.step = 0
        self.accuracies = []
