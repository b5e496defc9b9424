"""Training of stage 2: what trains, what stays frozen, what a checkpoint holds."""

import pytest
import torch

import train_ddpm_patches_4gpu
from common.tensor_hash import tensor_hash
from ddpm.ema import load_weights
from ddpm.latent_scale import LatentScale
from ddpm.module import PatchDDPM
from pipeline.checkpoints.parts import PARTS
from pipeline.training import run as training_run
from tests.tiny import DDPM_CKPT, DDPM_FOLDER, built_ddpm, load, run


@pytest.fixture(scope="module")
def stored(workshop):
    """The workshop's last checkpoint; the one epoch of its run makes it the best one too."""
    return load(workshop.ddpm_ckpt)


@pytest.fixture
def made(workshop, elsewhere):
    return built_ddpm(*workshop.ddpm)


def frozen(module):
    return {name: network for name, network in zip(("codec", "encoder"), module._frozen[:2], strict=True)}


def test_frozen_networks_stay_bit_identical_through_training(made):
    before = {name: tensor_hash(network) for name, network in frozen(made.module).items()}
    start = tensor_hash(made.module.denoiser)
    for network in (made.module, *frozen(made.module).values()):
        network.train()  # in vain, for the frozen ones
    training_run.fit(made.cfg, made.module, made.data, None)
    assert {name: tensor_hash(network) for name, network in frozen(made.module).items()} == before
    assert tensor_hash(made.module.denoiser) != start
    for network in frozen(made.module).values():
        assert not network.training
        assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


PERCEPTUAL = ["model.perceptual_weight=0.05", "model.perceptual_ckpt=random"]


@pytest.mark.parametrize(
    ("cached", "settings", "needed"),
    [
        (True, [], set()),
        (True, PERCEPTUAL, {"codec", "perceptual"}),
        (False, [], {"codec", "encoder"}),
        (False, PERCEPTUAL, {"codec", "encoder", "perceptual"}),
    ],
)
def test_frozen_networks_come_to_the_gpu_only_where_they_are_needed(
    cached, settings, needed, workshop, tiny_latents, elsewhere, monkeypatch
):
    folder = tiny_latents if cached else "none"
    made = built_ddpm(*workshop.ddpm, f"dataset.latents_dir={folder}", *settings)
    module, moved = known_scale(made), set()
    for name, network in zip(("codec", "encoder", "perceptual"), module._frozen, strict=True):
        if network is not None:
            monkeypatch.setattr(network, "to", lambda device, name=name: moved.add((name, device)))
    gpu = torch.device("meta")
    monkeypatch.setattr(PatchDDPM, "device", gpu)
    module.on_fit_start()
    module._raw_latents(made.batch)
    module._features(made.batch)
    assert moved == {(name, gpu) for name in needed}


def test_frozen_networks_are_in_neither_state_optimizer_average_nor_checkpoint(made, stored):
    assert {name.split(".")[0] for name in stored["state_dict"]} == {"denoiser", "latent_scale"}
    trained = [name for name, p in made.module.named_parameters() if p.requires_grad]
    state = stored["optimizer_states"][0]["state"]
    assert len(state) == len(trained)
    average = next(v for k, v in stored["callbacks"].items() if k.startswith("WeightAverage"))["average"]
    assert set(average) == set(trained)


