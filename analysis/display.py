"""What a cell shows, for two readers: HTML for the notebook, LaTeX and PDF for the paper."""
import base64
import dataclasses
import html
import io
import math
import numbers
import re

import matplotlib.pyplot as plt
from IPython.display import Markdown, display
from nbconvert.filters import escape_latex

from analysis.notebook_run import OUTPUT_FOLDER, cell_options
from report.bibliography import entries_of
from report.freshness import MIME_TYPE, text_hash, with_no_break_spaces
from report.reference_list import list_references
from tools.errors import SubmissionError

KINDS = {"fig": "Figure", "tbl": "Table"}  # the first letters of a label, and what captions say
PIXELS_PER_INCH = 130  # of figures in the notebook


# ------------------------------------------------------------------------------ what was shown

@dataclasses.dataclass
class Shown:
    """What the cells of a notebook have shown since it was started.

    `figure_files` are the paths of saved figures; `text_hashes` the SHA-256 of texts and tables,
    by which `report.freshness` recognises them; `labels` those of figures and tables.
    """
    figure_files: list = dataclasses.field(default_factory=list)
    text_hashes: list = dataclasses.field(default_factory=list)
    labels: list = dataclasses.field(default_factory=list)

    def number_of(self, label):
        """Return the number of a figure or table: its place among those of its kind, from 1."""
        if label not in self.labels:
            self.labels.append(label)
        same_kind = [other for other in self.labels if other[:3] == label[:3]]
        return same_kind.index(label) + 1


shown = Shown()  # by the functions below; the ledger records it


# -------------------------------------------------------------------------- figures and tables

def show_figure(figure):
    """Display a matplotlib `figure` with the running cell's caption, and save it in figures/.

    It is saved as PDF and PNG under the cell's label. Raises SubmissionError if the cell lacks one
    of the options `label`, `fig-cap` and `fig-alt`.
    """
    options = cell_options()
    label = required_option(options, "label", "fig-…")
    alt_text = required_option(options, "fig-alt", "…")
    if kind_of_label(label) != "Figure":
        raise SubmissionError(f"the label {label} of a figure must start with fig-")
    # The paper makes its own caption of the cell's options.
    caption = {"text/html": html_caption(options), "text/latex": latex_caption(options)}
    # No dates: the same figure has the same bytes.
    pdf = save_figure(figure, f"{label}.pdf", metadata={"CreationDate": None})
    png = save_figure(figure, f"{label}.png", metadata={})
    plt.close(figure)
    width = figure.get_figwidth() * PIXELS_PER_INCH
    image = (f'<img alt="{html.escape(alt_text)}" width="{width:.0f}" '
             f'src="data:image/png;base64,{png}">')
    display({"text/html": image, "application/pdf": pdf, "image/png": png}, raw=True)
    display(caption, raw=True, metadata={"caption": True})


def save_figure(figure, name, metadata):
    """Save a figure as the file `name` in figures/; return its content, encoded in base 64."""
    path = OUTPUT_FOLDER / "figures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), metadata=metadata)
    path.write_bytes(buffer.getvalue())
    shown.figure_files.append(path)
    return base64.b64encode(buffer.getvalue()).decode()


def show_table(frame, precision=2):
    """Display a DataFrame with the running cell's caption, as HTML and as a booktabs tabular.

    An index is shown if it has a name. Floats have `precision` decimals. `frame.attrs["bold"]` are
    the positions of rows in bold, if there are any. Raises SubmissionError if the cell lacks one of
    the options `label` and `tbl-cap`.
    """
    if any(name is not None and name not in frame.columns for name in frame.index.names):
        frame = frame.reset_index()
    options = cell_options()
    label = required_option(options, "label", "tbl-…")
    page = html_caption(options) + styled(frame, precision, "html").to_html(table_uuid=label)
    latex = "\n".join([
        r"\begin{minipage}{\linewidth}\centering",
        latex_caption(options),
        r"\begin{adjustbox}{max width=\linewidth}",
        styled(frame, precision, "latex").to_latex(hrules=True) + r"\end{adjustbox}",
        r"\end{minipage}\bigskip",
    ])
    shown.text_hashes.append(text_hash(latex))
    display({"text/html": page, "text/latex": latex}, raw=True)


def styled(frame, precision, language):
    """Return a pandas Styler of `frame`, its text escaped for "html" or "latex"."""
    style = frame.style.hide(axis="index")
    style = style.format(precision=precision, thousands=",", na_rep="–", escape=language)
    bold = frame.index[list(frame.attrs.get("bold", []))]
    if len(bold):
        style = style.format(lambda value: bold_text(value, precision, language), subset=(bold,))
    return style.format_index(escape=language, axis="columns")


