"""Training of the patch diffusion model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, default_collate

from common.checkpoint_key import CHECKPOINT_KEY
from common.errors import UserError
from common.geometry import STEP, triple
from common.keyed import KeyedRandom
from common.patches import positions_mm
from ddpm.by_noise import LossByNoise
from ddpm.denoiser import PatchDenoiser
from ddpm.diffusion import Diffusion, draw_like
from ddpm.execution import Execution
from ddpm.graph import GraphedPrediction, Prediction
from ddpm.latent_scale import LatentScale
from ddpm.perceptual import PerceptualLoss
from ddpm.protocols import Codec, XrayEncoder

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are evenly spread
_VIEW_STREAM = 0x3C6EF372  # added to a sample's key


class PatchDDPM(pl.LightningModule):
    """Latent diffusion over CT patches, conditioned on a chest X-ray and on the patch's place.

    Batches hold either cached features (`latent`, `xray_tokens`, `xray_pooled`) or what the frozen networks need
    (`ct_context`, `cxr`); see `XrayCTPAPatchDataset`.

    Args:
        denoiser, diffusion: the network, and the noise levels with what it predicts.
        codec, xray_encoder: frozen; outside the module tree, so that neither optimizer nor checkpoints know them. They
            come to the module's device when a batch needs them, so cached features leave the GPU free of them.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: makes the scheduler, stepped after every training step, from the optimizer and all steps.
        condition_dropout: share of samples trained without their X-ray (Ho & Salimans 2021).
        latent_scale: mean and std of the training set's latents; None computes them at the first start.
        meta: plain data that describes the training's networks; goes into every checkpoint.
        perceptual: further loss on the decoded prediction, in some training steps; outside the module tree too.
        execution: how the denoiser computes; None leaves it as it was built.
        statistics_patches: training patches that `latent_scale` is computed from.
        view_dropout: share of further views that training leaves out, each by itself.
    """

    def __init__(
        self,
        denoiser: PatchDenoiser,
        diffusion: Diffusion,
        codec: Codec,
        xray_encoder: XrayEncoder,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        lr_schedule: Callable[[torch.optim.Optimizer, float], Any],
        condition_dropout: float,
        latent_scale: LatentScale | None,
        meta: Mapping[str, Any],
        perceptual: PerceptualLoss | None = None,
        execution: Execution | None = None,
        statistics_patches: int = 512,
        view_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, share in (("condition_dropout", condition_dropout), ("view_dropout", view_dropout)):
            if not 0 <= share < 1:
                raise UserError(f"need 0 <= {name} < 1, got {share}")
        self.denoiser, self.diffusion = denoiser, diffusion
        if execution is not None:
            execution.apply(denoiser)
        self._wants_graph = execution is not None and execution.graph and not execution.compile
        self._graphed: GraphedPrediction | None = None
        self._frozen = (codec, xray_encoder, perceptual)
        self.make_optimizer, self.make_lr_schedule = optimizer, lr_schedule
        self.condition_dropout, self.view_dropout = condition_dropout, view_dropout
        self.latent_scale = latent_scale or LatentScale.unknown(denoiser.latent_channels)
        self.meta, self.statistics_patches = dict(meta), statistics_patches

    def on_fit_start(self) -> None:
        codec, _, perceptual = self._frozen
        if perceptual is not None:  # now, rather than when a later step finds no room for them
            self._here(codec)
            self._here(perceptual)
        if not self.latent_scale.is_known:
            self._measure_latents()
        if self._wants_graph and self.device.type == "cuda":
            self._record()

    @torch.no_grad()
    def _measure_latents(self) -> None:
        """Mean and std over training patches of all volumes; the same on all ranks, which all see the same ones."""
        dataset = self.trainer.datamodule.train  # type: ignore[attr-defined]
        count = min(self.statistics_patches, len(dataset))
        loader = DataLoader(Subset(dataset, [i * len(dataset) // count for i in range(count)]), batch_size=1)
        latents = (self._raw_latents(self.transfer_batch_to_device(b, self.device, 0)) for b in loader)
        self.latent_scale.measure(latents)

    def _record(self) -> None:
        """Before the first step; the training's loaders have been started by Lightning's count of the steps."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        items = default_collate([data.train[i % len(data.train)] for i in range(data.batch_size)])
        batch = self.transfer_batch_to_device(items, self.device, 0)
        with self.trainer.precision_plugin.forward_context():
            with torch.no_grad():
                inputs = self._noised(batch)[0]
            self._graphed = GraphedPrediction(self._eager, inputs)

    @property
    def _eager(self) -> Prediction:
        return Prediction(self.denoiser, self._frozen[1].grid)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """A graph's gradients lie where its next replay writes, so those that add up need tensors of their own."""
        apart = self._graphed is not None and self.trainer.accumulate_grad_batches > 1
        optimizer.zero_grad(set_to_none=not apart)
        if apart:  # a parameter without a gradient would take the graph's tensor for its own
            for parameter in self.denoiser.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _here(self, network: Any) -> Any:
        """A frozen network, brought to this module's device if it is elsewhere."""
        if isinstance(network, nn.Module) and any(p.device != self.device for p in network.parameters()):
            network.to(self.device)
        return network

    @property
    def codec(self) -> Codec:
        """The frozen one, on this module's device."""
        found: Codec = self._here(self._frozen[0])
        return found

    def _raw_latents(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["latent"] if "latent" in batch else self.codec.encode_patch(batch["ct_context"])

    def _features(self, batch: dict[str, Tensor], of: str = "") -> tuple[Tensor, Tensor]:
        """The frozen encoder's pooled vector and tokens of the batch's X-rays, or of its further views."""
        if "xray_tokens" in batch:
            return batch[f"{of or 'xray_'}pooled"], batch[f"{of or 'xray_'}tokens"]
        images = batch[f"{of}cxr"]  # (B, 3, S, S), of views (B, V, 3, S, S)
        features = self._here(self._frozen[1])(images.flatten(0, -4))
        return tuple(found.unflatten(0, images.shape[:-3]) for found in (features.pooled, features.tokens))

    def loss(self, batch: dict[str, Tensor], even_times: bool = False) -> Tensor:
        """What training makes smaller: `losses`, added up."""
        return self._total(*self.losses(batch, even_times))

    def losses(self, batch: dict[str, Tensor], even_times: bool = False) -> tuple[Tensor, Tensor | None]:
        """Weighted mean squared error of the prediction; perceptual distance, in the training steps that have one.

        Args:
            even_times: take times spread evenly over the draws instead of random ones.
        """
        errors, t, (x_t, predicted, x0) = self._errors(batch, even_times)
        error, perceptual = errors.mean(), self._frozen[2]
        if perceptual is None or not self.training or not perceptual.is_due(self.global_step):
            return error, None
        x0_now = self.diffusion.split(x_t[:, : x0.shape[1]], predicted, t)[0]
        return error, perceptual(self._decode, x0_now, x0, self.diffusion.noise_times(t), batch["sample_key"])

    def _errors(self, batch: dict[str, Tensor], even_times: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Weighted squared errors (B,) and their times (B,); the noisy latents, what was predicted, the clean ones."""
        (x_t, t, *others), x0, noise = self._noised(batch, even_times)
        predicted = (self._graphed or self._eager)(x_t, t, *others).float()
        error = (predicted - self.diffusion.target(x0, noise, t)).square().flatten(1).mean(1)
        return self.diffusion.loss_weight(t).to(error) * error, t, (x_t, predicted, x0)

    def _noised(self, batch: dict[str, Tensor], even_times: bool = False) -> tuple[list[Tensor], Tensor, Tensor]:
        """What `Prediction` is given; the clean latents (B, C, d, h, w) and the noise in them."""
        x0 = self.latent_scale.normalize(self._raw_latents(batch))
        u, u_drop, noise = draw_like(x0, batch["sample_key"])
        if even_times:
            u = (batch["draw"].double() * _GOLDEN).frac().to(u)
        t = self.diffusion.training_time(u)
        dropped = (u_drop < self.condition_dropout) & self.training
        positions = positions_mm(
            batch["patch_coord"], batch["spacing"], batch["volume_shape"], triple(x0.shape[2:]), STEP
        )
        xray = [*self._features(batch), batch["xray"], batch["xray_camera"], dropped]
        x_t = self.diffusion.add_noise(x0, noise, t)
        return [x_t, t, *xray, positions, batch["spacing"], *self._views(batch)], x0, noise

    def _views(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """What `PatchDenoiser.encode_condition` takes of further views, if the network has any."""
        if not self.denoiser.views:
            return []
        missing = ~batch["view_present"]
        if self.training and self.view_dropout:
            keys = (batch["sample_key"] + _VIEW_STREAM) % 2**32
            missing = missing | (KeyedRandom(keys, missing.device).uniform(missing.shape[1]) < self.view_dropout)
        return [*self._features(batch, "view_"), batch["view_xray"], batch["view_camera"], missing]

    def _total(self, error: Tensor, distance: Tensor | None) -> Tensor:
        perceptual = self._frozen[2]
        return error if perceptual is None or distance is None else error + perceptual.weight * distance

    def _decode(self, x0: Tensor) -> Tensor:
        return self.codec.decode_patch(self.latent_scale.restore(x0))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        error, distance = self.losses(batch)
        size = len(batch["sample_key"])
        if distance is not None:
            self.log("train/perceptual", distance, batch_size=size)
        loss = self._total(error, distance)
        self.log("train/loss", loss, batch_size=size)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._by_noise = LossByNoise(self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        errors, t, _ = self._errors(batch, even_times=True)
        self.log("val/loss", errors.mean(), prog_bar=True, sync_dist=True, batch_size=len(batch["sample_key"]))
        self._by_noise.add(errors, t)

    def on_validation_epoch_end(self) -> None:
        for ends, loss in self._by_noise.means().items():
            self.log(f"val_by_noise/{ends}", loss, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        schedule = self.make_lr_schedule(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.meta
