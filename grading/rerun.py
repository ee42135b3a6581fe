"""Runs the notebook again in the sandbox (`RERUN=1`), and compares its claims with the new ones.

The results.json of the new run was written by the student's code. What counts are the runs that it
leaves: this copy computes the claims from them, as it does for an archive.
`FRESH=1` trains the networks anew as well; the policy's table [retrained] then says how far their
values may be off.
"""

import json
import os
import re
from dataclasses import asdict, replace

from grading import sandbox
from grading.archive import Submission, parse_json
from grading.claim_check import Claim, read_claims, recorded_measurements
from grading.findings import Finding, format_value
from grading.network_measurements import measure_network, sandbox_code
from grading.policy import RerunLimits
from grading.records import load_runs, run_names
from tools.errors import SubmissionError
from tools.settings import is_set

RERUN_SETTINGS = ("EPOCHS", "SEED")  # that the notebook may see


def check_rerun(submission, notebook, template, claims, policy, folder, data):
    """Findings on a new run of the notebook, with this copy's modules.

    Args:
        submission: a Submission.
        notebook: its notebook.
        template: this copy's notebook.
        claims: name -> Claim.
        policy: a Policy.
        folder: a Path, where CIFAR-10 is.
        data: it as utils.Data, or None.
    """
    retrained = is_set("FRESH")
    seconds = policy.sandbox.rerun_seconds
    limits = RerunLimits(**asdict(policy.sandbox))
    limits.processor_seconds = seconds * os.cpu_count()
    limits.seconds = seconds
    limits.gpu = retrained
    # Whatever the notebook itself sets; the sandbox can write below the project alone.
    environment = [f"FRESH={int(retrained)}", "RUNS=build/checkpoints"]
    environment += [f"{name}={os.environ[name]}" for name in RERUN_SETTINGS if os.environ.get(name)]
    try:
        results = sandbox.run_task(
            rerun_inputs(submission, notebook, policy),
            "rerun_notebook",
            replace(policy, sandbox=limits),
            ["env", "CIFAR10_DIR=/data", *environment],
            data=folder,
        )
        content = parse_json(results.get("results.json", b"{}"), "the new run's results.json")
    except SubmissionError as error:
        return [Finding("rerun", "unverified", f"the notebook could not be run again: {error}")]
    again, _ = read_claims(content, policy)
    left = left_runs(submission, results, policy, retrained)
    measured, findings = measure_again(left, notebook, template, claims, policy, data)
    findings += compare_with_new_run(claims, again | measured, policy, retrained)
    if not findings:
        message = "a new run of the notebook claims the same, and its runs give the same"
        findings.append(Finding("rerun", "verified", message, source="a new run"))
    return findings


def left_runs(submission, results, policy, retrained):
    """A Submission of the runs that a new run of the notebook rests on.

    They are those that it trained and, unless it had to train all of them, the submission's own.
    """
    start = f"{policy.files.runs}/"
    files = {}
    if not retrained:
        files |= {name: data for name, data in submission.files.items() if name.startswith(start)}
    for name, content in results.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "runs":
            run = re.sub(r"-[0-9a-f]{8}$", "", parts[1])  # of its configuration
            files[f"{start}{run}/{parts[2]}"] = content
    return Submission("the new run", files, submission.limits)


def measure_again(left, notebook, template, claims, policy, data):
    """What the runs of a new run give, name -> Claim, and findings on what cannot be measured.

    Args:
        left: what left_runs returns.
        notebook: the submission's notebook.
        template: this copy's notebook.
        claims: name -> Claim of the submission.
        policy: a Policy.
        data: utils.Data, or None.
    """
    runs, findings = load_runs(left, run_names(left, policy), policy)
    source = claims["test_accuracy"].source if "test_accuracy" in claims else None
    main = runs.get(source)
    if main is None:
        message = f"it left no complete run {source!r}, so its accuracy was not measured"
        findings.append(Finding("rerun", "unverified", message))
        measurements = []
    else:
        report = measure_network(left, notebook, template, runs, main, data, policy)
        findings += report.findings
        measurements = report.measurements
    measurements += recorded_measurements(main, runs, claims)
    findings = [
        replace(finding, message=f"the new run of the notebook: {finding.message}")
        for finding in findings
        if finding.verdict != "verified"
    ]
    return {measured.claim: Claim(measured.value) for measured in measurements}, findings


def rerun_inputs(submission, notebook, policy):
    """What the sandbox needs to run the notebook: name -> bytes or path."""
    inputs = sandbox_code()
    for name, content in submission.files.items():
        if name.startswith(f"{policy.files.runs}/"):
            inputs[name] = content
    inputs[policy.files.notebook] = json.dumps(notebook).encode()
    if policy.files.references in submission.files:
        inputs[policy.files.references] = submission.bytes(policy.files.references)
    return inputs


def compare_with_new_run(claims, again, policy, retrained):
    """Findings on claims that a new run contradicts.

    Args:
        claims: name -> Claim of the submission.
        again: name -> Claim of the new run.
        policy: a Policy.
        retrained: whether the new run has trained the networks anew.
    """
    findings = []
    for name, claim in claims.items():
        tolerance = policy.tolerance(name, retrained)
        if tolerance is None or tolerance.kind == "any":
            continue
        value = "nothing"
        if name in again:
            value = again[name].value
        if tolerance.agrees(value, claim.value):
            continue
        message = (
            f"the paper claims {name} = {format_value(claim.value)}; "
            f"a new run gives {format_value(value)}"
        )
        findings.append(
            Finding(
                name,
                "contradicted",
                message,
                claimed=claim.value,
                found=value,
                tolerance=tolerance.limit,
                source="a new run",
            )
        )
    return findings
