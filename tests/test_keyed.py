import torch

from common.keyed import KeyedRandom


def test_a_sample_draws_the_same_in_any_batch():
    together = KeyedRandom(torch.tensor([7, 8, 9]), "cpu")
    draws = together.uniform(2), together.normal(3, 4), together.uniform(1)
    for place, key in enumerate((7, 8, 9)):
        alone = KeyedRandom(torch.tensor([key]), "cpu")
        for one, other in zip(draws, (alone.uniform(2), alone.normal(3, 4), alone.uniform(1)), strict=True):
            assert one[place].equal(other[0])


def test_other_keys_and_later_draws_differ():
    random = KeyedRandom(torch.tensor([1, 2]), "cpu")
    first, second = random.normal(100), random.normal(100)
    assert not first[0].equal(first[1])
    assert not first.equal(second)


def test_draws_have_their_distribution_and_leave_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    random = KeyedRandom(torch.arange(4), "cpu")
    normal, uniform = random.normal(10000), random.uniform(10000)
    assert torch.rand(3).equal(expected)
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert 0 <= float(uniform.min()) < 0.001
    assert 0.999 < float(uniform.max()) < 1
