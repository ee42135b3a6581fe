"""Turns the executed notebook into a two-column paper: an nbconvert exporter.

The paper holds what Jupyter shows. nbconvert's own renderer makes HTML of each Markdown cell; in its elements headings,
equations, figures and tables are numbered and links become references. What has to be LaTeX stands in the HTML as a
mark, a word that no notebook can know, while pandoc turns all text into LaTeX at once. The template in twocolumn/ adds
title block and style, and typeset.py makes the PDF. Whatever is wrong ends the build with one sentence, and what the
paper leaves out is named in one line.
"""

import json
import os
import re
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import nbformat
import yaml
from bs4 import BeautifulSoup, Comment
from nbconvert.exporters import LatexExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, import_plugin
from nbconvert.writers import FilesWriter
from nbformat.v4 import new_raw_cell
from traitlets.config import Config

from report import formulas, pictures, tables
from report.freshness import MIME_TYPE, cell_names, record, stale, visible_outputs
from report.typeset import BIBLIOGRAPHY, attach, fail, run, typeset
from tools.errors import PaperError
from tools.project_files import ROOT

HERE = Path(__file__).resolve().parent
DRAFT = bool(os.environ.get("DRAFT"))  # builds whatever it is given, and says DRAFT on every page
NUMBER = r"\d+(?:\.\d+)*"
# before a heading: "1.2 Layers", but not "3 layers are enough"
TYPED_NUMBER = re.compile(r"\s*\d{1,2}(?:\.\d{1,2})*(?:[.):]+\s+|\s+(?=[^\W\d_])(?![a-z]))")
HEADINGS = [f"h{level}" for level in range(1, 7)]
BLOCKS = ("body", "p", "div", "center", "figure", "figcaption", "details", "table", "ul", "ol", *HEADINGS)
LEVELS = ("section", "subsection", "subsubsection", "paragraph", "subparagraph", "subparagraph")
MARK = f"x{uuid4().hex}"
# What TeX and Quarto mean by text in Jupyter's HTML: formulas in HTML blocks, references, notes.
TYPED = re.compile(r"\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+)\$|(?P<environment>\\begin\{(?P<name>\w+\*?)\}.*?"
                   r"\\end\{(?P=name)\})|\\(?P<ref>eq)?ref\{(?P<label>[^}]+)\}|\[(?P<cited>-?@[^][]+)\]|"
                   r"(?<![\w.@/])(?P<bare>-?)@(?P<key>[A-Za-z][\w:.+-]*\w)|\^\[(?P<note>[^][]+)\]", re.S)
NOT_SHOWN = ["script", "style", "template", "button", "head", "title", "meta", "link"]
NOT_HELD = ["iframe", "video", "audio", "embed", "object", "canvas", "svg", "select", "textarea", "form", "input"]


@contextmanager
def one_sentence():
    """End the program with a sentence where a notebook cannot become a paper."""
    try:
        yield
    except PaperError as error:
        raise SystemExit(str(error)) from None


class Renderer(IPythonRenderer):
    """nbconvert's HTML, with formulas as elements, and dollars that belong to no formula as elements of their own."""

    def text(self, text):
        return super().text(text).replace("$", "<span>$</span>")

    def inline_math(self, body):
        return f"<tex-math>{self.escape_html(body)}</tex-math>"

    def block_math(self, body):
        return f"<tex-math display>{self.escape_html(body)}</tex-math>"

    def latex_environment(self, name, body):
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def image(self, text, url, title=None):
        return super(IPythonRenderer, self).image(text, url, title)  # attachments are looked up with all pictures


def elements(html):
    """HTML as a tree, as a browser reads it."""
    return BeautifulSoup(html, "html5lib").body


def rendered(markdown):
    """The elements that Jupyter shows for Markdown; and footnotes."""
    markdown = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", markdown)  # which are no text
    plugins = [import_plugin(name) for name in (*MarkdownWithMath.DEFAULT_PLUGINS, "footnotes")]
    renderer = Renderer(escape=False, exclude_anchor_links=True)
    return elements(MarkdownWithMath(renderer, plugins=plugins).render(markdown))


@dataclass
class Fragment:
    """A part of the paper: elements on their way to LaTeX."""

    place: str  # what messages call the cell
    body: object
    part: str = "body"  # or "title", "abstract" or "banner"
    attachments: dict = field(default_factory=dict)
    before: str = ""  # definitions of commands that its formulas make
    latex: str = ""


def escape(text):
    """Text as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def safe(label):
    """A label as LaTeX's \\label takes it."""
    return re.sub(r"[^A-Za-z0-9_.:-]", lambda letter: f"-{ord(letter[0]):x}-", label)


