"""What two submissions share: copies are noticed, and honest likeness is not."""

import pytest
import torch
from helpers import ROOT, tiny

import training
from grading.similarity import (
    Work,
    code_fingerprints,
    compare,
    equal_start,
    shared_code,
    shared_mistakes,
    weight_cosine,
)

BOUNDS = {
    "weight_cosine": 0.99,
    "shared_mistakes": 0.9,
    "equal_losses": 50,
    "shared_code": 0.5,
    "code_size": 20,
}
OWN = """
def smooth(values, width):
    total = 0
    means = []
    for index, value in enumerate(values):
        total += value
        if index >= width:
            total -= values[index - width]
        means.append(total / min(index + 1, width))
    return means
"""


def stored(name):
    return training.load_run(ROOT / "checkpoints" / "study" / name)


def weights_of(seed):
    return {name: value.clone() for name, value in tiny(seed).state_dict().items()}


def test_noise_does_not_hide_copied_weights():
    weights = weights_of(0)
    noisy = {}
    for name, value in weights.items():
        noisy[name] = value + 0.01 * value.double().std(correction=0) * torch.randn(value.shape)
    assert weight_cosine(weights, noisy) > 0.99
    stranger = {name: torch.randn(value.shape) for name, value in weights.items()}
    assert weight_cosine(weights, stranger) < 0.5
    assert weight_cosine(weights, {}) is None and weight_cosine({}, {}) is None


@pytest.mark.parametrize("other", ["fast-1", "fast-2", "fast-gpu-0"])
def test_two_honest_networks_share_fewer_mistakes_than_the_bound(other):
    """Also those of one seed, trained on two kinds of device."""
    one = stored("fast-0").predictions
    two = stored(other).predictions
    share, number = shared_mistakes(one["predicted"], two["predicted"], one["labels"])
    assert number > 1_000 and 0.7 < share < BOUNDS["shared_mistakes"]
    copied = one["predicted"].clone()
    copied[:100] = 0
    assert shared_mistakes(one["predicted"], copied, one["labels"])[0] > BOUNDS["shared_mistakes"]


def test_equal_losses_count_from_the_start():
    assert equal_start([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]) == 2
    assert equal_start([1.0], []) == 0
    assert equal_start(stored("fast-0").losses, stored("fast-1").losses) == 0


def test_renamed_variables_are_the_same_code_and_the_template_is_nobodys():
    renamed = OWN.replace("total", "s").replace("means", "out").replace("values", "xs")
    code = code_fingerprints([OWN])
    assert shared_code(code, code_fingerprints([f"# mine\n{renamed}"]), set()) == (1.0, len(code))
    assert shared_code(code, code, code) == (0.0, 0)
    other = OWN.replace("+=", "-=").replace("for index", "while not index")
    assert shared_code(code, code_fingerprints([other]), set())[0] < 0.5
    assert code_fingerprints(["x = (", "1 +"]) == frozenset()


def work(name, seed=0, code=()):
    run = stored(name)
    return Work(
        name,
        weights_of(seed),
        run.predictions["predicted"],
        run.predictions["labels"],
        tuple(run.losses),
        code_fingerprints(code),
    )


def test_copies_are_named_and_strangers_are_not():
    copy = compare(work("fast-0", code=[OWN]), work("fast-0", code=[OWN]), frozenset(), BOUNDS)
    assert [sentence.split(" are ")[0].split(" is ")[0] for sentence in copy] == [
        "its weights",
        copy[1].split(" are ")[0],
        "the losses of its first 485 steps",
        "100 % of the code that",
    ]
    assert not compare(work("fast-0"), work("fast-1", seed=1), frozenset(), BOUNDS)
