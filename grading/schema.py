"""Reads tables of TOML and JSON files into dataclasses; a mistake is named by file and field."""
import dataclasses
import difflib
import types
import typing

from tools.errors import SubmissionError

LARGEST_WHOLE = 2**53  # beyond it a float skips whole numbers
EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotation marks",
    list: "a list",
    dict: "a table",
}


class SchemaError(SubmissionError):
    """A file's content is not what its reader expects: one sentence that names file and field."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a value stands: the name of a file and the path of keys inside it."""

    file: str
    keys: tuple = ()

    def inside(self, key):
        """The place of the entry `key` of the table or list at this place."""
        return Place(self.file, (*self.keys, str(key)[:60]))

    def __str__(self):
        if not self.keys:
            return self.file
        return f"{self.file}: {'.'.join(self.keys)}"


def read_dataclass(cls, content, place, strict=False):
    """An instance of the dataclass `cls` with the values of a dict, whose types are checked.

    Args:
        cls: a dataclass. Fields with a default may be missing from the content.
        content: what a TOML or JSON parser gave.
        place: the Place that messages name.
        strict: whether keys that are no fields are mistakes, too.

    Raises SchemaError.
    """
    if not isinstance(content, dict):
        raise _wrong_type(content, dict, place)
    names = [field.name for field in dataclasses.fields(cls)]
    if strict:
        _refuse_unknown_keys(content, names, place)
    kinds = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in content:
            kind = kinds[field.name]
            values[field.name] = read_value(
                kind, content[field.name], place.inside(field.name), strict
            )
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{place.inside(field.name)} is missing")
    return cls(**values)


def read_value(kind, value, place, strict=False):
    """`value`, checked to be of the type `kind`.

    `kind` is a dataclass, bool, int, float, str, list[…], dict[str, …], one of these or None, or
    object for anything. Whole numbers are taken for floats. A class that is written in its own
    way has a class method `from_content(value, place)`.

    Raises SchemaError.
    """
    if kind is object:
        return value
    if hasattr(kind, "from_content"):
        return kind.from_content(value, place)
    if dataclasses.is_dataclass(kind):
        return read_dataclass(kind, value, place, strict)
    if isinstance(kind, types.UnionType):  # only X | None is used
        if value is None:
            return None
        return read_value(typing.get_args(kind)[0], value, place, strict)
    container = typing.get_origin(kind) or kind
    is_whole = type(value) is int and abs(value) < LARGEST_WHOLE
    if container is float and is_whole:
        return float(value)
    # isinstance, because nbformat's tables are dicts of their own class
    fits = is_whole if container is int else isinstance(value, container)
    if not fits:
        raise _wrong_type(value, container, place)
    if container is list and typing.get_args(kind):
        (item,) = typing.get_args(kind)
        return [
            read_value(item, entry, place.inside(number), strict)
            for number, entry in enumerate(value, 1)
        ]
    if container is dict and typing.get_args(kind):
        _, item = typing.get_args(kind)
        return {
            name: read_value(item, entry, place.inside(name), strict)
            for name, entry in value.items()
        }
    return value


def _wrong_type(value, kind, place):
    if isinstance(value, dict):
        shown = "a table"
    elif isinstance(value, list):
        shown = "a list"
    else:
        shown = repr(value)[:40]
    return SchemaError(f"{place} is {shown}; expected {EXPECTED[kind]}")


def _refuse_unknown_keys(content, names, place):
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
            raise SchemaError(f"{place.inside(key)} is an unknown key; {hint}")
