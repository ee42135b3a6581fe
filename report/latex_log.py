"""Finds in the logs of LaTeX and BibTeX faults, one rule for each, and what authors are told.

LaTeX names lines of its source; a student needs to know the cell. The source has a comment where
each cell begins.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from report.bibliography import read_bibliography

CELL = re.compile(r"(?m)^ *% cell (\d+)$")  # where the LaTeX of a cell begins
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
    cell_names: list  # of all cells of the notebook
    bibliography: Path

    def cell_at_line(self, line):
        """The name of the cell that a line of the source comes from."""
        return cell_of("\n".join(self.latex.split("\n")[:line]), self.cell_names)

    def source_at_line(self, line):
        """The start of a line of the source, by which an author finds what it is about."""
        lines = self.latex.split("\n")[:line]
        last = lines[-1].strip()
        if ended := re.match(r"\\end\{([a-z]+\*?)\}", last):
            before, _, body = "\n".join(lines).rpartition(f"\\begin{{{ended[1]}}}")
            last = " ".join(body.split()) if before else last
        return repr(re.sub(r"^(?:\{[^{}]*\} )?\\toprule ", "", last)[:50])


def cell_of(before, cell_names):
    """The name of the cell at a position, by the LaTeX before it; `cell_names` has one for each."""
    numbers = CELL.findall(before)
    if not numbers:
        return "the title block"
    return cell_names[int(numbers[-1]) - 1]


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
        f"{cell_of(before, run.cell_names)}: no font here has {', '.join(glyphs)}: leave it out, "
        f"or install a font that has it ({FONT_PACKAGES}); formulas and {run.bibliography.name} "
        "are set in the paper's own font alone"
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


@dataclass
class LatexError:
    """An error of LaTeX in the paper's source."""

    line: int
    message: str
    read: str  # the end of what LaTeX had read of the line


def latex_errors(log):
    """The errors in a log, of a run that goes on behind them: a list of LatexErrors."""
    errors = []
    for error in LATEX_ERROR.finditer(log):
        if error["file"] == "tex":
            read = error["read"].removeprefix("...")
            errors.append(LatexError(int(error["line"]), error["message"], read))
    return errors


LATEX_ERROR = re.compile(
    r"^(?:\./)?report\.(?P<file>tex|bbl):(?P<line>\d+): (?P<message>.*)"
    r"(?s:.*?)"
    r"^l\.\d+ ?(?P<read>.*)",  # the line up to where LaTeX stopped
    re.M,
)


def _latex_error(run):
    error = LATEX_ERROR.search(run.log)
    if not error:
        return None
    source = run.bibliography.name
    if error["file"] == "tex":
        source = run.cell_at_line(int(error["line"]))
    return f"{source}: LaTeX stopped: {error['message']} {error['read'][-80:]}"


def _unclosed(run):
    error = re.search(r"^! (File ended.*|Emergency stop.*)", run.log, re.M)
    if not error:
        return None
    return (
        f"LaTeX stopped: {error[1]} A brace or an environment of a formula or table is not closed"
    )


def find_warnings(run):
    """What of a finished LatexRun the author is told, a list of sentences."""
    warnings = [*_scaled(run), *_too_wide(run), *_too_high(run), *_undefined(run)]
    return list(dict.fromkeys(warnings))


def _scaled(run):
    """Yield what became much smaller, since it is wider than its column."""
    lines = {}
    expression = r"Scaled in line (\d+): ([\d.]+)pt to ([\d.]+)pt"
    for line, width, room in re.findall(expression, run.log):
        lines[int(line)] = float(room) / float(width)
    for line, part in sorted(lines.items()):
        yield (
            f"{run.cell_at_line(line)}: a formula or a table is scaled to {part:.0%} of its size "
            f"({run.source_at_line(line)}): break it, or show less of it."
        )


def overfull_lines(run):
    """The parts of the source that stick out of their column, a dict: (first, last) -> points."""
    found = {}
    expression = r"Overfull \\hbox \(([\d.]+)pt too wide\).*?lines? (\d+)(?:--(\d+))?\n"
    for points, first, last in re.findall(expression, run.log):
        if float(points) > MOST_POINTS:
            lines = (int(first), int(last or first))
            found[lines] = max(found.get(lines, 0), float(points))
    return found


def _too_wide(run):
    for (first, _), points in overfull_lines(run).items():
        yield (
            f"{run.cell_at_line(first)}: something is {points:.0f} points wider than its column "
            f"({run.source_at_line(first)}): break the formula or the word, or make the table "
            "narrower."
        )


def _too_high(run):
    expression = r"(?:Overfull \\vbox \(|Float too large for page by )([\d.]+)pt"
    pages = {}
    for found in re.finditer(expression, run.log):
        points = float(found[1])
        if points > MOST_POINTS:
            finished = re.findall(r"(?m)^[\])\s]*\[\d+\b", run.log[: found.start()])
            page = len(finished) + 1
            pages[page] = max(points, pages.get(page, 0))
    for page, points in pages.items():
        yield (
            f"page {page}: something is {points:.0f} points higher than the page, a formula, a "
            "table or a picture with its caption: show less of it, or in parts."
        )


def _undefined(run):
    """Warnings about labels, and glyphs whose number the log does not give."""
    expression = r"Missing character: [^:;!]*|Warning: .*(?:undefined on|multiply defined).*"
    return [warning.strip() for warning in dict.fromkeys(re.findall(expression, run.log))]


# The first fault is often the cause of those behind it.
RULES = (
    _missing_glyphs,
    _bibtex_error,
    _latex_error,
    _unclosed,
)
