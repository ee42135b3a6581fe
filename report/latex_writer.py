"""Writes trees of HTML elements as LaTeX: one handler for each element name.

Handlers of blocks return a list of LaTeX paragraphs, handlers of inline elements return a string.
An element without a handler is written as its content, so only elements that look different from
plain text have one.
"""

import re

from bs4 import NavigableString, Tag

from report.latex_text import (
    Latex,
    cut_word,
    escape_address,
    escape_code,
    escape_text,
    safe_label,
)
from report.scripts import is_right_to_left, set_right_to_left
from report.typography import SPACE, collapse_spaces, curl_quotes

DISPLAY = re.compile(r"\n\n+(?=\\\[|\\begin\{(?:equation|align|gather|multline|eqnarray)\*?\})")
COMMANDS = {
    "em": "emph",
    "i": "emph",
    "cite": "emph",
    "dfn": "emph",
    "var": "emph",
    "strong": "textbf",
    "b": "textbf",
    "sup": "textsuperscript",
    "sub": "textsubscript",
    "del": "sout",
    "s": "sout",
    "strike": "sout",
    "u": "uline",
    "ins": "uline",
    "samp": "texttt",
    "tt": "texttt",
}
HEADINGS = {
    "h1": "section",
    "h2": "subsection",
    "h3": "subsubsection",
    "h4": "paragraph",
    "h5": "subparagraph",
    "h6": "subparagraph",
}
SHARES = {1: "1", 2: ".49", 3: ".32", 4: ".24"}  # of the width for pictures in so many columns
NUMERALS = {"1": "arabic", "a": "alph", "A": "Alph", "i": "roman", "I": "Roman"}
LEVELS = ("i", "ii", "iii", "iv")  # of LaTeX's counters for numbered lists
PARAGRAPHS = ("p", "pre", "blockquote", "dl", "hr", "paper-table", "paper-figure", *HEADINGS)
CONTAINERS = (
    *("address", "article", "aside", "body", "caption", "center", "dd", "details", "div", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "header", "legend", "li", "main"),
    *("nav", "p", "section", "summary"),
)


def write(body):
    """The LaTeX of a tree; a displayed formula belongs to the paragraph before it.

    Args:
        body: an element. Its strings are changed: they get typographic quotation marks.
    """
    text = "\n\n".join(write_blocks(body))
    text = DISPLAY.sub("\n", text).strip()
    return text.encode(errors="replace").decode()  # halves of characters cannot be written


def write_blocks(element):
    """The LaTeX paragraphs of an element's children, a list of strings."""
    blocks = []
    run = []  # inline nodes that make one paragraph
    for node in list(element.children):  # a run's nodes leave the element
        if is_block(node):
            blocks += [write_run(run), *_block_handler(node)(node)]
            run = []
        else:
            run.append(node)
    blocks.append(write_run(run))
    return [block for block in blocks if block]


def is_block(node):
    """Whether a node stands for paragraphs of its own: it is a block, or has one in it."""
    if isinstance(node, NavigableString):
        return False
    return node.name in BLOCKS or node.find(BLOCK_NAMES) is not None


def write_run(nodes):
    """The LaTeX of inline nodes that make one paragraph, caption or cell of a table.

    Quotation marks and spaces can span elements, so the nodes first move into one element.
    """
    return write_line(nodes).strip(SPACE)


def write_line(nodes):
    """Like `write_run`, but keep leading and trailing spaces."""
    line = Tag(name="span")
    line.extend(nodes)
    if is_right_to_left(line.get_text()):
        set_right_to_left(line)
    curl_quotes(line)
    collapse_spaces(line)
    return _write_content(line)


def _write_content(element):
    return "".join(map(_write_node, element.children))


def _write_node(node):
    if isinstance(node, Latex):
        return str(node)
    if isinstance(node, NavigableString):
        return escape_text(node)
    if node.name in COMMANDS:
        return write_command(node)
    return INLINE.get(node.name, _write_content)(node)


def _block_handler(node):
    return BLOCKS.get(node.name, write_blocks)


# ------------------------------------------------------------------------------------- inline


