"""Training of the VQ-GAN."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss
from torch.nn.utils import clip_grad_norm_

from common.checkpoint_key import CHECKPOINT_KEY
from common.collectives import sum_over_ranks
from common.errors import UserError
from common.keyed import KeyedRandom
from common.layers import use_channels_last
from vq_gan_3d.discriminators import PatchDiscriminator
from vq_gan_3d.losses import AdversarialLoss, LossWeights, gradient_error, perceptual_loss
from vq_gan_3d.perceptual import VGG16Distance
from vq_gan_3d.pictures import above_each_other
from vq_gan_3d.vqgan import VQGAN

Batch = dict[str, Any]


class VQGANModule(pl.LightningModule):
    """Trains a VQ-GAN on batches with `ct` (B, 1, D, H, W) in [-1, 1].

    Autoencoder and discriminators are two parameter groups of one optimizer, and their losses share one
    backward pass: a batch is one step, whatever the losses, for every scheduler, checkpoint and `max_steps`;
    gradient accumulation, fp16 scaling and plain DDP work as usual.

    Args:
        vqgan: begins as the best linear codec of the training data, unless it has been trained before.
        weights: of the loss terms.
        optimizer: parameter groups -> optimizer.
        discriminators: (slices, volumes); used where a weight asks for them.
        perceptual: used where a weight asks for it; stays outside this module's state.
        lr_schedule: optimizer, all steps -> scheduler, stepped after every training step.
        latent_noise: largest noise on the latents in training, in standard deviations; a decoder that has seen inexact
            latents forgives those that the diffusion draws.
        clip_norm: largest gradient norm of the autoencoder, and of the discriminators; 0: any.
        channels_last: memory layout of the convolutions; results agree up to rounding.
        init_patches: training patches, evenly spread over the data set, that the linear codec is fitted to.
        meta: plain data that describes this network; goes into every checkpoint.

    Raises:
        ValueError: a weight > 0 without the network it needs.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        weights: LossWeights,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        discriminators: Sequence[PatchDiscriminator] | None = None,
        perceptual: VGG16Distance | None = None,
        lr_schedule: Callable[[torch.optim.Optimizer, float], Any] | None = None,
        latent_noise: float = 0.0,
        clip_norm: float = 1.0,
        channels_last: bool = False,
        init_patches: int = 32,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vqgan, self.weights = vqgan, weights
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        if not 0 <= latent_noise < math.inf:
            raise UserError(f"need latent_noise >= 0, got {latent_noise}")
        self.latent_noise, self.clip_norm, self.init_patches = latent_noise, clip_norm, init_patches
        if channels_last:
            use_channels_last(vqgan)
        self.meta = dict(meta or {})
        self.adversarial = _adversarial(discriminators, weights)
        self._frozen = _perceptual(perceptual, weights)
        self._squared_error = torch.zeros(2, dtype=torch.float64)  # sum and voxels of this rank's validation

    def on_fit_start(self) -> None:
        for network in self._frozen:
            network.to(self.device)

    def on_train_start(self) -> None:
        if not self.vqgan.initialized:
            self.vqgan.init_linear_from(self._spread_patches().to(self.device))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        ct = batch["ct"]
        random = KeyedRandom(batch["sample_key"], self.device)
        reconstruction, info = self.vqgan(ct, random, self.latent_noise)
        terms = {"l1": l1_loss(reconstruction, ct), "l2": mse_loss(reconstruction, ct), "quantizer": info.loss}
        loss = self.weights.l1 * terms["l1"] + self.weights.l2 * terms["l2"] + info.loss
        if self.weights.gradients > 0:
            terms["gradients"] = gradient_error(ct, reconstruction)
            loss = loss + self.weights.gradients * terms["gradients"]
        for network in self._frozen:
            terms["perceptual"] = perceptual_loss(network, ct, reconstruction, random)
            loss = loss + self.weights.perceptual * terms["perceptual"]
        if self.adversarial is not None and self._adversarial_now:
            terms["generator"], terms["discriminator"] = self.adversarial(ct, reconstruction, random)
            loss = loss + terms["generator"] + terms["discriminator"]
        elif self.adversarial is not None:
            loss = loss + _zero_for(self.adversarial)
        if info.perplexity is not None:
            terms["perplexity"] = info.perplexity
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach())
        return loss

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        autoencoder, *others = optimizer.param_groups
        largest = self.clip_norm or math.inf  # a norm of at most 0 would leave nothing to learn from
        self.log("train/grad_norm", clip_grad_norm_(autoencoder["params"], largest))
        for group in others:
            if self._adversarial_now:
                clip_grad_norm_(group["params"], largest)
            else:
                for parameter in group["params"]:
                    parameter.grad = None  # or Adam would count these steps

    def on_validation_epoch_start(self) -> None:
        self._squared_error = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        ct = batch["ct"]
        reconstruction, info = self.vqgan(ct)
        self.log("val/loss", l1_loss(reconstruction, ct), batch_size=len(ct), sync_dist=True, prog_bar=True)
        if info.perplexity is not None:
            self.log("val/perplexity", info.perplexity, batch_size=len(ct), sync_dist=True)
        error = (reconstruction.float() - ct).square()
        self._squared_error += torch.stack([error.sum(), error.new_tensor(error.numel())])
        if batch_idx == 0:
            self._show(above_each_other(ct[0], reconstruction[0]))

    def on_validation_epoch_end(self) -> None:
        total, voxels = sum_over_ranks(self._squared_error)
        psnr = 10 * torch.log10(4 / (total / voxels))  # the range [-1, 1] is 2 wide
        self.log("val/psnr", psnr.float(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": list(self.vqgan.parameters())}]
        if self.adversarial is not None:
            groups.append({"params": list(self.adversarial.parameters())})
        optimizer = self.make_optimizer(groups)
        if self.make_lr_schedule is None:
            return optimizer
        schedule = self.make_lr_schedule(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.meta

    @property
    def _adversarial_now(self) -> bool:
        return self.adversarial is not None and self.global_step >= self.weights.disc_start

    def _spread_patches(self) -> Tensor:
        """The same patches on every rank: (N, 1, D, H, W)."""
        dataset = self.trainer.datamodule.train  # type: ignore[attr-defined]
        count = min(self.init_patches, len(dataset))
        return torch.stack([dataset[i * len(dataset) // count]["ct"] for i in range(count)])

    def _show(self, picture: Tensor) -> None:
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger) and self.trainer.is_global_zero:
                logger.experiment.add_image("val/original_above_reconstruction", picture, self.global_step)


def _adversarial(discriminators: Sequence[PatchDiscriminator] | None, weights: LossWeights) -> AdversarialLoss | None:
    if not weights.adversarial:
        return None
    if discriminators is None or len(discriminators) != 2:
        raise UserError(
            "the weights gan and features need two discriminators (slices, volumes),"
            f" got {discriminators}; give them or set both weights to 0"
        )
    slices, volumes = discriminators
    return AdversarialLoss(slices, volumes, weights)


def _perceptual(network: VGG16Distance | None, weights: LossWeights) -> tuple[VGG16Distance, ...]:
    """A tuple, so that Lightning does not take the network for a part of the module."""
    if weights.perceptual == 0:
        return ()
    if network is None:
        raise UserError(
            f"a perceptual weight of {weights.perceptual} needs the VGG16 network, got none;"
            " give the path of its weights or set the weight to 0"
        )
    return (network,)


def _zero_for(network: torch.nn.Module) -> Tensor:
    """0 with a gradient of 0 to every parameter: DDP expects all of them in every backward pass."""
    return torch.stack([0 * parameter.sum() for parameter in network.parameters()]).sum()
