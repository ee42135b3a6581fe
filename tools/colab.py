"""What the notebook needs where it runs alone: packages, settings, Google Drive, its archive.

Mounting Drive and offering files happen on Colab only; elsewhere these functions do nothing.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from IPython.display import display
from packaging.requirements import Requirement

from report.freshness import is_unpacking
from tools.errors import SubmissionError
from tools.project_files import NOTEBOOK, ROOT
from tools.settings import NOTEBOOK_SETTINGS

try:
    from google.colab import _message, files
    from google.colab import drive as google_drive

    ON_COLAB = True
except ImportError:
    ON_COLAB = False

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

    On Colab the notebook is then run as `make submission` runs it, so that it can be handed in,
    unless it is to use the fallback data set.

    Args:
        settings: names and values in a dict, for example `globals()`; changed in place. A value
            keeps its type.

    Raises:
        SubmissionError: a variable is no whole number, but the setting is one.
    """
    for name in NOTEBOOK_SETTINGS:
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        kind = type(settings[name])
        try:
            settings[name] = kind(text)
        except ValueError:
            message = f"{name}={text} is not a whole number. Example: {name}={settings[name]}."
            raise SubmissionError(message) from None
    if ON_COLAB and settings["DATASET"] != "digits":
        os.environ.setdefault("OUTPUT", "submission")


def show_badge(repository):
    """Show a button that opens this notebook in Colab, from a GitHub repository's address."""
    colab = "https://colab.research.google.com/github"
    address = repository.strip().rstrip("/").removesuffix(".git")
    address = address.replace("https://github.com", colab)
    display({"text/html": BADGE.format(address=address)}, raw=True)


def mount_drive_if_needed(folder):
    """Mount Google Drive if `folder` is on it and this runs on Colab; return `folder`."""
    is_mounted = (GOOGLE_DRIVE / "MyDrive").exists()
    if ON_COLAB and folder.is_relative_to(GOOGLE_DRIVE) and not is_mounted:
        google_drive.mount(str(GOOGLE_DRIVE))
    return folder


def offer_results(runs):
    """On Colab, offer for download what is handed in: the archive, or else the paper alone.

    TeX is installed first if it is missing. The archive is build/submission.zip, which has the
    paper in it; with its receipt it is also copied beside a folder of runs on Google Drive. The
    paper alone is offered if the notebook ran on the fallback data set, or if the archive cannot
    be packed; then the reason is printed.

    Args:
        runs: the folder in which runs are trained, a path or its text.

    Raises:
        SubmissionError: the paper could not be built.
    """
    if not ON_COLAB:
        return
    runs = ROOT / Path(runs).expanduser()
    if os.environ.get("OUTPUT") != "submission":
        paper = ROOT / "build" / "report.pdf"
        build_paper(save_running_notebook(ROOT / "build" / NOTEBOOK.name), "build")
        download(paper)
        return
    notebook = save_running_notebook(NOTEBOOK)
    run_packing("collect", runs)
    build_paper(notebook, "report")
    try:
        run_packing("zip", runs)
    except SubmissionError as error:
        print(f"The archive cannot be packed yet, so this is the paper alone. {error}")
        download(ROOT / "report" / "report.pdf")
        return
    files_to_keep = [ROOT / "build" / name for name in ("submission.zip", "receipt.html")]
    if runs.is_relative_to(GOOGLE_DRIVE):
        for file in files_to_keep:
            print(shutil.copy(file, runs.parent))
    for file in files_to_keep:
        download(file)


def save_running_notebook(path):
    """Write the notebook that is being run to `path`, without the cell that unpacks the project."""
    running = _message.blocking_request("get_ipynb", timeout_sec=60)["ipynb"]
    cells = running["cells"]
    running["cells"] = [cell for cell in cells if not is_unpacking("".join(cell["source"]))]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(running), encoding="utf-8")
    return path


def download(file):
    """Print a file's path and offer it for download."""
    print(file)
    files.download(str(file))


def run_packing(job, runs):
    """Do a job of tools.packing; raise SubmissionError with its sentence if it fails."""
    command = [sys.executable, "-m", "tools.packing", job]
    environment = os.environ | {"RUNS": str(runs)}
    done = run_in_project(command, environment)
    if done.returncode:
        raise SubmissionError(f"{last_line(done.stderr or done.stdout)}.")
    print(done.stdout, end="")


def run_in_project(command, environment=None):
    """Run a command in the project's folder; a CompletedProcess with its output as text."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def build_paper(notebook, folder):
    """Write report.pdf into a folder of the project from the executed notebook in a file."""
    convert = [sys.executable, "-m", "nbconvert", "--config", "report/config.py"]
    command = ["sh", "tools/setup.sh", "--no-pip", *convert, "--output-dir", folder, str(notebook)]
    done = run_in_project(command)
    if done.returncode:
        reason = last_line(done.stderr or done.stdout)
        raise SubmissionError(f"the paper could not be built: {reason}.")
