"""Printed results: which text that code prints stands in the paper, and how it is set.

What a cell prints to its standard output, and a result without a picture or a table, stands where
it was shown, small and verbatim. Of long text a few lines are set. Errors' and warnings' stream,
installers' messages, progress bars and the names of Python objects are no results.
"""

import re
import unicodedata

from report.geometry import COLUMN_POINTS
from report.latex_text import escape_code

MOST_LINES = 20  # of a text that is set whole
KEPT_LINES = 10  # of one that is longer
MOST_LINES_ASKED = 500  # of one that the author wants whole
LETTER = 0.525  # width of a letter, as a part of the size of the print
SIZES = (8, 5.6)  # the largest and the smallest print for aligned text, in points
WRAPPED = 7  # print of lines that are longer still

ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\^_])")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
PROGRESS_BAR = re.compile(r"\s*(?:[^|]*:\s*)?\d+%\s*\|")
# Lines and blocks that typewriter fonts lack, as old printers printed them
DRAWINGS = dict.fromkeys(range(0x2500, 0x2580), "+")
DRAWINGS |= dict.fromkeys(range(0x2580, 0x25A0), "#")
DRAWINGS |= dict.fromkeys(map(ord, "─━┄┅┈┉╌╍═╴╶╸╺╼╾"), "-")
DRAWINGS |= dict.fromkeys(map(ord, "│┃┆┇┊┋╎╏║╵╷╹╻╽╿"), "|")
# <Figure size 640x480 with 1 Axes>, [<matplotlib.lines.Line2D at 0x7f…>], Text(0.5, 1.0, 'Loss')
OBJECT = re.compile(
    r"[\[({\s]*<(?!tf\.)[\w.]+[ :>](?!.*numpy=)"  # numpy=…: a tensor, with its values
    r"|Text\(|.*\bat 0x[0-9a-f]+"
    r"|.*<(?:a list of|BarContainer)",
    re.DOTALL,
)
# cells of nothing but these lines
INSTALLER = re.compile(
    r"\s*(?:#.*|[!%]+\s*(?:sudo\s+)?(?:pip3?|conda|mamba|apt|apt-get|git|wget|curl|unzip|tar|gdown"
    r"|kaggle|mkdir|cp|mv|ls|rm|cd|nvidia-smi|load_ext|matplotlib|python3? -m pip)\b.*)?"
)


def is_installer(source):
    """Whether a cell only prepares the machine: what it prints is no result."""
    lines = source.splitlines()
    return bool(lines) and all(INSTALLER.fullmatch(line) for line in lines)


def is_object(text):
    """Whether the plain text of a result is the name of a Python object and says nothing else."""
    return bool(OBJECT.match(text)) or not text.strip()


def shown_lines(text):
    """The lines that a terminal shows of printed text, a list."""
    lines = []
    for line in ESCAPE_SEQUENCES.sub("", text).split("\n"):
        line = _overwrite(line.rstrip("\r"))
        line = CONTROL_CHARACTERS.sub("", line.expandtabs(8)).rstrip().translate(DRAWINGS)
        if not PROGRESS_BAR.match(line):
            lines.append(line)
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _overwrite(line):
    """A line after its carriage returns and backspaces."""
    line = line.rpartition("\r")[2]
    if "\b" not in line:
        return line
    letters = []
    position = 0
    for letter in line:
        if letter == "\b":
            position = max(0, position - 1)
        else:
            letters[position : position + 1] = letter
            position += 1
    return "".join(letters)


def shorten(lines, is_log, is_whole=False):
    """The lines of a text that are set, and how many it has too many (0: it is set whole).

    Args:
        lines: of the text.
        is_log: whether the last lines are those that matter, else the first ones.
        is_whole: whether the author asks for all of it.
    """
    most = MOST_LINES_ASKED if is_whole else MOST_LINES
    if len(lines) <= most:
        return lines, 0
    shown = most if is_whole else KEPT_LINES
    cut = len(lines) - shown
    if is_log:
        return ["…", *lines[-shown:]], cut
    return [*lines[:shown], "…"], cut


def write(lines):
    """The LaTeX of printed lines; those that are too long for a column are continued."""
    longest = max(map(_columns, lines), default=1)
    size = min(SIZES[0], COLUMN_POINTS / (LETTER * max(1, longest)))
    if size < SIZES[1]:
        size = WRAPPED
        most = int(COLUMN_POINTS / (LETTER * size))
        lines = [part for line in lines for part in _wrap(line, most)]
    text = "\\\\\n".join(escape_code(line.replace(" ", "\u00a0")) or "~" for line in lines)
    return f"\\begin{{printed}}{{{size:.1f}}}\n{text}\n\\end{{printed}}"


def _wrap(line, most):
    parts = [""]
    width = 0
    for letter in line:
        width += _columns(letter)
        if width > most:
            parts.append("")
            width = _columns(letter)
        parts[-1] += letter
    return parts


def _columns(text):
    """How many letters of a typewriter a text is wide."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide
