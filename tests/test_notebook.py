"""The notebook: its definitions, its form, and the way from `make report` to a paper."""
import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

import nbformat
import pytest
import torch
from helpers import LEFT_OUT, ROOT, without_settings
from paper_helpers import latex_of
from torch import nn

import training
import utils
from analysis import figures, layer_table, summary
from analysis.checks import Checks
from analysis.ledger import Ledger
from report.freshness import definition_cells
from tools.errors import CheckError
from tools.notebook_definitions import NOTEBOOK, load_definitions
from tools.run_notebook import run_notebook

NAMES = load_definitions()
NUMBER = re.compile(r"\d+\.\d+")


@pytest.mark.parametrize("size, filter_size, stride, padding, expected", [
    (32, 7, 2, 3, 16), (16, 3, 2, 1, 8), (8, 1, 2, 0, 4), (8, 3, 1, 1, 8), (7, 3, 2, 0, 3)])
def test_equation_1(size, filter_size, stride, padding, expected):
    assert NAMES["output_size"](size, filter_size, stride, padding) == expected
    convolution = nn.Conv2d(1, 1, filter_size, stride, padding)
    assert convolution(torch.zeros(1, 1, size, size)).shape[-1] == expected


@pytest.mark.parametrize("arguments, projected, shape", [
    ((64, 64, 256), True, (2, 256, 8, 8)),
    ((256, 64, 256), False, (2, 256, 8, 8)),
    ((256, 64, 256, True), True, (2, 256, 4, 4)),
])
def test_both_kinds_of_block(arguments, projected, shape):
    block = NAMES["ResidualBlock"](*arguments)
    assert block(torch.randn(2, arguments[0], 8, 8)).shape == shape
    assert isinstance(block.shortcut, nn.Identity) != projected
    convolutions = [block.conv1, block.conv2, block.conv3]
    assert [c.kernel_size for c in convolutions] == [(1, 1), (3, 3), (1, 1)]
    assert [c.padding for c in convolutions] == [(0, 0), (1, 1), (0, 0)]
    assert [c.stride[0] for c in convolutions] == [2 if arguments[3:] else 1, 1, 1]


