"""Compares the notebook with the record of its run: code, texts shown, pictures and files.

The record has hashes of the cells that were run, of the texts shown, and of files. What editors and
late corrections change is named; what a run cannot have shown is contradicted.
"""

import base64
import contextlib
import difflib
import hashlib
from dataclasses import dataclass

from grading.archive import matches_patterns
from grading.cell_code import code_key, figure_label, hashes_without_comments
from grading.findings import Finding, join_names
from grading.schema import Place, SchemaError, read_dataclass
from report.cell_options import cell_tags
from report.freshness import (
    cell_names,
    code_hash,
    failed_unexpectedly,
    record,
    results_hash,
    text_hash,
    visible_outputs,
    with_no_break_spaces,
)
from training.runs import WEIGHTS

NOT_RUN = (
    "the notebook was not run to its end: its last cell, ledger.write(), shows no record of a run"
)


@dataclass
class NotebookRecord:
    """Hashes that the notebook's last cell has recorded: of cells, of shown texts, of files."""

    cells: list[str]
    texts: list[str]
    files: dict[str, str]
    results_hash: str = ""


def read_record(notebook, results):
    """The NotebookRecord of a notebook, and findings.

    Without a record in the notebook, the one in results.json is returned, or None.
    """
    content = record(notebook)
    findings = []
    if not content:
        findings.append(Finding("files", "unverified", NOT_RUN))
        content = results.get("code")
    if not content:
        return None, findings
    try:
        return read_dataclass(NotebookRecord, content, Place("the notebook's record")), findings
    except SchemaError as error:
        message = f"the notebook's record is damaged: {error}"
        return None, [*findings, Finding("files", "unverified", message)]


def compare_with_record(submission, notebook, results, template, policy):
    """Findings on whether notebook, code, runs, figures and results.json are of one run.

    Args:
        submission: a Submission.
        notebook: nbformat's node, repaired.
        results: the content of results.json, {} without one.
        template: this copy's notebook.
        policy: a Policy.
    """
    recorded, findings = read_record(notebook, results)
    if recorded is None:
        return findings
    changed, cell_findings = _compare_cells(notebook, recorded, template)
    findings += cell_findings
    findings += _compare_files(submission, recorded, policy)
    findings += _compare_ledger(notebook, results, recorded, policy)
    findings += _compare_outputs(notebook, recorded, changed)
    if all(finding.verdict == "noted" for finding in findings):
        message = f"notebook, code, runs, figures and {policy.files.ledger} belong together"
        findings.insert(0, Finding("files", "verified", message, source="their hashes"))
    return findings


# ------------------------------------------------------------------------------------------ cells


def _compare_cells(notebook, recorded, template):
    """Which cells have changed since the run, a set of names, and findings on cells."""
    cells = {}  # name -> code cell
    for cell, name in zip(notebook.cells, cell_names(notebook)):
        if cell.cell_type == "code" and cell.source.strip():
            cells[name] = cell
    originals = _template_hashes(template)
    names = list(cells)
    hashes = [code_hash(cell.source) for cell in cells.values()]
    matcher = difflib.SequenceMatcher(None, recorded.cells, hashes, autojunk=False)
    groups = {key: [] for key in ("commented", "copied", "moved", "changed", "added", "silent")}
    removed = []
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind == "equal" or start == len(recorded.cells):  # after the ledger's cell
            continue
        old = list(recorded.cells[start:end])
        for name in names[first:last]:
            group, replaced = _classify_change(name, cells, old, recorded, originals)
            groups[group].append(name)
            if replaced is not None:
                old.remove(replaced)
        removed += old
    findings = _grouped_findings(groups, CELL_SENTENCES)
    again = [value for value in removed if value in hashes]
    if again:
        message = "the notebook's cells were not run once each from top to bottom"
        findings.append(Finding("files", "implausible", message))
    if len(removed) > len(again):
        count = len(removed) - len(again)
        message = f"code cells that were run are no longer in the notebook: {count}"
        findings.append(Finding("files", "implausible", message))
    failed = [name for name, cell in cells.items() if failed_unexpectedly(cell)]
    if failed:
        message = f"{join_names(failed)} ended in an error"
        findings.append(Finding("files", "unverified", message))
    return {*groups["changed"], *groups["added"]}, findings


