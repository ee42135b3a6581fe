"""A small course from its archives to what students and grade books get back."""

import csv
import io
import json
import os
import re
import subprocess
from dataclasses import replace

import pytest
import torch
from forgeries import pack
from helpers import POLICY, RUN, needs_weights, tiny

from grading import grade, similarity, verify
from grading.findings import Finding, Verdict
from grading.policy import Deadline
from grading.roster import Author
from grading.schema import Place

DEADLINE = Deadline.from_content(
    {"time": "2026-12-01 23:59", "zone": "Asia/Seoul"}, Place("policy.toml")
)
MOODLE = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,\
Last modified (submission),Last modified (grade),Feedback comments
Participant 77,Ada Lovelace,ada@example.org,Submitted for grading,,100.00,Yes,\
"Tuesday, 1 December 2026, 11:58 PM",-,
Participant 78,Jörg Müller,joerg@example.org,Submitted for grading,,100.00,Yes,\
"Wednesday, 2 December 2026, 12:01 AM",-,
Participant 79,Grace Hopper,grace@example.org,Submitted for grading,,100.00,Yes,\
"Tuesday, 1 December 2026, 10:00 PM",-,
Participant 80,=Alan Turing,alan@example.org,No submission,,100.00,Yes,-,-,
"""
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,Assignment 2 (12),Total
    Points Possible,,,,,100,(read only)
"Lovelace, Ada",101,1815,ada@example.org,A,,
"Müller, Jörg",102,1816,joerg@example.org,A,,
"Turing, Alan",104,1818,alan@example.org,A,,
"""
ADA = "Ada Lovelace_77_assignsubmission_file_/submission.zip"
JOERG = "Jörg Müller_78_assignsubmission_file_/submission.zip"
BOTH = [Author("Ada", "", "ada@example.org"), Author("Jörg", "", "joerg@example.org")]


def verdict_of(name):
    """What the judge says of an archive: a contradiction in those named "bad", else none."""
    claims = ["block_difference", "parameters", "layer_output/2", "files", "epochs"]
    claims += ["training_time", "one-more-epoch/change"]
    findings = [Finding(claim, "verified", f"{claim} holds") for claim in claims]
    findings.append(Finding("test_accuracy", "verified", "it holds", found=75.0))
    verdict = Verdict(name, findings, claimed=75.0, measured=75.0, first_page=b"PNG")
    if "bad" in name:
        message = "the paper claims parameters = 7; <script>alert(1)</script> give 8"
        findings[1] = Finding("parameters", "contradicted", message)
    if "pair" in name:
        verdict.authors = BOTH
    if "broken" in name:
        verdict.findings = [Finding("submission", "unverified", "the archive is damaged")]
    weights = {name: value.clone() for name, value in tiny(0).state_dict().items()}
    if "Jörg" in name:
        weights["0.weight"] += 0.01 * torch.randn(weights["0.weight"].shape)
    if "Ada" in name or "Jörg" in name:
        verdict.work = similarity.collect_work(weights, None, [], [])
    return verdict


