"""What influences a run's bits beside its configuration: the training code, the machine."""
import ast
import io
import platform
import tokenize

import torch

from tools.project_files import ROOT, project_files
from training.run_key import short_hash
from utils import DEVICE


def engine_hash(folder):
    """Return eight hexadecimal digits of the training code in the project `folder`.

    The code is that of the files which tools/project_files.py lists as "training". Comments,
    docstrings and the text of messages do not count: no result depends on them.
    """
    files = project_files("training", folder)
    return short_hash(*(_bare_lines(file.read_text(encoding="utf-8")) for file in files))


def _bare_lines(source):
    """The lines of Python code that may change a result, the same in every Python.

    Comments and docstrings are left out. What raises an error or prints a message is shortened to
    its first word.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    replacements = []
    for node in ast.walk(ast.parse(source)):
        if _has_docstring(node):
            replacements.append((node.body[0], ""))
        elif isinstance(node, ast.Raise):
            replacements.append((node, "raise"))
        elif _prints_message(node):
            replacements.append((node, "print"))
    # From the end, so that the positions of those before stay.
    for node, text in sorted(replacements, key=_position, reverse=True):
        _replace_code(lines, node, text)
    return [line.rstrip() for line in lines if line.strip()]


def _position(replacement):
    node, _ = replacement
    return node.lineno, node.col_offset


def _has_docstring(node):
    if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
        return False
    return ast.get_docstring(node) is not None


def _prints_message(node):
    """Whether a statement calls `print` or `print_line`."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    function = node.value.func
    return isinstance(function, ast.Name) and function.id in ("print", "print_line")


def _replace_code(lines, node, text):
    """Put `text` into the place of a node of the syntax tree; what stands beside it stays."""
    first = node.lineno - 1
    last = node.end_lineno - 1
    before = lines[first].encode()[:node.col_offset].decode()  # columns count bytes of UTF-8
    behind = lines[last].encode()[node.end_col_offset:].decode()
    for row in range(first, last + 1):
        lines[row] = ""
    lines[first] = before + text + behind


ENGINE = engine_hash(ROOT)  # of the code that is loaded: the files may change while a run goes on


def environment():
    """Return what influences a run's bits beside its configuration: a dict.

    Its entries are the device's name, the number format ("precision": "bf16", "fp16" or "fp32"),
    the number of CPU threads, the version of torch, the hash of the training code ("engine").
    """
    if DEVICE.type == "cuda":
        device = torch.cuda.get_device_name()
        # A T4 would only emulate bfloat16.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp16"
    else:
        capabilities = torch.cpu.get_capabilities()
        device = capabilities.get("cpu_name", platform.machine())
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        precision = "bf16" if native else "fp32"
    return {
        "device": device,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "engine": ENGINE,
    }
