"""Writes trees of HTML elements as a web page: one handler for each element name.

The trees are those that become LaTeX, after all other steps and before report/latex_writer.py,
which takes them apart. Nothing of a notebook's HTML is copied: each handler writes elements of its
own, and text is escaped.
"""

import copy
import re
from html import escape

from bs4 import NavigableString, Tag

from report import latex_cells, mathml
from report.latex_text import WINDOWS, Latex, safe_label
from report.latex_writer import adopt_strays, is_block, is_tight
from report.links import WEB_ADDRESS
from report.markdown import HEADINGS
from report.paper import too_deep
from report.provenance import Surroundings
from report.typography import SPACE, collapse_spaces, curl_quotes

ELEMENTS = {
    **dict.fromkeys(("em", "i", "cite", "dfn", "var"), "em"),
    **dict.fromkeys(("strong", "b"), "strong"),
    **dict.fromkeys(("del", "s", "strike"), "s"),
    **dict.fromkeys(("u", "ins"), "u"),
    **dict.fromkeys(("code", "samp", "tt"), "code"),
    **dict.fromkeys(("sup", "sub", "q"), None),
}
WORDS = {"paper-figure": "Figure", "paper-table": "Table"}
DASHES = (("---", "\u2014"), ("--", "\u2013"), ("...", "\u2026"))  # as LaTeX sets them
SIDES = {"c": "centre", "r": "right"}
MULTIROW = re.compile(r"\s*\\multirow(?:\[\w*\])?\{(\d{1,3})\}")
RULE = re.compile("midrule|hline")
NUMBERED_HEADINGS = ("h1", "h2", "h3")
CLAIM = "<button [^>]*>[^<]*</button>"
# a number, the one behind its ±, and a per cent sign, between which no line ends
TOGETHER = re.compile(f"{CLAIM}[^<]{{0,3}}\u00a0±\u00a0{CLAIM}(?:\u00a0%)?|{CLAIM}\u00a0%")
PER_CENT = re.compile(r"(?:(?<=\d)|^) %")  # at the start: behind a number that is a claim
NO_CLAIMS = ["a", "code", "pre"]


