"""Forgeries are caught: claims, records and files that are not those of the runs."""

import base64
import json
from datetime import date, timedelta

import forgeries
import pytest
import torch
from forgeries import (
    LEDGER,
    claim,
    edit_cell,
    edit_info,
    edit_results,
    edit_tensors,
    pack,
    read_notebook,
    write_notebook,
)
from grading_fixtures import judged, needs_sandbox
from safetensors.torch import load

from grading import network_measurements, similarity, verify
from grading.archive import read
from grading.grade import read_verdict
from grading.points import award_points
from report.freshness import MIME_TYPE

pytestmark = [pytest.mark.tex, pytest.mark.sandbox, pytest.mark.slow]

ACCURACY = "test_accuracy"
RUN = "checkpoints/fast-0"


@needs_sandbox
def test_an_honest_submission_holds(world, tmp_path, capsys):
    found = read(
        pack(
            tmp_path / "a.zip", {f"one folder/{name}": data for name, data in world.files.items()}
        ),
        world.policy,
    )
    assert found.files == world.files
    verdict = verify.judge(found, world.policy, world.data)
    verify.print_verdict(verdict)
    said = capsys.readouterr().out
    assert verdict.code == 0, said
    claimed = json.loads(world.files[LEDGER])["claims"][ACCURACY]["value"]
    assert said.startswith(
        f"a.zip: claimed {claimed:.2f} %, measured {claimed:.2f} % (the weights)"
    )
    assert verdict.first_page.startswith(b"\x89PNG")
    assert {row.verdict for row in verdict.findings} == {"verified", "recorded"}
    check_what_is_stored(verdict, tmp_path / "a.new", claimed)


def check_what_is_stored(verdict, file, claimed):
    """The grade book reads points, authors and what is compared from the files of a verdict."""
    verify.write_report(verdict, file, seconds=1.0)
    stored = read_verdict(file)
    assert (stored.code, stored.measured, stored.authors[0].student_number) == (0, claimed, "1815")
    awards = {award.name: award for award in award_points(forgeries.POLICY.points, stored.findings)}
    for name in ("block", "network", "training step", "training"):
        assert awards[name].points == awards[name].maximum, awards[name].reason
    low, high = forgeries.POLICY.points.item[4].ramp
    share = min(max((claimed - low) / (high - low), 0), 1)
    assert awards["test accuracy"].points == pytest.approx(20 * share, abs=0.01)
    assert awards["one more epoch"].reason == "results.json has no claim one-more-epoch/*"
    work = similarity.read_work(file.with_suffix(similarity.SUFFIX))
    assert len(work.weights) == similarity.SKETCH and len(work.losses) and len(work.predicted)


def forged_predictions(world):
    """Predictions that are right in nine of ten cases, and a ledger that fits them."""

    def better(kept):
        labels = kept["labels"]
        kept["predicted"] = torch.where(
            torch.arange(len(labels)) % 10 == 0, (labels + 1) % 10, labels
        )
        kept["predicted_with_mirrored"] = kept["predicted"].clone()

    edit_tensors(world, f"{RUN}/predictions.safetensors", better)
    kept = load(world.files[f"{RUN}/predictions.safetensors"])
    edit_info(world, "fast-0", lambda info: info.update(accuracy=90.0))

    def fit(results):
        predicted = kept["predicted"]
        values = network_measurements.accuracies(
            "fast-0", predicted, predicted, kept["labels"], world.data.classes
        )
        for name, value in values.items():
            results["claims"].get(name, {})["value"] = value
        seeds = 90.0, results["claims"]["fast-1/accuracy"]["value"]
        results["claims"]["fast/accuracy"]["value"] = sum(seeds) / 2
        results["claims"]["fast/deviation"]["value"] = abs(seeds[0] - seeds[1]) / 2**0.5
        after = load(world.files["checkpoints/restart-0/predictions.safetensors"])
        right = [
            (predictions["predicted"] == predictions["labels"]).double()
            for predictions in (after, kept)
        ]
        difference = 100 * (right[0] - right[1])
        results["claims"]["restart-0/change"]["value"] = difference.mean().item()
        results["claims"]["restart-0/change_interval"]["value"] = (
            1.96 * difference.std().item() / 10
        )

    edit_results(world, fit)
    edit_history(world, 2, lambda _: 89.0)


