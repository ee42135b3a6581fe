"""make zip and make colab: the packed files work elsewhere; unfit submissions are refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest
from helpers import (
    LEFT_OUT,
    NOTEBOOK,
    POLICY,
    ROOT,
    RUN,
    change_notebook,
    change_results,
    needs_weights,
)

from grading.archive import Submission
from report.freshness import MIME_TYPE, code_hash, file_hash, results_hash
from tools import packing, run_notebook

NAMES = ("Ada Lovelace", "1815", "London", "ada@example.org", "ada")
SIGNED = dict(zip(packing.PLACEHOLDERS, NAMES))


def threads():
    """The limit on threads that `make test` sets, for processes with few variables."""
    return {name: os.environ[name] for name in ["OMP_NUM_THREADS"] if name in os.environ}


def run_packing(root, job, **environment):
    """Do one job of tools.packing in the project `root`, in a process with few variables."""
    return subprocess.run(
        [sys.executable, "-m", "tools.packing", job],
        capture_output=True,
        encoding="utf-8",
        cwd=root,
        env={"PATH": "/usr/bin:/bin", **threads(), **environment},
    )


def sign(text):
    """`text` with somebody's name in the place of the template's."""
    for old, new in SIGNED.items():
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A copy of the submission as if somebody had run it under their name; its paper is older."""
    folder = tmp_path_factory.mktemp("hand in")
    root = shutil.copytree(ROOT, folder / "project", ignore=LEFT_OUT)

    def sign_cells(cells):
        hashes = cells["ledger"].outputs[0].data[MIME_TYPE]["cells"]
        for name in ("setup", "parameters", "front-matter"):
            cell = cells[name]
            index = hashes.index(code_hash(cell.source))
            cell.source = sign(cell.source)
            cell.outputs = nbformat.from_dict(json.loads(sign(json.dumps(cell.outputs))))
            hashes[index] = code_hash(cell.source)
        change_results(root, lambda results: results["code"].update(cells=hashes))

    def sign_metadata(notebook):
        notebook.metadata = nbformat.from_dict(json.loads(sign(json.dumps(notebook.metadata))))

    change_notebook(root, sign_cells, sign_metadata)
    return root


@pytest.fixture(scope="module")
def with_paper(signed, tmp_path_factory):
    """A copy of the signed submission with its own paper."""
    root = shutil.copytree(signed, tmp_path_factory.mktemp("with paper") / "project")
    config = str(root / "report" / "config.py")
    command = [sys.executable, "-m", "nbconvert", "--config", config, str(root / NOTEBOOK)]
    subprocess.run(command, check=True, capture_output=True)
    return root


@pytest.fixture
def project(signed, tmp_path, monkeypatch):
    """A copy of the signed submission; tools.packing of this process works in it."""
    root = shutil.copytree(signed, tmp_path / "project")
    monkeypatch.setattr(packing, "ROOT", root)
    monkeypatch.setattr(packing, "NOTEBOOK", root / NOTEBOOK)
    monkeypatch.setattr(packing, "BUILD", root / "build")
    return root


@pytest.fixture
def refusal(monkeypatch):
    """A function that does one job of tools.packing and returns the sentence that it exits with."""

    def refused(job):
        monkeypatch.setattr(sys, "argv", ["packing", job])
        with pytest.raises(SystemExit) as stop:
            packing.main()
        # Python prints a text and exits with 1
        assert isinstance(stop.value.code, str) and "Traceback" not in stop.value.code
        return stop.value.code

    return refused


def test_zip_refuses_placeholders(project, refusal):
    def unsign(cells):
        cells["front-matter"].outputs[0].data["text/markdown"] = "Student name"

    change_notebook(project, unsign)
    sentence = refusal("zip")
    assert "Student name" in sentence and "placeholders" in sentence


def test_zip_refuses_questions_without_an_answer(project, refusal):
    def ask(cells):
        cells["discussion"].source += "\n\n*YOUR TEXT HERE: What follows?*"

    change_notebook(project, ask)
    sentence = refusal("zip")
    assert re.match(r"your text is missing in cell \d+ \(Discussion\) of assignm", sentence)
    assert "Run make paper" in sentence


