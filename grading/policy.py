"""The policy: what an assignment asks for, read from policy.toml and checked when it is read."""
import dataclasses
import datetime
import math
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

from grading.schema import Place, SchemaError, read_dataclass
from tools.project_files import ROLES, ROOT

FILE = ROOT / "grading" / "policy.toml"

# Names that a pattern of [points] may fit: claims of the assignment's notebook, beside those that
# the policy itself names and one for each class, and checks.
CLAIMS = (
    *("parameters", "forward_cost", "block_difference"),
    *(f"layer_output/{layer}" for layer in (2, 4, 6, 7, 8, 9)),
    *("test_accuracy", "test_accuracy_interval", "test_accuracy_with_tta"),
    "most_confused_share",
    *("epochs", "training_time", "published/original", "resnet/accuracy"),
    *("one-more-epoch/accuracy", "one-more-epoch/change", "one-more-epoch-control/accuracy"),
)
# Checks that always have a finding, and checks that have one only if there is something to report.
CHECKS = ("files", "data", "paper")
FAULT_CHECKS = (
    *("submission", "claims", "other claims", "runs", "weights", "memorisation", "definitions"),
    *("rerun", "own training", "execution"),
    *(f"run {name}" for name in ("resnet", "one-more-epoch", "one-more-epoch-control")),
)
UNVERIFIED = ("open", "lost", "given")


@dataclass(frozen=True)
class Tolerance:
    """How a claim is compared with a value that the check computes.

    Of the kind "value" both may differ by `limit`; of the kind "bound", for rounding errors, both
    have to be between 0 and `limit`. Of the kind "any" a claim is not compared with a new run;
    `make verify` still expects it to be what the records of the runs say.
    """

    kind: str
    limit: float = 0.0

    def agrees(self, computed, claimed):
        """Whether a claim holds, within this tolerance and the six digits that CSV files keep."""
        if self.kind == "any":
            return True
        if not (is_number(computed) and is_number(claimed)):
            return type(computed) is type(claimed) and computed == claimed
        if self.kind == "bound":
            return min(computed, claimed) >= 0 and max(computed, claimed) <= self.limit
        rounding = 1e-5 * abs(computed) if isinstance(computed, float) else 0
        return abs(computed - claimed) <= self.limit + rounding


    @classmethod
    def from_content(cls, value, place):
        """The Tolerance that a line of policy.toml states: 0.5, "any" or {bound = 1e-5}."""
        if value == "any":
            return cls("any")
        kind = "value"
        if isinstance(value, dict) and list(value) == ["bound"]:
            kind = "bound"
            value = value["bound"]
        if not is_number(value) or value < 0 or not math.isfinite(value):
            raise SchemaError(
                f"{place} is {value!r}; expected a number of at least 0, "
                '"any" or {bound = number}'
            )
        return cls(kind, float(value))


EXACT = Tolerance("value")

# Claims whose values are in the records of the runs; so are those named <run>/<value>.
RECORDED_CLAIMS = ("epochs", "training_time")
# What stands before the slash in names of other claims.
COMPUTED_GROUPS = ("class_accuracy", "layer_output", "published", "conclusion")


def is_recorded_claim(name):
    """Whether the records of the runs have the value of a claim of this name."""
    group, slash, _ = name.partition("/")
    if slash:
        return group not in COMPUTED_GROUPS
    return name in RECORDED_CLAIMS


def is_number(value):
    """Whether a value is an int or float; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class Files:
    """Names of files in an archive; `read` lists patterns of files that are read besides."""

    notebook: str
    ledger: str
    paper: str
    references: str
    runs: str
    read: list[str]

    @property
    def recorded(self):
        """Patterns of the files that a notebook's record may name: runs, figures, code."""
        return [*self.read, *ROLES["archive"]]

    @property
    def patterns(self):
        """Patterns of all files that are read."""
        return [self.notebook, self.ledger, self.paper, self.references, *self.recorded]


@dataclass
class Study:
    """What a document that is not the submission has to claim, and its files."""

    required: list[str]
    files: Files


@dataclass
class DataSet:
    """A data set that the policy knows: SHA-256 of its pixels and labels, and its size."""

    fingerprint: str
    train_images: int
    test_images: int
    test_labels: str


@dataclass
class Images:
    """The classes, and how far an accuracy may differ on images other than the run's own."""

    classes: list[str]
    other: float


@dataclass
class Plausible:
    """Bounds beyond which a grader should ask a student."""

    test_above_training: float
    images_per_second: float
    first_loss: list[float]


@dataclass
class ArchiveLimits:
    """What is read of an archive; MB are 10^6 bytes.

    `members` counts files that are read, `listed` all that an archive has.
    """

    members: int
    listed: int
    megabytes: int
    one_file: int
    unpacked: int
    ratio: float
    rows: int


