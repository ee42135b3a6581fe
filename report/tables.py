"""Tables for a page of two columns: rows from HTML or LaTeX, and LaTeX that fits from rows.

What fits a column stands in it; what fits the page spans both columns; what fits neither has its
text wrapped. The print is never smaller than 7 pt. A table higher than a column becomes several;
one wider than the page is cut into blocks of columns that stand under each other.
"""

import functools
import math
import re
from dataclasses import dataclass, replace

from report.geometry import COLUMN_HEIGHT, COLUMN_POINTS, PAGE_POINTS, PRINT_SIZES
from report.latex_text import set_symbols
from tools.errors import PaperError

LETTER = 0.46  # width of a letter, as a part of the size of the print
GAP = 8  # points between columns
LINE = 1.25  # height of a line, as a part of the size of the print
HERE = "[H]"  # a float stands in its place, or at the top of the next column
MOST_ROWS = 500
KEPT_ROWS = 30  # of a longer table, at its start and at its end
MOST_LINES = 3  # of a row whose text is wrapped so that the table stands in its place
MOST_COLUMNS = 100
KEPT_COLUMNS = 20  # of a wider table, at each side
MOST_OF_COLUMN = 0.6  # that blocks of columns may fill; higher ones span the page
BREAK = "\u200b"  # in what a reader sees, where a long word may be broken
SIDES = {"l": "raggedright", "c": "centering", "r": "raggedleft"}
COLUMN_TYPES = {"c": "c", "r": "r", "S": "r"}  # others are text, on the left

TOKEN = re.compile(r"\\begin\b|\\end\b|\\\\|\\.|[{}&]", re.DOTALL)
BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\}"
RULE = re.compile(
    r"\s*\\(?:toprule|midrule|bottomrule|hline|cline|cmidrule|addlinespace)"
    rf"(?:[\[(]\w*[\])])*(?:{BRACED})?"
)
NUMERIC = re.compile(r"[-+−–]?[\d.,\s]*\d[\d.,]*(?:e[-+]?\d+)?\s*%?|nan|none|[-–]?", re.IGNORECASE)
MULTIROW = re.compile(rf"\\multirow(?:\[\w\])?\{{\d+\}}\{{\*\}}({BRACED})")
MULTICOLUMN = re.compile(r"\\multicolumn\{(\d+)\}")
LAST_NEWLINES = re.compile(r"(\\newline\s*)+\Z")
TABULAR = re.compile(
    r"\\begin\{(?P<environment>tabular[xy*]?|longtable)\}\s*(?:\[\w*\])?"
    rf"(?P<arguments>(?:\s*{BRACED})+)(?P<body>.*)\\end\{{(?P=environment)\}}",
    re.DOTALL,
)
CAPTION = re.compile(rf"\\caption(?:\[[^]]*\])?({BRACED})")
# in the body of a tabular: captions and labels, and comments
NO_ROWS = re.compile(rf"\\(?:caption(?:\[[^]]*\])?|label){BRACED}(?:\s*\\\\)?|(?<!\\)%.*")
LONGTABLE_PART = re.compile(r"\\end(?:firsthead|head|foot|lastfoot)\b")


@dataclass
class Cell:
    """A cell of a table."""

    latex: str = ""
    row_span: int = 1
    column_span: int = 1
    element: object = None  # the HTML element whose content becomes its LaTeX

    def fill(self, latex):
        """Set the LaTeX of the cell from that of its content."""
        latex = LAST_NEWLINES.sub("", latex).strip()
        if self.row_span > 1:
            latex = f"\\multirow{{{self.row_span}}}{{*}}{{{latex}}}"
        if self.column_span > 1:
            latex = f"\\multicolumn{{{self.column_span}}}{{c}}{{{latex}}}"
        self.latex = latex

    def lines(self):
        """Roughly the letters that a reader sees, a string for each line."""
        return visible(self.latex)


@dataclass
class Layout:
    """How a table fits the page."""

    size: int  # of the print, in points
    spans_page: bool
    widths: list  # of the columns, in points


def ignore(_):
    """Take a sentence about a table that is in no paper."""


