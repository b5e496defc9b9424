"""RAD-DINO (Pérez-García et al. 2024): a DINOv2 ViT-B/14 trained on chest X-rays alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from medclip_cond.encoders import XrayEncoder, XrayFeatures
from medclip_cond.weights import find_file

HUB_ID = "microsoft/rad-dino"
PROCESSOR = "preprocessor_config.json"
REMEDY = (
    f"download config.json, {PROCESSOR} and model.safetensors from https://huggingface.co/{HUB_ID}"
    " and set xray_encoder.weights (xray_weights for a trained model) to their folder"
)
SHAPING = (  # what of a Dinov2Config shapes network and result
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "qkv_bias",
    "layerscale_value",
    "use_swiglu_ffn",
)


class RadDinoNetwork(XrayEncoder):
    """The network without its weights.

    Args:
        size, mean, std: of the images it takes.
        config: arguments of transformers' Dinov2Config.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], config: Mapping[str, Any]) -> None:
        super().__init__()
        self.dino = Dinov2Model(Dinov2Config(**config))
        self.size = size
        self.mean, self.std = ((float(r), float(g), float(b)) for r, g, b in (mean, std))
        self.grid = (size // self.dino.config.patch_size,) * 2
        self.pooled_dim = self.token_dim = self.dino.config.hidden_size
        self.freeze()

    def network(self) -> dict[str, Any]:
        config = {key: getattr(self.dino.config, key) for key in SHAPING}
        images = {"size": self.size, "mean": list(self.mean), "std": list(self.std)}
        return {"part": "RadDinoNetwork", **images, "config": config}

    def encode(self, cxr: Tensor) -> XrayFeatures:
        states = self.dino(cxr).last_hidden_state
        return XrayFeatures(pooled=states[:, 0], tokens=states[:, 1:])


class RadDinoEncoder(RadDinoNetwork):
    """Pooled: the class token (768). Tokens: 37 x 37 of width 768. Size, mean and std come from the model's files.

    Args:
        weights: a folder as transformers saves it, or a hub id.
    """

    def __init__(self, weights: str = HUB_ID) -> None:
        folder = Path(weights).expanduser()
        weights = str(folder) if folder.is_dir() else weights
        processor = json.loads(find_file(weights, PROCESSOR, REMEDY, on_hub=True).read_text())
        try:
            dino = Dinov2Model.from_pretrained(weights, dtype=torch.float32, use_safetensors=True)
        except OSError as error:
            raise FileNotFoundError(f"cannot read the weights of {weights}: {REMEDY}") from error
        images = processor["crop_size"]["height"], processor["image_mean"], processor["image_std"]
        with torch.device("meta"):  # replaced at once
            super().__init__(*images, {key: getattr(dino.config, key) for key in SHAPING})
        self.dino = dino
        self.freeze()
