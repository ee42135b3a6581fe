"""RERUN=1 runs the notebook again in the sandbox and compares the claims."""

import json
import os

import pytest
from forgeries import LEDGER, read_notebook, submission
from grading_fixtures import LIMITS, needs_sandbox
from nbformat.v4 import new_code_cell, new_markdown_cell

from grading import rerun, sandbox
from grading.claim_check import Claim, read_claims
from grading.findings import Verdict
from grading.policy import read_policy

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

ACCURACY = "test_accuracy"


RERUN = """
import json, os, pathlib
ledger = json.loads({ledger!r})
assert pathlib.Path(os.environ["CIFAR10_DIR"], "images").read_text() == "pixels"
folder = pathlib.Path("../build")
folder.mkdir(exist_ok=True)
(folder / "results.json").write_text(json.dumps(ledger))
"""


@needs_sandbox
@pytest.mark.parametrize("change, code", [(0, 0), (0.04, 0), (3, 1)])
def test_a_rerun_is_held_against_the_ledger(world, no_paper, tmp_path, change, code):
    (tmp_path / "images").write_text("pixels")
    tmp_path.chmod(0o755)  # where root grades, the sandbox's user is another one
    again = {"claims": json.loads(world.files[LEDGER])["claims"]}
    again["claims"][ACCURACY]["value"] += change
    notebook = read_notebook(world)
    notebook.cells = [
        new_markdown_cell("# Again"),
        new_code_cell(RERUN.format(ledger=json.dumps(again))),
    ]
    claims, _ = read_claims(json.loads(world.files[LEDGER]), world.policy)
    findings = rerun.check_rerun(submission(world), notebook, claims, world.policy, tmp_path)
    verdict = Verdict("", findings)
    assert verdict.code == code, verdict.reason
    assert code == 0 or "a new run gives" in verdict.reason


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user reads its own files in the sandbox")
def test_root_is_told_of_images_that_the_sandbox_may_not_read(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "images").write_text("pixels")
    assert sandbox.run({}, ["cat", "/data/images"], LIMITS, tmp_path) == b"pixels"
    (tmp_path / "images").chmod(0o600)
    with pytest.raises(
        sandbox.SandboxError, match="others than root may not read .*/images: chmod -R a.rX"
    ):
        sandbox.run({}, ["cat", "/data/images"], LIMITS, tmp_path)


RETRAINED = {
    "resnet/accuracy": (82.5, 83.4, True),  # a fresh run has another accuracy
    "resnet/accuracy_interval": (0.74, 1.5, True),
    "class_accuracy/cat": (60.0, 67.0, False),
    "one-more-epoch/rise": (0.01, 0.2, False),
    "fast/least_minutes": (4.0, 9.0, True),  # times are never compared
    "training_time": (4.0, 9.0, True),
    "parameters": (8, 9, False),
}


@pytest.mark.parametrize("name", RETRAINED)
def test_training_anew_has_tolerances_of_its_own(name):
    """Whatever the order of the policy's lines: its table for new trainings comes first."""
    claimed, computed, agrees = RETRAINED[name]
    claims = {name: Claim(claimed)}
    again = {name: Claim(computed)}
    findings = rerun.compare_runs(claims, again, read_policy(), retrained=True)
    assert (
        not findings
        if agrees
        else findings[0].message
        == (f"the paper claims {name} = {claimed:g}; a new run gives {computed:g}")
    )
