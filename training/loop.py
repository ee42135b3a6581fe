"""The training loop, and a network with all that one step of it needs."""
import contextlib
import os

import torch
from torch import nn

from training.optimizers import make_optimizers
from training.speed import CudaGraph, MatmulConvGradients, keep_freed_memory
from utils import DEVICE

# cuBLAS gives the same bits again only with a fixed workspace.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SEED_STRIDE = 1_000_003  # a prime: runs with neighbouring seeds share no step's seed


def train(trainer, batches, progress, metrics, console, checkpointer, take_snapshot):
    """Train from where `progress` stands to the end of the recipe.

    Args:
        trainer: a Trainer.
        batches: a Batches.
        progress: a Progress, brought up to date on the way.
        metrics: a Metrics for the same progress.
        console: a Console.
        checkpointer: a Checkpointer.
        take_snapshot: a function of the progress, called at the end of each epoch.

    Raises:
        SubmissionError: if a loss, gradient or weight is not finite; if the state cannot be
            written.
        TrainingStopped: on Ctrl-C, once the state is saved.
    """
    recipe = trainer.recipe
    for epoch in range(progress.epoch, recipe.epochs):
        batches.start_epoch(epoch)
        console.start_epoch(progress)

        for step in range(progress.step, batches.steps):
            global_step = epoch * batches.steps + step
            torch.manual_seed(recipe.seed + SEED_STRIDE * global_step)  # for dropout and the like
            learning_rate = recipe.rate(global_step, batches.steps)
            metrics.add(trainer.step(batches.batch(step), learning_rate))
            progress.step += 1
            console.advance()

            is_last = progress.step == batches.steps
            save_now = checkpointer.due()
            if save_now or is_last or metrics.due():
                metrics.fetch(learning_rate, trainer.scaler.get_scale())
                console.show_step(progress, learning_rate)
            if save_now and not is_last:
                checkpointer.save(trainer, progress)

        progress.end_epoch(learning_rate)
        console.end_epoch(progress.history[-1])
        take_snapshot(progress)
        metrics.restart_clock()
        if checkpointer.due() or progress.epoch == recipe.epochs:
            checkpointer.save(trainer, progress)
    console.finish()


class Trainer:
    """A network on the device with optimisers, number format and gradient scaler.

    Creating one sets PyTorch up for the whole process: cuDNN deterministic, freed memory kept.

    Args:
        model: the network, moved to the device and trained in place.
        recipe: a Recipe.
        precision: a key of DTYPES, the number format of the forward pass.
    """

    def __init__(self, model, recipe, precision):
        keep_freed_memory()
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        self.model = model.to(DEVICE, memory_format=torch.channels_last).train()
        self.recipe = recipe
        self.dtype = DTYPES[precision]
        self.optimizers = make_optimizers(model, recipe, self.dtype)
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=self.dtype == torch.float16)
        self.rate = torch.zeros((), device=DEVICE)  # a tensor: replayed CUDA graphs read it
        self.update = self._choose_update()
        if DEVICE.type == "cpu":
            self.conv_gradients = MatmulConvGradients()
        else:
            self.conv_gradients = contextlib.nullcontext()

    def _choose_update(self):
        """What a step calls; on a GPU a CUDA graph, unless a scaler decides on the host."""
        # A zero-learning-rate control needs no gradients.
        update = self._measure if self.recipe.learning_rate == 0 else self._update
        if DEVICE.type == "cuda" and not self.scaler.is_enabled():
            return CudaGraph(update)
        return update

    def step(self, batch, learning_rate):
        """Update the network by a batch as from `Batches.batch`.

        Skip the update and return NaN as the loss if any gradient is not finite. With a gradient
        scaler, which expects that now and then, the loss is returned as it is.

        Returns:
            One tensor (2 + B,) on the device: loss, accuracy in [0, 1], the loss of each image.
        """
        images, labels, mixed_labels, lam = batch
        self.rate.fill_(learning_rate)
        return self.update(images, labels, mixed_labels, torch.full((), lam, device=DEVICE))

    def forward(self, images, labels, mixed_labels, lam):
        """Return the loss of each image of a batch, (B,), and the accuracy in [0, 1].

        Args:
            images: float32 (B, 3, H, W), normalised.
            labels: int64 (B,).
            mixed_labels: int64 (B,), of the images mixed in.
            lam: the weight of `labels` in the loss, in [0, 1].
        """
        images = images.contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(DEVICE.type, self.dtype, enabled=self.dtype != torch.float32)
        with autocast, self.conv_gradients:
            logits = self.model(images).float()
        losses = self._cross_entropy(logits, labels)
        mixed_losses = self._cross_entropy(logits, mixed_labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return losses.lerp(mixed_losses, 1 - lam), accuracy

    def _cross_entropy(self, logits, labels):
        smoothing = self.recipe.label_smoothing
        return nn.functional.cross_entropy(
            logits, labels, label_smoothing=smoothing, reduction="none"
        )

    @torch.no_grad()
    def _measure(self, *batch):
        """What `step` returns, without gradients; running statistics still move."""
        losses, accuracy = self.forward(*batch)
        return _measured(losses.mean(), accuracy, losses)

    def _update(self, *batch):
        """One update without host synchronisation, as recording a CUDA graph requires.

        The fused optimizers and Muon skip the step themselves where `found_inf` is 1; scaler.step
        would wait for the device to decide this.
        """
        losses, accuracy = self.forward(*batch)
        loss = losses.mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.scaler.scale(loss).backward()

        finite = self._unscale_gradients()
        for optimizer in self.optimizers:
            optimizer.found_inf = 1 - finite.float()  # all of them skip this step, or none
            for group in optimizer.param_groups:
                group["lr"] = self.rate
            optimizer.step()
        self.scaler.update()

        loss = torch.where(finite | self.scaler.is_enabled(), loss.detach(), torch.nan)
        return _measured(loss, accuracy, losses.detach())

    def _unscale_gradients(self):
        """Undo the scaler's factor; whether all gradients are finite, a tensor."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).isfinite()

    def state_dict(self):
        """Return the state of network, optimisers and scaler, with all tensors on the CPU."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
        }
        return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, state)

    def load_state_dict(self, state):
        """Continue from what `state_dict` gave, on any device."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state["scaler"] and self.scaler.is_enabled():  # the number format may have changed
            self.scaler.load_state_dict(state["scaler"])


def _measured(loss, accuracy, losses):
    """One tensor (2 + B,), so that one copy brings it all to the host."""
    return torch.cat([torch.stack([loss, accuracy]), losses])