class HtmlWriter:
    """Writes the fragments of a paper.

    Args:
        paper: the Paper, built as far as its links.
        references: the Reference list that its citations refer to.
        provenance: the Provenance of its claims.
        picture: a function, name of a picture's file -> its address as data:, "" if it has none,
            and the width in which it is shown, in pixels, 0 for its own.
    """

    def __init__(self, paper, references, provenance, picture):
        self.paper = paper
        self.references = {each.key: (number, each) for number, each in enumerate(references, 1)}
        self.provenance = provenance
        self.picture = picture
        self.shown = {}  # (claims, cell_name) of numbers that open a panel -> its number
        self.footnotes = []
        self.fragment = None  # that is being written
        self.definitions = list(paper.definitions.values())
        self.found = {}  # of the present line: id of a string -> its numbers
        self.is_typed = False  # whether the present text was typed although code shows it

    def write(self, fragment):
        """The HTML of a fragment. Raises PaperError if its elements are nested too deeply."""
        self.fragment = fragment
        try:
            return "\n".join(self.write_blocks(fragment.body))
        except RecursionError:
            raise too_deep(fragment.cell_name) from None

    # ------------------------------------------------------------------------------------ blocks

    def write_blocks(self, element, is_compact=False):
        """The blocks among an element's children as a list; inline nodes become paragraphs.

        `is_compact` leaves a first run of inline nodes without the element of a paragraph.
        """
        blocks = []
        run = []
        for node in [*element.children, None]:
            if node is not None and not _is_block(node):
                run.append(node)
                continue
            line = self.write_line(run).strip(SPACE)
            run = []
            if line and is_compact and not blocks:
                blocks.append(line)
            elif line:
                blocks.append(f'<p dir="auto">{line}</p>')
            if node is not None:
                blocks += self.write_block(node)
        return blocks

    def write_block(self, node):
        """The HTML of a block, a list."""
        if isinstance(node, Latex):
            node = node.page
        handler = BLOCKS.get(node.name)
        blocks = handler(self, node) if handler else self.write_blocks(node)
        if node.get("placed") == "centre" and blocks:
            return ['<div class="centre">', *blocks, "</div>"]
        return blocks

    def write_heading(self, element):
        """A heading, with the number that LaTeX gives it."""
        level = min(int(element.name[1]) + 1, 6)
        first, *more_labels = element.get("labels") or [""]
        number = element.get("number") if element.name in NUMBERED_HEADINGS else ""
        anchors = "".join(map(_anchor, more_labels))
        content = self.write_line(element.children).strip(SPACE)
        target = f"section-{number}" if number else ""
        if first:
            target = safe_label(first)
        if number:
            link = f'<a class="number" href="#{escape(target)}">{number}</a>'
            content = f"{link} {content}"
        name = f' id="{escape(target)}"' if target else ""
        return [f"<h{level}{name}>{anchors}{content}</h{level}>"]

    def write_rule(self, _):
        """A horizontal rule."""
        return ["<hr>"]

    def write_quotation(self, element):
        """A quotation of one or more paragraphs."""
        return ["<blockquote>", *self.write_blocks(element), "</blockquote>"]

    def write_listing(self, element):
        """A block of code or of printed text; the keyboard can scroll it."""
        anchors = "".join(
            self.write_node(each) for each in element.find_all(string=True) if type(each) is Latex
        )
        text = escape(element.get_text().strip("\n"))
        return [f'{anchors}<pre tabindex="0">{text}</pre>']

    def write_list(self, element):
        """A list with bullets or numbers."""
        adopt_strays(element, "li")
        items = element.find_all("li", recursive=False)
        attributes = ""
        if element.name == "ol":
            if re.fullmatch(r"-?\d{1,9}", element.get("start", "")):
                attributes += f' start="{int(element["start"])}"'
            if element.get("type") in ("a", "A", "i", "I"):
                attributes += f' type="{element["type"]}"'
        is_compact = all(map(is_tight, items))
        lines = [f"<{element.name}{attributes}>"]
        for item in items:
            lines.append(f'<li dir="auto">{"".join(self.write_blocks(item, is_compact))}</li>')
        return [*lines, f"</{element.name}>"] if items else []

    def write_description(self, element):
        """A list of terms and their descriptions."""
        adopt_strays(element, "dd", "dt")
        lines = []
        for item in element.find_all(["dt", "dd"], recursive=False):
            content = "".join(self.write_blocks(item, is_compact=True))
            lines.append(f"<{item.name}>{content}</{item.name}>")
        return ["<dl>", *lines, "</dl>"] if lines else []

    def write_figure(self, element):
        """One picture, or several side by side, with their captions."""
        figure = element["float"]
        parts = element.find_all("part-caption")
        columns = figure.column_count
        lines = []
        for index, file in enumerate(figure.files):
            alt = figure.alt or f"Figure {self.number_of(figure.label)}, described by its caption"
            image = self.write_picture(file, alt)
            if index < len(parts):
                letter = chr(ord("a") + index % 26)
                caption = self.write_caption(parts[index])
                name = safe_label(f"{figure.label}-{index + 1}")
                image += f"<figcaption>({letter}) {caption}</figcaption>"
                image = f'<figure class="part" id="{escape(name)}">{image}</figure>'
            lines.append(image)
        kind = ' class="wide"' if figure.is_wide else ""
        box = ""  # on a narrow screen a wide figure scrolls, by the keyboard as well
        if figure.is_wide:
            box = f' role="region" tabindex="0" aria-label="Figure {self.number_of(figure.label)}"'
        return [
            f'<figure{kind} id="{escape(safe_label(figure.label))}">',
            f'<div class="pictures columns-{columns}"{box}>',
            *lines,
            "</div>",
            f"<figcaption>{self.write_name(element)} "
            f"{self.write_caption(element.find('float-caption'))}</figcaption>",
            "</figure>",
        ]

    def write_name(self, element):
        """What a figure or table is called: "Figure 1:"."""
        label = element["float"].label
        words = f"{WORDS[element.name]} {self.number_of(label)}"
        return f'<a class="name" href="#{escape(safe_label(label))}">{words}:</a>'

    def write_caption(self, element):
        """The text of a caption, which was typed."""
        self.is_typed = True
        caption = self.write_line(element.children).strip(SPACE)
        self.is_typed = False
        return caption

    def write_picture(self, file, alt, width=""):
        """A picture; its alternative text stands for one that cannot be shown."""
        address, pixels = self.picture(file)
        if not address:
            return f'<span class="missing">{escape(alt)}</span>'
        size = ""
        if re.fullmatch(r"[\d.]+(px|%)", width):
            size = f' style="width: {width}"'
        elif pixels:
            size = f' width="{pixels}"'
        return f'<img src="{address}" alt="{escape(alt)}"{size}>'

    # ------------------------------------------------------------------------------------- tables

    def write_table(self, element):
        """A table, which scrolls in its box if it is wide."""
        table = element["float"].table.shortened()
        label = element["float"].label
        rows = [
            self.write_row(table, index, cells)
            for index, cells in enumerate(_visible_cells(table.rows))
        ]
        head = "".join(rows[: table.head])
        content = f"<thead>{head}</thead>" if head else ""
        content += f"<tbody>{''.join(rows[table.head :])}</tbody>"
        # the box has a name and can be reached, so that the keyboard scrolls it
        name = f"Table {self.number_of(label)}" if label else "Table"
        box = (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">'
            f"<table>{content}</table></div>"
        )
        if not label:
            return [box]
        caption = f"{self.write_name(element)} {self.write_caption(element.find('float-caption'))}"
        return [
            f'<figure class="table" id="{escape(safe_label(label))}">',
            f"<figcaption>{caption}</figcaption>",
            box,
            "</figure>",
        ]

    def write_row(self, table, index, cells):
        """A row of a table.

        Args:
            table: a Table.
            index: of the row.
            cells: (column, rows that it spans, Cell) of the cells that start in it.
        """
        is_head = index < table.head
        name = "th" if is_head else "td"
        row_head = _cell_text(table.rows[index][0]) if table.rows[index] else ""
        parts = []
        before = []  # claims of the cell before
        for column, row_span, cell in cells:
            around = None
            if not is_head and self.fragment.is_computed:
                words = _column_head(table, column)
                around = Surroundings(
                    f"{words} {row_head if column else ''}",
                    index - table.head + 1,
                    before if words.strip() in ("±", "interval") else [],
                )
            content, before = self.write_cell(cell, around)
            align = "l"
            if column < len(table.aligns):
                align = table.aligns[column]
            names_column = is_head and bool(content)
            attributes = _cell_attributes(align, names_column, row_span, cell.column_span)
            element = name if content else "td"  # an empty head names nothing
            parts.append(f"<{element}{attributes}>{content}</{element}>")
        is_ruled = RULE.search(table.rules[index]) and index > table.head
        return f"<tr{' class=ruled' if is_ruled else ''}>{''.join(parts)}</tr>"

    def write_cell(self, cell, around):
        """The HTML of a Cell, and the claims that its number may state."""
        line = Tag(name="span")
        nodes = cell.element.children if cell.element is not None else latex_cells.read(cell.latex)
        line.extend([copy.copy(node) for node in nodes])
        return self.write_text_line(line, around)

    # ------------------------------------------------------------------------------------- inline

    def write_line(self, nodes):
        """The HTML of inline nodes that make one paragraph, caption or heading."""
        line = Tag(name="span")
        line.extend([copy.copy(node) for node in nodes])  # LaTeX is written of the same nodes
        return self.write_text_line(line)[0]

    def write_text_line(self, line, around=None):
        """The HTML of an element of inline nodes, and the claims of its last number."""
        curl_quotes(line)
        collapse_spaces(line)
        self.found = {}
        claims = []
        if self.fragment.is_computed and not self.is_typed:
            claims = self.find_sources(line, around)
        content = self.write_inline(line).strip(SPACE)
        return TOGETHER.sub(r'<span class="together">\g<0></span>', content), claims

    def find_sources(self, line, around):
        """Find the sources of a line's numbers; return the claims of the last one."""
        strings = [text for text in line.find_all(string=True) if type(text) is NavigableString]
        sources = self.provenance.find("".join(strings), around)
        start = 0
        for text in strings:
            end = start + len(text)
            inside = [each for each in sources if start <= each.start and each.end <= end]
            if inside and not text.find_parent(NO_CLAIMS):
                self.found[id(text)] = [
                    (each.start - start, each.end - start, each.claims) for each in inside
                ]
            start = end
        return list(sources[-1].claims) if sources else []

    def write_inline(self, element):
        """The HTML of an element's children."""
        return "".join(map(self.write_node, element.children))

    def write_node(self, node):
        """The HTML of an inline node."""
        if isinstance(node, Latex):
            node = node.page
            if not node:
                return ""
            if isinstance(node, str):
                return escape(node)
        if isinstance(node, NavigableString):
            return self.write_string(node)
        if node.name in ELEMENTS:
            name = ELEMENTS[node.name] or node.name
            return f"<{name}>{self.write_inline(node)}</{name}>"
        handler = INLINE.get(node.name)
        return handler(self, node) if handler else self.write_inline(node)

    def write_string(self, text):
        """Text; numbers that are claims open their sources."""
        parts = []
        end = 0
        for start, stop, claims in self.found.get(id(text), ()):
            parts.append(_escape_text(text[end:start], text))
            parts.append(self.write_number(text[start:stop], claims))
            end = stop
        return "".join(parts) + _escape_text(text[end:], text)

    def write_number(self, written, claims):
        """A number that opens the panel with its source."""
        key = (claims, self.fragment.cell_name)
        number = self.shown.setdefault(key, len(self.shown) + 1)
        return (
            f'<button type="button" class="claim" popovertarget="number-source-{number}">'
            f"{escape(written)}</button>"
        )

    def write_link(self, element):
        """A link to the web or to a mail address; an element without an address is its content."""
        address = element.get("href", "").strip()
        content = self.write_inline(element)
        if not WEB_ADDRESS.match(address):
            return content
        return f'<a href="{escape(address)}" rel="noopener noreferrer">{content}</a>'

    def write_span(self, element):
        """Text, or what an earlier step has made of a link, a note, a label or a citation."""
        if element.has_attr("citations"):
            return self.write_citation(element["citations"], element.has_attr("named"))
        if element.has_attr("number_of"):
            return escape(self.number_of(element["number_of"]))
        if element.has_attr("note"):
            return self.write_footnote(element)
        content = self.write_inline(element)
        if element.get("target"):
            return f'<a href="#{escape(safe_label(element["target"]))}">{content}</a>'
        if element.get("id") in self.paper.labels:
            return _anchor(element["id"])
        return content

    def number_of(self, label):
        """The number of a section, equation, figure or table, as LaTeX counts."""
        return self.paper.labels[label].number if label in self.paper.labels else "?"

    def write_citation(self, keys, is_named):
        """One or more works: [1, 3, 5] in the list's order; behind their authors if named."""
        numbered = {self.references[key][0]: self.references[key][1] for key in keys}
        found = sorted(numbered.items(), key=lambda item: item[0])
        if is_named:
            return ", ".join(
                f"{escape(reference.short_names)}\u00a0[{_reference_link(number, reference)}]"
                for number, reference in found
            )
        links = [_reference_link(number, reference) for number, reference in found]
        return f"[{', '.join(links)}]"

    def write_footnote(self, element):
        """The number of a footnote, whose text stands at the end of the page."""
        self.footnotes.append("")
        number = len(self.footnotes)
        self.footnotes[number - 1] = self.write_inline(element)
        return (
            f'<sup class="note" id="note-{number}-mark">'
            f'<a href="#note-{number}" aria-label="Note {number}">{number}</a></sup>'
        )

    def write_formula(self, element):
        """A formula; a display stands on a line of its own, with its number."""
        is_display = element.has_attr("display")
        formula, is_set = mathml.write(element.get_text(), self.definitions, is_display)
        if not is_set:
            self.paper.inform("report.html shows the source of a formula", self.fragment.cell_name)
        if not is_display:
            return formula
        numbers = element.get("numbers") or []
        number = ""
        if len(numbers) == 1 or not is_set:
            number = "".join(f"<span>({escape(each)})</span>" for each in numbers)
        anchors = "".join(map(_anchor, element.get("labels") or []))
        formula = f'<span class="formula">{formula}</span>'
        return f'<span class="equation">{anchors}{formula}{number}</span>'

    def write_image(self, element):
        """A picture in its place."""
        file = element.get("src", "")
        if file not in self.paper.files:
            return ""
        return self.write_picture(file, element.get("alt") or "picture", element.get("width") or "")

    def write_break(self, _):
        """The end of a line."""
        return "<br>"

    def write_code_block(self, element):
        """A block of code within a cell of a table."""
        return f"<code>{escape(element.get_text().strip())}</code>"


