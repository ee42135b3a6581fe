"""Pack the submission: collect its runs, write the zip file, write the notebook for Colab.

    python -m tools.packing collect   # a step of make submission
    python -m tools.packing zip       # make zip: build/submission.zip
    python -m tools.packing colab     # make colab: build/assignment2_colab.ipynb

Each job ends with one sentence if the submission is not ready for it.
"""

import argparse
import base64
import io
import json
import os
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nbformat

from grading.archive import read
from grading.feedback import feedback_page
from grading.points import award_points
from grading.policy import read_policy
from grading.run_record import compare_with_record
from grading.verify import judge, load_images
from report.freshness import (
    UNPACK_COMMENT,
    cell_names,
    file_hash,
    is_unpacking,
    record,
    stale,
)
from tools.errors import SubmissionError
from tools.project_files import COLAB_NAME, NOTEBOOK, ROOT, project_files
from tools.run_notebook import read_notebook, remove_outputs
from tools.terminal import replace_unprintable
from training.runs import WEIGHTS

BUILD = ROOT / "build"
PLACEHOLDERS = (
    "Student name",
    "Student number",
    "University name",
    "student@example.edu",
    "your-account",
)
# the address of a repository, in either kind of quotation marks; its last part is its name
REPOSITORY = re.compile(
    r"""REPOSITORY *= *(?P<quote>["'])[^"'\n]*/(?P<name>[\w.-]+?)(\.git)?/*(?P=quote)"""
)
QUESTION = "YOUR TEXT HERE:"  # stands in the hand-out before what students are asked to write
MEGABYTE = 1e6
LIMIT_WITH_WEIGHTS = 40  # megabytes
LIMIT_WITHOUT_WEIGHTS = 5
TEX_REMAINS = (".aux", ".log")
AGAIN = "Run make submission, then make zip again."

UNPACK = (
    UNPACK_COMMENT
    + """
import base64, io, pathlib, zipfile

here = pathlib.Path.cwd()
folders = [here / "{folder}", here, *here.parents]
if not any((folder / "tools/colab.py").exists() for folder in folders):
    packed = base64.b64decode("{archive}")
    zipfile.ZipFile(io.BytesIO(packed)).extractall()
"""
)


class PackingError(SubmissionError):
    """The submission cannot be packed as it is."""


# ------------------------------------------------------------------------------ what is packed


def recorded_files(notebook):
    """Files that the executed notebook rests on: a dict, path below ROOT -> SHA-256.

    Raises:
        PackingError: the notebook has not been run to its end.
    """
    files = record(notebook).get("files")
    if not files:
        raise PackingError(f"{NOTEBOOK.name} has not been run to its end. Run make submission.")
    return files


def study_files():
    """Figures of the study and its tests, which are no part of a submission: a set of paths."""
    files = set((ROOT / "tests").glob("test_study*.py"))
    results = ROOT / "report" / "study.json"
    if results.exists():
        recorded = json.loads(results.read_text(encoding="utf-8"))["code"]["files"]
        files.update(ROOT / name for name in recorded if name.startswith("figures/"))
    return files


def submission_files(notebook, weights=True, tests=True):
    """What an archive holds: a sorted list of paths.

    Args:
        notebook: the executed notebook; of all runs only those that it names are packed.
        weights: whether to pack the weights of these runs.
        tests: whether to pack the tests.
    """
    files = set(project_files("submission"))
    if not tests:
        files = {file for file in files if ROOT / "tests" not in file.parents}
    files -= study_files()
    files.update(ROOT / name for name in recorded_files(notebook))
    return sorted(file for file in files if is_packed(file, weights))


def is_packed(file, weights):
    """Whether a file of the submission goes into the archive."""
    if not file.is_file() or file.suffix in TEX_REMAINS:
        return False
    if file.name == WEIGHTS and not weights:
        return False
    return not any(part.startswith(".") for part in file.relative_to(ROOT).parts)


