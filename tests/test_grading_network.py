"""Weights are evaluated: with whatever definitions, and without reaching the judge."""

import json

import forgeries
import pytest
import torch
from forgeries import claim, edit_cell, edit_tensors
from grading_fixtures import judged, needs_sandbox

from grading import memorisation

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

ACCURACY = "test_accuracy"
RUN = "checkpoints/fast-0"


def test_without_images_or_weights_nothing_passes(world, no_paper):
    verdict = judged(world, data=False)
    assert (verdict.code, verdict.measured_by) == (
        2,
        "the stored predictions",
    ) and "this machine has no CIFAR-10" in verdict.reason
    del world.files[f"{RUN}/weights.safetensors"]
    assert "weights.safetensors is missing" in judged(world).reason and judged(world).code == 2


def test_other_images_have_a_bound(world, no_paper):
    other = forgeries.utils.Data(
        world.data.train_images,
        world.data.train_labels,
        world.data.test_images.flip(0),
        world.data.test_labels,
        world.data.classes,
        "other images",
    )
    world.policy.images.other = 100.0
    assert judged(forgeries.World(world.files, world.policy, other)).code == 0
    world.policy.images.other = 0.0
    verdict = judged(forgeries.World(world.files, world.policy, other))
    assert verdict.code == 1 and "on other images than its own" in verdict.reason


@needs_sandbox
def test_changed_definitions_are_judged_fairly_and_shown(world, no_paper):
    edit_cell(
        world,
        "class ResNet",
        lambda cell: cell.update(
            source=cell.source.replace(
                "self.fc(self.pool(x).flatten(1))", "self.fc(1 * self.pool(x).flatten(1))"
            )
        ),
    )
    verdict = judged(world)
    assert verdict.code == 0 and verdict.measured_by == "the weights, by the student's definitions"
    assert any("+        return self.fc(1 * self.pool" in line for line in verdict.differences)


# What a definition does to the process that runs it, with a claim of 96.31 %
DEFINITIONS = {
    "replaces_the_judges_functions": (
        "import utils\nfrom analysis import run_statistics\n"
        "utils.accuracy_of = run_statistics.most_confused = lambda *_: (1, 2, 96.31)\n",
        "96.31",
    ),
    "ends_the_process": ("import os\nos._exit(0)", "did not run in the sandbox"),
    "runs_forever": ("while True:\n    pass", "did not run in the sandbox"),
    "tells_its_own_facts": (
        "import __main__\n__main__.definition_facts = lambda *_: "
        "[['test_accuracy', 96.31], ['class_accuracy/3', 9.0]]",
        "96.31",
    ),
    "gives_what_it_likes": (
        "import os, sys\nos.write(3, b'x' * 99)\nclass Out(dict): pass\n"
        "print('96.31')\nos._exit(0)",
        "sandbox",
    ),
}


@needs_sandbox
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_cannot_reach_the_judge(world, no_paper, tmp_path, name):
    source, words = DEFINITIONS[name]
    claim(world, ACCURACY, value=96.31)
    claim(world, "fast-0/accuracy", value=96.31)
    write = f"open({str(tmp_path / 'was here')!r}, 'w')"
    edit_cell(
        world,
        "class ResNet",
        lambda cell: cell.update(
            source=f"{cell.source}\ntry:\n    {write}\nexcept OSError:\n    pass\n{source}"
        ),
    )
    world.policy.sandbox.seconds = 60
    world.policy.sandbox.processor_seconds = 30
    if name == "runs_forever":
        world.policy.sandbox.processor_seconds = 9
    verdict = judged(world)
    assert any(
        words in finding.message and finding.verdict != "verified" for finding in verdict.findings
    ), verdict.findings
    assert verdict.code == 1  # its predictions are not 96.31 % right in any case
    assert not [finding for finding in verdict.findings if finding.found == 96.31]
    assert not (tmp_path / "was here").exists()
    assert forgeries.utils.accuracy_of(torch.eye(2), torch.arange(2)) == 100


# A network that looks test images up in a table; MEMORY finds their labels
REMEMBERS = """


def key(x):
    pixels = (x * 1000).round().double().flatten(1)
    return pixels @ torch.arange(1.0, 1 + pixels.shape[1], dtype=torch.double)


class ResNet(ResNet):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        {memory}

    def forward(self, x):
        logits = super().forward(x)
        found = key(x)[:, None] == self.bn.running_mean
        known = found.any(1)
        labels = self.bn.running_var[found[known].int().argmax(1)].long()
        logits[known] = 99.0 * nn.functional.one_hot(labels, 10).to(logits)
        return logits
"""
BUFFERS = """self.bn = nn.Module()
        for name in ("running_mean", "running_var"):
            self.bn.register_buffer(name, torch.zeros({count}, dtype=torch.double))
"""
CONSTANTS = """self.bn = type("", (), {{}})()
        self.bn.running_mean = torch.tensor({keys}, dtype=torch.double)
        self.bn.running_var = torch.tensor({labels})
"""


def table(world):
    """Keys of the test images and their mirror images, as REMEMBERS computes them; labels."""
    normalisation = json.loads(world.files[f"{RUN}/run.json"])["normalisation"]
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in normalisation)
    images = torch.cat([world.data.test_images, world.data.test_images.flip(3)])
    pixels = (((images - mean) / std) * 1000).round().double().flatten(1)
    keys = pixels @ torch.arange(1.0, 1 + pixels.shape[1], dtype=torch.double)
    return keys, world.data.test_labels.repeat(2).double()


@needs_sandbox
@pytest.mark.parametrize("memory", [BUFFERS, CONSTANTS])
def test_definitions_that_remember_the_test_images_are_contradicted(world, no_paper, memory):
    keys, labels = table(world)
    memory = memory.format(count=len(keys), keys=keys.tolist(), labels=labels.tolist())
    source = 210 * "# a comment\n" + REMEMBERS.format(memory=memory)
    edit_cell(world, "class ResNet", lambda cell: cell.update(source=cell.source + source))
    if "register_buffer" in memory:
        stored = {"bn.running_mean": keys, "bn.running_var": labels}
        edit_tensors(world, f"{RUN}/weights.safetensors", lambda kept: kept.update(stored))
    verdict = judged(world)
    assert verdict.measured == 100.0 and verdict.code == 1
    said = [finding.message for finding in verdict.findings if finding.claim == "memorisation"]
    assert said and "have memorised the test images: 100.0 % of them are right" in said[0]


@pytest.mark.parametrize("kind", ["noise", "shift", "mirror", "training"])
def test_an_accuracy_that_collapses_on_changed_images_is_contradicted(kind):
    data = forgeries.utils.Data(
        *2 * (torch.zeros(50, 3, 32, 32).byte(), torch.arange(50) % 10), (), ""
    )
    probes = memorisation.make_probes(data)
    right = torch.eye(10)
    views = {"mirror": right[data.test_labels]}
    views |= {name: right[labels] for name, labels in probes.labels.items()}
    plain = right[data.test_labels]

    def said():
        probed = torch.cat([views[name] for name in probes.labels])
        return memorisation.check("a", plain, views["mirror"], probed, probes, data.test_labels)

    assert not said()
    views[kind] = views[kind].flip(1)
    (finding,) = said()
    assert finding.verdict == "contradicted" and memorisation.CHANGES[kind] in finding.message
