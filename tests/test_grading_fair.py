"""Honest variations of a submission are not contradicted: each gets the verdict it deserves."""

import base64
import copy
import hashlib
import io
import json
import zipfile

import forgeries
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from forgeries import (
    BOOK,
    LEDGER,
    PAPER,
    POLICY,
    code_cell,
    edit_cell,
    edit_info,
    edit_results,
    pack,
    read_notebook,
    write_notebook,
)
from grading_fixtures import judged, needs_sandbox
from helpers import ROOT
from nbformat.v4 import new_notebook
from PIL import Image
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import FreeText, Highlight
from pypdf.generic import ArrayObject, FloatObject
from safetensors.torch import load
from torch import nn

import training
from analysis import layer_table
from grading import paper_comparison, plain_notebook, records, run_record, sandbox, verify
from grading.archive import ArchiveError, Submission, read
from grading.cell_code import find_definitions
from grading.claim_check import Claim, compare
from grading.findings import Finding, Measurement, Verdict
from grading.notebook_repair import repair_notebook
from grading.paper_numbers import (
    Explanation,
    Explanations,
    check_numbers_in_paper,
    check_other_layout,
)
from grading.plausibility import check_plausibility
from grading.policy import Tolerance
from grading.run_record import compare_with_record, read_record
from grading.sandbox_tasks import PaperText, definition_facts, network_class
from report.freshness import with_no_break_spaces

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

TEMPLATE = nbformat.read(ROOT / BOOK, 4)


def said(findings, kind):
    """What findings of a kind say, in one text."""
    return "\n".join(finding.message for finding in findings if finding.verdict == kind)


# -------------------------------------------------------------- what editors and late hands change


def insert_cells(world, *cells, sign):
    notebook = read_notebook(world)
    notebook.cells[6:6] = cells
    write_notebook(world, notebook, sign)


def remark(world):
    edit_cell(world, "prose()", lambda cell: cell.update(source="# why\nprose()  # so"), sign=False)


def remark_in_the_templates_cell(world):
    def change(cell):
        cell.source = cell.source.replace("start as the shortcut", "begin as it")

    edit_cell(world, "class ResNet", change, sign=False)


def copied_cell(world):
    notebook = read_notebook(world)
    notebook.cells.insert(5, copy.deepcopy(notebook.cells[4]))
    write_notebook(world, notebook, sign=False)


def tags_stripped(world):
    notebook = read_notebook(world)
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)
    write_notebook(world, notebook, sign=False)


def saved_anew(world):
    """Pictures are encoded anew and lose their PDF, texts get other line ends."""
    notebook = read_notebook(world)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = encoded_anew(data["image/png"])
                del data["application/pdf"]
            for kind in ("text/markdown", "text/latex"):
                if kind in data:
                    data[kind] = data[kind].replace("\n", "\r\n") + "\r\n"
    write_notebook(world, notebook, sign=False)


def encoded_anew(text):
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.save(buffer, "PNG", compress_level=1)
    new = base64.b64encode(buffer.getvalue()).decode()
    assert new != text
    return new


def caption_without_its_flag(world):
    caption = {
        "text/html": "<p>Figure 1</p>",
        "text/latex": r"{\captionsetup{format=plain}\captionof{figure}{Loss}\label{fig-loss}}",
    }
    edit_cell(
        world,
        "fig-loss",
        lambda cell: cell.outputs.append(forgeries.shown_as(caption)),
        sign=False,
    )


def shown_directly(world):
    picture = base64.b64encode(forgeries.drawn([1, 2], "png")).decode()
    insert_cells(
        world,
        code_cell("plt.show()", {"image/png": picture}),
        code_cell("frame", {"text/html": "<table><tr><td>1</td></tr></table>"}),
        sign=True,
    )


def scratch_cell(world):
    insert_cells(world, code_cell("1 + 1", None), sign=False)


def files_left_out(world):
    for name in [name for name in world.files if name.startswith("figures/")]:
        del world.files[name]


def other_line_ends(world):
    world.files["utils.py"] = world.files["utils.py"].replace(b"\n", b"\r\n")


