"""The network as an estimator of scikit-learn, with the parameters and attributes of its `MLPClassifier`."""

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf
from multiprocessing import current_process
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import one_of, real_number, whole_number
from fmnist_xp.backend import PRECISIONS, Backend, get_backend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Activation, Dense, Dropout, Layer, Sigmoid, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import LBFGS, Cosine, Optimizer, Schedule
from fmnist_xp.registry import arguments_of, registered
from fmnist_xp.train.history import History

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state, compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f'fmnist_xp.sklearn needs scikit-learn ({error}): pip install "fmnist-xp[sklearn]"') from error

FLOATS = np.float64, np.float32
"""The dtypes that X keeps; numbers of any other become the first."""
LEAST_RATE = 1e-6
"""The learning rate that is not divided any more."""


class Rows(NamedTuple):
    """Rows X (n, n_features), the indices of their classes (n,), and their weights (n,), None where all are alike."""

    X: NDArray[np.floating[Any]]
    labels: NDArray[np.integer[Any]]
    weights: NDArray[np.float64] | None

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return len(self.labels) if self.weights is None else float(self.weights.sum())

    def at(self, places: NDArray[np.integer[Any]]) -> "Rows":
        """Return the rows at these places."""
        return Rows(self.X[places], self.labels[places], None if self.weights is None else self.weights[places])


class Watch:
    """A callback that ends training once the score was not better by `tol` for more than `patience` iterations.

    The score is −loss or, of rows `held_out`, the accuracy once the iteration's update is made. `scores` has all of
    them, `best` is the best, and `best_state` are the weights of the best on rows held out. With `adaptive` the
    learning rate of `optimizer` is divided by 5 in place of that, until it is as low as `LEAST_RATE`.
    """

    def __init__(
        self, optimizer: Optimizer, adaptive: bool, tol: float, patience: float, held_out: Rows | None
    ) -> None:
        self._optimizer, self._adaptive = optimizer, adaptive
        self._tol, self._patience, self._held_out = tol, patience, held_out
        self.scores: list[float] = []
        self.best, self._waited = -inf, 0
        self.best_state: dict[str, Any] | None = None

    def on_epoch(self, history: History, network: Sequential) -> None:
        """Compare the score of the iteration with the best before."""
        score = -history.loss[-1]
        if self._held_out is not None:
            X, labels, weights = self._held_out
            with self._optimizer.result_in(network):
                score = network.evaluate(X, labels, sample_weight=weights).accuracy
                if score > self.best:
                    self.best_state = network.state_dict()
        self.scores.append(score)
        self._waited = self._waited + 1 if score < self.best + self._tol else 0
        self.best = max(self.best, score)
        if self._waited > self._patience:
            if self._adaptive and self._optimizer.learning_rate > LEAST_RATE:
                self._optimizer.learning_rate /= 5
                self._waited = 0
            else:
                history.stop(f"no better by {self._tol:g} in {self._waited} iterations")


