import pytest

from fmnist_xp.errors import RunError
from fmnist_xp.report.notebook import NOTEBOOK_TEST, notebook_history


@pytest.mark.parametrize("experiment", ["sgd", "momentum", "adam"])
def test_history_is_every_tenth_epoch(experiment: str) -> None:
    assert notebook_history(experiment).epoch == list(range(0, 1100, 10))


@pytest.mark.parametrize("experiment", ["sgd", "momentum", "adam"])
def test_final_training_metrics_are_the_last_ones_printed(experiment: str) -> None:
    history, final = notebook_history(experiment), NOTEBOOK_TEST[experiment]
    assert (history.accuracy[-1], history.loss[-1]) == (final.train_accuracy, final.train_loss)


def test_learning_rates_follow_the_decay() -> None:
    history = notebook_history("sgd")
    expected = [1 / (1 + 0.01 * max(epoch - 1, 0)) for epoch in history.epoch]
    assert history.learning_rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("experiment", ["rmsprop", "../notebook_figures/sgd", ""])
def test_unknown_experiment_names_those_there_are(experiment: str) -> None:
    with pytest.raises(RunError, match="it has sgd, momentum, adam"):
        notebook_history(experiment)
