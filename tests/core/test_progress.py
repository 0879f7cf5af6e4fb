from lightning_as.core.progress import Progress


def planned(total: int | None = 20, epoch: int = 5, epochs: tuple[int, ...] = ()) -> Progress:
    progress = Progress()
    progress.plan(total, epoch)
    for batches in epochs:
        progress.start_epoch()
        for _ in range(batches):
            progress.step()
    return progress


def test_batches_count_from_the_first_of_the_training_whatever_the_epochs_before_have_drawn():
    for epoch in range(4):
        for batch in range(5):
            progress, done = planned(18, epochs=(*(2, 7, 5)[:epoch], batch)), 5 * epoch + batch
            assert (progress.epoch, progress.batch, progress.done) == (epoch, batch, done)
            assert (progress.share, progress.epochs) == (min(1.0, done / 18), 4)


def test_without_a_plan_an_end_or_a_batch_nothing_is_done_yet():
    for progress in (Progress(), planned(0, 0)):
        assert (progress.epoch, progress.done, progress.share) == (0, 0, 0.0)
    progress = planned(None, epochs=(1,))
    assert (progress.share, progress.epochs, progress.total, progress.done) == (0.0, None, None, 1)


def test_a_state_goes_on_and_a_reset_begins_again_by_the_same_plan():
    progress, other = planned(epochs=(0, 0, 1)), planned()
    other.load_state_dict(progress.state_dict())
    assert progress.state_dict() == {"epochs": 3, "batch": 1}
    assert (other.epoch, other.batch, other.share) == (2, 1, 0.55)
    progress.reset()
    assert (progress.epoch, progress.batch, progress.done, progress.total) == (0, 0, 0, 20)
    progress.start_epoch()
    assert progress.epoch == 0
