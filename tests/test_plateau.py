"""When networks leave the plateau: the theory against autodiff, limits and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import mnist, plateau
from snn_jax.activations import sigmoid
from snn_jax.datasets import Dataset, Split
from snn_jax.diagnosis import NAMES, diagnose, verdicts
from snn_jax.forecast import Forecast
from snn_jax.losses import nll
from snn_jax.networks import MLP, Params
from snn_jax.plateau import figures, forces, integration, labelled
from snn_jax.recipe import Recipe
from snn_jax.sweep import sweep

Array = np.ndarray

NETWORK = MLP((6, 5, 4, 3, 3), sigmoid, biases=False)
RATE, BATCH = 0.3, 16


def params_of(network: MLP, seed: int, scale: float) -> Params:
    with jax.enable_x64(True):
        params = network.init(jax.random.key(seed), scale=scale)
        return {name: np.asarray(leaf, float) for name, leaf in params.items()}


def clouds(
    means: Array, labels: list[int], shares: Array, covariance: Array | None = None
) -> plateau.Statistics:
    """Statistics of images that are made up."""
    frequencies = np.bincount(labels, shares)
    if covariance is None:
        covariance = np.zeros((means.shape[1],) * 2)
    each = np.repeat(
        np.arange(len(labels)), np.round(1000 * np.asarray(shares)).astype(int)
    )
    return plateau.Statistics(
        frequencies,
        np.asarray(labels),
        np.asarray(shares),
        means,
        covariance,
        len(each),
        each,
    )


def flow_of(
    params: Params, data: plateau.Statistics, *, noise: float = 1.0
) -> tuple[float, list[Array], forces.Weights, forces.Problem]:
    """Potential, change a step, and the problem, of one network."""
    weights, problem = forces.prepared(
        {name: leaf[None] for name, leaf in params.items()},
        data,
        rate=np.full((1, 1, 1), RATE),
        batch_size=np.full((1, 1, 1), float(BATCH)),
        noise=noise,
    )
    potential, change, _ = forces.flow(weights, problem)
    return potential[0], [part[0] for part in change], weights, problem


@pytest.mark.parametrize("biases", [False, True])
def test_without_clouds_it_is_the_gradient_of_the_real_network(biases: bool) -> None:
    """One image a class: the loss is the network's own, and autodiff its gradient."""
    network = MLP(NETWORK.sizes, sigmoid, biases)
    rng = np.random.default_rng(0)
    means, shares = rng.uniform(size=(3, 6)), np.array([0.5, 0.3, 0.2])
    params = params_of(network, 1, 1.0)
    if biases:
        params |= {f"b{i}": rng.normal(size=len(params[f"b{i}"])) for i in range(1, 5)}
    data = clouds(means, [0, 1, 2], shares)
    loss, change, *_ = flow_of(params, data, noise=0.0)
    with jax.enable_x64(True):

        def mean_loss(params: Params) -> jax.Array:
            losses = nll(network.apply(params, means), jnp.arange(3))
            return (losses * shares).sum()

        expected, grads = jax.value_and_grad(mean_loss)(params)
        expected, grads = jax.tree.map(np.asarray, (expected, grads))
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    # z_1 moves as the real first weights move it.
    moved = grads["W1"] @ means.T
    if biases:
        moved = moved + grads["b1"][:, None]
    np.testing.assert_allclose(change[0], -RATE * moved, rtol=1e-10)
    for layer in range(2, 5):
        expected = grads[f"W{layer}"]
        if biases:
            expected = np.column_stack([expected, grads[f"b{layer}"]])
        np.testing.assert_allclose(change[layer - 1], -RATE * expected, rtol=1e-10)


