"""A small real submission, and what a forger needs to change it and sign it anew."""

import base64
import copy
import hashlib
import io
import json
import statistics
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import matplotlib.pyplot as plt
import nbformat
import torch
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from safetensors.torch import load, save

import training
import utils
from grading.archive import Submission
from grading.policy import DataSet, Policy, read_policy
from grading.sandbox_tasks import definition_facts
from report.freshness import (
    MIME_TYPE,
    code_hash,
    definition_cells,
    results_hash,
    text_hash,
    visible_outputs,
)
from tools.notebook_definitions import NOTEBOOK, load_definitions

POLICY = read_policy()
BOOK = POLICY.files.notebook
LEDGER = POLICY.files.ledger
PAPER = POLICY.files.paper
BUILD = """
import sys; sys.path.insert(0, sys.argv[1])
import nbformat
from report import exporter
exporter = exporter.PaperExporter(check_freshness=False)
resources = {"metadata": {"name": "assignment2", "path": sys.argv[2]}}
notebook = nbformat.read(sys.argv[2] + "/" + sys.argv[4], 4)
open(sys.argv[3], "wb").write(exporter.from_notebook_node(notebook, resources)[0])
"""


@dataclass
class World:
    """A submission's files, name -> bytes, a policy that asks for just that, and its data."""

    files: dict
    policy: Policy
    data: utils.Data


def small_world(folder):
    """Four runs on grey squares, a notebook about them with the template's network, its paper."""
    train_images, train_labels = squares(64, 1)
    test_images, test_labels = squares(100, 2)
    classes = tuple("0123456789")
    data = utils.Data(
        train_images, train_labels, test_images, test_labels, classes, "a few squares"
    )
    policy = copy.deepcopy(POLICY)
    labels = hashlib.sha256(data.test_labels.byte().numpy().tobytes()).hexdigest()
    policy.data["official"] = DataSet(data.fingerprint, 64, 100, labels)
    policy.images.classes = list(data.classes)
    runs = train_runs(data, folder)
    files = {}
    for run in runs:
        for file in run.folder.iterdir():
            if run is runs[0] or file.name != "weights.safetensors":
                files[f"{POLICY.files.runs}/{run.name}/{file.name}"] = file.read_bytes()
    for name in ("utils.py", "training/__init__.py", POLICY.files.references):
        files[name] = (ROOT / name).read_bytes()
    for kind in ("pdf", "png"):
        files[f"figures/fig-loss.{kind}"] = drawn(runs[0].losses, kind)
    claims = claims_of(runs, policy)
    about = {
        "source": data.source,
        "fingerprint": data.fingerprint,
        "train_images": 64,
        "test_images": 100,
        "is_fallback": False,
    }
    results = {"claims": claims, "data": about, "environment": {"packages": []}}
    files[LEDGER] = json.dumps(results).encode()
    world = World(files, policy, data)
    write_notebook(world, notebook_of(claims, files))
    build_paper(world, folder)
    return world


def train_runs(data, folder):
    """Two runs with other seeds, one more epoch of the first, and that epoch's control run."""
    recipes = {
        "fast-0": training.Recipe(epochs=2, batch_size=16, augmentation=""),
        "fast-1": training.Recipe(epochs=2, batch_size=16, augmentation="", seed=1),
        "restart-0": training.Recipe(epochs=1, batch_size=16, augmentation=""),
        "control-0": training.Recipe(epochs=1, batch_size=16, augmentation="", learning_rate=0),
    }
    runs = []
    for name, recipe in recipes.items():
        torch.manual_seed(recipe.seed)
        net = load_definitions()["ResNet"]()
        start = None
        if not name.startswith("fast"):
            start = runs[0]
            training.load_weights(net, start.folder)
        runs.append(training.fit(net, data, folder / name, recipe, start=start))
    return runs


