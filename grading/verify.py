"""Judges a submission by this copy's policy: `make verify SUBMISSION=archive.zip`.

Without SUBMISSION this folder is checked, by the same code.
The archive is read as data; what has to be run of it runs in the sandbox.

Exit code: 0 verified, 1 contradicted, 2 not verifiable.
"""

import base64
import contextlib
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nbformat

import utils
from grading import (
    claim_check,
    network_measurements,
    paper_comparison,
    paper_numbers,
    plain_notebook,
    records,
    run_record,
    sandbox,
    similarity,
)
from grading.archive import Submission, read
from grading.claim_check import Claim
from grading.findings import Finding, Verdict, format_value, join_names
from grading.notebook_repair import repair_notebook
from grading.plausibility import check_plausibility
from grading.policy import read_policy
from grading.rerun import check_rerun
from grading.roster import read_authors
from grading.schema import Place, SchemaError, read_dataclass
from grading.template_diff import code_of, differences, other_modules
from report.freshness import definitions_hash, file_hash, results_hash
from report.provenance import VERDICT
from tools.errors import SubmissionError
from tools.project_files import ROOT
from tools.settings import is_set
from tools.terminal import replace_unprintable

HEADINGS = {
    "verified": "Verified",
    "recorded": "Agrees with the records of the runs, which were not computed again",
    "contradicted": "Contradicted",
    "unverified": "Could not be checked",
    "implausible": "Possible, but ask the student",
    "noted": "Noted; it costs no points",
}
HAS_ALARM = hasattr(signal, "SIGALRM")  # Windows has none: judging takes as long as it takes there
RESULTS = ("Verified", "Contradicted", "Not verifiable")  # by exit code
MOST_LINES = 20
MOST_NAMES = 24


class JudgingTimeout(BaseException):
    """Judging took longer than the policy allows. It is no Exception: no check may catch it."""


# ---------------------------------------------------------------------------------------- judging


def judge(submission, policy, data=None, rerun=None):
    """The Verdict on a submission.

    Args:
        submission: a Submission.
        policy: a Policy.
        data: the test images at hand as utils.Data, or None.
        rerun: a folder of CIFAR-10, on which the notebook is run again in the sandbox, or None.
    """
    verdict = Verdict(printable(submission.name))
    try:
        run_checks(verdict, submission, policy, data, rerun)
    except SubmissionError as error:
        verdict.findings.append(Finding("submission", "unverified", str(error)))
    except Exception as error:  # a fault that nobody has foreseen must not pass as "verified"
        message = f"the check itself failed ({type(error).__name__}: {error}): report this"
        verdict.findings.append(Finding("submission", "unverified", message))
    for finding in verdict.findings:
        finding.claim = printable(finding.claim)
        finding.message = printable(finding.message)
    verdict.differences = [printable(line) for line in verdict.differences]
    return verdict


def show_step(words):
    """Print what is being checked to standard error: a verdict takes minutes."""
    print(f"{words} ...", file=sys.stderr, flush=True)


