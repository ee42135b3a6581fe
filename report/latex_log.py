"""Finds in the logs of LaTeX and BibTeX what a paper must not have: one rule for each fault.

LaTeX names lines of its source; a student needs to know the cell. The source has a comment where
each cell begins.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from report.bibliography import read_bibliography

MOST_POINTS = 20  # that something may stick out of its column or page
FONT_PACKAGES = (
    "Debian: fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto-core for other scripts, "
    "fonts-symbola for emoji"
)


@dataclass
class LatexRun:
    """A run of LaTeX: what went in and what it left."""

    latex: str
    log: str
    bibtex_log: str
    failure: str  # a sentence if it did not end as it should, else ""
    names: list  # what messages call the notebook's cells
    bibliography: Path

    def cell_at_line(self, line):
        """What messages call the cell that a line of the source comes from."""
        return cell_of("\n".join(self.latex.split("\n")[:line]), self.names)


def cell_of(before, names):
    """What messages call the cell, by the LaTeX before a position; `names` has one for each."""
    numbers = re.findall(r"^ *% cell (\d+)$", before, re.M)
    if not numbers:
        return "the title block"
    return names[int(numbers[-1]) - 1]


def dropped_glyphs(log):
    """The set of characters that the paper lacks because its fonts do."""
    codes = re.findall(r"Missing character: .*? \(U\+([0-9A-F]+)\)", log)
    return {chr(int(code, 16)) for code in codes}


def find_fault(run):
    """A sentence about the first fault of a LatexRun, or None."""
    for rule in RULES:
        if fault := rule(run):
            return fault
    return None


def _missing_glyphs(run):
    lacking = dropped_glyphs(run.log)
    if not lacking:
        return None
    glyphs = [f"{glyph} (U+{ord(glyph):04X})" for glyph in sorted(lacking)[:5]]
    before = run.latex.partition(min(lacking))[0]
    return (
        f"{cell_of(before, run.names)}: no font here has {', '.join(glyphs)}: leave it out, or "
        f"install a font that has it ({FONT_PACKAGES}); formulas and {run.bibliography.name} are "
        "set in the paper's own font alone"
    )


def _bibtex_error(run):
    """BibTeX's first error, with the entry that it is about."""
    error = re.search(r"^(.*?)---line (\d+) of file .*\.bib", run.bibtex_log, re.M)
    if not error:
        return None
    message, line = error[1], int(error[2])
    entry = "before the first entry"
    for key, found in read_bibliography(run.bibliography).items():
        if found.line <= line:
            entry = f"entry {key}"
    return f"{run.bibliography.name}, {entry}, line {line}: BibTeX says: {message}"


LATEX_ERROR = re.compile(
    r"^(?:\./)?report\.(?P<file>tex|bbl):(?P<line>\d+): (?P<message>.*)"
    r"(?s:.*?)"
    r"^l\.\d+ (?P<read>.*)",  # the line up to where LaTeX stopped
    re.M,
)


def _latex_error(run):
    error = LATEX_ERROR.search(run.log)
    if not error:
        return None
    place = run.bibliography.name
    if error["file"] == "tex":
        place = run.cell_at_line(int(error["line"]))
    return f"{place}: LaTeX stopped: {error['message']} {error['read'][-80:]}"


def _unclosed(run):
    error = re.search(r"^! (File ended.*|Emergency stop.*)", run.log, re.M)
    if not error:
        return None
    return (
        f"LaTeX stopped: {error[1]} A brace or an environment of a formula or table is not closed"
    )


def _too_wide(run):
    widest = None
    points = MOST_POINTS
    expression = r"Overfull \\hbox \(([\d.]+)pt too wide\).*?lines? (\d+)(?:--\d+)?\n(.*)"
    for found in re.finditer(expression, run.log):
        if float(found[1]) > points:
            widest = found
            points = float(found[1])
    if not widest:
        return None
    words = re.sub(r"\\\S+ ?|\[\]|[$|]", "", widest[3]).strip()[:40]
    return (
        f"{run.cell_at_line(int(widest[2]))}: something is {points:.0f} points wider than its "
        f"column ({words!r}): break the formula or the word, or make the table narrower"
    )


def _too_high(run):
    expression = r"(?:Overfull \\vbox \(|Float too large for page by )([\d.]+)pt"
    for found in re.finditer(expression, run.log):
        points = float(found[1])
        if points > MOST_POINTS:
            finished = re.findall(r"(?m)^[\])\s]*\[\d+\b", run.log[: found.start()])
            return (
                f"page {len(finished) + 1}: something is {points:.0f} points higher than the page, "
                "a formula, a table or a picture with its caption: show less of it, or in parts"
            )
    return None


def _undefined(run):
    """Warnings about labels, and glyphs whose number the log does not give."""
    expression = r"Missing character: [^:;!]*|Warning: .*(?:undefined on|multiply defined).*"
    warning = re.search(expression, run.log)
    return warning and warning[0]


# The first fault is often the cause of those behind it.
RULES = (
    _missing_glyphs,
    _bibtex_error,
    _latex_error,
    _unclosed,
    _too_wide,
    _too_high,
    _undefined,
)
