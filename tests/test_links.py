"""README, CONTRIBUTING and docs name things that exist: links, headings, files, commands, settings.

Nothing is asked of the network: of an address on the web only its form is checked.
"""

import functools
import importlib.util
import os
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from helpers import NOTEBOOK, ROOT

from report.markdown import HEADINGS, render_markdown
from tools import assignment
from tools.__main__ import COMMANDS
from tools.project_files import project_files

STUDENT = "docs/student.md"  # students get it with the hand-out
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    STUDENT,
    "docs/instructor-and-grader.md",
    "docs/how-it-works.md",
    assignment.README,
]
every_page = pytest.mark.parametrize("page", PAGES)
MADE = {".git", ".venv", ".venv-windows", "build", "data"}  # folders that are not in a clone
SUFFIXES = {
    *(".py", ".sh", ".j2", ".md", ".ipynb", ".toml", ".yml", ".cff", ".bib"),
    *(".csv", ".json", ".html", ".pdf", ".tex", ".zip", ".gz"),
}

# an archive of a submission holds a part of the project, and not these pages
pytestmark = pytest.mark.skipif(
    not all((ROOT / page).exists() for page in PAGES), reason="this copy has no docs"
)


@functools.cache
def project_names():
    """Paths below ROOT of the project's files, a frozenset of strings."""
    names = set()
    for folder, folders, files in os.walk(ROOT):
        path = Path(folder).relative_to(ROOT)
        folders[:] = [
            name for name in folders if name not in MADE and not name.endswith(("cache", "cache__"))
        ]
        names.update((path / name).as_posix() for name in files)
    return frozenset(names)


def handout_names():
    """Paths of the files that students get, a set of strings."""
    names = {file.relative_to(ROOT).as_posix() for file in project_files("assignment")}
    return names - {assignment.README} | {"README.md", NOTEBOOK, assignment.COLAB_NAME}


@functools.cache
def sources():
    """The project's code, without its tests, and the Makefile, as one text."""
    parts = []
    for name in sorted(project_names()):
        if name == "Makefile" or name.endswith((".py", ".sh")) and not name.startswith("tests/"):
            parts.append((ROOT / name).read_text(encoding="utf-8"))
    return "\n".join(parts)


@functools.cache
def rendered(page):
    """The elements of a page, as a browser shows them."""
    return render_markdown((ROOT / page).read_text(encoding="utf-8"))


def anchors(page):
    """The names that GitHub gives to a page's headings, a set."""
    seen = Counter()
    names = set()
    for heading in rendered(page).find_all(HEADINGS):
        words = re.sub(r"[^\w\- ]", "", heading.get_text().strip().lower())
        name = words.replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def exists(path, names):
    """Whether a path, with * for anything, is that of a file or folder among `names`."""
    pattern = path.rstrip("/")
    patterns = (f"{pattern}/*",) if path.endswith("/") else (pattern, f"{pattern}/*")
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def link_fault(page, address, names):
    """What is wrong with a link of a page, "" if nothing.

    `names` are the files among which it has to lead to one.
    """
    parts = urlsplit(address)
    if parts.scheme:
        is_whole = parts.scheme == "https" and "." in parts.netloc
        return "" if is_whole else "no whole https address"
    folder = PurePosixPath(page).parent
    if page == assignment.README:  # it becomes the hand-out's README.md
        folder = PurePosixPath()
    target = page
    if parts.path:
        target = os.path.normpath(folder / unquote(parts.path)).replace(os.sep, "/")
        if not exists(target, names):
            return "no such file"
    if parts.fragment and (not target.endswith(".md") or parts.fragment not in anchors(target)):
        return "no such heading"
    return ""


def link_faults(page, names):
    """Links and pictures of a page that lead nowhere, a list of strings."""
    faults = []
    addresses = [link["href"] for link in rendered(page).find_all("a", href=True)]
    addresses += [picture["src"] for picture in rendered(page).find_all("img")]
    assert addresses
    for address in addresses:
        fault = link_fault(page, address, names)
        if fault:
            faults.append(f"{address}: {fault}")
    return faults


