"""Turns the executed notebook into a two-column paper: an nbconvert exporter.

Markdown becomes LaTeX through pandoc's syntax tree, where links turn into references
and citations and typed numbers are compared with those that LaTeX will give. Labelled
outputs become floats. Whatever is wrong ends the build with one sentence (SystemExit).
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import yaml
from nbconvert.exporters import LatexExporter, PDFExporter
from nbconvert.filters.latex import escape_latex
from nbconvert.writers import FilesWriter
from pandocfilters import Code, LineBreak, Para, RawBlock, RawInline, Str, stringify, walk
from traitlets import default
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"  # where a failed run leaves its .tex and .log
PACKAGES = "pandoc latexmk texlive-xetex texlive-latex-recommended lmodern"
BIBLIOGRAPHY = HERE / "references.bib"
TEX_ENVIRONMENT = {
    "openin_any": "p", "openout_any": "p",  # TeX reads and writes nothing outside its folder
    "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1",  # same input, same bytes
    "max_print_line": "10000",  # one message, one line in the log
}

# What Jupyter renders, and no more: raw TeX outside math stays text.
MARKDOWN = (
    "markdown_strict+tex_math_dollars+pipe_tables+backtick_code_blocks+fenced_code_blocks"
    "+intraword_underscores+all_symbols_escapable+lists_without_preceding_blankline"
    "+escaped_line_breaks+autolink_bare_uris+markdown_in_html_blocks+smart"
)
MIME_TYPES = ("text/latex", "application/pdf", "image/png", "text/markdown")
CIRCUMFLEX = (r"\^{}", r"\textasciicircum{}")  # what others write is an accent without a letter
PICTURES = {"application/pdf": ".pdf", "image/png": ".png"}
EQUATION = (
    r"\\begin\{(?P<name>equation|align|alignat|gather|multline|eqnarray)(?P<star>\*?)\}"
    r"(?P<body>.*?)\\end\{(?P=name)(?P=star)\}"
)


def fail(sentence):
    """End the build: one sentence on stderr, exit code 1."""
    raise SystemExit(" ".join(sentence.split()))


def latex_inline(text):
    return RawInline("latex", text)


def run_pandoc(text, source, target):
    """Pandoc's output and its warnings."""
    require("pandoc")
    command = ["pandoc", "-f", source, "-t", target, "--wrap=preserve"]
    done = subprocess.run(command, input=text.encode("utf-8", "replace"), capture_output=True)
    if done.returncode:
        fail(f"pandoc stopped: {done.stderr.decode()[:300]}")
    return done.stdout.decode(), done.stderr


def read_markdown(texts, boundary):
    """One list of pandoc blocks for each text, and the version of pandoc's tree.

    All texts go through one pandoc process, as paragraphs between boundaries. Where a
    text reaches across a boundary (an unclosed fence), each is read by itself.
    """
    output, warnings = run_pandoc(f"\n\n{boundary}\n\n".join(texts), MARKDOWN, "json")
    tree, parts = json.loads(output), [[]]
    for block in tree["blocks"]:
        if block == Para([Str(boundary)]):
            parts.append([])
        else:
            parts[-1].append(block)
    if warnings or len(parts) != len(texts):
        parts = [json.loads(run_pandoc(text, MARKDOWN, "json")[0])["blocks"] for text in texts]
    return parts, tree["pandoc-api-version"]


def cell_options(cell, place):
    """Quarto's cell options: the `#| key: value` lines at the top of a code cell."""
    lines = takewhile(lambda line: line.startswith("#|"), cell.source.splitlines())
    try:
        options = yaml.safe_load("\n".join(line[2:].removeprefix(" ") for line in lines)) or {}
    except (yaml.YAMLError, ValueError) as error:
        fail(f"{place}: the cell options are not valid YAML ({error}).")
    if not isinstance(options, dict):
        fail(f"{place}: cell options are lines of `#| key: value`.")
    return options


