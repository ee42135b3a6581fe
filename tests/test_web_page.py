"""The paper as a web page: the PDF's numbers, sources of claims, nothing active, no TeX."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from helpers import NOTEBOOK, ROOT
from nbformat.v4 import new_notebook
from paper_helpers import code, figure, front, latex_of, markdown, table
from PIL import Image

from grading.findings import CODES
from report import exporter, provenance, web_page
from report.reference_list import list_references
from report.typeset import PACKAGES
from tools.errors import PaperError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RUN_HASH = "5" * 64
CLAIMS = {
    "test_accuracy": (82.57, "%", "resnet"),
    "best/accuracy": (82.57, "%", "other"),
    "epochs": (5, "", "resnet"),
    "parameters": (8898826, "", "size"),
    "epoch/change": (-0.0339, "", "epoch"),
    "epoch/change_interval": (0.0181, "", "epoch"),
    "epoch/jump": (1.346, "", "epoch"),
    "class_accuracy/cat": (64.4, "%", "resnet"),
    "layer_output/1": ("8×8", "", "size"),
    "layer_output/2": ("2×2", "", "size"),
    "layer_output/3": ("2×2", "", "size"),
    "year": (2016, "", "size"),
}


def results(claims=CLAIMS):
    entries = {
        name: {"value": value, "unit": unit, "source": source}
        for name, (value, unit, source) in claims.items()
    }
    return {"claims": entries}


def record_cell():
    record = {
        "files": {"build/runs/resnet/run.json": RUN_HASH},
        "cells": [],
        "texts": [],
    }
    return code(
        "ledger.write()", {"application/vnd.submission+json": record}, tags=["notebook-only"]
    )


def build(*cells, claims=CLAIMS):
    """The LaTeX and the page of cells."""
    about = {"metadata": {"name": "notebook", "path": "."}, "results": results(claims)}
    notebook = new_notebook(cells=list(cells))
    latex, resources = latex_of(notebook, about, page=True, check_freshness=False)
    return latex, resources["page"]


def page_of(*cells, **options):
    return BeautifulSoup(build(*cells, **options)[1], "html5lib")


def computed(text):
    return code("prose(…)", {"text/markdown": text})


def opened(page):
    """Number as it is written -> names of the claims in the source that it opens."""
    found = {}
    for button in page.select("main button"):
        source = page.find(id=button["popovertarget"])
        found[button.get_text()] = [
            term.find_next_sibling("dd").get_text()
            for term in source.find_all("dt")
            if term.get_text() == "Claim"
        ]
    return found


# -------------------------------------------------------------------------------------- numbers

PAPER = (
    front(),
    markdown(
        '# Title\n\n<a id="sec-first"></a>\n## First\n\n[Section 1](#sec-first), '
        "[Figure 1](#fig-loss), [Figure 2](#fig-wide), [Table 1](#tbl-layers) and "
        "[Equation 1](#eq-one).^[A note.]\n\n$$a \\tag{1}\\label{eq-one}$$\n\n"
        "\\begin{align}b&=c\\label{eq-b}\\\\ d&=e\\label{eq-d}\\end{align}\n\n"
        '<a id="sec-part"></a>\n### Part\n\n[3](#eq-d) [1.1](#sec-part) '
        "[He et al. (2016)](#ref-he2016) [(Ioffe and Szegedy, 2015)](#ref-ioffe2015) or "
        "[@he2016; @ioffe2015; @goyal2017]"
    ),
    figure(),
    figure("fig-wide", more="#| fig-env: figure*\n"),
    table(),
)
COUNTERS = re.compile(
    r"\\(?P<section>section|subsection)\{"
    r"|\\begin\{(?P<begin>figure|table|equation|align)\*?\}"
    r"|(?P<line>\\\\)"
    r"|\\label\{(?P<label>[^}]*)\}"
)


def numbers_in(latex):
    """Label -> number as LaTeX counts: sections, floats, and lines of displays."""
    counts = dict.fromkeys(("section", "subsection", "figure", "table", "equation"), 0)
    number = ""
    numbers = {}
    display = ""
    for found in COUNTERS.finditer(latex.partition("\\maketitle")[2]):
        if found["section"]:
            counts[found["section"]] += 1
            number = str(counts["section"])
            if found["section"] == "subsection":
                number += f".{counts['subsection']}"
        elif found["begin"] or (found["line"] and display == "align"):
            display = found["begin"] or display
            kind = "equation" if display == "align" else display
            counts[kind] += 1
            number = str(counts[kind])
        elif found["label"]:
            numbers[found["label"]] = number
    return numbers


def test_numbers_are_those_of_latex():
    latex, source = build(*PAPER)
    page = BeautifulSoup(source, "html5lib")
    expected = numbers_in(latex)
    assert len(expected) == 8 and expected["fig-wide"] == "2"
    for label in re.findall(r"\\ref\{([^}]*)\}", latex):
        (link, *_) = [a for a in page.select(f"main a[href='#{label}']") if "name" not in str(a)]
        assert re.search(r"[\d.]+\Z", link.get_text())[0] == expected[label], label
        assert page.find(id=label)
    names = {a["href"]: a.get_text() for a in page.select("figcaption a.name")}
    assert names == {
        "#fig-loss": "Figure 1:",
        "#fig-wide": "Figure 2:",
        "#tbl-layers": "Table 1:",
    }
    assert "(1)" in page.find(id="eq-one").parent.get_text()
    assert re.search(r"\(2\).*\(3\)", page.find(id="eq-d").parent.get_text(), re.DOTALL)
    assert page.select("section.notes li")[0].get_text().startswith("A note.")
    cited = page.find(string=re.compile("He et al")).find_parent("p").get_text()
    assert "He et al.\u00a0[2] [3] or [1, 2, 3]" in cited


@pytest.mark.tex
def test_references_have_bibtexs_numbers(tmp_path):
    entries = web_page.list_references(["he2016"])
    assert entries[0].authors == "Kaiming He, Xiangyu Zhang, Shaoqing Ren, and Jian Sun"
    bibliography = ROOT / "report" / "references.bib"
    keys = re.findall(r"(?m)^@\w+\{(\w+)", bibliography.read_text(encoding="utf-8"))
    lines = [*(f"\\citation{{{key}}}" for key in keys), "\\bibstyle{plainnat}"]
    (tmp_path / "x.aux").write_text("\n".join([*lines, "\\bibdata{references}"]), encoding="utf-8")
    shutil.copy(bibliography, tmp_path)
    subprocess.run(["bibtex", "x"], cwd=tmp_path, check=True, capture_output=True)
    entries = (tmp_path / "x.bbl").read_text(encoding="utf-8")
    listed = re.findall(r"\\bibitem.*?\]\{(\w+)\}", entries, re.S)
    assert len(listed) == len(keys) and [each.key for each in list_references(keys)] == listed


# ------------------------------------------------------------------------------- sources of numbers


def test_numbers_open_the_sources_of_their_claims():
    text = (
        "It reaches 82.57 % after 5 epochs with 8,898,826 parameters; the loss changes by "
        "−0.034 ± 0.018 and the cat is found in 64.4 % of its images."
    )
    found = opened(page_of(computed(text), record_cell()))
    assert found == {
        "82.57": ["test_accuracy", "best/accuracy"],
        "5": ["epochs"],
        "8,898,826": ["parameters"],
        "−0.034": ["epoch/change"],
        "0.018": ["epoch/change_interval"],
        "64.4": ["class_accuracy/cat"],
    }


def test_the_page_says_how_to_see_a_source():
    hint = page_of(computed("after 5 epochs"), record_cell()).select_one(".hint").get_text()
    assert hint.startswith("Click a number with a dotted underline to see its source:")
    assert page_of(markdown("Words.")).select_one(".hint") is None


def test_a_number_in_a_tables_label_is_no_claim():
    claim = provenance.Claim("sgd/change", -0.21, "points", "sgd")
    head = provenance.Surroundings("change")

    def is_claim(text):
        *_, last = provenance.NUMBER.finditer(text)
        number = provenance.WrittenNumber.read(last)
        return provenance.has_supporting_context(claim, number, text, head)

    assert is_claim("0.2")
    assert not is_claim("rate 0.01, weight decay 0.2")


def test_no_line_ends_between_a_number_and_its_unit_or_interval():
    text = "It reaches 82.57 % and changes by −0.034 ± 0.018 in 31 % of cases."
    page = page_of(computed(text), record_cell())
    together = [span.get_text() for span in page.select("main .together")]
    assert together == ["82.57\u00a0%", "−0.034\u00a0±\u00a00.018"]
    assert "31\u00a0% of cases" in page.main.get_text()


@pytest.mark.parametrize(
    "text",
    [
        "+0.034 ± 0.018, 82.58 %, 82.574 %",  # another sign, another value, more digits than it has
        "64.4 % of the dogs",
        "5 images, γ = 1, changes by 1 at step 5",
        "CIFAR-5 epochs, torch 2.82.57, 82.57e3, 8898826×8",
        "[82.57](https://example.org) `82.57` $82.57$",
    ],
)
def test_other_numbers_have_no_source(text):
    assert opened(page_of(computed(text))) == {}


def test_typed_numbers_have_no_source():
    caption = figure(caption="It reaches 82.57 %.")
    assert opened(page_of(markdown("It reaches 82.57 %."), caption)) == {}


def test_cells_of_tables_have_sources():
    latex = (
        r"\begin{tabular}{llr}\toprule layer & output & accuracy \\ \midrule "
        r"stem & 8×8 & \textbf{82.57} \\ two & 2×2 & 5 \\ epochs & 2×2 & 5 \\ \bottomrule"
        r"\end{tabular}"
    )
    cell = code("#| label: tbl-a\n#| tbl-cap: A\nshow()", {"text/latex": latex})
    page = page_of(cell)
    rows = [
        [re.sub(r"\D", "", button["popovertarget"]) for button in row.find_all("button")]
        for row in page.select("tbody tr")
    ]
    assert [len(row) for row in rows] == [2, 1, 2]
    claims = [page.find(id=f"number-source-{row[0]}").code.get_text() for row in rows]
    assert claims == ["layer_output/1", "layer_output/2", "layer_output/3"]
    assert page.select_one("td strong button").get_text() == "82.57"


def test_each_verdict_has_a_colour():
    style = (Path(web_page.__file__).parent / "webpage" / "page.css").read_text(encoding="utf-8")
    assert [kind for kind in CODES if f".verdict.{kind}" not in style] == []


def test_a_source_says_what_is_known(monkeypatch, tmp_path):
    verdict = {
        provenance.results_hash(results()): [["epochs", "recorded", "the records give <5>"]],
        "of another run": [["epochs", "contradicted", "x"]],
    }
    monkeypatch.setattr(provenance, "VERDICT", tmp_path / "verdict.json")
    provenance.VERDICT.write_text(json.dumps(verdict), encoding="utf-8")
    cells = [computed("after 5 epochs, with 8,898,826 parameters"), code("#| label: size\nx")]
    page = page_of(*cells, record_cell())
    epochs, parameters = page.select(".source")
    words = words_of(epochs)
    assert f"Claim epochs Value 5 Run resnet Hash {RUN_HASH} SHA-256" in words
    assert "Tolerance none: the same value" in words
    assert "Last verdict recorded: the records give <5> Shown by cell 1." in words
    words = words_of(parameters)
    assert "Value 8,898,826 Computed in cell size" in words and "none yet (make verify)" in words
    monkeypatch.setattr(provenance, "VERDICT", tmp_path / "missing.json")
    page = page_of(computed("82.57 %"), record_cell())
    assert "Tolerance ±0.05" in words_of(page.select_one(".source"))


def words_of(element):
    return " ".join(element.get_text(" ").split()).replace(" : ", ": ")


# ----------------------------------------------------------------------------------- untrusted text

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>"
HOSTILE_CELLS = (
    front(EVIL, EVIL),
    markdown(
        f"# {EVIL}\n\n{EVIL}\n\n[a](javascript:alert(1)) [b](data:text/html,x) [c](//evil.example) "
        "[d](https://example.org/?a=1&b=\"x) <a href=' JavaScript:x' onclick=x style=x>e</a>\n\n"
        "<style>p {}</style><iframe src=x></iframe><svg onload=alert(1)></svg>"
        "<h4 id='x\" onclick=\"y' number='<script>'>h</h4><p style='background:url(//x)'>p</p>\n\n"
        '$\\text{<script>x</script>}$ $\\color{red;background:url(x)}x$ $x<y$ [1](#x"onclick)'
    ),
    computed(
        "<script>x</script> 82.57 %<button onclick=x popovertarget=number-source-1>5</button>"
    ),
    figure(caption=f"'{EVIL.replace(chr(39), '')}'"),
    code(
        "#| label: tbl-x\n#| tbl-cap: x",
        {"text/html": f"<table><tr><th>a<tr><td onclick=x>{EVIL}</table>"},
    ),
    code(
        "#| label: tbl-y\n#| tbl-cap: x",
        {"text/latex": r"\begin{tabular}{l}<script>x</script> \textbf{<b>}\\\end{tabular}"},
    ),
    code("print()", stream=EVIL),
)


def test_hostile_text_stays_text():
    claims = CLAIMS | {f"{EVIL}/epochs": (82.57, EVIL, EVIL)}
    page = page_of(*HOSTILE_CELLS, claims=claims)
    assert not page.find_all(["script", "iframe", "svg", "object", "embed", "form", "base", "link"])
    assert len(page.find_all("style")) == 1
    for element in page.find_all(True):
        for name, value in element.attrs.items():
            assert not name.startswith("on") and "url(" not in str(value), element
            if name == "href":
                assert re.match(r"https?://|mailto:|#", value), value
            if name == "src":
                assert re.match(r"data:image/(png|jpeg|svg\+xml);base64,[\w+/=]+\Z", value)
    text = page.get_text()
    assert "alert(1)" in text and "<script>" in page.select_one(".author").get_text()
    assert page.find("a", href=re.compile("example.org")).get_text() == "d"


def test_the_page_asks_nothing_of_the_network():
    _, source = build(*PAPER)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', source)[1]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script" not in policy
    loading = re.findall(
        r"""(?:src|srcset|poster|action)=["']?([^"'\s>]{1,9})|url\(|@import""", source
    )
    assert loading and set(loading) == {"data:imag"}


