"""Every run of the study: name, network, recipe and start. The notebook and `python -m study.train` share this list.

Groups are in the order in which a machine should train them. A run whose name ends in "-control" has a learning rate
of zero: the weights stand still, only the running statistics of the batch normalisation follow the same batches.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace

from study import networks
from study.course_network import CourseNetwork
from training import Recipe

FAST = Recipe(
    epochs=5,
    batch_size=512,
    optimizer="muon",
    learning_rate=0.02,
    schedule="linear",
    warmup=0.15,
    momentum=0.95,
    weight_decay=0.2,
    label_smoothing=0.1,
    augmentation="crop flip",
    pad_with="reflection",
    first_filters="whitening",
)
LONG = replace(FAST, epochs=80, learning_rate=0.005, augmentation="crop flip trivialaugment cutmix")
BASELINE = Recipe(normalisation="course")  # the course's training script, and the defaults: one epoch of Adam at 0.001
# Orders of the batches after a restart have seeds that no parent has: with the parent's own seed an epoch would repeat,
# image by image and crop by crop, batches that the parent was trained on, whose loss is lower.
FIRST_ORDER = 100
RESTART = replace(BASELINE, seed=FIRST_ORDER)  # one more epoch
HELD_OUT = 5_000  # training images on which trials are compared


@dataclass(frozen=True)
class Experiment:
    """One run of the study.

    `start` is the name of the run whose weights it starts from, "" for none. `snapshots` are the epochs after which the
    network is kept as a run of so many epochs, whose name ends in that number as this one's does in its own.
    """
    name: str
    network: Callable
    recipe: Recipe
    start: str = ""
    held_out: bool = False
    keep_image_losses: bool = False
    snapshots: tuple = ()


@dataclass(frozen=True)
class Plan:
    """How long the parents of one more epoch are trained, and how many there are.

    The learning rate is divided by three after every `step_epochs` epochs; `ages` are the epochs at which the network
    is kept as a parent, the last one is the end of the run.
    """
    step_epochs: int
    ages: tuple
    parents: int
    orders: int             # of the batches of one more epoch, from each parent
    ablation_seeds: int
    with_small_stem: bool   # 16 times the cost of the others


PLANS = {
    "gpu": Plan(
        step_epochs=20,
        ages=(20, 40, 60, 80, 120),
        parents=2,
        orders=3,
        ablation_seeds=5,
        with_small_stem=True,
    ),
    "cpu": Plan(
        step_epochs=8,
        ages=(8, 16, 24, 48),
        parents=1,
        orders=3,
        ablation_seeds=2,
        with_small_stem=False,
    ),
    "rehearsal": Plan(
        step_epochs=1,
        ages=(1, 2),
        parents=1,
        orders=2,
        ablation_seeds=1,
        with_small_stem=False,
    ),
}


def parent_name(seed, epochs):
    """The name of the parent with this seed after so many epochs of the baseline schedule."""
    return f"parent-{seed}-{epochs}"


def parents(plan, seed):
    """The course's network by the baseline schedule, with snapshots at the plan's ages."""
    recipe = replace(BASELINE, epochs=plan.ages[-1], schedule="step", step_epochs=plan.step_epochs, seed=seed)
    return [Experiment(parent_name(seed, plan.ages[-1]), CourseNetwork, recipe,
                       snapshots=plan.ages[:-1])]


def with_control(experiment):
    """An experiment and its control: the same batches from the same start at a learning rate of zero."""
    control = replace(experiment.recipe, learning_rate=0.0)
    return [experiment, replace(experiment, name=f"{experiment.name}-control", recipe=control)]


def replication(plan, seed):
    """The original's epoch: fresh Adam at 0.001 from the oldest parent, in several orders of the batches."""
    start = parent_name(seed, plan.ages[-1])
    pairs = []
    for order in range(plan.orders):
        recipe = replace(RESTART, seed=FIRST_ORDER + order)
        pairs.append(with_control(Experiment(f"restart-{seed}-{order}", CourseNetwork, recipe, start)))
    return [experiment for pair in pairs for experiment in pair]


def ages(plan):
    """The same epoch from younger parents, in one order of the batches."""
    pairs = [with_control(Experiment(f"age-{epochs}", CourseNetwork, RESTART, parent_name(0, epochs)))
             for epochs in plan.ages[:-1]]
    return [experiment for pair in pairs for experiment in pair]


def later_epochs(plan):
    """Five epochs after the restart."""
    return with_control(Experiment("five-epochs", CourseNetwork, replace(RESTART, epochs=5),
                                   parent_name(0, plan.ages[-1]), keep_image_losses=True))


