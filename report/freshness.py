"""Tells whether a notebook's outputs belong to its present code, by the record of its last run.

The record is an output of the ledger cell: hashes of the cells' code, of the texts shown and of the
files that the run read and wrote.
"""

import ast
import base64
import hashlib
import json
import re

from report.cell_options import cell_tags, is_hidden, read_label

# Of outputs for programs; JupyterLab would show plain JSON as a tree.
MIME_TYPE = "application/vnd.submission+json"


# ----------------------------------------------------------------------------------------- hashes


def text_hash(text):
    """SHA-256 of a string, in hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def with_no_break_spaces(text):
    """A text whose per cent signs and ± stay with their numbers at the end of a line."""
    return re.sub(" (?=[%±])|(?<=±) ", "\N{NO-BREAK SPACE}", text)


def file_hash(path):
    """SHA-256 of a file, None if there is none."""
    if not path.exists():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_hash(source):
    """SHA-256 of a code cell's source without its cell options: captions need no new run."""
    lines = [line.rstrip() for line in source.strip().splitlines() if not line.startswith("#|")]
    return text_hash("\n".join(lines))


# How the cell begins that `make colab` adds to a notebook; it is no part of what is handed in.
UNPACK_COMMENT = "# This notebook carries the files of its project. Unpack them beside it."


def is_unpacking(source):
    """Whether a cell's code is that which `make colab` adds: it unpacks the project."""
    return source.startswith(UNPACK_COMMENT)


def definition_cells(notebook):
    """The cells of a notebook that define the network, a list.

    They are tagged `definition`. A class, function or import that these cells use, and that only a
    cell without the tag has, counts as well: a copy of that cell with nothing but these.
    """
    tagged = []
    untagged = {}  # position of a cell without the tag -> its imports, classes and functions
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if "definition" in cell_tags(cell):
            tagged.append(source)
        elif cell["cell_type"] == "code":
            untagged[number] = _definitions_of(source)
    wanted = _needed(tagged, untagged)
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        if number in wanted:
            cells.append(type(cell)({**cell, "source": untagged[number]}))
        elif "definition" in cell_tags(cell):
            cells.append(cell)
    return cells


def _needed(tagged, untagged):
    """The positions of the cells that the sources `tagged` need, a set.

    `untagged` are the cells to choose from, position -> source.
    """
    defined = {number: _names_defined(source) for number, source in untagged.items()}
    known = set().union(*map(_names_defined, tagged))
    missing = set().union(*map(_names_used, tagged)) - known
    wanted = set()
    while True:
        added = []
        for number, names in defined.items():
            if number not in wanted and names & missing:
                added.append(number)
        if not added:
            return wanted
        wanted.update(added)
        for number in added:
            known |= defined[number]
            missing |= _names_used(untagged[number])
        missing -= known


def _parse(source):
    """The syntax tree of a cell; an empty one for what is not plain Python."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.parse("")


def _names_used(source):
    names = (node for node in ast.walk(_parse(source)) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Load)}


def _names_defined(source):
    """Names of the classes, functions and imports at the top level of a cell."""
    names = set()
    for node in _parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
    return names


def _definitions_of(source):
    """The imports, classes and functions at the top level of a cell."""
    kinds = ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in _parse(source).body if isinstance(node, kinds)]
    return "\n".join(source_of(node, source) for node in nodes)


def source_of(node, source):
    """The lines of a statement in a cell's source, with its decorators and comments.

    Other statements on these lines are left out.

    Args:
        node: a statement at the top level of the cell's syntax tree; the nodes of `ast` begin a
            function or class after its decorators.
        source: the cell's source.
    """
    first = node.lineno
    for decorator in getattr(node, "decorator_list", []):
        first = min(first, decorator.lineno)
    # lines as `ast` counts them: a form feed ends none
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = lines[first - 1 : node.end_lineno]
    last = lines[-1].encode()  # the columns of `ast` count bytes
    if last[node.end_col_offset :].lstrip().startswith(b";"):
        lines[-1] = last[: node.end_col_offset].decode()
    if first == node.lineno:
        lines[0] = lines[0].encode()[node.col_offset :].decode()
    return "\n".join(lines)


def definitions_hash(notebook):
    """SHA-256 of the code of a notebook's definition cells."""
    hashes = [code_hash("".join(cell["source"])) for cell in definition_cells(notebook)]
    return text_hash(" ".join(hashes))


def results_hash(results):
    """SHA-256 of the content of results.json without its record of the code."""
    content = {name: value for name, value in results.items() if name != "code"}
    return text_hash(json.dumps(content, sort_keys=True))


# ---------------------------------------------------------------------------------------- outputs


def record(notebook):
    """The record of a notebook's last run, {} if its ledger cell has not run.

    Its entries are lists of hashes, "cells" and "texts"; "files", name -> hash; and others. Of
    "cells", those that failed are also in "failed".
    """
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get(MIME_TYPE)
            if _is_record(data):
                found = data
    return found


def _is_record(data):
    types = {"files": dict, "cells": list, "texts": list}
    return isinstance(data, dict) and all(
        isinstance(data.get(name), kind) for name, kind in types.items()
    )


def visible_outputs(cell):
    """What a code cell puts into the paper: the data of its outputs, MIME type -> content each.

    Captions do not count, and a cell whose author hides what it shows has none.
    """
    if is_hidden(cell):
        return []
    visible = []
    for output in cell.get("outputs", []):
        is_caption = output.get("metadata", {}).get("caption")
        if "data" in output and not is_caption:
            visible.append(output["data"])
    return visible


