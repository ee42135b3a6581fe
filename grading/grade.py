"""`make grade SUBMISSIONS=folder/`: the verdicts on all archives of a course.

They are written to build/grades.csv and build/grades.html. Each archive is judged by a process of
its own, so that none can stop the others. Finished verdicts are stored in build/grades/: the same
command continues where it was stopped.
"""
import concurrent.futures
import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from tqdm import tqdm

from grading import sandbox
from grading.archive import parse_json
from grading.policy import read_policy
from grading.schema import Place, read_table
from grading.verify import data_folder
from tools.errors import SubmissionError
from tools.project_files import ROOT, project_files

COLUMNS = (
    "archive", "verdict", "claimed", "measured", "contradictions", "unverified", "seconds", "reason"
)
VERDICTS = ("holds", "contradicted", "not verifiable")  # by exit code
DEEPEST = 3  # folders below the course's in which archives are looked for
MOST_MESSAGES = 20
SPARE_SECONDS = 60  # that a process may take beyond the policy's time
CLUSTER = "DASK_SCHEDULER_ADDRESS"


@dataclass
class StoredFinding:
    """What the table of grades needs of a finding."""

    verdict: str
    message: str


@dataclass
class StoredVerdict:
    """What the table of grades needs of a verdict; grading/verify.py writes it.

    `weights` is their SHA-256, "" without weights; `first_page` a PNG in base 64.
    """

    code: int
    reason: str
    findings: list[StoredFinding] = field(default_factory=list)
    claimed: float | None = None
    measured: float | None = None
    weights: str = ""
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
        return read_table(StoredVerdict, content, Place(file.name))
    except SubmissionError:
        return None


# -------------------------------------------------------------------------------------- archives


def find_submissions(folder):
    """The submissions below a folder, name -> path: zip files and unpacked submissions."""
    notebook = read_policy().files.notebook
    found = {}
    for place, folders, files in os.walk(folder):
        path = Path(place)
        depth = len(path.relative_to(folder).parts)
        if depth and (path / notebook).is_file():
            found[os.path.relpath(path, folder)] = path
            folders.clear()
            continue
        if depth >= DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            file = path / name
            if name.lower().endswith(".zip") and name[0] != "." and not file.is_symlink():
                found[os.path.relpath(file, folder)] = file
    return dict(sorted(found.items()))


def verdict_key(path, root=ROOT):
    """What a stored verdict belongs to, 32 hexadecimal digits.

    It changes with the archive, with the images, with what the sandbox can do, and with every file
    of the project that a verdict depends on.

    Args:
        path: the archive, or the folder of an unpacked submission.
        root: the project's folder.
    """
    digest = hashlib.sha256(f"{sandbox.usable()} {shutil.which('bwrap')}\n".encode())
    for file in project_files("judge", root):
        name = file.relative_to(root).as_posix()
        digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("*"))
    for file in [*files, *_data_files()]:
        status = file.lstat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _data_files():
    """The images that weights are evaluated on: their folder and two levels of what is in it."""
    folder = data_folder().resolve()
    below = [path for level in ("*", "*/*") for path in sorted(folder.glob(level))]
    return [folder, *below] if folder.exists() else []


# --------------------------------------------------------------------------------------- judging


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


@contextlib.contextmanager
def open_executor(jobs):
    """An executor of concurrent.futures: threads here, or the cluster that CLUSTER names."""
    address = os.environ.get(CLUSTER)
    if address:
        from distributed import Client

        with Client(address) as client:
            yield client.get_executor(pure=False)
    else:
        with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
            yield executor


