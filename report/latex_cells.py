"""Reads the LaTeX in a table's cell as elements: text, formulas, bold and italic words."""

import functools

from bs4 import NavigableString
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import (
    LatexCharsNode,
    LatexGroupNode,
    LatexMacroNode,
    LatexMathNode,
    LatexWalker,
    LatexWalkerError,
    get_default_latex_context_db,
)
from pylatexenc.macrospec import std_macro

from report.markdown import new_element

ELEMENTS = {"textbf": "strong", "emph": "em", "textit": "em", "texttt": "code"}
# the same for the rest of a group
SWITCHES = {"bfseries": "strong", "bf": "strong", "itshape": "em", "em": "em", "it": "em"}
# which of its arguments a reader sees
LAST_ARGUMENT = {"multicolumn", "multirow", "textcolor", "href", "mbox", "text", "textsuperscript"}
HIDDEN = {"cellcolor", "rowcolor", "color", "label", "hspace", "vspace", "cline", "cmidrule"}
BREAKS = {"newline", "\\", "linebreak"}
ARGUMENTS = {
    "multicolumn": "{{{",
    "multirow": "[{{{",
    "textcolor": "[{{",
    "href": "{{",
    "mbox": "{",
    "text": "{",
    "textsuperscript": "{",
    "cellcolor": "[{",
    "rowcolor": "[{",
    "color": "[{",
    "cline": "{",
    "cmidrule": "{",
}


def read(latex):
    """The nodes that LaTeX in a cell becomes, a list of strings and elements."""
    walker = LatexWalker(latex, latex_context=_context(), tolerant_parsing=True)
    try:
        nodes, _, _ = walker.get_latex_nodes()
        return _read_nodes(nodes)
    except (LatexWalkerError, RecursionError):
        return [NavigableString(latex)]


def _read_nodes(nodes):
    found = []
    for index, node in enumerate(nodes):
        if isinstance(node, LatexMacroNode) and node.macroname in SWITCHES:
            inside = _read_nodes(nodes[index + 1 :])
            return [*found, new_element(SWITCHES[node.macroname], *_stripped(inside))]
        found += _read_node(node)
    return found


def _read_node(node):
    if isinstance(node, LatexMathNode):
        source = "".join(each.latex_verbatim() for each in node.nodelist)
        return [new_element("tex-math", source)]
    if isinstance(node, LatexGroupNode):
        return _read_nodes(node.nodelist)
    if isinstance(node, LatexCharsNode):
        return [NavigableString(node.chars)]
    if isinstance(node, LatexMacroNode):
        name = node.macroname
        if name in BREAKS:
            return [new_element("br")]
        if name in HIDDEN:
            return []
        arguments = [each for each in (node.nodeargd.argnlist if node.nodeargd else ()) if each]
        if name in ELEMENTS and arguments:
            return [new_element(ELEMENTS[name], *_read_node(arguments[-1]))]
        if name in LAST_ARGUMENT and arguments:
            return _read_node(arguments[-1])
    text = _decoder().node_to_text(node)
    return [NavigableString(text)] if text else []


def _stripped(nodes):
    """Nodes without the blank behind a command."""
    if nodes and isinstance(nodes[0], NavigableString):
        return [NavigableString(nodes[0].lstrip()), *nodes[1:]]
    return nodes


@functools.cache
def _context():
    context = get_default_latex_context_db()
    macros = [std_macro(name, arguments) for name, arguments in ARGUMENTS.items()]
    context.add_context_category("cells", macros=macros, prepend=True)
    return context


@functools.cache
def _decoder():
    return LatexNodes2Text(strict_latex_spaces=True)
