"""What the notebook needs where it runs on its own, above all on Colab; elsewhere nothing here does anything."""
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from IPython.display import display
from packaging.requirements import Requirement

from tools.project_files import ROOT
from utils import SubmissionError

try:
    from google.colab import _message, files
    from google.colab import drive as google_drive
    HERE = True  # whether this is Colab
except ImportError:
    HERE = False

SETTINGS = ("SEED", "EPOCHS", "BATCH_SIZE", "CIFAR10_DIR", "DATASET", "FRESH", "RUNS")


def missing():
    """The lines of requirements.txt, down to its tools, that are not met here."""
    needed = (ROOT / "requirements.txt").read_text().partition("# Tools")[0]
    lines = [line.partition("#")[0].strip() for line in needed.splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    return [r for r in requirements if not r.specifier.contains(version(r.name), prereleases=True)]


def version(name):
    """The version of a package that is installed, "0" where it is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def install_missing():
    """pip install what is missing; the torch that is there stays. Raises SystemExit where that cannot be."""
    wanted, keep = missing(), []
    if not wanted:
        return
    for name in ("torch", "torchvision"):
        if version(name) != "0":
            keep.append(f"{name}=={version(name)}")
            if any(requirement.name == name for requirement in wanted):
                raise SystemExit(f"{keep[-1]} is here, too old or too new for this notebook (see requirements.txt)")
    wanted = [str(requirement) for requirement in wanted]
    print("Installing", ", ".join(wanted))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted, *keep]
    done = subprocess.run(command, text=True, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"pip could not install {', '.join(wanted)}: {done.stderr.strip().splitlines()[-1]}")


def override(settings):
    """Give the settings, names and values in a dict, what environment variables of the same names say.

    Raises SubmissionError where one is no whole number and should be.
    """
    for name in SETTINGS:
        if text := os.environ.get(name, "").strip():
            try:
                settings[name] = type(settings[name])(text)
            except ValueError:
                raise SubmissionError(f"{name}={text} is not a whole number") from None


def show_badge(repository):
    """Show the button that opens this notebook of a GitHub repository, by its address, in Colab."""
    address = repository.replace("https://github.com", "https://colab.research.google.com/github")
    display({"text/html": f'<a href="{address}/blob/main/notebooks/assignment2.ipynb"><img alt="Open in Colab" '
                          'src="https://colab.research.google.com/assets/colab-badge.svg"></a>'}, raw=True)


def drive(folder):
    """`folder`, with Google Drive mounted first where it lies there."""
    if HERE and folder.is_relative_to("/content/drive") and not Path("/content/drive/MyDrive").exists():
        google_drive.mount("/content/drive")
    return folder


def offer_paper():
    """On Colab, build the paper from the running notebook, installing TeX where that is missing, and offer it."""
    if not HERE:
        return
    notebook = ROOT / "build" / "assignment2.ipynb"
    notebook.parent.mkdir(exist_ok=True)
    notebook.write_text(json.dumps(_message.blocking_request("get_ipynb", timeout_sec=60)["ipynb"]))  # as it stands
    done = subprocess.run(["sh", "tools/setup.sh", "--no-pip", sys.executable, "-m", "nbconvert", "--config",
                           "report/config.py", "--output-dir", "build", str(notebook)], cwd=ROOT, text=True,
                          capture_output=True)
    if done.returncode:
        raise SystemExit(f"the paper could not be built: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    print(ROOT / "build" / "report.pdf")
    files.download(str(ROOT / "build" / "report.pdf"))