# name: (what is done, what is noted of it, "" for nothing)
HONEST = {
    "remark": (remark, "has other comments than when it was run"),
    "remark_in_the_templates_cell": (remark_in_the_templates_cell, "has other comments"),
    "copied_cell": (copied_cell, "is a copy of another cell"),
    "tags_stripped": (tags_stripped, "have lost their tags; 3 of them"),
    "saved_anew": (saved_anew, "with the same pixels: fig-loss"),
    "caption_without_its_flag": (caption_without_its_flag, ""),
    "shown_directly": (shown_directly, "that show_figure() did not draw"),
    "scratch_cell": (scratch_cell, "was added after the notebook was run, and shows nothing"),
    "files_left_out": (files_left_out, "are not in the archive: figures/fig-loss"),
    "other_line_ends": (other_line_ends, ""),
}


def compared(world):
    """Findings on a world's files, and sentences on what was repaired in its notebook."""
    submission = forgeries.submission(world)
    notebook = submission.notebook(BOOK)
    results = submission.json(LEDGER)
    recorded, _ = read_record(notebook, results)
    notes = repair_notebook(notebook, TEMPLATE, submission, recorded.files, world.policy)
    return compare_with_record(submission, notebook, results, TEMPLATE, world.policy), notes


@needs_sandbox
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_change_is_named_and_not_contradicted(world, name):
    change, words = HONEST[name]
    change(world)
    findings, notes = compared(world)
    assert {finding.verdict for finding in findings} <= {"verified", "noted"}, findings
    assert words in "\n".join([*notes, said(findings, "noted")])
    assert words or not notes and not said(findings, "noted")


