"""Published encoders, with random weights of their layouts in small sizes."""

import json
import re
import shutil

import pytest
import torch
from torch.nn.functional import conv2d, gelu, layer_norm, linear
from transformers import Dinov2Config, Dinov2Model, SwinConfig, SwinModel

from common.tensor_hash import tensor_hash
from medclip_cond.biomedclip import BiomedCLIPEncoder
from medclip_cond.medclip import MedCLIPEncoder
from medclip_cond.rad_dino import RadDinoEncoder
from pipeline.checkpoints.parts import build

WIDTH, PATCH, SIDE, HEADS, LAYERS = 128, 8, 3, 2, 2


def random_timm_vit(width=WIDTH, pooled=16):
    """A vision tower in open_clip's names, with parts of a text tower beside it."""
    torch.manual_seed(0)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, SIDE**2 + 1, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(LAYERS):
        widths = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        widths |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for part, shape in widths.items():
            shapes |= {f"blocks.{i}.{part}.weight": shape, f"blocks.{i}.{part}.bias": shape[:1]}
        for part in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{part}.weight": (width,), f"blocks.{i}.{part}.bias": (width,)}
    state = {f"visual.trunk.{name}": 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    extra = {"visual.head.proj.weight": torch.randn(pooled, width), "text.proj.0.weight": torch.randn(4, 4)}
    return state | extra | {"logit_scale": torch.zeros(())}


def timm_vit(state, image):
    """The forward pass of timm's ViT and open_clip's projection, written out (Dosovitskiy et al. 2021)."""
    w = {k.removeprefix("visual.trunk."): v for k, v in state.items()}

    def norm(x, name):
        return layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def full(x, name):
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = conv2d(image, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH).flatten(2).mT
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for i in range(LAYERS):
        qkv = full(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1)
        x = x + full((weights @ v).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        x = x + full(gelu(full(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    x = norm(x, "norm")
    return x[:, 0] @ w["visual.head.proj.weight"].T, x[:, 1:]


def test_biomedclip_computes_what_its_reference_does(tmp_path):
    state = random_timm_vit()
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    encoder = BiomedCLIPEncoder(str(tmp_path))
    image = torch.randn(2, 3, encoder.size, encoder.size)
    pooled, tokens = timm_vit(state, image)
    features = encoder(image)
    torch.testing.assert_close(features.pooled, pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.tokens, tokens, rtol=0, atol=1e-5)
    assert (encoder.size, encoder.grid, encoder.pooled_dim, encoder.token_dim) == (24, (3, 3), 16, 128)


def test_biomedclip_with_a_weight_missing_is_refused(tmp_path):
    state = random_timm_vit()
    del state["visual.trunk.blocks.1.mlp.fc2.bias"]
    torch.save(state, tmp_path / "some.bin")
    with pytest.raises(ValueError, match="missing_keys"):
        BiomedCLIPEncoder(str(tmp_path / "some.bin"))


PUBLISHED_SWIN_NAMES = (  # our library's name -> MedCLIP's file
    (r"attention\.([qkv])_proj", lambda m: f"attention.self.{dict(q='query', k='key', v='value')[m[1]]}"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"attention\.relative_position_bias\.", "attention.self."),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)


def published_name(name):
    for pattern, replacement in PUBLISHED_SWIN_NAMES:
        name = re.sub(pattern, replacement, name)
    return f"vision_model.model.{name}"


def test_medclip_computes_what_its_reference_does(tmp_path):
    torch.manual_seed(0)
    config = SwinConfig(embed_dim=8, depths=[2, 1, 2], num_heads=[1, 2, 4], image_size=224, window_size=7)
    reference = SwinModel(config).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {published_name(name): value for name, value in reference.state_dict().items()}
    block = "vision_model.model.encoder.layers.1.blocks.0.attention."
    assert {f"{block}self.query.weight", f"{block}self.relative_position_bias_table"} <= set(state)
    state[f"{block}self.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    state["vision_model.projection_head.weight"] = projection = torch.randn(16, 32)
    state["text_model.projection_head.weight"] = torch.randn(16, 8)
    torch.save(state, tmp_path / "pytorch_model.bin")

    encoder = MedCLIPEncoder(str(tmp_path))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference(image)
    features = encoder(image)
    torch.testing.assert_close(features.tokens, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.pooled, expected.pooler_output @ projection.T, rtol=0, atol=1e-5)
    assert (encoder.grid, encoder.pooled_dim, encoder.token_dim) == ((14, 14), 16, 32)


def test_rad_dino_takes_size_and_normalisation_from_its_files(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=42, patch_size=14)
    reference = Dinov2Model(config).eval()
    reference.save_pretrained(tmp_path)
    processor = {"crop_size": {"height": 42, "width": 42}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    encoder = RadDinoEncoder(str(tmp_path))
    assert (encoder.size, encoder.grid, encoder.mean, encoder.std) == (42, (3, 3), (0.5,) * 3, (0.25,) * 3)
    image = torch.randn(1, 3, 42, 42)
    with torch.no_grad():
        expected = reference(image)
    torch.testing.assert_close(encoder(image).tokens, expected.last_hidden_state[:, 1:])
    torch.testing.assert_close(encoder(image).pooled, expected.pooler_output)


@pytest.mark.parametrize("write", ["write_biomedclip", "write_medclip", "write_rad_dino"])
def test_a_folder_below_the_home_folder_may_be_given_with_a_tilde(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "weights"
    folder.mkdir()
    encoder = globals()[write](folder)
    assert tensor_hash(type(encoder)("~/weights")) == tensor_hash(encoder)


@pytest.mark.parametrize("kind", [BiomedCLIPEncoder, MedCLIPEncoder, RadDinoEncoder])
def test_missing_weights_say_what_to_download_and_where_to_put_it(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"download .*https://.* set xray_encoder\.weights"):
        kind(str(tmp_path))


def test_an_unreachable_hub_is_a_missing_file(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="cannot get open_clip_pytorch_model.bin of nobody/nothing"):
        BiomedCLIPEncoder("nobody/nothing")


@pytest.mark.parametrize("kind", [BiomedCLIPEncoder, MedCLIPEncoder])
def test_a_file_that_holds_no_tensors_is_refused(kind, tmp_path):
    (tmp_path / "broken.bin").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="broken.bin is not a readable file of weights.*download"):
        kind(str(tmp_path / "broken.bin"))


@pytest.mark.parametrize("kind", [BiomedCLIPEncoder, MedCLIPEncoder])
def test_weights_of_something_else_are_refused(kind, tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match="is no checkpoint with"):
        kind(str(tmp_path / "other.bin"))


def write_biomedclip(folder):
    torch.save(random_timm_vit(), folder / "open_clip_pytorch_model.bin")
    return BiomedCLIPEncoder(str(folder))


def write_medclip(folder):
    torch.manual_seed(0)
    reference = SwinModel(SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=224, window_size=7))
    state = {published_name(name): value for name, value in reference.state_dict().items()}
    torch.save(state | {"vision_model.projection_head.weight": torch.randn(16, 16)}, folder / "pytorch_model.bin")
    return MedCLIPEncoder(str(folder))


def write_rad_dino(folder):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=42, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    processor = {"crop_size": {"height": 42, "width": 42}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return RadDinoEncoder(str(folder))


@pytest.mark.parametrize("write", [write_biomedclip, write_medclip, write_rad_dino])
def test_an_encoder_is_rebuilt_from_its_description_and_tensors_alone(write, tmp_path):
    encoder = write(tmp_path)
    description = json.loads(json.dumps(encoder.network()))
    assert str(tmp_path) not in json.dumps(description)
    shutil.rmtree(tmp_path)
    again = build(description)
    again.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, encoder.size, encoder.size)
    for ours, theirs in zip(vars(again(image)).values(), vars(encoder(image)).values(), strict=True):
        assert torch.equal(ours, theirs)
    for name in ("size", "grid", "mean", "std", "pooled_dim", "token_dim"):
        assert getattr(again, name) == getattr(encoder, name)
    assert tensor_hash(again) == tensor_hash(encoder)
