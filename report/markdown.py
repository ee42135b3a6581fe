"""Renders Markdown as Jupyter does, into a tree of HTML elements."""

import re

from bs4 import BeautifulSoup, NavigableString, Tag
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, import_plugin

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# blocks of code, and code within a line; formulas, which Jupyter finds before any other Markdown
CODE_OR_FORMULA = re.compile(
    r"(?ms)^(?P<fence>```+|~~~+).*?^(?P=fence)"
    r"|(?P<ticks>`+)(?!`)[^\n]*?(?P=ticks)"
    r"|(?P<formula>(?<!\\)\$\$.+?\$\$|\\begin\{(?P<name>\w+\*?)\}.*?\\end\{(?P=name)\})"
)
# the end of a line before one that Markdown would read as markup
MARKUP_IN_FORMULA = re.compile(r"(?m)(?<![%\n])\n[ \t]*(?=[-+*>#]\s|=+\s*$|-+\s*$|\d+[.)]\s)")


class Renderer(IPythonRenderer):
    """nbconvert's HTML, with a formula as the element <tex-math>.

    A dollar that belongs to no formula is an element of its own, so that no later step pairs it
    with another.
    """

    def text(self, text):
        """Text without a formula."""
        return super().text(text).replace("$", "<span>$</span>")

    def inline_math(self, body):
        """A formula within a line."""
        return f"<tex-math>{self.escape_html(body)}</tex-math>"

    def block_math(self, body):
        """A displayed formula."""
        return f"<tex-math display>{self.escape_html(body)}</tex-math>"

    def latex_environment(self, name, body):
        """A displayed formula in an environment such as align."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def image(self, text, url, title=None):
        """A picture; a later step looks up attachments with all other pictures."""
        return super(IPythonRenderer, self).image(text, url, title)


def render_markdown(markdown):
    """The elements that Jupyter shows for Markdown, and footnotes: the body of a tree."""
    markdown = CONTROL_CHARACTERS.sub("", markdown)
    markdown = CODE_OR_FORMULA.sub(_protect_formula, markdown)
    plugins = [import_plugin(name) for name in (*MarkdownWithMath.DEFAULT_PLUGINS, "footnotes")]
    renderer = Renderer(escape=False, exclude_anchor_links=True)
    return parse_html(MarkdownWithMath(renderer, plugins=plugins).render(markdown))


def _protect_formula(found):
    """A formula no line of which looks like the start of a list, a heading or a quotation."""
    if not found["formula"]:
        return found[0]
    return MARKUP_IN_FORMULA.sub(" ", found[0])


def parse_html(html):
    """The body of a tree of HTML, as a browser reads it."""
    return BeautifulSoup(html, "html5lib").body


def new_element(name, *content, **attributes):
    """An element with content, strings or nodes, and attributes."""
    element = Tag(name=name, attrs=attributes)
    element.extend(content)
    return element


def find_texts(element):
    """The strings of an element that readers see as text: no LaTeX, no comments."""
    return [text for text in element.find_all(string=True) if type(text) is NavigableString]
