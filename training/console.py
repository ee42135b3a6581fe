"""What a user sees of training: a progress bar, log lines."""
from IPython.display import clear_output
from tqdm import tqdm

from utils import in_notebook, progress_bar_options

FEW_EPOCHS = 3  # up to which the course's log line is printed within an epoch
LOG_EVERY = 100  # steps, as in the course's training loop


class Console:
    """Shows a run's progress as a bar in a notebook or terminal, and as log lines everywhere.

    Args:
        epochs: of the whole run.
        steps: of an epoch.
    """

    def __init__(self, epochs, steps):
        self.epochs = epochs
        self.steps = steps
        self.lines = []
        self.bar = None

    def start_epoch(self, progress):
        """Begin a bar for the epoch in which `progress` stands."""
        self.bar = tqdm(
            total=self.steps,
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1}/{self.epochs}",
            **progress_bar_options(),
        )

    def advance(self):
        """Move the bar by one step."""
        self.bar.update()

    def show_step(self, progress, learning_rate):
        """Show the running means; of a short run, also as the course's log line."""
        self.bar.set_postfix(
            loss=f"{progress.running_loss:.4f}",
            accuracy=f"{progress.running_accuracy:.1f}%",
            rate=f"{learning_rate:.2g}",
        )
        logged = progress.step % LOG_EVERY == 0 or progress.step == self.steps
        if self.epochs <= FEW_EPOCHS and logged:
            self._log(
                f"Epoch [{progress.epoch + 1}/{self.epochs}], "
                f"Step [{progress.step}/{self.steps}] Loss: {progress.running_loss:.4f}"
            )

    def end_epoch(self, row):
        """Close the bar; of a long run, log the epoch's row of the history."""
        self.close()
        if self.epochs > FEW_EPOCHS:
            self._log("  ".join(f"{name} {value:.4g}" for name, value in row.items()))

    def close(self):
        """Close the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()

    def finish(self):
        """Leave only the log lines in a notebook: the bars' remains would be saved with it."""
        if in_notebook():
            clear_output(wait=True)
            print(*self.lines, sep="\n")

    def _log(self, line):
        self.lines.append(line)
        tqdm.write(line)
