"""Published figures against ours, row by row.

    python experiments/published.py                  about 1.5 minutes on two cores
    python experiments/published.py --preset full    about six minutes: all rows

Every number comes from a network built and trained as its source says: its width,
cost, regularization, optimizer and training set. Rows name author, year and place; a
row's note says what the source leaves open or what could only be read second hand.

How a verdict is made. A published number is one more run, by someone else, of what we
run many times. So a row agrees if the number lies in our band, where one more run of
ours would lie 98 times in 100:

    a run      from 100 networks on, the 1 % and 99 % quantiles; of fewer, R, the band
               is mean +- t s sqrt(1 + 1/R), with t the 99 % quantile of Student's
               distribution with R - 1 degrees of freedom. Of what is computed without
               chance, the number itself.
    a range    of five runs of the source: so many of ours lie beyond an end as would
               at least once in 100 times if all were runs of one kind, see ``beyond``.
               Our own range is shown beside it instead of a band.
    holds      a yes or no, the same in all our networks.
    rejected   a number that a wrong setting must not give: it lies outside our band.

The published number is widened by half a unit of its last digit, and by nothing else:
source and we measure on the same 10,000 images, so what is particular about them is in
both numbers. About one true row in fifty falls outside by chance. With few networks the
band is wide: eight make it 3.2 standard deviations, four 5.1. The order of the images
is part of the chance: with one order for all, some bands were a third as wide, and the
means of two orders lay up to 0.4 points apart.

A row that differs and has no explanation gives the exit code 1. What is finished is
kept in the folder, and the same command goes on from there.
"""

import hashlib
import itertools
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import _command_line as command_line

if TYPE_CHECKING:
    import numpy as np
    import optax
    import xarray as xr
    from matplotlib.figure import Figure

    from snn_jax.ensemble import OptimizerFactory
    from snn_jax.mnist import Dataset
    from snn_jax.networks import Params
    from snn_jax.report import Section
    from snn_jax.sweep import Chunk
    from snn_jax.training import ValueAndGrad

SEED = 0
# Images that the sources measure gradients and activations on.
NUM_GRADIENT_IMAGES, NUM_ACTIVATION_IMAGES = 1000, 300
# Networks that are trained at a time and see the images in the same order. The others
# see them in another: the order moves an accuracy as much as the initial weights do.
AT_ONCE = 2
# Runs of a source that gives a range.
RUNS_OF_A_RANGE = 5
# Networks from which on quantiles are used instead of Student's distribution.
MANY = 100


@dataclass(frozen=True)
class Recipe:
    """How a source trains its network; softmax outputs and plain SGD unless it says so.

    Attributes:
        hidden: units of the hidden layers.
        learning_rate: of the optimizer.
        batch_size: images a step.
        epochs: passes over the training images.
        images: how many are trained on, the first of 60,000; the others validate.
        activation: of the hidden units.
        cost: what is minimized; all but the softmax have sigmoid outputs.
        initializer: a key of ``networks.INITIALIZERS``.
        gain: multiplies its weights.
        bias_scale: standard deviation of the initial biases.
        adam: whether the optimizer is Adam.
        decay: lambda / n of an L2 penalty on the weights, not on the biases.
        best_of: networks that the source trained to report the best.
    """

    hidden: tuple[int, ...]
    learning_rate: float
    batch_size: int
    epochs: int
    images: int = 50_000
    activation: str = "sigmoid"
    cost: Literal["softmax", "cross-entropy", "quadratic"] = "softmax"
    initializer: str = "glorot_uniform"
    gain: float = 1.0
    bias_scale: float = 0.0
    adam: bool = False
    decay: float = 0.0
    best_of: int = 1


Experiment = Recipe | Callable[["Settings", "Dataset"], "Chunk"]


@dataclass(frozen=True)
class Settings:
    """Flags of the script."""

    preset: Literal["quick", "full"] = "quick"
    """full: twice the networks, and the experiments that take long."""
    seeds: int = 4
    """Networks trained for each row."""
    networks: int = 200
    """Untrained networks for each gradient norm."""
    only: tuple[str, ...] = ()
    """Experiments to run, by name, instead of those of the preset."""
    data: command_line.DataPath = None
    out: Path = Path("runs/published")
    """Folder for the result. The same command goes on with what is missing there."""

    def validate(self) -> None:
        """Raises SettingError."""
        command_line.expect_count("--seeds", self.seeds, most=1000)
        command_line.expect(self.seeds > 1, "--seeds", "at least 2", self.seeds)
        command_line.expect_count("--networks", self.networks, most=10**5)
        wanted = f"at least {MANY}"
        command_line.expect(self.networks >= MANY, "--networks", wanted, self.networks)
        for name in self.only:
            known = f"one of {', '.join(EXPERIMENTS)}"
            command_line.expect(name in EXPERIMENTS, "--only", known, name)
        command_line.expect(
            any(set(row.needs) <= set(chosen(self)) for row in ROWS),
            "--only",
            "all that a row needs",
            " ".join(self.only),
        )


# --- What is measured ---------------------------------------------------------------


