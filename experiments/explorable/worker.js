// What trains, apart from the page, so that neither waits for the other. The page sends
// { do: name, ... }; what is known of the run goes back up to thirty times a second.

const SLICE_MS = 12; // of training between two looks at the messages
const REPORT_MS = 33;
const MEASURED = 128; // images that a report's numbers of layers are taken from
const EVALUATED = 100; // images at once in an evaluation
const MOST_POINTS = 600; // of a curve; then every second one goes
const FORESEEN = 1e8; // steps

let training = null, test = null, clouds = null, shown = null; // the digits
let plateau = 0, entropy = 0; // loss of the best constant output on test, and H0
let run = null, running = false;

// Bytes as from explore.py: pixels of all images, then labels, then clouds of those that
// are learned from.
function load({ bytes, numTraining, numTest }) {
  const n = numTraining + numTest;
  const labels = bytes.subarray(n * 784, n * 785);
  training = sparse(bytes.subarray(0, numTraining * 784), labels.slice(0, numTraining));
  test = sparse(bytes.subarray(numTraining * 784, n * 784), labels.slice(numTraining));
  const K = Math.max(...labels) + 1;
  clouds = cloudStatistics(training, bytes.subarray(n * 785), K);
  const f = clouds.frequencies;
  entropy = -f.reduce((sum, share) => sum + share * Math.log(share), 0);
  plateau = -test.label.reduce((sum, k) => sum + Math.log(f[k]), 0) / numTest;
  const count = new Array(K).fill(0);
  for (const k of test.label) count[k]++;
  // The first test image of every digit.
  shown = Uint32Array.from({ length: K }, (_, k) => test.label.indexOf(k));
  const pixels = Array.from(shown, (i) =>
    bytes.slice((numTraining + i) * 784, (numTraining + i + 1) * 784));
  postMessage({ kind: "loaded", entropy, plateau, commonest: Math.max(...count) / numTest,
    digits: pixels });
}

// Pixels that are not 0, image after image.
function sparse(bytes, label) {
  const n = label.length, start = new Uint32Array(n + 1);
  const there = bytes.reduce((sum, x) => sum + (x > 0 ? 1 : 0), 0);
  const pixel = new Uint16Array(there), value = new Float64Array(there);
  let next = 0;
  for (let i = 0; i < n; i++) {
    for (let p = 0; p < 784; p++) {
      if (bytes[i * 784 + p]) {
        pixel[next] = p;
        value[next++] = bytes[i * 784 + p] / 255;
      }
    }
    start[i + 1] = next;
  }
  return { start, pixel, value, label };
}

function start(settings) {
  const { depth, activation, initializer, scale, rate, batch, seed } = settings;
  const sizes = [784, ...new Array(depth).fill(10), clouds.frequencies.length];
  const network = { sizes, activation };
  network.W = initialWeights({ sizes, initializer, scale, seed });
  const stepsPerEpoch = Math.floor(training.label.length / batch);
  run = {
    settings, network, stepsPerEpoch, step: 0, order: null,
    room: roomFor(sizes, batch), evaluating: roomFor(sizes, EVALUATED),
    measuring: roomFor(sizes, MEASURED), watching: roomFor(sizes, shown.length),
    trace: { every: 1, values: [], sum: 0, count: 0 }, // losses of batches, in means
    looks: { every: 1, loss: [], accuracy: [], training: [], spread: [], saturation: [] },
    sum: 0, ended: false, left: NaN, speed: { at: 0, step: 0, perSecond: NaN }, reported: 0,
  };
  look();
  run.forecast = activation === "sigmoid"
    ? forecastOf(network, training, clouds, rate, batch, FORESEEN) : { leaves: NaN };
  run.expected = meanFieldGradientRms({
    sizes, centred: initializer === "centred_orthogonal",
    variances: sizes.slice(1).map((fanOut, l) =>
      scale ** 2 * INITIALIZERS[initializer].variance(fanOut, sizes[l])),
    ...pointwise(activation),
    squaredNorms: Array.from({ length: 20 }, (_, i) => squaredNorm(training, i)),
  });
}

// What an epoch ends with: the numbers that verdicts are made of.
function look() {
  const { network, looks, stepsPerEpoch, step } = run;
  const { loss, accuracy } = evaluate(network, test, run.evaluating);
  // Where between two looks it has left the plateau, if it did.
  const target = plateau - PLATEAU.LEFT * entropy, before = looks.loss[looks.loss.length - 1];
  if (loss < target && before >= target && Number.isNaN(run.left)) {
    const back = (target - loss) / (before - loss) * looks.every * stepsPerEpoch;
    run.left = Math.round(step - back);
  }
  const { spread, saturation } = measure(network, training, run.measuring);
  const above = saturation.length > 1 ? saturation.slice(1) : saturation;
  looks.loss.push(loss);
  looks.accuracy.push(accuracy);
  looks.training.push(step ? run.sum / stepsPerEpoch : NaN);
  looks.spread.push(spread[spread.length - 1]);
  looks.saturation.push(above.reduce((sum, x) => sum + x, 0) / above.length);
  run.sum = 0;
  run.ended = !Number.isFinite(loss);
}