@dataclass
class Table:
    """Rows of cells, with the lines ruled above each row."""

    cell_name: str
    aligns: list  # l, c or r, for each column
    rows: list  # lists of Cells
    rules: list  # LaTeX of the lines above each row
    head: int  # how many rows are the head
    warn: object = ignore  # called with a sentence about what is cut
    inform: object = ignore  # called with a sentence about what is no fault

    def letters(self):
        """The most letters of a line in each column, and the most letters of a word, two lists."""
        lines = [1] * len(self.aligns)
        words = [1] * len(self.aligns)
        for row in self.rows:
            column = 0
            for cell in row:
                start = column
                column += cell.column_span
                if cell.column_span > 1:
                    continue
                for line in cell.lines():
                    parts = re.split(rf"[\s{BREAK}]+", line)
                    lines[start] = max(lines[start], len(line.replace(BREAK, "")))
                    words[start] = max(words[start], *map(len, parts))
        return lines, words

    def layout(self, rooms, sizes=tuple(PRINT_SIZES)):
        """The Layout that fits best: without wrapped text if possible, else in large print.

        Args:
            rooms: the widths that the table may have, the smallest first.
            sizes: of the print that it may have, the largest first.

        Returns:
            None if it does not fit.
        """
        lines, words = self.letters()
        wrapped = []
        for room in rooms:
            for size in sizes:
                line_widths = [count * size * LETTER for count in lines]
                word_widths = [count * size * LETTER for count in words]
                left = room - len(lines) * GAP
                if sum(line_widths) <= left:
                    return Layout(size, room == PAGE_POINTS, line_widths)
                if sum(word_widths) <= left:
                    widths = share_room(left, line_widths, word_widths)
                    wrapped.append(Layout(size, room == PAGE_POINTS, widths))
        if not wrapped:
            return None
        return next((layout for layout in wrapped if layout.spans_page), wrapped[0])

    def column_layout(self):
        """The Layout within a column of a table that stays legible there, or None."""
        layout = self.layout((COLUMN_POINTS,))
        if layout and max(row_lines(row, layout) for row in self.rows) <= MOST_LINES:
            return layout
        return None

    def spans_page(self):
        """Whether a table that may span both columns does so."""
        layout = self.layout((COLUMN_POINTS, PAGE_POINTS))
        return layout is not None and layout.spans_page

    def latex(self, caption="", label="", wide=False, narrow=False):
        """The table as LaTeX: a float if it has a label or is large, otherwise in its place.

        Args:
            caption: LaTeX.
            label: its label, "" for a table without one.
            wide: whether it spans both columns in any case.
            narrow: whether it stays in one column in any case.
        """
        table = self.shortened()
        rooms = (COLUMN_POINTS, PAGE_POINTS)
        if wide or narrow:
            rooms = (PAGE_POINTS,) if wide else (COLUMN_POINTS,)
        layout = table.layout(rooms)
        if layout and layout.spans_page and not label:
            layout = table.column_layout() or layout
        if not layout:
            return table.in_blocks(rooms, caption, label)
        pieces = table.split_rows(layout)
        is_cut = len(pieces) > 1
        tabulars = [table.tabular(piece, layout, is_cut) for piece in pieces]
        return self.floats(tabulars, layout.spans_page, caption, label, HERE if narrow else "")

    def floats(self, contents, spans_page, caption, label, specifier=""):
        """Floats of LaTeX, one for each content, that together are this table.

        A single content without a label stands in its place if it fits the column. The
        `specifier` says where LaTeX may put them, such as [H]; "" is its default.
        """
        if not label and not spans_page and len(contents) == 1:
            return f"\\begin{{center}}\n{contents[0]}\\end{{center}}"
        if not label:
            self.inform(
                "a table without a label is too large for its place and stands at the top of a "
                "page or column (`#| label: tbl-…` and `#| tbl-cap: …` give it number and caption)"
            )
        floats = []
        for index, content in enumerate(contents):
            above = caption_line(caption, label, is_continued=index > 0)
            floats.append(float_around(above + content, spans_page, specifier))
        return "\n\n".join(floats)

    def in_blocks(self, rooms, caption, label):
        """The table as LaTeX in blocks of columns that stand under each other."""
        blocks = self.choose_width(rooms)
        self.warn(
            f"a table of {len(self.aligns)} columns is wider than the page and is cut into "
            f"{len(blocks.tables)} blocks of columns (show fewer columns, or transpose it)"
        )
        contents = stack_blocks(blocks)
        return self.floats(contents, blocks.room == PAGE_POINTS, caption, label)

    def choose_width(self, rooms):
        """The Blocks in the first width in which they are not too high, else in the last width."""
        for room in rooms[:-1]:
            blocks = self.blocks_within(room)
            if blocks.height <= COLUMN_HEIGHT * MOST_OF_COLUMN:
                return blocks
        return self.blocks_within(rooms[-1])

    def blocks_within(self, room):
        """The Blocks of a width, all in print of one size."""
        tables = [self.select_columns(columns) for columns in self.divide(room)]
        layouts = [table.layout((room,)) for table in tables]
        size = min([layout.size for layout in layouts if layout], default=min(PRINT_SIZES))
        layouts = []
        for table in tables:
            layout = table.layout((room,), (size,))
            if layout is None:  # LaTeX scales it
                count = len(table.aligns)
                layout = Layout(size, False, [room / count] * count)
            layouts.append(layout)
        return Blocks(room, tables, layouts)

    def height(self, layout):
        """How high the table is, in points."""
        return LINE * layout.size * (2 + sum(row_lines(row, layout) for row in self.rows))

    def divide(self, room):
        """The columns in blocks that fit a width: lists of numbers, each with the first column."""
        lines, words = self.letters()
        size = min(PRINT_SIZES)
        first, *widths = [count * size * LETTER + GAP for count in lines]
        narrowest = words[0] * size * LETTER + GAP
        if first > room / 3:
            first = max(room / 3, narrowest)
        blocks = [[0]]
        left = room - first
        for column, width in enumerate(widths, 1):
            width = min(width, max(room / 3, words[column] * size * LETTER + GAP))  # wraps
            if width > left and len(blocks[-1]) > 1:
                blocks.append([0])
                left = room - first
            blocks[-1].append(column)
            left -= width
        return blocks

    def select_columns(self, columns):
        """A Table of some columns, a list of numbers; cells that span others as well are cut."""
        rows = []
        for row in self.rows:
            cells = []
            column = 0
            for cell in row:
                covered = [each for each in columns if column <= each < column + cell.column_span]
                column += cell.column_span
                if covered:
                    cells.append(_narrowed(cell, len(covered)))
            rows.append(cells)
        aligns = [self.aligns[column] for column in columns]
        rules = ["" if "cline" in rule or "cmidrule" in rule else rule for rule in self.rules]
        return replace(self, aligns=aligns, rows=rows, rules=rules)

    def shortened(self):
        """The Table, or its first and last rows and columns if it has very many."""
        table = self
        if len(self.rows) > MOST_ROWS:
            dots = [Cell("\\ldots{}") for _ in self.aligns]
            start, end = self.head + KEPT_ROWS, len(self.rows) - KEPT_ROWS
            rows = [*self.rows[:start], dots, *self.rows[end:]]
            rules = [*self.rules[:start], "", *self.rules[end:]]
            table = replace(self, rows=rows, rules=rules)
            self.warn(f"of a table of {len(self.rows)} rows the first and last are set")
        count = len(self.aligns)
        if count > MOST_COLUMNS:
            columns = [*range(KEPT_COLUMNS), *range(count - KEPT_COLUMNS, count)]
            table = table.select_columns(columns)
            self.warn(f"of a table of {count} columns the first and last {KEPT_COLUMNS} are set")
        return table

    def split_rows(self, layout):
        """The numbers of the rows but the head, in lists of those that fit into one column."""
        line = LINE * layout.size
        room = COLUMN_HEIGHT - self.head * line
        pieces = [[]]
        height = 0
        for index in range(self.head, len(self.rows)):
            needed = line * row_lines(self.rows[index], layout)
            if height + needed > room:
                pieces.append([])
                height = 0
            pieces[-1].append(index)
            height += needed
        return pieces

    def tabular(self, indices, layout, is_cut):
        """A tabular of the head and of the rows with these numbers."""
        head = self.row_latex(range(self.head))
        if head:
            head += "\\midrule\n"
        body = self.row_latex(indices)
        if is_cut:  # no cell extends over rows of two pieces
            body = MULTIROW.sub(r"\1", body)
        return (
            f"\\{PRINT_SIZES[layout.size]}\\fitcolumn{{%\n"
            f"\\begin{{tabular}}{{{self.columns(layout)}}}\n"
            f"\\toprule\n{head}{body}\\bottomrule\n\\end{{tabular}}}}\n"
        )

    def columns(self, layout):
        """The types of the columns as tabular takes them; those with several lines are wrapped."""
        columns = ""
        lines, _ = self.letters()
        for column, align in enumerate(self.aligns):
            width = layout.widths[column]
            is_broken = any(
                "\\newline" in row[column].latex for row in self.rows if column < len(row)
            )
            if is_broken or width < lines[column] * layout.size * LETTER:
                side = SIDES[align]
                columns += f">{{\\{side}\\arraybackslash}}p{{{width + 1:.0f}pt}}"
            else:
                columns += align
        return columns

    def row_latex(self, indices):
        """The rows with these numbers as LaTeX."""
        lines = []
        for index in indices:
            cells = " & ".join(cell.latex for cell in self.rows[index])
            lines.append(f"{self.rules[index]}{cells} \\\\\n")
        return "".join(lines)


