"""Do the submission's numbers hold? `make verify` recomputes each claim of report/results.json and says what held.

What follows from the network's definition or from its weights is computed anew, accuracies from the committed
predictions as well; what only training can show is held against the records of the finished run, and against a new
run of the same recipe where build/checkpoints/ has one. First of all the files have to belong together.

holds         found within the tolerance
indicative    found on other images than the submission's: nothing follows from a difference
not rerun     agrees with the records of the run, which this machine did not repeat
contradicted  out of tolerance, checked by nothing, or files that do not belong together
"""
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), *(str(ROOT / folder) for folder in ("report", "grading", "tools"))]

import layers  # noqa: E402
import measures  # noqa: E402
import nbformat  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from definitions import definitions  # noqa: E402
from fresh import record, results_hash, shown, stale  # noqa: E402
from ledger import COMPARISONS  # noqa: E402
from pypdf import PdfReader  # noqa: E402
from pypdf.errors import PdfReadError  # noqa: E402
from safetensors import SafetensorError  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import training  # noqa: E402
import utils  # noqa: E402

NOTEBOOK = "notebooks/assignment2.ipynb"
TOGETHER = "notebook, code, runs, figures, ledger and paper belong together"
SPREAD = 1.0  # points between retrained networks: five standard deviations of the fast recipe's seeds


def belonging(root):
    """Yield what does not belong together, one sentence each: notebook, code, runs, figures, ledger and paper."""
    notebook = nbformat.read(root / NOTEBOOK, 4)
    if not record(notebook):
        yield f"{NOTEBOOK} was not run to its end"
        return
    yield from stale(notebook, root)
    results = json.loads((root / "report" / "results.json").read_text())
    if results["code"] != record(notebook):
        yield "report/results.json is of another run than the notebook"
    if results_hash(results) != record(notebook)["results_hash"]:
        yield "report/results.json has been changed since the notebook was run"
    if not (root / "report" / "report.pdf").exists():
        yield "report/report.pdf is missing"
        return
    yield from lacking("report.pdf", pdf_text(root / "report" / "report.pdf"), notebook)


def lacking(name, text, notebook):
    """Yield a sentence where the PDF `name`, by its `text`, is a draft or lacks numbers that the notebook shows."""
    if "DRAFT" in text:
        yield f"{name} is a draft"
    texts = [data.get("text/latex") or data.get("text/markdown", "") for cell in notebook.cells for data in shown(cell)]
    missing = sorted(numbers(" ".join(texts)) - numbers(text))
    if missing:
        yield f"{name} lacks {len(missing)} numbers that the notebook shows: {', '.join(missing[:6])}"


def paper_alone(pdf):
    """Yield what in a paper disagrees with the sources attached to it, one sentence each."""
    attached = {name: data[0] for name, data in PdfReader(pdf).attachments.items()}
    absent = {"assignment2.ipynb", "results.json", "references.bib", "environment.txt"} - attached.keys()
    if absent:
        yield f"{pdf.name} has no {', '.join(sorted(absent))} attached"
        return
    notebook, results = nbformat.reads(attached["assignment2.ipynb"].decode(), 4), json.loads(attached["results.json"])
    yield from stale(notebook, None)
    if not record(notebook) or results["code"] != record(notebook):
        yield "the attached results.json is of another run than the attached notebook"
    elif results_hash(results) != record(notebook)["results_hash"]:
        yield "the attached results.json has been changed since the notebook was run"
    text = pdf_text(pdf)
    yield from lacking(pdf.name, text, notebook)
    accuracy = f"{results['claims']['test_accuracy']['value']:.2f}"
    if accuracy not in numbers(text):
        yield f"{pdf.name} does not say the test accuracy of its results.json, {accuracy}"


def pdf_text(path):
    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


def numbers(text):
    """All numbers with a decimal point or with thousands, as they are written."""
    return set(re.findall(r"(?<![\d.])(?:\d+\.\d+|\d{1,3}(?:,\d{3})+)(?![\d.]*\d)", text))


def from_definitions(root):
    """(claim, value, where from) of all that needs the notebook's definitions alone."""
    names = definitions(root / NOTEBOOK)
    net = names["ResNet"]().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 32, 32))
    yield "parameters", sum(p.numel() for p in net.parameters()), "the definition"
    yield "forward_cost", counter.get_total_flops() / 1e9, "the definition"
    table = layers.layer_table(net, names["ResidualBlock"])
    for row in table[table.output != ""].itertuples():
        yield f"layer_output/{row.Index + 1}", row.output, "the definition"
    yield "block_difference", layers.block_difference(names["ResidualBlock"]), "torchvision's block"