def test_network_is_the_assignments():
    net = NAMES["ResNet"]()
    biases = sum(m.bias.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    assert sum(p.numel() for p in net.parameters()) == 8_898_826
    assert sum(p.numel() for p in net.parameters()) - biases == 8_882_762
    table = layer_table.layer_table(net.eval(), NAMES["ResidualBlock"])
    assert layer_table.unlike_specification(table) == []
    assert table.output.tolist() == ["", "8×8", "", "4×4", "", "2×2", "2×2", "1×1", "10"]
    assert table.network[6] == "[1×1, 256; 3×3, 256; 1×1, 1024] ×6"


def test_zero_init_makes_each_block_its_shortcut():
    net = NAMES["ResNet"]().eval()
    X = torch.randn(2, 1024, 2, 2).relu()
    assert torch.equal(net.layer4[1](X), X)
    nn.init.ones_(net.layer4[1].bn3.weight)
    assert not torch.equal(net.layer4[1](X), X)


def cells():
    """Return the notebook's cells."""
    return nbformat.read(NOTEBOOK, 4).cells


def changed_definitions(tmp_path, old, new):
    """Return what the notebook's definition cells define if `old` in them is replaced by `new`."""
    notebook = nbformat.read(NOTEBOOK, 4)
    changed = 0
    for cell in notebook.cells:
        if "definition" in cell.metadata.get("tags", []) and old in cell.source:
            cell.source = cell.source.replace(old, new)
            changed += 1
    assert changed, old
    nbformat.write(notebook, tmp_path / "changed.ipynb")
    return load_definitions(tmp_path / "changed.ipynb")


@pytest.mark.parametrize("old, new", [
    ("self.pool(x)", "nn.functional.dropout(self.pool(x), 0.3, self.training)"),
    ("stride = 2 if downsample else 1", "stride = 3 if downsample else 1"),
    ("self.relu(branch + self.shortcut(x))", "branch + self.shortcut(x)"),  # in forward
    ("nn.init.zeros_(module.bn3.weight)", "nn.init.ones_(module.bn3.weight)"),
    ("nn.BatchNorm2d(64)", "nn.BatchNorm2d(64, momentum=0.2)"),  # a module's argument
    ("self.relu = nn.ReLU()", "self.relu = nn.LeakyReLU(0.1)")])
def test_a_changed_network_is_another_one(tmp_path, old, new):
    network = changed_definitions(tmp_path, old, new)["ResNet"]
    assert not training.same_probe(probe(network), probe(NAMES["ResNet"]))


def probe(network):
    """Return the probe of a network class, initialised with seed 0."""
    torch.manual_seed(0)
    return training.network_probe(network(), 0)


@pytest.mark.parametrize("old, new", [
    ("    def forward(self, x):\n",
     '    # x\n    def forward(self, x):\n        """A word."""\n\n'),
    ("stride = 2 if downsample else 1", "stride = (2  # halves\n            if downsample else 1)"),
    ("nn.BatchNorm2d(64)", "nn.BatchNorm2d(num_features=64)"),
    ("branch = self.bn3(self.conv3(branch))",
     "branch: torch.Tensor = self.bn3(self.conv3(branch))"),
    ("return self.relu(branch + self.shortcut(x))",
     "total = self.shortcut(x) + branch\n        return self.relu(total)")])
def test_other_code_for_the_same_function_is_the_same_network(tmp_path, old, new):
    network = changed_definitions(tmp_path, old, new)["ResNet"]
    assert training.same_probe(probe(network), probe(NAMES["ResNet"]))


@pytest.mark.parametrize("old, new", [
    ("padding=3", "padding=2"),
    ("range(5)", "range(4)"),
    ("stride=2, padding=1", "stride=3, padding=1"),
])
def test_the_layer_table_shows_what_differs_from_the_specification(tmp_path, old, new):
    names = changed_definitions(tmp_path, old, new)
    table = layer_table.layer_table(names["ResNet"]().eval(), names["ResidualBlock"])
    assert layer_table.unlike_specification(table)


@pytest.mark.parametrize("old, new, row", [
    ("self.fc = nn.Linear", "self.drop = nn.Dropout(0.3)\n        self.fc = nn.Linear", None),
    ("nn.AdaptiveAvgPool2d(1)", "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(0.3))",
     "Dropout(p=0.3, inplace=False)"),
    ("self.relu = nn.ReLU()", "self.relu = nn.GELU()",
     "[1×1, 64; 3×3, 64; 1×1, 256; GELU(approximate='none')] ×2"),
    ("nn.MaxPool2d(", "nn.AvgPool2d(1), nn.MaxPool2d(",
     "AvgPool2d(kernel_size=1, stride=1, padding=0)"),
    ("stride = 2 if downsample else 1", "stride = 3 if downsample else 1",
     "[1×1, 64; 3×3, 64; 1×1, 256], stride 3 ×1"),
    ("3, stride=1, padding=1)", "3, stride=2, padding=1)",
     "[1×1, 64; 3×3, 64, stride 2; 1×1, 256] ×2"),
])
def test_the_layer_table_names_what_the_assignment_does_not_have(tmp_path, old, new, row):
    names = changed_definitions(tmp_path, old, new)
    net = names["ResNet"]().eval()
    if "stride=2" in new:  # branch and shortcut do not fit any more
        assert row.startswith(layer_table.describe(net.layer2[1], names["ResidualBlock"]))
        return
    table = layer_table.layer_table(net, names["ResidualBlock"])
    unlike = layer_table.unlike_specification(table)
    if row is None:  # it is never run
        assert not unlike
        return
    assert row in table.network.tolist()
    assert any(line.startswith("not in the assignment: ") and row in line for line in unlike)
    kinds = [line.partition(":")[0] for line in unlike]
    assert kinds == sorted(kinds, reverse=True)  # those that are missing come last


def test_the_layer_table_follows_forward_and_names_own_classes():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return x + self.inner(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 10)
            self.stem = nn.Conv2d(3, 8, 3, stride=4)
            self.steps = nn.ModuleList([Own(), Own()])

        def forward(self, x):
            x = self.stem(x)
            for step in self.steps:
                x = step(x)
            return self.fc(x.mean((2, 3)))

    table = layer_table.layer_table(Net(), NAMES["ResidualBlock"])
    assert table.network.tolist() == [
        "3×3, 8, stride 4, padding 0", "Own [3×3, 8]", "Own [3×3, 8]",
        "fully connected, 8 → 10",
    ]
    assert table.output.tolist() == ["8×8", "8×8", "8×8", "10"]


def test_a_network_is_described_without_being_changed():
    net = NAMES["ResNet"]()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    layer_table.layer_table(net, NAMES["ResidualBlock"])
    layer_table.output_sizes(net)
    net.layer1.eval()
    layer_table.forward_cost(net)
    assert net.training and not net.layer1.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_block_that_is_no_bottleneck_cannot_be_compared_and_the_sentence_says_why():
    class Plain(nn.Module):
        def __init__(self, *arguments):
            super().__init__()

    with pytest.raises(utils.SubmissionError, match="Plain cannot be compared .* no attribute"):
        layer_table.block_difference(Plain)


def words_in(figure):
    """Return the texts in a figure, each as one line."""
    texts = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    return [text for text in texts if text]  # arrows have none


def test_the_drawing_of_a_block_shows_what_its_modules_are(tmp_path):
    block = NAMES["ResidualBlock"](64, 64, 256)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    words = words_in(figures.plot_residual_blocks(block))
    assert words == [
        *("64 channels", "1×1, 64 BN", "ReLU", "3×3, 64 BN", "ReLU", "1×1, 256 BN", "+"),
        *("ReLU", "256 channels", "1×1, 256 BN"),
    ]
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert block.training and not block.conv1._forward_hooks
    gelu = changed_definitions(tmp_path, "self.relu = nn.ReLU()", "self.relu = nn.GELU()")
    words = words_in(figures.plot_residual_blocks(gelu["ResidualBlock"](256, 64, 256)))
    assert not any("ReLU" in text for text in words)
    assert words[-4:] == ["+", "GELU", "256 channels", "identity"]
    two = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1))
    words = words_in(figures.plot_residual_blocks(two))
    assert words == ["8 channels", "3×3, 8", "SiLU", "3×3, 8", "+", "8 channels"]
    with pytest.raises(utils.SubmissionError, match="Flatten runs no nn.Conv2d"):
        figures.plot_residual_blocks(nn.Flatten())


