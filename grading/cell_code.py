"""Recognises cells by their code, and a network's definitions by what they define.

Tags, comments and blank lines do not count. Nothing of a notebook is run here.
"""

import ast
import builtins
import io
import itertools
import tokenize

from nbformat.v4 import new_code_cell

from report.cell_options import cell_tags, read_label
from report.freshness import code_hash, definition_cells, source_of

MOST_COMMENTS = 10  # of a cell, of which every subset is tried
PROVIDED = {"nn", "torch", "torchvision", "pd", "utils", *dir(builtins)}  # by load_definitions
FOUND_TAG = "found by its definitions"


def figure_label(cell):
    """The label of a figure's code cell, "fig-…"; "" for other cells."""
    label = read_label(cell.source) if cell.cell_type == "code" else ""
    return label if label.startswith("fig-") else ""


def tree_of(source):
    """The syntax tree of a cell's source, None if it is not plain Python, such as `!pip …`."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def code_key(source):
    """What a cell does, a string that does not depend on comments, layout and cell options."""
    tree = tree_of(source)
    if tree is None:
        return code_hash(source)
    try:
        return ast.dump(tree)
    except RecursionError:
        return code_hash(source)


# --------------------------------------------------------------------------------------- comments


def hashes_without_comments(source):
    """Hashes of a cell's source without some of its comments: what it may have been before.

    The first is that of the source as it is.
    """
    yield code_hash(source)
    lines = source.splitlines()
    comments = _comments(source)
    sizes = range(1, len(comments) + 1)
    if len(comments) > MOST_COMMENTS:
        sizes = (1, len(comments))
    for size in sizes:
        for chosen in itertools.combinations(comments, size):
            yield code_hash("\n".join(_without(lines, chosen)))


def _comments(source):
    """Where comments start, a list of (row from 0, column), without cell options."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith("#|"):
                found.append((token.start[0] - 1, token.start[1]))
    except (tokenize.TokenError, SyntaxError):
        return []
    return found


def _without(lines, comments):
    """Lines without some comments, and without the lines that hold nothing else."""
    columns = dict(comments)
    left = []
    for row, line in enumerate(lines):
        if row not in columns:
            left.append(line)
            continue
        before = line[: columns[row]].rstrip()
        if before:
            left.append(before)
    return left


# ------------------------------------------------------------------------------------ definitions


def find_definitions(notebook, template):
    """The code cells that define a notebook's network, a list in the notebook's order.

    These are the cells tagged `definition`, and what other cells define of the names that the
    template's definitions have and that definitions use: functions, classes, imports, constants.
    Cells found so have the tag FOUND_TAG, and hold nothing but these statements.
    """
    chosen = {id(cell): cell for cell in notebook.cells if "definition" in cell_tags(cell)}
    untagged = {}  # id of a cell -> its statements that define something
    for cell in notebook.cells:
        tree = tree_of(cell.source) if cell.cell_type == "code" else None
        if id(cell) not in chosen and tree:
            untagged[id(cell)] = [node for node in tree.body if _is_definition(node)]
    sources = {id(cell): cell.source for cell in notebook.cells}
    wanted = _wanted_names(template)
    while True:
        trees = [tree for tree in (tree_of(cell.source) for cell in chosen.values()) if tree]
        missing = wanted.union(*map(_used_names, trees)) - PROVIDED
        missing -= set().union(*map(_defined_names, trees))
        added = _defining_cell(untagged, missing)
        if added is None and not chosen:
            added = _network_cell(untagged)
        if added is None:
            break
        nodes = untagged.pop(added)
        source = "\n\n".join(source_of(node, sources[added]) for node in nodes)
        chosen[added] = new_code_cell(source, metadata={"tags": ["definition", FOUND_TAG]})
    return [chosen[id(cell)] for cell in notebook.cells if id(cell) in chosen]


def _wanted_names(template):
    """The functions and classes that the template's definition cells define, a set."""
    names = set()
    for cell in definition_cells(template):
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
    return names


def _defining_cell(candidates, names):
    """The key of the last of other cells that defines one of some names, or None."""
    for key, nodes in reversed(candidates.items()):
        if names & _defined_names(ast.Module(nodes, [])):
            return key
    return None


def _network_cell(candidates):
    """The key of the last of other cells that defines a class of modules, or None."""
    for key, nodes in reversed(candidates.items()):
        for node in nodes:
            if isinstance(node, ast.ClassDef) and "Module" in ast.dump(node):
                return key
    return None


def _is_definition(node):
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Constant | ast.Tuple | ast.List)
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return isinstance(node, kinds)


def _defined_names(tree):
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _used_names(tree):
    """The names that code takes from outside of its functions, and more rather than fewer."""
    loaded = set()
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                loaded.add(node.id)
            else:
                own.add(node.id)
    return loaded - own