@pytest.mark.parametrize("biases", [False, True])
def test_noise_is_the_log_determinant_of_the_real_networks_curvature(
    biases: bool,
) -> None:
    """R from the whole Jacobian of the network, where all images are one."""
    network = MLP(NETWORK.sizes, sigmoid, biases)
    image, shares = np.linspace(0.1, 1, 6), np.array([0.5, 0.3, 0.2])
    params = params_of(network, 2, 1.0)
    data = clouds(np.tile(image, (3, 1)), [0, 1, 2], shares)
    args = (params, data)
    loss, without, *_ = flow_of(*args, noise=0.0)
    both, change, *_ = flow_of(*args)
    with jax.enable_x64(True):
        J = np.diag(shares) - np.outer(shares, shares)

        def R(params: Params) -> jax.Array:
            leaves = jax.jacrev(lambda p: network.apply(p, image[None])[0])(params)
            matrix = jnp.hstack([d.reshape(3, -1) for d in jax.tree.leaves(leaves)])
            H = matrix.T @ J @ matrix
            _, logarithm = jnp.linalg.slogdet(jnp.eye(len(H)) - RATE / 2 * H)
            return jnp.asarray(-logarithm / (2 * BATCH))

        expected, grads = jax.value_and_grad(R)(params)
        expected, grads = jax.tree.map(np.asarray, (expected, grads))
    # The series ends.
    np.testing.assert_allclose(both - loss, expected, rtol=1e-6)
    noise = [a - b for a, b in zip(change, without, strict=True)]
    moved = grads["W1"] @ image
    if biases:
        moved = moved + grads["b1"]
    np.testing.assert_allclose(noise[0], np.outer(-RATE * moved, np.ones(3)), rtol=1e-5)
    for layer in range(2, 5):
        expected = grads[f"W{layer}"]
        if biases:
            expected = np.column_stack([expected, grads[f"b{layer}"]])
        np.testing.assert_allclose(noise[layer - 1], -RATE * expected, rtol=1e-5)


