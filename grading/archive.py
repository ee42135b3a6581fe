"""A submission read as data: nothing of it is unpacked, imported, unpickled or run, and its names lead nowhere else.

Whatever is wrong raises Refused with one sentence.
"""
import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import nbformat
from nbformat.v4.rwbase import rejoin_lines
from safetensors import SafetensorError
from safetensors.torch import load

MB = 1_000_000


class Refused(Exception):
    """A submission, or a file of it, that cannot be judged: one sentence."""


@dataclass
class Submission:
    """The files of a submission that the policy reads, name -> bytes."""
    name: str
    files: dict
    limits: dict  # the policy's, of archives

    def bytes(self, name):
        """A file's content; Refused where the submission lacks it."""
        if name not in self.files:
            raise Refused(f"{name} is missing")
        return self.files[name]

    def hash(self, name):
        """SHA-256 of a file, "missing" where there is none: a name is looked up among the submission's files only."""
        return hashlib.sha256(self.files[name]).hexdigest() if name in self.files else "missing"

    def json(self, name):
        """A JSON file's content, with finite numbers only."""
        return parse_json(self.bytes(name), name)

    def numbers(self, name, header=""):
        """The rows of a CSV file, lists of finite floats; its first line has to be `header`, if one is given."""
        lines = decoded(self.bytes(name), name).splitlines()
        if header and lines[:1] != [header]:
            raise Refused(f"{name} does not start with the line {header}")
        if len(lines) > self.limits["rows"]:
            raise Refused(f"{name} has {len(lines):,} lines, more than any run writes")
        try:
            rows = [[float(value) for value in line.split(",")] for line in lines[bool(header):]]
        except ValueError:
            raise Refused(f"{name} holds something that is no number") from None
        if not rows or not all(math.isfinite(value) for row in rows for value in row):
            raise Refused(f"{name} is empty or holds numbers that are not finite")
        if {len(row) for row in rows} != {len(header.split(","))}:
            raise Refused(f"{name} has lines of another number of columns")
        return rows

    def tensors(self, name):
        """The tensors of a safetensors file, name -> tensor; none of them holds NaN or infinity."""
        data = self.bytes(name)
        if int.from_bytes(data[:8], "little") > MB:
            raise Refused(f"{name} has a header of more than 1 MB")
        try:
            tensors = load(data)
            finite = all(tensor.isfinite().all() for tensor in tensors.values())
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise Refused(f"{name} is no safetensors file, or a damaged one ({type(error).__name__})") from None
        if not finite:
            raise Refused(f"{name} holds numbers that are not finite")
        return tensors

    def notebook(self, name):
        """A Jupyter notebook of format 4 as nbformat's node, its sources joined to strings."""
        content = self.json(name)
        if not isinstance(content, dict) or content.get("nbformat") != 4 or not isinstance(content.get("cells"), list):
            raise Refused(f"{name} is no notebook of format 4: open and save it in Jupyter")
        for cell in content["cells"]:  # editors write ids of other kinds, and twice; nothing here needs them
            if isinstance(cell, dict):
                cell.pop("id", None)
                if len("".join(map(str, cell.get("source", "")))) > 50_000:  # time for expressions that search it
                    raise Refused(f"{name} has a cell of more than 50,000 characters")
        content["nbformat_minor"] = 4
        try:
            notebook = rejoin_lines(nbformat.from_dict(content))
            nbformat.validate(notebook, relax_add_props=True)
        except Exception as error:  # whatever nbformat trips over
            raise Refused(f"{name} is no valid notebook ({str(error).splitlines()[0][:120]})") from None
        return notebook


# --------------------------------------------------------------------------------------------------------- parsing

