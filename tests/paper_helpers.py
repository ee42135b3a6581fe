"""Small notebooks for tests of the paper: cells to build them from, and what becomes of them."""

import base64
import io
import os
import subprocess
import sys

import matplotlib
import nbformat
import pandas as pd
import pytest
from nbconvert.exporters import LatexExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from report import exporter
from tools.project_files import ROOT

matplotlib.use("pdf")
NBCONVERT = [
    *(sys.executable, "-m", "nbconvert"),
    *("--config", ROOT / "report/config.py"),
    "--output-dir",
]
HOSTILE = r"\ % $ # & _ { } ~ ^ \input{/etc/passwd} \write18{id}"


def figure_pdf(width=3.3):
    """The same bytes whatever style another test of this process has set."""
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, 2))
        figure.subplots().plot([3, 2, 1])
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return base64.b64encode(buffer.getvalue()).decode()


def code(source, *bundles, tags=(), stream=""):
    outputs = [new_output("display_data", data=data) for data in bundles]
    if stream:
        outputs.append(new_output("stream", text=stream))
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def markdown(source, *tags):
    return new_markdown_cell(source, metadata={"tags": list(tags)})


def front(title="A small paper", name="Ada Lovelace"):
    author = {
        "name": name,
        "student_number": "2020123456",
        "university": "Example University",
        "email": "ada_l@example.edu",
    }
    return code(
        "front_matter()",
        {
            "application/vnd.submission+json": {
                "title": title,
                "authors": [author],
                "keywords": ["networks"],
            }
        },
        tags=["front-matter"],
    )


def figure(label="fig-loss", caption="The loss.", more="", width=3.3):
    source = (
        f"#| label: {label}\n#| fig-cap: {caption}\n#| fig-alt: A line that falls\n{more}plot()"
    )
    return code(
        source,
        {"application/pdf": figure_pdf(width), "image/png": "AAAA", "text/plain": "<Figure>"},
    )


def table(label="tbl-layers", more="", columns=2):
    latex = pd.DataFrame({f"column {i}": [1, 2] for i in range(columns)}).to_latex(index=False)
    source = f"#| label: {label}\n#| tbl-cap: Layers.\n{more}frame"
    return code(
        source, {"text/latex": latex, "text/html": "<table>", "text/plain": "frame as text"}
    )


def latex_of(notebook, resources=None, **settings):
    """The LaTeX of a notebook and the exporter's resources; no TeX is run."""
    converter = exporter.PaperExporter(**settings)
    with exporter.exit_with_sentence():
        return LatexExporter.from_notebook_node(converter, notebook, resources)


def to_tex(*cells, folder=None, messages=None, metadata=None, **settings):
    """The LaTeX of the paper; `settings` are the exporter's, `messages` a list that is filled."""
    about = {"metadata": {"name": "notebook", "path": str(folder or ".")}}
    nb = new_notebook(cells=list(cells), metadata=metadata or {})
    latex, resources = latex_of(nb, about, **settings)
    if messages is not None:
        paper = resources["paper"]
        for each in (paper.warnings, paper.infos):
            messages += [f"{', '.join(cells)}: {what}" for what, cells in each.items()]
    return latex


def body(*cells, **options):
    """The paper between the title and the end, without the comments that name cells."""
    tex = to_tex(*cells, **options).partition("\\maketitle")[2].partition("% Add a bibliography")[0]
    return "\n".join(
        line for line in tex.split("\n") if line.strip() and not line.lstrip().startswith("% cell")
    )


def refusal(*cells):
    with pytest.raises(SystemExit) as stop:
        to_tex(*cells)
    assert "\n" not in str(stop.value)
    return str(stop.value)


def convert(folder, *cells, environment=None):
    """What a user runs; from another folder than the notebook's."""
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), folder / "paper.ipynb")
    return subprocess.run(
        [*NBCONVERT, folder / "out", folder / "paper.ipynb"],
        cwd="/",
        capture_output=True,
        encoding="utf-8",
        env=os.environ | (environment or {}),
    )


def pdf_text(path):
    text = subprocess.run(
        ["pdftotext", path, "-"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    return " ".join(text.split())