def repository_name(notebook):
    """Name of the project's repository, which is also that of the archive's folder.

    Raises:
        PackingError: no cell of the notebook sets REPOSITORY.
    """
    for cell in notebook.cells:
        found = REPOSITORY.search(cell.source)
        if found:
            return found["name"]
    raise PackingError(
        f"the first code cell of {NOTEBOOK.name} does not set REPOSITORY. Add the line "
        'REPOSITORY = "https://github.com/<account>/resnet-cifar10".'
    )


def write_archive(target, files, folder, root):
    """Write a zip file. The same files give the same bytes: entries carry no date.

    Args:
        target: its path, or an open binary file.
        files: paths below `root`.
        folder: name of the archive's only folder.
        root: the folder that the archive's folder stands for.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"{folder}/{file.relative_to(root).as_posix()}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())


# --------------------------------------------------------------------------- collect: the runs


def runs_of_notebook(notebook):
    """Runs that the notebook rests on: a dict, run's name -> {file's name: SHA-256}."""
    runs = {}
    for path, expected in recorded_files(notebook).items():
        if path.startswith("checkpoints/"):
            _, run, file = path.split("/")
            runs.setdefault(run, {})[file] = expected
    return runs


def find_run(name, files, trained):
    """The folder that holds exactly this run: in checkpoints/, or among those just trained.

    Args:
        name: the run's name.
        files: its files, name -> SHA-256.
        trained: the folder below which runs are trained.

    Raises:
        PackingError: the run is in neither.
    """
    for folder in (ROOT / "checkpoints" / name, *sorted(trained.glob(f"{name}-*"))):
        if all(file_hash(folder / file) == expected for file, expected in files.items()):
            return folder
    raise PackingError(
        f"the run {name}, which the notebook rests on, is neither in checkpoints/ nor in "
        f"{trained}. Run make submission to train it."
    )


def collect_runs():
    """Copy the runs that the notebook rests on into checkpoints/; say which ones are new."""
    trained = ROOT / Path(os.environ.get("RUNS") or "build/checkpoints").expanduser()
    for name, files in runs_of_notebook(read_notebook(NOTEBOOK)).items():
        target = ROOT / "checkpoints" / name
        source = find_run(name, files, trained)
        if source != target:
            replace_run(target, [source / file for file in files])
            print(f"checkpoints/{name}: copied from {source}")


def replace_run(target, files):
    """Put copies of some files, paths, into the folder `target`, in place of what is there.

    Raises PackingError if the disk or another program does not allow it; an earlier run stays whole
    then, there or in the folder that the message names.
    """
    new = target.with_name(f".{target.name}.new")
    old = target.with_name(f".{target.name}.old")
    try:
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(parents=True)
        for file in files:
            shutil.copy(file, new)
        if target.exists():  # else `old`, if it is there, is the only earlier run
            if old.exists():
                shutil.rmtree(old)
            os.replace(target, old)
        os.replace(new, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise PackingError(
            f"{target} cannot be replaced ({error.strerror}): close the program that uses it, or "
            f"free disk space, then run make submission again. An earlier run is there or in {old}."
        ) from None


# ------------------------------------------------------------------------------------ make zip


def check_placeholders():
    """Raise PackingError if the notebook still holds the template's name, account or questions."""
    notebook = read_notebook(NOTEBOOK)
    asked = [
        name
        for cell, name in zip(notebook.cells, cell_names(notebook))
        if cell.cell_type == "markdown" and QUESTION in cell.source
    ]
    if asked:
        raise PackingError(
            f"your text is missing in {', '.join(asked)} of {NOTEBOOK.name}. Write it in the place "
            f"of {QUESTION.rstrip(':')} and the question behind it, or delete both. Run make "
            "paper, then make zip again."
        )
    text = NOTEBOOK.read_text(encoding="utf-8")
    left = [placeholder for placeholder in PLACEHOLDERS if placeholder in text]
    if left:
        raise PackingError(
            f"{NOTEBOOK.name} still holds the placeholders {', '.join(left)}. Put your own data "
            "into AUTHORS and your GitHub account into REPOSITORY, at the top of the notebook. "
            + AGAIN
        )


