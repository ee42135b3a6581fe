"""Reads a submission as data: nothing of it is unpacked, imported, unpickled or run.

Whatever is wrong raises ArchiveError with one sentence.
"""
import functools
import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import nbformat
from nbformat.v4.rwbase import rejoin_lines
from safetensors import SafetensorError
from safetensors.torch import load

from grading.layout import ArchiveError, arrange, is_junk, matches_patterns
from grading.policy import ArchiveLimits
from tools.project_files import ROOT

MB = 1_000_000
MOST_VALUES = 1_000_000  # of a JSON file; each takes a hundred bytes of memory and more
MOST_LETTERS = 50_000  # of a cell: regular expressions search it
MOST_CELLS = 1_000  # of a notebook: the template has 60
MOST_OPEN_COMMENTS = 20  # of a notebook: the end of each is searched for in the rest of its cell
END_RECORD = b"PK\5\6"  # a zip file's end; it is followed by 18 bytes and a comment
ZIP64_LOCATOR = b"PK\6\7"
LONGEST_END = 70_000  # bytes of a zip file's end with its comment
BYTES_OF_A_MEMBER = 500  # in a zip file's directory
# What a student can do about a damaged file of a run: a finished run is not written again.
RUN_AGAIN = "copy it anew, or remove the run's folder, run make submission and hand in again"
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, IndexError
)


class MissingFileError(ArchiveError):
    """A submission lacks a file: one sentence."""


@dataclass
class Submission:
    """The files of a submission that the policy reads.

    Attributes:
        name: the archive's name.
        files: name -> bytes.
        limits: the policy's ArchiveLimits.
        notes: sentences on files that are elsewhere than the policy says, or were not read.
        is_own_copy: whether it is the folder that this program itself is in.
    """

    name: str
    files: dict[str, bytes]
    limits: ArchiveLimits
    notes: list[str] = field(default_factory=list)
    is_own_copy: bool = False

    def bytes(self, name):
        """A file's content; raises MissingFileError if the submission lacks it."""
        if name not in self.files:
            raise MissingFileError(f"{name} is missing")
        return self.files[name]

    def hash(self, name):
        """SHA-256 of a file, None if the submission lacks it."""
        if name not in self.files:
            return None
        return hashlib.sha256(self.files[name]).hexdigest()

    def json(self, name):
        """A JSON file's content, with finite numbers only."""
        data = self.bytes(name)
        try:
            return parse_json(data, name)
        except ArchiveError as error:
            raise ArchiveError(f"{error}: hand it in as your run wrote it") from None

    def numbers(self, name, header=""):
        """The rows of a CSV file as lists of finite floats.

        Args:
            name: the file's name.
            header: the first line that the file must have, "" for a file of one column without it.
        """
        lines = decode(self.bytes(name), name).splitlines()
        if len(lines) > self.limits.rows:
            raise ArchiveError(f"{name} has {len(lines):,} lines, more than any run writes")
        header_lines = [header] if header else []
        if lines[: len(header_lines)] != header_lines:
            raise ArchiveError(f"{name} does not start with the line {header}: {RUN_AGAIN}")
        columns = len(header.split(","))
        rows = []
        for number, line in enumerate(lines[len(header_lines) :], 1 + len(header_lines)):
            rows.append(_read_row(line, columns, f"{name}, line {number}"))
        if not rows:
            raise ArchiveError(f"{name} has no rows of numbers: {RUN_AGAIN}")
        return rows

    def tensors(self, name):
        """The tensors of a safetensors file, name -> tensor; all their values are finite."""
        data = self.bytes(name)
        if int.from_bytes(data[:8], "little") > MB:
            raise ArchiveError(f"{name} has a header of more than 1 MB")
        try:
            tensors = load(data)
            finite = all(tensor.isfinite().all() for tensor in tensors.values())
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ArchiveError(
                f"{name} is not a safetensors file, or a damaged one ({type(error).__name__})"
            ) from None
        if not finite:
            raise ArchiveError(f"{name} contains numbers that are not finite")
        return tensors

    def notebook(self, name):
        """A Jupyter notebook of format 4 as nbformat's node, its sources joined to strings."""
        content = self.json(name)
        if not isinstance(content, dict) or content.get("nbformat") != 4:
            raise ArchiveError(
                f"{name} is not a notebook of format 4: open it in Jupyter and save it"
            )
        # Editors write ids of other kinds, and ids that occur twice; format 4.4 has none.
        content["nbformat_minor"] = 4
        if len(_dicts(content.get("cells"))) > MOST_CELLS:
            raise ArchiveError(f"{name} has more than {MOST_CELLS:,} cells: remove those not used")
        for cell in _dicts(content.get("cells")):
            cell.pop("id", None)
        try:
            nbformat.validate(content, relax_add_props=True)
            notebook = rejoin_lines(nbformat.from_dict(content))
        except (nbformat.ValidationError, RecursionError) as error:
            reason = str(error).splitlines()[0][:120]
            raise ArchiveError(f"{name} is not a valid notebook ({reason})") from None
        open_comments = 0
        for cell in notebook.cells:
            if len(cell.source) > MOST_LETTERS:
                raise ArchiveError(f"{name} has a cell of more than {MOST_LETTERS:,} characters")
            if cell.cell_type == "markdown":
                open_comments += cell.source.rpartition("-->")[2].count("<!--")
        if open_comments > MOST_OPEN_COMMENTS:
            raise ArchiveError(
                f"{name} has {open_comments:,} comments (<!--) that do not end (-->): delete them"
            )
        return notebook