# name: (change, verdict, words)
CHANGED = {
    "code": ('prose("new")', "unverified", "changed since the notebook was run"),
    "code_and_comment": ('# why\nprose("new")', "unverified", "changed since the notebook was run"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_code_is_no_comment(world, name):
    source, verdict, words = CHANGED[name]
    edit_cell(world, "prose()", lambda cell: cell.update(source=source), sign=False)
    findings, _ = compared(world)
    assert words in said(findings, verdict)


def test_cells_that_were_run_and_removed_are_asked_about(world):
    notebook = read_notebook(world)
    del notebook.cells[7]
    write_notebook(world, notebook, sign=False)
    findings, _ = compared(world)
    assert "code cells that were run are no longer in the notebook: 1" in said(
        findings, "implausible"
    )


def test_cells_in_another_order_than_they_were_run_are_asked_about(world):
    notebook = read_notebook(world)
    code = [number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    first, second = code[2:4]
    notebook.cells[first], notebook.cells[second] = notebook.cells[second], notebook.cells[first]
    write_notebook(world, notebook, sign=False)
    findings, _ = compared(world)
    assert "was run in another order than it stands, or moved after the run" in said(
        findings, "implausible"
    )


@needs_sandbox
def test_another_picture_is_not_one_saved_anew(world):
    def change(cell):
        cell.outputs[0].data["image/png"] = base64.b64encode(
            forgeries.drawn([3, 1, 2], "png")
        ).decode()

    edit_cell(world, "fig-loss", change, sign=False)
    findings, notes = compared(world)
    assert not notes and "not among the figures" in said(findings, "contradicted")


def test_a_figures_label_is_compared_whole(monkeypatch):
    """That fig-loss-2 has the recorded pixels says nothing of fig-loss."""
    files = {}
    shown = {}
    cells = []
    for label in ("fig-loss", "fig-loss-2"):
        files[f"figures/{label}.png"] = f"{label} as recorded".encode()
        shown[label] = base64.b64encode(f"{label} as shown".encode()).decode()
        cells.append(code_cell(f"#| label: {label}\ndraw()", {"image/png": shown[label]}))
    recorded = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    submission = Submission("small", files, POLICY.archive)
    monkeypatch.setattr(sandbox, "run_task", lambda *_: {"equal.json": b'["fig-loss-2"]'})
    notes = repair_notebook(new_notebook(cells=cells), TEMPLATE, submission, recorded, POLICY)
    assert notes == ["Pictures were saved anew, with the same pixels: fig-loss-2."]
    pictures = [cell.outputs[0].data["image/png"] for cell in cells]
    assert pictures[0] == shown["fig-loss"] and pictures[1] != shown["fig-loss-2"]


# ------------------------------------------------------------------------------- another network

OWN_NETWORK = """
class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((3, 1, 1), 0.5))
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4, padding=3), nn.BatchNorm2d(8))
        self.layer2 = nn.Sequential(ResidualBlock(8, 8, 16), nn.Dropout(0.2))
        self.middle = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.middle(self.layer2(self.layer1(self.scale * x))).flatten(1))
"""


@pytest.fixture
def own_network(world, tmp_path, monkeypatch):
    """A world of one run of a student's own network, whose cell has lost its tag."""
    names = forgeries.load_definitions()
    exec(OWN_NETWORK, names)
    torch.manual_seed(0)
    recipe = training.Recipe(epochs=1, batch_size=16, augmentation="")
    run = training.fit(names["ResNet"](), world.data, tmp_path / "resnet", recipe)
    leftover = world.files["checkpoints/fast-0/weights.safetensors"]
    for name in [name for name in world.files if name.startswith("checkpoints/")]:
        del world.files[name]
    for file in run.folder.iterdir():
        world.files[f"checkpoints/resnet/{file.name}"] = file.read_bytes()
    claims = forgeries.main_claims(run, world.policy)
    claims["resnet/accuracy"] = forgeries.entry(run.info["accuracy"], "resnet", "%")
    with monkeypatch.context() as own:  # the student adds a layer to the table's words
        unnamed = (*layer_table.UNNAMED_MODULES, nn.Dropout)
        own.setattr(layer_table, "UNNAMED_MODULES", unnamed)
        for name, value in definition_facts(names):
            claims[name] = forgeries.entry(value, "definitions")
    source = (ROOT / "analysis/layer_table.py").read_text(encoding="utf-8")
    assert "nn.Identity, nn.Flatten)" in source
    source = source.replace("nn.Identity, nn.Flatten)", "nn.Identity, nn.Flatten, nn.Dropout)")
    world.files["analysis/layer_table.py"] = source.encode()
    edit_results(world, lambda results: results.update(claims=claims))
    edit_cell(
        world,
        "class ResNet",
        lambda cell: cell.update(source=OWN_NETWORK, metadata={"tags": ["notebook-only"]}),
    )
    world.files["checkpoints/long-0/weights.safetensors"] = leftover
    return world


@needs_sandbox
def test_another_network_holds(own_network, no_paper):
    verdict = judged(own_network)
    assert verdict.code == 0, verdict.reason
    assert verdict.measured_by == "the weights, by the student's definitions"
    assert "no claim rests on the runs long-0" in said(verdict.findings, "noted")
    held = {finding.claim for finding in verdict.findings if finding.verdict == "verified"}
    assert {"parameters", "layer_output/2"} <= held
    counts = [row.found for row in verdict.findings if row.claim == "parameters"]
    tensors = load(own_network.files["checkpoints/resnet/weights.safetensors"])
    assert "scale" in tensors and len(counts) == 2 and len(set(counts)) == 1


def test_a_network_of_another_name_is_found():
    class Net(nn.Module):
        pass

    class Part(nn.Module):
        def __init__(self, size):
            super().__init__()

    Net.__module__ = Part.__module__ = "definitions"
    assert network_class({"__name__": "definitions", "Net": Net, "Part": Part}) is Net
    with pytest.raises(SystemExit, match="no class of a network"):
        network_class({"__name__": "definitions", "Part": Part, "nn": nn})


# --------------------------------------------------------------------------------- other packings


def flat(files):
    names = {BOOK: "my work.ipynb", PAPER: "my work.pdf", LEDGER: "results.json"}
    return {names.get(name, name.removeprefix("checkpoints/")): files[name] for name in files}


def nested(files):
    inner = io.BytesIO()
    pack(inner, files)
    return {"resnet/homework.zip": inner.getvalue()}


def with_clutter(files):
    clutter = {f".venv/lib/python/{number}.py": b"" for number in range(1_500)}
    names = ("data/batch.bin", ".git/config", "notes.txt", "tests/test_x.py")
    return files | clutter | dict.fromkeys(names, b"")


# name: (files of a submission -> files of an archive, what is said of it)
PACKINGS = {
    "renamed": (
        lambda files: {
            name.replace("assignment2", "hw 2 final"): content for name, content in files.items()
        },
        "The notebook is notebooks/hw 2 final.ipynb",
    ),
    "flat": (flat, "The paper is my work.pdf"),
    "nested": (nested, "in a zip file, resnet/homework.zip"),
    "clutter": (with_clutter, "1,503 files were not read: .venv/ (1,500)"),
    "folder_of_windows": (
        lambda files: {f"work\\{name}".replace("/", "\\"): files[name] for name in files},
        "",
    ),
    "other_notebooks": (
        lambda files: {name.replace("notebooks/", "x/"): files[name] for name in files}
        | {"x/scratch.ipynb": b'{"cells": []}', "x/broken.ipynb": b"{"},
        "The notebook is x/assignment2.ipynb",
    ),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_another_packing_is_read(world, tmp_path, name):
    change, words = PACKINGS[name]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in change(world.files).items():
            info = zipfile.ZipInfo("x")
            info.filename = member  # as it is, with backslashes
            archive.writestr(info, content)
    submission = read(path, world.policy)
    assert submission.files == world.files
    assert words in "\n".join(submission.notes) and (words or not submission.notes)


def test_bare_notebooks_and_unpacked_folders_are_read(world, tmp_path):
    file = tmp_path / "hw.ipynb"
    file.write_bytes(world.files[BOOK])
    assert read(file, world.policy).files == {BOOK: world.files[BOOK]}
    assert read(tmp_path, world.policy).files == {BOOK: world.files[BOOK]}


def test_limits_hold_for_zip_files_in_zip_files(world, tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(BOOK, world.files[BOOK])
        archive.writestr(LEDGER, b"0" * 30_000_000)
    path = pack(tmp_path / "a.zip", {"inner.zip": bomb.getvalue()})
    with pytest.raises(ArchiveError, match="times its size"):
        read(path, world.policy)
    path = pack(tmp_path / "a.zip", nested(nested(world.files)))
    with pytest.raises(ArchiveError, match="no other notebook"):
        read(path, world.policy)
    world.policy.archive.listed = 20
    path = pack(tmp_path / "a.zip", with_clutter(world.files))
    with pytest.raises(ArchiveError, match="lists more than 20 members"):
        read(path, world.policy)


# ------------------------------------------------------------------- without ledger, runs, training


def test_a_plain_notebook_is_checked_as_far_as_possible(world, no_paper):
    notebook = read_notebook(world)
    for count, cell in enumerate(notebook.cells, 1):
        cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            cell.execution_count = count
        if "ledger.write" in cell.source:
            cell.update(source="print(1)", outputs=[])
    write_notebook(world, notebook, sign=False)
    world.files = {BOOK: world.files[BOOK]}
    verdict = judged(world)
    assert verdict.code == 2 and "claims no numbers" in verdict.reason
    assert "code cells were run from top to bottom" in said(verdict.findings, "recorded")
    assert "parameters is 8,898,826" in said(verdict.findings, "noted")
    assert "no weights" in said(verdict.findings, "unverified")
    notebook.cells[3].execution_count = 99
    assert plain_notebook.check_execution(notebook).verdict == "noted"


def test_without_its_runs_a_submission_is_not_verifiable(world, no_paper):
    for name in [name for name in world.files if name.startswith("checkpoints/")]:
        del world.files[name]
    verdict = judged(world)
    assert verdict.code == 2 and not said(verdict.findings, "contradicted")


def test_the_templates_stored_run_is_asked_about(world, no_paper, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints" / "resnet"
    folder.mkdir(parents=True)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    info = json.loads(world.files["checkpoints/fast-0/run.json"])
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    verdict = judged(world)
    assert verdict.code == 2 and "is the one stored in the grader's copy" in verdict.reason
    submission = forgeries.submission(world)
    runs, _ = records.load_runs(submission, ["fast-0"], world.policy)
    monkeypatch.setattr(records, "is_handout", lambda: True)  # the runs are then the student's
    assert not records.check_own_training(submission, runs["fast-0"], world.policy)
    monkeypatch.setattr(records, "is_handout", lambda: False)
    assert records.check_own_training(submission, runs["fast-0"], world.policy)
    record = json.dumps(info | {"seconds": 1.0})
    (folder / "run.json").write_text(record, encoding="utf-8")
    assert not records.check_own_training(submission, runs["fast-0"], world.policy)
    weights = world.files["checkpoints/fast-0/weights.safetensors"]
    (folder / "weights.safetensors").write_bytes(weights)
    (finding,) = records.check_own_training(submission, runs["fast-0"], world.policy)
    assert "has the same weights as the one stored" in finding.message


def test_a_text_that_an_editor_saved_without_no_break_spaces_is_the_recorded_one():
    text = "It reaches 82.57 ± 0.74 %, a change of −2.52 ± 0.63 points."
    assert with_no_break_spaces(text).count("\N{NO-BREAK SPACE}") == 5
    assert with_no_break_spaces(text) in run_record.text_variants(text)


def test_one_epoch_is_no_reason_to_ask(own_network):
    bounds = own_network.policy
    bounds.plausible.test_above_training = -100.0
    submission = forgeries.submission(own_network)
    runs, _ = records.load_runs(submission, ["resnet"], bounds)
    assert "far above" not in said(check_plausibility(runs, bounds), "implausible")


# ------------------------------------------------------------------------------------ the paper


# name: (what the prose says after the paper was made, exit code, words of the verdict)
CORRECTIONS = {
    "typo": ("so is all that it learns", 0, "says 'what' where the notebook says 'all that'"),
    "number": ("so is 96.31 % of what it learns", 1, "it lacks '96.31'"),
    "number_in_words": ("so is ninety of what it learns", 1, "it lacks"),
}


@needs_sandbox
@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_late_correction_of_the_prose_is_named(world, monkeypatch, name):
    """Another paper is not built: that of the corrected prose has its words and one line moved."""
    new, code, words = CORRECTIONS[name]
    build = paper_comparison.render_rebuilt

    def built(submission, notebook, policy):
        cells = [cell for cell in notebook.cells if new in cell.source]
        for cell in cells:
            cell.source = cell.source.replace(new, OLD)
        files = dict(build(submission, notebook, policy))
        for cell in cells:
            cell.source = cell.source.replace(OLD, new)
            files["text.txt"] = files["text.txt"].replace(OLD.encode(), new.encode())
            first = min(file for file in files if file.endswith(".ppm"))
            page = bytearray(files[first])
            page[-200_000:-190_000] = bytes(10_000)
            files[first] = bytes(page)
        return files

    monkeypatch.setattr(paper_comparison, "render_rebuilt", built)
    edit_cell(
        world, OLD, lambda cell: cell.update(source=cell.source.replace(OLD, new)), sign=False
    )
    verdict = judged(world)
    assert verdict.code == code and words in said(verdict.findings, KIND[code]), verdict.findings


OLD = "so is what it learns"
KIND = {0: "noted", 1: "contradicted"}


def printed(*lines):
    """A PDF in another layout: lines of text on one page."""
    with plt.rc_context({"pdf.fonttype": 42}):
        figure = plt.figure(figsize=(8, 10))
        for number, line in enumerate(lines):
            figure.text(0.05, 0.95 - 0.03 * number, line)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf")
        plt.close(figure)
    return buffer.getvalue()


@needs_sandbox
def test_another_layout_is_judged_by_its_numbers(world):
    claims = json.loads(world.files[LEDGER])["claims"]
    accuracy = claims["test_accuracy"]["value"]
    lines = ["assignment2", "In [1]: prose()", f"right in {accuracy:.2f} % of cases", "1/12"]
    world.files[PAPER] = printed(*lines)
    verdict = judged(world)
    assert verdict.code == 0, verdict.reason
    assert "another layout" in said(verdict.findings, "noted")
    assert "its numbers agree with the notebook" in said(verdict.findings, "noted")
    world.files[PAPER] = printed(*lines, "or rather in 96.31 % of cases")
    verdict = judged(world)
    assert verdict.code == 1 and "another layout" in verdict.reason and "96.31 %" in verdict.reason
    notebook = read_notebook(world)
    claimed = {"test_accuracy": Claim(accuracy)}
    nothing = Explanations([], [])
    texts = {
        "small images": "does not say the accuracy",
        "_2bB/m H2irQ mBHi QiiH": "cannot be read",
        "": "no text",
    }
    for text, words in texts.items():
        pages = [text.split()]
        (finding,) = check_other_layout(pages, notebook, nothing, claimed)
        assert finding.verdict == "unverified" and words in finding.message


def annotated(pdf, *annotations):
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf)))
    for annotation in annotations:
        writer.add_annotation(0, annotation)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


@needs_sandbox
def test_a_readers_marks_are_named_and_notes_on_the_page_are_not_overlooked(world):
    pdf = world.files[PAPER]
    box = (100, 400, 300, 420)
    corners = [FloatObject(value) for value in (100, 420, 300, 420, 100, 400, 300, 400)]
    world.files[PAPER] = annotated(pdf, Highlight(rect=box, quad_points=ArrayObject(corners)))
    verdict = judged(world)
    assert verdict.code == 0, verdict.reason
    assert "marked text in the paper's PDF on page 1" in said(verdict.findings, "noted")
    world.files[PAPER] = annotated(pdf, FreeText(text="96.31 %", rect=box))
    assert judged(world).code == 1


@needs_sandbox
def test_a_paper_that_went_through_another_program_is_judged_by_its_numbers(world):
    def forged(text, producer):
        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf)))
        writer.add_metadata({"/Producer": producer})
        writer.add_annotation(0, FreeText(text=text, rect=(100, 400, 300, 420)))
        buffer = io.BytesIO()
        writer.write(buffer)
        return buffer.getvalue()

    pdf = world.files[PAPER]
    world.files[PAPER] = forged("", "GPL Ghostscript 10.00.0")
    verdict = judged(world)
    assert "another program (Ghostscript)" in said(verdict.findings, "noted")
    assert "page 1 of the paper looks different" in said(verdict.findings, "implausible")
    words = [["so is Ƽve of 82.37 and 2P"]]
    same = [["so is five of 82.37 and 2Q"]]
    assert paper_comparison._rewritten("GPL Ghostscript", words, same)
    assert not paper_comparison._rewritten("GPL Ghostscript", words, [["five of 96.31"]])
    assert not paper_comparison._rewritten("pypdf", words, same)


