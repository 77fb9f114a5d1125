"""The answer in words and tables, from the numbers of a sweep alone.

Every function takes the labelled result of ``sweep.sweep`` with the variable
``verdict`` of ``diagnosis.verdicts``, and returns paragraphs or rows of cells.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from snn_jax import diagnosis

# First over last layer's gradient below which "vanishing" is a word for it: scale 1,
# which trains, lies at 0.01.
VANISHING_RATIO = 1e-3
# What a saturated unit is, in ``signals.Signals``.
SATURATED_AT = {
    "sigmoid": "saturated, at 0 or 1,",
    "tanh": "saturated, at -1 or 1,",
    "relu": "off",
}
# Accuracies closer than this are the same number of images, in float32.
SAME_ACCURACY = 1e-6


def number(value: float | xr.DataArray) -> str:
    """A number as one says it: two digits, without a needless exponent.

    >>> [number(value) for value in (0.0000021, 0.0123, 1.0, 2.345, 40.0)]
    ['2.1e-06', '0.012', '1', '2.3', '40']
    """
    return f"{float(value):.2g}"


def listed(values: Sequence[float]) -> str:
    """Several numbers as one says them.

    >>> listed([0.01, 0.1, 1.0])
    '0.01, 0.1 and 1'
    """
    words = [f"{float(value):g}" for value in values]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def percent(fraction: float | xr.DataArray) -> str:
    r"""A fraction in per cent, to a tenth; of a diverged network a dash.

    >>> percent(0.1135), percent(float("nan"))
    ('11.3\xa0%', '-')
    """
    # A space at which no line is broken.
    return f"{100 * float(fraction):.1f}\xa0%" if np.isfinite(fraction) else "-"


def networks(count: int) -> str:
    """How many networks, in grammar.

    >>> networks(1), networks(2)
    ('1 network', '2 networks')
    """
    return f"{count} network{'' if count == 1 else 's'}"


def commonest_verdict(result: xr.Dataset) -> dict[float, str]:
    """For each init scale, the verdict that most of its networks have."""
    return {
        float(scale): diagnosis.NAMES[
            int(np.bincount(result.verdict.sel(scale=scale).values.ravel()).argmax())
        ]
        for scale in result.scale.values
    }


def _median(accuracy: xr.DataArray) -> str:
    return percent(accuracy.median(skipna=True))


class _Groups:
    """The init scales, grouped by the verdict that most of their networks have."""

    def __init__(self, result: xr.Dataset) -> None:
        self.result = result
        self.commonest = commonest_verdict(result)
        self.stuck = self.scales("vanishing", "too early to tell")
        self.learned = self.scales("converged", "learning")
        self.failed = [s for s in self.commonest if s not in self.learned]

    def scales(self, *names: str) -> list[float]:
        return [scale for scale, name in self.commonest.items() if name in names]

    def count(self, scales: list[float], *names: str) -> str:
        """How many networks of these scales have one of these verdicts."""
        cells = self.result.verdict.sel(scale=scales).values
        wanted = [diagnosis.NAMES.index(name) for name in names]
        return f"{int(np.isin(cells, wanted).sum())} of {networks(cells.size)}"


def is_it_converging(result: xr.Dataset) -> list[str]:
    """What became of the networks, a paragraph for each kind of end."""
    epochs = int(result.epoch[-1])
    trained = f"{epochs} epoch{'' if epochs == 1 else 's'}"
    groups = _Groups(result)
    text = []
    if scales := groups.scales("vanishing"):
        horizon = diagnosis.BY_NAME["vanishing"].horizon
        accuracy = result.test_accuracy.sel(scale=scales)
        of_one_digit = abs(accuracy - result.test_class_frequency).min("digit")
        constant = int((of_one_digit < SAME_ACCURACY).sum())
        text.append(
            f"No at init scale {listed(scales)}: {groups.count(scales, 'vanishing')} "
            f"stuck on the class-prior plateau after {trained}, and not to leave it "
            f"within {horizon * epochs}. Their loss is that of one constant "
            f"prediction, how frequent the digits are and nothing about the images; "
            f"the test accuracy of {constant} of the {accuracy.size} is exactly the "
            "share of one digit, their answer to every image."
        )
    if scales := groups.scales("too early to tell"):
        text.append(
            f"Not yet at init scale {listed(scales)}: "
            f"{groups.count(scales, 'too early to tell')} still on the class-prior "
            f"plateau after {trained}, where the loss is that of one constant "
            "prediction; but what tells images apart in their top layer is large "
            "enough, or grows fast enough, that they may leave it within "
            f"{diagnosis.LONGEST_HORIZON * epochs} epochs."
        )
    if scales := groups.learned:
        accuracy = result.test_accuracy.sel(scale=scales)
        medians = accuracy.median("seed", skipna=False).fillna(-1)
        best = medians.isel(medians.argmax(["scale", "learning_rate"]))
        seeds = accuracy.sel(scale=best.scale, learning_rate=best.learning_rate)
        text.append(
            f"Yes at init scale {listed(scales)}: "
            f"{groups.count(scales, 'converged', 'learning')} have learned or are "
            f"learning. The best setting, scale {float(best.scale):g} with learning "
            f"rate {float(best.learning_rate):g}, has a median test accuracy of "
            f"{percent(best)} (from {percent(seeds.min())} to {percent(seeds.max())})."
        )
    if scales := groups.scales("slow"):
        text.append(
            f"Slowly at init scale {listed(scales)}: {groups.count(scales, 'slow')} "
            "have left the plateau without learning much; the median test accuracy is "
            f"{_median(result.test_accuracy.sel(scale=scales))}."
        )
    if scales := groups.scales("saturated"):
        text.append(
            f"Hardly at init scale {listed(scales)}: "
            f"{groups.count(scales, 'saturated')} saturated; the median test accuracy "
            f"is {_median(result.test_accuracy.sel(scale=scales))}."
        )
    diverged = int((result.verdict == diagnosis.NAMES.index("diverged")).sum())
    if diverged:
        text.append(
            f"{diverged} of all {networks(result.verdict.size)} diverged: no finite "
            "loss, or one that is worse than guessing."
        )
    return text


def first_over_last(result: xr.Dataset) -> xr.DataArray:
    """First over last layer's gradient rms before the first step, (scale,)."""
    initial = result.gradient_rms.isel(epoch=0, learning_rate=0)
    ratio: xr.DataArray = (initial.isel(layer=0) / initial.isel(layer=-1)).median(
        "seed"
    )
    return ratio