def test_deep_elements_and_odd_claims_are_no_traceback():
    with pytest.raises(SystemExit, match="nested too deeply: use fewer levels"):
        build(markdown("<div>" * 500))
    odd = {"inf": (float("inf"), "", ""), "nan": (float("nan"), "", ""), "none": (None, "", "")}
    assert opened(page_of(computed("It is 5 and 82.57 %."), claims=odd)) == {}


# ------------------------------------------------------------------------------------------ figures


def test_figures_are_svg_or_png_with_their_words(monkeypatch):
    image = page_of(figure()).select_one("#fig-loss img")
    assert image["alt"] == "A line that falls"
    if shutil.which("pdftocairo"):
        assert image["src"].startswith("data:image/svg+xml;base64,")
    pixels = io.BytesIO()
    Image.new("RGB", (3, 3)).save(pixels, "PNG")
    with_png = figure()
    with_png.outputs[0].data["image/png"] = base64.b64encode(pixels.getvalue()).decode()
    monkeypatch.setattr(web_page, "PDF_TO_SVG", ["no such program"])
    image = page_of(with_png).select_one("#fig-loss img")
    assert image["src"] == f"data:image/png;base64,{with_png.outputs[0].data['image/png']}"
    assert page_of(figure()).select_one(".missing").get_text() == "A line that falls"


