"""Set-up and commands: requirements, environment.yml, Makefile, setup.sh, run_notebook.py."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions

import nbformat
import pytest
import yaml
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement

from report import fonts
from tools import __main__ as commands
from tools import run_notebook
from tools.settings import NOTEBOOK_SETTINGS, SETTINGS

REQUIREMENTS = [
    line
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if re.match(r"\w", line)
]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def required():
    return {canonical(re.match(r"[\w.-]+", line)[0]) for line in REQUIREMENTS}


# requirements.txt and environment.yml


def test_every_requirement_says_why():
    for line in REQUIREMENTS:
        assert re.fullmatch(r"[\w-]+>=[\d.]+(,<\d+)? +# \w.*", line), line


def test_environment_yml_is_requirements_txt():
    """conda gives Python, pip and what is no Python package; pip gives requirements.txt."""
    for line in REQUIREMENTS:
        Requirement(line.partition("#")[0].strip())  # pip's parser
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert set(content) == {"name", "channels", "dependencies"}
    assert content["channels"] == ["conda-forge"]
    *by_conda, by_pip = content["dependencies"]
    assert by_pip == {"pip": ["-r requirements.txt"]}
    versions = dict(
        re.fullmatch(r"([a-z0-9-]+)(?:=([0-9.]+))?", entry).groups() for entry in by_conda
    )
    assert set(versions) == {"python", "pandoc", "pip"}
    setup_script = (ROOT / "tools" / "setup.sh").read_text(encoding="utf-8")
    oldest = re.search(r"sys.version_info < \((\d+), (\d+)\)", setup_script)
    assert tuple(map(int, versions["python"].split("."))) >= tuple(map(int, oldest.groups()))


def sources():
    """(name, Python source) of every module and of the notebooks' code cells.

    Shell and magic lines are replaced by `pass`.
    """
    for pattern in ("*.py", "*/*.py"):
        for path in ROOT.glob(pattern):
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
    for path in ROOT.glob("notebooks/*.ipynb"):
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                source = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", "".join(cell["source"]))
                yield f"{path.name}, cell {number}", source


def imported_modules(source):
    """Top-level names of the modules that Python source imports."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
    return {module.split(".")[0] for module in modules}


def test_every_import_is_required():
    ours = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")]}
    ours |= {path.parent.name for path in ROOT.glob("*/__init__.py")}
    known = ours | sys.stdlib_module_names | {"google"}  # google.colab is on Colab only
    packages = packages_distributions()
    for name, source in sources():
        for module in imported_modules(source) - known:
            distributions = {canonical(package) for package in packages.get(module, [module])}
            words = f"{name} imports {module}, which requirements.txt lacks"
            assert distributions & required(), words


# The Makefile


def make(*arguments, folder=ROOT):
    # `make test` sets variables for the make that it starts
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=outside, capture_output=True, encoding="utf-8")


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    targets = phony[1].split()
    assert re.findall(r"^make ([\w-]+) +\w", make().stdout, re.MULTILINE) == targets


def test_clean_removes_build_and_caches_only(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    removed = ["build/runs", "tests/__pycache__"]
    for folder in [*removed, ".venv/__pycache__", "data/train", "checkpoints/a b"]:
        (tmp_path / folder).mkdir(parents=True)
    done = make("clean", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    others = {".venv", ".venv/__pycache__", "data", "data/train", "checkpoints", "checkpoints/a b"}
    assert left == others | {"tests"}


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("EPOCH=1", "There is no setting EPOCH. Did you mean EPOCHS?"),
        ("epochs=1", "There is no setting epochs. Did you mean EPOCHS?"),
        ("EPOCHS=1", ""),
        ("ROSTER=a JOB=b", ""),  # a name with a space, not a setting JOB
        ("OMP_NUM_THREADS=1", ""),
    ],
)
def test_a_misspelt_setting_is_named(tmp_path, setting, fault):
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"all:\n\t@{sys.executable} -m tools\n", encoding="utf-8")
    done = make("-f", str(makefile), setting)
    assert (done.returncode == 0) == (not fault)
    assert fault in done.stderr
    assert ("Did you mean" in done.stderr) == bool(fault)
    command = [sys.executable, "-m", "tools", setting]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert alone.stderr.strip() == fault
    assert alone.returncode == bool(fault)