def from_predictions(predicted, mirrored, labels, classes, where):
    """(claim, value, where from) of all that follows from two lists of predicted classes."""
    for name, which in (("test_accuracy", predicted), ("test_accuracy_flips_averaged", mirrored)):
        yield name, 100 * (which == labels).double().mean().item(), where
    confusion = measures.confusion_matrix(predicted, labels, len(classes))
    for name, value in zip(classes, 100 * confusion.diagonal() / confusion.sum(1)):
        yield f"class_accuracy/{name}", value, where
    yield "most_confused_share", measures.most_confused(confusion)[2], where


def from_weights(run, data, root, main):
    """(claim, value, where from) of all that the weights of `run` give on the test images at hand; `main` is the name
    of the run whose classes are evaluated, too.
    """
    net = training.load_weights(definitions(root / NOTEBOOK)["ResNet"](), run.folder)
    plain, mirrored = (utils.predict(net, data.test_images, run.info["normalisation"], flip) for flip in (False, True))
    both = (plain + mirrored).argmax(1)
    for name, which in (("accuracy", plain), ("accuracy_flips_averaged", plain + mirrored)):
        yield f"{run.folder.name}/{name}", utils.accuracy_of(which, data.test_labels), "the weights"
    if run.folder.name == main:
        yield from from_predictions(plain.argmax(1), both, data.test_labels, data.classes, "the weights")


def from_records(run):
    """(claim, value, where from) of what the finished run wrote down."""
    yield "epochs", len(run.history), "the run's history"
    yield "training_time", run.info["seconds"] / 60, "the run's record"


def from_experiments(claims, root):
    """(claim, value, where from) of what the runs' records say; such a claim is named <run>/<what>, or without the
    number of its seed where it is a mean over seeds.
    """
    runs = [run for run in map(training.load_run, sorted((root / "checkpoints").iterdir()))
            if run and f"{run.folder.name}/accuracy" in claims]
    groups, trials = {}, sorted((run for run in runs if run.folder.name.startswith("trial-")),
                                key=lambda run: run.folder.name)
    gains = measures.gains(trials) if trials else {}
    for run in runs:
        found = {"accuracy": run.accuracy, "accuracy_flips_averaged": run.mirrored_accuracy} | gains.get(run.name, {})
        before = next((other for other in runs if other.key == run.info["config"]["start"]), None)
        frozen = measures.frozen_twin(run, runs)
        if before and frozen:  # else nothing checks what the run changed
            found |= measures.epoch_measures(run, before, frozen)
        yield from ((f"{run.folder.name}/{what}", value, "the run's records") for what, value in found.items())
        groups.setdefault(re.sub(r"-\d$", "", run.folder.name), []).append((run, found))
    for name, members in groups.items():
        if len(members) > 1:
            runs, found = zip(*members)
            of_all = measures.over_seeds(found) | measures.of_seeds(runs)
            yield from ((f"{name}/{what}", value, "the runs' records") for what, value in of_all.items())


def from_conclusions(claims):
    """(claim, value, where from) of what was published, and of what the text concludes from all claims."""
    for name, value in measures.published()[1].items():
        yield f"published/{name}", value, "report/published.csv"
    for name, claim in claims.items():
        if name.startswith("conclusion/"):
            left, comparison, right = claim["unit"].split()
            values = [claims[side]["value"] if side in claims else float(side) for side in (left, right)]
            yield name, bool(COMPARISONS[comparison](*values)), "the ledger"


def judge(claims, found, verdict="holds"):
    """One row per value found: what the paper says, what was found, the tolerance, and `verdict` if they agree.

    The records of a run are exact; tolerances are for what is computed anew.
    """
    for name, value, where in found:
        claim = claims.get(name, {"value": "no such claim", "tolerance": None})
        tolerance = 0 if verdict == "not rerun" else claim["tolerance"] or 0
        if isinstance(value, str) or not isinstance(claim["value"], (int, float)):
            agrees = value == claim["value"]
        elif name == "block_difference":  # rounding error: a bound, not a value to be met
            agrees = max(value, claim["value"]) <= tolerance
        else:
            digits = 1e-5 * abs(value) if isinstance(value, float) else 0  # losses.csv keeps six of them
            agrees = abs(value - claim["value"]) <= tolerance + digits
        yield {"claim": name, "paper": claim["value"], "found": value, "tolerance": tolerance, "from": where,
               "verdict": verdict if agrees or verdict == "indicative" else "contradicted"}


