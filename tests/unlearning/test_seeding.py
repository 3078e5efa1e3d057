"""unlearning.seeding: draws by name."""

import pytest
import torch

from unlearning.seeding import derive_seed, generator


def test_a_seed_is_fixed_by_its_names_on_every_machine() -> None:
    # int(sha256(b"order\x1fscratch\x1f0\x1f1").hexdigest()[:16], 16) // 2
    assert derive_seed("order", "scratch", 0, 1) == 4771406729246651820


def test_seeds_fit_into_torchs_generators() -> None:
    seeds = [derive_seed("fit", number) for number in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # the whole range is used


def test_names_do_not_run_into_each_other() -> None:
    names = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("a", 1, 12), ("a", 11, 2)]
    assert len({derive_seed(*name) for name in names}) == len(names)


def test_zero_is_a_seed_like_any_other() -> None:
    assert len({derive_seed("draw", seed) for seed in (0, 1, -1, None)}) == 4


def test_a_float_is_refused_as_a_name() -> None:
    with pytest.raises(AssertionError):
        derive_seed("forget", 0.1)


def test_generators_of_one_name_draw_the_same_and_of_another_name_differently() -> None:
    first, again, other = (
        torch.rand(8, generator=generator("draw", name)) for name in ("a", "a", "b")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_draw_reads_and_moves_no_global_state() -> None:
    before = torch.get_rng_state()
    first = torch.rand(4, generator=generator("draw"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(torch.rand(4, generator=generator("draw")), first)