def cell_options(cell, place):
    """Quarto's cell options: the `#| key: value` lines at the top of a code cell."""
    try:
        return dict(yaml.safe_load("\n".join(re.findall(r"(?m)^#\| ?(.*)", cell.source))) or {})
    except (yaml.YAMLError, ValueError, TypeError) as error:
        fail(f"{place}: the cell options are not lines of `#| key: value`, in YAML ({error}).")


def front_matter(front, place):
    """Title, authors and keywords, checked."""
    fits = isinstance(front, dict) and isinstance(front.get("title", ""), str) and all(
        isinstance(front.get(name, []), list) for name in ("authors", "keywords")) and all(
        isinstance(word, str) for word in front.get("keywords", [])) and all(
        isinstance(author, dict) and all(isinstance(value, str) for value in author.values())
        for author in front.get("authors", []))
    if not fits:
        fail(f"{place}: the front matter is a title, a list of authors (name, student_number, university, email) and a "
             "list of keywords, all of them text.")
    return {name: front[name] for name in ("title", "authors", "keywords") if front.get(name)}


class Paper:
    """What the template needs of the notebook: front matter, LaTeX, pictures."""

    def __init__(self, nb, name, folder):
        self.folder, self.name, self.files, self.fragments, self.notes = folder, name, {}, [], {}
        self.front = front_matter({key: nb.metadata[key] for key in ("title", "authors") if key in nb.metadata},
                                  "the notebook's metadata")
        self.marks, self.tables = [], []  # what stands in the HTML for LaTeX
        self.counts, self.sections, self.cited = Counter(), [], False
        self.floats = {}  # of a table element: the element of its caption, its label, whether it is to be wide
        self.labels = {}  # label: its number in the paper, the cell that has it, whether links tell the number
        self.wide_from = 0  # where the next wide float may go: behind the float before it
        self.entries = dict(re.findall(  # of the bibliography: key and text
            r"@\w+\s*[{(]\s*([^,\s]+)\s*,(.*?)(?=^\s*@|\Z)", BIBLIOGRAPHY.read_text(encoding="utf-8"), re.M | re.S))
        self.names, self.is_fallback = cell_names(nb), record(nb).get("standin")
        for cell, place in zip(nb.cells, self.names):
            self.read_cell(cell, place)
        for fragment in self.fragments:
            self.clean(fragment)
        self.commands = {name for fragment in self.fragments for formula in fragment.body.find_all("tex-math")
                         for name in formulas.defined(formula.get_text())}
        self.definitions = {}  # of commands; floats may come before the cell that has them
        self.linked = {link["href"][1:] for fragment in self.fragments for link in fragment.body.select("a[href^='#']")}
        self.arrange_headings()
        for fragment in self.fragments:
            self.number(fragment)
        for fragment in self.fragments:  # only now are all labels known
            self.link(fragment)
        self.convert()

    def latex(self, part):
        """The LaTeX of "body", "title", "abstract" or "banner"."""
        return "\n\n".join(fragment.latex for fragment in self.fragments if fragment.part == part)

    def note(self, what, place):
        """Remember what the reader of the paper has to be told of a cell."""
        places = self.notes.setdefault(what, [])
        if place not in places:
            places.append(place)

    def mark(self, latex):
        """A word that stands for LaTeX on its way through pandoc."""
        self.marks.append(latex)
        return f"{MARK}m{len(self.marks) - 1}z"

    # Cells

    def read_cell(self, cell, place):
        """Markdown, pictures and tables enter the paper; code, streams and plain text do not."""
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                fail(f"{place} ended in an error: {output.ename}: {output.evalue[:200]}")
        tags, outputs = cell.metadata.get("tags", []), visible_outputs(cell)
        if "front-matter" in tags:
            found = next((data[MIME_TYPE] for data in outputs if MIME_TYPE in data), {})
            self.front |= front_matter(found, place)
        elif "notebook-only" in tags or not cell.source.strip() and not outputs:
            return
        elif "conclusion" in tags and self.is_fallback:
            self.note("conclusions are left out, since the data are no CIFAR-10", place)
        elif cell.cell_type == "markdown":
            self.add_markdown(cell.source, place, attachments=cell.get("attachments", {}))
        elif cell.cell_type == "raw":
            self.note("raw cells are left out: make them Markdown", place)
        elif part := next((tag for tag in tags if tag in ("abstract", "banner")), None):
            for data in outputs:
                if "text/markdown" in data:
                    self.add_markdown(data["text/markdown"], place, part)
        elif outputs:
            self.read_outputs(outputs, cell_options(cell, place), place)

    def add_markdown(self, markdown, place, part="body", attachments=None):
        self.fragments.append(Fragment(place, rendered(markdown), part, attachments or {}))

    def read_outputs(self, outputs, options, place):
        """A labelled cell shows a float; what other cells show stands where it was shown, without a number."""
        label, found = str(options.get("label") or ""), {"figure": [], "table": []}
        kind = {"fig-": "figure", "tbl-": "table"}.get(label[:4])
        for data in outputs:
            latex, page = data.get("text/latex", ""), data.get("text/html", "")
            picture = pictures.best(data)
            if "text/markdown" in data:
                self.add_markdown(data["text/markdown"], place)
            elif re.search(r"\\begin\{(tabular|longtable)", latex):
                formulas.check(latex, place)
                found["table"].append(tables.from_latex(latex, place))
            elif latex:  # what is but a formula stands by itself
                self.add_markdown(re.sub(r"\A\s*\$(?:\\displaystyle)?([^$]+)\$\s*\Z", r"$$\1$$", latex), place)
            elif picture and kind != "table":
                found["figure"].append(self.picture(pictures.content(picture, data[picture], place), place, label))
                if not kind:
                    latex = f"\\begin{{center}}\\includegraphics{{{found['figure'][-1]}}}\\end{{center}}"
                    self.fragments.append(Fragment(place, elements(self.mark(latex))))
                    self.note("pictures without a label are set without number and caption (`#| label: fig-…` and "
                              "`#| fig-cap: …` at the top of the cell give them both)", place)
                continue
            elif "<table" in page:
                found["table"].append((elements(page), ""))
            elif data.keys() - {"text/plain", MIME_TYPE}:
                self.note("widgets, scripts and HTML without a table, shown by code, are left out (a picture, a table "
                          "or Markdown would be set; the tag notebook-only keeps a cell out of the paper)", place)
                continue
            else:
                continue
            if not kind and found["table"]:
                self.add_table(*found["table"].pop(), {}, place)
        if kind and (not found[kind] or any(found[other] for other in found if other != kind)):
            fail(f"{place}: a cell labelled fig-… shows one picture or several (PDF, SVG, PNG or JPEG), one labelled "
                 "tbl-… a table (as LaTeX or HTML), and neither shows both.")
        if kind == "figure":
            self.add_figure(found[kind], options, place)
        for table, caption in found["table"] if kind else ():
            self.add_table(table, caption, options, place)

    def picture(self, data, place, label=""):
        """Keep a picture's bytes and say in which file LaTeX will find them."""
        kind, data = pictures.prepare(data, place)
        number = len(self.files) + 1
        name = f"{label}.{kind}" if re.fullmatch(r"[\w-]+", label, re.A) and f"{label}.{kind}" not in self.files else (
            f"picture-{number}.{kind}")
        self.files[name] = data
        return name

    def caption(self, options, place, given=""):
        """The elements of a caption, which is Markdown, and the float's number entered under its label."""
        label = str(options["label"])
        caption = " ".join(str(options.get(f"{label[:3]}-cap") or given).split())
        if not caption:
            fail(f"{place} has no {label[:3]}-cap.")
        kind = {"fig": "figure", "tbl": "table"}[label[:3]]
        self.counts[kind] += 1
        self.register(label, str(self.counts[kind]), place)
        body = rendered(caption)
        for block in body.find_all(["p", "ul", "ol", "li", "blockquote", "pre", *HEADINGS]):
            block.unwrap()
        return label, "".join(map(str, body.contents)).strip()

    def add_figure(self, files, options, place):
        """One picture, or several side by side, with their caption; a wide figure spans both columns."""
        label, caption = self.caption(options, place)
        share = "" if len(files) == 1 else f"[width={'.32' if len(files) == 3 else '.49'}\\linewidth]"
        shown = "\\hfil\n".join(f"\\includegraphics{share}{{{file}}}" for file in files)
        kind = "figure" + "*" * self.wide(options)
        before = self.mark(f"\\begin{{{kind}}}\n\\centering\n{shown}\n\\caption{{")
        after = self.mark(f"}}\\label{{{safe(label)}}}\n\\end{{{kind}}}")
        self.add_float(f"<p><float-caption>{before}{caption}{after}</float-caption></p>", options, place)

    def add_table(self, table, given, options, place):
        """A table that LaTeX or HTML describes; with a label and a caption it is a float."""
        label, caption = self.caption(options, place, given) if options else ("", given)
        if isinstance(table, tables.Table):
            body = elements("<p></p>")
            self.replace_table(body.p, table, [], caption, label, self.wide(options))
            return self.add_float(body, options, place)
        if options:
            body = elements(f"<p><float-caption>{caption}</float-caption></p>")
            body.append(table.find("table").extract())
            self.floats[id(body.table)] = body.p, label, self.wide(options)
            table = body
        self.add_float(table, options, place)

    @staticmethod
    def wide(options):
        return options.get("fig-env") == "figure*"

    def add_float(self, body, options, place):
        """LaTeX puts a wide float on the next page at the earliest, and others wait behind it: it comes early."""
        position = self.wide_from if self.wide(options) else len(self.fragments)
        self.fragments.insert(position, Fragment(place, elements(body) if isinstance(body, str) else body))
        if options:
            self.wide_from = position + 1

    # Elements

    def register(self, label, number, place, typed=True):
        """Enter a label; `typed` says that links to it have to tell its number."""
        if label in self.labels:
            fail(f"The label {label} exists twice: in {self.labels[label][1]} and in {place}.")
        if not re.fullmatch(r"[^\s\\{}%#~^]+( [^\s\\{}%#~^]+)*", label):
            fail(f"{place}: the label {label!r} may have letters, digits and - _ . : alone.")
        self.labels[label] = number, place, typed

    def arrange_headings(self):
        """The highest level that the notebook uses becomes the section; a lone # at the top is the title."""
        headings = [(fragment, heading) for fragment in self.fragments if fragment.part == "body"
                    for heading in fragment.body.find_all(HEADINGS)]
        if [heading.name for _, heading in headings].count("h1") == 1 and headings[0][1].name == "h1":
            fragment, heading = headings.pop(0)
            title = " ".join(heading.get_text().split())
            if self.front.setdefault("title", title) == title:
                body = elements(f"<p>{heading.decode_contents()}</p>")
                self.fragments.append(Fragment(fragment.place, body, "title", fragment.attachments))
            else:
                self.note(f"the paper's title is {self.front['title']!r}; the heading of another one is left out",
                          fragment.place)
            heading.decompose()
        self.front.setdefault("title", self.name)
        highest = min([int(heading.name[1]) for _, heading in headings], default=1)
        for _, heading in headings:
            heading.name = f"h{int(heading.name[1]) - highest + 1}"

    def clean(self, fragment):
        """Leave out what is not shown, name what cannot be set, and make elements of what is typed in text."""
        body, place = fragment.body, fragment.place
        for element in body.find_all(NOT_SHOWN) + body.find_all(string=lambda text: isinstance(text, Comment)):
            element.extract()
        for box in body.find_all("input", type="checkbox"):
            box.replace_with(self.mark("$\\boxtimes$ " if box.has_attr("checked") else "$\\square$ "))
        for element in body.find_all(NOT_HELD):
            self.note(f"<{element.name}> cannot be set and is left out (a picture or text would be set)", place)
            element.decompose()
        for number in body.select("sup.footnote-ref"):  # a footnote stands where its number is
            if note := body.find(id=number.a["href"][1:]):
                text = " ".join(block.decode_contents() for block in note.find_all("p"))
                number.replace_with(elements(f"<text-note>{text}</text-note>").find("text-note"))
        for rest in body.select("section.footnotes, a.footnote"):
            rest.extract()
        for text in body.find_all(string=TYPED):
            if not text.find_parent(["pre", "code", "tex-math", "a"]):
                text.replace_with(*elements(f"<i>{TYPED.sub(self.typed, escape(text))}</i>").i.contents)

    def number(self, fragment):
        """First walk: number headings and equations, label what links lead to, set pictures, code and tables."""
        body = fragment.body
        for element in body.find_all(True):
            if element.name in HEADINGS:
                self.set_heading(element, fragment.place)
            elif not element.find_parent(HEADINGS):
                for label in self.targets(element):
                    self.anchor(element, label, fragment.place)
            if element.name == "tex-math":
                self.set_formula(element, fragment)
        for heading in body.find_all(HEADINGS):
            heading.name, heading["heading"] = "p", "yes"
        for image in body.find_all("img"):
            self.set_picture(image, fragment)
        centred = [block for block in body.find_all(["center", "p", "div", "figure"])
                   if block.name == "center" or block.get("align") == "center"]
        for block in centred:
            special = block.has_attr("heading") or block.find(heading=True) or block.find("table")  # LaTeX places these
            if not special and not any(parent in centred for parent in block.parents):
                block.insert(0, self.mark("\\begin{center}"))
                block.append(self.mark("\\end{center}"))
        for code in body.find_all(["pre", "code"]):
            self.set_code(code)
        for table in reversed(body.find_all("table")):  # the inner ones first
            self.set_table(table, fragment.place)

    def typed(self, found):
        """The element that a piece of text means."""
        if formula := found["display"] or found["inline"] or found["environment"]:
            return f"<tex-math{' display' * (not found['inline'])}>{formula}</tex-math>"
        if found["label"]:
            return f'<a href="#{found["label"]}" class="{"equation" if found["ref"] else "reference"}"></a>'
        if found["note"]:
            return f"<text-note>{found['note']}</text-note>"
        keys = re.findall(r"@([\w:.+-]*\w)", found["cited"] or found[0])
        known = [key for key in keys if key in self.entries or re.match(r"(fig|tbl|eq|sec)-", key)]
        if not found["cited"] and not known or not keys:
            return found[0]
        if known and re.match(r"(fig|tbl|eq|sec)-", keys[0]):
            kind = "reference" if "-@" in found[0] else "named"
            return ", ".join(f'<a href="#{key}" class="{kind}"></a>' for key in keys)
        kind = "cited" if found["cited"] else "authors"
        return f'<a href="#ref-{",".join(keys)}" class="{kind}"></a>'

    def targets(self, element):
        """The names of an element that links lead to."""
        return {element.get("id"), element.get("name") if element.name == "a" else None} & self.linked

    def anchor(self, element, label, place):
        """What a link leads to: the heading behind it, or its place in the text."""
        following = element.find_next(string=lambda text: text.strip())
        heading = following and following.find_parent(HEADINGS)
        if heading and not element.get_text(strip=True):
            heading["labels"] = f"{heading.get('labels', '')} {label}".strip()
        elif label not in self.labels:
            self.register(label, ".".join(map(str, self.sections)), place, label.startswith("sec-"))
            element.insert_before(self.mark(f"\\phantomsection\\label{{{safe(label)}}}"))

    def set_heading(self, heading, place):
        """LaTeX numbers headings: a typed number gives way."""
        level, text = int(heading.name[1]), heading.get_text()
        if level <= 3:
            self.sections = (self.sections + [0] * level)[:level]
            self.sections[-1] += 1
        labels, own = heading.get("labels", "").split(), text.strip().replace(" ", "-")
        labels += [label for element in (heading, *heading.find_all(True)) for label in self.targets(element)]
        if own in self.linked and own not in (*self.labels, *labels):  # the name that Jupyter gives it
            labels.append(own)
        for label in labels:
            self.register(label, ".".join(map(str, self.sections)), place, label.startswith("sec-"))
        typed = TYPED_NUMBER.match(text)
        left = len(typed[0]) if typed else 0
        for string in heading.find_all(string=True) if typed else ():
            taken = min(left, len(string))
            string.replace_with(string[taken:])
            left -= taken
        for rest in heading.find_all("br"):
            rest.replace_with(" ")
        heading.insert(0, self.mark(f"\\{LEVELS[level - 1]}{{"))
        heading.append(self.mark("}" + "".join(f"\\label{{{safe(label)}}}" for label in labels)))

    def set_formula(self, element, fragment):
        formula = formulas.rename(element.get_text(), self.commands)
        formulas.check(formula, fragment.place, {formulas.OWN + name for name in self.commands})
        formula, definitions = formulas.take_definitions(formula)
        fragment.before += "".join(f"{line}\n" for line in definitions.values())
        self.definitions = definitions | self.definitions  # the first ones
        if not formula.strip():
            element.decompose()
            return
        formula = formulas.clean(formula)

        def number(tag, label):
            typed = not tag or tag.isdecimal()  # other tags are LaTeX's business
            self.counts["equation"] += typed
            number = str(self.counts["equation"]) if typed else tag
            if tag and tag != number:
                fail(f"{fragment.place}: {label or 'an equation'} is tagged {tag}, but is number {number} in the "
                     "paper.")
            if label:
                self.register(label, number, fragment.place)
            return ("" if typed else f"\\tag{{{tag}}}") + (f"\\label{{{safe(label)}}}" if label else "")

        if element.has_attr("display") and not element.find_parent(["table", *HEADINGS]):
            latex = formulas.display(formula, number)
        else:
            latex = f"\\({formulas.inner(formula)}\\)"
            if element.find_parent(HEADINGS):
                latex = f"\\texorpdfstring{{{latex}}}{{{re.sub(r'[^A-Za-z0-9 =+-]', '', formula)}}}"
        element.replace_with(self.mark(latex))

    def set_picture(self, image, fragment):
        source = image.get("src", "").strip()
        if re.match(r"(?:https?:)?//", source):
            self.note("pictures on the web are not fetched, links stand for them (save them beside the notebook)",
                      fragment.place)
            link, text = elements("<a></a>").a, image.get("alt", "").strip()
            link["href"], link.string = source, text or source
            image.replace_with((text or "picture") if image.find_parent("a") else link)
            return
        data = pictures.load(source, fragment.attachments, self.folder, ROOT, fragment.place)
        name = self.picture(data, fragment.place)
        latex = f"\\includegraphics{pictures.width(image)}{{{name}}}"
        row = image.find_parent("tr")
        beside = [part for part in (image.previous_sibling, image.next_sibling) if str(part or "").strip()]
        if image.parent.name in ("body", "div", "figure", "details") and all(part.name in BLOCKS for part in beside):
            image.wrap(elements("<p></p>").p)  # it stands between blocks
        parent = image.parent
        if row:  # a share of the column for each cell
            latex = f"{{\\linewidth={0.9 / len(row.find_all(['td', 'th'])):.3f}\\columnwidth {latex}}}"
        image.replace_with(self.mark(latex))
        if not row and parent.name in BLOCKS and not re.sub(rf"{MARK}m\d+z", "", parent.get_text()).strip():
            parent["align"] = "center"  # nothing but pictures

    def set_code(self, code):
        """Code is small; long lines and names may be broken."""
        def words(line):
            parts = re.split(r"(?<=[._/(,=-])(?=\w)", line) if len(line) > 20 else [line]
            return self.mark("\\allowbreak ").join(f"<code>{escape(part)}</code>" for part in parts)
        if code.name == "code" and not code.find_parent("pre"):
            code.replace_with(*elements(f"<p>{words(code.get_text())}</p>").p.contents)
        elif code.name == "pre":
            lines = code.get_text().strip("\n").expandtabs(4).split("\n")
            lines = [words(re.sub("^ +", lambda spaces: "\u00a0" * len(spaces[0]), line) or "\u00a0") for line in lines]
            begin, end = self.mark("\\begin{quote}\\footnotesize\\raggedright "), self.mark("\\end{quote}")
            code.replace_with(elements(f"<p>{begin}{self.mark(chr(92) * 2 + chr(10)).join(lines)}{end}</p>").p)

    def set_table(self, table, place):
        if table.find_parent("table"):  # a table in a cell: its rows as lines
            for line in table.find_all("tr"):
                line.replace_with(*elements(", ".join(cell.decode_contents() for cell in line.find_all(["td", "th"]))
                                            + "<br>").contents)
            table.name = "span"
            return
        if table.caption:
            table.caption.name = "p"
            table.insert_before(table.find("p"))
        content, cells = tables.from_html(table, place)
        above, label, wide = self.floats.get(id(table), (None, "", False))
        caption = above.extract().find("float-caption").decode_contents() if above else ""
        if any(content.rows):
            self.replace_table(table, content, cells, caption, label, wide)
        else:
            table.decompose()

    def replace_table(self, element, table, cells, caption, label, wide):
        """Put a table's caption and cells, one after the other, where pandoc finds them."""
        parts = [f"<float-caption>{caption}</float-caption>"]
        for cell, _, _ in cells:
            for line in cell.find_all("br"):
                line.replace_with(self.mark("\\newline "))
            for block in cell.find_all(["p", "div", "li", "ul", "ol", "center", "blockquote", "section"]):
                if block.name in ("p", "li", "div") and block.find_next_sibling():
                    block.append(self.mark("\\newline "))
                block.unwrap()
            parts.append(cell.decode_contents())
        self.tables.append((table, [(row, column) for _, row, column in cells], label, wide))
        start, between, end = f"{MARK}t{len(self.tables) - 1}z", f" {MARK}cz ", f"{MARK}ez"
        element.replace_with(elements(f"<p><table-cells>{start}{between.join(parts)}{end}</table-cells></p>").p)

    def link(self, fragment):
        """Second walk: links become citations, numbered references, web addresses, or their text alone."""
        body, place = fragment.body, fragment.place
        for link in body.find_all("a"):
            target = link.get("href", "")
            if target.startswith("#ref-"):
                self.cite(link, target[5:], place)
            elif target.startswith("#") and len(target) > 1:
                self.refer(link, target[1:], place)
            elif not re.match(r"https?://|mailto:", target, re.I):
                if target:
                    self.note("links to places that are not in the paper are set as their text", place)
                link.unwrap()
        for note in body.find_all("text-note"):
            bound = note.find_parent(["float-caption", "table-cells", "text-note"]) or note.find_parent(heading=True)
            # where LaTeX has no footnotes
            note.insert(0, " (" if bound else self.mark("\\footnote{"))
            note.append(")" if bound else self.mark("}"))
            note.unwrap()
        for text in body.find_all(string=re.compile(r"\b(Figure|Table)\s\d")):
            for kind, number in re.findall(r"\b(Figure|Table)\s(\d+)\b(?!\.\d)(?!,? (?:of|in|from)\b)", text):
                if int(number) > self.counts[kind.lower()]:
                    self.note(f"there is a {kind} {number} in the text, and no {kind} {number} in the paper", place)

    def cite(self, link, keys, place):
        """(He et al., 2016) becomes [1], and He et al. (2016) becomes He et al. [1]."""
        for key in keys.split(","):
            if key not in self.entries:
                fail(f"{place} cites {key}, which {BIBLIOGRAPHY.name} does not have.")
        self.cited = True
        text, kind = link.get_text(), link.get("class")
        authored = all(re.search(r"(?i)^\s*(author|editor)\s*=", self.entries[key], re.M) for key in keys.split(","))
        textual = kind == ["authors"] or not kind and not text.startswith("(")
        if textual and not authored:  # BibTeX would print the key
            link.replace_with(re.sub(r"\s*\(.*", "", text) + "\u00a0" * bool(text), self.mark(f"\\citep{{{keys}}}"))
        else:
            link.replace_with(self.mark(f"\\cite{'t' if textual else 'p'}{{{keys}}}"))

    def refer(self, link, label, place):
        """The number at the link's end becomes LaTeX's own, which must be the same; other text leads there."""
        kind, text = (link.get("class") or [""])[0], link.get_text()
        if label not in self.labels:
            if re.match(r"(fig|tbl|eq|sec)-", label) or kind in ("equation", "reference", "named"):
                fail(f"{place} links to {label}, a label that does not exist in the paper.")
            self.note("links to places that are not in the paper are set as their text", place)
            link.unwrap()
            return
        number, reference = self.labels[label][0], self.mark(f"\\ref{{{safe(label)}}}")
        typed = re.fullmatch(rf"(?s)(.*?)({NUMBER})(\W*)", text)
        word = {"fig": "Figure", "tbl": "Table", "eq": "Equation", "sec": "Section"}.get(label[:3].rstrip("-"), "")
        if kind in ("equation", "reference", "named"):
            before = {"equation": "(", "reference": "", "named": f"{word}\u00a0"}[kind]
            link.replace_with(before, reference, ")" if kind == "equation" else "")
        elif typed and typed[2] == number:
            # no line break between Figure and its number
            link.replace_with(typed[1].replace(" ", "\u00a0"), reference, typed[3])
        elif self.labels[label][2] and (typed or not number):
            fail(f"{place} says [{text}](#{label}), but {label} is number {number or 'none'} in the paper.")
        else:
            link.insert_before(self.mark(f"\\hyperref[{safe(label)}]{{"))
            link.insert_after(self.mark("}"))
            link.unwrap()

    # LaTeX

    def convert(self):
        """One pandoc process turns the text of all fragments into LaTeX."""
        html = ""
        for fragment in self.fragments:
            for element in fragment.body.find_all(True):
                keep = {"a": ["href"], "ol": ["start", "type"]}.get(element.name, [])
                element.attrs = {name: element[name] for name in keep if element.get(name)}
                element.name = {"figure": "div", "figcaption": "p"}.get(element.name, element.name)
                if "-" in element.name or element.name in ("span", "mark", "kbd", "font"):  # ours, or mere looks
                    element.unwrap()
            html += f"<p>{MARK}fz</p>\n{fragment.body.decode_contents()}\n"
        done = run("pandoc -f html+smart -t latex --wrap=preserve".split(), html.encode(errors="replace"))
        latex = done.stdout.decode()
        for fragment, text in zip(self.fragments, latex.split(f"{MARK}fz")[1:]):
            text = re.sub(rf"{MARK}t(\d+)z(.*?){MARK}ez", self.table_latex, text, flags=re.S)
            text = self.unmark(text)
            text = re.sub(r"\n\n+(?=\\\[|\\begin\{(?:equation|align|gather|multline|eqnarray)\*?\})", "\n", text)
            # a display belongs to the paragraph before it
            number = fragment.place.partition(" (")[0]  # without its words: the paper shows no code
            fragment.latex = f"% {number}\n{fragment.before}{text.strip()}"

    def unmark(self, text):
        return re.sub(rf"{MARK}m(\d+)z", lambda mark: self.marks[int(mark[1])], text)

    def table_latex(self, found):
        table, places, label, wide = self.tables[int(found[1])]
        caption, *cells = [self.unmark(cell).strip() for cell in found[2].split(f"{MARK}cz")]
        for (row, column), text in zip(places, cells):
            before, span = table.rows[row][column]
            text = re.sub(r"(\\newline\s*)+\Z", "", text).strip()
            table.rows[row][column] = before + text + "}" * before.count("\\multi"), span
        latex = table.latex(caption, safe(label), wide)
        if not label and latex.startswith("\\begin{table"):
            self.note("a table without a label is too large for its place and stands at the top of a page or column "
                      "(`#| label: tbl-…` and `#| tbl-cap: …` give it number and caption)", table.place)
        return latex


