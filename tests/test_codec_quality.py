"""What benchmarks.codec_quality asks of the demo."""

import pytest
from omegaconf import OmegaConf

import run_demo
from benchmarks.codec_quality import BLOCKS, CODECS, of_demo
from tests.tiny import composed


@pytest.mark.parametrize("codec", CODECS)
def test_the_demo_trains_the_codec_that_is_judged_and_its_stage_2(codec):
    own = ["model.embedding_dim=8", *BLOCKS, *CODECS[codec], "model.latent_noise=0.25", "optimizer=adamw"]
    made = {stage.name: stage.command for stage in run_demo.stages(composed("demo", "dir=/demo", *of_demo(own)))}
    cfg = composed("train_vqgan", *made["vqgan"][1:])
    OmegaConf.resolve(cfg)
    channels = 64 if codec.startswith("guide") else 8
    assert (cfg.model.embedding_dim, cfg.model.latent_noise, cfg.model.lapped) == (channels, 0.25, "lapped" in codec)
    assert "Muon" not in cfg.optimizer._target_
    assert f"model.diffusion_num_channels={channels}" in made["ddpm"]
