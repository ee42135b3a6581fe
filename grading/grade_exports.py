"""Grades in the files that learning management systems import.

Canvas: the grade-book export with the assignment's column filled in (its importer needs the columns
that identify a student as they were exported, and the row of possible points). Moodle: the grading
worksheet with Grade and Feedback comments filled in (its importer needs Identifier, Grade and "Last
modified (grade)" as they were exported). Gradescope: one results.json for each submission.
"""

import csv
import io
import json

from grading.roster import normalized

FORMULA_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # full-width forms as well
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
    """A value for a CSV.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    if isinstance(value, str) and value.lstrip().startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def write_rows(columns, rows):
    """A CSV as bytes in UTF-8, with the mark at its start by which Excel knows this."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def canvas_export(roster, points, assignment, maximum):
    """Canvas's file as bytes.

    The columns that identify students unchanged, and the column `assignment`.

    `points` is a dict Student.lms_id -> number; a student without a number keeps what the export
    had. `assignment` is the title of the column: that of the export, "Title (1234)", to fill in an
    assignment that exists, otherwise Canvas offers to create one.
    """
    columns = [column for column in roster.columns if normalized(column) in CANVAS_IDENTITY]
    rows = []
    for row in roster.other_rows:
        is_maximum = any("points possible" in normalized(value) for value in row.values())
        kept = row.get(assignment, "")
        rows.append({**row, assignment: kept or maximum if is_maximum else kept})
    for student in roster.students:
        given = points.get(student.lms_id)
        rows.append(
            {**student.row, assignment: student.row.get(assignment, "") if given is None else given}
        )
    return write_rows([*columns, assignment], rows)


def moodle_export(roster, points, comments):
    """Moodle's grading worksheet as bytes, with grades and comments filled in.

    `points` and `comments` are dicts Student.lms_id -> number, and -> text; students without keep
    what they had.
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
    return write_rows(columns, rows)


def gradescope_results(awards, seconds=None):
    """Gradescope's results.json as text: one test for each Award, with its points and its reason.

    Awards that a person still has to give have no score there and are named in the output.
    """
    tests = []
    open_names = []
    for award in awards:
        if award.open:
            open_names.append(f"{award.name} ({award.open:g})")
        if award.open == award.maximum > 0:
            continue
        tests.append(
            {
                "name": award.name,
                "score": award.points,
                "max_score": award.maximum,
                "output": award.reason,
                "visibility": "visible",
            }
        )
    content = {"tests": tests, "visibility": "visible"}
    if open_names:
        content["output"] = f"Points that a person gives: {', '.join(open_names)}."
    if seconds is not None:
        content["execution_time"] = round(seconds)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
