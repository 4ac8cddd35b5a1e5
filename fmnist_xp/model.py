"""The model people use: a network that trains, predicts, saves and loads itself."""

import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import nn
from fmnist_xp.arguments import one_of, real_number, whole_number
from fmnist_xp.backend import PRECISIONS, Backend, get_backend
from fmnist_xp.errors import RunError
from fmnist_xp.nn.module import Module
from fmnist_xp.optim import Optimizer, make_optimizer
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.architecture import build, describe
from fmnist_xp.train.arrays import MODEL, load_arrays, save_arrays
from fmnist_xp.train.augmentation import Augmentation
from fmnist_xp.train.checkpoint import Checkpoints, fingerprint
from fmnist_xp.train.class_weight import checked_class_weight, class_weighted
from fmnist_xp.train.engines import ENGINES, check_precision
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import History
from fmnist_xp.train.plan import computes_as_its_layers
from fmnist_xp.train.progress import ProgressDisplay, checked_verbose
from fmnist_xp.train.source import Source
from fmnist_xp.train.together import check_alike, spread
from fmnist_xp.train.trainer import Callback, train
from fmnist_xp.train.user_rows import check_weigh, checked_inputs, rows_of_ranks
from fmnist_xp.train.validation import held_out_rows

logger = logging.getLogger("fmnist_xp")

OneCallback: TypeAlias = Callback | Callable[..., Any]
Callbacks: TypeAlias = OneCallback | Iterable[OneCallback]


@dataclass(frozen=True)
class Metrics:
    """Accuracy (0 to 1) and mean data loss over a data set."""

    accuracy: float
    loss: float


