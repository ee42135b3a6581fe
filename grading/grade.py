"""`make grade SUBMISSIONS=folder/`: the verdict on every archive of a course, in build/grades.csv and grades.html.

Each archive is judged by a process of its own, so that none can stop the others. Finished verdicts are kept in
build/grades/: the same command goes on where it was stopped.
"""
import contextlib
import csv
import hashlib
import html
import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import joblib
from tqdm import tqdm

from grading import sandbox
from grading.checks import read_policy
from tools.project_files import ROOT, project_files

COLUMNS = ("archive", "verdict", "claimed", "measured", "contradictions", "unverified", "seconds", "reason")
VERDICTS = ("holds", "contradicted", "not verifiable")
REASONS = ("contradicted", "unverified", "implausible")
SCRIPT = """
document.querySelectorAll("th").forEach((head, column) => head.onclick = () => {
  const body = document.querySelector("tbody"), up = head.dataset.up = head.dataset.up === "1" ? "0" : "1";
  const key = row => row.cells[column].textContent;
  const compare = (a, b) => isNaN(parseFloat(a)) || isNaN(parseFloat(b)) ? a.localeCompare(b) : a - b;
  [...body.rows].sort((a, b) => (up === "1" ? 1 : -1) * compare(key(a), key(b))).forEach(row => body.append(row));
});
"""
STYLE = """
body { font: 15px sans-serif; margin: 2em; } table { border-collapse: collapse; }
th { cursor: pointer; text-align: left; }
td, th { padding: .4em .8em; border-bottom: 1px solid #ccc; vertical-align: top; }
.holds { color: #060; } .contradicted { color: #a00; } ul { margin: 0; padding-left: 1em; max-width: 50em; }
img { width: 150px; border: 1px solid #ccc; }
"""


def submissions(folder):
    """The archives below a folder, name -> path: zip files, at most three folders deep, and unpacked submissions."""
    notebook, found = read_policy()["files"]["notebook"], {}
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        if Path(place, notebook).is_file() and depth:
            found[os.path.relpath(place, folder)] = Path(place)
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < 3)
        found |= {os.path.relpath(Path(place, name), folder): Path(place, name) for name in files
                  if name.lower().endswith(".zip") and not name.startswith(".") and not Path(place, name).is_symlink()}
    return dict(sorted(found.items()))


def verdict_key(path):
    """What a kept verdict belongs to: the archive, the judge and the data, as hexadecimal digits."""
    digest = hashlib.sha256(os.environ.get("CIFAR10_DIR", "").encode())
    for file in project_files("judge"):
        digest.update(file.read_bytes())
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        status = file.lstat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def verdict_of(name, done, report, place):
    """The verdict that a judge's process has left, as a dict; whatever happened to it is a verdict as well."""
    if done.returncode in (0, 1, 2) and report.exists():
        verdict = json.loads(report.read_text())
    else:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        verdict = {"code": 2, "reason": f"the judge did not end as it should ({last[0][:200]})", "rows": [],
                   "seconds": None}
    report.write_text(json.dumps(verdict))
    os.replace(report, place)
    return {"archive": name} | verdict


def table(verdicts):
    """The rows of the CSV, dicts by column; the same weights in two archives make both of them a reason to ask."""
    owners = {}
    for verdict in verdicts:
        if verdict.get("weights"):
            owners.setdefault(verdict["weights"], []).append(verdict["archive"])
    for verdict in verdicts:
        others = [name for name in owners.get(verdict.get("weights"), []) if name != verdict["archive"]]
        if others:
            said = f"its weights are also those of {', '.join(others)}"
            verdict["rows"].append({"verdict": "implausible", "said": said})
            if verdict["code"] == 0:
                verdict |= {"code": 2, "reason": said}
        counts = [row["verdict"] for row in verdict["rows"]]
        yield {"archive": verdict["archive"], "verdict": VERDICTS[verdict["code"]],
               **{key: "" if verdict.get(key) is None else round(verdict[key], 2)
                  for key in ("claimed", "measured", "seconds")}, "contradictions": counts.count("contradicted"),
               "unverified": counts.count("unverified") + counts.count("implausible"), "reason": verdict["reason"]}


