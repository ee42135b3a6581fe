"""Ctrl-C and the notebook's stop button: training stops between two steps, its state saved."""
import contextlib
import dataclasses
import signal

from tools.errors import SubmissionError


class TrainingStopped(SubmissionError, KeyboardInterrupt):  # noqa: N818 - a stop is no error
    """Training was interrupted by Ctrl-C or the notebook's stop button; its state is saved."""


@dataclasses.dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    requested: bool = False


@contextlib.contextmanager
def delay_interrupts(folder):
    """Note Ctrl-C in the Interrupt that this context gives, so that no update is cut in two.

    Raises TrainingStopped at the context's end if Ctrl-C was pressed and has had no effect.

    Args:
        folder: the run's folder, for the message.
    """
    interrupt = Interrupt()

    def note(signal_number, frame):
        interrupt.requested = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupt.requested:
        raise TrainingStopped(
            f"stopped; the run in {folder} had just finished: run this again to go on with it"
        )
