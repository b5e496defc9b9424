"""RAD-DINO (Pérez-García et al. 2024): a DINOv2 ViT-B/14 trained on chest X-rays alone."""

import json

from torch import Tensor
from transformers import Dinov2Model

from medclip_cond.encoders import XrayEncoder, XrayFeatures
from medclip_cond.weights import find_file

HUB_ID = "microsoft/rad-dino"
PROCESSOR = "preprocessor_config.json"
REMEDY = (
    f"download config.json, {PROCESSOR} and model.safetensors from https://huggingface.co/{HUB_ID}"
    " and set xray_encoder.weights to their folder"
)


class RadDinoEncoder(XrayEncoder):
    """Pooled: the class token (768). Tokens: 37 x 37 of width 768. Size, mean and std come from the model's files.

    Args:
        weights: a folder as transformers saves it, or a hub id.
    """

    def __init__(self, weights: str = HUB_ID) -> None:
        super().__init__()
        processor = json.loads(find_file(weights, PROCESSOR, REMEDY, on_hub=True).read_text())
        try:
            self.dino = Dinov2Model.from_pretrained(weights)
        except OSError as error:
            raise FileNotFoundError(f"cannot read the weights of {weights}: {REMEDY}") from error
        self.size = processor["crop_size"]["height"]
        self.mean, self.std = tuple(processor["image_mean"]), tuple(processor["image_std"])
        config = self.dino.config
        self.grid = (self.size // config.patch_size,) * 2
        self.pooled_dim = self.token_dim = config.hidden_size
        self.freeze()

    def encode(self, cxr: Tensor) -> XrayFeatures:
        states = self.dino(cxr).last_hidden_state
        return XrayFeatures(pooled=states[:, 0], tokens=states[:, 1:])
