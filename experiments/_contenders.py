"""The ways to train many small networks that ``benchmark.py`` and ``gpu.py`` compare.

Each trains N networks 784-10-10-10-10-10-10 (sigmoid units, no biases) with plain SGD,
from the same weights and on the same batches, and returns their mean losses, so that it
can be seen that all do the same work. Each imports its library where it is called;
PyTorch is told the device.
"""

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SIZES = (784, 10, 10, 10, 10, 10, 10)
LEARNING_RATE = 0.1
# Networks with weights of their own; speed does not depend on them.
DIFFERENT = 2048

# Those whose speed is measured beside plain SGD: names in optax, and options.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "Nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "RMSprop": ("rmsprop", {}),
    "Adam": ("adam", {}),
    "AdamW": ("adamw", {}),
}

# One pass over the batches; a second call goes on with the trained weights.
Epoch = Callable[[], Any]


class Task(NamedTuple):
    """What every contender does: n networks, trained on the batches of an order.

    Attributes:
        x: images, one a row.
        y: their labels.
        order: of the images, a row a batch.
        n: networks, from the same weights for all contenders.
        sizes: units per layer.
    """

    x: np.ndarray
    y: np.ndarray
    order: np.ndarray
    n: int
    sizes: tuple[int, ...] = SIZES


