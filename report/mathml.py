"""Makes MathML of formulas, which browsers show without any script."""

import html
import re

from bs4 import BeautifulSoup
from math_core import LatexError, LatexToMathML

# What the library may write; a formula that becomes anything else is shown as its source.
ELEMENTS = {
    *("math", "mi", "mn", "mo", "ms", "mtext", "mspace", "mrow", "mfrac", "msqrt", "mroot"),
    *("mstyle", "mpadded", "mphantom", "msub", "msup", "msubsup", "munder", "mover"),
    *("munderover", "mmultiscripts", "mprescripts", "mtable", "mtr", "mtd", "menclose", "b", "i"),
}
ATTRIBUTES = {
    *("display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "symmetric", "fence"),
    *("form", "lspace", "rspace", "minsize", "maxsize", "largeop", "movablelimits", "accent"),
    *("accentunder", "linethickness", "width", "height", "depth", "voffset", "notation", "style"),
    *("class", "columnspan", "rowspan", "separator"),
}
VALUE = re.compile(r"[\w\s.:;%#,+-]*")
# commands of LaTeX that the library calls otherwise
SYNONYMS = (
    (re.compile(r"\\[mh]box(?![a-zA-Z])"), r"\\text"),
    (re.compile(r"\\symbfit(?![a-zA-Z])"), r"\\boldsymbol"),
    (re.compile(r"\\begin\{alignedat\}\s*\{\d+\}"), r"\\begin{aligned}"),
    (re.compile(r"\\end\{alignedat\}"), r"\\end{aligned}"),
)


def write(source, definitions=(), is_display=False):
    """The MathML of a formula, or its source as code where it cannot be MathML; and whether it is.

    Args:
        source: what stands between the dollars.
        definitions: of commands that formulas before it have made, a list of LaTeX.
        is_display: whether it stands on a line of its own.
    """
    text = source
    for pattern, name in SYNONYMS:
        text = pattern.sub(name, text)
    converter = LatexToMathML(fancy_error=False)  # a converter keeps what formulas define
    try:
        mathml = converter.convert_with_local_state(
            "".join(definitions) + text, displaystyle=is_display
        )
    except LatexError:
        return as_source(source), False
    return (mathml, True) if is_plain(mathml) else (as_source(source), False)


def as_source(source):
    """A formula's source, as code."""
    return f"<code>{html.escape(' '.join(source.split()))}</code>"


def is_plain(mathml):
    """Whether MathML has nothing but elements and attributes that show a formula."""
    for element in BeautifulSoup(mathml, "html.parser").find_all(True):
        if element.name not in ELEMENTS or not element.attrs.keys() <= ATTRIBUTES:
            return False
        values = [
            " ".join(value) if isinstance(value, list) else value
            for value in element.attrs.values()
        ]
        if not all(map(VALUE.fullmatch, values)):
            return False
    return True
