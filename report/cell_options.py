"""Reads what authors say about a cell: its tags, and Quarto's cell options, `#| key: value`."""

import re

import yaml

from tools.errors import PaperError

# Tags of Jupyter Book, and ours.
HIDDEN_CELL = {"notebook-only", "remove-cell", "hide-cell"}
HIDDEN_OUTPUT = {"remove-output", "hide-output"}
SWITCHES = ("output", "include", "eval")  # of Quarto: false hides what the cell shows
MOST_LETTERS = 20_000  # of a cell's options; a grader reads notebooks that may be hostile
# What yaml raises for text that is not YAML, or whose values do not fit their explicit types.
UNREADABLE = (
    *(yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    RecursionError,
)
LABEL_LINE = re.compile(r"""(?m)^#\| *label *: *["']?(?P<label>[\w-]+)""")


def cell_tags(cell):
    """The tags of a cell, a set; _ may stand for -."""
    return {str(tag).replace("_", "-") for tag in cell["metadata"].get("tags", [])}


def is_hidden(cell):
    """Whether an author keeps what a code cell shows out of the paper, by a tag or an option."""
    tags = cell_tags(cell)
    if tags & HIDDEN_CELL:
        return True
    if "front-matter" in tags:  # the paper has its data in any case
        return False
    if tags & HIDDEN_OUTPUT:
        return True
    options = readable_options(cell["source"])
    return any(options.get(switch) is False for switch in SWITCHES)


def read_label(source):
    """The label among the options of a code cell, "" if there is none.

    It is found as well if another option, such as a caption with a colon, makes all unreadable.
    """
    try:
        label = read_cell_options(source).get("label")
    except PaperError:
        found = LABEL_LINE.search(source)
        return found["label"] if found else ""
    return " ".join(label.split()) if isinstance(label, str) else ""


def readable_options(source):
    """The options of a code cell, {} if they are not YAML."""
    try:
        return read_cell_options(source)
    except PaperError:
        return {}


def read_cell_options(source, cell_name="the cell"):
    """The options of a code cell, a dict of names and values.

    Args:
        source: the text of the cell.
        cell_name: what messages call the cell.

    Raises PaperError if the lines are not YAML.
    """
    text = "\n".join(re.findall(r"(?m)^#\| ?(.*)", source))
    try:
        if len(text) > MOST_LETTERS:
            raise ValueError(f"they are longer than {MOST_LETTERS:,} letters")
        return dict(yaml.load(text, _Loader) or {})
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise PaperError(
            f"{cell_name}: its cell options (`#| key: value`, YAML) cannot be read ({reason}): "
            "put each value in double quotes."
        ) from None


class _Loader(yaml.SafeLoader):
    """Reads YAML without aliases, by which a short text could stand for an endless one."""

    def compose_node(self, parent, index):
        """Raise YAMLError at an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias, `*name`, is not allowed")
        return super().compose_node(parent, index)