def code_texts(page, inline_only=False):
    """What a page shows as code, a list of strings; blocks of code are left out if asked."""
    found = rendered(page).find_all("code")
    return [code.get_text() for code in found if not (inline_only and code.parent.name == "pre")]


def path_fault(word):
    """What is wrong with a word of code if it is a file's path, "" if nothing.

    A path below a folder of the project has to exist. A bare name, or one below build/, has to be
    that of a file of the project, or stand in its code: that writes it.
    """
    path = re.sub(r"<\w+>", "*", word.strip(",;:"))
    first, slash, _ = path.partition("/")
    folders = {name.partition("/")[0] for name in project_names() if "/" in name}
    if slash and first in folders:
        return "" if exists(path, project_names()) else "no such path"
    name = PurePosixPath(path).name
    if not re.fullmatch(r"[\w.-]+", name) or PurePosixPath(name).suffix not in SUFFIXES:
        return ""
    known = {PurePosixPath(name).name for name in project_names()}
    return "" if name in known or name in sources() else "no file of this name"


def command_faults(text):
    """Commands and settings in a text of code that do not exist, a list of strings."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^([a-z-]+):", makefile))
    faults = []
    for command in re.split(r"\n|&&|;", text):
        called = re.match(r"\s*(?:[A-Z_]+=\S* +)*make +([a-z-]+)", command)
        if called and called[1] not in targets:
            faults.append(f"make {called[1]}")
        called = re.search(r"python -m tools +([a-z-]+)", command)
        if called and called[1] not in COMMANDS:
            faults.append(f"python -m tools {called[1]}")
        module = re.search(r"python -m ([\w.]+)", command)
        if module and not importlib.util.find_spec(module[1]):
            faults.append(f"python -m {module[1]}")
    for setting in re.findall(r"\b([A-Z][A-Z0-9_]+)=", text):
        if f'"{setting}"' not in sources():
            faults.append(f"{setting}=")
    name = re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", text)
    if name and not re.search(rf"\b{text}\b", sources()):
        faults.append(text)
    return faults


@every_page
def test_links_lead_to_files_and_headings(page):
    names = handout_names() if page == assignment.README else project_names()
    assert link_faults(page, names) == []


def test_the_students_page_links_to_what_students_have():
    assert link_faults(STUDENT, handout_names()) == []


@every_page
def test_files_that_are_named_exist(page):
    words = [word for text in code_texts(page, inline_only=True) for word in text.split()]
    assert words
    assert [word for word in words if path_fault(word)] == []


@every_page
def test_commands_and_settings_exist(page):
    texts = code_texts(page)
    assert any("make " in text for text in texts)
    assert [fault for text in texts for fault in command_faults(text)] == []


def test_each_command_is_explained():
    """Each command of make is in one of the pages; `help` is what make alone does."""
    texts = "\n".join(text for page in PAGES for text in code_texts(page))
    named = set(re.findall(r"make ([a-z-]+)", texts))
    assert set(COMMANDS) - named == set()


@pytest.mark.parametrize(
    "address",
    [
        "missing.md",
        "README.md",  # of another folder
        "student.md#no-such-heading",
        "../report/report.pdf#results",
        "../build/report.pdf",
        "../Docs/student.md",
        "http://arxiv.org/abs/2404.00498",
        "https://arxiv",
    ],
)
def test_a_link_that_leads_nowhere_is_found(address):
    assert link_fault(STUDENT, address, project_names())


@pytest.mark.parametrize(
    "word, fault",
    [
        ("grading/police.toml", "no such path"),
        ("figures/<name>.jpeg", "no such path"),
        ("build/grade.html", "no file of this name"),
        ("util.py", "no file of this name"),
        ("figures/<name>.png", ""),
        ("study/", ""),
        ("build/grades.html,", ""),
        ("train/<class>/*", ""),
    ],
)
def test_a_path_is_looked_up(word, fault):
    assert path_fault(word) == fault


@pytest.mark.parametrize(
    "text",
    [
        "make reports",
        "cd folder && make reports",
        "SEED=1 make reports",
        "make report EPOCH=3",
        "python -m tools pack",
        "python -m grading.verifier a.zip",
        "SUBMISION",
    ],
)
def test_a_command_that_does_not_exist_is_found(text):
    assert command_faults(text)
