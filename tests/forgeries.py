"""A small real submission, made by the project's own code, and what a forger needs to change it and sign it anew."""
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
from grading.checks import read_policy
from grading.sandbox_tasks import facts
from report.freshness import MIME_TYPE, code_hash, definition_cells, results_hash, text_hash, visible_outputs
from tools.notebook_definitions import NOTEBOOK, load_definitions

POLICY = read_policy()
BOOK, LEDGER, PAPER = (POLICY["files"][key] for key in ("notebook", "ledger", "paper"))
BUILD = """
import sys; sys.path.insert(0, sys.argv[1])
import nbformat
from report import exporter
resources = {"metadata": {"name": "assignment2", "path": sys.argv[2]}}
notebook = nbformat.read(sys.argv[2] + "/" + sys.argv[4], 4)
open(sys.argv[3], "wb").write(exporter.PaperExporter(check_freshness=False).from_notebook_node(notebook, resources)[0])
"""


@dataclass
class World:
    """A submission's files (name -> bytes), the policy that asks for just that, and the data that it is about."""
    files: dict
    policy: dict
    data: utils.Data


def small_world(folder):
    """Four runs on a few grey squares, a notebook about them with the template's definitions, and its paper."""
    (train_images, train_labels), (test_images, test_labels) = squares(64, 1), squares(100, 2)
    data = utils.Data(train_images, train_labels, test_images, test_labels, tuple("0123456789"), "a few squares")
    policy = copy.deepcopy(POLICY)
    labels = hashlib.sha256(data.test_labels.byte().numpy().tobytes()).hexdigest()
    policy["data"]["official"] = {"fingerprint": data.fingerprint, "train_images": 64, "test_images": 100,
                                  "test_labels": labels}
    policy["images"]["classes"] = list(data.classes)
    runs = []
    for name in ("fast-0", "fast-1", "restart-0", "control-0"):
        seed, start = int(name[-1]), not name.startswith("fast")
        recipe = training.Recipe(epochs=1 if start else 2, batch_size=16, seed=seed, augmentation="",
                                 learning_rate=0 if name == "control-0" else 1e-3)
        torch.manual_seed(seed)
        net = load_definitions()["ResNet"]()
        if start:
            training.load_weights(net, runs[0].folder)
        runs.append(training.fit(net, data, folder / name, recipe, runs[0] if start else None))
    files = {f"{POLICY['files']['runs']}/{run.name}/{file.name}": file.read_bytes() for run in runs
             for file in run.folder.iterdir() if run is runs[0] or file.name != "weights.safetensors"}
    for name in ("utils.py", "training/runs.py", POLICY["files"]["references"]):
        files[name] = (ROOT / name).read_bytes()
    for kind in ("pdf", "png"):
        files[f"figures/fig-loss.{kind}"] = drawn(runs[0].losses, kind)
    claims = claims_of(runs, policy)
    files[LEDGER] = json.dumps({"claims": claims, "data": {
        "source": data.source, "fingerprint": data.fingerprint, "train_images": 64, "test_images": 100,
        "standin": False}, "environment": {"packages": []}}).encode()
    world = World(files, policy, data)
    write_notebook(world, notebook_of(claims, files))
    build_paper(world, folder)
    return world


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
    main, claims = runs[0], {}
    predicted, mirrored, labels = (main.predictions[key].long() for key in (
        "predicted", "predicted_with_mirrored", "labels"))

    def claim(name, value, source=main.name, unit=""):
        if "accuracy" in name and not unit:
            unit = "%"
        claims[name] = {"value": value, "unit": unit, "source": source}
    claim("test_accuracy", main.info["accuracy"])
    claim("test_accuracy_flips_averaged", 100 * (mirrored == labels).double().mean().item())
    for number, name in enumerate(policy["images"]["classes"]):
        claim(f"class_accuracy/{name}", 100 * (predicted[labels == number] == number).double().mean().item())
    confusion = torch.zeros(10, 10).index_put((labels, predicted), torch.ones(()), accumulate=True)
    pairs = (confusion + confusion.T).fill_diagonal_(0)
    claim("most_confused_share", 100 * (pairs.max() / (predicted != labels).sum()).item())
    for name, value in facts(load_definitions()):
        claim(name, value, "definitions")
    claim("epochs", len(main.history))
    claim("training_time", main.info["seconds"] / 60)
    for run in runs:
        claim(f"{run.name}/accuracy", run.info["accuracy"], run.name)
    seeds = [run.info["accuracy"] for run in runs[:2]]
    claim("fast/accuracy", sum(seeds) / 2, "fast")
    claim("fast/deviation", statistics.stdev(seeds), "fast")
    claim("restart-0/change", runs[2].info["accuracy"] - main.info["accuracy"], "restart-0")
    right = [(run.predictions["predicted"] == run.predictions["labels"]).double() for run in (runs[2], main)]
    claim("restart-0/change_interval", 1.96 * (100 * (right[0] - right[1])).std().item() / 100**0.5, "restart-0")
    excess = runs[2].losses.mean() - runs[3].losses.mean()
    claim("restart-0/excess", float(excess), "restart-0")
    claim("published/original", 82.37, "published.csv")
    claim("conclusion/the accuracy changes by less than its interval allows", True, "conclusions",
          "restart-0/change < 99.5")
    return claims