def cell_name(index, cell):
    """What messages call a cell: its number, with its label or first line."""
    label = re.search(r"^#\|\s*label:\s*(\S+)", cell.source, re.M)
    first = label[1] if label else next(iter(cell.source.strip().splitlines()), "empty")
    return f"cell {index} ({first[:60]})"


def find_anchors(inlines):
    """The ids of HTML anchors for sections; others serve the notebook's readers only."""
    html = "".join(inline["c"][1] for inline in inlines if inline["t"] == "RawInline")
    return re.findall(r'<a (?:id|name)="(sec-[^"]*)"', html)


class Paper:
    """One notebook on its way to LaTeX: its texts, and the labels and numbers in them."""

    def __init__(self, nb, name):
        self.cells, self.texts, self.files = {}, [], {}
        self.numbers, self.places = {}, {}  # by label
        self.counts, self.sections = Counter(), []
        self.cited, self.heading = [], ""
        self.keys = re.findall(r"^@\w+\{([^,\s]+),", BIBLIOGRAPHY.read_text(encoding="utf-8"), re.M)
        self.front, self.abstract, self.banner, self.body = {}, [], [], []
        for index, cell in enumerate(nb.cells, 1):
            self.read_cell(index, cell)
        latex = self.convert()
        self.body, self.abstract, self.banner = (
            "".join(latex[part] if isinstance(part, int) else part for part in parts).strip()
            for parts in (self.body, self.abstract, self.banner)
        )
        self.bibliography = bibliography(self.cited)
        self.title = self.plain(self.front.get("title") or self.heading or name)
        self.keywords = [self.plain(word) for word in self.front.get("keywords") or []]
        self.authors = [
            {key: self.plain(value) for key, value in author.items() if value}
            for author in self.front.get("authors") or [] if isinstance(author, dict)
        ]

    @staticmethod
    def plain(text):
        return escape_latex(" ".join(str(text).split())).replace(*CIRCUMFLEX)

    def text(self, markdown, place):
        """Keep Markdown for conversion; its index stands for it until then."""
        # MathJax finds these environments before Markdown is read; dollars do that for pandoc.
        bare = rf"(?ms)(?<!\$\$)(?<!\$\$\n)^ {{0,3}}{EQUATION}"
        markdown = re.sub(bare, lambda found: f"$${found[0].strip()}$$", markdown)
        # Only pandoc takes a backslash and a space for a no-break space; code and math stay as they are.
        pieces = re.split(r"(`+.*?`+|\$\$.*?\$\$|\$(?=\S)[^$]*?(?<=\S)\$(?!\d))", markdown, flags=re.S)
        pieces[::2] = [re.sub(r"(?<!\\)\\ (?=\S)", r"\\\\ ", piece) for piece in pieces[::2]]
        self.texts.append((place, "".join(pieces)))
        return len(self.texts) - 1

    def register(self, label, number, place):
        if not re.fullmatch(r"(fig|tbl|eq|sec)-[A-Za-z0-9_-]+", label):
            fail(f"{place}: the label {label} is not fig-, tbl-, eq- or sec- and letters, digits, hyphens.")
        if label in self.numbers:
            fail(f"The label {label} exists twice: in {self.places[label]} and in {place}.")
        self.numbers[label], self.places[label] = number, place

    def read_cell(self, index, cell):
        place = self.cells[index] = cell_name(index, cell)
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.output_type == "error":
                fail(f"{place} ended in an error: {output.ename}: {output.evalue[:200]}")
        tags = cell.metadata.get("tags", [])
        if "notebook-only" in tags:
            return
        mark = f"\n\n% cell {index}\n"
        if cell.cell_type == "markdown":
            self.body += [mark, self.text(cell.source, place)]
        if cell.cell_type != "code":
            return
        bundles = [output.data for output in outputs if "data" in output]
        if "front-matter" in tags:
            self.front = next((data["application/json"] for data in bundles if "application/json" in data), None)
            if not isinstance(self.front, dict):
                fail(f"{place}: the front matter is an application/json output with title, authors and keywords.")
            return
        shown = [next(((mime, data[mime]) for mime in MIME_TYPES if mime in data), None) for data in bundles]
        shown = [output for output in shown if output]
        for tag in ("abstract", "banner"):
            if tag in tags:
                parts = [self.text(data, place) for mime, data in shown if mime == "text/markdown"]
                if tag == "abstract" and not parts:
                    fail(f"{place}: the abstract has no Markdown output; run the notebook first.")
                getattr(self, tag).extend(piece for part in parts for piece in (part, "\n\n"))
                return
        options = cell_options(cell, place)
        label = options["label"] = str(options.get("label", ""))
        kind = label[:4]
        pictures = [output for output in shown if output[0] in PICTURES]
        tables = [data for mime, data in shown if mime == "text/latex"]
        self.body.append(mark)
        if kind == "fig-":
            if len(pictures) != 1:
                fail(f"{place}: a figure is one PDF or PNG output, here are {len(pictures)}.")
            self.float("figure", self.picture(*pictures[0], options, place), options, place)
        elif pictures:
            fail(f"{place} shows a picture: it needs a label (fig-…) and a fig-cap, or the tag notebook-only.")
        if kind == "tbl-":
            if not tables:
                fail(f"{place}: a table is a text/latex output, and there is none.")
            fitted = "\n\n".join(f"\\fitcolumn{{%\n{table.strip()}}}" for table in tables)
            self.float("table", fitted, options, place)
        for mime, data in shown:
            if mime == "text/markdown":
                self.body += ["\n\n", self.text(data, place)]
            elif mime == "text/latex" and kind != "tbl-":
                self.body += ["\n\n", data.strip()]

    def picture(self, mime, data, options, place):
        name = options["label"] + PICTURES[mime]
        try:
            self.files[name] = base64.b64decode(data)
        except ValueError:
            fail(f"{place}: the picture is not valid base64.")
        return f"\\includegraphics[alt={{{self.plain(options.get('fig-alt', ''))}}}]{{{name}}}"

    def float(self, kind, content, options, place):
        """A figure (caption below) or table (caption above), numbered in document order."""
        prefix, label = {"figure": "fig", "table": "tbl"}[kind], options["label"]
        caption = " ".join(str(options.get(f"{prefix}-cap") or "").split())
        if not caption:
            fail(f"{place} has no {prefix}-cap.")
        self.counts[kind] += 1
        self.register(label, str(self.counts[kind]), place)
        wide = options.get("fig-env") == "figure*" or options.get("column") == "page"
        environment = kind + "*" * wide
        caption = ["\\caption{", self.text(caption, place), f"}}\\label{{{label}}}\n"]
        parts = ["\\small\n", *caption, content, "\n"] if kind == "table" else [content, "\n", *caption]
        self.body += [f"\\begin{{{environment}}}[t]\n\\centering\n", *parts, f"\\end{{{environment}}}\n"]

    def convert(self):
        """All kept Markdown as LaTeX: number what is numbered, then resolve links."""
        boundary = "boundary" + hashlib.sha256(repr(self.texts).encode()).hexdigest()[:16]
        parts, version = read_markdown([text for _, text in self.texts], boundary)
        places = [place for place, _ in self.texts]
        parts = [self.number(blocks, place) for blocks, place in zip(parts, places)]
        blocks = []
        for part, place in zip(parts, places):
            blocks += walk(part, lambda key, value, *_, place=place: self.resolve(key, value, place), "latex", {})
            blocks.append(RawBlock("latex", f"%{boundary}"))
        tree = json.dumps({"pandoc-api-version": version, "meta": {}, "blocks": blocks})
        latex = run_pandoc(tree, "json", "latex")[0].replace(*CIRCUMFLEX)
        # neighbours share one pair of brackets, so that natbib can sort and compress
        latex = re.sub(
            r"\\citep\{[^}]*\}(\s+\\citep\{[^}]*\})+",
            lambda found: "\\citep{" + ",".join(re.findall(r"\{([^}]*)\}", found[0])) + "}", latex,
        )
        # pandoc 3 puts the last rule before the rows, for longtable's page breaks
        early = r"(?s)\\bottomrule\\noalign\{\}\n\\endlastfoot\n(.*?)(?=\\end\{longtable\})"
        latex = re.sub(early, r"\1\\bottomrule\n", latex)
        return [part.strip() for part in latex.split(f"%{boundary}")]

    def number(self, blocks, place):
        """Number headings and equations, compare with the typed numbers, register labels."""
        kept, anchors, in_display = [], [], False
        for block in blocks:
            if block["t"] == "Header":
                kept += self.heading_block(block, anchors + find_anchors(block["c"][2]), place)
                anchors = []
                continue
            anchors = find_anchors(block["c"]) if block["t"] == "Para" else []
            if anchors and not stringify(block).strip():
                continue  # a paragraph of anchors belongs to the heading that follows
            block = walk([block], lambda key, value, *_: self.equation(key, value, place), "latex", {})[0]
            # A display, and a sentence that goes on after it, stand within the paragraph before.
            display = block["t"] == "Para" and [inline.get("c", "")[:1] for inline in block["c"]] == [["latex"]]
            goes_on = block["t"] == "Para" and in_display and stringify(block)[:1].islower()
            if (display or goes_on) and kept and kept[-1]["t"] == "Para":
                kept[-1]["c"] += [{"t": "SoftBreak"}, *block["c"]]
            else:
                kept.append(block)
            in_display = display
        return kept

    def heading_block(self, block, anchors, place):
        """A section heading without its typed number, which must be the one LaTeX gives."""
        level, (_, classes, attributes), inlines = block["c"]
        inlines = [inline for inline in inlines if inline["t"] != "RawInline"]
        while inlines and inlines[-1]["t"] == "Space":
            inlines.pop()
        text = stringify(inlines).strip()
        if level == 1 and not self.heading:
            self.heading = text
            return []
        level, number = max(1, level - 1), ""
        typed = re.match(r"(\d+(?:\.\d+)*)\.?\s", text)
        if typed and level <= 3:
            self.sections = (self.sections + [0] * level)[:level]
            self.sections[-1] += 1
            number = ".".join(map(str, self.sections))
            if typed[1] != number:
                fail(f'{place}: the heading "{text}" would be number {number} in the paper.')
            inlines = inlines[2:]
        else:
            classes = ["unnumbered"]
        for anchor in anchors[:1]:
            self.register(anchor, number, place)
        return [{"t": "Header", "c": [level, ["".join(anchors[:1]), classes, attributes], inlines]}]

    def equation(self, key, value, place):
        """Display mathematics with a tag or a label becomes a numbered equation."""
        if key != "Math" or value[0]["t"] != "DisplayMath":
            return None
        environment = re.fullmatch(rf"(?s)\s*{EQUATION}\s*", value[1])
        if environment and environment["name"] != "equation":
            if environment["star"]:
                return latex_inline(value[1].strip())
            fail(f"{place}: number one equation at a time: equation, with aligned inside, not {environment['name']}.")
        body = environment["body"] if environment else value[1]
        tag, label = re.search(r"\\tag\{(.*?)\}", body), re.search(r"\\label\{(.*?)\}", body)
        if not (tag or label or environment and not environment["star"]):
            return latex_inline(f"\\[{body.strip()}\\]")
        self.counts["equation"] += 1
        number = str(self.counts["equation"])
        if tag and tag[1] != number:
            name = label[1] if label else "equation"
            fail(f"{place}: {name} is tagged {tag[1]}, but is number {number} in the paper.")
        if label:
            self.register(label[1], number, place)
        body = re.sub(r"\s*\\tag\{.*?\}", "", body).strip()
        return latex_inline(f"\\begin{{equation}}\n{body}\n\\end{{equation}}")

    def resolve(self, key, value, place):
        """Links, code and images as a paper has them."""
        if key == "CodeBlock":
            lines = [Code(["", [], []], line) for line in value[1].splitlines()]
            return Para([inline for line in lines for inline in (latex_inline("\\mbox{}"), line, LineBreak())][:-1])
        if key == "Code" and len(value[1]) > 12:  # long names may break in a narrow column
            pieces = [Code(["", [], []], piece) for piece in re.findall(r"[^_./]+[_./]?|[_./]", value[1])]
            return [inline for piece in pieces for inline in (piece, latex_inline("\\allowbreak{}"))][:-1]
        if key == "Image":
            return Str(stringify(value[1]))
        return self.link(value[1], value[2][0], place) if key == "Link" else None

    def link(self, inlines, url, place):
        """A citation, a numbered reference, a web address, or else the text alone."""
        text = stringify(inlines)
        if url.startswith("#ref-"):
            if url[5:] not in self.keys:
                fail(f"{place} cites {url[5:]}, which references.bib does not have.")
            self.cited.append(url[5:])
            return latex_inline(f"\\cite{'p' if text.startswith('(') else 't'}{{{url[5:]}}}")
        if url.startswith("#"):
            label = url[1:]
            if label not in self.numbers:
                fail(f"{place} links to {label}, a label that does not exist in the paper.")
            typed = re.fullmatch(r"(?s)(.*?)(\d+(?:\.\d+)*)(\W*)", text)
            if not typed:
                return [latex_inline(f"\\hyperref[{label}]{{"), *inlines, latex_inline("}")]
            before, number, after = typed.groups()
            if number != self.numbers[label]:
                assigned = self.numbers[label] or "none"
                fail(f"{place} says [{text}](#{label}), but {label} is number {assigned} in the paper.")
            tie = "~" if before != before.rstrip() else ""
            return [Str(before.rstrip()), latex_inline(f"{tie}\\ref{{{label}}}"), Str(after)]
        return None if re.match(r"(https?://|mailto:)", url) else inlines


