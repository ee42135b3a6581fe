"""Who handed in what: reads a course's roster and matches archives to its students.

Canvas, Moodle and Gradescope give files names of their own. An archive is matched by such a name
first, then by the student number and then by the e-mail address that its notebook states. What fits
nobody, or two people, is reported and never guessed.
"""

import csv
import datetime
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import yaml

from tools.errors import SubmissionError

CANVAS_FILE = re.compile(r"(?P<name>[^_/]+)(?P<late>_LATE)?_(?P<user>\d+)_\d+_.+")
MOODLE_FILE = re.compile(r"(?P<name>.+)_(?P<participant>\d+)_assignsubmission_file(_.*)?")
GRADESCOPE_FOLDER = re.compile(r"submission_\d+")
GRADESCOPE_METADATA = "submission_metadata.yml"
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


def normalized(text):
    """Text for comparison: lower case, without space around it."""
    return str(text or "").strip().casefold()


# ------------------------------------------------------------------------------------------ reading


def read_roster(path):
    """Return the Roster in a CSV file.

    The file is Canvas's grade-book export, Moodle's grading worksheet, or has columns id, name and
    email.

    Raises RosterError where the file cannot be read, or has none of these sets of columns.
    """
    columns, rows = read_table(path)
    lowered = {normalized(column): column for column in columns}
    if "identifier" in lowered and "grade" in lowered:
        return moodle_roster(columns, rows, lowered)
    if "sis login id" in lowered and "id" in lowered:
        return canvas_roster(columns, rows, lowered)
    return plain_roster(path, columns, rows, lowered)


def read_table(path):
    """Return the columns (a list) and the rows (dicts by column) of a CSV file.

    The file is UTF-8, its delimiter a comma or a semicolon.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RosterError(
            f"the roster {path} cannot be read ({error.strerror}): correct ROSTER"
        ) from error
    except UnicodeDecodeError as error:
        raise RosterError(
            f"the roster {path} is no text in UTF-8: export it as CSV in UTF-8"
        ) from error
    first_line = text.partition("\n")[0]
    delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise RosterError(f"the roster {path} is no CSV ({error}): export it again") from error
    if not lines:
        raise RosterError(f"the roster {path} is empty: export it again")
    columns, *content = lines
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise RosterError(f"the roster {path} has the column {repeated[0]!r} twice: rename one")
    rows = []
    for line in content:
        if any(cell.strip() for cell in line):
            padded = line + [""] * (len(columns) - len(line))
            rows.append(dict(zip(columns, padded)))
    return columns, rows


def canvas_roster(columns, rows, lowered):
    """The Roster in Canvas's grade-book export, whose first rows are no students."""
    students = []
    others = []
    for row in rows:
        user = row[lowered["id"]].strip()
        if not user.isdigit():
            others.append(row)
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
    return Roster("canvas", tuple(students), tuple(columns), tuple(others))


def canvas_name(row, lowered):
    """A student's name, first name first, from "Last, First" or from two columns."""
    if "student" in lowered:
        last, _, first = row[lowered["student"]].partition(",")
    else:
        last = row.get(lowered.get("lastname"), "")
        first = row.get(lowered.get("firstname"), "")
    return f"{first.strip()} {last.strip()}".strip()


