"""BiomedCLIP's vision tower (Zhang et al. 2023): ViT-B/16 with a projection to the space shared with text."""

import re

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from medclip_cond.encoders import XrayEncoder, XrayFeatures
from medclip_cond.weights import find_file, load_model, read_state, under

HUB_ID = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
FILE = "open_clip_pytorch_model.bin"
REMEDY = f"download {FILE} from https://huggingface.co/{HUB_ID} and set xray_encoder.weights to its folder"

HEAD_DIM = 64  # of every ViT that open_clip takes from timm
TRUNK, PROJECTION = "visual.trunk.", "visual.head.proj.weight"
RENAMED = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
RENAMED_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def to_transformers_names(trunk: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a timm VisionTransformer under the names of transformers' ViTModel; the joint qkv is split.

    Names that neither has are kept, so that loading reports them.
    """
    state = {}
    for name, value in trunk.items():
        block = BLOCK.fullmatch(name)
        if block is None:
            base, dot, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
            state[RENAMED.get(base, base) + dot + kind] = value
            continue
        number, part, kind = block.groups()
        prefix = f"encoder.layer.{number}."
        if part == "attn.qkv":
            for target, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[f"{prefix}attention.attention.{target}.{kind}"] = third.clone()
        else:
            state[f"{prefix}{RENAMED_IN_BLOCK.get(part, part)}.{kind}"] = value
    return state


def vit_config(trunk: dict[str, Tensor]) -> ViTConfig:
    """The sizes of a timm VisionTransformer, read off its weights."""
    width, _, patch, _ = trunk["patch_embed.proj.weight"].shape
    side = round((trunk["pos_embed"].shape[1] - 1) ** 0.5)
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=sum(name.endswith("attn.qkv.weight") for name in trunk),
        num_attention_heads=width // HEAD_DIM,
        intermediate_size=len(trunk["blocks.0.mlp.fc1.weight"]),
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )


class BiomedCLIPEncoder(XrayEncoder):
    """Pooled: the projected class token (512). Tokens: 14 x 14 of width 768.

    Args:
        weights: open_clip checkpoint (a file, its folder, or a hub id); only the vision tower is kept.
    """

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, weights: str = HUB_ID) -> None:
        super().__init__()
        path = find_file(weights, FILE, REMEDY, on_hub=True)
        state = read_state(path)
        trunk = under(state, TRUNK)
        if "patch_embed.proj.weight" not in trunk or PROJECTION not in state:
            raise ValueError(f"{path} is no open_clip checkpoint with a timm vision tower: {REMEDY}")
        config = vit_config(trunk)
        self.vit = load_model(ViTModel, config, to_transformers_names(trunk), add_pooling_layer=False)
        self.projection = nn.Parameter(state[PROJECTION].clone())
        self.size = config.image_size
        self.grid = (config.image_size // config.patch_size,) * 2
        self.pooled_dim, self.token_dim = self.projection.shape
        self.freeze()

    def encode(self, cxr: Tensor) -> XrayFeatures:
        states = self.vit(cxr).last_hidden_state
        return XrayFeatures(pooled=torch.nn.functional.linear(states[:, 0], self.projection), tokens=states[:, 1:])