def why(result: xr.Dataset) -> list[str]:
    """Gradients, differences between images and saturation before the first step."""
    initial = result.isel(epoch=0, learning_rate=0).median("seed")
    ratio = first_over_last(result)
    top, bottom = initial.isel(hidden_layer=-1), initial.isel(hidden_layer=0)
    groups = _Groups(result)
    text = []
    vanishing = [s for s in groups.stuck if ratio.sel(scale=s) < VANISHING_RATIO]
    if vanishing:
        scale = min(vanishing)
        sentence = (
            f"At init scale {scale:g} an image moves the first layer's weights "
            f"{number(ratio.sel(scale=scale))} times as much as the last layer's"
        )
        if "gradient_rms_exact" in result:
            theory = result.gradient_rms_exact.sel(scale=scale)
            predicted = theory.isel(layer=0) / theory.isel(layer=-1)
            sentence += f" (theory: {number(predicted)})"
        if groups.learned:
            good = groups.learned[len(groups.learned) // 2]
            sentence += (
                f"; at scale {good:g} it is {number(ratio.sel(scale=good))} times"
            )
        slope = ", at most 1/4" if result.attrs["activation"] == "sigmoid" else ""
        text.append(
            sentence + ". On its way down, every layer multiplies the error by its "
            f"weights, which are small, and by the slope of its units{slope}. The last "
            "layer alone learns, and all that it can learn is how frequent the digits "
            "are."
        )
        at = {"scale": scale}
        text.append(
            "For on the way up the images have become alike: the activations of the "
            f"last hidden layer differ by {number(top.activation_spread.sel(at))} from "
            "image to image. Nothing is lost, it is only small: a linear probe of that "
            f"layer, in float64, reads {percent(top.probe_accuracy.sel(at))} of the "
            f"digits, and {percent(bottom.probe_accuracy.sel(at))} from the first "
            "hidden layer."
        )
    if set(groups.stuck) - set(vanishing):
        rest = [scale for scale in groups.stuck if scale not in vanishing]
        dead = result.dead.isel(epoch=-1).sel(scale=rest).mean()
        text.append(
            f"At init scale {listed(rest)} the gradient before the first step is not "
            f"small. After training {percent(dead)} of the hidden units are saturated "
            "for every image."
        )
    if saturated := groups.scales("saturated"):
        scale = max(saturated)
        at = {"scale": scale}
        later = result.saturation.sel(at).isel(epoch=-1).mean()
        where = SATURATED_AT.get(result.attrs["activation"], "saturated")
        sentence = (
            f"At init scale {scale:g}, "
            f"{percent(initial.saturation.sel(at).mean())} of the hidden units are "
            f"{where} before the first step and {percent(later)} after the last; "
            "there a small change changes nothing."
        )
        median = initial.gradient_median.sel(at)
        typical = median.isel(layer=0) / median.isel(layer=-1)
        if typical < 0.1 * ratio.sel(scale=scale):
            sentence += (
                f" The rms gradient of the first layer is "
                f"{number(ratio.sel(scale=scale))} times the last's, but a few images "
                f"carry it; for the median image it is {number(typical)} times."
            )
        if initial.sizes["hidden_layer"] > 1:
            sentence += (
                " On the way up, what tells the digits apart is lost: a probe reads "
                f"{percent(bottom.probe_accuracy.sel(at))} from the first hidden layer "
                f"and {percent(top.probe_accuracy.sel(at))} from the last."
            )
        text.append(sentence)
    if diverged := groups.scales("diverged"):
        text.append(
            f"At init scale {listed(diverged)} the steps were too large for the loss: "
            "it is not finite, or far above that of guessing and not falling."
        )
    return text or ["Neither small gradients nor saturation stand in the way here."]


def what_is_wrong(result: xr.Dataset) -> list[str]:
    """The one thing to change first, and how far the answer reaches."""
    groups = _Groups(result)
    if groups.learned and groups.failed:
        accuracy = result.test_accuracy.sel(scale=groups.learned)
        best = float(accuracy.median(["seed", "learning_rate"]).idxmax("scale"))
        nearest = min(groups.failed, key=lambda scale: abs(np.log(scale / best)))
        text = (
            "The init scale: with the same network, data, gradients and learning rates "
            f"it learns at init scale {listed(groups.learned)}. Change one number: use "
            f"{best:g} instead of {nearest:g}."
        )
    elif groups.failed:
        names = dict.fromkeys(groups.commonest.values())
        kinds = [diagnosis.BY_NAME[name] for name in names]
        advice = "; ".join(f"where {kind.name}: {kind.advice}" for kind in kinds)
        text = f"None of these settings trains this network. Try first, {advice}."
    else:
        text = "Nothing that these settings show."
    paragraphs = [text]
    if groups.stuck:
        paragraphs.append(
            f"All this is said after {int(result.epoch[-1])} epochs, and reaches as "
            "far as each verdict says: the plateau is a saddle, and a network may "
            "leave it later."
        )
    return paragraphs


def answer(result: xr.Dataset) -> dict[str, list[str]]:
    """The assignment's three questions, each with its paragraphs."""
    return {
        "Is it converging?": is_it_converging(result),
        "Why?": why(result),
        "What's wrong?": what_is_wrong(result),
    }


def outcome_table(result: xr.Dataset) -> list[list[str]]:
    """A row for each init scale and learning rate; medians over seeds."""
    rows = [
        [
            "scale",
            "rate",
            "loss",
            "information",
            "accuracy",
            "lowest to highest",
            "gradient",
            "verdict",
        ]
    ]
    ratio = first_over_last(result)
    for scale in result.scale.values:
        for rate in result.learning_rate.values:
            cell = result.sel(scale=scale, learning_rate=rate)
            last = cell.isel(epoch=-1).median("seed", skipna=False)
            accuracy = 100 * cell.test_accuracy
            counts = np.bincount(cell.verdict.values, minlength=len(diagnosis.NAMES))
            rows.append(
                [
                    f"{scale:g}",
                    f"{rate:g}",
                    f"{float(last.valid_loss):.3f}",
                    f"{float(last.label_information):z.3f}",
                    f"{float(accuracy.median(skipna=False)):.2f} %".replace(
                        "nan %", "-"
                    ),
                    f"{float(accuracy.min()):.2f} to {float(accuracy.max()):.2f}",
                    number(ratio.sel(scale=scale)),
                    f"{diagnosis.NAMES[int(counts.argmax())]} "
                    f"{counts.max()}/{counts.sum()}",
                ]
            )
    return rows


def confusion_table(counts: xr.DataArray) -> list[list[str]]:
    """Verdicts, how many, and how many of them came true."""
    rows = [["verdict", "networks", "came true", "share"]]
    for name in counts.verdict.values:
        wrong, right = (int(n) for n in counts.sel(verdict=name))
        if wrong + right == 0:
            continue
        claims_nothing = name == "too early to tell"
        rows.append(
            [
                str(name),
                str(wrong + right),
                "-" if claims_nothing else str(right),
                "-" if claims_nothing else percent(right / (wrong + right)),
            ]
        )
    decided = counts.sel(verdict=[n for n in diagnosis.NAMES if n[:3] != "too"])
    right, total = int(decided.sel(came_true=True).sum()), int(decided.sum())
    share = percent(right / total) if total else "-"
    rows.append(["all that claim something", str(total), str(right), share])
    return rows


def outcome_counts(counts: xr.DataArray) -> list[list[str]]:
    """Verdicts against outcomes, a row a verdict that was given."""
    rows = [["verdict", *(str(name) for name in counts.outcome.values)]]
    for name in counts.verdict.values:
        cells = counts.sel(verdict=name).values
        if cells.any():
            rows.append([str(name), *(str(int(n)) for n in cells)])
    return rows


def theory_table(result: xr.Dataset) -> list[list[str]]:
    """Measured over predicted gradient rms, layer by layer, before the first step.

    Needs ``initial_gradient_rms`` and ``initial_gradient_typical``, measured on many
    networks, and the predictions.
    """
    rows = [["scale", "gradient", *(f"layer {i}" for i in result.layer.values)]]
    ratios = {
        "/ exact": ("initial_gradient_rms", "gradient_rms_exact"),
        "/ mean field": ("initial_gradient_rms", "gradient_rms_meanfield"),
        "typical / exact": ("initial_gradient_typical", "gradient_rms_exact"),
    }
    for scale in result.scale.values:
        at = result.sel(scale=scale)
        measured = [f"{float(v):.2e}" for v in at.initial_gradient_rms]
        rows.append([f"{scale:g}", "measured", *measured])
        for name, (above, below) in ratios.items():
            if below in result:
                cells = (f"{float(v):.3f}" for v in at[above] / at[below])
                rows.append(["", name, *cells])
    return rows


def difference_table(result: xr.Dataset) -> list[list[str]]:
    """chi_1, depth scale, and the top layer's differences beside the difference map."""
    rows = [
        [
            "scale",
            "chi_1",
            "depth scale",
            "spread, top layer",
            "predicted",
            "measured / predicted",
        ]
    ]
    for scale in result.scale.values:
        at = result.sel(scale=scale)
        measured = at.initial_spread.isel(hidden_layer=-1)
        predicted = at.spread_meanfield.isel(hidden_layer=-1)
        rows.append(
            [
                f"{scale:g}",
                number(at.chi_1),
                number(at.depth_scale),
                f"{float(measured):.2e}",
                f"{float(predicted):.2e}",
                f"{float(measured / predicted):.2f}",
            ]
        )
    return rows


def drift_table(result: xr.Dataset) -> list[list[str]]:
    """Decay of the top layer's mean activation, measured over predicted."""
    rows = [["scale", "learning rate", "decay an epoch", "predicted", "ratio"]]
    for scale in result.scale.values:
        for rate in result.learning_rate.values:
            at = result.sel(scale=scale, learning_rate=rate)
            if np.isfinite(at.drift_meanfield):
                rows.append(
                    [
                        f"{scale:g}",
                        f"{rate:g}",
                        f"{float(at.drift):.4f}",
                        f"{float(at.drift_meanfield):.4f}",
                        f"{float(at.drift / at.drift_meanfield):.2f}",
                    ]
                )
    return rows
