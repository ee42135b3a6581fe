"""The ledger: each number that a paper claims, with its source, and the record of one run."""
import dataclasses
import json
import os

from IPython.display import display

from analysis.display import shown
from analysis.environment_table import installed_versions
from analysis.notebook_run import (
    OUTPUT_FOLDER,
    SUBMISSION,
    cell_name,
    executed_sources,
    failed_sources,
)
from analysis.run_statistics import interval_supports, unit_of_measure
from report.freshness import (
    MIME_TYPE,
    code_hash,
    definitions_hash,
    file_hash,
    is_unpacking,
    results_hash,
)
from tools.errors import SubmissionError
from tools.project_files import NOTEBOOK, ROOT, project_files


@dataclasses.dataclass(frozen=True)
class Claim:
    """A number or word that the paper states: its value, unit and source (a cell or a run).

    `condition` is that of a conclusion, "<claim> > <number>" or "<", else "".
    """

    value: float | int | str | bool
    unit: str
    source: str
    condition: str = ""

    def as_entry(self):
        """Return the claim as the results file has it, a dict; a condition only if there is one."""
        entry = dataclasses.asdict(self)
        if not self.condition:
            del entry["condition"]
        return entry


class Ledger:
    """What a document claims: `claims` is a dict name -> Claim, `runs` what they rest on, a list.

    `document` is "report" for the submission, else the name of another notebook in notebooks/.
    """

    def __init__(self, document="report"):
        self.document = document
        self.claims = {}
        self.runs = []

    @property
    def is_submission(self):
        """Whether the document is what is handed in."""
        return self.document == "report"

    @property
    def notebook(self):
        """The path of the document's notebook."""
        if self.is_submission:
            return NOTEBOOK
        return NOTEBOOK.with_name(f"{self.document}.ipynb")

    @property
    def results_file(self):
        """The path of the JSON file with claims and record."""
        name = "results.json" if self.is_submission else f"{self.document}.json"
        return OUTPUT_FOLDER / "report" / name if SUBMISSION else OUTPUT_FOLDER / name

    def claim(self, name, value, unit="", run=None):
        """Enter a claim and return its value.

        The source is the name of `run`, a training.Run, or of the cell that is being run.
        """
        self._enter({name: (value, unit)}, run)
        return value

    def claim_all(self, prefix, values, unit=None, run=None):
        """Enter a claim `<prefix>/<name>` for each item of the dict `values` and return them.

        `unit` is that of all of them; without one they are measures, see `unit_of_measure`.
        """
        entries = {}
        for name, value in values.items():
            own_unit = unit_of_measure(name) if unit is None else unit
            entries[f"{prefix}/{name}"] = value, own_unit
        self._enter(entries, run)
        return values

    def _enter(self, entries, run=None, condition=""):
        """Enter claims of one source and condition, a dict name -> value and unit."""
        source = run.name if run else cell_name(self.notebook)
        if run and run.name not in [other.name for other in self.runs]:
            self.runs.append(run)
        for name, (value, unit) in entries.items():
            self.claims[name] = Claim(value, unit, source, condition)

    def conclude(self, name, claim, comparison, bound):
        """Enter a conclusion and return whether it holds.

        It says that the 95 % interval of `claim` lies above (">") or below ("<") the number
        `bound`. Half of the interval is the claim `<claim>_interval`. Raises SubmissionError if it
        does not hold in a submission; on other data it need not.
        """
        values = {name: entry.value for name, entry in self.claims.items()}
        holds = interval_supports(values, claim, comparison, bound)
        condition = f"{claim} {comparison} {bound}"
        self._enter({f"conclusion/{name}": (holds, "")}, condition=condition)
        if SUBMISSION and not holds:
            raise SubmissionError(
                f"the conclusion {name!r} does not hold: {claim} is {values[claim]:.4g} ± "
                f"{values[f'{claim}_interval']:.4g}, which is not {comparison} {bound:.4g}; "
                "change the text of the conclusions, or this conclusion"
            )
        return holds

    def write(self, data, runs=None):
        """Write the claims to the results file; show the hashes of all that this execution used.

        `data` is a utils.Data, None if no cell loads data; `runs` a list of training.Run, by
        default those that claims rest on.
        report/freshness.py reads the record.
        """
        results = {
            "claims": {name: claim.as_entry() for name, claim in self.claims.items()},
            "data": describe_data(data) if data else None,
            "environment": installed_versions(),
        }
        results = json.loads(json.dumps(results))  # as the file stores them
        record = self.record(data, self.runs if runs is None else runs)
        record["results_hash"] = results_hash(results)
        text = json.dumps(results | {"code": record}, indent=1, ensure_ascii=False)
        self.results_file.parent.mkdir(parents=True, exist_ok=True)
        self.results_file.write_text(text + "\n", encoding="utf-8")
        message = f"{len(self.claims)} claims written to {record['results']}."
        display({MIME_TYPE: record, "text/markdown": message}, raw=True)

    def record(self, data, runs):
        """Return the hashes of the cells, files and texts that this execution used, a dict."""
        files = {relative_path(file): file for file in self.code_files() + shown.figure_files}
        for run in runs:
            folder = self.recorded_folder(run)
            files.update({f"{folder}/{file.name}": file for file in run.files})
        sources = [source for source in executed_sources() if not is_unpacking(source)]
        record = {
            "cells": [code_hash(source) for source in sources],
            "failed": [code_hash(source) for source in failed_sources()],
            "files": {name: file_hash(file) for name, file in files.items()},
            "is_fallback": bool(data and data.is_fallback),
            "texts": sorted(shown.text_hashes),
            "results": relative_path(self.results_file),
        }
        if not self.is_submission:  # it rests on the network that the submission defines
            notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
            record["definitions"] = definitions_hash(notebook)
        return record

    def code_files(self):
        """Return the files of the project that compute what the document claims, a list."""
        return project_files("notebook" if self.is_submission else self.document)

    def recorded_folder(self, run):
        """Return the name of a run's folder, relative to the root.

        A submission's runs are in checkpoints/ once they have been collected.
        """
        if SUBMISSION and self.is_submission:
            return f"checkpoints/{run.name}"
        return relative_path(run.folder)


def describe_data(data):
    """Return source, fingerprint and sizes of the data as a dict."""
    return {
        "source": data.source,
        "fingerprint": data.fingerprint,
        "train_images": len(data.train_labels),
        "test_images": len(data.test_labels),
        "is_fallback": data.is_fallback,
    }


def relative_path(path):
    """Return `path` relative to the project's root, a string with / on every system."""
    return os.path.relpath(path, ROOT).replace(os.sep, "/")
