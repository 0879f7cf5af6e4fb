import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, ClosenessSampling, Uniform
from lightning_as.plugin.suspects import COLUMNS, parts, suspects_of
from tests.helpers.statistics import seeded
from tests.helpers.tiny import BATCH, Fitted, Tiny, normal, refused, tiny_dataset, tiny_fit
from tests.plugin.test_examples import fitted

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def callback_of(fit: Fitted) -> AdaptiveSamplingCallback:
    return next(one for one in fit.trainer.callbacks if isinstance(one, AdaptiveSamplingCallback))


def naive_parts(scores: list[float]) -> tuple[float, float]:
    """Of all cuts between two scores the one with the smallest sum of squares within the groups, and its share."""

    def squares(values: list[float]) -> float:
        return sum((value - sum(values) / len(values)) ** 2 for value in values)

    values, best = sorted(score for score in scores if not math.isnan(score)), (math.inf, math.inf)
    for at in range(1, len(values)):
        if values[at] > values[at - 1]:
            within = squares(values[:at]) + squares(values[at:])
            if within < best[0] - 1e-12:
                best = within, (values[at - 1] + values[at]) / 2
    return best[1], 1 - best[0] / squares(values)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_cut_that_leaves_least_within_its_groups(seed: int):
    scores = torch.cat([normal(30, seed=seed), 4 + 2 * normal(10, seed=seed + 9)]).double().mul(4).round() / 4  # ties
    scores[::7] = math.nan
    assert parts(scores.numpy()) == pytest.approx(naive_parts(scores.tolist()))


@pytest.mark.parametrize("alike", [[], [2.0], [3.0, 3.0], [math.nan, 1.0]])
def test_what_is_alike_has_no_parts(alike: list[float]):
    assert parts(np.array(alike)) == (math.inf, 0)


def known(margins: list[float], late: list[float]) -> dict[str, np.ndarray]:
    zeros = dict.fromkeys(COLUMNS, np.zeros(len(margins)))
    return {**zeros, "index": np.arange(len(margins)), "margin": np.array(margins), "late_margin": np.array(late)}


def test_of_the_two_means_the_one_that_parts_better_counts_and_none_is_suspected_of_what_the_model_says():
    clear, unclear = [5.0, -5.0, 5.1, -5.1], [2.0, -2.0, 1.0, -1.0]
    for margins, late in ((clear, unclear), (unclear, clear)):
        found = suspects_of(known(margins, late))
        assert found["score"].tolist() == [5.1, 5, -5, -5.1]
        assert found["suspected"].tolist() == [True, True, False, False]
    assert not suspects_of(known([9.0, 8.0, 1.0], [9.0, 8.0, 1.0]))["suspected"].any()


def test_equal_scores_are_in_the_order_of_the_data_and_what_is_not_known_is_not_listed():
    margins = [1.0, -2.0, math.nan, 1.0, -2.0, 5.0]
    found = suspects_of(known(margins, margins))
    assert list(found) == list(COLUMNS)
    assert found["index"].tolist() == [1, 4, 0, 3, 5]
    assert found["score"].tolist() == [2, 2, -1, -1, -5]
    assert found["suspected"].tolist() == [True, True, False, False, False]


def test_the_list_is_by_the_margins_of_a_fit_of_which_late_ones_count_more(tmp_path: Path):
    callback, fit = fitted(tmp_path)
    table, examples = callback.suspects(), callback.examples()
    places = {tuple(row): at for at, row in enumerate(tiny_dataset().tensors[0].tolist())}
    sums = np.zeros((2, len(places)))
    for number, ((x, y), logits) in enumerate(zip(fit.watch.batches, fit.watch.logits, strict=True), 1):
        of_batch = {}  # the last look of each
        for row, output, label in zip(x.tolist(), logits.tolist(), y.tolist(), strict=True):
            others = [value for c, value in enumerate(output) if c != label]
            of_batch[places[tuple(row)]] = output[label] - max(others)
        for at, margin in of_batch.items():
            sums[:, at] += number**2 * margin, number**2
    with np.errstate(invalid="ignore"):
        late = sums[0] / sums[1]
    means = [-examples["margin"].to_numpy(), -late]
    score = max(means, key=lambda mean: naive_parts(mean.tolist())[1])
    np.testing.assert_allclose(table["score"], score[table["index"]], rtol=1e-4, atol=1e-5)
    assert table["score"].is_monotonic_decreasing
    assert sorted(table["index"]) == np.flatnonzero(sums[1]).tolist()
    for name in ("label", "other", "margin", "confidence", "smoothed_loss", "drawn"):
        assert table[name].tolist() == examples[name][table["index"]].tolist()
    assert table["suspected"].tolist() == (table["score"] > max(naive_parts(table["score"].tolist())[0], 0)).tolist()


@pytest.mark.parametrize("strategy", [ClosenessSampling(), Uniform()], ids=lambda one: type(one).__name__)
def test_wrong_labels_are_found(tmp_path: Path, strategy: Any):
    """Of four groups far from each other, where one label in ten is that of another group."""
    labels = torch.arange(200) % 4
    features = 3 * torch.eye(8)[labels] + 0.5 * normal(200, 8)
    wrong = torch.zeros(200, dtype=torch.bool)
    wrong[torch.randperm(200, generator=seeded())[:20]] = True
    loader = AdaptiveDataLoader(TensorDataset(features, torch.where(wrong, (labels + 1) % 4, labels)), BATCH, seed=0)
    fit = tiny_fit(tmp_path, strategy, data=loader, max_epochs=8)
    table = callback_of(fit).suspects()
    known = set(wrong.nonzero()[:, 0].tolist())
    assert len(known & set(table["index"][:20])) >= 18
    suspected = table[table["suspected"]]
    assert len(known & set(suspected["index"])) >= 18
    assert len(suspected) <= 25
    right = suspected["other"].to_numpy() == labels[suspected["index"].tolist()].numpy()
    assert right.mean() > 0.7  # which class it is


class Regression(Tiny):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return mse_loss(self.net(batch[0])[:, 0], batch[1].float())


def test_what_has_no_margins_is_refused_with_the_reason_and_so_is_what_was_not_trained(tmp_path: Path):
    with pytest.raises(RuntimeError, match="Nothing is known of the examples yet"):
        AdaptiveSamplingCallback().suspects()
    loss = {"per_sample_loss": lambda batch: batch[1] * 0.5 + 1}
    fit = tiny_fit(tmp_path, ClosenessSampling(), Regression, ours={**loss, "compare_loss": False})
    with refused("No label can be suspected: .* For regression, soft labels"):
        callback_of(fit).suspects()