def gradient(cost: str) -> "ValueAndGrad":
    """Of a cost, by hand for the softmax and else by autodiff; one object for each."""
    return _gradients()[cost]


@cache
def _gradients() -> "dict[str, ValueAndGrad]":
    import jax

    from snn_jax import backprop, losses

    return {
        "softmax": backprop.value_and_grad,
        "cross-entropy": jax.value_and_grad(losses.mean_cross_entropy),
        "quadratic": jax.value_and_grad(losses.mean_quadratic),
    }


def weights_alone(params: "Params") -> dict[str, bool]:
    """Which leaves an L2 penalty acts on."""
    return {name: name.startswith("W") for name in params}


@cache
def optimizer(adam: bool, decay: float) -> "OptimizerFactory":
    """Makes an optax transformation from a learning rate.

    With decay the step is w - learning_rate (gradient + decay w).
    """
    import optax

    def factory(learning_rate: Any) -> "optax.GradientTransformation":
        rule = (optax.adam if adam else optax.sgd)(learning_rate)
        if not decay:
            return rule
        return optax.chain(optax.add_decayed_weights(decay, weights_alone), rule)

    return factory


def split(dataset: "Dataset", num_images: int) -> "Dataset":
    """Trains on the first images of train and valid together; the rest validate."""
    import numpy as np

    from snn_jax.mnist import Dataset, Split

    x, y = (np.concatenate(both) for both in zip(*dataset[:2], strict=True))
    rest = Split(x[num_images:], y[num_images:])
    # Who trains on all 60,000 has no validation set: its numbers are not used.
    valid = rest if len(rest.y) else dataset.valid
    return Dataset(Split(x[:num_images], y[:num_images]), valid, dataset.test)


