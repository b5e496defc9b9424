"""Training on variants of its films: drawn by keys, image and features of one film, and only in training."""

import numpy as np
import pytest
import torch

import encode_latents
from dataset.scans.film_variants import FilmVariants
from dataset.scans.xray_io import encoder_view
from tests.tiny import built_ddpm, run

AUGMENT = ["dataset.film_augment=true", "dataset.xray_variants=3"]


def chest(size=128):
    """Brighter to one side and below, with a bar: no mirror image and no inverse is like it."""
    row, column = np.mgrid[:size, :size] / size
    film = 0.2 + 0.4 * column + 0.2 * row
    film[size // 4 : size // 2, size // 5 : size // 3] += 0.2
    return film.astype(np.float32)


def likeness(a, b):
    inner = slice(12, -12)  # inside the collimator
    return np.corrcoef(a[inner, inner].ravel(), b[inner, inner].ravel())[0, 1]


def test_a_variant_follows_from_patient_and_number():
    film, variants = chest(), FilmVariants(4)
    one = variants.make(film, "p1", 2)
    np.testing.assert_array_equal(one, variants.make(film, "p1", 2))
    others = [variants.make(film, "p1", 3), variants.make(film, "p2", 2)]
    assert all(np.abs(one - other).max() > 0.01 for other in others)
    assert variants.make(film, "p1", 0) is film


def test_a_variant_is_the_same_chest_neither_mirrored_nor_inverted():
    film, variants = chest(), FilmVariants(30)
    for number in range(1, 30):
        made = variants.make(film, "p", number)
        assert made.dtype == np.float32
        assert 0 <= made.min() <= made.max() <= 1
        alike = likeness(made, film)
        assert alike > 0.7
        assert alike > max(likeness(made, other) for other in (film[:, ::-1], film[::-1], film.T, 1 - film)) + 0.1


def test_draws_of_a_patient_show_every_variant_in_training_and_the_film_itself_in_validation(workshop, elsewhere):
    data = built_ddpm(*workshop.ddpm, "dataset.latents=never", "model.patches_per_volume=24", *AUGMENT).data
    films = {}
    for i in range(len(data.train)):
        item = data.train[i]
        films.setdefault(item["patient_id"], {})[item["xray"].numpy().tobytes()] = item
    assert {len(shown) for shown in films.values()} == {3}
    for item in (data.val[i] for i in range(len(data.val))):
        case = next(case for case in data.val.cases if case.patient_id == item["patient_id"])
        np.testing.assert_array_equal(item["xray"][0], data.val.store.read_xray(case))


def test_cached_image_and_features_are_of_one_film(workshop, elsewhere):
    run(encode_latents, *workshop.encode, "dataset.latents_dir=latents", *AUGMENT)
    built = built_ddpm(*workshop.ddpm, "dataset.latents_dir=latents", "model.patches_per_volume=24", *AUGMENT)
    fly = built_ddpm(*workshop.ddpm, "dataset.latents=never", "model.patches_per_volume=24", *AUGMENT).data.train
    eye, shown = fly.patients.encoder_input, set()
    for i in range(24):
        cached, computed = built.data.train[i], fly[i]
        torch.testing.assert_close(cached["xray"], computed["xray"], atol=1e-5, rtol=0)
        seen = built.module._frozen[1](encoder_view(computed["xray"][0].numpy(), eye.size, eye.mean, eye.std)[None])
        torch.testing.assert_close(cached["xray_tokens"], seen.tokens[0], atol=2e-3, rtol=2e-3)
        shown.add(cached["xray_pooled"].numpy().tobytes())
    assert len(shown) == 3


def test_a_cache_with_fewer_films_is_refused(workshop, elsewhere, capsys):
    run(encode_latents, *workshop.encode, "dataset.latents_dir=latents")
    cached = [*workshop.ddpm, "dataset.latents_dir=latents"]
    with pytest.raises(SystemExit):
        built_ddpm(*cached, *AUGMENT)
    assert "holds 1 film of each training X-ray, but dataset.film_augment=true" in capsys.readouterr().err
    run(encode_latents, *workshop.encode, "dataset.latents_dir=latents", *AUGMENT)
    built_ddpm(*cached, *AUGMENT)
    built_ddpm(*cached)  # the X-rays themselves are there too