def judge_all(jobs, workers, seconds):
    """The same as grade.judge_all without processes."""
    verdicts = {}
    for job in jobs:
        verdict = verdict_of(job.name)
        verify.write_report(verdict, job.report, seconds=1.0)
        done = subprocess.CompletedProcess([], verdict.code, stderr=b"")
        verdicts[job.name] = grade.finish_job(job, done)
    return verdicts, False


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A function that grades archives of given names by a roster: rows of grades.csv by archive."""
    monkeypatch.setattr(grade, "judge_all", judge_all)
    monkeypatch.setattr(grade, "project_work", lambda policy: None)
    monkeypatch.setattr(grade, "read_policy", lambda: replace(POLICY, deadline=DEADLINE))

    def graded(names, roster):
        folder = tmp_path / "course"
        for name in names:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pack(file, {"a": os.fsencode(name)})
        (folder / "roster.csv").write_text(roster, encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            grade.main(folder, tmp_path / "build", folder / "roster.csv")
        assert not ended.value.code
        rows = read_csv(tmp_path / "build" / "grades.csv")
        return {row["archive"] or row["student"]: row for row in rows}

    return graded


def read_csv(file):
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")  # by which Excel knows UTF-8
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_a_course_on_moodle(course, tmp_path, capsys):
    odd = os.fsdecode(b"M\xfcller bad.zip")
    rar = "Grace Hopper_79_assignsubmission_file_/work.rar"
    rows = course([ADA, JOERG, "pair.zip", "broken.zip", odd, rar, "book.docx"], MOODLE)
    build = tmp_path / "build"
    said = capsys.readouterr().out
    shown = {name: rows[ADA][name] for name in ("student", "id", "points", "open", "late")}
    assert shown == {
        "student": "Ada Lovelace",
        "id": "77",
        "points": "85",  # three quarters of the ramp, and text and figures are open
        "open": "10",
        "late": "no",
    }
    assert rows[JOERG]["late"] == "yes" and rows[JOERG]["matched"] == "by Moodle's participant 78"
    assert rows["pair.zip"]["student"] == "" and "Ada Lovelace (77) and Jörg" in said
    assert (rows["broken.zip"]["points"], rows["broken.zip"]["open"]) == ("0", "100")
    bad = rows["M\\xfcller bad.zip"]
    assert (bad["verdict"], bad["points"]) == ("contradicted", "70")  # 10 of the network, and 5
    assert (rows[rar]["verdict"], rows[rar]["student"]) == ("not read", "Grace Hopper")
    assert rows["book.docx"]["verdict"] == "not read" and "roster.csv" not in rows
    assert rows["'=Alan Turing"]["verdict"] == "no submission"
    assert "students without an archive (1): =Alan Turing" in said
    assert f"{grade.NOT_READ} (2): Grace Hopper_79" in said
    assert "handed in late, which costs no points here (1): Jörg Müller" in said
    assert "5 of 5 archives have points that a person gives" in said

    moodle = read_csv(build / "moodle.csv")
    original = list(csv.DictReader(io.StringIO(MOODLE)))
    assert [row["Grade"] for row in moodle] == ["85", "85", "", ""]
    assert "test accuracy: 15 of 20 (test_accuracy is 75.00" in moodle[0]["Feedback comments"]
    for column in set(original[0]) - {"Grade", "Feedback comments"}:
        assert [row[column] for row in moodle] == [row[column] for row in original]
    results = json.loads((build / "gradescope" / ADA / "results.json").read_text(encoding="utf-8"))
    assert results["score"] == 85 and {test["name"] for test in results["tests"]} > {"block"}


def test_copies_are_a_question_to_the_grader_alone(course, tmp_path):
    rows = course([ADA, JOERG], MOODLE)
    for name, other in ((ADA, JOERG), (JOERG, ADA)):
        assert rows[name]["verdict"] == "not verifiable" and rows[name]["points"] == "85"
        assert f"shared with {other}: the weights are nearly the same" in rows[name]["reason"]
        assert similarity.HONESTLY in rows[name]["reason"]
    page = (tmp_path / "build" / "grades.html").read_text(encoding="utf-8")
    for verdict in grade.VERDICTS:
        assert f"<dt>{verdict}</dt>" in page
    for colour in ("verified", "contradicted"):
        assert f".{colour} td" in page and colour in grade.VERDICTS
    assert page.count("nearly the same") == 3  # of each, and of what is left to do
    assert f"Ask the students of {ADA}, {JOERG}: the weights are nearly the same" in page
    for page in (tmp_path / "build" / "feedback").iterdir():
        assert "same" not in page.read_text(encoding="utf-8")


def test_feedback_pages_say_why_and_are_linked(course, tmp_path):
    names = [ADA, "Jörg Müller_78_assignsubmission_file_/bad.zip", "<b>.zip"]
    course(names, MOODLE)
    build = tmp_path / "build"
    page = (build / "feedback" / "78-Jörg-Müller.html").read_text(encoding="utf-8")
    assert "the paper claims parameters = 7; &lt;script&gt;" in page and "<script" not in page
    assert "What is contradicted" in page and "late" in page and "75.00 %" in page
    assert re.search('<td>network<div class="reason">the paper claims.*>10</td>.*>20</td>', page)
    assert not re.search(r"(src|href)=.(?!data:)", page)
    table = (build / "grades.html").read_text(encoding="utf-8")
    assert table.count("<script>") == 1 and "<b>" not in table
    links = re.findall(r'<a href="([^"]+)">', table)
    assert "feedback/78-J%C3%B6rg-M%C3%BCller.html" in links and len(links) == 3
    assert len(list((build / "feedback").iterdir())) == 3


def test_a_course_on_canvas(course, tmp_path, capsys):
    names = ["lovelaceada_101_555_submission.zip", "mullerjorg_LATE_102_556_bad.zip"]
    rows = course([*names, "mullerjorg_LATE_102_557_bad-1.zip", "x_999_1_a.zip"], CANVAS)
    assert [rows[name]["late"] for name in names] == ["no", "yes"]
    canvas = read_csv(tmp_path / "build" / "canvas.csv")
    assert list(canvas[0])[-1] == "Assignment 2 (12)"
    assert [row["Assignment 2 (12)"] for row in canvas] == ["100", "85", "", ""]
    assert not (tmp_path / "build" / "moodle.csv").exists()
    said = capsys.readouterr().out
    assert "Jörg Müller has 2 archives, none of which is exported" in said
    assert "x_999_1_a.zip matches no student: Canvas's user 999 is not in the roster" in said
    assert "name it after the student, in the form adalovelace_101_1_sub" in said
    assert "students without an archive (1): Alan Turing" in said


def given_by_hand(tmp_path, text, course):
    """The row of grades.csv on ADA after by_hand.csv got other content, and the file's new rows."""
    file = tmp_path / "build" / "by_hand.csv"
    file.write_text(text, encoding="utf-8")
    return course([ADA], MOODLE)[ADA], read_csv(file)


