"""Solutions of the assignment as people write them, in many layouts and forms.

``solution`` writes the source of one; a mistake is a line put in another's place, as
``MISTAKES`` has them.
"""

from typing import NamedTuple

# How a layout says each step.
LINES: dict[tuple[str, str], dict[str, str]] = {
    ("rows", "in_out"): {
        "z1": "x @ W1 + b1", "z2": "a1 @ W2 + b2", "dW2": "a1.T @ d2",
        "down": "d2 @ W2.T", "dW1": "x.T @ d1", "axis": "0", "classes": "1",
        "n": "len(x)",
    },
    ("rows", "out_in"): {
        "z1": "x @ W1.T + b1", "z2": "a1 @ W2.T + b2", "dW2": "d2.T @ a1",
        "down": "d2 @ W2", "dW1": "d1.T @ x", "axis": "0", "classes": "1",
        "n": "x.shape[0]",
    },
    ("columns", "out_in"): {
        "z1": "W1 @ x + b1", "z2": "W2 @ a1 + b2", "dW2": "d2 @ a1.T",
        "down": "W2.T @ d2", "dW1": "d1 @ x.T", "axis": "1", "classes": "0",
        "n": "x.shape[1]",
    },
    ("columns", "in_out"): {
        "z1": "W1.T @ x + b1", "z2": "W2.T @ a1 + b2", "dW2": "a1 @ d2.T",
        "down": "W2 @ d2", "dW1": "x @ d1.T", "axis": "1", "classes": "0",
        "n": "x.shape[1]",
    },
    ("vector", "out_in"): {
        "z1": "np.dot(W1, x) + b1", "z2": "np.dot(W2, a1) + b2",
        "dW2": "np.outer(d2, a1)", "down": "np.dot(W2.T, d2)",
        "dW1": "np.outer(d1, x)", "axis": "", "classes": "0", "n": "1",
    },
    ("vector", "in_out"): {
        "z1": "x.dot(W1) + b1", "z2": "a1.dot(W2) + b2", "dW2": "np.outer(a1, d2)",
        "down": "W2.dot(d2)", "dW1": "np.outer(x, d1)", "axis": "", "classes": "0",
        "n": "1",
    },
}  # fmt: skip
LAYOUTS = tuple(LINES)
FORMS = (
    *(
        "six functions",
        "intermediates",
        "tuple",
        "dictionary",
        "flat",
        "loss and grads",
    ),
    *("step", "object", "globals", "updated", "pairs"),
)
HELPERS = """
def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis={classes}, keepdims=True))
    return e / e.sum(axis={classes}, keepdims=True)
"""


class Style(NamedTuple):
    """How a solution is written."""

    layout: tuple[str, str] = ("rows", "in_out")
    form: str = "six functions"
    labels: str = "onehot"
    mean: bool = True
    bias: str = "n"


def steps(style: Style, wrong: dict[str, str]) -> dict[str, str]:
    """Every step's expression; those that are wrong in the place of the right ones."""
    of = LINES[style.layout]
    keep = "" if style.bias == "n" else ", keepdims=True"
    total = (lambda d: d) if not of["axis"] else (
        lambda d: f"{d}.sum(axis={of['axis']}{keep})"
    )  # fmt: skip
    batch = style.layout[0] != "vector"
    over = " / n" if style.mean and batch else ""
    target = "y"
    if style.labels == "int":
        K = f"p.shape[{of['classes']}]" if batch else "len(p)"
        target = f"np.eye({K})[y]" + (".T" if style.layout[0] == "columns" else "")
    right = {
        "n": of["n"], "z1": of["z1"], "a1": "sigmoid(z1)", "z2": of["z2"],
        "p": "softmax(z2)", "t": target, "d2": f"(p - t){over}",
        "loss": f"-(t * np.log(p)).sum(){over}", "dW2": of["dW2"], "db2": total("d2"),
        "slope": "a1 * (1 - a1)", "d1": f"({of['down']}) * slope", "dW1": of["dW1"],
        "db1": total("d1"),
    }  # fmt: skip
    return right | wrong


FORWARD = ("n", "z1", "a1", "z2", "p")
NEEDS = {
    "loss": ("t", "loss"), "dW2": ("t", "d2", "dW2"), "db2": ("t", "d2", "db2"),
    "dW1": ("t", "d2", "slope", "d1", "dW1"), "db1": ("t", "d2", "slope", "d1", "db1"),
}  # fmt: skip


