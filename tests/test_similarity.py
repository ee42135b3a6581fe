"""What two submissions share: copies are noticed, and honest likeness is not."""

from dataclasses import replace

import pytest
import torch
from helpers import POLICY, ROOT, tiny

import training
from grading.similarity import (
    HONESTLY,
    Work,
    code_fingerprints,
    collect_work,
    equal_start,
    find_similar,
    read_work,
    shared_code,
    shared_mistakes,
    weight_cosine,
    without_common_code,
    write_work,
)

BOUNDS = replace(POLICY.similarity, code_size=20)
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


def work(name="", weights=None, code=(), template=()):
    run = stored(name) if name else None
    return collect_work(weights or {}, run, code, template)


def test_noise_one_bit_and_scaling_do_not_hide_copied_weights():
    weights = weights_of(0)
    original = work(weights=weights)
    noisy = {}
    for name, value in weights.items():
        noisy[name] = value + 0.1 * value.double().std(correction=0) * torch.randn(value.shape)
    assert weight_cosine(original, work(weights=noisy)) > 0.99
    bit = weights_of(0)
    bit["0.weight"].view(torch.int32)[0, 0, 0, 0] ^= 1
    assert weight_cosine(original, work(weights=bit)) > 0.99999
    scaled = weights_of(0)
    scaled["0.weight"] *= 10  # the batch norm behind it undoes this
    assert weight_cosine(original, work(weights=scaled)) > 0.99999
    stranger = {name: torch.randn(value.shape) for name, value in weights.items()}
    assert weight_cosine(original, work(weights=stranger)) < 0.5
    wider = {name: torch.cat([value, value]) for name, value in weights.items() if value.ndim}
    assert weight_cosine(original, work(weights=wider)) is None
    assert weight_cosine(original, Work()) is None and weight_cosine(Work(), Work()) is None


def test_the_order_of_tensors_in_a_file_does_not_matter():
    weights = weights_of(0)
    turned = dict(reversed(weights.items()))
    assert weight_cosine(work(weights=weights), work(weights=turned)) > 0.99999


def test_a_large_network_leaves_a_small_sketch():
    large = {"a": torch.randn(1000, 1000), "b": torch.randn(10)}
    assert work(weights=large).weights.shape == (65_536,)


@pytest.mark.parametrize("other", ["fast-1", "fast-2", "fast-gpu-0"])
def test_two_honest_networks_share_fewer_mistakes_than_the_bound(other):
    """Also those of one seed, trained on two kinds of device."""
    one = work("fast-0")
    share, number = shared_mistakes(one, work(other))
    assert number > 1_000 and 0.7 < share < BOUNDS.shared_mistakes
    copied = one.predicted.clone()
    copied[:100] = 0
    assert shared_mistakes(one, replace(one, predicted=copied))[0] > BOUNDS.shared_mistakes
    assert shared_mistakes(one, Work()) == (0, 0)


def test_equal_losses_count_from_the_start():
    one = Work(losses=torch.tensor([1.0, 2.0, 3.0]))
    assert equal_start(one, Work(losses=torch.tensor([1.0, 2.0, 4.0]))) == 2
    assert equal_start(one, Work()) == 0 and equal_start(one, one) == 3
    assert equal_start(work("fast-0"), work("fast-1")) == 0


def test_renamed_variables_are_the_same_code_and_the_template_is_nobodys():
    renamed = OWN.replace("total", "s").replace("means", "out").replace("values", "xs")
    mine = work(code=[OWN])
    assert shared_code(mine, work(code=[f"# mine\n{renamed}"])) == (1.0, len(mine.code))
    assert shared_code(mine, work(code=[OWN], template=[OWN])) == (0.0, 0)
    other = OWN.replace("+=", "-=").replace("for index", "while not index")
    assert shared_code(mine, work(code=[other]))[0] < 0.5
    assert code_fingerprints(["x = (", "1 +", "\0", "!pip install x"]) == set()


def test_code_that_a_third_of_a_course_has_is_nobodys():
    few = {str(number): work(code=[OWN]) for number in range(4)}
    assert all(len(work.code) for work in without_common_code(few).values())
    many = {str(number): work(code=[OWN]) for number in range(6)}
    assert not any(len(work.code) for work in without_common_code(many).values())


def test_copies_are_named_and_strangers_are_not():
    copy = work("fast-0", weights_of(0), [OWN])
    works = {"a": copy, "b": copy, "c": work("fast-1", weights_of(1))}
    found, groups = find_similar(works, BOUNDS)
    assert [names for names, _ in groups] == [("a", "b")] and groups[0][1] in found["a"][0]
    assert found["c"] == [] and len(found["a"]) == 1
    for words in (
        "shared with b: the weights are the same",
        "test images that both get wrong, 100 % are taken for the same class",
        "the losses of the first 485 steps are the same",
        "100 % of the code that is not the assignment's is the same",
        HONESTLY,
    ):
        assert words in found["a"][0]


def test_the_projects_own_run_is_named_once_and_makes_no_pairs():
    ours = work("fast-0", weights_of(0))
    found, groups = find_similar({"a": ours, "b": ours}, BOUNDS, ours)
    assert not groups
    for sentences in found.values():
        assert len(sentences) == 1 and "also the one that this project has stored" in sentences[0]
    assert find_similar({"a": ours}, BOUNDS, work("fast-1", weights_of(1))) == ({"a": []}, [])


def test_works_are_stored_and_damaged_files_are_none(tmp_path):
    file = tmp_path / "a.work"
    assert read_work(file) is None
    original = work("fast-0", weights_of(0), [OWN])
    write_work(file, original)
    again = read_work(file)
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(original).items())
    assert file.stat().st_size < 400_000
    file.write_bytes(b"x" * 100)
    assert read_work(file) is None
