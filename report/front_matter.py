"""Title, authors, date and keywords of a paper: checked, and read from YAML in the first cell."""

import re

import yaml

from tools.errors import PaperError

KEYS = ("title", "authors", "keywords", "date")
BLOCK = re.compile(r"\A\s*---[ \t]*\n(?P<yaml>.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
KNOWN = {"title", "subtitle", "author", "authors", "date", "abstract", "keywords", "format"}
COMPUTED_DATES = ("today", "now", "last-modified")  # which Quarto replaces


def check_front_matter(front, cell_name):
    """Title, authors, keywords and date of the front matter, a dict.

    Args:
        front: what the author wrote.
        cell_name: of its cell, or what messages call where it stands.

    Raises PaperError if they are not a title, a list of authors and a list of keywords.
    """
    if not _is_front_matter(front):
        raise PaperError(
            f"{cell_name}: the front matter is a title, a list of authors (name, student_number, "
            "university, email) and a list of keywords, all of them text."
        )
    return {name: front[name] for name in KEYS if front.get(name)}


def _is_front_matter(front):
    if not isinstance(front, dict) or not isinstance(front.get("title", ""), str):
        return False
    authors = front.get("authors", [])
    keywords = front.get("keywords", [])
    if not isinstance(authors, list) or not isinstance(keywords, list):
        return False
    for author in authors:
        if not isinstance(author, dict) or not _are_strings(author.values()):
            return False
    return _are_strings(keywords) and isinstance(front.get("date", ""), str)


def _are_strings(values):
    return all(isinstance(value, str) for value in values)


def split_yaml(source):
    """The front matter at the start of a cell as Quarto writes it, and the rest of the cell.

    The front matter is a dict as `check_front_matter` takes it, with an "abstract" in Markdown if
    there is one; {} if the cell does not start with YAML.
    """
    block = BLOCK.match(source)
    if not block:
        return {}, source
    try:
        found = yaml.safe_load(block["yaml"])
    except (yaml.YAMLError, ValueError):
        return {}, source
    if not isinstance(found, dict) or not KNOWN & found.keys():
        return {}, source
    front = {}
    title = [_text(found.get(name)) for name in ("title", "subtitle")]
    if any(title):
        front["title"] = ": ".join(filter(None, title))
    authors = [_author(each) for each in _list(found.get("author") or found.get("authors"))]
    front["authors"] = [author for author in authors if author["name"]]
    front["keywords"] = [_text(each) for each in _list(found.get("keywords"))]
    date = _text(found.get("date"))
    if date not in COMPUTED_DATES:
        front["date"] = date
    front["abstract"] = _text(found.get("abstract"))
    return front, source[block.end() :]


def _author(value):
    """An author of YAML, a name or a dict, as the paper takes it."""
    if not isinstance(value, dict):
        return {"name": _text(value)}
    author = {"name": _text(value.get("name"))}
    if isinstance(value.get("name"), dict):
        author["name"] = " ".join(filter(None, map(_text, value["name"].values())))
    universities = []
    for affiliation in _list(value.get("affiliation") or value.get("affiliations")):
        if isinstance(affiliation, dict):
            affiliation = affiliation.get("name")
        universities.append(_text(affiliation))
    author["university"] = ", ".join(filter(None, universities))
    author["email"] = _text(value.get("email"))
    return author


def _list(value):
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _text(value):
    """A value of YAML as text, "" for what is no text."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    return " ".join(str(value).split())
