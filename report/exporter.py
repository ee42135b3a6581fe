"""Turns the executed notebook into a two-column paper: an nbconvert exporter.

Cells become fragments: Markdown, with LaTeX before and after it. Pandoc reads all Markdown into one syntax tree, in
which headings and equations are numbered and links become references, and writes it as LaTeX. The template in
twocolumn/ adds title block and style, and typeset.py makes the PDF. Whatever is wrong ends the build with one sentence.
"""

import base64
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import nbformat
import yaml
from fresh import record, shown, stale
from nbconvert.exporters import LatexExporter, PDFExporter
from nbconvert.writers import FilesWriter
from nbformat.v4 import new_raw_cell
from pandocfilters import Header, Para, RawBlock, RawInline, Str, stringify, walk
from traitlets.config import Config
from typeset import BIBLIOGRAPHY, attach, fail, run, typeset

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DRAFT = bool(os.environ.get("DRAFT"))  # builds whatever it is given, and says DRAFT on every page
# What Jupyter renders, and no more: raw TeX outside of math stays text.
MARKDOWN = (
    "markdown_strict+tex_math_dollars+pipe_tables+backtick_code_blocks+fenced_code_blocks+header_attributes"
    "+intraword_underscores+all_symbols_escapable+lists_without_preceding_blankline+escaped_line_breaks+smart"
)
FLOATS = {"application/pdf": "figure", "image/png": "figure", "text/latex": "table"}  # of two pictures the first
NUMBER = r"\d+(?:\.\d+)*"


def pandoc(text, source, target):
    return run(f"pandoc -f {source} -t {target} --wrap=preserve", input=text.encode(errors="replace")).stdout.decode()


@dataclass
class Fragment:
    """Markdown on its way to LaTeX, and the LaTeX to put directly before and after it."""

    place: str  # what messages call the cell
    markdown: str
    before: str = ""
    after: str = ""
    part: str = "body"  # or "abstract" or "banner"
    mark: str = field(default_factory=lambda: uuid4().hex)  # stands behind it on its way through pandoc


def cell_name(index, cell):
    """The cell's number, and its label or first line."""
    first = cell.source.strip().partition("\n")[0].removeprefix("#| label: ")
    return f"cell {index} ({first[:60].strip()})"


