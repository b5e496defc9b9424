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
from common.wide_view import noise_in_view
from ddpm.by_noise import LossByNoise
from ddpm.denoiser import PatchDenoiser
from ddpm.diffusion import Diffusion, Regression, draw_like
from ddpm.execution import Execution
from ddpm.graph import GraphedPrediction, Prediction
from ddpm.latent_scale import LatentScale
from ddpm.noised import Noised, like
from ddpm.perceptual import PerceptualLoss
from ddpm.protocols import Codec, XrayEncoder

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are evenly spread
_OTHER_STREAM, _VIEW_STREAM, _MEAN_STREAM = 0x9E3779B9, 0x3C6EF372, 0xDAA66D2B  # added to a sample's key
_SHARE_OF_MEANS = 0.5  # of the samples, with model.residual
_NEWS, _LEAST_STD = 0.02, 1e-3  # of what the expected latents leave


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
        if denoiser.residual and isinstance(diffusion, Regression):
            raise UserError("diffusion=regression leaves nothing to be drawn: set model.residual=false")
        self.denoiser, self.diffusion = denoiser, diffusion
        if execution is not None:
            execution.apply(denoiser)
        self._wants_graph = execution is not None and execution.graph
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
        """Before loaders start: what their threads ask of the GPU would break the recording."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        items = default_collate([data.train[i % len(data.train)] for i in range(data.batch_size)])
        batch = self.transfer_batch_to_device(items, self.device, 0)
        with self.trainer.precision_plugin.forward_context():
            with torch.no_grad():
                noised = self._noised(batch)
            self._graphed = GraphedPrediction(self._eager, noised.inputs)

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
        errors, noised, predicted = self._errors(batch, even_times)
        error, perceptual = errors.mean(), self._frozen[2]
        if perceptual is None or not self.training or not perceptual.is_due(self.global_step):
            return error, None
        return error, perceptual(
            self._decode, noised.x0_of(predicted, self.diffusion), noised.x0, noised.t, batch["sample_key"]
        )

    def _errors(self, batch: dict[str, Tensor], even_times: bool) -> tuple[Tensor, Noised, Tensor]:
        """Weighted squared errors (B,), what they were trained with, and what was predicted."""
        noised = self._noised(batch, even_times)
        predicted = (self._graphed or self._eager)(*noised.inputs).float()
        error = (predicted - noised.target(self.diffusion)).square().flatten(1).mean(1)
        return noised.weight(self.diffusion).to(error) * error, noised, predicted

    def _noised(self, batch: dict[str, Tensor], even_times: bool = False) -> Noised:
        """The batch's latents with noise, and all that the network is told."""
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
        told = [*xray, positions, batch["spacing"], *self._views(batch)]
        if self.denoiser.residual:
            return self._of_what_is_left(x0, noise, t, told, batch["sample_key"])
        x_t = self.diffusion.add_noise(x0, noise, t)
        if "wide_latent" in batch:
            x_t = torch.cat([x_t, *self._around(batch, noise, t)], 1)
        return Noised([x_t, t, *told], x0, noise)

    def _of_what_is_left(self, x0: Tensor, noise: Tensor, t: Tensor, told: list[Tensor], key: Tensor) -> Noised:
        """Some samples are asked for x0 and see zeros; the others see the answer, and noise in what it leaves."""
        asked = KeyedRandom((key + _MEAN_STREAM) % 2**32, x0.device).uniform(1)[:, 0] < _SHARE_OF_MEANS
        mean, t = torch.zeros_like(x0), torch.where(asked, 1, t)
        mean[~asked] = self._expected(mean[~asked], [values[~asked] for values in told])
        if self.training:
            self._follow((x0 - mean)[~asked])
        std = self.denoiser.residual_std.view(-1, 1, 1, 1).clone()  # as it is now: the next batch changes it
        x_t = self.diffusion.add_noise((x0 - mean) / std, noise, t).masked_fill(like(x0, asked), 0)
        return Noised([torch.cat([x_t, mean], 1), t, *told], x0, noise, mean, asked, std)

    @torch.no_grad()
    def _follow(self, left: Tensor) -> None:
        """The moving average of the std of what the expected latents leave, (B, C, d, h, w), B from 0."""
        if len(left):
            std = left.square().mean((0, 2, 3, 4)).sqrt().clamp_min(_LEAST_STD)
            self.denoiser.residual_std.lerp_(std, _NEWS)

    @torch.no_grad()
    def _expected(self, nothing: Tensor, told: list[Tensor]) -> Tensor:
        """What the network expects of latents that it sees nothing of: zeros (B, C, d, h, w), B from 0."""
        if not len(nothing):
            return nothing
        answer: Tensor = self._eager(torch.cat([nothing, nothing], 1), nothing.new_ones(len(nothing)), *told)
        return answer.float()

    def _views(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """What `PatchDenoiser.encode_condition` takes of further views, if the network has any."""
        if not self.denoiser.views:
            return []
        missing = ~batch["view_present"]
        if self.training and self.view_dropout:
            keys = (batch["sample_key"] + _VIEW_STREAM) % 2**32
            missing = missing | (KeyedRandom(keys, missing.device).uniform(missing.shape[1]) < self.view_dropout)
        return [*self._features(batch, "view_"), batch["view_xray"], batch["view_camera"], missing]

    def _around(self, batch: dict[str, Tensor], noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy whole latents as `wide_view` shows them at the patches, and how much of it is latent."""
        pooled, share = batch["wide_latent"][:, :-1], batch["wide_latent"][:, -1:]
        others = KeyedRandom((batch["sample_key"] + _OTHER_STREAM) % 2**32, noise.device).normal(*noise.shape[1:])
        clean = self.latent_scale.normalize(pooled, share)
        return self.diffusion.add_noise(clean, noise_in_view(noise, share, others), t), share

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
        errors, noised, _ = self._errors(batch, even_times=True)
        self.log("val/loss", errors.mean(), prog_bar=True, sync_dist=True, batch_size=len(batch["sample_key"]))
        drawn = slice(None) if noised.asked is None else ~noised.asked
        self._by_noise.add(errors[drawn], noised.t[drawn])

    def on_validation_epoch_end(self) -> None:
        for ends, loss in self._by_noise.means().items():
            self.log(f"val_by_noise/{ends}", loss, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        schedule = self.make_lr_schedule(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.meta
