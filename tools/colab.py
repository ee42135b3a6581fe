"""What the notebook needs where it runs on its own, above all on Colab; elsewhere nothing here does anything."""
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from fresh import record
from packaging.requirements import Requirement

try:
    from google.colab import _message, files
    from google.colab import drive as google_drive
    HERE = True  # whether this is Colab
except ImportError:
    HERE = False

ROOT = Path(__file__).resolve().parent.parent


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


def drive(folder):
    """`folder`, with Google Drive mounted first where it lies there."""
    if HERE and folder.is_relative_to("/content/drive") and not Path("/content/drive/MyDrive").exists():
        google_drive.mount("/content/drive")
    return folder


def live_notebook():
    """The running notebook with its outputs: on Colab as it stands, elsewhere as it was last saved."""
    if HERE:
        return _message.blocking_request("get_ipynb", timeout_sec=60)["ipynb"]
    path = Path(os.environ.get("JPY_SESSION_NAME") or "assignment2.ipynb")  # JupyterLab says where; else try here
    if not path.exists():
        raise SystemExit(f"{path} is not to be found: save the notebook under that name, then run this cell again")
    notebook = json.loads(path.read_text())
    results = ROOT / record(notebook).get("results", "none")
    if not results.exists() or record(notebook) != json.loads(results.read_text())["code"]:
        raise SystemExit(f"{path} is not saved as it was run: save it, then run this cell again")
    return notebook


def offer_paper():
    """Build the paper from the running notebook, installing TeX first where that is missing, and offer it."""
    notebook = ROOT / "build" / "assignment2.ipynb"
    notebook.parent.mkdir(exist_ok=True)
    notebook.write_text(json.dumps(live_notebook()))
    done = subprocess.run(["sh", "tools/setup.sh", "--no-pip", sys.executable, "-m", "nbconvert", "--config",
                           "report/config.py", "--output-dir", "build", str(notebook)], cwd=ROOT, text=True,
                          capture_output=True)
    if done.returncode:
        raise SystemExit(f"the paper could not be built: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    print(ROOT / "build" / "report.pdf")
    if HERE:
        files.download(str(ROOT / "build" / "report.pdf"))