def squares(number, seed):
    """Images of ten greys, uint8 (N, 3, 32, 32), with noise in them, and their classes."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(number) % 10
    noise = torch.randint(0, 60, (number, 3, 32, 32), generator=generator)
    return (19 * labels.view(-1, 1, 1, 1) + noise).byte(), labels


def drawn(losses, kind):
    """A figure of the losses as bytes."""
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot(losses)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    plt.close(figure)
    return buffer.getvalue()


def claims_of(runs, policy):
    """The ledger's claims, computed from the runs by themselves and not by the judge's code."""
    main, second, restart, control = runs
    claims = main_claims(main, policy)
    for name, value in definition_facts(load_definitions()):
        claims[name] = entry(value, "definitions")
    for run in runs:
        claims[f"{run.name}/accuracy"] = entry(run.info["accuracy"], run.name, "%")
    seeds = [main.info["accuracy"], second.info["accuracy"]]
    claims["fast/accuracy"] = entry(sum(seeds) / 2, "fast", "%")
    claims["fast/deviation"] = entry(statistics.stdev(seeds), "fast")
    change = restart.info["accuracy"] - main.info["accuracy"]
    claims["restart-0/change"] = entry(change, "restart-0")
    difference = 100 * (right_answers(restart) - right_answers(main))
    interval = 1.96 * difference.std().item() / len(difference) ** 0.5
    claims["restart-0/change_interval"] = entry(interval, "restart-0")
    excess = restart.losses.mean() - control.losses.mean()
    claims["restart-0/excess"] = entry(float(excess), "restart-0")
    claims["published/original"] = entry(82.37, "published.csv")
    conclusion = "conclusion/the accuracy changes by less than its interval allows"
    claims[conclusion] = entry(True, "conclusions") | {"condition": "restart-0/change < 99.5"}
    return claims


def main_claims(main, policy):
    """Claims on the run whose accuracy is claimed."""
    predicted = main.predictions["predicted"].long()
    mirrored = main.predictions["predicted_with_mirrored"].long()
    labels = main.predictions["labels"].long()
    values = {
        "test_accuracy": main.info["accuracy"],
        "test_accuracy_with_tta": 100 * (mirrored == labels).double().mean().item(),
    }
    for number, name in enumerate(policy.images.classes):
        right = (predicted[labels == number] == number).double().mean()
        values[f"class_accuracy/{name}"] = 100 * right.item()
    confusion = torch.zeros(10, 10).index_put((labels, predicted), torch.ones(()), accumulate=True)
    pairs = (confusion + confusion.T).fill_diagonal_(0)
    share = 100 * (pairs.max() / (predicted != labels).sum()).item()
    claims = {name: entry(value, main.name, "%") for name, value in values.items()}
    claims["most_confused_share"] = entry(share, main.name)
    claims["epochs"] = entry(len(main.history), main.name)
    claims["training_time"] = entry(main.info["seconds"] / 60, main.name)
    return claims


def entry(value, source, unit=""):
    """A claim as results.json has it."""
    return {"value": value, "unit": unit, "source": source}


def right_answers(run):
    """Which test images a run's predictions get right: a tensor (N,) of zeros and ones."""
    return (run.predictions["predicted"] == run.predictions["labels"]).double()


FRONT = {
    "title": "A Small Network",
    "authors": [
        {
            "name": "Ada Lovelace",
            "student_number": "1815",
            "university": "London",
            "email": "ada@example.org",
        }
    ],
}
FIGURE_OPTIONS = """#| label: fig-loss
#| fig-cap: "The loss of each step."
#| fig-alt: "A line."
"""
TABLE_OPTIONS = """#| label: tbl-all
#| tbl-cap: "The accuracy."
"""
TABLE = """\\begin{{tabular}}{{lr}}
class & accuracy \\\\
all & {accuracy:.2f} \\\\
\\end{{tabular}}"""


def notebook_of(claims, files):
    """A short notebook: prose, the template's definitions, a figure, a table, the ledger's cell."""
    accuracy = claims["test_accuracy"]["value"]
    parameters = claims["parameters"]["value"]
    text = (
        f"**Accuracy.** The network with its {parameters:,} parameters is right in "
        f"{accuracy:.2f} % of cases [(He et al., 2016)](#ref-he2016)."
    )
    pictures = {
        "application/pdf": base64.b64encode(files["figures/fig-loss.pdf"]).decode(),
        "image/png": base64.b64encode(files["figures/fig-loss.png"]).decode(),
    }
    definitions = []
    for cell in definition_cells(nbformat.read(NOTEBOOK, 4)):
        definitions.append(code_cell(cell.source, None, "definition", "notebook-only"))
    cells = [
        code_cell("front()", {MIME_TYPE: FRONT}, "front-matter"),
        new_markdown_cell(
            "# Implementation\n\nThe task is to classify small images with a residual network."
        ),
        *definitions,
        code_cell(f"{FIGURE_OPTIONS}draw()", pictures),
        code_cell("prose()", {"text/markdown": text}),
        code_cell(f"{TABLE_OPTIONS}table()", {"text/latex": TABLE.format(accuracy=accuracy)}),
        new_markdown_cell("# Discussion\n\nIt is small, and so is what it learns."),
        code_cell("ledger.write()", {MIME_TYPE: {}}, "notebook-only"),
    ]
    return new_notebook(cells=cells)