@dataclass
class Blocks:
    """A table cut into Tables of some columns each, and how they fit a width."""

    room: float  # the width, in points
    tables: list
    layouts: list  # the Layout of each

    @property
    def height(self):
        """How high the blocks are together, in points."""
        return sum(table.height(layout) for table, layout in zip(self.tables, self.layouts))


def stack_blocks(blocks):
    """The LaTeX of blocks under each other, a string for each column that they fill: a list.

    A block that is higher than a column is cut into pieces.
    """
    stacks = [[]]  # of tabulars that stand in one float
    height = 0
    for table, layout in zip(blocks.tables, blocks.layouts):
        pieces = table.split_rows(layout)
        needed = table.height(layout) / len(pieces)
        for piece in pieces:
            if height + needed > COLUMN_HEIGHT and stacks[-1]:
                stacks.append([])
                height = 0
            stacks[-1].append(table.tabular(piece, layout, len(pieces) > 1))
            height += needed
    return ["\\par\\medskip\n".join(stack) for stack in stacks]


def share_room(room, lines, words):
    """Widths for columns: each has room for its longest word, and a share of what is left.

    Args:
        room: for all columns together.
        lines: the widths of their longest lines.
        words: the widths of their longest words.
    """
    share = (room - sum(words)) / (sum(lines) - sum(words))
    return [word + share * (line - word) for line, word in zip(lines, words)]