def test_points_given_by_hand_count_the_next_time(course, tmp_path):
    course([ADA], MOODLE)
    file = tmp_path / "build" / "by_hand.csv"
    rows = read_csv(file)
    assert [(row["archive"], row["item"], row["at most"]) for row in rows] == [
        (ADA, "text", "5"),
        (ADA, "figures", "5"),
    ]
    text = file.read_text(encoding="utf-8-sig").replace("text,,5", 'text,"4,5",5')
    row, rows = given_by_hand(tmp_path, text, course)
    assert (row["points"], row["open"]) == ("89.5", "5")
    assert [row["points"] for row in rows] == ["4.5", ""]
    file.write_text(text.replace('"4,5"', "9"), encoding="utf-8")
    with pytest.raises(SystemExit, match="line 2: text gets '9'; expected a number from 0 to 5"):
        grade.main(tmp_path / "course", tmp_path / "build")
    assert "text,9,5" in file.read_text(encoding="utf-8")
    file.write_text(text.replace("text,", "prose,"), encoding="utf-8")
    with pytest.raises(SystemExit, match="line 2: 'prose' is no item of .*expected one of block"):
        grade.main(tmp_path / "course", tmp_path / "build")


def test_a_person_overrules_the_program(course, tmp_path):
    course([ADA], MOODLE)
    text = f"archive,item,points\n{ADA},test accuracy,20\n"
    row, rows = given_by_hand(tmp_path, text, course)
    assert (row["points"], row["open"]) == ("90", "10")  # 15 of 20 before
    assert rows[0]["points"] == "20" and rows[0]["so far"] == "15"
    page = (tmp_path / "build" / "feedback" / "77-Ada-Lovelace.html").read_text(encoding="utf-8")
    assert "given by a person, instead of 15\ntest_accuracy is 75.00" in page


def test_points_entered_while_archives_are_judged_are_kept(course, tmp_path, monkeypatch):
    course([ADA], MOODLE)
    file = tmp_path / "build" / "by_hand.csv"

    def enter(points):
        def judge(jobs, workers, seconds):
            text = f"archive,item,points\n{ADA},text,{points}\n"
            file.write_text(text, encoding="utf-8")
            return judge_all(jobs, workers, seconds)

        monkeypatch.setattr(grade, "judge_all", judge)

    enter("4")
    row = course([ADA], MOODLE)[ADA]
    assert row["points"] == "89" and read_csv(file)[0]["points"] == "4"
    enter("44")
    with pytest.raises(SystemExit, match="line 2: text gets '44'.* call make grade again"):
        grade.main(tmp_path / "course", tmp_path / "build")
    assert f"{ADA},text,44" in file.read_text(encoding="utf-8")


