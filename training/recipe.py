"""The hyper-parameters of a run: names, permitted values, learning-rate schedule, table."""
import dataclasses
import numbers

import pandas as pd

from tools.errors import SubmissionError

STEP_DECAY = 3  # the schedule "step" divides the learning rate by it


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a run. The defaults are those of the course's own training loop.

    A new field needs the default that leaves stored runs as they are: a stored recipe without the
    field is read as one with the default.

    Raises SubmissionError if a value is not one of `CHOICES`, not within `LIMITS`, or of another
    type, or if there is a warm-up with another schedule than "linear".
    """

    epochs: int = 1
    batch_size: int = 100
    # Adam (Kingma and Ba 2015), SGD with Nesterov momentum, or Muon with AdamW for the rest.
    optimizer: str = "adam"
    # The highest rate of the schedule.
    learning_rate: float = 1e-3
    # "constant"; "linear": down to zero; "step": divided by 3 after every `step_epochs` epochs.
    schedule: str = "constant"
    step_epochs: int = 20
    # Epochs at the start with a rate of zero: Adam's moments fill, no weight moves.
    zero_rate_epochs: int = 0
    # Fraction of the steps in which the rate of the schedule "linear" rises; others have none.
    warmup: float = 0.0
    # Of SGD and Muon; Adam and AdamW keep their own.
    momentum: float = 0.9
    # Of Adam and AdamW: the decay of their average of squared gradients.
    beta2: float = 0.999
    # Of convolutions and the linear layer; biases and batch norms have none. It is decoupled with
    # every optimizer: a step multiplies the weights by 1 - learning_rate * weight_decay.
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    # Any of CHOICES["augmentation"], separated by spaces, or "".
    augmentation: str = "crop flip"
    # What surrounds an image before a crop.
    pad_with: str = "zeros"
    # The stem's initialisation: the first convolution as PyTorch draws it, or whitening its input.
    first_filters: str = "random"
    # By the training set's own means and standard deviations, or by COURSE_NORMALISATION.
    normalisation: str = "training set"
    # In which order an epoch takes the images, see `image_order`.
    order: str = "permutation"
    # Of the initial weights, the order of the images and their augmentation.
    seed: int = 0

    CHOICES = {
        "optimizer": ("adam", "adamw", "sgd", "muon"),
        "schedule": ("constant", "linear", "step"),
        "augmentation": ("crop", "flip", "trivialaugment", "cutmix"),
        "pad_with": ("zeros", "reflection"),
        "first_filters": ("random", "whitening"),
        "normalisation": ("training set", "course"),
        "order": ("permutation", "same", "reversed", "with replacement"),
    }
    LIMITS = {
        "epochs": (1, 10_000),
        "batch_size": (1, 1_000_000),
        "learning_rate": (0, 10),
        "step_epochs": (1, 10_000),
        "zero_rate_epochs": (0, 10_000),
        "warmup": (0, 0.99),
        "momentum": (0, 0.9999),
        "beta2": (0, 0.99999),
        "weight_decay": (0, 10),
        "label_smoothing": (0, 0.99),
        "seed": (0, 2**32 - 1),
    }

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in self.CHOICES:
                _check_choice(field.name, value)
            else:
                number = _check_number(field.name, value, whole=type(field.default) is int)
                object.__setattr__(self, field.name, number)
        if self.warmup and self.schedule != "linear":
            raise SubmissionError(
                f"warmup={self.warmup} has no effect with schedule={self.schedule!r}: set "
                "warmup=0, or schedule='linear'"
            )

    def rate(self, step, steps_per_epoch):
        """Return the learning rate at `step`, counted from the start of the run."""
        epoch = step // steps_per_epoch
        if epoch < self.zero_rate_epochs:
            return 0.0
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            return self.learning_rate / STEP_DECAY ** (epoch // self.step_epochs)
        steps = self.epochs * steps_per_epoch
        progress = (step + 1) / (steps + 1)
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        return self.learning_rate * (1 - progress) / (1 - self.warmup)


def _check_choice(name, value):
    choices = Recipe.CHOICES[name]
    chosen = [value]
    if name == "augmentation":
        chosen = str(value).split()
    if not isinstance(value, str) or not set(chosen) <= set(choices):
        raise SubmissionError(f"{name}={value!r} is not known; choose from {', '.join(choices)}")


def _check_number(name, value, whole):
    """The value as Python's own int or float, NumPy's numbers included."""
    low, high = Recipe.LIMITS[name]
    if whole:
        words, kind = "a whole number", numbers.Integral
    else:
        words, kind = "a number", numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise SubmissionError(f"{name}={value!r} must be {words} from {low:,} to {high:,}")
    return int(value) if whole else float(value)


def recipe_of(config):
    """Return the Recipe in a run's configuration; fields that it lacks have their default."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    return Recipe(**{name: config[name] for name in names if name in config})


def recipe_table(recipes):
    """Return hyper-parameters side by side: a DataFrame of strings, a column for each recipe.

    Fields that are at their default in all recipes, and kinds of augmentation that none uses, are
    left out. So is the seed: the recipe is the same with any.

    Args:
        recipes: dict title of a column -> Recipe.
    """
    shown = [field.name for field in dataclasses.fields(Recipe) if _is_shown(field, recipes)]
    kinds = _augmentations_in_use(recipes)
    columns = {title: _column(recipe, shown, kinds) for title, recipe in recipes.items()}
    table = pd.DataFrame(columns).map(_format_value)
    return table.rename(index=lambda name: name.replace("_", " ")).rename_axis("hyper-parameter")


def _is_shown(field, recipes):
    """Whether a field has a row of its own: augmentation has several, the seed has none."""
    if field.name in ("augmentation", "seed"):
        return False
    return any(getattr(recipe, field.name) != field.default for recipe in recipes.values())


def _augmentations_in_use(recipes):
    """The kinds of augmentation that any of the recipes uses, in the order of CHOICES."""
    used = " ".join(recipe.augmentation for recipe in recipes.values()).split()
    return [kind for kind in Recipe.CHOICES["augmentation"] if kind in used]


def _column(recipe, shown, kinds):
    """One recipe's values by row: a dict."""
    column = {name: getattr(recipe, name) for name in shown}
    without_effect = "beta2"
    if recipe.optimizer in ("adam", "adamw"):
        without_effect = "momentum"
    if without_effect in column:
        column[without_effect] = "–"
    used = recipe.augmentation.split()
    for kind in kinds:
        column[kind] = "yes" if kind in used else "no"
    return column


def _format_value(value):
    if type(value) is float:
        return f"{value:g}"
    return str(value)
