"""The epoch loop: one update an epoch, metrics fetched only where they are logged."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from fmnist_xp.backend import Array
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train.augmentation import Augmentation
from fmnist_xp.train.checkpoint import Checkpoints, State
from fmnist_xp.train.engines import make_batch
from fmnist_xp.train.epochs import Epochs
from fmnist_xp.train.history import History
from fmnist_xp.train.idle import tell_of_idle_units
from fmnist_xp.train.interrupts import noted_interrupts
from fmnist_xp.train.report import Logged, Report
from fmnist_xp.train.source import Source
from fmnist_xp.train.together import Numbers
from fmnist_xp.train.validation import HeldOut


class Callback(Protocol):
    """An object that wants to know of each logged epoch.

    One with an attribute `overlaps` that is true looks at the history alone, and may be called while the next epochs
    run; for any other the network is as its update left it. One with a method `on_progress(done)` is told after every
    epoch, or after all that run at once, how many of the training's epochs are done.
    """

    def on_epoch(self, *arguments: Any, **more: Any) -> Any:
        """Take note of a logged epoch, the last entry of the history, once its update is made.

        The arguments are the `History` or, of a method that takes two, the history and the `Network`.
        `history.stop(reason)` ends the training.
        """


def train(
    network: Network,
    inputs: Pixels | Array,
    labels: Array,
    *,
    epochs: int,
    optimizer: Optimizer,
    log_every: int = 10,
    callbacks: Iterable[Any] = (),
    block_rows: int | None = None,
    dense: bool | None = None,
    validation: tuple[Pixels | Array, Array, Array | None] | None = None,
    keep_best: bool = False,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    state: State | None = None,
    keep_going: bool = False,
    ranks: Ranks = ALONE,
    weights: Array | None = None,
    augmentation: Augmentation | None = None,
    engine: str = "plain",
) -> History:
    """Train `network` full batch up to epoch `epochs` on rows as `rows.lay_out` takes them; return what was logged.

    All `ranks` train, each with the same network and optimizer, and come to the same weights and the same history but
    for the seconds. Callbacks and checkpoints are the first's; what one changes of the optimizer's numbers, all take
    over. One that stops, or gets a signal, stops all.

    Every `log_every`th epoch, from epoch 0 on, is logged: its metrics, those of the rows `validation` too, are those
    before its update. A device that computes meanwhile is waited for nowhere else.

    `state` is where an earlier training was when it wrote a checkpoint, from which this one goes on. `checkpoints`
    are written when they are due and at the end. Training ends early, after the epoch under way, where

    - a signal asks for it (`noted_interrupts`): `history.interrupted` is set;
    - loss or weights are no longer finite, unless `keep_going`: `history.diverged` is set, and no checkpoint written;
    - `patience` epochs went by without a better validation accuracy;
    - a callback calls `history.stop`;
    - the optimizer has nothing left to do, as `Optimizer.stopped` says.

    The network ends with what `Optimizer.result` gives: an average of the weights, or the best that were found. Rows
    held out are measured with that; a checkpoint has the weights themselves.

    `engine` makes the epochs, see `make_batch`. A backend that captures runs all epochs from one logged to the next
    at once: an interrupt then lets these end, `epoch_seconds` has their mean, and a callback that overlaps is called
    while the next ones run.
    """
    backend, callbacks = network.backend, list(callbacks)
    start = state or State(0, History())
    history, done = start.history, start.epoch
    earlier = history.epoch_seconds
    # The first rank's callbacks decide for all which epochs run at once.
    overlapping = all(ranks.gather(all(getattr(callback, "overlaps", False) for callback in callbacks)))
    progress = [callback.on_progress for callback in callbacks if hasattr(callback, "on_progress")]
    keeps = any(ranks.gather(checkpoints is not None))
    with backend.computing(), noted_interrupts(always=keeps) as interrupts:
        batch = make_batch(
            *(engine, network, optimizer, inputs, labels, block_rows, dense, ranks, weights, augmentation)
        )
        history.column_share = batch.column_share
        kept: Any = {"keep_best": keep_best, "best": start.best, "block_rows": block_rows, "ranks": ranks}
        held_out = HeldOut(network, optimizer, *validation, **kept) if validation else None
        report = Report(network, history, callbacks, held_out, patience, keep_going)
        runner = Epochs(batch, optimizer, min(log_every, max(1, epochs)))
        numbers = Numbers(optimizer, ranks)
        marks, counts = [backend.mark()], list[int]()

        def present() -> State:
            report.finish()
            report.check_weights(done)
            seconds = zip(backend.seconds_between(marks), counts, strict=True)
            history.epoch_seconds = earlier + [one / count for one, count in seconds for _ in range(count)]
            return State(done, history, held_out and held_out.best)

        if checkpoints is not None:
            checkpoints.write(start)
        for epoch, count in _stretches(done, epochs, log_every, runner.captures, overlapping):
            learning_rate = optimizer.current_learning_rate
            log = epoch % log_every == 0
            trial = optimizer.needs_loss and optimizer.trying(network)
            if log and held_out:
                report.finish()  # it may keep the weights that the next line writes over
                held_out.note()
            runner.run(count, log)
            marks.append(backend.mark())
            counts.append(count)
            done = epoch + count
            if log:
                totals = backend.fetch(batch.metrics.totals)
                report.add(Logged(epoch, learning_rate, totals, held_out.fetch() if held_out else None, trial))
            if not (runner.captures and overlapping):
                report.finish()
            if not backend.asynchronous:  # elsewhere the next loss that is logged tells
                report.check_weights(done)
            for on_progress in progress:
                on_progress(done)
            if log and not overlapping:  # callbacks may have changed them
                numbers.take_over()
                batch.take_over()
            if optimizer.stopped:
                history.stop(optimizer.stopped)
            stopped, signal = ranks.any_stopped(bool(history.stopped), interrupts[0] if interrupts else 0)
            if signal:
                history.interrupted, history.signal = True, signal
                history.stop("interrupted")
            elif stopped:  # by a callback, which the first rank alone has
                history.stop("stopped by rank 0")
            if checkpoints is not None and not history.stopped and checkpoints.due(done):
                now = present()
                if not history.diverged:
                    checkpoints.save(now)
            if history.stopped:
                break
        end = present()
        if checkpoints is not None and not history.diverged:
            checkpoints.save(end)
        optimizer.finish(network)
        history.stopped = ranks.from_first(history.stopped)
        if batch.reduction is not None and not backend.asynchronous:
            history.message_seconds = batch.reduction.seconds
        if not history.diverged:
            tell_of_idle_units(network, Source(inputs, backend, ranks), batch.metrics, history, ranks)
    if held_out and held_out.best is not None:
        history.best_state = _state_of(network, held_out.best)
    return history


def _stretches(
    first: int, epochs: int, log_every: int, captures: bool, overlapping: bool
) -> Iterator[tuple[int, int]]:
    """Yield (first epoch, number of epochs) of each stretch that runs at once; a logged epoch is the first of one.

    Callbacks that look at more than the history are called right after their epoch, which then runs alone.
    """
    epoch = first
    while epoch < epochs:
        last = min(epochs, epoch - epoch % log_every + log_every)
        alone = not captures or (not overlapping and epoch % log_every == 0)
        count = 1 if alone else last - epoch
        yield epoch, count
        epoch += count


def _state_of(network: Network, parameters: Array) -> dict[str, Any]:
    """Return the `state_dict` that `network` would have with these `parameters`."""
    with network.backend.current():
        own = network.parameters.copy()
        network.parameters[...] = parameters
        state = network.state_dict()
        network.parameters[...] = own
    return state
