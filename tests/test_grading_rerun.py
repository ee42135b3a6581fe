"""RERUN=1 runs the notebook again in the sandbox and compares the claims."""

import json
import os

import pytest
from forgeries import LEDGER, read_notebook, submission
from grading_fixtures import LIMITS, needs_sandbox
from nbformat.v4 import new_code_cell, new_markdown_cell

from grading import network_measurements, rerun, sandbox
from grading.claim_check import Claim, read_claims
from grading.findings import Verdict
from grading.policy import read_policy

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

ACCURACY = "test_accuracy"


RERUN = """
import json, os, pathlib
ledger = json.loads({ledger!r})
assert pathlib.Path(os.environ["CIFAR10_DIR"], "images").read_text() == "pixels"
assert (os.environ["FRESH"], os.environ["RUNS"]) == ({fresh!r}, "build/checkpoints")
folder = pathlib.Path("../build")
folder.mkdir(exist_ok=True)
(folder / "results.json").write_text(json.dumps(ledger))
run = {run!r}
if run:  # trains: its predictions are all right, its weights are those handed in
    from safetensors.torch import load_file, save_file
    stored = pathlib.Path("../checkpoints/fast-0")
    trained = folder / "checkpoints/fast-0-0123abcd"
    trained.mkdir(parents=True)
    for file in stored.iterdir():
        (trained / file.name).write_bytes(file.read_bytes())
    if run == "forged":
        predictions = load_file(trained / "predictions.safetensors")
        predictions["predicted"] = predictions["labels"].clone()
        save_file(predictions, trained / "predictions.safetensors")
        info = json.loads((trained / "run.json").read_text())
        (trained / "run.json").write_text(json.dumps(info | {{"accuracy": 100.0}}))
"""


# name: (FRESH, what the notebook trains, what its own ledger adds to the accuracy, code, words)
RERUNS = {
    "same": ("", "", 0, 0, ""),
    "nearly_same": ("", "", 0.04, 0, ""),
    "other_ledger_same_runs": ("", "", 3, 0, ""),  # the judge computes the accuracy itself
    "other_claim_nobody_measures": ("", "", "invented", 1, "a new run gives 3"),
    "trained_nothing": ("1", "", 0, 2, "left no complete run 'fast-0'"),
    "trained_the_same": ("1", "honest", 0, 0, ""),
    "forged_predictions": ("1", "forged", 0, 1, "a new run gives"),
}


@needs_sandbox
@pytest.mark.parametrize("name", RERUNS)
def test_a_reruns_claims_are_computed_from_the_runs_that_it_leaves(
    world, no_paper, tmp_path, monkeypatch, name
):
    fresh, trained, change, code, words = RERUNS[name]
    monkeypatch.setenv("FRESH", fresh)
    (tmp_path / "images").write_text("pixels", encoding="utf-8")
    tmp_path.chmod(0o755)  # where root grades, the sandbox's user is another one
    again = {"claims": json.loads(world.files[LEDGER])["claims"]}
    claims, _ = read_claims(json.loads(world.files[LEDGER]), world.policy)
    if change == "invented":
        claims = {ACCURACY: claims[ACCURACY], "fast/invented": Claim(1)}
        again["claims"]["fast/invented"] = {"value": 3, "unit": "", "source": ""}
    elif fresh:
        claims = {ACCURACY: claims[ACCURACY]}
    else:
        again["claims"][ACCURACY]["value"] += change
    if trained == "forged":  # the claim that the forged ledger is to support
        claims[ACCURACY].value = again["claims"][ACCURACY]["value"] = 100.0
    notebook = read_notebook(world)
    notebook.cells = [
        new_markdown_cell("# Again"),
        new_code_cell(RERUN.format(ledger=json.dumps(again), run=trained, fresh=fresh or "0")),
    ]
    # The notebook of this test has no definitions; the small one's are the template's.
    find = network_measurements.find_definitions
    monkeypatch.setattr(
        network_measurements, "find_definitions", lambda _, template: find(template, template)
    )
    findings = rerun.check_rerun(
        submission(world),
        notebook,
        read_notebook(world),
        claims,
        world.policy,
        tmp_path,
        world.data,
    )
    verdict = Verdict("", findings)
    assert verdict.code == code and words in verdict.reason, findings


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user reads its own files in the sandbox")
def test_root_is_told_of_images_that_the_sandbox_may_not_read(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "images").write_text("pixels", encoding="utf-8")
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
    findings = rerun.compare_with_new_run(claims, again, read_policy(), retrained=True)
    assert (
        not findings
        if agrees
        else findings[0].message
        == (f"the paper claims {name} = {claimed:g}; a new run gives {computed:g}")
    )