CELL_SENTENCES = {
    "commented": ("noted", "{} has other comments than when it was run, and the same code"),
    "copied": ("noted", "{} is a copy of another cell, made after the notebook was run"),
    "silent": ("noted", "{} was added after the notebook was run, and shows nothing"),
    "moved": ("implausible", "{} was run in another order than it stands, or moved after the run"),
    "changed": (
        "unverified",
        "{} changed since the notebook was run: its output may come from other code",
    ),
    "added": ("unverified", "{} was added after the notebook was run, and shows something"),
}


def _grouped_findings(groups, sentences):
    """A Finding for each group that has names.

    Args:
        groups: group -> names.
        sentences: group -> (verdict, sentence with a place for the names).
    """
    findings = []
    for group, (verdict, sentence) in sentences.items():
        if groups[group]:
            message = sentence.format(join_names(groups[group]))
            findings.append(Finding("files", verdict, message))
    return findings


def _template_hashes(template):
    """What the template's code cells do -> their hashes."""
    return {
        code_key(cell.source): code_hash(cell.source)
        for cell in template.cells
        if cell.cell_type == "code"
    }


def _classify_change(name, cells, old, recorded, originals):
    """How a cell differs from the run, a key of CELL_SENTENCES, and the hash that it had then.

    The hash is None for a cell that replaces none of those that were run.

    Args:
        name: the cell's name.
        cells: name -> code cell.
        old: the hashes of the cells that were run where this one now stands.
        recorded: a NotebookRecord.
        originals: what `_template_hashes` returns.
    """
    cell = cells[name]
    key = code_key(cell.source)
    before = {originals.get(key), *hashes_without_comments(cell.source)}
    for value in old:
        if value in before:
            return "commented", value
    if any(other != name and code_key(cells[other].source) == key for other in cells):
        return "copied", None
    if code_hash(cell.source) in recorded.cells:
        return "moved", None
    if old:
        return "changed", old[0]
    if visible_outputs(cell):
        return "added", None
    return "silent", None


# ------------------------------------------------------------------------------------------ files


def _compare_files(submission, recorded, policy):
    """Findings on files that are not those of the run."""
    findings = []
    groups = {"outside": [], "missing run": [], "missing": [], "changed run": [], "changed": []}
    for name, expected in recorded.files.items():
        if name.startswith("/") or ".." in name.split("/"):
            message = f"the notebook's record names {name[:60]!r}, which is no file of a submission"
            findings.append(Finding("files", "contradicted", message))
            continue
        is_run = name.startswith(f"{policy.files.runs}/")
        if not matches_patterns(name, policy.files.recorded):
            groups["outside"].append(name[:60])
        elif name.endswith(f"/{WEIGHTS}") and name not in submission.files:
            continue  # weights may be left out of an archive
        elif name not in submission.files:
            groups["missing run" if is_run else "missing"].append(name)
        elif expected not in _hashes_by_line_end(submission.bytes(name)):
            groups["changed run" if is_run else "changed"].append(name)
    return findings + _grouped_findings(groups, FILE_SENTENCES)


FILE_SENTENCES = {
    "outside": (
        "unverified",
        "the notebook was run with files that are not handed in, {}: make submission collects them",
    ),
    "missing run": ("unverified", "files of its runs are missing: {}"),
    "missing": ("noted", "files that the notebook was run with are not in the archive: {}"),
    "changed run": (
        "unverified",
        "files of its runs are not those that the notebook was run with: {}",
    ),
    "changed": ("noted", "files changed since the notebook was run: {}"),
}


def _hashes_by_line_end(content):
    """SHA-256 of a file as it is, and with the line ends of other systems: a set."""
    unix = content.replace(b"\r\n", b"\n")
    variants = (content, unix, unix.replace(b"\n", b"\r\n"))
    return {hashlib.sha256(variant).hexdigest() for variant in variants}