def printable(text):
    """Text in one line without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclass
class Documents:
    """What is read of a submission before it is checked.

    Attributes:
        submission: the Submission.
        notebook: its notebook.
        template: this copy's notebook.
        results: the content of results.json, {} if it is no table.
        claims: name -> Claim.
    """

    submission: Submission
    notebook: nbformat.NotebookNode
    template: nbformat.NotebookNode
    results: dict
    claims: dict[str, Claim]


def run_checks(verdict, submission, policy, data, rerun):
    """Enter into a verdict what each check finds, in the order in which a grader reads it."""
    documents = read_documents(verdict, submission, policy)
    notebook = documents.notebook
    verdict.authors = read_authors(notebook)
    claims = documents.claims
    show_step("Checking files, records and the network, and building the paper again")
    with ThreadPoolExecutor(1) as pool:  # papers are rendered while numbers are checked
        handed_in = pool.submit(paper_comparison.render_handed_in, submission, policy)
        rebuilt = pool.submit(paper_comparison.render_rebuilt, submission, notebook, policy)
        runs = check_runs_and_claims(verdict, documents, data, policy)
        show_step("Comparing the paper handed in with the one that the notebook makes")
    try:
        check_paper(verdict, documents, runs, handed_in.result(), rebuilt, policy)
    except SubmissionError as error:  # the sandbox stopped, or a file is damaged or missing
        message = f"the paper was not compared with the notebook: {error}"
        verdict.findings.append(Finding("paper", "unverified", message))
    if rerun:
        show_step("Running the notebook again in the sandbox, which may take an hour")
        verdict.findings += check_rerun(
            submission, notebook, documents.template, claims, policy, rerun, data
        )
    verdict.findings += unchecked_claims(claims, verdict.findings)
    verdict.work = collect_work(documents, runs, policy)
    verdict.differences += differences(submission, notebook, documents.template)


def read_documents(verdict, submission, policy):
    """The Documents of a submission; what is missing or was repaired enters the verdict."""
    verdict.differences += submission.notes
    template = nbformat.read(ROOT / policy.files.notebook, 4)
    notebook = submission.notebook(policy.files.notebook)
    results = {}
    claims = {}
    if policy.files.ledger in submission.files:
        results = submission.json(policy.files.ledger)
        if not isinstance(results, dict):
            results = {}
        claims, faults = claim_check.read_claims(results, policy)
        verdict.findings += faults
    else:
        message = (
            f"{policy.files.ledger} is missing: the notebook claims no numbers that could be "
            "computed again one by one"
        )
        verdict.findings.append(Finding("claims", "unverified", message))
    recorded, _ = run_record.read_record(notebook, results)
    files = recorded.files if recorded else {}
    repairs = repair_notebook(notebook, template, submission, files, policy)
    verdict.differences += repairs
    return Documents(submission, notebook, template, results, claims)


def collect_work(documents, runs, policy):
    """What of a submission is compared with others, a similarity.Work."""
    submission = documents.submission
    main = None
    weights = {}
    if "test_accuracy" in documents.claims:
        source = documents.claims["test_accuracy"].source
        main = runs.get(source)
        file = network_measurements.weights_file(source, policy)
        if file in submission.files:
            with contextlib.suppress(SubmissionError):  # damaged: another finding says so
                weights = submission.tensors(file)
    names = other_modules(submission)
    sources = [submission.files[name].decode(errors="replace") for name in names]
    own = [ROOT / name for name in names if (ROOT / name).is_file()]
    template_sources = [file.read_text(encoding="utf-8", errors="replace") for file in own]
    return similarity.collect_work(
        weights,
        main,
        [*code_of(documents.notebook), *sources],
        [*code_of(documents.template), *template_sources],
    )


def check_runs_and_claims(verdict, documents, data, policy):
    """Enter what files, data, runs, network and claims say; the runs, name -> SubmittedRun."""
    submission = documents.submission
    claims = documents.claims
    accuracy = claims.get("test_accuracy")
    if accuracy and accuracy.is_number:
        verdict.claimed = accuracy.value
    findings = verdict.findings
    findings += run_record.compare_with_record(
        submission, documents.notebook, documents.results, documents.template, policy
    )
    data_record = None
    if documents.results:
        data_record, data_findings = records.check_data(documents.results, policy)
        findings += data_findings
    names, leftover = claim_check.runs_with_claims(
        records.run_names(submission, policy), documents.notebook, claims, policy
    )
    findings += leftover
    runs, faults = records.load_runs(submission, names, policy)
    findings += faults
    main = runs.get(accuracy.source) if accuracy else None
    if not claims:
        findings += plain_notebook.check(
            documents.notebook, documents.template, runs, data, submission, policy
        )
    elif main is None and "test_accuracy" in policy.required:
        findings.append(_missing_main_run(accuracy, names, policy))
    else:
        if data_record:
            findings += records.check_run_data(main, data_record, policy)
        findings += records.check_own_training(submission, main, policy)
        check_network(verdict, documents, runs, main, data, policy)
    if claims:
        published = claim_check.published_measurements()
        findings += claim_check.check_claims(claims, published, policy)
    findings += claim_check.check_conclusions(claims, policy)
    findings += check_plausibility(runs, policy)
    return runs


def check_network(verdict, documents, runs, main, data, policy):
    """Enter what the network, its weights and the records of runs say of the claims.

    Args:
        verdict: the Verdict, which also gets the measured accuracy.
        documents: Documents.
        runs: name -> SubmittedRun.
        main: the run whose accuracy is claimed, None for a document without one.
        data: the test images at hand as utils.Data, or None.
        policy: a Policy.
    """
    if data:
        show_step(f"Evaluating the weights on {len(data.test_labels):,} test images")
    report = network_measurements.measure_network(
        documents.submission, documents.notebook, documents.template, runs, main, data, policy
    )
    verdict.findings += report.findings
    verdict.findings += claim_check.check_claims(documents.claims, report.measurements, policy)
    recorded = claim_check.recorded_measurements(main, runs, documents.claims)
    verdict.findings += claim_check.check_recorded_claims(documents.claims, recorded, policy)
    if report.accuracy:
        verdict.measured = report.accuracy.value
        verdict.measured_by = report.accuracy.origin


def _missing_main_run(accuracy, names, policy):
    """The Finding that the accuracy, a Claim or None, is not claimed or rests on no complete run.

    `names` are those of the runs that the submission has files of.
    """
    if accuracy is None:
        message = f"{policy.files.ledger} has no claim test_accuracy: run make submission"
        return Finding("runs", "contradicted", message)
    message = (
        f"the accuracy claimed rests on a run {accuracy.source[:40]!r}, which is not complete in "
        f"{policy.files.runs}/"
    )
    verdict = "contradicted"
    if not names or accuracy.source in names:  # they were not packed, or not all of it was
        verdict = "unverified"
    return Finding("runs", verdict, message)


def check_paper(verdict, documents, runs, handed_in, rebuilt, policy):
    """Enter what the comparison of two papers finds.

    Args:
        verdict: the Verdict, which also gets the picture of the first page.
        documents: Documents.
        runs: name -> SubmittedRun.
        handed_in: the paper handed in, rendered.
        rebuilt: a Future of the paper that the notebook makes.
        policy: a Policy.
    """
    verdict.first_page = paper_comparison.first_page(handed_in)
    submission = documents.submission
    notebook = documents.notebook
    claims = documents.claims
    explanations = paper_numbers.collect_explanations(
        submission, notebook, documents.template, claims, runs, policy
    )
    try:
        paper = rebuilt.result()
    except sandbox.SandboxError as error:  # here no font may have an author's letters
        message = f"this copy could not build the notebook's paper: {error}"
        verdict.findings.append(Finding("paper", "unverified", message))
        words = paper_comparison.page_words(handed_in)
        verdict.findings += paper_numbers.check_other_layout(words, notebook, explanations, claims)
        return
    paper, corrections = paper_comparison.undo_corrections(
        handed_in, paper, submission, notebook, policy
    )
    verdict.findings += corrections
    verdict.findings += paper_comparison.compare(handed_in, paper, notebook, explanations, claims)


def unchecked_claims(claims, findings):
    """A list with the Finding on claims that no check has compared, or an empty one."""
    compared = {finding.claim for finding in findings if finding.claimed is not None}
    left = [
        f"{name} = {format_value(claim.value)}"
        for name, claim in claims.items()
        if name not in compared
    ]
    if not left:
        return []
    return [Finding("other claims", "unverified", f"no check exists for {join_names(left)}")]


# ---------------------------------------------------------------------------------------- command


def data_folder():
    """Where CIFAR-10 is looked for: CIFAR10_DIR, or data/."""
    return Path(os.environ.get("CIFAR10_DIR") or ROOT / "data")


def load_images():
    """The CIFAR-10 at hand, or None and a printed line; nothing is downloaded for this."""
    folder = data_folder()
    if not utils.has_data(folder):
        print(f"No CIFAR-10 in {folder}: weights are not evaluated. Put it there, or name its "
              "folder with CIFAR10_DIR.")
        return None
    try:
        return utils.load_data(folder, "cifar10")
    except SubmissionError as error:
        print(f"{error}: weights are not evaluated.")
        return None


def print_verdict(verdict):
    """Print a verdict: claimed and measured accuracy, findings by kind, differences, the result."""
    if verdict.claimed is not None or verdict.measured is not None:
        line = (
            f"{verdict.name}: claimed {_percent(verdict.claimed)}, "
            f"measured {_percent(verdict.measured)}"
        )
        if verdict.measured_by:
            line += f" ({verdict.measured_by})"
        print(line)
    for kind, heading in HEADINGS.items():
        findings = [finding for finding in verdict.findings if finding.verdict == kind]
        if findings and kind in ("verified", "recorded"):
            print(f"\n{heading}: {join_names(_names(findings), MOST_NAMES)}.")
        elif findings:
            print(f"\n{heading}:")
            for finding in findings[:MOST_LINES]:
                print(f"  - {finding.message}.")
            if len(findings) > MOST_LINES:
                print(f"  - and {len(findings) - MOST_LINES} more.")
    if verdict.differences:
        print("\nWhat differs from the template:", *verdict.differences, sep="\n")
    print(f"\n{RESULTS[verdict.code]}: {verdict.reason}.")


def _percent(value):
    return "none" if value is None else f"{value:.2f} %"


def _names(findings):
    """What verified findings are about, each once: their claims, or else their messages."""
    names = [finding.claim if finding.source else finding.message for finding in findings]
    return list(dict.fromkeys(names))


def judge_in_time(path, policy, rerun):
    """The Verdict on the archive or folder `path`.

    It is not verifiable if judging takes longer than the policy allows. `rerun` is a folder of
    CIFAR-10 on which the notebook is run again, or None.
    """
    seconds = policy.verdict.seconds
    if rerun:
        seconds += policy.sandbox.rerun_seconds

    def stop(*_):
        sandbox.end_below(os.getpid())
        raise JudgingTimeout(f"judging it took more than {seconds} seconds")

    if HAS_ALARM:
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(seconds)
    try:
        return judge(read(path, policy), policy, load_images(), rerun)
    except (SubmissionError, JudgingTimeout) as error:
        finding = Finding("submission", "unverified", str(error))
        return Verdict(printable(Path(path).name), [finding])
    finally:
        if HAS_ALARM:
            signal.alarm(0)


def changed_since_study(policy):
    """What has changed since the study was run, in words, "" if nothing.

    The study rests on the definitions of the network and on code that a student may change; it is
    no part of a submission.
    """
    ledger = policy.study.files.ledger
    try:
        results = json.loads((ROOT / ledger).read_text(encoding="utf-8"))
        code = read_dataclass(StudyCode, results["code"], Place(ledger, ("code",)))
    except (ValueError, LookupError, TypeError, SchemaError):
        return ""  # damaged: its verdict will say so
    template = json.loads((ROOT / policy.files.notebook).read_text(encoding="utf-8"))
    changed = []
    if code.definitions != definitions_hash(template):
        changed.append("the network's definitions")
    for name, expected in code.files.items():
        is_code = name.endswith((".py", ".csv")) and "/study/" not in name
        if is_code and file_hash(ROOT / name) != expected:
            changed.append(name)
    return join_names(changed)


@dataclass
class StudyCode:
    """What the study's record says of the code that it was run with."""

    definitions: str
    files: dict[str, str]