def solution(style: Style, **wrong: str) -> str:
    """The source of a solution.

    Args:
        style: how it is written.
        wrong: expressions by the step that they replace, such as ``slope="1"``;
            ``dW1_slope`` in that function alone.
    """
    everywhere = {k: v for k, v in wrong.items() if "_" not in k}

    def block(names: tuple[str, ...], function: str = "", indent: str = "    ") -> str:
        local = {
            k.removeprefix(f"{function}_"): v
            for k, v in wrong.items()
            if function and k.startswith(f"{function}_")
        }
        lines = steps(style, everywhere | local)
        return "".join(f"{indent}{name} = {lines[name]}\n" for name in names)

    head = "import numpy as np\n" + HELPERS.format(
        classes=LINES[style.layout]["classes"]
    )
    everything = (*FORWARD, "t", "d2", "dW2", "db2", "slope", "d1", "dW1", "db1")
    arguments = "W1, b1, W2, b2"
    pred = f"\n\ndef Pred({arguments}, x):\n{block(FORWARD)}    return p\n"
    loss = (
        f"\n\ndef loss({arguments}, x, y):\n{block((*FORWARD, *NEEDS['loss']))}"
        "    return loss\n"
    )
    form = style.form
    if form == "six functions":
        text = pred + loss
        for name in ("dW1", "db1", "dW2", "db2"):
            body = block((*FORWARD, *NEEDS[name]), name)
            text += f"\n\ndef {name}({arguments}, x, y):\n{body}    return {name}\n"
    elif form == "intermediates":
        text = pred.replace("return p", "return z1, a1, p").replace("Pred", "forward")
        given = {"dW2": "a1, y, p", "db2": "y, p", "dW1": "x, z1, a1, y, p, W2",
                 "db1": "z1, a1, y, p, W2"}  # fmt: skip
        axis = "1" if style.layout[0] == "columns" else "0"
        count = f"p.shape[{axis}]" if style.layout[0] != "vector" else "1"
        for name, arguments in given.items():
            body = f"    n = {count}\n" + block(NEEDS[name], name)
            text += f"\n\ndef grad_{name[1:]}({arguments}):\n{body}    return {name}\n"
    elif form in ("tuple", "dictionary", "flat", "pairs", "loss and grads"):
        grads = "dW1, db1, dW2, db2"
        result = {
            "tuple": grads,
            "dictionary": "{'W1': dW1, 'b1': db1, 'W2': dW2, 'b2': db2}",
            "flat": f"np.concatenate([g.ravel() for g in ({grads})])",
            "pairs": "[(dW1, db1), (dW2, db2)]",
            "loss and grads": f"{steps(style, {})['loss']}, [{grads}]",
        }[form]
        body = block(everything)
        text = pred + loss
        text += f"\n\ndef backward(x, y, {arguments}):\n{body}    return {result}\n"
    elif form == "step":
        names = ("W1", "b1", "W2", "b2")
        taken = "".join(f"    {n} = net['{n}']\n" for n in names)
        put = "".join(f"    net['{n}'] -= rate * d{n}\n" for n in names)
        text = f"\n\ndef step(x, y, net, rate):\n{taken}{block(everything)}{put}"
    elif form == "updated":
        body = block(everything)
        put = ", ".join(f"{n} - lr * d{n}" for n in ("W1", "b1", "W2", "b2"))
        text = pred + (
            f"\n\ndef update(x, y, {arguments}, lr):\n{body}    return {put}\n"
        )
    elif form == "globals":
        text = "\n\nW1 = np.zeros((20, 784))\n" + pred.replace(f"{arguments}, x", "x")
        body = block(everything)
        text += f"\n\ndef gradients(x, y):\n{body}    return dW1, db1, dW2, db2\n"
    else:  # an object
        shapes = {"in_out": ("(d, h)", "(h, k)"), "out_in": ("(h, d)", "(k, h)")}
        one, two = shapes[style.layout[1]]
        bias = {"n": "{}", "1n": "(1, {})", "n1": "({}, 1)"}[style.bias]
        own = {n: f"self.{n}" for n in ("W1", "b1", "W2", "b2")}
        forward = block(FORWARD, indent=" " * 8)
        taken = "".join(f"        {n} = {own[n]}\n" for n in own)
        text = (
            f"\n\nclass Network:\n    def __init__(self, d, h, k):\n"
            f"        self.W1, self.W2 = np.zeros({one}), np.zeros({two})\n"
            f"        self.b1 = np.zeros({bias.format('h')})\n"
            f"        self.b2 = np.zeros({bias.format('k')})\n"
            f"\n    def forward(self, x):\n{taken}{forward}"
            "        self.x, self.a1, self.p, self.n = x, a1, p, n\n        return p\n"
            f"\n    def backward(self, y):\n{taken}"
            "        x, a1, p, n = self.x, self.a1, self.p, self.n\n"
            f"{block(everything[len(FORWARD) :], indent=' ' * 8)}"
            + "".join(f"        self.d{n} = d{n}\n" for n in own)
        )
    return head + text


def right_styles() -> list[Style]:
    """Every layout in every form, labels, sums and biases in turn."""
    found = []
    for i, layout in enumerate(LAYOUTS):
        for j, form in enumerate(FORMS):
            bias = {"rows": ("n", "1n")[(i + j) % 2], "columns": "n1", "vector": "n"}
            labels = ("onehot", "int")[j % 2]
            mean = (i + j) % 3 > 0
            found.append(Style(layout, form, labels, mean, bias[layout[0]]))
    return found