def test_the_change_is_the_slope_of_the_potential() -> None:
    """Clouds, noise and all: along any direction, by a difference of potentials."""
    rng = np.random.default_rng(3)
    means = rng.normal(size=(6, 6))
    root = rng.normal(size=(6, 6))
    labels, shares = [0, 0, 1, 1, 2, 2], np.array([0.3, 0.1, 0.2, 0.1, 0.2, 0.1])
    data = clouds(means, labels, shares, root @ root.T)
    _, _, weights, problem = flow_of(params_of(NETWORK, 4, 0.7), data)
    # Coordinates in which z_1 moves along its own gradient.
    problem = problem._replace(products=np.eye(6))
    _, change, _ = forces.flow(weights, problem)
    # |mean image|^2 is part of R, so this also changes it; the slope has to follow.
    for part in range(len(weights)):
        direction = [np.zeros_like(W) for W in weights]
        direction[part] = rng.normal(size=weights[part].shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = [W + step * d for W, d in zip(weights, direction, strict=True)]
            ends.append(forces.flow(moved, problem)[0][0])
        slope = (ends[0] - ends[1]) / 2e-5
        along = -(change[part] * direction[part]).sum() / RATE
        np.testing.assert_allclose(slope, along, rtol=1e-6)


def test_a_cloud_is_an_average_over_normal_images() -> None:
    """Layer 1 against a million draws of z: seven points are right to 0.002."""
    z, v = np.array([[[-1.0, 0.5, 2.0]]]), np.array([[2.25]])
    found = forces.first_layer(z, v)
    draws = np.random.default_rng(5).normal(size=1_000_000)
    a = 1 / (1 + np.exp(-(z[0, 0] + 1.5 * draws[:, None])))
    s = a * (1 - a)
    for value, samples in zip(found, (a, s, s * (1 - 2 * a)), strict=True):
        error = 4 * samples.std(0) / 1e3
        np.testing.assert_array_less(abs(value[0, 0] - samples.mean(0)), error + 2e-3)


def toy(n: int = 2000, seed: int = 0) -> tuple[Array, Array]:
    """Ten blurred classes of 36 pixels, and labels that fit them."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(size=(10, 36)) * (rng.uniform(size=(10, 36)) < 0.4)
    y = rng.integers(10, size=n).astype(np.int32)
    x = np.clip(centres[y] + 0.25 * rng.normal(size=(n, 36)), 0, 1)
    return x.astype(np.float32), y


def gradients_of(W: list[Array], x: Array, y: Array) -> list[Array]:
    """Of many networks, each with a batch of its own, (N, ...); in float64."""
    activations = [x.astype(float)]
    for weights in W[:-1]:
        z = activations[-1] @ weights.swapaxes(1, 2)
        activations.append(1 / (1 + np.exp(-z)))
    p = np.exp(activations[-1] @ W[-1].swapaxes(1, 2))
    delta = (p / p.sum(2, keepdims=True) - np.eye(10)[y]) / y.shape[1]
    grads: list[Array] = []
    for layer in range(len(W) - 1, -1, -1):
        grads.insert(0, delta.swapaxes(1, 2) @ activations[layer])
        a = activations[layer]
        delta = (delta @ W[layer]) * a * (1 - a)
    return grads


def theory_at(
    W: list[Array], data: plateau.Statistics, *, rate: float, size: int, noise: float
) -> tuple[forces.Weights, forces.Problem]:
    """What ``forces.flow`` takes, of one network."""
    return forces.prepared(
        {f"W{i + 1}": weights[None] for i, weights in enumerate(W)},
        data,
        rate=np.full((1, 1, 1), rate),
        batch_size=np.full((1, 1, 1), float(size)),
        noise=noise,
    )


def test_the_mean_of_many_steps_of_sgd_is_the_change_predicted() -> None:
    """The drift itself: 1,000 runs with their own batches, from weights in training.

    Between steps 200 and 400, when the output is in balance, the mean change of the
    weights is that of the flow, to the error of the mean; without noise it is not.
    """
    x, y = toy()
    params = params_of(MLP((36, 8, 8, 10), sigmoid, biases=False), 3, 0.02)
    rng = np.random.default_rng(1)
    runs, rate, size = 1000, 0.5, 8
    W = [np.tile(params[f"W{i}"], (runs, 1, 1)) for i in (1, 2, 3)]
    for step in range(400):
        if step == 200:
            begun = [w.copy() for w in W]
        batch = rng.integers(len(y), size=(runs, size))
        grads = gradients_of(W, x[batch], y[batch])
        W = [w - rate * g for w, g in zip(W, grads, strict=True)]
    data = plateau.statistics(x, y)
    starts = [w.mean(0) for w in begun]
    ends = {}
    for noise in (0.0, 1.0):
        weights, problem = theory_at(starts, data, rate=rate, size=size, noise=noise)
        for _ in range(200):
            _, change, _ = forces.flow(weights, problem)
            weights = [w + d for w, d in zip(weights, change, strict=True)]
        ends[noise] = weights[1][0]
    moved = W[1] - begun[1]
    seen = moved.mean(0)
    error = np.linalg.norm(moved.std(0)) / np.sqrt(runs)
    predicted = ends[1.0] - starts[1]
    assert np.linalg.norm(seen) > 10 * error
    assert np.linalg.norm(predicted - seen) < 0.1 * np.linalg.norm(seen) + 2 * error
    quiet = ends[0.0] - starts[1]
    assert np.linalg.norm(quiet - seen) > 0.5 * np.linalg.norm(seen)


def test_each_term_is_an_average_over_real_batches() -> None:
    """On MNIST, at weights in the middle of the plateau, by 4,000 batches.

    The pull of the labels is the mean gradient; and what a batch does to the logits of
    the mean image has the covariance r^2 Theta J Theta / B. Both to the error of the
    mean over batches, and what is left out: images differ within a cloud.
    """
    train = mnist.load().train
    x, y = train.x[:5000].reshape(5000, -1), train.y[:5000]
    rate, size, depth = 1.0, 32, 4
    network = MLP((784, *(10,) * depth, 10), sigmoid, biases=False)
    params = params_of(network, 0, 0.1)
    W = [params[f"W{i}"][None] for i in range(1, depth + 2)]
    rng = np.random.default_rng(2)
    for _ in range(1500):
        batch = rng.integers(len(y), size=(1, size))
        grads = gradients_of(W, x[batch], y[batch])
        W = [w - rate * g for w, g in zip(W, grads, strict=True)]
    here = [w[0] for w in W]
    data = plateau.statistics(x, y)
    quiet = theory_at(here, data, rate=rate, size=size, noise=0.0)
    _, pull, kernel = forces.flow(*quiet)

    mean = gradients_of(W, x[None], y[None])
    for layer in range(1, depth + 1):
        seen, predicted = -rate * mean[layer][0], pull[layer][0]
        assert np.linalg.norm(seen - predicted) < 0.05 * np.linalg.norm(seen)

    kicks = []
    values, errors = kernel.layers.values, kernel.errors
    for _ in range(40):
        batch = rng.integers(len(y), size=(100, size))
        grads = gradients_of([np.tile(w, (100, 1, 1)) for w in W], x[batch], y[batch])
        moved = errors[0][0].T @ (grads[0] @ (data.shares @ data.means))[..., None]
        for B, d, h in zip(errors[1:], grads[1:], values, strict=True):
            moved = moved + B[0].T @ (d @ h[0])
        kicks.append(moved[..., 0])
    seen = np.cov(np.concatenate(kicks).T)
    theta = kernel.theta[0]
    predicted = theta @ quiet[1].slope @ theta / size
    away = np.linalg.norm(seen - predicted) / np.linalg.norm(predicted)
    assert away < 0.1


def even_clouds() -> plateau.Statistics:
    """Of the toy's images, in classes that are equally frequent."""
    data = plateau.statistics(*toy())
    shares = data.shares / (10 * data.frequencies[data.labels])
    return data._replace(frequencies=np.full(10, 0.1), shares=shares)


def times(
    data: plateau.Statistics, scale: float, *, hidden: int, **options: float
) -> Array:
    """Steps until eight networks leave, by theory."""
    network = MLP((36, *(10,) * hidden, 10), sigmoid, biases=False)
    many = labelled.initial(jax.random.key(9), network, np.arange(8), scale)
    settings = {"learning_rate": 0.5, "batch_size": 8, "steps": 1e30} | options
    return plateau.leaving_steps(many, data, **settings)


@pytest.mark.parametrize("hidden", [2, 3, 4])
def test_gradient_flow_has_the_published_exponent(hidden: int) -> None:
    """Rawal & DeWeese 2026: s^(2 - L) for L small layers of weights."""
    data = even_clouds()
    slow, fast = (times(data, s, hidden=hidden, noise=0.0) for s in (0.003, 0.01))
    exponents = np.log(slow / fast) / np.log(0.003 / 0.01)
    np.testing.assert_allclose(exponents, 1 - hidden, atol=0.03)


def test_unequal_classes_take_layers_out_of_the_exponent() -> None:
    """The last layer learns their frequencies at once, and is small no longer."""
    data = even_clouds()
    frequencies = np.linspace(0.9, 1.1, 10) / 10
    shares = data.shares * 10 * frequencies[data.labels]
    data = data._replace(frequencies=frequencies, shares=shares)
    slow, fast = (times(data, s, hidden=3, noise=0.0) for s in (0.003, 0.01))
    exponents = np.log(slow / fast) / np.log(0.003 / 0.01)
    np.testing.assert_array_less(-1.7, exponents)
    np.testing.assert_array_less(exponents, -0.7)


def test_with_noise_the_time_is_linear_in_the_logarithm_of_the_scale() -> None:
    """The same wait for every factor of the scale, where gradient flow has a power."""
    train = mnist.load().train
    data = plateau.statistics(train.x[:5000], train.y[:5000])
    network = MLP((784, *(10,) * 5, 10), sigmoid, biases=False)
    options = {"learning_rate": 0.3, "batch_size": 32, "steps": 1e9}

    def middle(scale: float) -> float:
        many = labelled.initial(jax.random.key(0), network, np.arange(8), scale)
        return float(np.median(plateau.leaving_steps(many, data, **options)))

    first, second, third = map(middle, (0.025, 0.05, 0.1))
    np.testing.assert_allclose(first - second, second - third, rtol=0.15)
    assert first < 2 * third


def test_a_network_is_predicted_alone_as_among_others() -> None:
    """Nothing depends on groups, or on networks that are done and dropped."""
    data = plateau.statistics(*toy())
    network = MLP((36, 10, 10, 10), sigmoid, biases=False)
    count = plateau.GROUP + 2
    many = labelled.initial(jax.random.key(1), network, np.arange(count), 0.2)
    rates, sizes = np.linspace(0.3, 1, count), np.linspace(4, 16, count)
    together = plateau.leaving_steps(
        many, data, learning_rate=rates, batch_size=sizes, steps=1e5
    )
    for seed in (0, count - 1):
        one = {name: leaf[seed : seed + 1] for name, leaf in many.items()}
        alone = plateau.leaving_steps(
            one, data, learning_rate=rates[seed], batch_size=sizes[seed], steps=1e5
        )
        np.testing.assert_allclose(together[seed], alone[0], rtol=1e-6)
    none = {name: leaf[:0] for name, leaf in many.items()}
    assert plateau.leaving_steps(
        none, data, learning_rate=1.0, batch_size=8, steps=1e5
    ).shape == (0,)


def test_clouds_are_the_images_of_a_class_in_four_parts() -> None:
    x, y = toy(300)
    data = plateau.statistics(x, y)
    assert len(data.labels) == 40
    np.testing.assert_allclose(data.shares.sum(), 1)
    np.testing.assert_allclose(data.shares @ data.means, x.mean(0), rtol=1e-5)
    # All variance of the images is within clouds or between them.
    away = data.means - x.mean(0)
    total = data.covariance + (data.shares * away.T) @ away
    np.testing.assert_allclose(total, np.cov(x.T, bias=True), atol=1e-6)
    within = np.trace(data.covariance)
    one = np.trace(plateau.statistics(x, y, halvings=0).covariance)
    assert 0 < within < 0.95 * one
    with pytest.raises(ValueError, match="300 labels, all of 0, 1"):
        plateau.statistics(x, y + 1)


def test_the_implicit_step_undoes_the_pull_of_the_output() -> None:
    """(1 + c A) applied to what comes out is what went in, A written out."""
    rng = np.random.default_rng(8)
    data = even_clouds()
    params = params_of(MLP((36, 5, 4, 10), sigmoid, biases=True), 5, 0.5)
    _, change, weights, problem = flow_of(params, data)
    del change
    potential, moves, kernel = forces.flow(weights, problem)
    del potential
    steps = np.full((1, 1, 1), 30.0)
    wanted = [rng.normal(size=part.shape) for part in moves]
    found = integration.stiff(kernel, problem, steps)(wanted)
    values, errors = kernel.layers.values, kernel.errors
    moved = errors[0][0].T @ (found[0][0] @ problem.shares)
    for B, d, h in zip(errors[1:], found[1:], values, strict=True):
        moved = moved + B[0].T @ d[0] @ h[0, :, 0]
    q = 30 * RATE * problem.slope @ moved
    again = [
        found[0][0] + np.outer(errors[0][0] @ q, problem.products @ problem.shares)
    ]
    for B, d, h in zip(errors[1:], found[1:], values, strict=True):
        again.append(d[0] + np.outer(B[0] @ q, h[0, :, 0]))
    for part, expected in zip(again, wanted, strict=True):
        np.testing.assert_allclose(part, expected[0], rtol=1e-9, atol=1e-9)


def test_theory_says_where_it_does_not_speak() -> None:
    """Not on the plateau; a rate at which nothing settles; what it cannot read."""
    data = even_clouds()
    assert np.isnan(times(data, 5.0, hidden=3)).all()
    assert np.isnan(times(data, 0.1, hidden=3, learning_rate=100.0)).all()
    assert np.isfinite(times(data, 0.1, hidden=3, learning_rate=1.0)).all()
    assert np.isinf(times(data, 0.1, hidden=3, steps=10.0)).all()
    for message, hidden, options in (
        ("two or more hidden layers", 1, {}),
        ("learning_rate: expected above 0", 2, {"learning_rate": -1.0}),
        ("batch_size: expected above 0", 2, {"batch_size": 0.0}),
    ):
        with pytest.raises(ValueError, match=message):
            times(data, 0.1, hidden=hidden, **options)


def test_training_leaves_when_theory_says() -> None:
    """Eight networks each of two scales: within a factor 1.25, in the right order."""
    train, valid = Split(*toy()), Split(*toy(500))
    network, key = MLP((36, *(10,) * 3, 10), sigmoid, biases=False), jax.random.key(7)
    recipe = Recipe(network, num_epochs=14, batch_size=8, looks_per_epoch=5)
    axes = {"scale": [0.1, 0.3], "learning_rate": [0.8, 1.2]}
    result = sweep(key, Dataset(train, valid, valid), recipe, axes, seeds=4)
    data = plateau.statistics(*train)
    result.update(labelled.leaving(result, key, network, data, 8))
    ratio = (result.leaves - 0.1) / result.leaves_predicted  # the middle of two looks
    assert np.isfinite(ratio).all()
    np.testing.assert_array_less(abs(np.log(ratio)), np.log(1.25))
    inside = (result.leaves > result.leaves_earliest - 0.2) & (
        result.leaves - 0.2 < result.leaves_latest
    )
    assert inside.mean() > 0.6
    # Without the noise of the batches theory is far off.
    slow = times(data, 0.1, hidden=3, learning_rate=0.8, noise=0.0)
    seen = result.leaves.sel(scale=0.1, learning_rate=0.8)
    assert np.median(slow) / 250 > 1.1 * float(seen.median())
    # What it says half way: stuck until then, and no longer.
    early = result.sel(epoch=slice(0, 2), scale=[0.1])
    stuck = early.leaves_earliest > 2 * 2  # twice the epochs seen
    expected = np.where(stuck, "vanishing", "too early to tell")
    assert (np.array(NAMES)[verdicts(early).values] == expected).all()
    assert stuck.any()
    assert not stuck.all()
    assert figures.leaving(result).axes
    one = result.isel(scale=0, learning_rate=1, seed=1)
    predicted = labelled.course(one, key, network, data, 8)
    at_end = predicted.interp(epoch=float(one.leaves) - 1)
    seen = one.sel(epoch=float(one.leaves) - 1, method="nearest")
    np.testing.assert_allclose(seen.weight_norm[1:], at_end.weight_norm, rtol=0.15)
    assert figures.mechanism(one, predicted).axes


def test_a_forecast_decides_the_verdict_and_is_said() -> None:
    flat, quiet = np.zeros(11), np.full(11, 1e-12)
    curves = (flat, quiet, flat)

    def verdict(*epochs: float) -> str:
        forecast = Forecast(*epochs)
        return str(diagnose(*curves, label_entropy=2.3, forecast=forecast))

    assert "vanishing: " in verdict(25.4, 24.0, 27.0)
    assert "leave the plateau: in epoch 26 (24 to 27);" in verdict(25.4, 24.0, 27.0)
    assert "too early to tell: " in verdict(19.0, 18.0, 21.0)
    assert "vanishing: " in verdict(np.inf, np.inf, np.inf)
    assert "not in sight" in verdict(np.inf, np.inf, np.inf)
    # One that should have left by now, and one of which theory does not speak.
    for passed in (Forecast(5.0, 4.0, 6.0), Forecast(np.nan, np.nan, np.nan)):
        found = diagnose(*curves, label_entropy=2.3, forecast=passed)
        assert found.forecast is None