def test_the_settings_are_those_of_the_makefile_and_of_the_notebook():
    notebook = nbformat.read(ROOT / "notebooks" / "assignment2.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = set(re.findall(r"(?m)^([A-Z0-9_]+) +=", cell.source))
    assert names == {*NOTEBOOK_SETTINGS, "TITLE", "AUTHORS"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"\(([A-Z]+)=", makefile)) < set(SETTINGS)


# tools/setup.sh, on a simulated machine: its PATH holds a few real programs, and some that only
# record their arguments


def program(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    folder = tmp_path / "a b"
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=lambda *_: {"__pycache__"})
    shutil.copy(ROOT / "requirements.txt", folder)
    for name in "sh", "env", "cmp", "cp", "cat", "mkdir", "mktemp", "rm", "tail":
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).symlink_to(shutil.which(name))
    program(folder / "bin/id", "echo 1000")
    program(folder / "venv/bin/python", "")
    shutil.copy(ROOT / "requirements.txt", folder / "venv/requirements-installed.txt")
    return folder


def setup(folder, *command, active=True):
    environment = {"PATH": str(folder / "bin")}
    if active:
        environment["VIRTUAL_ENV"] = str(folder / "venv")
    command = ["sh", "tools/setup.sh", *command]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )


def test_without_apt_the_line_to_run_is_printed(machine):
    done = setup(machine, "sh", "-c", "echo not reached")
    assert done.returncode == 1 and not done.stdout
    line = done.stderr.splitlines()[-1]
    install = "sudo apt-get install --no-install-recommends texlive-xetex "
    assert line.startswith(f"sudo apt-get update && {install}")
    assert {"latexmk", "pandoc", "poppler-utils", "fontconfig"} <= set(line.split())


def test_on_macos_the_line_to_run_is_homebrews(machine):
    program(machine / "bin/uname", "echo Darwin")
    done = setup(machine, "sh", "-c", "echo not reached")
    assert done.returncode == 1 and not done.stdout
    words, line = done.stderr.splitlines()
    assert "With Homebrew (https://brew.sh) run this command, open a new terminal" in words
    assert line == "brew install mactex-no-gui pandoc fontconfig poppler librsvg"
    for name in ("xelatex", "latexmk", "kpsewhich", "pandoc", "fc-match", "pdftotext"):
        program(machine / "bin" / name, "")
    done = setup(machine, "--sandbox", "sh", "-c", "echo ran")  # there is no bubblewrap to install
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_without_apt_a_submission_is_judged_as_far_as_possible(machine):
    done = setup(machine, "--sandbox", "sh", "-c", 'echo "$1"', "-", "two  words")
    assert (done.returncode, done.stdout) == (0, "two  words\n")
    line = done.stderr.splitlines()[-1].split()
    assert line.count("bubblewrap") == 1 and "latexmk" in line


def test_where_apt_is_allowed_it_installs_the_sandbox(machine):
    program(machine / "bin/id", "echo 0")
    for name in ("xelatex", "latexmk", "kpsewhich", "pandoc", "fc-match", "pdftotext"):
        program(machine / "bin" / name, "")
    program(machine / "bin/apt-get", 'echo "$*" >>apt')
    assert setup(machine, "sh", "-c", "exit 3").returncode == 3 and not (machine / "apt").exists()
    done = setup(machine, "--sandbox", "sh", "-c", "echo ran")
    assert done.returncode == 0 and done.stdout.endswith("\nran\n"), done.stderr
    assert (machine / "apt").read_text(encoding="utf-8").split().count("bubblewrap") == 1


def test_without_tex_the_benchmark_runs(machine):
    done = setup(machine, "--no-tex", "sh", "-c", 'echo "$1"', "-", "two  words")
    assert (done.returncode, done.stdout, done.stderr) == (0, "two  words\n", "")


def test_where_apt_is_allowed_it_installs(machine):
    program(machine / "bin/id", "echo 0")
    program(machine / "bin/pandoc", "")
    program(machine / "bin/apt-get", 'echo "$DEBIAN_FRONTEND $*" >>apt')
    done = setup(machine, "sh", "-c", "echo ran")
    assert done.returncode == 0 and done.stdout.endswith("\nran\n")
    update, install = (machine / "apt").read_text(encoding="utf-8").splitlines()
    assert update.startswith("noninteractive ") and update.endswith(" update")
    assert " install -y --no-install-recommends texlive-xetex " in install
    assert "pandoc" not in install


