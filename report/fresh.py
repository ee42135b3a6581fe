"""Whether a notebook's outputs are those of the code beside them, by the record that its ledger cell left."""
import base64
import hashlib
import re


def code_hash(source):
    """SHA-256 of a code cell's source without its cell options: captions may change without a rerun."""
    lines = [line.rstrip() for line in source.strip().splitlines() if not line.startswith("#|")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_hash(path):
    """SHA-256 of a file, "missing" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def record(notebook):
    """What the ledger cell recorded: hashes of the cells run before it ("cells") and of files; {} without one."""
    found = [output["data"]["application/json"] for cell in notebook["cells"] for output in cell.get("outputs", [])
             if "cells" in output.get("data", {}).get("application/json", {})]
    return found[-1] if found else {}


def stale(notebook, root):
    """Yield what is not of the notebook's present code, one sentence each; nothing where no ledger cell has run.

    Files are looked up below the folder `root`; with None, only the notebook itself is examined.
    """
    kept = record(notebook)
    if not kept:
        return
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    hashes, ran = [code_hash(cell["source"]) for cell in code], kept["cells"]
    changed = [cell["id"] for cell, found in zip(code[:len(ran)], hashes) if found not in ran]
    if changed:
        yield f"{_cells(changed)} changed since the notebook was run"
    elif hashes[:len(ran)] != ran:
        yield "the notebook's cells were not run once each from top to bottom"
    failed = [cell["id"] for cell in code if any(output["output_type"] == "error" for output in cell["outputs"])]
    if failed:
        yield f"{_cells(failed)} ended in an error"
    for name, expected in kept["files"].items() if root else ():
        found = file_hash(root / name)
        if found == "missing" and not name.endswith("weights.safetensors"):  # these may be left out of a hand-in
            yield f"{name} is missing"
        elif found not in ("missing", expected):
            yield f"{name} is not the file that the notebook was run with"
    pictures = {name.rpartition("/")[2]: expected for name, expected in kept["files"].items()}
    for cell in code:
        label = re.search(r"(?m)^#\| label: (fig-\S+)", cell["source"])
        for output in cell["outputs"] if label else []:
            data = output.get("data", {}).get("application/pdf", "")
            if hashlib.sha256(base64.b64decode(data)).hexdigest() != pictures.get(f"{label[1]}.pdf"):
                yield f"the picture in the cell {cell['id']} is not the file that the notebook drew"


def _cells(ids):
    return f"the cell{'s' * (len(ids) > 1)} {', '.join(ids)}"
