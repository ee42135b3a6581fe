"""Speed of training and of grading (`make bench`).

Training in images per second: the course's loop, ours, the model alone. All rows are measured in
one run on one machine, interleaved over several rounds; the table shows medians. `matmul_fraction`
is the share of this machine's own measured matrix-product rate, in the row's number format, that
training reaches, counting three times the forward cost per image.

Grading in archives per minute, without CIFAR-10 and with it: copies of this submission, judged as
`make grade` judges a course, and the most memory that all its processes take together.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import training
import utils
from tools.notebook_definitions import load_definitions
from tools.packing import submission_files, write_archive
from tools.project_files import NOTEBOOK, ROOT
from tools.run_notebook import read_notebook
from tools.terminal import replace_unprintable
from training import loop

GPU = utils.DEVICE.type == "cuda"
ROUNDS, IMAGES, BATCHES = (5, 50_000, (512, 1024)) if GPU else (5, 2_048, (256, 512, 1024))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ResNet = load_definitions()["ResNet"]
COURSE = "(a) the course's loop, batch 100"  # the row that others are compared with
SAME = training.Recipe()  # the course's own algorithm: Adam, crop, flip
MUON = training.Recipe(
    batch_size=512,
    optimizer="muon",
    learning_rate=0.02,
    momentum=0.95,
    weight_decay=0.2,
    label_smoothing=0.1,
    augmentation="crop flip",
    pad_with="reflection",
)


def images():
    """The images that every row trains on."""
    data = utils.load_data(ROOT / "data")
    few = torch.arange(IMAGES) % len(data.train_labels)
    return replace(
        data,
        train_images=data.train_images[few],
        train_labels=data.train_labels[few],
        test_images=data.test_images[:10],
        test_labels=data.test_labels[:10],
    )


def clock():
    """Seconds, once everything queued on the device is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_rate(precision, size=4096 if GPU else 2048):
    """Operations per second of a square matrix product."""
    a = torch.randn(size, size, device=utils.DEVICE, dtype=DTYPES[precision])
    a @ a
    began = clock()
    for _ in range(4):
        a @ a
    return 4 * 2 * size**3 / (clock() - began)


class Pictures(Dataset):
    """The training images as PIL images, transformed one by one, as torchvision's CIFAR10 does."""

    def __init__(self):
        data = images()
        mean, std = data.normalisation()
        self.pictures = [transforms.functional.to_pil_image(image) for image in data.train_images]
        self.labels = data.train_labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(self.pictures[i]), self.labels[i]


@functools.cache
def pictures():
    return Pictures()