INLINE = {
    "a": HtmlWriter.write_link,
    "br": HtmlWriter.write_break,
    "img": HtmlWriter.write_image,
    "pre": HtmlWriter.write_code_block,
    "span": HtmlWriter.write_span,
    "tex-math": HtmlWriter.write_formula,
}
BLOCKS = {
    **dict.fromkeys(HEADINGS, HtmlWriter.write_heading),
    **dict.fromkeys(("ol", "ul"), HtmlWriter.write_list),
    "blockquote": HtmlWriter.write_quotation,
    "dl": HtmlWriter.write_description,
    "hr": HtmlWriter.write_rule,
    "paper-figure": HtmlWriter.write_figure,
    "paper-table": HtmlWriter.write_table,
    "pre": HtmlWriter.write_listing,
}


def _is_block(node):
    if isinstance(node, Latex):
        return isinstance(node.page, Tag) and is_block(node.page)
    return is_block(node)


def _anchor(label):
    return f'<span id="{escape(safe_label(label))}"></span>'


def _reference_link(number, reference):
    title = escape(f"{reference.short_names}: {reference.title}")
    return f'<a href="#ref-{escape(safe_label(reference.key))}" title="{title}">{number}</a>'


def _escape_text(text, node):
    """Text as HTML, with the dashes that LaTeX makes of hyphens; code keeps its hyphens."""
    text = text.translate(WINDOWS)
    if not node.find_parent(["code", "samp", "tt", "pre"]):
        for typed, letter in DASHES:
            text = text.replace(typed, letter)
        text = text.replace(" ± ", "\u00a0±\u00a0")
        text = PER_CENT.sub("\u00a0%", text)
    return escape(text)


