"""Makes the paper as one web page: self-contained, without scripts, for any width of screen.

It has the sections, figures, tables, equations and references of the PDF with the same numbers, and
each number that is a claim opens its source. Neither TeX nor any other program is needed: figures
are SVG where poppler's pdftocairo is installed and PNG elsewhere.
"""

import base64
import re
import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from report.html_writer import HtmlWriter
from report.latex_text import safe_label
from report.markdown import HEADINGS
from report.provenance import Provenance, format_claim
from report.reference_list import list_references
from report.typeset import resource, run
from tools.errors import PaperError

FOLDER = Path(__file__).with_name("webpage")
PDF_TO_SVG = ["pdftocairo", "-svg", "-f", "1", "-l", "1", "-", "-"]
ENLARGED = 1.9  # pixels for a point of a picture: 8 pt become 15 px
PICTURE_TYPES = {"png": "image/png", "jpg": "image/jpeg"}


def write_page(notebook, paper, results):
    """The web page of a paper whose trees are built and not yet LaTeX, a string.

    Args:
        notebook: the executed notebook.
        paper: its Paper.
        results: the content of its results.json, {} without one.
    """
    provenance = Provenance(notebook, results)
    writer = HtmlWriter(
        paper,
        list_references(_cited_keys(paper)),
        provenance,
        lambda name: picture_address(name, paper),
    )
    parts = {}
    # in the order in which readers see them
    for part in ("title", "banner", "abstract", "body", "appendix"):
        fragments = [fragment for fragment in paper.fragments if fragment.part == part]
        fragments.sort(key=lambda fragment: fragment.order)  # wide figures stand where they belong
        parts[part] = Markup("\n".join(map(writer.write, fragments)))
    template = _environment().get_template("page.html.j2")
    return template.render(
        front=paper.front,
        title=_inline(parts["title"]) or paper.front["title"],
        parts=parts,
        draft=paper.draft,
        contents=_contents(paper),
        notes=[Markup(note) for note in writer.footnotes],
        references=[each for _, each in writer.references.values()],
        sources=[
            _describe(number, claims, cell_name, provenance)
            for (claims, cell_name), number in writer.shown.items()
        ],
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
    )


def picture_address(name, paper):
    """A picture as an address that begins with data:, and the width to show it in, in pixels.

    The address is "" if browsers cannot show it, the width 0 if it is the picture's own.

    Args:
        name: of its file.
        paper: the Paper, which has its bytes.
    """
    kind = name.rpartition(".")[2]
    data = paper.files[name]
    if kind == "pdf":
        if svg := _svg(data):
            return _address("image/svg+xml", svg), _enlarged(svg)
        kind, data = "png", paper.previews.get(name)
    return (_address(PICTURE_TYPES[kind], data), 0) if data else ("", 0)


def _svg(pdf):
    """The first page of a PDF as SVG, b"" where that cannot be made.

    As the source of an <img> it runs no scripts and loads nothing.
    """
    if resource is None or not shutil.which(PDF_TO_SVG[0]):  # Windows has no limits for programs
        return b""
    try:
        svg = run(PDF_TO_SVG, pdf).stdout
    except (PaperError, OSError):
        return b""
    return svg if b"</svg>" in svg[-100:] else b""


def _enlarged(svg):
    """The width of an SVG on the page, in pixels: larger than on paper, as the text is."""
    found = re.search(rb'<svg[^>]*? width="([\d.]{1,9})(?:pt)?"', svg)
    return round(float(found[1]) * ENLARGED) if found else 0


def _address(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _cited_keys(paper):
    """The keys of the works that the paper cites, a set."""
    keys = set()
    for fragment in paper.fragments:
        for node in fragment.body.find_all(string=True):
            page = getattr(node, "page", None)
            if page and not isinstance(page, str) and page.has_attr("citations"):
                keys.update(page["citations"])
    return keys


def _inline(html):
    """The HTML of a title without the element of its paragraph."""
    return Markup(html.removeprefix('<p dir="auto">').removesuffix("</p>"))


def _contents(paper):
    """The sections of the first level: (number, id, title) each."""
    found = []
    for fragment in paper.fragments:
        if fragment.part not in ("body", "appendix"):
            continue
        for heading in fragment.body.find_all(HEADINGS[0]):
            number = heading.get("number", "")
            first = (heading.get("labels") or [f"section-{number}"])[0]
            words = " ".join(heading.get_text().split())
            found.append((number, safe_label(first), words))
    return found


def _describe(number, claims, cell_name, provenance):
    """What the template needs of the source of a number, a dict."""
    described = []
    for claim in claims:
        kind, digest = provenance.origin(claim)
        verdict = provenance.verdict(claim)
        described.append(
            {
                "name": claim.name,
                "value": format_claim(claim),
                "kind": kind,
                "source": claim.source,
                "hash": digest,
                "tolerance": provenance.tolerance(claim),
                "verdict": verdict,
            }
        )
    shown_in = cell_name.partition(" (")[0]  # without its words: the page shows no code
    return {"number": number, "shown_in": shown_in, "claims": described}


def _environment():
    """Jinja's environment, in which what is no Markup is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_label"] = safe_label
    return environment
