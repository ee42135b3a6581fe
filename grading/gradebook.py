"""The grade book: whose archives they are, their points, and the files that go back.

grade.py judges the archives; here their verdicts become points of students, feedback pages and the
files that Canvas, Moodle and Gradescope import.
"""

import hashlib
import math
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from grading import grade_exports
from grading.feedback import feedback_page
from grading.findings import Finding, join_names
from grading.points import CONTRADICTIONS, Award, award_points, total_points
from grading.roster import Match, RosterError, match_archive, read_csv_table

BY_HAND = "by_hand.csv"
BY_HAND_COLUMNS = ("archive", "student", "item", "points", "at most", "so far", "reason")
MOST_COMMENTS = 2_000  # characters of a comment in Moodle
MOST_LISTED = 100  # names in a notice


@dataclass
class Entry:
    """An archive in the grade book.

    Attributes:
        archive: its name.
        verdict: its StoredVerdict.
        match: whose it is, a Match; None without a roster.
        judged: its points before a person's count, a list of Award.
        awards: its points, a list of Award.
        page: the path of its feedback page below build/, "" before it is written.
    """

    archive: str
    verdict: object
    match: Match | None
    judged: list = field(default_factory=list)
    awards: list = field(default_factory=list)
    page: str = ""

    @property
    def student(self):
        """The Student whose archive it is, or None."""
        return self.match.student if self.match else None

    @property
    def points(self):
        """The points given so far."""
        return total_points(self.awards)

    @property
    def open(self):
        """The points that a person still decides."""
        return round(sum(award.open for award in self.awards), 2)

    @property
    def maximum(self):
        """The most that can be reached."""
        return round(sum(award.maximum for award in self.awards), 2)


@dataclass
class Course:
    """What is graded: where it lies, and by which roster and policy.

    Attributes:
        folder: the folder of submissions.
        roster: a Roster, or None.
        policy: a Policy.
        by_hand: (archive, item's name) -> points that a person has given.
    """

    folder: Path
    roster: object
    policy: object
    by_hand: dict = field(default_factory=dict)

    def match(self, name, authors=()):
        """The Match of a file of the course, None without a roster."""
        if self.roster is None:
            return None
        deadline = self.policy.deadline.moment if self.policy.deadline else None
        try:
            return match_archive(name, authors, self.roster, self.folder, deadline)
        except RosterError as error:  # Gradescope's list is damaged
            return Match(None, str(error))

    def entry(self, name, verdict):
        """The Entry of an archive with its StoredVerdict."""
        findings = verdict.findings
        if not findings:  # judging it did not end
            findings = [Finding("submission", "unverified", verdict.reason)]
        judged = award_points(self.policy.points, findings)
        awards = [self.award_by_hand(name, award) for award in judged]
        for item, given in self.added_by_hand(name, judged).items():
            awards.append(Award(item, given, 0.0, 0.0, "given by a person"))
        return Entry(name, verdict, self.match(name, verdict.authors), judged, awards)

    def award_by_hand(self, archive, award):
        """The Award with the points that a person has given instead, if any."""
        given = self.by_hand.get((archive, award.name))
        if given is None:
            return award
        reason = "given by a person"
        if not award.open:
            reason += f", instead of {award.points:g}"
        if award.reason and award.open < award.maximum:
            reason += f"\n{award.reason}"
        return replace(award, points=given, open=0.0, reason=reason)

    def added_by_hand(self, archive, judged):
        """Points that a person has given for items that an archive's verdict has no Award for.

        Such an item is that of contradictions, where there is none. Returned are item's name ->
        points; `judged` is the list of Award by the verdict.
        """
        names = {award.name for award in judged}
        added = {}
        for (other, item), given in self.by_hand.items():
            if other == archive and item not in names:
                added[item] = given
        return added


# ------------------------------------------------------------------------------- points by a person


def read_by_hand(build, policy):
    """The points that a person has entered into build/by_hand.csv: (archive, item) -> points.

    Raises RosterError if the file cannot be read or has points that the policy does not allow.
    """
    file = build / BY_HAND
    if not file.exists():
        return {}
    columns, rows = read_csv_table(file, "the file")
    missing = [name for name in ("archive", "item", "points") if name not in columns]
    if missing:
        raise RosterError(f"the file {file} has no column {missing[0]!r}: add it")
    ranges = {item.name: (0, item.points) for item in policy.points.item}
    ranges.setdefault(CONTRADICTIONS, (-policy.points.contradiction.most, 0))
    given = {}
    for number, row in enumerate(rows, 2):
        text = row["points"].strip().replace(",", ".")
        if not text:
            continue
        item = row["item"].strip()
        where = f"the file {file}, line {number}"
        if item not in ranges:
            raise RosterError(
                f"{where}: {item!r} is no item of [points]; expected one of {', '.join(ranges)}"
            )
        try:
            points = float(text)
        except ValueError:
            points = math.nan
        lowest, highest = ranges[item]
        if not lowest <= points <= highest:
            raise RosterError(
                f"{where}: {item} gets {row['points']!r}; expected a number from {lowest:g} to "
                f"{highest:g}"
            )
        given[_without_apostrophe(row["archive"]), item] = points
    return given