def moodle_roster(columns, rows, lowered):
    """Return the Roster in Moodle's grading worksheet; an identifier ends in the participant."""
    students = []
    for row in rows:
        participant = re.search(r"\d+\s*$", row[lowered["identifier"]])
        if not participant:
            raise RosterError(
                f"the roster has the identifier {row[lowered['identifier']]!r}, which ends in no "
                "number: export the grading worksheet again"
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


def match_archive(name, authors, roster, folder, deadline=None):
    """Return the Match of the archive `name`.

    `name` is a path relative to `folder`, in which the system's export was unpacked. `authors` are
    what its notebook states: dicts with student_number and email. `deadline` is a datetime with a
    time zone, for systems that give a time of submission and no word on lateness.
    """
    parts = Path(name).parts
    for number, part in enumerate(parts):
        metadata = Path(folder, *parts[:number], GRADESCOPE_METADATA)
        if GRADESCOPE_FOLDER.fullmatch(part) and metadata.is_file():
            return gradescope_match(metadata, part, roster, deadline)
        if moodle := MOODLE_FILE.fullmatch(part):
            match = moodle_match(moodle, roster, deadline)
        elif canvas := CANVAS_FILE.fullmatch(part):
            match = canvas_match(canvas, roster)
        else:
            continue
        if match.student or roster.kind != "plain":
            return match
    return match_authors(authors, roster)


def moodle_match(found, roster, deadline):
    """Return the Match of a name that Moodle gives: by participant, in a plain roster by full name."""
    if roster.kind != "moodle":
        return one_of(roster.with_value("name", found["name"]), f"the name {found['name']}")
    students = roster.with_value("lms_id", found["participant"])
    late = moodle_lateness(students, deadline)
    return one_of(students, f"Moodle's participant {found['participant']}", late)


def canvas_match(found, roster):
    """Return the Match of a name that Canvas gives: by user, in a plain roster by the letters."""
    late = bool(found["late"])
    if roster.kind == "canvas":
        students = roster.with_value("lms_id", found["user"])
        return one_of(students, f"Canvas's user {found['user']}", late)
    students = [student for student in roster.students if found["name"] in letters_of(student.name)]
    return one_of(students, f"the name {found['name']}", late)


def letters_of(name):
    """The two ways in which Canvas may write a name, last name first: letters and digits alone."""
    words = [re.sub(r"[^\w]|_", "", word.casefold()) for word in name.split()]
    return {"".join(words[-1:] + words[:-1]), "".join(words)}


def one_of(students, what, late=None):
    """The Match by `what` where exactly one student fits."""
    if len(students) == 1:
        return Match(students[0], f"by {what}", late)
    if students:
        names = " and ".join(student.name for student in students)
        return Match(None, f"{what} fits {names}", late)
    return Match(None, f"{what} is not in the roster", late)


def match_authors(authors, roster):
    """The Match by the authors' student numbers, or else by their e-mail addresses."""
    for attribute, key, word in (
        ("id", "student_number", "student number"),
        ("email", "email", "e-mail address"),
    ):
        found = []
        for author in authors:
            for student in roster.with_value(attribute, author.get(key)):
                if student not in found:
                    found.append(student)
        if found:
            return one_of(found, f"the notebook's {word}")
    return Match(
        None, "neither its file name nor its notebook's number or e-mail address is in the roster"
    )


def gradescope_match(metadata, folder, roster, deadline):
    """Return the Match of a submission by the submitters in Gradescope's file `metadata`."""
    try:
        listed = yaml.load(metadata.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
        entry = listed[folder]
        submitters = entry[":submitters"]
        people = [
            {"student_number": person.get(":sid"), "email": person.get(":email")}
            for person in submitters
        ]
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise RosterError(
            f"{metadata} does not list {folder} as Gradescope's export does: export it again"
        ) from error
    match = match_authors(people, roster)
    late = None
    if deadline:
        late = is_late(
            str(entry.get(":created_at", "")),
            ("%Y-%m-%d %H:%M:%S.%f %z", "%Y-%m-%d %H:%M:%S %z"),
            deadline,
        )
    return Match(match.student, match.reason.replace("the notebook's", "Gradescope's"), late)


def moodle_lateness(students, deadline):
    """Return whether the worksheet's time of submission is after the deadline; None if unknown."""
    if not deadline or len(students) != 1:
        return None
    row = {normalized(column): value for column, value in students[0].row.items()}
    return is_late(row.get("last modified (submission)", ""), MOODLE_DATES, deadline)


def is_late(text, formats, deadline):
    """Return whether the date `text`, in one of `formats`, is after `deadline`, or None."""
    for form in formats:
        try:
            moment = datetime.datetime.strptime(text.strip(), form)
        except ValueError:
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=deadline.tzinfo)
        return moment > deadline
    return None


def read_deadline(text, zone):
    """Return a datetime with a time zone, from "2026-12-01 23:59" and a name like "Asia/Seoul".

    Raises RosterError where either cannot be read.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
        return moment.replace(tzinfo=ZoneInfo(zone))
    except (ValueError, LookupError, OSError) as error:
        raise RosterError(
            f"the deadline {text!r} in the time zone {zone!r} cannot be read ({error}): write it as "
            '"2026-12-01 23:59" and "Asia/Seoul"'
        ) from error
