// The page: settings, the address that holds them, the worker, and the map.

const SETTINGS = { // in the order of the address
  scale: { low: 0.001, high: 100, value: 0.1 },
  rate: { low: 0.0001, high: 10, value: 0.3 },
  batch: { choices: [1, 8, 32, 128, 512], value: 32 },
  depth: { low: 1, high: 20, whole: true, value: 5 },
  activation: { choices: ["sigmoid", "centred_sigmoid", "tanh", "relu"], value: "sigmoid" },
  initializer: {
    choices: ["normal", "lecun", "glorot", "orthogonal", "centred_orthogonal"],
    value: "normal",
  },
  seed: { low: 0, high: 2 ** 32 - 1, whole: true, value: 0 },
};
const NAMES = { scale: "Init scale", rate: "Learning rate", seed: "Seed" };
// The scale that goes with an initializer; for normal that of the assignment.
const USUAL_SCALE = { normal: 0.1, lecun: 1, glorot: 1, orthogonal: 1, centred_orthogonal: 4 };

// What a text says of a setting, or undefined if it is no such thing.
function parsed(name, words) {
  const { low, high, whole, choices } = SETTINGS[name];
  if (choices) return choices.find((choice) => String(choice) === words);
  if (!/^(\d{1,10}([.,]\d{0,20})?|[.,]\d{1,20})(e-?\d{1,2})?$/i.test(words)) return undefined;
  const number = Number(words.replace(",", "."));
  return number >= low && number <= high && (!whole || Number.isInteger(number))
    ? number : undefined;
}