@pytest.mark.parametrize("batches", [1, 2])
def test_weights_are_averaged_once_per_optimizer_step(batches, workshop, elsewhere):
    accumulate = f"model.effective_batch={2 * batches}"
    run(train_ddpm_patches_4gpu, *workshop.ddpm, accumulate, "model.checkpoint_every_n_steps=1")
    content = load(DDPM_CKPT)
    average = next(v for k, v in content["callbacks"].items() if k.startswith("WeightAverage"))
    assert (content["global_step"], average["updates"]) == (4 // batches, 4 // batches)


def test_a_checkpoint_describes_itself(workshop, stored):
    meta = stored["xray2ctpa"]
    codec = frozen(built_ddpm(*workshop.ddpm, "model.name=other").module)["codec"]
    assert meta["codec"] == {"path": str(workshop.vqgan_ckpt), "hash": tensor_hash(codec.vqgan)}
    assert (meta["stage"], meta["hu_window"], meta["patch_size"]) == ("ddpm", [-1000, 1000], [16, 16, 16])
    assert meta["parts"]["denoiser"]["part"] in PARTS
    assert meta["config"]["model"]["dim"] == 8
    assert {"torch", "commit"} <= meta["versions"].keys()
    assert "_target_" not in str(meta["parts"])
    assert (stored["state_dict"]["latent_scale.std"] > 0).all()


def test_validation_uses_the_averaged_weights(workshop, elsewhere, stored):
    monitor = next(v for k, v in stored["callbacks"].items() if "'monitor': 'val/loss'" in k)
    average = next(v for k, v in stored["callbacks"].items() if k.startswith("WeightAverage"))["average"]
    made = built_ddpm(*workshop.ddpm, "model.name=other")
    module = made.module
    module.load_state_dict(stored["state_dict"])
    module.eval()
    batch = made.data.on_after_batch_transfer(next(iter(made.data.val_dataloader())), 0)
    trained = float(module.loss(batch, even_times=True).detach())
    load_weights(module, average)
    averaged = float(module.loss(batch, even_times=True).detach())
    assert averaged == pytest.approx(float(monitor["best_model_score"]), rel=1e-6)
    assert averaged != pytest.approx(trained, rel=1e-6)


def test_the_best_checkpoint_holds_the_trained_weights_not_the_averaged_ones(workshop, stored):
    best = load(next((workshop.folder / DDPM_FOLDER).glob("ddpm-patches-*.ckpt")))
    torch.testing.assert_close(best["state_dict"], stored["state_dict"], rtol=0, atol=0)
    average = next(v for k, v in best["callbacks"].items() if k.startswith("WeightAverage"))["average"]
    assert any(not torch.equal(best["state_dict"][name], tensor) for name, tensor in average.items())


def known_scale(made):
    """The module with its latents' scale measured, as `fit` would."""
    made.module.latent_scale.measure([made.module._raw_latents(made.batch)])
    return made.module


def pick(batch, order):
    return {k: [v[i] for i in order] if isinstance(v, list) else v[torch.tensor(order)] for k, v in batch.items()}


def perturb(module):
    """Weights under which every condition matters: some begin as zeros."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.denoiser.parameters():
            p.add_(torch.randn(p.shape, generator=stream) * 0.1)


def test_the_loss_of_a_sample_does_not_depend_on_its_batch(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.batch_size=4", "model.condition_dropout=0.5")
    module, batch = known_scale(made), made.batch
    perturb(module)
    whole = float(module.loss(batch).detach())
    alone = [float(module.loss(pick(batch, [i])).detach()) for i in range(4)]
    assert len({round(value, 6) for value in alone}) == 4
    assert whole == pytest.approx(sum(alone) / 4, rel=1e-4)
    assert float(module.loss(pick(batch, [3, 1, 0, 2])).detach()) == pytest.approx(whole, rel=1e-4)


def test_other_keys_draw_other_times_and_noise(made):
    module, batch = known_scale(made), made.batch
    again = dict(batch)
    again["sample_key"] = batch["sample_key"] + 1
    assert float(module.loss(batch).detach()) != pytest.approx(float(module.loss(again).detach()), rel=1e-4)


def test_the_xray_matters_and_dropping_hides_it(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.condition_dropout=0.999999")
    module, batch = known_scale(made), made.batch
    perturb(module)
    other = dict(batch)
    other["xray"], other["cxr"] = batch["xray"].flip(-1), batch["cxr"].flip(-1)
    module.train()
    assert float(module.loss(batch).detach()) == pytest.approx(float(module.loss(other).detach()), rel=1e-6)
    module.eval()  # validation never drops
    assert float(module.loss(batch).detach()) != pytest.approx(float(module.loss(other).detach()), rel=1e-4)


def test_validation_spreads_its_times_evenly(made):
    seen = []
    levels = made.module.diffusion.training_time
    made.module.diffusion.training_time = lambda u: seen.append(u) or levels(u)
    batch = made.batch
    known_scale(made)
    for draw in range(0, 20, 2):
        batch["draw"] = torch.tensor([draw, draw + 1])
        made.module.loss(batch, even_times=True)
    u = torch.cat(seen).sort().values
    assert float(u.diff().max()) < 0.1  # of 20 random numbers, the largest gap would be about 0.18


class Watched(torch.utils.data.Dataset):
    """A dataset that remembers what it was asked for."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.inner[index]


def test_latents_are_measured_over_all_training_volumes(workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, "model.patches_per_volume=50", "++module.statistics_patches=20")
    watched = Watched(made.data.train)
    made.module._trainer = type("Trainer", (), {"datamodule": type("Data", (), {"train": watched})()})()
    made.module.transfer_batch_to_device = lambda batch, device, index: batch
    made.module._raw_latents = lambda batch: batch["ct"][..., ::4, ::4, ::4]
    made.module._measure_latents()
    assert len(watched.asked) == 20
    assert {index // 50 for index in watched.asked} == {0, 1, 2, 3}


def test_a_scale_is_mean_and_std_per_channel():
    latents = torch.randn(5, 3, 4, 4, 4) * torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1, 1) + 7
    scale = LatentScale.unknown(3)
    assert not scale.is_known
    scale.measure(latents.split(2))
    assert scale.is_known
    normal = scale.normalize(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std(1, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scale.restore(scale.normalize(latents)), latents)
    with pytest.raises(ValueError, match="no values"):
        scale.measure([])


def test_a_share_of_dropped_conditions_is_a_share(workshop, elsewhere, refused):
    assert "condition_dropout" in refused(train_ddpm_patches_4gpu, *workshop.ddpm, "model.condition_dropout=1.0")
