"""What the notebook shows and claims: figures and tables for two readers, notebook and paper, and the ledger."""
import base64
import html
import io
import json
import os
import platform
import re
from importlib.metadata import distributions, version

import matplotlib.pyplot as plt
import pandas as pd
import torch
import yaml
from IPython import get_ipython
from IPython.display import Markdown, display
from nbconvert.filters import escape_latex

from analysis.run_statistics import group_name, interval_supports
from report.freshness import MIME_TYPE, code_hash, definitions_hash, file_hash, results_hash, text_hash
from tools.project_files import ROOT, project_files
from training import ENGINE, environment, short_hash
from utils import SubmissionError

SUBMITTED = ROOT / "notebooks" / "assignment2.ipynb"  # where the network is defined
SUBMISSION = os.environ.get("OUTPUT") == "submission"  # else everything goes to build/
PLACE = ROOT if SUBMISSION else ROOT / "build"
RESULTS = {"report": "results.json"}
_drawn, _said = [], []  # the files of the figures shown; the hashes of the paper's other outputs
_numbers = {"fig": {}, "tbl": {}}  # label -> number, in the order in which cells were first run


# ------------------------------------------------------------------------------------------------ what is shown

def cell_options():
    """The Quarto options (`#| key: value`) at the top of the cell being run, with the caption as HTML and LaTeX."""
    source = get_ipython().history_manager.input_hist_raw[-1]
    options = yaml.safe_load("\n".join(line[2:] for line in source.splitlines() if line.startswith("#|")))
    kind, label = options["label"][:3], options["label"]
    number = _numbers[kind].setdefault(label, len(_numbers[kind]) + 1)
    word, text = {"fig": "Figure", "tbl": "Table"}[kind], options[f"{kind}-cap"]
    options["caption"] = {
        "text/html": f'<p id="{label}"><b>{word} {number}.</b> {html.escape(text)}</p>',
        # Stock nbconvert's template sets captions, of Markdown's pictures, without their text.
        "text/latex": f"{{\\captionsetup{{format=plain,skip=6pt}}\\captionof{{{word.lower()}}}{{{escape_latex(text)}}}"
                      f"\\label{{{label}}}\\medskip\\par}}"}
    return options


def show_figure(figure):
    """Save `figure` in figures/ as PDF and PNG, named by the cell's label, and display it with the cell's alt text."""
    options, files, folder = cell_options(), {}, PLACE / "figures"
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):  # no dates: same figure, same bytes
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        files[kind] = buffer.getvalue()
        folder.mkdir(parents=True, exist_ok=True)
        _drawn.append(folder / f"{options['label']}.{kind}")
        _drawn[-1].write_bytes(files[kind])
    plt.close(figure)
    encoded = {kind: base64.b64encode(value).decode() for kind, value in files.items()}
    image = (f'<img alt="{html.escape(options["fig-alt"])}" width="{figure.get_figwidth() * 130:.0f}" '
             f'src="data:image/png;base64,{encoded["png"]}">')
    display({"text/html": image, "application/pdf": encoded["pdf"], "image/png": encoded["png"]}, raw=True)
    display(options["caption"], raw=True, metadata={"caption": True})  # the paper makes its own of the cell's options


def show_table(frame, precision=2):
    """Display a DataFrame as HTML for the notebook and as a booktabs tabular for the paper; an index needs a name."""
    if set(frame.index.names) - {None, *frame.columns}:
        frame = frame.reset_index()

    def styled(kind):
        style = frame.style.hide(axis="index").format(precision=precision, thousands=",", na_rep="–", escape=kind)
        return style.format_index(escape=kind, axis="columns")
    options = cell_options()
    caption, tabular = options["caption"], styled("latex").to_latex(hrules=True)
    latex = (f"\\begin{{minipage}}{{\\linewidth}}\\centering\n{caption['text/latex']}\n"
             f"\\begin{{adjustbox}}{{max width=\\linewidth}}\n{tabular}\\end{{adjustbox}}\n\\end{{minipage}}\\bigskip")
    _said.append(text_hash(latex))
    display({"text/html": caption["text/html"] + styled("html").to_html(table_uuid=options["label"]),
             "text/latex": latex}, raw=True)


def prose(text, place=None):
    """Show a paragraph of Markdown, here or at `place`, a display handle; numbers keep their per cent signs."""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%").replace(" -", " −")
    _said.append(text_hash(text))
    if place:
        place.update(Markdown(text))
    else:
        display(Markdown(text))


def show_authors(title, authors, keywords):
    """Show who hands this in; the paper's title block is made of it."""
    lines = []
    for author in authors:
        about = [author[key] for key in ("student_number", "university", "email") if author.get(key)]
        lines.append(", ".join([f"**{author['name']}**", *about]))
    display({MIME_TYPE: {"title": title, "authors": authors, "keywords": keywords},
             "text/markdown": "\n\n".join(lines)}, raw=True)


