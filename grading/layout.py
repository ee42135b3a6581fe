"""Finds a submission's files among an archive's names, in whatever folders they were packed."""

import json
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from report.freshness import code_hash
from tools.errors import SubmissionError
from tools.project_files import ROLES, ROOT

# What operating systems, Python and Jupyter leave, and folders of installed packages.
LEFT_BY_SYSTEM = (
    "__MACOSX",
    "__pycache__",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    ".ipynb_checkpoints",
)
JUNK = (*LEFT_BY_SYSTEM, "venv", "env", "node_modules", "site-packages")
MOST_FOLDERS = 3  # around a submission
MOST_NOTEBOOKS = 20  # that are looked at to find the one handed in
MOST_NAMES = 5  # of what was not read


class ArchiveError(SubmissionError):
    """A submission, or a file of it, cannot be read: one sentence."""


@dataclass
class Layout:
    """Where the files of a submission are.

    Attributes:
        wanted: name in the archive -> name that the policy gives to the file.
        notes: sentences on what was found elsewhere, and on what nobody reads.
    """

    wanted: dict[str, str]
    notes: list[str] = field(default_factory=list)


def matches_patterns(name, patterns):
    """Whether a name matches one of the patterns, part by part.

    Hidden files and what programs leave behind (__pycache__, __MACOSX) never do.
    """
    parts = name.split("/")
    for part in parts:
        if part.startswith((".", "__")) and part not in ("__init__.py", "__main__.py"):
            return False
    for pattern in patterns:
        if pattern.count("/") != len(parts) - 1:  # most are told apart by this alone
            continue
        if all(map(fnmatchcase, parts, pattern.split("/"))):
            return True
    return False


def is_junk(name):
    """Whether a name is in a hidden folder, or in one that programs make: nobody hands it in."""
    return any(part.startswith(".") or part in JUNK for part in name.split("/"))


def arrange(names, load, policy):
    """The Layout of an archive.

    Args:
        names: the names of its files.
        load: a function of a dict, name in the archive -> new name, that reads files: it returns
            new name -> bytes.
        policy: a Policy.

    Raises ArchiveError if there is no notebook, or if none of several is the one.
    """
    names = list(names)
    useful = [name for name in names if not is_junk(name)]
    top = _top_folder(useful, policy.files.notebook)
    if top is not None:
        layout = Layout(_below(useful, top, policy))
    else:
        notebook = _find_notebook(useful, load, policy)
        folder = PurePosixPath(notebook).parent
        if folder.name == "notebooks":
            folder = folder.parent
        top = "" if str(folder) == "." else f"{folder}/"
        layout = Layout({notebook: policy.files.notebook} | _below(useful, top, policy))
        layout.notes.append(f"The notebook is {notebook}, not {policy.files.notebook}.")
        _find_strays(layout, useful, policy.files)
    _find_paper(layout, useful, policy.files)
    unread = _unread(names, layout.wanted, top)
    if unread:
        layout.notes.append(unread)
    return layout


def _top_folder(names, notebook):
    """The folder that holds a submission packed as asked, "" or ending in "/"; None without it."""
    tops = []
    for name in names:
        top = name.removesuffix(notebook)
        is_folder = not top or top.endswith("/")
        if name.endswith(notebook) and name.count("/") <= MOST_FOLDERS and is_folder:
            tops.append(top)
    if not tops:
        return None
    tops.sort(key=lambda top: top.count("/"))
    if len(tops) > 1 and tops[0].count("/") == tops[1].count("/"):
        raise ArchiveError(
            f"the archive has two notebooks, in {tops[0]} and {tops[1]}: hand in one"
        )
    return tops[0]


def _below(names, top, policy):
    """The files below the folder `top` that the policy reads: name -> name without it."""
    patterns = policy.files.patterns
    wanted = {}
    for name in names:
        short = name.removeprefix(top)
        if name.startswith(top) and matches_patterns(short, patterns):
            wanted[name] = short
    return wanted


# ------------------------------------------------------------------------------------- notebooks


