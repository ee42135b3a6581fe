"""First step: collects from a notebook's cells what enters the paper, as fragments.

Markdown, pictures, tables and printed results enter; code does not. A cell with a label shows a
float, that is a numbered figure or table with a caption. What other cells show stands where they
show it, without a number. Authors decide by tags and options of cells, see cell_options. A cell
that starts with the heading "Appendix", or "Appendix: …", and all that follow are the appendix: it
comes behind the references, on pages of one column.
"""

import contextlib
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from string import ascii_lowercase

from report import formulas, pictures, printed, tables
from report.arrangement import is_on_web, load_picture
from report.cell_options import HIDDEN_CELL, cell_tags, is_hidden, read_cell_options
from report.freshness import MIME_TYPE, record, visible_outputs
from report.front_matter import check_front_matter, split_yaml
from report.latex_text import Latex
from report.markdown import HEADINGS, new_element, parse_html, render_markdown
from report.paper import Float, Fragment
from report.syntax import find_attributes, label_in, take_attributes
from tools.errors import PaperError

FLOATS = {"fig": "figure", "tbl": "table"}  # by the first letters of a label
TABULAR = re.compile(r"\\begin\{(tabular|longtable)")
ONE_FORMULA = re.compile(r"\A\s*\$(?:\\displaystyle)?([^$]+)\$\s*\Z")
# HTML that stands for plain text: the view of a model in scikit-learn, and what rich prints
VIEW_OF_TEXT = re.compile(r"""\s*<pre\b|class=["'][^"']*\bsk-(?:top-)?container\b""")
STDOUT = "application/x-stdout"  # of printed text, among the data of outputs
APPENDIX = re.compile(r"\s*Appendi(?:x|ces)\b", re.IGNORECASE)
CAPTION_BLOCKS = ["p", "ul", "ol", "li", "blockquote", "pre", *HEADINGS]

HIDDEN_PRINT = "remove-stdout"  # a tag, as the next one
WHOLE_PRINT = "full-output"


def shown_by(cell):
    """What a code cell shows, MIME type -> content for each output; printed text is STDOUT."""
    if is_hidden(cell):
        return []
    shown = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            if output.get("name", "stdout") == "stdout":
                shown.append({STDOUT: output.get("text", "")})
        else:
            shown += visible_outputs({**cell, "outputs": [output]})
    return shown


class Kind(Enum):
    """What an output is to the paper."""

    MARKDOWN = "Markdown"
    LATEX_TABLE = "a table as LaTeX"
    FORMULA = "other LaTeX"
    PICTURE = "a picture"
    HTML_TABLE = "a table as HTML"
    UNPRINTABLE = "a widget, a script or HTML without a table"
    LOG = "printed text"
    PLAIN_TEXT = "a result as plain text"
    DATA = "data for programs"


def classify(data, wants_table=False):
    """The Kind of an output.

    Args:
        data: the output's data, MIME type -> content.
        wants_table: whether the cell is labelled as a table, so that no picture is wanted.
    """
    if STDOUT in data:
        return Kind.LOG
    if "text/markdown" in data:
        return Kind.MARKDOWN
    if TABULAR.search(data.get("text/latex", "")):
        return Kind.LATEX_TABLE
    if data.get("text/latex", ""):
        return Kind.FORMULA
    if pictures.best(data) and not wants_table:
        return Kind.PICTURE
    if "text/plain" in data and VIEW_OF_TEXT.search(data.get("text/html", "")):
        return Kind.PLAIN_TEXT
    if "<table" in data.get("text/html", ""):
        return Kind.HTML_TABLE
    if MIME_TYPE in data:
        return Kind.DATA
    if data.keys() - {"text/plain"}:
        return Kind.UNPRINTABLE
    return Kind.PLAIN_TEXT


@dataclass
class FloatOptions:
    """What a cell's options say about the float that the cell shows."""

    kind: str  # "figure", "table", or "" for a cell without such a label
    label: str
    caption: str
    is_wide: bool  # spans both columns
    # of a table: stays in one column and in its place, the text wrapped if necessary
    is_narrow: bool = False
    parts: list = field(default_factory=list)  # captions of a figure's pictures
    columns: int = 0  # of a figure's pictures, 0 if the cell does not say
    alt: str = ""  # what the pictures show, in words

    @property
    def prefix(self):
        """The first letters of the label and of the caption's option."""
        return self.label[:3]


