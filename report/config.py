"""Settings of nbconvert: `jupyter nbconvert --config report/config.py NOTEBOOK` builds a paper.

It writes report/report.tex and report/report.pdf, and the same paper as build/report.html.
"""

import sys
import warnings
from pathlib import Path

from nbformat.warnings import DuplicateCellId, MissingIDFieldWarning
from traitlets.log import get_logger

HERE = Path(__file__).resolve().parent

# Editors' faults, which nbformat mends or which do no harm
warnings.simplefilter("ignore", DuplicateCellId)
warnings.simplefilter("ignore", MissingIDFieldWarning)
log = get_logger()
getattr(log, "logger", log).addFilter(
    lambda record: not str(record.msg).startswith("Notebook JSON is invalid")
)

sys.path.insert(0, str(HERE.parent))  # nbconvert finds the exporter from any working directory

from tools.terminal import replace_unprintable  # noqa: E402 (found by the line above)

replace_unprintable()

c = get_config()  # noqa: F821 (nbconvert provides it)
c.NbConvertApp.export_format = "report.exporter.PaperExporter"
c.NbConvertApp.writer_class = "report.exporter.PaperWriter"
c.PaperExporter.page = True
c.NbConvertApp.output_base = "report"
c.NbConvertApp.log_level = "WARN"  # the writer says where the paper is; faults stay visible
c.FilesWriter.build_directory = str(HERE)  # --output-dir overrides it

# With --to html: no scripts of cells and outputs. What stays is what Markdown makes, and figures,
# which come as PNG.
c.HTMLExporter.sanitize_html = True
c.SanitizeHTML.strip = True
c.SanitizeHTML.tags = [
    *("a", "abbr", "b", "blockquote", "br", "caption", "center", "code", "dd", "del", "details"),
    *("div", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "li", "ol"),
    *("p", "pre", "s", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "th"),
    *("thead", "tr", "u", "ul"),
]
c.SanitizeHTML.attributes = {
    "a": ["href", "id"],
    "img": ["src", "alt", "width"],
    "p": ["id"],
    "h1": ["id"],
    "td": ["colspan", "rowspan"],
    "th": ["colspan", "rowspan"],
}
c.NbConvertBase.display_data_priority = [
    "image/png",
    "image/jpeg",
    "text/html",
    "text/markdown",
    "text/latex",
    "text/plain",
]


def one_sentence(kind, error, trace):
    """What Python calls at the end: Ctrl-C and faults of the file system need no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("Interrupted; the paper that was there before is kept.", file=sys.stderr)
    elif issubclass(kind, OSError):
        print(
            f"The paper could not be written ({error}); one that was there before is kept.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = one_sentence
