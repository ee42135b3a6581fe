"""Places pictures, centred blocks and tables, whose place decides what LaTeX they become."""

import re

from report import pictures, tables
from report.latex_text import Latex
from report.markdown import HEADINGS, new_element
from report.paper import Float

WEB_ADDRESS = re.compile(r"(?:https?:)?//")
STANDS_BETWEEN_BLOCKS = ("body", "div", "figure", "details")
BLOCKS = [
    *("body", "p", "div", "center", "figure", "figcaption", "details", "table", "ul", "ol", "pre"),
    *HEADINGS,
]
CELL_BLOCKS = ["p", "pre", "div", "li", "ul", "ol", "center", "blockquote", "section"]
CELL_LINES = ("p", "pre", "li", "div")  # of these, what follows starts a new line


def arrange(paper, fragment):
    """Place a fragment's pictures, centred blocks and tables."""
    body = fragment.body
    for image in body.find_all("img"):
        if WEB_ADDRESS.match(image.get("src", "").strip()):
            replace_by_link(paper, image, fragment.cell)
        else:
            set_picture(paper, image, fragment)
    for block in find_centred(body):
        block.insert(0, Latex("\\begin{center}"))
        block.append(Latex("\\end{center}"))
    for table in reversed(body.find_all("table")):  # the inner ones first
        if table.find_parent("table"):
            flatten_table(table)
        else:
            set_table(table, fragment.cell)


def replace_by_link(paper, image, cell):
    """Replace a picture on the web by a link to it."""
    paper.note(
        "pictures on the web are not fetched, links stand for them (save them beside the notebook)",
        cell,
    )
    source = image.get("src", "").strip()
    text = image.get("alt", "").strip()
    if image.find_parent("a"):
        image.replace_with(text or "picture")
    else:
        image.replace_with(new_element("a", text or source, href=source))


def set_picture(paper, image, fragment):
    """Replace a picture by its LaTeX; a paragraph of nothing but pictures is centred."""
    source = image.get("src", "").strip()
    data = pictures.load(source, fragment.attachments, paper.folder, paper.project, fragment.cell)
    file = paper.add_picture(data, fragment.cell)
    latex = f"\\includegraphics{pictures.width(image)}{{{file}}}"
    if image.parent.name in STANDS_BETWEEN_BLOCKS and _has_only_blocks_beside(image):
        image.wrap(new_element("p"))
    parent = image.parent
    row = image.find_parent("tr")
    if row:  # each cell has its share of the column
        share = 0.9 / len(row.find_all(["td", "th"]))
        latex = f"{{\\linewidth={share:.3f}\\columnwidth {latex}}}"
    image.replace_with(Latex(latex))
    if not row and parent.name in BLOCKS and not parent.get_text().strip():
        parent["align"] = "center"


def _has_only_blocks_beside(image):
    for neighbour in (image.previous_sibling, image.next_sibling):
        if str(neighbour or "").strip() and neighbour.name not in BLOCKS:
            return False
    return True


def find_centred(body):
    """The outermost blocks that are centred, a list; headings and tables have their own place."""
    blocks = body.find_all(["center", "p", "div", "figure", *HEADINGS])
    centred = [block for block in blocks if _asks_for_centre(block)]
    return [block for block in centred if _may_be_centred(block, centred)]


def _asks_for_centre(block):
    return block.name == "center" or block.get("align") == "center"


def _may_be_centred(block, centred):
    if block.name in HEADINGS or block.find([*HEADINGS, "table"]):
        return False
    return not any(parent in centred for parent in block.parents)


def flatten_table(table):
    """Make lines of a table that stands in a cell of another."""
    for row in table.find_all("tr"):
        cells = row.find_all(["td", "th"])
        line = new_element("span")
        for cell in cells:
            if cell is not cells[0]:
                line.append(", ")
            line.extend(list(cell.children))
        row.replace_with(line, new_element("br"))
        line.unwrap()
    table.name = "span"


def set_table(table, cell):
    """Put a Table in the place of an HTML table; the cells' elements stay in the tree."""
    content = tables.from_html(table, cell)
    element = table.parent  # of a float
    if element.name != "paper-table":
        element = new_element("paper-table", new_element("float-caption"), float=Float())
        table.wrap(element)
    if table.caption:
        element.insert_before(new_element("p", *list(table.caption.children)))
    if not any(content.rows):
        element.decompose()
        return
    element["float"].table = content
    for row in content.rows:
        for part in row:
            if part.element is not None:
                make_lines(part.element)
                element.append(part.element.extract())
    table.decompose()


def make_lines(cell):
    """Make lines of the blocks in a table's cell."""
    for line_break in cell.find_all("br"):
        line_break.replace_with(Latex("\\newline "))
    for block in cell.find_all(CELL_BLOCKS):
        if block.name in CELL_LINES and block.find_next_sibling():
            block.insert_after(Latex("\\newline "))
        if block.name != "pre":
            block.unwrap()