def _read_row(line, columns, line_name):
    """The finite floats of a line of a CSV file, a list.

    `line_name` is what messages call the line.

    Raises ArchiveError if a value is no such number, or if there are more or fewer than `columns`.
    """
    row = []
    for text in line.split(","):
        try:
            value = float(text)
        except ValueError:
            raise ArchiveError(f"{line_name}: {text[:20]!r} is not a number: {RUN_AGAIN}") from None
        if not math.isfinite(value):
            raise ArchiveError(f"{line_name}: {text[:20]!r} is not finite: {RUN_AGAIN}")
        row.append(value)
    if len(row) != columns:
        raise ArchiveError(f"{line_name} has {len(row)} values instead of {columns}: {RUN_AGAIN}")
    return row


def _dicts(values):
    """Those of a list's items that are dicts; none if there is no list."""
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, dict)]


# ---------------------------------------------------------------------------------------- parsing


def decode(data, name):
    """The text of a file in UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ArchiveError(f"{name} is not text in UTF-8") from None


def parse_json(data, name):
    """The content of JSON: its numbers are finite, and no key occurs twice."""

    def parse_finite(text):
        number = float(text)
        if not math.isfinite(number):
            raise ArchiveError(f"{name} contains {text[:20]}, which is not a number")
        return number

    def unique_keys(pairs):
        table = {}
        for key, value in pairs:
            if key in table:
                raise ArchiveError(f"{name} gives the key {key[:60]!r} twice")
            table[key] = value
        return table

    if data.count(b"{") + data.count(b"[") + data.count(b",") > MOST_VALUES:
        raise ArchiveError(f"{name} has more than a million values")
    text = decode(data, name)
    try:
        return json.loads(
            text,
            parse_constant=parse_finite,
            parse_float=parse_finite,
            object_pairs_hook=unique_keys,
        )
    except (ValueError, RecursionError) as error:
        reason = str(error)[:80]
        raise ArchiveError(f"{name} is not JSON, or damaged ({reason})") from None


# ---------------------------------------------------------------------------------------- reading


def read(path, policy):
    """The Submission in the zip file, the folder or the bare notebook `path`.

    Files that are not where the policy names them are looked for, also in a zip file in the zip
    file. Raises ArchiveError if a submission breaks a rule of the policy or has no notebook.
    """
    path = Path(path)
    if path.is_dir() and (path / policy.files.notebook).is_file():
        files = read_folder(path, policy.files.patterns, policy.archive)
        return Submission(path.name, files, policy.archive, is_own_copy=path.resolve() == ROOT)
    if path.is_dir():
        names = list_folder(path, policy.archive)
        load = functools.partial(folder_contents, path, limits=policy.archive)
    elif not path.exists():
        raise ArchiveError(f"there is no file {path}: check SUBMISSION=")
    elif not path.is_file():
        raise ArchiveError(f"{path} is neither a zip file, a notebook nor a folder")
    elif path.suffix.lower() == ".ipynb":
        names = [path.name]
        load = functools.partial(folder_contents, path.parent, limits=policy.archive)
    else:
        megabytes = path.stat().st_size / MB
        if megabytes > policy.archive.megabytes:
            raise ArchiveError(
                f"the archive has {megabytes:,.0f} MB; the limit is {policy.archive.megabytes} MB: "
                "run make zip, which leaves out what is not needed"
            )
        with path.open("rb") as file:
            return _read_zip(path.name, file, policy)
    layout = arrange(names, load, policy)
    return Submission(path.name, load(layout.wanted), policy.archive, layout.notes)


def _read_zip(name, file, policy, notes=()):
    """The Submission in an open zip file; `notes` are given if it was in another zip file."""
    members = open_zip(file, policy.archive)
    inner = None
    if not notes:
        inner = _inner_zip(members)
    if inner:
        limits = replace(policy.archive, one_file=policy.archive.unpacked)
        content = contents(members, {inner: inner}, limits)[inner]
        return _read_zip(name, content, policy, [f"The files are in a zip file, {inner}."])
    load = functools.partial(contents, members, limits=policy.archive)
    layout = arrange(members, load, policy)
    return Submission(name, load(layout.wanted), policy.archive, [*notes, *layout.notes])


def _inner_zip(members):
    """The name of the only zip file among members without a notebook, or None."""
    names = [name for name in members if not is_junk(name)]
    if any(name.lower().endswith(".ipynb") for name in names):
        return None
    inner = [name for name in names if name.lower().endswith(".zip")]
    return inner[0] if len(inner) == 1 else None


def open_zip(file, limits):
    """The members of a zip file, name -> (ZipFile, ZipInfo), without folders.

    Args:
        file: the zip file's bytes, or the file, opened for reading bytes.
        limits: the policy's ArchiveLimits.

    Raises ArchiveError if a name is hostile or there are too many members. Backslashes, which
    some programs write, divide folders.
    """
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    _check_directory(file, limits)
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise ArchiveError(f"the archive is a damaged zip file ({str(error)[:80]})") from None
    members = {}
    seen = set()
    for info in archive.infolist():
        name = _without_dot_folders(info.filename.replace("\\", "/"))
        _check_name(info, name)
        if name.endswith("/") or not name:
            continue
        if is_junk(name):  # never read: links in it and names in other letters do no harm
            members[name] = archive, info
            continue
        _check_kind(info)
        path = os.path.normpath(name).casefold()
        if path in seen:
            raise ArchiveError(f"the archive has a name twice, {name[:80]!r}")
        seen.add(path)
        members[name] = archive, info
    return members


def _without_dot_folders(name):
    """A name without the folders called ".", which some programs write: ./a/./b is a/b."""
    return "/".join(part for part in name.split("/") if part != ".")


def _check_directory(file, limits):
    """Raise ArchiveError if a file is no zip file, or its directory is too long to be read."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - LONGEST_END))
    data = file.read()
    file.seek(0)
    end = data.rfind(END_RECORD)
    if data[-22:-18] == END_RECORD and data[-2:] == b"\0\0":  # without a comment, as usual
        end = len(data) - 22
    if not data:
        raise ArchiveError("the archive is an empty file: hand it in again")
    if end < 0:
        raise ArchiveError("the archive is not a zip file: hand in the file that make zip writes")
    # Zip64 is for archives that are larger than any submission.
    if data[max(end - 20, 0) : end].startswith(ZIP64_LOCATOR):
        raise ArchiveError(
            "the archive is in the Zip64 format, which is not read: pack it with make zip"
        )
    members = int.from_bytes(data[end + 10 : end + 12], "little")
    directory_bytes = int.from_bytes(data[end + 12 : end + 16], "little")
    if members > limits.listed or directory_bytes > limits.listed * BYTES_OF_A_MEMBER:
        raise ArchiveError(f"the archive lists more than {limits.listed:,} members")


