"""Archives are read as data: hostile ones are refused, and nothing in them is run."""

import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest
from forgeries import BOOK, LEDGER, POLICY, pack
from grading_fixtures import judged
from helpers import ROOT

from grading import records, run_record, verify
from grading.archive import ArchiveError, matches_patterns, read
from grading.policy import TimeLimit

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

RUN = "checkpoints/fast-0"


def member(name, mode=0o644 | stat.S_IFREG):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def lying(path, files):
    """A zip file whose headers say that a file is smaller than it is."""
    data = pack(path, {**files, LEDGER: b" " * 5_000_000}, zipfile.ZIP_DEFLATED).read_bytes()
    path.write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    return path


def many(path, files):
    return pack(path, {**files, **{f"figures/{number}.png": b"" for number in range(2_000)}})


def twice(path, files):
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        for name in (*files, BOOK):
            archive.writestr(name, files[name])
    return path


def changed(name, data, compression=zipfile.ZIP_DEFLATED):
    return lambda path, files: pack(path, {**files, name: data}, compression)


def more(*members):
    return lambda path, files: pack(path, {**files, **dict.fromkeys(members, b"x")})


CELL = json.dumps(
    {
        "cells": [{"cell_type": "markdown", "metadata": {}, "source": "<!--" * 20_000}],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
).encode()
COMMENTS = {"cell_type": "markdown", "metadata": {}, "source": "<!--" * 12_000}
EMPTY = {"cell_type": "markdown", "metadata": {}, "source": ""}


def notebook_with(*cells):
    """A notebook of cells, as JSON in bytes."""
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(content).encode()


HOSTILE = {
    "notebook_of_many_cells": (
        changed(BOOK, notebook_with(*100_000 * [EMPTY]), zipfile.ZIP_STORED),
        "has more than 1,000 cells",
    ),
    "notebook_of_comments_without_end": (
        changed(BOOK, notebook_with(*40 * [COMMENTS]), zipfile.ZIP_STORED),
        "has 480,000 comments (<!--) that do not end (-->)",
    ),
    "no_zip": (lambda path, files: path.write_bytes(b"MZ" * 99) and path, "is not a zip file"),
    "empty": (lambda path, files: pack(path, {}), "has no notebooks/assignment2.ipynb"),
    "path_upwards": (more("../../.bashrc"), "a path that leads out of it"),
    "path_absolute": (more("/etc/cron.d/x"), "a path that leads out of it"),
    "path_absolute_behind_a_dot": (more(".//etc/passwd"), "a path that leads out of it"),
    "path_with_a_drive_behind_a_dot": (more("./C:/x"), "a path that leads out of it"),
    "path_of_windows": (more("figures\\..\\x.png"), "a path that leads out of it"),
    "link": (
        lambda path, files: pack(
            path, {**files, member("figures/x.png", 0o777 | stat.S_IFLNK): b"/etc/passwd"}
        ),
        "a link or device in it",
    ),
    "device": (
        lambda path, files: pack(
            path, {**files, member("figures/x.png", 0o666 | stat.S_IFCHR): b""}
        ),
        "a link or device in it",
    ),
    "name_twice": (twice, "a name twice"),
    "name_twice_in_other_letters": (more("Notebooks/Assignment2.ipynb"), "a name twice"),
    "bomb": (changed(f"{RUN}/losses.csv", b"0" * 30_000_000), "times its size"),
    "large_file": (changed(f"{RUN}/losses.csv", b"0" * 46_000_000), "limit is 45 MB for a file"),
    "many_members": (many, "more than 1,000 members"),
    "headers_that_lie": (lying, "is damaged"),
    "packed_unusually": (changed(LEDGER, b"{}", zipfile.ZIP_BZIP2), "packed in an unusual way"),
    "two_notebooks": (
        lambda path, files: pack(
            path, {f"{part}/{name}": data for part in "ab" for name, data in files.items()}
        ),
        "two notebooks",
    ),
    "json_without_end": (changed(LEDGER, b"[" * 500_000), "is not JSON, or damaged"),
    "json_of_many_values": (
        changed(LEDGER, b"[" + b"{}," * 600_000 + b"0]", zipfile.ZIP_STORED),
        "more than a million values",
    ),
    "json_with_a_key_twice": (
        changed(LEDGER, b'{"claims": {}, "claims": {}}'),
        "gives the key 'claims' twice: hand it in as your run wrote it",
    ),
    "number_of_many_digits": (changed(LEDGER, b"9" * 100_000), "is not JSON, or damaged"),
    "notebook_of_one_long_cell": (changed(BOOK, CELL), "a cell of more than 50,000 characters"),
    "notebook_of_no_kind": (
        changed(BOOK, b'{"nbformat": 4, "cells": [7]}'),
        "is not a valid notebook",
    ),
    "tensors_with_a_large_header": (
        changed(f"{RUN}/predictions.safetensors", (10**9).to_bytes(8, "little") + b"{}"),
        "a header of more than 1 MB",
    ),
    "losses_of_words": (
        changed(f"{RUN}/losses.csv", b"__import__('os')\n"),
        "losses.csv, line 1: \"__import__('os')\" is not a number: copy it anew, or",
    ),
    "losses_not_finite": (
        changed(f"{RUN}/losses.csv", b"1\nnan\n"),
        "losses.csv, line 2: 'nan' is not finite",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive(world, no_paper, tmp_path, name):
    make, words = HOSTILE[name]
    start = time.monotonic()
    try:
        verdict = verify.judge(
            read(make(tmp_path / "a.zip", world.files), world.policy), world.policy
        )
        assert verdict.code and any(words in finding.message for finding in verdict.findings), (
            verdict.findings
        )
    except ArchiveError as error:
        assert words in str(error)
    assert time.monotonic() - start < 60 and os.listdir(tmp_path) == ["a.zip"]


def test_an_unforeseen_fault_is_no_pass(world, monkeypatch):
    monkeypatch.setattr(records, "load_runs", lambda *_: 1 / 0)
    assert (
        judged(world).code == 2
        and "the check itself failed (ZeroDivisionError" in judged(world).reason
    )


def test_judging_has_an_end(world, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(verify, "read_policy", lambda: replace(world.policy, verdict=TimeLimit(1)))
    monkeypatch.setattr(run_record, "compare_with_record", lambda *_: time.sleep(30))
    with pytest.raises(SystemExit) as ended:
        verify.main(pack(tmp_path / "a.zip", world.files), "")
    assert ended.value.code == 2 and "took more than 1 seconds" in capsys.readouterr().out


def test_a_folder_is_read_without_following_links(world, tmp_path):
    for name, data in world.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".git").mkdir()
    assert read(tmp_path, world.policy).files == world.files
    (tmp_path / "figures" / "x.png").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="a link or device in it, figures/x.png"):
        read(tmp_path, world.policy)
    (tmp_path / "figures" / "x.png").unlink()
    os.mkfifo(tmp_path / "figures" / "x.png")
    with pytest.raises(ArchiveError, match="a link or device in it"):
        read(tmp_path, world.policy)


NAMES = {
    "utils.py": True,
    "training/__init__.py": True,
    "analysis/published.csv": True,
    "figures/fig-loss.pdf": True,
    "checkpoints/fast-0/run.json": True,
    "my_module.py": True,
    "analysis/__pycache__/ledger.py": False,
    "__MACOSX/utils.py": False,
    "training/.hidden.py": False,
    "report/twocolumn/index.py": False,
    "checkpoints/run.json": False,
    "data/batch.bin": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_only_the_files_of_a_submission_are_read(name):
    assert matches_patterns(name, POLICY.files.patterns) is NAMES[name]


RUNS_CODE = "import pathlib; pathlib.Path({!r}).touch()"


def test_nothing_of_an_archive_is_run_by_the_command(world, tmp_path):
    """The command ends by its verdict, whatever modules and configuration an archive brings."""
    trace = tmp_path / "trace"
    code = RUNS_CODE.format(str(trace)).encode()
    names = (
        "html.py",
        "traitlets.py",
        "sitecustomize.py",
        "usercustomize.py",
        "conftest.py",
        "utils.py",
        "training/__init__.py",
        "report/html.py",
        "report/exporter.py",
        "report/config.py",
        "grading/verify.py",
        "tools/notebook_definitions.py",
        "notebooks/utils.py",
        "x.pth",
        ".venv/lib/x.pth",
        "setup.py",
        "__pycache__/utils.cpython-311.pyc",
    )
    make = f"all verify:\n\ttouch {trace}\n".encode()
    files = {
        **world.files,
        **dict.fromkeys(names, code),
        "Makefile": make,
        ".git/config": make,
        "requirements.txt": b"./evil.whl\n",
        "report/results.json": b"{",
    }
    path, cwd = pack(tmp_path / "a.zip", files), tmp_path / "cwd"
    cwd.mkdir()
    zipfile.ZipFile(path).extractall(cwd)  # as somebody who looks around in it before
    own = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}  # the grader's copy, from any folder
    done = subprocess.run(
        [sys.executable, "-m", "grading.verify", str(path)],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={"PATH": os.environ["PATH"]} | own,
    )
    assert done.returncode == 2 and "is not JSON, or damaged" in done.stdout, (
        done.stdout + done.stderr
    )
    assert "Traceback" not in done.stderr and not trace.exists()