function oneStep() {
  const { network, settings, stepsPerEpoch, room, trace, looks } = run;
  const at = run.step % stepsPerEpoch;
  if (at === 0) {
    run.order = permutation(batchesKey(run.step / stepsPerEpoch + 1), training.label.length);
  }
  const loss = trainOn(network, training, run.order, at * settings.batch, settings.batch,
    room, settings.rate);
  run.step++;
  run.sum += loss;
  trace.sum += loss;
  if (++trace.count === trace.every) {
    trace.values.push(trace.sum / trace.count);
    trace.sum = trace.count = 0;
    if (trace.values.length === MOST_POINTS) {
      trace.values = trace.values.flatMap((x, i, all) => i % 2 ? [(all[i - 1] + x) / 2] : []);
      trace.every *= 2;
    }
  }
  // ReLU makes 0 of a sum that is no number, and the loss would not tell.
  if (!Number.isFinite(loss) || !Number.isFinite(network.W[0][0])) {
    run.ended = true;
  } else if (run.step % (looks.every * stepsPerEpoch) === 0) {
    look();
    if (looks.loss.length === MOST_POINTS + 1) {
      for (const name of Object.keys(looks).filter((name) => name !== "every")) {
        looks[name] = looks[name].filter((_, i) => i % 2 === 0);
      }
      looks.every *= 2;
    }
  } else if (run.step % stepsPerEpoch === 0) {
    run.sum = 0;
  }
  if (run.ended) running = false;
}

// The forecast in looks, with the interval that four networks in five are in.
function forecastInLooks() {
  const inLooks = (steps) => steps / (run.stepsPerEpoch * run.looks.every);
  const { leaves } = run.forecast;
  return { look: inLooks(leaves), earliest: inLooks(PLATEAU.EARLY * leaves),
    latest: inLooks(PLATEAU.LATE * leaves) };
}

function verdictNow() {
  const { looks } = run;
  if (looks.loss.length < 2) {
    return run.ended ? { name: "diverged", ...DIAGNOSIS.kinds.diverged } : null;
  }
  const information = looks.loss.map((loss) => plateau - loss);
  if (run.ended) information[information.length - 1] = NaN;
  return diagnose({ information, spread: looks.spread, saturation: looks.saturation,
    training: looks.training.map((loss) => entropy - loss), entropy,
    forecast: Number.isNaN(run.forecast.leaves) ? null : forecastInLooks() });
}

// Steps a second, over half a second or more.
function speedNow() {
  const now = performance.now(), { speed } = run;
  if (!running) {
    speed.at = 0;
  } else if (!speed.at) {
    Object.assign(speed, { at: now, step: run.step });
  } else if (now - speed.at > 500) {
    speed.perSecond = 1000 * (run.step - speed.step) / (now - speed.at);
    Object.assign(speed, { at: now, step: run.step });
  }
  return speed.perSecond;
}

function report() {
  const { network, looks, trace, settings } = run;
  run.reported = performance.now();
  postMessage({
    kind: "report", settings, running, ended: run.ended, step: run.step,
    stepsPerEpoch: run.stepsPerEpoch, speed: speedNow(),
    trace: { every: trace.every, values: trace.values },
    looks: { every: looks.every * run.stepsPerEpoch, loss: looks.loss,
      accuracy: looks.accuracy },
    ...measure(network, training, run.measuring), expected: run.expected,
    watched: watch(network, test, shown, run.watching),
    leaves: run.forecast.leaves, left: run.left, verdict: verdictNow(),
  });
}

// Training goes on in slices, between which messages get through; a slice of a run that
// has been replaced meanwhile is none.
const again = new MessageChannel();
let slice = 0;
const next = () => again.port2.postMessage(++slice);
again.port1.onmessage = ({ data }) => {
  if (!running || data !== slice) return;
  const until = performance.now() + SLICE_MS;
  while (running && performance.now() < until) {
    for (let i = 0; running && i < 4; i++) oneStep();
  }
  if (!running || performance.now() - run.reported > REPORT_MS) report();
  if (running) next();
};

function go(on) {
  const before = running;
  running = on && !run.ended;
  if (running && !before) next();
  else report();
}

let newest = 0; // start that was asked for
const orders = {
  load,
  start: ({ settings, go: on, number }) => {
    if (number < newest) return; // another one follows
    running = false;
    start(settings);
    go(on);
  },
  run: () => go(true),
  pause: () => go(false),
  // To the next step, or to the end of the epoch.
  step: () => advance((step) => step),
  epoch: () => advance((step) => Math.ceil(step / run.stepsPerEpoch) * run.stepsPerEpoch),
};

function advance(end) {
  running = false;
  for (const to = end(run.step + 1); run.step < to && !run.ended;) oneStep();
  report();
}

// In turn: what is asked for while the digits are being unpacked waits for them.
let ready = Promise.resolve();
onmessage = ({ data }) => {
  if (data.do === "start") newest = data.number;
  const obey = () => (run || ["load", "start"].includes(data.do)) && orders[data.do](data);
  ready = ready.then(obey).catch((error) => postMessage({ kind: "trouble", said: `${error}` }));
};
