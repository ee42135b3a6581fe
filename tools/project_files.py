"""Which files of this project play which role. Whatever hashes, copies or packs files asks here."""
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAINING = ("utils.py", "training/*.py")  # tools/ has no part in what a run computes
ANALYSIS = ("analysis/*.py", "analysis/*.csv", "report/freshness.py")
PAPER = ("report/*.py", "report/references.bib", "report/twocolumn/*")
ROLES = {
    # what computes a run: a change marks stored runs as those of another engine
    "training": TRAINING,
    # what computes the numbers and figures of a notebook: a change makes its outputs stale
    "notebook": (*TRAINING, *ANALYSIS),
    # the same of the study
    "study": (*TRAINING, *ANALYSIS, "study/*.py"),
    # code in an archive that a grader's copy hashes and compares; students may add modules
    "archive": ("*.py", "report/*.py", *TRAINING, *ANALYSIS, "study/*.py"),
    # what a grader's copy puts into the sandbox, beside a submission
    "sandbox": (
        *TRAINING, *ANALYSIS, *PAPER, "tools/*.py", "grading/__init__.py", "grading/sandbox_tasks.py",
        "requirements.txt",
    ),
    # what a verdict depends on: a change makes stored verdicts out of date
    "judge": (
        *TRAINING, *ANALYSIS, *PAPER, "tools/*.py", "grading/*", "notebooks/assignment2.ipynb", "requirements.txt",
    ),
    # what an archive holds, beside the runs and figures that its notebook names
    "submission": (
        *TRAINING, *ANALYSIS, *PAPER, "README.md", "LICENSE", "Makefile", "requirements.txt", "environment.yml",
        "pyproject.toml", "notebooks/assignment2.ipynb", "report/report.*", "report/results.json", "grading/*",
        "tools/*", "figures/*", "tests/*", "notebooks/*.png", "notebooks/*.jpg", "notebooks/*.svg",
    ),
}


def project_files(role, root=ROOT):
    """The existing files below the folder `root` that play `role`, a key of ROLES: a sorted list of paths."""
    files = set()
    for pattern in ROLES[role]:
        files.update(path for path in Path(root).glob(pattern) if path.is_file())
    return sorted(files)
