"""A sweep is the loop over its networks, labelled; it compiles once a shape."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from snn_jax import backprop, engines, gradients, losses, networks, training
from snn_jax.activations import identity, tanh
from snn_jax.datasets import Dataset, Split
from snn_jax.ensemble import Ensemble
from snn_jax.networks import MLP, Network
from snn_jax.recipe import Recipe
from snn_jax.sweep import Sweep, sweep

NET = MLP((784, 6, 5, 10), biases=False)
KEY = jax.random.key(7)
AXES = {"scale": [0.1, 1.0], "learning_rate": [0.1, 1.0]}


def small_sweep(
    small: Dataset, axes: Any = AXES, seeds: int = 3, **options: Any
) -> xr.Dataset:
    """Twelve networks, two epochs; options of the recipe and of the sweep."""
    defaults: dict[str, Any] = {"network": NET, "num_epochs": 2, "batch_size": 16}
    names = Recipe.__dataclass_fields__
    fields = defaults | {k: v for k, v in options.items() if k in names}
    rest = {k: v for k, v in options.items() if k not in names}
    rest = {"signals": False} | rest
    return sweep(KEY, small, Recipe(**fields), axes, seeds=seeds, **rest)


@pytest.fixture(scope="module")
def result(small: Dataset) -> xr.Dataset:
    """With all signals, by the engine of many networks."""
    return small_sweep(small, signals=True, engine="fast")


def test_the_sweep_is_the_loop(small: Dataset, result: xr.Dataset) -> None:
    """Every network of a sweep, trained alone by training.train."""
    recipe = Recipe(NET, num_epochs=2, batch_size=16)

    @jax.jit
    def alone(seed: Any, scale: Any, rate: Any) -> Any:
        params = NET.init(training.weights_key(KEY, seed), scale=scale)
        final, history = training.train(KEY, params, small, recipe, learning_rate=rate)
        logits = NET.apply(final, small.test.x)
        test = losses.nll(logits, jnp.asarray(small.test.y)).mean()
        return history, test, losses.accuracy(logits, jnp.asarray(small.test.y))

    for scale in (0.1, 1.0):
        for rate in (0.1, 1.0):
            for seed in range(3):
                history, loss, accuracy = alone(seed, scale, rate)
                cell = result.sel(scale=scale, learning_rate=rate, seed=seed)
                for name, expected in {
                    "train_loss": np.append(np.nan, history.train_loss),
                    "valid_loss": history.valid.loss,
                    "valid_accuracy": history.valid.accuracy,
                    "test_loss": loss,
                }.items():
                    np.testing.assert_allclose(
                        cell[name], expected, rtol=1e-3, atol=1e-5, err_msg=name
                    )
                np.testing.assert_allclose(cell.test_accuracy, accuracy, atol=0.005)


def test_labels_and_units(small: Dataset, result: xr.Dataset) -> None:
    assert dict(result.gradient_rms.sizes) == {
        "scale": 2, "learning_rate": 2, "seed": 3, "epoch": 3, "layer": 3
    }  # fmt: skip
    assert result.saturation.sizes["hidden_layer"] == 2
    assert result.scale.values.tolist() == [0.1, 1.0]
    assert all(variable.attrs["long_name"] for variable in result.data_vars.values())
    assert result.valid_loss.attrs["units"] == "nats"
    assert result.attrs["engine"] == "fast"
    assert result.attrs["gradient"] == "by hand"
    shares = np.bincount(small.train.y) / 320
    np.testing.assert_allclose(result.label_entropy, -(shares * np.log(shares)).sum())
    valid = np.bincount(small.valid.y) / 320
    plateau = -(valid * np.log(shares)).sum()
    np.testing.assert_allclose(result.plateau_loss, plateau, rtol=1e-6)
    np.testing.assert_allclose(
        result.label_information, plateau - result.valid_loss, atol=1e-6
    )


def test_chunks_change_nothing_but_rounding(small: Dataset, result: xr.Dataset) -> None:
    """12 networks in chunks of 5, a device each, the last one filled up."""
    finished: list[int] = []
    chunked = small_sweep(small, width=5, report=finished.append)
    two = len(jax.devices()) >= 2
    assert finished == ([10, 10, 2, 2] if two else [5, 5, 5, 5, 2, 2])
    xr.testing.assert_allclose(chunked, result[list(chunked)], rtol=1e-3)


def test_a_larger_grid_contains_the_smaller_one(small: Dataset) -> None:
    """More seeds and scales leave the old networks what they were, bit by bit."""
    same: dict[str, Any] = {"width": 4, "engine": "fast"}
    old = small_sweep(small, **same)
    new = small_sweep(small, AXES | {"scale": [0.3, 1.0, 0.1]}, seeds=5, **same)
    xr.testing.assert_identical(
        new.sel(scale=[0.1, 1.0], seed=range(3)).drop_attrs(), old.drop_attrs()
    )
    xr.testing.assert_identical(small_sweep(small, **same), old)


def test_one_compilation_a_shape(small: Dataset) -> None:
    """A new init scale, learning rate, seed or epoch never traces again."""
    traces = 0

    def counted(params: Any, x: Any, y: Any) -> Any:
        nonlocal traces
        if isinstance(jax.tree.leaves(x)[0], jax.core.Tracer) and x.shape[0] > 2:
            traces += 1
        return gradients.by_autodiff(NET)(params, x, y)

    options: dict[str, Any] = {"value_and_grad": counted, "width": 4}
    small_sweep(small, **options)
    assert traces == 1
    other = {"scale": [0.2, 0.7, 3.0], "learning_rate": [0.03]}
    small_sweep(small, other, seeds=9, num_epochs=5, **options)
    assert traces == 1
    small_sweep(small, batch_size=8, **options)
    assert traces == 2


@pytest.mark.parametrize(
    "way", [backprop.value_and_grad(NET), gradients.by_autodiff(NET)]
)
def test_other_gradients_in_a_sweep(
    way: Any, small: Dataset, result: xr.Dataset
) -> None:
    found = small_sweep(small, value_and_grad=way)
    xr.testing.assert_allclose(found, result[list(found)], rtol=1e-3)
    assert found.attrs["gradient"] == "the user's"


def test_a_diverging_network_harms_no_other(small: Dataset) -> None:
    """Its numbers are NaN, and its neighbours have the bits they have without it."""
    net = MLP((784, 6, 5, 10), identity, biases=False)
    axes = {"scale": [0.1, 1.0], "learning_rate": [0.01, 1e9]}
    both = small_sweep(small, axes, network=net, width=6, engine="plain")
    well = small_sweep(
        small, axes | {"learning_rate": [0.01]}, network=net, width=6, engine="plain"
    )
    assert np.isnan(both.test_accuracy.sel(learning_rate=1e9)).all()
    assert np.isfinite(well.test_accuracy).all()
    xr.testing.assert_identical(
        both.sel(learning_rate=[0.01]).drop_attrs(), well.drop_attrs()
    )


def test_static_axes_are_sweeps_of_their_own(small: Dataset) -> None:
    """Depth x activation x momentum: each combination as if it were alone."""
    made = []

    def network(depth: int, activation: Any) -> MLP:
        made.append((depth, activation))
        return MLP((784, *(5,) * depth, 10), activation, biases=False)

    axes = {
        "momentum": [0.0, 0.9],
        "depth": [1, 3],
        "learning_rate": [0.1],
        "activation": [tanh],
    }
    options: dict[str, Any] = {"num_epochs": 1, "batch_size": 160, "signals": True}
    whole = small_sweep(small, axes, seeds=2, network=network, **options)
    assert set(made) == {(1, tanh), (3, tanh)}
    assert whole.valid_loss.dims[:5] == (*axes, "seed")
    assert whole.activation.values.tolist() == ["tanh"]
    net = MLP((784, 5, 10), tanh, biases=False)
    rates = {"momentum": [0.0, 0.9], "learning_rate": [0.1]}
    alone = small_sweep(small, rates, seeds=2, network=net, **options)
    cell = whole.sel(depth=1, activation="tanh", layer=[1, 2], hidden_layer=[1])
    cell = cell.drop_vars(["depth", "activation"]).drop_attrs()
    xr.testing.assert_identical(cell[list(alone)], alone.drop_attrs())
    # What a shallow network has not is missing, not zero.
    assert whole.gradient_rms.sel(depth=1, layer=3).isnull().all()


def test_fields_of_the_recipe_and_data_are_axes(small: Dataset) -> None:
    """Optimizers, batch sizes and noisy labels, each a program or data of its own."""

    def noisy(label_noise: float) -> Dataset:
        rng = np.random.default_rng(0)
        flipped = rng.random(320) < label_noise
        y = np.where(flipped, rng.integers(10, size=320), small.train.y)
        return small._replace(train=Split(small.train.x, y.astype(np.int32)))

    axes: dict[str, Any] = {"label_noise": [0.0, 1.0], "batch_size": [16, 160]}
    axes["learning_rate"] = [0.3]
    found = sweep(KEY, noisy, Recipe(NET, num_epochs=1), axes, seeds=1, signals=False)
    shares = np.bincount(small.train.y) / 320
    clean = -(shares * np.log(shares)).sum()
    np.testing.assert_allclose(found.label_entropy[0], clean)
    assert float(found.label_entropy[1]) != pytest.approx(clean, abs=1e-4)
    assert found.label_entropy.dims == ("label_noise",)
    alone = small_sweep(small, {"learning_rate": [0.3]}, seeds=1, num_epochs=1)
    np.testing.assert_array_equal(
        found.valid_loss.sel(label_noise=0.0, batch_size=16), alone.valid_loss
    )


def test_own_batches_are_other_batches(small: Dataset) -> None:
    """Every seed its own shuffle: networks that start alike part, and repeat."""
    same = Network(lambda key: NET.init(jax.random.key(0)), NET.apply)
    axes = {"learning_rate": [1.0]}
    options: dict[str, Any] = {"network": same, "num_epochs": 1, "seeds": 3}
    shared = small_sweep(small, axes, **options).valid_loss[0, :, 1]
    own = small_sweep(small, axes, own_batches=True, **options).valid_loss[0, :, 1]
    assert len(set(shared.values.tolist())) == 1
    assert len(set(own.values.tolist())) == 3


def test_looks_within_an_epoch(small: Dataset) -> None:
    """Four looks in two epochs end where two epochs end."""
    often = small_sweep(small, looks_per_epoch=2)
    assert often.epoch.values.tolist() == [0, 0.5, 1, 1.5, 2]
    seldom = small_sweep(small)
    for name in ("valid_loss", "valid_accuracy"):
        np.testing.assert_allclose(
            often[name].sel(epoch=[0, 1, 2]), seldom[name], rtol=1e-4, atol=1e-6
        )


def test_given_parameters_to_start_from(small: Dataset) -> None:
    """The initial networks of a sweep, handed over: the same sweep."""
    axes = {"learning_rate": [0.1, 1.0]}
    keys = [training.weights_key(KEY, seed) for seed in (0, 1, 0, 1)]
    drawn = [NET.init(key) for key in keys]
    initial = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    given = small_sweep(small, axes, seeds=2, initial=initial)
    xr.testing.assert_identical(given, small_sweep(small, axes, seeds=2))
    with pytest.raises(ValueError, match="initial: expected 6 networks of one program"):
        small_sweep(small, axes, seeds=3, initial=initial)


def test_untrained_networks_are_looked_at(small: Dataset) -> None:
    """No epoch and an observation: its dimensions are named after it."""
    observe = {"first": lambda params: params["W1"][:, :3].sum(axis=1)}
    found = small_sweep(small, num_epochs=0, observe=observe)
    assert found["first"].dims[-2:] == ("epoch", "first_0")
    params = NET.init(training.weights_key(KEY, 2), scale=jnp.float32(0.1))
    np.testing.assert_allclose(
        found["first"].sel(scale=0.1, learning_rate=1.0, seed=2, epoch=0),
        params["W1"][:, :3].sum(axis=1),
        rtol=1e-6,
    )


def test_the_fast_engine_is_chosen_by_what_is_computed(small: Dataset) -> None:
    """Plain SGD is known under any name; other rules are fast too, but step by step."""

    def engine(optimizer: Any, **options: Any) -> str:
        axes: dict[str, Any] = {"scale": np.linspace(0.1, 1, 40)}
        if not isinstance(optimizer, optax.GradientTransformation):
            axes |= {"learning_rate": [0.1]}
        recipe = Recipe(NET, optimizer=optimizer, **options)
        method = Sweep(KEY, small, recipe, axes).ensemble(0).method
        return method.engine + ", SGD" * method.sgd

    for optimizer in (
        optax.sgd,
        lambda learning_rate: optax.sgd(learning_rate),
        lambda learning_rate: optax.chain(optax.sgd(learning_rate)),
        optax.sgd(0.3),
    ):
        assert engine(optimizer) == "fast, SGD"
    for optimizer in (
        optax.adam,
        optax.sgd(0.3, momentum=0.9),
        lambda learning_rate: optax.sgd(2 * learning_rate),
        optax.sgd(optax.schedules.constant_schedule(0.1)),
    ):
        assert engine(optimizer) == "fast"
    assert engine(optax.polyak_sgd(0.1)) == "plain"
    assert engine(optax.sgd, own_batches=True) == "plain"
    assert engine(optax.sgd, loss=losses.quadratic) == "plain"
    assert engine(optax.sgd, value_and_grad=backprop.value_and_grad(NET)) == "plain"
    with pytest.raises(ValueError, match="engine fast: expected what it serves, found"):
        small_sweep(small, engine="fast", loss=losses.quadratic)


def test_a_gpu_trains_by_vmap(monkeypatch: pytest.MonkeyPatch, small: Dataset) -> None:
    """What is fast on a CPU is up to five times slower there, and has to be asked."""
    recipe, gpu = Recipe(NET), [SimpleNamespace(platform="gpu")]
    params = jax.eval_shape(NET.init, KEY)

    def engine(asked: str) -> str:
        traced: Any = {"learning_rate": 0.1}
        return engines.choose(
            recipe, small, params, traced=traced, static={}, engine=asked, count=1000
        ).engine

    assert engine("auto") == "fast"
    monkeypatch.setattr(jax, "devices", lambda: gpu)
    assert engine("auto") == "plain"
    assert engine("fast") == "fast"


def test_what_is_compiled_ahead_is_what_runs(
    small: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """From the first weights to the signals nothing is left to compile."""
    axes = {"learning_rate": [0.1, 0.2], "scale": [1.0]}
    networks = Sweep(KEY, small, Recipe(NET, num_epochs=1), axes, seeds=20)
    networks.run_chunks([0])  # arithmetic around it is compiled too, once
    fresh = Sweep(KEY, small, Recipe(NET, num_epochs=1, batch_size=31), axes, seeds=20)
    fresh.ensemble(0).compile()
    with jax.log_compiles():
        fresh.run_chunks([0])
    found = [r.getMessage() for r in caplog.records]
    assert [m for m in found if m.startswith("Finished XLA")] == []


def test_memory_of_an_evaluation_does_not_grow(small: Dataset) -> None:
    """A GPU may train 65,536 networks at a time, whose activations have no room."""

    def memory(width: int) -> int:
        many = Ensemble(
            Recipe(NET, optimizer=optax.sgd(0.1)),
            small, count=width, width=width, engine="plain",
        )  # fmt: skip
        program = many.lowered()["evaluation"].compile()
        return int(program.memory_analysis().temp_size_in_bytes)

    one_group = memory(512)
    assert one_group > 512 * 320 * 4  # an output of all images at least
    assert memory(4096) < 1.5 * one_group


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 321}, "batch size: expected 1 to 320, the number of training"),
    ({"axes": {"learning_rat": [0.1]}}, "axis learning_rat: expected something that"),
    ({"axes": {"scale": [], "learning_rate": [0.1]}}, "axis scale: expected at least"),
    ({"axes": {"learning_rate": [0.1, 0.1]}}, "numbers that float32 tells apart"),
    ({"axes": {"learning_rate": [np.nan]}}, "expected finite numbers"),
    ({"axes": {}}, "optimizer: expected an axis for each value that it needs"),
    ({"network": MLP((784, 5, 9))}, "train labels: expected 0 to 8, found 0 to 9"),
    ({"network": MLP((783, 5, 10))}, r"images: expected shape \(B, 783\)"),
    ({"loss": lambda outputs, y: outputs.mean()}, "loss: expected a number for each"),
    ({"optimizer": lambda learning_rate: 3}, "optimizer: expected an optax transform"),
    ({"engine": "warp"}, "engine: expected auto, fast or plain, found warp"),
    ({"seeds": 0}, "seeds: expected a number of at least 1"),
    (
        {"value_and_grad": lambda params, x, y: (0.0, {"W1": params["W1"]})},
        "gradient of W2: expected one, found only W1",
    ),
    (
        {
            "value_and_grad": lambda params, x, y: (
                jnp.zeros(()), {n: g[..., None] for n, g in params.items()}
            )
        },
        r"gradient of W1: expected shape \(6, 784\), found \(6, 784, 1\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), IMPOSSIBLE)
def test_impossible_settings(
    options: dict[str, Any], message: str, small: Dataset
) -> None:
    """One line, before anything is trained."""
    with pytest.raises(ValueError, match=message):
        small_sweep(small, **options, report=pytest.fail)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: Split(s.x, s.y[:1]), "expected as many targets as inputs"),
        (lambda s: Split((255 * s.x).astype(np.uint8), s.y), "found bytes"),
        (lambda s: Split(s.x, s.y - 1), "train labels: expected 0 and more, found -1"),
        (lambda s: Split(s.x, s.y + 1), "train labels: expected 0 to 9"),
    ],
)
def test_impossible_data(change: Any, message: str, small: Dataset) -> None:
    """Nothing broadcasts, wraps around or trains on 0 to 255 without a word."""
    with pytest.raises(ValueError, match=message):
        small_sweep(small._replace(train=change(small.train)))


def test_the_assignments_answer(dataset: Dataset) -> None:
    """Init scale 0.1, rate 0.1: stuck on the plateau. Scale 1, rate 1: it learns.

    On the plateau the loss is H0 and the test accuracy is exactly the share of one
    class, whichever: the network gives every image the same answer.
    """
    data = Dataset(*(Split(s.x[:20_000], s.y[:20_000]) for s in dataset))
    found = sweep(
        jax.random.key(0),
        data,
        Recipe(networks.DEEP, num_epochs=6),
        {"scale": [0.1, 1.0], "learning_rate": [0.1, 1.0]},
        seeds=2,
        signals=False,
    )
    stuck = found.sel(scale=0.1, learning_rate=0.1)
    shares = np.bincount(data.test.y) / len(data.test.y)
    for accuracy in stuck.test_accuracy.values:
        assert np.abs(accuracy - shares).min() < 1e-6
    assert (np.abs(stuck.test_loss - found.label_entropy) < 0.03).all()
    assert (np.abs(stuck.label_information.isel(epoch=-1)) < 0.03).all()
    assert (found.sel(scale=1.0, learning_rate=1.0).test_accuracy > 0.75).all()


def test_sgd_for_some_arrays_alone_is_not_sgd(small: Dataset) -> None:
    """Several steps at once would move what the optimizer holds still."""

    def frozen(learning_rate: Any) -> optax.GradientTransformation:
        def others(params: Any) -> Any:
            return {name: name == "W1" for name in params}

        still = optax.masked(optax.set_to_zero(), others)
        return optax.chain(optax.sgd(learning_rate), still)

    axes = {"scale": [0.1], "learning_rate": [0.1, 0.3]}
    for optimizer, is_sgd in ((frozen, False), (optax.sgd, True)):
        recipe = Recipe(NET, optimizer=optimizer)
        many = Sweep(KEY, small, recipe, axes, seeds=20)
        method = many.ensemble(0).method
        assert (method.engine, method.sgd) == ("fast", is_sgd)
    renamed = Recipe(NET, optimizer=lambda rate: optax.sgd(rate))
    many = Sweep(KEY, small, renamed, {"rate": [0.1, 0.3]}, seeds=20)
    assert many.ensemble(0).method.engine == "fast"


def test_an_optimizer_that_takes_any_value_is_given_it(small: Dataset) -> None:
    def optimizer(learning_rate: Any, **others: Any) -> optax.GradientTransformation:
        return optax.sgd(learning_rate, **others)

    axes = {"learning_rate": [0.1], "momentum": [0.0, 0.9]}
    network = Network(
        lambda key: {"W": jnp.zeros((10, 784))}, lambda params, x: x @ params["W"].T
    )
    recipe = Recipe(network, optimizer=optimizer, num_epochs=1)
    found = sweep(KEY, small, recipe, axes, signals=False).test_loss.values.ravel()
    assert found[0] != found[1]


def test_whole_numbers_index(small: Dataset) -> None:
    """An axis of whole numbers is one of whole numbers in init, too."""
    scales = jnp.array([0.0, 1.0])

    def init(key: Any, variant: Any) -> Any:
        return {"W": scales[variant] * jax.random.normal(key, (10, 784))}

    recipe = Recipe(Network(init, lambda params, x: x @ params["W"].T))
    many = Sweep(KEY, small, recipe, {"variant": [0, 1], "learning_rate": [0.1]})
    assert many.num_networks == 2
