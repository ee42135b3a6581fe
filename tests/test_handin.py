"""make zip and make colab: what is packed works elsewhere, and what should not be handed in is refused."""
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
from helpers import LEFT_OUT, NOTEBOOK, ROOT, RUN, change_notebook, change_results, needs_weights

from report.freshness import MIME_TYPE, code_hash, results_hash
from tools.handin import PLACEHOLDERS

STUB = """
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


SIGNED = dict(zip(PLACEHOLDERS, ("Ada Lovelace", "1815", "London", "ada@example.org", "ada")))


def handin(root, what, **environment):
    return subprocess.run([sys.executable, "-m", "tools.handin", what], capture_output=True, text=True, cwd=root,
                          env={"PATH": "/usr/bin:/bin"} | environment)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A copy of the submission with somebody's name in it, as if it had been run with it, and its paper."""
    root = shutil.copytree(ROOT, tmp_path_factory.mktemp("hand in") / "project", ignore=LEFT_OUT)

    def sign(cells):
        ran = cells["ledger"].outputs[0].data[MIME_TYPE]["cells"]
        for name in ("setup", "parameters", "front-matter"):
            cell, at = cells[name], ran.index(code_hash(cells[name].source))
            for old, new in SIGNED.items():
                cell.source = cell.source.replace(old, new)
                cell.outputs = nbformat.from_dict(json.loads(json.dumps(cell.outputs).replace(old, new)))
            ran[at] = code_hash(cell.source)
        change_results(root, lambda results: results["code"].update(cells=ran))

    def sign_metadata(notebook):
        for old, new in SIGNED.items():
            notebook.metadata = nbformat.from_dict(json.loads(json.dumps(notebook.metadata).replace(old, new)))
    change_notebook(root, sign, sign_metadata)
    subprocess.run([sys.executable, "-m", "nbconvert", "--config", str(root / "report" / "config.py"),
                    str(root / NOTEBOOK)], check=True, capture_output=True)
    return root


def test_zip_refuses_placeholders(signed, tmp_path):
    root = shutil.copytree(signed, tmp_path / "unsigned")
    change_notebook(root, lambda cells: cells["front-matter"].outputs[0].data.update({"text/markdown": "Your Name"}))
    done = handin(root, "zip")
    assert done.returncode == 1 and "Your Name" in done.stderr and "placeholders" in done.stderr
    assert "Traceback" not in done.stderr


def test_zip_refuses_an_edited_notebook(signed, tmp_path):
    root = shutil.copytree(signed, tmp_path / "edited")
    change_notebook(root, lambda cells: cells["recipe"].update(source=cells["recipe"].source + "\n# more"))
    done = handin(root, "zip")
    assert done.returncode == 1 and re.search(r"cell \d+ \(.*\) changed since", done.stderr)
    assert "Traceback" not in done.stderr
    assert not (root / "build" / "submission.zip").exists()


def test_zip_refuses_what_verify_contradicts(signed, tmp_path):
    """As after a submission whose numbers are of other weights: every hash fits, one number is not the run's."""
    root, results = shutil.copytree(signed, tmp_path / "project"), {}

    def claim(found):
        found["claims"]["test_accuracy"]["value"] += 3
        found["code"]["results_hash"] = results_hash(found)
        results.update(found)
    change_results(root, claim)
    change_notebook(root, lambda cells: cells["ledger"].outputs[0].data.update({MIME_TYPE: results["code"]}))
    done = handin(root, "zip")
    assert done.returncode == 1 and re.match(r"make verify contradicts \d+ times: the paper claims test_accuracy = ",
                                             done.stderr), done.stderr
    assert not (root / "build" / "submission.zip").exists()


def test_collect_takes_new_runs_into_checkpoints(signed, tmp_path):
    root = shutil.copytree(signed, tmp_path / "project")
    stored, runs = root / "checkpoints" / RUN, root / "build" / "checkpoints"
    files = {file.name: file.read_bytes() for file in stored.iterdir()}
    shutil.copytree(stored, runs / f"{RUN}-11111111")
    stored.rename(runs / f"{RUN}-22222222")
    (runs / f"{RUN}-11111111" / "losses.csv").write_text("1\n")  # a run of that name, and not the notebook's
    done = handin(root, "collect")
    assert done.returncode == 0 and f"checkpoints/{RUN}: taken from {runs / RUN}-22222222" in done.stdout, done.stderr
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == files
    assert handin(root, "collect").stdout == ""  # nothing is left to do
    shutil.rmtree(stored)
    shutil.rmtree(runs)
    done = handin(root, "collect")
    assert done.returncode == 1 and f"the run {RUN} of the notebook is neither in" in done.stderr