def reference_list(document="report"):
    """Show the bibliography as a list, each entry with the anchor `ref-<key>` that citations lead to.

    An entry belongs to the documents that its field `keywords` names; to the submission, "report", without that field.
    """
    markdown, latex, text = [], [], (ROOT / "report" / "references.bib").read_text()
    for key, body in re.findall(r"^@\w+\{([^,]+),(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        field = {k: re.sub(r"[{}\\]", "", v) for k, v in re.findall(r"(\w+)\s*=\s*\{(.*)\},?\s*$", body, re.MULTILINE)}
        if document not in field.get("keywords", "report"):
            continue
        where = [field[k] for k in ("journal", "booktitle", "institution", "howpublished", "note", "url") if k in field]
        author, title, where = f"{field['author']} ({field.get('year', 'no date')}): ", field["title"], ", ".join(where)
        markdown.append(f'- <a id="ref-{key}"></a>{author}*{title}*. {where}')
        author, title, where = map(escape_latex, (author, title, where))
        latex.append(f"\\item\\phantomsection\\label{{ref-{key}}}{author}\\emph{{{title}}}. {where}")
    display({"text/markdown": "\n".join(markdown),
             "text/latex": "\n".join(["\\begin{itemize}", *latex, "\\end{itemize}"])}, raw=True)


# --------------------------------------------------------------------------------------------------- the ledger

class Ledger(dict):
    """What the paper claims: name -> value, unit and source (a cell's label or a run's name)."""

    def claim(self, name, value, unit, source):
        """Enter a claim and return its value."""
        self[name] = {"value": value, "unit": unit, "source": source}
        return value

    def claim_all(self, name, values, unit, source):
        """Enter a claim `name`/<what> for each item of the dict `values`, and return them."""
        for what, value in values.items():
            self.claim(f"{name}/{what}", value, unit, source)
        return values

    def conclude(self, name, claim, comparison, bound):
        """Enter what the text concludes: that the 95 % interval of a claim lies above (">") or below ("<") a number.

        Half the interval is the claim `<claim>_interval`. Raises SubmissionError where the conclusion does not hold and
        a submission is made; on other data it need not.
        """
        values = {name: entry["value"] for name, entry in self.items()}
        holds = interval_supports(values, claim, comparison, bound)
        self.claim(f"conclusion/{name}", holds, f"{claim} {comparison} {bound}", "conclusions")
        if SUBMISSION and not holds:
            raise SubmissionError(f"the conclusion {name!r} no longer holds: {claim} is {values[claim]:.4g} ± "
                                  f"{values[f'{claim}_interval']:.4g}, which is not {comparison} {bound:.4g}; change "
                                  "the text of the conclusions, or this conclusion")

    def environment(self, data, runs):
        """What the results depend on: a DataFrame with rows for data, notebook, and `runs` by kind and machine.

        A run that another version of the training code made is marked by a star.
        """
        code = [code_hash(source) for source in get_ipython().history_manager.input_hist_raw[1:]]
        rows = [("data", data.source, f"{len(data.train_labels):,} + {len(data.test_labels):,} images",
                 data.fingerprint[:8], ""),
                ("this notebook", environment()["device"],
                 f"Python {platform.python_version()}, torch {version('torch')}",
                 text_hash("".join(code))[:8], "")]  # no time: the same submission, the same bytes
        groups, names = {}, {run.key: run.name for run in runs}
        for run in runs:
            made, start = run.info["choices"], names.get(run.info["config"]["start"])
            what = f"epochs from {start}" if start else group_name(run.name)
            if made.get("engine") != ENGINE:
                what += " *"
            machine = f"{made['device']}, {made['threads']} threads", f"{made['precision']}, torch {made['torch']}"
            groups.setdefault((what, *machine), []).append(run)
        for (what, machine, versions), members in groups.items():
            dates = sorted({run.info["finished"] for run in members})
            rows.append((f"{what}, {len(members)} runs" if len(members) > 1 else what, machine,
                         ", ".join([versions, " to ".join(dates[::max(1, len(dates) - 1)])]),
                         short_hash([run.key for run in members]),
                         f"{sum(run.info['seconds'] for run in members) / 60:.1f}"))
        return pd.DataFrame(rows, columns=["what", "on", "with", "hash", "minutes"])

    def write(self, data, runs, document="report"):
        """Write what is claimed to report/results.json, or to report/<document>.json for a notebook that is not the
        submission, and display the record by which freshness.py knows what belongs to this run.
        """
        about = {"source": data.source, "fingerprint": data.fingerprint, "train_images": len(data.train_labels),
                 "test_images": len(data.test_labels), "standin": data.is_fallback}
        code = project_files("notebook" if document == "report" else document)
        files = {os.path.relpath(file, ROOT): file for file in (*code, *_drawn)}
        for run in runs:  # a submission's runs are in checkpoints/, or will be once they have been collected
            place = os.path.relpath(run.folder, ROOT)
            if SUBMISSION and document == "report":
                place = f"checkpoints/{run.name}"
            files |= {f"{place}/{file.name}": file for file in run.files}
        record = {"cells": [code_hash(source) for source in get_ipython().history_manager.input_hist_raw[1:]],
                  "files": {name: file_hash(file) for name, file in files.items()}, "standin": data.is_fallback}
        if document != "report":  # it rests on the network that the submission defines
            record["definitions"] = definitions_hash(json.loads(SUBMITTED.read_text(encoding="utf-8")))
        packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
        versions = {"python": platform.python_version(), "platform": platform.platform(terse=True),
                    "device": environment()["device"], "threads": torch.get_num_threads(), "packages": packages}
        results = json.loads(json.dumps({"claims": self, "data": about, "environment": versions}))  # as read again
        place = (PLACE / "report" if SUBMISSION else PLACE) / RESULTS.get(document, f"{document}.json")
        record |= {"texts": sorted(_said), "results": os.path.relpath(place, ROOT),
                   "results_hash": results_hash(results)}
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(results | {"code": record}, indent=1, ensure_ascii=False) + "\n")
        text = f"{len(self)} claims written to {record['results']}."
        display({MIME_TYPE: record, "text/markdown": text}, raw=True)
