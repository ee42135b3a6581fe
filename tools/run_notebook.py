"""Run a notebook from top to bottom; show in the terminal what its cells print, as they print it.

    python -m tools.run_notebook notebooks/assignment2.ipynb build/assignment2.ipynb

Once every cell has run, the executed notebook is written to the second path, which may be the
first one. If a cell fails, the notebook as far as it ran is saved as build/<name>.failed.ipynb.
Ctrl-C interrupts the running cell and waits until it has ended: training saves its state then.
"""

import argparse
import ast
import asyncio
import contextlib
import os
import re
import signal
import sys
import warnings
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from report.cell_options import cell_tags
from report.fonts import missing_letters
from report.freshness import MIME_TYPE, cell_names, is_unpacking, visible_outputs
from tools.errors import CheckError, SubmissionError
from tools.terminal import replace_unprintable

CODE_PLACEHOLDER = "# YOUR CODE HERE"  # where the hand-out has a place for a student's code
INTERRUPTED = 130  # a shell's exit code for a program that Ctrl-C ended


class NotebookError(SubmissionError):
    """A notebook cannot be read, one of its cells failed, or its kernel died."""


class TerminalClient(NotebookClient):
    """A notebook client that repeats in the terminal what cells print."""

    def output(self, outs, msg, *args):
        """Handle one output message of the kernel; the arguments are those of NotebookClient."""
        # What follows clear_output(wait=True) has been shown before, then with progress bars.
        if msg["msg_type"] == "stream" and not self.clear_before_next_output:
            text = msg["content"]["text"]
            terminal = getattr(sys, msg["content"]["name"])
            if not terminal.isatty():
                text = without_progress_bars(text)
            terminal.write(text)
            terminal.flush()
        return super().output(outs, msg, *args)


class Progress:
    """Prints a line at the start of each section: how many cells of code have been run."""

    def __init__(self, notebook):
        self.total = sum(cell.cell_type == "code" for cell in notebook.cells)
        self.number = 0

    def enter(self, cell):
        """Move on to `cell`; print the line if a section starts there."""
        if cell.cell_type == "code":
            self.number += 1
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ +(.+)", cell.source, re.MULTILINE)
            if headings:
                print(f"[{self.number}/{self.total}] {headings[-1]}", flush=True)


class Interrupt:
    """Passes the first Ctrl-C on to the kernel; the second one ends this program at once."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.task = None  # a reference keeps the task alive
        self.loop = asyncio.get_running_loop()

    @property
    def requested(self):
        """Whether Ctrl-C has been pressed."""
        return self.task is not None

    def listen(self):
        """Replace what Ctrl-C and SIGTERM do by default."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)  # Windows has no loop.add_signal_handler

    def end(self):
        """Leave Ctrl-C and SIGTERM to Python again."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def note(self, *_):
        """Have the loop interrupt the kernel as soon as it can."""
        self.loop.call_soon_threadsafe(self.interrupt_kernel)

    def interrupt_kernel(self):
        """Interrupt the running cell, and leave the next Ctrl-C to Python."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        message = "\nStopping once the running cell has ended. Press Ctrl-C again to stop at once."
        print(message, file=sys.stderr)
        self.task = asyncio.ensure_future(self.kernel.interrupt_kernel())


def without_progress_bars(text):
    """`text` without lines that hold a carriage return: a progress bar rewrites its line."""
    return re.sub(r"[^\n]*\r(?!\n)[^\n]*", "", text)


def merge_streams(outputs):
    """Outputs of a cell as Jupyter saves them: consecutive pieces of a stream are one, no bars."""
    merged = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = without_progress_bars(output.text)
            if not output.text.strip():
                continue
            if merged and merged[-1].get("name") == output.name:
                merged[-1].text += output.text
                continue
        merged.append(output)
    return merged


def read_notebook(path):
    """The notebook in the file `path`, in version 4 of the format.

    Raises:
        NotebookError: there is no such file, or it holds no notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except OSError as error:
        raise NotebookError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, nbformat.ValidationError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        message = f"{path} is no valid notebook ({reason}). Restore it from an earlier copy."
        raise NotebookError(message) from None


def remove_outputs(notebook):
    """Remove the outputs and execution counts of all code cells."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None


def save_notebook(notebook, path):
    """Write a new file, then rename it: an existing file stays until the new one is complete."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    nbformat.write(notebook, new)
    os.replace(new, path)


def set_front_matter(notebook):
    """Copy title and authors from the front-matter cell to the metadata, where nbconvert looks."""
    for cell in notebook.cells:
        if "front-matter" in cell_tags(cell):
            for data in visible_outputs(cell):
                front = data.get(MIME_TYPE, {})
                for key in ("title", "authors"):
                    if key in front:
                        notebook.metadata[key] = front[key]


def summarize(error, cell, notebook):
    """Lines of a traceback that help: the cell's line, the last two of other files, the error.

    Of code that a student has still to write, the cell to edit is named.
    """
    if error.ename == CheckError.__name__:
        return error.evalue
    traceback = "\n".join(line for output in cell.outputs for line in output.get("traceback", []))
    traceback = re.sub(r"\x1b\[[\d;]*m", "", traceback)  # without colours
    marked = re.findall(r"^-+> *\d+ .*", traceback, re.MULTILINE)
    lines = [*marked[:1], *marked[1:][-2:], f"{error.ename}: {error.evalue}"]
    if error.ename == "NotImplementedError" and (name := unwritten_cell(traceback, notebook)):
        lines.append(f"Your code is missing in {name}. Write it, then run this again.")
    return "\n".join(lines)


def unwritten_cell(traceback, notebook):
    """What messages call the cell that raised an error; "" if no student's code belongs there."""
    executed = re.findall(r"Cell In\[(\d+)\]", traceback)
    for cell, name in zip(notebook.cells, cell_names(notebook)):
        is_last = executed and str(cell.get("execution_count")) == executed[-1]
        if is_last and CODE_PLACEHOLDER in cell.source:
            return name
    return ""