def require(*tools):
    for tool in tools:
        if not shutil.which(tool):
            fail(f"{tool} is not installed (Debian: apt-get install {PACKAGES}).")


def bibliography(keys):
    """BibTeX's list of references. Inside the source it saves a run of LaTeX, and Overleaf needs no more."""
    if not keys:
        return ""
    require("bibtex")
    with TemporaryDirectory() as folder:
        lines = [*(f"\\citation{{{key}}}" for key in keys), "\\bibstyle{plainnat}", "\\bibdata{references}"]
        Path(folder, "report.aux").write_text("\n".join(lines) + "\n")
        shutil.copy(BIBLIOGRAPHY, Path(folder, "references.bib"))
        done = subprocess.run(["bibtex", "report"], cwd=folder, env=os.environ | TEX_ENVIRONMENT, capture_output=True)
        if done.returncode > 1:  # 1 is a warning
            fail(f"BibTeX stopped: {done.stdout.decode(errors='replace').partition('references.bib')[2][:300]}")
        return Path(folder, "report.bbl").read_text(encoding="utf-8").strip()


def typeset(latex, paper):
    """The PDF; a faulty run leaves its source and log in build/."""
    require("latexmk", "xelatex")
    command = ["latexmk", "-norc", "-xelatex", "-interaction=nonstopmode", "-halt-on-error",
               "-file-line-error", "-latexoption=-no-shell-escape", "report.tex"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in paper.files.items():
            (folder / file).write_bytes(data)
        (folder / "report.tex").write_text(latex, encoding="utf-8")
        try:
            environment = os.environ | TEX_ENVIRONMENT
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)
            fault = log_fault(folder, done, latex, paper)
        except subprocess.TimeoutExpired:
            fault = "LaTeX did not end within five minutes"
        if fault:
            try:
                BUILD.mkdir(exist_ok=True)
                for file in ("report.tex", "report.log"):
                    shutil.copy(folder / file, BUILD)
            except OSError as error:
                fail(f"{fault} (report.tex and report.log could not be kept: {error.strerror}).")
            fail(f"{fault} (report.tex and report.log are kept in {BUILD}).")
        return (folder / "report.pdf").read_bytes()


