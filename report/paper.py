"""The paper while it is built: its fragments, and what the steps have to know of each other."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase

from report import pictures
from tools.errors import PaperError

LABEL = re.compile(r"[^\s\\{}%#~^]+( [^\s\\{}%#~^]+)*")


@dataclass
class Fragment:
    """A part of the paper that one cell shows, on its way from HTML to LaTeX."""

    cell: str  # what messages call the cell
    body: object  # the tree of elements
    part: str = "body"  # or "title", "abstract", "banner" or "appendix"
    attachments: dict = field(default_factory=dict)
    definitions: list = field(default_factory=list)  # of commands that its formulas make
    latex: str = ""
    order: int = 0  # of the cells; in the paper wide floats come earlier
    is_computed: bool = False  # whether code made it, so that its numbers may be claims


@dataclass
class Float:
    """A figure or a table: what stands at its element as the attribute `float`."""

    label: str = ""  # a table without one is no float if it is small
    is_wide: bool = False  # spans both columns
    files: list = field(default_factory=list)  # of a figure: names of its pictures
    table: object = None  # of a table: a Table, once it has been read
    width: str = ""  # of its only picture, as LaTeX's option; "" for its own
    columns: int = 0  # in which the pictures of a figure stand, 0 for what fits
    is_narrow: bool = False  # a table that stays in one column
    alt: str = ""  # what a figure shows, in words


@dataclass
class Label:
    """What a link may lead to."""

    number: str  # that the paper gives it; "" before the first section
    cell: str
    is_numbered: bool  # links to it that show a number have to show this one


@dataclass
class Paper:
    """What the template needs of a notebook (front matter, LaTeX, pictures), and the steps' notes.

    Args:
        name: the notebook's file name without extension, the title if there is no other.
        folder: where the notebook is.
        project: the folder in which pictures may also be.
        authored: the bibliography, citation key -> whether an author can be named.
        names: what messages call the notebook's cells.
        draft: whether each page says so.
    """

    name: str
    folder: Path
    project: Path
    authored: dict
    names: list
    draft: bool = False
    front: dict = field(default_factory=dict)
    fragments: list = field(default_factory=list)
    files: dict = field(default_factory=dict)  # name -> bytes of a picture
    previews: dict = field(default_factory=dict)  # the same in PNG, of pictures that are PDF
    notes: dict = field(default_factory=dict)  # warning -> the cells that it is about
    remarks: dict = field(default_factory=dict)  # the same, of what is no fault
    counts: Counter = field(default_factory=Counter)  # of figures, tables and equations
    sections: list = field(default_factory=list)  # the present section's number
    is_in_appendix: bool = False  # whose sections have letters
    labels: dict = field(default_factory=dict)  # name -> Label
    linked: set = field(default_factory=set)  # names that links lead to
    commands: set = field(default_factory=set)  # names of commands that the notebook defines
    definitions: dict = field(default_factory=dict)  # of these commands, name -> LaTeX
    cited: bool = False

    def latex(self, part):
        """The LaTeX of "body", "title", "abstract", "banner" or "appendix"."""
        return "\n\n".join(each.latex for each in self.fragments if each.part == part)

    def note(self, sentence, cell):
        """Remember what of a cell is left out, cut or scaled; the author is told."""
        _add(self.notes, sentence, cell)

    def note_fault(self, fault, cell):
        """Remember a PaperError for which something of a cell is left out."""
        self.note(str(fault).removeprefix(f"{cell}: ").rstrip("."), cell)

    def remark(self, sentence, cell):
        """Remember what the author is told of a cell although nothing is amiss."""
        _add(self.remarks, sentence, cell)

    def section_number(self):
        """The number of the present section, such as 2.1 or B.1; "" before the first."""
        numbers = [str(number) for number in self.sections]
        if numbers and self.is_in_appendix:
            numbers[0] = ascii_uppercase[(self.sections[0] - 1) % 26]
        return ".".join(numbers)

    def start_appendix(self):
        """Count sections anew."""
        self.is_in_appendix = True
        self.sections = []

    def add_label(self, name, number, cell, is_numbered=True):
        """Enter a label. Raises PaperError if it exists or LaTeX cannot take it."""
        if name in self.labels:
            other = self.labels[name].cell
            raise PaperError(f"The label {name} exists twice: in {other} and in {cell}.")
        if not LABEL.fullmatch(name):
            raise PaperError(
                f"{cell}: the label {name!r} may have letters, digits and - _ . : alone."
            )
        self.labels[name] = Label(number, cell, is_numbered)

    def add_picture(self, data, cell, label=""):
        """Keep the bytes of a picture and return the name of the file in which LaTeX finds them."""
        kind, data = pictures.prepare(data, cell)
        name = f"{label}.{kind}"
        if not re.fullmatch(r"[\w-]+", label, re.ASCII) or name in self.files:
            name = f"picture-{len(self.files) + 1}.{kind}"
        self.files[name] = data
        return name


def too_deep(cell):
    """The PaperError for elements that stand in each other deeper than Python can follow."""
    return PaperError(f"{cell}: its lists or HTML elements stand in each other too deep.")


def _add(notes, sentence, cell):
    cells = notes.setdefault(sentence, [])
    if cell not in cells:
        cells.append(cell)