# ------------------------------------------------------------------------------------------ tables


def _visible_cells(rows):
    """For each row its cells that no cell above covers: (column, rows that it spans, Cell)."""
    covered = {}  # column -> how many more rows a cell above extends over
    found = []
    for index, row in enumerate(rows):
        cells = []
        column = 0
        for cell in row:
            span = cell.column_span
            if covered.get(column, 0) and not _cell_text(cell):
                covered[column] -= 1
                column += span
                continue
            row_span = cell.row_span
            if cell.element is None and (found_span := MULTIROW.match(cell.latex)):
                row_span = int(found_span[1])
            row_span = max(1, min(row_span, len(rows) - index))
            for each in range(column, column + span):
                covered[each] = row_span - 1
            cells.append((column, row_span, cell))
            column += span
        found.append(cells)
    return found


def _column_head(table, column):
    """The words above a column."""
    words = []
    for row in table.rows[: table.head]:
        position = 0
        for cell in row:
            if position <= column < position + cell.column_span:
                words.append(_cell_text(cell))
            position += cell.column_span
    return " ".join(words)


def _cell_text(cell):
    """What a cell says, as plain text."""
    if cell.element is not None:
        return cell.element.get_text().strip()
    nodes = latex_cells.read(cell.latex)
    return "".join(node if isinstance(node, str) else node.get_text() for node in nodes).strip()


def _cell_attributes(align, names_column, row_span, column_span):
    """The attributes of a table's cell, "" or HTML that starts with a blank.

    Args:
        align: the alignment of its column, as LaTeX has it.
        names_column: whether it is the head of a column.
        row_span: how many rows it covers.
        column_span: how many columns it covers.
    """
    attributes = ""
    if SIDES.get(align):
        attributes += f' class="{SIDES[align]}"'
    if names_column:
        attributes += ' scope="col"'
    if row_span > 1:
        attributes += f' rowspan="{row_span}"'
    if column_span > 1:
        attributes += f' colspan="{column_span}"'
    return attributes
