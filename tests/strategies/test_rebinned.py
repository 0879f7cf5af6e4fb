import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from lightning_as import AdaptiveDataModule
from lightning_as.core.bins import Bins
from lightning_as.strategies import RebinnedSampling, Scores
from tests.helpers.oracle import AlgorithmOne
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import learn, random_losses, started
from tests.helpers.tiny import Tiny, TinyData, tiny_dataset, tiny_fit

TAGS = torch.arange(90) % 3
BY: Any = pytest.mark.parametrize("by", ["entropy", "loss", "features"])
BLOBS = torch.tensor([4, 60, 26]).repeat_interleave(torch.tensor([4, 60, 26]))  # far apart, of those sizes


def scores(by: str, values: Tensor) -> Scores:
    return Scores(entropies=values) if by == "entropy" else Scores(features=values.unsqueeze(1).expand(-1, 2))


def in_an_epoch(by: Any, epochs: int = 9, **options: Any) -> RebinnedSampling:
    """In the first of some epochs of four batches."""
    strategy = started(RebinnedSampling(by, **{"count": 6, **options}), Bins(TAGS), 4 * epochs, 4)
    strategy.start_epoch(seeded())
    return strategy


def end_epoch(strategy: RebinnedSampling, measure: Tensor | None = None) -> Tensor | None:
    """Draw the last batches of an epoch, and answer what is wanted."""
    while strategy.progress.batch < 4:
        assert strategy.wanted() is None
        strategy.progress.step()
    wanted = strategy.wanted()
    if wanted is not None and measure is not None:
        strategy.refresh(wanted, scores(strategy.by, measure))
        assert strategy.wanted() is None, "once is enough"
    return wanted


@BY
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_other_bins_change_no_probability_and_forget_no_instance(by: Any, floor: float):
    strategy, generator = in_an_epoch(by, floor=floor), seeded(1)
    for _ in range(3):
        for step in range(4):
            draw = strategy.draw(20, generator)
            strategy.update(draw, random_losses(20, generator, step), random_losses(20, generator))
        end_epoch(strategy, torch.rand(90, dtype=torch.float64, generator=generator))
        tags, r, seen = strategy.present_bins.tags, strategy.probabilities(), strategy.metrics()["seen"]
        strategy.start_epoch(generator)
        torch.testing.assert_close(strategy.probabilities(), r, rtol=3e-7, atol=0)  # float32 weights
        assert not torch.equal(strategy.present_bins.tags, tags)
        assert (strategy.metrics()["seen"], strategy.metrics()["age_p"]) == (seen, 0)


def naive_bins(measure: list[float], count: int) -> list[int]:
    """Bins of equal size, within one, along a measure."""
    tags = [0] * len(measure)
    for rank, i in enumerate(sorted(range(len(measure)), key=lambda i: (measure[i], i))):
        tags[i] = rank * count // len(measure)
    return tags


def moved(oracle: AlgorithmOne, tags: list[int]) -> AlgorithmOne:
    """Algorithm 1 over other bins: P is what the bins had in sum, and Q the share in it."""
    after = AlgorithmOne(torch.tensor(tags), oracle.beta, oracle.delta_p, oracle.delta_q)
    mass = [oracle.p[j] * q for j, q in zip(oracle.tags, oracle.q, strict=True)]
    after.p = [math.fsum(mass[i] for i in members) for members in after.members]
    after.q = [m / after.p[j] for m, j in zip(mass, tags, strict=True)]
    after.loss = oracle.loss
    return after


@pytest.mark.parametrize("by", ["entropy", "loss"])
def test_p_and_q_follow_algorithm_1_over_the_bins_of_the_time(by: Any):
    """With three batches in a window and four in an epoch, windows begin again where bins change."""
    strategy, oracle, generator = in_an_epoch(by, beta=3, floor=0.0), AlgorithmOne(TAGS, 3, 0.9, 0.1), seeded(1)
    losses: dict[int, float] = {}
    for epoch in range(6):
        for step in range(4):
            draw = strategy.draw(20, generator)
            strategy.progress.step()
            assert torch.equal(draw.bins, TAGS[draw.indices]), "the data set's own"
            r = [oracle.p[oracle.tags[i]] * oracle.q[i] for i in range(90)]
            torch.testing.assert_close(draw.probabilities, double(*r)[draw.indices], rtol=3e-6, atol=0)
            found, bounds = random_losses(20, generator, step), random_losses(20, generator)
            strategy.update(draw, found, bounds)
            oracle.batch(draw.indices.tolist(), found.tolist(), bounds.tolist())
            losses |= dict(zip(draw.indices.tolist(), found.tolist(), strict=True))
            torch.testing.assert_close(strategy.instance_probabilities(), double(*oracle.q), rtol=3e-6, atol=1e-24)
            torch.testing.assert_close(strategy.bin_probabilities, double(*oracle.p), rtol=3e-6, atol=0)
        entropies = torch.rand(90, dtype=torch.float64, generator=generator)
        assert (end_epoch(strategy, entropies) is None) == (by == "loss")
        mean = math.fsum(losses.values()) / len(losses)
        measure = entropies.tolist() if by == "entropy" else [losses.get(i, mean) for i in range(90)]
        oracle = moved(oracle, naive_bins(measure, 6))
        strategy.start_epoch(generator)
        assert strategy.present_bins.tags.tolist() == oracle.tags, epoch
        assert torch.equal(strategy.bins.tags, TAGS.short())


