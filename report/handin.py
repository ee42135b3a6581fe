"""Packs the submission: `make zip` for handing in, `make colab` into one notebook that carries everything with it."""
import base64
import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "report")]

import nbformat  # noqa: E402
from verify import NOTEBOOK, belonging  # noqa: E402

PARTS = ("README.md", "LICENSE", "Makefile", "requirements.txt", "environment.yml", "pyproject.toml", "utils.py",
         NOTEBOOK, "report", "figures", "checkpoints", "tests")
PLACEHOLDERS = ("Your Name", "0000000000", "Your University", "you@example.edu")
UNPACK = '''# This notebook carries its project with it: here it is unpacked, beside the notebook.
import base64, io, pathlib, zipfile

here = pathlib.Path.cwd()
if not any((p / "utils.py").exists() for p in (here / "{folder}", here, *here.parents)):
    zipfile.ZipFile(io.BytesIO(base64.b64decode("{archive}"))).extractall("{folder}")
'''


def pack(target, weights, without=()):
    """Write the project to the zip file `target`; entries sorted and without dates: same files, same bytes."""
    files = [file for part in PARTS if part not in without
             for file in ([ROOT / part] if (ROOT / part).is_file() else (ROOT / part).rglob("*"))]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files):
            if file.is_file() and "__pycache__" not in file.parts and (weights or file.name != "weights.safetensors"):
                entry = zipfile.ZipInfo(file.relative_to(ROOT).as_posix())
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())


def make_zip():
    """build/submission.zip, or SystemExit with a sentence where it should not be handed in."""
    notebook = nbformat.read(ROOT / NOTEBOOK, 4)
    front = next(json.dumps(output.data["application/json"], ensure_ascii=False) for cell in notebook.cells
                 if "front-matter" in cell.metadata.get("tags", []) for output in cell.outputs)
    left = [text for text in PLACEHOLDERS if text in front]
    if left:
        sys.exit(f"{', '.join(left)}: these are placeholders; put your own data into the cell \"Who hands this in\", "
                 "run make submission, then make zip again")
    for fault in belonging(ROOT):
        sys.exit(f"{fault}: run make submission, then make zip again")
    weights = os.environ.get("WEIGHTS", "1") != "0"
    target = ROOT / "build" / "submission.zip"
    target.parent.mkdir(exist_ok=True)
    pack(target.with_suffix(".tmp"), weights)
    size = target.with_suffix(".tmp").stat().st_size / 1e6
    limit = 40 if weights else 5
    if size > limit:
        target.with_suffix(".tmp").unlink()
        sys.exit(f"the archive would have {size:.1f} MB, more than {limit}; take runs out of checkpoints/")
    os.replace(target.with_suffix(".tmp"), target)
    print(f"{target} ({size:.1f} MB)")


def make_colab():
    """build/assignment2_colab.ipynb: the notebook without outputs, and before it a cell that unpacks the project."""
    notebook, archive = nbformat.read(ROOT / NOTEBOOK, 4), io.BytesIO()
    pack(archive, weights=False, without=("figures", "tests"))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    setup = next(cell.source for cell in notebook.cells if cell.id == "setup")
    folder = re.search(r'REPOSITORY = ".*/(.*)"', setup)[1]
    source = UNPACK.format(folder=folder, archive=base64.b64encode(archive.getvalue()).decode())
    unpack = nbformat.v4.new_code_cell(source, id="unpack", metadata={"tags": ["notebook-only"], "cellView": "form"})
    notebook.cells.insert(1, unpack)
    target = ROOT / "build" / "assignment2_colab.ipynb"
    target.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, target)
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    {"zip": make_zip, "colab": make_colab}[sys.argv[1]]()
