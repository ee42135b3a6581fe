"""Turns the executed notebook into a two-column paper: an nbconvert exporter.

The paper holds what Jupyter shows. Its steps, each a module of this package:

1. collect: fragments of HTML from the notebook's cells, Markdown rendered as Jupyter does.
2. syntax: what text means (formulas, references, notes) becomes elements.
3. headings, numbering, arrangement: numbers as LaTeX will count; pictures and tables placed.
4. links: references and citations.
5. writer: each element becomes LaTeX; before that, html_writer makes a web page of the same trees.

The template in twocolumn/ adds title block and style, and typeset.py makes the PDF. What the paper
leaves out, cuts or scales is named in one line each, and the build goes on; STRICT=1 turns these
warnings into a refusal. Only what is unsafe, or would make the paper say something false, ends the
build with one sentence in any case.
"""

import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
from nbconvert.exporters import LatexExporter
from nbconvert.writers import FilesWriter
from nbformat.v4 import new_raw_cell
from traitlets import Bool, default
from traitlets.config import Config

from report import geometry, latex_writer
from report.arrangement import arrange
from report.bibliography import BIBLIOGRAPHY, read_bibliography
from report.collect import Collector
from report.freshness import cell_names, record, stale
from report.headings import arrange_headings
from report.links import link
from report.numbering import find_names, number
from report.paper import Paper, too_deep
from report.syntax import clean
from report.typeset import BUILD, NO_SANDBOX, attach, sandbox, typeset
from report.web_page import write_page
from tools.errors import PaperError
from tools.project_files import ROOT
from tools.sandbox_command import why_unusable
from tools.settings import is_set

HERE = Path(__file__).resolve().parent
NO_EXTRACTION = (
    "ExtractOutputPreprocessor",
    "ExtractAttachmentsPreprocessor",
    "SVG2PDFPreprocessor",
)


@contextmanager
def exit_with_sentence():
    """End the program with the sentence of a PaperError, in one line.

    nbconvert shows a traceback for every exception but SystemExit.
    """
    try:
        yield
    except PaperError as fault:
        raise SystemExit(" ".join(str(fault).split())) from None


def build_paper(notebook, paper):
    """Run the steps from a notebook's cells to trees of elements that a writer can write.

    Args:
        notebook: an executed notebook.
        paper: the Paper to fill.
    """
    Collector(paper).collect(notebook)
    for fragment in paper.fragments:
        clean(paper, fragment)
    find_names(paper)
    arrange_headings(paper)
    for fragment in paper.fragments:
        number(paper, fragment)
        arrange(paper, fragment)
    for fragment in paper.fragments:  # only now are all labels known
        link(paper, fragment)


def write(paper, fragment):
    """Write a fragment's LaTeX, below a comment by which faults of LaTeX find the cell."""
    for element in fragment.body.find_all("paper-table"):
        table = element["float"].table
        table.warn = lambda sentence: paper.warn(sentence, fragment.cell_name)
        table.inform = lambda sentence: paper.inform(sentence, fragment.cell_name)
    try:
        text = latex_writer.write(fragment.body)
    except RecursionError:
        raise too_deep(fragment.cell_name) from None
    # without its words: the paper shows no code
    number_of_cell = fragment.cell_name.partition(" (")[0]
    definitions = "".join(f"{line}\n" for line in fragment.definitions)
    fragment.latex = f"% {number_of_cell}\n{definitions}{text}"


def results_path(notebook):
    """The file that a notebook's record names as its results, None if there is no such file.

    Raises PaperError for a file that cannot be the results of a notebook of this project.
    """
    name = record(notebook).get("results")
    if not name:
        return None
    path = (ROOT / str(name)).resolve()
    if not path.is_relative_to(ROOT.resolve()) or path.suffix != ".json":
        raise PaperError(
            f"The notebook's record names {path.name} as its results, which is outside of the "
            "project or no JSON: run the notebook again."
        )
    return path if path.is_file() else None


def parse_results(data, path):
    """The content of a results file, and the packages that it lists, one a line in bytes.

    Args:
        data: the bytes of the file.
        path: where it is, for the message.

    Raises PaperError if the file is damaged.
    """
    try:
        content = json.loads(data)
        packages = "".join(line + "\n" for line in content["environment"]["packages"]).encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        name = path.relative_to(ROOT.resolve())
        raise PaperError(f"{name} is damaged: run the notebook again.") from None
    return content, packages


