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
    shown = [output.get("data", {}).get("application/json") for cell in notebook["cells"]
             for output in cell.get("outputs", [])]
    return next((data for data in reversed(shown) if isinstance(data, dict)
                 and isinstance(data.get("cells"), list) and isinstance(data.get("files"), dict)), {})


def stale(notebook, root):
    """Yield what is not of the notebook's present code, one sentence each; nothing where no ledger cell has run.

    Files are looked up below the folder `root`; with None, only the notebook itself is examined.
    """
    kept = record(notebook)
    if not kept:
        return
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    hashes, ran = [code_hash(cell["source"]) for cell in code], kept["cells"]
    changed = [cell for cell, found in zip(code[:len(ran)], hashes) if found not in ran]
    if changed:
        yield f"{_names(changed)} changed since the notebook was run"
    elif hashes[:len(ran)] != ran:
        yield "the notebook's cells were not run once each from top to bottom"
    failed = [cell for cell in code if any(output["output_type"] == "error" for output in cell["outputs"])]
    if failed:
        yield f"{_names(failed)} ended in an error"
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
            picture = output.get("data", {}).get("application/pdf")
            if picture and _picture_hash(picture) != pictures.get(f"{label[1]}.pdf"):
                yield f"the picture in {_names([cell])} is not the file that the notebook drew"


def _picture_hash(encoded):
    try:
        return hashlib.sha256(base64.b64decode(encoded)).hexdigest()
    except ValueError:
        return "damaged"


def _names(cells):
    """The cells' ids, which Colab keeps in the metadata, in words."""
    ids = [cell.get("id") or cell["metadata"].get("id", "without an id") for cell in cells]
    return f"the cell{'s' * (len(ids) > 1)} {', '.join(ids)}"