def glorot_uniform(
    generator: np.random.RandomState, n_inputs: int, n_neurons: int, factor: float = 6
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights (n_inputs, n_neurons) and biases (n_neurons,), uniform in ±√(factor / (n_inputs + n_neurons)).

    Glorot & Bengio, *Understanding the difficulty of training deep feedforward neural networks*, AISTATS 2010,
    equation 16. `MLPClassifier` draws the same numbers from the same generator, biases included.
    """
    bound = np.sqrt(factor / (n_inputs + n_neurons))
    return generator.uniform(-bound, bound, (n_inputs, n_neurons)), generator.uniform(-bound, bound, n_neurons)


def dense(X: Any) -> NDArray[np.floating[Any]]:
    """Return `X`, a sparse one as an array."""
    return np.asarray(X.toarray() if issparse(X) else X)


class FullBatchMLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron whose every iteration is one update from the gradient over all rows.

    Parameters and attributes are named and meant as in `sklearn.neural_network.MLPClassifier`; docs/scikit-learn.md
    has a table of what differs. The output is a softmax, of two classes too.

    Parameters
    ----------
    hidden_layer_sizes
        Neurons of each hidden layer, or of the only one; none: () is multinomial logistic regression.
    activation
        "relu", "tanh", "logistic", "identity", or the name of another registered activation, such as "gelu".
    dropout
        The share of each hidden layer's outputs that is left out of an update, by chance: at least 0 and below 1.
    label_smoothing
        The share of each label that goes to all classes alike: at least 0 and below 1. The losses have it in them.
    solver
        "adam", "sgd", "lbfgs", or the name of another registered optimizer, such as "adamw". Of "lbfgs" an iteration
        is one evaluation of loss and gradient, and it ends with the best weights that it found.
    solver_options
        {name: value} of further arguments of the optimizer's class, such as `weight_decay`, `history_size` or `ema`.
    alpha
        Strength of the L2 penalty: ½·alpha·Σw² / n is added to the mean loss, over the weights w of all layers and
        without biases, where n is the sum of the weights of the rows trained on.
    learning_rate_init, decay
        The learning rate of update t, from 0 on, is learning_rate_init / (1 + decay · t). "lbfgs" takes neither.
    learning_rate
        "constant": as above. "adaptive": it is divided by 5 in place of ending the training by `tol`, until it is at
        most 10⁻⁶. "cosine": it falls to 0 at `max_iter`, as of `fmnist_xp.Cosine`. Or a `Schedule`, which has a
        learning rate of its own.
    max_iter
        Most iterations, each of which is one update.
    random_state
        An int, a `RandomState`, or None for NumPy's own: of the first weights, the rows held out, and dropout.
    tol, n_iter_no_change
        Training ends once the loss was not `tol` below the best before for more than `n_iter_no_change` iterations in
        a row, or with `early_stopping` the validation score not `tol` above. "lbfgs" ends where no element of the
        gradient is above `tol`, and by a score, not by the loss.
    verbose
        As of `Sequential.fit`: 0, 1 for a live display or a line for each iteration, or 2.
    warm_start
        Whether `fit` goes on from the weights of the fit before.
    momentum, nesterovs_momentum
        For "sgd": v ← momentum · v − rate · gradient is added to the weights, or momentum · v − rate · gradient.
    early_stopping, validation_fraction
        Whether to hold out so many of the rows, of each class alike, to end by their score, the accuracy, and keep
        the weights that do best on them.
    beta_1, beta_2, epsilon
        For "adam" and others that have them: see `fmnist_xp.Adam`.
    class_weight
        {class: weight}, by which the rows' weights are multiplied; "balanced": inversely to the classes' shares.
    device
        "cpu", "cuda", "cuda:1", or "auto", as of `get_backend`, or a `Backend`: where `fit` and `predict` compute.
    precision
        "float32" or "float64", on a GPU also "tf32" and "float16"; "auto": float32 for X in float32, else float64.
        Predictions are computed in the dtype of the weights, float32 after "tf32" and "float16".
    threads
        Of a CPU. By default one for each core that the process may use, as joblib's workers are told by its
        environment; but a single one in any thread but the main one, where several fits run at once.

    Attributes
    ----------
    classes_ (n_classes,), n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_
        As in `MLPClassifier`; `n_outputs_` is the number of classes.
    coefs_, intercepts_
        Weights (n_inputs, n_neurons) and biases (n_neurons,) of each layer: NumPy arrays wherever they were trained.
        Predictions are made from them, so an estimator that was pickled can predict on any `device`.
    n_iter_
        Iterations of the last `fit`.
    loss_, loss_curve_, best_loss_
        The loss, penalty included, before each iteration's update; with `warm_start` of all fits. `loss_` is the
        last, of "lbfgs" the lowest of this `fit`.
    validation_scores_, best_validation_score_
        The accuracy on the rows held out after each update; None without `early_stopping`.
    """

    classes_: NDArray[Any]
    coefs_: list[NDArray[np.floating[Any]]]
    intercepts_: list[NDArray[np.floating[Any]]]
    loss_curve_: list[float]
    validation_scores_: list[float] | None

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        solver: str = "adam",
        solver_options: Mapping[str, Any] | None = None,
        alpha: float = 1e-4,
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        decay: float = 0.0,
        max_iter: int = 1000,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: int = 0,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        class_weight: Mapping[Any, float] | str | None = None,
        device: str | Backend = "cpu",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.solver = solver
        self.solver_options = solver_options
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.decay = decay
        self.max_iter = max_iter
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.device = device
        self.precision = precision
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on `X` (n, n_features), numbers, and `y` (n,), class labels of any type; return the estimator.

        `sample_weight` (n,) are at least 0; loss, gradient and validation score are weighted means, and a row of
        weight 0 is as good as absent. A sparse `X` is made dense. Ctrl-C ends training after the iteration under way,
        with a warning, and keeps what was learned.

        Warns of `ConvergenceWarning` where `max_iter` ends the training. Raises `ValueError` for data or parameters
        that do not fit, and where the weights are no longer finite; `DeviceError` for a device that cannot be used.
        """
        backend, max_iter = self._backend(), whole_number("max_iter", self.max_iter, 1)
        optimizer = self._optimizer(max_iter)
        goes_on = self.warm_start and hasattr(self, "coefs_")
        X, y = validate_data(self, X, y, reset=not goes_on, accept_sparse="csr", dtype=FLOATS)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        rows = Rows(dense(X), labels, self._row_weights(X, y, sample_weight))
        if rows.weights is not None and not rows.weights.all():
            rows = rows.at(np.flatnonzero(rows.weights))

        generator = check_random_state(self.random_state)
        coefs, intercepts = self._first_weights(generator, classes, goes_on)
        losses, scores = (self.loss_curve_, self.validation_scores_ or []) if goes_on else ([], [])
        rows, watch = self._watched(rows, generator, optimizer)
        penalty = 0.5 * real_number("alpha", self.alpha, 0) / rows.total
        seed = generator.randint(2**31) if real_number("dropout", self.dropout, 0, 1) else None
        network = self._network(coefs, intercepts, backend, self._precision(X), penalty, seed)
        history = network.fit(
            *(rows.X, rows.labels),
            sample_weight=rows.weights,
            epochs=max_iter,
            optimizer=optimizer,
            log_every=1,
            callbacks=watch,
            verbose=self.verbose,
        )

        state = watch.best_state or network.state_dict()
        if not all(np.isfinite(values).all() for values in (*state.values(), history.loss[0])):
            raise ValueError(
                "training has diverged, loss or weights are not finite: lower learning_rate_init, and scale X"
            )
        self.coefs_ = [values for name, values in state.items() if name.endswith(".weights")]
        self.intercepts_ = [values[0] for name, values in state.items() if name.endswith(".biases")]
        self.classes_, self.n_outputs_, self.n_layers_ = classes, len(classes), len(self.coefs_) + 1
        self.n_iter_, self.out_activation_ = len(history), "softmax"
        self.loss_curve_ = losses + history.loss
        # What an optimizer tries can be infinitely bad.
        self.loss_ = float(np.nanmin(history.loss)) if optimizer.needs_loss else history.loss[-1]
        early = self.early_stopping
        self.best_loss_ = None if early else float(np.nanmin(self.loss_curve_))
        self.validation_scores_ = scores + watch.scores if early else None
        self.best_validation_score_ = watch.best if early else None
        if history.interrupted:
            warnings.warn(f"training was interrupted after {self.n_iter_} iterations", stacklevel=2)
        elif not history.stopped:
            message = f"training has not converged in {max_iter} iterations: raise max_iter, the learning rate or tol"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the class probabilities (n, n_classes) of `X` (n, n_features), in the order of `classes_`."""
        network, inputs = self._fitted(X)
        return network.predict_proba(inputs)

    def predict_log_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the logarithms of `predict_proba`, (n, n_classes)."""
        with np.errstate(divide="ignore"):
            logarithms: NDArray[np.floating[Any]] = np.log(self.predict_proba(X))
        return logarithms

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of the highest probability for each row of `X` (n, n_features), (n,) of `classes_`."""
        network, inputs = self._fitted(X)
        predicted: NDArray[Any] = self.classes_[network.predict(inputs)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that sparse input is taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _fitted(self, X: Any) -> tuple[Sequential, NDArray[np.floating[Any]]]:
        """Return the network as it was fitted, and `X` as it takes it."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=FLOATS)
        network = self._network(self.coefs_, self.intercepts_, self._backend(), self.coefs_[0].dtype.name)
        network.tells_unscaled = False  # `fit` has told of such data
        return network, dense(X)

    def _network(
        self,
        coefs: Sequence[NDArray[Any]],
        intercepts: Sequence[NDArray[Any]],
        backend: Backend,
        dtype: str,
        penalty: float = 0.0,
        seed: int | None = None,
    ) -> Sequential:
        """Return a network of these weights and biases, with an L2 `penalty`, and dropout if that has a `seed`."""
        kind = self._activation()
        layers: list[Layer] = []
        state: dict[str, NDArray[Any]] = {}
        for number, (weights, biases) in enumerate(zip(coefs, intercepts, strict=True), start=1):
            n_inputs, n_neurons = weights.shape
            if layers:
                layers += [kind()] if kind else []
                layers += [] if seed is None else [Dropout(self.dropout, seed)]
            layers.append(Dense(n_inputs, n_neurons, weight_regularizer_l2=penalty, draw=False))
            state |= {f"dense{number}.weights": weights, f"dense{number}.biases": biases[None, :]}
        loss = SoftmaxCategoricalCrossentropy(label_smoothing=self.label_smoothing)
        network = Sequential(layers, loss, backend, dtype=dtype)
        network.load_state_dict(state)
        return network

    def _activation(self) -> type[Layer] | None:
        """Return the class that `activation` names, None for that of the identity."""
        kinds = {**registered(Activation), "logistic": Sigmoid, "identity": None}
        return kinds[one_of("activation", self.activation, kinds)]

    def _backend(self) -> Backend:
        """Return the backend of `device`, with one thread where whoever calls is one of several at once."""
        # These are threads, of joblib or Dask, and processes of a pool. joblib's own processes, loky's, are told by
        # their environment how many cores are theirs.
        several = threading.current_thread() is not threading.main_thread() or current_process().daemon
        return get_backend(self.device, threads=1 if several and self.threads is None else self.threads)

    def _optimizer(self, max_iter: int) -> Optimizer:
        """Return the optimizer that `solver` names."""
        kinds = registered(Optimizer)  # type: ignore[type-abstract]
        kind = kinds[one_of("solver", self.solver, kinds)]
        rate: Any = real_number("learning_rate_init", self.learning_rate_init, 0, open_low=True)
        if isinstance(self.learning_rate, Schedule):
            rate = self.learning_rate
        elif one_of("learning_rate", self.learning_rate, ("constant", "adaptive", "cosine")) == "cosine":
            rate = Cosine(rate, max_iter)
        own = {name: getattr(self, name) for name in ("decay", "momentum", "beta_1", "beta_2", "epsilon")}
        own |= {"learning_rate": rate, "nesterov": self.nesterovs_momentum and self.momentum != 0}
        if issubclass(kind, LBFGS):
            own = {"tolerance_gradient": real_number("tol", self.tol, 0)}
        known, options = arguments_of(kind), self.solver_options or {}
        if not isinstance(options, Mapping):
            raise ValueError(f"solver_options must be {{name: value}}, got {options!r}")
        for name in options:
            one_of(f"solver_options of {self.solver}", name, [name for name in known if name not in own])
        return kind(**{name: value for name, value in own.items() if name in known}, **options)

    def _precision(self, X: Any) -> str:
        """Return the precision to train in."""
        names = "auto", *(name for name, precision in PRECISIONS.items() if not precision.fused)
        if self.precision not in names:
            raise ValueError(f"precision must be one of {', '.join(names)}, got {self.precision!r}")
        return str(X.dtype) if self.precision == "auto" else self.precision

    def _row_weights(self, X: Any, y: NDArray[Any], sample_weight: Any) -> NDArray[np.float64] | None:
        """Return the weight of each row, or None where neither rows nor classes have any."""
        if sample_weight is None and self.class_weight is None:
            return None
        weights: NDArray[np.float64] = _check_sample_weight(sample_weight, X, dtype=np.float64, copy=True)
        there = weights > 0
        classes, labels = np.unique(y[there], return_inverse=True)
        of_classes = {"classes": classes, "y": y[there], "sample_weight": weights[there]}
        weights[there] *= compute_class_weight(self.class_weight, **of_classes)[labels]
        if (weights < 0).any() or not weights.any():
            raise ValueError(
                "the weights of the rows, sample_weight times class_weight, must be at least 0, and not all of them "
                f"0: they are {weights.min():g} to {weights.max():g}"
            )
        return weights

    def _first_weights(
        self, generator: np.random.RandomState, classes: NDArray[Any], goes_on: bool
    ) -> tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]:
        """Return the weights and biases that training begins with: drawn, or those of the fit before."""
        sizes = self.hidden_layer_sizes
        sizes = sizes if isinstance(sizes, Iterable) else [sizes]
        hidden = [whole_number("hidden_layer_sizes", size, 1) for size in sizes]
        shapes = list(pairwise([self.n_features_in_, *hidden, len(classes)]))
        if not goes_on:
            factor = 2 if self._activation() is Sigmoid else 6
            coefs, intercepts = zip(*(glorot_uniform(generator, *shape, factor) for shape in shapes), strict=True)
            return coefs, intercepts
        if not np.array_equal(classes, self.classes_):
            raise ValueError(f"warm_start needs the classes of the fit before, {self.classes_}: y has {classes}")
        if (found := [coef.shape for coef in self.coefs_]) != shapes:
            raise ValueError(f"warm_start needs the layers of the fit before, {found}: they would be {shapes}")
        return self.coefs_, self.intercepts_

    def _watched(self, rows: Rows, generator: np.random.RandomState, optimizer: Optimizer) -> tuple[Rows, Watch]:
        """Return the rows to train on, and what watches the training, by rows held out with `early_stopping`."""
        tol, patience = real_number("tol", self.tol, 0), self.n_iter_no_change
        patience = patience if patience == inf else whole_number("n_iter_no_change", patience, 1)
        adaptive = self.learning_rate == "adaptive" and not optimizer.needs_loss
        if not self.early_stopping:
            return rows, Watch(optimizer, adaptive, tol, inf if optimizer.needs_loss else patience, None)
        share = real_number("validation_fraction", self.validation_fraction, 0, 1, open_low=True)
        places, kinds = np.arange(len(rows.labels)), rows.labels
        training, held_out = train_test_split(places, test_size=share, random_state=generator, stratify=kinds)
        return rows.at(training), Watch(optimizer, adaptive, tol, patience, rows.at(held_out))
