"""Does a new run of the notebook claim the same? `RERUN=1` runs it in the sandbox.

`FRESH=1` trains the networks anew as well; the policy's table [retrained] then says how far their
values may be off.
"""
import json
import os
from dataclasses import asdict, replace

from grading import sandbox
from grading.archive import parse_json
from grading.claim_check import read_claims
from grading.findings import Finding, format_value
from grading.network_measurements import sandbox_code
from grading.policy import RerunLimits
from tools.errors import SubmissionError

SETTINGS = ("FRESH", "EPOCHS", "SEED")  # environment variables that the notebook may see


def is_set(variable):
    """Whether an environment variable is set to anything but 0."""
    return os.environ.get(variable, "0") not in ("", "0")


def check_rerun(submission, notebook, claims, policy, folder):
    """Findings on a new run of the notebook, with this copy's modules.

    Args:
        submission: a Submission.
        notebook: its notebook.
        claims: name -> Claim.
        policy: a Policy.
        folder: a Path, where CIFAR-10 is.
    """
    retrained = is_set("FRESH")
    seconds = policy.sandbox.rerun_seconds
    changes = {
        "processor_seconds": seconds * os.cpu_count(),
        "seconds": seconds,
        "gpu": retrained,
    }
    limits = RerunLimits(**(asdict(policy.sandbox) | changes))
    environment = [f"{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name)]
    try:
        results = sandbox.results(
            rerun_inputs(submission, notebook, policy),
            "rerun",
            replace(policy, sandbox=limits),
            ["env", "CIFAR10_DIR=/data", *environment],
            data=folder,
        )
        content = parse_json(results.get("results.json", b"{}"), "the new run's results.json")
    except SubmissionError as error:
        return [Finding("rerun", "unverified", f"the notebook could not be run again: {error}")]
    again, _ = read_claims(content, policy)
    findings = compare_runs(claims, again, policy, retrained)
    if not findings:
        message = "a new run of the notebook claims the same"
        findings.append(Finding("rerun", "holds", message, source="a new run"))
    return findings


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


def compare_runs(claims, again, policy, retrained):
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
