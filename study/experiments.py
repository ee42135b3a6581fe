"""The list of all runs of the study, for the notebook and `python -m study.train`.

Groups are in the order in which a machine should train them. A run whose name ends in "-control"
has a learning rate of zero: its weights do not change, only the running statistics of its batch
normalisation follow the same batches.
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
# The course's recipe; with the defaults of Recipe it is one epoch of Adam at 0.001.
BASELINE = Recipe(normalisation="course")
# Orders of the batches after a restart have seeds that no parent has. With the parent's own seed an
# epoch would repeat, image by image and crop by crop, batches that the parent was trained on, whose
# loss is lower.
FIRST_ORDER = 100
RESTART = replace(BASELINE, seed=FIRST_ORDER)  # one more epoch
# The course trains its network by the baseline with step decay.
LONG_PARENT = replace(BASELINE, schedule="step", step_epochs=20)
# Its network trained to a low loss in an eighth of these epochs, for a machine on which an epoch
# takes minutes.
SHORT_PARENT = replace(
    BASELINE,
    batch_size=512,
    optimizer="muon",
    learning_rate=0.02,
    schedule="linear",
    warmup=0.15,
    momentum=0.95,
    weight_decay=0.1,
)
HELD_OUT = 5_000  # training images on which trials are compared


@dataclass(frozen=True)
class Experiment:
    """One run of the study.

    `network` is a function that makes the network; `start` the name of the run whose weights it
    starts from, "" for none. With `held_out`, training leaves out the images held out. `snapshots`
    are the epochs after which the network is kept as a run of so many epochs: its name ends in that
    number where this one's ends in its own.
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
    """How the parents of one more epoch are trained, how long, and how many there are.

    `ages` are the epochs at which the network is kept as a parent; the last one is the end of the
    run.
    """

    parent_recipe: Recipe
    ages: tuple
    parents: int
    orders: int             # of the batches of one more epoch, from each parent
    ablation_seeds: int
    with_small_stem: bool   # 16 times the cost of the others


PLANS = {
    "gpu": Plan(
        parent_recipe=LONG_PARENT,
        ages=(20, 40, 60, 80, 120),
        parents=2,
        orders=3,
        ablation_seeds=5,
        with_small_stem=True,
    ),
    "cpu": Plan(
        parent_recipe=SHORT_PARENT,
        ages=(16,),  # before the end, the learning rate is too high for a parent like the course's
        parents=1,
        orders=3,
        ablation_seeds=2,
        with_small_stem=False,
    ),
    "rehearsal": Plan(
        parent_recipe=replace(LONG_PARENT, step_epochs=1),
        ages=(1, 2),
        parents=1,
        orders=2,
        ablation_seeds=1,
        with_small_stem=False,
    ),
}
# The plan of the stored runs, which the notebook shows.
STORED_PLAN = "cpu"


def parent_name(seed, epochs):
    """Return the name of the parent with this seed after so many epochs."""
    return f"parent-{seed}-{epochs}"


def parents(plan, seed):
    """List the course's network by the plan's recipe, with snapshots at all ages."""
    *snapshots, epochs = plan.ages
    recipe = replace(plan.parent_recipe, epochs=epochs, seed=seed)
    name = parent_name(seed, epochs)
    return [Experiment(name, CourseNetwork, recipe, snapshots=tuple(snapshots))]


def with_control(experiment):
    """List an experiment and its control: same batches and start, a learning rate of zero."""
    recipe = replace(experiment.recipe, learning_rate=0.0)
    control = replace(experiment, name=f"{experiment.name}-control", recipe=recipe)
    return [experiment, control]


def replication(plan, seed):
    """List the original's epoch from the oldest parent, in several orders of the batches."""
    start = parent_name(seed, plan.ages[-1])
    experiments = []
    for order in range(plan.orders):
        recipe = replace(RESTART, seed=FIRST_ORDER + order)
        experiment = Experiment(f"restart-{seed}-{order}", CourseNetwork, recipe, start)
        experiments += with_control(experiment)
    return experiments


def ages(plan):
    """List the same epoch from younger parents, in one order of the batches."""
    experiments = []
    for epochs in plan.ages[:-1]:
        start = parent_name(0, epochs)
        experiments += with_control(Experiment(f"age-{epochs}", CourseNetwork, RESTART, start))
    return experiments


def later_epochs(plan):
    """List five epochs after the restart."""
    recipe = replace(RESTART, epochs=5)
    start = parent_name(0, plan.ages[-1])
    experiment = Experiment("five-epochs", CourseNetwork, recipe, start, keep_image_losses=True)
    return with_control(experiment)


def order_name(kind):
    """Return the name of the run with this kind of order of the images."""
    return f"order-{kind.replace(' ', '-')}"


def orders(plan):
    """List two epochs from the oldest parent for each kind of order of the images but one.

    New permutations have no run of their own here: `later_epochs` begins with these two epochs.
    """
    kinds = [kind for kind in Recipe.CHOICES["order"] if kind != RESTART.order]
    return all_orders(kinds, parent_name(0, plan.ages[-1]), CourseNetwork, RESTART)


