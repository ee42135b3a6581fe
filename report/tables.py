"""Tables for a page of two columns: rows from HTML or LaTeX, and LaTeX that fits from rows.

What fits a column stands in it; what fits the page spans both columns; what fits neither has its text wrapped. The
print is never smaller than 7 pt. What is higher than a column becomes several floats.
"""

import math
import re
from dataclasses import dataclass

from report.typeset import fail

COLUMN, PAGE, HEIGHT = 232, 490, 600  # points that the template's geometry leaves
PLACES = ((COLUMN, 9), (COLUMN, 8), (COLUMN, 7), (PAGE, 9), (PAGE, 8), (PAGE, 7))  # room, size of the print
LETTER, GAP = 0.46, 8  # widths: of a letter as a part of the size, and between columns in points
SIZES = {9: "small", 8: "footnotesize", 7: "scriptsize"}
MOST_ROWS = 500
BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\}"
RULE = re.compile(rf"\s*\\(toprule|midrule|bottomrule|hline|cline|cmidrule|addlinespace)(?:[\[(]\w*[\])])*({BRACED})?")
NUMERIC = re.compile(r"[-+−–]?[\d.,\s]*\d[\d.,]*(?:e[-+]?\d+)?\s*%?|nan|none|[-–]?", re.I)


@dataclass
class Table:
    """Rows of cells, each its LaTeX and the number of columns that it spans, with the lines ruled above each row."""

    place: str  # what messages call the notebook's cell
    aligns: list  # l, c or r, for each column
    rows: list
    rules: list
    head: int  # how many rows are the head

    def widest(self):
        """The most letters of a line and of a word in each column."""
        lines, words = [1] * len(self.aligns), [1] * len(self.aligns)
        for row in self.rows:
            column = 0
            for latex, span in row:
                for line in visible(latex) if span == 1 else ():
                    lines[column] = max(lines[column], len(line))
                    words[column] = max(words[column], *map(len, line.split()), 0)
                column += span
        return lines, words

    def layout(self, wide):
        """Size of the print, whether the table spans both columns, and widths in points for the columns."""
        wrapped = []
        for room, size in PLACES[3 * wide:]:
            lines, words = ([letters * size * LETTER for letters in counts] for counts in self.widest())
            left = room - len(lines) * GAP
            if sum(lines) <= left:
                return size, room == PAGE, lines
            if sum(words) <= left:
                share = (left - sum(words)) / (sum(lines) - sum(words))
                widths = [word + share * (line - word) for line, word in zip(lines, words)]
                wrapped.append((size, room == PAGE, widths))
        if not wrapped:
            fail(f"{self.place}: a table of {len(self.aligns)} columns is too wide to be legible on the page: show "
                 "fewer columns, or transpose it, or tag the cell notebook-only.")
        return next((found for found in wrapped if found[1]), wrapped[0])

    def latex(self, caption="", label="", wide=False):
        """A float if there is a caption or the table is large; otherwise the table in its place."""
        if len(self.rows) > MOST_ROWS:
            fail(f"{self.place}: a table of {len(self.rows)} rows is too long for a paper: show a part of it, or tag "
                 "the cell notebook-only.")
        size, spanned, widths = self.layout(wide)
        columns, line = "", 1.25 * size
        for column, (width, letters) in enumerate(zip(widths, self.widest()[0])):
            broken = any("\\newline" in row[column][0] for row in self.rows if column < len(row))
            side = {"l": "raggedright", "c": "centering", "r": "raggedleft"}[self.aligns[column]]
            wraps = broken or width < letters * size * LETTER
            columns += f">{{\\{side}\\arraybackslash}}p{{{width + 1:.0f}pt}}" if wraps else self.aligns[column]
        pieces, height = [[]], 0
        for index in range(self.head, len(self.rows)):
            needed = line * max([1, *(
                sum(max(1, math.ceil(len(text) * size * LETTER / width - 0.01)) for text in visible(latex))
                for (latex, _), width in zip(self.rows[index], widths))])
            if height + needed > HEIGHT - self.head * line:
                pieces.append([])
                height = 0
            pieces[-1].append(index)
            height += needed
        head = self.row_lines(range(self.head)) + "\\midrule\n" * bool(self.head)
        tables = [f"\\{SIZES[size]}\\fitcolumn{{%\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}"
                  f"{self.row_lines(piece, len(pieces) > 1)}\\bottomrule\n\\end{{tabular}}}}\n" for piece in pieces]
        if not label and not spanned and len(pieces) == 1:
            return f"\\begin{{center}}\n{tables[0]}\\end{{center}}"
        kind = "table" + "*" * spanned
        captions = [f"\\caption{{{caption}}}\\label{{{label}}}\n"]
        captions += ["\\ContinuedFloat\\caption[]{(continued)}\n"] * len(tables)
        return "\n\n".join(f"\\begin{{{kind}}}\n\\centering\n{above if label else ''}{table}\\end{{{kind}}}"
                           for above, table in zip(captions, tables))

    def row_lines(self, indices, cut=False):
        """Rows as LaTeX; where the table is cut into pieces, no cell extends over several rows."""
        lines = "".join(f"{self.rules[index]}{' & '.join(latex for latex, _ in self.rows[index])} \\\\\n"
                        for index in indices)
        return re.sub(rf"\\multirow(?:\[\w\])?\{{\d+\}}\{{\*\}}({BRACED})", r"\1", lines) if cut else lines


