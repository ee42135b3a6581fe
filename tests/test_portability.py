"""Other systems: text in UTF-8 under any locale, Windows' rules, what macOS and Ubuntu refuse."""

import ast
import ntpath
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import windows_rules
from grading_fixtures import LIMITS
from helpers import ROOT, tiny
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_training import faulty, press_ctrl_c

import training
from analysis import ledger
from grading import sandbox
from report import typeset
from tools import sandbox_command

SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")]


# Encodings. `make test` also makes Python's own EncodingWarning an error, where a test comes by.


def without_encoding(call):
    """Whether a call in a syntax tree reads or writes text in the encoding of the system."""
    options = {option.arg: option.value for option in call.keywords}
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if "encoding" in options:
        return False
    if name == "open" and isinstance(call.func, ast.Name):
        mode = ast.unparse(options.get("mode") or [*call.args, ast.Constant("r")][1])
        return "b" not in mode
    is_process = name in ("run", "Popen", "check_output", "call")
    return name in ("read_text", "write_text") or (is_process and "text" in options)


def test_text_names_its_encoding():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                place = f"{path.relative_to(ROOT)}, line {node.lineno}"
                assert not without_encoding(node), f'{place}: add encoding="utf-8"'


@pytest.mark.skipif(not sys.flags.warn_default_encoding, reason="make test sets the flag")
def test_python_makes_a_missing_encoding_an_error():
    careless = f"open({__file__!r}).close()"
    with pytest.raises(EncodingWarning):
        eval(careless)
    done = run([sys.executable, "-c", careless])
    assert done.stderr.decode().splitlines()[-1].startswith("EncodingWarning"), done.stderr


def is_entry_point(tree):
    return any(ast.unparse(node).startswith("if __name__ ==") for node in tree.body)


def test_every_command_prints_on_any_terminal():
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        is_ours = path.name not in ("sandbox_tasks.py", "test_portability.py")
        if is_ours and (is_entry_point(ast.parse(source)) or path.name == "config.py"):
            assert "replace_unprintable()" in source, path.relative_to(ROOT)


# The C locale without Python's UTF-8 mode, in which Python would not obey it
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(command, folder=ROOT, **environment):
    """What a command writes, in bytes, and its exit code."""
    outside = {"OMP_NUM_THREADS": "1"} | os.environ | environment
    return subprocess.run(command, cwd=folder, env=outside, capture_output=True, timeout=300)


def test_in_the_c_locale_commands_are_listed():
    for command in ["make"], [sys.executable, "-m", "tools"]:
        done = run(command, **ASCII)
        words = b"paper +build report/report.pdf"
        assert done.returncode == 0 and re.search(words, done.stdout), done.stderr


# Windows, rehearsed by tests/windows_rules.py


@pytest.mark.slow
def test_on_windows_training_saves_continues_and_ends(digits, tmp_path, monkeypatch):
    asked = windows_rules.refuse_files_in_use(monkeypatch)
    recipe = training.Recipe(epochs=2, batch_size=256)
    with pytest.raises(training.TrainingStopped):
        training.fit(faulty(3, press_ctrl_c), digits, tmp_path / "run", recipe)
    training.fit(tiny(), digits, tmp_path / "run", recipe)
    assert {"state.tmp", "state.pt", "run.json"} <= set(asked)
    training.fit(tiny(), digits, tmp_path / "run", recipe)  # its weights are read again
    assert training.load_run(tmp_path / "run").accuracy > 10