@needs_sandbox
def test_a_paper_that_cannot_be_built_here_is_unverified_and_the_rest_is_judged(
    world, monkeypatch
):
    def fail(*_):
        raise sandbox.SandboxError("cell 1 (front()): no font here has 김 (U+AE40)")

    monkeypatch.setattr(paper_comparison, "render_rebuilt", fail)
    verdict = judged(world)
    assert verdict.code == 2 and "no font here has" in verdict.reason
    assert verdict.measured is not None and verdict.first_page
    assert "its numbers agree" in said(verdict.findings, "noted")


def test_harmless_numbers_are_to_be_read(world):
    first = "We had 3.5 hours and 2,500 cups of tea. It reaches 12.5 points."
    second = "Dropout of 20 % is common. It is 10.50 %, and 99 % is what it is."
    texts = [PaperText("cell 1", "typed", first), PaperText("cell 2", "typed", second)]
    known = Explanations([Explanation(10.5)], [])
    findings = check_numbers_in_paper(texts, known, {"test_accuracy": Claim(10.5)})
    assert "cell 1 says 3.5, 2,500" in said(findings, "noted")
    assert "cell 1 says 12.5" in said(findings, "unverified")
    assert "cell 2 says 20 %, 99 %" in said(findings, "unverified")
    known = Explanations([Explanation(90.0)], [])
    findings = check_numbers_in_paper(texts, known, {"test_accuracy": Claim(90.0)})
    assert "cell 2 says 20 %" in said(findings, "noted")