@dataclass
class Shown:
    """The pictures and tables that one cell shows."""

    files: list = field(default_factory=list)
    tables: list = field(default_factory=list)  # pairs: table or tree of HTML, caption that it has


def read_float_options(options):
    """The FloatOptions in the options of a cell, a dict."""
    label = str(options.get("label") or "")
    kind = FLOATS[label[:3]] if label[:4] in ("fig-", "tbl-") else ""
    caption = str(options.get(f"{label[:3]}-cap") or "")
    parts = options.get("fig-subcap")
    parts = [str(part or "") for part in parts] if isinstance(parts, list) else []
    columns = options.get("layout-ncol")
    columns = columns if columns in (1, 2, 3, 4) else 0
    environment = options.get("fig-env")  # figure or figure*, of tables as well
    is_wide = environment == "figure*"
    is_narrow = environment == "figure"
    alt = str(options.get("fig-alt") or "")
    return FloatOptions(kind, label, caption, is_wide, is_narrow, parts, columns, alt)


class Collector:
    """Reads the cells of a notebook into a paper.

    Args:
        paper: the Paper to fill.
    """

    def __init__(self, paper):
        self.paper = paper
        self.part = "body"  # in which the present cell is, or "appendix"
        # position of the next wide float among the paper's fragments: behind the float before it
        self.next_wide = 0
        self.is_fallback = False  # whether the notebook ran on other data than CIFAR-10
        self.is_recorded = False  # whether a record vouches for what the notebook shows
        self.is_computed = False  # whether the present cell is one of code

    def collect(self, notebook):
        """Fill the paper's fragments and front matter from the notebook's cells."""
        cells = [cell.copy() for cell in notebook.cells]
        front = self.take_yaml(cells)
        for key in ("title", "authors"):
            if key in notebook.metadata:
                front[key] = notebook.metadata[key]
        self.paper.front = check_front_matter(front, "the notebook's metadata")
        self.is_recorded = bool(record(notebook))
        self.is_fallback = bool(record(notebook).get("is_fallback"))
        for cell, cell_name in zip(cells, self.paper.cell_names):
            self.warn_of_errors(cell, cell_name)
            self.read_cell(cell, cell_name)

    def take_yaml(self, cells):
        """The front matter that the first cell with text has as YAML; it leaves the cell."""
        for cell, cell_name in zip(cells, self.paper.cell_names):
            if not cell.source.strip():
                continue
            if cell.cell_type == "code":
                break
            front, cell.source = split_yaml(cell.source)
            if abstract := front.pop("abstract", ""):
                self.add_markdown(abstract, cell_name, "abstract")
            return front
        return {}

    def read_cell(self, cell, cell_name):
        """Read a cell into the paper, by its tags and its type."""
        tags = cell_tags(cell)
        self.is_computed = cell.cell_type == "code"
        if tags & HIDDEN_CELL:
            return
        if "conclusion" in tags and self.is_fallback:
            self.paper.warn("conclusions are left out, since the data are no CIFAR-10", cell_name)
        elif cell.cell_type == "code":
            self.read_code_cell(cell, tags, cell_name)
        elif not cell.source.strip():
            return
        elif cell.cell_type == "markdown":
            part = "abstract" if "abstract" in tags else "body"
            self.add_markdown(cell.source, cell_name, part, cell.get("attachments", {}))
        else:
            self.paper.warn("raw cells are left out: make them Markdown", cell_name)

    def read_code_cell(self, cell, tags, cell_name):
        """Add a code cell to the paper: by its tags front matter or abstract, else its outputs."""
        outputs = shown_by(cell)
        if "front-matter" in tags:
            found = next((data[MIME_TYPE] for data in outputs if MIME_TYPE in data), {})
            self.paper.front.update(check_front_matter(found, cell_name))
        elif part := next((tag for tag in ("abstract", "banner") if tag in tags), ""):
            for data in outputs:
                if "text/markdown" in data:
                    self.add_markdown(data["text/markdown"], cell_name, part)
        elif outputs:
            options = self.read_options(cell.source, cell_name)
            if HIDDEN_PRINT in tags or printed.is_installer(cell.source):
                outputs = [data for data in outputs if STDOUT not in data]
            self.read_outputs(outputs, options, cell_name, WHOLE_PRINT in tags)

    def read_options(self, source, cell_name):
        """The options of a code cell, {} if they cannot be read."""
        try:
            return read_cell_options(source, cell_name)
        except PaperError as fault:
            self.paper.warn_of_fault(fault, cell_name)
            return {}

    def warn_of_errors(self, cell, cell_name):
        """Warn of a cell that ended in an error, unless its author expects that."""
        if "raises-exception" in cell_tags(cell):
            return
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                message = f"{output.ename}: {output.evalue[:200]}"
                self.paper.warn(
                    f"ended in an error, which is left out ({' '.join(message.split())}); run the "
                    "notebook again, or tag the cell raises-exception if the error is expected",
                    cell_name,
                )

    def read_outputs(self, outputs, options, cell_name, is_whole=False):
        """Add a code cell's outputs to the paper, those of a labelled cell as one float.

        Args:
            outputs: MIME type -> content, for each output.
            options: the cell's options, a dict.
            cell_name: see Fragment.
            is_whole: whether printed text is set whole, however long it is.
        """
        float_options = read_float_options(options)
        wants_table = float_options.kind == "table"
        kinds = [classify(data, wants_table) for data in outputs]
        if float_options.kind and not has_float(float_options.kind, outputs, kinds):
            self.warn_of_label(float_options, cell_name)
            float_options = FloatOptions("", "", "", False, alt=float_options.alt)
        shown = Shown()
        log = []  # printed text that is not yet in the paper
        for kind, data in zip(kinds, outputs):
            if kind == Kind.LOG:
                log.append(data[STDOUT])
                continue
            self.add_log(log, options, cell_name, is_whole)
            log = []
            # beside a picture, what a call for drawing returns
            if kind == Kind.PLAIN_TEXT and Kind.PICTURE not in kinds:
                self.add_result(data.get("text/plain", ""), cell_name, is_whole)
            else:
                self.read_output(data, kind, float_options, shown, cell_name)
        self.add_log(log, options, cell_name, is_whole)
        if shown.files:
            self.add_figure(shown.files, float_options, cell_name)
        elif shown.tables:
            (table, caption), *unlabelled = shown.tables
            self.add_labelled_table(table, caption, float_options, cell_name)
            for table, caption in unlabelled:
                self.add_unlabelled_table(table, caption, cell_name)
        elif float_options.kind:  # its pictures or tables cannot be read
            self.warn_of_label(float_options, cell_name)

    def warn_of_label(self, options, cell_name):
        """Warn of a label without a float."""
        shows = "a table" if options.kind == "table" else "a picture"
        sentence = f"the cell is labelled {options.label} and does not show {shows}"
        self.paper.warn(sentence, cell_name)

    def add_log(self, texts, options, cell_name, is_whole):
        """Add what a cell prints; Quarto's `output: asis` says that it is Markdown."""
        text = "".join(texts)
        if options.get("output") == "asis":
            self.add_markdown(text, cell_name)
        else:
            self.add_printed(text, cell_name, is_whole, is_log=True)

    def add_result(self, text, cell_name, is_whole):
        """Add a cell's result that is plain text."""
        if not printed.is_object(text):
            self.add_printed(text, cell_name, is_whole, is_log=False)

    def add_printed(self, text, cell_name, is_whole, is_log):
        """Add printed text; a long one is cut, unless `is_whole`.

        Of a log the last lines stay, else the first ones. In a notebook with a record of its run no
        printed text is set, and the author is told so.
        """
        lines = printed.shown_lines(text)
        if not lines:
            return
        if self.is_recorded:
            self.paper.inform(
                "printed text is left out of the paper (use prose() or show_table() to include it, "
                "or tag the cell notebook-only to hide this line)",
                cell_name,
            )
            return
        lines, cut = printed.shorten(lines, is_log, is_whole)
        if cut:
            self.paper.warn(
                f"long printed text is cut (the tag {WHOLE_PRINT} sets it whole, {HIDDEN_PRINT} "
                "leaves it out)",
                cell_name,
            )
        shown = new_element("pre", "\n".join(lines))
        self.add_body(new_element("body", Latex(printed.write(lines), shown)), cell_name)

    def read_output(self, data, kind, options, shown, cell_name):
        """Add an output to the paper, or to what the cell's float shows."""
        if kind == Kind.MARKDOWN:
            body = render_markdown(data["text/markdown"])
            if options.kind == "table" and body.find("table"):
                table = body.find("table").extract()
                shown.tables.append((new_element("body", table), ""))
            self.add_body(body, cell_name)
        elif kind == Kind.FORMULA:
            # A lone formula becomes a display.
            self.add_markdown(ONE_FORMULA.sub(r"$$\1$$", data["text/latex"]), cell_name)
        elif kind == Kind.PICTURE:
            self.read_picture(data, options, shown, cell_name)
        elif kind in (Kind.LATEX_TABLE, Kind.HTML_TABLE):
            self.read_table(data, kind, options, shown, cell_name)
        elif kind == Kind.UNPRINTABLE:
            self.paper.warn(
                "widgets, scripts and HTML without a table, shown by code, are left out (a "
                "picture, a table or Markdown would be set; the tag notebook-only keeps a cell "
                "out of the paper)",
                cell_name,
            )

    def read_picture(self, data, options, shown, cell_name):
        """Add a picture to the paper, or to what the cell's figure shows."""
        best = pictures.best(data)
        try:
            content = pictures.content(best, data[best], cell_name)
            file = self.paper.add_picture(content, cell_name, options.label)
        except PaperError as fault:
            self.paper.warn_of_fault(fault, cell_name)
            return
        self.keep_preview(data, file, cell_name)
        if options.kind == "figure":
            shown.files.append(file)
        else:
            self.add_unlabelled_picture(file, options.alt, cell_name)

    def keep_preview(self, data, file, cell_name):
        """Keep the PNG that an output has beside its PDF: web pages show no PDF."""
        if "image/png" not in data or not file.endswith(".pdf"):
            return
        with contextlib.suppress(PaperError):  # the PDF is there
            kind, pixels = pictures.prepare(
                pictures.content("image/png", data["image/png"], cell_name), cell_name
            )
            if kind == "png":
                self.paper.previews[file] = pixels

    def read_table(self, data, kind, options, shown, cell_name):
        """Add a table to the paper, or make it the cell's labelled table."""
        caption = ""
        if kind == Kind.LATEX_TABLE:
            formulas.check(data["text/latex"], cell_name)
            if not formulas.braces_pair(data["text/latex"]):
                sentence = "unbalanced braces in a LaTeX table: the table is left out"
                self.paper.warn(sentence, cell_name)
                return
            try:
                table, caption = tables.from_latex(data["text/latex"], cell_name)
            except PaperError as fault:
                self.paper.warn_of_fault(fault, cell_name)
                return
        else:
            table = parse_html(data["text/html"])
            if not table.find("table"):
                return
        if options.kind == "table":
            shown.tables.append((table, caption))
        else:
            self.add_unlabelled_table(table, caption, cell_name)

    def add_markdown(self, markdown, cell_name, part="body", attachments=None):
        """Add a fragment of Markdown."""
        body = render_markdown(markdown)
        is_body = part == "body"
        if is_body:
            if starts_appendix(body):
                self.part = "appendix"
            part = self.part
        fragment = Fragment(cell_name, body, part, attachments or {})
        if is_body:
            self.read_figures(fragment)
        self.add_fragment(fragment)

    def read_figures(self, fragment):
        """Make figures of pictures that have a label, `![Caption](file){#fig-name}`.

        As in Quarto, the picture has to be alone in its paragraph.
        """
        for image in fragment.body.find_all("img"):
            paragraph = image.parent
            attributes = find_attributes(image)
            if not attributes or not label_in(attributes).startswith("fig-"):
                continue
            if paragraph.name != "p" or paragraph.get_text().strip() != attributes[0]:
                continue
            if is_on_web(image):
                continue
            file = load_picture(self.paper, image, fragment)
            if file:
                self.set_figure(paragraph, image, file, fragment.cell_name)

    def set_figure(self, paragraph, image, file, cell_name):
        """Put a figure in the place of the paragraph of a picture."""
        label = take_attributes(image)  # and gives the picture its width
        alt = image.get("alt", "")
        options = FloatOptions("figure", label, caption=alt, is_wide=False, alt=alt)
        figure = new_element("paper-figure", self.read_caption(options, cell_name))
        width = pictures.width(image)
        figure["float"] = Float(label, files=[file], width=width, alt=alt)
        paragraph.replace_with(figure)

    def add_body(self, body, cell_name):
        """Add a fragment whose elements are there."""
        self.add_fragment(Fragment(cell_name, body, self.part))

    def add_fragment(self, fragment, position=None):
        """Add a fragment at a position, by default behind the others."""
        fragments = self.paper.fragments
        fragment.order = len(fragments)
        fragment.is_computed = self.is_computed
        fragments.insert(len(fragments) if position is None else position, fragment)

    def add_unlabelled_picture(self, file, alt, cell_name):
        """Add a picture in its place; `alt` says in words what it shows."""
        latex = f"\\begin{{center}}\\includegraphics{{{file}}}\\end{{center}}"
        page = new_element("p", new_element("img", src=file, alt=alt), placed="centre")
        self.add_body(new_element("body", Latex(latex, page)), cell_name)
        self.paper.inform(
            "pictures without a label are set without number and caption (`#| label: fig-…` and "
            "`#| fig-cap: …` at the top of the cell give them both)",
            cell_name,
        )

    def add_unlabelled_table(self, table, caption, cell_name):
        """Add a table in its place; a tree of HTML may have text around it."""
        if isinstance(table, tables.Table):
            element = new_element("paper-table", new_element("float-caption", caption))
            element["float"] = Float(table=table)
            table = new_element("body", element)
        self.add_body(table, cell_name)

    def add_figure(self, files, options, cell_name):
        """Add one picture, or several side by side, with their caption."""
        caption = self.read_caption(options, cell_name)
        figure = new_element("paper-figure", caption)
        figure["float"] = Float(
            options.label, options.is_wide, files, columns=options.columns, alt=options.alt
        )
        number = self.paper.counts["figure"]
        for index, text in enumerate(options.parts[: len(files)]):
            label = f"{options.label}-{index + 1}"
            self.paper.add_label(label, f"{number}{ascii_lowercase[index % 26]}", cell_name)
            figure.append(new_element("part-caption", *inline_markdown(text)))
        self.add_float(new_element("body", figure), options, cell_name)

    def add_labelled_table(self, table, given, options, cell_name):
        """Add a table with its caption; `given` is the caption that its LaTeX has."""
        caption = self.read_caption(options, cell_name, given)
        element = new_element("paper-table", caption)
        element["float"] = Float(options.label, options.is_wide, is_narrow=options.is_narrow)
        if isinstance(table, tables.Table):
            element["float"].table = table
            if not options.is_narrow and table.spans_page():
                options = replace(options, is_wide=True)
        else:  # a later step reads it
            element.append(table.find("table").extract())
        self.add_float(new_element("body", element), options, cell_name)

    def read_caption(self, options, cell_name, given=""):
        """The element of a caption, which is Markdown; the float gets its number."""
        text = " ".join((options.caption or given).split())
        if not text:
            self.paper.warn(f"has no {options.prefix}-cap: its caption is empty", cell_name)
        self.paper.counts[options.kind] += 1
        self.paper.add_label(options.label, str(self.paper.counts[options.kind]), cell_name)
        return new_element("float-caption", *inline_markdown(text))

    def add_float(self, body, options, cell_name):
        """Add a float. Wide ones come early, because LaTeX places figure* a page later."""
        position = len(self.paper.fragments)
        if options.is_wide and self.part == "body":  # the appendix has one column
            position = self.next_wide
        self.add_fragment(Fragment(cell_name, body, self.part), position)
        self.next_wide = position + 1


def starts_appendix(body):
    """Whether a tree starts with the heading of an appendix, or with an anchor before it."""
    heading = body.find(HEADINGS)
    if heading is None or heading.name not in ("h1", "h2"):
        return False
    before = "".join(heading.find_all_previous(string=True)).strip()
    return not before and bool(APPENDIX.match(heading.get_text()))


def has_float(kind, outputs, kinds):
    """Whether a cell shows what its label announces, "figure" or "table"."""
    if kind == "figure":
        return Kind.PICTURE in kinds
    markdown = "".join(data.get("text/markdown", "") for data in outputs)
    is_table = Kind.LATEX_TABLE in kinds or Kind.HTML_TABLE in kinds
    return is_table or bool(markdown and render_markdown(markdown).find("table"))


def inline_markdown(text):
    """The nodes of Markdown that stands within a line, such as a caption: a list."""
    body = render_markdown(text)
    for block in body.find_all(CAPTION_BLOCKS):
        block.unwrap()
    return list(body.contents)