def initial_weights(
    num_networks: int, sizes: tuple[int, ...] = SIZES
) -> list[np.ndarray]:
    """Of layers 1 to L, each (N, fan_out, fan_in), rms 1: with them networks learn.

    Very many networks have those of the first again, to be there sooner.
    """
    rngs = [np.random.default_rng(i) for i in range(min(num_networks, DIFFERENT))]
    drawn = [
        np.stack([rng.standard_normal((fan_out, fan_in), np.float32) for rng in rngs])
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    if num_networks <= DIFFERENT:
        return drawn
    again = np.arange(num_networks) % DIFFERENT
    return [W[again] for W in drawn]


def snn_jax(
    task: Task, parts: str = "train", engine: str = "auto", optimizer: str = "SGD"
) -> Epoch:
    """What ``sweep`` runs, or one of its engines, with an optimizer of ``OPTIMIZERS``.

    Its batches are those of the order, which is that of epoch 1 with key 0. With
    "evaluate" and "signals" among the parts, a sweep's looks are done too.
    """
    import jax
    import optax

    from snn_jax.datasets import Dataset, Split
    from snn_jax.ensemble import Ensemble
    from snn_jax.networks import MLP
    from snn_jax.recipe import Recipe

    x, y, order, n, sizes = task
    train = Split(x[: order.size], y[: order.size])
    valid = Split(x[-10_000:], y[-10_000:])
    name, options = OPTIMIZERS[optimizer]
    rule = functools.partial(getattr(optax, name), **options)
    network = MLP(sizes, biases=False)
    recipe = Recipe(network, optimizer=rule, batch_size=order.shape[1])
    data, traced = Dataset(train, valid, valid), {"learning_rate": LEARNING_RATE}
    many = Ensemble(recipe, data, count=n, traced=traced, engine=engine)
    rates = np.full(many.size, LEARNING_RATE, np.float32)
    points = many.split({"learning_rate": rates})
    weights = {f"W{i}": W for i, W in enumerate(initial_weights(n, sizes), start=1)}
    chunks = []
    for first in range(0, n, many.size):
        members = np.minimum(np.arange(first, first + many.size), n - 1)
        params = {name: W[members] for name, W in weights.items()}
        chunks.append((many.split(members), many.start_from(params, points)))

    def epoch() -> Any:
        losses = []
        for i, (seeds, states) in enumerate(chunks):
            key = jax.random.key(0)
            states, happened = many.run_epoch(states, seeds, points, key, epoch=1)
            chunks[i] = seeds, states
            if "evaluate" in parts:
                np.asarray(many.evaluate(states.params, "valid").loss)
            if "signals" in parts:
                many.observe(states.params)
            losses.append(np.asarray(happened["train_loss"]))
        return np.concatenate(losses)[:n]

    return epoch


def jax_vmap(task: Task) -> Epoch:
    """A textbook loss, x @ W, under ``jax.vmap``: what one would write first."""
    import jax
    import jax.numpy as jnp

    x, y, order, n, sizes = task
    x, y, order = jax.device_put((x, y, order))

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        a = x
        for W in weights[:-1]:
            a = jax.nn.sigmoid(a @ W)
        log_p = jax.nn.log_softmax(a @ weights[-1])
        return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

    def step(weights: list[Any], batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(weights, x[batch], y[batch])
        moved = jax.tree.map(lambda W, dW: W - LEARNING_RATE * dW, weights, grads)
        return moved, value

    @jax.jit
    def run(weights: list[Any]) -> Any:
        return jax.vmap(lambda weights: jax.lax.scan(step, weights, order))(weights)

    weights = jax.device_put([W.swapaxes(1, 2) for W in initial_weights(n, sizes)])

    def epoch() -> Any:
        nonlocal weights
        weights, losses = run(weights)
        return np.asarray(losses).mean(axis=1)

    return epoch


def torch_loop(task: Task) -> Epoch:
    """PyTorch, ``nn.Sequential`` and ``optim.SGD``, one network after the other."""
    import torch

    x, y, order, n, sizes = task
    images, labels = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
    batches = torch.from_numpy(order.astype(np.int64))
    weights = initial_weights(n, sizes)
    models = []
    for i in range(n):
        layers: list[Any] = []
        for W in weights:
            layer = torch.nn.Linear(W.shape[2], W.shape[1], bias=False)
            layer.weight.data = torch.from_numpy(W[i])
            layers += [layer, torch.nn.Sigmoid()]
        model = torch.nn.Sequential(*layers[:-1])
        models.append((model, torch.optim.SGD(model.parameters(), LEARNING_RATE)))
    criterion = torch.nn.CrossEntropyLoss()

    def epoch() -> Any:
        means = []
        for model, optimizer in models:
            total = torch.zeros(())
            for batch in batches:
                optimizer.zero_grad()
                loss = criterion(model(images[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                total += loss.detach()
            means.append(float(total) / len(batches))
        return np.array(means)

    return epoch


def on_device(task: Task, device: str) -> list[Any]:
    """Images, labels, batches and the weights of every layer as PyTorch's tensors."""
    import torch

    x, y, order, n, sizes = task
    integers = (y.astype(np.int64), order.astype(np.int64))
    arrays = (x, *integers, *initial_weights(n, sizes))
    return [torch.from_numpy(array).to(device) for array in arrays]


def torch_vmap(task: Task, device: str = "cpu") -> Epoch:
    """``torch.func.vmap`` of ``torch.func.grad_and_value``."""
    import torch
    from torch.func import grad_and_value, vmap

    images, labels, batches, *weights = on_device(task, device)

    def loss(weights: Any, x: Any, y: Any) -> Any:
        a = x
        for W in weights[:-1]:
            a = torch.sigmoid(torch.nn.functional.linear(a, W))
        logits = torch.nn.functional.linear(a, weights[-1])
        return torch.nn.functional.cross_entropy(logits, y)

    step = vmap(grad_and_value(loss), in_dims=(0, None, None))

    def epoch() -> Any:
        total = torch.zeros(task.n, device=device)
        with torch.no_grad():
            for batch in batches:
                grads, value = step(tuple(weights), images[batch], labels[batch])
                for W, dW in zip(weights, grads, strict=True):
                    W -= LEARNING_RATE * dW
                total += value
        return (total / len(batches)).cpu().numpy()

    return epoch


def torch_bmm(task: Task, device: str = "cpu") -> Epoch:
    """PyTorch on stacked weights: one product for layer 1, ``bmm`` for the others."""
    import torch

    images, labels, batches, *weights = on_device(task, device)
    for W in weights:
        W.requires_grad_()
    columns = torch.arange(task.order.shape[1], device=device)

    def epoch() -> Any:
        total = torch.zeros(task.n, device=device)
        for batch in batches:
            a = (images[batch] @ weights[0].reshape(-1, task.sizes[0]).T).T
            a = a.reshape(task.n, task.sizes[1], -1)
            for W in weights[1:]:
                a = torch.bmm(W, torch.sigmoid(a))
            log_p = torch.log_softmax(a, dim=1)
            losses = -log_p[:, labels[batch], columns].mean(dim=1)
            grads = torch.autograd.grad(losses.sum(), weights)
            for W, dW in zip(weights, grads, strict=True):
                W.data -= LEARNING_RATE * dW
            total += losses.detach()
        return (total / len(batches)).cpu().numpy()

    return epoch


def scikit_learn(task: Task) -> Epoch:
    """``MLPClassifier``, one network after the other; biases and weights of its own."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    x, y, order, n, sizes = task
    warnings.simplefilter("ignore")  # it has not converged after one epoch
    models = [
        MLPClassifier(
            hidden_layer_sizes=sizes[1:-1],
            activation="logistic",
            solver="sgd",
            momentum=0.0,
            alpha=0.0,
            batch_size=order.shape[1],
            learning_rate_init=LEARNING_RATE,
            max_iter=1,
            warm_start=True,
            random_state=i,
        )
        for i in range(n)
    ]

    def epoch() -> Any:
        for model in models:
            model.fit(x[: order.size], y[: order.size])
        return np.full(n, np.nan)

    return epoch


def numpy_loop(task: Task) -> Epoch:
    """NumPy, the gradient by hand, one network after the other."""
    x, y, order, n, sizes = task
    weights = initial_weights(n, sizes)

    def train(weights: list[np.ndarray]) -> float:
        total = 0.0
        for batch in order:
            activations = [x[batch].T]
            for W in weights[:-1]:
                z = np.maximum(W @ activations[-1], -80)  # exp would overflow
                activations.append(1 / (1 + np.exp(-z)))
            logits = weights[-1] @ activations[-1]
            e = np.exp(logits - logits.max(axis=0))
            p = e / e.sum(axis=0)
            columns = np.arange(len(batch))
            total -= np.log(p[y[batch], columns]).mean()
            delta = p
            delta[y[batch], columns] -= 1
            for i in range(len(weights) - 1, -1, -1):
                dW = delta @ activations[i].T / len(batch)
                if i:
                    a = activations[i]
                    delta = (weights[i].T @ delta) * a * (1 - a)
                weights[i] -= LEARNING_RATE * dW
        return total / len(order)

    def epoch() -> Any:
        return np.array([train([W[i] for W in weights]) for i in range(n)])

    return epoch


@functools.cache
def matrix_product(
    devices: bool, size: int = 2048, precision: str | None = None
) -> Callable[[], float]:
    """Rate of a large float32 product: one on all devices each, or one in all."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    count = len(jax.devices()) if devices else 1
    mesh = jax.make_mesh((count,), ("device",), (AxisType.Auto,))
    split = PartitionSpec("device")  # type: ignore[no-untyped-call]
    place = NamedSharding(mesh, split)
    many = jax.device_put(jnp.ones((count, size, size)) / size, place)

    def product(a: Any) -> Any:
        return jnp.matmul(a[0], a[0], precision=precision)[None]

    run = jax.jit(jax.shard_map(product, mesh=mesh, in_specs=split, out_specs=split))

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(4):
            result = run(many)
        result.block_until_ready()
        return 4 * count * 2 * size**3 / (time.perf_counter() - started)

    measure()
    return measure


# name: (function, library, whether it trains networks one after the other).
CONTENDERS: dict[str, tuple[Callable[..., Epoch], str, bool]] = {
    "snn_jax": (snn_jax, "jax", False),
    "jax.vmap": (jax_vmap, "jax", False),
    "torch.func.vmap": (torch_vmap, "torch", False),
    "PyTorch bmm": (torch_bmm, "torch", False),
    "PyTorch": (torch_loop, "torch", True),
    "scikit-learn": (scikit_learn, "sklearn", True),
    "NumPy": (numpy_loop, "numpy", True),
}
