"""Who worked with whom: what two submissions share beyond what they share honestly.

A reason to ask, never a verdict.

Two honest students share the assignment's cells, and with the same seed on the same kind of device
even every loss.
"""

import hashlib
import io
import keyword
import tokenize
from dataclasses import dataclass

import torch

WINDOW = 25  # tokens of code that are compared at a time
IGNORED_TOKENS = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


@dataclass(frozen=True)
class Work:
    """What of a submission is compared.

    Weights (name -> tensor), the classes predicted of the test images and their labels (uint8,
    (N,)), the loss of each step (a list), fingerprints of its own code (a set, see
    `code_fingerprints`).
    """

    name: str
    weights: dict
    predicted: torch.Tensor | None
    labels: torch.Tensor | None
    losses: tuple
    code: frozenset


def weight_cosine(weights, others):
    """Return the cosine of two networks' weights, or None for networks of other shapes.

    Weights are dicts name -> tensor. Filters and matrices count alone: the vectors of a batch
    normalization are nearly the same in all networks.
    """
    shapes = {name: value.shape for name, value in weights.items()}
    if not shapes or shapes != {name: value.shape for name, value in others.items()}:
        return None
    product = 0.0
    square = 0.0
    other_square = 0.0
    for name, value in weights.items():
        if value.ndim < 2:
            continue
        one = value.double().flatten()
        two = others[name].double().flatten()
        product += float(one @ two)
        square += float(one @ one)
        other_square += float(two @ two)
    if square == 0 or other_square == 0:
        return None
    return product / (square * other_square) ** 0.5


def shared_mistakes(predicted, others, labels):
    """Of the test images that both networks take for a wrong class.

    The share taken for the same one, and their number.

    `predicted`, `others` and `labels` are uint8 tensors (N,). Two seeds of the assignment's recipe
    share 0.75 to 0.77 of some 1,200 images, the same seed on two kinds of device 0.78 to 0.80.
    """
    both_wrong = (predicted != labels) & (others != labels)
    number = int(both_wrong.sum())
    if not number:
        return 0.0, 0
    same = (predicted == others)[both_wrong]
    return same.double().mean().item(), number


def equal_start(losses, others):
    """How many losses two runs have in common from their first step on."""
    number = 0
    for one, two in zip(losses, others):
        if one != two:
            break
        number += 1
    return number


def code_fingerprints(sources):
    """Hashes of every run of WINDOW tokens in the sources of code cells: a set.

    Names, comments and layout do not count, so that renamed variables are still recognised. A
    source that is no Python counts as far as it can be read.
    """
    found = set()
    for source in sources:
        tokens = plain_tokens(source)
        for start in range(len(tokens) - WINDOW + 1):
            text = " ".join(tokens[start : start + WINDOW])
            found.add(hashlib.sha256(text.encode()).hexdigest()[:16])
    return frozenset(found)


def plain_tokens(source):
    """The tokens of Python source with every name that is no keyword replaced by one letter.

    A list of strings.
    """
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in IGNORED_TOKENS:
                continue
            is_own_name = token.type == tokenize.NAME and not is_keyword(token.string)
            tokens.append("v" if is_own_name else token.string)
    except (tokenize.TokenError, SyntaxError, IndentationError):
        pass  # what was read so far is compared
    return tokens


def is_keyword(name):
    """Whether a name is Python's own."""
    return keyword.iskeyword(name) or keyword.issoftkeyword(name)


def shared_code(code, others, template):
    """The share of the smaller one's own code that the other has as well.

    And its number of fingerprints.

    Own is what the template does not have.
    """
    own = code - template
    others_own = others - template
    smaller = min(len(own), len(others_own))
    if not smaller:
        return 0.0, 0
    return len(own & others_own) / smaller, smaller


def compare(work, other, template, bounds):
    """What two submissions share beyond the policy's `bounds`.

    A list of sentences for the person who asks.

    `bounds` has weight_cosine, shared_mistakes (a share), equal_losses (a number of steps),
    shared_code (a share) and code_size (the least number of fingerprints for which code is
    compared). `template` are its fingerprints.
    """
    sentences = []
    cosine = weight_cosine(work.weights, other.weights)
    if cosine is not None and cosine >= bounds["weight_cosine"]:
        equal = all(torch.equal(value, other.weights[name]) for name, value in work.weights.items())
        if equal:
            sentences.append("its weights are the same")
        else:
            sentences.append(f"its weights are nearly the same (cosine {cosine:.5f})")
    if (
        work.predicted is not None
        and other.predicted is not None
        and work.predicted.shape == other.predicted.shape
    ):
        share, number = shared_mistakes(work.predicted, other.predicted, work.labels)
        if number and share >= bounds["shared_mistakes"]:
            sentences.append(
                f"of {number:,} test images that both get wrong, {100 * share:.0f} % are taken for "
                "the same class"
            )
    steps = equal_start(work.losses, other.losses)
    if steps >= bounds["equal_losses"]:
        sentences.append(f"the losses of its first {steps:,} steps are the same")
    share, size = shared_code(work.code, other.code, template)
    if size >= bounds["code_size"] and share >= bounds["shared_code"]:
        sentences.append(
            f"{100 * share:.0f} % of the code that is not the assignment's is the same"
        )
    return sentences
