"""Quotation marks and spaces of a paragraph, read over the limits of its elements."""

import re

from bs4 import NavigableString

from report.latex_text import Latex

SPACE = " \t\n\r\f\v"
CODE = ("code", "pre")
YEARS = re.compile(r"\d\ds?\b")  # '90s: an apostrophe, and no quotation
CLOSING = re.compile(r"'(?![^\W_])")


def curl_quotes(element):
    """Replace the straight quotation marks of an element by typographic ones, in place.

    Its strings are read as one text, in which a formula, a reference or code counts as a letter.
    """
    nodes = _nodes(element)
    pieces = [_as_letters(node) for node in nodes]
    text = "".join(pieces)
    if '"' not in text and "'" not in text:
        return
    curled = curl(text)
    end = 0
    for node, piece in zip(nodes, pieces):
        start = end
        end += len(piece)
        if _is_text(node):
            node.replace_with(NavigableString(curled[start:end]))


def curl(text):
    """`text` with typographic quotation marks, of the same length."""
    letters = list(text)
    double_end = -1  # where the present quotation ends
    single_end = -1
    for index, letter in enumerate(text):
        if letter == '"':
            letters[index] = "\u201d"
            if index > double_end and _may_open(text, index):
                double_end = text.find('"', index + 1)
                if double_end > index:
                    letters[index] = "\u201c"
        elif letter == "'":
            letters[index] = "\u2019"
            if index > single_end and _may_open(text, index):
                single_end = _end_of_quotation(text, index + 1)
                if single_end > index:
                    letters[index] = "\u2018"
    return "".join(letters)


def collapse_spaces(element):
    """Make each run of spaces one space, or one line break if it has one, in place."""
    previous = None  # the string before, if nothing else stands between
    ends_in_space = False
    for node in _nodes(element):
        if _is_text(node):
            text = re.sub(f"[{SPACE}]+", _one_space, node)
            if ends_in_space:
                text = text.lstrip(SPACE)
            previous = NavigableString(text)
            node.replace_with(previous)
            if text:
                ends_in_space = text[-1] in SPACE
            continue
        ends_in_space = not isinstance(node, NavigableString) and node.name == "br"
        if ends_in_space and previous is not None:
            previous.replace_with(NavigableString(previous.rstrip(SPACE)))
        previous = None


def _nodes(element):
    """The strings, line breaks and code in an element, in order."""
    nodes = []
    for node in element.children:
        if isinstance(node, NavigableString) or node.name in ("br", *CODE):
            nodes.append(node)
        else:
            nodes += _nodes(node)
    return nodes


def _is_text(node):
    return isinstance(node, NavigableString) and not isinstance(node, Latex)


def _as_letters(node):
    """What a node is to the quotation marks beside it."""
    if _is_text(node):
        return str(node)
    if not isinstance(node, NavigableString):
        return "\n" if node.name == "br" else "x"
    opens = node.endswith("{") or node.startswith(("\\phantomsection", "\\begin{center}"))
    return "(" if opens else "x"


def _may_open(text, index):
    """Whether the quotation mark at `index` has something behind it, and no word before it."""
    before = text[:index][-1:]
    following = text[index + 1 : index + 2]
    return not before.isalnum() and following != "" and following not in SPACE


def _end_of_quotation(text, start):
    """Where the single quotation that starts here ends; -1 if its mark is an apostrophe."""
    if YEARS.match(text, start):
        return -1
    end = CLOSING.search(text, start + 1)
    return end.start() if end else -1


def _one_space(spaces):
    return "\n" if "\n" in spaces[0] else " "
