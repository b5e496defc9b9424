"""MedCLIP's vision tower (Wang et al. 2022): Swin-tiny with a projection to the space shared with text."""

import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinModel

from medclip_cond.encoders import XrayEncoder, XrayFeatures
from medclip_cond.weights import find_file, load_model, read_state, under

URL = "https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip"
FILE = "pytorch_model.bin"
REMEDY = f"download {URL}, unpack it and set xray_encoder.weights to the folder of its {FILE}"

SIZE = 224
TRUNK, PROJECTION = "vision_model.model.", "vision_model.projection_head.weight"


def swin_config(trunk: dict[str, Tensor]) -> SwinConfig:
    """The sizes of a SwinModel, read off its weights under their published names."""
    width, _, patch, _ = trunk["embeddings.patch_embeddings.projection.weight"].shape
    tables: dict[int, list[Tensor]] = {}
    for name, value in trunk.items():
        if name.endswith("relative_position_bias_table"):  # encoder.layers.STAGE.blocks.BLOCK...
            tables.setdefault(int(name.split(".")[2]), []).append(value)
    stages = [tables[stage] for stage in sorted(tables)]
    return SwinConfig(
        image_size=SIZE,
        patch_size=patch,
        embed_dim=width,
        depths=[len(blocks) for blocks in stages],
        num_heads=[blocks[0].shape[1] for blocks in stages],
        window_size=(round(len(stages[0][0]) ** 0.5) + 1) // 2,  # tables have (2 window - 1)^2 rows
    )


class MedCLIPEncoder(XrayEncoder):
    """Pooled: the projected mean token (512). Tokens: 7 x 7 of width 768.

    Args:
        weights: MedCLIP's state dict (a file or its folder); only the vision tower is kept.
    """

    size = SIZE
    mean = (0.5862786,) * 3
    std = (0.2795009,) * 3

    def __init__(self, weights: str) -> None:
        super().__init__()
        path = find_file(weights, FILE, REMEDY, on_hub=False)
        state = read_state(path)
        trunk = under(state, TRUNK)
        if "embeddings.patch_embeddings.projection.weight" not in trunk or PROJECTION not in state:
            raise ValueError(f"{path} is no MedCLIP-ViT checkpoint: {REMEDY}")
        config = swin_config(trunk)
        weights_only = {name: v for name, v in trunk.items() if not name.endswith("relative_position_index")}
        self.swin = load_model(SwinModel, config, weights_only)
        self.projection = nn.Parameter(state[PROJECTION].clone())
        self.pooled_dim, self.token_dim = self.projection.shape
        self.grid = (SIZE // config.patch_size // 2 ** (len(config.depths) - 1),) * 2
        self.freeze()

    def encode(self, cxr: Tensor) -> XrayFeatures:
        tokens = self.swin(cxr).last_hidden_state
        return XrayFeatures(pooled=torch.nn.functional.linear(tokens.mean(1), self.projection), tokens=tokens)