def _check_name(info, name):
    """Raise ArchiveError if the name of a zip file's member, with slashes, is hostile."""
    shown = repr(name[:80])
    if "\0" in info.orig_filename or re.search(r"[\0-\x1f\x7f]", name):
        raise ArchiveError(f"the archive has a name with a control character, {shown}")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise ArchiveError(f"the archive has a path that leads out of it, {shown}")


def _check_kind(info):
    """Raise ArchiveError if a member of a zip file is neither a file nor a folder."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"the archive has a link or device in it, {info.filename[:80]!r}")


def contents(members, wanted, limits):
    """The bytes of some members of a zip file, new name -> bytes.

    Args:
        members: what open_zip returns.
        wanted: name of a member -> new name.
        limits: the policy's ArchiveLimits; they hold whatever the members' headers say.
    """
    _check_count(wanted, limits)
    total = 0
    files = {}
    for member, name in wanted.items():
        archive, info = members[member]
        total += info.file_size
        _check_size(name, info.file_size, total, limits)
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > MB and ratio > limits.ratio:
            raise ArchiveError(f"{name} unpacks to {ratio:,.0f} times its size")
        plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if info.flag_bits & 1 or not plain:
            raise ArchiveError(
                f"{name} is encrypted or packed in an unusual way: pack it with make zip"
            )
        try:
            with archive.open(info) as file:
                files[name] = file.read(info.file_size + 1)
        except ZIP_ERRORS as error:
            raise ArchiveError(f"{name} is damaged in the archive ({str(error)[:80]})") from None
    return files


def _check_count(wanted, limits):
    """Raise ArchiveError if more files would be read than the policy allows."""
    if len(wanted) > limits.members:
        raise ArchiveError(f"the archive has more than {limits.members:,} members to be read")


def _check_size(name, size, total, limits):
    """Raise ArchiveError if a file, or all files up to it, are larger than the limits."""
    if size > limits.one_file * MB:
        raise ArchiveError(
            f"{name} has {size / MB:,.0f} MB; the limit is {limits.one_file} MB for a file: run "
            "make zip, which leaves out what is not needed"
        )
    if total > limits.unpacked * MB:
        raise ArchiveError(
            f"the files up to {name} have {total / MB:,.0f} MB; the limit is {limits.unpacked} MB "
            "for all that is read: run make zip, which leaves out what is not needed"
        )


def read_folder(folder, patterns, limits):
    """The files of an unpacked submission that match `patterns`, name -> bytes.

    No link is followed. Raises ArchiveError at links, devices and files that are too large.
    """
    tops = {pattern.split("/")[0] for pattern in patterns}
    deepest = max(pattern.count("/") for pattern in patterns)
    wanted = {}
    for parent, folders, names in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        if depth == 0:
            folders[:] = [name for name in folders if name in tops]
        if depth >= deepest:
            folders.clear()
        folders.sort()
        for file in (Path(parent, name) for name in names):
            name = file.relative_to(folder).as_posix()
            if matches_patterns(name, patterns):
                wanted[name] = name
    return _read_files(folder, wanted, limits)


def list_folder(folder, limits):
    """The names of the files below a folder, a list. No link is followed.

    Raises ArchiveError if there are too many.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files]
        if len(names) > limits.listed:
            raise ArchiveError(f"the folder has more than {limits.listed:,} files")
    return names


def folder_contents(folder, wanted, limits):
    """The bytes of some files below a folder, new name -> bytes; `wanted` is name -> new name.

    Raises ArchiveError at too many files, and as `_read_files`.
    """
    _check_count(wanted, limits)
    return _read_files(folder, wanted, limits)


def _read_files(folder, wanted, limits):
    """The bytes of some files below a folder, new name -> bytes; `wanted` is name -> new name.

    Any number of files is read. Raises ArchiveError at links, devices and files that are too large.
    """
    total = 0
    files = {}
    for member, name in wanted.items():
        file = Path(folder, member)
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError(f"the folder has a link or device in it, {member}")
        total += status.st_size
        _check_size(name, status.st_size, total, limits)
        files[name] = file.read_bytes()
    return files
