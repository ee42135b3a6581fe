"""Run a notebook top to bottom; what it prints, progress bars included, goes to the terminal as it comes.

    python -m tools.run_notebook notebooks/assignment2.ipynb build/assignment2.ipynb

The target is written once every cell has run, so it may be the notebook itself. Where a cell fails, the notebook as far
as it came is build/<name>.failed.ipynb. Ctrl-C interrupts the running cell and waits for it: training saves its state.
"""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from report.freshness import MIME_TYPE, visible_outputs


class Stopped(Exception):
    """A cell failed, the kernel died, or somebody pressed Ctrl-C."""


class Client(NotebookClient):
    def output(self, outs, msg, *args):
        # What follows clear_output(wait=True) is what has been seen already, without the bars.
        if msg["msg_type"] == "stream" and not self.clear_before_next_output:
            stream, text = getattr(sys, msg["content"]["name"]), msg["content"]["text"]
            stream.write(text if stream.isatty() else without_bars(text))
            stream.flush()
        return super().output(outs, msg, *args)


def without_bars(text):
    """A progress bar rewrites its line: every line with a carriage return in it is one."""
    return re.sub(r"[^\n]*\r(?!\n)[^\n]*", "", text)


def tidy(outputs):
    """What Jupyter would have saved: one output per stretch of a stream. Bars are left out."""
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = without_bars(output.text)
            if not output.text.strip():
                continue
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
        kept.append(output)
    return kept


def save(notebook, path):
    """Write a new file and rename it: the old one is there until the new one is whole."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    nbformat.write(notebook, new)
    os.replace(new, path)


def name_authors(notebook):
    """Put title and authors, as the cell tagged front-matter shows them, where plain nbconvert looks for them."""
    for cell in notebook.cells:
        if "front-matter" in cell.metadata.get("tags", []):
            for data in visible_outputs(cell):
                front = data.get(MIME_TYPE, {})
                notebook.metadata |= {key: front[key] for key in ("title", "authors") if key in front}


def explain(error, cell):
    """A traceback's last words: the line of the cell, the innermost lines of other files, the error."""
    traceback = "\n".join(line for output in cell.outputs for line in output.get("traceback", []))
    lines = re.findall(r"^-+> *\d+ .*", re.sub(r"\x1b\[[\d;]*m", "", traceback), re.M)
    return "\n".join([*lines[:1], *lines[1:][-2:], f"{error.ename}: {error.evalue}"])


async def run(notebook, folder):
    # With no folder to look for kernels in, "python3" is this Python, whatever else the user has under that name.
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    quiet = ["--log-level=ERROR"]  # ipykernel warns of unencrypted sockets; these do not leave the machine
    client = Client(notebook, km=kernel, timeout=None, record_timing=False, extra_arguments=quiet)
    loop = asyncio.get_running_loop()
    interrupts = []

    def interrupt():
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C does not wait
        print("\nStopping as soon as the running cell lets go.", file=sys.stderr)
        interrupts.append(asyncio.ensure_future(kernel.interrupt_kernel()))

    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code_cells:
        cell.outputs, cell.execution_count = [], None
    number, section, place = 0, "", "The start of the kernel"
    try:
        await client.async_start_new_kernel(cwd=folder)
        await client.async_start_new_kernel_client()
        for signum in signal.SIGINT, signal.SIGTERM:
            loop.add_signal_handler(signum, interrupt)
        for index, cell in enumerate(notebook.cells):
            headings = re.findall(r"^#+ +(.+)", cell.source, re.M) if cell.cell_type == "markdown" else []
            if headings:
                section = headings[-1]
                print(f"[{number}/{len(code_cells)}] {section}", flush=True)
            if cell.cell_type == "code":
                number += 1
                place = f"Cell {number} of {len(code_cells)} ({section})"
                await client.async_execute_cell(cell, index)
            if interrupts:
                break
    except CellExecutionError as error:
        if not interrupts:
            raise Stopped(f"{place} failed:\n{explain(error, cell)}") from None
    except RuntimeError:
        if not interrupts:
            raise Stopped(f"{place} failed: the kernel died, perhaps for want of memory.") from None
    finally:
        if kernel.has_kernel:
            await kernel.shutdown_kernel()
    if interrupts:
        raise KeyboardInterrupt


def main(source, target):
    notebook = nbformat.read(source, as_version=4)
    failed = Path("build", source.stem + ".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        asyncio.run(run(notebook, source.resolve().parent))
    except Stopped as reason:
        save(notebook, failed)
        sys.exit(f"\n{reason}\nThe notebook as far as it came, with the whole traceback, is {failed}.")
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on with what training has saved.", file=sys.stderr)
        sys.exit(130)
    name_authors(notebook)
    save(notebook, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