# ------------------------------------------------------------------------------------------- files


def test_without_tex_the_page_is_written(monkeypatch, tmp_path):
    def typeset(*_):
        raise PaperError(f"latexmk is not installed ({PACKAGES}).")

    monkeypatch.setattr(exporter, "typeset", typeset)
    notebook = new_notebook(cells=[markdown("# Title\n\nWords.")])
    pdf, resources = exporter.PaperExporter(page=True).from_notebook_node(notebook)
    writer = exporter.PaperWriter(build_directory=str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        writer.write(pdf, resources, "report")
    assert re.match(r"latexmk is not .* open \S+report.html in a browser", str(stop.value))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "Words." in (tmp_path / "report.html").read_text(encoding="utf-8")
    strict = exporter.PaperExporter(page=True, strict=True)
    notebook.cells.append(markdown("![](missing.png)"))
    with pytest.raises(SystemExit, match="STRICT=1 refuses"):
        strict.from_notebook_node(notebook)


def test_the_page_is_no_part_of_a_submission():
    assert exporter.page_path(ROOT / "report" / "study.pdf") == ROOT / "build" / "study.html"
    assert exporter.page_path(ROOT / "other" / "x.pdf") == ROOT / "other" / "x.html"


# ----------------------------------------------------------------------------------------- browser


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium (Debian: apt-get install chromium)")
def test_a_source_opens_without_scripts(tmp_path):
    from playwright.sync_api import sync_playwright

    wide = code(
        "#| label: tbl-w\n#| tbl-cap: W",
        {"text/html": f"<table><tr>{'<td>a_long_word_in_a_cell' * 30}</table>"},
    )
    (tmp_path / "page.html").write_text(
        build(*PAPER, computed("It reaches 82.57 %."), wide)[1], encoding="utf-8"
    )
    requests = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        size = {"width": 390, "height": 800}
        page = browser.new_page(viewport=size, java_script_enabled=False)
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        source = page.locator(".source")
        assert not source.is_visible()
        page.get_by_role("button", name="82.57").click()
        assert source.is_visible() and "test_accuracy" in source.inner_text()
        assert page.locator("body").bounding_box()["width"] <= 390
        assert page.locator("main").evaluate("main => main.scrollWidth") <= 390
        browser.close()
    assert [url for url in requests if not url.startswith("data:")] == requests[:1]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium (Debian: apt-get install chromium)")
def test_the_committed_paper_is_an_accessible_page(tmp_path):
    """By axe's rules: contrast, names of controls, order of headings, descriptions of figures."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    about = {"metadata": {"name": "notebook", "path": str(ROOT / "notebooks")}}
    about["results"] = json.loads((ROOT / "report" / "results.json").read_text(encoding="utf-8"))
    notebook = nbformat.read(ROOT / NOTEBOOK, 4)
    _, resources = latex_of(notebook, about, page=True, check_freshness=False)
    file = tmp_path / "page.html"
    file.write_text(resources["page"], encoding="utf-8")
    reports = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            size = {"width": width, "height": 900}
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(file.as_uri())
            found = Axe().run(page)
            assert len(found.response["passes"]) > 10
            if found.violations_count:
                reports[scheme] = found.generate_report()
        browser.close()
    assert reports == {}
