"""make grade: a course is graded whatever an archive does, and stored verdicts go out of date."""

import csv
import os
import shutil
import signal
import threading
from dataclasses import replace

import pytest
import torch
from forgeries import BOOK, POLICY, pack
from helpers import LEFT_OUT, ROOT

from grading import grade, judges, sandbox, similarity
from grading.policy import TimeLimit

pytestmark = pytest.mark.slow

JUDGE = """
import json, os, pathlib, sys, time

HERE = pathlib.Path(__file__).parent

def main(archive, report):
    name, report = pathlib.Path(archive).name, pathlib.Path(report)
    with open(HERE / "calls", "a", encoding="utf-8") as file:
        file.write(name + "\\n")
    if "crash" in name:
        os.kill(os.getpid(), 11)
    if "hang" in name:
        time.sleep(99)
    if "slow" in name:
        time.sleep(float(os.environ.get("SLOW", 0)))
    finding = {"verdict": "contradicted", "message": "the paper says <script>alert(1)</script>"}
    verdict = {"code": 0, "reason": "all checks passed", "findings": [], "claimed": 82.5,
               "measured": 82.456, "seconds": 1.0, "first_page": "AAAA", "differences": []}
    if "bad" in name:
        verdict |= {"code": 1, "reason": finding["message"], "findings": [finding]}
    if "twin" in name:
        report.with_suffix(".work").write_bytes((HERE / "twin.work").read_bytes())
    report.write_text(json.dumps(verdict), encoding="utf-8")
    sys.exit(verdict["code"])

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def course(tmp_path, monkeypatch, restored_environment):
    """A folder of archives, and a judge that does by their names what archives may bring about."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "judge_by_name.py").write_text(JUDGE, encoding="utf-8")
    monkeypatch.syspath_prepend(own)
    monkeypatch.setattr(judges, "JUDGE", "judge_by_name")
    monkeypatch.setattr(judges, "ROOT", own)  # where a cluster's workers find it
    judges.SERVER.set_forkserver_preload([])
    similarity.write_work(own / "twin.work", similarity.Work(torch.ones(9), torch.ones(8)))
    monkeypatch.setattr(grade, "read_policy", lambda: replace(POLICY, verdict=TimeLimit(-57)))
    folder = tmp_path / "course"
    for name in (
        "Müller, Jörg_77_file_/a.zip",
        "=HYPERLINK(1)<b>.zip",
        "bad.zip",
        "crash.zip",
        "hang.zip",
        "twin 1.zip",
        "twin 2.zip",
        "slow.zip",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pack(folder / name, {"a": b"b"})
    (folder / "notes.txt").write_text("no archive", encoding="utf-8")
    return folder


def graded(folder, code=0):
    with pytest.raises(SystemExit) as ended:
        grade.main(folder, folder.parent / "build")
    assert (ended.value.code or 0) == code
    grades = folder.parent / "build" / "grades.csv"
    with open(grades, newline="", encoding="utf-8-sig") as file:
        return {row["archive"]: row for row in csv.DictReader(file)}, (
            folder.parent / "build" / "grades.html"
        ).read_text(encoding="utf-8")


def test_a_class_is_graded_whatever_an_archive_does(course, monkeypatch):
    rows, page = graded(course)
    assert len(rows) == 9 and rows["notes.txt"]["verdict"] == "not read"
    row = rows["Müller, Jörg_77_file_/a.zip"]
    assert (row["student"], row["id"], row["late"], row["matched"]) == ("", "", "", "")
    assert (row["points"], row["maximum"], row["open"]) == ("0", "100", "100")
    for column in ("student", "id", "late", "matched", "points", "maximum", "open", "measured by"):
        del row[column]
    assert row | {"seconds": ""} == {
        "archive": "Müller, Jörg_77_file_/a.zip",
        "verdict": "verified",
        "claimed": "82.5",
        "measured": "82.46",
        "contradictions": "0",
        "unverified": "0",
        "seconds": "",
        "reason": "all checks passed",
    }
    assert rows["bad.zip"]["verdict"] == "contradicted" and rows["bad.zip"]["contradictions"] == "1"
    assert "'=HYPERLINK(1)<b>.zip" in rows
    for name in ("crash.zip", "hang.zip"):
        assert (
            rows[name]["verdict"] == "not verifiable"
            and "did not end as it should" in rows[name]["reason"]
        )
    assert rows["twin 2.zip"]["reason"].startswith("shared with twin 1.zip: the weights are the sa")
    assert rows["twin 1.zip"]["verdict"] == "not verifiable"
    assert page.count("<tr") == 10 and page.count("<script>") == 1 and "<b>" not in page
    assert page.count('<img alt="first page"') == 6
    calls = course.parent / "own" / "calls"
    before = len(calls.read_text(encoding="utf-8").splitlines())
    graded(course)  # all verdicts are kept
    pack(course / "bad.zip", {"a": b"other"})
    graded(course)
    assert len(calls.read_text(encoding="utf-8").splitlines()) == before + 1


def test_grading_can_be_stopped_and_goes_on(course, monkeypatch):
    monkeypatch.setenv("SLOW", "60")
    monkeypatch.setattr(grade, "read_policy", lambda: POLICY)
    for name in ("hang.zip", "crash.zip"):
        (course / name).unlink()
    timer = threading.Timer(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    rows, _ = graded(course, 130)
    assert "bad.zip" in rows and "slow.zip" not in rows
    monkeypatch.setenv("SLOW", "0")
    assert graded(course)[0].keys() == rows.keys() | {"slow.zip"}


def test_a_cluster_grades(course, monkeypatch):
    distributed = pytest.importorskip("distributed")
    for name in ("hang.zip", "slow.zip"):
        (course / name).unlink()
    with distributed.LocalCluster(1, threads_per_worker=2, dashboard_address=None) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        assert len(graded(course)[0]) == 7


JUDGED_BY = (
    "utils.py",
    "training/__init__.py",
    "training/speed.py",
    "tools/notebook_definitions.py",
    "analysis/published.csv",
    "analysis/run_statistics.py",
    "report/exporter.py",
    "grading/claim_check.py",
    "grading/sandbox_tasks.py",
    "report/references.bib",
    "report/twocolumn/index.tex.j2",
    "requirements.txt",
    BOOK,
)


@pytest.fixture(scope="module")
def judge_copy(tmp_path_factory):
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("judge") / "copy", ignore=LEFT_OUT)


@pytest.mark.parametrize("name", JUDGED_BY)
def test_a_stored_verdict_is_of_one_judge(judge_copy, tmp_path, name):
    archive = pack(tmp_path / "a.zip", {"a": b"b"})
    before = grade.verdict_key(archive, judge_copy)
    file = judge_copy / name
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    assert grade.verdict_key(archive, judge_copy) != before
    file.write_bytes(content)
    assert grade.verdict_key(archive, judge_copy) == before


def test_a_stored_verdict_outlives_other_points_and_deadlines(judge_copy, tmp_path):
    archive = pack(tmp_path / "a.zip", {"a": b"b"})
    before = grade.verdict_key(archive, judge_copy)
    file = judge_copy / "grading" / "policy.toml"
    policy = file.read_bytes()
    file.write_bytes(policy.replace(b"total = 100", b"total = 90"))
    assert grade.verdict_key(archive, judge_copy) == before
    file.write_bytes(policy.replace(b"parameters = 0", b"parameters = 1"))
    assert grade.verdict_key(archive, judge_copy) != before
    file.write_bytes(policy)


def test_a_stored_verdict_is_of_every_file_of_training(judge_copy, tmp_path):
    archive = pack(tmp_path / "a.zip", {"a": b"b"})
    keys = {grade.verdict_key(archive, judge_copy)}
    files = list((judge_copy / "training").glob("*.py"))
    for file in files:
        file.write_bytes(file.read_bytes() + b"\n")
        keys.add(grade.verdict_key(archive, judge_copy))
    assert len(keys) == len(files) + 1


def test_a_stored_verdict_is_of_one_archive_and_one_data_set(judge_copy, tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.zip", {"a": b"b"})
    before = grade.verdict_key(archive, judge_copy)
    (judge_copy / "README.md").write_text("no part of a verdict", encoding="utf-8")
    assert grade.verdict_key(archive, judge_copy) == before
    pack(archive, {"a": b"other"})
    changed = grade.verdict_key(archive, judge_copy)
    batch = tmp_path / "data" / "cifar-10-batches-py" / "test_batch"
    batch.parent.mkdir(parents=True)
    batch.write_text("pixels", encoding="utf-8")
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path / "data"))
    keys = {before, changed, grade.verdict_key(archive, judge_copy)}
    batch.write_text("other pixels", encoding="utf-8")
    keys.add(grade.verdict_key(archive, judge_copy))
    monkeypatch.setattr(sandbox, "usable", lambda: "not any more")
    keys.add(grade.verdict_key(archive, judge_copy))
    assert len(keys) == 5


def test_a_damaged_stored_verdict_is_judged_again(tmp_path):
    file = tmp_path / "verdict.json"
    assert grade.read_verdict(file) is None
    for content in ("{", "[]", '{"code": 0}', '{"code": "0", "reason": ""}'):
        file.write_text(content, encoding="utf-8")
        assert grade.read_verdict(file) is None
    content = '{"code": 0, "reason": "all checks passed", "differences": []}'
    file.write_text(content, encoding="utf-8")
    assert grade.read_verdict(file).reason == "all checks passed"
