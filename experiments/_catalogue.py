"""The catalogue of remedies: what is tried, from which initial weights, how fast.

Each remedy is tried from three kinds of initial weights: small ones, from which plain
SGD never leaves the plateau, the usual ones, and ones that saturate the units; a remedy
that is itself a way to draw the weights stands alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Key
from optax import contrib

from snn_jax import initializers as draw
from snn_jax import remedies
from snn_jax.activations import centred_sigmoid, relu, scaled_tanh, tanh
from snn_jax.networks import MLP, Params
from snn_jax.remedies import Init, OptimizerFactory, matched, momentum


def drawn(initializer: draw.Initializer, scale: float = 1.0) -> Init:
    """Initial weights that do not look at images."""

    def init(key: Key[Array, ""], network: MLP, x: Any) -> Params:
        del x
        return replace(network, initializer=initializer).init(key, scale=scale)

    return init


# Where networks start, by what the weights are: so small that gradients vanish; of
# variance 1 / fan-in, as everyone does; so large that units saturate.
STARTS: dict[str, Init] = {
    "small": drawn(draw.normal, 0.1),
    "usual": drawn(draw.lecun),
    "saturated": drawn(draw.normal, 3.0),
}
OWN = "own"

# Learning rates to choose from, by optimizer: half a decade apart.
SGD_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
LARGE_RATES = (3.0, 10.0, 30.0, 100.0, 300.0)
ADAPTIVE_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)


@dataclass(frozen=True)
class Remedy:
    """A change to the network, to its start or to the way it is trained.

    Attributes:
        name: in the league table.
        kind: of change, the heading that it stands under.
        line: what to change, as a line of Python.
        init: initial weights; by default all of ``STARTS`` are tried.
        changes: of the network, by field; "width" sets all hidden layers, "zeta" shapes
            the activation, with slope zeta over all of them.
        optimizer: makes an optax transformation from a learning rate.
        learning_rates: to choose from, as many for all remedies of a league.
        inputs: as for ``remedies.prepared``.
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

    def network(self, base: MLP) -> MLP:
        """The network it makes of another."""
        changes = dict(self.changes)
        if "width" in changes:
            hidden = (changes.pop("width"),) * (base.num_layers - 1)
            changes["sizes"] = (base.sizes[0], *hidden, base.sizes[-1])
        if "zeta" in changes:
            slope = changes.pop("zeta") ** (1 / (base.num_layers - 1))
            changes["activation"] = remedies.shaped(base.activation, slope)
        return replace(base, **changes)


INIT = "initial weights"


def _weights(name: str, initializer: draw.Initializer, scale: float = 1.0) -> Remedy:
    line = f"MLP(.., initializer={initializer.__name__}).init(.., scale={scale})"
    return Remedy(name, INIT, line, drawn(initializer, scale))


def _network(name: str, kind: str, **changes: Any) -> Remedy:
    values = {n: getattr(v, "__name__", repr(v)) for n, v in changes.items()}
    line = ", ".join(f"{field}={value}" for field, value in values.items())
    return Remedy(name, kind, f"MLP(.., {line})", changes=changes)


def _step(
    name: str, optimizer: OptimizerFactory, rates: tuple[float, ...], line: str
) -> Remedy:
    return Remedy(name, "step", line, optimizer=optimizer, learning_rates=rates)


def _pixels(inputs: str) -> Remedy:
    line = f'remedies.prepared(.., "{inputs}")'
    return Remedy(f"{inputs} pixels", "procedure", line, inputs=inputs)