// The settings in an address; what it does not say, or not well, is as in the assignment.
function fromAddress(address) {
  const given = new URLSearchParams(address.replace(/^#/, ""));
  return Object.fromEntries(Object.entries(SETTINGS).map(([name, { value }]) =>
    [name, parsed(name, given.get(name) ?? "") ?? value]));
}

const toAddress = (settings) => `#${new URLSearchParams(settings)}`;

let settings = fromAddress(location.hash);
let digits = null, latest = null, before = null, drawn = true;
let wanted = true; // whether to train
let chosen = 0, pointed = null; // digits: the one chosen, and the one under the pointer
const still = matchMedia("(prefers-reduced-motion: reduce)");
const engine = new Blob([byId("engine").textContent], { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(engine));
const order = (what, more = {}) => worker.postMessage({ do: what, ...more });

const trouble = (what) => setText("trouble", `Something went wrong (${what}). Please reload the `
  + "page; it needs a browser of 2023 or newer.");
worker.onerror = ({ message }) => trouble(message);
worker.onmessage = ({ data }) => {
  if (data.kind === "trouble") {
    trouble(data.said);
  } else if (data.kind === "loaded") {
    digits = data;
    makeDigits();
    wanted = !still.matches;
    for (const button of document.querySelectorAll(".buttons button")) button.disabled = false;
    restart();
  } else {
    latest = data;
    if (drawn) later();
  }
};

// One drawing a frame at most, and few if motion is not wanted.
function later() {
  drawn = false;
  if (still.matches) setTimeout(draw, 250);
  else requestAnimationFrame(draw);
}

function draw() {
  drawn = true;
  if (!latest || !digits) return;
  const digit = pointed ?? chosen;
  drawVerdict(latest, digits);
  drawLoss(latest, digits, before);
  drawAccuracy(latest, digits, before);
  drawGradient(latest);
  drawStripes(latest, digit);
  drawLadder(latest, digit);
  drawCounter(latest);
  describe(latest);
}

function drawCounter({ step, stepsPerEpoch, speed, running, ended }) {
  const pace = running && speed > 0 ? ` · ${said(speed)} steps a second` : "";
  setText("counter", `step ${said(step)} · epoch ${said(step / stepsPerEpoch)}${pace}`);
  setText("run", running ? "Pause" : "Run");
  for (const id of ["run", "step", "epoch"]) byId(id).disabled = ended;
}

// In words, for those who cannot see the pictures; now and then.
let described = 0;
function describe({ looks, step, gradient, watched, running }) {
  if (running && performance.now() - described < 2000) return;
  described = performance.now();
  const digit = pointed ?? chosen;
  const end = looks.loss.length - 1, label = (id, words) =>
    byId(id).setAttribute("aria-label", words);
  label("loss", `Loss against steps: ${said(looks.loss[end])} nats on test digits at step `
    + `${said(step)}; the plateau is at ${said(digits.plateau)}.`);
  label("accuracy", `${said(100 * looks.accuracy[end])} % of the test digits are right; the `
    + `commonest digit alone would give ${said(100 * digits.commonest)} %.`);
  label("gradient", `Gradients from the first layer to the output: ${gradient.map(said).join(", ")}.`);
  label("ladder", `Digit ${digit}: how it stands out, from the first layer to the output: `
    + `${watched.ink.map((ink) => said(ink[digit])).join(", ")}; its error there: `
    + `${watched.error.map((error) => said(error[digit])).join(", ")}.`);
}

// Begins anew with the settings as they are; what was there stays in grey.
function restart() {
  if (latest && latest.step > 0) before = latest.looks;
  clearTimeout(waiting);
  waiting = 0;
  if (digits) order("start", { settings, go: wanted && !document.hidden, number: ++starts });
  showSettings();
}

// An order for what is set now, were it a moment ago.
function obey(what) {
  if (waiting) restart();
  order(what);
}

let waiting = 0, starts = 0;
function change(changes, add = history.replaceState) {
  settings = { ...settings, ...changes };
  add.call(history, null, "", toAddress(settings));
  setText("refused", "");
  showSettings();
  clearTimeout(waiting); // while a slider is drawn
  waiting = setTimeout(restart, 120);
}

function refuse(name) {
  const { low, high, whole } = SETTINGS[name];
  setText("refused", `${NAMES[name]}: expected a ${whole ? "whole " : ""}number from ${low} `
    + `to ${high}.`);
  showSettings(); // as it was
}

const nearest = (x) => Number(x.toPrecision(2));

function showSettings() {
  for (const name of ["scale", "rate"]) {
    byId(name).value = settings[name];
    byId(`${name}-slider`).value = Math.log10(settings[name]);
    byId(`${name}-slider`).setAttribute("aria-valuetext", said(settings[name]));
  }
  for (const name of ["batch", "depth", "activation", "initializer", "seed"]) {
    byId(name).value = settings[name];
  }
  setText("depth-value", settings.depth);
  const here = toAddress(settings);
  let note = "";
  for (const link of document.querySelectorAll("#named a")) {
    const chosen = toAddress(fromAddress(link.hash)) === here;
    if (chosen) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    if (chosen) note = link.dataset.note;
  }
  setText("note", note || "Settings of your own; the address of the page holds them.");
  if (MAP) placeCross();
}

// The digits below the stripes: to point at, to focus or to choose one.
function makeDigits() {
  const buttons = digits.digits.map((pixels, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button";
    button.setAttribute("aria-label", `digit ${i}`);
    drawDigit(canvas, pixels);
    button.append(canvas);
    button.addEventListener("pointerenter", () => pointAt(i));
    button.addEventListener("pointerleave", () => pointAt(null));
    button.addEventListener("click", () => chooseDigit(i));
    return button;
  });
  byId("digits").replaceChildren(...buttons);
  byId("digits").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    chooseDigit((chosen + by + buttons.length) % buttons.length);
    buttons[chosen].focus();
    event.preventDefault();
  });
  chooseDigit(0);
}

function pointAt(i) {
  pointed = i;
  described = 0;
  if (latest && drawn) later();
}

// One of them can be reached by the tab key, the others from there.
function chooseDigit(i) {
  chosen = i;
  [...byId("digits").children].forEach((button, k) => {
    button.setAttribute("aria-pressed", k === i);
    button.tabIndex = k === i ? 0 : -1;
  });
  pointAt(null);
}

const column = ({ offsetX, target }) =>
  clipped(Math.floor((offsetX - 54) / (target.clientWidth - 54) * 10), 0, 9);
byId("stripes").addEventListener("pointermove", (event) => pointAt(column(event)));
byId("stripes").addEventListener("pointerleave", () => pointAt(null));
byId("stripes").addEventListener("click", (event) => chooseDigit(column(event)));

// Controls.
for (const name of ["scale", "rate"]) {
  byId(`${name}-slider`).addEventListener("input", ({ target }) =>
    change({ [name]: nearest(10 ** target.value) }));
}
for (const name of Object.keys(SETTINGS)) {
  byId(name).addEventListener(name === "depth" ? "input" : "change", ({ target }) => {
    const value = parsed(name, target.value.trim());
    if (value === undefined) refuse(name);
    else if (name !== "initializer") change({ [name]: value });
    else change({ initializer: value, scale: USUAL_SCALE[value] });
  });
}
byId("run").addEventListener("click", () => {
  wanted = !(latest && latest.running);
  obey(wanted ? "run" : "pause");
});
for (const id of ["step", "epoch"]) {
  byId(id).addEventListener("click", () => {
    wanted = false;
    obey(id);
  });
}
byId("reset").addEventListener("click", () => {
  const fresh = byId("fresh").checked;
  if (fresh) change({ seed: crypto.getRandomValues(new Uint32Array(1))[0] });
  else restart();
});
addEventListener("hashchange", () => {
  settings = fromAddress(location.hash);
  restart();
});
// The address stays as it is where a setting is chosen again.
byId("named").addEventListener("click", ({ target }) => {
  if (target.hash === location.hash) restart();
});
document.addEventListener("visibilitychange", () => {
  if (latest && wanted) obey(document.hidden ? "pause" : "run");
});
addEventListener("resize", () => {
  if (drawn) later();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (drawn) later();
});

unpacked(byId("packed").textContent).then((bytes) => order("load", { bytes, ...SIZES }), trouble);

// Bytes that explore.py compressed and wrote as text.
async function unpacked(base64) {
  const compressed = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
  const plain = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

// The map: a pixel a network, the largest learning rate on top.
let place = null;
const mapAt = (name, value) => // as a share of an axis
  Math.log(value / MAP.ends[name][0]) / Math.log(MAP.ends[name][1] / MAP.ends[name][0]);
const mapValue = (name, share) =>
  MAP.ends[name][0] * (MAP.ends[name][1] / MAP.ends[name][0]) ** share;

async function drawMap() {
  const { side, names } = MAP;
  const [verdicts, halves] = await Promise.all([MAP.verdicts, MAP.accuracy].map(unpacked));
  Object.assign(MAP, { verdicts, halves });
  const canvas = byId("map-picture"), pen = canvas.getContext("2d");
  canvas.width = canvas.height = side;
  const image = pen.createImageData(side, side);
  const colors = names.map((name) => DIAGNOSIS.kinds[name].color.match(/\w\w/g)
    .map((hex) => parseInt(hex, 16)));
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const color = colors[verdicts[(side - 1 - row) * side + column]];
      image.data.set([...color, 255], 4 * (row * side + column));
    }
  }
  pen.putImageData(image, 0, 0);
  const counts = names.map((_, i) => verdicts.reduce((n, v) => n + (v === i ? 1 : 0), 0));
  byId("map-legend").innerHTML = names.map((name, i) => [counts[i], name])
    .filter(([count]) => count).sort(([a], [b]) => b - a)
    .map(([count, name]) => `<li><i style="background:${DIAGNOSIS.kinds[name].color}"></i>`
      + `${escaped(name)} <span>${shareOf(count, side ** 2)}</span></li>`).join("");
  byId("map-lines").innerHTML = MAP.lines.map(({ points }) =>
    path(points.map(([x, y]) => [100 * x, 100 * (1 - y)]), "contour")).join("");
  const labels = MAP.lines.map(({ steps, points }) => {
    const [x, y] = points.reduce((best, p) => p[0] < best[0] ? p : best);
    return `<span style="left:${100 * x}%;top:${100 * (1 - y)}%">${said(steps)}</span>`;
  });
  byId("map-labels").innerHTML = labels.join("");
  placeCross();
}

