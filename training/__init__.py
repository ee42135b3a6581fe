"""The training engine: recipes, batches, the training loop, and stored runs. Import from here."""
from training.augmentation import trivial_augment
from training.batches import COURSE_NORMALISATION, Batches, image_order
from training.engine_key import ENGINE, engine_hash, environment
from training.interrupt import TrainingStopped
from training.loop import Trainer, train
from training.network_key import network_probe, same_probe
from training.optimizers import make_optimizers
from training.recipe import Recipe, recipe_of, recipe_table
from training.run_key import configuration, differences_between, folder_key, short_hash
from training.runs import (
    TRAIN_LOSS_IMAGES,
    Run,
    fit,
    load_or_train,
    load_run,
    load_weights,
)
from training.speed import MatmulConvGradients
from training.whitening import whiten_first_filters

__all__ = [
    "COURSE_NORMALISATION",
    "ENGINE",
    "TRAIN_LOSS_IMAGES",
    "Batches",
    "MatmulConvGradients",
    "Recipe",
    "Run",
    "Trainer",
    "TrainingStopped",
    "configuration",
    "differences_between",
    "engine_hash",
    "environment",
    "fit",
    "folder_key",
    "image_order",
    "load_or_train",
    "load_run",
    "load_weights",
    "make_optimizers",
    "network_probe",
    "recipe_of",
    "recipe_table",
    "same_probe",
    "short_hash",
    "train",
    "trivial_augment",
    "whiten_first_filters",
]
