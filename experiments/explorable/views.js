// What is seen of a run: each view takes a report of the worker and draws it.

const byId = (id) => document.getElementById(id);
const rowsFor = (layers) => clipped(Math.round(160 / layers), 11, 24);
const layerName = (layer, last) => layer === last ? "output" : `layer ${layer}`;

// The axis ends soon after the predicted leaving time, if that is near enough to wait for.
const FAR = 200000;
function lastStep({ step, leaves }) {
  const wanted = leaves * 1.25 < FAR ? leaves * 1.25 : 0;
  return Math.max(1000, step * 1.02, wanted);
}

function drawLoss(report, digits, before) {
  const { trace, looks, leaves } = report;
  const batches = trace.values.map((y, i) => [(i + 1) * trace.every, y]);
  const [early, late] = calibrated(report) ? [PLATEAU.EARLY, PLATEAU.LATE] : [1, 1];
  const moment = leaves < Infinity && {
    x: leaves, from: early * leaves, to: late * leaves, words: "predicted",
  };
  const xMax = lastStep(report);
  lineChart(byId("loss"), {
    xMax, yMax: 3, yStep: 0.5, yWords: (y) => y.toFixed(1), moment,
    levels: [{ y: digits.plateau, words: `plateau, H0 = ${digits.plateau.toFixed(2)}` }],
    lines: [{ points: before ? curve(before, "loss") : [], style: "before" },
      { points: batches, style: "batches" }, { points: curve(looks, "loss"), style: "tested" }],
  });
}

// Of what is known after looks, against steps.
const curve = (looks, name) => looks[name].map((y, i) => [i * looks.every, y]);

// The interval is known for networks that begin as those it was fitted to.
const calibrated = ({ settings }) => settings.initializer === "normal" && settings.scale <= 0.3;

function drawAccuracy(report, digits, before) {
  const { looks } = report;
  lineChart(byId("accuracy"), {
    xMax: lastStep(report), yMax: 100, yStep: 20, yWords: (y) => `${y} %`,
    levels: [{ y: 100 * digits.commonest, words: "always the same digit" }],
    lines: [before, looks].flatMap((seen, i) => seen ? [{
      points: curve(seen, "accuracy").map(([x, y]) => [x, 100 * y]),
      style: i ? "tested" : "before",
    }] : []),
  });
}

function drawGradient({ gradient, expected }) {
  const last = gradient.length;
  const rows = gradient.map((value, i) => ({
    words: layerName(i + 1, last),
    bars: [{ value, style: "bar", mark: expected[i] }],
  })).reverse();
  decadeChart(byId("gradient"), {
    rows, rowHeight: rowsFor(last), heads: ["nats per unit of weight"],
  });
}

// Of one digit: how it stands out from the others on the way up, and its error down.
function drawLadder({ watched }, digit) {
  const last = watched.ink.length;
  const rows = watched.ink.map((ink, i) => ({
    words: layerName(i + 1, last),
    bars: [{ value: ink[digit], style: "ink" },
      { value: watched.error[i][digit], style: "error" }],
  })).reverse();
  decadeChart(byId("ladder"), {
    rows, rowHeight: rowsFor(last),
    heads: [`${digit}: its ink, going up ↑`, "its error, coming down ↓"],
  });
}

// Every digit's activations, a row a layer, the output on top; a stripe a unit.
function drawStripes({ watched, settings }, digit) {
  const canvas = byId("stripes"), dots = window.devicePixelRatio || 1;
  const width = canvas.parentElement.clientWidth, left = 54;
  const layers = watched.activations.length, row = rowsFor(layers), height = layers * row;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  const pen = canvas.getContext("2d");
  pen.scale(dots, dots);
  const colors = getComputedStyle(canvas), column = (width - left) / 10;
  const [low, high] = [colors.getPropertyValue("--low"), colors.getPropertyValue("--high")];
  pen.font = "11px system-ui, sans-serif";
  watched.activations.forEach((a, l) => {
    const y = (layers - 1 - l) * row, units = a.length / 10;
    const output = l === layers - 1;
    const largest = a.reduce((m, x) => Math.max(m, Math.abs(x)), 1e-300);
    for (let n = 0; n < a.length; n++) {
      const [image, unit] = [Math.floor(n / units), n % units];
      const x = left + image * column + 2 + unit * (column - 4) / units;
      pen.globalAlpha = 1;
      pen.fillStyle = low;
      pen.fillRect(x, y + 1, (column - 4) / units + 0.3, row - 2);
      pen.globalAlpha = shade(a[n], output ? "sigmoid" : settings.activation, largest);
      pen.fillStyle = high;
      pen.fillRect(x, y + 1, (column - 4) / units + 0.3, row - 2);
    }
    pen.globalAlpha = 1;
    pen.fillStyle = colors.getPropertyValue("--soft");
    pen.textAlign = "right";
    pen.fillText(layerName(l + 1, layers), left - 6, y + row / 2 + 4);
  });
  pen.strokeStyle = colors.getPropertyValue("--mark");
  pen.lineWidth = 2;
  pen.strokeRect(left + digit * column + 1, 1, column - 2, height - 2);
}