@pytest.mark.parametrize("weights, limit", [pytest.param("1", 40, marks=needs_weights), ("0", 5)])
def test_zip_verifies_and_compiles_elsewhere(signed, tmp_path, weights, limit):
    done = handin(signed, "zip", WEIGHTS=weights)
    assert done.returncode == 0, done.stderr
    file = signed / "build" / "submission.zip"
    assert file.stat().st_size < limit * 1e6
    zipfile.ZipFile(file).extractall(tmp_path)
    tmp_path /= "resnet-cifar10"  # one folder, whatever lies beside it
    assert (tmp_path / "checkpoints" / RUN / "weights.safetensors").exists() == (weights == "1")
    done = subprocess.run([sys.executable, "-m", "grading.verify"], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"]})
    assert done.returncode == 2 and "Does not hold" not in done.stdout, done.stdout + done.stderr  # there are no images
    if weights == "1":  # as Overleaf does it: the .tex in its folder, results elsewhere
        done = subprocess.run(["latexmk", "-cd", "-norc", "-xelatex", "-interaction=batchmode", "-jobname=output",
                               f"-outdir={tmp_path}", str(tmp_path / "report" / "report.tex")], capture_output=True,
                              text=True)
        assert done.returncode == 0 and (tmp_path / "output.pdf").exists(), done.stdout[-2000:]
        assert "undefined" not in (tmp_path / "output.log").read_text(errors="replace")


COLAB = ("pandas==2.2.3", "ipython==7.34.0", "ipykernel==6.17.1", "jupyter_client==7.4.9", "nbconvert==7.17.1")


@pytest.fixture
def colab_python(tmp_path):
    """A Python with Colab's versions of what is around the notebook; torch and the rest are this environment's."""
    folder = tmp_path / "colab"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    done = subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *COLAB], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install Colab's versions here: {done.stderr[-200:]}")
    here, there = (sysconfig.get_path("purelib", vars={"base": base}) for base in (sys.prefix, str(folder)))
    Path(there, "others.pth").write_text(here + "\n")  # looked up after the packages above
    return str(folder / "bin" / "python")


def test_colab_notebook_runs_alone_and_offers_its_paper(tmp_path, colab_python):
    done = handin(ROOT, "colab")
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(ROOT / "build" / "assignment2_colab.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    stub = tmp_path / "stub" / "google" / "colab"
    stub.mkdir(parents=True)
    for name in ("_message", "files", "drive"):
        (stub / f"{name}.py").write_text(re.sub("(?m)^    ", "", STUB))
    (stub / "__init__.py").touch()
    (tmp_path / "content").mkdir()
    # No browser is behind this notebook: the stand-in gives the submitted one as what Colab shows.
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "stub"), "NOTEBOOK": str(ROOT / NOTEBOOK),
                   "EPOCHS": "1", "DATASET": "digits", "RUNS": str(tmp_path / "runs"), "HOME": str(tmp_path)}
    code = """
        import sys, nbformat
        from nbclient import NotebookClient
        import IPython, pandas
        print("IPython", IPython.__version__, "pandas", pandas.__version__)
        notebook = nbformat.read(sys.argv[1], 4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": sys.argv[2]}}).execute()
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                print(output.get("text", ""), end="")
    """
    done = subprocess.run([colab_python, "-c", re.sub("(?m)^        ", "", code),
                           str(ROOT / "build" / "assignment2_colab.ipynb"), str(tmp_path / "content")],
                          capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "IPython 7.34.0 pandas 2.2.3" in done.stdout
    assert "downloaded report.pdf" in done.stdout and "resnet: 1 epoch on" in done.stdout
    assert list((tmp_path / "runs").glob("resnet-*/run.json"))
    assert (tmp_path / "content" / "resnet-cifar10" / "build" / "results.json").exists()


def test_the_repository_is_one_setting():
    sources = "".join(cell.source for cell in nbformat.read(ROOT / NOTEBOOK, 4).cells)
    assert sources.count("/resnet-cifar10") == 1 and "github.com" not in (ROOT / "README.md").read_text()
