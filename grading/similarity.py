"""Compares submissions with each other, and reports what two share beyond the assignment itself.

It is a reason to ask, never a verdict. Two honest students share the assignment's cells, and with
the same seed on the same kind of device even every loss and weight.
"""

import hashlib
import io
import itertools
import keyword
import tokenize
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from grading.findings import join_names

WINDOW = 25  # tokens of code that are compared at a time
MOST_CODE = 400_000  # characters of a submission's code that are compared
COMMON = 1 / 3  # share of a course that has the same code, above which it is nobody's own
LEAST_COMMON = 4  # submissions that may share code in any course
SKETCH = 65_536  # values of the weights that are compared
IGNORED_TOKENS = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
SUFFIX = ".work"  # of the file beside a stored verdict
NOTHING = torch.zeros(0)
HONESTLY = (
    "honest students get equal runs from the same notebook, seed and kind of device: ask all of "
    "them; equal runs are no proof of copying"
)
PRACTICALLY_SAME = 0.99999  # cosine


@dataclass(frozen=True)
class Work:
    """What of a submission is compared.

    Attributes:
        weights: a sketch of the main run's weights, see `sketch_weights`.
        shapes: what networks have to share for their weights to be compared, int64 (8,).
        predicted: classes predicted of the test images by the main run, uint8 (N,).
        labels: their true classes, uint8 (N,).
        losses: the loss of each step of the main run, float64.
        code: hashes of code that is not the template's, int64, see `code_fingerprints`.
    """

    weights: torch.Tensor = NOTHING
    shapes: torch.Tensor = NOTHING
    predicted: torch.Tensor = NOTHING
    labels: torch.Tensor = NOTHING
    losses: torch.Tensor = NOTHING
    code: torch.Tensor = NOTHING


# ---------------------------------------------------------------------- what judging leaves behind


def collect_work(weights, run, sources, template_sources):
    """The Work of a submission.

    Args:
        weights: the tensors of the main run by name, {} if they were not handed in.
        run: the main run, a training.Run, or None.
        sources: the sources of its code cells and modules, a list of strings.
        template_sources: the same of this copy.
    """
    sketch, shapes = sketch_weights(weights)
    own = code_fingerprints(sources) - code_fingerprints(template_sources)
    code = torch.tensor(sorted(own), dtype=torch.int64)
    if run is None:
        return Work(sketch, shapes, code=code)
    losses = torch.tensor(np.asarray(run.losses), dtype=torch.float64)
    stored = run.predictions
    return Work(sketch, shapes, stored["predicted"], stored["labels"], losses, code)


