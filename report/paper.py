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

    cell_name: str  # what messages call the cell, see freshness.cell_names
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

    @property
    def column_count(self):
        """In how many columns the pictures of a figure stand."""
        if self.columns:
            return self.columns
        fitting = {1: 1, 3: 3}
        return fitting.get(len(self.files), 2)


@dataclass
class Label:
    """What a link may lead to."""

    number: str  # that the paper gives it; "" before the first section
    cell_name: str
    is_numbered: bool  # links to it that show a number have to show this one


@dataclass
class Paper:
    """What the template needs of a notebook: front matter, LaTeX, pictures; and what steps share.

    Args:
        name: the notebook's file name without extension, the title if there is no other.
        folder: where the notebook is.
        project: the folder in which pictures may also be.
        has_author: the bibliography, citation key -> whether an author can be named.
        cell_names: of all cells of the notebook, a list.
        draft: whether each page says so.
    """

    name: str
    folder: Path
    project: Path
    has_author: dict
    cell_names: list
    draft: bool = False
    front: dict = field(default_factory=dict)
    fragments: list = field(default_factory=list)
    files: dict = field(default_factory=dict)  # name -> bytes of a picture
    previews: dict = field(default_factory=dict)  # the same in PNG, of pictures that are PDF
    warnings: dict = field(default_factory=dict)  # sentence -> names of cells that it is about
    infos: dict = field(default_factory=dict)  # the same, of what is no fault
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

    def has_latex(self, text):
        """Whether any part of the paper has this text in its LaTeX."""
        return any(text in each.latex for each in self.fragments)

    def warn(self, sentence, cell_name):
        """Warn the author that something of a cell is left out, cut or scaled.

        STRICT=1 refuses a paper with warnings.
        """
        _add(self.warnings, sentence, cell_name)

    def warn_of_fault(self, fault, cell_name):
        """Warn the author of a PaperError for which something of a cell is left out."""
        self.warn(str(fault).removeprefix(f"{cell_name}: ").rstrip("."), cell_name)

    def inform(self, sentence, cell_name):
        """Inform the author about a cell that has no fault."""
        _add(self.infos, sentence, cell_name)

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

    def add_label(self, name, number, cell_name, is_numbered=True):
        """Enter a label. Raises PaperError if it exists or LaTeX cannot take it."""
        if name in self.labels:
            other = self.labels[name].cell_name
            raise PaperError(f"The label {name} exists twice: in {other} and in {cell_name}.")
        if not LABEL.fullmatch(name):
            raise PaperError(
                f"{cell_name}: the label {name!r} is empty, has one of \\ {{ }} % # ~ ^ in it, or "
                "has other spaces than one between words: use letters, digits and hyphens."
            )
        self.labels[name] = Label(number, cell_name, is_numbered)

    def add_picture(self, data, cell_name, label=""):
        """Keep the bytes of a picture and return the name of the file in which LaTeX finds them."""
        kind, data = pictures.prepare(data, cell_name)
        name = f"{label}.{kind}"
        if not re.fullmatch(r"[\w-]+", label, re.ASCII) or name in self.files:
            name = f"picture-{len(self.files) + 1}.{kind}"
        self.files[name] = data
        return name


def too_deep(cell_name):
    """The PaperError for elements that are nested deeper than Python can follow."""
    return PaperError(
        f"{cell_name}: its lists or HTML elements are nested too deeply: use fewer levels."
    )


def _add(messages, sentence, cell_name):
    cell_names = messages.setdefault(sentence, [])
    if cell_name not in cell_names:
        cell_names.append(cell_name)
