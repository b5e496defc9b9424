"""BiomedCLIP's vision tower (Zhang et al. 2023): ViT-B/16 with a projection to the space shared with text."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from common.weights import rename
from medclip_cond.encoders import XrayEncoder, XrayFeatures
from medclip_cond.weights import find_file, load_model, read_tower

HUB_ID = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
FILE = "open_clip_pytorch_model.bin"
REMEDY = (
    f"download {FILE} from https://huggingface.co/{HUB_ID}"
    " and set xray_encoder.weights (xray_weights for a trained model) to its folder"
)

HEAD_DIM = 64  # of every ViT that open_clip takes from timm
TRUNK, PROJECTION = "visual.trunk.", "visual.head.proj.weight"
RENAMED = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def to_transformers_names(trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a timm VisionTransformer under the names of transformers' ViTModel; the joint qkv is split.

    Names that neither has are kept, so that loading reports them.
    """
    split = {
        name.replace("qkv", part): third.clone()
        for name, joint in trunk.items()
        if ".qkv." in name
        for part, third in zip(("query", "key", "value"), joint.chunk(3), strict=True)
    }
    whole = {name: value for name, value in trunk.items() if ".qkv." not in name}
    return {rename(name, RENAMED): value for name, value in (whole | split).items()}


def vit_sizes(trunk: dict[str, Tensor]) -> dict[str, int]:
    """The sizes of a timm VisionTransformer, read off its weights: arguments of `BiomedCLIPNetwork`."""
    width, _, patch, _ = trunk["patch_embed.proj.weight"].shape
    side = round((trunk["pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "width": width,
        "layers": sum(name.endswith("attn.qkv.weight") for name in trunk),
        "mlp_width": len(trunk["blocks.0.mlp.fc1.weight"]),
        "size": side * patch,
        "patch": patch,
    }


class BiomedCLIPNetwork(XrayEncoder):
    """The network without its weights; the sizes are the published ones.

    Args:
        width: of tokens. layers: transformer blocks. mlp_width: within a block.
        size, patch: sides of the image and of a token's square, pixels.
        pooled_dim: width of the space shared with text.
    """

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(
        self,
        width: int = 768,
        layers: int = 12,
        mlp_width: int = 3072,
        size: int = 224,
        patch: int = 16,
        pooled_dim: int = 512,
    ) -> None:
        super().__init__()
        self._sizes = {"width": width, "layers": layers, "mlp_width": mlp_width, "size": size, "patch": patch}
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD_DIM,
            intermediate_size=mlp_width,
            image_size=size,
            patch_size=patch,
            layer_norm_eps=1e-6,
            hidden_act="gelu",
        )
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.projection = nn.Parameter(torch.zeros(pooled_dim, width))
        self.size, self.grid = size, (size // patch, size // patch)
        self.pooled_dim, self.token_dim = pooled_dim, width
        self.freeze()

    def network(self) -> dict[str, Any]:
        return {"part": "BiomedCLIPNetwork", **self._sizes, "pooled_dim": self.pooled_dim}

    def encode(self, cxr: Tensor) -> XrayFeatures:
        states = self.vit(cxr).last_hidden_state
        return XrayFeatures(pooled=torch.nn.functional.linear(states[:, 0], self.projection), tokens=states[:, 1:])


class BiomedCLIPEncoder(BiomedCLIPNetwork):
    """Pooled: the projected class token (512). Tokens: 14 x 14 of width 768.

    Args:
        weights: open_clip checkpoint (a file, its folder, or a hub id); only the vision tower is kept.
    """

    def __init__(self, weights: str = HUB_ID) -> None:
        path = find_file(weights, FILE, REMEDY, on_hub=True)
        trunk, projection = read_tower(path, TRUNK, PROJECTION, "patch_embed.proj.weight", REMEDY)
        with torch.device("meta"):  # all its tensors are replaced below
            super().__init__(**vit_sizes(trunk), pooled_dim=len(projection))
        self.vit = load_model(ViTModel, self.vit.config, to_transformers_names(trunk), add_pooling_layer=False)
        self.projection = nn.Parameter(projection)
        self.freeze()
