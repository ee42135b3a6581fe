"""Text with a meaning: formulas, references and notes that are typed in text become elements.

Jupyter renders formulas in Markdown, but not in blocks of HTML; references and inline notes are
Quarto's and LaTeX's.
"""

import copy
import re

from bs4 import Comment, NavigableString

from report.latex_text import Latex
from report.markdown import find_texts, new_element

HIDDEN = ("script", "style", "template", "button", "head", "title", "meta", "link")
UNPRINTABLE = [
    *("iframe", "video", "audio", "embed", "object", "canvas", "svg", "select", "textarea"),
    *("form", "input"),
]
ATTRIBUTES = re.compile(r"\{(\s*(?:[#.][\w:.-]+|[\w-]+=[^{}]*)[^{}]*)\}")
CROSS_REFERENCE = re.compile(r"(fig|tbl|eq|sec)-")
KEY = re.compile(r"@([\w:.+-]*\w)")


def clean(paper, fragment):
    """Leave out what Jupyter does not show, name what no paper can show, read typed syntax."""
    remove_hidden(fragment.body)
    draw_check_boxes(fragment.body)
    read_attributes(fragment.body)
    remove_unprintable(paper, fragment)
    place_footnotes(fragment.body)
    read_syntax(fragment.body, paper.has_author)


def remove_hidden(body):
    """Remove scripts, styles, comments and the like."""
    for element in body.find_all(HIDDEN):
        element.extract()
    for comment in body.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()


def read_attributes(body):
    """Take the width and the name of pictures from Pandoc's {#name width=50%} behind them."""
    for image in body.find_all("img"):
        if label := take_attributes(image):
            image.insert_before(new_element("a", id=label))


def find_attributes(image):
    """The match of Pandoc's {#name width=50%} behind a picture, or None."""
    behind = image.next_sibling
    return ATTRIBUTES.match(behind) if isinstance(behind, NavigableString) else None


def label_in(attributes):
    """The name in a match of Pandoc's attributes, "" without one."""
    label = re.search(r"#([\w:.-]+)", attributes[1])
    return label[1] if label else ""


def take_attributes(image):
    """Give a picture the size that its attributes ask for, remove their text, return its name."""
    attributes = find_attributes(image)
    if not attributes:
        return ""
    behind = image.next_sibling
    behind.replace_with(behind[attributes.end() :])
    for name, value in re.findall(r"""(\w+)=["']?([^\s"']+)""", attributes[1]):
        if name in ("width", "height"):
            image[name] = value
    return label_in(attributes)


def draw_check_boxes(body):
    """Replace the check boxes of task lists by symbols."""
    for box in body.find_all("input", type="checkbox"):
        symbol, letter = ("\\boxtimes", "☒") if box.has_attr("checked") else ("\\square", "☐")
        box.replace_with(Latex(f"${symbol}$ ", f"{letter} "))


def remove_unprintable(paper, fragment):
    """Remove videos, forms and the like, and note that."""
    for element in fragment.body.find_all(UNPRINTABLE):
        paper.warn(
            f"<{element.name}> cannot be set and is left out (a picture or text would be set)",
            fragment.cell_name,
        )
        element.decompose()


def place_footnotes(body):
    """Put each footnote of Markdown where its number is."""
    for number in body.select("sup.footnote-ref"):
        note = body.find(id=number.a["href"][1:])
        if note:
            number.replace_with(_footnote(note))
    for rest in body.select("section.footnotes, a.footnote"):
        rest.extract()


def _footnote(note):
    """The element of a footnote whose paragraphs stand in the list of notes."""
    element = new_element("text-note")
    for index, block in enumerate(note.find_all("p")):
        if index:
            element.append(" ")
        # Copies, since several numbers may refer to one note.
        element.extend([copy.copy(node) for node in block.contents])
    return element


def read_syntax(body, has_author):
    """Replace typed syntax in text by elements, except in code, formulas and links.

    Args:
        body: a tree of elements, changed in place.
        has_author: the bibliography; `@word` is a citation only if it has this key.
    """
    for text in find_texts(body):
        if text.find_parent(["pre", "code", "tex-math", "a"]):
            continue
        nodes = split_syntax(str(text), has_author)
        if nodes != [text]:
            text.replace_with(*nodes)


def split_syntax(text, has_author):
    """The strings and elements that a text consists of, a list."""
    nodes = []
    end = 0  # of what has been read
    start = 0  # of plain text not yet among the nodes
    while found := _next_match(text, end):
        make, match = found
        end = match.end()
        elements = make(match, has_author)
        if elements:
            nodes += [text[start : match.start()], *elements]
            start = end
    nodes.append(text[start:])
    return [node for node in nodes if node]


def _next_match(text, position):
    """The first match of any rule from `position` on, as (function, match), or None."""
    found = []
    for pattern, make in RULES:
        match = pattern.search(text, position)
        if match:
            found.append((make, match))
    return min(found, key=lambda pair: pair[1].start(), default=None)  # of equals, the first rule


# Each rule's function returns the nodes for a match, or [] if it is plain text.


def make_display(match, _):
    """A displayed formula."""
    return [new_element("tex-math", match[1], display="")]


def make_inline(match, _):
    """A formula within a line."""
    return [new_element("tex-math", match[1])]


def make_environment(match, _):
    """An environment of LaTeX, as a displayed formula."""
    return [new_element("tex-math", match[0], display="")]


def make_reference(match, _):
    r"""The number of what a label names: \ref, or with brackets \eqref."""
    kind = "equation" if match[1] else "reference"
    return [_reference(match[2], kind)]


def make_bracketed_citation(match, has_author):
    """One or more works or labels in brackets."""
    keys = KEY.findall(match[1])
    if not keys:
        return []
    if CROSS_REFERENCE.match(keys[0]):
        return _references(keys, match[0])
    return [new_element("a", href=f"#ref-{','.join(keys)}", **{"class": ["cited"]})]


def make_bare_citation(match, has_author):
    """A work or a label in the sentence; other words behind an @ stay text."""
    key = match[2]
    if CROSS_REFERENCE.match(key):
        return _references([key], match[0])
    if key not in has_author:
        return []
    return [new_element("a", href=f"#ref-{key}", **{"class": ["authors"]})]


def make_note(match, _):
    """A footnote."""
    return [new_element("text-note", match[1])]


def _references(keys, source):
    kind = "reference" if "-@" in source else "named"
    nodes = []
    for key in keys:
        if nodes:
            nodes.append(", ")
        nodes.append(_reference(key, kind))
    return nodes


def _reference(label, kind):
    return new_element("a", href=f"#{label}", **{"class": [kind]})


RULES = (
    # $$x$$
    (re.compile(r"\$\$(.+?)\$\$", re.DOTALL), make_display),
    # $x$
    (re.compile(r"\$([^$]+)\$"), make_inline),
    # \begin{align} … \end{align}
    (re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL), make_environment),
    # \ref{label}, \eqref{label}
    (re.compile(r"\\(eq)?ref\{([^}]+)\}"), make_reference),
    # [@key; @key], [-@label]
    (re.compile(r"\[(-?@[^][]+)\]"), make_bracketed_citation),
    # @key, -@label, but no mail address
    (re.compile(r"(?<![\w.@/])(-?)@([A-Za-z][\w:.+-]*\w)"), make_bare_citation),
    # ^[note]
    (re.compile(r"\^\[([^][]+)\]"), make_note),
)
