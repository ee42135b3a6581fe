"""Parts of the judge alone: they need neither TeX nor the sandbox."""

import base64
import hashlib
import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import forgeries
import nbformat
import pandas as pd
import pytest
import torch
from forgeries import BOOK, LEDGER, POLICY
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    DecodedStreamObject,
    DictionaryObject,
    FloatObject,
    NameObject,
)
from safetensors.torch import save

import utils
from grading import (
    grade,
    network_measurements,
    plain_notebook,
    records,
    sandbox,
    sandbox_tasks,
    template_diff,
    verify,
)
from grading.archive import ArchiveError, Submission, read
from grading.cell_code import find_definitions
from grading.claim_check import Claim
from grading.feedback import feedback_page
from grading.findings import Finding, Measurement, Verdict
from grading.schema import SchemaError
from report.freshness import MIME_TYPE, definition_cells
from tools import packing
from tools.notebook_definitions import load_definitions

TEMPLATE = nbformat.read(ROOT / BOOK, 4)

# ------------------------------------------------------------------------------ a reader's marks


def form(content, **resources):
    """A form of a PDF, which draws `content`."""
    drawn = DecodedStreamObject()
    drawn.set_data(content)
    drawn[NameObject("/Subtype")] = NameObject("/Form")
    table = DictionaryObject()
    for name, entry in resources.items():
        table[NameObject(f"/{name}")] = dictionary(X=entry)
    drawn[NameObject("/Resources")] = table
    return drawn


def dictionary(**entries):
    return DictionaryObject({NameObject(f"/{name}"): value for name, value in entries.items()})


def highlight(appearance):
    """A highlighter's mark on a page that looks like a form."""
    mark = dictionary(
        Type=NameObject("/Annot"), Subtype=NameObject("/Highlight"), AP=dictionary(N=appearance)
    )
    box = [FloatObject(number) for number in (20, 20, 120, 40)]
    mark[NameObject("/Rect")] = ArrayObject(box)
    return mark


YELLOW = b"/X gs 1 1 0 rg 20 20 m 120 20 l 120 40 l 20 40 l h f"
BLEND = dictionary(BM=NameObject("/Multiply"))


@pytest.mark.parametrize(
    "appearance",
    [
        form(YELLOW, ExtGState=BLEND),
        form(b"q/X Do Q", XObject=form(YELLOW, ExtGState=BLEND)),
        form(b"q 1 0 0 RG 2 w 20 22 m " + 60 * b"30 22 l " + b"S Q"),
    ],
)
def test_a_highlighters_mark_is_harmless(appearance):
    assert sandbox_tasks.is_mark(highlight(appearance))


LETTERS = {
    "text_without_a_blank": form(b"BT/X 12 Tf(96.31 %)Tj ET", Font=dictionary()),
    "picture_without_a_blank": form(b"BI/W 1/H 1/BPC 8/CS/G ID x\nEI"),
    "text_of_an_outer_font": form(b"BT(96.31 %)'ET"),
    "outlines": form(15 * b"1 1 m 2 2 l 3 1 l 4 2 l 5 1 l 6 2 l 7 1 l 8 2 l f "),
    "outlines_in_parts": form(
        5 * b"/X Do ", XObject=form(b"1 1 m " + 30 * b"2 2 l " + b"f")
    ),
    "pattern": form(b"/Pattern cs/X scn 0 0 100 20 re f", Pattern=form(b"(96.31 %)Tj")),
    "mask": form(YELLOW, ExtGState=dictionary(SMask=dictionary(G=form(b"(96.31 %)Tj")))),
    "form_of_the_page": form(b"/Other Do"),
    "state_of_the_page": form(YELLOW),
    "dashes": form(b"20 w [1 2 1 9] 0 d 20 20 m 120 20 l S"),
    "inner_text": form(b"/X Do", XObject=form(b"(96.31 %)Tj")),
}


@pytest.mark.parametrize("name", LETTERS)
def test_a_mark_that_could_show_a_number_stays_in_the_paper(name):
    assert not sandbox_tasks.is_mark(highlight(LETTERS[name]))


