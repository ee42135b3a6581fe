"""Measures accuracies and parameter counts: from weights, stored predictions and definitions.

claim_check.py compares these measurements with what a submission claims.
The template's definitions are evaluated here. Changed ones are a student's code: they run in the
sandbox, which sees shuffled images and no labels.
"""
import functools
import json
from dataclasses import dataclass, field

import torch

from analysis import run_statistics
from grading import memorisation, sandbox
from grading.archive import ArchiveError, matches_patterns, parse_json
from grading.cell_code import code_key, find_definitions
from grading.findings import Finding, Measurement
from grading.policy import is_number
from grading.sandbox_tasks import MOST_LETTERS, definition_facts, last_line, probabilities
from tools.errors import SubmissionError
from tools.notebook_definitions import load_definitions
from tools.project_files import ROLES, ROOT, project_files
from training.runs import WEIGHTS

# Values that a student's code may report, beside layer_output/<number>.
FACTS = ("parameters", "forward_cost", "block_difference")
LAYER_TABLE = "analysis/layer_table.py"  # a student changes it with a network of other layers
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: no parameters


@dataclass
class NetworkReport:
    """What network, stored predictions and weights say.

    Attributes:
        findings: what could not be evaluated, and what does not fit.
        measurements: what was computed.
        accuracy: the Measurement of the test accuracy, of the weights or, without them, of the
            stored predictions; None if there is neither.
    """

    findings: list[Finding] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    accuracy: Measurement | None = None

    def add(self, measurements):
        """Enter measurements; from now on, a test accuracy among them is the one measured."""
        for measured in measurements:
            self.measurements.append(measured)
            if measured.claim == "test_accuracy":
                self.accuracy = measured


def sandbox_code():
    """This copy's own code as the sandbox takes it: name -> path."""
    return {file.relative_to(ROOT).as_posix(): file for file in project_files("sandbox")}


def measure_network(submission, notebook, template, runs, main, data, policy):
    """The NetworkReport on a submission.

    Args:
        submission: a Submission.
        notebook: its notebook.
        template: this copy's notebook.
        runs: name -> SubmittedRun.
        main: the run whose accuracy is claimed, None for a document without one.
        data: the test images at hand as utils.Data, or None.
        policy: a Policy.
    """
    report = NetworkReport()
    cells = find_definitions(notebook, template)
    expected = find_definitions(template, template)
    if expected and not cells:
        message = "no cell of the notebook defines a network: nothing of it was evaluated"
        report.findings.append(Finding("definitions", "unverified", message))
        return report
    changed = _combined_code_key(cells) != _combined_code_key(expected)
    if main:
        report.add(stored_measurements(main, policy))
    if not changed:
        report.add(template_measurements())
    report.findings += _missing_inputs(submission, main, data, policy)
    probes = memorisation.make_probes(data) if data else None
    weights, normalisations, faults = read_weights(submission, runs, policy)
    images = test_views(data, probes)
    buffers = ()
    try:
        if changed:
            source = "the weights, by the student's definitions"
            files = {name: submission.bytes(weights_file(name, policy)) for name in weights}
            own = student_modules(submission)
            computed, misfits, facts, buffers = evaluate_in_sandbox(
                cells, files, images, normalisations, policy, own
            )
            report.add(facts)
        else:
            source = "the weights"
            computed, misfits = evaluate_template(weights, images, normalisations)
    except SubmissionError as error:
        report.findings.append(_failed_evaluation(error))
        return report
    for name, fault in misfits.items():
        faults[name] = (
            f"the weights of {name} are not of the network that the notebook defines ({fault})"
        )
    report.findings += [_fault_finding(name, fault, main) for name, fault in faults.items()]
    for name, tensors in weights.items():
        if name not in misfits:
            count = count_parameters(tensors, buffers)
            report.add([Measurement("parameters", count, f"the weights of {name}")])
    for name, values in computed.items():
        is_main = main is not None and name == main.folder.name
        count = len(data.test_labels)
        views, probed = values[: 2 * count], values[2 * count :]
        report.add(weight_measurements(runs[name], views, data, source, is_main, policy))
        report.findings += memorisation.check(
            name, *views.split(count), probed, probes, data.test_labels
        )
    return report


def _failed_evaluation(error):
    """The Finding that `error`, a SubmissionError, ended the evaluation of the weights."""
    if not isinstance(error, sandbox.SandboxError):
        return Finding("weights", "contradicted", f"the weights could not be evaluated: {error}")
    message = f"the network's changed definitions did not run in the sandbox: {error}"
    if "NameError" in message:
        message += " (tag the cell that defines it `definition`)"
    return Finding("definitions", "unverified", message)


def weights_file(run, policy):
    """The name of the file of a run's weights in an archive."""
    return f"{policy.files.runs}/{run}/{WEIGHTS}"


def _combined_code_key(cells):
    """What some cells do together, a string: see `code_key`."""
    return "\n".join(code_key(cell.source) for cell in cells)