def check_freshness(submission, policy):
    """Raise PackingError if notebook, code, runs and figures are not of one execution."""
    notebook = submission.notebook(policy.files.notebook)
    results = submission.json(policy.files.ledger)
    faults = list(stale(notebook, None))
    if faults:
        raise PackingError(f"{faults[0]}. {AGAIN}")
    for finding in compare_with_record(submission, notebook, results, notebook, policy):
        if finding.verdict != "verified":
            raise PackingError(f"{finding.message}. {AGAIN}")


def judge_submission(submission, policy):
    """The Verdict on the submission; raises PackingError if make verify would contradict it."""
    verdict = judge(submission, policy, load_images())
    contradicted = [
        finding.message for finding in verdict.findings if finding.verdict == "contradicted"
    ]
    if contradicted:
        raise PackingError(
            f"make verify contradicts {len(contradicted)} of the submission's claims; the first: "
            f"{contradicted[0]}. {AGAIN}"
        )
    return verdict


def write_receipt(verdict, archive, policy):
    """Write build/receipt.html: what a grader with this policy will see of an archive.

    Args:
        verdict: the Verdict on what is packed.
        archive: the path of the zip file.
        policy: a Policy.
    """
    shown = replace(verdict, first_page=base64.b64encode(verdict.first_page).decode())
    page = feedback_page(
        f"Receipt for {archive.name}",
        shown,
        award_points(policy.points, verdict.findings),
        digest=file_hash(archive),
        note="This is what the grader sees of this archive, by the policy in this folder. Your "
        "teacher's policy may differ.",
    )
    receipt = BUILD / "receipt.html"
    receipt.write_text(page, encoding="utf-8")
    print_written(receipt)


def check_size(archive, files, limit):
    """Raise PackingError if an archive has more than `limit` megabytes."""
    size = archive.stat().st_size / MEGABYTE
    if size <= limit:
        return
    largest = sorted(files, key=lambda file: file.stat().st_size, reverse=True)[:3]
    names = [
        f"{file.relative_to(ROOT)} ({file.stat().st_size / MEGABYTE:.1f} MB)" for file in largest
    ]
    raise PackingError(
        f"the archive would have {size:.1f} MB; the limit is {limit} MB. Its largest files are "
        f"{', '.join(names)}. Make them smaller or remove them; make zip WEIGHTS=0 leaves the "
        "weights out."
    )


def without_other_weights(files, main):
    """The files of a submission without the weights of other runs than `main`, a run's name.

    The judge needs the weights of the run whose accuracy is claimed; of other runs it compares the
    stored predictions. What is left out is printed.
    """
    left_out = [file for file in files if file.name == WEIGHTS and file.parent.name != main]
    for file in left_out:
        print(
            f"{file.relative_to(ROOT)} is left out ({file.stat().st_size / MEGABYTE:.1f} MB): the "
            f"archive would be too large. The weights of {main}, whose accuracy you claim, are in."
        )
    return [file for file in files if file not in left_out]


def main_run(submission, policy):
    """The name of the run whose accuracy is claimed. Raises PackingError if none is named."""
    ledger = policy.files.ledger
    try:
        return submission.json(ledger)["claims"]["test_accuracy"]["source"]
    except (KeyError, TypeError):
        raise PackingError(f"{ledger} names no run for its claim test_accuracy. {AGAIN}") from None


