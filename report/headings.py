"""Headings: which level is a section, what the title is, and the number of each."""

import re

from report.markdown import HEADINGS, new_element
from report.paper import Fragment

NUMBERED_LEVELS = 3
# Numbers that authors type before a heading. They are removed: LaTeX numbers the headings.
TYPED_NUMBERS = (
    # 1.2 Layers, 2) Layers, but not: 3 layers are enough
    re.compile(r"\s*\d{1,2}(?:\.\d{1,2})*(?:[.):]+\s+|\s+(?=[^\W\d_])(?![a-z]))"),
    # 1 - Layers, 1.2 – Layers, 3: Layers
    re.compile(r"\s*\d{1,2}(?:\.\d{1,2})*\.?\s*[-\u2013\u2014:]\s+(?=[^\W\d_])"),
    # Appendix: Layers, Appendix B. Layers; LaTeX numbers appendices by letters
    re.compile(r"\s*Appendix(?:\s+[A-Z])?\s*[:.]\s+(?=\S)", re.IGNORECASE),
    # (5) Layers, [5] Layers
    re.compile(r"\s*[(\[]\d{1,2}(?:\.\d{1,2})*[)\]]\s*(?=\S)"),
    # IV. Layers, II) Layers
    re.compile(r"\s*[IVX]{1,5}[.):]\s+(?![a-z])(?=\S)"),
    # 一、 and 1、 of Chinese, 1． of Japanese, 1.4.4 directly before a letter of these
    re.compile(r"\s*(?:[一二三四五六七八九十]{1,3}|\d{1,2}(?:\.\d{1,2})*)[、．]\s*(?=\S)"),
    re.compile(r"\s*\d{1,2}(?:\.\d{1,2})+(?=[\u3040-\u9fff\uac00-\ud7af])"),
)


def arrange_headings(paper):
    """The highest level that the notebook uses becomes the section; a lone # at the top, the title.

    A level that is left out counts as the next one: below a # both ## and ### are subsections.
    Changes the headings' elements, h1 for a section, and the paper's front matter.
    """
    headings = []
    for fragment in paper.fragments:
        if fragment.part in ("body", "appendix"):
            headings += [(fragment, heading) for heading in fragment.body.find_all(HEADINGS)]
    names = [heading.name for _, heading in headings]
    if names.count("h1") == 1 and names[0] == "h1":
        take_title(paper, *headings.pop(0))
    paper.front.setdefault("title", paper.name)
    above = []  # the levels of the headings in which the present one stands
    for _, heading in headings:
        while above and above[-1] >= _level(heading):
            above.pop()
        above.append(_level(heading))
        heading.name = f"h{len(above)}"


def take_title(paper, fragment, heading):
    """Make the paper's title of a heading, unless the front matter has another."""
    title = " ".join(heading.get_text().split())
    if paper.front.setdefault("title", title) == title:
        body = new_element("body", new_element("p", *list(heading.children)))
        paper.fragments.append(Fragment(fragment.cell_name, body, "title", fragment.attachments))
    else:
        paper.warn(
            f"the paper's title is {paper.front['title']!r}; the heading of another one is left "
            "out",
            fragment.cell_name,
        )
    heading.decompose()


def number_heading(paper, heading, cell_name):
    """Give a heading its labels; LaTeX numbers it, and a typed number gives way."""
    level = _level(heading)
    if level <= NUMBERED_LEVELS:
        counts = paper.sections[:level]
        while len(counts) < level:
            counts.append(0)
        counts[-1] += 1
        paper.sections = counts
        heading["number"] = paper.section_number()
    labels = find_labels(paper, heading)
    for label in labels:
        paper.add_label(label, paper.section_number(), cell_name, label.startswith("sec-"))
    remove_typed_number(heading)
    for line_break in heading.find_all("br"):
        line_break.replace_with(" ")
    heading["labels"] = labels


def find_labels(paper, heading):
    """The names by which links lead to a heading, a list."""
    labels = list(heading.get("labels", []))  # of anchors before it
    for element in (heading, *heading.find_all(True)):
        labels += link_targets(paper, element)
    own = heading.get_text().strip().replace(" ", "-")  # the name that Jupyter gives it
    if own in paper.linked and own not in paper.labels and own not in labels:
        labels.append(own)
    return labels


def link_targets(paper, element):
    """The names of an element that links of the paper lead to, a list."""
    names = {element.get("id")}
    if element.name == "a":
        names.add(element.get("name"))
    return sorted(names & paper.linked)


def remove_typed_number(heading):
    """Remove a number such as 1.2 from the start of a heading, over all its strings."""
    text = heading.get_text()
    typed = next(filter(None, (number.match(text) for number in TYPED_NUMBERS)), None)
    left = len(typed[0]) if typed else 0
    for string in heading.find_all(string=True):
        taken = min(left, len(string))
        if taken:
            string.replace_with(string[taken:])
            left -= taken


def _level(heading):
    return int(heading.name[1])
