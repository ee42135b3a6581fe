"""Which files of this project play which role; whatever hashes, copies or packs files asks here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK_NAME = "notebooks/assignment2.ipynb"  # the submission, below ROOT
NOTEBOOK = ROOT / NOTEBOOK_NAME
COLAB_NAME = "assignment2_colab.ipynb"  # the notebook that carries all other files

# tools/ is not listed: it has no part in what a run computes
TRAINING = ("utils.py", "training/*.py")
ANALYSIS = (
    "analysis/*.py",
    "analysis/*.csv",
    "report/bibliography.py",
    "report/cell_options.py",
    "report/freshness.py",
    "report/geometry.py",
    "report/reference_list.py",
    "report/references.bib",
)
PAPER = ("report/*.py", "report/references.bib", "report/twocolumn/*", "report/webpage/*")

ROLES = {
    # what computes a run: a change marks stored runs as trained by another version of the code
    "training": TRAINING,
    # what computes the assignment's numbers and figures: a change makes its outputs stale
    "notebook": (*TRAINING, *ANALYSIS),
    # the same for the study's notebook
    "study": (*TRAINING, *ANALYSIS, "study/*.py"),
    # code in an archive that a grader's copy hashes and compares; students may add modules
    "archive": ("*.py", "report/*.py", *TRAINING, *ANALYSIS, "study/*.py"),
    # what a grader's copy puts into the sandbox, beside a submission
    "sandbox": (
        *TRAINING,
        *ANALYSIS,
        *PAPER,
        "tools/*.py",
        "grading/__init__.py",
        "grading/sandbox_tasks.py",
        "requirements.txt",
    ),
    # what a verdict depends on: a change makes stored verdicts out of date
    "judge": (
        *TRAINING,
        *ANALYSIS,
        *PAPER,
        "tools/*.py",
        "grading/*",
        "grading/*/*",
        NOTEBOOK_NAME,
        "requirements.txt",
    ),
    # what students get, beside the notebook without its solutions
    "assignment": (
        *TRAINING,
        *ANALYSIS,
        *PAPER,
        ".gitattributes",
        ".gitignore",
        "LICENSE",
        "docs/student.md",
        "Makefile",
        "requirements.txt",
        "environment.yml",
        "pyproject.toml",
        "grading/*",
        "tools/*",
    ),
    # what an archive holds, beside the runs and figures that its notebook names
    "submission": (
        *TRAINING,
        *ANALYSIS,
        *PAPER,
        "README.md",
        "LICENSE",
        "docs/student.md",
        "Makefile",
        "requirements.txt",
        "environment.yml",
        "pyproject.toml",
        NOTEBOOK_NAME,
        "notebooks/*.png",
        "notebooks/*.jpg",
        "notebooks/*.svg",
        "report/report.*",
        "report/results.json",
        "grading/*",
        "grading/*/*",
        "tools/*",
        "figures/*",
        "tests/*",
    ),
}


def is_handout():
    """Whether this project is an assignment handed out to a student, who does not get the study."""
    return not (ROOT / "study").is_dir()


def project_files(role, root=ROOT):
    """Existing files that play a role: a sorted list of paths.

    Args:
        role: a key of ROLES.
        root: the folder that the project is in.
    """
    files = set()
    for pattern in ROLES[role]:
        for path in Path(root).glob(pattern):
            if path.is_file() and path.parent.name != "__pycache__":
                files.add(path)
    return sorted(files)