// From 0 to 1, over the range of the activation; that of ReLU is what the layer shows.
function shade(a, activation, largest) {
  if (!Number.isFinite(a)) return 0;
  if (activation === "sigmoid") return clipped(a, 0, 1);
  if (activation === "relu") return a / largest;
  return (a + 1) / 2;
}

function drawDigit(canvas, pixels) {
  canvas.width = canvas.height = 28;
  const pen = canvas.getContext("2d"), image = pen.createImageData(28, 28);
  pixels.forEach((ink, i) => {
    image.data[4 * i + 3] = ink; // black ink; the page turns it round in the dark
  });
  pen.putImageData(image, 0, 0);
}

// What a verdict was made of, in words.
function evidence({ verdict, leaves, looks, settings }, digits) {
  const nats = (x) => `${x.toFixed(3)} nats`, parts = [];
  if (!verdict) return "An epoch has to pass before there is a verdict.";
  if (verdict.name !== "diverged" && Number.isFinite(verdict.information)) {
    parts.push(`Its loss is ${nats(Math.max(verdict.information, 0))} below the plateau, of `
      + `the ${digits.entropy.toFixed(3)} that there are to gain`);
  }
  if (["converged", "learning", "slow"].includes(verdict.name)) {
    parts.push(`at its present pace it would ${verdict.gain < 0 ? "lose" : "gain"} `
      + `${nats(Math.abs(verdict.gain))} in as many steps again`);
  }
  if (["overfitting", "getting worse"].includes(verdict.name)) {
    parts.push(`at its best it was ${nats(verdict.best)} below`);
  }
  if (verdict.name === "saturated") {
    const how = settings.activation === "relu" ? "off" : "saturated: stuck at an end";
    parts.push(`on average ${Math.round(100 * verdict.saturation)} % of its units are ${how}`);
  }
  if (["vanishing", "too early to tell"].includes(verdict.name) && Number.isNaN(leaves)) {
    const every = looks.every, [a, b] = DIAGNOSIS.EXTRAPOLATED;
    if (Number.isFinite(verdict.toLeave) && verdict.toLeave > 0) {
      parts.push(`at the growth so far it leaves in ${said(a * verdict.toLeave * every)} to `
        + `${said(b * verdict.toLeave * every)} steps`);
    } else if (verdict.toLeave === Infinity) {
      parts.push("what tells digits apart is not growing");
    }
  }
  const loss = looks.loss[looks.loss.length - 1];
  if (!parts.length && Number.isFinite(loss)) {
    parts.push(`Its loss is ${nats(loss)}, that of a constant answer ${nats(digits.plateau)}`);
  }
  return parts.length ? `${parts.join("; ")}.` : "Its loss is no number any more.";
}

// What theory says of leaving the plateau, beside what has happened.
function forecastWords({ leaves, left, settings }) {
  if (Number.isFinite(left) && leaves < Infinity) {
    return `Left the plateau at step ${said(left)}; predicted was step ${said(leaves)}.`;
  }
  if (Number.isFinite(left)) return `Better than any constant answer since step ${said(left)}.`;
  if (leaves < Infinity) {
    const [early, late] = [PLATEAU.EARLY, PLATEAU.LATE].map((share) => said(share * leaves));
    return `Theory, from the initial weights: leaves the plateau at step ${said(leaves)} `
      + (calibrated({ settings }) ? `(four in five of its kind: ${early} to ${late}).`
        : "(roughly: it begins far from where theory is at its best).");
  }
  if (leaves === Infinity) return "Theory: leaves the plateau at no step in sight.";
  return settings.activation === "sigmoid" && settings.depth > 1
    ? "Theory of the plateau gives no time for this network."
    : "Theory of the plateau is for two or more layers of sigmoid units.";
}

// What to do about it. One that loses what it had is not helped by what speeds it up.
function adviceWords({ verdict, settings }) {
  if (verdict.name === "slow" && verdict.gain < 0) return "to wait: it has just lost something";
  return verdict.name === "saturated" && settings.activation === "relu"
    ? "a smaller learning rate or init scale, so that units stay on" : verdict.advice;
}

function drawVerdict(report, digits) {
  const { verdict } = report;
  setText("verdict-name", verdict ? verdict.name : "just started");
  byId("verdict-name").style.setProperty("--verdict", verdict ? verdict.color : "var(--soft)");
  setText("verdict-claim", verdict ? `The network ${verdict.claim}.` : "");
  setText("verdict-horizon", verdict
    ? `Expected up to step ${said(verdict.horizon * report.step)}.` : "");
  setText("verdict-evidence", evidence(report, digits));
  setText("verdict-advice", verdict ? `What to try: ${adviceWords(report)}.` : "");
  setText("forecast", forecastWords(report));
}

// Screen readers hear of a change, not of every frame.
function setText(id, words) {
  if (byId(id).textContent !== words) byId(id).textContent = words;
}