def write_within_limit(target, submission, policy):
    """Write the archive to the path `target`, and return the files that are in it, a list of paths.

    Weights of other runs than the one whose accuracy is claimed are left out of an archive that
    would be too large with them. `WEIGHTS=0` leaves out all weights.

    Raises:
        PackingError: the archive is too large all the same.
    """
    has_weights = os.environ.get("WEIGHTS", "1") != "0"
    limit = LIMIT_WITH_WEIGHTS if has_weights else LIMIT_WITHOUT_WEIGHTS
    notebook = read_notebook(NOTEBOOK)
    folder = repository_name(notebook)
    files = submission_files(notebook, has_weights)
    write_archive(target, files, folder, ROOT)
    if target.stat().st_size > limit * MEGABYTE:
        files = without_other_weights(files, main_run(submission, policy))
        write_archive(target, files, folder, ROOT)
    check_size(target, files, limit)
    return files


def packed_submission(submission, files):
    """The part of a Submission that a grader reads of the archive, a Submission.

    `files` are the paths of the files that are packed.
    """
    names = {file.relative_to(ROOT).as_posix() for file in files}
    packed = {name: data for name, data in submission.files.items() if name in names}
    return replace(submission, files=packed)


def make_zip():
    """Write build/submission.zip, which is handed in, and build/receipt.html, its receipt.

    Raises:
        PackingError: the submission holds placeholders, is stale, contradicted or too large.
    """
    policy = read_policy()
    submission = read(ROOT, policy)
    check_freshness(submission, policy)
    check_placeholders()
    target = BUILD / "submission.zip"
    new = target.with_suffix(".new")
    BUILD.mkdir(exist_ok=True)
    try:
        files = write_within_limit(new, submission, policy)
        verdict = judge_submission(packed_submission(submission, files), policy)
        (BUILD / "receipt.html").unlink(missing_ok=True)  # that of an earlier archive
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
    print_written(target)
    write_receipt(verdict, target, policy)


# ---------------------------------------------------------------------------------- make colab


def make_colab():
    """Write build/assignment2_colab.ipynb: one file that carries the project, without outputs."""
    notebook = read_notebook(NOTEBOOK)
    if record(notebook).get("files"):
        files = submission_files(notebook, weights=False, tests=False)
    else:  # not yet run: there are no runs and figures to carry
        files = [NOTEBOOK, *project_files("assignment", ROOT)]
    remove_outputs(notebook)
    target = BUILD / COLAB_NAME
    BUILD.mkdir(exist_ok=True)
    write_colab(notebook, files, target, ROOT)
    print_written(target)


def write_colab(notebook, files, target, root):
    """Write a notebook that carries files, paths below the folder `root`, to the path `target`."""
    folder = repository_name(notebook)
    packed = io.BytesIO()
    write_archive(packed, files, folder, root)
    archive = base64.b64encode(packed.getvalue()).decode()
    insert_unpacking(notebook, UNPACK.format(folder=folder, archive=archive))
    nbformat.write(notebook, target)


def insert_unpacking(notebook, source):
    """Put the cell that unpacks the project before the first code cell; replace an earlier one."""
    cells = [cell for cell in notebook.cells if not is_unpacking(cell.source)]
    first = next(index for index, cell in enumerate(cells) if cell.cell_type == "code")
    metadata = {"tags": ["notebook-only"], "cellView": "form"}
    cells.insert(first, nbformat.v4.new_code_cell(source, metadata=metadata))
    notebook.cells = cells


def print_written(path):
    """Print a file's path and size."""
    print(f"{path} ({path.stat().st_size / MEGABYTE:.1f} MB)")


JOBS = {"collect": collect_runs, "zip": make_zip, "colab": make_colab}


def main():
    """Do the job that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", choices=JOBS)
    job = parser.parse_args().job
    replace_unprintable()
    try:
        JOBS[job]()
    except SubmissionError as error:
        sys.exit(str(error))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(
            f"A file of the submission is missing or damaged ({type(error).__name__}: {error}). "
            "Run make submission to write it anew."
        )


if __name__ == "__main__":
    main()
