"""What each rank of the benchmark of ranks runs: mpiexec starts it, and rank 0 returns what was measured."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from time import perf_counter
from typing import Any

import numpy as np

from bench.measure import alternate
from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import Pixels, load_fashion_mnist, pixels
from fmnist_xp.experiments import N_INPUTS, NOTEBOOK_EXPERIMENTS, Experiment
from fmnist_xp.measure import epoch_flops, time_epochs
from fmnist_xp.ranks import Ranks, import_mpi, world
from fmnist_xp.train.reduction import Reduction
from fmnist_xp.train.rows import lay_out
from fmnist_xp.train.tree import Node, Tree

HIDDEN = (128, 128)
CALLS = 20
"""Of a message or a sum, one after another in a turn."""


def experiment(name: str) -> Experiment:
    """Return the experiment with the network 784-128-128-10, so that experiments differ in the update alone."""
    return replace(NOTEBOOK_EXPERIMENTS[name], hidden=HIDDEN)


def measure_training(*, name: str, source: str, rows: int, epochs: int, precision: str) -> dict[str, Any] | None:
    """Train on the first `rows` of `source`, of which each rank reads its share, with one thread each.

    Returns on rank 0 the seconds of `epochs` epochs after the first, of all epochs' messages and waiting, and their
    share; and the SHA-256 of the weights of every rank.
    """
    with Ranks(world()) as ranks:
        backend = get_backend("cpu", threads=1)
        train, _test = ranks.in_turn_on_host(lambda: load_fashion_mnist(source))
        X, y = pixels(train)  # as they come, as `train` takes them
        own = ranks.share(min(rows, len(X)))
        network = experiment(name).make_network(backend, seed=0, dtype=precision)
        history = network.fit(
            X[own],
            y[own],
            epochs=1 + epochs,
            optimizer=experiment(name).make_optimizer(),
            verbose=False,
            keep_going=True,  # as many epochs as asked for, whatever becomes of the loss
            comm=ranks.comm,
        )
        weights = ranks.gather(sha256(np.ascontiguousarray(backend.to_host(network.parameters)).data).hexdigest())
    if not ranks.is_first:
        return None
    messages = history.message_seconds or 0.0
    return {
        "epoch_seconds": history.epoch_seconds[1:],
        "message_seconds": messages / len(history.epoch_seconds),
        "message_share": messages / sum(history.epoch_seconds),
        "column_share": history.column_share,
        "weights": weights,
    }


def measure_alone(*, name: str, epochs: int, precision: str) -> dict[str, Any]:
    """Return what the model takes of a single rank.

    What an epoch does in full on each rank is the time of one of a single row; `add_seconds` are those of sums of two
    gradients.
    """
    backend = get_backend("cpu", threads=1)
    network = experiment(name).make_network(backend, seed=0, dtype=precision)
    row = Pixels(np.random.default_rng(0).integers(0, 256, (1, N_INPUTS), np.uint8))
    label = backend.asarray(np.zeros(1, np.uint8))
    blank = Pixels(np.zeros((10_000, N_INPUTS), np.uint8))
    timed = time_epochs(network, row, label, experiment(name).make_optimizer(), epochs)
    with backend.computing():
        one, other = (backend.xp.ones_like(network.gradients) for _ in range(2))
        return {
            "widths": network.widths,
            "flops_per_row": epoch_flops(network.widths, 1),
            "block_rows": lay_out(network, blank, dense=True).blocks[0].stop,
            "parameters": network.gradients.size,
            "vector_bytes": network.gradients.nbytes,
            "replicated_seconds": timed.seconds,
            "add_seconds": _calls(partial(backend.xp.add, one, other, out=one)),
        }


def measure_messages(*, elements: int, rounds: int, precision: str) -> dict[str, Any] | None:
    """Return on rank 0 the seconds of sums of a vector over all ranks, and which MPI it is.

    The sums are as training makes them, and by Allreduce, which take turns; one is over when the last rank has it. Of
    two ranks, also the seconds of a message from one to the other, of one element and of the vector.
    """
    with Ranks(world()) as ranks:
        backend = get_backend("cpu", threads=1)
        dtype = backend.precision(precision).parameters
        vector = backend.xp.empty(elements, dtype)
        sides: dict[str, Callable[[], list[float]]] = {
            "tree": partial(_summed, ranks, vector, _tree(ranks, backend, vector)),
            "allreduce": partial(
                _summed, ranks, vector, partial(ranks.comm.Allreduce, import_mpi().IN_PLACE, vector)
            ),
        }
        if ranks.size == 2:
            sides |= {
                "short": partial(_sent, ranks, backend.xp.zeros(1, dtype)),
                "vector": partial(_sent, ranks, backend.xp.zeros(elements, dtype)),
            }
        samples = alternate(sides, rounds)
    vendor, numbers = import_mpi().get_vendor()
    return {"seconds": samples, "mpi": f"{vendor} {'.'.join(map(str, numbers))}"} if ranks.is_first else None


def _tree(ranks: Ranks, backend: Backend, vector: Any) -> Callable[[], None]:
    """Return what adds up as training does.

    Of a power of two of ranks, each has one sum of the rows' tree, and so as many messages as in the tree of the
    ranks alone.
    """
    tree = Tree([1] * ranks.size)
    reduction = Reduction(backend, ranks.channel(backend), ranks.rank, tree, tree.shares(ranks.size))
    return partial(reduction.add, {Node(ranks.rank, ranks.rank + 1): vector}, vector)


def _summed(ranks: Ranks, vector: Any, add: Callable[[], Any]) -> list[float]:
    """Return the seconds of each sum on the rank that has it last; raise `RuntimeError` for one that is wrong."""

    def fill() -> None:
        vector[...] = ranks.rank + 1
        ranks.comm.Barrier()

    seconds = np.array(_calls(add, fill))
    ranks.comm.Allreduce(import_mpi().IN_PLACE, seconds, import_mpi().MAX)
    if not (vector == ranks.size * (ranks.size + 1) / 2).all():
        raise RuntimeError(f"rank {ranks.rank}: {vector} is not the sum of all ranks' vectors")
    return list(seconds)


def _sent(ranks: Ranks, vector: Any) -> list[float]:
    """Return the seconds of a message from one of two ranks to the other: half of those there and back."""
    comm, other = ranks.comm, 1 - ranks.rank

    def there_and_back() -> None:
        if ranks.is_first:
            comm.Send(vector, other)
            comm.Recv(vector, other)
        else:
            comm.Recv(vector, other)
            comm.Send(vector, other)

    return [seconds / 2 for seconds in _calls(there_and_back, comm.Barrier)]


def _calls(call: Callable[[], Any], prepare: Callable[[], Any] = lambda: None) -> list[float]:
    """Return the seconds of `CALLS` calls, after one to warm up, each after one of `prepare`."""
    seconds = []
    for _ in range(1 + CALLS):
        prepare()
        started = perf_counter()
        call()
        seconds.append(perf_counter() - started)
    return seconds[1:]