def test_no_mistakes_are_drawn_where_there_are_none(digits):
    probabilities = nn.functional.one_hot(digits.test_labels, 10).float()
    figure = figures.plot_mistakes(digits, probabilities)
    assert "correctly" in figure.texts[0].get_text()


def test_checks_name_all_that_failed(capsys):
    checks = Checks()
    checks.add("one", 1, 1)
    checks.add("two", "below 2", "3.0", False)
    checks.add("rows", [], ["a", "b"])
    with pytest.raises(CheckError) as caught:
        checks.finish()
    text = str(caught.value)
    assert text.startswith("2 of 3 checks failed:\n- two: expected below 2, found 3.0\n- rows: ")
    assert "found\n    a\n    b\n" in text and "one" not in text
    assert "one: expected 1, found 1\n" in capsys.readouterr().out
    good = Checks()
    good.add("one", 1, 1)
    good.finish()


def test_a_class_in_a_cell_of_its_own_belongs_to_the_definitions(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    before = definition_cells(notebook)
    place = next(n for n, cell in enumerate(notebook.cells) if cell.id == "block-definition")
    own = (
        "import torch.nn.functional as F\n\n\n@torch.no_grad()\ndef halve(x):\n"
        "    return 0.5 * x\n\n\nclass Gate(nn.Module):\n    def forward(self, x):\n"
        "        return F.relu(x) + halve(x)\n\n\nprint(Gate()(images))"
    )
    notebook.cells.insert(place, nbformat.v4.new_code_cell(own, id="gate"))
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%time 1", id="magic"))
    unused = "import torch\n\n\nclass Unused:\n    pass"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(unused, id="unused"))
    assert definition_cells(notebook) == before
    cell = notebook.cells[place + 3]
    cell.source = cell.source.replace("self.relu = nn.ReLU()", "self.relu = Gate()")
    assert [cell.id for cell in definition_cells(notebook)][1] == "gate"
    nbformat.write(notebook, tmp_path / "own.ipynb")
    block = load_definitions(tmp_path / "own.ipynb")["ResidualBlock"](64, 64, 256)
    assert block(torch.zeros(1, 64, 8, 8)).shape == (1, 256, 8, 8)


def names_of(cells, context):
    """Return the names that code cells load (ast.Load) or set (ast.Store) at their top level."""
    names = set()
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, context):
                names.add(node.id)
            elif isinstance(node, ast.alias) and context is ast.Store:
                names.add((node.asname or node.name).split(".")[0])
    return names


