"""What identifies a run: its configuration, how two differ, the key in its folder's name."""
import dataclasses
import hashlib

from training.network_key import same_probe
from training.recipe import Recipe

# What messages call a difference of configurations in an entry that is a hash or a probe.
DIFFERENCES = {
    "network": "another network (it computes something else)",
    "data": "other images or labels",
    "start": "another start (the run whose weights were loaded)",
}


def configuration(probe, recipe, data, start=None):
    """Return what identifies a run, a dict: the recipe's fields and the keys of the rest.

    Args:
        probe: what `network_probe` gives for the freshly initialised network.
        recipe: a Recipe.
        data: a utils.Data.
        start: the Run whose weights the run starts from, if any.
    """
    config = dataclasses.asdict(recipe)
    config["network"] = probe
    config["data"] = data.fingerprint
    config["start"] = start.key if start else ""
    return config


def differences_between(stored, requested):
    """Return in what a stored configuration differs from the requested one: a list of phrases.

    Args:
        stored: a configuration; recipe fields that it lacks have their default.
        requested: a configuration, or a part of one: other entries are not compared.
    """
    defaults = dataclasses.asdict(Recipe())
    differences = []
    for name, value in requested.items():
        other = stored.get(name, defaults.get(name))
        if name == "network":
            is_same = same_probe(other, value)
        else:
            is_same = other == value
        if not is_same:
            words = DIFFERENCES.get(name, f"{name} {other} instead of {value}")
            differences.append(words)
    return differences


def folder_key(config):
    """Return eight hexadecimal digits for the name of a run's folder.

    Recipe fields at their default do not count, so that a new field leaves old names valid.
    """
    defaults = dataclasses.asdict(Recipe())
    parts = {}
    for name, value in config.items():
        if name not in defaults or value != defaults[name]:
            parts[name] = value
    parts["network"] = [f"{value:.4g}" for value in config["network"]]
    return short_hash(parts)


def short_hash(*parts):
    """Return eight hexadecimal digits that tell `parts`, by their printed form, from others."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