def _without_apostrophe(text):
    """A name as it was before grade_exports.spreadsheet_text protected it."""
    rest = text.removeprefix("'")
    if grade_exports.spreadsheet_text(rest) == text:
        return rest
    return text


def write_by_hand(build, entries, course):
    """Write build/by_hand.csv: a line for each item that a person decides, with what was given.

    What was given to archives that are not among the entries stays: they may come again.
    """
    rows = []
    for entry in entries:
        student = entry.student.name if entry.student else ""
        for award in entry.judged:
            given = course.by_hand.get((entry.archive, award.name))
            if award.open or given is not None:
                rows.append(_row_by_hand(entry.archive, student, award, given))
        for item, given in course.added_by_hand(entry.archive, entry.judged).items():
            award = Award(item, 0.0, 0.0, 0.0)
            rows.append(_row_by_hand(entry.archive, student, award, given))
    archives = {entry.archive for entry in entries}
    for (archive, item), given in course.by_hand.items():
        if archive not in archives:
            rows.append(_row_by_hand(archive, "", Award(item, 0.0, 0.0, 0.0), given))
    (build / BY_HAND).write_bytes(grade_exports.csv_bytes(BY_HAND_COLUMNS, rows))


def _row_by_hand(archive, student, award, given):
    """A row of by_hand.csv: an Award as it was judged, and the points given by a person or None."""
    return {
        "archive": grade_exports.spreadsheet_text(archive),
        "student": grade_exports.spreadsheet_text(student),
        "item": award.name,
        "points": "" if given is None else f"{given:g}",
        "at most": f"{award.maximum:g}",
        "so far": f"{award.points:g}",
        "reason": grade_exports.spreadsheet_text(award.short_reason),
    }


# ------------------------------------------------------------------------------------------ notices


def entries_by_student(entries):
    """The archives of each student: id of the Student object -> list of Entry."""
    owned = {}
    for entry in entries:
        if entry.student:
            owned.setdefault(id(entry.student), []).append(entry)
    return owned


def list_notices(entries, skipped, missing, course):
    """What a person has to look at, a list of sentences.

    Args:
        entries: a list of Entry.
        skipped: name of a file that is not graded -> reason.
        missing: Students without a submission.
        course: a Course.
    """
    notices = []
    for reason in sorted(set(skipped.values())):
        names = [name for name in skipped if skipped[name] == reason]
        notices.append(f"{reason} ({len(names)}): {join_names(names, most=MOST_LISTED)}")
    contradicted = [entry.archive for entry in entries if entry.verdict.code == 1]
    if contradicted:
        notices.append(
            f"contradicted, so read the reasons before you return points ({len(contradicted)}): "
            f"{join_names(contradicted, most=MOST_LISTED)}"
        )
    notices += _notices_on_students(entries, missing, course)
    still_open = [entry.archive for entry in entries if entry.open]
    if still_open:
        notices.append(
            f"{len(still_open)} of {len(entries)} archives have points that a person gives: fill "
            f"in the column points of {BY_HAND} and call make grade again before you import grades"
        )
    return notices


def _notices_on_students(entries, missing, course):
    """Sentences on whose archives they are, and on who is late or missing: a list."""
    if course.roster is None:
        return [
            "no roster was named, so no archive has a student and there is no grade book to "
            "import: ROSTER=roster.csv names one"
        ]
    notices = []
    nobodys = [entry for entry in entries if not entry.student]
    for entry in nobodys:
        notices.append(f"{entry.archive} matches no student: {entry.match.reason}")
    if nobodys:
        notices.append(
            "to give such an archive to a student, name it after the student, in the form "
            f"{example_name(course.roster)}"
        )
    for archives in entries_by_student(entries).values():
        if len(archives) > 1:
            names = join_names([entry.archive for entry in archives])
            notices.append(
                f"{archives[0].student.name} has {len(archives)} archives, none of which is "
                f"exported: {names}; keep one in the folder"
            )
    if missing:
        names = join_names([student.name for student in missing], most=MOST_LISTED)
        notices.append(f"students without an archive ({len(missing)}): {names}")
    matched = [entry for entry in entries if entry.student]
    late = [entry.student.name for entry in matched if entry.match.late]
    if late:
        names = join_names(late, most=MOST_LISTED)
        notices.append(f"handed in late, which costs no points here ({len(late)}): {names}")
    unknown = [entry.archive for entry in matched if entry.match.late is None]
    if unknown and course.policy.deadline:
        notices.append(f"time of submission unknown: {join_names(unknown)}")
    return notices