class Sequential(nn.Network):
    """A network with the methods to use it whole; see `Network` for the parameters.

    Data goes in and out as NumPy arrays, whatever the backend; arrays of the backend are taken as they are.
    `X` is numbers (n, n_inputs), or pixels as `preprocess` takes them: `Pixels`, or bytes (uint8) of the shape
    (n, n_inputs) or of images, (n, 28, 28). Bytes are always pixels, 0 to 255; numbers of another kind are floats.
    `y` is class indices (n,) or (n, 1), or one-hot rows (n, classes).
    """

    tells_unscaled = True
    """Whether to warn, once, of inputs of a size that nobody seems to have scaled."""

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int,
        optimizer: Optimizer | type[Optimizer] | str | None = None,
        log_every: int = 10,
        callbacks: Callbacks = (),
        verbose: int = 1,
        block_rows: int | None = None,
        dense: bool | None = None,
        validation_fraction: float | None = None,
        validation_data: tuple[Any, ...] | None = None,
        validation_seed: int = 0,
        keep_best: bool = False,
        patience: int | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
        keep_going: bool = False,
        comm: Any = None,
        sample_weight: Any = None,
        augmentation: Augmentation | None = None,
        class_weight: Any = None,
        engine: str = "plain",
    ) -> History:
        """Train full batch: every epoch is one update from the gradient over all rows.

        Parameters
        ----------
        epochs
            Number of updates.
        optimizer
            An optimizer, its class, or its name, such as "adam", for one with its own defaults; by default `SGD()`.
            An optimizer used before goes on with its moments and its learning rate.
        log_every
            Log epochs 0, log_every, 2·log_every, …
        callbacks
            Called after each logged epoch with the history and, if they take two arguments, the network: functions,
            or objects with a method `on_epoch`, or one of these alone. `history.stop(reason)` ends the training.
        verbose
            0 prints nothing. 1 shows a live display on a terminal and in Jupyter, and where there is neither a line
            for each logged epoch; 2 prints these lines, on a terminal with the display below. True and False are 1
            and 0.
        block_rows
            Rows worked on at once by a thread; the result does not depend on it but for rounding.
        dense
            Whether the first layer's products take every column of every row. By default a CPU leaves out columns
            that are background in a whole block of rows, and sorts the rows so that these are many: the same result
            but for rounding, sooner. A GPU leaves out nothing unless this is False.
        validation_fraction, validation_seed
            The share of the rows that is held out of training, above 0 and below 1, of each class alike, drawn with
            the seed; their accuracy and data loss are logged.
        validation_data
            (X, y) or (X, y, sample_weight) of other rows to log the accuracy and data loss of, in place of a
            fraction.
        keep_best
            Keep the weights of the logged epoch with the best validation accuracy, as `history.best_state`, for
            `load_state_dict`. The network itself ends with the last ones, or with the optimizer's `result`.
        patience
            End the training once the validation accuracy has not become better for so many epochs.
        checkpoint, checkpoint_every
            A folder for the training's last two checkpoints, and the epochs from one to the next: by default about
            half a minute's. Where one cannot be written later on, a warning says so and training goes on.
        resume
            Go on from the newest checkpoint in the folder, if there is one, up to `epochs` in all: to the bits of a
            training that was never stopped. Network, optimizer and data must be as they were at first.
        keep_going
            Train on where loss or weights are not finite any more.
        comm
            A communicator of mpi4py, such as `MPI.COMM_WORLD`, where several processes train this network together:
            every one of them calls `fit`, with the same arguments but for the rows, of which each hands in some, or
            none. It trains on the rows of all, rank 0's first, and ends with the weights that one process with all of
            these rows would have, to the bit (on GPUs, one with the same `block_rows`). Rank 0 alone prints, logs,
            calls the callbacks, which may change the optimizer's numbers but not the weights, and reads and writes
            the checkpoints. A CPU's cores are divided among the ranks of a host, unless the backend was made with a
            number of threads. Where a rank fails once training has begun, the others wait for it: start scripts as
            `mpiexec -n 4 python -m mpi4py script.py`, which ends them all.
        sample_weight
            What each row counts, numbers (n,) of at least 0 and not all 0; by default 1. Loss, its gradient and
            accuracy are means weighted with them: a row of weight 2 is as good as two, one of weight 0 as none.
        augmentation
            An `Augmentation`, which changes the images of the training rows anew in every epoch. It needs rows that
            are square images, and takes every column of them.
        class_weight
            What each class counts in training: {label: weight}, 1 for a label that is not in it; a sequence of one
            weight for each class; or "balanced", by which all classes weigh the same, n / (K · count) each. The
            weights of its rows are multiplied by it, but not of rows held out.
        engine
            What makes the epochs. "plain" takes everything. "fused" trains chains of Dense and ReLU with hidden
            widths of 16 to 128 in float32, float16 or bfloat16 on a GPU of compute capability 8.0, in three kernels
            an epoch. What it does not take, the plain one trains, with a warning that says why.

        Returns
        -------
        History
            Ctrl-C ends training after the epoch under way and keeps what was learned; so does SIGTERM or SIGHUP where
            the caller has a handler for it, or there is a checkpoint folder. A loss that is not finite ends it too,
            with a warning.

        Raises
        ------
        ValueError
            For data or arguments that do not fit, or differ between ranks; `ElsewhereError` on the ranks that are not
            at fault.
        RankError
            Where MPI cannot be used.
        DeviceError
            Where memory runs out.
        RunError
            For a checkpoint folder that holds another training.
        OSError
            Where the first checkpoint cannot be written.
        """
        with Ranks(comm) as ranks, ranks.quiet(), self.backend.computing():
            with ranks.together():
                epochs, log_every = whole_number("epochs", epochs, 0), whole_number("log_every", log_every, 1)
                verbose, chosen, called = checked_verbose(verbose), make_optimizer(optimizer), _callbacks(callbacks)
                check_precision(self.dtype, one_of("engine", engine, ENGINES))
                patience = None if patience is None else whole_number("patience", patience, 1)
                every = None if checkpoint_every is None else whole_number("checkpoint_every", checkpoint_every, 1)
                if augmentation is not None:
                    if not isinstance(augmentation, Augmentation):
                        raise ValueError(f"augmentation must be an Augmentation, got {augmentation!r}")
                    augmentation.sources(self.n_inputs)
                chance: list[Any] = [layer for layer in self.layers if layer.is_random]
                chance += [augmentation] if augmentation else []
                if chosen.needs_loss and chance:
                    raise ValueError(
                        f"{type(chosen).__name__} compares losses of one function, and {chance[0]!r} makes another "
                        "in every epoch: leave that out, or take another optimizer"
                    )
                _check_validation(validation_fraction, validation_data, keep_best, patience)
                of_classes = checked_class_weight(class_weight, self.n_classes)
                if checkpoint is None and (resume or every):
                    raise ValueError(f"{'resume' if resume else 'checkpoint_every'} needs a folder: checkpoint=…")
            check_alike(
                *(ranks, self, chosen),
                epochs=epochs,
                log_every=log_every,
                sample_weight=sample_weight is not None,
                class_weight=of_classes,
                block_rows=block_rows,
                dense=dense,
                validation_fraction=validation_fraction,
                validation_seed=validation_seed,
                validation_data=None if validation_data is None else f"of {len(validation_data)} arrays",
                keep_best=keep_best,
                patience=patience,
                keep_going=keep_going,
                checkpoint=checkpoint is not None,
                resume=resume,
                augmentation=repr(augmentation),
                engine=engine,
            )
            rows = rows_of_ranks(self, ranks, X, y, sample_weight)
            with ranks.together():
                weighing = "class_weight" if rows.weights is None else "sample_weight"
                if (rows.weights is not None or of_classes is not None) and not computes_as_its_layers(self):
                    raise ValueError(
                        f"{weighing} is for networks that compute as their layers do, and {type(self).__name__} "
                        "has a forward or backward of its own"
                    )
            source = Source(rows.inputs, self.backend, ranks)

            def all_labels() -> NDArray[np.integer[Any]]:
                return ranks.concatenated(self.backend.to_host(rows.labels))

            held_out = None
            if validation_data is not None:
                held_out = rows_of_ranks(self, ranks, *validation_data)
            elif validation_fraction is not None:
                held = held_out_rows(all_labels(), validation_fraction, validation_seed)
                own = held[source.start : source.start + len(rows.inputs)]
                held_out, rows = rows.at(own, self.backend), rows.at(~own, self.backend)
                source = Source(rows.inputs, self.backend, ranks)
            inputs, labels, weights = rows
            if of_classes is not None:
                weights = class_weighted(of_classes, self.backend.to_host(labels), weights, ranks)
            for of_rows in (weights, held_out.weights if held_out else None):
                check_weigh(of_rows, ranks, weighing)
            checkpoints, state = None, None
            if checkpoint is not None:
                of_each = [all_labels(), *([] if weights is None else [ranks.concatenated(weights)])]
                data = " ".join([fingerprint(source, *of_each), *([repr(augmentation)] if augmentation else [])])
                if ranks.is_first:
                    checkpoints = Checkpoints(Path(checkpoint), self, chosen, data, every)
                begin = checkpoints.begin if checkpoints else None
                state = ranks.by_first(lambda: begin(resume) if begin else None)
                state = spread(state, self, chosen, ranks)
            first = state.epoch if state else 0
            shows = verbose and ranks.is_first
            with ProgressDisplay(epochs, source.rows, verbose, first) if shows else nullcontext() as display:
                return train(
                    self,
                    inputs,
                    labels,
                    epochs=epochs,
                    optimizer=chosen,
                    log_every=log_every,
                    callbacks=[*([display] if display else []), *called] if ranks.is_first else [],
                    block_rows=block_rows,
                    dense=dense,
                    validation=held_out,
                    keep_best=keep_best,
                    patience=patience,
                    checkpoints=checkpoints,
                    state=state,
                    keep_going=keep_going,
                    ranks=ranks,
                    weights=weights,
                    augmentation=augmentation,
                    engine=engine,
                )

    def evaluate(self, X: Any, y: Any, *, sample_weight: Any = None, comm: Any = None) -> Metrics:
        """Return accuracy and data loss on `X` and `y`; with `comm`, as in `fit`, on the rows of all ranks.

        With `sample_weight` they are weighted means, as in `fit`.
        """
        with Ranks(comm) as ranks, ranks.quiet(), self.backend.computing():
            check_alike(ranks, self, sample_weight=sample_weight is not None)
            inputs, labels, weights = rows_of_ranks(self, ranks, X, y, sample_weight)
            check_weigh(weights, ranks, "sample_weight")
            batch = FullBatch(self, inputs, labels, dense=True, ranks=ranks, weights=weights)
            loss, accuracy, _penalty = self.backend.to_host(batch.compute_metrics()).tolist()
        return Metrics(accuracy=accuracy, loss=loss)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the class probabilities of `X` as a NumPy array (n, classes): what the loss makes of the output.

        Where the loss leaves the output as it is, as mean squared error does, that is returned.
        """
        with self.backend.computing():
            return self.backend.to_host(FullBatch(self, checked_inputs(self, X)).compute_probabilities())

    def predict(self, X: Any) -> NDArray[np.integer[Any]]:
        """Return the class of the highest of `predict_proba` for each row of `X`, as a NumPy array (n,).

        Raises `RunError` where probabilities are not finite: none is the highest.
        """
        probabilities = self.predict_proba(X)
        if lacking := int((~np.isfinite(probabilities).all(axis=1)).sum()):
            raise RunError(
                f"the network gives {lacking} of {len(probabilities)} rows probabilities that are not finite: its "
                "training has diverged; train it again with a lower learning rate"
            )
        classes: NDArray[np.integer[Any]] = probabilities.argmax(axis=1)
        return classes

    def save(self, path: str | Path) -> None:
        """Write weights, biases and architecture to `path`, a safetensors file with a checksum.

        Of a user's own layer or loss the name of the class is kept and what its `config()` returns, the arguments of
        its constructor; `load` is told the class. Raises `ValueError`, naming the layer and the cure, where `load`
        could not make the network again, and `OSError` where the file cannot be written.
        """
        save_arrays(Path(path), MODEL, self.state_dict(), describe(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: Backend | str = "cpu",
        custom_objects: Iterable[type[Module]] | type[Module] = (),
    ) -> Self:
        """Return the network that `save` wrote, on `backend`.

        It is in float32 where it was trained in bfloat16, or in tf32 or float16 and the backend lacks these.
        `custom_objects` are the user's own classes of layers and losses that it may have: `[Scale, Focal]`, or one.
        Raises `RunError` where the file is missing, damaged, or not a model of this package; `TypeError` where
        `custom_objects` are no such classes.
        """
        backend = get_backend(backend)
        state, architecture = load_arrays(Path(path), MODEL)
        try:
            shapes = {name: values.shape for name, values in state.items()}
            layers, loss, dtype = build(architecture, shapes, custom_objects)
            parameters = PRECISIONS[dtype].parameters
            if other := [name for name, values in state.items() if values.dtype != parameters]:
                raise ValueError(f"{other[0]} is {state[other[0]].dtype}, not {parameters}")
            if dtype not in backend.precisions:  # of GPUs or the fused engine alone, which have float32 parameters
                dtype = parameters
            network = cls(layers, loss=loss, backend=backend, dtype=dtype)
            network.load_state_dict(state)
        except ValueError as error:
            raise RunError(f"the architecture and the weights in {path} do not fit each other: {error}") from error
        return network


load = Sequential.load


def _check_validation(fraction: Any, data: Any, keep_best: bool, patience: int | None) -> None:
    """Raise `ValueError` for what does not fit together."""
    if fraction is not None:
        if data is not None:
            raise ValueError("validation_fraction and validation_data are both given: choose one")
        real_number("validation_fraction", fraction, 0, 1, open_low=True)
    if data is not None and not (isinstance(data, tuple | list) and len(data) in (2, 3)):
        raise ValueError(f"validation_data must be (X, y) or (X, y, sample_weight), got {type(data).__name__}")
    if fraction is None and data is None and (keep_best or patience):
        raise ValueError(
            f"{'keep_best' if keep_best else 'patience'} needs rows held out: validation_fraction=0.1 or "
            "validation_data=(X, y)"
        )


def _callbacks(callbacks: Callbacks) -> list[OneCallback]:
    """Return `callbacks`, or the only one, as a list; raise `ValueError` for what cannot be called."""
    alone = callable(callbacks) or hasattr(callbacks, "on_epoch") or not isinstance(callbacks, Iterable)
    called: list[Any] = [callbacks] if alone else list(callbacks)  # type: ignore[arg-type]
    for callback in called:
        if isinstance(callback, type) or not (callable(callback) or hasattr(callback, "on_epoch")):
            raise ValueError(
                f"callbacks must be functions of the history, or objects with on_epoch(history), got {callback!r}"
            )
    return called
