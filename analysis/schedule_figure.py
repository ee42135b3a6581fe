"""The figure of a learning-rate schedule."""
import matplotlib.pyplot as plt

from analysis.figures import BLUE
from report.geometry import COLUMN_INCHES


def plot_schedule(rates, steps_per_epoch):
    """Draw the learning rate of each step against the epoch; return the figure.

    `rates` are the rates of all steps from the first on, a list of floats.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 1.5))
    epochs = [(step + 1) / steps_per_epoch for step in range(len(rates))]
    axes.plot(epochs, rates, color=BLUE)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, None), ylim=(0, None))
    return figure