def _compare_ledger(notebook, results, recorded, policy):
    """Findings if results.json is not that of the notebook's run."""
    ledger = policy.files.ledger
    content = record(notebook)
    if not results or not content:
        return []
    if results.get("code") != content:
        message = f"{ledger} is of another run than the notebook"
        return [Finding("files", "unverified", message)]
    if results_hash(results) != recorded.results_hash:
        message = f"{ledger} has been changed since the notebook was run"
        return [Finding("files", "contradicted", message)]
    return []


# ---------------------------------------------------------------------------------------- outputs


def _compare_outputs(notebook, recorded, changed):
    """Findings on texts and pictures that the run has not shown.

    `changed` are the names of cells of which other findings already say so.
    """
    texts = set(recorded.texts)
    pictures = set(recorded.files.values())
    missing = set(texts)
    foreign_texts = []
    other_pictures = []
    foreign_pictures = []
    for cell, name in zip(notebook.cells, cell_names(notebook)):
        if cell.cell_type != "code" or "front-matter" in cell_tags(cell):
            continue
        for data in visible_outputs(cell):
            shown = _picture_hashes(data)
            text = data.get("text/latex") or data.get("text/markdown")
            if text is not None:
                variants = {text_hash(variant) for variant in text_variants(text)}
                missing -= variants
                if not variants & texts:
                    foreign_texts.append(name)
            elif not shown and "<table" in str(data.get("text/html", "")):
                foreign_texts.append(name)
            if not shown <= pictures:
                if _has_recorded_figure(cell, recorded):
                    foreign_pictures.append(name)
                else:
                    other_pictures.append(name)
    for found in (foreign_texts, foreign_pictures, other_pictures):
        found[:] = [name for name in dict.fromkeys(found) if name not in changed]
    return _output_findings(foreign_texts, foreign_pictures, other_pictures, missing)


def _output_findings(foreign_texts, foreign_pictures, other_pictures, missing):
    """Findings on lists of cells; `missing` are hashes of texts that the run has shown."""
    findings = []
    suffix = "was not shown by prose(), show_table() or show_figure() in the notebook's run"
    if foreign_texts and missing:
        message = f"what {join_names(foreign_texts)} shows {suffix}, and a text of that run is gone"
        findings.append(Finding("files", "contradicted", message))
    elif foreign_texts:
        message = f"what {join_names(foreign_texts)} shows {suffix}: read it"
        findings.append(Finding("files", "noted", message))
    if foreign_pictures:
        message = (
            f"{join_names(foreign_pictures)} shows a picture that is not among the figures of its "
            f"run: it {suffix}"
        )
        findings.append(Finding("files", "contradicted", message))
    if other_pictures:
        message = (
            f"{join_names(other_pictures)} shows a picture that show_figure() did not draw: "
            "nothing here compares it, look at it"
        )
        findings.append(Finding("files", "noted", message))
    return findings


def text_variants(text):
    """A text as editors save it: with other line ends, without blanks at its end or a no-break."""
    lines = text.replace("\r\n", "\n")
    for variant in (text, lines, lines.strip(), f"{lines.strip()}\n"):
        yield variant
        yield with_no_break_spaces(variant)


def _has_recorded_figure(cell, recorded):
    """Whether the run has drawn a figure of the cell's label."""
    label = figure_label(cell)
    if not label:
        return False
    return any(name.startswith(f"figures/{label}.") for name in recorded.files)


def _picture_hashes(data):
    """SHA-256 of an output's pictures, in whichever format."""
    hashes = set()
    for kind, text in data.items():
        if kind == "application/pdf" or kind.startswith("image/"):
            content = str(text).encode(errors="surrogatepass")
            with contextlib.suppress(ValueError):  # SVG is no base64
                content = base64.b64decode(str(text))
            hashes.add(hashlib.sha256(content).hexdigest())
    return hashes