def cell_options(cell, place):
    """Quarto's cell options: the `#| key: value` lines at the top of a code cell."""
    try:
        return dict(yaml.safe_load("\n".join(re.findall(r"(?m)^#\| ?(.*)", cell.source))) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        fail(f"{place}: the cell options are not lines of `#| key: value`, in YAML ({error}).")


def front_matter(found, place):
    """Title, authors and keywords, checked."""
    front = found[0] if found else {}
    fits = isinstance(front, dict) and isinstance(front.get("title", ""), str) and all(
        isinstance(front.get(name, []), list) for name in ("authors", "keywords")) and all(
        isinstance(word, str) for word in front.get("keywords", [])) and all(
        isinstance(author, dict) and all(isinstance(value, str) for value in author.values())
        for author in front.get("authors", []))
    if not fits:
        fail(f"{place}: the front matter is a title, a list of authors (name, student_number, university, email) and a "
             "list of keywords, all of them text.")
    return front


def prepare(markdown):
    """A Markdown cell as pandoc should see it."""
    # What stands between the notebook's title and the next heading introduces the notebook, not the paper.
    markdown = re.sub(r"(?ms)\A\s*# (?!\d).*?(?=^##|^<a id=|\Z)", "", markdown)
    # An anchor before a heading is the heading's label.
    markdown = re.sub(r'(?m)^<a id="(sec-[^"]*)"></a>\s*^(##.*)', r"\2 {#\1}", markdown)
    # Jupyter takes these environments for mathematics as they are; pandoc needs dollars around them.
    bare = r"(?ms)(?<!\$\$)(?<!\$\$\n)^\\begin\{(equation|align|gather|multline)(\*?)\}.*?\\end\{\1\2\}"
    return re.sub(bare, lambda found: f"$${found[0]}$$", markdown)


class Paper:
    """What the template needs of the notebook: front matter, LaTeX, pictures."""

    def __init__(self, nb, name):
        self.front, self.files, self.fragments = {"title": name}, {}, []
        self.counts, self.sections, self.cited = Counter(), [], False
        self.labels = {}  # label: (its number in the paper, the cell that has it)
        self.wide_from = 0  # where the next wide float may go: behind the float before it
        self.keys = re.findall(r"^@\w+\{([^,\s]+),", BIBLIOGRAPHY.read_text(encoding="utf-8"), re.M)
        for index, cell in enumerate(nb.cells, 1):
            self.read_cell(cell, cell_name(index, cell))
        self.convert()

    def latex(self, part):
        return "\n\n".join(fragment.latex for fragment in self.fragments if fragment.part == part)

    def read_cell(self, cell, place):
        """Markdown and labelled floats enter the paper; code, streams and other outputs do not."""
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                fail(f"{place} ended in an error: {output.ename}: {output.evalue[:200]}")
        tags, outputs = cell.metadata.get("tags", []), shown(cell)
        if "front-matter" in tags:
            found = [data["application/json"] for data in outputs if "application/json" in data]
            self.front |= front_matter(found, place)
        elif "notebook-only" not in tags and cell.cell_type == "markdown":
            self.fragments.append(Fragment(place, prepare(cell.source)))
        elif outputs:
            part = next((tag for tag in tags if tag in ("abstract", "banner")), "body")
            if part == "body":
                self.read_float(outputs, cell_options(cell, place), place)
            texts = [data["text/markdown"] for data in outputs if "text/markdown" in data]
            self.fragments += [Fragment(place, text, part=part) for text in texts]

    def read_float(self, outputs, options, place):
        label = str(options.get("label", ""))
        kind = {"fig-": "figure", "tbl-": "table"}.get(label[:4])
        floats = [data for data in outputs if FLOATS.keys() & data]
        found = [next((mime, data[mime]) for mime in FLOATS if mime in data) for data in floats]
        if [FLOATS[mime] for mime, _ in found] != [kind] * bool(kind):
            fail(f"{place}: a cell labelled fig-… shows one picture (PDF or PNG), one labelled tbl-… one table "
                 "(text/latex), and no other cell shows any, unless tagged notebook-only.")
        for mime, data in found:
            file = f"{label}.{mime[-3:]}"
            if kind == "figure":
                try:
                    self.files[file] = base64.b64decode("".join(data.split()), validate=True)
                except ValueError:
                    fail(f"{place}: its picture is damaged (not base64): run the cell again.")
                self.add_float(kind, options, place, above=f"\\includegraphics{{{file}}}\n")
            else:
                self.add_float(kind, options, place, below=f"\\fitcolumn{{%\n{data.strip()}}}\n")

    def add_float(self, kind, options, place, above="", below=""):
        """A float has its caption between `above` and `below`; a wide one spans both columns."""
        label = options["label"]
        caption = " ".join(str(options.get(f"{label[:3]}-cap") or "").split())
        if not caption:
            fail(f"{place} has no {label[:3]}-cap.")
        self.counts[kind] += 1
        self.register(label, str(self.counts[kind]), place)
        wide = options.get("fig-env") == "figure*"
        kind += "*" * wide
        before = f"\\begin{{{kind}}}\n\\centering\n{above}\\caption{{"
        after = f"}}\\label{{{label}}}\n{below}\\end{{{kind}}}"
        # LaTeX puts a wide float on the next page at the earliest, and others wait behind it: let LaTeX have it early.
        position = self.wide_from if wide else len(self.fragments)
        self.fragments.insert(position, Fragment(place, caption, before, after))
        self.wide_from = position + 1

    def register(self, label, number, place):
        if not re.fullmatch(r"(fig|tbl|eq|sec)-[A-Za-z0-9_-]+", label):
            fail(f"{place}: the label {label} is not fig-, tbl-, eq- or sec- and letters, digits, hyphens.")
        if label in self.labels:
            fail(f"The label {label} exists twice: in {self.labels[label][1]} and in {place}.")
        self.labels[label] = number, place

    def convert(self):
        """One pandoc process reads all fragments, and one writes them."""
        markdown = "".join(f"{fragment.markdown}\n\n{fragment.mark}\n\n" for fragment in self.fragments)
        tree = json.loads(pandoc(markdown, MARKDOWN, "json"))
        for fragment in self.fragments:
            if Para([Str(fragment.mark)]) not in tree["blocks"]:
                fail(f"{fragment.place}: something in the Markdown is not closed: a fence or an HTML element.")
            end = tree["blocks"].index(Para([Str(fragment.mark)]))
            fragment.blocks = walk(tree["blocks"][:end], self.number, "latex", fragment.place)
            del tree["blocks"][:end + 1]
        for fragment in self.fragments:  # only now are all labels known
            tree["blocks"] += walk(fragment.blocks, self.resolve, "latex", fragment.place)
            tree["blocks"].append(RawBlock("latex", fragment.mark))
        latex = pandoc(json.dumps(tree), "json", "latex")
        latex = re.sub(r"\n\n(?=\\\[|\\begin\{equation\})", "\n", latex)  # a display belongs to the paragraph before it
        for fragment in self.fragments:
            converted, _, latex = latex.partition(fragment.mark)
            cell = fragment.place.partition(" (")[0]  # without its first line: the paper shows no code
            fragment.latex = f"% {cell}\n{fragment.before}{converted.strip()}{fragment.after}"

    def number(self, key, value, _, place):
        """First walk: number headings and equations, and compare with the typed numbers."""
        if key == "CodeBlock":
            fail(f"{place} has a block of code, which the paper does not show: tag the cell notebook-only.")
        if key == "Header":
            return self.number_heading(*value, place)
        if key == "Math" and value[0]["t"] == "DisplayMath":
            return self.number_equation(value[1], place)

    def number_heading(self, level, attributes, inlines, place):
        """LaTeX numbers the headings that have a typed number; the notebook's ## is its section."""
        label, text, number, level = attributes[0], stringify(inlines), "", max(1, level - 1)
        typed = re.match(rf"({NUMBER})\.?\s", text)
        if typed:
            self.sections = (self.sections + [0] * level)[:level]
            self.sections[-1] += 1
            number = ".".join(map(str, self.sections))
            if typed[1] != number:
                fail(f'{place}: the heading "{text}" would be number {number} in the paper.')
            inlines = inlines[2:]
        if label:
            self.register(label, number, place)
        return Header(level, [label, [] if typed else ["unnumbered"], []], inlines)

    def number_equation(self, text, place):
        """A display with a tag or a label, or an equation environment, becomes a numbered equation."""
        body = re.sub(r"\s*\\(begin|end)\{equation\}\s*", "", text)
        tag, label = re.search(r"\s*\\tag\{(.*?)\}", body), re.search(r"\\label\{(.*?)\}", body)
        if not tag and not label and body == text:
            return None
        self.counts["equation"] += 1
        number, name = str(self.counts["equation"]), label[1] if label else "an equation"
        if tag and tag[1] != number:
            fail(f"{place}: {name} is tagged {tag[1]}, but is number {number} in the paper.")
        if label:
            self.register(name, number, place)
        body = body.replace(tag[0], "") if tag else body
        return RawInline("latex", f"\\begin{{equation}}\n{body.strip()}\n\\end{{equation}}")

    def resolve(self, key, value, _, place):
        """Second walk: a link becomes a citation, a numbered reference, a web address, or its text alone."""
        if key != "Link" or value[2][0].startswith(("http://", "https://", "mailto:")):
            return None
        text, url = stringify(value[1]), value[2][0]
        if url.startswith("#ref-"):
            return self.cite(text, url[5:], place)
        return self.refer(text, url[1:], place) if url.startswith("#") else value[1]

    def cite(self, text, key, place):
        """(He et al., 2016) becomes [1], and He et al. (2016) becomes He et al. [1]."""
        if key not in self.keys:
            fail(f"{place} cites {key}, which {BIBLIOGRAPHY.name} does not have.")
        self.cited = True
        return RawInline("latex", f"\\cite{'p' if text.startswith('(') else 't'}{{{key}}}")

    def refer(self, text, label, place):
        """The number at the link's end becomes LaTeX's own, which must be the same."""
        if label not in self.labels:
            fail(f"{place} links to {label}, a label that does not exist in the paper.")
        typed, number = re.fullmatch(rf"(?s)(.*?)({NUMBER})(\W*)", text), self.labels[label][0]
        if not typed or typed[2] != number:
            fail(f"{place} says [{text}](#{label}), but {label} is number {number or 'none'} in the paper.")
        before = typed[1].replace(" ", "\u00a0")  # no line break between Figure and its number
        return [Str(before), RawInline("latex", f"\\ref{{{label}}}"), Str(typed[3])]


def sources_of(nb):
    """What a paper is made from, file name -> bytes: executed notebook, ledger, versions, references."""
    sources = {"assignment2.ipynb": nbformat.writes(nb).encode(errors="replace"),
               BIBLIOGRAPHY.name: BIBLIOGRAPHY.read_bytes()}
    results = ROOT / record(nb).get("results", "no ledger")
    if results.exists():
        sources["results.json"] = results.read_bytes()
        packages = json.loads(sources["results.json"])["environment"]["packages"]
        sources["environment.txt"] = "".join(f"{line}\n" for line in packages).encode()
    return sources


class PaperExporter(PDFExporter):
    """Notebook to paper; the source of the PDF travels in resources["tex"]."""

    @property
    def default_config(self):
        """Without nbconvert's own handling of pictures, which trips over damaged ones and wants Inkscape for SVG."""
        settings, off = super().default_config, {"enabled": False}
        settings.merge(Config({"ExtractOutputPreprocessor": off, "SVG2PDFPreprocessor": off}))
        return settings

    def __init__(self, **kw):
        super().__init__(template_name="twocolumn", extra_template_basedirs=[str(HERE)], **kw)
        self.register_preprocessor(self.compose)  # last, so that --execute comes before it

    def compose(self, nb, resources):
        """Replace the cells by one that holds the body of the paper in LaTeX."""
        faults = "; ".join(stale(nb, ROOT))
        if faults and not DRAFT:
            fail(f"{faults}: run the notebook again (make submission or make report), or build with DRAFT=1.")
        paper = resources["paper"] = Paper(nb, resources["metadata"]["name"])
        paper.draft = DRAFT
        nb.cells = [new_raw_cell(paper.latex("body"))]
        return nb, resources

    def from_notebook_node(self, nb, resources=None, **kw):
        sources = sources_of(nb)
        latex, resources = LatexExporter.from_notebook_node(self, nb, resources, **kw)
        try:
            pdf, latex = typeset(latex, resources["paper"].files)
        except OSError as error:
            fail(f"There is no room or no right to write temporary files: {error}.")
        return attach(pdf, sources), resources | {"tex": latex, "outputs": {}}


class PaperWriter(FilesWriter):
    """Writes .pdf and .tex and says where they are. It is called only once there is a PDF."""

    def write(self, output, resources, notebook_name=None, **kw):
        pdf = Path(self.build_directory).resolve() / f"{notebook_name}.pdf"
        new = {pdf: pdf.with_suffix(".pdf.new"), pdf.with_suffix(".tex"): pdf.with_suffix(".tex.new")}
        try:
            pdf.parent.mkdir(parents=True, exist_ok=True)
            for file, data in zip(new.values(), (output, resources["tex"].encode())):
                file.write_bytes(data)
            for file, written in new.items():
                os.replace(written, file)
        except OSError as error:
            for file in new.values():
                file.unlink(missing_ok=True)
            fail(f"{pdf} cannot be written ({error.strerror}); the paper that was there before is kept.")
        print(pdf)
        return pdf
