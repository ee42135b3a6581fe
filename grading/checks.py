"""What a submission claims, held against what the judge finds: each check yields rows of the verdict.

holds         found within the policy's tolerance
recorded      agrees with the records of the runs, which nobody repeated
contradicted  out of tolerance, missing, or files that do not belong together
unverified    nothing here could check it
implausible   possible, but a reason to ask: no proof of anything
"""
import base64
import contextlib
import datetime
import difflib
import functools
import hashlib
import math
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import training
import utils
from analysis import run_statistics
from grading import sandbox
from grading.archive import Refused, allowed, parse_json
from grading.sandbox_tasks import facts, probabilities
from report.freshness import cell_names, code_hash, definition_cells, record, results_hash, stale, visible_outputs
from tools.notebook_definitions import load_definitions
from tools.project_files import ROOT, project_files

HISTORY = "epoch,train_loss,train_accuracy,learning_rate,seconds"
FACTS = ("parameters", "forward_cost", "block_difference")  # what definitions may tell of themselves, and layer_output
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: no parameters
OTHER = ", on other images than its own"


@dataclass
class Row:
    """One line of the verdict: what it is about, the verdict, a sentence, and both values where there are two."""
    what: str
    verdict: str
    said: str
    claimed: object = None
    found: object = None
    tolerance: object = None
    where: str = ""


def read_policy(path=ROOT / "grading" / "policy.toml"):
    """The policy as a dict of tables."""
    return tomllib.loads(Path(path).read_text())


def code():
    """This copy's own code as the sandbox takes it: name -> path."""
    return {str(file.relative_to(ROOT)): file for file in project_files("sandbox")}


# ------------------------------------------------------------------------------------------------ files and records

def together(submission, notebook, results, policy):
    """Rows on whether notebook, code, runs, figures and ledger are of one run."""
    kept, faults = record(notebook), []
    if not kept:
        faults.append("the notebook was not run to its end")
    elif not all(isinstance(value, str) for value in (*kept["cells"], *kept["texts"], *kept["files"].values())):
        faults.append("the notebook's record is damaged")
    else:
        faults += stale(notebook, None)
        for name, expected in kept["files"].items():
            if not allowed(name, policy["files"]["read"]):
                faults.append(f"the notebook's record names {name[:60]!r}, which is no file of a submission")
            elif submission.hash(name) != expected and not (  # weights may be left out
                    name.endswith("/weights.safetensors") and name not in submission.files):
                faults.append(f"{name} is missing, or not the file that the notebook was run with")
        if results.get("code") != kept:
            faults.append(f"{policy['files']['ledger']} is of another run than the notebook")
        elif results_hash(results) != kept.get("results_hash"):
            faults.append(f"{policy['files']['ledger']} has been changed since the notebook was run")
        faults += [f"{name} shows a picture that is not among the figures of its run"
                   for cell, name in zip(notebook.cells, cell_names(notebook)) for data in visible_outputs(cell)
                   if not pictures_of(data) <= set(kept["files"].values())]
    yield from (Row("files", "contradicted", fault) for fault in faults)
    if not faults:
        yield Row("files", "holds", "notebook, code, runs, figures and ledger belong together", where="their hashes")


def pictures_of(data):
    """The hashes of an output's pictures, in whichever form."""
    found = set()
    for kind, text in data.items():
        if kind == "application/pdf" or kind.startswith("image/"):
            with contextlib.suppress(ValueError):  # no base64
                text = base64.b64decode(text)
            found.add(hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest())
    return found


def data_rows(results, policy):
    """Rows on what the submission says of its data; it may be another copy of CIFAR-10, but no stand-in."""
    about, asked = results.get("data"), policy["data"]["official"]
    about = about if isinstance(about, dict) else {}
    counts = [about.get("train_images"), about.get("test_images")]
    if about.get("standin") is not False or counts != [asked["train_images"], asked["test_images"]]:
        yield Row("data", "contradicted", f"the results are of {str(about.get('source'))[:60]!r} with {counts[0]} and "
                  f"{counts[1]} images, not of the data that the assignment asks for")
    elif about.get("fingerprint") != asked["fingerprint"]:
        yield Row("data", "unverified", "the results are of another copy of the data than the official one: its labels "
                  "cannot be checked")
    else:
        yield Row("data", "holds", "the results are of the official data", where="their fingerprint")