def test_zip_refuses_an_edited_notebook(project, refusal):
    def edit(cells):
        cells["recipe"].source += "\n# more"

    change_notebook(project, edit)
    assert re.search(r"cell \d+ \(.*\) changed since", refusal("zip"))
    assert not (project / "build" / "submission.zip").exists()


def test_only_the_weights_of_the_accuracy_claimed_are_kept_if_all_are_too_large(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    names = ("mine/run.json", "mine/weights.safetensors", "other/weights.safetensors")
    files = [tmp_path / "checkpoints" / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    assert packing.without_other_weights(files, "mine") == files[:2]
    said = capsys.readouterr().out
    assert said.startswith("checkpoints/other/weights.safetensors is left out") and "mine" in said


@pytest.mark.parametrize("weights", ["1", "0"])
def test_the_verdict_is_on_the_files_that_are_packed(tmp_path, monkeypatch, weights):
    """The receipt describes the archive: weights that are left out are not judged."""
    ledger = POLICY.files.ledger
    claims = {"claims": {"test_accuracy": {"source": "mine"}}}
    files = {
        ledger: json.dumps(claims).encode(),
        "checkpoints/mine/run.json": b"{}",
        "checkpoints/mine/weights.safetensors": os.urandom(20_000),
        "checkpoints/other/run.json": b"{}",
        "checkpoints/other/weights.safetensors": os.urandom(20_000),
        "checkpoints/not-named/run.json": b"{}",
    }
    paths = []
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if "not-named" not in name:
            paths.append(path)
    cell = nbformat.v4.new_code_cell('REPOSITORY = "https://github.com/ada/my-net"')
    judged = []
    receipts = []
    substitutes = {
        "ROOT": tmp_path,
        "BUILD": tmp_path / "build",
        "LIMIT_WITH_WEIGHTS": 0.03,
        "read": lambda *_: Submission("a", files, POLICY.archive),
        "read_notebook": lambda _: nbformat.v4.new_notebook(cells=[cell]),
        "check_freshness": lambda *_: None,
        "check_placeholders": lambda: None,
        "submission_files": lambda _, weights: [
            path for path in paths if packing.is_packed(path, weights)
        ],
        "judge_submission": lambda submission, _: judged.extend(submission.files),
        "write_receipt": lambda verdict, archive, policy: receipts.append(archive),
    }
    for name, substitute in substitutes.items():
        monkeypatch.setattr(packing, name, substitute)
    monkeypatch.setenv("WEIGHTS", weights)
    packing.make_zip()
    archive = tmp_path / "build" / "submission.zip"
    packed = [name.removeprefix("my-net/") for name in zipfile.ZipFile(archive).namelist()]
    assert sorted(packed) == sorted(judged) and receipts == [archive]
    expected = ["checkpoints/mine/weights.safetensors"] if weights == "1" else []
    assert [name for name in packed if name.endswith("weights.safetensors")] == expected
    assert os.listdir(archive.parent) == ["submission.zip"]


def test_a_notebook_that_was_not_run_is_refused(project, refusal):
    def remove_outputs(cells):
        cells["ledger"].outputs = []

    change_notebook(project, remove_outputs)
    assert "has not been run to its end. Run make submission." in refusal("collect")
    packing.make_colab()  # which starts a notebook
    assert (project / "build" / "assignment2_colab.ipynb").stat().st_size > 1e5


def test_collect_copies_new_runs_into_checkpoints(project, refusal, capsys, monkeypatch):
    monkeypatch.delenv("RUNS", raising=False)
    stored = project / "checkpoints" / RUN
    runs = project / "build" / "checkpoints"
    files = {file.name: file.read_bytes() for file in stored.iterdir()}
    shutil.copytree(stored, runs / f"{RUN}-11111111")
    stored.rename(runs / f"{RUN}-22222222")
    # a run of that name which is not the notebook's
    (runs / f"{RUN}-11111111" / "losses.csv").write_text("1\n", encoding="utf-8")
    packing.collect_runs()
    assert f"checkpoints/{RUN}: copied from {runs / RUN}-22222222" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == files
    packing.collect_runs()
    assert capsys.readouterr().out == ""  # nothing is left to do
    shutil.rmtree(stored)
    shutil.rmtree(runs)
    assert f"the run {RUN}, which the notebook rests on, is neither in" in refusal("collect")


def test_a_run_that_cannot_be_replaced_stays_whole(tmp_path, monkeypatch):
    stored = tmp_path / "checkpoints" / "resnet"
    stored.mkdir(parents=True)
    (stored / "run.json").write_text("old", encoding="utf-8")
    trained = tmp_path / "run.json"
    trained.write_text("new", encoding="utf-8")
    with pytest.raises(packing.PackingError, match="resnet cannot be replaced .* run make submiss"):
        packing.replace_run(stored, [trained, tmp_path / "missing"])
    assert (stored / "run.json").read_text(encoding="utf-8") == "old"
    packing.replace_run(stored, [trained])
    assert (stored / "run.json").read_text(encoding="utf-8") == "new"
    assert [path.name for path in stored.parent.iterdir()] == ["resnet"]


@pytest.mark.tex
@pytest.mark.sandbox
@pytest.mark.slow
def test_zip_refuses_what_verify_contradicts(with_paper, tmp_path):
    """Numbers of other weights: every hash fits, and one number is not the run's."""
    root = shutil.copytree(with_paper, tmp_path / "project")
    record = {}

    def forge(results):
        results["claims"]["test_accuracy"]["value"] += 3
        results["code"]["results_hash"] = results_hash(results)
        record.update(results["code"])

    def forge_record(cells):
        cells["ledger"].outputs[0].data[MIME_TYPE] = record

    change_results(root, forge)
    change_notebook(root, forge_record)
    done = run_packing(root, "zip")
    words = (
        r"make verify contradicts \d+ of the submission's claims; the first: "
        r"the paper claims test_accuracy = "
    )
    assert done.returncode == 1 and re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "build" / "submission.zip").exists()


def verify_elsewhere(folder):
    """Run make verify's command in a folder that holds an unpacked submission and no images."""
    command = [sys.executable, "-m", "grading.verify"]
    bare = {"PATH": os.environ["PATH"], **threads()}
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", env=bare)


def compile_elsewhere(folder):
    """Typeset an unpacked paper as Overleaf does: from its folder, with results in another one."""
    command = ["latexmk", "-cd", "-norc", "-xelatex", "-interaction=batchmode", "-jobname=output"]
    command += [f"-outdir={folder}", str(folder / "report" / "report.tex")]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


@pytest.mark.tex
@pytest.mark.sandbox
@pytest.mark.slow
@needs_weights
def test_zip_verifies_and_compiles_elsewhere(with_paper, tmp_path):
    done = run_packing(with_paper, "zip")
    assert done.returncode == 0, done.stderr
    file = with_paper / "build" / "submission.zip"
    assert file.stat().st_size < 40e6
    receipt = (with_paper / "build" / "receipt.html").read_text(encoding="utf-8")
    assert file_hash(file) in receipt and "<td>block</td>" in receipt
    zipfile.ZipFile(file).extractall(tmp_path)
    folder = tmp_path / "resnet-cifar10"  # the archive's only folder
    assert (folder / "checkpoints" / RUN / "weights.safetensors").exists()
    done = verify_elsewhere(folder)
    # not verifiable: there are no images
    assert done.returncode == 2 and "Contradicted" not in done.stdout, done.stdout + done.stderr
    done = compile_elsewhere(folder)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "output.pdf").exists()
    assert "undefined" not in (folder / "output.log").read_text(errors="replace", encoding="utf-8")


