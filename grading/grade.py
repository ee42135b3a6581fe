"""`make grade SUBMISSIONS=folder/ ROSTER=roster.csv`: verdicts and points of a course's archives.

They are written to build/grades.csv and build/grades.html; gradebook.py writes what goes back to
students. Each archive is judged by a process of its own, so that none can stop the others. Finished
verdicts are stored in build/grades/: the same command continues where it was stopped.
"""
import concurrent.futures
import hashlib
import json
import os
import shutil
import sys
import tomllib
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

import utils
from grading import claim_check, gradebook, judges, records, sandbox, similarity
from grading.archive import parse_json, read
from grading.feedback import page_template
from grading.findings import join_names
from grading.grade_exports import csv_bytes, spreadsheet_text
from grading.layout import is_junk
from grading.network_measurements import weights_file
from grading.policy import read_policy
from grading.roster import GRADESCOPE_METADATA, Author, is_students_folder, read_roster
from grading.schema import Place, read_dataclass
from grading.verify import data_folder
from tools.errors import SubmissionError
from tools.project_files import ROOT, project_files
from tools.sandbox_command import why_unusable
from tools.terminal import replace_unprintable

COLUMNS = (
    *("student", "id", "archive", "verdict", "points", "maximum", "open", "late", "claimed"),
    *("measured", "measured by", "contradictions", "unverified", "seconds", "matched", "reason"),
)
FIRST_COLUMNS = ("student", "archive", "verdict", "points", "open", "late", "claimed", "measured")
LAST_COLUMNS = (
    *("measured by", "id", "matched", "maximum", "contradictions", "unverified", "seconds"),
)
VERDICTS = ("verified", "contradicted", "not verifiable")  # by exit code
NOT_READ = "neither a zip file nor a notebook: ask for the zip file that make zip writes"
COPY_OF_A_ZIP = "not read: a zip file of the same student is beside it"
LINK = "not read: it is a link"
SUBMISSION_SUFFIXES = (".zip", ".ipynb")
GRADE_BOOK_TABLES = ("points", "deadline", "similarity")  # of the policy
DEEPEST = 3  # folders below the course's in which archives are looked for
MOST_MESSAGES = 20
SPARE_SECONDS = 60  # that a process may take beyond the policy's time


@dataclass
class StoredFinding:
    """What the grade book needs of a finding; `found` is the value that was computed, or None."""

    verdict: str
    message: str
    claim: str = ""
    found: object = None


@dataclass
class StoredVerdict:
    """What the grade book needs of a verdict; grading/verify.py writes it.

    `first_page` is a PNG in base 64.
    """

    code: int
    reason: str
    findings: list[StoredFinding] = field(default_factory=list)
    claimed: float | None = None
    measured: float | None = None
    measured_by: str = ""
    differences: list[str] = field(default_factory=list)
    authors: list[Author] = field(default_factory=list)
    seconds: float | None = None
    first_page: str = ""

    def count(self, *verdicts):
        """The number of findings with one of these verdicts."""
        return sum(finding.verdict in verdicts for finding in self.findings)


def read_verdict(file):
    """The StoredVerdict in a JSON file, or None if there is none or it is damaged."""
    if not file.exists():
        return None
    try:
        content = parse_json(file.read_bytes(), file.name)
        return read_dataclass(StoredVerdict, content, Place(file.name))
    except SubmissionError:
        return None


# -------------------------------------------------------------------------------------- archives


