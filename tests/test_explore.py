"""The explorable page: what is in it, and its own code in a real browser."""

import base64
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import explore
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snn_jax import (
    activations,
    backprop,
    diagnosis,
    figures,
    initializers,
    meanfield,
    plateau,
    signals,
)
from snn_jax import training as train
from snn_jax.datasets import Dataset
from snn_jax.forecast import Forecast
from snn_jax.networks import MLP

SIDE = 8
# A map that says where it is: every place has a verdict and an accuracy of its own.
MAP: dict[str, Any] = {
    "side": SIDE,
    "verdicts": base64.b64encode(
        gzip.compress(bytes((row + i) % 9 for row in range(SIDE) for i in range(SIDE)))
    ).decode(),
    "accuracy": base64.b64encode(gzip.compress(bytes(range(SIDE**2)))).decode(),
    "names": list(diagnosis.NAMES),
    "ends": {"scale": (0.01, 10.0), "learning_rate": (0.01, 10.0)},
    "lines": [{"steps": 1e4, "points": [[0.1, 0.5], [0.5, 0.2]]}],
    "settings": {"batch": 8, "seed": 0, "depth": 5},
    "epochs": 2,
    "steps": 750,
}


@pytest.fixture(scope="module")
def digits(dataset: Dataset) -> Iterator[Dataset]:
    """As the page has them, but fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "NUM_TRAINING", 600)
        patch.setattr(explore, "NUM_TEST", 200)
        yield explore.shown_digits(dataset)


@pytest.fixture(scope="module")
def address(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the page."""
    path: Path = tmp_path_factory.mktemp("explore") / "explore.html"
    path.write_text(explore.render(digits, MAP, "MNIST"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(
    request: pytest.FixtureRequest, open_page: Callable[..., Any], address: str
) -> Any:
    """The page at a width, 1280 by default, its first frame drawn."""
    opened = open_page(address, getattr(request, "param", 1280))
    opened.wait_for_selector("#ladder svg")
    return opened


def in_worker(page: Any, code: str, argument: Any = None) -> Any:
    """What the page's own code says, where it trains."""
    return page.workers[0].evaluate(code, argument)


TRAIN = """({ settings, steps }) => {
  running = false;
  const { depth, activation, initializer, scale, rate, batch, seed } = settings;
  const sizes = [784, ...new Array(depth).fill(10), 10];
  const network = { sizes, activation };
  network.W = initialWeights({ sizes, initializer, scale, seed });
  const rows = () => network.W.map((W, l) =>
    Array.from(l ? W : transpose(W, 784, sizes[1])));
  const first = rows(), losses = [], room = roomFor(sizes, batch);
  const n = training.label.length, perEpoch = Math.floor(n / batch);
  let order;
  for (let step = 0; step < steps; step++) {
    const at = step % perEpoch;
    if (at === 0) order = permutation(batchesKey(step / perEpoch + 1), n);
    losses.push(trainOn(network, training, order, at * batch, batch, room, rate));
  }
  return { first, losses, last: rows(), measured: measure(network, training,
    roomFor(sizes, n)) };
}"""

# Rates at which training is no chaos, which would blow up the last digit of anything.
CASES = [
    ("sigmoid", "normal", 5, 1.0, 0.3),
    ("centred_sigmoid", "centred_orthogonal", 20, 2.0, 0.05),
    ("tanh", "glorot", 1, 1.0, 0.05),
    ("relu", "orthogonal", 5, 1.4, 0.03),
]
ALL_CASES = [
    (activation, "orthogonal", depth, scale, 0.03)
    for activation, scale in (
        *(("sigmoid", 4.0), ("centred_sigmoid", 2.0), ("tanh", 1.0), ("relu", 1.4)),
    )
    for depth in (1, 5, 20)
]


@pytest.mark.parametrize(
    "case", CASES + [pytest.param(case, marks=pytest.mark.full) for case in ALL_CASES]
)
def test_trains_as_the_package_does(page: Any, digits: Dataset, case: Any) -> None:
    """1,000 steps in float64: the same weights, batches and equations."""
    name, initializer, depth, scale, rate = case
    settings = {
        **{"activation": name, "initializer": initializer, "depth": depth},
        **{"scale": scale, "rate": rate, "batch": 16, "seed": 7},
    }
    steps, n = 1000, len(digits.train.y)
    found = in_worker(page, TRAIN, {"settings": settings, "steps": steps})
    f, draw = getattr(activations, name), getattr(initializers, initializer)
    network = MLP((784, *(10,) * depth, 10), f, False, draw)
    drawn = network.init(train.weights_key(jax.random.key(0), 7), scale=scale)
    value_and_grad = backprop.value_and_grad(network)
    orders = [
        train.batch_order(train.batches_key(jax.random.key(0), epoch), n, 16)
        for epoch in range(1, 2 + steps // (n // 16))
    ]
    with jax.enable_x64(True):
        x = jnp.asarray(np.round(digits.train.x * 255).astype(float) / 255)
        y = jnp.asarray(digits.train.y)

        def step(params: Any, batch: Any) -> Any:
            loss, grads = value_and_grad(params, x[batch], y[batch])
            return jax.tree.map(lambda W, dW: W - rate * dW, params, grads), loss

        params = {
            name: jnp.asarray(W, jnp.float64).reshape(leaf.shape)
            for (name, leaf), W in zip(drawn.items(), found["first"], strict=True)
        }
        for name, W in drawn.items():  # float32, by other ways to round
            np.testing.assert_allclose(params[name], W, rtol=0, atol=3e-6 * scale)
        batches = jnp.concatenate(orders)[:steps]
        params, losses = jax.jit(lambda p: jax.lax.scan(step, p, batches))(params)
        # It has learned, so that all layers have moved.
        assert losses[-50:].mean() < 0.9 * losses[:50].mean()
        np.testing.assert_allclose(found["losses"], losses, rtol=0, atol=1e-9)
        inputs, z = network.forward(params, x)
        least = signals.SATURATED_DERIVATIVE * activations.steepest(f)
        measured = {
            "spread": [a.var(axis=1).mean() ** 0.5 for a in inputs[1:]],
            "saturation": [(activations.slope(f, s) < least).mean() for s in z[:-1]],
            "gradient": signals.gradient_rms(network, params, x, y),
        }
        for name, values in measured.items():
            seen = found["measured"][name]
            np.testing.assert_allclose(
                seen, np.asarray(values), rtol=1e-6, err_msg=name
            )
        for name, last in zip(drawn, found["last"], strict=True):
            np.testing.assert_allclose(np.ravel(params[name]), last, rtol=0, atol=1e-9)


def test_draws_as_the_package_does(page: Any) -> None:
    """Orders of many digits, and weights of every kind, at the ends of the seeds."""
    for n, epoch in ((5000, 1), (3000, 7)):
        found = in_worker(
            page,
            "([n, epoch]) => Array.from(permutation(batchesKey(epoch), n))",
            [n, epoch],
        )
        key = train.batches_key(jax.random.key(0), epoch)
        np.testing.assert_array_equal(found, train.batch_order(key, n, n)[0])
    for name in ("normal", "lecun", "glorot", "orthogonal", "centred_orthogonal"):
        draw = getattr(initializers, name)
        network = MLP((784, 10, 10), biases=False, initializer=draw)
        for seed in (0, 2**32 - 1):
            found = in_worker(
                page,
                """(settings) => initialWeights(settings).map((W, l) =>
                  Array.from(l ? W : transpose(W, 784, 10)))""",
                {
                    **{"sizes": [784, 10, 10], "initializer": name},
                    **{"scale": 2, "seed": seed},
                },
            )
            key = train.weights_key(jax.random.key(0), np.uint32(seed))
            drawn = network.init(key, scale=2.0)
            for W, leaf in zip(found, drawn.values(), strict=True):
                np.testing.assert_allclose(W, np.ravel(leaf), rtol=0, atol=5e-6)


def test_pictures_show_the_numbers(page: Any) -> None:
    """Heights of curves and lengths of bars, of the assignment's network."""
    page.click("#run")
    page.wait_for_function("!latest.running")
    page.click("#reset")
    page.wait_for_function("latest.step === 0")
    page.click("#epoch")
    page.wait_for_function("latest.looks.loss.length === 2 && drawn")
    first = """(view) => document.querySelector(`#${view} .tested`)
      .getAttribute('d').slice(1).split(/[ L]/)[1]"""
    for view, shown, most in (
        ("loss", "latest.looks.loss[0]", 3),
        ("accuracy", "100 * latest.looks.accuracy[0]", 100),
    ):
        expected = 210 - 34 - (210 - 14 - 34) * page.evaluate(shown) / most
        found = float(page.evaluate(first, view))
        assert found == pytest.approx(expected, abs=0.1)
    bars = """([style]) => {
      const widths = Array.from(document.querySelectorAll(`#ladder .${style}`),
        (bar) => Number(bar.getAttribute('width'))).reverse();
      return [widths, latest.watched[style].map((layer) => layer[0])];
    }"""
    for style, sign in (("ink", -1), ("error", 1)):
        widths, values = page.evaluate(bars, [style])
        # A decade is as long everywhere, and 1e-11 has no length.
        slope = np.asarray(widths) / (np.log10(values) + 11)
        np.testing.assert_allclose(slope, slope[0], rtol=0.01)
        # Signals shrink on the way up, errors on the way down.
        assert (sign * np.diff(widths) > 0).all()


def test_foresees_what_the_package_foresees(page: Any, digits: Dataset) -> None:
    """Leaving times, and gradients before the first step, from the same weights."""
    clouds = plateau.statistics(*digits.train)
    for depth, scale, rate, batch in (
        *((5, 0.1, 1.0, 32), (4, 0.03, 0.3, 8), (8, 0.3, 1.0, 128)),
        *((5, 10.0, 0.3, 32), (1, 0.1, 0.3, 32), (3, 0.1, 30.0, 1)),
    ):
        found = in_worker(
            page,
            """(settings) => {
              start(settings);
              const { W } = run.network;
              return { leaves: run.forecast.leaves, expected: run.expected,
                W: W.map((w, l) => Array.from(l ? w : transpose(w, 784, 10))) };
            }""",
            {
                **{"depth": depth, "scale": scale, "rate": rate, "batch": batch},
                **{"activation": "sigmoid", "initializer": "normal", "seed": 1},
            },
        )
        network = MLP((784, *(10,) * depth, 10), biases=False)
        many = {
            f"W{layer + 1}": np.reshape(W, (1, 10, -1))
            for layer, W in enumerate(found["W"])
        }
        if plateau.covers(network):
            expected = plateau.leaving_steps(
                many, clouds, learning_rate=rate, batch_size=batch, steps=1e8
            )[0]
            leaves = np.nan if found["leaves"] is None else float(found["leaves"])
            np.testing.assert_allclose(leaves, expected, rtol=1e-5)
        else:
            assert found["leaves"] is None or np.isnan(found["leaves"])
        squares = (np.asarray(digits.train.x[:20], float) ** 2).sum(axis=1)
        wide = meanfield.gradient_rms(network, scale, squares)
        np.testing.assert_allclose(found["expected"], wide, rtol=0.03)


@pytest.mark.parametrize(
    ("initializer", "scale"),
    [("orthogonal", 4), ("centred_orthogonal", 4), ("lecun", 1)],
)
def test_mean_field_holds_for_other_weights(
    page: Any, initializer: str, scale: float
) -> None:
    """For weights that are no independent normals too: gradients of 100 networks."""
    seen, expected = in_worker(
        page,
        """({ initializer, scale }) => {
          const settings = { depth: 5, activation: "sigmoid", initializer, scale,
            rate: 0.1, batch: 32, seed: 0 };
          const squares = new Array(6).fill(0);
          for (let seed = 0; seed < 100; seed++) {
            const network = { ...run.network, sizes: [784, 10, 10, 10, 10, 10, 10],
              activation: "sigmoid" };
            network.W = initialWeights({ ...settings, sizes: network.sizes, seed });
            const room = roomFor(network.sizes, 20);
            measure(network, training, room).gradient.forEach((g, l) => {
              squares[l] += g * g / 100;
            });
          }
          start(settings);
          return [squares.map(Math.sqrt), run.expected];
        }""",
        {"initializer": initializer, "scale": scale},
    )
    np.testing.assert_allclose(seen, expected, rtol=0.12)


def test_judges_as_the_package_does(page: Any) -> None:
    """The same verdict on 400 random runs of all kinds."""
    rng = np.random.default_rng(0)
    H0, runs = 2.3, []
    for _ in range(400):
        looks = int(rng.integers(2, 12))
        curve = np.cumsum(
            rng.normal(rng.choice([0, 0.1]), rng.choice([1e-3, 0.2]), looks)
        )
        information = H0 * np.clip(curve + rng.choice([0, 0, 0.5, -0.4]), -20, 1)
        if rng.random() < 0.05:
            information[-1] = np.nan
        spread = 10.0 ** rng.uniform(-9, -3) * np.exp(
            np.cumsum(rng.normal(0.3, 0.5, looks))
        )
        leaves = float(rng.choice([np.nan, 3.0, 15.0, 200.0, np.inf]))
        runs.append(
            {
                "information": information,
                "spread": spread,
                "saturation": rng.choice([0.0, 0.9]) * np.ones(looks),
                "training": np.clip(information + rng.choice([0, 0.5]), None, H0),
                "forecast": [leaves, 0.9 * leaves, 1.1 * leaves],
            }
        )
    found = in_worker(
        page,
        """(runs) => runs.map((r) => {
          const [look, earliest, latest] = r.forecast;
          const forecast = Number.isNaN(look) ? null : { look, earliest, latest };
          return diagnose({ ...r, entropy: 2.3, forecast }).name;
        })""",
        [{k: np.asarray(v).tolist() for k, v in r.items()} for r in runs],
    )
    expected = [
        diagnosis.diagnose(
            *(r[name] for name in ("information", "spread", "saturation")),
            label_entropy=H0,
            training=r["training"],
            forecast=None if np.isnan(r["forecast"][0]) else Forecast(*r["forecast"]),
        ).kind.name
        for r in runs
    ]
    assert found == expected
    assert set(expected) == set(diagnosis.NAMES)


def address_of(page: Any) -> dict[str, str]:
    """The settings in the page's address."""
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries(new URLSearchParams(location.hash.slice(1)))"
    )
    return found


def trained(page: Any, **wanted: Any) -> None:
    """Waits until the worker trains with these settings."""
    page.wait_for_function(
        "(wanted) => latest && Object.entries(wanted).every(([name, value]) =>"
        " latest.settings[name] === value)",
        arg=wanted,
    )


@pytest.mark.parametrize("page", [390, 1280], indirect=True)
def test_every_control_does_what_it_says(page: Any) -> None:
    """From the controls to the address, the worker and the pictures."""
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    is_open = page.get_attribute("#settings", "open") is not None
    assert is_open is (page.viewport_size["width"] > 700)
    if not is_open:
        page.click("summary")
    # It runs by itself, and can be stopped and gone on with, step by step.
    page.wait_for_function("latest.step > 50 && latest.running")
    page.click("#run")
    page.wait_for_function("!latest.running")
    before = page.evaluate("latest.step")
    page.click("#step")
    page.wait_for_function(f"latest.step === {before + 1}")
    page.click("#reset")
    page.wait_for_function("latest.step === 0")
    # Each setting by itself.
    for name, value in {"activation": "tanh", "batch": "8"}.items():
        page.select_option(f"#{name}", value)
        trained(page, **{name: int(value) if value.isdecimal() else value})
        assert address_of(page)[name] == value
    for name, value in {"scale": "0.7", "rate": "0.05", "seed": "12"}.items():
        page.fill(f"#{name}", value)
        page.press(f"#{name}", "Enter")
        trained(page, **{name: float(value)})
        assert address_of(page)[name] == value
    page.focus("#depth")
    page.press("#depth", "End")
    trained(page, depth=20)
    page.wait_for_selector("#gradient text:has-text('layer 20')")
    page.focus("#scale-slider")
    page.press("#scale-slider", "Home")
    trained(page, scale=0.001)
    # Each initializer brings the scale that goes with it.
    page.select_option("#initializer", "centred_orthogonal")
    trained(page, initializer="centred_orthogonal", scale=4)
    # What is no setting leaves everything as it was.
    page.fill("#scale", "-3; alert(1)")
    page.press("#scale", "Tab")
    assert page.input_value("#scale") == "4"
    assert "expected a number from 0.001 to 100" in page.text_content("#refused")
    page.check("#fresh")
    page.click("#reset")
    page.wait_for_function("latest.settings.seed !== 12")
    assert page.evaluate("latest.running") is False
    page.click("#epoch")
    page.wait_for_function("latest.step === latest.stepsPerEpoch")
    # A digit, by the mouse and from there by the keyboard.
    page.click("#digits button:nth-child(7)")
    page.press("#digits button:nth-child(7)", "ArrowRight")
    page.wait_for_function(
        "document.querySelector('#ladder').ariaLabel.includes('igit 7')"
    )
    assert page.evaluate(overflow) <= 0


@pytest.mark.parametrize("page", [390, 1280], indirect=True)
def test_named_settings_and_the_map_set_the_controls(page: Any) -> None:
    """Links, places of the map, arrow keys and addresses end in the same settings."""
    named: dict[str, dict[str, float]] = {
        "One number changed": {"scale": 1, "rate": 0.3, "depth": 5},
        "Saturated": {"scale": 10, "rate": 0.3, "depth": 5},
        "Twenty layers, cured": {"scale": 4, "depth": 20},
        "The assignment": {"scale": 0.1, "rate": 0.3, "depth": 5},
    }
    for name, wanted in named.items():
        page.click(f"#named a:has-text('{name}')")
        trained(page, **wanted)
        assert page.text_content("#named a[aria-current]") == name
        assert "Settings of your own" not in page.text_content("#note")
    # A place of the map is a network: column 5, row 6 from below.
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    x, y = (5.5 / SIDE) * box["width"], (1 - 6.5 / SIDE) * box["height"]
    page.locator("#map").click(position={"x": x, "y": y})
    place = [10 ** (-2 + 3 * (n + 0.5) / SIDE) for n in (5, 6)]
    page.wait_for_function(f"Math.abs(latest.settings.scale - {place[0]}) < 1e-3")
    assert page.evaluate("latest.settings.rate") == pytest.approx(place[1], rel=1e-3)
    words = page.text_content("#map-words")
    assert words.endswith(f"{diagnosis.NAMES[2]}, 26.5 % right after 750 steps")
    page.focus("#map")
    page.press("#map", "ArrowLeft")
    page.wait_for_function(f"latest.settings.scale < {place[0] / 2}")
    assert diagnosis.NAMES[1] in page.text_content("#map-words")
    assert page.evaluate("byId('map-legend').children.length") == 9
    # A row of pixels is a learning rate, the largest on top.
    pixel = page.evaluate(
        "Array.from(byId('map-picture').getContext('2d').getImageData(5, 1, 1, 1).data)"
    )
    color = figures.VERDICT_COLORS[diagnosis.NAMES[2]]
    assert "#" + bytes(pixel[:3]).hex() == color
    # Back leads to what was set before the map, and on again.
    page.go_back()
    trained(page, scale=0.1, batch=32)
    page.go_forward()
    page.wait_for_function(f"Math.abs(latest.settings.rate - {place[1]}) < 1e-2")
    # The address holds it all: opened again, the same network.
    settings = page.evaluate("latest.settings")
    page.reload()
    page.wait_for_selector("#ladder svg")
    assert page.evaluate("latest.settings") == settings


def test_hostile_addresses_are_ignored(page: Any, address: str) -> None:
    """What is no setting is as in the assignment, one by one."""
    assignment = page.evaluate("fromAddress('')")
    hostile = {
        **{"scale": "<img src=x onerror=alert(1)>", "rate": "1e999", "batch": "31"},
        **{"depth": "2.5", "activation": "constructor", "initializer": "__proto__"},
        "seed": "-1",
    }
    for name, value in hostile.items():
        found = page.evaluate(
            "([name, value]) => fromAddress(new URLSearchParams({ [name]: value,"
            " nonsense: 1 }).toString())",
            [name, value],
        )
        assert found == assignment, name
    for value in (
        "",
        "NaN",
        "Infinity",
        "0x10",
        "1e-400",
        "0",
        "101",
        ".",
        "9" * 400,
    ):
        assert page.evaluate("(value) => parsed('scale', value) ?? null", value) is None
    accepted = page.evaluate("['1e-2', '0,5', '.5'].map((x) => parsed('scale', x))")
    assert accepted == [0.01, 0.5, 0.5]
    page.goto(f"{address}#scale=0.5&depth=999999&seed=5#<script>&activation=tanh%00")
    page.reload()
    page.wait_for_selector("#ladder svg")
    wanted = assignment | {"scale": 0.5}
    assert page.evaluate("latest.settings") == wanted


def test_leaves_the_plateau_when_predicted(page: Any) -> None:
    """As theory says; and a network that is no number any more is said to be so."""
    page.goto(page.url.split("#")[0] + "#scale=0.3&rate=1&depth=4&seed=3")
    page.wait_for_function(
        "latest.settings.depth === 4 && latest.left > 0", timeout=60e3
    )
    left, leaves = page.evaluate("[latest.left, latest.leaves]")
    assert 1 / 1.25 < left / leaves < 1.25
    assert "predicted" in page.text_content("#forecast")
    in_worker(page, "() => run.network.W[0].fill(NaN)")
    page.wait_for_function("latest.ended")
    page.wait_for_function("byId('verdict-name').textContent === 'diverged'")
    assert page.is_disabled("#run")


def test_motion_and_darkness_are_as_the_reader_wants(
    open_page: Callable[..., Any], address: str
) -> None:
    """Nothing moves by itself where motion is not wanted; dark where dark is."""
    page = open_page(address, color_scheme="dark", reduced_motion="reduce")
    page.wait_for_selector("#ladder svg")
    page.wait_for_timeout(300)
    assert page.evaluate("[latest.step, latest.running]") == [0, False]
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(22, 22, 24)"
    page.click("#run")
    page.wait_for_function("latest.step > 20")


@pytest.mark.full
def test_memory_does_not_grow(page: Any) -> None:
    """Over a minute of training and drawing, once everything has been set up."""

    def kilobytes() -> int:
        mine, found = os.getpid(), 0
        children: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            fields = path.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
        todo = [mine]
        while todo:
            for child in children.get(todo.pop(), []):
                todo.append(child)
                status = Path(f"/proc/{child}/status").read_text()
                resident = re.search(r"VmRSS:\s+(\d+)", status)
                found += int(resident[1]) if resident else 0
        return found

    page.wait_for_timeout(20_000)
    before = kilobytes()
    page.wait_for_timeout(60_000)
    assert kilobytes() < 1.1 * before


@pytest.mark.full
def test_nine_of_ten_seeds_leave_when_predicted(
    open_page: Callable[..., Any], tmp_path: Path, dataset: Dataset
) -> None:
    """At init scale 0.1 and rate 1, on the page as it is written."""
    path = tmp_path / "explore.html"
    data = explore.shown_digits(dataset)
    path.write_text(explore.render(data, None, "MNIST"), encoding="utf-8")
    page = open_page(path.as_uri())
    right = 0
    for seed in range(10):
        page.goto(f"{path.as_uri()}#scale=0.1&rate=1&seed={seed}")
        page.reload()
        page.wait_for_function("latest && latest.left > 0", timeout=120e3)
        left, leaves = page.evaluate("[latest.left, latest.leaves]")
        right += 1 / 1.25 < left / leaves < 1.25
    assert right >= 9


def test_holds_everything_and_nothing_that_breaks_out(digits: Dataset) -> None:
    """The digits to the last pixel, no address, no text that ends a script."""
    page = explore.render(digits, MAP, "read </script><b> of 5 & more")
    assert "</script><b>" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    packed = re.search(r'id="packed">([^<]*)<', page)
    assert packed is not None
    whole = np.frombuffer(gzip.decompress(base64.b64decode(packed[1])), np.uint8)
    n, more = len(digits.train.y), len(digits.test.y)
    pixels = whole[: (n + more) * 784].reshape(-1, 784)
    np.testing.assert_array_equal(pixels[:n], np.round(digits.train.x * 255))
    labels = whole[(n + more) * 784 : (n + more) * 785]
    np.testing.assert_array_equal(labels[n:], digits.test.y)
    cloud = plateau.statistics(*digits.train).cloud
    np.testing.assert_array_equal(whole[(n + more) * 785 :], cloud)
    hostile = explore.render(digits, MAP | {"names": ["</script>"]}, "")
    assert hostile.count("</script>") == page.count("</script>")
    assert json.dumps(MAP["verdicts"]) in page
