"""The commands of make, also for systems without make: the Makefile calls them.

    python -m tools report EPOCHS=3

They run in the active environment; only make installs what is missing.
"""

import difflib
import os
import re
import runpy
import subprocess
import sys

from tools.project_files import NOTEBOOK_NAME, ROOT
from tools.settings import SETTINGS
from tools.terminal import replace_unprintable

STUDY = "notebooks/study.ipynb"
# A setting on make's command line, as make passes it on in MAKEFLAGS: not an option, and not part
# of a value with escaped spaces.
MAKE_SETTING = re.compile(r"(?:^|(?<!\\)\s)([A-Za-z_]\w*)=")


def run(module, *arguments, **settings):
    """Run a module as `python -m` does, in this process, with environment variables set before."""
    os.environ.update(settings)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def convert(*arguments):
    """Build a paper; the arguments are those of `jupyter nbconvert`."""
    run("nbconvert", "--config", "report/config.py", *arguments)


def convert_strictly(*arguments):
    """Build a paper, but refuse a notebook of which something would be left out, cut or scaled.

    With STRICT=0 that is named and the paper is built.
    """
    os.environ.setdefault("STRICT", "1")
    convert(*arguments)


def report():
    """Run the notebook, build its paper."""
    run("tools.run_notebook", NOTEBOOK_NAME, "build/assignment2.ipynb", OUTPUT="build")
    convert("--output-dir", "build", "build/assignment2.ipynb")


def submission():
    """Run the notebook in place, store its runs, build its paper."""
    if os.environ.get("DATASET", "") not in ("", "cifar10"):
        sys.exit("make submission needs CIFAR-10: for digits use make report DATASET=digits")
    settings = {"OUTPUT": "submission", "DATASET": "cifar10"}
    run("tools.run_notebook", NOTEBOOK_NAME, NOTEBOOK_NAME, **settings)
    run("tools.packing", "collect")
    paper()


def paper():
    """Build the paper and a picture of its first page."""
    convert_strictly(NOTEBOOK_NAME)
    picture = ["-png", "-singlefile", "-r", "80", "report/report.pdf", "figures/first-page"]
    try:
        subprocess.run(["pdftoppm", *picture], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"figures/first-page.png could not be drawn ({error}). Is poppler installed?")


def study():
    """Run the study in place, build its paper."""
    run("tools.run_notebook", STUDY, STUDY, OUTPUT="submission", DATASET="cifar10")
    convert_strictly("--output", "study", STUDY)


def test():
    """Run all tests: two files at a time with one thread each; a file's tests share a process."""
    parallel = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    run("pytest", *parallel, OMP_NUM_THREADS="1")


COMMANDS = {
    "report": report,
    "submission": submission,
    "paper": paper,
    "study": study,
    "zip": lambda: run("tools.packing", "zip"),
    "colab": lambda: run("tools.packing", "colab"),
    "verify": lambda: run("grading.verify"),
    "assignment": lambda: run("tools.assignment"),
    "grade": lambda: run("grading.grade"),
    "test": test,
    "test-fast": lambda: run("pytest", "-m", "not (tex or sandbox or browser or slow)"),
    "bench": lambda: run("tests.bench"),
}


def described_commands():
    """The commands that the Makefile lists, name -> what they do; a hand-out's has fewer."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = re.findall(r"(?m)^([a-z-]+): *## (.*)", makefile)
    return {name: words for name, words in described if name in COMMANDS}


def list_commands():
    """Print the commands with the words that `make` prints."""
    print("python -m tools COMMAND [SETTING=value]... runs in the active environment:")
    for name, words in described_commands().items():
        print(f"  {name:12}{words}")


def refuse_misspelt(names):
    """Exit with a sentence if a name is much like a setting's, but is none.

    Other names are left alone: they are environment variables of other programs.
    """
    for name in names:
        similar = difflib.get_close_matches(name.upper(), SETTINGS, n=1, cutoff=0.75)
        if name not in SETTINGS and similar:
            sys.exit(f"There is no setting {name}. Did you mean {similar[0]}?")


def main():
    """Run the command that the command line names, with its settings as environment variables."""
    replace_unprintable()
    names = [word for word in sys.argv[1:] if "=" not in word]
    settings = [word.split("=", 1) for word in sys.argv[1:] if "=" in word]
    from_make = MAKE_SETTING.findall(os.environ.get("MAKEFLAGS", ""))
    refuse_misspelt([*(name for name, _ in settings), *from_make])
    if not names:
        list_commands()
    elif len(names) > 1 or names[0] not in described_commands():
        sys.exit(
            f"python -m tools knows no command {' '.join(names)!r}; it takes one of "
            f"{', '.join(described_commands())}, and settings such as EPOCHS=3."
        )
    else:
        os.chdir(ROOT)
        os.environ.update(settings)
        COMMANDS[names[0]]()


if __name__ == "__main__":
    main()