def student_modules(submission):
    """Modules that a student's definitions may import, name -> bytes: only the sandbox runs them.

    Of the modules that this copy has as well, it is the layer table alone, which describes the
    layers of a student's network.
    """
    own = sandbox_code()
    modules = {}
    for name, content in submission.files.items():
        is_module = name.endswith(".py") and matches_patterns(name, ROLES["archive"])
        if is_module and (name not in own or name == LAYER_TABLE):
            modules[name] = content
    return modules


def _missing_inputs(submission, main, data, policy):
    """Findings on why the accuracy claimed cannot be measured, if it cannot."""
    if not main:
        return []
    file = weights_file(main.folder, policy)
    if file not in submission.files:
        message = f"{file} is missing: the accuracy was not computed from weights"
        return [Finding("weights", "unverified", message)]
    if data is None:
        message = "the weights were not evaluated: this machine has no CIFAR-10"
        return [Finding("weights", "unverified", message)]
    return []


@functools.cache
def template_measurements():
    """Measurements of what this copy's own definitions say."""
    source = "the template's definitions"
    return [
        Measurement(claim, value, source) for claim, value in definition_facts(load_definitions())
    ]


def read_weights(submission, runs, policy):
    """The weights of those runs that have any.

    Returned are three dicts by run: tensors by name; means and standard deviations; and sentences
    on what cannot be read.
    """
    weights = {}
    normalisations = {}
    faults = {}
    for name, run in runs.items():
        file = weights_file(name, policy)
        if file not in submission.files:
            continue
        try:
            normalisation = normalisation_of(run)
            weights[name] = submission.tensors(file)
            normalisations[name] = normalisation
        except SubmissionError as error:
            faults[name] = f"the weights of {name} could not be evaluated: {error}"
    return weights, normalisations, faults


def _fault_finding(name, fault, main):
    """The Finding that the weights of a run cannot be evaluated, `fault`, a sentence.

    Only the run whose accuracy is claimed, `main`, has to have weights.
    """
    if main is not None and name == main.folder.name:
        return Finding("weights", "contradicted", fault)
    return Finding(f"run {name}", "unverified", fault)


def count_parameters(weights, buffers=()):
    """The number of parameters among tensors by name.

    Batch norms' statistics do not count, nor do the names in `buffers`.
    """
    return sum(
        tensor.numel()
        for name, tensor in weights.items()
        if not name.endswith(BUFFERS) and name not in buffers
    )


def normalisation_of(run):
    """Means and standard deviations of three channels, from a run's record.

    Raises ArchiveError if the record has others.
    """
    rows = run.record.normalisation
    if [len(row) for row in rows] != [3, 3]:
        raise ArchiveError("the run's normalisation is not three means and three deviations")
    means, deviations = rows
    if max(map(abs, means + deviations)) >= 1e3 or min(deviations) <= 0:
        raise ArchiveError(
            "the run's normalisation is out of range: means are below 1000, deviations above zero"
        )
    return rows


# ------------------------------------------------------------------------------------ evaluation


def test_views(data, probes):
    """The N test images, the mirrored ones and the probes: uint8 (2N + P, 3, 32, 32).

    Args:
        data: utils.Data, or None, for which there are none.
        probes: memorisation.Probes.
    """
    if data is None:
        return None
    return torch.cat([data.test_images, data.test_images.flip(3), probes.images])


def evaluate_template(weights, images, normalisations):
    """Probabilities of images by the template's network, run -> tensor (N, 10), and misfits.

    Misfits are the runs whose weights do not fit into the network, run -> reason.

    Args:
        weights: run -> tensors by name.
        images: uint8 (N, 3, 32, 32), or None, for which nothing is evaluated.
        normalisations: run -> means and standard deviations.
    """
    if images is None:
        return {}, {}
    computed = {}
    misfits = {}
    for name, tensors in weights.items():
        net = load_definitions()["ResNet"]()
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            misfits[name] = last_line(error)
            continue
        computed[name] = probabilities(net, images, normalisations[name])
    return computed, misfits


def evaluate_in_sandbox(cells, weights, images, normalisations, policy, modules=None):
    """What the student's definitions give.

    Returned are probabilities by run, misfits as `evaluate_template` returns them, Measurements of
    the definitions themselves, and the names of tensors that they register as buffers.

    The images are shuffled, so that definitions that know the test set cannot tell their labels.

    Args:
        cells: the notebook's definition cells.
        weights: run -> bytes of its safetensors file.
        images: uint8 (N, 3, 32, 32), or None: the definitions are only asked about themselves.
        normalisations: run -> means and standard deviations.
        policy: a Policy.
        modules: the student's modules, name -> bytes.

    Raises sandbox.SandboxError if they do not run, ArchiveError if they give anything else.
    """
    inputs = sandbox_code() | (modules or {})
    inputs["definitions.ipynb"] = _definitions_notebook(cells)
    order = None
    if images is not None:
        order = torch.randperm(len(images), generator=memorisation.unpredictable())
        inputs["images.raw"] = images[order].numpy().tobytes()
        inputs["runs.json"] = json.dumps(normalisations).encode()
        for name, content in weights.items():
            inputs[f"{name}/{WEIGHTS}"] = content
    results = sandbox.run_task(inputs, "evaluate_network", policy)
    facts = _student_facts(results.get("facts.json", b"[]"))
    buffers = parse_json(results.get("buffers.json", b"[]"), "the names of buffers")
    if not isinstance(buffers, list):
        buffers = []
    misfits = _student_misfits(results.get("misfits.json", b"{}"), weights)
    computed = {}
    if order is not None:
        for name in weights:
            if name not in misfits:
                computed[name] = _unshuffled(results.get(f"{name}.raw", b""), order)
    return computed, misfits, facts, [str(name) for name in buffers]