# ------------------------------------------------------------------------------------------ names


def cell_names(notebook):
    """What messages call the cells: "cell 7 (Results: fig-loss)", one for each.

    A name has the cell's number, the heading above it, and its label or first words.
    """
    names = []
    heading = ""
    for number, cell in enumerate(notebook["cells"], 1):
        text = cell["source"]
        titles = []
        if cell["cell_type"] == "markdown":
            text = _without_markup(text)
            titles = re.findall(r"(?m)^#{1,6}[ \t]+(.*\S)", text)
        name = _label_or_first_words(text)
        if titles and name.startswith("#"):
            name = titles[0][:60]
        elif heading:
            name = f"{heading}: {name}"
        names.append(f"cell {number} ({name})")
        if titles:
            heading = titles[-1][:40]
    return names


def _without_markup(markdown):
    """Markdown with its headings, without links, elements of HTML and emphasis."""
    for _ in range(2):  # a picture in a link is one in the other
        markdown = re.sub(r"!?\[([^][]*)\]\([^()]*\)", r"\1", markdown)
    return re.sub(r"(?s)<!--.*?-->|</?[a-zA-Z][^<>]*>|[*`]", "", markdown)


def _label_or_first_words(source):
    if label := read_label(source):
        return label
    for line in source.splitlines():
        if line.strip() and not line.startswith("#|"):
            return line.strip()[:60].strip()
    return "empty"


# -------------------------------------------------------------------------------------- freshness


def stale(notebook, root):
    """Yield why outputs do not belong to the notebook's present code, a sentence each.

    Nothing is yielded for a notebook without a record.

    Args:
        notebook: nbformat's node.
        root: the project's folder, below which files are looked up; None leaves them out.
    """
    last_run = record(notebook)
    if not last_run:
        return
    cells = {}  # name -> code cell
    for cell, name in zip(notebook["cells"], cell_names(notebook)):
        is_code = cell["cell_type"] == "code" and cell["source"].strip()
        if is_code and not is_unpacking(cell["source"]):
            cells[name] = cell
    yield from _changed_code(cells, last_run["cells"], last_run.get("failed", []))
    failed = [name for name, cell in cells.items() if failed_unexpectedly(cell)]
    if failed:
        yield f"{', '.join(failed)} ended in an error"
    if root:
        yield from _changed_files(last_run["files"], root)
    foreign = [name for name, cell in cells.items() if _shows_foreign(cell, last_run)]
    if foreign:
        yield (
            f"{', '.join(foreign)}: the output is from another run, or was not displayed with "
            "prose(), show_table() or show_figure()"
        )


def _changed_code(cells, recorded, failed):
    """Yield whether cells changed or were not run in order, down to the ledger cell.

    Cells with the same code count as one, in the place of the last. A cell that failed and is no
    longer there was edited and run again, so it does not count.
    """
    hashes = {name: code_hash(cell["source"]) for name, cell in cells.items()}
    present = set(hashes.values())
    recorded = _last_of_each(
        entry for entry in recorded if entry in present or entry not in failed
    )
    names = list(hashes)
    length = len(recorded)
    if recorded and recorded[-1] in present:  # by the ledger cell
        length = max(number for number, name in enumerate(names, 1) if hashes[name] == recorded[-1])
    until_ledger = names[:length]
    changed = [name for name in until_ledger if hashes[name] not in recorded]
    if changed:
        yield f"{', '.join(changed)} changed since the notebook was run"
    elif _last_of_each(hashes[name] for name in until_ledger) != recorded:
        yield "the notebook's cells were not run once each from top to bottom"


def _last_of_each(values):
    """The values as a list in which each stands once, where it occurs last."""
    return list(dict.fromkeys(reversed(list(values))))[::-1]


def failed_unexpectedly(cell):
    """Whether a code cell shows an error, unless its tag `raises-exception` says it should."""
    if "raises-exception" in cell_tags(cell):
        return False
    return any(output["output_type"] == "error" for output in cell["outputs"])


def _changed_files(recorded, root):
    """Yield which files, name -> hash, are missing or have changed."""
    for name, expected in recorded.items():
        found = file_hash(root / name)
        if found is None:
            if not name.endswith("weights.safetensors"):  # a student may leave these out
                yield f"{name} is missing"
        elif found != expected:
            yield f"{name} is not the file that the notebook was run with"


def _shows_foreign(cell, last_run):
    """Whether a cell shows a text or a picture in the paper that is not in the record."""
    if "front-matter" in cell_tags(cell):
        return False
    return any(_is_foreign(cell, data, last_run) for data in visible_outputs(cell))


def _is_foreign(cell, data, last_run):
    """Whether an output, MIME type -> content, is not in the record."""
    if "application/pdf" in data:
        return _is_foreign_figure(cell, data["application/pdf"], last_run["files"])
    text = data.get("text/latex") or data.get("text/markdown")
    if text is not None:
        return text_hash(text) not in last_run["texts"]
    has_picture = any(kind.startswith("image/") for kind in data)
    return has_picture or "<table" in str(data.get("text/html", ""))


def _is_foreign_figure(cell, content, files):
    """Whether a PDF, in base64, is not the file of its cell's label."""
    label = read_label(cell["source"])
    if not label.startswith("fig-"):
        return True
    try:
        found = hashlib.sha256(base64.b64decode(content)).hexdigest()
    except ValueError:
        return True
    recorded = {name.rpartition("/")[2]: expected for name, expected in files.items()}
    return recorded.get(f"{label}.pdf") != found
