"""What results depend on: data, code, machines and versions."""
import platform
from importlib.metadata import distributions, version

import pandas as pd
import torch

from analysis.notebook_run import executed_sources
from analysis.results import count_of
from analysis.run_statistics import group_name
from report.freshness import code_hash, text_hash
from training import ENGINE, environment, short_hash

# Hash of the training code -> hashes of earlier versions that compute the same, bit for bit: only
# messages, names and checks of the input differ. With any other version of the code it has no
# effect.
EQUIVALENT_ENGINES = {"bfd53253": ("206d7de5",)}
COLUMNS = ("item", "machine", "version, date", "hash", "min")


def environment_table(data, runs):
    """Return a DataFrame of what the results depend on: rows for data, notebook and runs.

    `data` is a utils.Data, None if no cell loads data; `runs` a list of training.Run. Runs of one
    kind or start, on one kind of machine and with the same versions, share a row. A star marks runs
    that another version of the training code made.
    """
    rows = []
    if data is not None:
        rows.append(data_row(data))
    rows.append(notebook_row())
    names = {run.key: run.name for run in runs}
    groups = {}
    for run in runs:
        what = describe_run(run, names)
        group = (what, is_of_earlier_code(run), run.device, describe_versions(run))
        groups.setdefault(group, []).append(run)
    for group, members in groups.items():
        rows.append(group_row(*group, members))
    return pd.DataFrame(rows, columns=COLUMNS)


def data_row(data):
    """Return the table's row for the data."""
    images = f"{len(data.train_labels):,} and {len(data.test_labels):,} images"
    return "data", data.source, images, data.fingerprint[:8], ""


def notebook_row():
    """Return the table's row for the running notebook.

    It has no time: the same submission has the same bytes.
    """
    code = "".join(code_hash(source) for source in executed_sources())
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    return "notebook", environment()["device"], versions, text_hash(code)[:8], ""


def group_row(what, is_old, machine, versions, runs):
    """Return the table's row for runs of one kind or start; a star marks those of earlier code."""
    if len(runs) > 1:
        what = f"{what} ({len(runs)} runs)"
    if is_old:
        what += " *"
    dates = sorted({run.info["finished"] for run in runs})
    period = dates[0]
    if len(dates) > 1:
        period = f"{dates[0]} to {dates[-1]}"
    minutes = sum(run.info["seconds"] for run in runs) / 60
    run_hash = short_hash([run.key for run in runs])
    return what, machine, f"{versions}, {period}", run_hash, f"{minutes:.1f}"


def describe_run(run, names):
    """Return the kind of a run, or the run that it starts from by `names`, key -> name."""
    start = names.get(run.info["config"]["start"])
    return f"from {start}" if start else kind_of_run(run.name)


def is_of_earlier_code(run):
    """Return whether training code that computes something else made a run, or a part of it."""
    same_code = (ENGINE, *EQUIVALENT_ENGINES.get(ENGINE, ()))
    return any(entry.get("engine") not in same_code for entry in run.environments)


def kind_of_run(name):
    """Return the name of a run's group; all ablations are of one kind, and so are all trials."""
    if name.startswith("ablation-"):
        return "ablation"
    if name.startswith("trial-"):
        return "trial"
    return group_name(name)


def describe_versions(run):
    """Return CPU threads, number format and torch version of a run, a string.

    Of a run that was continued in another environment it holds both.
    """
    descriptions = []
    for entry in run.environments:
        threads = count_of(entry["threads"], "thread")
        torch_version, _, _ = entry["torch"].partition("+")  # without the kind of build
        descriptions.append(f"{threads}, {entry['precision']}, torch {torch_version}")
    return ", then ".join(dict.fromkeys(descriptions))


def installed_versions():
    """Return Python, machine and all installed packages as a dict for the record."""
    packages = {f"{package.metadata['Name']}=={package.version}" for package in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": environment()["device"],
        "threads": torch.get_num_threads(),
        "packages": sorted(packages, key=str.lower),
    }
