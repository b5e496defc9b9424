"""MedCLIP's vision tower (Wang et al. 2022): Swin-tiny with a projection to the space shared with text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinModel

from medclip_cond.encoders import XrayEncoder, XrayFeatures
from medclip_cond.weights import find_file, load_model, read_tower

URL = "https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip"
FILE = "pytorch_model.bin"
REMEDY = (
    f"download {URL}, unpack it"
    f" and set xray_encoder.weights (xray_weights for a trained model) to the folder of its {FILE}"
)

SIZE = 224
TRUNK, PROJECTION = "vision_model.model.", "vision_model.projection_head.weight"


def swin_sizes(trunk: dict[str, Tensor]) -> dict[str, Any]:
    """The sizes of a SwinModel, read off its weights under their published names: arguments of `MedCLIPNetwork`."""
    width, _, patch, _ = trunk["embeddings.patch_embeddings.projection.weight"].shape
    tables: dict[int, list[Tensor]] = {}
    for name, value in trunk.items():
        if name.endswith("relative_position_bias_table"):  # encoder.layers.STAGE.blocks.BLOCK...
            tables.setdefault(int(name.split(".")[2]), []).append(value)
    stages = [tables[stage] for stage in sorted(tables)]
    return {
        "patch": patch,
        "width": width,
        "depths": [len(blocks) for blocks in stages],
        "heads": [blocks[0].shape[1] for blocks in stages],
        "window": (round(len(stages[0][0]) ** 0.5) + 1) // 2,  # tables have (2 window - 1)^2 rows
    }


class MedCLIPNetwork(XrayEncoder):
    """The network without its weights.

    Args:
        patch: side of a first token's square, pixels. width: of the first stage, doubled by each further one.
        depths, heads: blocks and attention heads of each stage.
        window: side of the attention windows, tokens.
        pooled_dim: width of the space shared with text.
    """

    size = SIZE
    mean = (0.5862786,) * 3
    std = (0.2795009,) * 3

    def __init__(
        self, patch: int, width: int, depths: Sequence[int], heads: Sequence[int], window: int, pooled_dim: int
    ) -> None:
        super().__init__()
        self._sizes = {"patch": patch, "width": width, "depths": list(depths), "heads": list(heads), "window": window}
        config = SwinConfig(
            image_size=SIZE,
            patch_size=patch,
            embed_dim=width,
            depths=list(depths),
            num_heads=list(heads),
            window_size=window,
        )
        self.swin = SwinModel(config)
        self.token_dim, self.pooled_dim = width * 2 ** (len(depths) - 1), pooled_dim
        self.projection = nn.Parameter(torch.zeros(pooled_dim, self.token_dim))
        self.grid = (SIZE // patch // 2 ** (len(depths) - 1),) * 2
        self.freeze()

    def network(self) -> dict[str, Any]:
        return {"part": "MedCLIPNetwork", **self._sizes, "pooled_dim": self.pooled_dim}

    def encode(self, cxr: Tensor) -> XrayFeatures:
        tokens = self.swin(cxr).last_hidden_state
        return XrayFeatures(pooled=torch.nn.functional.linear(tokens.mean(1), self.projection), tokens=tokens)


class MedCLIPEncoder(MedCLIPNetwork):
    """Pooled: the projected mean token (512). Tokens: 7 x 7 of width 768.

    Args:
        weights: MedCLIP's state dict (a file or its folder); only the vision tower is kept.
    """

    def __init__(self, weights: str) -> None:
        path = find_file(weights, FILE, REMEDY, on_hub=False)
        trunk, projection = read_tower(path, TRUNK, PROJECTION, "embeddings.patch_embeddings.projection.weight", REMEDY)
        with torch.device("meta"):  # all its tensors are replaced below
            super().__init__(**swin_sizes(trunk), pooled_dim=len(projection))
        weights_only = {name: v for name, v in trunk.items() if not name.endswith("relative_position_index")}
        self.swin = load_model(SwinModel, self.swin.config, weights_only)
        self.projection = nn.Parameter(projection)
        self.freeze()