def row_lines(row, layout):
    """How many lines of print a row needs."""
    needed = 1
    for cell, width in zip(row, layout.widths):
        lines = 0
        for text in cell.lines():
            lines += max(1, math.ceil(len(text) * layout.size * LETTER / width - 0.01))
        needed = max(needed, lines)
    return needed


def caption_line(caption, label, is_continued):
    """The LaTeX of a caption, "" for a table without a label."""
    if not label:
        return ""
    if is_continued:
        return "\\ContinuedFloat\\caption[]{(continued)}\n"
    return f"\\caption{{{caption}}}\\label{{{label}}}\n"


def float_around(content, spans_page, specifier=""):
    """A float of LaTeX."""
    environment = "table*" if spans_page else "table"
    latex = f"\\begin{{{environment}}}{specifier}\n\\centering\n{content}\\end{{{environment}}}"
    if specifier == HERE:  # flushend would push it out of the page to make columns of one height
        return f"\\raggedend\n{latex}"
    return latex


def _narrowed(cell, span):
    """A cell that spans no more than so many columns."""
    if cell.column_span == span:
        return cell
    latex = MULTICOLUMN.sub(rf"\\multicolumn{{{span}}}", cell.latex)
    return Cell(latex, cell.row_span, span)


@functools.cache  # a table's layout asks for the same cells again and again
def visible(latex):
    """Roughly the letters that a reader sees, for each line of a cell."""
    commands = r"\\(?:cellcolor|color|textcolor|multirow|multicolumn|href|includegraphics)"
    latex = re.sub(rf"{commands}(?:\[[^]]*\])?{BRACED}(?:\{{\*\}})?", "", latex)
    latex = re.sub(r"\\hyperref\[[^]]*\]", "", latex)
    latex = latex.replace("\\allowbreak ", BREAK)
    latex = re.sub(r"\\text[a-z]{5,}(?:\{\})?", "x", latex)  # \textbackslash is one letter
    lines = latex.split("\\newline")
    return [re.sub(r"\\[a-zA-Z]+|[{}$]|\\(?=\W)", "", line).strip() for line in lines]


def split(text, separator):
    """The parts of LaTeX between separators that no brace or environment encloses.

    Args:
        text: LaTeX.
        separator: & or two backslashes.
    """
    parts = []
    start = 0
    for found, depth in tokens(text):
        if found[0] == separator and depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def tokens(text, start=0):
    """Yield what divides or encloses cells in LaTeX from a position on: a match and its depth.

    The depth is that before the match: the number of braces and environments around it.
    """
    depth = 0
    for found in TOKEN.finditer(text, start):
        yield found, depth
        if found[0] in ("{", "\\begin"):
            depth += 1
        elif found[0] in ("}", "\\end"):
            depth -= 1


