"""In a real browser: JupyterLab runs the notebook, and the exported page reads well. Needs Chromium."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from helpers import LEFT_OUT, NOTEBOOK, ROOT
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium (Debian: apt-get install chromium)")
BUSY = """() => !document.querySelector("[data-mime-type='application/vnd.jupyter.error']")
    && (!/jooeun9199 .2022/.test(document.body.innerText)  // the last one of the references
        || [...document.querySelectorAll(".jp-InputPrompt")].some(prompt => prompt.innerText.includes("*")))"""


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the project whose notebook has no outputs; its address."""
    root = shutil.copytree(ROOT, tmp_path / "project", ignore=LEFT_OUT)
    notebook = json.loads((root / NOTEBOOK).read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    (root / NOTEBOOK).write_text(json.dumps(notebook))
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # all cells are in the page, not only those in view
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"EPOCHS": "1", "DATASET": "digits", "HOME": str(tmp_path),
                                "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--IdentityProvider.token=", f"--ServerApp.root_dir={root}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield f"{address}/lab/tree/{NOTEBOOK}"
    server.terminate()
    server.wait(30)


def test_run_all_in_jupyterlab(lab, page):
    page.goto(lab)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    page.get_by_text("| Idle").first.wait_for(timeout=60_000)  # cells sent to a kernel that still starts can get lost
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(f"!({BUSY})()", timeout=240_000)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts() == []
    curve = page.locator("img[alt*='loss of each step']")
    curve.scroll_into_view_if_needed()
    assert curve.is_visible() and curve.evaluate("image => image.naturalWidth") > 600
    page.screenshot(path=ROOT / "build" / "jupyterlab.png")
    banner = page.locator(".jp-OutputArea-output", has_text="These results are not for CIFAR-10")  # not the source
    assert banner.count() == 1 and banner.locator("strong").count() == 1


def test_exported_page(page, tmp_path):
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path),
                    str(ROOT / NOTEBOOK)], check=True, capture_output=True)
    page.goto((tmp_path / "assignment2.html").as_uri(), wait_until="domcontentloaded")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.evaluate("[...document.images].filter(i => (i.alt || '').length < 4).length") == 0
    assert page.locator("img[alt*='loss of each step']").count() == 1
    assert page.locator("table caption, table thead").count() >= 2
    page.locator("img[alt*='loss of each step']").scroll_into_view_if_needed()
    page.screenshot(path=ROOT / "build" / "page.png")
