"""What a student reads of a verdict: the mistake and its evidence, never the answer."""

import numpy as np

from snn_jax.review.evidence import Verdict
from snn_jax.review.mistakes import FITS

# What a student reads, by the mistake; others are said by their name.
SENTENCES = {
    "softmax over the images": "The softmax divides by a sum over the images "
    "instead of the classes: an image's answer depends on its neighbours",
    "softmax over images and classes": "The softmax divides by a sum over all images "
    "and classes",
    "no softmax": "These are scores; the softmax is missing",
    "exp without the division": "The exponentials are not divided by their sum",
    "classes for probabilities": "These are classes; the probabilities are asked for",
    "scores for probabilities": "The error at the top takes the scores where the "
    "probabilities belong",
    "an extra sigmoid slope": "The error at the top is multiplied by a sigmoid's slope "
    "at z2, which softmax and logarithm have taken care of already",
    "a diagonal softmax slope": "The softmax is differentiated as if every class "
    "depended on its own score alone",
    "the slope is missing": "The slope of the hidden units is missing",
    "the slope is taken at a for z": "The sigmoid's slope is taken at a, which has "
    "been through the sigmoid already",
    "weights that are updated already": "The weights above are used after their "
    "update; the error has to go down through the weights of the forward pass",
    "a * a for the slope": "The slope of the hidden units is a * a instead of what a "
    "sigmoid has",
    "1 - a for the slope": "The slope of the hidden units is 1 - a, one factor short",
    "a for the slope": "The slope of the hidden units is a, one factor short",
    "the slope of tanh": "The slope of the hidden units is that of tanh",
    "the slope of ReLU": "The slope of the hidden units is that of ReLU",
    "the slope twice": "The slope of the hidden units is multiplied in twice",
    "the target left out": "The error at the top lacks the target",
    "labels one class too high": "The targets are shifted by a class",
    "labels one class too low": "The targets are shifted by a class",
    "the last image alone": "It is that of the last image alone, not of the batch",
    "summed over the units instead of the images": "It is summed over the units "
    "instead of the images: the wrong axis",
    "summed over everything": "The bias is summed over units and images alike; every "
    "unit has a bias of its own",
    "not summed over the images": "The bias is not summed over the images",
    "summed from dW": "The bias is summed from the weights' gradient, which holds the "
    "inputs",
    "divided by B once too often": "It is divided by the number of images once too "
    "often",
    "not divided by B": "It is not divided by the number of images, as the others are",
    "the step goes uphill": "The step that is taken with it goes uphill, and the loss "
    "grows",
    "the sign": "The sign is the opposite of the others'",
    "no logarithm": "The logarithm is missing",
    "transposed": "Rows and columns are exchanged: it has to be of the shape of its "
    "weights",
    "zero everywhere": "It is zero everywhere; an error p - e sums to 0 over the "
    "classes",
    "no known mistake": "It is wrong, by no mistake that is known here",
}


def message(verdict: Verdict, pred: Verdict) -> str:
    """A sentence on the mistake and one on the evidence; nothing that is the answer."""
    if verdict.status == "not judged":
        return verdict.message
    if verdict.status == "not found":
        return "No function for it was found."
    if verdict.status == "right" and verdict.message:
        return verdict.message
    if verdict.status == "right":
        return _why_right(verdict, pred)
    if verdict.status == "follows":
        what = " and ".join(verdict.mistakes)
        return (
            f"Nothing is wrong here but what comes from {verdict.follows} ({what}): "
            "with that mended, it is right."
        )
    said = [SENTENCES.get(m, f"A known mistake: {m}") for m in verdict.mistakes]
    said = [f"{words}." for words in said]
    if verdict.message:
        said.append(f"Evidence: {verdict.message}.")
    elif verdict.residual <= FITS:
        digits = min(15, int(-np.log10(max(verdict.residual, 1e-15))))
        words = f"A gradient with this mistake has your numbers, to {digits} digits"
        if verdict.function == "Pred":
            words = words.replace("gradient", "prediction")
        if np.isfinite(verdict.runner_up):
            off = f"{100 * verdict.runner_up:.0f}\xa0%"
            words += f"; the next explanation is off by {off}"
        said.append(f"{words}.")
    elif np.isfinite(verdict.residual):
        said.append(f"The nearest formula is off by {verdict.residual:.0%}.")
    return " ".join(said)


def _why_right(verdict: Verdict, pred: Verdict) -> str:
    """What looks unusual and is right."""
    said = []
    sign = verdict.factor.startswith("-")
    size = verdict.factor.lstrip("-")
    if verdict.function == "loss":
        if sign:
            said.append("it is the log-likelihood, which grows as the network learns")
        if size == "B":
            said.append("it is the sum over the images, not the mean")
        elif size == "1/10":
            said.append("it is the mean over images and classes")
    elif verdict.function != "Pred":
        if sign:
            said.append("it is the direction of ascent, which has to be added")
        if size == "B":
            said.append("it is the gradient of the sum over the images")
        elif size == "1/10":
            said.append("it is the gradient of the mean over images and classes")
        elif size not in ("1", ""):
            said.append(
                f"it is so up to the factor {verdict.factor}, which without a loss is "
                "nothing but a learning rate"
            )
        if pred.status == "wrong":
            said.append("it is right given your prediction, which is not")
    return f"Right: {'; '.join(said)}." if said else "Right."