def test_make_verify_prints_what_is_noted(capsys):
    verdict = Verdict("a.zip", [Finding("files", "noted", "cell 3 is a copy")])
    verify.print_verdict(verdict)
    assert "it costs no points:\n  - cell 3 is a copy." in capsys.readouterr().out
    assert POLICY.archive.members == 1_000


def test_a_class_in_a_cell_without_a_tag_belongs_to_the_definitions():
    template = nbformat.read(ROOT / "notebooks/assignment2.ipynb", 4)
    notebook = copy.deepcopy(template)
    own = nbformat.v4.new_code_cell("class ChannelGate(nn.Module):\n    pass\n\nprint(1)")
    notebook.cells.insert(2, own)
    block = next(cell for cell in notebook.cells if cell.id == "block-definition")
    block.source = block.source.replace("self.relu = nn.ReLU()", "self.relu = ChannelGate()")
    source = "\n".join(cell.source for cell in find_definitions(notebook, template))
    assert "class ChannelGate" in source and "print(1)" not in source
    assert source.index("class ChannelGate") < source.index("class ResidualBlock")


def test_another_block_than_the_references_is_for_a_person_to_decide():
    bound = Tolerance("bound", 1e-5)
    measured = Measurement("block_difference", 0.99, "the student's definitions")

    def verdict_on(value):
        return compare(Claim(value, "", "block"), measured, bound, "verified").verdict

    assert verdict_on(0.99) == "unverified" and verdict_on(1e-6) == "contradicted"


def test_a_run_may_have_an_optimizer_that_this_copy_does_not_know(world, no_paper):
    edit_info(world, "fast-1", lambda info: info["config"].update(optimizer="lion"))
    verdict = judged(world)
    compared = [row.verdict for row in verdict.findings if row.claim == "fast-1/accuracy"]
    assert compared == ["recorded"]
