"""Do a submission's numbers hold? `make verify SUBMISSION=archive.zip` judges an archive by this copy's policy.

Without SUBMISSION it is the student's own check of this folder, by the same code. The archive is read as data; what has
to be run of it runs in the sandbox. Exit code: 0 all holds, 1 contradicted, 2 not verifiable.
"""
import base64
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nbformat

import utils
from analysis import run_statistics
from grading import checks, paper_comparison, sandbox
from grading.archive import Refused, parse_json, read
from grading.checks import Row, listed, read_policy, told
from report.freshness import definitions_hash, file_hash
from tools.project_files import ROOT

START = time.monotonic()
WORDS = {"holds": "Holds", "recorded": "Agrees with the records of the runs, which nobody repeated",
         "contradicted": "Does not hold", "unverified": "Could not be checked", "implausible": "Possible, but ask"}
CODES = {"contradicted": 1, "unverified": 2, "implausible": 2}


class Late(BaseException):
    """Judging took too long; no check catches it."""


@dataclass
class Verdict:
    """What the judge found of a submission."""
    name: str
    rows: list = field(default_factory=list)
    claimed: float = None     # the test accuracy in per cent
    measured: float = None    # that of the weights, or else of the predictions
    measured_by: str = ""
    differences: list = field(default_factory=list)  # lines: what differs from the template
    weights: str = ""         # SHA-256 of the weights, "" where there are none
    first_page: bytes = b""   # of the paper handed in, PNG

    @property
    def code(self):
        """0 all holds, 1 contradicted, 2 not verifiable."""
        codes = {CODES.get(row.verdict, 0) for row in self.rows}
        return 1 if 1 in codes else max(codes, default=2)

    @property
    def reason(self):
        """The first reason for the exit code, in one sentence."""
        return next((row.said for row in self.rows if CODES.get(row.verdict, 0) == self.code and self.code),
                    "all that was checked holds")


def judge(submission, policy, data=None, rerun=None):
    """The Verdict on a Submission; `data` are the test images at hand, if any, as from utils.load_data.

    `rerun`, a folder of CIFAR-10, has the notebook itself run in the sandbox on it.
    """
    verdict = Verdict(printable(submission.name))
    try:
        fill(verdict, submission, policy, data, rerun)
    except Refused as error:
        verdict.rows.append(Row("submission", "unverified", str(error)))
    except Exception as error:  # what nobody has thought of is no pass
        verdict.rows.append(Row("submission", "unverified", f"the judge stumbled ({type(error).__name__}: {error})"))
    for row in verdict.rows:
        row.what, row.said = printable(row.what), printable(row.said)
    verdict.differences = list(map(printable, verdict.differences))
    return verdict


