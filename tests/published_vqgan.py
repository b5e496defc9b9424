"""The VQ-GAN layout that medicaldiffusion publishes: its tensors, and what it computes, written down independently."""

from pathlib import Path

import torch
from torch.nn.functional import conv3d, conv_transpose3d, group_norm, pad, silu

KEYS = Path(__file__).parent / "data" / "medicaldiffusion_vqgan.txt"
GROUPS = 8  # num_groups of the tests' networks; 32 by default


def published_shapes(n_hiddens, embedding_dim, n_codes):
    """Name -> shape of every tensor of the state_dict, for some sizes."""
    symbols = {"E": embedding_dim, "K": n_codes}

    def size(word):
        return int(word[:-1]) * n_hiddens if word.endswith("h") else symbols.get(word) or int(word)

    lines = [line.split() for line in KEYS.read_text().splitlines() if not line.startswith("#")]
    return {name: tuple(size(word) for word in words) for name, *words in lines}


def random_state(n_hiddens, embedding_dim, n_codes, seed=0):
    """A state_dict of that layout whose network passes signals on, without discriminators and perceptual network."""
    torch.manual_seed(seed)
    state = {}
    for name, shape in published_shapes(n_hiddens, embedding_dim, n_codes).items():
        if name.startswith(("image_d", "video_d", "perceptual")):
            continue
        if len(shape) == 5:
            fan_in = shape[0] * 8 if "convt" in name else torch.Size(shape[1:]).numel()
            state[name] = torch.randn(shape) * (2 / fan_in) ** 0.5
        elif name == "codebook.N":
            state[name] = torch.rand(shape)
        elif name.startswith("codebook"):
            state[name] = torch.randn(shape)
        else:
            state[name] = torch.randn(shape) * 0.1 + (1 if "norm" in name and name.endswith("weight") else 0)
    return state


def reference_encode(state, x):
    """CT (1, 1, D, H, W) -> latent before quantisation, as the published network computes it on a whole input."""
    x = _conv(state, "encoder.conv_first.conv", x)
    for i in range(2):
        x = _conv(state, f"encoder.conv_blocks.{i}.down.conv", x, stride=2)
        x = _res(state, f"encoder.conv_blocks.{i}.res", x)
    return _conv(state, "pre_vq_conv.conv", _norm_silu(state, "encoder.final_block.0", x))


def reference_decode(state, z):
    """Latent (1, C, d, h, w) -> the code nearest to each vector -> CT."""
    vectors = z.movedim(1, -1)
    codes = state["codebook.embeddings"]
    nearest = torch.cdist(vectors.flatten(0, -2), codes).argmin(1)
    x = codes[nearest].view(*vectors.shape).movedim(-1, 1)
    x = _norm_silu(state, "decoder.final_block.0", _conv(state, "post_vq_conv.conv", x))
    for i in range(2):
        name = f"decoder.conv_blocks.{i}.up.convt"
        x = conv_transpose3d(
            pad(x, [1] * 6, mode="replicate"), state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=3
        )
        x = _res(state, f"decoder.conv_blocks.{i}.res1", x)
        x = _res(state, f"decoder.conv_blocks.{i}.res2", x)
    return _conv(state, "decoder.conv_last.conv", x)


def _conv(state, name, x, stride=1):
    weight = state[f"{name}.weight"]
    margin = (weight.shape[-1] - stride) // 2
    return conv3d(pad(x, [margin] * 6, mode="replicate"), weight, state[f"{name}.bias"], stride=stride)


def _norm_silu(state, name, x):
    return silu(group_norm(x, GROUPS, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6))


def _res(state, name, x):
    h = _conv(state, f"{name}.conv1.conv", _norm_silu(state, f"{name}.norm1", x))
    return x + _conv(state, f"{name}.conv2.conv", _norm_silu(state, f"{name}.norm2", h))