def notebook_of(claims, files):
    """A short notebook: prose, the template's definitions, a figure, a table, computed prose, the ledger's cell."""
    hidden = {"tags": ["notebook-only"]}
    accuracy, parameters = claims["test_accuracy"]["value"], claims["parameters"]["value"]
    said = (f"**Accuracy.** The network with its {parameters:,} parameters is right in {accuracy:.2f} % of cases "
            "[(He et al., 2016)](#ref-he2016).")
    pictures = {kind: base64.b64encode(files[f"figures/fig-loss.{kind.rpartition('/')[2]}"]).decode()
                for kind in ("application/pdf", "image/png")}
    front = {"title": "A Small Network", "authors": [{"name": "Ada Lovelace", "student_number": "1815",
                                                      "university": "London", "email": "ada@example.org"}]}
    table = f"\\begin{{tabular}}{{lr}}\nclass & accuracy \\\\\nall & {accuracy:.2f} \\\\\n\\end{{tabular}}"
    template = definition_cells(nbformat.read(NOTEBOOK, 4))
    cells = [
        new_code_cell("front()", metadata={"tags": ["front-matter"]}, outputs=[shown_as({MIME_TYPE: front})]),
        new_markdown_cell("# Implementation\n\nThe task is to classify small images with a residual network."),
        *[new_code_cell(cell.source, metadata={"tags": ["definition", "notebook-only"]}) for cell in template],
        new_code_cell('#| label: fig-loss\n#| fig-cap: "The loss of each step."\n#| fig-alt: "A line."\ndraw()',
                      outputs=[shown_as(pictures)]),
        new_code_cell("prose()", outputs=[shown_as({"text/markdown": said})]),
        new_code_cell('#| label: tbl-all\n#| tbl-cap: "The accuracy."\ntable()',
                      outputs=[shown_as({"text/latex": table})]),
        new_markdown_cell("# Discussion\n\nIt is small, and so is what it learns."),
        new_code_cell("ledger.write()", metadata=hidden, outputs=[shown_as({MIME_TYPE: {}})])]
    return new_notebook(cells=cells)


def shown_as(data):
    """An output of a cell that displays data."""
    return new_output("display_data", data)


def read_notebook(world):
    """The world's notebook."""
    return nbformat.reads(world.files[BOOK].decode(), 4)


def write_notebook(world, notebook, sign=True):
    """Put a notebook into the world, its record and the ledger's made to fit: nothing stops a forger from that."""
    if sign:
        results = json.loads(world.files[LEDGER])
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        texts = [data.get("text/latex") or data["text/markdown"] for cell in code for data in visible_outputs(cell)
                 if {"text/latex", "text/markdown"} & data.keys()]
        kept = {"cells": [code_hash(cell.source) for cell in code], "texts": [text_hash(text) for text in texts],
                "files": {name: hashlib.sha256(data).hexdigest() for name, data in world.files.items()
                          if name.endswith(".py") or name.startswith(("checkpoints/", "figures/"))},
                "results": LEDGER, "results_hash": results_hash(results)}
        world.files[LEDGER] = json.dumps(results | {"code": kept}).encode()
        for output in (output for cell in code for output in cell.outputs):
            if MIME_TYPE in output.get("data", {}) and "front-matter" not in cell_tags(code, output):
                output.data[MIME_TYPE] = kept
    world.files[BOOK] = nbformat.writes(notebook).encode()


def cell_tags(cells, output):
    """The tags of the cell that has an output."""
    return next(cell.metadata.get("tags", []) for cell in cells if any(output is other for other in cell.outputs))


def build_paper(world, folder):
    """Build the world's paper with the project's exporter, as a student does."""
    for name, data in world.files.items():
        (folder / "paper" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "paper" / name).write_bytes(data)
    book, pdf = folder / "paper" / BOOK, folder / "paper.pdf"
    subprocess.run([sys.executable, "-c", BUILD, str(ROOT), str(book.parent), str(pdf), book.name],
                   check=True, capture_output=True)
    world.files[PAPER] = pdf.read_bytes()


def pack(path, files, compression=zipfile.ZIP_STORED):
    """Write files (name or ZipInfo -> bytes) to a zip file, and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data, compression)
    return path


def submission(world):
    """The world's files as the judge's reader gives them."""
    return Submission("small", world.files, world.policy["archive"])


def edit_results(world, change, sign=True):
    """Change results.json with a function of its content, and sign it."""
    results = json.loads(world.files[LEDGER])
    change(results)
    world.files[LEDGER] = json.dumps(results).encode()
    write_notebook(world, read_notebook(world), sign)


def edit_cell(world, text, change, sign=True):
    """Change the first cell whose source or output has `text` in it with a function of that cell, and sign it."""
    notebook = read_notebook(world)
    change(next(cell for cell in notebook.cells if text in cell.source + json.dumps(cell.get("outputs", ""))))
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