def safe(value):
    """A value for a CSV: text that a spreadsheet would take for a formula gets an apostrophe."""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.lstrip()[:1] in ("=", "+", "-", "@") else text


def page(rows, verdicts):
    """One page of HTML: a sortable table with each paper's first page and the reasons; all text is escaped."""
    digest, lines = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(), []
    for row, verdict in zip(rows, verdicts):
        reasons = [line["said"] for line in verdict["rows"] if line["verdict"] in REASONS][:20] or [row["reason"]]
        cells = "".join(f"<td>{html.escape(str(row[name]))}</td>" for name in COLUMNS[:-1])
        items = "".join(f"<li>{html.escape(text)}</li>" for text in reasons)
        picture = html.escape(verdict.get("first_page", ""))
        picture = f'<img alt="first page" src="data:image/png;base64,{picture}">' if picture else ""
        lines.append(f'<tr class="{row["verdict"].split()[0]}">{cells}<td><ul>{items}</ul></td><td>{picture}</td></tr>')
    heads = "".join(f"<th>{name}</th>" for name in (*COLUMNS, "first page"))
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
            f"<title>Grades</title><style>{STYLE}</style><table><thead><tr>{heads}</tr></thead><tbody>"
            + "\n".join(lines) + f"</tbody></table><script>{SCRIPT}</script>\n")


@contextlib.contextmanager
def workers(jobs):
    """joblib's Parallel: on the cluster that DASK_SCHEDULER_ADDRESS names, else on this machine."""
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if address:
        from distributed import Client
        with Client(address), joblib.parallel_config(backend="dask"):
            yield joblib.Parallel(return_as="generator_unordered")
    else:
        yield joblib.Parallel(n_jobs=jobs, backend="threading", return_as="generator_unordered")


def main(folder, build):
    """Judge all archives in a folder, JOBS at a time, and write grades.csv and grades.html to the folder `build`."""
    found, seconds = submissions(folder), read_policy()["verdict"]["seconds"] + 60
    if not found:
        sys.exit(f"{folder} holds no zip file and no unpacked submission: name the folder with SUBMISSIONS=")
    kept, jobs = (build / "grades").resolve(), int(os.environ.get("JOBS") or os.cpu_count())
    kept.mkdir(parents=True, exist_ok=True)
    settings = {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // jobs))} | os.environ | {"RERUN": ""}
    verdicts, tasks, stopped = [], {}, False
    for name, path in found.items():
        place = kept / f"{verdict_key(path)}.json"
        if place.exists():
            verdicts.append({"archive": name} | json.loads(place.read_text()))
        else:  # nothing of this module, so that workers elsewhere need not have it
            command = ["timeout", "-s", "KILL", str(seconds), sys.executable, "-m", "grading.verify",
                       str(path.resolve()), str(place.with_suffix(".new"))]
            tasks[command[-1]] = name, place, joblib.delayed(subprocess.run)(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings,
                cwd=ROOT)
    try:
        with workers(jobs) as work:
            for done in tqdm(work(task for *_, task in tasks.values()), total=len(tasks), desc="archives", unit=""):
                name, place, _ = tasks[done.args[-1]]
                verdicts.append(verdict_of(name, done, Path(done.args[-1]), place))
    except KeyboardInterrupt:
        stopped = True
        sandbox.end_below(os.getpid())
        print("\nStopped; the same command goes on with the archives that are left.", file=sys.stderr)
    verdicts.sort(key=lambda verdict: verdict["archive"])
    rows = list(table(verdicts))
    with open(build / "grades.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([safe(row[name]) for name in COLUMNS] for row in rows)
    (build / "grades.html").write_text(page(rows, verdicts))
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), build / "grades.csv",
          build / "grades.html", sep="\n")
    sys.exit(130 if stopped else 0)


if __name__ == "__main__":
    place = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SUBMISSIONS")
    main(Path(place or sys.exit("name the folder of archives: make grade SUBMISSIONS=folder/")), ROOT / "build")