def predictions_without_weights(world):
    forged_predictions(world)
    del world.files[f"{RUN}/weights.safetensors"]
    write_notebook(world, read_notebook(world))


def labels_as_predicted(world):
    edit_tensors(
        world,
        f"{RUN}/predictions.safetensors",
        lambda kept: kept.update(labels=kept["predicted"].clone()),
    )


def only_the_right_images(world):
    def few(kept):
        right = kept["labels"] == kept["predicted"]
        kept.update({key: value[right] for key, value in kept.items() if key != "train_losses"})

    edit_tensors(world, f"{RUN}/predictions.safetensors", few)


def edit_history(world, column, change):
    """Change a column of the main run's history with a function of its value."""
    head, *lines = world.files[f"{RUN}/history.csv"].decode().splitlines()
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[column] = str(change(float(row[column])))
    world.files[f"{RUN}/history.csv"] = "\n".join([head, *map(",".join, rows)]).encode()
    write_notebook(world, read_notebook(world))


def losses_of_no_training(world):
    world.files[f"{RUN}/losses.csv"] = ("0.0023\n" * 8).encode()
    edit_history(world, 1, lambda _: 0.0023)


def impossible_speed(world):
    edit_info(world, "fast-0", lambda info: info.update(seconds=1e-5))
    edit_history(world, 4, lambda _: 1e-5)
    claim(world, "training_time", value=1e-5 / 60)


def record(world, change):
    """Change the notebook's record, in notebook and ledger alike."""
    results = json.loads(world.files[LEDGER])
    change(results["code"]["files"])
    world.files[LEDGER] = json.dumps(results).encode()
    notebook = read_notebook(world)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "files" in output.get("data", {}).get(MIME_TYPE, {}):
                output.data[MIME_TYPE] = results["code"]
    write_notebook(world, notebook, sign=False)


def other_picture(world, keep):
    """Have the figure's cell show another PNG, beside its PDF or alone."""
    png = forgeries.drawn([1, 2, 3], "png")
    edit_cell(
        world,
        "fig-loss",
        lambda cell: cell.update(
            outputs=[
                forgeries.shown_as(
                    {
                        **(dict(cell.outputs[0].data) if keep else {}),
                        "image/png": base64.b64encode(png).decode(),
                    }
                )
            ]
        ),
    )


def weights_of_another_run(world):
    torch.manual_seed(99)
    edit_tensors(
        world,
        f"{RUN}/weights.safetensors",
        lambda kept: kept.update(
            {key: value.flip(0) for key, value in kept.items() if value.ndim == 4}
        ),
    )


def run_of_other_data(world):
    edit_info(world, "fast-0", lambda info: info["config"].update(data="0" * 64))


def classes_swapped(world):
    def swap(results):
        claims = results["claims"]
        names = sorted(
            (name for name in claims if name.startswith("class_")),
            key=lambda name: claims[name]["value"],
        )
        claims[names[0]], claims[names[-1]] = claims[names[-1]], claims[names[0]]

    edit_results(world, swap)


def control_left_out(world):
    for name in [name for name in world.files if name.startswith("checkpoints/control-0/")]:
        del world.files[name]
    edit_results(world, lambda results: results["claims"].pop("control-0/accuracy"))


CONCLUSION = "conclusion/the accuracy changes by less than its interval allows"


def just_above(world):
    """A conclusion that the point estimate supports and its interval does not."""
    claims = json.loads(world.files[LEDGER])["claims"]
    bound = claims["restart-0/change"]["value"] + claims["restart-0/change_interval"]["value"] / 2
    return f"restart-0/change < {bound}"


