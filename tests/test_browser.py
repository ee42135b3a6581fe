"""In Chromium: JupyterLab runs the notebook, and the exported page has its pictures and tables."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from helpers import LEFT_OUT, NOTEBOOK, ROOT
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium (Debian: apt-get install chromium)"),
]

ERROR = "[data-mime-type='application/vnd.jupyter.error']"
CURVE = "img[alt*='loss of each step']"

LAST_CELL = ".jp-Notebook .jp-CodeCell:nth-last-child(1 of .jp-CodeCell)"

# Whether the run is over: a cell has failed, or the last one has its outputs and the kernel rests.
IS_OVER = f"""() => document.querySelector("{ERROR}")
    || (document.querySelector("{LAST_CELL} .jp-OutputArea-output")
        && document.querySelector("#jp-main-statusbar").innerText.includes("| Idle"))
"""


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def copy_without_outputs(folder):
    """A copy of the project whose notebook has not been run."""
    root = shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    notebook = json.loads((root / NOTEBOOK).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    (root / NOTEBOOK).write_text(json.dumps(notebook), encoding="utf-8")
    return root


def write_settings(folder):
    """Have JupyterLab put all cells into the page, not only those in view."""
    tracker = folder / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps({"windowingMode": "none"}), encoding="utf-8")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(address, seconds=180):
    """Wait until a server answers; many tests at once make it slow to start."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{address} does not answer")


@contextmanager
def serving(root, environment):
    """JupyterLab on a folder: its address."""
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={root}"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    address = f"http://127.0.0.1:{port}"
    wait_for(f"{address}/api")
    yield address
    server.terminate()
    server.wait(30)


@pytest.fixture
def lab(tmp_path, trained_on_digits):
    """JupyterLab on a copy of the project whose notebook has no outputs: the notebook's address."""
    root = copy_without_outputs(tmp_path / "project")
    if trained_on_digits.exists():  # saves a minute
        shutil.copytree(trained_on_digits, root / "build" / "checkpoints")
    write_settings(tmp_path / "settings")
    environment = os.environ | {
        "EPOCHS": "1",
        "DATASET": "digits",
        "HOME": str(tmp_path),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
    }
    with serving(root, environment) as address:
        yield f"{address}/lab/tree/{NOTEBOOK}"


def test_run_all_in_jupyterlab(lab, page):
    page.goto(lab)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    # cells that are sent to a kernel before it has started can get lost
    page.get_by_text("| Idle").first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(IS_OVER, timeout=600_000)
    assert page.locator(ERROR).all_inner_texts() == []
    curve = page.locator(CURVE)
    curve.scroll_into_view_if_needed()
    assert curve.is_visible() and curve.evaluate("image => image.naturalWidth") > 600
    page.screenshot(path=ROOT / "build" / "jupyterlab.png")
    # the banner that is shown, not the source of its cell
    words = "These results are not for CIFAR-10"
    banner = page.locator(".jp-OutputArea-output", has_text=words)
    assert banner.count() == 1 and banner.locator("strong").count() == 1


def test_exported_page(page, tmp_path):
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path)]
    subprocess.run([*command, str(ROOT / NOTEBOOK)], check=True, capture_output=True)
    page.goto((tmp_path / "assignment2.html").as_uri(), wait_until="domcontentloaded")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    undescribed = "[...document.images].filter(i => (i.alt || '').length < 4).length"
    assert page.evaluate(undescribed) == 0
    assert page.locator(CURVE).count() == 1
    assert page.locator("table caption, table thead").count() >= 2
    page.locator(CURVE).scroll_into_view_if_needed()
    page.screenshot(path=ROOT / "build" / "page.png")
