"""What the notebook shows and claims: figures and tables for two readers, notebook and paper, and the ledger."""
import base64
import html
import io
import json
import os
from importlib.metadata import distributions
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from fresh import code_hash, file_hash, results_hash, text_hash
from IPython import get_ipython
from IPython.display import Markdown, display
from nbconvert.filters import escape_latex

ROOT = Path(__file__).resolve().parent.parent
_drawn, _said = [], []  # the files of the figures shown; the hashes of the paper's other outputs
_numbers = {"fig": {}, "tbl": {}}  # label -> number, in the order in which cells were first run


def cell_options():
    """The Quarto options (`#| key: value`) at the top of the cell being run, with the caption as HTML and LaTeX."""
    source = get_ipython().history_manager.input_hist_raw[-1]
    options = yaml.safe_load("\n".join(line[2:] for line in source.splitlines() if line.startswith("#|")))
    kind, label = options["label"][:3], options["label"]
    number = _numbers[kind].setdefault(label, len(_numbers[kind]) + 1)
    word = {"fig": "Figure", "tbl": "Table"}[kind]
    text = options[f"{kind}-cap"]
    options["caption"] = {
        "text/html": f'<p id="{label}"><b>{word} {number}.</b> {html.escape(text)}</p>',
        # Stock nbconvert's template sets captions, of Markdown's pictures, without their text.
        "text/latex": f"{{\\captionsetup{{format=plain,skip=6pt}}\\captionof{{{word.lower()}}}{{{escape_latex(text)}}}"
                      f"\\label{{{label}}}\\medskip\\par}}"}
    return options


def show_figure(figure, folder):
    """Save `figure` in `folder` as PDF and PNG, named by the cell's label, and display it with the cell's alt text."""
    options, files = cell_options(), {}
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
    caption = options["caption"]
    latex = f"{caption['text/latex']}\n\\begin{{center}}\n{styled('latex').to_latex(hrules=True)}\\end{{center}}"
    _said.append(text_hash(latex))
    display({"text/html": caption["text/html"] + styled("html").to_html(table_uuid=options["label"]),
             "text/latex": latex}, raw=True)


def prose(text, place=None):
    """Show a paragraph of Markdown, here or at `place`, a display handle; numbers keep their per cent signs."""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    _said.append(text_hash(text))
    if place:
        place.update(Markdown(text))
    else:
        display(Markdown(text))


class Ledger(dict):
    """What the paper claims: name -> value, unit, source (a cell's label or a run's name) and tolerance."""

    def claim(self, name, value, unit, tolerance, source):
        """Enter a claim and return its value; `tolerance` is how far a rerun may be off, None if anything goes."""
        self[name] = {"value": value, "unit": unit, "source": source, "tolerance": tolerance}
        return value

    def write(self, folder, data, environment, runs):
        """Write results.json to `folder`, and display the record by which fresh.py knows what belongs to this run."""
        about = {"source": data.source, "fingerprint": data.fingerprint, "train_images": len(data.train_labels),
                 "test_images": len(data.test_labels), "standin": data.standin}
        files = {os.path.relpath(file, ROOT): file
                 for file in (*sorted(ROOT.glob("*.py")), ROOT / "report" / "ledger.py", *_drawn)}
        for run in runs:  # a submission's runs are in checkpoints/, or will be once they have been collected
            place = f"checkpoints/{run.name}" if folder == ROOT / "report" else os.path.relpath(run.folder, ROOT)
            files |= {f"{place}/{file.name}": file for file in run.files}
        record = {"cells": [code_hash(source) for source in get_ipython().history_manager.input_hist_raw[1:]],
                  "files": {name: file_hash(file) for name, file in files.items()}}
        packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
        results = {"claims": self, "data": about, "environment": environment | {"packages": packages}}
        results = json.loads(json.dumps(results))  # as they are read again
        record |= {"texts": sorted(_said), "results": os.path.relpath(folder / "results.json", ROOT),
                   "results_hash": results_hash(results)}
        text = json.dumps(results | {"code": record}, indent=1, ensure_ascii=False)
        (folder / "results.json").write_text(text + "\n")
        text = f"{len(self)} claims written to {record['results']}."
        display({"application/json": record, "text/markdown": text}, raw=True)