# Headings of sections that can be removed, alone or with those that rest on them.
REMOVABLE = [
    ["The training loop"],
    ["Accuracy"],
    ["One more epoch"],
    ["Discussion"],
    ["Reproducibility"],
    ["Training", "Accuracy", "One more epoch"],
    ["The training loop", "Accuracy", "Discussion", "Reproducibility"],
]
NETWORK_ONLY = ["Training", "Accuracy", "One more epoch", "Discussion", "Reproducibility"]


def without_sections(notebook, titles):
    """Return the cells of a notebook that are in none of the sections, by their headings."""
    kept = []
    level = 0  # of the heading of a section that is being left out
    for cell in notebook.cells:
        heading = None
        if cell.cell_type == "markdown":
            heading = re.search(r"(?m)^(#+) (.+)", cell.source)
        if heading and (not level or len(heading[1]) <= level):
            level = len(heading[1]) if heading[2] in titles else 0
        if not level:
            kept.append(cell)
    return kept


@pytest.mark.parametrize("titles", [*REMOVABLE, NETWORK_ONLY], ids=", ".join)
def test_a_section_can_be_removed_without_an_edit_elsewhere(titles):
    kept = without_sections(nbformat.read(NOTEBOOK, 4), titles)
    outside = [cell for cell in kept if cell.cell_type == "code"]
    removed = {cell.id for cell in cells()} - {cell.id for cell in kept}
    inside = [cell for cell in cells() if cell.id in removed and cell.cell_type == "code"]
    assert len(removed) >= 2 * len(titles)
    lost = names_of(inside, ast.Store) - names_of(outside, ast.Store)
    assert not lost & names_of(outside, ast.Load)
    # The text of the others refers to nothing that is gone, and by numbers that still hold.
    labels = {"fig": [], "tbl": []}
    for cell in outside:
        for label in re.findall(r"(?m)^#\| label: (\S+)", cell.source):
            labels[label[:3]].append(label)
    text = [cell for cell in kept if "notebook-only" not in cell.metadata.get("tags", [])]
    shown = "\n".join(cell.source for cell in text if cell.cell_type == "markdown")
    shown = re.sub(r"(?s)<!--.*?-->", "", shown)
    for number, label in re.findall(r"\[(?:Figure|Table) (\d+)\]\(#(\S+?)\)", shown):
        assert labels[label[:3]].index(label) + 1 == int(number), label


@pytest.mark.slow
def test_the_network_alone_makes_a_paper(tmp_path, monkeypatch):
    """Claims, conclusions, abstract and figures follow what is left; nothing is trained."""
    root = shutil.copytree(ROOT, tmp_path / "project", ignore=LEFT_OUT)
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells = without_sections(notebook, NETWORK_ONLY[:3])
    source = root / "notebooks" / "assignment2.ipynb"
    executed = tmp_path / "executed.ipynb"
    nbformat.write(notebook, source)
    monkeypatch.chdir(root)
    monkeypatch.delenv("OUTPUT", raising=False)
    run_notebook(source, executed, any_fonts=True)
    results = json.loads((root / "build" / "results.json").read_text(encoding="utf-8"))
    assert results["data"] is None
    assert set(results["claims"]) >= {"parameters", "layer_output/2", "published/original"}
    assert not any(name.startswith(("test_accuracy", "epochs")) for name in results["claims"])
    tex, _ = latex_of(nbformat.read(executed, 4), check_freshness=False)
    assert "is not trained here" in tex and "8,898,826 parameters is built" in tex
    assert tex.count(r"\includegraphics") == 1
    assert "original report" in tex and "from scratch" not in tex.partition("begin{tabular}")[0]


def estimate(value):
    return summary.Estimate(value, 0.5)


PARTS = {
    "network": (summary.Network(8_898_826, 0.118, 1e-6), "8,898,826 parameters", "not trained"),
    "trained": (
        summary.TrainingFacts("5 epochs", 15.0, "CPU", "2 threads of CPU", "CIFAR-10"),
        "15.0 minutes on CPU",
        "from scratch for 5 epochs",
    ),
    "evaluation": (
        summary.Evaluation(estimate(82.5), 83.5, None, "cat and dog", 15.0, 10_000, 82.37),
        "82.50 % of the test images",
        "82.50 ± 0.50 %, close to the 82.37 %",
    ),
    "epoch": (
        summary.OneMoreEpoch(
            100, 500, 80, 82, 0.6, 0.5, 0.4, 0.4,
            *(estimate(value) for value in (1.0, 2.0, -3.0, -1.0, -2.0)), True,
        ),
        "the difference, −2.00 ± 0.50 points, is the effect of the updates.",
        "falls within the epoch, while it rises in all reports",
    ),
}


