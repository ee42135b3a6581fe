"""Whose archive it is, and the files that Canvas, Moodle and Gradescope take back."""

import csv
import io
import json

import nbformat
import pytest

from grading import grade_exports
from grading.points import Award
from grading.policy import Deadline
from grading.roster import Author, RosterError, match_archive, read_authors, read_roster
from grading.schema import Place
from report.freshness import MIME_TYPE

# As Canvas's gradebook exporter and Moodle's offline feedback plugin write them.
CANVAS = """\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,Essay (11),Assignment 2 (12),Total
,,,,,,Manual Posting,
    Points Possible,,,,,10,100,(read only)
"Lovelace, Ada",101,1815,ada@example.org,A,9,,90
"Müller, Jörg",102,1816,joerg@example.org,A,8,,80
"Müller, Jörg",103,1817,joerg2@example.org,B,,,
"""
MOODLE = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,\
Last modified (submission),Last modified (grade),Feedback comments
Participant 77,Ada Lovelace,ada@example.org,Submitted for grading,,100.00,Yes,\
"Tuesday, 1 December 2026, 11:58 PM",-,
Participant 78,Jörg Müller,joerg@example.org,Submitted for grading,,100.00,Yes,\
"Wednesday, 2 December 2026, 12:01 AM",-,see below
"""
PLAIN = "Student Number;Name;E-Mail\n1815;Ada Lovelace;ada@example.org\n1816;Jörg Müller;\n"
GRADESCOPE = """\
submission_9001:
  :submitters:
  - :name: Ada Lovelace
    :sid: '1815'
    :email: ada@example.org
  :created_at: 2026-12-02 00:10:00.123456 +0900
