"""Faults that a user can mend: one base class, shown as one sentence."""


class SubmissionError(Exception):
    """A foreseeable fault: its text says what is wrong, where, and what to do.

    A notebook shows this text without a traceback.
    """

    def _render_traceback_(self):  # IPython asks for this method before it formats a traceback
        return [f"{type(self).__name__}: {self}"]


class PaperError(SubmissionError):
    """The notebook cannot become a paper: one sentence names cell and remedy."""


class CheckError(SubmissionError, AssertionError):
    """Checks of a cell failed; the text lists all of them."""
