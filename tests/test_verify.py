"""make verify on this folder, the student's own check; what it catches is in test_grading.py."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import LEFT_OUT, NOTEBOOK, POLICY, ROOT, RUN, change_notebook, change_results

from grading import paper_numbers
from grading.archive import read
from grading.findings import CODES
from grading.policy import is_recorded_claim
from grading.run_record import compare_with_record
from grading.verify import judge


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(ROOT, tmp_path / "submission", ignore=LEFT_OUT)


@pytest.mark.tex
@pytest.mark.sandbox
@pytest.mark.slow
def test_the_submission_holds():
    verdict = judge(read(ROOT, POLICY), POLICY)
    assert not [row.message for row in verdict.findings if row.verdict == "contradicted"]
    unexplained = [row for row in verdict.findings if row.claim == "paper" and CODES[row.verdict]]
    assert not [row.message for row in unexplained]
    assert not verdict.differences  # it is the template
    claims = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))["claims"]
    assert set(claims) <= {row.claim for row in verdict.findings}
    recorded = {row.claim for row in verdict.findings if row.verdict == "recorded"}
    computed = {row.claim for row in verdict.findings if row.verdict == "verified"} & set(claims)
    assert recorded and all(map(is_recorded_claim, recorded))  # the page says so of them
    assert computed and not any(map(is_recorded_claim, computed - {f"{RUN}/accuracy"}))


@pytest.mark.tex
@pytest.mark.sandbox
@pytest.mark.slow
def test_the_command_exits_by_its_verdict(copy):
    command = [sys.executable, "-m", "grading.verify"]
    bare = {"PATH": os.environ["PATH"], "HOME": str(copy)}  # without CIFAR10_DIR
    (copy / "report" / "study.json").unlink()  # the study has a test of its own
    change_results(copy, lambda results: results["claims"]["test_accuracy"].update(value=99.0))
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=bare, cwd=copy)
    assert done.returncode == 1 and re.search(r"\nContradicted: ", done.stdout), (
        done.stdout + done.stderr
    )
    assert re.search(
        r"^submission: claimed 99\.00 %, measured \d\d\.\d\d % \(the stored predictions\)",
        done.stdout,
        re.M,
    )
    assert (
        "No CIFAR-10 in" in done.stdout and "the paper claims test_accuracy = 99; " in done.stdout
    )
    (copy / "report" / "results.json").write_text("{", encoding="utf-8")
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=bare, cwd=copy)
    assert (
        done.returncode == 2
        and "is not JSON, or damaged" in done.stdout
        and "Traceback" not in done.stderr
    )


def test_a_caption_may_change_without_a_rerun(copy):
    def caption(cells):
        for cell in cells.values():
            cell.source = cell.source.replace('#| fig-cap: "', '#| fig-cap: "Here. ')

    change_notebook(copy, caption)
    submission = read(copy, POLICY)
    notebook = submission.notebook(NOTEBOOK)
    results = submission.json("report/results.json")
    rows = compare_with_record(submission, notebook, results, notebook, POLICY)
    assert [row.message for row in rows] == [
        "notebook, code, runs, figures and report/results.json belong together"
    ]


def test_numbers_are_found_as_they_are_written():
    text = "8,898,826 of 10,000 in 3.5 s, 2 and 0.2740; ８２.5 % or 7 per cent, v1.2.3, x2"
    found = paper_numbers.find_numbers(text)
    assert [(number.written, number.is_percent) for number in found] == [
        ("8,898,826", False),
        ("10,000", False),
        ("3.5", False),
        ("2", False),
        ("0.2740", False),
        ("82.5 %", True),
        ("7 per cent", True),
    ]
    assert [number.value for number in found] == [8898826, 10000, 3.5, 2, 0.274, 82.5, 7]