def front_matter_text(notebook):
    """Title and authors as the notebook's parameters cell sets them, as one text."""
    texts = []
    for cell in notebook.cells:
        if "parameters" not in cell_tags(cell):
            continue
        with contextlib.suppress(SyntaxError, ValueError):
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.Assign):
                    name = ast.unparse(statement.targets[0])
                    if name in ("TITLE", "AUTHORS"):
                        texts.append(str(ast.literal_eval(statement.value)))
    return " ".join(texts)


def check_fonts(notebook):
    """Raise NotebookError if the paper could not show title and authors: before hours of training.

    Where fontconfig is not installed, nothing is checked: a paper cannot be built there anyway.
    """
    missing = missing_letters(front_matter_text(notebook))
    if missing:
        raise NotebookError(
            f"TITLE or AUTHORS has {''.join(missing)}, which no font here has. Install one "
            "(Debian: apt-get install fonts-noto-cjk for Korean, Chinese and Japanese), or write "
            "the names in Latin letters."
        )


def start_client(notebook):
    """A client whose kernel is not yet running: the Python of this process."""
    # Without folders of kernels, "python3" is this Python, whatever the user registered as that.
    specs = KernelSpecManager(kernel_dirs=[])
    return TerminalClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs),
        timeout=None,
        record_timing=False,
        # ipykernel warns of unencrypted sockets, which do not leave the machine
        extra_arguments=["--log-level=ERROR"],
    )


async def run_cells(notebook, folder):
    """Run all cells; their outputs are stored in `notebook`.

    After a failed check the rest of its section is run, up to a cell that trains, so that one run
    names all of its mistakes.

    Args:
        notebook: the notebook; outputs it has are removed first.
        folder: the kernel's working directory.

    Raises:
        NotebookError: a cell failed, or the kernel died.
        KeyboardInterrupt: Ctrl-C was pressed, and the running cell has ended.
    """
    remove_outputs(notebook)
    client = start_client(notebook)
    progress = Progress(notebook)
    cell_name = "the start of the kernel"
    interrupt = Interrupt(client.km)
    failed = []
    try:
        await client.async_start_new_kernel(cwd=folder)
        await client.async_start_new_kernel_client()
        interrupt.listen()
        for index, (cell, cell_name) in enumerate(zip(notebook.cells, cell_names(notebook))):
            if failed and (starts_section(cell) or trains(cell)):
                break
            progress.enter(cell)
            try:
                await client.async_execute_cell(cell, index)  # does nothing for Markdown
            except CellExecutionError as error:
                failed.append(f"{cell_name} failed:\n{summarize(error, cell, notebook)}")
                if error.ename != CheckError.__name__:
                    break
            if interrupt.requested:
                break
    except RuntimeError:  # nbclient's error for a kernel that is gone
        if not interrupt.requested:
            message = (
                f"{cell_name} failed: the kernel died. It probably ran out of memory: close other "
                "programs, or set a smaller BATCH_SIZE."
            )
            raise NotebookError(message) from None
    finally:
        if client.km.has_kernel:
            await client.km.shutdown_kernel()
        interrupt.end()
    if interrupt.requested:
        if failed:
            print("\n\n".join(failed), file=sys.stderr)
        raise KeyboardInterrupt
    if failed:
        raise NotebookError("\n\n".join(failed))


def trains(cell):
    """Whether a cell may train a network, which takes too long after a failed check."""
    return cell.cell_type == "code" and "load_or_train(" in cell.source


def starts_section(cell):
    """Whether a cell starts a section of the first level."""
    return cell.cell_type == "markdown" and re.search(r"(?m)^# ", cell.source) is not None


def run_notebook(source, target, any_fonts=False):
    """Run the notebook in the file `source`, in its folder, and save it as the file `target`.

    Args:
        source: the notebook's path.
        target: where to write the executed notebook.
        any_fonts: whether to run it even if no font here has the letters of title and authors.

    Raises:
        NotebookError: as `read_notebook` and `run_cells`; the notebook is saved in build/ then.
        KeyboardInterrupt: Ctrl-C was pressed; nothing is saved.
    """
    notebook = read_notebook(source)
    notebook.cells = [cell for cell in notebook.cells if not is_unpacking(cell.source)]
    if not any_fonts:
        check_fonts(notebook)
    failed = Path("build", source.stem + ".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        asyncio.run(run_cells(notebook, source.resolve().parent))
    except NotebookError as error:
        save_notebook(notebook, failed)
        message = f"{error}\nThe notebook as far as it ran, with the full traceback, is {failed}."
        raise NotebookError(message) from None
    set_front_matter(notebook)
    save_notebook(notebook, target)


def main():
    """Run the notebook that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.run_notebook",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="the notebook to run, in its own folder")
    parser.add_argument("target", type=Path, help="where to write the executed notebook")
    parser.add_argument(
        "--any-fonts", action="store_true", help="do not look for the fonts that its paper needs"
    )
    arguments = parser.parse_args()
    replace_unprintable()
    # of tornado, on Windows: kernels are reached in another way there, which works
    warnings.filterwarnings("ignore", "Proactor event loop")
    try:
        run_notebook(arguments.source, arguments.target, arguments.any_fonts)
    except NotebookError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        message = "\nInterrupted. To continue from the state that training saved, run this again."
        print(message, file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