# name: (what is done, exit code, words of the sentence)
FORGERIES = {
    "accuracy_claimed_higher": (
        lambda w: claim(w, ACCURACY, value=96.31),
        1,
        "claims test_accuracy = 96.31",
    ),
    "ledger_edited_and_not_signed": (
        lambda w: edit_results(w, lambda r: r["claims"][ACCURACY].update(value=10.51), sign=False),
        1,
        "has been changed since",
    ),
    "accuracy_claim_missing": (
        lambda w: edit_results(w, lambda r: r["claims"].pop(ACCURACY)),
        1,
        "has no claim test_accuracy: run make submission",
    ),
    "class_claim_missing": (
        lambda w: edit_results(w, lambda r: r["claims"].pop("class_accuracy/3")),
        1,
        "class_accuracy/3 is missing",
    ),
    "claim_renamed": (
        lambda w: edit_results(
            w, lambda r: r["claims"].update(Parameters=r["claims"].pop("parameters"))
        ),
        1,
        "the claim parameters is missing",
    ),
    "raised_with_a_tolerance_of_its_own": (
        lambda w: claim(w, ACCURACY, tolerance=99, value=12.0),
        1,
        "claims test_accuracy = 12",
    ),
    "nan_as_value": (
        lambda w: claim(w, ACCURACY, value=float("nan")),
        2,
        "contains NaN, which is not a number",
    ),
    "infinite_value": (
        lambda w: w.files.update(
            {LEDGER: w.files[LEDGER].replace(b'"value": 82.37', b'"value": 1e999')}
        ),
        2,
        "contains 1e999, which is not a number",
    ),
    "value_as_text": (
        lambda w: claim(w, ACCURACY, value="96.31"),
        1,
        "claims test_accuracy = 96.31",
    ),
    "value_as_list": (
        lambda w: claim(w, "parameters", value=[1]),
        1,
        "parameters has no value, or a value that is too long",
    ),
    "claim_invented": (
        lambda w: edit_results(
            w,
            lambda r: r["claims"].update(
                robustness={"value": 99.9, "unit": "%", "source": "fast-0"}
            ),
        ),
        2,
        "no check exists for robustness = 99.9",
    ),
    "claim_named_like_a_check": (
        lambda w: edit_results(
            w, lambda r: r["claims"].update(paper={"value": 99.9, "unit": "%", "source": "fast-0"})
        ),
        2,
        "exists for paper = 99.9",
    ),
    "conclusion_that_is_false": (
        lambda w: claim(w, CONCLUSION, condition="restart-0/change > 99.5"),
        1,
        "does not hold",
    ),
    "conclusion_without_a_condition": (
        lambda w: claim(w, CONCLUSION, condition=""),
        1,
        "states no condition",
    ),
    "conclusion_within_its_interval": (
        lambda w: claim(w, CONCLUSION, condition=just_above(w)),
        1,
        "does not hold",
    ),
    "conclusion_without_an_interval": (
        lambda w: claim(w, CONCLUSION, condition="fast/deviation < 99.5"),
        1,
        "does not hold",
    ),
    "interval_made_small": (
        lambda w: claim(w, "restart-0/change_interval", value=1e-6),
        1,
        "claims restart-0/change_interval",
    ),
    "published_number_changed": (
        lambda w: claim(w, "published/original", value=8.0),
        1,
        "claims published/original",
    ),
    "change_by_an_epoch_claimed": (
        lambda w: claim(w, "restart-0/change", value=3.0),
        1,
        "claims restart-0/change = 3",
    ),
    "control_left_out": (control_left_out, 2, "no check exists for restart-0/excess"),
    "best_seed_as_the_mean": (
        lambda w: claim(w, "fast/deviation", value=0.001),
        1,
        "claims fast/deviation",
    ),
    "predictions_of_another_seed": (
        lambda w: edit_tensors(
            w,
            "checkpoints/fast-1/predictions.safetensors",
            lambda kept: kept.update(predicted=kept["labels"].clone()),
        ),
        1,
        "the run fast-1: its record says",
    ),
    "classes_swapped": (classes_swapped, 1, "claims class_accuracy/"),
    "fewer_parameters": (
        lambda w: claim(w, "parameters", value=1_000_000),
        1,
        "claims parameters = 1000000",
    ),
    "more_epochs": (lambda w: claim(w, "epochs", value=300), 1, "claims epochs = 300"),
    "better_predictions": (forged_predictions, 1, "the weights give"),
    "better_predictions_without_weights": (
        predictions_without_weights,
        2,
        "weights.safetensors is missing",
    ),
    "labels_as_predicted": (
        labels_as_predicted,
        1,
        "labels are not those of the 100 official test images",
    ),
    "only_the_right_images": (
        only_the_right_images,
        1,
        "are not one class for each of 100 test images",
    ),
    "weights_of_another_run": (weights_of_another_run, 1, "the weights give"),
    "weights_of_another_shape": (
        lambda w: edit_tensors(
            w,
            f"{RUN}/weights.safetensors",
            lambda kept: kept.update({"fc.weight": torch.zeros(10, 2000)}),
        ),
        1,
        "not of the network that the notebook defines",
    ),
    "weights_not_finite": (
        lambda w: edit_tensors(
            w,
            f"{RUN}/weights.safetensors",
            lambda kept: kept.update({"fc.bias": torch.full((10,), float("nan"))}),
        ),
        1,
        "weights.safetensors contains numbers that are not finite",
    ),
    "results_of_a_stand_in": (
        lambda w: edit_results(w, lambda r: r["data"].update(is_fallback=True)),
        1,
        "not of the data that the assignment asks for",
    ),
    "results_of_other_data": (
        lambda w: edit_results(w, lambda r: r["data"].update(fingerprint="0" * 64)),
        1,
        "trained on other data than report/results.json says",
    ),
    "run_of_other_data": (
        run_of_other_data,
        1,
        "trained on other data than report/results.json says",
    ),
    "run_named_outside": (
        lambda w: claim(w, ACCURACY, source="../../secret"),
        1,
        "rests on a run '../../secret'",
    ),
    "loss_in_history_edited": (
        lambda w: edit_history(w, 1, lambda loss: loss / 2),
        1,
        "by its losses",
    ),
    "rate_in_history_edited": (
        lambda w: edit_history(w, 3, lambda rate: rate / 2),
        1,
        "by its schedule",
    ),
    "time_in_history_edited": (
        lambda w: edit_history(w, 4, lambda seconds: seconds / 2),
        1,
        "history ends after",
    ),
    "epochs_added_to_recipe": (
        lambda w: edit_info(w, "fast-0", lambda i: i["config"].update(epochs=300)),
        1,
        "history has 2 epochs, its recipe 300",
    ),
    "accuracy_in_a_record_edited": (
        lambda w: edit_info(w, "fast-1", lambda i: i.update(accuracy=96.31)),
        1,
        "the run fast-1: its record says 96.31 %",
    ),
    "losses_of_no_training": (losses_of_no_training, 2, "which no untrained network has"),
    "impossible_speed": (impossible_speed, 2, "images a second"),
    "finished_in_the_future": (
        lambda w: edit_info(
            w, "fast-0", lambda i: i.update(finished=str(date.today() + timedelta(40)))
        ),
        2,
        "its run.json says that it finished on",
    ),
    "test_far_above_training": (
        lambda w: setattr(w.policy.plausible, "test_above_training", -100.0),
        2,
        "far above the training accuracy",
    ),
    "record_names_a_device": (
        lambda w: record(w, lambda files: files.update({"/dev/zero": "0"})),
        1,
        "names '/dev/zero', which is no file of a submission",
    ),
    "record_names_a_secret": (
        lambda w: record(w, lambda files: files.update({"../../secret": "0"})),
        1,
        "names '../../secret', which is no file of a submission",
    ),
    "record_names_a_missing_file": (
        lambda w: record(w, lambda files: files.update({"checkpoints/fast-9/run.json": "0"})),
        2,
        "files of its runs are missing: checkpoints/fast-9/run.json",
    ),
    "code_edited_and_not_signed": (
        lambda w: edit_cell(w, "prose()", lambda cell: cell.update(source="prose(1)"), sign=False),
        2,  # no number is proved wrong
        "changed since the notebook was run",
    ),
    "output_edited_and_not_signed": (
        lambda w: edit_cell(
            w,
            "prose()",
            lambda cell: cell.outputs[0].data.update(
                {"text/markdown": "It is right in 96.31 % of cases."}
            ),
            sign=False,
        ),
        1,
        "was not shown by prose()",
    ),
    "picture_without_pdf": (lambda w: other_picture(w, keep=False), 1, "was not shown by prose()"),
    "picture_beside_a_true_pdf": (
        lambda w: other_picture(w, keep=True),
        1,
        "is not among the figures of its run",
    ),
    "notebook_never_run": (
        lambda w: edit_cell(w, "ledger.write()", lambda cell: cell.update(outputs=[]), sign=False),
        2,  # no number is proved wrong
        "was not run to its end",
    ),
    "losses_missing": (lambda w: w.files.pop(f"{RUN}/losses.csv"), 2, f"missing: {RUN}/losses.csv"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery(world, no_paper, name):
    forge, code, words = FORGERIES[name]
    forge(world)
    verdict = judged(world)
    assert (verdict.code, words in verdict.reason) == (code, True), verdict.reason


# What a definition does to the process that runs it, with a claim of 96.31 %