def order_name(kind):
    """The name of the run with this kind of order of the images."""
    return f"order-{kind.replace(' ', '-')}"


def orders(plan, start=None, network=CourseNetwork, recipe=RESTART, prefix=""):
    """Two epochs from one start for each kind of order of the images."""
    start = start or parent_name(0, plan.ages[-1])
    pairs = [with_control(Experiment(prefix + order_name(kind), network, replace(recipe, epochs=2, order=kind), start,
                                     keep_image_losses=True)) for kind in Recipe.CHOICES["order"]]
    return [experiment for pair in pairs for experiment in pair]


def optimizers(plan):
    """The restart with one thing changed: β2, SGD, the rate, or Adam's moments filled before the first update."""
    changes = {
        "beta2-0.9": {"beta2": 0.9},
        "beta2-0.99": {"beta2": 0.99},
        "sgd": {"optimizer": "sgd", "learning_rate": 0.01},
        "rate-0.0001": {"learning_rate": 1e-4},
        "filled-moments": {"epochs": 2, "zero_rate_epochs": 1},
    }
    start = parent_name(0, plan.ages[-1])
    return [Experiment(name, CourseNetwork, replace(RESTART, **change), start)
            for name, change in changes.items()]


def from_long_recipe():
    """The same first epoch, three orders of the batches, from our own network's long recipe.

    The first order has the seed of its parent, whose batches were larger, mixed and changed more, 80 epochs before.
    """
    return [experiment for order in range(3)
            for experiment in with_control(Experiment(f"long-restart-{order}", networks.submission_network,
                                                      Recipe(seed=order), "long-0"))]


def orders_from_long_recipe(plan):
    """Two epochs for each kind of order from our own network's long recipe."""
    return orders(plan, "long-0", networks.submission_network, Recipe(seed=FIRST_ORDER), "long-")


def ablations(plan):
    """The fast recipe with one thing changed in network or recipe, some seeds each."""
    variants = {
        "no-shortcuts": (networks.without_shortcuts, {}),
        "no-zero-init": (networks.unscaled_branches, {}),
        "all-projections": (networks.projections_everywhere, {}),
        "adamw": (networks.submission_network, {"optimizer": "adamw", "learning_rate": 0.002}),
        "sgd": (networks.submission_network, {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4,
                                              "momentum": 0.9}),
        "random-stem": (networks.submission_network, {"first_filters": "random"}),
        "no-smoothing": (networks.submission_network, {"label_smoothing": 0.0}),
        "zero-padding": (networks.submission_network, {"pad_with": "zeros"}),
    }
    if plan.with_small_stem:
        variants["small-stem"] = (networks.small_stem, {})
    return [Experiment(f"ablation-{name}-{seed}", network, replace(FAST, seed=seed, **change))
            for seed in range(plan.ablation_seeds) for name, (network, change) in variants.items()]


def seeds(prefix, recipe, count):
    """One recipe with the seeds 0 to `count` - 1."""
    return [Experiment(f"{prefix}-{seed}", networks.submission_network, replace(recipe, seed=seed))
            for seed in range(count)]


def trials():
    """What the long recipe was chosen by: 60 epochs on 45,000 training images each."""
    base = replace(LONG, epochs=60, learning_rate=0.01)
    changes = {
        "base": {},
        "rate-0.005": {"learning_rate": 0.005},
        "decay-0.05": {"weight_decay": 0.05},
        "decay-0.5": {"weight_decay": 0.5},
        "no-smoothing": {"label_smoothing": 0.0},
        "rate-0.02-decay-0.1": {"learning_rate": 0.02, "weight_decay": 0.1},
    }
    return [Experiment(f"trial-{name}", networks.submission_network, replace(base, **change), held_out=True)
            for name, change in changes.items()]


def groups(plan):
    """All runs of the study in the order in which they should be trained: group -> list of Experiment."""
    found = {}
    for seed in range(plan.parents):
        found[f"parent-{seed}"] = parents(plan, seed)
        found[f"replication-{seed}"] = replication(plan, seed)
        if seed == 0:
            found["ages"] = ages(plan)
            found["orders"] = orders(plan)
    found["optimizers"] = optimizers(plan)
    found["later-epochs"] = later_epochs(plan)
    found["ablations"] = ablations(plan)
    found["fast"] = seeds("fast", FAST, 5)
    found["fast-gpu"] = seeds("fast-gpu", FAST, 5)  # the same on another machine
    found["long"] = seeds("long", LONG, 3)
    found["from-long"] = from_long_recipe()
    found["orders-from-long"] = orders_from_long_recipe(plan)
    found["trials"] = trials()
    return found


