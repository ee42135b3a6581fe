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
FIRST_ORDER_SEED = 100
RESTART = replace(BASELINE, seed=FIRST_ORDER_SEED)  # one more epoch
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
VALIDATION_IMAGES = 5_000  # of the training images; trials are compared on them


@dataclass(frozen=True)
class Experiment:
    """One run of the study.

    `network` is a function that makes the network; `start` the name of the run whose weights it
    starts from, "" for none. With `uses_validation_set`, training leaves out the validation images,
    and accuracies are measured on them. `snapshots` are the epochs after which the network is
    stored as a run of its own: "parent-0-120" with the snapshot 20 also stores "parent-0-20".
    """

    name: str
    network: Callable
    recipe: Recipe
    start: str = ""
    uses_validation_set: bool = False
    keep_image_losses: bool = False
    snapshots: tuple = ()


@dataclass(frozen=True)
class Plan:
    """How many runs are trained, and how the parents of one more epoch are trained.

    `parent_epochs` are the numbers of epochs after which the network becomes a parent.
    """

    parent_recipe: Recipe
    parent_epochs: tuple
    parent_seeds: int
    orders_per_parent: int  # of the batches of one more epoch
    ablation_seeds: int
    with_small_stem: bool   # 16 times the cost of the others


PLANS = {
    "gpu": Plan(
        parent_recipe=LONG_PARENT,
        parent_epochs=(20, 40, 60, 80, 120),
        parent_seeds=2,
        orders_per_parent=3,
        ablation_seeds=5,
        with_small_stem=True,
    ),
    "cpu": Plan(
        parent_recipe=SHORT_PARENT,
        parent_epochs=(4, 16),
        parent_seeds=2,
        orders_per_parent=3,
        ablation_seeds=2,
        with_small_stem=False,
    ),
    "rehearsal": Plan(
        parent_recipe=replace(LONG_PARENT, step_epochs=1),
        parent_epochs=(1, 2),
        parent_seeds=1,
        orders_per_parent=2,
        ablation_seeds=1,
        with_small_stem=False,
    ),
}
# The plan of the stored runs, which the notebook shows.
STORED_PLAN = "cpu"


def parent_name(seed, epochs):
    """Return the name of the parent with this seed after so many epochs."""
    return f"parent-{seed}-{epochs}"


def parent_experiments(plan, seed):
    """List the course's network, trained by the plan's recipe for each number of epochs.

    With a linear schedule each is a run of its own, since the learning rate falls until the end of
    a run, and only the first seed has parents of fewer epochs. Otherwise one run has snapshots.
    """
    *fewer_epochs, most_epochs = plan.parent_epochs
    if plan.parent_recipe.schedule == "linear":
        all_epochs = plan.parent_epochs if seed == 0 else [most_epochs]
        return [parent_experiment(plan, seed, epochs) for epochs in all_epochs]
    return [replace(parent_experiment(plan, seed, most_epochs), snapshots=tuple(fewer_epochs))]


def parent_experiment(plan, seed, epochs):
    """Return the run of the course's network by the plan's recipe for so many epochs."""
    recipe = replace(plan.parent_recipe, epochs=epochs, seed=seed)
    return Experiment(parent_name(seed, epochs), CourseNetwork, recipe)


def with_control(experiment):
    """List an experiment and its control: same batches and start, a learning rate of zero."""
    recipe = replace(experiment.recipe, learning_rate=0.0)
    control = replace(experiment, name=f"{experiment.name}-control", recipe=recipe)
    return [experiment, control]


def restarts(group, network, recipe, start, orders):
    """List one more epoch from the run `start`, in several orders of the batches, with controls.

    The first order has the seed of `recipe`, the others the seeds after it.
    """
    experiments = []
    for order in range(orders):
        of_order = replace(recipe, seed=recipe.seed + order)
        experiments += with_control(Experiment(f"{group}-{order}", network, of_order, start))
    return experiments


def replication(plan, seed):
    """List one more epoch from the parent of most epochs, in several orders of the batches."""
    start = parent_name(seed, plan.parent_epochs[-1])
    return restarts(f"restart-{seed}", CourseNetwork, RESTART, start, plan.orders_per_parent)


def young_parent_experiments(plan):
    """List one more epoch from the parents of fewer epochs, in several orders of the batches."""
    experiments = []
    for epochs in plan.parent_epochs[:-1]:
        start = parent_name(0, epochs)
        experiments += restarts(
            f"age-{epochs}", CourseNetwork, RESTART, start, plan.orders_per_parent
        )
    return experiments


def later_epochs(plan):
    """List five epochs after the restart."""
    recipe = replace(RESTART, epochs=5)
    start = parent_name(0, plan.parent_epochs[-1])
    experiment = Experiment("five-epochs", CourseNetwork, recipe, start, keep_image_losses=True)
    return with_control(experiment)


def order_name(kind):
    """Return the name of the run with this kind of order of the images."""
    return f"order-{kind.replace(' ', '-')}"


def order_experiments(plan):
    """List two epochs from the oldest parent for each kind of order of the images but one.

    New permutations have no run of their own here: `later_epochs` begins with these two epochs.
    """
    kinds = [kind for kind in Recipe.CHOICES["order"] if kind != RESTART.order]
    return order_runs(kinds, parent_name(0, plan.parent_epochs[-1]), CourseNetwork, RESTART)


def order_runs(kinds, start, network, recipe, prefix=""):
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
    start = parent_name(0, plan.parent_epochs[-1])
    experiments = []
    for beta2 in (0.9, 0.99):
        for order in range(plan.orders_per_parent):
            recipe = replace(RESTART, seed=FIRST_ORDER_SEED + order, beta2=beta2)
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
    """List one more epoch from our network of the long recipe, in three orders.

    The first order has the seed of its parent, whose batches were larger, mixed and changed more,
    80 epochs before.
    """
    return restarts("long-restart", networks.submission_network, Recipe(), "long-0", orders=3)


def orders_from_long_recipe():
    """List two epochs from our network of the long recipe for each kind of order of the images."""
    recipe = Recipe(seed=FIRST_ORDER_SEED)
    kinds = Recipe.CHOICES["order"]
    return order_runs(kinds, "long-0", networks.submission_network, recipe, prefix="long-")


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
        trial = Experiment(f"trial-{name}", networks.submission_network, recipe)
        experiments.append(replace(trial, uses_validation_set=True))
    return experiments


def groups(plan):
    """Return all runs of the study in the order of training: a dict group -> list of Experiment."""
    runs = {}
    for seed in range(plan.parent_seeds):
        runs[f"parent-{seed}"] = parent_experiments(plan, seed)
        runs[f"replication-{seed}"] = replication(plan, seed)
        if seed == 0:
            runs["ages"] = young_parent_experiments(plan)
            runs["orders"] = order_experiments(plan)
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