SINGLE: tuple[Remedy, ...] = (
    Remedy("none", "nothing", "optax.sgd(...)"),
    _weights("init scale 1", draw.normal),
    _weights("LeCun x 4", draw.lecun, 4.0),
    _weights("Glorot", draw.glorot),
    _weights("Glorot x 4", draw.glorot, 4.0),
    _weights("orthogonal", draw.orthogonal),
    _weights("orthogonal x 4", draw.orthogonal, 4.0),
    _weights("centred orthogonal x 4", draw.centred_orthogonal, 4.0),
    Remedy("LSUV", INIT, "remedies.lsuv(...)", remedies.lsuv),
    Remedy("first layer at q*", INIT, "remedies.matched(4.0)(...)", matched(4.0)),
    Remedy("criticality", INIT, "remedies.critical(...)", remedies.critical),
    # Kumar 2017, "On weight initialization in deep neural networks": standard deviation
    # 3.6 / sqrt(fan_in). Near 0 a sigmoid keeps a variance of 1 if fan_in Var W s'(0)^2
    # (1 + s(0)^2) = 1, which is 3.58.
    _weights("Kumar", draw.lecun, 3.6),
    Remedy("AutoInit", INIT, "remedies.autoinit(...)", remedies.autoinit),
    _weights("negative mean", draw.negative_mean),
    _network("tanh", "units", activation=tanh),
    _network("sigmoid less 1/2", "units", activation=centred_sigmoid),
    _network("LeCun's tanh", "units", activation=scaled_tanh),
    replace(
        _network("ReLU and He", "units", activation=relu, initializer=draw.he),
        init=drawn(draw.he),
    ),
    Remedy(
        "kernel shaping", "units",
        "remedies.shaped(sigmoid, 1.5 ** (1 / depth)), remedies.unit_q(...)",
        remedies.unit_q, {"zeta": 1.5}, learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
    ),
    _step("rates from 3 up", optax.sgd, LARGE_RATES, "optax.sgd(30.0)"),
    _step("momentum", momentum, (0.003, 0.01, 0.03, 0.1, 0.3), "remedies.momentum"),
    _step("Adam", optax.adam, ADAPTIVE_RATES, "optax.adam"),
    _step(
        "normalized gradient", remedies.normalized_gradient, ADAPTIVE_RATES,
        "remedies.normalized_gradient",
    ),
    _step("LARS", optax.lars, (0.3, 1.0, 3.0, 10.0, 30.0), "optax.lars"),
    _step("Muon", contrib.muon, (0.001, 0.003, 0.01, 0.03, 0.1), "optax.contrib.muon"),
    Remedy(
        "zero row sums kept", "step",
        "initializer=zero_row_sums, scale=4.0, remedies.linearly_constrained",
        drawn(draw.zero_row_sums, 4.0), optimizer=remedies.linearly_constrained,
    ),
    _network("biases", "layers", biases=True),
    _network("batch norm", "layers", biases=True, normalization="batch"),
    _network("layer norm", "layers", biases=True, normalization="layer"),
    _network("residual", "layers", residual=True),
    Remedy("wide layers", "layers", "MLP((784, 100, .., 10))", None, {"width": 100}),
    _pixels("centred"),
    _pixels("standardized"),
    Remedy(
        "layer by layer", "procedure", "sweep(.., initial=the shallower network's)",
        layerwise=True,
    ),
)  # fmt: skip

# In all of these the learning rate falls to 0 on a straight line.
_CENTRED = drawn(draw.centred_orthogonal, 4.0)
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
        drawn(draw.lecun), {"activation": scaled_tanh, "biases": True},
        inputs="standardized", decay=True, learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3),
    ),
    Remedy(
        "tanh, Adam", CHANGED, "tanh, biases, orthogonal weights, Adam",
        drawn(draw.orthogonal), {"activation": tanh, "biases": True},
        optimizer=optax.adam, decay=True,
        learning_rates=(0.0005, 0.001, 0.002, 0.004, 0.008),
    ),
    Remedy(
        "tanh, layer norm, residual, Adam", CHANGED,
        "tanh, layer norm, residual, biases, orthogonal weights, Adam",
        drawn(draw.orthogonal),
        {
            "activation": tanh, "biases": True,
            "normalization": "layer", "residual": True,
        },
        optimizer=optax.adam, decay=True,
        learning_rates=(0.001, 0.002, 0.004, 0.008, 0.016),
    ),
)  # fmt: skip


class Cell(NamedTuple):
    """A remedy from one kind of initial weights: a row of the league table."""

    remedy: Remedy
    start: str


def cells(tried: Sequence[Remedy]) -> list[Cell]:
    """All of them, in order."""
    return [Cell(remedy, start) for remedy in tried for start in remedy.starts]


def groups(tried: Sequence[Remedy]) -> list[list[Cell]]:
    """Cells that differ in nothing but their initial weights, so can run together."""
    found: dict[str, list[Cell]] = {}
    for cell in cells(tried):
        remedy = replace(cell.remedy, name="", kind="", line="", init=None)
        found.setdefault(repr(remedy), []).append(cell)
    return list(found.values())