def find_submissions(folder):
    """What lies below a folder: the submissions, name -> path, and other files, name -> reason.

    The reason says why a file is not graded. Submissions are zip files, notebooks and unpacked
    submissions. In names, bytes that are not UTF-8 are written in hexadecimal digits.
    """
    notebook = read_policy().files.notebook
    found = {}
    skipped = {}
    for parent, folders, files in os.walk(folder):
        path = Path(parent)
        depth = len(path.relative_to(folder).parts)
        if depth and ((path / notebook).is_file() or is_unpacked(path, files)):
            found[shown_name(path, folder)] = path
            folders.clear()
            continue
        if depth >= DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        has_zip = any(is_zip(name) and not (path / name).is_symlink() for name in files)
        beside_zip = is_students_folder(path.name) and has_zip
        for name in files:
            file = path / name
            if name[0] == "." or name == GRADESCOPE_METADATA:
                continue
            reason = why_skipped(file, beside_zip)
            if reason:
                skipped[shown_name(file, folder)] = reason
            else:
                found[shown_name(file, folder)] = file
    return dict(sorted(found.items())), dict(sorted(skipped.items()))


def why_skipped(file, beside_zip):
    """The reason why a file is not graded, "" for a submission.

    `beside_zip` says that a zip file of the same student is in the file's folder.
    """
    name = file.name.lower()
    if not name.endswith(SUBMISSION_SUFFIXES):
        return NOT_READ
    if file.is_symlink():
        return LINK
    if beside_zip and not is_zip(name):  # a notebook is a copy of what is packed
        return COPY_OF_A_ZIP
    return ""


def is_zip(name):
    """Whether a file's name is that of a zip file."""
    return name.lower().endswith(".zip")


def is_unpacked(path, files):
    """Whether a folder that holds `files` is one student's, with a notebook that is not packed."""
    if not is_students_folder(path.name) or any(map(is_zip, files)):
        return False
    notebooks = (file.relative_to(path).as_posix() for file in path.rglob("*.ipynb"))
    return not all(map(is_junk, notebooks))


def shown_name(path, folder):
    """A path relative to a folder, as text that can be written."""
    return os.fsencode(os.path.relpath(path, folder)).decode("utf-8", "backslashreplace")


def verdict_key(path, root=ROOT):
    """What a stored verdict belongs to, 32 hexadecimal digits.

    It changes with the archive, with the images, with what the sandbox can do, and with every file
    of the project that a verdict depends on. Of the policy the tables that only the grade book
    uses do not count: another deadline or other points need no new verdicts.

    Args:
        path: the archive, or the folder of an unpacked submission.
        root: the project's folder.
    """
    digest = hashlib.sha256(f"{sandbox.usable()} {shutil.which('bwrap')}\n".encode())
    for file in project_files("judge", root):
        name = file.relative_to(root).as_posix()
        content = file.read_bytes()
        if name == "grading/policy.toml":
            content = judged_policy(content)
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("*"))
    for file in [*files, *_data_files()]:
        status = file.lstat()
        digest.update(os.fsencode(file))
        digest.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def judged_policy(content):
    """The part of a policy's TOML that verdicts depend on, as bytes."""
    tables = tomllib.loads(content.decode())
    for name in GRADE_BOOK_TABLES:
        tables.pop(name, None)
    return json.dumps(tables).encode()


def _data_files():
    """The images that weights are evaluated on: their folder and two levels of what is in it."""
    folder = data_folder().resolve()
    below = [path for level in ("*", "*/*") for path in sorted(folder.glob(level))]
    return [folder, *below] if folder.exists() else []


# --------------------------------------------------------------------------------------- judging


def number_of_workers():
    """How many archives are judged at a time: JOBS, or one for each processor core."""
    text = os.environ.get("JOBS")
    if not text:
        return os.cpu_count()
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1:
        raise SubmissionError(
            f"JOBS={text} is not a whole number of at least 1: write for example JOBS=2"
        )
    return workers


@dataclass
class Job:
    """An archive to be judged, and the file where its verdict will be stored."""

    name: str
    path: Path
    stored: Path

    @property
    def report(self):
        """The file that the judging process writes."""
        return self.stored.with_suffix(".new")

    @property
    def work(self):
        """The file that it writes beside it, with what is compared with other submissions."""
        return self.stored.with_suffix(similarity.SUFFIX)