def _find_notebook(names, load, policy):
    """The name of the notebook handed in: the one with most of the assignment's cells."""
    found = [name for name in names if name.lower().endswith(".ipynb")]
    if not found:
        raise ArchiveError(
            f"the archive has no {policy.files.notebook}, at its top or in one folder, and no "
            "other notebook"
        )
    if len(found) == 1:
        return found[0]
    found.sort(key=lambda name: name.count("/"))
    template = json.loads((ROOT / policy.files.notebook).read_text(encoding="utf-8"))
    known = {code_hash("".join(cell["source"])) for cell in template["cells"]}
    likeness = {}
    for name, content in load({name: name for name in found[:MOST_NOTEBOOKS]}).items():
        likeness[name] = _likeness(content, known)
    best = max(likeness.values())
    most_alike = [name for name, value in likeness.items() if value == best]
    if len(most_alike) > 1:
        raise ArchiveError(
            f"the archive has two notebooks, {most_alike[0]} and {most_alike[1]}, and it is not "
            "clear which one counts: hand in one"
        )
    return most_alike[0]


def _likeness(content, known):
    """Count the cells of a notebook (given as bytes) whose hash is in `known`.

    The result is -1 if the notebook cannot be read.
    """
    try:
        cells = json.loads(content)["cells"]
        return sum(code_hash("".join(cell["source"])) in known for cell in cells)
    except (ValueError, LookupError, TypeError, RecursionError):
        return -1


# ----------------------------------------------------------------------------------- other files


def _find_strays(layout, names, files):
    """Enter into a layout files that are not where the policy, `files`, names them."""
    present = set(names)
    for name in names:  # below another folder than the notebook's
        if not name.endswith(".ipynb"):
            _enter(layout, name, name, files)
        for new_name in _inner_names(name):
            if not new_name.endswith((".ipynb", ".py")):
                _enter(layout, name, new_name, files)
    for name in names:
        path = PurePosixPath(name)
        if path.parent.name and f"{path.parent}/run.json" in present:  # without checkpoints/
            _enter(layout, name, f"{files.runs}/{path.parent.name}/{path.name}", files)
    for new_name in (files.ledger, files.references):
        same = [name for name in names if PurePosixPath(name).name == PurePosixPath(new_name).name]
        if len(same) == 1:
            _enter(layout, same[0], new_name, files)


def _enter(layout, name, new_name, files):
    """Enter a file under a new name, if the policy reads such a file and none has it yet."""
    is_new = name not in layout.wanted and new_name not in layout.wanted.values()
    if is_new and matches_patterns(new_name, files.patterns):
        layout.wanted[name] = new_name


def _inner_names(name):
    """A name without its outer folders, one after the other; each has at least one folder left."""
    parts = name.split("/")
    for cut in range(1, min(len(parts) - 1, MOST_FOLDERS + 1)):
        yield "/".join(parts[cut:])


def _find_paper(layout, names, files):
    """Enter the PDF that is the paper: named like it or like the notebook, or the only one."""
    if files.paper in layout.wanted.values():
        return
    papers = [
        name for name in names if name.lower().endswith(".pdf") and "figures/" not in name
    ]
    notebooks = [name for name, new_name in layout.wanted.items() if new_name == files.notebook]
    stems = [PurePosixPath(name).stem for name in (files.paper, *notebooks)]
    candidates = [[name for name in papers if PurePosixPath(name).stem == stem] for stem in stems]
    candidates.append(
        [name for name in papers if not PurePosixPath(name).name.startswith("study")]
    )
    for found in candidates:
        if len(found) == 1:
            layout.wanted[found[0]] = files.paper
            layout.notes.append(f"The paper is {found[0]}, not {files.paper}.")
            return


def _unread(names, wanted, top):
    """A sentence on the files that no submission needs, "" if there are none."""
    expected = {*ROLES["submission"], *ROLES["assignment"]}
    groups = Counter()
    for name in names:
        short = name.removeprefix(top)
        if name in wanted or matches_patterns(short, expected) or _is_of_system(short):
            continue
        first, _, rest = short.partition("/")
        groups[f"{first[:40]}/" if rest else first[:40]] += 1
    if not groups:
        return ""
    shown = [
        f"{name} ({count:,})" if count > 1 else name
        for name, count in groups.most_common(MOST_NAMES)
    ]
    if len(groups) > MOST_NAMES:
        shown.append("others")
    count = sum(groups.values())
    files = "1 file was" if count == 1 else f"{count:,} files were"
    return f"{files} not read: {', '.join(shown)}."


def _is_of_system(name):
    """Whether an operating system, Python or Jupyter has left a file."""
    return any(part in LEFT_BY_SYSTEM for part in name.split("/"))