def printable(text):
    """Text without what a terminal would obey, in one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def fill(verdict, submission, policy, data, rerun):
    """Enter into a verdict what each check finds, in the order in which a grader wants to read it."""
    names, template = policy["files"], nbformat.read(ROOT / policy["files"]["notebook"], 4)
    notebook, results = submission.notebook(names["notebook"]), submission.json(names["ledger"])
    results = results if isinstance(results, dict) else {}
    (claims, faults), rows = checks.checked_claims(results), verdict.rows
    rows += faults
    accuracy = claims.get("test_accuracy", {})
    verdict.claimed = accuracy.get("value") if type(accuracy.get("value")) in (int, float) else None
    with ThreadPoolExecutor(1) as pool:
        tasks = (paper_comparison.handed, paper_comparison.made)
        papers = [pool.submit(task, submission, notebook, policy) for task in tasks]  # meanwhile
        rows += checks.together(submission, notebook, results, policy)
        rows += checks.data_rows(results, policy)
        runs, faults = checks.load_runs(submission, policy)
        rows += faults
        main = runs.get(str(accuracy.get("source")))
        if main is None and "test_accuracy" in policy["required"]:
            rows.append(Row("runs", "contradicted", "the accuracy claimed rests on a run "
                            f"{str(accuracy.get('source'))[:40]!r}, which {names['runs']}/ does not hold whole"))
        else:
            if main and main.info["config"]["data"] != results.get("data", {}).get("fingerprint"):
                rows.append(Row("data", "contradicted",
                                f"the run {main.folder} was trained on other data than the ledger says"))
            trouble, found = checks.from_network(submission, notebook, template, runs, main, data, policy)
            rows += [*trouble, *checks.held(claims, found, policy)]
            rows += checks.held(claims, checks.from_records(main, runs, claims), policy, exact=True)
            for name, value, where in found:  # the last ones are the weights'
                if name == "test_accuracy":
                    verdict.measured, verdict.measured_by = value, where
        published = run_statistics.published()[1].items()
        rows += checks.held(claims, [(f"published/{name}", float(value), "analysis/published.csv")
                                     for name, value in published], policy)
        rows += [*checks.concluded(claims), *checks.implausible(runs, policy)]
    try:
        handed = papers[0].result()
        verdict.first_page = paper_comparison.first_page(handed)
        rows += paper_comparison.compared(submission, handed, papers[1].result(), template, claims, runs, policy)
    except (sandbox.Stopped, Refused) as error:
        kind = "unverified" if names["paper"] in submission.files else "contradicted"
        rows.append(Row("paper", kind, f"the paper was not held against the notebook: {error}"))
    rows += rerun_rows(submission, notebook, claims, policy, rerun) if rerun else []
    about = {row.what for row in rows if row.claimed is not None}
    left = [f"{name} = {told(claim['value'])}" for name, claim in claims.items() if name not in about]
    rows += [Row("claims", "unverified", f"nothing here checks {listed(left)}")] if left else []
    weights = f"{names['runs']}/{accuracy.get('source')}/weights.safetensors"
    verdict.weights = submission.hash(weights) if weights in submission.files else ""
    verdict.differences = checks.differences(submission, notebook, template)


def rerun_rows(submission, notebook, claims, policy, folder):
    """Rows from a new run of the notebook in the sandbox, with this copy's modules, on the data in `folder`."""
    names = policy["files"]
    runs = {name: content for name, content in submission.files.items() if name.startswith(names["runs"] + "/")}
    inputs = {**checks.code(), **runs, f"notebooks/{names['notebook'].rpartition('/')[2]}": sandbox.packed(notebook)}
    if names["references"] in submission.files:
        inputs["report/references.bib"] = submission.bytes(names["references"])
    settings = [f"{name}={os.environ[name]}" for name in ("FRESH", "EPOCHS", "SEED") if os.environ.get(name)]
    seconds, fresh = policy["sandbox"]["rerun_seconds"], os.environ.get("FRESH", "0") not in ("", "0")
    limits = policy["sandbox"] | {"processor_seconds": seconds * os.cpu_count(), "seconds": seconds, "gpu": fresh}
    try:
        made = sandbox.results(inputs, "rerun", policy | {"sandbox": limits}, ["env", "CIFAR10_DIR=/data", *settings],
                               data=folder)
        again, _ = checks.checked_claims(parse_json(made.get("results.json", b"{}"), "the rerun's ledger"))
    except (sandbox.Stopped, Refused) as error:
        return [Row("rerun", "unverified", f"the notebook could not be run again: {error}")]
    rows, tolerances = [], policy["claims"] | (policy["retrained"] if fresh else {})
    for name, claim in claims.items():
        value, bound = again.get(name, {}).get("value", "nothing"), checks.tolerance_of(name, tolerances)
        if bound not in ("any", None) and not checks.agrees(value, claim["value"], bound, name == "block_difference"):
            said = f"the paper claims {name} = {told(claim['value'])}; a new run gives {told(value)}"
            rows.append(Row(name, "contradicted", said, claim["value"], value, bound, "a new run"))
    return rows or [Row("rerun", "holds", "a new run of the notebook claims the same", where="a new run")]


def images():
    """The CIFAR-10 at hand, or None and a printed line; nothing is downloaded for this."""
    folder = Path(os.environ.get("CIFAR10_DIR") or ROOT / "data")
    if not utils.has_data(folder):
        print(f"No CIFAR-10 in {folder}: weights are not evaluated.")
        return None
    try:
        return utils.load_data(folder, "cifar10")
    except utils.SubmissionError as error:
        print(f"{error}: weights are not evaluated.")