def finish_job(job, done):
    """The StoredVerdict that a judging process has left; it is stored.

    Args:
        job: the Job.
        done: the finished process. If it crashed or was stopped, the verdict says so.
    """
    verdict = None
    if done.returncode in (0, 1, 2):
        verdict = read_verdict(job.report)
    if verdict is None:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1][:200] if lines else f"status {done.returncode}"
        reason = (
            f"judging it did not end as it should ({last}): to judge it again, delete "
            f"build/grades/{job.stored.name} and call make grade"
        )
        content = {"code": 2, "reason": reason}
        job.report.write_text(json.dumps(content), encoding="utf-8")
        verdict = read_verdict(job.report)
    os.replace(job.report, job.stored)
    return verdict


def judge_all(jobs, workers, seconds):
    """The verdicts of jobs, name -> StoredVerdict, and whether Ctrl-C has stopped it.

    Args:
        jobs: a list of Job.
        workers: how many archives are judged at a time.
        seconds: after so many a process is killed.
    """
    judges.set_environment(workers)
    verdicts = {}
    pending = {}
    with judges.open_executor(workers) as executor:
        try:
            for job in jobs:
                pending[judges.start(executor, job.path, job.report, seconds)] = job
            finished = concurrent.futures.as_completed(pending)
            for future in tqdm(finished, total=len(pending), desc="archives", unit=""):
                job = pending[future]
                verdicts[job.name] = finish_job(job, future.result())
        except KeyboardInterrupt:
            for future in pending:
                future.cancel()
            sandbox.end_below(os.getpid())
            return verdicts, True
    return verdicts, False


# ---------------------------------------------------------------------------------------- tables


def mark_similar(verdicts, works, policy):
    """Add findings to verdicts on submissions that share more than honest ones do: reasons to ask.

    Returns a sentence on each group of submissions that share something, a list.

    Args:
        verdicts: name -> StoredVerdict.
        works: name -> similarity.Work.
        policy: a Policy.
    """
    if not works:
        return []
    reported = set()
    for name, verdict in verdicts.items():
        if any(finding.claim == "own training" for finding in verdict.findings):
            reported.add(name)
    stored = project_work(policy)
    found, groups = similarity.find_similar(works, policy.similarity, stored, reported)
    for name, sentences in found.items():
        verdict = verdicts[name]
        for sentence in sentences:
            verdict.findings.append(StoredFinding("implausible", sentence, "similarity"))
        if sentences and verdict.code == 0:
            verdict.code = 2
            verdict.reason = sentences[0]
    return [
        f"ask the students of {join_names(names)}: {shared}; equal work can be honest"
        for names, shared in groups
    ]


def project_work(policy):
    """The similarity.Work of the run that this copy of the project has stored, None without one."""
    try:
        submission = read(ROOT, policy)
        claims, _ = claim_check.read_claims(submission.json(policy.files.ledger), policy)
        source = claims["test_accuracy"].source
        runs, _ = records.load_runs(submission, [source], policy)
        weights = submission.tensors(weights_file(source, policy))
        return similarity.collect_work(weights, runs[source], [], [])
    except (SubmissionError, KeyError):
        return None


def table_row(entry):
    """The row of grades.csv on a gradebook.Entry, column -> value."""
    verdict = entry.verdict
    row = {
        "archive": entry.archive,
        "verdict": VERDICTS[verdict.code],
        "points": f"{entry.points:g}",
        "maximum": f"{entry.maximum:g}",
        "open": f"{entry.open:g}",
        "contradictions": verdict.count("contradicted"),
        "unverified": verdict.count("unverified", "implausible"),
        "measured by": verdict.measured_by,
        "reason": verdict.reason,
    }
    for column in ("claimed", "measured", "seconds"):
        value = getattr(verdict, column)
        row[column] = "" if value is None else round(value, 2)
    return row | match_columns(entry.match)