def log_fault(folder, done, latex, paper):
    """What went wrong in a LaTeX run, in a few words, or None."""
    def read(suffix):
        path = folder / f"report{suffix}"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def cell_at(position):
        cells = re.findall(r"^ *% cell (\d+)$", latex[:position], re.M)
        return paper.cells[int(cells[-1])] if cells else "the title block"

    log, aux = read(".log"), read(".aux")
    error = re.search(r"^(?:\./)?report\.tex:(\d+): (.*)", log, re.M)
    if error:
        lines = latex.split("\n")[:int(error[1])]
        context = re.search(r"^l\.\d+ (.*)", log[error.end():], re.M)
        place = cell_at(sum(len(line) + 1 for line in lines))
        return f"{place}: LaTeX stopped: {error[2]} {context[1][-80:] if context else ''}"
    if done.returncode:
        faults = re.findall(r"^! .*", log, re.M)
        faults += done.stderr.decode(errors="replace").strip().splitlines()
        return f"latexmk stopped: {faults[0] if faults else 'no message'}"
    missing = re.search(r"Missing character: There is no (.) (?:\(U\+\w+\) )?in font ([^:;!\s]*)", log)
    if missing:
        glyph = missing[1]
        return (f"{cell_at(latex.find(glyph))}: the font {missing[2]} has no {glyph} "
                f"(U+{ord(glyph):04X} {unicodedata.name(glyph, '')})")
    warning = re.search(r"Warning: (.* (?:undefined on|multiply defined).*)", log)
    if warning:
        return warning[1]
    for label, number in re.findall(r"\\newlabel\{([\w-]+)\}\{\{([\d.]*)\}", aux):
        if paper.numbers.get(label) and paper.numbers[label] != number:
            return f"{paper.places[label]}: {label} is number {number} in the PDF, not {paper.numbers[label]}"
    return None