def from_latex(text, cell_name):
    """The Table in the LaTeX of a tabular or longtable, and the caption that it has.

    Args:
        text: LaTeX.
        cell_name: see Fragment.
    """
    found = TABULAR.search(text)
    if not found:
        raise PaperError(
            f"{cell_name}: its LaTeX table has no matching \\begin{{tabular}} … \\end{{tabular}}: "
            "run the cell again."
        )
    caption = CAPTION.search(text)
    table = Table(cell_name, [], [], [], 0)
    above = ""  # the rules above the next row
    for line in split(_tabular_body(found["body"]), "\\\\"):
        line = re.sub(r"\A\s*\[[\d.]+\w+\]", "", line)  # extra space behind the row above
        while rule := RULE.match(line):
            above += rule[0].strip() + "\n"
            line = line[rule.end() :]
        if not line.strip():
            continue
        if not table.head and re.search("midrule|hline", above):
            table.head = len(table.rows)
        if len(table.rows) in (0, table.head):  # which have rules of their own
            above = ""
        table.rows.append([_latex_cell(cell.strip()) for cell in split(line, "&")])
        table.rules.append(above)
        above = ""
    count = _count_columns(table.rows)
    aligns = _read_column_types(found) + ["l"] * count
    table.aligns = aligns[:count]
    if caption:
        return table, caption[1][1:-1]
    return table, ""


def _tabular_body(body):
    """The rows of a tabular or longtable as LaTeX: no captions, comments and repeated heads."""
    body = NO_ROWS.sub("", body).replace("\\tabularnewline", "\\\\")
    parts = LONGTABLE_PART.split(body)
    return body if len(parts) == 1 else parts[0] + parts[-1]


def _latex_cell(latex):
    span = MULTICOLUMN.match(latex)
    if "$" not in latex and "\\(" not in latex:
        latex = set_symbols(latex)
    return Cell(latex, column_span=int(span[1]) if span else 1)


def _read_column_types(found):
    """The columns' sides in the arguments of a tabular, a list of l, c and r."""
    arguments = re.findall(BRACED, found["arguments"])
    has_width = found["environment"] in ("tabular*", "tabularx", "tabulary")
    columns = arguments[1 if has_width else 0][1:-1]
    columns = re.sub(
        rf"\*\{{?(\d+)\}}?({BRACED})", lambda many: many[2][1:-1] * int(many[1]), columns
    )
    types = re.findall(r"\w", re.sub(BRACED, "", columns))
    return [COLUMN_TYPES.get(letter, "l") for letter in types]


def _count_columns(rows):
    return max([sum(cell.column_span for cell in row) for row in rows], default=1)


def from_html(element, cell_name):
    """The Table in an HTML table, its cells with the elements to fill them from.

    Args:
        element: the table.
        cell_name: see Fragment.
    """
    table = Table(cell_name, [], [], [], 0)
    columns = {}  # number -> the elements in it that span no other column
    covered = {}  # number -> how many more rows a cell above extends over
    for line in element.find_all("tr"):
        elements = line.find_all(["td", "th"])
        if len(table.rows) == table.head and _is_head(line, table):
            table.head += 1
        row = []
        column = 0
        while elements or covered.get(column):
            if covered.get(column):
                covered[column] -= 1
                cell = Cell()
            else:
                cell = _html_cell(elements.pop(0))
                if cell.column_span == 1 and len(table.rows) >= table.head:
                    columns.setdefault(column, []).append(cell.element)
                for each in range(column, column + cell.column_span):
                    covered[each] = max(0, cell.row_span - 1)
            row.append(cell)
            column += cell.column_span
        table.rows.append(row)
    if table.head == len(table.rows):
        table.head = 0
    table.rules = [""] * len(table.rows)
    table.aligns = [side(columns.get(each, [])) for each in range(_count_columns(table.rows))]
    return table


def _is_head(line, table):
    """Whether a row of HTML belongs to the head, given that all rows above do."""
    if line.find_parent("thead"):
        return True
    return not table.rows and line.find("th") is not None and line.find("td") is None


def _html_cell(element):
    return Cell(
        row_span=_span(element, "rowspan"), column_span=_span(element, "colspan"), element=element
    )


def _span(element, name):
    digits = re.sub(r"\D", "", element.get(name, "1"))[:3]
    return max(1, int(digits or 1))


def side(cells):
    """How a column is aligned: as its first cell says, else numbers right and text left.

    Args:
        cells: the elements of its cells.
    """
    for cell in cells[:1]:
        style = f"{cell.get('align', '')} {cell.get('style', '')}"
        found = re.search(r"\b(left|center|right)\b", style)
        if found:
            return found[0][0]
    texts = ["".join(cell.find_all(string=True)).strip() for cell in cells]
    is_numeric = any(texts) and all(map(NUMERIC.fullmatch, texts))
    return "r" if is_numeric else "l"
