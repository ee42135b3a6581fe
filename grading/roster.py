"""Who handed in what: reads a course's roster and matches archives to its students.

Canvas, Moodle and Gradescope give files names of their own. An archive is matched by such a name
first, then by the student number and then by the e-mail address that its notebook states. What fits
nobody, or two people, is reported and never guessed.
"""

import csv
import datetime
import functools
import io
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from report.freshness import MIME_TYPE
from tools.errors import SubmissionError

CANVAS_FILE = re.compile(r"(?P<name>[^_/]+)(?P<late>_LATE)?_(?P<user>\d+)_\d+_.+")
MOODLE_FILE = re.compile(r"(?P<name>.+)_(?P<participant>\d+)_assignsubmission_file(_.*)?")
GRADESCOPE_FOLDER = re.compile(r"submission_\d+")
GRADESCOPE_METADATA = "submission_metadata.yml"
GRADESCOPE_DATES = ("%Y-%m-%d %H:%M:%S.%f %z", "%Y-%m-%d %H:%M:%S %z")
MOODLE_GRADED = "last modified (grade)"  # without this column Moodle takes no worksheet back
MOST_AUTHORS = 20
LONGEST_TEXT = 200  # characters of what a notebook states of an author
ID_COLUMNS = ("id", "student id", "student number", "student_number", "sid", "id number")
NAME_COLUMNS = ("name", "full name", "student")
EMAIL_COLUMNS = ("email", "email address", "e-mail")
# Moodle writes dates in the language of its reader; these are its English forms.
MOODLE_DATES = (
    "%A, %d %B %Y, %I:%M %p",
    "%A, %d %B %Y, %H:%M",
    "%d %B %Y, %I:%M %p",
    "%Y-%m-%d %H:%M:%S",
)


class RosterError(SubmissionError):
    """The roster cannot be read: one sentence names file, column and remedy."""


@dataclass(frozen=True)
class Student:
    """One student of the roster.

    `id` is the student number that the university gives, `lms_id` the number that the learning
    management system gives (Canvas's user, Moodle's participant), `row` the student's row in the
    roster file, by column.
    """

    id: str
    name: str
    email: str = ""
    lms_id: str = ""
    row: dict = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Roster:
    """A course's students, and the file that they were read from.

    `kind` is "canvas", "moodle" or "plain"; `columns` are those of the file, `other_rows` its rows
    that are no students (Canvas's row of possible points), both in the file's order.
    """

    kind: str
    students: tuple
    columns: tuple = ()
    other_rows: tuple = ()

    def with_value(self, attribute, value):
        """The list of students whose `attribute` is `value`, ignoring case and outer space."""
        wanted = normalized(value)
        if not wanted:
            return []
        return [
            student
            for student in self.students
            if normalized(getattr(student, attribute)) == wanted
        ]


@dataclass(frozen=True)
class Match:
    """Whose archive it is: the student, or None with the reason why nobody could be named.

    `late` is True or False where the learning management system says so, None where it does not.
    """

    student: Student | None
    reason: str
    late: bool | None = None


@dataclass
class Author:
    """What a notebook states of one of its authors."""

    name: str = ""
    student_number: str = ""
    email: str = ""


def normalized(text):
    """Text for comparison: lower case, without space around it, letters composed."""
    return unicodedata.normalize("NFC", str(text or "")).strip().casefold()


def read_authors(notebook):
    """The Authors that an executed notebook states: its front matter's, or its metadata's.

    Args:
        notebook: nbformat's node. Whatever is no text in it is left out.
    """
    stated = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            front = output.get("data", {}).get(MIME_TYPE)
            if isinstance(front, dict) and front.get("authors"):
                stated = front["authors"]
    stated = stated or notebook.metadata.get("authors")
    if not isinstance(stated, list):
        return []
    authors = []
    for entry in stated[:MOST_AUTHORS]:
        if isinstance(entry, dict):
            texts = [_plain_text(entry.get(key)) for key in ("name", "student_number", "email")]
            authors.append(Author(*texts))
    return authors