def visible(latex):
    """Roughly the letters that a reader sees, for each line of a cell."""
    latex = re.sub(rf"\\(?:cellcolor|color|textcolor|multirow|multicolumn)(?:\[\w*\])?{BRACED}(?:\{{\*\}})?", "", latex)
    latex = re.sub(r"\\text[a-z]{5,}(?:\{\})?", "x", latex)  # \textbackslash and the like are a letter each
    return [re.sub(r"\\[a-zA-Z]+|[{}$]|\\(?=\W)", "", line).strip() for line in latex.split("\\newline")]


def split(text, separator):
    """The parts of LaTeX between separators, & or two backslashes, that no brace or environment encloses."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(r"\\begin\b|\\end\b|\\\\|\\.|[{}&]", text):
        depth += (found[0] in ("{", "\\begin")) - (found[0] in ("}", "\\end"))
        if found[0] == separator and not depth:
            parts.append(text[start:found.start()])
            start = found.end()
    return [*parts, text[start:]]


def from_latex(text, place):
    """A cell's table, and the caption that its LaTeX has."""
    found = re.search(rf"\\begin\{{(tabular[xy*]?|longtable)\}}\s*(?:\[\w*\])?((?:\s*{BRACED})+)(.*)\\end\{{\1\}}",
                      text, re.S)
    if not found:
        fail(f"{place}: its LaTeX is no whole tabular.")
    caption = re.search(rf"\\caption(?:\[[^]]*\])?({BRACED})", text)
    columns = re.findall(BRACED, found[2])[found[1] in ("tabular*", "tabularx", "tabulary")][1:-1]
    columns = re.sub(rf"\*\{{?(\d+)\}}?({BRACED})", lambda many: many[2][1:-1] * int(many[1]), columns)
    aligns = re.findall(r"\w", re.sub(BRACED, "", columns))
    body = re.sub(rf"\\(?:caption(?:\[[^]]*\])?|label){BRACED}(?:\s*\\\\)?|(?<!\\)%.*", "", found[3])
    body = body.replace("\\tabularnewline", "\\\\")
    heads = re.split(r"\\end(?:firsthead|head|foot|lastfoot)\b", body)  # of a long table
    rows, rules, head, above = [], [], 0, ""
    for line in split(heads[0] + heads[-1] if len(heads) > 1 else body, "\\\\"):
        line = re.sub(r"\A\s*\[[\d.]+\w+\]", "", line)
        while rule := RULE.match(line):
            above, line = above + rule[0].strip() + "\n", line[rule.end():]
        if line.strip():
            if not head and re.search("midrule|hline", above):
                head = len(rows)
            cells = [cell.strip() for cell in split(line, "&")]
            spans = [re.match(r"\\multicolumn\{(\d+)\}", cell) for cell in cells]
            rows.append([(cell, int(span[1]) if span else 1) for cell, span in zip(cells, spans)])
            rules.append("" if len(rows) - 1 in (0, head) else above)
            above = ""
    count = max([sum(span for _, span in row) for row in rows], default=1)
    aligns = [{"c": "c", "r": "r", "S": "r"}.get(align, "l") for align in aligns] + ["l"] * count
    return Table(place, aligns[:count], rows, rules, head), caption[1][1:-1] if caption else ""


def from_html(table, place):
    """The table in an element, its cells still empty, and the elements to fill them with, each with row and column."""
    rows, cells, head, columns = [], [], 0, {}  # columns: number -> the cells in it that span no other
    over = {}  # column -> how many more rows a cell above extends over
    for line in table.find_all("tr"):
        row, waiting = [], line.find_all(["td", "th"])
        if len(rows) == head and (line.find_parent("thead") or not rows and waiting and not line.find("td")):
            head += 1
        width = 0
        while waiting or over.get(width):
            if over.get(width):
                over[width] -= 1
                row.append(("", 1))
                width += 1
                continue
            cell = waiting.pop(0)
            across, down = (int(re.sub(r"\D", "", cell.get(name, "1"))[:3] or 1) for name in ("colspan", "rowspan"))
            before = f"\\multicolumn{{{across}}}{{c}}{{" * (across > 1) + f"\\multirow{{{down}}}{{*}}{{" * (down > 1)
            cells.append((cell, len(rows), len(row)))
            row.append((before, max(1, across)))
            if across == 1 and len(rows) >= head:
                columns.setdefault(width, []).append(cell)
            for column in range(width, width + across):
                over[column] = max(0, down - 1)
            width += max(1, across)
        rows.append(row)
    count = max([sum(span for _, span in row) for row in rows], default=1)
    head = head if head < len(rows) else 0
    return Table(place, [side(columns.get(column, [])) for column in range(count)], rows, [""] * len(rows), head), cells


def side(cells):
    """How a column is aligned: as its first cell says; otherwise numbers to the right, text to the left."""
    styles = [f"{cell.get('align', '')} {cell.get('style', '')}" for cell in cells[:1]]
    found = re.search(r"\b(left|center|right)\b", "".join(styles))
    texts = [cell.get_text().strip() for cell in cells]
    return found[0][0] if found else "r" if any(texts) and all(map(NUMERIC.fullmatch, texts)) else "l"
