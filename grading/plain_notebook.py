"""What can be checked of a notebook that claims no numbers: its run, its network, its weights."""

from grading import network_measurements
from grading.findings import Finding, format_value
from report.freshness import cell_names, failed_unexpectedly


def check(notebook, template, runs, data, submission, policy):
    """Findings on a notebook without results.json.

    Args:
        notebook: nbformat's node.
        template: this copy's notebook.
        runs: name -> SubmittedRun.
        data: the test images at hand as utils.Data, or None.
        submission: a Submission.
        policy: a Policy.
    """
    findings = [check_execution(notebook)]
    with_weights = [
        run
        for name, run in runs.items()
        if network_measurements.weights_file(name, policy) in submission.files
    ]
    main = with_weights[0] if len(with_weights) == 1 else None
    report = network_measurements.measure_network(
        submission, notebook, template, runs, main, data, policy
    )
    findings += report.findings
    for measured in report.measurements:
        if measured.claim in ("parameters", "test_accuracy"):
            value = f"{measured.value:,}"
            if isinstance(measured.value, float):
                value = format_value(measured.value)
            message = f"{measured.claim} is {value} by {measured.origin}"
            findings.append(Finding(measured.claim, "noted", message, found=measured.value))
    if not with_weights:
        message = "the archive has no weights of a run that this copy reads (safetensors)"
        findings.append(Finding("weights", "unverified", message))
    return findings


def check_execution(notebook):
    """The Finding on whether the notebook's code cells were run from top to bottom."""
    counts = []
    failed = []
    for cell, name in zip(notebook.cells, cell_names(notebook)):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        counts.append(cell.execution_count)
        if failed_unexpectedly(cell):
            failed.append(name)
    if failed:
        message = f"{', '.join(failed[:5])} ended in an error"
        return Finding("execution", "unverified", message)
    if None in counts:
        message = f"{counts.count(None)} of {len(counts)} code cells were not run"
        return Finding("execution", "noted", message)
    if counts != sorted(set(counts)):
        return Finding("execution", "noted", "its code cells were not run from top to bottom")
    message = f"its {len(counts)} code cells were run from top to bottom"
    return Finding("execution", "recorded", message)