@dataclass
class SandboxLimits:
    """What a command in the sandbox may use; MB are 10^6 bytes.

    Attributes:
        processor_seconds: of each process.
        seconds: of all together, by the clock.
        memory: MB of each process, and of all together.
        processes: their number.
        disk: MB of files, which lie in memory.
        output: MB on standard output.
        rerun_seconds: by the clock, for a new run of a notebook.
    """

    processor_seconds: int
    seconds: int
    memory: int
    processes: int
    disk: int
    output: int
    rerun_seconds: int
    gpu: ClassVar[bool] = False  # no entry of the policy: only a new run may see the GPU


@dataclass
class RerunLimits(SandboxLimits):
    """What a new run of a notebook in the sandbox may use; it may need the GPU."""

    gpu: bool = False


@dataclass
class TimeLimit:
    """How long one archive may take."""

    seconds: int


@dataclass
class PointItem:
    """What points are given for.

    Attributes:
        name: as the feedback page shows it.
        points: the most that it gives.
        claims: patterns of the claims and checks that have to hold.
        ramp: two values of the first claim: no points up to the first, all from the second.
        by_hand: whether a person gives these points.
    """

    name: str
    points: float
    claims: list[str] = field(default_factory=list)
    ramp: list[float] | None = None
    by_hand: bool = False


@dataclass
class Contradiction:
    """Points that each contradicted finding costs beside those of its item, and at most."""

    each: float
    most: float


@dataclass
class Points:
    """What points are given for.

    Attributes:
        total: what the items have to sum to.
        assignment: the title of the assignment in Canvas.
        unverified: what becomes of claims that could not be checked: their points are "open" (a
            person decides), "lost" or "given".
        contradiction: what contradicted findings cost.
        item: the items, in the order in which pages show them.
    """

    total: float
    assignment: str
    unverified: str
    contradiction: Contradiction
    item: list[PointItem]


@dataclass(frozen=True)
class Deadline:
    """When a submission has to be handed in: a datetime with a time zone."""

    moment: datetime.datetime

    @classmethod
    def from_content(cls, value, place):
        """The Deadline in a table with `time` and `zone`, None if it is empty."""
        if value == {}:
            return None
        text = read_dataclass(DeadlineText, value, place, strict=True)
        try:
            moment = datetime.datetime.fromisoformat(text.time)
        except ValueError:
            raise SchemaError(
                f'{place.inside("time")} is {text.time!r}; expected a time like "2026-12-01 23:59"'
            ) from None
        if moment.tzinfo:
            raise SchemaError(
                f"{place.inside('time')} has a time zone of its own; write it into zone alone"
            )
        try:
            return cls(moment.replace(tzinfo=ZoneInfo(text.zone)))
        except (LookupError, ValueError, OSError):
            raise SchemaError(
                f"{place.inside('zone')} is {text.zone!r}; expected the name of a time zone like "
                '"Asia/Seoul"'
            ) from None


@dataclass
class DeadlineText:
    """The entries of [deadline]: a time without zone, and the name of a time zone."""

    time: str
    zone: str


@dataclass
class Similarity:
    """From where on two submissions are a reason to ask.

    Attributes:
        weight_cosine: of the cosine of their weights.
        shared_mistakes: of the share of images, among those that both get wrong, that both take
            for the same class.
        equal_losses: of the steps from the first on with the same loss.
        shared_code: of the share of code that is not the template's and that both have.
        code_size: windows of code that each needs for this.
    """

    weight_cosine: float
    shared_mistakes: float
    equal_losses: int
    shared_code: float
    code_size: int


@dataclass
class Policy:
    """The tables of policy.toml."""

    required: list[str]
    claims: dict[str, Tolerance]
    retrained: dict[str, Tolerance]
    study: Study
    data: dict[str, DataSet]
    images: Images
    files: Files
    plausible: Plausible
    archive: ArchiveLimits
    sandbox: SandboxLimits
    verdict: TimeLimit
    points: Points
    similarity: Similarity
    deadline: Deadline | None = None

    def for_study(self):
        """The Policy for the study: its own files and required claims, everything else as here."""
        return dataclasses.replace(self, required=self.study.required, files=self.study.files)

    def requires(self, claim):
        """Whether a claim of this name has to be there."""
        return any(fnmatchcase(claim, pattern) for pattern in self.required)

    def tolerance(self, claim, retrained=False):
        """The Tolerance of the first pattern that fits a claim's name, or None.

        `retrained` looks in the table of that name first.
        """
        tables = [self.claims]
        if retrained:
            tables.insert(0, self.retrained)
        for table in tables:
            for pattern, tolerance in table.items():
                if fnmatchcase(claim, pattern):
                    return tolerance
        return None

    def verify_tolerance(self, claim):
        """The Tolerance with which `make verify` compares a claim that it computes, by its name.

        A value for which the policy states no number has to be the same.
        """
        tolerance = self.tolerance(claim)
        if tolerance is None or tolerance.kind == "any":
            return EXACT
        return tolerance

    def known_data(self, fingerprint):
        """The DataSet of a fingerprint, or None."""
        for known in self.data.values():
            if known.fingerprint == fingerprint:
                return known
        return None