def load_runs(submission, policy):
    """The runs that can be read, name -> training.Run, and rows for those that cannot or that contradict themselves."""
    folder, runs, rows = policy["files"]["runs"], {}, []
    inside = [file.removeprefix(f"{folder}/") for file in submission.files if file.startswith(f"{folder}/")]
    for name in sorted({file.partition("/")[0] for file in inside}):
        place = f"{folder}/{name}"
        try:
            history = pd.DataFrame(submission.numbers(f"{place}/history.csv", HISTORY), columns=HISTORY.split(","))
            losses = np.array(submission.numbers(f"{place}/losses.csv"))[:, 0]
            run = training.Run(Path(name), submission.json(f"{place}/run.json"), history, losses,
                               submission.tensors(f"{place}/predictions.safetensors"))
            rows += [Row(f"run {name}", "contradicted", f"the run {name}: {fault}") for fault in broken(run, policy)]
            if known_data(run, policy) is None:
                rows.append(Row(f"run {name}", "unverified", f"the run {name} is of data that this copy does not know: "
                                "its labels cannot be checked"))
            runs[name] = run
        except (Refused, LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            why = error if isinstance(error, Refused) else f"its records are damaged ({type(error).__name__}: {error})"
            rows.append(Row(f"run {name}", "contradicted", f"the run {name}: {why}"))
    return runs, rows


def known_data(run, policy):
    """What the policy knows of the data of a run, None where it knows nothing."""
    return next((data for data in policy["data"].values() if data["fingerprint"] == run.info["config"]["data"]), None)


def broken(run, policy):
    """What in a run's records contradicts the rest of them or the policy, one phrase each."""
    info, config, known, losses = run.info, run.info["config"], known_data(run, policy), run.losses
    labels, fixed = run.predictions["labels"], run.predictions.get("train_losses")
    if run.name != run.folder.name:
        yield f"its record is that of a run {run.name!r:.40}"
    for values in (run.predictions["predicted"], run.predictions["predicted_with_mirrored"], labels):
        images = (known["test_images"] if known else len(labels),)
        if (values.dtype, values.shape) != (torch.uint8, images) or values.max() >= 10:
            raise Refused(f"its predictions are not one class for each of {images[0]:,} test images")
    expected = torch.float32, (min(training.FIXED, info["train_images"]),)
    if fixed is not None and (fixed.dtype, fixed.shape) != expected:
        yield "its losses of the first training images are not one for each"
    if known and hashlib.sha256(labels.numpy().tobytes()).hexdigest() != known["test_labels"]:
        yield f"its labels are not those of the {known['test_images']:,} official test images"
    if known and info["train_images"] != known["train_images"]:
        yield f"it was trained on {info['train_images']} images, not {known['train_images']:,}"
    steps, epochs, history = info["train_images"] // config["batch_size"], len(run.history), run.history
    if epochs != config["epochs"] or list(history.epoch) != list(range(1, epochs + 1)):
        yield f"its history has {epochs} epochs, its recipe {config['epochs']}"
    elif len(losses) != steps * epochs:
        yield f"it has {len(losses):,} losses for {epochs} epochs of {steps} steps"
    else:
        for row, mean in zip(history.itertuples(), losses.reshape(epochs, steps).mean(1)):
            if not math.isclose(mean, row.train_loss, rel_tol=1e-4):
                yield (f"the loss of epoch {row.epoch:.0f} is {row.train_loss:.4f} in its history and {mean:.4f} by "
                       "its losses")
            rate = rate_of(config, int(row.epoch) * steps - 1, steps)
            if rate is not None and not math.isclose(rate, row.learning_rate, rel_tol=1e-6, abs_tol=1e-12):
                yield (f"the rate of epoch {row.epoch:.0f} is {row.learning_rate:.4g} in its history and {rate:.4g} by "
                       "its schedule")
    last = history.seconds.iloc[-1]
    if not history.seconds.is_monotonic_increasing or not math.isclose(last, info["seconds"], rel_tol=1e-6):
        yield f"its history ends after {last:.0f} seconds, its record says {info['seconds']:.0f}"
    if not math.isclose(run.accuracy, info["accuracy"], abs_tol=1e-6):
        yield f"its record says {info['accuracy']} % and its predictions {run.accuracy:.2f} %"


def rate_of(config, step, steps):
    """The learning rate at a step by a recipe's schedule, None where this copy does not know such recipes."""
    words = {name: config[name] for name in training.Recipe.__dataclass_fields__ if name in config}
    try:
        return training.Recipe(**words).rate(step, steps)
    except utils.SubmissionError:
        return None


def implausible(runs, policy, today=None):
    """Rows on what a run's records say that no training is likely to leave."""
    bounds, today = policy["plausible"], today or datetime.date.today()
    for name, run in runs.items():
        info, config, losses, phrases = run.info, run.info["config"], run.losses, []
        trained = run.history.train_accuracy.iloc[-1]
        mixing = {"cutmix", "mixup", "trivialaugment"} & set(str(config.get("augmentation", "")).split())
        if not mixing and info["accuracy"] - trained > bounds["test_above_training"]:
            phrases.append(f"the test accuracy, {info['accuracy']:.2f} %, is far above the training accuracy, "
                           f"{trained:.2f} %")
        speed = info["train_images"] * len(run.history) / max(info["seconds"], 1e-9)
        if speed > bounds["images_per_second"]:
            phrases.append(f"it trained on {speed:,.0f} images a second")
        if not config.get("start") and not bounds["first_loss"][0] <= losses[0] <= bounds["first_loss"][1]:
            phrases.append(f"the loss of its first step is {losses[0]}, which no untrained network has")
        if len(losses) > 20 and len(set(losses)) < len(losses) / 2:
            phrases.append(f"its {len(losses)} losses are only {len(set(losses))} different numbers")
        try:
            if datetime.date.fromisoformat(str(info.get("finished"))) > today + datetime.timedelta(1):
                phrases.append(f"it will have finished on {info['finished']}")
        except ValueError:
            phrases.append("it does not say when it finished")
        yield from (Row(f"run {name}", "implausible", f"the run {name}: {phrase}") for phrase in phrases)


# ---------------------------------------------------------------------------------------------------------- measuring

@functools.cache
def template_facts():
    """What this copy's own definitions say, a list of [claim, value]."""
    return facts(load_definitions())


def from_network(submission, notebook, template, runs, main, data, policy):
    """Rows of trouble, and (claim, value, where) of all that network, predictions and weights say; weights last.

    `main` is the run whose accuracy is claimed, None for a document without one.
    """
    own, here = ([code_hash(cell.source) for cell in definition_cells(book)] for book in (notebook, template))
    same, rows, place = own == here, [], policy["files"]["runs"] + "/{}/weights.safetensors"
    classes, found = policy["images"]["classes"], []
    if main:
        kept = main.predictions
        found += from_predictions(main, kept["predicted"], kept["predicted_with_mirrored"], kept["labels"], classes,
                                  True, "its predictions")
    found += [(*fact, "the template's definition") for fact in template_facts()] if same else []
    if main and place.format(main.folder) not in submission.files:
        rows.append(Row("weights", "unverified", f"{place.format(main.folder)} is missing: no accuracy was measured"))
    elif main and data is None:
        rows.append(Row("weights", "unverified", "there is no CIFAR-10 here to evaluate the weights on: set "
                        "CIFAR10_DIR, or put it into data/"))
    weights, given, images = {}, {}, torch.cat([data.test_images, data.test_images.flip(3)]) if data else None
    try:
        for name in (name for name in runs if place.format(name) in submission.files):
            weights[name] = submission.tensors(place.format(name))
            count = sum(value.numel() for key, value in weights[name].items() if not key.endswith(BUFFERS))
            found.append(("parameters", count, f"the weights of {name}"))
        norms = {name: checked_normalisation(runs[name].info["normalisation"]) for name in weights}
        if same and data:
            given = {name: template_probabilities(weights[name], images, norms[name]) for name in weights}
        elif not same:
            files = {name: submission.bytes(place.format(name)) for name in weights}
            given, told = student_probabilities(definition_cells(notebook), files, images, norms, policy)
            found += told
    except sandbox.Stopped as error:
        rows.append(Row("definitions", "unverified", f"the network's changed definitions did not run in the sandbox: "
                        f"{error}"))
    except (Refused, utils.SubmissionError) as error:
        rows.append(Row("weights", "contradicted", f"the weights could not be evaluated: {error}"))
    for name, probability in given.items():
        plain, mirrored = probability.split(len(data.test_labels))
        where = "the weights" + ("" if same else ", by the student's definitions")
        if not data.fingerprint == policy["data"]["official"]["fingerprint"] == runs[name].info["config"]["data"]:
            where += OTHER
        found += from_predictions(runs[name], plain.argmax(1), (plain + mirrored).argmax(1), data.test_labels, classes,
                                  bool(main) and name == main.folder.name, where)
    return rows, found


def template_probabilities(weights, images, normalisation):
    """Probabilities (N, 10) of uint8 images (N, 3, 32, 32) by the network of this copy's notebook."""
    net = load_definitions()["ResNet"]()
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()[:200]
        raise Refused(f"they are not of the network that the notebook defines ({fault})") from None
    return probabilities(net, images, normalisation)


def student_probabilities(cells, weights, images, normalisations, policy):
    """The same by the student's definitions, in the sandbox: images go in shuffled, without labels.

    Gives probabilities by run, none where there are no images, and what the definitions say of themselves.
    """
    cells = [{"cell_type": "code", "id": f"c{number}", "metadata": {"tags": ["definition"]}, "source": cell.source}
             for number, cell in enumerate(cells)]
    inputs = code() | {"definitions.ipynb": sandbox.packed({"cells": cells})}
    if images is not None:
        order = torch.randperm(len(images))
        inputs |= {"images.raw": images[order].numpy().tobytes(), "runs.json": sandbox.packed(normalisations)}
        inputs |= {f"{name}/weights.safetensors": data for name, data in weights.items()}
    results, given = sandbox.results(inputs, "network", policy), {}
    told = parse_json(results.get("facts.json", b"[]"), "what the definitions say")
    told = [(*fact, "the student's definitions, by their own word") for fact in told
            if isinstance(fact, list) and len(fact) == 2 and type(fact[1]) in (int, float, str)
            and (fact[0] in FACTS or str(fact[0]).startswith("layer_output/"))]
    for name in weights if images is not None else ():
        raw = results.get(f"{name}.raw", b"")
        if len(raw) != 40 * len(images):
            raise Refused("the student's definitions did not give ten probabilities for each image")
        shuffled = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(-1, 10)
        if not shuffled.isfinite().all():
            raise Refused("the student's definitions gave probabilities that are not finite")
        given[name] = torch.empty_like(shuffled)
        given[name][order] = shuffled
    return given, told


def checked_normalisation(normalisation):
    """Means and standard deviations of three channels, as lists of floats."""
    rows = normalisation if isinstance(normalisation, list) else []
    if [len(row) if isinstance(row, list) else 0 for row in rows] != [3, 3] or not all(
            isinstance(value, float) and abs(value) < 1e3 for row in rows for value in row) or min(rows[1]) <= 0:
        raise Refused("the run's normalisation is not three means and three deviations")
    return rows


def from_predictions(run, predicted, mirrored, labels, classes, main, where):
    """Yield (claim, value, where) of what follows from predicted classes and labels; more of it for the main run."""
    for name, which in (("accuracy", predicted), ("accuracy_flips_averaged", mirrored)):
        value = 100 * (which == labels).double().mean().item()
        yield f"{run.folder}/{name}", value, where
        if main:
            yield f"test_{name}", value, where
    if main:
        confusion = run_statistics.confusion_matrix(predicted, labels, len(classes))
        for name, right, all_of_it in zip(classes, confusion.diagonal(), confusion.sum(1)):
            yield f"class_accuracy/{name}", float(100 * right / max(all_of_it, 1)), where
        yield "most_confused_share", float(run_statistics.most_confused(confusion)[2]), where


def from_records(main, runs, claims):
    """Yield (claim, value, where) of what the runs wrote down and nobody repeats here: what is of one run by its name,
    means over runs that differ by their seeds by the name of their group. `main` may be None.
    """
    where, groups = "the runs' records", {}
    if main:
        yield "epochs", len(main.history), where
        yield "training_time", main.info["seconds"] / 60, where
    claimed = [run for name, run in runs.items() if f"{name}/accuracy" in claims]
    # what runs of another make meet: nothing checks them
    unknown = LookupError, TypeError, ValueError, RuntimeError, utils.SubmissionError
    for run in claimed:
        images = len(run.predictions["labels"])
        found = {"accuracy": run.accuracy, "accuracy_flips_averaged": run.flip_tta_accuracy,
                 "accuracy_interval": run_statistics.accuracy_interval(run.accuracy, images)}
        before = next((other for other in claimed if other.key == run.info["config"].get("start")), None)
        with contextlib.suppress(*unknown):
            if before:
                found |= run_statistics.epoch_measures(run, before, run_statistics.control_of(run, claimed))
        yield from ((f"{run.folder}/{what}", value, where) for what, value in found.items())
        groups.setdefault(run_statistics.group_name(run.name), []).append((run, found))
    for name, members in groups.items():
        of_one, found = zip(*members)
        of_all = {}
        if len(members) > 1:
            of_all = run_statistics.mean_over_runs(found) | run_statistics.summarize_seeds(of_one)
        with contextlib.suppress(*unknown):
            reference = [run for group in run_statistics.reference_groups(name) for run, _ in groups.get(group, [])]
            of_all |= run_statistics.gain(of_one, reference)
        yield from ((f"{name}/{what}", value, where) for what, value in of_all.items())


# ------------------------------------------------------------------------------------------------------------- claims

def checked_claims(results):
    """The claims that are well-formed, name -> dict, and rows for those that are not."""
    claims, rows = results.get("claims"), []
    if not isinstance(claims, dict) or len(claims) > 2_000:
        return {}, [Row("claims", "contradicted", "results.json has no claims, or thousands of them")]
    good = {}
    for name, claim in claims.items():
        value = claim.get("value") if isinstance(claim, dict) else None
        if type(value) not in (int, float, str, bool) or len(str(value)) > 60 or len(name) > 100:
            rows.append(Row(name[:60], "contradicted", f"the claim {name[:60]} has no value, or too long a one"))
        else:
            good[name] = claim
    return good, rows


def tolerance_of(name, tolerances):
    """The tolerance of the first pattern that fits a claim's name: a number, "any", or None where none fits."""
    return next((value for pattern, value in tolerances.items() if fnmatchcase(name, pattern)), None)


def held(claims, found, policy, exact=False):
    """Rows of claims against what was found; `exact` is for records."""
    for name, value, where in found:
        claim, tolerance = claims.get(name), tolerance_of(name, policy["claims"])
        if claim is None:
            if any(fnmatchcase(name, pattern) for pattern in policy["required"]):
                yield Row(name, "contradicted", f"the claim {name} is missing; found was {told(value)}", None, value)
            continue
        if where.endswith(OTHER):
            if not name.endswith(("/accuracy", "flips_averaged", "test_accuracy")):
                continue  # of a thousand images each, or a share of few
            tolerance = max(tolerance, policy["images"]["other"])
        tolerance = 0 if exact or tolerance in ("any", None) else tolerance
        good = agrees(value, claim["value"], tolerance, name == "block_difference")
        said = f"the paper claims {name} = {told(claim['value'])}; {where} give {told(value)}"
        verdict = ("recorded" if exact else "holds") if good else "contradicted"
        yield Row(name, verdict, said, claim["value"], value, tolerance, where)


def agrees(value, claimed, tolerance, is_bound=False):
    """Whether a value is the one claimed, within a tolerance and the six digits that CSV files keep."""
    if not {type(value), type(claimed)} <= {int, float}:
        return type(value) is type(claimed) and value == claimed
    if is_bound:  # a rounding error: a bound, not a value to be met
        return 0 <= min(value, claimed) and max(value, claimed) <= tolerance
    return abs(value - claimed) <= tolerance + (1e-5 * abs(value) if isinstance(value, float) else 0)


def told(value):
    """A value as a sentence says it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def listed(names, most=8):
    """The first of some names, and how many follow."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def concluded(claims):
    """Rows on what the text concludes from the claims: that a claim's 95 % interval lies above or below a number."""
    values = {name: claim["value"] for name, claim in claims.items()}
    for name, claim in claims.items():
        if name.startswith("conclusion/"):
            said = str(claim.get("unit"))[:200]
            try:
                left, comparison, right = said.split()
                supported = run_statistics.interval_supports(values, left, comparison, float(right))
                true = claim["value"] is True and supported
            except (ValueError, KeyError, TypeError):
                true = False
            yield Row(name, "holds" if true else "contradicted", f"{name}: {said}" + " does not hold" * (not true),
                      claim["value"], true, 0, "the ledger")


# -------------------------------------------------------------------------------------------------- what is different

def differences(submission, notebook, template):
    """Lines that say what differs from the template: definitions as a diff, other cells and files by name."""
    old, new = ("\n\n".join(cell.source for cell in definition_cells(book)) for book in (template, notebook))
    lines = [f"  {line[:160]}" for line in difflib.unified_diff(
        old.splitlines(), new.splitlines(), "the template's definitions", "the submission's", lineterm="", n=1)][:200]
    if lines:
        lines.insert(0, "The network's definitions have been changed:")
    known = {code_hash(cell.source) for cell in template.cells}
    cells = [name for cell, name in zip(notebook.cells, cell_names(notebook))
             if cell.cell_type == "code" and code_hash(cell.source) not in known
             and "definition" not in cell.metadata.get("tags", [])]
    if cells:
        lines.append(f"{len(cells)} code cells are not the template's: {'; '.join(cells[:20])[:600]}.")
    files = [name for name in sorted(submission.files) if name.endswith(".py") and (
        not (ROOT / name).is_file() or (ROOT / name).read_bytes() != submission.files[name])]
    if files:
        lines.append(f"Modules that are not the template's (they were not run here): {', '.join(files[:20])}.")
    return lines