def write_command(element):
    """An element that is a command of LaTeX; blanks stand outside of its braces."""
    content = _write_content(element)
    text = content.strip(SPACE)
    if not text:
        return content
    before, after = content.split(text, 1)
    return f"{before}\\{COMMANDS[element.name]}{{{text}}}{after}"


def write_code(element):
    """Code within a line; long names may be broken, and formulas stay formulas."""
    parts = []
    for text in element.find_all(string=True):
        if isinstance(text, Latex):
            parts.append(str(text))
        else:
            parts.append(write_code_words(text.replace("\n", " ")))
    return "".join(parts)


def write_code_words(text):
    """A line of code, with places where it may be broken."""
    parts = [text]
    if len(text) > 20:
        parts = re.split(r"(?<=[._/(,=-])(?=\w)", text)
        parts = [part for long in parts for part in _cut_code(long)]
    return "\\allowbreak ".join(f"\\texttt{{{escape_code(part)}}}" for part in parts)


def _cut_code(text):
    """Code in parts: a word that is too long for a column may be broken anywhere."""
    longest = max(map(len, text.split(" ")))
    return cut_word(text) if longest > 40 else [text]


def write_listing(element):
    """A block of code, small; long lines may be broken."""
    lines = []
    for line in element.get_text().strip("\n").expandtabs(4).split("\n"):
        code = line.lstrip(" ")
        indent = "\u00a0" * (len(line) - len(code))
        lines.append(write_code_words(indent + code or "\u00a0"))
    listing = "\\\\\n".join(lines)
    anchors = "".join(text for text in element.find_all(string=True) if isinstance(text, Latex))
    return f"{anchors}\\begin{{quote}}\\footnotesize\\raggedright {listing}\\end{{quote}}"


def write_link(element):
    """A link to the web or to a mail address."""
    target = element.get("href", "")
    text = element.get_text()
    address = escape_address(target)
    if not target:
        return _write_content(element)
    if text == target:
        return f"\\url{{{address}}}"
    if target.lower() == f"mailto:{text}".lower():
        return f"\\href{{{address}}}{{\\nolinkurl{{{escape_text(text)}}}}}"
    return f"\\href{{{address}}}{{{_write_content(element)}}}"


def write_quotation(element):
    """A short quotation, whose marks HTML leaves to the browser."""
    return f"``{_write_content(element)}''"


def write_break(element):
    """The end of a line; where there is no line to end, LaTeX needs an empty one."""
    before = element.previous_sibling
    while before is not None and not str(before).strip():
        before = before.previous_sibling
    is_empty = before is None or before.name == "br"
    return "\\hfill\\break\n" if is_empty else "\\\\\n"


INLINE = {
    "a": write_link,
    "br": write_break,
    "code": write_code,
    "pre": write_listing,  # in a cell of a table
    "q": write_quotation,
}


# ------------------------------------------------------------------------------------- blocks


def write_paragraph_of_code(element):
    """A block of code as a paragraph."""
    return [write_listing(element)]


def write_heading(element):
    """A heading, numbered by LaTeX, with the labels that links lead to."""
    command = HEADINGS[element.name]
    labels = "".join(f"\\label{{{safe_label(label)}}}" for label in element.get("labels", []))
    return [f"\\{command}{{{write_line(list(element.children))}}}{labels}"]


def write_rule(_):
    """A horizontal rule."""
    return ["\\begin{center}\\rule{0.5\\linewidth}{0.5pt}\\end{center}"]


def write_quote(element):
    """A quotation of one or more paragraphs."""
    text = "\n\n".join(write_blocks(element))
    return [f"\\begin{{quote}}\n{text}\n\\end{{quote}}"] if text else []


def write_list(element):
    """A list with bullets or numbers."""
    adopt_strays(element, "li")
    items = element.find_all("li", recursive=False)
    if not items:
        return []
    lines = _numbering(element) if element.name == "ol" else []
    if all(map(is_tight, items)):
        lines.append("\\tightlist")
    for item in items:
        text = "\n\n".join(write_blocks(item))
        lines += ["\\item", _indent(text)] if text else ["\\item"]
    environment = "enumerate" if element.name == "ol" else "itemize"
    return [_environment(environment, lines)]


