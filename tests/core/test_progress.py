from __future__ import annotations

from lightning_as.core.progress import Progress


def planned(total: int | None = 20, epoch: int = 5) -> Progress:
    progress = Progress()
    progress.plan(total, epoch)
    return progress


def test_batches_count_from_the_first_of_the_training():
    progress, seen = planned(18), []
    for _ in range(4):
        progress.start_epoch()
        for _ in range(5):
            seen.append((progress.epoch, progress.batch, progress.done, progress.share))
            progress.step()
    assert seen == [(at // 5, at % 5, at, min(1.0, at / 18)) for at in range(20)]
    assert progress.epochs == 4


def test_epochs_that_are_cut_short_and_draws_that_are_thrown_away_count_as_whole_epochs():
    progress = planned()
    for steps in (2, 7, 5):
        progress.start_epoch()
        for _ in range(steps):
            progress.step()
    progress.start_epoch()
    assert (progress.epoch, progress.done, progress.share) == (3, 15, 0.75)


def test_without_an_end_nothing_is_done_yet():
    progress = planned(None)
    progress.start_epoch()
    progress.step()
    assert (progress.share, progress.epochs, progress.total, progress.done) == (0.0, None, None, 1)


def test_before_a_plan_and_with_an_empty_one():
    progress = Progress()
    assert (progress.epoch, progress.done, progress.share) == (0, 0, 0.0)
    assert planned(0, 0).share == 0


def test_a_state_goes_on_and_a_reset_begins_again_by_the_same_plan():
    progress, other = planned(), planned()
    for _ in range(3):
        progress.start_epoch()
    progress.step()
    other.load_state_dict(progress.state_dict())
    assert progress.state_dict() == {"epochs": 3, "batch": 1}
    assert (other.epoch, other.batch, other.share) == (2, 1, 0.55)
    progress.reset()
    assert (progress.epoch, progress.batch, progress.done, progress.total) == (0, 0, 0, 20)
    progress.start_epoch()
    assert progress.epoch == 0