def course_loop():
    """(a) The assignment's loop: PIL transforms, DataLoader, float32, Adam, .item() every step."""
    net = ResNet().to(utils.DEVICE)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    began = clock()
    running = 0.0
    for images, labels in DataLoader(pictures(), batch_size=100, shuffle=True, drop_last=True):
        loss = criterion(net(images.to(utils.DEVICE)), labels.to(utils.DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    return len(pictures()) // 100 * 100 / (clock() - began)


def our_loop(data, recipe, gradients=training.MatmulConvGradients):
    """(b), (c), (e), (f) One epoch of `fit`, without its evaluation."""
    loop.MatmulConvGradients = gradients  # has no effect on a GPU
    with tempfile.TemporaryDirectory() as folder:
        run = training.fit(ResNet(), data, folder, recipe)
    return len(run.losses) * recipe.batch_size / run.info["seconds"]


def model_alone(data, batch_size, precision):
    """(d) The same network and optimiser on one batch that stays where it is."""
    net = ResNet().to(utils.DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    images = torch.randn(batch_size, 3, 32, 32, device=utils.DEVICE).contiguous(
        memory_format=torch.channels_last
    )
    labels = data.train_labels[:batch_size].to(utils.DEVICE)
    gradients = contextlib.nullcontext() if GPU else training.MatmulConvGradients()
    began = clock()
    for _ in range(len(data.train_labels) // batch_size):
        with (
            torch.autocast(utils.DEVICE.type, DTYPES[precision], enabled=precision != "fp32"),
            gradients,
        ):
            logits = net(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return len(data.train_labels) // batch_size * batch_size / (clock() - began)


def data_rate(data, batch_size):
    """Images per second of our data handling alone: order, crop, flip, normalisation."""
    batches = training.Batches(data, replace(SAME, batch_size=batch_size), utils.DEVICE)
    began = clock()
    for epoch in range(5):
        batches.start_epoch(epoch)
        for step in range(batches.steps):
            batches.batch(step)
    return 5 * batches.steps * batch_size / (clock() - began)


def rows_to_measure(data, precision):
    """What the table compares: name -> (number format, function that gives images per second)."""
    # A process without what `fit` sets for its own.
    worker = multiprocessing.get_context("spawn").Pool(1)
    rows = {
        COURSE: ("fp32", lambda: worker.apply(course_loop)),
        "(b) ours, batch 100": (precision, lambda: our_loop(data, SAME)),
    }
    for batch_size in BATCHES:
        recipe = replace(SAME, batch_size=batch_size)
        rows[f"(c) ours, batch {batch_size}"] = (precision, lambda r=recipe: our_loop(data, r))
    if not GPU:
        by_onednn = functools.partial(our_loop, gradients=contextlib.nullcontext)
        recipe = replace(SAME, batch_size=512)
        name = "(c) ours, batch 512, gradients by oneDNN"
        rows[name] = (precision, lambda: by_onednn(data, recipe))
    largest = BATCHES[-1]
    rows[f"(d) model alone, batch {largest}"] = (
        precision,
        lambda: model_alone(data, largest, precision),
    )
    augmented = replace(MUON, augmentation="crop flip cutmix trivialaugment")
    rows["(e) ours, with Muon, batch 512"] = (precision, lambda: our_loop(data, MUON))
    rows["(f) the same with CutMix and TrivialAugment"] = (
        precision,
        lambda: our_loop(data, augmented),
    )
    return rows


def measure(rows, data, precision):
    """Speeds by row, matrix-product rates by number format, data rates by batch size: dicts."""
    speeds = {name: [] for name in rows}
    matmul = {kind: [] for kind in {"fp32", precision}}
    handling = {batch_size: [] for batch_size in BATCHES}
    for round_ in range(-1, ROUNDS):  # the first round only warms up
        for kind, rates in matmul.items():
            rates.append(matmul_rate(kind))
        for batch_size, rates in handling.items():
            rates.append(data_rate(data, batch_size))
        for name, (_, speed_of_row) in rows.items():
            speed = speed_of_row()
            if round_ >= 0:
                speeds[name].append(speed)
        print(f"round {round_ + 1} of {ROUNDS}", file=sys.stderr)
    return speeds, matmul, handling


GRADE = """
import sys
from pathlib import Path
from grading import grade
grade.main(*map(Path, sys.argv[1:]))
"""
ARCHIVES = 6  # of a course


def grading_rows():
    """What grading a small course takes, without and with CIFAR-10: a list of dicts."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder, "course")
        course.mkdir()
        files = submission_files(read_notebook(NOTEBOOK))
        for number in range(ARCHIVES):
            write_archive(course / f"{number}.zip", files, "submission", ROOT)
        for name, data in (("without data", Path(folder, "none")), ("with data", ROOT / "data")):
            if name == "with data" and not utils.has_data(data):
                continue
            seconds, memory = graded(course, Path(folder, name), data)
            speed = 60 * ARCHIVES / seconds
            rows.append({"name": name, "archives_per_minute": speed, "memory_gb": memory / 1e9})
    return rows


def graded(course, build, data):
    """Seconds that grading a course takes, and the most bytes of memory of all its processes.

    Args:
        course: the folder of archives.
        build: an empty folder for what is written.
        data: the folder of CIFAR-10.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", GRADE, str(course), str(build)],
        cwd=ROOT,
        env=os.environ | {"CIFAR10_DIR": str(data)},
        stdout=subprocess.DEVNULL,
    )
    most = 0
    while process.poll() is None:
        most = max(most, memory_below(process.pid))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"grading ended with status {process.returncode}")
    return time.perf_counter() - began, most


def memory_below(pid):
    """Bytes of memory of a process and all below it; what they share counts once."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                info = one.memory_full_info()
                total += getattr(info, "pss", info.uss)  # only Linux has the first
    return total


def training_cost():
    """Operations of training on one image: the backward pass costs twice the forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ResNet().eval()(torch.zeros(1, 3, 32, 32))
    return 3 * counter.get_total_flops()


def table_of(rows, median, rate):
    """The table of results; `median` speeds by row, `rate` of matrix products by number format."""
    cost = training_cost()
    table = []
    for name, (kind, _) in rows.items():
        row = {
            "name": name,
            "images_per_s": median[name],
            "ratio": median[name] / median[COURSE],
            "dtype": kind,
            "matmul_fraction": median[name] * cost / rate[kind],
        }
        table.append(row)
    return pd.DataFrame(table)


def main():
    """Measure, print the table, write build/bench.json."""
    replace_unprintable()
    data = images()
    environment = training.environment()
    rows = rows_to_measure(data, environment["precision"])
    speeds, matmul, handling = measure(rows, data, environment["precision"])
    rate = {kind: max(values) for kind, values in matmul.items()}
    median = {name: statistics.median(values) for name, values in speeds.items()}
    table = table_of(rows, median, rate)
    best = max((name for name in rows if name.startswith("(c)")), key=median.get)
    batch_size = next(b for b in BATCHES if f"batch {b}" in best)
    share = median[best] / statistics.median(handling[batch_size])
    speedup = median[best] / median[COURSE]
    products = [f"{kind} {value / 1e9:,.0f} GFLOP/s" for kind, value in sorted(rate.items())]
    print(f"{environment}; {data.source}; medians of {ROUNDS} rounds of {IMAGES:,} images")
    print(f"matrix products: {', '.join(products)}")
    print(table.to_string(index=False, float_format=lambda value: f"{value:,.2f}"))
    print(f"{best}: {speedup:.2f} times (a); data handling takes {100 * share:.1f} % of its time")
    grading = grading_rows()
    print(pd.DataFrame(grading).to_string(index=False, float_format=lambda value: f"{value:,.2f}"))
    record = {
        "machine": environment,
        "grading": grading,
        "rows": table.to_dict("records"),
        "speedup": speedup,
        "best": best,
        "data_share": share,
        "matmul_flops": rate,
    }
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
