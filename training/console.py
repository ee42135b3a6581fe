"""What a user sees of training: a progress bar, log lines."""
from statistics import fmean, median

from IPython import get_ipython
from IPython.display import clear_output
from tqdm import tqdm

from utils import in_notebook, progress_bar_options

FEW_EPOCHS = 3  # up to which the course's log line is printed within an epoch
LOG_EVERY = 100  # steps, as in the course's training loop
READINGS_BEFORE_ESTIMATE = 3  # of the clock, before the rest of a run is estimated
ESTIMATE_FROM_SECONDS = 90  # a run that takes less has no estimate


class CellLog:
    """The lines that the running cell of a notebook has printed.

    `number` is the cell's execution count.
    """

    def __init__(self):
        self.number = None
        self.lines = []

    def lines_of_running_cell(self):
        """Return the list of lines, which can be extended; it starts empty in each cell."""
        number = get_ipython().execution_count
        if number != self.number:
            self.number = number
            self.lines = []
        return self.lines


_cell_log = CellLog()


def print_line(line):
    """Print a line, also beside a progress bar; `Console.finish` does not remove it."""
    if in_notebook():
        _cell_log.lines_of_running_cell().append(line)
    tqdm.write(line)


class Console:
    """Shows a run's progress as a bar in a notebook or terminal, and as log lines everywhere.

    Args:
        progress: the run's Progress so far; a continued run shows the log lines up to there, too.
        epochs: of the whole run.
        steps: of an epoch.
    """

    def __init__(self, progress, epochs, steps):
        self.epochs = epochs
        self.steps = steps
        self.lines = self._earlier_lines(progress)
        if in_notebook():
            _cell_log.lines_of_running_cell().extend(self.lines)
        self.estimated = False
        self.bar = None

    def _earlier_lines(self, progress):
        """The log lines of the part of the run that is in `progress`."""
        if self.epochs > FEW_EPOCHS:
            return [_epoch_line(row) for row in progress.history]
        lines = []
        for number in range(len(progress.losses)):
            epoch, step = divmod(number, self.steps)
            if self._is_logged(step + 1):
                mean = fmean(progress.losses[epoch * self.steps:number + 1])
                lines.append(self._step_line(epoch, step + 1, mean))
        return lines

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
        self._show_estimate(progress)
        if self.epochs <= FEW_EPOCHS and self._is_logged(progress.step):
            self._log(self._step_line(progress.epoch, progress.step, progress.running_loss))

    def _show_estimate(self, progress):
        """Say once how long the rest of the run takes, as soon as the speed is known."""
        if self.estimated or len(progress.step_seconds) < READINGS_BEFORE_ESTIMATE:
            return
        self.estimated = True
        left = (self.epochs - progress.epoch) * self.steps - progress.step
        seconds = left * median(progress.step_seconds)
        if seconds > ESTIMATE_FROM_SECONDS:
            tqdm.write(f"about {seconds / 60:.0f} minutes to go")

    def _is_logged(self, step):
        return step % LOG_EVERY == 0 or step == self.steps

    def _step_line(self, epoch, step, running_loss):
        return (
            f"Epoch [{epoch + 1}/{self.epochs}], Step [{step}/{self.steps}] "
            f"Loss: {running_loss:.4f}"
        )

    def end_epoch(self, row):
        """Close the bar; of a long run, log the epoch's row of the history."""
        self.close()
        if self.epochs > FEW_EPOCHS:
            self._log(_epoch_line(row))

    def close(self):
        """Close the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()

    def finish(self):
        """Leave only printed lines in a notebook: the bars' remains would be saved with it."""
        if in_notebook():
            clear_output(wait=True)
            print(*_cell_log.lines_of_running_cell(), sep="\n")

    def _log(self, line):
        self.lines.append(line)
        print_line(line)


def _epoch_line(row):
    """An epoch's row of the history as a log line; seconds are whole."""
    words = []
    for name, value in row.items():
        digits = ".0f" if name == "seconds" else ".4g"
        words.append(f"{name} {value:{digits}}")
    return "  ".join(words)
