"""Checks of what a notebook builds: each says what it expected and what it found."""
from tools.errors import CheckError

ADVICE = "Correct the code, or the expectation in this cell if yours differs on purpose."


class Checks:
    """The checks of one cell: `add` prints each of them, `finish` names those that failed."""

    def __init__(self):
        self.count = 0
        self.failed = []

    def add(self, what, expected, found, holds=None):
        """Print what was expected and what was found.

        Args:
            what: what is checked, in words.
            expected: a value, or words.
            found: a value, or words; strings in a list get a line each where the check fails.
            holds: whether the check holds; None compares `expected` with `found`.
        """
        question = f"{what}: expected {expected}, found"
        print(question, found)
        self.count += 1
        if holds is None:
            holds = expected == found
        if not holds:
            self.failed.append(f"{question}{_answer(found)}")

    def finish(self):
        """Raise CheckError if a check failed."""
        if self.failed:
            lines = "".join(f"\n- {line}" for line in self.failed)
            raise CheckError(
                f"{len(self.failed)} of {self.count} checks failed:{lines}\n{ADVICE}"
            )


def _answer(found):
    """What was found, as it follows the expectation: strings in a list get a line each."""
    if isinstance(found, list) and found and isinstance(found[0], str):
        return "".join(f"\n    {line}" for line in found)
    return f" {found}"
