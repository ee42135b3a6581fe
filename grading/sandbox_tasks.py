"""What runs in the sandbox, beside a submission's files below /in; its results are a zip file on standard output.

    python -I /in/grading/sandbox_tasks.py TASK

What comes back may have been made by the student's code: the judge reads it as it reads an archive.
"""
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))
PAGES, DOTS = 40, 1100  # of a paper that are compared; of a page's longer side


def facts(names):
    """What a notebook's definitions say without weights: a list of [claim, value]; what cannot be asked is left out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from analysis import layer_table
    net, block = names["ResNet"]().eval(), names.get("ResidualBlock", ())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 32, 32))
    found = [["parameters", sum(p.numel() for p in net.parameters())],
             ["forward_cost", counter.get_total_flops() / 1e9]]
    with contextlib.suppress(Exception):  # a network of another make has no such layers, or no such block
        table = layer_table.layer_table(net, block)
        found += [[f"layer_output/{row.Index + 1}", str(row.output)] for row in table[table.output != ""].itertuples()]
        found.append(["block_difference", layer_table.block_difference(block)])
    return found


def probabilities(net, images, normalisation):
    """Class probabilities (N, 10) of uint8 images (N, 3, 32, 32), in this layout and in pieces that fit a cache.

    Each thread has pieces of its own: none waits for another, also where other programs work on this machine.
    """
    import torch

    import utils
    net, threads = net.to(memory_format=torch.channels_last), torch.get_num_threads()
    parts = images.contiguous(memory_format=torch.channels_last).split(200)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        given = list(pool.map(lambda part: utils.predict(net, part, normalisation), parts))
    torch.set_num_threads(threads)
    return torch.cat(given)


def network():
    """The student's definitions on weights and images: facts, and probabilities as float32, ten to an image."""
    import torch

    import training
    from tools.notebook_definitions import load_definitions
    names = load_definitions(HERE / "definitions.ipynb")
    results = {"facts.json": json.dumps(facts(names)).encode()}
    if (HERE / "images.raw").exists():
        images = torch.frombuffer(bytearray((HERE / "images.raw").read_bytes()), dtype=torch.uint8).view(-1, 3, 32, 32)
        for run, normalisation in json.loads((HERE / "runs.json").read_text()).items():
            net = training.load_weights(names["ResNet"](), HERE / run)
            results[f"{run}.raw"] = probabilities(net, images, normalisation).float().numpy().tobytes()
    return results


def pages(pdf):
    """A PDF's pages as grey pictures (PGM) and its text, pages divided by form feeds."""
    folder = Path("/tmp/pages")
    folder.mkdir()
    for command in (["pdftoppm", "-gray", "-l", str(PAGES), "-scale-to", str(DOTS), pdf, folder / "page"],
                    ["pdftotext", "-l", str(PAGES), "-enc", "UTF-8", pdf, folder / "text.txt"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command[0]}: {done.stderr.strip()[-200:] or 'failed'}")
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def look():
    """The pages of the PDF handed in."""
    return pages(HERE / "paper.pdf")


def paper():
    """The paper that the notebook makes, by this copy's own exporter: its pages, and its texts with their places."""
    shutil.copytree(HERE, "/tmp/project")  # the exporter keeps failed runs beside itself
    project = Path("/tmp/project")
    sys.path.insert(0, str(project))
    import nbformat

    from report import exporter
    source, = (project / "notebooks").glob("*.ipynb")
    notebook = nbformat.read(source, 4)
    results = {"texts.json": json.dumps(texts(notebook)).encode()}
    resources = {"metadata": {"name": source.stem, "path": str(source.parent)}}
    paper_exporter = exporter.PaperExporter(check_freshness=False)  # the judge asks that of the archive itself
    pdf, _ = paper_exporter.from_notebook_node(notebook, resources)
    Path("/tmp/paper.pdf").write_bytes(pdf)
    return results | pages("/tmp/paper.pdf")


def titles(front, place):
    """[place, kind, text] of a title and of authors, whose numbers and addresses are their own."""
    front = front if isinstance(front, dict) else {}
    return [[place, kind, json.dumps(front.get(key, ""), ensure_ascii=False)]
            for key, kind in (("title", "typed"), ("authors", "names"))]


def texts(notebook):
    """[place, kind, text] of all that the paper says: typed by hand (prose, captions, title), names, computed."""
    from report.cell_options import read_cell_options
    from report.freshness import MIME_TYPE, cell_names, visible_outputs
    from report.markdown import parse_html, render_markdown
    found = titles(notebook.metadata, "the notebook's metadata")
    for cell, place in zip(notebook.cells, cell_names(notebook)):
        tags, outputs = cell.metadata.get("tags", []), visible_outputs(cell)
        if "front-matter" in tags:
            for data in outputs:
                found += titles(data.get(MIME_TYPE), place)
        elif "notebook-only" in tags:
            continue
        elif cell.cell_type == "markdown":
            found.append([place, "typed", render_markdown(cell.source).get_text()])
        elif cell.cell_type == "code" and outputs:
            captions = read_cell_options(cell.source, place)
            found += [[place, "typed", render_markdown(str(captions[key])).get_text()]
                      for key in ("fig-cap", "tbl-cap") if key in captions]
            for data in outputs:
                if "text/markdown" in data:
                    found.append([place, "computed", render_markdown(data["text/markdown"]).get_text()])
                elif "text/latex" in data or "<table" in data.get("text/html", ""):
                    table = data.get("text/html", "") or data["text/latex"]
                    found.append([place, "computed", parse_html(table).get_text(" ")])
    return found


def rerun():
    """The ledger of a new run of the notebook, in a copy of the project."""
    shutil.copytree(HERE, "/tmp/project")
    os.chdir("/tmp/project")
    notebook, = map(str, Path("notebooks").glob("*.ipynb"))
    command = [sys.executable, "-m", "tools.run_notebook", notebook, notebook]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the notebook did not run to its end: {' '.join(done.stderr.split()[-40:])}")
    return {"results.json": Path("build/results.json").read_bytes()}


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the task prints is no result
    results = {"network": network, "look": look, "paper": paper, "rerun": rerun}[sys.argv[1]]()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in results.items():
            archive.writestr(name, data)
    out.write(packed.getvalue())
    out.close()