def test_marks_are_removed_from_a_paper_that_does_not_name_its_program(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_tasks, "UNMARKED", tmp_path / "unmarked.pdf", raising=False)
    writer = PdfWriter()
    writer.add_blank_page(200, 200)
    writer.add_annotation(0, highlight(form(YELLOW, ExtGState=BLEND)))
    writer.metadata = None
    writer.write(tmp_path / "paper.pdf")
    assert PdfReader(tmp_path / "paper.pdf").metadata is None
    path, producer, pages = sandbox_tasks.without_marks(tmp_path / "paper.pdf")
    assert (producer, pages) == ("", [1])
    assert not PdfReader(path).pages[0].get("/Annots")


# -------------------------------------------------------------------------------------- pictures


def test_a_picture_that_cannot_be_read_leaves_the_others_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_tasks, "HERE", tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    good = Image.new("RGB", (3, 2), "red")
    for name in ("a-text", "b-cut", "d-good", "e-blue"):
        good.save(folder / f"{name}.recorded", "PNG", compress_level=0)
    content = (folder / "d-good.recorded").read_bytes()
    (folder / "a-text.shown").write_bytes(b"no picture")
    (folder / "b-cut.shown").write_bytes(content[:60])
    (folder / "c-without-a-file.shown").write_bytes(content)
    good.save(folder / "d-good.shown", "PNG", compress_level=9)
    Image.new("RGB", (3, 2), "blue").save(folder / "e-blue.shown", "PNG")
    assert json.loads(sandbox_tasks.find_equal_pictures()["equal.json"]) == ["d-good"]


# ---------------------------------------------------------------------------------- definitions


def test_definitions_of_cells_without_a_tag_keep_their_decorators():
    definitions = "\n\n".join(cell.source for cell in definition_cells(TEMPLATE))
    definitions = definitions.replace("class ResNet", "@register\nclass ResNet")
    own = "@functools.cache\ndef register(kind):\n    return kind\n\nprint(1)"
    first = "x = 'é'; import functools; print(2)"
    cells = [new_code_cell(source) for source in (first, own, definitions)]
    found = find_definitions(new_notebook(cells=cells), TEMPLATE)
    source = "\n".join(cell.source for cell in found)
    assert "@functools.cache\ndef register" in source and "print(1)" not in source
    assert "@register\nclass ResNet" in source and "import functools" in source
    assert "print(2)" not in source


# -------------------------------------------------------------------------------------- weights


def small_data():
    images, labels = forgeries.squares(10, 1)
    return utils.Data(images, labels, images, labels, tuple("0123456789"), "squares")


