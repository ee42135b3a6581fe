"""The bibliography: entries for people, text for BibTeX, a sentence for a damaged file."""

import pytest

from report.bibliography import BIBLIOGRAPHY, entries_of, escaped_bibliography, read_bibliography
from tools.errors import PaperError

ENTRIES = r"""
@misc{page, title={Nets & more}, howpublished={\url{https://example.org/a%20b&c}}}
@Article { spaced , author={G{\"o}del, Kurt}, title={About 50% of {Nets}}, keywords={study}}
@online{online, editor="Roe, Ada", title={A \& B}, url={https://example.org/a_b%20&}}
@string{cvpr = "CVPR"}
@comment{nothing}
@inproceedings(other,
  booktitle = cvpr,
  year = 2016,
  keywords = {report, study},
)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "references.bib"
    path.write_text(ENTRIES, encoding="utf-8")
    return path


def test_entries_are_text_for_people(file):
    entries = read_bibliography(file)
    assert list(entries) == ["page", "spaced", "online", "other"]
    types = [entry.type for entry in entries.values()]
    assert types == ["misc", "article", "online", "inproceedings"]
    assert [entry.line for entry in entries.values()] == [2, 3, 4, 7]
    assert [entry.has_author for entry in entries.values()] == [False, True, True, False]
    page = {"title": "Nets & more", "howpublished": "https://example.org/a%20b&c"}
    assert entries["page"].fields == page
    assert entries["spaced"].fields["author"] == "Gödel, Kurt"
    assert entries["spaced"].fields["title"] == "About 50% of Nets"
    assert entries["online"].fields["title"] == "A & B"
    assert entries["online"].fields["url"] == "https://example.org/a_b%20&"
    assert entries["other"].fields["booktitle"] == "CVPR"


def test_an_entry_belongs_to_the_documents_of_its_keywords(file):
    assert [entry.key for entry in entries_of("report", file)] == ["page", "online", "other"]
    assert [entry.key for entry in entries_of("study", file)] == ["spaced", "other"]


def test_texts_are_escaped_for_bibtex_and_addresses_are_not(file):
    escaped = escaped_bibliography(file)
    assert escaped == (
        ENTRIES.replace("Nets & more", r"Nets \& more").replace("50% of", r"50\% of")
    )


def test_the_bibliography_of_the_papers_can_be_read():
    entries = read_bibliography()
    assert all({"author", "title"} <= set(entry.fields) for entry in entries.values())
    assert not any(letter in str(list(entries.values())) for letter in "\\")
    assert escaped_bibliography().count("\n") == BIBLIOGRAPHY.read_text(encoding="utf-8").count(
        "\n"
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("@misc{a, title={A}}\n@misc{bad, title={A\n", "entry bad, line 2: a brace"),
        ("@misc{bad, title={A}\n\n@misc{good, title={B}}", "entry bad, line 1: a brace"),
        ("@misc{bad title={A}}", "entry bad, line 1: a brace, a quotation mark or a comma"),
        ("@misc{a, title={A}}\n\n@misc{a, title={B}}", "entry a, line 3: line 1 has an entry"),
    ],
)
def test_a_damaged_entry_is_one_sentence(tmp_path, capfd, text, words):
    path = tmp_path / "own.bib"
    path.write_text(text, encoding="utf-8")
    for read in (read_bibliography, escaped_bibliography):
        with pytest.raises(PaperError, match=words) as error:
            read(path)
        assert str(error.value).startswith("own.bib, ") and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    path = tmp_path / "own.bib"
    with pytest.raises(PaperError, match="own.bib cannot be read"):
        read_bibliography(path)
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(PaperError, match="own.bib is not a text in UTF-8"):
        read_bibliography(path)


def test_of_two_fields_of_one_name_the_first_counts(tmp_path):
    path = tmp_path / "own.bib"
    path.write_text("@misc{a, title={A}, title={B}}", encoding="utf-8")
    assert read_bibliography(path)["a"].fields == {"title": "A"}