def write_report(verdict, path, seconds):
    """Write a verdict to a JSON file, and beside it what is compared; grade.py reads both."""
    work = verdict.work
    if work:
        similarity.write_work(Path(path).with_suffix(similarity.SUFFIX), work)
    content = asdict(replace(verdict, work=None))
    content["first_page"] = base64.b64encode(verdict.first_page).decode()
    content["code"] = verdict.code
    content["reason"] = verdict.reason
    content["seconds"] = seconds
    Path(path).write_text(json.dumps(content), encoding="utf-8")


def keep_findings(verdicts):
    """Store what this folder's verdicts say of each claim: build/report.html shows it.

    Args:
        verdicts: name of a file of claims -> the Verdict on it.
    """
    stored = {}  # by the claims' hash: after another run they are others
    with contextlib.suppress(OSError, ValueError):
        for ledger, verdict in verdicts.items():
            results = json.loads((ROOT / ledger).read_text(encoding="utf-8"))
            stored[results_hash(results)] = [
                (finding.claim, finding.verdict, finding.message)
                for finding in verdict.findings
                if finding.claimed is not None
            ]
        VERDICT.parent.mkdir(exist_ok=True)
        VERDICT.write_text(json.dumps(stored), encoding="utf-8")


def main(path, report):
    """Judge the archive or folder `path`, print the verdict, and exit with its code.

    The verdict is also written to the JSON file `report` if it is named. If `path` is this
    folder, the study is judged as well, and what is found is kept for build/report.html.
    """
    started = time.monotonic()
    try:
        policy = read_policy()
    except SubmissionError as error:
        print(error, file=sys.stderr)
        sys.exit(2)  # 1 would say that the submission is contradicted
    rerun = data_folder().resolve() if is_set("RERUN") else None
    path = Path(path).resolve()
    verdict = judge_in_time(path, policy, rerun)
    if report:
        write_report(verdict, report, time.monotonic() - started)
    print_verdict(verdict)
    codes = [verdict.code]
    verdicts = {policy.files.ledger: verdict}
    if path == ROOT and (ROOT / policy.study.files.ledger).exists():
        print("\nThe study:\n")
        changed = changed_since_study(policy)
        if changed:
            print(
                f"The study is not checked, because {changed} changed after it was run. Run make "
                "study, then make verify."
            )
        else:
            verdict = judge_in_time(path, policy.for_study(), rerun=None)
            print_verdict(verdict)
            codes.append(verdict.code)
            verdicts[policy.study.files.ledger] = verdict
    if path == ROOT:
        keep_findings(verdicts)
    if 1 in codes:
        sys.exit(1)
    sys.exit(max(codes))


if __name__ == "__main__":
    replace_unprintable()
    archive = ROOT
    if len(sys.argv) > 1 and sys.argv[1]:
        archive = sys.argv[1]
    elif os.environ.get("SUBMISSION"):
        archive = os.environ["SUBMISSION"]
    report_file = ""
    if len(sys.argv) > 2:
        report_file = sys.argv[2]
    main(archive, report_file)