def decoded(data, name):
    """The text of a file in UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refused(f"{name} is no text in UTF-8") from None


def parse_json(data, name):
    """JSON without NaN, Infinity and numbers too large for a float, without two values of one key."""
    def finite(text):
        if not math.isfinite(float(text)):
            raise Refused(f"{name} holds {text[:20]}, which is no number")
        return float(text)

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise Refused(f"{name} gives a key twice")
        return dict(pairs)
    if sum(map(data.count, (b"{", b"[", b","))) > 1_000_000:  # each of them takes a hundred bytes of memory and more
        raise Refused(f"{name} has more than a million values")
    try:
        return json.loads(decoded(data, name), parse_constant=finite, parse_float=finite, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is no JSON, or damaged ({str(error)[:80]})") from None


# --------------------------------------------------------------------------------------------------------- reading

def read(path, policy):
    """The Submission in the zip file or folder `path`; Refused where it breaks a rule of the policy."""
    path, files = Path(path), policy["files"]
    patterns = [*(files[key] for key in ("notebook", "ledger", "paper", "references")), *files["read"]]
    if path.is_dir():
        return Submission(path.name, read_folder(path, patterns, policy["archive"]), policy["archive"])
    if not path.is_file():
        raise Refused(f"{path} is neither a zip file nor a folder")
    if path.stat().st_size > policy["archive"]["megabytes"] * MB:
        raise Refused(f"the archive has {path.stat().st_size / MB:,.0f} MB, more than the policy reads")
    members = open_zip(path.read_bytes(), policy["archive"])
    names = [name for name in members if name.endswith(files["notebook"]) and name.count("/") <= 3]
    starts = sorted((name[:-len(files["notebook"])] for name in names), key=lambda start: start.count("/"))
    starts = [start for start in starts if not start or start.endswith("/")]
    if not starts:
        raise Refused(f"the archive has no {files['notebook']}, at its top or in one folder")
    if len(starts) > 1 and starts[0].count("/") == starts[1].count("/"):
        raise Refused(f"the archive has two notebooks, in {starts[0]} and {starts[1]}: hand in one")
    wanted = {name: name[len(starts[0]):] for name in members
              if name.startswith(starts[0]) and allowed(name[len(starts[0]):], patterns)}
    return Submission(path.name, contents(members, wanted, policy["archive"]), policy["archive"])


def allowed(name, patterns):
    """Whether a name matches one of the patterns, part by part."""
    parts = name.split("/")
    return not any(part.startswith((".", "__")) for part in parts) and any(
        pattern.count("/") == name.count("/") and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns)


def open_zip(data, limits):
    """The members of a zip file, name -> (ZipFile, ZipInfo), folders left out; all names and sizes are checked."""
    end = len(data) - 22 if data[-22:-18] == b"PK\5\6" and data[-2:] == b"\0\0" else data.rfind(b"PK\5\6")
    if end < 0 or data[max(end - 20, 0):end].startswith(b"PK\6\7"):  # Zip64 is for what is larger than any submission
        raise Refused("the archive is no zip file: hand in the file that make zip writes")
    if int.from_bytes(data[end + 10:end + 12], "little") > limits["members"] or (
            int.from_bytes(data[end + 12:end + 16], "little") > limits["members"] * 1000):
        raise Refused(f"the archive has more than {limits['members']:,} members")
    members, seen = {}, set()
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, UnicodeError, IndexError) as error:
        raise Refused(f"the archive is a damaged zip file ({str(error)[:80]})") from None
    for info in archive.infolist():
        name = info.filename
        told = repr(name[:80])
        if info.orig_filename != name or re.search(r"[\0-\x1f\x7f\\]", name):
            raise Refused(f"the archive has a name with a control character or backslash, {told}")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            raise Refused(f"the archive has a path that leads out of it, {told}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(f"the archive has a link or device in it, {told}")
        if os.path.normpath(name).casefold() in seen:
            raise Refused(f"the archive has a name twice, {told}")
        seen.add(os.path.normpath(name).casefold())
        if not info.is_dir():
            members[name] = archive, info
    return members


def contents(members, wanted, limits):
    """The bytes of the members `wanted` (name -> new name), none larger than the limits, whatever their headers say."""
    total, found = 0, {}
    for name, new in wanted.items():
        archive, info = members[name]
        total += info.file_size
        if info.file_size > limits["one_file"] * MB or total > limits["unpacked"] * MB:
            raise Refused(f"{new} unpacks to {info.file_size / MB:,.0f} MB, {total / MB:,.0f} with what comes before: "
                          "more than the policy reads")
        if info.file_size > MB and info.file_size > limits["ratio"] * max(info.compress_size, 1):
            raise Refused(f"{new} unpacks to {info.file_size / max(info.compress_size, 1):,.0f} times its size")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(f"{new} is encrypted or packed in an unusual way: pack it with make zip")
        try:
            with archive.open(info) as file:
                found[new] = file.read(info.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
            raise Refused(f"{new} is damaged in the archive ({str(error)[:80]})") from None
    return found


def read_folder(folder, patterns, limits):
    """The files of an unpacked submission that match `patterns`, name -> bytes; no link is followed."""
    found, total, tops = {}, 0, {pattern.split("/")[0] for pattern in patterns}
    deepest = max(pattern.count("/") for pattern in patterns)
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if (depth or name in tops) and depth < deepest)
        for name in (Path(place, name).relative_to(folder).as_posix() for name in files):
            if allowed(name, patterns):
                status = os.lstat(folder / name)
                total += status.st_size
                if not stat.S_ISREG(status.st_mode):
                    raise Refused(f"the folder has a link or device in it, {name}")
                if status.st_size > limits["one_file"] * MB or total > limits["unpacked"] * MB:
                    raise Refused(f"{name} has {status.st_size / MB:,.0f} MB, {total / MB:,.0f} with what comes before "
                                  "it: more than the policy reads")
                found[name] = (folder / name).read_bytes()
    return found