def test_contradictions_that_a_person_has_found_cost_points(course, tmp_path):
    course([ADA], MOODLE)
    text = f"archive,item,points\n{ADA},contradictions,-5\n"
    row, rows = given_by_hand(tmp_path, text, course)
    assert row["points"] == "80"
    kept = [row["points"] for row in rows if row["item"] == "contradictions"]
    assert kept == ["-5"]
    assert course([ADA], MOODLE)[ADA]["points"] == "80"
    page = (tmp_path / "build" / "feedback" / "77-Ada-Lovelace.html").read_text(encoding="utf-8")
    assert "contradictions" in page and "given by a person" in page


def test_points_given_to_archives_that_are_not_judged_now_are_kept(course, tmp_path, capsys):
    course([ADA], MOODLE)
    text = f"archive,item,points\n{ADA},text,4\n{JOERG},text,3\n"
    row, rows = given_by_hand(tmp_path, text, course)
    assert row["points"] == "89"
    assert (rows[-1]["archive"], rows[-1]["item"], rows[-1]["points"]) == (JOERG, "text", "3")
    assert f"has points for {JOERG}, not in the folder" in capsys.readouterr().out
    assert course([ADA, JOERG], MOODLE)[JOERG]["points"] == "88"


def test_notebooks_and_unpacked_folders_are_submissions(tmp_path):
    names = (
        "Ada_77_assignsubmission_file_/hw.ipynb",
        "Ada_77_assignsubmission_file_/hw.pdf",
        "Eve_78_assignsubmission_file_/a.zip",
        "Eve_78_assignsubmission_file_/a.ipynb",
        "Joe_79_assignsubmission_file_/.ipynb_checkpoints/a.ipynb",
        "Joe_79_assignsubmission_file_/a.docx",
        "lovelaceada_101_555_hw.IPYNB",
        "submission_7/mine/notebooks/hw2.ipynb",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    zip_file = tmp_path / "Eve_78_assignsubmission_file_" / "a.zip"
    (tmp_path / "Joe_79_assignsubmission_file_" / "link.zip").symlink_to(zip_file)
    found, skipped = grade.find_submissions(tmp_path)
    assert list(found) == [
        "Ada_77_assignsubmission_file_",
        "Eve_78_assignsubmission_file_/a.zip",
        "lovelaceada_101_555_hw.IPYNB",
        "submission_7",
    ]
    assert skipped == {
        "Eve_78_assignsubmission_file_/a.ipynb": grade.COPY_OF_A_ZIP,
        "Joe_79_assignsubmission_file_/a.docx": grade.NOT_READ,
        "Joe_79_assignsubmission_file_/link.zip": "not read: it is a link",
    }


def test_a_notebook_beside_a_zip_file_is_not_asked_for(course, tmp_path, capsys):
    book = tmp_path / "course" / "Ada Lovelace_77_assignsubmission_file_" / "a.ipynb"
    book.parent.mkdir(parents=True)
    book.write_text("{}", encoding="utf-8")
    rows = course([ADA], MOODLE)
    name = book.relative_to(tmp_path / "course").as_posix()
    assert rows[name]["reason"] == "not read: a zip file of the same student is beside it"
    said = capsys.readouterr().out
    assert f"not read: a zip file of the same student is beside it (1): {name}" in said
    assert grade.NOT_READ not in said


@pytest.mark.parametrize("jobs", ["two", "0", "-1", "1.5"])
def test_a_number_of_jobs_that_is_none_is_named(course, tmp_path, monkeypatch, jobs):
    course([ADA], MOODLE)
    monkeypatch.setenv("JOBS", jobs)
    with pytest.raises(SystemExit, match=f"^JOBS={jobs} is not a whole number of at least 1: wr"):
        grade.main(tmp_path / "course", tmp_path / "build")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="^there is no folder .*typo: check SUBMISSIONS=$"):
        grade.main(tmp_path / "typo", tmp_path / "build")


def test_a_roster_that_cannot_be_read_stops_before_judging(course, tmp_path):
    course([ADA], MOODLE)
    with pytest.raises(SystemExit, match="the roster .* cannot be read"):
        grade.main(tmp_path / "course", tmp_path / "build", tmp_path / "none.csv")


@needs_weights
def test_the_projects_own_run_is_known():
    work = grade.project_work(POLICY)
    assert len(work.weights) == similarity.SKETCH and len(work.predicted) == 10_000, RUN
