"""The list of references of a notebook or a web page, in BibTeX's order."""

import re
import unicodedata
from dataclasses import dataclass

from report.bibliography import BIBLIOGRAPHY, plain_text, read_bibliography

WHERE = ("journal", "booktitle", "howpublished", "institution", "school", "publisher", "note")
AND = re.compile(r"\s+and\s+", re.IGNORECASE)


@dataclass
class Name:
    """An author's name."""

    first: str
    last: str

    def __str__(self):
        return f"{self.first} {self.last}".strip()


@dataclass
class Reference:
    """A work in the list.

    Attributes:
        key: the key of its entry, by which the notebook cites the work.
        names: the authors, a list of Name; the last one may be "others".
        title: its title as plain text.
        details: where and when it was published, a list of texts.
        address: its address on the web, "" if the entry has none.
        year: the year of publication as text, "" if the entry has none.
    """

    key: str
    names: list
    title: str
    details: list
    address: str
    year: str

    @property
    def short_names(self):
        """The authors as sentences name them: "He et al.", "Loshchilov and Hutter"."""
        names = [name.last for name in self.names]
        if not names:
            return self.key[:3]
        if len(names) > 2 or "others" in names[1:]:
            return f"{names[0]} et al."
        return " and ".join(names)

    @property
    def link(self):
        """The address if a browser may follow it, else ""."""
        is_web_address = self.address.lower().startswith(("http://", "https://"))
        return self.address if is_web_address else ""

    @property
    def authors(self):
        """The authors as the list names them."""
        names = list(map(str, self.names))
        if names[1:] and names[-1] == "others":
            return f"{', '.join(names[:-1])}, et al." if len(names) > 2 else f"{names[0]} et al."
        if len(names) > 2:
            return f"{', '.join(names[:-1])}, and {names[-1]}"
        return " and ".join(names)

    @property
    def sort_key(self):
        """By what plainnat.bst sorts: names, more than two behind the year; year and key."""
        parts = []
        for position, name in enumerate(self.names):
            part = _purified(f"{name.last}  {name.first}".strip())
            if position and name == self.names[-1] and name.last == "others":
                part = "zzzzz"
            elif position == 1 and len(self.names) > 2:
                part = f"zz{self.year}   {part}"
            parts.append(part)
        return "    ".join(["   ".join(parts), self.year, self.key])


def list_references(keys, path=BIBLIOGRAPHY):
    """The References with these keys, in the list's order: the first has the number 1."""
    entries = read_bibliography(path)
    found = []
    for key in set(keys) & entries.keys():
        fields = entries[key].fields
        details = [fields[name] for name in WHERE if fields.get(name)]
        if fields.get("year"):
            details.append(fields["year"])
        address = fields.get("url") or ""
        if not address and fields.get("doi"):
            address = f"https://doi.org/{fields['doi']}"
        found.append(
            Reference(
                key,
                _read_names(entries[key].names),
                fields.get("title", ""),
                details,
                address,
                fields.get("year", ""),
            )
        )
    return sorted(found, key=lambda reference: reference.sort_key)


def _read_names(text):
    """The names in a field of BibTeX, a list of Name."""
    names = []
    for part in filter(None, AND.split(text.strip())):
        last, comma, first = part.partition(",")
        if part.startswith("{") and part.endswith("}"):
            last, first = part, ""
        elif not comma:
            first, _, last = part.rpartition(" ")
        names.append(Name(_plain_name(first), _plain_name(last)))
    return names


def _plain_name(text):
    return plain_text("author", text).strip()


def _purified(text):
    """Text as BibTeX compares it: in lower case, without accents and marks."""
    text = unicodedata.normalize("NFKD", re.sub(r"[-~\s]", " ", text))
    return "".join(letter for letter in text if letter.isalnum() or letter == " ").lower()