def test_an_old_python_is_named(machine):
    old = 'if [ "$1" = -V ]; then echo Python 3.9.2; else exit 1; fi'
    program(machine / "venv/bin/python", old)
    done = setup(machine, "sh", "-c", "echo not reached")
    assert done.returncode == 1 and not done.stdout
    words = f"Python 3.11 or later is needed; {machine}/venv/bin/python is Python 3.9.2. Activate "
    assert done.stderr.startswith(words) and done.stderr.count("\n") == 1


def test_an_active_environment_keeps_its_torch(machine):
    (machine / "venv/requirements-installed.txt").unlink()
    program(
        machine / "venv/bin/python",
        'echo "$*" >>asked\n'
        'case "$*" in\n'
        '*"version("*) echo "torch==2.11.0+cu128" ;;\n'
        '*"pip install"*) cat "$6" >>asked ;;\n'
        "esac",
    )
    assert setup(machine, "--no-tex", "sh", "-c", "exit 7").returncode == 7
    asked = (machine / "asked").read_text(encoding="utf-8")
    installed = r"^-m pip install -q -c \S+ -r requirements.txt\ntorch==2.11.0\+cu128\n"
    assert re.search(installed, asked, re.MULTILINE)
    assert "-m venv" not in asked
    (machine / "asked").unlink()
    setup(machine, "--no-tex", "sh", "-c", "exit 7")
    asked = (machine / "asked").read_text(encoding="utf-8")
    assert "pip" not in asked, "nothing to do the second time"


def test_without_an_active_environment_the_project_makes_its_own(machine):
    program(
        machine / "bin/python3",
        'echo "$*" >>asked\n'
        'case "$*" in\n'
        '"-m venv --clear .venv") mkdir -p .venv/bin; cp bin/python3 .venv/bin/python ;;\n'
        "esac",
    )
    command = ["sh", "-c", 'echo "$VIRTUAL_ENV"']
    done = setup(machine, "--no-tex", *command, active=False)
    assert done.returncode == 0 and done.stdout.endswith(f"\n{machine}/.venv\n"), done.stderr
    asked = (machine / "asked").read_text(encoding="utf-8")
    assert asked.count("-m venv --clear .venv") == asked.count("-m pip install -r") == 1
    again = setup(machine, "--no-tex", *command, active=False)
    assert (again.returncode, again.stdout) == (0, f"{machine}/.venv\n")


def test_an_environment_of_windows_is_not_overwritten(machine):
    program(machine / "bin/python3", 'echo "$*" >>asked')
    (machine / ".venv/Scripts").mkdir(parents=True)
    done = setup(machine, "--no-tex", "sh", "-c", "echo not reached", active=False)
    assert done.returncode == 1 and not done.stdout
    assert "Remove .venv, then make the one of Windows again, as .venv-windows." in done.stderr
    assert (machine / ".venv/Scripts").exists() and not (machine / "asked").exists()


def test_uv_installs_where_it_is_there(machine):
    """Into an own .venv with pip in it, and what is missing into an active environment."""
    program(machine / "bin/python3", '[ "$1$2" != "-cimport ensurepip" ]')
    program(
        machine / "bin/uv",
        'echo "$*" >>asked\n'
        'case "$*" in "venv "*) mkdir -p .venv/bin; cp bin/python3 .venv/bin/python ;; esac',
    )
    for name in ("apt-get", "uname"):
        program(machine / "bin" / name, "exit 1")
    done = setup(machine, "--no-tex", "sh", "-c", 'echo "$VIRTUAL_ENV"', active=False)
    assert done.returncode == 0 and done.stdout.endswith(f"\n{machine}/.venv\n"), done.stderr
    assert (machine / "asked").read_text(encoding="utf-8").splitlines() == [
        "venv --quiet --seed --python python3 .venv",
        "pip install --python .venv/bin/python -r requirements.txt",
    ]
    (machine / "venv/requirements-installed.txt").unlink()
    assert setup(machine, "--no-tex", "sh", "-c", "exit 7").returncode == 7
    last = (machine / "asked").read_text(encoding="utf-8").splitlines()[-1]
    install = f"pip install --python {machine}/venv/bin/python -q -c "
    assert last.startswith(install) and last.endswith(" -r requirements.txt")


