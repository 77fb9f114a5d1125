"""Remedies, raced against each other: sweeps, and the league table as a dataset.

Every network sees the same number of images. The learning rate is chosen on the
validation set, by the median over seeds; what is reported is measured on the test set.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from _catalogue import COMBINED, SINGLE, Cell, Remedy
from jaxtyping import Array

from snn_jax import (
    diagnosis,
    gradients,
    initializers,
    losses,
    meanfield,
    remedies,
    signals,
    training,
)
from snn_jax.activations import Activation
from snn_jax.datasets import Dataset, Split
from snn_jax.networks import DEEP, MLP, Params
from snn_jax.recipe import Recipe
from snn_jax.remedies import OptimizerFactory
from snn_jax.sweep import Sweep

# Of all seeds and of the order of the images.
KEY = jax.random.key(0)
# Initial weights that look at images look at so many, the first of the training set.
NUM_INIT_IMAGES = 1000
# The picture of trainable depth: sigma_w around the critical one, by activation.
SIGMA_WS = {
    "sigmoid": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0),
    "tanh": (0.4, 0.6, 0.8, 0.9, 1.0, 1.2, 1.6, 2.4),
}
PICTURE_RATES = (0.03, 0.3, 3.0)
PICTURE_SEEDS = 2
# Computes what is missing of a sweep, known by a name, and gives the labelled result.
Finish = Callable[[str, Sweep], xr.Dataset]


class Plan(NamedTuple):
    """What all races of a league have in common.

    Attributes:
        base: the network to be cured.
        seeds: R networks for each cell and learning rate.
        epochs: passes over the training set.
        batch_size: B.
        looks: in an epoch.
    """

    base: MLP
    seeds: int
    epochs: int
    batch_size: int
    looks: int = 1


def deep_network(base: MLP, depth: int) -> MLP:
    """A network with another number of hidden layers, as wide as its first."""
    hidden = (base.sizes[1],) * depth
    return replace(base, sizes=(base.sizes[0], *hidden, base.sizes[-1]))


def initial_weights(
    together: Sequence[Cell], network: MLP, x: Any, num_seeds: int
) -> Params:
    """Of every cell and seed, leaves (cell, seed, ..): all cells see the same seeds."""
    keys = jax.vmap(functools.partial(training.weights_key, KEY))(jnp.arange(num_seeds))
    images = jnp.asarray(x[:NUM_INIT_IMAGES])
    of_cells = [
        # Not compiled: every kind of weights would be compiled apart.
        jax.vmap(lambda key, init=init: init(key, network, images))(keys)
        for init in (cell.remedy.starts[cell.start] for cell in together)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *of_cells)


@functools.partial(jax.jit, static_argnums=0)
def _signals(network: MLP, many: Params, x: Array, y: Array) -> dict[str, Array]:
    def one(params: Params) -> dict[str, Array]:
        found = signals.measure(network, params, x, y)
        return {
            "gradient_ratio": found["gradient_rms"][0] / found["gradient_rms"][-1],
            "spread": found["activation_spread"][-1],
            "saturation": found["saturation"].mean(),
        }

    measured: dict[str, Array] = jax.lax.map(one, many)
    return measured


def initial_signals(network: MLP, many: Params, train: Split) -> xr.Dataset:
    """What a remedy changes before the first step, (cell, seed), in float64."""
    with jax.enable_x64(True):
        x, y = (part[: signals.NUM_EXAMPLES] for part in train)
        flat = {n: leaf.reshape(-1, *leaf.shape[2:]) for n, leaf in many.items()}
        double = jax.tree.map(lambda leaf: np.asarray(leaf, float), (flat, x))
        found = _signals(network, *double, y)
    dims, shape = ("cell", "seed"), many["W1"].shape[:2]
    arrays = {n: np.asarray(v).reshape(shape) for n, v in found.items()}
    return xr.Dataset({n: (dims, array) for n, array in arrays.items()})


def layer_by_layer(
    train: Callable[[str, Recipe, Split, Params], xr.Dataset],
    recipe: Recipe,
    images: Split,
    fresh: Params,
) -> list[xr.Dataset]:
    """Trains one hidden layer, then a second on top of it, and so on.

    What was trained stays, one fresh layer is added, the output layer is fresh each
    time. All together see as many images as any network: a smaller network gets one
    part of the first epoch, the whole network the other parts and the other epochs.

    The recipe and the fresh parameters are those of the whole network, without biases,
    and train gives what comes of a name, a recipe, images and initial parameters.
    """
    looks, last = recipe.looks_per_epoch, recipe.network.num_layers
    watched = {"params": lambda params: params}
    results: list[xr.Dataset] = []
    for num_layers in range(2, last + 1):
        network, initial = shallower(recipe.network, fresh, num_layers)
        hidden = [f"W{layer}" for layer in range(1, num_layers - 1)]
        initial |= {name: _last(results[-1][name]) for name in hidden}
        parts = 1 if num_layers < last else looks - last + 2
        ends = [(num_layers - 2) / looks, (num_layers - 2 + parts) / looks]
        of_part = slice(*(round(end * len(images.y)) for end in ends))
        stage = replace(recipe, num_epochs=1, looks_per_epoch=parts, observe=watched)
        stage = replace(stage, network=network)
        split = Split(images.x[of_part], images.y[of_part])
        results.append(train(f"{num_layers}-layers", stage, split, initial))
    if recipe.num_epochs > 1:
        rest = replace(recipe, num_epochs=recipe.num_epochs - 1)
        whole = {name: _last(results[-1][name]) for name in fresh}
        results.append(train("rest", rest, images, whole))
    return results


def shallower(network: MLP, params: Params, num_layers: int) -> tuple[MLP, Params]:
    """The network without its hidden layers from num_layers on, and its weights."""
    sizes = (*network.sizes[:num_layers], network.sizes[-1])
    kept = {f"W{layer}": params[f"W{layer}"] for layer in range(1, num_layers)}
    output = {f"W{num_layers}": params[f"W{network.num_layers}"]}
    return replace(network, sizes=sizes), kept | output


def _last(observed: xr.DataArray) -> np.ndarray:
    """Parameters after the last epoch, flat over networks; float32 as they were."""
    values = observed.isel(epoch=-1).values.astype(np.float32)
    return values.reshape(-1, *values.shape[3:])


@functools.cache
def _of_all_cells(optimizer: OptimizerFactory) -> OptimizerFactory:
    """Takes the axis "cell", which only the initial weights depend on."""
    return lambda learning_rate, cell: optimizer(learning_rate)  # noqa: ARG005


def race(
    data: Dataset, together: Sequence[Cell], plan: Plan, name: str, finish: Finish
) -> xr.Dataset:
    """Trains all networks of cells that differ in nothing but their initial weights.

    The cells are one of the ``groups``, the data raw, the name is that of the race.

    Returns:
        Dimensions cell, rate, seed and part: ``valid_loss`` and ``valid_accuracy``,
        from part 0, the initial network, on; ``test_loss``, ``test_accuracy``; before
        the first step ``gradient_ratio`` (first over last layer's gradient rms),
        ``saturation`` of all hidden layers and ``spread`` over images of the top one
        (where layers are added one by one, all three of the first network);
        ``first_change``, |W_1 after - before| / |W_1| of the first part.
    """
    remedy = together[0].remedy
    network, data = remedy.network(plan.base), remedies.prepared(data, remedy.inputs)
    rates, optimizer = remedy.learning_rates, remedy.optimizer
    if remedy.decay:
        steps = len(data.train.y) // plan.batch_size // plan.looks
        optimizer = remedies.decayed(optimizer, steps * plan.looks * plan.epochs)
    recipe = Recipe(
        network,
        optimizer=_of_all_cells(optimizer),
        num_epochs=plan.epochs,
        batch_size=plan.batch_size,
        looks_per_epoch=plan.looks,
    )
    axes = {"cell": range(len(together)), "learning_rate": rates}
    options: dict[str, Any] = {"seeds": plan.seeds, "signals": False}

    def train(stage: str, recipe: Recipe, split: Split, initial: Params) -> xr.Dataset:
        of_stage = data._replace(train=split)
        sweep = Sweep(KEY, of_stage, recipe, axes, initial=initial, **options)
        return finish(f"{name}-{stage}", sweep)

    fresh = initial_weights(together, network, data.train.x, plan.seeds)
    # As the grid has them: (cell, rate, seed), flat.
    in_grid = {
        name: np.repeat(leaf[:, None], len(rates), axis=1).reshape(-1, *leaf.shape[2:])
        for name, leaf in fresh.items()
    }
    if remedy.layerwise:
        results = layer_by_layer(train, recipe, data.train, in_grid)
        network, fresh = shallower(network, fresh, 2)
    else:
        results = [train("whole", recipe, data.train, in_grid)]
    return initial_signals(network, fresh, data.train).merge(_joined(results))


def _joined(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """What the league shows of sweeps that went on with each other's networks."""
    curves = [
        result[["valid_loss", "valid_accuracy"]].isel(epoch=slice(i > 0, None))
        for i, result in enumerate(results)
    ]
    change = results[0].weight_change.isel(epoch=1, layer=0, drop=True)
    tested = results[-1][["test_loss", "test_accuracy"]]
    whole = xr.concat(curves, "epoch").merge(tested).assign(first_change=change)
    named = whole.rename(learning_rate="rate", epoch="part")
    return named.drop_vars(("cell", "rate", "part"))


def cost(remedy: Remedy, base: MLP, *, batch_size: int) -> float:
    """Floating-point operations of a training step per image, as XLA counts them."""
    network, optimizer = remedy.network(base), remedy.optimizer(1e-3)
    state = training.start(network.init(jax.random.key(0)), optimizer)
    step = functools.partial(
        training.step,
        value_and_grad=gradients.by_autodiff(network),
        optimizer=optimizer,
    )
    x, y = jnp.zeros((batch_size, base.sizes[0])), jnp.zeros(batch_size, jnp.int32)
    analysis: Any = jax.jit(step).lower(state, x, y).cost_analysis()
    return float(analysis["flops"]) / batch_size


def league(
    raced: Sequence[tuple[Sequence[Cell], xr.Dataset]], data: Dataset, plan: Plan
) -> xr.Dataset:
    """The labelled result of races: all networks, and a row of the table for each cell.

    Returns:
        Dimensions cell, rate, seed, part. Of the best learning rate, the one with the
        largest median validation accuracy over seeds: ``best_rate``, its place, and
        ``best_test_accuracy`` (cell, seed), ``epochs_to_leave`` (cell, seed), infinite
        for networks that stay on the plateau. ``cost`` is relative to plain SGD.
    """
    cells = [cell for group, _ in raced for cell in group]
    result = xr.concat([found for _, found in raced], "cell")
    looks, num_images = result.sizes["part"] - 1, len(data.train.y)
    result = result.assign_coords(
        remedy=("cell", [cell.remedy.name for cell in cells]),
        kind=("cell", [cell.remedy.kind for cell in cells]),
        line=("cell", [cell.remedy.line for cell in cells]),
        start=("cell", [cell.start for cell in cells]),
        learning_rate=(("cell", "rate"), [c.remedy.learning_rates for c in cells]),
        epoch=("part", np.linspace(0, plan.epochs, looks + 1)),
    )
    prior = losses.class_frequencies(data.train.y)
    result.attrs = {
        "plateau_loss": losses.label_entropy(data.valid.y, prior),
        "label_entropy": losses.label_entropy(data.train.y),
        "class_share": float(losses.class_frequencies(data.test.y).max()),
        "examples": plan.epochs * num_images,
        "train_images": num_images,
        "first_images": plan.epochs * num_images // looks,
        "sizes": "-".join(map(str, plan.base.sizes)),
        "activation": plan.base.activation.__name__,
    }
    # A network that diverged has learned nothing.
    median = result.valid_accuracy.isel(part=-1).fillna(0).median("seed")
    result["best_rate"] = median.argmax("rate")
    best = result.isel(rate=result.best_rate)
    result["best_learning_rate"] = best.learning_rate
    result["best_test_accuracy"] = best.test_accuracy
    known = result.attrs["plateau_loss"] - best.valid_loss
    left = known > diagnosis.LEFT_PLATEAU * result.attrs["label_entropy"]
    result["epochs_to_leave"] = best.epoch.where(left, np.inf).min("part")
    plain, *costs = (
        cost(remedy, plan.base, batch_size=plan.batch_size)
        for remedy in (SINGLE[0], *(group[0].remedy for group, _ in raced))
    )
    sizes = [len(group) for group, _ in raced]
    result["cost"] = ("cell", np.repeat(costs, sizes) / plain)
    # As in the catalogue, whatever could be trained together.
    names = [remedy.name for remedy in (*SINGLE, *COMBINED)]
    place = [names.index(cell.remedy.name) for cell in cells]
    return result.isel(cell=np.argsort(place, kind="stable"))


def trainable_depth(
    data: Dataset,
    activation: Activation,
    depths: Sequence[int],
    finish: Finish,
    **how: Any,
) -> xr.Dataset:
    """What plain SGD learns at several depths from each sigma_w, beside theory.

    The hidden layers have 10 units of the activation, and how are fields of a recipe.

    Returns:
        ``test_accuracy`` (depth, sigma_w), medians over seeds at the learning rate that
        is best on the validation set; ``depth_scale`` (sigma_w), the layers over which
        a gradient changes by a factor e at the fixed point (``meanfield.depth_scale``).
    """
    name = activation.__name__

    def network(depth: int) -> MLP:
        deep = deep_network(DEEP, depth)
        return replace(deep, activation=activation, initializer=initializers.lecun)

    sweep = Sweep(
        KEY,
        data,
        Recipe(network, **how),
        {"depth": depths, "scale": SIGMA_WS[name], "learning_rate": PICTURE_RATES},
        seeds=PICTURE_SEEDS,
        signals=False,
    )
    result = finish(name, sweep).rename(scale="sigma_w")
    valid = result.valid_accuracy.isel(epoch=-1).fillna(0).median("seed")
    test = result.test_accuracy.fillna(0).median("seed")
    best = test.isel(learning_rate=valid.argmax("learning_rate"))
    scales = [
        meanfield.depth_scale(activation=activation, sigma_w=sigma_w)
        for sigma_w in SIGMA_WS[name]
    ]
    return xr.Dataset(
        {
            "test_accuracy": best.drop_vars("learning_rate"),
            "depth_scale": ("sigma_w", scales),
        },
        attrs={"activation": name},
    )