def run_of(name, data):
    """What measure_network asks of a run."""
    normalisation = [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
    config = SimpleNamespace(data=data.fingerprint)
    labels = data.test_labels.byte()
    predictions = dict.fromkeys(("predicted", "predicted_with_mirrored", "labels"), labels)
    return SimpleNamespace(
        folder=Path(name),
        predictions=predictions,
        record=SimpleNamespace(normalisation=normalisation, config=config),
    )


def measured(good, bad, main):
    """The NetworkReport on runs with the template's network's weights and with other ones."""
    data = small_data()
    torch.manual_seed(0)
    tensors = load_definitions()["ResNet"]().state_dict()
    files = {}
    for name in good:
        files[f"checkpoints/{name}/weights.safetensors"] = save(tensors)
    for name in bad:
        other = tensors | {"fc.weight": torch.zeros(10, 7)}
        files[f"checkpoints/{name}/weights.safetensors"] = save(other)
    runs = {name: run_of(name, data) for name in sorted([*good, *bad])}
    submission = Submission("a", files, POLICY.archive)
    return network_measurements.measure_network(
        submission, TEMPLATE, TEMPLATE, runs, runs[main], data, POLICY
    )


def test_the_weights_of_a_run_that_do_not_fit_leave_the_others_evaluated():
    report = measured(good=["main"], bad=["extra"], main="main")
    (finding,) = [row for row in report.findings if row.verdict != "verified"]
    assert (finding.claim, finding.verdict) == ("run extra", "unverified")
    assert finding.message.startswith(
        "the weights of extra are not of the network that the notebook defines (size mismatch"
    )
    assert report.accuracy.source == "the weights"
    counted = {row.source for row in report.measurements if row.claim == "parameters"}
    assert counted == {"the template's definitions", "the weights of main"}


def test_the_weights_of_the_main_run_have_to_fit():
    report = measured(good=["extra"], bad=["main"], main="main")
    (finding,) = [row for row in report.findings if row.verdict != "verified"]
    assert (finding.claim, finding.verdict) == ("weights", "contradicted")
    assert "the weights of main are not of the network" in finding.message
    assert report.accuracy.source == "the stored predictions"
    assert "extra/accuracy" in {row.claim for row in report.measurements}


def test_weights_that_cannot_be_read_are_named_by_run():
    submission = Submission("a", {"checkpoints/x/weights.safetensors": b"x"}, POLICY.archive)
    runs = {"x": run_of("x", small_data()), "y": run_of("y", small_data())}
    weights, normalisations, faults = network_measurements.read_weights(submission, runs, POLICY)
    assert not weights and not normalisations
    assert faults["x"].startswith("the weights of x could not be evaluated: checkpoints/x/weights")


def test_the_sandbox_evaluates_the_runs_whose_weights_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_tasks, "HERE", tmp_path)
    definitions = [cell.source for cell in definition_cells(TEMPLATE)]
    cells = []
    for source in definitions:
        cells.append({"cell_type": "code", "metadata": {"tags": ["definition"]}, "source": source})
    (tmp_path / "definitions.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    images = forgeries.squares(3, 1)[0]
    (tmp_path / "images.raw").write_bytes(images.numpy().tobytes())
    normalisation = [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
    runs = json.dumps({"bad": normalisation, "good": normalisation})
    (tmp_path / "runs.json").write_text(runs, encoding="utf-8")
    tensors = load_definitions()["ResNet"]().state_dict()
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(save(tensors))
        tensors.pop("fc.bias", None)
    results = sandbox_tasks.evaluate_network()
    assert len(results["good.raw"]) == 3 * 10 * 4 and "bad.raw" not in results
    misfits = json.loads(results["misfits.json"])
    assert list(misfits) == ["bad"] and "fc.bias" in misfits["bad"]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'{"a": "size mismatch", "z": "no run"}', {"a": "size mismatch"}),
        (b"[1]", {}),
        (b"{}", {}),
        (json.dumps({"a": 999 * "x"}).encode(), {"a": 200 * "x"}),
    ],
)
def test_what_the_sandbox_says_of_weights_is_read_as_data(monkeypatch, content, expected):
    images = forgeries.squares(2, 1)[0]
    results = {"misfits.json": content}
    for name in ("a", "b"):
        results[f"{name}.raw"] = torch.zeros(2, 10).numpy().tobytes()
    monkeypatch.setattr(sandbox, "run_task", lambda *_: results)
    computed, misfits, _, _ = network_measurements.evaluate_in_sandbox(
        [], {"a": b"", "b": b""}, images, {}, POLICY
    )
    assert misfits == expected
    assert set(computed) == {"a", "b"} - set(expected)


# ------------------------------------------------------------------------------------- messages


def test_a_verdict_without_findings_has_checked_nothing():
    verdict = Verdict("a")
    assert (verdict.code, verdict.reason) == (2, "nothing was checked")


def test_this_folder_is_recognised_however_it_is_named(tmp_path, monkeypatch, capsys):
    """The study is judged as well, and the verdicts are kept."""
    (tmp_path / "report").mkdir()
    (tmp_path / POLICY.study.files.ledger).write_text("{}", encoding="utf-8")
    stored = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify, "ROOT", Path.cwd())
    monkeypatch.setattr(verify, "changed_since_study", lambda policy: "")
    monkeypatch.setattr(verify, "judge_in_time", lambda path, *_, **__: Verdict(path.name))
    monkeypatch.setattr(verify, "keep_findings", stored.update)
    with pytest.raises(SystemExit):
        verify.main(".", "")
    assert list(stored) == [LEDGER, POLICY.study.files.ledger]
    assert "The study:" in capsys.readouterr().out
    assert {verdict.name for verdict in stored.values()} == {tmp_path.name}


def test_the_time_limit_that_applied_is_named(monkeypatch):
    policy = replace(POLICY, verdict=replace(POLICY.verdict, seconds=5))
    policy = replace(policy, sandbox=replace(POLICY.sandbox, rerun_seconds=20))

    class Alarm:
        SIGALRM = 14

        def signal(self, _, stop):
            self.stop = stop

        def alarm(self, seconds):
            self.seconds = seconds

    alarm = Alarm()
    monkeypatch.setattr(verify, "HAS_ALARM", True)
    monkeypatch.setattr(verify, "signal", alarm)
    monkeypatch.setattr(sandbox, "end_below", lambda pid: None)
    monkeypatch.setattr(verify, "read", lambda *_: alarm.stop())
    verdict = verify.judge_in_time("a.zip", policy, Path("data"))
    assert verdict.reason == "judging it took more than 25 seconds" and alarm.seconds == 0


