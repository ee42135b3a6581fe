"""What the notebook does where it runs alone: settings, packages, Google Drive."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from report.freshness import UNPACK_COMMENT
from tools import colab
from tools.errors import SubmissionError
from tools.settings import NOTEBOOK_SETTINGS


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in NOTEBOOK_SETTINGS:
        monkeypatch.delenv(name, raising=False)


def default_settings():
    return dict.fromkeys(NOTEBOOK_SETTINGS, "") | {"SEED": 0, "EPOCHS": 5, "BATCH_SIZE": 512}


def test_environment_variables_override_settings(monkeypatch):
    settings = default_settings()
    colab.override(settings)
    assert settings == default_settings()
    monkeypatch.setenv("EPOCHS", " 3 ")
    monkeypatch.setenv("DATASET", "digits")
    monkeypatch.setenv("SEED", "")
    colab.override(settings)
    assert settings == default_settings() | {"EPOCHS": 3, "DATASET": "digits"}


def test_a_setting_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("EPOCHS", "many")
    words = "^EPOCHS=many is not a whole number. Example: EPOCHS=5."
    with pytest.raises(SubmissionError, match=words):
        colab.override(default_settings())


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: pytest.fail("it calls pip"))
    assert colab.missing_requirements() == []
    colab.install_missing()


@pytest.fixture
def versions(monkeypatch):
    """Installed versions that differ from this environment's; a test adds to them."""
    here = colab.installed_version
    others = {}
    monkeypatch.setattr(colab, "installed_version", lambda name: others.get(name, here(name)))
    return others


def test_missing_packages_are_installed_beside_the_torch_that_is_there(versions, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        return SimpleNamespace(returncode=0)

    versions.update({"pypdf": None, "torch": "2.11.0+cu128"})
    monkeypatch.setattr(colab.subprocess, "run", run)
    colab.install_missing()
    command = calls[0]
    assert any(word.startswith("pypdf") for word in command) and "torch==2.11.0+cu128" in command
    assert not any(word.startswith("pandas") for word in command)


def test_another_torch_is_never_installed(versions, monkeypatch):
    versions["torch"] = "1.13.1"
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: pytest.fail("it calls pip"))
    with pytest.raises(colab.PackageError, match="needs torch.*; installed is torch 1.13.1"):
        colab.install_missing()


def test_the_reason_of_pip_is_told(versions, monkeypatch):
    versions["pypdf"] = None
    failed = subprocess.CompletedProcess([], 1, stderr="WARNING: x\nERROR: no network\n\n")
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(colab.PackageError, match="could not install pypdf.*: ERROR: no network. "):
        colab.install_missing()


def test_drive_is_mounted_on_colab_and_for_folders_on_it(monkeypatch, tmp_path):
    mounted = []
    on_drive = Path("/content/drive/MyDrive/runs")
    substitute = SimpleNamespace(mount=mounted.append)
    monkeypatch.setattr(colab, "google_drive", substitute, raising=False)
    assert colab.mount_drive_if_needed(on_drive) == on_drive and not mounted
    monkeypatch.setattr(colab, "ON_COLAB", True)
    assert colab.mount_drive_if_needed(tmp_path) == tmp_path and not mounted
    assert colab.mount_drive_if_needed(on_drive) == on_drive and mounted == ["/content/drive"]


def test_the_badge_leads_to_the_notebook_from_any_form_of_address(monkeypatch):
    shown = []
    monkeypatch.setattr(colab, "display", lambda data, **_: shown.append(data["text/html"]))
    for end in ("", "/", ".git"):
        colab.show_badge(f"https://github.com/ada/net{end}")
    assert "research.google.com/github/ada/net/blob/main/notebooks/" in shown[0]
    assert len(set(shown)) == 1


@pytest.fixture
def on_colab(monkeypatch, tmp_path):
    """A project on Colab whose packing is a substitute; what is offered for download."""
    cells = [{"source": [f"{UNPACK_COMMENT}\n", "pass"]}, {"source": ["1 + 1"]}]
    message = SimpleNamespace(blocking_request=lambda *_, **__: {"ipynb": {"cells": cells}})
    offered = []
    substitutes = {
        "ON_COLAB": True,
        "ROOT": tmp_path,
        "NOTEBOOK": tmp_path / "notebooks" / "assignment2.ipynb",
        "GOOGLE_DRIVE": tmp_path / "drive",
        "_message": message,
        "files": SimpleNamespace(download=lambda file: offered.append(Path(file).name)),
        "build_paper": lambda notebook, folder: None,
        "run_packing": lambda job, runs: None,
    }
    for name, value in substitutes.items():
        monkeypatch.setattr(colab, name, value, raising=False)
    (tmp_path / "drive").mkdir()
    (tmp_path / "build").mkdir()
    for name in ("submission.zip", "receipt.html"):
        (tmp_path / "build" / name).write_text(name, encoding="utf-8")
    monkeypatch.setenv("OUTPUT", "")
    monkeypatch.delenv("OUTPUT")
    return offered


def test_on_colab_the_notebook_is_run_as_what_is_handed_in(on_colab):
    colab.override(default_settings() | {"DATASET": "digits"})
    assert "OUTPUT" not in os.environ
    colab.override(default_settings())
    assert os.environ["OUTPUT"] == "submission"


def test_colab_offers_the_archive_and_keeps_it_beside_the_runs(on_colab, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", "submission")
    colab.offer_results(tmp_path / "drive" / "runs")
    assert on_colab == ["submission.zip", "receipt.html"]
    assert (tmp_path / "drive" / "submission.zip").read_text(encoding="utf-8") == "submission.zip"
    saved = json.loads(colab.NOTEBOOK.read_text(encoding="utf-8"))
    assert saved["cells"] == [{"source": ["1 + 1"]}]


def test_colab_offers_the_paper_where_there_is_no_archive_to_hand_in(on_colab, monkeypatch, capsys):
    colab.offer_results("runs")
    assert on_colab == ["report.pdf"] and not colab.NOTEBOOK.exists()

    def refuse(job, runs):
        if job == "zip":
            raise SubmissionError("the notebook still holds the placeholders Your Name.")

    monkeypatch.setattr(colab, "run_packing", refuse)
    monkeypatch.setenv("OUTPUT", "submission")
    colab.offer_results("runs")
    assert on_colab == ["report.pdf", "report.pdf"]
    assert "placeholders Your Name" in capsys.readouterr().out