def test_an_archive_holds_what_its_modules_import(tmp_path):
    """Of the runs those that the notebook names, of the study nothing, of the packages all."""
    notebook = run_notebook.read_notebook(ROOT / NOTEBOOK)
    files = packing.submission_files(notebook, weights=False)
    packing.write_archive(tmp_path / "a.zip", files, "project", ROOT)
    assert (tmp_path / "a.zip").stat().st_size < 5e6
    names = set(zipfile.ZipFile(tmp_path / "a.zip").namelist())
    for package in ("training", "analysis", "report", "grading", "tools"):
        assert f"project/{package}/__init__.py" in names
    assert f"project/checkpoints/{RUN}/run.json" in names
    assert not any("study" in name for name in names)
    assert not any(name.endswith("weights.safetensors") for name in names)


@pytest.mark.parametrize(
    "line",
    [
        'REPOSITORY = "https://github.com/ada/my-net"',
        "REPOSITORY = 'https://github.com/ada/my-net'",
        'REPOSITORY="https://github.com/ada/my-net/"',
        "REPOSITORY = 'https://github.com/ada/my-net.git'  # mine",
    ],
)
def test_the_address_of_a_repository_is_read_in_any_form(line):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"import os\n{line}\n")])
    assert packing.repository_name(notebook) == "my-net"