def code_cell(source, data, *tags):
    """A code cell with tags that displays `data`, or nothing if it is None."""
    outputs = []
    if data is not None:
        outputs.append(shown_as(data))
    metadata = {"tags": list(tags)} if tags else {}
    return new_code_cell(source, metadata=metadata, outputs=outputs)


def shown_as(data):
    """An output of a cell that displays data."""
    return new_output("display_data", data)


def read_notebook(world):
    """The world's notebook."""
    return nbformat.reads(world.files[BOOK].decode(), 4)


def write_notebook(world, notebook, sign=True):
    """Put a notebook into the world; if it is signed, its record and the ledger's fit."""
    if sign:
        results = json.loads(world.files[LEDGER])
        signature = record_of(world, notebook, results)
        world.files[LEDGER] = json.dumps(results | {"code": signature}).encode()
        for cell in notebook.cells:
            if "front-matter" in cell.metadata.get("tags", []):
                continue
            for output in cell.get("outputs", []):
                if MIME_TYPE in output.get("data", {}):
                    output.data[MIME_TYPE] = signature
    world.files[BOOK] = nbformat.writes(notebook).encode()


def record_of(world, notebook, results):
    """The record that a run of the notebook would leave: hashes of cells, texts, files, results."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    texts = []
    for cell in code:
        for data in visible_outputs(cell):
            if "text/latex" in data or "text/markdown" in data:
                texts.append(text_hash(data.get("text/latex") or data["text/markdown"]))
    files = {}
    for name, data in world.files.items():
        if name.endswith(".py") or name.startswith(("checkpoints/", "figures/")):
            files[name] = hashlib.sha256(data).hexdigest()
    return {
        "cells": [code_hash(cell.source) for cell in code],
        "texts": texts,
        "files": files,
        "results": LEDGER,
        "results_hash": results_hash(results),
    }


def build_paper(world, folder):
    """Build the world's paper with the project's exporter, as a student does."""
    for name, data in world.files.items():
        (folder / "paper" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "paper" / name).write_bytes(data)
    book = folder / "paper" / BOOK
    pdf = folder / "paper.pdf"
    subprocess.run(
        [sys.executable, "-c", BUILD, str(ROOT), str(book.parent), str(pdf), book.name],
        check=True,
        capture_output=True,
    )
    world.files[PAPER] = pdf.read_bytes()


def pack(path, files, compression=zipfile.ZIP_STORED):
    """Write files (name or ZipInfo -> bytes) to a zip file, and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data, compression)
    return path


def submission(world):
    """The world's files as the judge's reader gives them."""
    return Submission("small", world.files, world.policy.archive)


def edit_results(world, change, sign=True):
    """Change results.json with a function of its content, and sign it."""
    results = json.loads(world.files[LEDGER])
    change(results)
    world.files[LEDGER] = json.dumps(results).encode()
    write_notebook(world, read_notebook(world), sign)


def claim(world, name, **changes):
    """Change a claim, and sign it."""
    edit_results(world, lambda results: results["claims"][name].update(changes))


def edit_cell(world, text, change, sign=True):
    """Change the first cell with `text` in its source or output by a function, and sign it."""
    notebook = read_notebook(world)
    change(
        next(
            cell
            for cell in notebook.cells
            if text in cell.source + json.dumps(cell.get("outputs", ""))
        )
    )
    write_notebook(world, notebook, sign)


def edit_info(world, run, change):
    """Change a run's run.json with a function of its content, and sign it."""
    name = f"checkpoints/{run}/run.json"
    info = json.loads(world.files[name])
    change(info)
    world.files[name] = json.dumps(info).encode()
    start = json.loads(world.files["checkpoints/fast-0/run.json"])
    for other in ("checkpoints/restart-0/run.json", "checkpoints/control-0/run.json"):
        later = json.loads(world.files[other])
        later["config"]["start"] = training.short_hash(start)
        world.files[other] = json.dumps(later).encode()
    write_notebook(world, read_notebook(world))


def edit_tensors(world, name, change):
    """Change a safetensors file with a function of its tensors, and sign it."""
    tensors = load(world.files[name])
    change(tensors)
    world.files[name] = save(tensors)
    write_notebook(world, read_notebook(world))
