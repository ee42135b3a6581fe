"""Whether a notebook's outputs are those of the code beside them, by the record that its ledger cell left."""
import base64
import hashlib
import json
import re

MIME_TYPE = "application/vnd.submission+json"  # of what programs read; JupyterLab shows plain JSON as a tree


def code_hash(source):
    """SHA-256 of a code cell's source without its cell options: captions may change without a rerun."""
    lines = [line.rstrip() for line in source.strip().splitlines() if not line.startswith("#|")]
    return text_hash("\n".join(lines))


def definition_cells(notebook):
    """The cells of a notebook that are tagged `definition`."""
    return [cell for cell in notebook["cells"] if "definition" in cell["metadata"].get("tags", [])]


def definitions_hash(notebook):
    """SHA-256 of the code of a notebook's definition cells."""
    return text_hash(" ".join(code_hash("".join(cell["source"])) for cell in definition_cells(notebook)))


def text_hash(text):
    """SHA-256 of a string."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def file_hash(path):
    """SHA-256 of a file, "missing" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


def results_hash(results):
    """SHA-256 of what results.json says, its record of the code left out."""
    said = {name: value for name, value in results.items() if name != "code"}
    return text_hash(json.dumps(said, sort_keys=True))


def record(notebook):
    """What the ledger cell recorded: hashes of cells, shown texts, files and results; {} where none has run."""
    found = [output.get("data", {}).get(MIME_TYPE) for cell in notebook["cells"]
             for output in cell.get("outputs", [])]
    return next((data for data in reversed(found) if isinstance(data, dict) and isinstance(data.get("files"), dict)
                 and isinstance(data.get("cells"), list) and isinstance(data.get("texts"), list)), {})


def visible_outputs(cell):
    """What a code cell puts into the paper: the data of its outputs but captions, unless it is tagged notebook-only."""
    outputs = [] if "notebook-only" in cell["metadata"].get("tags", []) else cell.get("outputs", [])
    return [out["data"] for out in outputs if "data" in out and not out.get("metadata", {}).get("caption")]


def cell_names(notebook):
    """What messages call the cells: the number, the heading above, and the label or first words that a reader sees."""
    heading, names = "", []
    for number, cell in enumerate(notebook["cells"], 1):
        text, titles = cell["source"], []
        if cell["cell_type"] == "markdown":
            for _ in range(2):  # a picture in a link is one in the other
                text = re.sub(r"!?\[([^][]*)\]\([^()]*\)", r"\1", text)
            text = re.sub(r"(?s)<!--.*?-->|</?[a-zA-Z][^<>]*>|[*`]", "", text)
            titles = re.findall(r"(?m)^#{1,6}[ \t]+(.*\S)", text)
        label = re.search(r"(?m)^#\| *label: *(\S+)", text)
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#|")]
        words = label[1] if label else lines[0][:60].strip() if lines else "empty"
        if titles and words.startswith("#"):
            name = titles[0][:60]
        else:
            name = f"{heading}: {words}" if heading else words
        names.append(f"cell {number} ({name})")
        heading = titles[-1][:40] if titles else heading
    return names


def stale(notebook, root):
    """Yield what is not of the notebook's present code, one sentence each; nothing where no ledger cell has run.

    Files are looked up below the folder `root`; with None, only the notebook itself is examined.
    """
    kept = record(notebook)
    if not kept:
        return
    names = cell_names(notebook)
    cells = [(cell, name) for cell, name in zip(notebook["cells"], names)
             if cell["cell_type"] == "code" and cell["source"].strip()]
    hashes, ran = [code_hash(cell["source"]) for cell, _ in cells], kept["cells"]
    changed = [name for (_, name), found in zip(cells[:len(ran)], hashes) if found not in ran]
    if changed:
        yield f"{', '.join(changed)} changed since the notebook was run"
    elif hashes[:len(ran)] != ran:
        yield "the notebook's cells were not run once each from top to bottom"
    failed = [name for cell, name in cells if any(output["output_type"] == "error" for output in cell["outputs"])]
    if failed:
        yield f"{', '.join(failed)} ended in an error"
    for name, expected in kept["files"].items() if root else ():
        found = file_hash(root / name)
        if found == "missing" and not name.endswith("weights.safetensors"):  # these may be left out of a hand-in
            yield f"{name} is missing"
        elif found not in ("missing", expected):
            yield f"{name} is not the file that the notebook was run with"
    other = [name for cell, name in cells if any(_foreign(cell, data, kept) for data in visible_outputs(cell))]
    if other:
        yield (f"what {', '.join(other)} shows was not shown by prose(), show_table() or show_figure() in one run with "
               "all other cells")


def _foreign(cell, data, kept):
    """Whether an output that enters the paper, a text or a picture, is not among those recorded."""
    if "front-matter" in cell["metadata"].get("tags", []):
        return False
    if "application/pdf" in data:
        label = re.search(r"(?m)^#\| label: (fig-\S+)", cell["source"])
        try:
            found = hashlib.sha256(base64.b64decode(data["application/pdf"])).hexdigest()
        except ValueError:
            return True
        drawn = {name.rpartition("/")[2]: expected for name, expected in kept["files"].items()}
        return not label or drawn.get(f"{label[1]}.pdf") != found
    text = data.get("text/latex") or data.get("text/markdown")
    unknown = [kind for kind in data if kind.startswith("image/")] or "<table" in str(data.get("text/html", ""))
    return text_hash(text) not in kept["texts"] if text is not None else bool(unknown)
