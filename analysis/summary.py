"""What the sections of the assignment's notebook report, and the texts that sum them up."""
import dataclasses
import functools

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import utils
from analysis import layer_table, results, run_statistics
from analysis.display import prose


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with half of its 95 % interval; as text it is "2.5 ± 0.6"."""
    value: float
    half_interval: float

    def __str__(self):
        return results.with_interval(self.value, self.half_interval)

    @property
    def signed(self):
        """The text with a sign, as of a change: "+2.5 ± 0.6"."""
        return results.with_interval(self.value, self.half_interval, signed=True)

    @property
    def size(self):
        """The text without a sign: "2.5 ± 0.6" for -2.5."""
        return results.with_interval(abs(self.value), self.half_interval)

    @property
    def points(self):
        """The text of a change of an accuracy, with two decimals: "−2.52 ± 0.63"."""
        return results.in_points(self.value, self.half_interval)

    @property
    def is_clear(self):
        """Whether the interval leaves out zero."""
        return abs(self.value) > self.half_interval


@dataclasses.dataclass(frozen=True)
class Network:
    """The size of a network.

    Attributes:
        parameters: how many there are.
        forward_cost: of one image, in GFLOP; a multiply-add counts as two operations.
        block_difference: the largest difference of an output from torchvision's block.
    """
    parameters: int
    forward_cost: float
    block_difference: float


@dataclasses.dataclass(frozen=True)
class TrainingFacts:
    """How a network was trained, as a sentence says it.

    Attributes:
        epochs: in words, "5 epochs".
        minutes: how long it took.
        device: what trained it.
        machine: the same with the number of threads.
        source: the name of the data.
    """
    epochs: str
    minutes: float
    device: str
    machine: str
    source: str


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a trained network makes of the test images.

    Attributes:
        accuracy: in per cent, with its 95 % interval over test images.
        accuracy_with_tta: with flip test-time augmentation, in per cent.
        confusion: counts (C, C), true classes in rows.
        most_confused: the two classes confused most, "cat and dog".
        most_confused_share: their share of all mistakes, in per cent.
        images: how many test images there are.
        original: the accuracy that the original report states, in per cent.
    """
    accuracy: Estimate
    accuracy_with_tta: float
    confusion: np.ndarray
    most_confused: str
    most_confused_share: float
    images: int
    original: float


@dataclasses.dataclass(frozen=True)
class OneMoreEpoch:
    """What one more epoch does, beside a control run with a learning rate of zero.

    Accuracies are in per cent and their changes in points, losses in nats; what each measure is
    says `run_statistics.epoch_measures`. The running mean is that at `first_step`, after a fifth of
    the epoch, and at `last_step`, its end. `all_reports_rise` says whether it rises in all of the
    published reports.
    """
    first_step: int
    last_step: int
    accuracy: float
    control_accuracy: float
    running_mean_first: float
    running_mean_last: float
    control_running_mean_first: float
    control_running_mean_last: float
    excess: Estimate
    rise: Estimate
    change: Estimate
    control_change: Estimate
    change_beyond_control: Estimate
    all_reports_rise: bool

    @property
    def direction(self):
        """Whether the running mean of the loss "rises" or "falls", or "stays level"."""
        if self.running_mean_last > self.running_mean_first:
            return "rises"
        if self.running_mean_last < self.running_mean_first:
            return "falls"
        return "stays level"

    @property
    def effect_on_loss(self):
        """What the updates do to the loss, compared with the control: a clause."""
        if not self.excess.is_clear:
            return (
                "the loss of the training steps does not differ clearly from that of the control "
                f"({self.excess.signed})"
            )
        side = "above" if self.excess.value > 0 else "below"
        return f"the loss of the training steps is {self.excess.size} {side} that of the control"

    @property
    def effect_on_accuracy(self):
        """What the updates do to the test accuracy, beyond the control: a clause."""
        points = self.change_beyond_control.points
        if self.change_beyond_control.is_clear:
            return f"the difference, {points} points, is the effect of the updates"
        return f"the difference, {points} points, cannot be distinguished from zero"

    @property
    def changes(self):
        """How the test accuracy changes, with and without updates: a sentence."""
        return (
            f"One more epoch changes our test accuracy by {self.change.points} points, and the "
            "control, a run with a learning rate of zero, changes it by "
            f"{self.control_change.points} points; {self.effect_on_accuracy}."
        )

    @property
    def comparison_with_reports(self):
        """Whether the running mean of the loss rises as in the published reports: a sentence."""
        sentence = f"The running mean of the loss {self.direction} within the epoch"
        if not self.all_reports_rise:
            return f"{sentence}."
        if self.direction == "rises":
            return f"{sentence}, as in all reports."
        return f"{sentence}, while it rises in all reports."

    def table(self):
        """Return the measures of both runs and their difference: a DataFrame of strings."""
        first, last = self.first_step, self.last_step
        rise = self.running_mean_last - self.running_mean_first
        control_rise = self.control_running_mean_last - self.control_running_mean_first
        rows = [
            ("test accuracy, %", f"{self.accuracy:.2f}", f"{self.control_accuracy:.2f}", ""),
            (
                "change of the test accuracy, points",
                self.change.points,
                self.control_change.points,
                self.change_beyond_control.points,
            ),
            (
                f"running mean of the loss at step {first}",
                f"{self.running_mean_first:.4f}",
                f"{self.control_running_mean_first:.4f}",
                "",
            ),
            (
                f"running mean of the loss at step {last}, the end",
                f"{self.running_mean_last:.4f}",
                f"{self.control_running_mean_last:.4f}",
                self.excess.signed,
            ),
            (
                f"change of the running mean since step {first}",
                results.signed_text(rise, 4),
                results.signed_text(control_rise, 4),
                self.rise.signed,
            ),
        ]
        columns = ["measure", "one more epoch", "control", "difference"]
        return pd.DataFrame(rows, columns=columns).set_index("measure")