FIGURE_FILES = {"figures/fig-x.png": b"a picture", "figures/fig-x.pdf": b"a page"}


@pytest.mark.parametrize("missing", FIGURE_FILES)
@pytest.mark.parametrize("value", ["missing", "", None, 7, ["missing"], {"missing": None}])
def test_no_recorded_value_ends_the_check(no_paper, monkeypatch, missing, value):
    """A file that is recorded and not handed in leaves all other checks as they are."""
    report = network_measurements.NetworkReport()
    monkeypatch.setattr(network_measurements, "measure_network", lambda *_: report)
    monkeypatch.setattr(sandbox, "run_task", lambda *_: {"equal.json": b'["fig-x"]'})
    present = {name: data for name, data in FIGURE_FILES.items() if name != missing}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in present.items()}
    record = {"cells": [], "texts": [], "files": {**hashes, missing: value}}
    shown = new_output("display_data", {"image/png": base64.b64encode(b"shown").decode()})
    cells = [
        new_code_cell("#| label: fig-x", outputs=[shown]),
        new_code_cell("ledger.write()", outputs=[new_output("display_data", {MIME_TYPE: record})]),
    ]
    notebook = nbformat.writes(new_notebook(cells=cells)).encode()
    submission = Submission("a", {BOOK: notebook, **present}, POLICY.archive)
    verdict = verify.judge(submission, POLICY)
    claims = [finding.claim for finding in verdict.findings]
    assert "execution" in claims and "submission" not in claims, verdict.findings


def test_a_missing_accuracy_is_named():
    finding = verify._missing_main_run(None, ["resnet"], POLICY)
    assert finding.verdict == "contradicted"
    assert finding.message == (
        "report/results.json has no claim test_accuracy: run make submission"
    )


@pytest.mark.parametrize(
    "seconds, faults",
    [
        ([30.0, 60.0], []),
        ([70.0, 60.0], ["the seconds in its history.csv do not increase"]),
        ([30.0, 50.0], ["its history ends after 50 seconds, its record says 60"]),
    ],
)
def test_times_of_a_history_are_checked(monkeypatch, seconds, faults):
    monkeypatch.setattr(records, "_data_faults", lambda *_: [])
    monkeypatch.setattr(records, "_history_faults", lambda *_: [])
    run = SimpleNamespace(
        folder=Path("a"),
        accuracy=50.0,
        history=pd.DataFrame({"seconds": seconds}),
        record=SimpleNamespace(run="a", seconds=60.0, accuracy=50.0),
    )
    assert records.run_faults(run, None) == faults


def test_own_modules_are_said_to_run_in_the_sandbox():
    submission = Submission("a", {BOOK: b"", "own.py": b""}, POLICY.archive)
    lines = template_diff.differences(submission, TEMPLATE, TEMPLATE)
    assert lines == ["Modules that are not the template's (run in the sandbox at most): own.py."]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"there is no file .*typo\.zip: check SUBMISSION="):
        read(tmp_path / "typo.zip", POLICY)


def test_a_broken_policy_is_no_contradiction(monkeypatch, capsys):
    def fail():
        raise SchemaError("grading/policy.toml is missing")

    monkeypatch.setattr(verify, "read_policy", fail)
    with pytest.raises(SystemExit) as ended:
        verify.main("a.zip", "")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "grading/policy.toml is missing\n"


def test_an_accuracy_of_a_plain_notebook_is_printed_as_elsewhere(monkeypatch):
    report = network_measurements.NetworkReport()
    report.add([Measurement("parameters", 8_898_826, "x")])
    report.add([Measurement("test_accuracy", 56.99999999999999, "x")])
    monkeypatch.setattr(network_measurements, "measure_network", lambda *_: report)
    submission = Submission("a", {}, POLICY.archive)
    findings = plain_notebook.check(new_notebook(), TEMPLATE, {}, None, submission, POLICY)
    said = [row.message for row in findings]
    assert "parameters is 8,898,826 by x" in said and "test_accuracy is 57 by x" in said
    assert findings[0].claim == "execution"