def start_job(executor, job, seconds, environment):
    """A Future of the process that judges an archive.

    The function that is submitted is subprocess.run, so that workers of a cluster need nothing of
    this module.
    """
    limited = ["timeout", "-s", "KILL", str(seconds)]
    judge = [sys.executable, "-m", "grading.verify", str(job.path.resolve()), str(job.report)]
    return executor.submit(
        subprocess.run,
        [*limited, *judge],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=ROOT,
    )


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
        content = {"code": 2, "reason": f"judging it did not end as it should ({last})"}
        job.report.write_text(json.dumps(content))
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
    threads = max(1, os.cpu_count() // workers)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"RERUN": ""}
    verdicts = {}
    pending = {}
    with open_executor(workers) as executor:
        try:
            for job in jobs:
                pending[start_job(executor, job, seconds, environment)] = job
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


def mark_shared_weights(verdicts):
    """Add a finding to verdicts whose weights are also another archive's: a reason to ask."""
    owners = {}
    for name, verdict in verdicts.items():
        if verdict.weights:
            owners.setdefault(verdict.weights, []).append(name)
    for name, verdict in verdicts.items():
        others = [other for other in owners.get(verdict.weights, []) if other != name]
        if not others:
            continue
        message = f"its weights are also those of {', '.join(others)}"
        verdict.findings.append(StoredFinding("implausible", message))
        if verdict.code == 0:
            verdict.code = 2
            verdict.reason = message


def table_row(name, verdict):
    """The row of grades.csv on an archive, column -> value."""
    row = {
        "archive": name,
        "verdict": VERDICTS[verdict.code],
        "contradictions": verdict.count("contradicted"),
        "unverified": verdict.count("unverified", "implausible"),
        "reason": verdict.reason,
    }
    for column in ("claimed", "measured", "seconds"):
        value = getattr(verdict, column)
        row[column] = "" if value is None else round(value, 2)
    return row


def csv_text(value):
    """A value for a CSV file; text that a spreadsheet would run as a formula gets an apostrophe."""
    text = str(value)
    if isinstance(value, str) and text.lstrip()[:1] in ("=", "+", "-", "@"):
        return f"'{text}"
    return text


def write_csv(file, rows):
    """Write rows, a list of dicts by column, to a CSV file."""
    with open(file, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([csv_text(row[column]) for column in COLUMNS])


def html_page(verdicts):
    """One page of HTML: a sortable table with reasons and the first page of each paper."""
    folder = Path(__file__).parent
    script = (folder / "grades.js").read_text(encoding="utf-8")
    grades = []
    for name, verdict in verdicts.items():
        messages = [
            finding.message
            for finding in verdict.findings
            if finding.verdict in ("contradicted", "unverified", "implausible")
        ]
        grades.append(
            {
                "row": table_row(name, verdict),
                "messages": messages[:MOST_MESSAGES] or [verdict.reason],
                "first_page": verdict.first_page,
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("grades.html.j2").render(
        columns=COLUMNS[:-1],
        grades=grades,
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


# --------------------------------------------------------------------------------------- command


def main(folder, build):
    """Judge all archives in a folder, JOBS at a time, and write the tables to the folder `build`.

    Exits with 130 after Ctrl-C.
    """
    try:
        seconds = read_policy().verdict.seconds + SPARE_SECONDS
        found = find_submissions(folder)
    except SubmissionError as error:
        sys.exit(str(error))
    if not found:
        sys.exit(
            f"{folder} has no zip file and no unpacked submission: name another folder with "
            "SUBMISSIONS="
        )
    storage = (build / "grades").resolve()
    storage.mkdir(parents=True, exist_ok=True)
    verdicts = {}
    jobs = []
    for name, path in found.items():
        job = Job(name, path, storage / f"{verdict_key(path)}.json")
        verdict = read_verdict(job.stored)
        if verdict:
            verdicts[name] = verdict
        else:
            jobs.append(job)
    workers = int(os.environ.get("JOBS") or os.cpu_count())
    new, stopped = judge_all(jobs, workers, seconds)
    verdicts = dict(sorted((verdicts | new).items()))
    if stopped:
        print("\nStopped. The same command continues with the other archives.", file=sys.stderr)
    mark_shared_weights(verdicts)
    rows = [table_row(name, verdict) for name, verdict in verdicts.items()]
    write_csv(build / "grades.csv", rows)
    (build / "grades.html").write_text(html_page(verdicts), encoding="utf-8")
    results = [row["verdict"] for row in rows]
    print(", ".join(f"{results.count(verdict)} {verdict}" for verdict in VERDICTS))
    print(build / "grades.csv", build / "grades.html", sep="\n")
    sys.exit(130 if stopped else 0)


if __name__ == "__main__":
    course = os.environ.get("SUBMISSIONS")
    if len(sys.argv) > 1:
        course = sys.argv[1]
    if not course:
        sys.exit("name the folder of archives: make grade SUBMISSIONS=folder/")
    main(Path(course), ROOT / "build")