class PaperExporter(PDFExporter):
    """Notebook to paper; the source of the PDF travels in resources["tex"]."""

    @default("template_name")
    def _template_name_default(self):
        return "twocolumn"

    @default("extra_template_basedirs")
    def _extra_template_basedirs_default(self):
        return [str(HERE)]

    @property
    def default_config(self):
        config = super().default_config.copy()
        off = ("ExtractOutputPreprocessor", "ExtractAttachmentsPreprocessor", "SVG2PDFPreprocessor")
        config.merge(Config({name: {"enabled": False} for name in off}))
        return config

    def __init__(self, **kw):
        super().__init__(**kw)
        self.register_preprocessor(self.compose)  # last, so that --execute comes before it

    def compose(self, nb, resources):
        """Replace the cells by one that holds the body of the paper in LaTeX."""
        nbformat.validate(nb)
        paper = resources["paper"] = Paper(nb, resources["metadata"]["name"])
        nb.cells = [nbformat.v4.new_raw_cell(paper.body)]
        return nb, resources

    def from_notebook_node(self, nb, resources=None, **kw):
        latex, resources = LatexExporter.from_notebook_node(self, nb, resources, **kw)
        resources["tex"] = latex
        return typeset(latex, resources["paper"]), resources

    def from_filename(self, filename, resources=None, **kw):
        try:
            return super().from_filename(filename, resources, **kw)
        except (OSError, ValueError, nbformat.ValidationError) as error:
            fail(f"{filename}: {str(error).splitlines()[0][:300]}")
        except KeyboardInterrupt:
            fail("Interrupted; nothing was written.")


class PaperWriter(FilesWriter):
    """Writes the .tex beside the .pdf; both are complete before either replaces its predecessor."""

    def _makedir(self, path, mode=0o755):
        try:
            super()._makedir(path, mode)
        except OSError as error:
            fail(f"Cannot write to {path}: {error.strerror}.")

    def write(self, output, resources, notebook_name=None, **kw):
        folder = Path(self.build_directory or resources["metadata"]["path"] or ".")
        files = {f"{notebook_name}.tex": resources["tex"].encode(), f"{notebook_name}.pdf": output}
        try:
            with TemporaryDirectory(dir=folder) as temporary:
                for name, data in files.items():
                    (Path(temporary) / name).write_bytes(data)
                for name in files:
                    os.replace(Path(temporary) / name, folder / name)
        except OSError as error:
            fail(f"Cannot write to {folder}: {error.strerror}.")
        print(folder / name)
        return folder / name
