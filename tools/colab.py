"""What the notebook needs where it runs alone: packages, settings, Google Drive, its paper.

Mounting Drive and offering the paper happen on Colab only; elsewhere these functions do nothing.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from IPython.display import display
from packaging.requirements import Requirement

from tools.errors import SubmissionError
from tools.project_files import NOTEBOOK, ROOT

try:
    from google.colab import _message, files
    from google.colab import drive as google_drive

    ON_COLAB = True
except ImportError:
    ON_COLAB = False

SETTINGS = ("SEED", "EPOCHS", "BATCH_SIZE", "CIFAR10_DIR", "DATASET", "FRESH", "RUNS")
PINNED = ("torch", "torchvision")  # large, and built for the machine's GPU: never replaced
GOOGLE_DRIVE = Path("/content/drive")
BADGE = (
    '<a href="{address}/blob/main/notebooks/assignment2.ipynb"><img alt="Open in Colab" '
    'src="https://colab.research.google.com/assets/colab-badge.svg"></a>'
)


class PackageError(SubmissionError):
    """A package that the notebook needs is missing, or has the wrong version."""


def installed_version(name):
    """The version of an installed package as a string, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_requirements():
    """Requirements of the notebook that this environment does not meet, as a list."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for_the_notebook = text.partition("# Tools")[0]
    missing = []
    for line in for_the_notebook.splitlines():
        line = line.partition("#")[0].strip()
        if line:
            requirement = Requirement(line)
            version = installed_version(requirement.name) or "0"
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(requirement)
    return missing


def install_missing():
    """Install the requirements that are not met with pip; an installed torch stays as it is.

    Raises:
        PackageError: the installed torch does not fit, or pip failed.
    """
    missing = missing_requirements()
    if not missing:
        return
    keep = []
    for name in PINNED:
        version = installed_version(name)
        if version:
            keep.append(f"{name}=={version}")
    for requirement in missing:
        version = installed_version(requirement.name)
        if version and requirement.name in PINNED:
            raise PackageError(
                f"this notebook needs {requirement}; installed is {requirement.name} {version}. "
                "Open the notebook in a newer runtime, or install the version that it needs."
            )
    wanted = [str(requirement) for requirement in missing]
    print("Installing", ", ".join(wanted))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, *wanted, *keep], stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        raise PackageError(
            f"pip could not install {', '.join(wanted)}: {last_line(done.stderr)}. "
            "Check the network connection, then run this cell again."
        )


def last_line(text):
    """The last line of a program's output that is not empty, without its full stop."""
    lines = text.strip().splitlines()
    if not lines:
        return "no reason given"
    return lines[-1].strip().rstrip(".")


def override(settings):
    """Replace settings by the environment variables of the same names.

    Args:
        settings: names and values in a dict, for example `globals()`; changed in place. A value
            keeps its type.

    Raises:
        SubmissionError: a variable is no whole number, but the setting is one.
    """
    for name in SETTINGS:
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        kind = type(settings[name])
        try:
            settings[name] = kind(text)
        except ValueError:
            message = f"{name}={text} is not a whole number. Example: {name}={settings[name]}."
            raise SubmissionError(message) from None


def show_badge(repository):
    """Show a button that opens this notebook in Colab, from a GitHub repository's address."""
    colab = "https://colab.research.google.com/github"
    address = repository.strip().rstrip("/").removesuffix(".git")
    address = address.replace("https://github.com", colab)
    display({"text/html": BADGE.format(address=address)}, raw=True)


def drive(folder):
    """`folder`, after Google Drive has been mounted if the folder is on it."""
    is_mounted = (GOOGLE_DRIVE / "MyDrive").exists()
    if ON_COLAB and folder.is_relative_to(GOOGLE_DRIVE) and not is_mounted:
        google_drive.mount(str(GOOGLE_DRIVE))
    return folder


def offer_paper():
    """On Colab, build the paper from the running notebook and offer it for download.

    TeX is installed first if it is missing.

    Raises:
        SubmissionError: the paper could not be built.
    """
    if not ON_COLAB:
        return
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    notebook = build / NOTEBOOK.name
    running = _message.blocking_request("get_ipynb", timeout_sec=60)["ipynb"]
    notebook.write_text(json.dumps(running), encoding="utf-8")
    build_paper(notebook)
    paper = build / "report.pdf"
    print(paper)
    files.download(str(paper))


def build_paper(notebook):
    """Write build/report.pdf from the executed notebook in the file `notebook`."""
    convert = [sys.executable, "-m", "nbconvert", "--config", "report/config.py"]
    command = ["sh", "tools/setup.sh", "--no-pip", *convert, "--output-dir", "build", str(notebook)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        reason = last_line(done.stderr or done.stdout)
        raise SubmissionError(f"the paper could not be built: {reason}.")