// In per cent, or counted where that says more.
const shareOf = (count, all) => count < all / 100
  ? `${count} network${count === 1 ? "" : "s"}` : `${Math.round(100 * count / all)} %`;

// Only for networks of the map's kind, whatever their batches and seed.
function placeCross() {
  const { depth, activation, initializer } = settings;
  const there = depth === MAP.settings.depth && activation === "sigmoid"
    && initializer === "normal";
  const [x, y] = [mapAt("scale", settings.scale), mapAt("learning_rate", settings.rate)];
  const cross = byId("map-cross");
  cross.hidden = !(there && x >= 0 && x <= 1 && y >= 0 && y <= 1);
  cross.style.left = `${100 * x}%`;
  cross.style.top = `${100 * (1 - y)}%`;
}

function mapWords([column, row]) {
  const { side, names, verdicts, halves } = MAP, n = row * side + column;
  if (!halves) return "";
  const [scale, rate] = placeValues([column, row]);
  return `init scale ${said(scale)}, learning rate ${said(rate)}: ${names[verdicts[n]]}, `
    + `${said(halves[n] / 2)} % right after ${said(MAP.steps)} steps`;
}

const placeValues = ([column, row]) => [
  mapValue("scale", (column + 0.5) / MAP.side),
  mapValue("learning_rate", (row + 0.5) / MAP.side),
].map((x) => Number(x.toPrecision(4)));

// A place of the map sets the controls to the network that stands there.
function chooseOnMap(at, add) {
  const [scale, rate] = placeValues(at);
  const network = { activation: "sigmoid", initializer: "normal", ...MAP.settings };
  change({ scale, rate, ...network }, add);
}

if (MAP) {
  const area = byId("map"), most = MAP.side - 1;
  const under = ({ clientX, clientY }) => {
    const { left, top, width, height } = area.getBoundingClientRect();
    return [(clientX - left) / width, 1 - (clientY - top) / height].map((share) =>
      clipped(Math.floor(share * MAP.side), 0, most));
  };
  const look = (at) => {
    place = at;
    setText("map-words", mapWords(at));
  };
  const here = () => [mapAt("scale", settings.scale), mapAt("learning_rate", settings.rate)]
    .map((share) => clipped(Math.floor(share * MAP.side), 0, most));
  area.addEventListener("pointermove", (event) => look(under(event)));
  area.addEventListener("click", (event) => {
    look(under(event));
    chooseOnMap(place, history.pushState);
  });
  area.addEventListener("pointerleave", () => look(here()));
  area.addEventListener("focus", () => look(here()));
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  area.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? Math.round(MAP.side / 8) : 1, move = moves[event.key];
    if (move) {
      look(here().map((n, i) => clipped(n + by * move[i], 0, most)));
      chooseOnMap(place);
    }
    if (move || event.key === "Enter" || event.key === " ") event.preventDefault();
    if (event.key === "Enter" || event.key === " ") chooseOnMap(place ?? here());
  });
  drawMap();
}
showSettings();
// On a phone what happens comes first.
if (innerWidth < 760) byId("settings").open = false;