def test_clusters_of_features_are_found_and_what_is_not_finite_is_nowhere_of_its_own():
    strategy, features = in_an_epoch("features", count=3), BLOBS.float()
    features[40] = math.inf
    end_epoch(strategy, features)
    strategy.start_epoch(seeded())
    tags = strategy.present_bins.tags
    assert sorted(strategy.present_bins.sizes) == [4, 26, 60]
    assert len({(int(blob), int(tag)) for blob, tag in zip(BLOBS, tags, strict=True)}) == 3
    assert strategy.skipped == 1


@BY
@pytest.mark.parametrize(("every", "epochs", "asked"), [(1, 4, [1, 2, 3]), (2, 6, [2, 4]), (3, 3, [])])
def test_bins_are_made_every_so_many_epochs_and_not_after_the_last(by: Any, every: int, epochs: int, asked: list[int]):
    strategy, generator = in_an_epoch(by, epochs, every=every), seeded(2)
    found, changed = [], []
    for epoch in range(1, epochs + 1):
        learn(strategy, torch.arange(90), torch.rand(90, dtype=torch.float64, generator=generator))
        if end_epoch(strategy, torch.rand(90, dtype=torch.float64, generator=generator)) is not None:
            found.append(epoch)
        before = strategy.present_bins
        if epoch < epochs:
            strategy.start_epoch(generator)
        changed += [epoch] * (strategy.present_bins is not before)
    assert changed == asked
    assert found == ([] if by == "loss" else asked)
    assert strategy.scoring == (by != "loss")


@BY
def test_where_nothing_is_known_the_bins_stay(by: Any):
    strategy = in_an_epoch(by)
    end_epoch(strategy, double(math.nan).expand(90))
    strategy.start_epoch(seeded())
    assert strategy.present_bins.tags.tolist() == TAGS.tolist()
    assert strategy.skipped == (0 if by == "loss" else 90)


def test_more_bins_than_instances_are_refused():
    with pytest.raises(ValueError, match="`count` must be at most the 90 instances, got 91: use fewer"):
        started(RebinnedSampling(count=91), Bins(TAGS))


@pytest.mark.parametrize(
    ("part", "found", "message"),
    [
        ("tags", torch.zeros(89, dtype=torch.int32), "`tags` is not of each instance"),
        ("next", torch.arange(90, dtype=torch.int32) * 2, "`next` has a bin without instances"),
        ("tags", torch.arange(90, dtype=torch.int32), "`tags` has 90 bins, more than 6"),
    ],
)
def test_a_state_of_no_partition_is_refused(part: str, found: Tensor, message: str):
    strategy = in_an_epoch("entropy")
    state = strategy.state_dict() | {part: found}
    with pytest.raises(ValueError, match=message):
        strategy.fresh().load_state_dict(state)


def test_states_of_equal_options_have_equal_shapes_however_many_bins_there_are():
    strategy, shapes = in_an_epoch("features"), list[Any]()
    for features, bins in ((BLOBS.float(), 3), (torch.arange(90.0), 6), (torch.ones(90), 1)):
        shapes.append([part.shape for part in strategy.state_dict()["over_bins"].values() if isinstance(part, Tensor)])
        end_epoch(strategy, features)
        strategy.start_epoch(seeded())
        assert strategy.metrics()["bins"] == bins
    assert all(itertools.starmap(lambda one, other: one == other, itertools.pairwise(shapes)))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_bins_are_made_by_the_model_of_the_end_of_an_epoch_also_of_one_that_is_cut_short(
    num_workers: int, tmp_path: Path
):
    """With workers it may be the model of some batches earlier."""
    entropies = list[Tensor]()

    def note(trainer: Any, module: Any, *_: Any) -> None:
        with torch.no_grad():
            p = module.net(tiny_dataset().tensors[0]).double().softmax(1)
        entropies.append(-(p * p.log()).sum(1))

    data = AdaptiveDataModule(TinyData(num_workers=num_workers))
    callbacks = [LambdaCallback(on_train_batch_start=note, on_train_epoch_end=note)]
    options: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 4}
    strategy = tiny_fit(tmp_path, RebinnedSampling(count=6), Tiny, data, callbacks=callbacks, **options).strategy
    tags = strategy.present_bins.tags
    assert strategy.present_bins.sizes == [16] * 6

    def fits(found: Tensor) -> bool:
        return all(float(found[tags <= j].max()) <= float(found[tags > j].min()) + 1e-6 for j in range(5))

    fitting = [fits(found) for found in entropies]
    # Before each batch, and after the last one of the first epoch, where the next one begins.
    assert (fitting == [False] * 4 + [True] * 2 + [False] * 4) if num_workers == 0 else any(fitting[1:5])
    assert sorted(strategy.bins.sizes) != [16] * 6