def _plain_text(value):
    """A text or whole number of a notebook as one short line, "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return "".join(letter for letter in str(value)[:LONGEST_TEXT] if letter.isprintable())


# ------------------------------------------------------------------------------------------ reading


def read_roster(path):
    """The Roster in a CSV file.

    The file is Canvas's grade-book export, Moodle's grading worksheet, or has columns id, name and
    email. Raises RosterError if it cannot be read, has none of these sets of columns, or lists
    nobody.
    """
    columns, rows = read_csv_table(path)
    lowered = {normalized(column): column for column in columns}
    if "identifier" in lowered and "grade" in lowered:
        roster = moodle_roster(path, columns, rows, lowered)
    elif "sis login id" in lowered and "id" in lowered:
        roster = canvas_roster(columns, rows, lowered)
    else:
        roster = plain_roster(path, columns, rows, lowered)
    if not roster.students:
        raise RosterError(f"the roster {path} lists no students: export it again")
    return roster


def read_csv_table(path, what="the roster"):
    """The columns (a list) and the rows (dicts by column) of a CSV file.

    The file is UTF-8, its delimiter a comma or a semicolon. `what` is what messages call it.
    Raises RosterError if it cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RosterError(f"{what} {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RosterError(f"{what} {path} is no text in UTF-8: save it as CSV in UTF-8") from None
    first_line = text.partition("\n")[0]
    delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise RosterError(f"{what} {path} is no CSV ({error}): export it again") from None
    if not lines:
        raise RosterError(f"{what} {path} is empty: export it again")
    columns, *content = lines
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise RosterError(f"{what} {path} has the column {repeated[0]!r} twice: rename one")
    rows = []
    for line in content:
        if any(cell.strip() for cell in line):
            padded = line + [""] * (len(columns) - len(line))
            rows.append(dict(zip(columns, padded)))
    return columns, rows


def canvas_roster(columns, rows, lowered):
    """The Roster in Canvas's grade-book export, whose first rows are no students."""
    students = []
    extra_rows = []
    for row in rows:
        user = row[lowered["id"]].strip()
        if not user.isdigit():
            extra_rows.append(row)
            continue
        number = row.get(lowered.get("sis user id"), "")
        login = row[lowered["sis login id"]]
        students.append(
            Student(
                id=number or login,
                name=canvas_name(row, lowered),
                email=login if "@" in login else "",
                lms_id=user,
                row=row,
            )
        )
    return Roster("canvas", tuple(students), tuple(columns), tuple(extra_rows))


def canvas_name(row, lowered):
    """A student's name, first name first, from "Last, First" or from two columns."""
    if "student" in lowered:
        last, _, first = row[lowered["student"]].partition(",")
    else:
        last = row.get(lowered.get("lastname"), "")
        first = row.get(lowered.get("firstname"), "")
    return f"{first.strip()} {last.strip()}".strip()


def moodle_roster(path, columns, rows, lowered):
    """The Roster in Moodle's grading worksheet; an identifier ends in the participant's number."""
    if MOODLE_GRADED not in lowered:
        raise RosterError(
            f'the roster {path} has no column "Last modified (grade)", without which Moodle does '
            "not take it back: export the grading worksheet again, in English"
        )
    students = []
    for row in rows:
        participant = re.search(r"\d+\s*$", row[lowered["identifier"]])
        if not participant:
            raise RosterError(
                f"the roster {path} has the identifier {row[lowered['identifier']]!r}, which ends "
                "in no number: export the grading worksheet again"
            )
        number = next((row[lowered[name]] for name in ID_COLUMNS if name in lowered), "")
        students.append(
            Student(
                id=number or participant[0].strip(),
                name=row.get(lowered.get("full name"), ""),
                email=row.get(lowered.get("email address"), ""),
                lms_id=participant[0].strip(),
                row=row,
            )
        )
    return Roster("moodle", tuple(students), tuple(columns))


def plain_roster(path, columns, rows, lowered):
    """The Roster in a CSV file with columns for student number, name and e-mail address."""
    found = {}
    for attribute, names in (("id", ID_COLUMNS), ("name", NAME_COLUMNS), ("email", EMAIL_COLUMNS)):
        found[attribute] = next((lowered[name] for name in names if name in lowered), None)
    missing = [
        attribute for attribute, column in found.items() if column is None and attribute != "email"
    ]
    if missing:
        raise RosterError(
            f"the roster {path} has no column {' and no column '.join(missing)}, and is neither "
            "Canvas's grade-book export nor Moodle's grading worksheet; its columns are "
            + ", ".join(columns)
        )
    students = []
    for row in rows:
        email = row[found["email"]] if found["email"] else ""
        students.append(
            Student(id=row[found["id"]].strip(), name=row[found["name"]], email=email, row=row)
        )
    return Roster("plain", tuple(students), tuple(columns))


# ----------------------------------------------------------------------------------------- matching


def is_students_folder(name):
    """Whether Moodle or Gradescope gives a folder such a name: it holds one student's files."""
    return bool(MOODLE_FILE.fullmatch(name) or GRADESCOPE_FOLDER.fullmatch(name))


def match_archive(name, authors, roster, folder, deadline=None):
    """The Match of the archive `name`.

    Args:
        name: a path relative to `folder`.
        authors: the Authors that its notebook states.
        roster: a Roster.
        folder: where the system's export was unpacked.
        deadline: a datetime with a time zone, for systems that give a time of submission and no
            word on lateness; None if there is no deadline.

    Raises RosterError if Gradescope's list of submissions is damaged.
    """
    parts = Path(name).parts
    by_name = ""
    for number, part in enumerate(parts):
        metadata = Path(folder, *parts[:number], GRADESCOPE_METADATA)
        if GRADESCOPE_FOLDER.fullmatch(part) and metadata.is_file():
            return gradescope_match(metadata, part, roster, deadline)
        if moodle := MOODLE_FILE.fullmatch(part):
            kind = "moodle"
            match = moodle_match(moodle, roster, deadline)
        elif canvas := CANVAS_FILE.fullmatch(part):
            kind = "canvas"
            match = canvas_match(canvas, roster)
        else:
            continue
        if match.student or roster.kind == kind:
            return match
        by_name = match.reason
    match = match_authors(authors, roster, "the notebook's")
    if by_name and not match.student:
        return replace(match, reason=f"{by_name}, and {match.reason}")
    return match


def moodle_match(found, roster, deadline):
    """The Match of a name that Moodle gives: by participant, else by full name."""
    if roster.kind != "moodle":
        return single_match(roster.with_value("name", found["name"]), f"the name {found['name']}")
    students = roster.with_value("lms_id", found["participant"])
    late = moodle_lateness(students, deadline)
    return single_match(students, f"Moodle's participant {found['participant']}", late)


def canvas_match(found, roster):
    """The Match of a name that Canvas gives: by user, else by the letters of the name."""
    late = bool(found["late"])
    if roster.kind == "canvas":
        students = roster.with_value("lms_id", found["user"])
        return single_match(students, f"Canvas's user {found['user']}", late)
    name = normalized(found["name"])
    students = [student for student in roster.students if name in canvas_spellings(student.name)]
    return single_match(students, f"the name {found['name']}", late)


def canvas_spellings(name):
    """The two ways in which Canvas may write a name, last name first: letters and digits alone."""
    words = [re.sub(r"[^\w]|_", "", word) for word in normalized(name).split()]
    return {"".join(words[-1:] + words[:-1]), "".join(words)}


def single_match(students, what, late=None):
    """The Match by `what` where exactly one student fits."""
    if len(students) == 1:
        return Match(students[0], f"by {what}", late)
    if students:
        names = " and ".join(f"{student.name} ({student.id})" for student in students)
        return Match(None, f"{what} fits {names}", late)
    return Match(None, f"{what} is not in the roster", late)


def match_authors(authors, roster, whose):
    """The Match by the Authors' student numbers, or else by their e-mail addresses.

    `whose` says in the reason who states them: "the notebook's".
    """
    for attribute, key, word in (
        ("id", "student_number", "student number"),
        ("email", "email", "e-mail address"),
    ):
        found = []
        for author in authors:
            for student in roster.with_value(attribute, getattr(author, key)):
                if student not in found:
                    found.append(student)
        if found:
            return single_match(found, f"{whose} {word}")
    return Match(None, f"neither its file's name nor {whose} number or e-mail is in the roster")


@functools.cache
def _read_metadata(metadata):
    """The content of Gradescope's file, which is read once for all submissions."""
    return yaml.load(metadata.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}


def gradescope_match(metadata, folder, roster, deadline):
    """The Match of a submission by the submitters in Gradescope's file `metadata`."""
    try:
        entry = _read_metadata(metadata)[folder]
        people = [
            Author(
                student_number=str(person.get(":sid") or ""), email=str(person.get(":email") or "")
            )
            for person in entry[":submitters"]
        ]
        created = str(entry.get(":created_at", ""))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        raise RosterError(
            f"{metadata} does not list {folder} as Gradescope's export does: export it again"
        ) from None
    match = match_authors(people, roster, "Gradescope's")
    return Match(match.student, match.reason, is_late(created, GRADESCOPE_DATES, deadline))


def moodle_lateness(students, deadline):
    """Whether the worksheet's time of submission is after the deadline; None if unknown."""
    if len(students) != 1:
        return None
    row = {normalized(column): value for column, value in students[0].row.items()}
    return is_late(row.get("last modified (submission)", ""), MOODLE_DATES, deadline)


def is_late(text, formats, deadline):
    """Whether the date `text`, in one of `formats`, is after a deadline; None if unknown.

    A date without a time zone is in the deadline's.
    """
    if not deadline:
        return None
    for form in formats:
        try:
            moment = datetime.datetime.strptime(text.strip(), form)
        except ValueError:
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=deadline.tzinfo)
        return moment > deadline
    return None