def test_a_student_reads_how_many_checks_passed():
    kinds = ("verified", "recorded", "noted", "unverified")
    verdict = Verdict("a.zip", [Finding(kind, kind, f"it is {kind}") for kind in kinds])
    shown = replace(verdict, first_page="")
    assert "2 of 3 checks passed. Result: it is unverified." in feedback_page("Feedback", shown)


@pytest.mark.parametrize("start", ["./", "././", ".\\", "./project/./"])
def test_names_may_begin_with_the_folder_they_are_in(tmp_path, start):
    files = {BOOK: b"{}", "report/results.json": b"[]"}
    members = {f"{start}{name}": data for name, data in files.items()}
    path = forgeries.pack(tmp_path / "a.zip", {"./": b"", **members})
    submission = read(path, POLICY)
    assert submission.files == files and not submission.notes


def test_a_name_is_twice_in_an_archive_if_a_dot_is_all_that_differs(tmp_path):
    path = forgeries.pack(tmp_path / "a.zip", {BOOK: b"{}", f"./{BOOK}": b"[]"})
    with pytest.raises(ArchiveError, match="has a name twice"):
        read(path, POLICY)


def test_an_archive_of_the_zip64_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    path = forgeries.pack(tmp_path / "a.zip", {BOOK: b"{}"})
    words = "is in the Zip64 format, which is not read: pack it with make zip"
    with pytest.raises(ArchiveError, match=words):
        read(path, POLICY)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"a,b\n1,2\n3,x\n", "a.csv, line 3: 'x' is not a number: copy it anew, or remove"),
        (b"a,b\n1,inf\n", "a.csv, line 2: 'inf' is not finite: copy it anew, or remove"),
        (b"a,b\n1\n", "a.csv, line 2 has 1 values instead of 2: copy it anew, or remove"),
        (b"a,b\n", "a.csv has no rows of numbers: copy it anew, or remove"),
        (b"b,a\n1,2\n", "a.csv does not start with the line a,b: copy it anew, or remove"),
    ],
)
def test_a_line_of_a_csv_file_that_cannot_be_read_is_named(content, words):
    with pytest.raises(ArchiveError, match=words):
        Submission("a", {"a.csv": content}, POLICY.archive).numbers("a.csv", "a,b")


def test_rows_of_a_csv_file_are_read_with_and_without_a_header():
    submission = Submission("a", {"a.csv": b"a,b\n1,2\n", "b.csv": b"3\n4\n"}, POLICY.archive)
    assert submission.numbers("a.csv", "a,b") == [[1, 2]]
    assert submission.numbers("b.csv") == [[3], [4]]


def test_a_submission_that_is_too_large_is_told_the_limit(tmp_path):
    content = b"0" * 700_000
    files = {BOOK: b"{}", "report/results.json": content, "report/report.pdf": content}
    path = forgeries.pack(tmp_path / "a.zip", files)
    policy = replace(POLICY, archive=replace(POLICY.archive, unpacked=1))
    words = "have 1 MB; the limit is 1 MB for all that is read: run make zip"
    with pytest.raises(ArchiveError, match=words):
        read(path, policy)
    policy = replace(POLICY, archive=replace(POLICY.archive, megabytes=1))
    with pytest.raises(ArchiveError, match="archive has 1 MB; the limit is 1 MB: run make zip"):
        read(path, policy)


@pytest.mark.parametrize("claims", [{}, {"test_accuracy": {"value": 1}}, {"test_accuracy": 7}])
def test_packing_names_a_claim_without_a_run(claims):
    content = json.dumps({"claims": claims}).encode()
    submission = Submission("a", {"report/results.json": content}, POLICY.archive)
    words = "report/results.json names no run for its claim test_accuracy. Run make submission"
    with pytest.raises(packing.PackingError, match=words):
        packing.main_run(submission, POLICY)


def test_a_verdict_that_did_not_end_says_how_to_judge_again(tmp_path):
    job = grade.Job("a.zip", tmp_path / "a.zip", tmp_path / "0123.json")
    done = subprocess.CompletedProcess([], -11, stderr=b"Segmentation fault")
    verdict = grade.finish_job(job, done)
    assert verdict.reason == (
        "judging it did not end as it should (Segmentation fault): to judge it again, delete "
        "build/grades/0123.json and call make grade"
    )


def test_true_is_no_number():
    assert Claim(1.5).is_number and Claim(3).is_number
    assert not Claim(True).is_number and not Claim("8×8").is_number