def write_description(element):
    """A list of terms and their descriptions."""
    adopt_strays(element, "dd", "dt")
    items = []
    for item in element.find_all(["dt", "dd"], recursive=False):
        blocks = write_blocks(item)
        if item.name == "dt":
            items.append([f"\\item[{' '.join(blocks)}]"])
        elif items:
            items[-1] += blocks
        else:
            items.append(["\\item[]", *blocks])
    lines = [f"{term}\n" + "\n\n".join(blocks) for term, *blocks in items]
    return [_environment("description", lines)] if lines else []


def adopt_strays(element, *names):
    """Move what stands between the items of a list into the item before, as browsers show it.

    Args:
        element: the list.
        names: of its items; what stands before the first becomes one with the first name.
    """
    item = None
    for node in list(element.children):
        if node.name in names:
            item = node
        elif str(node).strip():
            if item is None:
                item = Tag(name=names[0])
                node.insert_before(item)
            item.append(node)


def write_table(element):
    """A table, written from its cells and caption."""
    table = element["float"].table
    for row in table.rows:
        for cell in row:
            if cell.element is not None:
                cell.fill(write_run(list(cell.element.children)))
    caption = write_run(list(element.find("float-caption").children))
    figure_or_table = element["float"]
    label = safe_label(figure_or_table.label)
    return [table.latex(caption, label, figure_or_table.is_wide, figure_or_table.is_narrow)]


def write_figure(element):
    """One picture, or several side by side, with their caption; parts may have captions."""
    figure = element["float"]
    columns = figure.column_count
    width = f"{SHARES[columns]}\\linewidth"
    pictures = []
    parts = element.find_all("part-caption")
    for index, file in enumerate(figure.files):
        share = f"[width={width}]" if columns > 1 else figure.width
        if index < len(parts):
            content = [f"\\centering\\includegraphics{{{file}}}"]
            label = safe_label(f"{figure.label}-{index + 1}")
            content.append(
                f"\\caption{{{write_run(list(parts[index].children))}}}\\label{{{label}}}"
            )
            pictures.append(_environment("subfigure", content, f"{{{width}}}"))
        else:
            pictures.append(f"\\includegraphics{share}{{{file}}}")
    environment = "figure*" if figure.is_wide else "figure"
    caption = write_run(list(element.find("float-caption").children))
    label = safe_label(figure.label)
    between = "\\hfil\n" if columns > 1 else "\\par\n"
    lines = ["\\centering", between.join(pictures), f"\\caption{{{caption}}}\\label{{{label}}}"]
    return [_environment(environment, lines)]


BLOCKS = {
    **dict.fromkeys(CONTAINERS, write_blocks),
    **dict.fromkeys(HEADINGS, write_heading),
    "blockquote": write_quote,
    "dl": write_description,
    "hr": write_rule,
    "ol": write_list,
    "paper-figure": write_figure,
    "paper-table": write_table,
    "pre": write_paragraph_of_code,
    "ul": write_list,
}
BLOCK_NAMES = list(BLOCKS)


def _environment(name, lines, arguments=""):
    content = "\n".join(lines)
    return f"\\begin{{{name}}}{arguments}\n{content}\n\\end{{{name}}}"


def _numbering(element):
    """The lines that give a numbered list its kind of numerals and its first number."""
    depth = len(element.find_parents("ol"))
    if depth >= len(LEVELS):
        return []
    counter = f"enum{LEVELS[depth]}"
    lines = []
    if element.get("type") in NUMERALS:
        numeral = NUMERALS[element["type"]]
        lines.append(f"\\def\\label{counter}{{\\{numeral}{{{counter}}}.}}")
    start = element.get("start", "1")
    if start != "1" and re.fullmatch(r"-?\d{1,9}", start):
        lines.append(f"\\setcounter{{{counter}}}{{{int(start) - 1}}}")
    return lines


def is_tight(item):
    """Whether an item has only inline text and nested lists: LaTeX sets it without space."""
    nodes = [node for node in item.children if str(node).strip()]
    if any(node.name in PARAGRAPHS for node in nodes):
        return False
    return not nodes or not is_block(nodes[0])


def _indent(text):
    return re.sub("(?m)^(?=.)", "  ", text)
