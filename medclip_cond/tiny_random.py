"""A tiny Vision Transformer with random weights, for tests and for the demo: it needs no files."""

from typing import Any

import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from common.errors import UserError
from medclip_cond.encoders import XrayEncoder, XrayFeatures


class TinyRandomEncoder(XrayEncoder):
    """A randomly initialised ViT, the same on every machine for the same arguments.

    Random features still tell X-rays apart and keep places, so all code of the real encoders runs.

    Args:
        seed: of the weights; the global random state is left alone.
        size: side of the image in pixels, a multiple of `patch`.
        patch: side of a token's square in pixels.
        width: of tokens and pooled vector.
        layers: transformer blocks.
    """

    def __init__(self, seed: int = 0, size: int = 224, patch: int = 32, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self._arguments = {"seed": seed, "size": size, "patch": patch, "width": width, "layers": layers}
        if max(size, width) > 4096 or layers > 48 or size > 64 * patch:
            raise UserError(f"this encoder is tiny, got size={size}, patch={patch}, width={width}, layers={layers}")
        if size % patch or width % 32:
            raise UserError(
                "size must be a multiple of patch and width a multiple of 32,"
                f" got size={size}, patch={patch}, width={width}"
            )
        self.size, self.grid = size, (size // patch, size // patch)
        self.mean, self.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        self.pooled_dim = self.token_dim = width
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            intermediate_size=2 * width,
            image_size=size,
            patch_size=patch,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the GPUs
            self.vit = ViTModel(config, add_pooling_layer=False)
        self.freeze()

    def network(self) -> dict[str, Any]:
        return {"part": "TinyRandomEncoder", **self._arguments}

    def encode(self, cxr: Tensor) -> XrayFeatures:
        tokens = self.vit(cxr).last_hidden_state[:, 1:]  # without the class token
        return XrayFeatures(pooled=tokens.mean(1), tokens=tokens)
