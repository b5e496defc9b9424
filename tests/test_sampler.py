import pytest

from dataset.sampler import VolumeGroupedSampler, sample_key


def order(epoch=0, **kwargs):
    sampler = VolumeGroupedSampler(**{"num_volumes": 7, "patches_per_volume": 6, "seed": 3, **kwargs})
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_draws_everything_once_and_epochs_differ():
    assert sorted(order()) == list(range(42))
    assert sorted(order(epoch=2)) == list(range(84, 126))
    assert [i % 42 for i in order(epoch=1)] != order()
    assert order() == order()
    assert order(seed=4) != order()


@pytest.mark.parametrize("world", [2, 4, 5])
def test_ranks_draw_equally_many_and_together_everything(world):
    ranks = [order(rank=r, world_size=world) for r in range(world)]
    assert len({len(r) for r in ranks}) == 1
    assert len(ranks[0]) == -(-42 // world)
    assert set().union(*ranks) == set(range(42))


@pytest.mark.parametrize(("world", "batch"), [(1, 3), (2, 2), (3, 1), (4, 2), (5, 4)])
def test_what_all_ranks_have_drawn_depends_on_their_number_and_batches_in_nothing(world, batch):
    ranks = [order(rank=r, world_size=world, batch_size=batch) for r in range(world)]
    assert set().union(*ranks) == set(range(42))
    for batches in range(1, 42 // (world * batch) + 1):
        drawn = [draw for r in ranks for draw in r[: batches * batch]]
        assert sorted(drawn) == sorted(order()[: len(drawn)])


@pytest.mark.parametrize("world", [3, 5, 16])
def test_ranks_draw_equally_many_even_if_there_are_fewer_draws_than_ranks(world):
    ranks = [order(num_volumes=1, patches_per_volume=2, rank=r, world_size=world) for r in range(world)]
    assert [len(r) for r in ranks] == [1] * world
    assert set().union(*ranks) == {0, 1}


def test_draws_of_a_volume_come_in_groups():
    draws = order(group=3)
    volumes = [d // 6 for d in draws]
    assert all(len(set(volumes[i : i + 3])) == 1 for i in range(0, 42, 3))
    assert volumes != sorted(volumes)


def test_resuming_leaves_out_exactly_what_was_done_and_only_in_that_epoch():
    sampler = VolumeGroupedSampler(7, 6, seed=3)
    sampler.resume(epoch=1, done=10)
    assert list(sampler) == order(epoch=1)[10:]
    sampler.set_epoch(2)
    assert list(sampler) == order(epoch=2)
    assert len(sampler) == 42


def test_keys_fit_32_bits_and_do_not_collide_in_practice():
    keys = {sample_key(1, epoch, i) for epoch in range(10) for i in range(500)}
    assert len(keys) == 5000
    assert 0 <= min(keys) <= max(keys) < 2**32


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least one volume"):
        VolumeGroupedSampler(0, 6, seed=0)