def sources_of(notebook, name):
    """What a paper is made from, and the content of the notebook's results.

    Args:
        notebook: the executed notebook.
        name: its file name without extension.

    Returns:
        File name -> bytes, of notebook, results, versions and references; and the parsed results,
        {} without any.
    """
    sources = {
        f"{name}.ipynb": nbformat.writes(notebook).encode(errors="replace"),
        BIBLIOGRAPHY.name: BIBLIOGRAPHY.read_bytes(),
    }
    results = {}
    if path := results_path(notebook):
        sources["results.json"] = path.read_bytes()
        results, packages = parse_results(sources["results.json"], path)
        sources["environment.txt"] = packages
    return sources, results


class PaperExporter(LatexExporter):
    """Notebook to paper; the source of the PDF travels in resources["tex"]."""

    check_freshness = Bool(
        True, help="Refuse a notebook whose outputs are not of the code beside them."
    ).tag(config=True)
    draft = Bool(
        help="Build stale notebooks as well, and print DRAFT on every page. "
        "Set by the environment variable DRAFT=1."
    ).tag(config=True)

    strict = Bool(
        help="Refuse a notebook of which something would be left out, cut or scaled. "
        "Set by the environment variable STRICT=1."
    ).tag(config=True)

    page = Bool(
        help="Make a web page as well, which PaperWriter writes: also where TeX is missing."
    ).tag(config=True)

    file_extension = ".pdf"
    template_extension = ".tex.j2"

    def __init__(self, **kw):
        super().__init__(template_name="twocolumn", extra_template_basedirs=[str(HERE)], **kw)
        self.register_preprocessor(self.compose)  # last, so that --execute comes before it

    @default("draft")
    def _default_draft(self):
        return is_set("DRAFT")

    @default("strict")
    def _default_strict(self):
        return is_set("STRICT")

    @property
    def default_config(self):
        """Without nbconvert's own handling of pictures.

        It fails at damaged ones, and needs Inkscape for SVG.
        """
        settings = super().default_config
        settings.merge(Config({name: {"enabled": False} for name in NO_EXTRACTION}))
        return settings

    def from_notebook_node(self, nb, resources=None, **kw):
        """The bytes of the PDF, and resources: LaTeX as "tex", and "messages" for the author.

        If a web page was asked for, resources have it as "page"; where there is no PDF, that is
        b"" then, and resources say why as "failure".

        Raises SystemExit with one sentence if the notebook cannot become a paper: nbconvert shows
        a traceback for all other exceptions.
        """
        with exit_with_sentence():
            return self._make_pdf(nb, resources, **kw)

    def _make_pdf(self, nb, resources, **kw):
        mend_ids(nb)
        name = (resources or {}).get("metadata", {}).get("name", "notebook")
        sources, results = sources_of(nb, name)
        resources = {**(resources or {}), "results": results}
        latex, resources = super().from_notebook_node(nb, resources, **kw)
        paper = resources["paper"]
        pdf, warnings = b"", []
        try:
            pdf, latex, warnings = typeset(latex, paper.files, paper.cell_names)
        except OSError as error:
            raise PaperError(
                f"There is no room or no right to write temporary files: {error}."
            ) from None
        except PaperError as fault:
            if not self.page:
                raise
            resources["failure"] = str(fault)
        warnings = _lines(paper.warnings) + warnings
        if self.strict and warnings:
            raise PaperError(
                f"{' '.join(warnings)} STRICT=1 refuses a paper with such warnings; STRICT=0 "
                "builds it."
            )
        infos = _lines(paper.infos)
        if pdf and not sandbox():
            infos.append(NO_SANDBOX.format(reason=why_unusable()))
        resources.update(tex=latex, outputs={}, messages=infos + warnings)
        if pdf:
            pdf = attach(pdf, sources)
        return pdf, resources

    def compose(self, nb, resources):
        """Replace the notebook's cells by one that holds the body of the paper in LaTeX."""
        metadata = resources["metadata"]
        entries = read_bibliography(BIBLIOGRAPHY)
        paper = Paper(
            name=metadata["name"],
            folder=Path(metadata.get("path") or "."),
            project=ROOT,
            has_author={key: entry.has_author for key, entry in entries.items()},
            cell_names=cell_names(nb),
            draft=self.draft,
        )
        build_paper(nb, paper)
        self._check(nb, paper)
        if self.page:  # before LaTeX, whose writer takes the trees apart
            resources["page"] = write_page(nb, paper, resources.get("results", {}))
        for fragment in paper.fragments:
            write(paper, fragment)
        resources["paper"] = paper
        resources["margins"] = geometry.MARGINS
        nb.cells = [new_raw_cell(paper.latex("body"))]
        return nb, resources

    def _check(self, nb, paper):
        """Raise PaperError if the notebook's outputs are stale, or the paper is empty."""
        faults = []
        if self.check_freshness and not self.draft:
            faults = list(stale(nb, ROOT))
        if faults:
            raise PaperError(
                f"{'; '.join(faults)}. Restart the kernel and run all cells, or run make "
                "submission (the study: make study). Finished runs whose settings are the same are "
                "loaded. DRAFT=1 builds the paper in any case, marked as a draft."
            )
        if not paper.fragments:
            raise PaperError(
                "The notebook shows nothing that a paper could hold: Markdown, pictures or tables."
            )