@pytest.mark.parametrize("names", [
    ["network"], ["network", "trained"], ["network", "trained", "evaluation"],
    ["network", "trained", "epoch"], list(PARTS),
], ids=" ".join)
def test_abstract_and_conclusions_follow_the_sections_that_are_there(names):
    texts = summary.Summary(Ledger())
    for name in names:
        setattr(texts, name, PARTS[name][0])
    abstract = texts.abstract()
    conclusions = texts.conclusions()
    for name, (_, in_abstract, in_conclusions) in PARTS.items():
        if name != "network" and (name != "trained" or "evaluation" not in names):
            assert (in_conclusions in conclusions) == (name in names), name
        assert (in_abstract in abstract) == (name in names), name
    assert ("not trained" in conclusions) == (names == ["network"])


NOTEBOOKS = sorted(NOTEBOOK.parent.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_form_of_the_notebook(notebook):
    found = nbformat.read(notebook, 4)
    nbformat.validate(found)
    for cell in found.cells:
        options = dict(re.findall(r"^#\| ([\w-]+): (.+)$", cell.source, re.MULTILINE))
        assert re.fullmatch(r"[a-z][a-z0-9-]+", cell.id)  # a name somebody gave, so that it stays
        warned = [output for output in cell.get("outputs", []) if output.get("name") == "stderr"]
        assert not warned, cell.id  # it would show paths of the machine that ran it
        if "fig-cap" in options:
            assert options["label"].startswith("fig-")
            assert len(options["fig-alt"]) > 20
        if cell.cell_type == "markdown":
            # of a solution, decimals are arithmetic
            text = re.sub(r"(?s)<details>.*?</details>", "", cell.source)
            text = re.sub(r"^#+ .*$|\]\(.*?\)", "", text, flags=re.MULTILINE)
            if notebook.stem == "study":
                text = without_settings(text)
            assert not NUMBER.search(text), cell.id
    tags = [tag for cell in found.cells for tag in cell.metadata.get("tags", [])]
    for tag in ("parameters", "abstract", "front-matter", "banner"):
        assert tags.count(tag) == 1
    assert tags.count("conclusion") >= 1


LONGEST_CELL = 25  # lines; cell options and the definition of the network do not count


def test_cells_of_code_are_short():
    lengths = []
    for cell in cells():
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.startswith("#|")]
            lengths.append(len(lines))
            if "definition" not in cell.metadata.get("tags", []):
                assert len(lines) <= LONGEST_CELL, cell.id
    assert statistics.median(lengths) <= 10


def test_each_exercise_has_a_folded_solution():
    exercises = 0
    for cell in cells():
        parts = re.split(r"\*\*Exercise \d\.\*\*", cell.source)
        for exercise in parts[1:]:
            assert cell.metadata.tags == ["notebook-only"], cell.id  # the paper has none
            # a blank line behind the summary: Markdown in it is rendered everywhere
            question, answer = exercise.split("\n\n<details>\n<summary>Solution</summary>\n\n")
            assert "?" in question
            assert re.fullmatch(r"(?s).{80,}\n\n</details>\s*", answer), cell.id
            exercises += 1
    assert exercises == 6