def read_policy(path=FILE):
    """The Policy in a TOML file. Raises SchemaError, which names file and field."""
    path = Path(path)
    name = path.name
    if path == FILE:
        name = path.relative_to(ROOT).as_posix()
    place = Place(name)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SchemaError(f"{name} is missing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SchemaError(f"{name} is not valid TOML: {error}") from None
    policy = read_dataclass(Policy, content, place, strict=True)
    _check_values(policy, place)
    return policy


def _check_values(policy, place):
    """Raise SchemaError where values have the right type and make no sense."""
    check_points(policy.points, known_names(policy), place.inside("points"))
    _check_similarity(policy.similarity, place.inside("similarity"))
    if "official" not in policy.data:
        raise SchemaError(f"{place.inside('data').inside('official')} is missing")
    first_loss = policy.plausible.first_loss
    if len(first_loss) != 2 or first_loss[0] > first_loss[1]:
        where = place.inside("plausible").inside("first_loss")
        raise SchemaError(f"{where} is {first_loss}; expected [lowest, highest]")
    if not policy.images.classes:
        raise SchemaError(f"{place.inside('images').inside('classes')} is empty")
    for table in ("archive", "sandbox", "verdict", "similarity"):
        for name, value in dataclasses.asdict(getattr(policy, table)).items():
            if value <= 0:
                where = place.inside(table).inside(name)
                raise SchemaError(f"{where} is {value}; expected a number above 0")


# ----------------------------------------------------------------------------- points, similarity


def known_names(policy):
    """Names of the claims and checks that a verdict may have: a list of strings."""
    classes = [f"class_accuracy/{name}" for name in policy.images.classes]
    own = [name for name in (*policy.required, *policy.claims) if "*" not in name]
    return list(dict.fromkeys([*CLAIMS, *classes, *own, *CHECKS, *FAULT_CHECKS]))


def check_points(points, known, place):
    """Raise SchemaError for a mistake in [points]; `known` are names of claims and checks."""
    if points.unverified not in UNVERIFIED:
        where = place.inside("unverified")
        raise SchemaError(
            f"{where} is {points.unverified!r}; expected one of {', '.join(UNVERIFIED)}"
        )
    for name, value in dataclasses.asdict(points.contradiction).items():
        _check_range(value, math.inf, place.inside("contradiction").inside(name))
    _check_range(points.total, math.inf, place.inside("total"))
    names = []
    for item in points.item:
        where = Place(f"{place}, item {item.name!r}")
        if not item.name.strip() or item.name in names:
            raise SchemaError(f"{where} needs a name that no other item has")
        names.append(item.name)
        _check_item(item, known, where)
    total = sum(item.points for item in points.item)
    if abs(total - points.total) > 1e-9:
        raise SchemaError(
            f"{place.inside('total')} is {points.total:g}, but the items sum to {total:g} points"
        )


def _check_item(item, known, where):
    """Raise SchemaError for a mistake in one item of [points]."""
    _check_range(item.points, math.inf, f"{where}, points")
    if item.by_hand:
        if item.claims or item.ramp:
            raise SchemaError(f"{where} is given by hand and has claims or a ramp; remove either")
        return
    if not item.claims:
        raise SchemaError(f'{where} needs claims = ["…"] or by_hand = true')
    for pattern in item.claims:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise SchemaError(
                f"{where}: {pattern!r} fits no claim and no check; known are {', '.join(known)}"
            )
    if item.ramp is not None and not (len(item.ramp) == 2 and item.ramp[0] < item.ramp[1]):
        raise SchemaError(
            f"{where}: ramp is {item.ramp}; expected [value without points, value with all], the "
            "first below the second"
        )


def _check_similarity(bounds, place):
    """Raise SchemaError for a bound of [similarity] that is out of range."""
    for name, value in dataclasses.asdict(bounds).items():
        highest = math.inf
        if name in ("weight_cosine", "shared_mistakes", "shared_code"):
            highest = 1
        _check_range(value, highest, place.inside(name))


def _check_range(value, highest, where):
    """Raise SchemaError if a number is negative, above `highest` or not finite."""
    if not (0 <= value <= highest and math.isfinite(value)):
        bounds = "of at least 0"
        if highest < math.inf:
            bounds = f"between 0 and {highest}"
        raise SchemaError(f"{where} is {value:g}; expected a number {bounds}")
