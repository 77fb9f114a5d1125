"""What makes the deep network learn: one change at a time, and the best together.

Each remedy is tried from three kinds of initial weights: small ones, from which plain
SGD never leaves the plateau, the usual ones, and ones that saturate the units; a remedy
that is itself a way to draw the weights stands alone. Every network sees the same
number of images. The learning rate is chosen on the validation set, by the median over
seeds; what is reported is measured on the test set.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, Key
from optax import contrib

from snn_jax import diagnosis, losses, meanfield, networks, training
from snn_jax.ensemble import Ensemble, OptimizerFactory
from snn_jax.mnist import Dataset, Split
from snn_jax.networks import Architecture, Images, Params

# Arrays by name, with a leading axis of networks or, as results, of cells.
Chunk = dict[str, np.ndarray]

# (key, architecture, x) -> initial parameters of one network; x are images.
Init = Callable[..., Params]

# What a race's key is folded with for the order of the images; seeds are smaller.
ORDER = 2**31
# Initial weights that look at images look at so many, the first of the training set.
NUM_INIT_IMAGES = 1000


def drawn(initializer: str, gain: float) -> Init:
    """Initial weights that are all drawn alike: a key of ``INITIALIZERS``, times gain.

    >>> init = drawn("lecun", 4.0)
    >>> init(jax.random.key(0), networks.DEEP, jnp.ones((1, 784)))["W2"].shape
    (10, 10)
    """

    def init(key: Array, architecture: Architecture, x: Images) -> Params:
        del x
        return networks.init(key, architecture, initializer=initializer, gain=gain)

    return init


def lsuv(key: Key[Array, ""], architecture: Architecture, x: Images) -> Params:
    """Orthogonal weights, layer after layer scaled until its sums have variance 1.

    Mishkin & Matas 2016, "All you need is a good init": layer-sequential unit variance,
    measured over units and images.

    Args:
        key: typed key.
        architecture: of the network.
        x: images, one a row.
    """
    params = networks.init(key, architecture, initializer="orthogonal")
    for layer in range(1, architecture.num_layers + 1):
        _, z = networks.forward(params, x, architecture=architecture)
        params[f"W{layer}"] = params[f"W{layer}"] / z[layer - 1].std()
    return params


def matched(sigma_w: float) -> Init:
    """Normal weights under which sums have one variance from the first layer on.

    The variance q of the sums of a wide layer goes from layer to layer to a fixed point
    q*, whatever it was in the first: ``meanfield.fixed_point``. The first layer's
    weights are drawn so that it starts there: s^2 |x|^2 = q*.

    Args:
        sigma_w: sqrt(fan-in) times the standard deviation of the other weights.
    """

    def init(key: Array, architecture: Architecture, x: Images) -> Params:
        q = meanfield.fixed_point(activation=architecture.activation, sigma_w=sigma_w)
        params = networks.init(key, architecture, initializer="lecun", gain=sigma_w)
        unit = networks.init(key, architecture, initializer="normal")["W1"]
        return params | {"W1": unit * jnp.sqrt(q / (x**2).sum(axis=1).mean())}

    return init


def critical(key: Key[Array, ""], architecture: Architecture, x: Images) -> Params:
    """``matched`` at chi_1 = 1, where gradients keep their size in mean field theory.

    Schoenholz et al. 2017, "Deep information propagation".

    Args:
        key: typed key.
        architecture: of the network.
        x: images, one a row.
    """
    sigma_w = meanfield.critical_sigma_w(activation=architecture.activation)
    return matched(sigma_w)(key, architecture, x)


# Where networks start, by what the weights are: so small that gradients vanish; of
# variance 1 / fan-in, as everyone does; so large that units saturate.
STARTS: dict[str, Init] = {
    "small": drawn("normal", 0.1),
    "usual": drawn("lecun", 1.0),
    "saturated": drawn("normal", 3.0),
}
OWN = "own"

# Learning rates to choose from, by optimizer: half a decade apart.
SGD_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
LARGE_RATES = (3.0, 10.0, 30.0, 100.0, 300.0)
ADAPTIVE_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)


def momentum(learning_rate: Any) -> optax.GradientTransformation:
    """SGD with momentum 0.9 (Polyak 1964)."""
    return optax.sgd(learning_rate, momentum=0.9)


def normalized_gradient(learning_rate: Any) -> optax.GradientTransformation:
    """Every layer's step has the same rms, the learning rate, whatever its gradient's.

    Block-normalized gradients, Yu et al. 2017.
    """

    def unit(grad: Array) -> Array:
        largest = jnp.maximum(jnp.abs(grad).max(), 1e-30)  # squares could underflow
        return grad / (largest * jnp.sqrt(((grad / largest) ** 2).mean() + 1e-30))

    return optax.chain(
        optax.stateless(lambda grads, _: jax.tree.map(unit, grads)),
        optax.scale_by_learning_rate(learning_rate),
    )


@functools.cache
def decayed(optimizer: OptimizerFactory, num_steps: int) -> OptimizerFactory:
    """The same optimizer with a learning rate that falls to 0 on a straight line.

    Args:
        optimizer: makes an optax transformation from a learning rate.
        num_steps: of the whole run.
    """
    fall = optax.schedules.linear_schedule(1.0, 0.0, num_steps)

    def factory(learning_rate: Any) -> optax.GradientTransformation:
        return optax.chain(optimizer(learning_rate), optax.scale_by_schedule(fall))

    return factory


@dataclass(frozen=True)
class Remedy:
    """A change to the network, to its start or to the way it is trained.

    Attributes:
        name: in the league table.
        kind: of change, the heading that it stands under.
        line: what to change, as a line of Python.
        init: initial weights; by default all of ``STARTS`` are tried.
        changes: of the architecture, by field; "width" sets all hidden layers.
        optimizer: makes an optax transformation from a learning rate.
        learning_rates: to choose from, as many for all remedies of a league.
        inputs: "raw", "centred" (each pixel's mean subtracted) or "standardized" (and
            divided by its standard deviation).
        layerwise: trains one hidden layer, then puts a second on top and trains, and so
            on, a part of an epoch each.
        decay: whether the learning rate falls to 0 over the run.
    """

    name: str
    kind: str
    line: str
    init: Init | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerFactory = optax.sgd
    learning_rates: tuple[float, ...] = SGD_RATES
    inputs: str = "raw"
    layerwise: bool = False
    decay: bool = False

    @property
    def starts(self) -> dict[str, Init]:
        """The kinds of initial weights that it is tried from."""
        return STARTS if self.init is None else {OWN: self.init}

    def architecture(self, base: Architecture) -> Architecture:
        """The network it makes of another."""
        changes = dict(self.changes)
        if "width" in changes:
            hidden = (changes.pop("width"),) * (base.num_layers - 1)
            changes["sizes"] = (base.sizes[0], *hidden, base.sizes[-1])
        return replace(base, **changes)


INIT = "initial weights"


def _init(name: str, init: Init, line: str) -> Remedy:
    return Remedy(name, INIT, f"networks.init(.., {line})", init)


def _units(name: str, activation: str) -> Remedy:
    line = f'activation="{activation}"'
    return Remedy(name, "units", line, changes={"activation": activation})


def _step(
    name: str, optimizer: OptimizerFactory, rates: Sequence[float], line: str
) -> Remedy:
    return Remedy(name, "step", line, optimizer=optimizer, learning_rates=tuple(rates))


def _layers(name: str, **changes: Any) -> Remedy:
    line = ", ".join(f"{field}={value!r}" for field, value in changes.items())
    return Remedy(name, "layers", line, changes=changes)


SINGLE: tuple[Remedy, ...] = (
    Remedy("none", "nothing", "optax.sgd(...)"),
    _init("init scale 1", drawn("normal", 1.0), "gain=1.0"),
    _init("LeCun x 4", drawn("lecun", 4.0), 'initializer="lecun", gain=4.0'),
    _init("Glorot", drawn("glorot", 1.0), 'initializer="glorot"'),
    _init("Glorot x 4", drawn("glorot", 4.0), 'initializer="glorot", gain=4.0'),
    _init("orthogonal", drawn("orthogonal", 1.0), 'initializer="orthogonal"'),
    _init(
        "orthogonal x 4",
        drawn("orthogonal", 4.0),
        'initializer="orthogonal", gain=4.0',
    ),
    _init(
        "centred orthogonal x 4",
        drawn("centred_orthogonal", 4.0),
        'initializer="centred_orthogonal", gain=4.0',
    ),
    Remedy("LSUV", INIT, "remedies.lsuv(...)", lsuv),
    Remedy("first layer at q*", INIT, "remedies.matched(4.0)(...)", matched(4.0)),
    Remedy("criticality", INIT, "remedies.critical(...)", critical),
    _units("tanh", "tanh"),
    _units("sigmoid less 1/2", "centred_sigmoid"),
    _units("LeCun's tanh", "scaled_tanh"),
    Remedy(
        "ReLU and He",
        "units",
        'activation="relu", initializer="he"',
        drawn("he", 1.0),
        {"activation": "relu"},
    ),
    _step("rates from 3 up", optax.sgd, LARGE_RATES, "optax.sgd(30.0)"),
    _step("momentum", momentum, (0.003, 0.01, 0.03, 0.1, 0.3), "remedies.momentum"),
    _step("Adam", optax.adam, ADAPTIVE_RATES, "optax.adam"),
    _step(
        "normalized gradient",
        normalized_gradient,
        ADAPTIVE_RATES,
        "remedies.normalized_gradient",
    ),
    _step("LARS", optax.lars, (0.3, 1.0, 3.0, 10.0, 30.0), "optax.lars"),
    _step("Muon", contrib.muon, (0.001, 0.003, 0.01, 0.03, 0.1), "optax.contrib.muon"),
    _layers("biases", biases=True),
    _layers("batch norm", biases=True, normalization="batch"),
    _layers("layer norm", biases=True, normalization="layer"),
    _layers("residual", residual=True),
    Remedy("wide layers", "layers", "sizes=(784, 100, .., 10)", None, {"width": 100}),
    *(
        Remedy(
            f"{inputs} pixels", "procedure", f'prepared(.., "{inputs}")', inputs=inputs
        )
        for inputs in ("centred", "standardized")
    ),
    Remedy("layer by layer", "procedure", "Remedy(.., layerwise=True)", layerwise=True),
)

# In all of these the learning rate falls to 0 on a straight line.
_CENTRED = drawn("centred_orthogonal", 4.0)
UNCHANGED = "together, 10 sigmoid units a layer, no biases"
CHANGED = "together, other units or layers"
COMBINED: tuple[Remedy, ...] = (
    Remedy(
        "centred orthogonal, SGD", UNCHANGED, "optax.sgd",
        _CENTRED, decay=True, learning_rates=(0.1, 0.2, 0.3, 0.5, 1.0),
    ),
    Remedy(
        "centred orthogonal, momentum", UNCHANGED, "remedies.momentum",
        _CENTRED, optimizer=momentum, decay=True,
        learning_rates=(0.01, 0.02, 0.03, 0.05, 0.1),
    ),
    Remedy(
        "centred orthogonal, Adam", UNCHANGED, "optax.adam",
        _CENTRED, optimizer=optax.adam, decay=True,
        learning_rates=(0.001, 0.002, 0.004, 0.006, 0.01),
    ),
    Remedy(
        "LeCun 1998", CHANGED,
        "1.7159 tanh(2z/3), standardized pixels, biases, LeCun weights, SGD",
        drawn("lecun", 1.0), {"activation": "scaled_tanh", "biases": True},
        inputs="standardized", decay=True, learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3),
    ),
    Remedy(
        "tanh, Adam", CHANGED, "tanh, biases, orthogonal weights, Adam",
        drawn("orthogonal", 1.0), {"activation": "tanh", "biases": True},
        optimizer=optax.adam, decay=True,
        learning_rates=(0.0005, 0.001, 0.002, 0.004, 0.008),
    ),
    Remedy(
        "tanh, layer norm, residual, Adam", CHANGED,
        "tanh, layer norm, residual, biases, orthogonal weights, Adam",
        drawn("orthogonal", 1.0),
        {
            "activation": "tanh", "biases": True,
            "normalization": "layer", "residual": True,
        },
        optimizer=optax.adam, decay=True,
        learning_rates=(0.001, 0.002, 0.004, 0.008, 0.016),
    ),
)  # fmt: skip


def prepared(dataset: Dataset, inputs: str) -> Dataset:
    """The images as a remedy wants them, by the training set's means and spreads.

    Args:
        dataset: raw.
        inputs: "raw", "centred" or "standardized"; pixels that never vary stay 0.

    >>> split = Split(np.array([[0.0, 1.0], [0.5, 1.0]], np.float32), np.array([0, 1]))
    >>> prepared(Dataset(split, split, split), "standardized").train.x
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """
    if inputs == "raw":
        return dataset
    x = np.asarray(dataset.train.x)
    mean = x.mean(axis=0, dtype=float)
    spread = x.std(axis=0, dtype=float) if inputs == "standardized" else 1.0
    divisor = np.where(spread == 0, 1, spread)
    return Dataset(
        *(
            Split(((split.x - mean) / divisor).astype(np.float32), split.y)
            for split in dataset
        )
    )


class Cell(NamedTuple):
    """A remedy from one kind of initial weights: a row of the league table."""

    remedy: Remedy
    start: str


def cells(remedies: Sequence[Remedy]) -> list[Cell]:
    """All of them, in order."""
    return [Cell(remedy, start) for remedy in remedies for start in remedy.starts]


def groups(remedies: Sequence[Remedy]) -> list[list[Cell]]:
    """Cells that differ in nothing but their initial weights, so can run together."""
    found: dict[str, list[Cell]] = {}
    for cell in cells(remedies):
        remedy = replace(cell.remedy, name="", kind="", line="", init=None)
        found.setdefault(repr(remedy), []).append(cell)
    return list(found.values())


def _stages(
    remedy: Remedy, architecture: Architecture, num_parts: int
) -> list[tuple[Architecture, int]]:
    """The networks to train, one after the other, and for how many parts of epochs."""
    stages = []
    if remedy.layerwise:
        for layers in range(1, architecture.num_layers - 1):
            sizes = (*architecture.sizes[: layers + 1], architecture.sizes[-1])
            stages.append((replace(architecture, sizes=sizes), 1))
    if num_parts <= len(stages):
        raise ValueError(
            f"parts: expected at least {len(stages) + 1}, one for each layer that is "
            f"added, found {num_parts}"
        )
    return [*stages, (architecture, num_parts - len(stages))]


def _grown(
    trained: Params, fresh: Chunk, num_layers: int
) -> dict[str, Array | np.ndarray]:
    """Hidden layers of a smaller trained network, one more, and a new output layer.

    Args:
        trained: of the network with one hidden layer less; empty at the beginning.
        fresh: initial weights of the whole, deepest network.
        num_layers: of the network wanted.
    """
    last = max(int(name[1:]) for name in fresh)
    grown: dict[str, Array | np.ndarray] = {}
    for name, leaf in fresh.items():
        layer = int(name[1:])
        if layer < num_layers:
            grown[name] = trained[name] if layer < num_layers - 1 and trained else leaf
        if layer == last:
            grown[f"{name[0]}{num_layers}"] = leaf
    return grown


def _race(
    fresh: Chunk,
    rates: Float[np.ndarray, " N"],
    stages: Sequence[tuple[Ensemble, int, int]],
    order_key: Key[Array, ""],
    parts_per_epoch: int,
    report: Callable[[], Any],
) -> Chunk:
    """As ``race``, for as many networks as an ensemble trains at a time.

    Args:
        fresh: initial parameters, with a leading axis of N.
        rates: learning rates.
        stages: ensembles, the number of their layers, and the parts each has.
        order_key: of the order of the images.
        parts_per_epoch: as for ``race``.
        report: called after every part.
    """
    params: Params = {}
    done, looks = 0, []
    found: Chunk = {}
    for ensemble, num_layers, parts in stages:
        params = ensemble.split(_grown(params, fresh, num_layers))
        split_rates = ensemble.split(rates)
        if done == 0:
            found |= _initial_signals(ensemble, params)
            looks.append(ensemble.evaluate(params, ensemble.valid))
        state = ensemble.start_from(params, split_rates)
        for _ in range(parts):
            epoch, part = divmod(done, parts_per_epoch)
            key = jax.random.fold_in(order_key, epoch)
            state, happened = ensemble.run_epoch(state, split_rates, key, part)
            looks.append(ensemble.evaluate(state.params, ensemble.valid))
            if done == 0:
                found["first_change"] = np.asarray(happened.weight_change)[:, 0]
            done += 1
            report()
        params = state.params
    test = ensemble.evaluate(params, ensemble.test)
    return found | {
        "valid_loss": np.stack([np.asarray(look.loss) for look in looks], 1),
        "valid_accuracy": np.stack([np.asarray(look.accuracy) for look in looks], 1),
        "test_loss": np.asarray(test.loss),
        "test_accuracy": np.asarray(test.accuracy),
    }


def _initial_signals(ensemble: Ensemble, many: Params) -> Chunk:
    """What a remedy changes before the first step."""
    measured = ensemble.measure(many)
    gradient = np.asarray(measured.gradient_rms)
    return {
        "gradient_ratio": gradient[:, 0] / gradient[:, -1],
        "spread": np.asarray(measured.activation_spread)[:, -1],
        "saturation": np.asarray(measured.saturation).mean(axis=1),
    }


def race(
    key: Key[Array, ""],
    dataset: Dataset,
    together: Sequence[Cell],
    *,
    base: Architecture,
    num_seeds: int,
    num_epochs: int,
    batch_size: int,
    parts_per_epoch: int = 1,
    report: Callable[[int], Any] = lambda _: None,
) -> Chunk:
    """Trains all networks of cells that differ in nothing but their initial weights.

    Args:
        key: of the seeds and of the order of the images.
        dataset: raw.
        together: cells of remedies with the same network, optimizer and inputs, as from
            ``groups``.
        base: the network to be cured.
        num_seeds: R.
        num_epochs: passes over the training set.
        batch_size: B.
        parts_per_epoch: networks are looked at after each part.
        report: called with the number of (network, part) pairs just finished.

    Raises:
        ValueError: fewer parts than layers to be trained one by one.

    Returns:
        Arrays (cell, rate, seed, ..): ``valid_loss`` and ``valid_accuracy`` (.., part),
        from 0, the initial network, on; ``test_loss``, ``test_accuracy``; before the
        first step ``gradient_ratio`` (first over last layer's gradient rms),
        ``saturation`` of all hidden layers and ``spread`` over images of the top one
        (where layers are added one by one, all three of the first network);
        ``first_change``, |W_1 after - before| / |W_1| of the first part.
    """
    remedy = together[0].remedy
    architecture = remedy.architecture(base)
    data = prepared(dataset, remedy.inputs)
    rates = np.asarray(remedy.learning_rates, np.float32)
    shape = (len(together), len(rates), num_seeds)
    num_networks, num_parts = math.prod(shape), num_epochs * parts_per_epoch
    optimizer = remedy.optimizer
    if remedy.decay:
        steps = len(data.train.y) // batch_size // parts_per_epoch * num_parts
        optimizer = decayed(optimizer, steps)
    stages = [
        (
            Ensemble(
                data,
                num_networks=num_networks,
                architecture=stage,
                batch_size=batch_size,
                optimizer=optimizer,
                num_parts=parts_per_epoch,
            ),
            stage.num_layers,
            parts,
        )
        for stage, parts in _stages(remedy, architecture, num_parts)
    ]
    size = stages[0][0].size

    # Every cell and learning rate sees the same seeds.
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(num_seeds))
    x = jnp.asarray(data.train.x[:NUM_INIT_IMAGES])
    weights = [
        # Not compiled: every kind of weights would be compiled apart.
        jax.vmap(
            functools.partial(
                cell.remedy.starts[cell.start], architecture=architecture, x=x
            )
        )(keys)
        for cell in together
    ]
    fresh = {
        name: np.stack([np.asarray(of_cell[name]) for of_cell in weights])
        for name in weights[0]
    }
    order_key = jax.random.fold_in(key, ORDER)
    found: dict[str, list[np.ndarray]] = {}
    for first in range(0, num_networks, size):
        real = min(size, num_networks - first)
        # Filled up with copies to the size that everything is compiled for.
        places = np.pad(np.arange(first, first + real), (0, size - real), mode="edge")
        cell, rate, seed = np.unravel_index(places, shape)
        chunk = _race(
            {name: leaf[cell, seed] for name, leaf in fresh.items()},
            rates[rate],
            stages,
            order_key,
            parts_per_epoch,
            functools.partial(report, real),
        )
        for name, values in chunk.items():
            found.setdefault(name, []).append(values[:real])
    return {
        name: np.concatenate(values).reshape(*shape, *values[0].shape[1:])
        for name, values in found.items()
    }


def cost(remedy: Remedy, base: Architecture, *, batch_size: int) -> float:
    """Floating-point operations of a training step per image, as XLA counts them.

    Args:
        remedy: whose network and optimizer are meant.
        base: the network to be cured.
        batch_size: B.

    >>> sgd = cost(SINGLE[0], networks.DEEP, batch_size=32)
    >>> 34_360 < sgd < 1.1 * 34_360  # of matrix products, and a little more
    True
    """
    architecture = remedy.architecture(base)
    optimizer = remedy.optimizer(1e-3)
    params = networks.init(jax.random.key(0), architecture)
    state = training.start(params, optimizer=optimizer)
    step = functools.partial(
        training.step, architecture=architecture, optimizer=optimizer
    )
    x, y = jnp.zeros((batch_size, base.sizes[0])), jnp.zeros(batch_size, jnp.int32)
    analysis: Any = jax.jit(step).lower(state, x, y).cost_analysis()
    return float(analysis["flops"]) / batch_size


def league(
    raced: Sequence[tuple[Sequence[Cell], Mapping[str, np.ndarray]]],
    dataset: Dataset,
    *,
    base: Architecture,
    batch_size: int,
    num_epochs: int,
    names: Sequence[str],
) -> xr.Dataset:
    """The labelled result of races: all networks, and a row of the table for each cell.

    Args:
        raced: groups of cells with the results of ``race``.
        dataset: that they were trained on.
        base: the network to be cured.
        batch_size: B.
        num_epochs: of every race.
        names: of the remedies, in the order wanted.

    Returns:
        Dimensions cell, rate, seed, part. Of the best learning rate, the one with the
        largest median validation accuracy over seeds: ``best_rate``, its place, and
        ``best_test_accuracy`` (cell, seed), ``epochs_to_leave`` (cell, seed), infinite
        for networks that stay on the plateau. ``cost`` is relative to plain SGD.
    """
    together = [cell for group, _ in raced for cell in group]
    place = [names.index(cell.remedy.name) for cell in together]
    whole = {
        name: np.concatenate([np.asarray(arrays[name]) for _, arrays in raced])
        for name in raced[0][1]
    }
    num_looks = whole["valid_loss"].shape[3]
    dims = ("cell", "rate", "seed", "part")
    result = xr.Dataset(
        {name: (dims[: values.ndim], values) for name, values in whole.items()},
        coords={
            "remedy": ("cell", [cell.remedy.name for cell in together]),
            "kind": ("cell", [cell.remedy.kind for cell in together]),
            "start": ("cell", [cell.start for cell in together]),
            "line": ("cell", [cell.remedy.line for cell in together]),
            "learning_rate": (
                ("cell", "rate"),
                np.array([cell.remedy.learning_rates for cell in together]),
            ),
            "seed": np.arange(whole["test_loss"].shape[2]),
            "epoch": ("part", np.linspace(0, num_epochs, num_looks)),
        },
    )
    prior = losses.class_frequencies(dataset.train.y)
    plateau_loss = float(losses.label_entropy(dataset.valid.y, prior))
    result.attrs |= {
        "plateau_loss": plateau_loss,
        "class_share": float(losses.class_frequencies(dataset.test.y).max()),
        "examples": num_epochs * len(dataset.train.y),
        "train_images": len(dataset.train.y),
        "first_images": num_epochs * len(dataset.train.y) // (num_looks - 1),
        "sizes": "-".join(map(str, base.sizes)),
        "activation": base.activation,
    }
    # A network that diverged has learned nothing.
    median = result.valid_accuracy.isel(part=-1).fillna(0).median("seed")
    result["best_rate"] = median.argmax("rate")
    best = result.isel(rate=result.best_rate)
    result["best_learning_rate"] = best.learning_rate
    result["best_test_accuracy"] = best.test_accuracy
    left = plateau_loss - best.valid_loss > diagnosis.LEFT_PLATEAU
    result["epochs_to_leave"] = best.epoch.where(left, np.inf).min("part")
    plain = cost(SINGLE[0], base, batch_size=batch_size)
    costs: list[float] = []
    for group, _ in raced:
        relative = cost(group[0].remedy, base, batch_size=batch_size) / plain
        costs += [relative] * len(group)
    result["cost"] = ("cell", costs)
    # In the order of the list, whatever could be trained together.
    return result.isel(cell=np.argsort(place, kind="stable"))


def of_sigma_w(sigma_w: float, learning_rates: tuple[float, ...]) -> Remedy:
    """Nothing but weights of variance sigma_w^2 / fan-in, as theory writes it.

    Args:
        sigma_w: standard deviation of a sum, in units of its inputs' rms.
        learning_rates: to choose from.
    """
    init = drawn("lecun", sigma_w)
    name = f"sigma_w {sigma_w:g}"
    return Remedy(name, INIT, f"gain={sigma_w:g}", init, learning_rates=learning_rates)


def trainable_depth(
    raced: Mapping[int, Chunk], *, activation: str, sigma_ws: Sequence[float]
) -> xr.Dataset:
    """What networks of several depths learn from each sigma_w, beside theory.

    Args:
        raced: by depth, the results of ``race`` for ``of_sigma_w``, in order.
        activation: of the hidden layers.
        sigma_ws: as many as there were cells.

    Returns:
        ``test_accuracy`` (depth, sigma_w), medians over seeds at the learning rate that
        is best on the validation set; ``depth_scale`` (sigma_w), the layers over which
        a gradient changes by a factor e at the fixed point (``meanfield.depth_scale``).
    """
    rows = []
    for arrays in raced.values():
        valid = np.median(np.nan_to_num(arrays["valid_accuracy"][..., -1]), axis=2)
        test = np.median(np.nan_to_num(arrays["test_accuracy"]), axis=2)
        rows.append(np.take_along_axis(test, valid.argmax(1)[:, None], axis=1)[:, 0])
    scales = [meanfield.depth_scale(activation=activation, sigma_w=s) for s in sigma_ws]
    return xr.Dataset(
        {
            "test_accuracy": (("depth", "sigma_w"), np.array(rows)),
            "depth_scale": ("sigma_w", np.array(scales)),
        },
        coords={"depth": list(raced), "sigma_w": list(sigma_ws)},
        attrs={"activation": activation},
    )