def unknown_archives(course, found):
    """A sentence on points that a person gave to archives that are not `found`, in a list."""
    lost = sorted({archive for archive, _ in course.by_hand if archive not in found})
    if not lost:
        return []
    return [
        f"{BY_HAND} has points for {join_names(lost)}, not in the folder: if an archive was "
        "renamed, enter its new name there, else remove the line"
    ]


def example_name(roster):
    """The name that a roster's system gives to an archive of its first student."""
    student = roster.students[0]
    if roster.kind == "canvas":
        words = re.sub(r"[\W_]", "", student.name).lower()
        return f"{words}_{student.lms_id}_1_submission.zip"
    return f"{student.name}_{student.lms_id or 1}_assignsubmission_file_submission.zip"


def students_without(entries, other_matches, roster):
    """Students of a roster to whom neither an archive nor another file was matched.

    `other_matches` are the Matches of those files.
    """
    if roster is None:
        return []
    seen = {id(match.student) for match in other_matches if match and match.student}
    seen |= {id(entry.student) for entry in entries if entry.student}
    return [student for student in roster.students if id(student) not in seen]


# -------------------------------------------------------------------------------------------- files


def file_name(text, taken):
    """A name for a file from any text, not yet in the set `taken`, to which it is added."""
    plain = re.sub(r"[^\w.-]+", "-", text).strip("-.")[:80] or "archive"
    name = plain
    number = 2
    while name.casefold() in taken:
        name = f"{plain}-{number}"
        number += 1
    taken.add(name.casefold())
    return name


def archive_digest(path):
    """SHA-256 of an archive, "" for a folder."""
    if path.is_dir():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_feedback(build, entries, paths):
    """Write a page for each Entry to build/feedback/, and enter its name.

    Args:
        build: the folder build/.
        entries: a list of Entry, whose verdicts say nothing yet of other students.
        paths: archive's name -> its path.
    """
    folder = build / "feedback"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    taken = set()
    for entry in entries:
        title = entry.archive
        name = Path(entry.archive).with_suffix("").as_posix()
        if entry.student:
            title = entry.student.name or entry.student.id
            name = f"{entry.student.id}-{title}"
        late = entry.match.late if entry.match else None
        digest = archive_digest(paths[entry.archive])
        page = feedback_page(f"Feedback: {title}", entry.verdict, entry.awards, late, digest)
        entry.page = f"feedback/{file_name(name, taken)}.html"
        (build / entry.page).write_text(page, encoding="utf-8")


def write_exports(build, entries, course):
    """Write what the learning management systems import; return the files, a list of paths.

    They are canvas.csv or moodle.csv, by the kind of roster, and the folder gradescope/.
    """
    results = build / "gradescope"
    shutil.rmtree(results, ignore_errors=True)
    for entry in entries:
        folder = results / entry.archive
        folder.mkdir(parents=True)
        text = grade_exports.gradescope_results(entry.awards, entry.verdict.seconds)
        (folder / "results.json").write_text(text, encoding="utf-8")
    for kind in ("canvas", "moodle"):
        (build / f"{kind}.csv").unlink(missing_ok=True)
    roster = course.roster
    if roster is None or roster.kind == "plain":
        return [results]
    single = [found[0] for found in entries_by_student(entries).values() if len(found) == 1]
    points = {entry.student.lms_id: f"{entry.points:g}" for entry in single}
    if roster.kind == "canvas":
        scheme = course.policy.points
        content = grade_exports.canvas_export(
            roster, points, scheme.assignment, f"{scheme.total:g}"
        )
    else:
        comments = {entry.student.lms_id: comment_of(entry) for entry in single}
        content = grade_exports.moodle_export(roster, points, comments)
    file = build / f"{roster.kind}.csv"
    file.write_bytes(content)
    return [file, results]


def comment_of(entry):
    """A short comment on the points of an Entry, for a grade book."""
    parts = []
    for award in entry.awards:
        text = f"{award.name}: {award.points:g}"
        if award.maximum:
            text += f" of {award.maximum:g}"
        if award.open:
            text += f" (up to {award.open:g} more by a person)"
        elif award.reason:
            text += f" ({award.short_reason})"
        parts.append(text)
    comment = "; ".join(parts)
    if len(comment) > MOST_COMMENTS:
        comment = f"{comment[:MOST_COMMENTS]} …"
    return comment
