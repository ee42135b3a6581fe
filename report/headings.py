"""Headings: which level is a section, what the title is, and the number of each."""

import re

from report.markdown import HEADINGS, new_element
from report.paper import Fragment

NUMBERED_LEVELS = 3
# before a heading: "1.2 Layers", but not "3 layers are enough"
TYPED_NUMBER = re.compile(r"\s*\d{1,2}(?:\.\d{1,2})*(?:[.):]+\s+|\s+(?=[^\W\d_])(?![a-z]))")


def arrange_headings(paper):
    """The highest level that the notebook uses becomes the section; a lone # at the top, the title.

    Changes the headings' elements, h1 for a section, and the paper's front matter.
    """
    headings = []
    for fragment in paper.fragments:
        if fragment.part == "body":
            headings += [(fragment, heading) for heading in fragment.body.find_all(HEADINGS)]
    names = [heading.name for _, heading in headings]
    if names.count("h1") == 1 and names[0] == "h1":
        take_title(paper, *headings.pop(0))
    paper.front.setdefault("title", paper.name)
    highest = min([_level(heading) for _, heading in headings], default=1)
    for _, heading in headings:
        heading.name = f"h{_level(heading) - highest + 1}"


def take_title(paper, fragment, heading):
    """Make the paper's title of a heading, unless the front matter has another."""
    title = " ".join(heading.get_text().split())
    if paper.front.setdefault("title", title) == title:
        body = new_element("body", new_element("p", *list(heading.children)))
        paper.fragments.append(Fragment(fragment.cell, body, "title", fragment.attachments))
    else:
        paper.note(
            f"the paper's title is {paper.front['title']!r}; the heading of another one is left "
            "out",
            fragment.cell,
        )
    heading.decompose()


def number_heading(paper, heading, cell):
    """Give a heading its labels; LaTeX numbers it, and a typed number gives way."""
    level = _level(heading)
    if level <= NUMBERED_LEVELS:
        paper.sections = (paper.sections + [0] * level)[:level]
        paper.sections[-1] += 1
    labels = find_labels(paper, heading)
    for label in labels:
        paper.add_label(label, paper.section_number(), cell, label.startswith("sec-"))
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
    typed = TYPED_NUMBER.match(heading.get_text())
    left = len(typed[0]) if typed else 0
    for string in heading.find_all(string=True):
        taken = min(left, len(string))
        if taken:
            string.replace_with(string[taken:])
            left -= taken


def _level(heading):
    return int(heading.name[1])