def bold_text(value, precision, language):
    """Return the content of a table's cell as bold text for "html" or "latex"."""
    text = str(value)
    if isinstance(value, numbers.Real):
        text = f"{value:,}" if isinstance(value, numbers.Integral) else f"{value:,.{precision}f}"
        if math.isnan(value):
            text = "–"
    if language == "html":
        return f"<b>{html.escape(text)}</b>"
    return rf"\textbf{{{escape_latex(text)}}}"


def html_caption(options):
    """Return the caption in a cell's options as HTML, numbered, an anchor for links."""
    label, text = label_and_caption(options)
    word = KINDS[label[:3]]
    return f'<p id="{label}"><b>{word} {shown.number_of(label)}.</b> {html.escape(text)}</p>'


def latex_caption(options):
    """Return the caption in a cell's options as LaTeX.

    Stock nbconvert's template sets captions, of Markdown's pictures, without their text; hence the
    format.
    """
    label, text = label_and_caption(options)
    counter = KINDS[label[:3]].lower()
    return (r"{\captionsetup{format=plain,skip=6pt}"
            rf"\captionof{{{counter}}}{{{escape_latex(text)}}}\label{{{label}}}\medskip\par}}")


def reference(label):
    """Return a link to a figure or table with its number, as Markdown: "[Figure 3](#fig-loss)".

    Raises SubmissionError if `label` is of another kind.
    """
    return f"[{kind_of_label(label)} {shown.number_of(label)}](#{label})"


def kind_of_label(label):
    """Return "Figure" or "Table". Raises SubmissionError if `label` is of another kind."""
    if label[:4] not in ("fig-", "tbl-"):
        raise SubmissionError(f"the label {label} must start with fig- or tbl-")
    return KINDS[label[:3]]


def label_and_caption(options):
    """Return label and caption in a cell's options, two strings."""
    label = required_option(options, "label", "fig-… or tbl-…")
    kind_of_label(label)
    return label, required_option(options, f"{label[:3]}-cap", "…")


def required_option(options, name, example):
    """Return the cell option `name`. Raises SubmissionError if the cell lacks it."""
    if not options.get(name):
        raise SubmissionError(f"this cell has no `{name}`: add `#| {name}: {example}` at its top")
    return str(options[name])


# --------------------------------------------------------------------------------------- texts

def prose(text, handle=None):
    """Show a paragraph of Markdown; with a display `handle`, in the place of what that one shows.

    Per cent signs and ± stay with their numbers, and a hyphen between a space and a number becomes
    a minus sign.
    """
    text = re.sub(r"(?<=\s)-(?=\d)", "−", with_no_break_spaces(text))
    shown.text_hashes.append(text_hash(text))
    if handle:
        handle.update(Markdown(text))
    else:
        display(Markdown(text))


def show_authors(title, authors, keywords):
    """Show who hands this in; the paper's title block is made from it.

    `authors` is a list of dicts with the key "name" and any of "student_number", "university" and
    "email"; `keywords` a list of strings.
    """
    lines = []
    for author in authors:
        details = [author.get(key) for key in ("student_number", "university", "email")]
        lines.append(", ".join([f"**{author['name']}**", *filter(None, details)]))
    front_matter = {"title": title, "authors": authors, "keywords": keywords}
    display({MIME_TYPE: front_matter, "text/markdown": "\n\n".join(lines)}, raw=True)


def reference_list(document="report"):
    """Show the bibliography of a document, each entry with the anchor `ref-<key>` for citations.

    The field `keywords` of an entry names its documents; without it the entry is of "report".
    """
    markdown = []
    latex = []
    for listed in list_references(entry.key for entry in entries_of(document)):
        authors = f"{listed.authors or listed.key}: "
        details = ", ".join(filter(None, [*listed.details, listed.address]))
        markdown.append(f'- <a id="ref-{listed.key}"></a>{authors}*{listed.title}*. {details}')
        latex.append(rf"\item\phantomsection\label{{ref-{listed.key}}}{escape_latex(authors)}"
                     rf"\emph{{{escape_latex(listed.title)}}}. {escape_latex(details)}")
    display({
        "text/markdown": "\n".join(markdown),
        "text/latex": "\n".join([r"\begin{itemize}", *latex, r"\end{itemize}"]),
    }, raw=True)
