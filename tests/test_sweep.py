"""A sweep is the loop over its networks, labelled; it compiles once a shape."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import xarray as xr

from snn_jax import (
    backprop,
    diagnosis,
    figures,
    losses,
    mnist,
    networks,
    runs,
    training,
)
from snn_jax.networks import Architecture, Params
from snn_jax.sweep import BATCHES, initial_params, sweep

NET = Architecture((784, 6, 5, 10), biases=False)


def small_sweep(small: mnist.Dataset, **options: Any) -> xr.Dataset:
    defaults: dict[str, Any] = {
        "architecture": NET,
        "scales": [0.1, 1.0],
        "learning_rates": [0.1, 1.0],
        "num_seeds": 3,
        "num_epochs": 2,
        "batch_size": 16,
    }
    return sweep(jax.random.key(7), small, **(defaults | options))


def test_the_sweep_is_the_loop(small: mnist.Dataset) -> None:
    """Every network of a sweep, trained alone by training.train."""
    result = small_sweep(small)

    @jax.jit
    def alone(key: Any, params: Params, rate: Any) -> Any:
        return training.train(
            key,
            params,
            small.train,
            small.valid,
            architecture=NET,
            optimizer=optax.sgd(rate),
            num_epochs=2,
            batch_size=16,
        )

    order_key = jax.random.fold_in(jax.random.key(7), BATCHES)
    for scale in (0.1, 1.0):
        for rate in (0.1, 1.0):
            for seed in range(3):
                params = initial_params(jax.random.key(7), seed, NET, scale=scale)
                final, history = alone(order_key, params, rate)
                cell = result.sel(scale=scale, learning_rate=rate, seed=seed)
                for name, expected in {
                    "train_loss": np.append(np.nan, history.epochs.train_loss),
                    "valid_loss": history.valid.loss,
                    "valid_accuracy": history.valid.accuracy,
                    "gradient_rms": history.signals.gradient_rms,
                    "mean_slope": history.signals.mean_slope,
                    "saturation": history.signals.saturation,
                }.items():
                    np.testing.assert_allclose(
                        cell[name], expected, rtol=1e-3, atol=1e-5, err_msg=name
                    )
                logits = networks.apply(final, small.test.x, architecture=NET)
                np.testing.assert_allclose(
                    cell.test_loss, losses.nll(logits, small.test.y).mean(), rtol=1e-4
                )
                np.testing.assert_allclose(
                    cell.test_accuracy,
                    losses.accuracy(logits, small.test.y),
                    atol=0.005,
                )


def test_labels_and_units(small: mnist.Dataset) -> None:
    result = small_sweep(small)
    assert dict(result.gradient_rms.sizes) == {
        "scale": 2, "learning_rate": 2, "seed": 3, "epoch": 3, "layer": 3
    }  # fmt: skip
    assert result.saturation.sizes["hidden_layer"] == 2
    assert result.scale.values.tolist() == [0.1, 1.0]
    assert all(variable.attrs["long_name"] for variable in result.data_vars.values())
    assert result.valid_loss.attrs["units"] == "nats"
    shares = np.bincount(small.train.y) / 320
    np.testing.assert_allclose(result.label_entropy, -(shares * np.log(shares)).sum())
    valid = np.bincount(small.valid.y) / 320
    plateau = -(valid * np.log(shares)).sum()
    np.testing.assert_allclose(result.plateau_loss, plateau, rtol=1e-6)
    np.testing.assert_allclose(
        result.label_information, plateau - result.valid_loss, atol=1e-6
    )


def test_chunks_change_nothing_but_rounding(small: mnist.Dataset) -> None:
    """12 networks in chunks of 5, two at a time, the last one filled up."""
    finished: list[int] = []
    chunked = small_sweep(small, width=5, report=finished.append)
    assert finished == [10, 10, 2, 2]
    xr.testing.assert_allclose(chunked, small_sweep(small), rtol=1e-3)


def test_a_larger_grid_contains_the_smaller_one(small: mnist.Dataset) -> None:
    """More seeds and scales leave the old networks what they were, bit by bit."""
    old = small_sweep(small, width=4)
    new = small_sweep(small, width=4, scales=[0.3, 1.0, 0.1], num_seeds=5)
    xr.testing.assert_identical(
        new.sel(scale=[0.1, 1.0], seed=range(3)).drop_attrs(), old.drop_attrs()
    )


def test_same_seed_same_bits(small: mnist.Dataset) -> None:
    xr.testing.assert_identical(small_sweep(small), small_sweep(small))


def test_one_compilation_a_shape(small: mnist.Dataset) -> None:
    """A new init scale, learning rate, seed or epoch never traces again."""
    traces = 0

    def counted(params: Params, x: Any, y: Any, *, architecture: Architecture) -> Any:
        nonlocal traces
        traces += 1
        return losses.value_and_grad(params, x, y, architecture=architecture)

    small_sweep(small, value_and_grad=counted, width=4)
    assert traces == 1
    small_sweep(
        small,
        value_and_grad=counted,
        width=4,
        scales=[0.2, 0.7, 3.0],
        learning_rates=[0.03],
        num_seeds=9,
        num_epochs=5,
    )
    assert traces == 1
    small_sweep(small, value_and_grad=counted, width=4, batch_size=8)
    assert traces == 2


def test_gradients_by_hand_in_a_sweep(small: mnist.Dataset) -> None:
    by_hand = small_sweep(small, value_and_grad=backprop.value_and_grad)
    xr.testing.assert_allclose(by_hand, small_sweep(small), rtol=1e-3)


def test_a_diverging_network_harms_no_other(small: mnist.Dataset) -> None:
    """Its numbers are NaN, and its neighbours have the bits they have without it."""
    net = Architecture((784, 6, 5, 10), "identity", biases=False)
    both = small_sweep(small, architecture=net, learning_rates=[0.01, 1e9], width=6)
    well = small_sweep(small, architecture=net, learning_rates=[0.01], width=6)
    assert np.isnan(both.test_accuracy.sel(learning_rate=1e9)).all()
    assert np.isfinite(well.test_accuracy).all()
    xr.testing.assert_identical(
        both.sel(learning_rate=[0.01]).drop_attrs(), well.drop_attrs()
    )


@pytest.mark.parametrize("options", [{"batch_size": 321}, {"initializer": "xavier"}])
def test_impossible_settings(options: dict[str, Any], small: mnist.Dataset) -> None:
    with pytest.raises(ValueError, match="expected"):
        small_sweep(small, **options)


def test_the_assignments_answer(dataset: mnist.Dataset) -> None:
    """Init scale 0.1, rate 0.1: stuck on the plateau. Scale 1, rate 1: it learns.

    On the plateau the loss is H0 and the test accuracy is exactly the share of one
    class, whichever: the network gives every image the same answer.
    """
    result = sweep(
        jax.random.key(0),
        dataset,
        architecture=networks.DEEP,
        scales=[0.1, 1.0],
        learning_rates=[0.1, 1.0],
        num_seeds=2,
        num_epochs=5,
        batch_size=32,
    )
    stuck = result.sel(scale=0.1, learning_rate=0.1)
    shares = np.bincount(dataset.test.y) / len(dataset.test.y)
    for accuracy in stuck.test_accuracy.values:
        assert np.abs(accuracy - shares).min() < 1e-6
    assert (np.abs(stuck.test_loss - result.label_entropy) < 0.03).all()
    assert (np.abs(stuck.label_information.isel(epoch=-1)) < 0.03).all()
    assert (result.sel(scale=1.0, learning_rate=1.0).test_accuracy > 0.8).all()


def test_saved_results_come_back(small: mnist.Dataset, tmp_path: Path) -> None:
    result = small_sweep(small)
    runs.save(tmp_path, result, {"scales": [0.1, 1.0], "out": tmp_path})
    xr.testing.assert_identical(runs.load(tmp_path), result)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "results.nc",
        "settings.json",
    ]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "results.nc").write_text("old")

    def write() -> None:
        with runs.replacing(tmp_path / "results.nc") as file:
            file.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [file.name for file in tmp_path.iterdir()] == ["results.nc"]
    assert (tmp_path / "results.nc").read_text() == "old"


def test_figures_repeat_exactly(small: mnist.Dataset) -> None:
    result = small_sweep(small)
    result["verdict"] = diagnosis.verdicts(result)
    for draw in (
        figures.loss_curves,
        figures.gradient_per_layer,
        figures.accuracy_by_scale,
        figures.verdict_map,
        lambda result: figures.signals_per_layer(result, 0),
    ):
        once, again = figures.to_svg(draw(result)), figures.to_svg(draw(result))
        assert once == again
        assert "<svg" in once