@one_sentence()
def sources_of(nb, name):
    """What a paper is made from, file name -> bytes: the executed notebook `name`, ledger, versions, references."""
    sources = {f"{name}.ipynb": nbformat.writes(nb).encode(errors="replace"),
               BIBLIOGRAPHY.name: BIBLIOGRAPHY.read_bytes()}
    results = (ROOT / str(record(nb).get("results", "no ledger"))).resolve()
    if not results.is_relative_to(ROOT.resolve()) or results.suffix not in ("", ".json"):
        fail(f"The notebook's record names {results.name} as its results, which is outside of the project or no JSON.")
    if results.is_file():
        sources["results.json"] = results.read_bytes()
        packages = json.loads(sources["results.json"])["environment"]["packages"]
        sources["environment.txt"] = "".join(f"{line}\n" for line in packages).encode()
    return sources


class PaperExporter(LatexExporter):
    """Notebook to paper; the source of the PDF travels in resources["tex"]."""

    file_extension, template_extension = ".pdf", ".tex.j2"

    @property
    def default_config(self):
        """Without nbconvert's own handling of pictures, which trips over damaged ones and wants Inkscape for SVG."""
        settings, off = super().default_config, {"enabled": False}
        settings.merge(Config(dict.fromkeys(
            ("ExtractOutputPreprocessor", "ExtractAttachmentsPreprocessor", "SVG2PDFPreprocessor"), off)))
        return settings

    def __init__(self, **kw):
        super().__init__(template_name="twocolumn", extra_template_basedirs=[str(HERE)], **kw)
        self.register_preprocessor(self.compose)  # last, so that --execute comes before it

    @one_sentence()
    def compose(self, nb, resources):
        """Replace the cells by one that holds the body of the paper in LaTeX."""
        metadata = resources["metadata"]
        paper = resources["paper"] = Paper(nb, metadata["name"], Path(metadata.get("path") or "."))
        faults = "; ".join(stale(nb, ROOT))
        if faults and not DRAFT:
            fail(f"{faults}; Restart and Run All mends that, without training where the runs are finished; DRAFT=1 "
                 "builds the paper in any case, marked as a draft.")
        if not paper.fragments:
            fail("The notebook shows nothing that a paper could hold: Markdown, pictures or tables.")
        paper.draft = DRAFT
        nb.cells = [new_raw_cell(paper.latex("body"))]
        return nb, resources

    @one_sentence()
    def from_notebook_node(self, nb, resources=None, **kw):
        for cell in nb.cells:  # some editors write ids that nbformat does not allow
            if "id" in cell:
                cell.id = re.sub(r"[^a-zA-Z0-9_-]", "-", str(cell.id))[:64] or "cell"
        sources = sources_of(nb, (resources or {}).get("metadata", {}).get("name", "notebook"))
        latex, resources = super().from_notebook_node(nb, resources, **kw)
        try:
            pdf, latex, noted = typeset(latex, resources["paper"].files, resources["paper"].names)
        except OSError as error:
            fail(f"There is no room or no right to write temporary files: {error}.")
        lines = [f"{', '.join(cells)}: {what}." for what, cells in resources["paper"].notes.items()] + noted
        return attach(pdf, sources), resources | {"tex": latex, "outputs": {}, "notes": lines}


class PaperWriter(FilesWriter):
    """Writes .pdf and .tex and says where they are. It is called only once there is a PDF."""

    @one_sentence()
    def write(self, output, resources, notebook_name=None, **kw):
        if "tex" not in resources:  # another exporter's, asked for with --to
            return super().write(output, resources, notebook_name=notebook_name, **kw)
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
        for line in resources["notes"]:
            print(line, file=sys.stderr)
        print(pdf)
        return pdf
