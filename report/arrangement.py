"""Places pictures, centred blocks and tables, whose place decides what LaTeX they become."""

import re

from bs4 import NavigableString

from report import pictures, tables
from report.latex_text import Latex
from report.markdown import HEADINGS, new_element
from report.paper import Float
from tools.errors import PaperError

REMOTE_SOURCE = re.compile(r"(?:https?:)?//")
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
        if is_on_web(image):
            replace_by_link(paper, image, fragment.cell_name)
        else:
            set_picture(paper, image, fragment)
    for block in find_centred(body):
        block["placed"] = "centre"
        block.insert(0, Latex("\\begin{center}"))
        block.append(Latex("\\end{center}"))
    for table in reversed(body.find_all("table")):  # the inner ones first
        if table.find_parent("table"):
            flatten_table(table)
        elif is_row_of_links(table):
            set_row(table)
        else:
            set_table(table, fragment.cell_name)


def is_on_web(image):
    """Whether a picture is named by an address on the web."""
    return bool(REMOTE_SOURCE.match(image.get("src", "").strip()))


def replace_by_link(paper, image, cell_name):
    """Replace a picture on the web by a link to it."""
    paper.warn(
        "pictures on the web are replaced by links (save them beside the notebook to include them)",
        cell_name,
    )
    source = image.get("src", "").strip()
    text = image.get("alt", "").strip()
    if image.find_parent("a"):
        image.replace_with(text or "picture")
    else:
        image.replace_with(new_element("a", text or source, href=source))


def set_picture(paper, image, fragment):
    """Replace a picture by its LaTeX; a paragraph of nothing but pictures is centred."""
    file = load_picture(paper, image, fragment)
    if not file:
        return
    latex = f"\\includegraphics{pictures.width(image)}{{{file}}}"
    if image.parent.name in STANDS_BETWEEN_BLOCKS and _has_only_blocks_beside(image):
        image.wrap(new_element("p"))
    parent = image.parent
    row = image.find_parent("tr")
    if row:  # each cell has its share of the column
        share = 0.9 / len(row.find_all(["td", "th"]))
        latex = f"{{\\linewidth={share:.3f}\\columnwidth {latex}}}"
    elif parent.name in BLOCKS:
        before, behind = _may_break(image)
        latex = before + latex + behind
    page = new_element("img", src=file, alt=image.get("alt", "").strip())
    if width := pictures.page_width(image):
        page["width"] = width
    image.replace_with(Latex(latex, page))
    if not row and parent.name in BLOCKS and not parent.get_text().strip():
        parent["align"] = "center"


def load_picture(paper, image, fragment):
    """The name of a picture's file; "" if there is none, and its text stands in its place."""
    source = image.get("src", "").strip()
    try:
        data = pictures.load(
            source, fragment.attachments, paper.folder, paper.project, fragment.cell_name
        )
        return paper.add_picture(data, fragment.cell_name)
    except PaperError as fault:
        paper.warn_of_fault(fault, fragment.cell_name)
    text = image.get("alt", "").strip()
    image.replace_with(new_element("em", text) if text else "")
    return ""


def _may_break(image):
    """LaTeX before and behind a picture that stands close to others or to words."""
    sibling_before = image.previous_sibling
    before = ""
    if isinstance(sibling_before, Latex) or re.search(r"\S\Z", _text_beside(sibling_before)):
        before = "\\allowbreak "
    behind = ""
    if re.match(r"\w", _text_beside(image.next_sibling)):
        behind = "\\allowbreak "
    return before, behind


def _text_beside(node):
    return str(node) if isinstance(node, NavigableString) else ""


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


def is_row_of_links(table):
    """Whether a table only places links beside each other, such as "Open in Colab"."""
    rows = table.find_all("tr")
    if len(rows) != 1 or table.find("th") or not table.find("a"):
        return False
    texts = [text for text in table.find_all(string=True) if text.strip()]
    return all(text.find_parent("a") for text in texts)


def set_row(table):
    """Make a line of a table that only places links."""
    line = new_element("p")
    for cell in table.find_all("td"):
        if cell.get_text(strip=True) or cell.find("a"):
            line.extend([*list(cell.children), " \u00a0 "])
    table.replace_with(line)


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


def set_table(table, cell_name):
    """Put a Table in the place of an HTML table; the cells' elements stay in the tree."""
    content = tables.from_html(table, cell_name)
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
        line_break.replace_with(new_line())
    for block in cell.find_all(CELL_BLOCKS):
        if block.name in CELL_LINES and block.find_next_sibling():
            block.insert_after(new_line())
        if block.name != "pre":
            block.unwrap()


def new_line():
    """The end of a line in a table's cell."""
    return Latex("\\newline ", new_element("br"))