def from_new_runs(claims, run, root):
    """Verdicts from runs of the same network, recipe and data that this machine has trained since."""
    for new in filter(None, map(training.load_run, sorted((root / "build" / "checkpoints").glob(f"{run.name}-*")))):
        if new.info != run.info and new.info.get("config") == run.info["config"]:
            found = [("test_accuracy", new.info["accuracy"], f"a new run, finished {new.info['finished']}")]
            yield from judge({"test_accuracy": claims["test_accuracy"] | {"tolerance": SPREAD}}, found)


def verify(root=ROOT, data=None):
    """A table of verdicts as a DataFrame; `data` are the test images at hand, if any, as from utils.load_data."""
    results = json.loads((root / "report" / "results.json").read_text())
    claims, name = results["claims"], results["claims"]["test_accuracy"]["source"]
    run = training.load_run(root / "checkpoints" / name)
    if run is None:
        raise utils.SubmissionError(f"checkpoints/{name} holds no finished run; restore it, or run make submission")
    rows = [{"claim": fault, "verdict": "contradicted"} for fault in belonging(root)]
    rows = rows or [{"claim": TOGETHER, "from": "their hashes, the paper's text", "verdict": "holds"}]
    rows += judge(claims, from_definitions(root))
    kept = run.predictions
    rows += judge(claims, from_predictions(kept["predicted"], kept["predicted_with_mirrored"], kept["labels"],
                                           utils.CLASSES, "the predictions"))
    if data and not (run.folder / "weights.safetensors").exists():
        print(f"checkpoints/{name} has no weights.safetensors: nothing was evaluated anew.")
    same = data is not None and data.fingerprint == results["data"]["fingerprint"]
    for folder in sorted(file.parent for file in (root / "checkpoints").glob("*/weights.safetensors") if data):
        found = from_weights(training.load_run(folder), data, root, name)
        rows += judge(claims, (f for f in found if f[0] in claims), "holds" if same else "indicative")
    rows += judge(claims, from_records(run), "not rerun")
    rows += judge(claims, (f for f in from_experiments(claims, root) if f[0] in claims), "not rerun")
    rows += judge(claims, from_conclusions(claims))
    rows += from_new_runs(claims, run, root)
    rows += [{"claim": name, "paper": claim["value"], "from": "nothing here checks it", "verdict": "contradicted"}
             for name, claim in claims.items() if name not in {row["claim"] for row in rows}]
    return pd.DataFrame(rows, columns=["claim", "paper", "found", "tolerance", "from", "verdict"])


def images():
    """The CIFAR-10 at hand, or None and a printed line; nothing is downloaded for this."""
    folder = Path(os.environ.get("CIFAR10_DIR") or ROOT / "data")
    if not utils.has_data(folder):
        print(f"No CIFAR-10 in {folder}: the weights were not evaluated anew.")
        return None
    try:
        return utils.load_data(folder, "cifar10")
    except utils.SubmissionError as error:
        print(f"{error}: the weights were not evaluated anew.")


def main():
    if os.environ.get("PDF"):
        faults = list(paper_alone(Path(os.environ["PDF"])))
        print(*faults or ["The paper agrees with the notebook, the ledger and the versions attached to it."], sep="\n")
        print("This shows whether the paper is consistent, not whether its results are true.")
        sys.exit(bool(faults))
    table = verify(ROOT, images())

    def text(value):
        return "" if value is None or value != value else f"{value:.6g}" if isinstance(value, float) else str(value)
    print(table.map(text).to_string(index=False))
    print(", ".join(f"{count} {verdict}" for verdict, count in table.verdict.value_counts().items()))
    sys.exit("contradicted" in set(table.verdict))


if __name__ == "__main__":
    try:
        main()
    except (utils.SubmissionError, OSError, ValueError, KeyError, PdfReadError, SafetensorError) as error:
        sys.exit(f"make verify: a file of the submission is missing or damaged ({type(error).__name__}: {error})")
