"""Changes the paper's LaTeX where LaTeX cannot set it: formulas or whole cells are left out."""

import itertools
import re

from report.formulas import DISPLAYS
from report.latex_log import CELL, cell_of
from report.latex_writer import write_code_words

FORMULA = re.compile(
    r"\\fitdisplay\{.*?\}\{%\n\\begin\{(?P<fitted>\w+\*?)\}.*?\\end\{(?P=fitted)\}\}"
    rf"|\\begin\{{(?P<display>(?:{DISPLAYS})\*?)\}}.*?\\end\{{(?P=display)\}}"
    r"|(?<!\\)\\\[.*?(?<!\\)\\\]"
    r"|(?<!\\)\\\(.*?(?<!\\)\\\)",
    re.DOTALL,
)
INLINE = re.compile(r"(?<!\\)\\\((.*?)(?<!\\)\\\)", re.DOTALL)
LONG = 25  # letters of a formula that may be too wide for its line
# Where the regions of the source that cells fill start and end. The bibliography stands between
# the body and the appendix, behind a comment of nbconvert's template.
START = "\\maketitle"
BIBLIOGRAPHY = "% Add a bibliography"
END = "\\end{document}"


def leave_out(latex, errors, cell_names):
    """The paper's source without what LaTeX cannot set, and a sentence about each: a list.

    A formula becomes its source in a typewriter font; what is no formula is left out with all that
    its cell shows. A source in which nothing can be left out is returned as it is.

    Args:
        latex: the source.
        errors: LatexErrors.
        cell_names: of all cells of the notebook.
    """
    formulas = list(FORMULA.finditer(latex))
    changes = {}  # (start, end) -> what stands there instead
    sentences = []
    for error in errors:
        position = _position(latex, error)
        if any(start <= position <= end for start, end in changes):
            continue
        reason = f"{error.message} {error.read[-30:]}".strip()
        formula = next((each for each in formulas if each.start() < position <= each.end()), None)
        cell_name = cell_of(latex[:position], cell_names)
        if formula:
            changes[formula.span()] = _as_source(formula[0])
            sentences.append(
                f"{cell_name}: LaTeX cannot set a formula, its source stands there ({reason})."
            )
        elif span := _fragment(latex, position):
            changes[span] = "\n\n"
            sentences.append(
                f"{cell_name}: LaTeX cannot set what it shows, it is left out ({reason})."
            )
    for (start, end), instead in sorted(changes.items(), reverse=True):
        latex = latex[:start] + instead + latex[end:]
    return latex, sentences


def _position(latex, error):
    """Where in the source LaTeX stopped."""
    lines = latex.split("\n")
    start = sum(len(line) + 1 for line in lines[: error.line - 1])
    line = lines[error.line - 1] if error.line <= len(lines) else ""
    found = line.find(error.read) if error.read else -1
    return start + (found + len(error.read) if found >= 0 else len(line))


def _as_source(formula):
    words = " ".join(formula.split())
    return "{\\raggedright " + write_code_words(words) + "}"


def _fragment(latex, position):
    """Start and end of what the cell at a position shows, None where no cell shows anything."""
    start = latex.find(START)
    end = latex.rfind(END)
    bibliography = latex.find(BIBLIOGRAPHY)
    if position < bibliography:
        end = bibliography
    else:
        start = max(start, bibliography)
    if not 0 <= start < position < end:
        return None
    starts = [cell.end() for cell in CELL.finditer(latex, start, position)]
    if not starts:
        return None
    following = CELL.search(latex, position, end)
    if following:
        end = following.start()
    return starts[-1], end


def fit_formulas(latex, spans):
    """The source in which long formulas within text are no wider than their column.

    Args:
        latex: the source.
        spans: pairs of its lines, first and last; only formulas between these are changed.
    """
    lines = latex.split("\n")
    starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    ranges = [(starts[first - 1], starts[min(last, len(lines))]) for first, last in spans]

    def fit(found):
        is_near = any(found.start() < end and start < found.end() for start, end in ranges)
        if len(found[1]) < LONG or not is_near:
            return found[0]
        return f"\\fitinline{{{found[1]}}}"

    return INLINE.sub(fit, latex)
