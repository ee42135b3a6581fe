"""The exporter on random notebooks: a paper, or one sentence; never a traceback.

FUZZ=1000 tries that many. Every twentieth of that number goes all the way to PDF.
"""

import base64
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat import from_dict
from paper_helpers import HOSTILE, figure_pdf, latex_of

from report import exporter, typeset

EXAMPLES = int(os.environ.get("FUZZ") or 60)
FRAGMENTS = (
    "# Title",
    "## 1 Section",
    "## Results",
    "$x$",
    "$$x^2 \\tag{1}\\label{eq-x}$$",
    "[1](#eq-x)",
    "[a](#ref-he2016)",
    "[Figure 1](#fig-a)",
    "```python\nx\n```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "<div>",
    "<script>x</script>",
    "<!--",
    "![](attachment:x.png)",
    "\\begin{align}a&=b\\end{align}",
    "한국어",
    "🙂",
    "é",
    "\\n",
    "\x00",
    "\r",
    "-" * 300,
    "{#x}",
    "<table><tr><td rowspan=3>a<td colspan=2>",
    "</table>",
    "<ul><li>",
    "<details><summary>x",
    "<br>",
    "<img src=x.png>",
    "<h2>x</h2>",
    "$\\newcommand{\\E}{x}$",
    "$ \\E $",
    "\\eqref{eq-x}",
    "@he2016",
    "[@he2016; @fig-a]",
    "@tbl-a",
    "- [x]",
    "$$\\begin{align}a&=b\\\\c&=d\\end{align}$$",
    "<table><tr><th>a<tr><td>1</table>",
    "\\begin{tabular}{lr}a&b\\\\\\end{tabular}",
    HOSTILE,
    "#| label: fig-a",
    "#| fig-cap: A figure.",
    "#| fig-alt: x",
    "#| label: tbl-a",
    "#| tbl-cap: A table.",
    "#| label: [",
    "#| :",
    "&nbsp;",
    "$",
    "$$",
    "\\",
    "`",
    "*",
    "~~~",
    "^[note]",
    "[^1]: x",
    "---\ntitle: x\nauthor: [y]\n---",
    "#| output: asis",
    "#| fig-subcap: [a, b]",
    "![](x.png){width=50% #fig-a}",
    "$\\hat\\mathbf{x}_\\frac{a}$",
    "${\\bf x",
    "$$a\\tag{1}\\\\$$",
    "שלום world",
    "中文",
    "\x1b[1mx\b\b",
    "<table><tr><td><a href=x>y</table>",
)
KEYS = ("title", "authors", "name", "keywords", "cells", "files")
MIMES = (
    "text/plain",
    "text/markdown",
    "text/latex",
    "text/html",
    "image/png",
    "application/pdf",
    "image/svg+xml",
)
TAGS = (
    *("notebook-only", "abstract", "banner", "front-matter", "parameters", "other"),
    *("remove_output", "hide-cell", "remove-stdout", "full-output", "raises-exception"),
)


def record(optional=None, **fields):
    """Dicts with these fields; a field that is a plain value is always that."""
    return st.fixed_dictionaries(
        {
            key: value if isinstance(value, st.SearchStrategy) else st.just(value)
            for key, value in fields.items()
        },
        optional=optional or {},
    )


text = st.lists(st.sampled_from(FRAGMENTS) | st.text(st.characters(), max_size=20), max_size=6).map(
    "\n".join
)
values = text | st.sampled_from(
    ("", "AAAA", "not base64!", figure_pdf(), base64.b64encode(b"x").decode())
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)
bundle = record(dict.fromkeys(MIMES, values) | {"application/vnd.submission+json": anything})
count = st.none() | st.integers(0, 9)
output = (
    record(output_type="stream", name=st.sampled_from(("stdout", "stderr")), text=text)
    | record(output_type="error", ename=text, evalue=text, traceback=st.lists(text))
    | record(output_type="display_data", data=bundle, metadata={})
    | record(output_type="execute_result", data=bundle, metadata={}, execution_count=count)
)
metadata = record({"tags": st.lists(st.sampled_from(TAGS), max_size=2, unique=True)})
cell = (
    record(cell_type="markdown", source=text, metadata=metadata)
    | record(cell_type="raw", source=text, metadata=metadata)
    | record(
        cell_type="code",
        source=text,
        metadata=metadata,
        execution_count=count,
        outputs=st.lists(output, max_size=3),
    )
)
notebook = record(cells=st.lists(cell, max_size=5), metadata={}, nbformat=4, nbformat_minor=4)


@pytest.fixture(scope="module", autouse=True)
def build(tmp_path_factory):
    """Where faulty runs of LaTeX leave their log: not in the project."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch.setattr(typeset, "BUILD", tmp_path_factory.mktemp("build"))


def tries(count):
    return settings(
        max_examples=count,
        deadline=60_000,
        suppress_health_check=list(HealthCheck),
        derandomize=EXAMPLES < 100,
    )


def paper_or_sentence(convert, nb):
    """What becomes of a notebook, or None where the build ended with one sentence."""
    try:
        return convert(from_dict(nb))[0]
    except SystemExit as stop:
        assert 0 < len(str(stop)) < 2000 and "\n" not in str(stop) and "Traceback" not in str(stop)


@pytest.mark.slow
@given(notebook)
@tries(EXAMPLES)
def test_any_notebook_becomes_latex_and_a_page_or_one_sentence(nb):
    latex = paper_or_sentence(lambda nb: latex_of(nb, page=True), nb)
    assert latex is None or r"\end{document}" in latex


@pytest.mark.tex
@pytest.mark.slow
@given(notebook)
@tries(max(1, EXAMPLES // 20))
def test_any_notebook_becomes_a_pdf_or_one_sentence(nb):
    pdf = paper_or_sentence(exporter.PaperExporter().from_notebook_node, nb)
    assert pdf is None or pdf.startswith(b"%PDF")
