"""Weights are evaluated: with whatever definitions, and without reaching the judge."""

import forgeries
import pytest
import torch
from forgeries import claim, edit_cell
from grading_fixtures import judged, needs_sandbox

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

ACCURACY = "test_accuracy"
RUN = "checkpoints/fast-0"


def test_without_images_or_weights_nothing_passes(world, no_paper):
    verdict = judged(world, data=False)
    assert (verdict.code, verdict.measured_by) == (
        2,
        "its predictions",
    ) and "no CIFAR-10 here" in verdict.reason
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
        words in finding.message and finding.verdict != "holds" for finding in verdict.findings
    ), verdict.findings
    assert verdict.code == 1  # its predictions are not 96.31 % right in any case
    assert not [finding for finding in verdict.findings if finding.found == 96.31]
    assert not (tmp_path / "was here").exists()
    assert forgeries.utils.accuracy_of(torch.eye(2), torch.arange(2)) == 100