ON_WINDOWS = """
import importlib, pathlib, sys
import nbconvert, matplotlib.pyplot, sklearn.datasets, torchvision, distributed, nbclient
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import windows_rules
windows_rules.take_what_windows_lacks()

for file in pathlib.Path({root!r}).glob("[a-z]*/[a-z]*.py"):
    package = file.parent.name
    if file.with_name("__init__.py").exists() and file.name != "config.py":
        importlib.import_module(package + "." + file.stem)

from nbformat.v4 import new_markdown_cell, new_notebook
from paper_helpers import latex_of
notebook = new_notebook(cells=[new_markdown_cell("# M\\xfcller\\n\\n$x^2$ and \\ud55c")])
latex, about = latex_of(notebook, {{"metadata": {{"name": "n", "path": "."}}}}, page=True)
assert "M\\xfcller" in latex and "\\ud55c" in latex and "\\ud55c" in about["page"]

from tools import run_notebook
sys.argv = ["run_notebook", "n.ipynb", "run.ipynb"]
run_notebook.main()

from report.typeset import typeset
typeset(latex, {{}}, {{}})
"""


@pytest.mark.slow
def test_on_windows_and_in_the_c_locale_all_but_the_paper_works(tmp_path):
    """Every module is imported, a notebook runs and becomes LaTeX; where that ends, a sentence."""
    cells = [new_markdown_cell("# Müller"), new_code_cell("print('82.69 ± 0.25, 한글')")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    code = ON_WINDOWS.format(root=str(ROOT))
    done = run([sys.executable, "-c", code.encode()], tmp_path, **ASCII)
    error = done.stderr.decode().splitlines()[-1]
    assert "PaperError: On Windows the paper is not typeset: build it in WSL or on Colab" in error
    assert done.stdout == b"[0/1] M?ller\n82.69 ? 0.25, ??\n"
    outputs = nbformat.read(tmp_path / "run.ipynb", as_version=4).cells[1].outputs
    assert outputs[0].text == "82.69 ± 0.25, 한글\n"


def test_on_windows_the_record_names_files_as_elsewhere(monkeypatch):
    monkeypatch.setattr(ledger, "os", SimpleNamespace(path=ntpath, sep="\\"))
    monkeypatch.setattr(ledger, "ROOT", "C:\\project")
    assert ledger.relative_path("C:\\project\\figures\\fig-loss.pdf") == "figures/fig-loss.pdf"


# macOS


def test_macos_may_refuse_a_limit_of_memory(monkeypatch):
    limits = []

    def setrlimit(kind, values):
        if kind == typeset.resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(kind)

    monkeypatch.setattr(typeset.resource, "setrlimit", setrlimit)
    typeset.limit()
    assert limits == [typeset.resource.RLIMIT_FSIZE, typeset.resource.RLIMIT_CPU]


# Ubuntu 24.04: bubblewrap is installed and refused


@pytest.fixture
def refused_bwrap(tmp_path, monkeypatch):
    """A bwrap that fails as Ubuntu's does, first in PATH."""
    bwrap = tmp_path / "bin" / "bwrap"
    bwrap.parent.mkdir()
    message = "bwrap: setting up uid map: Permission denied"
    bwrap.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 1\n", encoding="utf-8")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bwrap.parent}:{os.environ['PATH']}")
    typeset.sandbox.cache_clear()
    yield tmp_path
    typeset.sandbox.cache_clear()


@pytest.mark.parametrize(
    "switch, words",
    [
        ("1\n", "AppArmor forbids .* Ubuntu 24.04 .*: sudo apt-get install apparmor-profiles && "),
        (None, "older than 0.7 or not allowed to make namespaces here"),
    ],
    ids=["Ubuntu 24.04", "container"],
)
def test_a_refused_bubblewrap_is_told_with_its_remedy(refused_bwrap, monkeypatch, switch, words):
    file = refused_bwrap / "switch"
    if switch:
        file.write_text(switch, encoding="utf-8")
    monkeypatch.setattr(sandbox_command, "APPARMOR_SWITCH", file)
    assert not sandbox.usable() and typeset.sandbox() == ()
    with pytest.raises(sandbox.SandboxError, match=words):
        sandbox.run({}, ["true"], LIMITS)


def test_a_missing_bubblewrap_is_told_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "is not installed (Debian: apt-get install bubblewrap)" in sandbox_command.why_unusable()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sandbox_command.why_unusable().endswith("exists on Linux only")