"""
DEADLINE = Deadline.from_content(
    {"time": "2026-12-01 23:59", "zone": "Asia/Seoul"}, Place("policy.toml")
).moment


def roster_of(folder, text):
    (folder / "roster.csv").write_text(text, encoding="utf-8")
    return read_roster(folder / "roster.csv")


@pytest.mark.parametrize(
    "text, name, student, late",
    [
        (CANVAS, "lovelaceada_101_555_submission.zip", "1815", False),
        (CANVAS, "mullerjorg_LATE_103_556_submission-2.zip", "1817", True),
        (CANVAS, "mullerjorg_999_556_submission.zip", None, False),
        (MOODLE, "Ada Lovelace_77_assignsubmission_file_/submission.zip", "77", False),
        (MOODLE, "Jörg Müller_78_assignsubmission_file_submission.zip", "78", True),
        (MOODLE, "Participant_79_assignsubmission_file_/a.zip", None, None),
        (PLAIN, "Ada Lovelace_77_assignsubmission_file_/submission.zip", "1815", None),
        (PLAIN, "lovelaceada_LATE_101_555_submission.zip", "1815", True),
        (PLAIN, "submission.zip", None, None),
        # macOS writes letters and their accents apart
        (PLAIN, "Jo\u0308rg Mu\u0308ller_78_assignsubmission_file_/a.zip", "1816", None),
        # a student's own name for a file is not the other system's
        (MOODLE, "Ada Lovelace_77_assignsubmission_file_/my_12_34_net.zip", "77", False),
    ],
)
def test_archives_find_their_students_by_name(tmp_path, text, name, student, late):
    match = match_archive(name, [], roster_of(tmp_path, text), tmp_path, DEADLINE)
    assert (match.student.id if match.student else None) == student, match.reason
    assert match.late == late


@pytest.mark.parametrize(
    "authors, student, words",
    [
        ([{"student_number": " 1815 "}], "1815", "student number"),
        ([{"email": "ADA@example.org"}], "1815", "e-mail"),
        ([{"student_number": "1815", "email": "joerg@example.org"}], "1815", "student number"),
        ([{"student_number": "1815"}, {"student_number": "1816"}], None, "(1815) and Jörg"),
        ([{"student_number": "", "email": ""}, {}], None, "neither"),
    ],
)
def test_archives_find_their_students_by_their_authors(tmp_path, authors, student, words):
    authors = [Author(**author) for author in authors]
    match = match_archive("submission.zip", authors, roster_of(tmp_path, PLAIN), tmp_path)
    assert (match.student.id if match.student else None) == student
    assert words in match.reason


def test_a_file_name_counts_more_than_what_a_notebook_states(tmp_path):
    roster = roster_of(tmp_path, CANVAS)
    match = match_archive("x_102_5_a.zip", [Author(student_number="1815")], roster, tmp_path)
    assert match.student.id == "1816"


def test_two_students_of_one_name_are_never_guessed(tmp_path):
    roster = roster_of(tmp_path, PLAIN + "1817;Jörg Müller;\n")
    match = match_archive("Jörg Müller_78_assignsubmission_file_a.zip", [], roster, tmp_path)
    assert match.student is None
    assert "Jörg Müller (1816) and Jörg Müller (1817), and neither its file" in match.reason


def test_gradescope_lists_its_submitters(tmp_path):
    roster = roster_of(tmp_path, PLAIN)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "submission_metadata.yml").write_text(GRADESCOPE, encoding="utf-8")
    match = match_archive("export/submission_9001/a.zip", [], roster, tmp_path, DEADLINE)
    assert match.student.id == "1815" and match.late is True
    with pytest.raises(RosterError, match="does not list submission_9002"):
        match_archive("export/submission_9002/a.zip", [], roster, tmp_path, DEADLINE)


def notebook(metadata, *outputs):
    cell = {"cell_type": "code", "source": "", "outputs": list(outputs)}
    return nbformat.from_dict({"metadata": metadata, "cells": [{"cell_type": "markdown"}, cell]})


def test_authors_are_read_from_the_front_matter_or_the_metadata():
    ada = {"name": "Ada\x1b[2J", "student_number": 1815, "email": ["ada"], "university": "London"}
    shown = {"data": {MIME_TYPE: {"title": "", "authors": [ada, "Bob"]}}}
    expected = [Author("Ada[2J", "1815", "")]
    assert read_authors(notebook({"authors": "Bob"}, {"text": ""}, shown)) == expected
    assert read_authors(notebook({"authors": [ada]})) == expected
    assert read_authors(notebook({"authors": "Ada"})) == []


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"id,name\xff", "no text in UTF-8"),
        (b"id,grade\n1,2\n", "no column name"),
        (b"id,id,name\n1,2,a\n", "'id' twice"),
        (b'id,name\n1,"a\n', "is no CSV"),
        (b"Identifier,Grade,Last modified (grade)\nParticipant x,,\n", "ends in no number"),
        (b"Identifier,Grade\nParticipant 1,\n", "without which Moodle does not take it back"),
    ],
)
def test_a_roster_that_cannot_be_read_is_one_sentence(tmp_path, content, words):
    (tmp_path / "roster.csv").write_bytes(content)
    with pytest.raises(RosterError, match=words) as error:
        read_roster(tmp_path / "roster.csv")
    assert "\n" not in str(error.value)


def rows_of(data):
    assert data.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_canvas_gets_its_own_columns_and_the_assignment(tmp_path):
    roster = roster_of(tmp_path, CANVAS)
    rows = rows_of(grade_exports.canvas_export(roster, {"101": 87.5}, "assignment 2", 100))
    columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Assignment 2 (12)"]
    assert list(rows[0]) == columns
    assert [row["Assignment 2 (12)"] for row in rows] == ["Manual Posting", "100", "87.5", "", ""]
    assert rows[2]["Student"] == "Lovelace, Ada" and rows[2]["ID"] == "101"
    new = rows_of(grade_exports.canvas_export(roster, {"101": 87.5}, "ResNet", 100))
    assert [row["ResNet"] for row in new] == ["", "100", "87.5", "", ""]


def test_moodle_gets_its_worksheet_with_grades_and_comments(tmp_path):
    roster = roster_of(tmp_path, MOODLE)
    rows = rows_of(grade_exports.moodle_export(roster, {"77": 90}, {"77": "=1+1 good"}))
    original = list(csv.DictReader(io.StringIO(MOODLE)))
    assert list(rows[0]) == list(original[0])
    assert (rows[0]["Grade"], rows[0]["Feedback comments"]) == ("90", "'=1+1 good")
    assert rows[1] == original[1]
    for column in ("Identifier", "Last modified (grade)"):  # Moodle's importer refuses without
        assert [row[column] for row in rows] == [row[column] for row in original]


def test_gradescope_gets_a_test_for_each_award():
    awards = [
        Award("Block", 15.0, 0.0, 20, "parameters: 5 lost"),
        Award("Text", 0.0, 30.0, 30),
    ]
    content = json.loads(grade_exports.gradescope_results(awards, 12.3))
    assert content["score"] == 15
    assert content["tests"] == [
        {"name": "Block", "score": 15.0, "max_score": 20, "output": "parameters: 5 lost"}
    ]
    assert content["output"] == "Points that a person gives: Text (30)."
    assert content["execution_time"] == 12


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\uff1d1", "\u3000\uff201", " =1", "\t1"])
def test_text_that_a_spreadsheet_would_compute_gets_an_apostrophe(text):
    assert grade_exports.spreadsheet_text(text) == f"'{text}"
    assert grade_exports.spreadsheet_text(-1) == -1