def sketch_weights(weights):
    """SKETCH values of a network's weights, float16, evenly taken, and a hash of their shapes.

    Filters and matrices count alone: the vectors of batch normalisation are nearly the same in
    all networks. Each is divided by its root mean square, so that scaling one does not hide the
    others. Both tensors are empty without weights.
    """
    flat = []
    shapes = []
    for _, value in sorted(weights.items()):  # safetensors gives them in any order
        if value.ndim < 2 or not value.numel():
            continue
        one = value.float().flatten()
        flat.append(one / one.square().mean().sqrt().clamp(min=1e-12))
        shapes.append(tuple(value.shape))
    if not flat:
        return NOTHING, NOTHING
    values = torch.cat(flat)
    if len(values) > SKETCH:
        values = values[torch.arange(SKETCH) * len(values) // SKETCH]
    digest = hashlib.sha256(repr(shapes).encode()).digest()
    return values.half(), torch.frombuffer(bytearray(digest), dtype=torch.int64)


def write_work(file, work):
    """Write a Work to a safetensors file."""
    tensors = {name: value.contiguous() for name, value in vars(work).items()}
    Path(file).write_bytes(save(tensors))


def read_work(file):
    """The Work in a safetensors file, or None if there is none or it is damaged."""
    try:
        return Work(**load(Path(file).read_bytes()))
    except (OSError, SafetensorError, TypeError, ValueError):
        return None


def code_fingerprints(sources):
    """Hashes of every run of WINDOW tokens in sources of Python: a set of whole numbers.

    Names, comments and layout do not count, so that renamed variables are still recognised. A
    source that is no Python counts as far as it can be read.
    """
    found = set()
    left = MOST_CODE
    for source in sources:
        tokens = plain_tokens(source[:left])
        left -= len(source[:left])
        for start in range(len(tokens) - WINDOW + 1):
            text = " ".join(tokens[start : start + WINDOW])
            digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
            found.add(int.from_bytes(digest, "little", signed=True))
    return found


def plain_tokens(source):
    """The tokens of Python source as strings; every name that is no keyword is the letter v."""
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in IGNORED_TOKENS:
                continue
            is_own_name = token.type == tokenize.NAME and not is_keyword(token.string)
            tokens.append("v" if is_own_name else token.string)
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass  # what was read so far is compared
    return tokens


def is_keyword(name):
    """Whether a name is Python's own."""
    return keyword.iskeyword(name) or keyword.issoftkeyword(name)


# -------------------------------------------------------------------------------------- comparing


def weight_cosine(work, other):
    """The cosine of two networks' weights by their sketches, None for networks of other shapes."""
    if not len(work.weights) or not torch.equal(work.shapes, other.shapes):
        return None
    one = work.weights.float()
    two = other.weights.float()
    if one.shape != two.shape:
        return None
    length = (one.norm() * two.norm()).item()
    if not length:
        return None
    return (one @ two).item() / length


def shared_mistakes(work, other):
    """The share taken for the same class, of the test images that both get wrong; their number.

    Two seeds of the assignment's recipe share 0.75 to 0.77 of some 1,200 images, the same seed on
    two kinds of device 0.78 to 0.80.
    """
    if work.predicted.shape != other.predicted.shape or not len(work.predicted):
        return 0.0, 0
    both_wrong = (work.predicted != work.labels) & (other.predicted != work.labels)
    number = int(both_wrong.sum())
    if not number:
        return 0.0, 0
    same = (work.predicted == other.predicted)[both_wrong]
    return same.double().mean().item(), number


def equal_start(work, other):
    """How many losses two runs have in common from their first step on."""
    steps = min(len(work.losses), len(other.losses))
    different = (work.losses[:steps] != other.losses[:steps]).nonzero()
    if len(different):
        return int(different[0])
    return steps


def shared_code(work, other):
    """The share of the smaller one's own code that the other has as well, and its size."""
    smaller = min(len(work.code), len(other.code))
    if not smaller:
        return 0.0, 0
    return torch.isin(work.code, other.code).sum().item() / smaller, smaller


def without_common_code(works):
    """Works without code that many of a course have: it was handed out, or shown in class.

    Args:
        works: name -> Work.
    """
    most = max(LEAST_COMMON, COMMON * len(works))
    codes = [work.code for work in works.values() if len(work.code)]
    if len(codes) <= most:
        return works
    values, counts = torch.cat(codes).unique(return_counts=True)
    common = values[counts > most]
    return {
        name: replace(work, code=work.code[~torch.isin(work.code, common)])
        for name, work in works.items()
    }


def find_shared_runs(work, other, bounds):
    """What two submissions' main runs share beyond the policy's Similarity: a list of phrases."""
    phrases = []
    cosine = weight_cosine(work, other)
    if cosine is not None and cosine >= bounds.weight_cosine:
        if cosine > PRACTICALLY_SAME:
            phrases.append("the weights are the same, or differ by next to nothing")
        else:
            phrases.append(f"the weights are nearly the same (cosine {cosine:.5f})")
    share, number = shared_mistakes(work, other)
    if number and share >= bounds.shared_mistakes:
        phrases.append(
            f"of {number:,} test images that both get wrong, {100 * share:.0f} % are taken for the "
            "same class"
        )
    steps = equal_start(work, other)
    if steps >= bounds.equal_losses:
        phrases.append(f"the losses of the first {steps:,} steps are the same")
    return phrases


def compare_code(work, other, bounds):
    """What two submissions' own code shares beyond the policy's bounds: a list of phrases."""
    share, size = shared_code(work, other)
    if size < bounds.code_size or share < bounds.shared_code:
        return []
    return [f"{100 * share:.0f} % of the code that is not the assignment's is the same"]


def find_similar(works, bounds, stored=None, reported=()):
    """What submissions share: name -> sentences on each, and a list of (names, what they share).

    Args:
        works: name -> Work.
        bounds: the policy's Similarity.
        stored: the Work of the run that this project itself has stored, or None. Submissions that
            hand it in get one sentence on it; their runs are not compared with each other.
        reported: names of submissions of which another finding says that they hand it in.
    """
    works = without_common_code(works)
    with_stored = {}
    if stored is not None:
        for name, work in works.items():
            with_stored[name] = find_shared_runs(work, stored, bounds)
    groups = []
    sentences = {name: [] for name in works}
    for name, shared in compare_all(works, with_stored, bounds).items():
        if with_stored.get(name) and name not in reported:
            text = ", and ".join(with_stored[name])
            sentences[name].append(
                f"its run is also the one that this project has stored ({text}): ask whether the "
                "notebook trained it or loaded it"
            )
        for text, names in shared.items():
            sentences[name].append(f"shared with {join_names(names)}: {text}; {HONESTLY}")
            group = (tuple(sorted([name, *names])), text)
            if group not in groups:
                groups.append(group)
    return sentences, groups


def compare_all(works, with_stored, bounds):
    """What each submission shares with others: name -> what is shared, a text -> names.

    Args:
        works: name -> Work.
        with_stored: name -> what its run shares with the project's stored one, a list of phrases.
            The runs of two submissions that share something with it are not compared.
        bounds: the policy's Similarity.
    """
    others_of = {name: {} for name in works}
    for (name, work), (other, other_work) in itertools.combinations(works.items(), 2):
        phrases = compare_code(work, other_work, bounds)
        if not (with_stored.get(name) and with_stored.get(other)):
            phrases = find_shared_runs(work, other_work, bounds) + phrases
        if phrases:
            text = ", and ".join(phrases)
            others_of[name].setdefault(text, []).append(other)
            others_of[other].setdefault(text, []).append(name)
    return others_of
