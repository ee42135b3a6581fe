"""Grades in the files that learning management systems import.

Canvas: the grade-book export with the assignment's column filled in (its importer needs the columns
that identify a student as they were exported, and the row of possible points). Moodle: the grading
worksheet with Grade and Feedback comments filled in (its importer needs Identifier, Grade and "Last
modified (grade)" as they were exported). Gradescope: one results.json for each submission.
"""

import csv
import io
import json
import re

from grading.points import total_points
from grading.roster import normalized

# Signs that start a formula, and their full-width forms.
FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
CONTROL_STARTS = ("\t", "\r")  # a spreadsheet drops them and reads on
CANVAS_IDENTITY = (
    "student",
    "lastname",
    "firstname",
    "id",
    "sis user id",
    "sis login id",
    "integration id",
    "root account",
    "section",
)


def spreadsheet_text(value):
    """A value for a CSV; text that a spreadsheet would compute gets an apostrophe in front."""
    if isinstance(value, str):
        starts_formula = value.lstrip().startswith(FORMULA_SIGNS)
        if starts_formula or value.startswith(CONTROL_STARTS):
            return f"'{value}"
    return value


def csv_bytes(columns, rows):
    """A CSV as bytes in UTF-8, with the mark at its start by which Excel knows this.

    Args:
        columns: names of columns.
        rows: dicts by column; what is no column is left out.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig", errors="replace")


def canvas_column(roster, title):
    """The column of an assignment in Canvas's export, or `title` if there is none yet.

    Canvas adds the assignment's number to its title: "Assignment 2 (1234)".
    """
    for column in roster.columns:
        if normalized(re.sub(r" \(\d+\)$", "", column)) == normalized(title):
            return column
    return title


def canvas_export(roster, points, title, maximum):
    """Canvas's file as bytes: the columns that identify students unchanged, and the assignment's.

    Args:
        roster: a Roster of Canvas's export.
        points: Student.lms_id -> points, as text; a student without one keeps what the export had.
        title: the assignment's title. Canvas fills in an assignment that the export has, and
            offers to create one that it has not.
        maximum: possible points of an assignment that the export does not have.
    """
    assignment = canvas_column(roster, title)
    columns = [column for column in roster.columns if normalized(column) in CANVAS_IDENTITY]
    rows = []
    for row in roster.other_rows:
        value = row.get(assignment, "")
        if not value and any("points possible" in normalized(cell) for cell in row.values()):
            value = maximum
        rows.append({**row, assignment: value})
    for student in roster.students:
        value = points.get(student.lms_id, student.row.get(assignment, ""))
        rows.append({**student.row, assignment: value})
    return csv_bytes([*columns, assignment], rows)


def moodle_export(roster, points, comments):
    """Moodle's grading worksheet as bytes, with grades and comments filled in.

    Args:
        roster: a Roster of Moodle's worksheet.
        points: Student.lms_id -> points, as text.
        comments: Student.lms_id -> text. A student without keeps what the worksheet had.
    """
    names = {normalized(column): column for column in roster.columns}
    grade = names["grade"]
    comment = names.get("feedback comments", "Feedback comments")
    columns = list(roster.columns)
    if comment not in columns:
        columns.append(comment)
    rows = []
    for student in roster.students:
        row = dict(student.row)
        if student.lms_id in points:
            row[grade] = points[student.lms_id]
        if student.lms_id in comments:
            row[comment] = spreadsheet_text(comments[student.lms_id])
        rows.append(row)
    return csv_bytes(columns, rows)


def gradescope_results(awards, seconds=None):
    """Gradescope's results.json as text: one test for each Award, with its points and its reason.

    Points that a person still has to give have no score there and are named in the output.

    Args:
        awards: a list of Award.
        seconds: how long judging took, or None.
    """
    tests = []
    open_names = []
    for award in awards:
        if award.open:
            open_names.append(f"{award.name} ({award.open:g})")
        if award.open == award.maximum > 0:
            continue
        test = {"name": award.name, "score": award.points, "output": award.reason}
        if award.maximum:
            test["max_score"] = award.maximum
        tests.append(test)
    content = {"score": total_points(awards), "visibility": "visible", "tests": tests}
    if open_names:
        content["output"] = f"Points that a person gives: {', '.join(open_names)}."
    if seconds is not None:
        content["execution_time"] = round(seconds)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