def tell(verdict):
    """Print a verdict: what a grader wants to know first, then what holds, what does not, what could not be checked."""
    def percent(value):
        return "none" if value is None else f"{value:.2f} %"
    if verdict.claimed is not None or verdict.measured is not None:
        print(f"{verdict.name}: claimed {percent(verdict.claimed)}, measured {percent(verdict.measured)}"
              + (f" ({verdict.measured_by})" if verdict.measured_by else ""))
    for kind in WORDS:
        rows = [row for row in verdict.rows if row.verdict == kind]
        if rows and kind in ("holds", "recorded"):
            names = dict.fromkeys(row.what if row.where else row.said for row in rows)
            print(f"\n{WORDS[kind]}: {listed(list(names), 24)}.")
        elif rows:
            more = [f"  - and {len(rows) - 20} more."] if len(rows) > 20 else []
            print(f"\n{WORDS[kind]}:", *(f"  - {row.said}." for row in rows[:20]), *more, sep="\n")
    if verdict.differences:
        print("\nWhat differs from the template:", *verdict.differences, sep="\n")
    print(f"\n{('All holds', 'Contradicted', 'Not verifiable')[verdict.code]}: {verdict.reason}.")


def main(place, report):
    """Judge the archive or folder `place`, tell it, and write the verdict to the JSON file `report` if it is named.

    Of this folder, where no archive is named, the study is judged as well.
    """
    policy = read_policy()
    verdicts = [judged_in_time(place, policy)]
    if report:
        verdict = verdicts[0]
        picture = base64.b64encode(verdict.first_page).decode()
        content = asdict(verdict) | {"first_page": picture, "code": verdict.code, "reason": verdict.reason,
                                     "seconds": time.monotonic() - START}
        Path(report).write_text(json.dumps(content))
    tell(verdicts[0])
    if Path(place) == ROOT and (ROOT / policy["study"]["files"]["ledger"]).exists():
        print("\nThe study:\n")
        if changed := changed_since_study(policy):
            print(f"{changed} changed since the study was run: it is not checked (make study runs it again).")
        else:
            verdicts.append(judged_in_time(place, policy | policy["study"], rerun=False))
            tell(verdicts[1])
    codes = [verdict.code for verdict in verdicts]
    sys.exit(1 if 1 in codes else max(codes))


def changed_since_study(policy):
    """What the study rests on and has changed since, in words, "" if nothing: the definitions of the network, code.

    A student changes both, and the study is no part of a submission.
    """
    try:
        ran = json.loads((ROOT / policy["study"]["files"]["ledger"]).read_text(encoding="utf-8"))["code"]
        template = json.loads((ROOT / policy["files"]["notebook"]).read_text(encoding="utf-8"))
        changed = [] if ran["definitions"] == definitions_hash(template) else ["the network's definitions"]
        changed += [name for name, expected in ran["files"].items()
                    if name.endswith((".py", ".csv")) and "/study/" not in name and file_hash(ROOT / name) != expected]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""  # damaged: the judge says so
    return listed(changed)


def judged_in_time(place, policy, rerun=True):
    """The Verdict on the archive or folder `place`; not verifiable where judging takes longer than the policy has."""
    verdict = Verdict(printable(Path(place).name))
    folder = Path(os.environ.get("CIFAR10_DIR") or ROOT / "data").resolve()
    again = folder if rerun and os.environ.get("RERUN", "0") not in ("", "0") else None

    def late(*_):
        sandbox.end_below(os.getpid())
        raise Late(f"judging it took more than {policy['verdict']['seconds']} seconds")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(policy["verdict"]["seconds"] + (policy["sandbox"]["rerun_seconds"] if again else 0))
    try:
        verdict = judge(read(place, policy), policy, images(), again)
    except (Refused, Late) as error:
        verdict.rows.append(Row("submission", "unverified", str(error)))
    signal.alarm(0)
    return verdict


if __name__ == "__main__":
    main((sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SUBMISSION")) or ROOT, "".join(sys.argv[2:]))