def test_without_any_python_the_command_to_run_is_printed(machine):
    done = setup(machine, "--no-tex", "sh", "-c", "echo not reached", active=False)
    assert done.returncode == 1 and not done.stdout
    assert "sudo apt-get install python3" in done.stderr


# tools/run_notebook.py


def start(folder, *cells, target="build/n.ipynb", **environment):
    """Start run_notebook on a notebook of these cells; one that starts with '#' is Markdown."""
    notebook = new_notebook()
    for cell in cells:
        new_cell = new_markdown_cell if cell.startswith("#") else new_code_cell
        notebook.cells.append(new_cell(cell))
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "notebooks/n.ipynb")
    return subprocess.Popen(
        [sys.executable, "-m", "tools.run_notebook", "notebooks/n.ipynb", target],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_a_notebook_runs_in_its_folder_with_this_python(tmp_path):
    # a kernel that the user has registered under the same name
    spec = tmp_path / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    kernel = {"argv": ["false", "{connection_file}"], "display_name": "3", "language": "python"}
    spec.write_text(json.dumps(kernel), encoding="utf-8")
    code = (
        "import os, sys\n"
        "print(os.getcwd(), sys.executable)\n"
        "print('\\r 50%|#####', end='', file=sys.stderr)\n"
        "print('\\r     \\r', end='', file=sys.stderr)\n"
        "print('2 of 2', flush=True)"
    )
    jupyter = {"JUPYTER_PATH": str(tmp_path / "jupyter"), "JUPYTER_PREFER_ENV_PATH": "0"}
    runner = start(tmp_path, "# Title", code, **jupyter)
    out, err = runner.communicate()
    assert runner.returncode == 0, err
    text = f"{tmp_path.resolve()}/notebooks {sys.executable}\n2 of 2\n"
    assert out == f"[0/1] Title\n{text}" and "%" not in err
    outputs = nbformat.read(tmp_path / "build/n.ipynb", as_version=4).cells[1].outputs
    assert [output.text for output in outputs] == [text]


@pytest.mark.slow
def test_a_failing_cell_is_named_and_the_target_kept(tmp_path):
    cells = "# Title\n## 1 Data", "x = 0", "y = 1\ny / x", "print('not reached')"
    runner = start(tmp_path, *cells, target="notebooks/n.ipynb")
    before = (tmp_path / "notebooks/n.ipynb").read_bytes()
    out, err = runner.communicate()
    assert runner.returncode == 1
    assert err.splitlines()[-4:] == [
        "cell 3 (1 Data: y = 1) failed:",
        "----> 2 y / x",
        "ZeroDivisionError: division by zero",
        "The notebook as far as it ran, with the full traceback, is build/n.failed.ipynb.",
    ]
    assert (tmp_path / "notebooks/n.ipynb").read_bytes() == before
    failed = nbformat.read(tmp_path / "build/n.failed.ipynb", as_version=4)
    assert failed.cells[2].outputs[0].ename == "ZeroDivisionError"


@pytest.mark.slow
def test_the_cell_that_lacks_a_students_code_is_named(tmp_path):
    body = "    # YOUR CODE HERE: add 1\n    raise NotImplementedError"
    cells = "# Sizes", f"def size(n):\n{body}", "## Check", "size(3)"
    _, err = start(tmp_path, *cells).communicate()
    lines = err.splitlines()
    assert "cell 4 (Check: size(3)) failed:" in lines
    words = "Your code is missing in cell 2 (Sizes: def size(n):). Write it, then run this again."
    assert words in lines
    other = start(tmp_path, "# Sizes", "def size():\n    raise NotImplementedError", "size()")
    assert "Your code is missing" not in other.communicate()[1]


@pytest.mark.slow
def test_a_dying_kernel_is_reported(tmp_path):
    runner = start(tmp_path, "# Title", "import os\nos._exit(9)")
    err = runner.communicate()[1]
    assert runner.returncode == 1
    assert "cell 2 (Title: import os) failed: the kernel died" in err and "Traceback" not in err


@pytest.mark.parametrize("content, words", [(None, "No such file"), ("{", "no valid notebook")])
def test_a_notebook_that_cannot_be_read_is_named(tmp_path, content, words):
    source = tmp_path / "n.ipynb"
    if content:
        source.write_text(content, encoding="utf-8")
    with pytest.raises(run_notebook.NotebookError, match=f"n.ipynb .*{words}"):
        run_notebook.read_notebook(source)


@pytest.mark.slow
@pytest.mark.parametrize("caught", ["raise", "pass"])
def test_ctrl_c_lets_the_cell_save_its_state(tmp_path, caught):
    code = (
        "import time\n"
        "try:\n"
        "    print('training', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(1)\n"
        "    open('state', 'w').close()\n"
        f"    {caught}"
    )
    runner = start(tmp_path, "# Title", code, "open('next', 'w').close()")
    while runner.stdout.readline() != "training\n":
        assert runner.poll() is None
    runner.send_signal(signal.SIGINT)
    err = runner.communicate(timeout=30)[1]
    ours = re.sub(r"(?s)ERROR:tornado.*?\n\n", "", err)  # of an ending kernel
    assert runner.returncode == 130 and "Interrupted." in ours and "Traceback" not in ours
    assert (tmp_path / "notebooks/state").exists()
    assert not (tmp_path / "notebooks/next").exists() and not (tmp_path / "build").exists()


@pytest.mark.parametrize("with_training", [False, True])
def test_one_run_names_all_failed_checks_of_a_section(tmp_path, with_training):
    check = "from analysis.checks import Checks\nc = Checks()\nc.add({0!r}, 1, 2)\nc.finish()"
    sources = [check.format("first"), "print('between')", check.format("second")]
    cells = [new_markdown_cell("# Build"), *map(new_code_cell, sources)]
    cells += [new_markdown_cell("# Train"), new_code_cell("print('trained')")]
    if with_training:  # in the section whose check failed
        cells[4] = new_markdown_cell("## Train")
        cells[5].source += "\nrun = load_or_train()"
    path = tmp_path / "notebook.ipynb"
    start = new_code_cell(f"import sys\nsys.path.insert(0, {str(ROOT)!r})")
    nbformat.write(new_notebook(cells=[start, *cells]), path)
    done = subprocess.run(
        [sys.executable, "-m", "tools.run_notebook", path, path],
        cwd=ROOT, capture_output=True, encoding="utf-8",
    )
    assert done.returncode == 1
    assert "between" in done.stdout and "trained" not in done.stdout
    name = "(Build: from analysis.checks import Checks)"
    assert f"cell 3 {name} failed:\n1 of 1 checks failed:\n- first: expected" in done.stderr
    assert f"cell 5 {name} failed:" in done.stderr and "Traceback" not in done.stderr


def test_fonts_for_title_and_authors_are_looked_for_before_the_run(tmp_path, monkeypatch):
    source = 'TITLE = "Réseau Ω"\nAUTHORS = [{"name": "홍길동",\n "email": "a@b"}]\nA = 1'
    parameters = new_code_cell(source, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_code_cell("AUTHORS = '한'"), parameters])
    asked = []

    def answer(command, **_):
        asked.append(chr(int(command[-1].rpartition("=")[2], 16)))
        return subprocess.CompletedProcess(command, returncode=int(asked[-1] == "길"))

    monkeypatch.setattr(fonts.shutil, "which", lambda name: name)
    monkeypatch.setattr(fonts.subprocess, "run", answer)
    nbformat.write(notebook, tmp_path / "a.ipynb")
    words = "TITLE or AUTHORS has 길, which no font here has"
    with pytest.raises(run_notebook.NotebookError, match=words):
        run_notebook.run_notebook(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
    assert asked == ["Ω", "홍", "길", "동"]
    monkeypatch.setattr(fonts.shutil, "which", lambda name: None)
    run_notebook.check_fonts(notebook)  # no paper is built there anyway


def test_make_submission_runs_on_cifar10_alone_and_may_train_anew(monkeypatch):
    ran = []
    monkeypatch.setattr(commands, "run", lambda *names, **settings: ran.append((names, settings)))
    monkeypatch.setattr(commands, "paper", lambda: None)
    monkeypatch.setenv("DATASET", "digits")
    words = "make submission needs CIFAR-10: for digits use make report DATASET=digits"
    with pytest.raises(SystemExit, match=words):
        commands.submission()
    assert not ran
    for name, allowed in (("FRESH", "1"), ("DATASET", "cifar10"), ("OUTPUT", "submission")):
        monkeypatch.setenv(name, allowed)
    commands.submission()
    (notebook, settings), collecting = ran
    assert notebook[0] == "tools.run_notebook" and "FRESH" not in settings
    assert collecting == (("tools.packing", "collect"), {})
