"""Hands in: `collect` takes new runs into checkpoints/, `make zip` packs, `make colab` packs into one notebook."""
import base64
import io
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import nbformat

from grading.archive import Refused, read
from grading.checks import read_policy, together
from grading.verify import images, judge
from report.freshness import file_hash, record
from tools.project_files import ROOT, project_files

NOTEBOOK = read_policy().files.notebook
PLACEHOLDERS = ("Your Name", "0000000000", "Your University", "you@example.edu", "your-account")
UNPACK = '''# This notebook carries its project with it: here it is unpacked, beside the notebook.
import base64, io, pathlib, zipfile

here = pathlib.Path.cwd()
if not any((p / "tools/colab.py").exists() for p in (here / "{folder}", here, *here.parents)):
    zipfile.ZipFile(io.BytesIO(base64.b64decode("{archive}"))).extractall()
'''


def repository():
    """The name of the project's repository, by the notebook: that of the folder in an archive."""
    return re.search(r'REPOSITORY = \\"[^"]*/([\w.-]+)\\"', (ROOT / NOTEBOOK).read_text())[1]


def pack(target, weights, without=()):
    """Write the submission, in a folder, to the zip file `target`; sorted and without dates: same files, same bytes.

    Of runs it holds those that the notebook's record names, and no others; of the study it holds nothing.
    """
    folder = repository()
    files = {file for file in project_files("submission") if file.relative_to(ROOT).parts[0] not in without}
    files.discard(ROOT / "tests" / "test_study.py")  # what it tests is not packed
    if (ROOT / "report" / "study.json").exists():
        study = json.loads((ROOT / "report" / "study.json").read_text(encoding="utf-8"))
        files -= {ROOT / name for name in study["code"]["files"] if name.startswith("figures/")}
    files |= {ROOT / name for name in record(nbformat.read(ROOT / NOTEBOOK, 4)).get("files", {})}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files):
            name = file.relative_to(ROOT)
            left_out = name.suffix in (".aux", ".log") or not weights and file.name == "weights.safetensors"
            if file.is_file() and not left_out and not any(part.startswith((".", "__")) for part in name.parts):
                entry = zipfile.ZipInfo(f"{folder}/{name.as_posix()}")
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())


def collect():
    """Copy the runs that the submitted notebook used and that checkpoints/ lacks from the folder RUNS."""
    runs, used = ROOT / Path(os.environ.get("RUNS") or "build/checkpoints").expanduser(), {}
    for file, expected in record(nbformat.read(ROOT / NOTEBOOK, 4))["files"].items():
        if file.startswith("checkpoints/"):
            _, name, file = file.split("/")
            used.setdefault(name, {})[file] = expected
    for name, files in used.items():
        target = ROOT / "checkpoints" / name
        places = [folder for folder in (target, *runs.glob(f"{name}-*"))
                  if all(file_hash(folder / file) == expected for file, expected in files.items())]
        if not places:
            sys.exit(f"the run {name} of the notebook is neither in checkpoints/ nor in {runs}: run make submission")
        if places[0] != target:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in files:
                shutil.copy(places[0] / file, target)
            print(f"checkpoints/{name}: taken from {places[0]}")


def make_zip():
    """build/submission.zip, or SystemExit with a sentence where it should not be handed in."""
    policy = read_policy()
    submission = read(ROOT, policy)
    results = submission.json(policy.files.ledger)
    for row in together(submission, submission.notebook(NOTEBOOK), results, policy):
        if row.verdict == "contradicted":
            sys.exit(f"{row.message}: run make submission, then make zip again")
    text = (ROOT / NOTEBOOK).read_text()
    left = [placeholder for placeholder in PLACEHOLDERS if placeholder in text]
    if left:
        sys.exit(f"{', '.join(left)}: these are placeholders; put your own data into AUTHORS, and your account into "
                 "REPOSITORY, at the top of the notebook, run make submission, then make zip again")
    wrong = [row.message for row in judge(submission, policy, images()).findings if row.verdict == "contradicted"]
    if wrong:
        sys.exit(f"make verify contradicts {len(wrong)} times: {wrong[0]}; run make submission, then make zip again")
    weights = os.environ.get("WEIGHTS", "1") != "0"
    target = ROOT / "build" / "submission.zip"
    target.parent.mkdir(exist_ok=True)
    new, limit = target.with_suffix(".new"), 40 if weights else 5
    pack(new, weights)
    size = new.stat().st_size / 1e6
    if size > limit:
        new.unlink()
        sys.exit(f"the archive would have {size:.1f} MB, more than {limit}; take runs out of checkpoints/")
    os.replace(new, target)
    print(f"{target} ({size:.1f} MB)")


def make_colab():
    """build/assignment2_colab.ipynb: the notebook without outputs, its first code cell unpacks the project."""
    notebook, archive = nbformat.read(ROOT / NOTEBOOK, 4), io.BytesIO()
    pack(archive, weights=False, without=("tests",))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith(UNPACK.partition("\n")[0])]
    at = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    source = UNPACK.format(folder=repository(), archive=base64.b64encode(archive.getvalue()).decode())
    unpack = nbformat.v4.new_code_cell(source, metadata={"tags": ["notebook-only"], "cellView": "form"})
    notebook.cells.insert(at, unpack)
    target = ROOT / "build" / "assignment2_colab.ipynb"
    target.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, target)
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    try:
        {"collect": collect, "zip": make_zip, "colab": make_colab}[sys.argv[1]]()
    except (Refused, OSError, ValueError, KeyError) as error:
        sys.exit(f"make {sys.argv[1]}: a file of the submission is missing or damaged ({error})")