def match_columns(match):
    """The columns that say whose a file is, by a Match or None."""
    if match is None:
        return {}
    late = {True: "yes", False: "no", None: ""}[match.late]
    columns = {"late": late, "matched": match.reason}
    if match.student:
        columns |= student_columns(match.student)
    return columns


def student_columns(student):
    """The columns that name a Student."""
    return {"student": student.name, "id": student.id}


def write_csv(file, rows):
    """Write rows, a list of dicts by column, to a CSV file."""
    safe = []
    for row in rows:
        safe.append({name: spreadsheet_text(value) for name, value in row.items()})
    file.write_bytes(csv_bytes(COLUMNS, safe))


def missing_means():
    """Sentences on what this machine lacks to judge archives, a list."""
    notices = []
    folder = data_folder()
    if not utils.has_data(folder):
        notices.append(
            f"there is no CIFAR-10 in {folder}, so no weights were evaluated and no archive can be "
            "verified: name its folder with CIFAR10_DIR= and call make grade again"
        )
    if not sandbox.usable():
        notices.append(
            f"no student's code was run and no paper compared: {why_unusable()}. Call make grade "
            "again where a sandbox works"
        )
    return notices


def html_page(entries, other_rows, notices, summary):
    """One page of HTML: notices, and a sortable table with reasons and first pages of papers.

    Args:
        entries: a list of gradebook.Entry.
        other_rows: rows on files that are no archives and on students without one.
        notices: sentences.
        summary: how many archives have which verdict.
    """
    script = (Path(__file__).parent / "grades.js").read_text(encoding="utf-8")
    grades = []
    for entry in entries:
        messages = [
            finding.message
            for finding in entry.verdict.findings
            if finding.verdict in ("contradicted", "unverified", "implausible")
        ]
        grades.append(
            {
                "row": table_row(entry),
                "messages": messages[:MOST_MESSAGES] or [entry.verdict.reason],
                "first_page": entry.verdict.first_page,
                "page": quote(entry.page),
            }
        )
    for row in other_rows:
        grades.append({"row": row, "messages": [row["reason"]], "first_page": "", "page": ""})
    for grade in grades:
        grade["row"] = dict.fromkeys(COLUMNS, "") | grade["row"]
    return page_template("grades.html.j2").render(
        first_columns=FIRST_COLUMNS,
        last_columns=LAST_COLUMNS,
        grades=grades,
        notices=notices,
        summary=summary,
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# --------------------------------------------------------------------------------------- command


def main(folder, build, roster=None):
    """Judge all archives in a folder, JOBS at a time, and write the grade book to `build`.

    Args:
        folder: where the submissions are.
        build: the folder build/.
        roster: the file with the course's students, or None.

    Exits with 130 after Ctrl-C.
    """
    if not folder.is_dir():
        sys.exit(f"there is no folder {folder}: check SUBMISSIONS=")
    try:
        policy = read_policy()
        course = gradebook.Course(folder, read_roster(roster) if roster else None, policy)
        gradebook.read_by_hand(build, policy)  # a mistake in it ends the command before it judges
        workers = number_of_workers()
        found, skipped = find_submissions(folder)
    except SubmissionError as error:
        sys.exit(str(error))
    if roster:
        skipped = {
            name: reason
            for name, reason in skipped.items()
            if (folder / name).resolve() != roster.resolve()
        }
    if not found:
        sys.exit(
            f"{folder} has no zip file and no notebook below it: name another folder with "
            "SUBMISSIONS="
        )
    storage = (build / "grades").resolve()
    storage.mkdir(parents=True, exist_ok=True)
    jobs = [Job(name, path, storage / f"{verdict_key(path)}.json") for name, path in found.items()]
    verdicts, stopped = read_or_judge(jobs, workers, policy)
    if stopped:
        print("\nStopped. The same command continues with the other archives.", file=sys.stderr)
    works = read_works(jobs, verdicts)
    try:
        course.by_hand = gradebook.read_by_hand(build, policy)  # entered while archives were judged
    except SubmissionError as error:
        sys.exit(f"{error}. The verdicts are stored: correct it and call make grade again")
    write_gradebook(build, course, found, verdicts, works, skipped)
    sys.exit(130 if stopped else 0)


def read_or_judge(jobs, workers, policy):
    """The verdicts of archives, and whether Ctrl-C stopped the judging of those without one.

    Verdicts are sorted by name, name -> StoredVerdict.

    Args:
        jobs: a list of Job.
        workers: how many archives are judged at a time.
        policy: a Policy.
    """
    stored = {}
    left = []
    for job in jobs:
        verdict = read_verdict(job.stored)
        if verdict:
            stored[job.name] = verdict
        else:
            left.append(job)
    judged, stopped = judge_all(left, workers, policy.verdict.seconds + SPARE_SECONDS)
    return dict(sorted((stored | judged).items())), stopped


def read_works(jobs, verdicts):
    """What is compared with other archives, name -> similarity.Work, of jobs with verdicts."""
    works = {}
    for job in jobs:
        work = similarity.read_work(job.work)
        if work and job.name in verdicts:
            works[job.name] = work
    return works


def write_gradebook(build, course, found, verdicts, works, skipped):
    """Write tables, pages and exports to the folder `build`, and print what to look at.

    Args:
        build: the folder build/.
        course: a gradebook.Course.
        found: archive's name -> path.
        verdicts: name -> StoredVerdict of the archives that were judged.
        works: name -> similarity.Work.
        skipped: name of a file that is not graded -> reason.
    """
    entries = [course.entry(name, verdict) for name, verdict in verdicts.items()]
    gradebook.write_by_hand(build, entries, course)  # at once: a person may be editing it
    # students' pages are written first: they say nothing of other students
    gradebook.write_feedback(build, entries, found)
    alike = mark_similar(verdicts, works, course.policy)
    matches = {name: course.match(name) for name in skipped}
    unjudged = [course.match(name) for name in found if name not in verdicts]
    missing = gradebook.students_without(entries, [*matches.values(), *unjudged], course.roster)
    notices = [
        *missing_means(),
        *gradebook.list_notices(entries, skipped, missing, course),
        *gradebook.unknown_archives(course, found),
        *alike,
    ]
    other_rows = []
    for name, match in matches.items():
        row = {"archive": name, "verdict": "not read", "reason": skipped[name]}
        other_rows.append(row | match_columns(match))
    for student in missing:
        row = {"verdict": "no submission", "reason": "there is no archive of this student"}
        other_rows.append(row | student_columns(student))
    rows = [table_row(entry) for entry in entries]
    write_csv(build / "grades.csv", rows + other_rows)
    results = [row["verdict"] for row in rows]
    summary = ", ".join(f"{results.count(verdict)} {verdict}" for verdict in VERDICTS)
    left = len(found) - len(entries)
    if left:
        summary += f", {left} not judged yet: call make grade again"
    page = html_page(entries, other_rows, notices, summary)
    (build / "grades.html").write_text(page, encoding="utf-8")
    exports = gradebook.write_exports(build, entries, course)
    print(f"{len(found)} archives: {summary}")
    for notice in notices:
        print(f"- {notice}.")
    written = [build / "grades.csv", build / "grades.html", build / gradebook.BY_HAND, *exports]
    print(*written, sep="\n")


if __name__ == "__main__":
    replace_unprintable()
    course_folder = os.environ.get("SUBMISSIONS")
    if len(sys.argv) > 1:
        course_folder = sys.argv[1]
    if not course_folder:
        sys.exit("name the folder of archives: make grade SUBMISSIONS=folder/ ROSTER=roster.csv")
    roster_file = os.environ.get("ROSTER")
    main(Path(course_folder), ROOT / "build", Path(roster_file) if roster_file else None)
