"""Do a submission's numbers hold? `make verify SUBMISSION=archive.zip` judges an archive by this copy's policy.

Without SUBMISSION it is the student's own check of this folder, by the same code. The archive is read as data; what has
to be run of it runs in the sandbox. Exit code: 0 all holds, 1 contradicted, 2 not verifiable.
"""
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(ROOT / folder) for folder in ("report", "grading", "tools"))]

import checks  # noqa: E402
import nbformat  # noqa: E402
import pandas as pd  # noqa: E402
import paper  # noqa: E402
import sandbox  # noqa: E402
from archive import Refused, parse_json, read  # noqa: E402
from checks import Row, read_policy, told  # noqa: E402

import utils  # noqa: E402

WORDS = {"contradicted": "Does not hold", "unverified": "Could not be checked", "implausible": "Possible, but ask",
         "recorded": "Agrees with the records of the runs, which nobody repeated", "holds": "Holds"}
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


def judge(submission, policy, data=None, rerun=False):
    """The Verdict on a Submission; `data` are the test images at hand, if any, as from utils.load_data.

    `rerun` runs the notebook itself in the sandbox, on the images in the folder that it names.
    """
    verdict = Verdict(submission.name)
    try:
        fill(verdict, submission, policy, data, rerun)
    except Refused as error:
        verdict.rows.append(Row("submission", "unverified", str(error)))
    except Exception as error:  # what nobody has thought of is no pass
        verdict.rows.append(Row("submission", "unverified", f"the judge stumbled ({type(error).__name__}: {error})"))
    return verdict


def fill(verdict, submission, policy, data, rerun):
    """Enter into a verdict what each check finds, in the order in which a grader wants to read it."""
    names, template = policy["files"], nbformat.read(ROOT / policy["files"]["notebook"], 4)
    notebook, results = submission.notebook(names["notebook"]), submission.json(names["ledger"])
    results = results if isinstance(results, dict) else {}
    claims, rows = checks.checked_claims(results)
    accuracy = claims.get(policy["claims"]["accuracy"]["name"], {})
    verdict.claimed = accuracy.get("value") if isinstance(accuracy.get("value"), (int, float)) else None
    rows += checks.together(submission, notebook, results, policy)
    rows += checks.data_rows(results, policy)
    runs, faults = checks.load_runs(submission, policy)
    rows += faults
    main, found, bound = runs.get(str(accuracy.get("source"))), [], 0
    if main is None:
        rows.append(Row("runs", "contradicted", "the accuracy claimed rests on a run "
                        f"{str(accuracy.get('source'))[:40]!r}, which {names['runs']}/ does not hold, or only damaged"))
    else:
        place = f"{names['runs']}/{main.name}/weights.safetensors"
        verdict.weights = submission.hash(place) if place in submission.files else ""
        if main.info["config"]["data"] != results.get("data", {}).get("fingerprint"):
            rows.append(Row("data", "contradicted",
                            f"the run {main.name} was trained on other data than the ledger says"))
        trouble, found, bound = checks.measured(submission, notebook, template, main, data, policy)
        rows += [*trouble, *checks.held(claims, found, policy, bound),
                 *checks.held(claims, checks.from_records(main, runs, policy), policy, exact=True)]
    rows += checks.widened(claims, policy)
    rows += checks.implausible(runs, policy)
    made, verdict.first_page = paper.compared(submission, notebook, template, claims, runs, policy)
    rows += made
    rows += rerun_rows(submission, notebook, claims, policy, rerun) if rerun else []
    about = {row.what for row in rows}
    rows += [Row(name, "unverified", f"nothing here checks the claim {name} = {told(claim['value'])}", claim["value"])
             for name, claim in claims.items() if name not in about]
    verdict.rows += rows
    for measure, _, value, where in found:  # the last one is the weights'
        if measure == "accuracy":
            verdict.measured, verdict.measured_by = value, where
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
    rows = []
    for asked in policy["claims"].values():
        start = asked["name"].partition("{}")
        for name, claim in claims.items():
            if name == asked["name"] or start[1] and name.startswith(start[0]) and name.endswith(start[2]):
                value, bound = again.get(name, {}).get("value", "nothing"), asked["tolerance"]
                if bound != "none" and not checks.agrees(value, claim["value"], bound, name == "block_difference"):
                    said = f"the paper claims {name} = {told(claim['value'])}; a new run gives {told(value)}"
                    rows.append(Row(name, "contradicted", said, claim["value"], value, bound, "a new run"))
    return rows or [Row("rerun", "holds", "a new run of the notebook claims the same", where="a new run")]


def verify(root=ROOT, data=None):
    """The verdict on a folder as a table (DataFrame), for the notebook's last cell and make zip."""
    policy = read_policy()
    rows = judge(read(root, policy), policy, data).rows
    return pd.DataFrame([{"claim": row.what if row.where else row.said, "paper": row.claimed, "found": row.found,
                          "tolerance": row.tolerance, "from": row.where, "verdict": row.verdict} for row in rows],
                        columns=["claim", "paper", "found", "tolerance", "from", "verdict"])


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
    print(f"{verdict.name}: claimed {percent(verdict.claimed)}, measured {percent(verdict.measured)}"
          + (f" ({verdict.measured_by})" if verdict.measured_by else ""))
    for kind in reversed(WORDS):
        rows = [row for row in verdict.rows if row.verdict == kind]
        if rows and kind in ("holds", "recorded"):
            names = dict.fromkeys(row.what if row.where else row.said for row in rows)
            print(f"\n{WORDS[kind]}: {', '.join(names)}.")
        elif rows:
            print(f"\n{WORDS[kind]}:", *(f"  - {row.said}." for row in rows), sep="\n")
    if verdict.differences:
        print("\nWhat differs from the template:", *verdict.differences, sep="\n")
    print(f"\n{('All holds', 'Contradicted', 'Not verifiable')[verdict.code]}: {verdict.reason}.")


def printable(text):
    """Text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter in "\n" else "?" for letter in str(text))


def main(place, report):
    """Judge the archive or folder `place`, tell it, and write the verdict to the JSON file `report` if it is named."""
    policy, verdict = read_policy(), Verdict(Path(place).name)
    folder = Path(os.environ.get("CIFAR10_DIR") or ROOT / "data").resolve()
    again = folder if os.environ.get("RERUN", "0") not in ("", "0") else None

    def late(*_):
        raise Late(f"judging it took more than {policy['verdict']['seconds']} seconds")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(policy["verdict"]["seconds"] + (policy["sandbox"]["rerun_seconds"] if again else 0))
    try:
        verdict = judge(read(place, policy), policy, images(), again)
    except (Refused, Late) as error:
        verdict.rows.append(Row("submission", "unverified", str(error)))
    signal.alarm(0)
    for row in verdict.rows:
        row.said = printable(row.said)
    verdict.differences = list(map(printable, verdict.differences))
    if report:
        content = asdict(verdict) | {"first_page": paper.encoded(verdict.first_page) if verdict.first_page else "",
                                     "code": verdict.code, "reason": verdict.reason}
        Path(report).write_text(json.dumps(content))
    tell(verdict)
    sys.exit(verdict.code)


if __name__ == "__main__":
    main((sys.argv[1] if len(sys.argv) > 1 else "") or ROOT, sys.argv[2] if len(sys.argv) > 2 else "")
