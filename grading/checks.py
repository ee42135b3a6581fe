"""What a submission claims, held against what the judge finds: each check yields rows of the verdict.

holds         found within the policy's tolerance
recorded      agrees with the records of the runs, which nobody repeated
contradicted  out of tolerance, missing, or files that do not belong together
unverified    nothing here could check it
implausible   possible, but a reason to ask: no proof of anything
"""
import base64
import datetime
import difflib
import functools
import hashlib
import math
import re
import statistics
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import sandbox
import torch
from archive import Refused, allowed, parse_json
from definitions import definitions
from fresh import cell_names, code_hash, record, results_hash, shown, stale
from inside import facts, probabilities

import training
import utils

ROOT = Path(__file__).resolve().parent.parent
CODE = [*ROOT.glob("*.py"), *ROOT.glob("report/*.py"), *ROOT.glob("report/twocolumn/*"), *ROOT.glob("tools/*.py"),
        ROOT / "grading" / "inside.py", ROOT / "requirements.txt"]
HISTORY = "epoch,train_loss,train_accuracy,learning_rate,seconds"
FACTS = ("parameters", "forward_cost", "layer_output", "block_difference")  # what definitions may tell of themselves
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: no parameters


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


@dataclass
class Run:
    """The records of a run, parsed: `history` and `losses` are lists of floats, `kept` the predictions' tensors."""
    name: str
    info: dict
    history: list
    losses: list
    kept: dict

    def last_epoch(self):
        """The losses of the last epoch's steps."""
        return self.losses[-(len(self.losses) // len(self.history)):]


def read_policy(path=ROOT / "grading" / "policy.toml"):
    """The policy as a dict of tables."""
    return tomllib.loads(Path(path).read_text())


def code():
    """This copy's own code as the sandbox takes it: name -> path."""
    return {str(file.relative_to(ROOT)): file for file in CODE if file.is_file()}


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
            elif submission.hash(name) == "missing":
                faults += [] if name.endswith("/weights.safetensors") else [f"{name} is missing"]
            elif submission.hash(name) != expected:
                faults.append(f"{name} is not the file that the notebook was run with")
        if results.get("code") != kept:
            faults.append(f"{policy['files']['ledger']} is of another run than the notebook")
        elif results_hash(results) != kept.get("results_hash"):
            faults.append(f"{policy['files']['ledger']} has been changed since the notebook was run")
        faults += unrecorded_pictures(notebook, kept)
    yield from (Row("files", "contradicted", fault) for fault in faults)
    if not faults:
        yield Row("files", "holds", "notebook, code, runs, figures and ledger belong together", where="their hashes")


def unrecorded_pictures(notebook, kept):
    """A sentence for each cell that shows a picture which is none of the figures recorded, in whichever form."""
    for cell, name in zip(notebook.cells, cell_names(notebook)):
        for data in shown(cell):
            for kind in ("application/pdf", "image/png", "image/jpeg", "image/svg+xml"):
                if kind in data:
                    try:
                        found = hashlib.sha256(base64.b64decode(data[kind])).hexdigest()
                    except ValueError:
                        found = "no picture"
                    if found not in kept["files"].values():
                        yield f"{name} shows a picture ({kind}) that is not among the figures of its run"


def data_rows(results, policy):
    """Rows on what the submission says of its data; it may be another copy of CIFAR-10, but no stand-in."""
    about, asked = results.get("data"), policy["data"]
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
    """The runs that can be read, name -> Run, and rows for those that cannot."""
    folder, runs, rows = policy["files"]["runs"], {}, []
    for name in sorted({file.split("/")[1] for file in submission.files if file.startswith(folder + "/")}):
        place = f"{folder}/{name}"
        try:
            run = Run(name, submission.json(f"{place}/run.json"), submission.numbers(f"{place}/history.csv", HISTORY),
                      [value for value, in submission.numbers(f"{place}/losses.csv")],
                      submission.tensors(f"{place}/predictions.safetensors"))
            rows += [Row(f"run {name}", "contradicted", f"the run {name}: {fault}") for fault in broken(run, policy)]
            runs[name] = run
        except (Refused, KeyError, TypeError, AttributeError, ValueError, OverflowError, ZeroDivisionError) as error:
            why = error if isinstance(error, Refused) else f"its records are damaged ({type(error).__name__}: {error})"
            rows.append(Row(f"run {name}", "unverified", f"the run {name}: {why}"))
            runs.pop(name, None)
    return runs, rows


def broken(run, policy):
    """What in a run's records contradicts the rest of them or the policy, one phrase each."""
    info, config, asked = run.info, run.info["config"], policy["data"]
    official = config["data"] == asked["fingerprint"]
    for name in ("predicted", "predicted_with_mirrored", "labels"):
        values = run.kept[name]
        if values.dtype != torch.uint8 or values.shape != (asked["test_images"],) or values.max() >= 10:
            yield f"its {name} are not one class for each of {asked['test_images']:,} test images"
            return
    if official and hashlib.sha256(run.kept["labels"].numpy().tobytes()).hexdigest() != asked["test_labels"]:
        yield "its labels are not those of the official test images"
    if official and info["train_images"] != asked["train_images"]:
        yield f"it was trained on {info['train_images']} images, not {asked['train_images']:,}"
    steps, epochs = info["train_images"] // config["batch_size"], len(run.history)
    if epochs != config["epochs"] or [row[0] for row in run.history] != list(range(1, epochs + 1)):
        yield f"its history has {epochs} epochs, its recipe {config['epochs']}"
    elif len(run.losses) != steps * epochs:
        yield f"it has {len(run.losses):,} losses for {epochs} epochs of {steps} steps"
    else:
        for number, (_, loss, _, rate, _) in enumerate(run.history):
            mean = statistics.fmean(run.losses[number * steps:(number + 1) * steps])
            if not math.isclose(mean, loss, rel_tol=1e-4):
                yield f"the loss of epoch {number + 1} is {loss:.4f} in its history and {mean:.4f} by its losses"
            scheduled = rate_of(config, (number + 1) * steps - 1, steps)
            if scheduled is not None and not math.isclose(scheduled, rate, rel_tol=1e-6, abs_tol=1e-12):
                yield f"the rate of epoch {number + 1} is {rate:.4g} in its history and {scheduled:.4g} by its schedule"
    times = [row[4] for row in run.history]
    if times != sorted(times) or not math.isclose(times[-1], info["seconds"], rel_tol=1e-6):
        yield f"its history ends after {times[-1]:.0f} seconds, its record says {info['seconds']:.0f}"
    right = share(run.kept["predicted"], run.kept["labels"])
    if not math.isclose(right, info["accuracy"], abs_tol=1e-6):
        yield f"its record says {info['accuracy']} % and its predictions {right:.2f} %"


def rate_of(config, step, steps):
    """The learning rate at a step by a recipe's schedule, None where this copy does not know such recipes."""
    words = {name: config[name] for name in training.Recipe.__dataclass_fields__ if name in config}
    try:
        return training.Recipe(**words).rate(step, steps)
    except utils.SubmissionError:
        return None


def share(predicted, labels, of=None):
    """How many per cent of the images, or of those that the mask `of` picks, are classified right."""
    right = predicted == labels if of is None else (predicted == labels)[of]
    return 100 * right.double().mean().item()


def implausible(runs, policy, today=None):
    """Rows on what a run's records say that no training is likely to leave."""
    bounds, today = policy["plausible"], today or datetime.date.today()
    for run in runs.values():
        config, losses, phrases = run.info["config"], run.losses, []
        mixing = {"cutmix", "mixup", "trivialaugment"} & set(str(config.get("augmentation", "")).split())
        if not mixing and run.info["accuracy"] - run.history[-1][2] > bounds["test_above_training"]:
            phrases.append(f"the test accuracy, {run.info['accuracy']:.2f} %, is far above the training accuracy, "
                           f"{run.history[-1][2]:.2f} %")
        speed = run.info["train_images"] * len(run.history) / max(run.info["seconds"], 1e-9)
        if speed > bounds["images_per_second"]:
            phrases.append(f"it trained on {speed:,.0f} images a second")
        if not config["start"] and not bounds["first_loss"][0] <= losses[0] <= bounds["first_loss"][1]:
            phrases.append(f"the loss of its first step is {losses[0]}, which no untrained network has")
        if len(losses) > 20 and len(set(losses)) < len(losses) / 2:
            phrases.append(f"its {len(losses)} losses are only {len(set(losses))} different numbers")
        try:
            if datetime.date.fromisoformat(str(run.info.get("finished"))) > today + datetime.timedelta(1):
                phrases.append(f"it will have finished on {run.info['finished']}")
        except ValueError:
            phrases.append("it does not say when it finished")
        yield from (Row(f"run {run.name}", "implausible", f"the run {run.name}: {phrase}") for phrase in phrases)


# ---------------------------------------------------------------------------------------------------------- measuring

@functools.cache
def template_facts():
    """What this copy's own definitions say, a list of [measure, argument, value]."""
    return facts(definitions())


def definition_cells(notebook):
    """The cells tagged `definition`."""
    return [cell for cell in notebook["cells"] if "definition" in cell["metadata"].get("tags", [])]


def measured(submission, notebook, template, main, data, policy):
    """Rows of trouble, what was measured as (measure, argument, value, where), and the points that images may cost."""
    same = [code_hash(cell.source) for cell in definition_cells(notebook)] == [
        code_hash(cell.source) for cell in definition_cells(template)]
    rows, found, name = [], list(from_predictions(main.kept, policy)), f"{policy['files']['runs']}/{main.name}/weights"
    official = data is not None and data.fingerprint == policy["data"]["fingerprint"] == main.info["config"]["data"]
    bound, weights, images = 0 if official else policy["data"]["other_images"], None, None
    if same:
        found += [(*fact, "the template's definition") for fact in template_facts()]
    if f"{name}.safetensors" not in submission.files:
        rows.append(Row("weights", "unverified", f"{name}.safetensors is missing: no accuracy was measured"))
    elif data is None:
        rows.append(Row("weights", "unverified", "there is no CIFAR-10 here to evaluate the weights on: set "
                        "CIFAR10_DIR, or put it into data/"))
    else:
        images = torch.cat([data.test_images, data.test_images.flip(3)])
    given = None
    try:
        if f"{name}.safetensors" in submission.files:
            weights = submission.tensors(f"{name}.safetensors")
            count = sum(value.numel() for key, value in weights.items() if not key.endswith(BUFFERS))
            found.append(("parameters", "", count, "the weights"))
        if same and images is not None:
            given = template_probabilities(weights, images, main.info["normalisation"])
        elif not same:
            given, told = student_probabilities(submission, notebook, f"{name}.safetensors", images,
                                                main.info["normalisation"], policy)
            found += told
    except sandbox.Stopped as error:
        rows.append(Row("definitions", "unverified", f"the network's changed definitions did not run in the sandbox: "
                        f"{error}"))
    except (Refused, utils.SubmissionError) as error:
        rows.append(Row("weights", "contradicted", f"the weights could not be evaluated: {error}"))
    if given is not None:
        plain, mirrored = given.split(len(data.test_labels))
        kept = {"predicted": plain.argmax(1), "predicted_with_mirrored": (plain + mirrored).argmax(1),
                "labels": data.test_labels}
        where = "the weights" + ("" if same else ", by the student's definitions") + (
            "" if official else ", on other images than its own")
        found += [(measure, argument, value, where) for measure, argument, value, _ in from_predictions(kept, policy)]
    return rows, found, bound


def template_probabilities(weights, images, normalisation):
    """Probabilities (N, 10) of uint8 images (N, 3, 32, 32) by the network of this copy's notebook."""
    normalisation, net = checked_normalisation(normalisation), definitions()["ResNet"]()
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()[:200]
        raise Refused(f"they are not of the network that the notebook defines ({fault})") from None
    return probabilities(net, images, normalisation)


def student_probabilities(submission, notebook, weights, images, normalisation, policy):
    """The same by the student's definitions, in the sandbox: images go in shuffled, without labels.

    Gives probabilities, or None where there are no images or weights, and what the definitions say of themselves.
    """
    cells = [{"cell_type": "code", "id": f"c{number}", "metadata": {"tags": ["definition"]}, "source": cell.source}
             for number, cell in enumerate(definition_cells(notebook))]
    inputs = code() | {"definitions.ipynb": sandbox.packed({"cells": cells})}
    if images is not None:
        order = torch.randperm(len(images))
        inputs |= {"images.raw": images[order].numpy().tobytes(), "weights.safetensors": submission.bytes(weights),
                   "normalisation.json": sandbox.packed(checked_normalisation(normalisation))}
    results = sandbox.results(inputs, "network", policy)
    told = parse_json(results.get("facts.json", b"[]"), "what the definitions say")
    told = [(*fact, "the student's definitions, by their own word") for fact in told
            if isinstance(fact, list) and len(fact) == 3 and fact[0] in FACTS and isinstance(fact[1], str)
            and type(fact[2]) in (int, float, str)]
    if images is None:
        return None, told
    raw = results.get("probabilities.raw", b"")
    if len(raw) != 40 * len(images):
        raise Refused("the student's definitions did not give ten probabilities for each image")
    given = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(-1, 10)
    if not given.isfinite().all():
        raise Refused("the student's definitions gave probabilities that are not finite")
    in_order = torch.empty_like(given)
    in_order[order] = given
    return in_order, told


def checked_normalisation(normalisation):
    """Means and standard deviations of three channels, as lists of floats."""
    rows = normalisation if isinstance(normalisation, list) else []
    if [len(row) if isinstance(row, list) else 0 for row in rows] != [3, 3] or not all(
            isinstance(value, float) and abs(value) < 1e3 for row in rows for value in row) or min(rows[1]) <= 0:
        raise Refused("the run's normalisation is not three means and three deviations")
    return rows


def from_predictions(kept, policy):
    """Yield (measure, argument, value, where) of what follows from lists of predicted classes and the labels."""
    where, classes = "its predictions", policy["data"]["classes"]
    predicted, labels = kept["predicted"].long(), kept["labels"].long()
    yield "accuracy", "", share(predicted, labels), where
    yield "accuracy_mirrored", "", share(kept["predicted_with_mirrored"].long(), labels), where
    for number, name in enumerate(classes):
        yield "class_accuracy", name, share(predicted, labels, labels == number), where
    pairs = torch.zeros(10, 10).index_put((labels, predicted), torch.ones(()), True)
    pairs = (pairs + pairs.T).fill_diagonal_(0)
    yield "confused", "", 100 * (pairs.max() / max(1, int((predicted != labels).sum()))).item(), where


def from_records(main, runs, policy):
    """Yield (measure, argument, value, where) of what the runs wrote down and nobody repeats here."""
    last, where = main.last_epoch(), "the run's records"
    for step in (*range(100, len(last), 100), len(last)):
        yield "running_loss", str(step), statistics.fmean(last[:step]), where
    yield "epochs", "", len(main.history), where
    yield "training_time", "", main.info["seconds"] / 60, where
    for run in runs.values():
        last = run.last_epoch()
        yield "run_early", run.name, statistics.fmean(last[:max(1, len(last) // 5)]), where
        yield "run_late", run.name, statistics.fmean(last), where
        yield "run_accuracy", run.name, share(run.kept["predicted"], run.kept["labels"]), where
    seeds = [share(run.kept["predicted"], run.kept["labels"]) for run in runs.values()
             if fnmatchcase(run.name, policy["claims"]["seeds_mean"]["runs"])]
    if len(seeds) > 1:
        yield "seeds_mean", "", statistics.mean(seeds), where
        yield "seeds_deviation", "", statistics.stdev(seeds), where


# ------------------------------------------------------------------------------------------------------------- claims

def checked_claims(results):
    """The claims that are well-formed, name -> dict, and rows for those that are not."""
    claims, rows = results.get("claims"), []
    if not isinstance(claims, dict) or len(claims) > 2_000:
        return {}, [Row("claims", "contradicted", "results.json has no claims, or thousands of them")]
    good = {}
    for name, claim in claims.items():
        value = claim.get("value") if isinstance(claim, dict) else None
        tolerance = claim.get("tolerance") if isinstance(claim, dict) else ""
        if type(value) not in (int, float, str) or len(str(value)) > 60 or len(name) > 100 or not (
                tolerance is None or type(tolerance) in (int, float) and tolerance >= 0):
            rows.append(Row(name[:60], "contradicted", f"the claim {name[:60]} is no value with a tolerance"))
        else:
            good[name] = claim
    return good, rows


def held(claims, found, policy, bound=0, exact=False):
    """Rows of claims against what was found; `bound` is what other images may cost, `exact` is for records."""
    for measure, argument, value, where in found:
        asked = policy["claims"][measure]
        name = asked["name"].format(argument)
        claim = claims.get(name)
        if claim is None:
            if asked.get("required"):
                yield Row(name, "contradicted", f"the claim {name} is missing; found was {told(value)}", None, value)
            continue
        tolerance = 0 if exact or asked["tolerance"] == "none" else asked["tolerance"]
        on_images = "other images" in where and measure in ("accuracy", "accuracy_mirrored")
        tolerance = max(tolerance, bound) if on_images else tolerance
        if "other images" in where and not on_images:  # of a thousand images each, or a share of few
            continue
        said = f"the paper claims {name} = {told(claim['value'])}; {where} give {told(value)}"
        good = agrees(value, claim["value"], tolerance, measure == "block_difference")
        verdict = ("recorded" if exact else "holds") if good else "contradicted"
        yield Row(name, verdict, said, claim["value"], value, tolerance, where)


def agrees(value, claimed, tolerance, is_bound=False):
    """Whether a value is the one claimed, within a tolerance and the six digits that CSV files keep."""
    if isinstance(value, str) or isinstance(claimed, str):
        return value == claimed
    if is_bound:  # a rounding error: a bound, not a value to be met
        return 0 <= min(value, claimed) and max(value, claimed) <= tolerance
    return abs(value - claimed) <= tolerance + (1e-5 * abs(value) if isinstance(value, float) else 0)


def told(value):
    """A value as a sentence says it."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def widened(claims, policy):
    """Rows for claims whose own tolerance is wider than the policy's."""
    for asked in policy["claims"].values():
        pattern = re.escape(asked["name"]).replace(r"\{\}", ".+")
        for name, claim in claims.items():
            if re.fullmatch(pattern, name) and asked["tolerance"] != "none" and (
                    claim["tolerance"] is None or claim["tolerance"] > asked["tolerance"]):
                yield Row(name, "contradicted", f"the claim {name} allows itself a tolerance of {claim['tolerance']}; "
                          f"the policy allows {asked['tolerance']}", claim["value"])


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