# make colab, in a Python with Colab's versions and a substitute for google.colab

COLAB = (
    "pandas==2.2.3",
    "ipython==7.34.0",
    "ipykernel==6.17.1",
    "jupyter_client==7.4.9",
    "nbconvert==7.17.1",
)

GOOGLE_COLAB = """
from pathlib import Path
import json, os

def blocking_request(what, timeout_sec=None):
    assert what == "get_ipynb"
    return {"ipynb": json.loads(Path(os.environ["NOTEBOOK"]).read_text())}

def download(path):
    assert Path(path).read_bytes().startswith(b"%PDF")
    print("downloaded", Path(path).name)

def mount(path):
    (Path(path) / "MyDrive").mkdir(parents=True)
"""

RUN_AND_PRINT = """
import sys

import IPython
import nbformat
import pandas
from nbclient import NotebookClient

print("IPython", IPython.__version__, "pandas", pandas.__version__)
notebook = nbformat.read(sys.argv[1], 4)
resources = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=1800, resources=resources).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""), end="")
"""


@pytest.fixture
def colab_python(tmp_path):
    """A Python with Colab's versions of what is around the notebook; the rest is this one's."""
    folder = tmp_path / "colab"
    python = folder / "bin" / "python"
    # this environment's pip installs: a new one would have to be unpacked first
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    options = ["--quiet", "--no-compile", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *options, *COLAB], capture_output=True, encoding="utf-8")
    if done.returncode:
        pytest.skip(f"pip cannot install Colab's versions here: {done.stderr[-200:]}")
    here = sysconfig.get_path("purelib", vars={"base": sys.prefix})
    there = sysconfig.get_path("purelib", vars={"base": str(folder)})
    # packages of this environment are found after Colab's
    Path(there, "others.pth").write_text(here + "\n", encoding="utf-8")
    return str(python)


@pytest.mark.tex
@pytest.mark.slow
def test_colab_notebook_runs_alone_and_offers_its_paper(
    tmp_path, colab_python, trained_on_digits
):
    done = run_packing(ROOT, "colab")
    assert done.returncode == 0, done.stderr
    file = ROOT / "build" / "assignment2_colab.ipynb"
    notebook = nbformat.read(file, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    package = tmp_path / "substitute" / "google" / "colab"
    package.mkdir(parents=True)
    for name in ("_message", "files", "drive"):
        (package / f"{name}.py").write_text(GOOGLE_COLAB, encoding="utf-8")
    (package / "__init__.py").touch()
    content = tmp_path / "content"
    content.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path / "substitute"),
        # There is no browser: Colab's page is taken to show the submitted notebook.
        "NOTEBOOK": str(ROOT / NOTEBOOK),
        "EPOCHS": "1",
        "DATASET": "digits",
        "RUNS": str(tmp_path / "runs"),
        "HOME": str(tmp_path),
        **threads(),
    }
    command = [colab_python, "-c", RUN_AND_PRINT, str(file), str(content)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "IPython 7.34.0 pandas 2.2.3" in done.stdout
    assert "downloaded report.pdf" in done.stdout and "Epoch [1/1], Step [22/22]" in done.stdout
    assert list((tmp_path / "runs").glob("resnet-*/run.json"))
    shutil.copytree(tmp_path / "runs", trained_on_digits.with_suffix(".new"))
    os.replace(trained_on_digits.with_suffix(".new"), trained_on_digits)
    assert (content / "resnet-cifar10" / "build" / "results.json").exists()


def test_the_repository_is_one_setting():
    sources = "".join(cell.source for cell in nbformat.read(ROOT / NOTEBOOK, 4).cells)
    assert sources.count("/resnet-cifar10") == 1
    for page in (ROOT / "README.md", ROOT / "CITATION.cff", *(ROOT / "docs").glob("*.md")):
        if page.exists():
            assert "github.com" not in page.read_text(encoding="utf-8"), page