class Summary:
    """Collects what the sections of the notebook report; each claims its numbers.

    The attributes `network`, `data`, `run`, `trained`, `evaluation` and `epoch` are None until
    their section has been run. Abstract, conclusions and the table of accuracies consist of what
    is there, so that a section can be removed.
    """

    def __init__(self, ledger):
        self.ledger = ledger
        self.network = None
        self.data = None
        self.run = None
        self.trained = None
        self.evaluation = None
        self.epoch = None
        self.abstract_handle = None  # of the cell that shows the abstract

    def add_network(self, net, table, block_difference):
        """Claim the size of `net` and the outputs in its layer table; return a Network.

        `table` is the DataFrame of `layer_table`, `block_difference` the largest difference of an
        output from torchvision's block.
        """
        parameters = sum(parameter.numel() for parameter in net.parameters())
        forward_cost = layer_table.forward_cost(net)
        results.claim_network(self.ledger, table, parameters, forward_cost, block_difference)
        self.network = Network(parameters, forward_cost, block_difference)
        return self.network

    def add_data(self, data):
        """Note the utils.Data that runs rest on; return what they are, as Markdown."""
        self.data = data
        means, deviations = data.normalisation()
        mean_text = ", ".join(f"{mean:.3f}" for mean in means)
        deviation_text = ", ".join(f"{deviation:.3f}" for deviation in deviations)
        return (
            f"The data are {data.source}: {len(data.train_labels):,} training and "
            f"{len(data.test_labels):,} test images. Inputs are normalised by the training images' "
            f"own means ({mean_text}) and standard deviations ({deviation_text}) of red, green and "
            "blue."
        )

    def add_training(self, run):
        """Claim for how long the training.Run `run` was trained; return TrainingFacts."""
        epochs = len(run.history)
        minutes = run.info["seconds"] / 60
        self.ledger.claim("epochs", epochs, "", run)
        self.ledger.claim("training_time", minutes, "min", run)
        self.run = run
        self.trained = TrainingFacts(
            epochs=results.count_of(epochs, "epoch"),
            minutes=minutes,
            device=run.device,
            machine=describe_machine(run),
            source=run.info["source"],
        )
        return self.trained

    def add_evaluation(self, probabilities, mirrored):
        """Claim what the test images say of the network of the run; return an Evaluation.

        `probabilities` are those of the classes for each test image, float (N, C), `mirrored` those
        for the mirrored images.
        """
        data = self.data
        labels = data.test_labels
        confusion = run_statistics.confusion_matrix(
            probabilities.argmax(1), labels, len(data.classes)
        )
        accuracy = utils.accuracy_of(probabilities, labels)
        accuracy_with_tta = utils.accuracy_of(probabilities + mirrored, labels)
        first, second, share = run_statistics.most_confused(confusion)
        interval = run_statistics.accuracy_interval(accuracy, len(labels))
        self.evaluation = Evaluation(
            accuracy=Estimate(accuracy, interval),
            accuracy_with_tta=accuracy_with_tta,
            confusion=confusion,
            most_confused=f"{data.classes[first]} and {data.classes[second]}",
            most_confused_share=share,
            images=len(labels),
            original=self.published["original"],
        )
        results.claim_evaluation(self.ledger, self.run, self.evaluation, data.classes)
        return self.evaluation

    def add_epoch(self, restart, control):
        """Claim what the run `restart` did to the network; return a OneMoreEpoch.

        `control` is its control run with a learning rate of zero.
        """
        self.ledger.claim(f"{self.run.name}/accuracy", self.run.accuracy, "%", self.run)
        after = results.claim_epoch(self.ledger, restart, self.run, control)
        after_control = results.claim_epoch(self.ledger, control, self.run, control)
        steps, _ = run_statistics.running_means(restart.last_epoch)

        def estimate(values, name):
            return Estimate(values[name], values[f"{name}_interval"])

        self.epoch = OneMoreEpoch(
            first_step=int(steps[0]),
            last_step=int(steps[-1]),
            accuracy=after["accuracy"],
            control_accuracy=after_control["accuracy"],
            running_mean_first=after["running_mean_first"],
            running_mean_last=after["running_mean_last"],
            control_running_mean_first=after_control["running_mean_first"],
            control_running_mean_last=after_control["running_mean_last"],
            excess=estimate(after, "excess"),
            rise=estimate(after, "rise"),
            change=estimate(after, "change"),
            control_change=estimate(after_control, "change"),
            change_beyond_control=estimate(after, "change_from_control"),
            all_reports_rise=self.published["rising"] == self.published["reports"],
        )
        return self.epoch

    @functools.cached_property
    def published(self):
        """The statistics of the published reports, a dict; they are claimed when first used."""
        _, published = run_statistics.published()
        return self.ledger.claim_all("published", published)

    def accuracy_table(self):
        """Return the table of test accuracies, ours and the published ones: a DataFrame."""
        images = utils.OFFICIAL_TEST_IMAGES
        accuracies = {}
        if self.evaluation:
            images = self.evaluation.images
            accuracies["ours"] = self.evaluation.accuracy.value
            accuracies["ours, with TTA"] = self.evaluation.accuracy_with_tta
        if self.epoch:
            images = len(self.data.test_labels)
            accuracies["ours, after one more epoch"] = self.epoch.accuracy
        return results.accuracy_table(accuracies, images, self.published)

    def conclusions(self):
        """Return the conclusions as Markdown."""
        sentences = []
        if self.evaluation:
            accuracy = self.evaluation.accuracy
            original = self.evaluation.original
            comparison = results.compare(accuracy.value, accuracy.half_interval, original)
            sentences.append(
                f"The network, trained from scratch for {self.trained.epochs}, reaches "
                f"{accuracy.value:.2f} ± {accuracy.half_interval:.2f} %, {comparison} the "
                f"{original:.2f} % of the original report."
            )
        elif self.trained:
            sentences.append(f"The network is trained from scratch for {self.trained.epochs}.")
        elif self.network:
            sentences.append("The network is built and checked; it is not trained here.")
        if self.epoch:
            sentences.append(
                f"One more epoch changes our test accuracy by {self.epoch.change.points} points, "
                f"the control by {self.epoch.control_change.points} points. "
                f"{self.epoch.comparison_with_reports}"
            )
        return " ".join(sentences)

    def abstract(self):
        """Return the abstract as Markdown."""
        sentences = []
        if self.network:
            sentences.append(
                f"A bottleneck residual network with {self.network.parameters:,} parameters is "
                "built from pieces, and each piece is checked."
            )
        if self.trained:
            sentences.append(self._training_sentence())
        if self.evaluation:
            sentences.append(
                "An earlier student (the *original report*) trained another network, that of the "
                "course's checkpoint, for one more epoch and reached "
                f"{self.evaluation.original:.2f} %."
            )
        if self.epoch:
            sentences.append(self.epoch.changes)
        sentences.append(
            "A program recomputes accuracies from stored weights or predictions, and compares "
            "losses with the records of the runs."
        )
        return " ".join(sentences)

    def _training_sentence(self):
        """What the abstract says of training, and of the accuracy if it is known."""
        trained = self.trained
        if not self.evaluation:
            return (
                f"It is trained from scratch on {trained.source} for {trained.epochs}, in "
                f"{trained.minutes:.1f} minutes on {trained.device}."
            )
        return (
            f"Trained from scratch on {trained.source} for {trained.epochs}, in "
            f"{trained.minutes:.1f} minutes on {trained.device}, it classifies "
            f"{self.evaluation.accuracy.value:.2f} % of the test images correctly."
        )

    def show_abstract(self):
        """Show the place of the abstract, which `fill_abstract` fills at the end of the run."""
        display({"text/html": "<h2>Abstract</h2>"}, raw=True)
        self.abstract_handle = display(
            Markdown("*(Filled at the end of the run.)*"), display_id="abstract"
        )

    def fill_abstract(self):
        """Show the abstract in its place; do nothing if no cell shows one."""
        if self.abstract_handle:
            prose(self.abstract(), self.abstract_handle)


def describe_machine(run):
    """Return the CPU threads and the device that trained a run, in words."""
    threads = run.environments[-1]["threads"]  # a continued run keeps their number
    return f"{results.count_of(threads, 'thread')} of {run.device}"