def _lines(messages):
    """A line for each message, with the cells that it is about: a list."""
    return [f"{_join_cells(cells)}: {sentence}." for sentence, cells in messages.items()]


def _join_cells(cells):
    """The names of one or two cells, the numbers of more."""
    numbers = [re.match(r"cell (\d+)", cell) for cell in cells]
    if len(cells) <= 2 or not all(numbers):
        return ", ".join(cells)
    return "cells " + ", ".join(number[1] for number in numbers)


def mend_ids(notebook):
    """Change cell ids that some editors write and nbformat does not allow."""
    for cell in notebook.cells:
        if "id" in cell:
            cell.id = re.sub(r"[^a-zA-Z0-9_-]", "-", str(cell.id))[:64] or "cell"


class PaperWriter(FilesWriter):
    """Writes .pdf, .tex and .html and says where they are."""

    def write(self, output, resources, notebook_name=None, **kw):
        """The path of the PDF. Raises SystemExit if it cannot be written; an old one is kept.

        Where there is no PDF, the web page is written before SystemExit says why.
        """
        if "tex" not in resources:  # another exporter's, asked for with --to
            return super().write(output, resources, notebook_name=notebook_name, **kw)
        pdf = Path(self.build_directory).resolve() / f"{notebook_name}.pdf"
        tex = pdf.with_suffix(".tex")
        page = page_path(pdf)
        contents = {pdf: output, tex: resources["tex"].encode()}
        failure = resources.get("failure", "")
        if failure:
            contents = {}
        if "page" in resources:
            contents[page] = resources["page"].encode(errors="replace")
        with exit_with_sentence():
            replace_files(contents)
        for line in resources.get("messages", []):
            print(line, file=sys.stderr)
        if "page" in resources:
            print(page)
        if failure:
            with exit_with_sentence():
                raise PaperError(
                    f"{failure} The paper is there as a web page, which needs no TeX: open {page} "
                    "in a browser. There is no new PDF."
                )
        print(pdf)
        return pdf


def page_path(pdf):
    """Where the web page of a paper goes: beside the PDF, but to build/ from report/.

    It is no part of a submission, and report/ holds nothing else.
    """
    folder = BUILD if pdf.parent == HERE else pdf.parent
    return folder / f"{pdf.stem}.html"


def replace_files(contents):
    """Write files, path -> bytes: all of them, or none.

    Raises PaperError, which names the file that failed, after putting back those replaced so far.
    """
    temporary = {path: path.with_suffix(f"{path.suffix}.new") for path in contents}
    earlier = {path: path.with_suffix(f"{path.suffix}.old") for path in contents}
    replaced = []
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(data)
        for path, new in temporary.items():
            if path.is_file():
                os.replace(path, earlier[path])
            replaced.append(path)
            os.replace(new, path)
        for old in earlier.values():
            old.unlink(missing_ok=True)
    except OSError as error:
        for new in temporary.values():
            new.unlink(missing_ok=True)
        for done in replaced:
            put_back(done, earlier[done])
        raise PaperError(
            f"{path} cannot be written ({error.strerror}): close the program that shows it, or "
            "free disk space, then build again. The paper that was there before is kept."
        ) from None


def put_back(path, old):
    """Give a file its earlier content, the file `old`; remove it if there was none before."""
    with suppress(OSError):
        if old.exists():
            os.replace(old, path)
        else:
            path.unlink(missing_ok=True)