def train(
    recipe: Recipe,
    dataset: "Dataset",
    seeds: int,
    report: Callable[[float], Any] = lambda _: None,
) -> "Chunk":
    """Networks as a recipe says.

    Returns:
        ``valid_accuracy`` and ``test_accuracy``, in percent, (networks, epochs);
        ``activation_mean`` of each hidden layer, (networks, epochs, layers);
        ``one_class``, whether the last test accuracy is that of one answer to all.
    """
    import jax
    import numpy as np

    from snn_jax import mnist, networks, sweep
    from snn_jax.ensemble import Ensemble
    from snn_jax.networks import Architecture

    dataset = split(dataset, recipe.images)
    architecture = Architecture(
        (mnist.NUM_PIXELS, *recipe.hidden, mnist.NUM_CLASSES), recipe.activation
    )
    count = seeds * recipe.best_of
    ensemble = Ensemble(
        dataset,
        num_networks=AT_ONCE,
        architecture=architecture,
        batch_size=recipe.batch_size,
        initializer=recipe.initializer,
        bias_scale=recipe.bias_scale,
        optimizer=optimizer(recipe.adam, recipe.decay),
        value_and_grad=gradient(recipe.cost),
        width=-(-AT_ONCE // len(jax.devices())),
    )
    rates = ensemble.split(np.full(AT_ONCE, recipe.learning_rate, np.float32))
    scales = np.full(AT_ONCE, recipe.gain, np.float32)
    key = jax.random.key(SEED)
    weights_key = jax.random.fold_in(key, sweep.WEIGHTS)
    batches_key = jax.random.fold_in(key, sweep.BATCHES)

    @jax.jit
    @jax.vmap
    def activation_means(params: "Params") -> Any:
        x = dataset.test.x[:NUM_ACTIVATION_IMAGES]
        inputs, _ = networks.forward(params, x, architecture=architecture)
        return jax.numpy.array([a.mean() for a in inputs[1:]])

    pairs = []
    for first in range(0, count, AT_ONCE):
        members = np.arange(first, first + AT_ONCE)
        states = ensemble.start(weights_key, members, scales, rates)
        order_key = jax.random.fold_in(batches_key, first)
        rows = []
        for epoch in range(1, recipe.epochs + 1):
            states, _ = ensemble.run_epoch(
                states, rates, jax.random.fold_in(order_key, epoch)
            )
            valid = ensemble.evaluate(states.params, ensemble.valid)
            test = ensemble.evaluate(states.params, ensemble.test)
            row = {
                "valid_accuracy": 100 * valid.accuracy,
                "test_accuracy": 100 * test.accuracy,
                "activation_mean": activation_means(states.params),
            }
            rows.append({name: np.asarray(values) for name, values in row.items()})
            report(work(recipe, seeds) / recipe.epochs / -(-count // AT_ONCE))
        pairs.append({name: np.stack([r[name] for r in rows], 1) for name in rows[0]})
    found = {
        name: np.concatenate([pair[name] for pair in pairs])[:count].astype(float)
        for name in pairs[0]
    }
    num_test = len(dataset.test.y)
    right = np.rint(found["test_accuracy"][:, -1] / 100 * num_test)
    found["one_class"] = np.isin(right, np.bincount(dataset.test.y))
    return found


def bias_gradient_norms(
    settings: Settings, dataset: "Dataset", depth: int, initializer: str
) -> "Chunk":
    """|mean over images of d cost / d b_l|, (networks, layers), of untrained ones."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from snn_jax import mnist, networks
    from snn_jax.networks import Architecture

    architecture = Architecture(
        (mnist.NUM_PIXELS, *(30,) * depth, mnist.NUM_CLASSES), "sigmoid"
    )
    x, y = dataset.train.x[:NUM_GRADIENT_IMAGES], dataset.train.y[:NUM_GRADIENT_IMAGES]

    def one(seed: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(SEED), seed)
        params = networks.init(
            key, architecture, initializer=initializer, bias_scale=1.0
        )
        _, grads = gradient("cross-entropy")(params, x, y, architecture=architecture)
        biases = [grads[f"b{layer}"] for layer in range(1, depth + 1)]
        return jnp.stack([jnp.linalg.norm(b) for b in biases])

    seeds = jnp.arange(settings.networks)
    norms = jax.jit(lambda: jax.lax.map(one, seeds, batch_size=10))()
    return {"norms": np.asarray(norms, float)}


def mean_singular_value(
    settings: Settings, dataset: "Dataset", initializer: str, gain: float, width: int
) -> "Chunk":
    """Of the Jacobian d z_{l+1} / d z_l of untrained tanh networks of five layers.

    One network and image a seed, the mean over the Jacobians between hidden layers.
    """
    import jax
    import numpy as np

    from snn_jax import mnist, networks
    from snn_jax.networks import Architecture

    architecture = Architecture(
        (mnist.NUM_PIXELS, *(width,) * 5, mnist.NUM_CLASSES), "tanh"
    )
    slope = networks.ACTIVATIONS["tanh"].derivative
    means = []
    for seed in range(min(settings.seeds, 4)):  # they differ in the third digit
        key = jax.random.fold_in(jax.random.key(SEED), seed)
        params = networks.init(key, architecture, initializer=initializer, gain=gain)
        x = dataset.train.x[seed : seed + 1]
        _, z = networks.forward(params, x, architecture=architecture)
        jacobians = [
            np.asarray(params[f"W{layer + 1}"] * slope(z[layer - 1]).T)
            for layer in range(1, 5)
        ]
        values = [np.linalg.svd(J, compute_uv=False).mean() for J in jacobians]
        means.append(np.mean(values))
    return {"singular_value": np.array(means)}


def interval_width(w: float) -> float:
    """Of the inputs a with |w sigmoid'(w a + b)| >= 1; 0 if there are none.

    Nielsen's eq. 123. With z = w a + b and r = exp(z), w sigmoid'(z) = 1 reads
    w r = (1 + r)^2, or r^2 + (2 - w) r + 1 = 0. The roots are r = (w - 2 + sqrt(w^2 -
    4 w)) / 2 and 1/r. So z runs from -ln r to ln r, and a over 2 ln r / w.

    >>> interval_width(4.0)
    0.0
    """
    import math

    if w <= 4:  # sigmoid' is at most 1/4
        return 0.0
    return 2 / w * math.log((w - 2 + math.sqrt(w * w - 4 * w)) / 2)


def without_training(settings: Settings, dataset: "Dataset") -> "Chunk":
    """What is computed without chance, whatever the settings."""
    del settings
    import numpy as np
    from scipy.optimize import minimize_scalar

    from snn_jax import meanfield

    widest = minimize_scalar(
        lambda w: -interval_width(w), bounds=(4, 20), method="bounded"
    )
    sigma_w = meanfield.critical_sigma_w(activation="tanh", sigma_b=0.05**0.5)
    # The linear classifier of least squares, on all 60,000 images.
    x, y = split(dataset, 60_000).train
    A = np.column_stack([x, np.ones(len(x))]).astype(float)
    W = np.linalg.lstsq(A.T @ A, A.T @ np.eye(10)[y], rcond=1e-10)[0]
    answers = (dataset.test.x @ W[:-1] + W[-1]).argmax(axis=1)
    return {
        "interval_width": np.array([-widest.fun]),
        "interval_weight": np.array([widest.x]),
        "critical_sigma_w_squared": np.array([sigma_w**2]),
        "least_squares": np.array([100 * (answers == dataset.test.y).mean()]),
    }


# Nielsen's chapters 3 and 5: lambda = 5 for 50,000 images, w -> (1 - lr lambda/n) w.
_nielsen = partial(
    Recipe,
    learning_rate=0.1,
    batch_size=10,
    cost="cross-entropy",
    initializer="lecun",
    bias_scale=1.0,
    decay=5 / 50_000,
)
_course = partial(Recipe, learning_rate=0.03, batch_size=50, epochs=10, images=55_000)
_lecun = partial(Recipe, batch_size=10, cost="quadratic", images=60_000)

EXPERIMENTS: dict[str, Experiment] = {
    "no-training": without_training,
    **{
        f"norms-{depth}": partial(bias_gradient_norms, depth=depth, initializer="lecun")
        for depth in (2, 3, 4)
    },
    "norms-wrong": partial(bias_gradient_norms, depth=2, initializer="normal"),
    "jacobian-normalized": partial(
        mean_singular_value, initializer="glorot_uniform", gain=1.0, width=1000
    ),
    # U[-1/sqrt(n), 1/sqrt(n)] has the variance 1 / (3 n).
    "jacobian-standard": partial(
        mean_singular_value, initializer="lecun", gain=3**-0.5, width=1000
    ),
    "start-large": _nielsen(hidden=(30,), epochs=1, initializer="normal"),
    **{f"depth-{n}": _nielsen(hidden=(30,) * n, epochs=30) for n in (1, 2, 3, 4)},
    "first-net": Recipe(
        hidden=(30,),
        learning_rate=3.0,
        batch_size=10,
        epochs=30,
        cost="quadratic",
        initializer="normal",
        bias_scale=1.0,
        best_of=3,
    ),
    "course-0": _course(hidden=()),
    "course-1-sigmoid": _course(hidden=(100,)),
    "course-1-tanh": _course(hidden=(100,), activation="tanh"),
    "course-1-relu": _course(hidden=(100,), activation="relu"),
    "course-3-sigmoid": _course(hidden=(100,) * 3),
    "course-3-relu": _course(hidden=(100,) * 3, activation="relu"),
    "course-5-sigmoid": _course(hidden=(100,) * 5),
    "course-adam": _course(hidden=(100,) * 10, learning_rate=1e-3, adam=True),
    "top-layer": Recipe(
        hidden=(1000,) * 4,
        learning_rate=0.1,
        batch_size=10,
        epochs=2,
        images=10_000,
        initializer="lecun",
        gain=3**-0.5,
    ),
    "lecun-slow": _lecun(hidden=(300,), learning_rate=0.1, epochs=10),
    "lecun-fast": _lecun(hidden=(300,), learning_rate=1.0, epochs=10),
}

# Not in the quick preset.
SLOW = {
    *("depth-2", "depth-3", "depth-4", "first-net"),
    *("top-layer", "lecun-slow", "lecun-fast"),
}


def work(experiment: Experiment, seeds: int) -> float:
    """How long an experiment takes, in products of a weight and an image."""
    if not isinstance(experiment, Recipe):
        return 1e11
    sizes = (784, *experiment.hidden, 10)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    examples = experiment.images * experiment.epochs
    return float(weights * examples * seeds * experiment.best_of)


# --- What has been published ---------------------------------------------------------

Rule = Literal["a run", "a range", "holds", "rejected"]
Found = dict[str, "Chunk"]
# The same number of every network, from what was found.
Measured = Callable[[Found], Any]


class Row(NamedTuple):
    """A published number.

    Attributes:
        source: author, year, place.
        what: the number, in words.
        published: as it is printed; "a to b" is a range, "yes" what a figure shows.
        needs: experiments, by name.
        measured: from their results, the same number for every network.
        rule: how the verdict is made, as at the top of this script.
        note: what the source leaves open, or what was read second hand.
        explained: why our number differs, if it does.
    """

    source: str
    what: str
    published: str
    needs: tuple[str, ...]
    measured: Measured
    rule: Rule = "a run"
    note: str = ""
    explained: str = ""


def _take(name: str, array: str, *place: Any) -> Measured:
    """One array of one experiment, at a place behind its axis of networks."""
    return lambda found: found[name][array][(slice(None), *place)]


def _then(first: Measured, second: Callable[[Any], Any], found: Found) -> Any:
    """What second makes of what first measures."""
    return second(first(found))


def _norm_rows() -> list[Row]:
    source = "Nielsen 2015, ch. 5: norm of the mean bias gradient, layers of 30 units"
    published = {
        2: ("0.0657", "0.3092"),
        3: ("0.0118", "0.0600", "0.2831"),
        4: ("0.0030", "0.0171", "0.0695", "0.2851"),
    }
    rows = [
        Row(
            source,
            f"layer {layer} of {depth}",
            norm,
            (f"norms-{depth}",),
            _take(f"norms-{depth}", "norms", layer - 1),
        )
        for depth, norms in published.items()
        for layer, norm in enumerate(norms, start=1)
    ]
    wrong = Row(
        source,
        "layer 1 of 2, weights N(0, 1)",
        published[2][0],
        ("norms-wrong",),
        _take("norms-wrong", "norms", 0),
        "rejected",
        "Before the first step, over the first 1,000 training images. A control: with "
        "the weights of his chapter 1, N(0, 1), the first number does not come out.",
    )
    return [*rows, wrong]


def _nielsen_rows() -> list[Row]:
    depths = {1: "96.48", 2: "96.90", 3: "96.57", 4: "96.53"}
    fifth = "Nielsen 2015, ch. 5: validation accuracy after 30 epochs, layers of 30, %"
    third = "Nielsen 2015, ch. 3: validation accuracy after one epoch, 30 units, %"
    equation = "Nielsen 2015, ch. 5, eq. 123: where |w sigmoid'(w a + b)| >= 1"
    rows = [
        Row(
            fifth,
            f"hidden layers: {depth}",
            number,
            (f"depth-{depth}",),
            _take(f"depth-{depth}", "valid_accuracy", 29),
        )
        for depth, number in depths.items()
    ]
    for what, number, name in (
        ("weights N(0, 1/n)", "92.70", "depth-1"),
        ("weights N(0, 1)", "86.43", "start-large"),
    ):
        first_epoch = _take(name, "valid_accuracy", 0)
        rows.append(Row(third, what, number, (name,), first_epoch))
    best = Row(
        "Nielsen 2015, ch. 1: test accuracy, 30 units, quadratic cost, %",
        "best epoch, best of 3",
        "95.42",
        ("first-net",),
        lambda found: (
            found["first-net"]["test_accuracy"].max(axis=1).reshape(-1, 3).max(axis=1)
        ),
        note="He reports the best epoch of the best of three networks; so do we, for "
        "three times as many networks as the table counts.",
    )
    for what, number, name in (
        ("widest interval of a", "0.45", "interval_width"),
        ("the weight w that has it", "6.9", "interval_weight"),
    ):
        computed = _take("no-training", name)
        rows.append(Row(equation, what, number, ("no-training",), computed))
    return [*rows, best]


def _course_rows() -> list[Row]:
    source = "Straka 2018, Charles University lab: test accuracy, layers of 100, %"
    published = {
        "course-0": ("no hidden layer", "91.85"),
        "course-1-sigmoid": ("one layer, sigmoid", "92.43"),
        "course-1-tanh": ("one layer, tanh", "95.64"),
        "course-1-relu": ("one layer, ReLU", "96.48"),
        "course-3-sigmoid": ("three layers, sigmoid", "88.06"),
        "course-3-relu": ("three layers, ReLU", "97.27"),
    }
    rows = [
        Row(source, what, number, (name,), _take(name, "test_accuracy", -1))
        for name, (what, number) in published.items()
    ]
    rows[0] = rows[0]._replace(
        note="The course's assignment lists these networks. That they were trained by "
        "SGD at learning rate 0.03 in batches of 50 for ten epochs was read second "
        "hand."
    )
    stuck = Row(
        source,
        "five layers, sigmoid: a share",
        "yes",
        ("course-5-sigmoid",),
        _take("course-5-sigmoid", "one_class"),
        "holds",
        "Published is 11.35, the share of ones in the test set. Which class wins is "
        "noise; that the accuracy is exactly the share of a class is the result.",
        "All networks stand on the plateau: their logits vary by 0.002 or less over "
        "the images, and the loss is 2.302. But label noise can bring the logits of "
        "two classes, mostly 1 and 7, as near to each other, and then a few images get "
        "the other answer: 2 and 53 of 10,000 in two networks that were looked into. "
        "At other epochs the accuracy of these networks is a share too.",
    )
    later = "Straka 2019 ff., the same: validation accuracy, ten sigmoid layers, %"
    ranges = {1: "17.8 to 21.7", 5: "61.5 to 91.6", 10: "78.5 to 93.9"}
    adam = [
        Row(
            later,
            f"epoch {epoch}",
            number,
            ("course-adam",),
            _take("course-adam", "valid_accuracy", epoch - 1),
            "a range",
        )
        for epoch, number in ranges.items()
    ]
    adam[0] = adam[0]._replace(
        note="By Adam, learning rate 0.001. Five editions of the assignment print a "
        "run each. They validate on 5,000 images that are not named; ours are the last "
        "and 1.4 points easier than the test set."
    )
    return [*rows, stuck, *adam]


def _glorot_rows() -> list[Row]:
    jacobian = "Glorot & Bengio 2010, sec. 4.2.1: mean singular value of Jacobians"
    figure = "Glorot & Bengio 2010, Fig. 2: mean activation of four sigmoid layers"

    rows = [
        Row(
            jacobian,
            f"{name} init",
            number,
            (f"jacobian-{name}",),
            _take(f"jacobian-{name}", "singular_value"),
        )
        for name, number in (("normalized", "0.8"), ("standard", "0.5"))
    ]
    rows[0] = rows[0]._replace(
        note="Five layers of 1,000 tanh units on MNIST, one image and network each; "
        "theirs are on artificial images. Linear units have 8 / (3 pi) = 0.85 and 0.49."
    )
    checks: dict[str, Callable[[Any], Any]] = {
        "the top layer goes to 0": lambda a: a[:, 3] < 0.1,
        "the others increase upwards": lambda a: (a[:, :2] < a[:, 1:3]).all(axis=1),
        "the others lie above 0.5": lambda a: (a[:, :3] > 0.5).all(axis=1),
    }
    means = _take("top-layer", "activation_mean", -1)
    for what, check in checks.items():
        measured = partial(_then, means, check)
        rows.append(Row(figure, what, "yes", ("top-layer",), measured, "holds"))
    rows[2] = rows[2]._replace(
        note="Four layers of 1,000 units, standard init. They train on artificial "
        "images, at a learning rate that the figure does not give; we for 2,000 "
        "batches of ten MNIST images at 0.1. Below 0.1 counts as 0."
    )
    rows[4] = rows[4]._replace(
        explained="Layers 2 and 3 are at 0.55 and 0.73 in all networks. Layer 1 starts "
        "within 0.001 of 0.5, by the chance of its weights, and rises in every one, by "
        "0.0003 to 0.0004 in 1,000 steps: some had not passed 0.5 when we stopped.",
    )
    return rows


def _lecun_rows() -> list[Row]:
    source = "LeCun et al. 1998, table on the MNIST page: test accuracy, %"
    linear = Row(
        source,
        "linear, 88.0: in between",
        "yes",
        ("no-training", "course-0"),
        lambda found: (
            (found["no-training"]["least_squares"] < 88.0)
            & (found["course-0"]["test_accuracy"][:, -1] > 88.0)
        ),
        "holds",
        "The table gives errors, 12.0 and 4.7, and not how they were trained. A linear "
        "classifier lies between least squares, 86.0, and the softmax without a hidden "
        "layer. A weak check.",
    )
    hidden = Row(
        source,
        "300 units, 95.3: in between",
        "yes",
        ("lecun-slow", "lecun-fast"),
        lambda found: (
            (found["lecun-slow"]["test_accuracy"][:, -1] < 95.3)
            & (found["lecun-fast"]["test_accuracy"][:, -1] > 95.3)
        ),
        "holds",
        "Squared error of sigmoid outputs. Ten epochs give 94.3 at learning "
        "rate 0.1, and 97.9 at 1, which passes 95.3 in the second. A weak check.",
    )
    return [linear, hidden]


ROWS: tuple[Row, ...] = (
    *_norm_rows(),
    *_nielsen_rows(),
    *_course_rows(),
    *_glorot_rows(),
    Row(
        "Schoenholz et al. 2017: criticality of tanh at sigma_b^2 = 0.05",
        "sigma_w^2",
        "1.76",
        ("no-training",),
        _take("no-training", "critical_sigma_w_squared"),
        note="Mean field theory without a network. The number was read second hand.",
    ),
    *_lecun_rows(),
)


# --- Verdicts -----------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of a row.

    Attributes:
        row: the published number.
        ours: ours, a value for each network.
        low: lower end of our band or range.
        middle: mean, or median of many networks and where the source has a range.
        high: upper end.
        agrees: whether the published number agrees with ours.
    """

    row: Row
    ours: "np.ndarray"
    low: float
    middle: float
    high: float
    agrees: bool

    @property
    def words(self) -> str:
        """In a word or two."""
        if self.agrees:
            return "agrees"
        return "explained" if self.row.explained else "DIFFERS"


def printed_range(published: str) -> tuple[float, float]:
    """The numbers that may have been rounded to what is printed.

    >>> printed_range("0.0600")
    (0.05995, 0.06005)
    >>> printed_range("17.8 to 21.7")
    (17.75, 21.75)
    """
    ends = published.split(" to ")
    half = [0.5 * 10.0 ** -len(end.partition(".")[2]) for end in ends]
    # Without the last bits that 0.06 - 0.00005 leaves.
    low, high = float(ends[0]) - half[0], float(ends[-1]) + half[-1]
    return float(f"{low:.12g}"), float(f"{high:.12g}")


def band(ours: "np.ndarray") -> tuple[float, float, float]:
    """Low end, middle and high end of where one more run lies 98 times in 100.

    The middle is the median if there are many runs, and else the mean. With R runs of
    normal spread s, the mean and one more run differ by a normal of variance
    s^2 (1 + 1/R), and s is estimated too: Student's distribution.
    """
    import numpy as np
    from scipy.stats import t

    ours = np.asarray(ours, float)
    if len(ours) >= MANY:
        low, middle, high = np.quantile(ours, [0.01, 0.5, 0.99])
        return float(low), float(middle), float(high)
    middle = float(ours.mean())
    if len(ours) == 1:
        return middle, middle, middle
    reach = t.ppf(0.99, len(ours) - 1) * ours.std(ddof=1) * (1 + 1 / len(ours)) ** 0.5
    return middle - float(reach), middle, middle + float(reach)


def beyond(ours: int, count: int, theirs: int = RUNS_OF_A_RANGE) -> float:
    """How often so many of our runs, or more, lie beyond the last of the source's.

    If all are runs of one kind, every order of them is equally likely. With R runs of
    ours and n of theirs, the last k are ours with the probability R / (R + n) x
    (R - 1) / (R + n - 1) x ..., k factors.

    >>> round(1 / beyond(4, 4))  # 9! / (4! 5!)
    126
    """
    chance = 1.0
    for i in range(ours):
        chance *= (count - i) / (count + theirs - i)
    return chance


def judge(row: Row, ours: "np.ndarray") -> Verdict:
    """Whether a published number agrees with ours, by the row's rule."""
    import numpy as np

    if row.rule == "holds":
        share = float(np.mean(ours))
        return Verdict(row, ours, share, share, share, bool(np.all(ours)))
    first, last = printed_range(row.published)
    if row.rule == "a range":
        low, middle, high = (float(q) for q in np.quantile(ours, [0, 0.5, 1]))
        ends = (int((ours < first).sum()), int((ours > last).sum()))
        agrees = all(beyond(end, len(ours)) >= 0.01 for end in ends)
    else:
        low, middle, high = band(ours)
        agrees = (low <= last and first <= high) != (row.rule == "rejected")
    return Verdict(row, ours, low, middle, high, agrees)


# --- The run ------------------------------------------------------------------------


def chosen(settings: Settings) -> list[str]:
    """Names of the experiments to run."""
    if settings.only:
        return [name for name in EXPERIMENTS if name in settings.only]
    return [n for n in EXPERIMENTS if settings.preset == "full" or n not in SLOW]


def stored_name(name: str, settings: Settings, data: str) -> str:
    """Under which a result is kept: another name for all that could change it."""
    from importlib import metadata

    import jax

    experiment = EXPERIMENTS[name]
    depends_on = (
        repr(experiment) if isinstance(experiment, Recipe) else name,
        settings.seeds,
        settings.networks,
        data,
        metadata.version("jax"),
        jax.devices()[0].device_kind,
    )
    return f"{name}-{hashlib.sha256(repr(depends_on).encode()).hexdigest()[:12]}"


def measure(
    settings: Settings, dataset: "Dataset", report: Callable[[float], Any]
) -> Found:
    """Results of all experiments asked for, as far as they are not there yet."""
    from snn_jax import mnist, runs

    data = mnist.digest(dataset)

    def done(name: str) -> "Chunk":
        experiment = EXPERIMENTS[name]
        if isinstance(experiment, Recipe):
            return train(experiment, dataset, settings.seeds, report)
        found = experiment(settings, dataset)
        report(work(experiment, settings.seeds))
        return found

    names = {stored_name(name, settings, data): name for name in chosen(settings)}
    found = runs.finish(
        settings.out / "chunks",
        {},  # results of other settings may stay: their names tell them apart
        {key: partial(done, name) for key, name in names.items()},
        kept=lambda key: report(work(EXPERIMENTS[names[key]], settings.seeds)),
    )
    return {name: found[key] for key, name in names.items()}


def digits(published: str, value: float) -> str:
    """A number of ours with a digit more than a coarse published one."""
    decimals = len(published.partition(" ")[0].partition(".")[2])
    return f"{value:.{max(decimals, 2 if value >= 10 else 3)}f}"


def shown(verdict: Verdict) -> list[str]:
    """A row's cells, as in ``HEAD``."""
    row, count = verdict.row, len(verdict.ours)
    if row.rule == "holds":
        ours, reach = f"{int(verdict.ours.sum())} of {count}", ""
    else:
        ours = digits(row.published, verdict.middle)
        ends = [digits(row.published, end) for end in (verdict.low, verdict.high)]
        reach = "" if count == 1 else " .. ".join(ends)
    published = ("not " if row.rule == "rejected" else "") + row.published
    return [row.what, published, ours, verdict.words, reach, str(count)]


HEAD = ["", "published", "ours", "verdict", "98 % band", "networks"]


def as_text(verdicts: list[Verdict]) -> str:
    """The table, sources as headings."""
    table = [shown(verdict) for verdict in verdicts]
    widths = [max(map(len, column)) for column in zip(HEAD, *table, strict=True)]

    def line(cells: list[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        aligned = [
            cell.ljust(width) if i in (0, 3) else cell.rjust(width)
            for i, (cell, width) in enumerate(pairs)
        ]
        return "  ".join(["", *aligned]).rstrip()

    lines = [line(HEAD)]
    source = ""
    for verdict, cells in zip(verdicts, table, strict=True):
        if verdict.row.source != source:
            source = verdict.row.source
            lines.append(source)
        lines.append(line(cells))
    return "\n".join(lines)


def answer(verdicts: list[Verdict]) -> list[str]:
    """The outcome in words, then what is to be said of single rows."""
    agree = sum(verdict.agrees for verdict in verdicts)
    sources = {verdict.row.source.split(",")[0].split(":")[0] for verdict in verdicts}
    differ = [verdict for verdict in verdicts if not verdict.agrees]
    paragraphs = [
        f"{agree} of {len(verdicts)} published results, from {len(sources)} "
        f"publications, agree with ours"
        + (f"; not so: {len(differ)}." if differ else ".")
        + " About one true row in fifty falls outside its band by chance."
    ]
    for verdict in differ:
        reason = verdict.row.explained or "No explanation is known."
        paragraphs.append(
            f"{verdict.row.source.split(':')[0]}, {verdict.row.what}: published "
            f"{verdict.row.published}, ours {shown(verdict)[2]}. {reason}"
        )
    return paragraphs


def notes(verdicts: list[Verdict]) -> list[str]:
    """What sources leave open."""
    return [
        f"{verdict.row.source.split(':')[0]}, {verdict.row.what}: {verdict.row.note}"
        for verdict in verdicts
        if verdict.row.note
    ]


def to_dataset(verdicts: list[Verdict]) -> "xr.Dataset":
    """A row a published number; ``ours`` (row, network) is filled up with NaN."""
    import numpy as np
    import xarray as xr

    ours = np.full((len(verdicts), max(len(v.ours) for v in verdicts)), np.nan)
    for i, verdict in enumerate(verdicts):
        ours[i, : len(verdict.ours)] = verdict.ours
    words: dict[str, list[str]] = {
        "source": [v.row.source for v in verdicts],
        "what": [v.row.what for v in verdicts],
        "published": [v.row.published for v in verdicts],
        "rule": [v.row.rule for v in verdicts],
        "verdict": [v.words for v in verdicts],
        "note": [v.row.note for v in verdicts],
        "explained": [v.row.explained for v in verdicts],
    }
    numbers = {name: [getattr(v, name) for v in verdicts] for name in NUMBERS}
    columns: dict[str, list[Any]] = {**words, **numbers}
    result = xr.Dataset({name: ("row", values) for name, values in columns.items()})
    result["ours"] = (("row", "network"), ours)
    return result


NUMBERS = ("low", "middle", "high")


def picture(verdicts: list[Verdict]) -> "Figure | None":
    """Our bands with the published numbers on them, a panel for each source."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from snn_jax import figures

    panels: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.row.rule in ("a run", "a range") and len(verdict.ours) > 1:
            panels.setdefault(verdict.row.source, []).append(verdict)
    if not panels:
        return None
    heights = [len(panel) + 1.5 for panel in panels.values()]
    wide: dict[str, Any] = {"color": "C0", "alpha": 0.35, "linewidth": 7}
    wide["solid_capstyle"] = "butt"  # else a line is longer than its ends are apart
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(figures.WIDTH, 0.26 * sum(heights) + 0.3))
        grid = figure.subplots(
            len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, (source, panel) in zip(grid[:, 0], panels.items(), strict=True):
            for i, verdict in enumerate(panel):
                reach, ours = [verdict.low, verdict.high], verdict.middle
                axes.plot(reach, [i, i], **wide)
                axes.plot(ours, i, "|", color="C0", markersize=10, markeredgewidth=2)
                color = "black" if verdict.agrees else "C3"
                ends = [float(end) for end in verdict.row.published.split(" to ")]
                rounded = printed_range(verdict.row.published)
                axes.plot(rounded, [i, i], color=color, linewidth=1.5)
                axes.plot(ends, [i] * len(ends), "o", color=color, markersize=4)
            axes.set_yticks(range(len(panel)), [verdict.row.what for verdict in panel])
            axes.set_ylim(len(panel) - 0.5, -0.5)
            if "norm" in source:
                axes.set_xscale("log")
            axes.annotate(
                source,
                (0, 1),
                xytext=(2, 6),
                xycoords=("figure fraction", "axes fraction"),
                textcoords="offset points",
                fontweight="bold",
                fontsize="small",
            )
    return figure


def page(verdicts: list[Verdict]) -> "list[Section]":
    """The report's sections, in order."""
    from snn_jax.report import Section

    sections = []
    figure = picture(verdicts)
    if figure is not None:
        caption = (
            "Dots: published, red where they differ, on a line as long as their "
            "rounding or the source's range. Blue: where one more run of ours would "
            "lie 98 times in 100, and its middle; beside a range, our own. Look for "
            "lines that do not meet the blue."
        )
        title = "Published numbers on our bands"
        sections.append(Section("published", title, figure=figure, caption=caption))
    by_source: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_source.setdefault(verdict.row.source, []).append(verdict)
    for i, (source, some) in enumerate(by_source.items()):
        title, _, detail = source.partition(": ")
        text = [detail[:1].upper() + detail[1:] + "."]
        for verdict in some:
            text += [text for text in (verdict.row.note, verdict.row.explained) if text]
        sections.append(
            Section(f"source_{i}", title, text, table=[HEAD, *map(shown, some)])
        )
    return sections


def main(settings: Settings) -> int:
    """Runs the experiments, writes everything, prints the table and the answer."""
    command_line.make_folder(settings.out)
    from tqdm import tqdm

    from snn_jax import mnist, report, runs

    dataset = mnist.load(settings.data)
    total = sum(work(EXPERIMENTS[name], settings.seeds) for name in chosen(settings))
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with (
        command_line.going_on(settings.out),
        tqdm(total=total, desc="training", bar_format=form) as bar,
    ):
        found = measure(settings, dataset, bar.update)
    verdicts = [
        judge(row, row.measured(found))
        for row in ROWS
        if all(name in found for name in row.needs)
    ]
    made_with = asdict(settings) | {"commit": command_line.commit()}
    result = to_dataset(verdicts)
    runs.save(settings.out, result, made_with)
    with runs.replacing(settings.out / "published.csv") as file:
        result.drop_vars("ours").to_dataframe().to_csv(file, index=False)
    sections = page(verdicts)
    words = answer(verdicts)
    path = report.write(
        settings.out,
        title="Published figures against ours",
        subtitle=f"{settings.seeds} trained networks a row, {settings.networks} "
        f"untrained ones, on {settings.data or 'MNIST'}.",
        answer={"Do published results come out again?": words},
        sections=sections,
        settings=made_with,
    )

    print()
    print(as_text(verdicts))
    for paragraph in [*notes(verdicts), "", *words]:
        print(textwrap.fill(paragraph, 88, subsequent_indent="  "))
    print(f"\nRead it with pictures: {path}")
    wrong = any(not (v.agrees or v.row.explained) for v in verdicts)
    return int(wrong)


QUICK = Settings()
FULL = Settings(preset="full", seeds=8, networks=400)

if __name__ == "__main__":
    command_line.run(main, Settings, __doc__, {"quick": QUICK, "full": FULL})