def _student_misfits(content, names):
    """Those of the runs `names` whose weights did not fit, run -> reason, by a student's code."""
    misfits = parse_json(content, "the list of weights that do not fit")
    if not isinstance(misfits, dict):
        return {}
    return {name: str(misfits[name])[:MOST_LETTERS] for name in names if name in misfits}


def _definitions_notebook(cells):
    """A notebook of definition cells alone, as JSON."""
    tagged = []
    for number, cell in enumerate(cells):
        metadata = {"tags": ["definition"]}
        tagged.append(
            {
                "cell_type": "code",
                "id": f"c{number}",
                "metadata": metadata,
                "source": cell.source,
            }
        )
    return json.dumps({"cells": tagged}).encode()


def _student_facts(content):
    """Measurements of the values that a student's code reports; other values are dropped."""
    facts = parse_json(content, "what the definitions say")
    if not isinstance(facts, list):
        raise ArchiveError("what the definitions say is not a list of facts")
    source = "the student's definitions, as their own code reports"
    measurements = []
    for fact in facts:
        if not isinstance(fact, list) or len(fact) != 2:
            continue
        name = str(fact[0])
        value = fact[1]
        is_known = name in FACTS or name.startswith("layer_output/")
        if is_known and (is_number(value) or isinstance(value, str)):
            measurements.append(Measurement(name, value, source))
    return measurements


def _unshuffled(content, order):
    """Probabilities, float32 (N, 10), from bytes in the order `order`, a permutation (N,)."""
    if len(content) != 4 * 10 * len(order):
        raise ArchiveError(
            "the student's definitions did not give ten probabilities for each image"
        )
    shuffled = torch.frombuffer(bytearray(content), dtype=torch.float32).view(-1, 10)
    if not shuffled.isfinite().all():
        raise ArchiveError("the student's definitions gave probabilities that are not finite")
    values = torch.empty_like(shuffled)
    values[order] = shuffled
    return values


# ------------------------------------------------------------------------------------- accuracies


def stored_measurements(main, policy):
    """Measurements of the predictions that the main run has stored."""
    stored = main.predictions
    values = accuracies(
        main.folder,
        stored["predicted"],
        stored["predicted_with_mirrored"],
        stored["labels"],
        policy.images.classes,
    )
    return [Measurement(claim, value, "the stored predictions") for claim, value in values.items()]


def weight_measurements(run, probabilities, data, source, is_main, policy):
    """Measurements of the probabilities of the test views, (2N, 10), that a run's weights give."""
    plain, mirrored = probabilities.split(len(data.test_labels))
    classes = policy.images.classes if is_main else []
    values = accuracies(
        run.folder, plain.argmax(1), (plain + mirrored).argmax(1), data.test_labels, classes
    )
    official = policy.data["official"].fingerprint
    own_images = data.fingerprint == official == run.record.config.data
    return [
        Measurement(claim, value, source, other_images=not own_images)
        for claim, value in values.items()
    ]


def accuracies(run, predicted, with_mirrored, labels, classes):
    """What follows from predicted classes: claim -> value in per cent, of an interval in points.

    Args:
        run: the run's name.
        predicted: classes, a tensor (N,).
        with_mirrored: classes by flip test-time augmentation, a tensor (N,).
        labels: true classes, a tensor (N,).
        classes: names of classes for the main run, whose test accuracy and accuracy by class are
            computed as well; none for other runs.
    """
    values = {}
    for name, answers in (("accuracy", predicted), ("accuracy_with_tta", with_mirrored)):
        accuracy = 100 * (answers == labels).double().mean().item()
        values[f"{run}/{name}"] = accuracy
        if classes:
            values[f"test_{name}"] = accuracy
    if classes:
        values["test_accuracy_interval"] = run_statistics.accuracy_interval(
            values["test_accuracy"], len(labels)
        )
        confusion = run_statistics.confusion_matrix(predicted, labels, len(classes))
        for name, right, number in zip(classes, confusion.diagonal(), confusion.sum(1)):
            values[f"class_accuracy/{name}"] = float(100 * right / max(number, 1))
        _, _, share = run_statistics.most_confused(confusion)
        values["most_confused_share"] = float(share)
    return values