def all_orders(kinds, start, network, recipe, prefix=""):
    """List two epochs from the run `start` for each of some kinds of order of the images.

    `prefix` starts the names of the runs.
    """
    experiments = []
    for kind in kinds:
        name = prefix + order_name(kind)
        two_epochs = replace(recipe, epochs=2, order=kind)
        experiment = Experiment(name, network, two_epochs, start, keep_image_losses=True)
        experiments += with_control(experiment)
    return experiments


def optimizers(plan):
    """List the restart with one thing changed.

    That is β2, SGD instead of Adam (at a rate of its own), the learning rate, or one epoch at a
    rate of zero before the first update, which fills Adam's moments. β2 is changed in all orders of
    the batches, the others in one.
    """
    start = parent_name(0, plan.ages[-1])
    experiments = []
    for beta2 in (0.9, 0.99):
        for order in range(plan.orders):
            recipe = replace(RESTART, seed=FIRST_ORDER + order, beta2=beta2)
            experiments.append(Experiment(f"beta2-{beta2}-{order}", CourseNetwork, recipe, start))
    changes = {
        "sgd": {"optimizer": "sgd", "learning_rate": 0.01},
        "rate-0.0001": {"learning_rate": 1e-4},
        "filled-moments": {"epochs": 2, "zero_rate_epochs": 1},
    }
    for name, change in changes.items():
        experiments.append(Experiment(name, CourseNetwork, replace(RESTART, **change), start))
    return experiments


def from_long_recipe():
    """List the original's epoch from our network of the long recipe, in three orders.

    The first order has the seed of its parent, whose batches were larger, mixed and changed more,
    80 epochs before.
    """
    experiments = []
    for order in range(3):
        name = f"long-restart-{order}"
        recipe = Recipe(seed=order)
        experiments += with_control(
            Experiment(name, networks.submission_network, recipe, "long-0")
        )
    return experiments


def orders_from_long_recipe():
    """List two epochs from our network of the long recipe for each kind of order of the images."""
    recipe = Recipe(seed=FIRST_ORDER)
    kinds = Recipe.CHOICES["order"]
    return all_orders(kinds, "long-0", networks.submission_network, recipe, prefix="long-")


def ablations(plan):
    """List the fast recipe with one thing changed in network or recipe, some seeds each."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
    variants = {
        "no-shortcuts": (networks.without_shortcuts, {}),
        "no-zero-init": (networks.unscaled_branches, {}),
        "all-projections": (networks.projections_everywhere, {}),
        "adamw": (networks.submission_network, {"optimizer": "adamw", "learning_rate": 0.002}),
        "sgd": (networks.submission_network, sgd),
        "random-stem": (networks.submission_network, {"first_filters": "random"}),
        "no-smoothing": (networks.submission_network, {"label_smoothing": 0.0}),
        "zero-padding": (networks.submission_network, {"pad_with": "zeros"}),
    }
    if plan.with_small_stem:
        variants["small-stem"] = (networks.small_stem, {})
    experiments = []
    for seed in range(plan.ablation_seeds):
        for name, (network, change) in variants.items():
            recipe = replace(FAST, seed=seed, **change)
            experiments.append(Experiment(f"ablation-{name}-{seed}", network, recipe))
    return experiments


def seeds(prefix, recipe, count):
    """List one recipe with the seeds 0 to `count` - 1."""
    return [
        Experiment(f"{prefix}-{seed}", networks.submission_network, replace(recipe, seed=seed))
        for seed in range(count)
    ]


def trials():
    """List what the long recipe was chosen by: 60 epochs on 45,000 training images each."""
    base = replace(LONG, epochs=60, learning_rate=0.01)
    changes = {
        "base": {},
        "rate-0.005": {"learning_rate": 0.005},
        "decay-0.05": {"weight_decay": 0.05},
        "decay-0.5": {"weight_decay": 0.5},
        "no-smoothing": {"label_smoothing": 0.0},
        "rate-0.02-decay-0.1": {"learning_rate": 0.02, "weight_decay": 0.1},
    }
    experiments = []
    for name, change in changes.items():
        recipe = replace(base, **change)
        experiments.append(
            Experiment(f"trial-{name}", networks.submission_network, recipe, held_out=True)
        )
    return experiments


def groups(plan):
    """Return all runs of the study in the order of training: a dict group -> list of Experiment."""
    runs = {}
    for seed in range(plan.parents):
        runs[f"parent-{seed}"] = parents(plan, seed)
        runs[f"replication-{seed}"] = replication(plan, seed)
        if seed == 0:
            runs["ages"] = ages(plan)
            runs["orders"] = orders(plan)
    runs["optimizers"] = optimizers(plan)
    runs["later-epochs"] = later_epochs(plan)
    runs["ablations"] = ablations(plan)
    runs["fast"] = seeds("fast", FAST, 5)
    runs["fast-gpu"] = seeds("fast-gpu", FAST, 5)  # the same on another machine
    runs["long"] = seeds("long", LONG, 3)
    runs["from-long"] = from_long_recipe()
    runs["orders-from-long"] = orders_from_long_recipe()
    runs["trials"] = trials()
    return runs
