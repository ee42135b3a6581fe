"""Reads Quarto's cell options: the `#| key: value` lines of a code cell."""

import re

import yaml

from tools.errors import PaperError


def read_cell_options(source, cell="the cell"):
    """The options of a code cell, a dict of names and values.

    Args:
        source: the text of the cell.
        cell: what messages call the cell.

    Raises PaperError if the lines are not YAML.
    """
    lines = re.findall(r"(?m)^#\| ?(.*)", source)
    try:
        return dict(yaml.safe_load("\n".join(lines)) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise PaperError(
            f"{cell}: its cell options (`#| key: value`, YAML) cannot be read ({reason}): "
            "put each value in double quotes."
        ) from None
