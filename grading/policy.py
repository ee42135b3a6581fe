"""The policy: what an assignment asks for, read from policy.toml and checked when it is read."""
import dataclasses
import math
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from grading.schema import Place, SchemaError, read_table
from tools.project_files import ROLES, ROOT

FILE = ROOT / "grading" / "policy.toml"


@dataclass(frozen=True)
class Tolerance:
    """How a claim is compared with a value that the check computes.

    Of the kind "value" both may differ by `limit`; of the kind "bound", for rounding errors, both
    have to be between 0 and `limit`; of the kind "any" the claim is not compared.
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
    def read(cls, value, place):
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
    """The same for a new run of a notebook, which may need the GPU."""

    gpu: bool = False


@dataclass
class TimeLimit:
    """How long one archive may take."""

    seconds: int


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
    policy = read_table(Policy, content, place, strict=True)
    _check_values(policy, place)
    return policy


def _check_values(policy, place):
    """Raise SchemaError where values have the right type and make no sense."""
    if "official" not in policy.data:
        raise SchemaError(f"{place.inside('data').inside('official')} is missing")
    first_loss = policy.plausible.first_loss
    if len(first_loss) != 2 or first_loss[0] > first_loss[1]:
        where = place.inside("plausible").inside("first_loss")
        raise SchemaError(f"{where} is {first_loss}; expected [lowest, highest]")
    if not policy.images.classes:
        raise SchemaError(f"{place.inside('images').inside('classes')} is empty")
    for table in ("archive", "sandbox", "verdict"):
        for name, value in dataclasses.asdict(getattr(policy, table)).items():
            if value <= 0:
                where = place.inside(table).inside(name)
                raise SchemaError(f"{where} is {value}; expected a number above 0")
