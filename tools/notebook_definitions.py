"""Execute the notebook's definition cells: block and network are defined there alone."""

import json
import linecache

import pandas as pd
import torch
import torchvision
from torch import nn

import utils
from report.freshness import definition_cells
from tools.project_files import NOTEBOOK


def load_definitions(notebook=NOTEBOOK):
    """Names that the definition cells of a notebook define: a dict, name -> object.

    Args:
        notebook: the notebook's path. The other cells of it are not executed.
    """
    names = {
        "nn": nn,
        "torch": torch,
        "torchvision": torchvision,
        "pd": pd,
        "utils": utils,
        "__name__": "definitions",
    }
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for number, cell in enumerate(definition_cells(content)):
        source = "".join(cell["source"])
        file_name = f"<{notebook}, {cell.get('id', number)}>"
        register_source(file_name, source)
        exec(compile(source, file_name, "exec"), names)
    return names


def register_source(file_name, source):
    """Let tracebacks and `inspect.getsource` find code that is in no file."""
    lines = source.splitlines(keepends=True)
    linecache.cache[file_name] = (len(source), None, lines, file_name)