def test_every_check_says_what_it_expected():
    code = [cell for cell in cells() if cell.cell_type == "code"]
    checks = [cell for cell in code if "checks.finish()" in cell.source]
    assert len(checks) >= 3
    assert not any(re.search("(?m)^assert ", cell.source) for cell in code)
    for cell in checks:
        shown = "".join(output.get("text", "") for output in cell.outputs)
        assert re.search("expected .*found ", shown), cell.id  # seen, no name in the code
        if "torch.randn" in cell.source:
            assert "torch.manual_seed(" in cell.source, cell.id


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A copy of the project, a space and an umlaut in its path, after `make report` on digits."""
    folder = tmp_path_factory.mktemp("päper of") / "the project"
    left_out = shutil.ignore_patterns(
        ".git", ".venv*", "build", "data", "weights.safetensors", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=left_out)
    settings = {
        "VIRTUAL_ENV": sys.prefix,
        "EPOCHS": "1",
        "DATASET": "digits",
        "MAKEFLAGS": "",
    }
    done = subprocess.run(
        ["make", "report"],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "build/report.pdf" in done.stdout
    return folder


def pdf_text(path, order="-layout"):
    """Return the text of a PDF, by pdftotext."""
    command = ["pdftotext", order, str(path), "-"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout


PAPER_WORDS = (
    "A Residual Network for CIFAR-10",
    "Abstract",
    "1 Implementation",
    "1.1 Residual block",
    "1.2 Layers",
    "2 Training",
    "2.1 Data",
    "2.2 Recipe",
    "3 Accuracy",
    "4 One more epoch",
    "5 Discussion",
    "6 Reproducibility",
    "References",
    "Figure 1",
    "Figure 4",
    "Table 1",
    "Table 4",
    "8,898,826",
    "These results are not for CIFAR-10",
)


def test_report_says_what_the_ledger_says(report):
    results = json.loads((report / "build" / "results.json").read_text(encoding="utf-8"))
    text = pdf_text(report / "build" / "report.pdf", "-raw")  # in the order it was typeset in
    text = re.sub(r"\s+", " ", text)
    for words in PAPER_WORDS:
        assert words in text, words
    tagged = [cell for cell in cells() if "conclusion" in cell.metadata.get("tags", [])]
    conclusions = tagged[0].source
    assert conclusions[:30] not in text  # which are for CIFAR-10
    assert f"{results['claims']['test_accuracy']['value']:.2f}" in text
    for debris in ("??", "[?]", "Step [", "epoch 1/1"):
        assert debris not in text, debris
    assert results["data"]["is_fallback"]
    assert {"value", "unit", "source"} == set(results["claims"]["parameters"])
    run = training.load_run(next((report / "build" / "checkpoints").glob("resnet-*")))
    # The network is the same in notebook and tests.
    assert training.same_probe(run.info["config"]["network"], probe(NAMES["ResNet"]))
    assert run.info["config"]["data"] == results["data"]["fingerprint"]
    assert len(run.history) == 1
    assert not re.search("[{}]", text)  # an f-string that is none
    assert "resnet *" not in text  # the star of runs that another version of the training code made


def test_report_leaves_the_submission_alone(report):
    for name in ("notebooks/assignment2.ipynb", "report/report.pdf", "report/results.json"):
        assert (report / name).exists() == (ROOT / name).exists()
        if (ROOT / name).exists():
            assert (report / name).read_bytes() == (ROOT / name).read_bytes()


def test_latex_has_nothing_undefined_and_nothing_in_the_margin(report):
    """Typeset by hand, in the folder where the paper's own figures are."""
    done = subprocess.run(
        ["latexmk", "-norc", "-xelatex", "-interaction=batchmode", "-outdir=hand", "report.tex"],
        cwd=report / "build", env=os.environ | {"BIBINPUTS": f"{ROOT / 'report'}:"},
        capture_output=True, encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    log = (report / "build" / "hand" / "report.log").read_text(errors="replace", encoding="utf-8")
    assert "natbib" in log
    assert not re.findall("(?m).*undefined.*|^! .*|Missing character.*", log)
    pictures = set(re.findall(r"File: (\S*fig-\w+)", log))
    assert pictures
    # Its own figures, not those of the submission.
    assert all(picture.startswith("figures/") for picture in pictures)
    widths = [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert [width for width in widths if width > 5] == []


def test_executed_notebook_holds_no_debris(report):
    for cell in nbformat.read(report / "build" / "assignment2.ipynb", 4).cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "")
            assert "\r" not in text, cell.id
            assert "it/s" not in text, cell.id
            assert output.output_type != "error"
            assert "widget" not in str(output.get("data", {}).keys())


def test_stock_pdf_and_html(report):
    for kind in ("pdf", "html"):
        command = [sys.executable, "-m", "nbconvert", "--to", kind]
        command += ["--output-dir", str(report / "stock")]
        command += [str(report / "build" / "assignment2.ipynb")]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr[-2000:]
    text = pdf_text(report / "stock" / "assignment2.pdf")
    assert "class ResidualBlock" in text
    assert "References" in text
    assert "[?]" not in text
    assert "it/s" not in text
    page = (report / "stock" / "assignment2.html").read_text(encoding="utf-8")
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) >= 4
    assert all(re.search(r'alt="[^"]{3,}"', image) for image in images)
    assert page.count("<table") >= 2
