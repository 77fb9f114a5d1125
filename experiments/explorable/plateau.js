// When a deep sigmoid network leaves the plateau, from its initial weights: the Python
// package snn_jax.plateau, for one network without biases. Its docstrings derive the
// equations, and the names here are theirs: B_l, Theta, J, C and R.
// The page defines the constants of the Python modules beforehand, PLATEAU = { LEFT, ALIKE,
// STABLE, TOLERANCE, MAX_STEPS, POINTS, SHARES }, the last two being a normal variable.
const plateauCourse = (() => {
  // Dense matrices. Their arrays are used again in the next step, by size: memory would
  // take as long as half of the arithmetic. What is to stay is `copied`.
  const arrays = {};
  const forget = () => Object.values(arrays).forEach((some) => { some.used = 0; });

  function scratch(size) {
    const some = arrays[size] || (arrays[size] = { all: [], used: 0 }), at = some.used++;
    return some.all[at] || (some.all[at] = new Float64Array(size));
  }

  // Entry (i, j) is data[i * down + j * across], row by row; in factors also `turned`.
  const matrix = (rows, cols, data = scratch(rows * cols)) =>
    ({ rows, cols, data, down: cols, across: 1 });
  const turned = ({ rows, cols, data, down, across }) =>
    ({ rows: cols, cols: rows, data, down: across, across: down });
  const copied = (A) => matrix(A.rows, A.cols, A.data.slice());
  const filled = (rows, cols, value) => matrix(rows, cols, scratch(rows * cols).fill(value));

  // Most of the time is spent here: five columns at once, at the edge some of them twice.
  function times(A, B) {
    const product = matrix(A.rows, B.cols), p = product.data;
    const { cols: inner, data: a, across } = A, { cols, data: b, down, across: next } = B;
    for (let j = 0; j < cols; j += 5) {
      const first = Math.max(0, Math.min(j, cols - 5)), most = cols - 1 - first;
      const c1 = Math.min(1, most), c2 = Math.min(2, most), c3 = Math.min(3, most);
      const c4 = Math.min(4, most), start = first * next;
      const b1 = c1 * next, b2 = c2 * next, b3 = c3 * next, b4 = c4 * next;
      for (let i = 0, at = first; i < A.rows; i++, at += cols) {
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0;
        for (let k = 0, m = i * A.down, n = start; k < inner; k++, m += across, n += down) {
          const factor = a[m];
          s0 += factor * b[n];
          s1 += factor * b[n + b1];
          s2 += factor * b[n + b2];
          s3 += factor * b[n + b3];
          s4 += factor * b[n + b4];
        }
        p[at] = s0;
        p[at + c1] = s1;
        p[at + c2] = s2;
        p[at + c3] = s3;
        p[at + c4] = s4;
      }
    }
    return product;
  }

  // Entry by entry; a single row or column of B goes with all of A.
  function entriesTimes(A, B) {
    const { rows, cols } = A, product = matrix(rows, cols);
    const down = B.rows < rows ? 0 : B.down, across = B.cols < cols ? 0 : B.across;
    for (let i = 0, at = 0; i < rows; i++) {
      for (let j = 0, other = i * down; j < cols; j++, at++, other += across) {
        product.data[at] = A.data[at] * B.data[other];
      }
    }
    return product;
  }

  // number A + other B, entry by entry.
  function combined(number, A, other, B) {
    const sum = matrix(A.rows, A.cols), a = A.data, b = B.data;
    for (let i = 0; i < a.length; i++) sum.data[i] = number * a[i] + other * b[i];
    return sum;
  }

  const plus = (A, B) => combined(1, A, 1, B);
  const scaled = (number, A) => combined(number, A, 0, A);
  const sumOf = (number, some, other, others) =>
    some.map((A, l) => combined(number, A, other, others[l]));
  // tr(A^T B)
  function dot({ data: a }, { data: b }) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  }

  const norm = (A) => Math.sqrt(dot(A, A));
  const identity = (size) => matrix(size, size, Float64Array.from(
    { length: size * size }, (_, i) => (i % (size + 1) ? 0 : 1)));

  // Gauss-Jordan elimination with pivots, of A and the identity beside it.
  function inverse(A) {
    const size = A.rows, one = identity(size);
    const row = ({ data }, i) => [...data.subarray(i * size, (i + 1) * size)];
    const rows = row(one, 0).map((_, i) => [...row(A, i), ...row(one, i)]);
    for (let i = 0; i < size; i++) {
      const better = (best, r) => Math.abs(rows[r][i]) > Math.abs(rows[best][i]);
      const pivot = rows.reduce((best, _, r) => (r > i && better(best, r) ? r : best), i);
      [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
      rows[i] = rows[i].map((entry, _, { [i]: first }) => entry / first);
      for (let r = 0; r < size; r++) {
        const factor = r === i ? 0 : rows[r][i];
        for (let c = i; c < 2 * size; c++) rows[r][c] -= factor * rows[i][c];
      }
    }
    return matrix(size, size, Float64Array.from(rows.flatMap((r) => r.slice(size))));
  }

  // The largest |eigenvalue| is the limit of |A^n|^(1/n) (Gelfand): n = 2^40, by squares.
  // Unlike power iteration that needs no start, and no gap to the next eigenvalue.
  function spectralRadius(A) {
    let log = 0;
    for (let share = 1; share > 2 ** -40; share /= 2) {
      const size = norm(A) + 1e-300;
      log += share * Math.log(size);
      A = times(scaled(1 / size, A), scaled(1 / size, A));
    }
    return Math.exp(log);
  }

  // Values, slopes and curvatures of sigmoids; given the standard deviation of each row,
  // their means over a normal z, which is what layer 1 makes of a cloud.
  function sigmoids(z, spread = null) {
    const [values, slopes, curvatures] = [0, 1, 2].map(() => matrix(z.rows, z.cols));
    const points = spread ? PLATEAU.POINTS : [0], shares = spread ? PLATEAU.SHARES : [1];
    for (let at = 0; at < z.data.length; at++) {
      const deviation = spread ? spread[Math.floor(at / z.cols)] : 0;
      let value = 0, slope = 0, curvature = 0;
      for (let n = 0; n < points.length; n++) {
        const a = 1 / (1 + Math.exp(-(z.data[at] + points[n] * deviation))), s = a * (1 - a);
        value += shares[n] * a;
        slope += shares[n] * s;
        curvature += shares[n] * s * (1 - 2 * a);
      }
      values.data[at] = value;
      slopes.data[at] = slope;
      curvatures.data[at] = curvature;
    }
    return { values, slopes, curvatures };
  }

  // All hidden layers, given the first, and the logits.
  function forward(weights, first) {
    const layers = [first], last = () => layers[layers.length - 1].values;
    for (const W of weights.slice(1, -1)) layers.push(sigmoids(times(W, last())));
    return { layers, logits: times(weights[weights.length - 1], last()) };
  }

  // The loss of all clouds, and p - e_y of each, times its share.
  function lossAndError(logits, { labels, shares }) {
    const { rows, cols, data: z } = logits, error = matrix(rows, cols);
    let loss = 0;
    for (let c = 0; c < cols; c++) {
      let largest = -Infinity, sum = 0;
      for (let at = c; at < z.length; at += cols) largest = Math.max(largest, z[at]);
      for (let at = c; at < z.length; at += cols) sum += Math.exp(z[at] - largest);
      const logSum = largest + Math.log(sum), share = shares.data[c];
      for (let at = c; at < z.length; at += cols) error.data[at] = share * Math.exp(z[at] - logSum);
      loss += share * (logSum - z[labels[c] * cols + c]);
      error.data[labels[c] * cols + c] -= share;
    }
    return { loss, error };
  }

  // The second force: the loss and its gradient, by the equations of backprop.
  function labelForce(weights, first, problem) {
    const { layers, logits } = forward(weights, first), gradient = [];
    let { loss, error } = lossAndError(logits, problem);
    for (let l = weights.length - 1; l > 0; l--) {
      gradient[l] = times(error, turned(layers[l - 1].values));
      error = entriesTimes(times(turned(weights[l]), error), layers[l - 1].slopes);
    }
    gradient[0] = error;
    return { loss, gradient };
  }

  // The pass of the mean image: layers, B_1 .. B_L, |h_0|^2 .. |h_{L-1}|^2 and
  // Theta = sum_l |h_{l-1}|^2 B_l^T B_l. unsloped[l] is B_l before the slopes of layer l.
  function meanKernel(weights, first, problem) {
    const { one, shares, meanSquare } = problem, mean = {}, unsloped = [];
    for (const name in first) mean[name] = times(first[name], shares);
    const { layers } = forward(weights, mean), errors = weights.map(() => one);
    for (let l = weights.length - 2; l >= 0; l--) {
      unsloped[l] = times(turned(weights[l + 1]), errors[l + 1]);
      errors[l] = entriesTimes(unsloped[l], layers[l].slopes);
    }
    const squares = [meanSquare, ...layers.map(({ values: h }) => dot(h, h))];
    const theta = errors.map((B, l) => scaled(squares[l], times(turned(B), B))).reduce(plus);
    return { layers, errors, unsloped, squares, theta };
  }

  // R = -(1 / 2B) tr log(1 - X), X = r J Theta / 2, and C = (r / 4B) (1 - X)^{-1} J, for
  // dR = tr(C dTheta). Series up to X^8, so that nothing breaks where X comes near 1.
  function noiseLoss(theta, { J, one, rate, batchSize }) {
    const X = scaled(rate / 2, times(J, theta));
    let power = one, series = scaled(0, one), logarithm = 0;
    for (let n = 1; n <= 8; n++) {
      series = plus(series, power);
      power = times(power, X);
      logarithm += dot(power, one) / n;
    }
    const C = scaled(rate / (4 * batchSize), times(series, J));
    return { R: logarithm / (2 * batchSize), C };
  }

  // The first force: R and its gradient. Each |h|^2 and each B_l is in Theta, so the
  // derivative goes first up, through the B_l, then down, through the h_l.
  function noiseForce(weights, kernel, first, problem) {
    const { layers, errors, unsloped, squares, theta } = kernel;
    const { R, C } = noiseLoss(theta, problem), all = filled(C.rows, 1, 1);
    const [gradient, ofSlopes, ofSquares] = [[], [], []];
    let ofError = scaled(2 * squares[0], times(errors[0], C)), ofZ = null;
    for (let l = 1; l < weights.length; l++) {
      const below = entriesTimes(ofError, layers[l - 1].slopes);
      const direct = times(errors[l], C);
      ofSlopes[l] = times(entriesTimes(ofError, unsloped[l - 1]), all);
      ofSquares[l] = dot(errors[l], direct);
      gradient[l] = times(errors[l], turned(below));
      ofError = combined(2 * squares[l], direct, 1, times(weights[l], below));
    }
    for (let l = weights.length - 1; l > 0; l--) {
      const h = layers[l - 1].values, { slopes, curvatures } = l > 1 ? layers[l - 1] : first;
      let ofValue = scaled(2 * ofSquares[l], h);
      if (ofZ) {
        gradient[l] = plus(gradient[l], times(ofZ, turned(h)));
        ofValue = plus(ofValue, times(turned(weights[l]), ofZ));
      }
      ofZ = plus(entriesTimes(slopes, ofValue), entriesTimes(curvatures, ofSlopes[l]));
    }
    // Layer 1 is the mean over clouds of what differs from cloud to cloud.
    gradient[0] = entriesTimes(ofZ, turned(problem.shares));
    return { R, gradient };
  }

  // loss + R, and how the weights change per step of SGD: -r gradient(loss + R).
  function flow(weights, problem) {
    const first = sigmoids(weights[0], problem.spread), { rate } = problem;
    const kernel = meanKernel(weights, first, problem);
    const label = labelForce(weights, first, problem);
    const noise = noiseForce(weights, kernel, first, problem);
    const change = sumOf(-rate, label.gradient, -rate, noise.gradient);
    change[0] = times(change[0], problem.products); // by the gradient of W_1
    return { loss: label.loss + noise.R, change, kernel };
  }

  // (1 + steps A)^{-1} with A = r D J D^T, the linear pull of the mean output to f:
  // 1 - D c J (1 + c Theta J)^{-1} D^T, where c = r steps and D q = (B_l q h_{l-1}^T)_l.
  function stiff({ layers, errors, theta }, problem, steps) {
    const { J, one, shares, meanProducts } = problem, c = problem.rate * steps;
    const M = times(J, inverse(combined(1, one, c, times(theta, J))));
    const h = layers.map(({ values }) => values);
    const inputs = [shares, ...h], outer = [meanProducts, ...h].map(turned);
    return (change) => {
      const moved = change.map((W, l) => times(turned(errors[l]), times(W, inputs[l])));
      const q = scaled(c, times(M, moved.reduce(plus)));
      return change.map((W, l) => combined(1, W, -1, times(times(errors[l], q), outer[l])));
    };
  }

  // The change over so many steps of SGD, an estimate of its error, loss + R: ROS2 of Verwer
  // et al. (1999), stable however fast the pull is, which alone is treated implicitly.
  function advance(weights, problem, steps) {
    const { loss, change: slope, kernel } = flow(weights, problem);
    const solve = stiff(kernel, problem, (1 - Math.SQRT1_2) * steps), k1 = solve(slope);
    const next = flow(sumOf(1, weights, steps, k1), problem).change;
    const k2 = solve(sumOf(1, next, -2, k1));
    const change = sumOf(1.5 * steps, k1, 0.5 * steps, k2);
    return { change, error: sumOf(0.5 * steps, k1, 0.5 * steps, k2), loss };
  }

  const clip = (value, low, high) => Math.min(Math.max(value, low), high);

  // The largest change of a layer relative to itself; of z_1, to 1.
  const largestShare = (change, weights) => Math.max(...weights.map((W, l) =>
    norm(change[l]) / (l > 0 ? norm(W) + 1e-6 : Math.sqrt(dot(W, W) + W.data.length))));

  // Follows a network until loss + R falls to a target below H0, or for so many steps.
  // After MAX_STEPS it creeps, at another saddle, and theory gives up.
  function integrate(weights, problem, steps) {
    const { TOLERANCE, MAX_STEPS, LEFT } = PLATEAU;
    const target = (LEFT - 1) * problem.f.data.reduce((sum, f) => sum + f * Math.log(f), 0);
    const course = { leaves: NaN, steps: [], loss: [] };
    let [now, length, before, lossBefore] = [0, 1, 0, 0];
    while (course.steps.length < MAX_STEPS) {
      forget();
      const { change, error, loss } = advance(weights, problem, length);
      course.steps.push(now);
      course.loss.push(loss);
      const isOut = loss < target && now > 0;
      if (isOut || now >= steps) { // when between two steps it crossed
        const share = (lossBefore - target) / Math.max(lossBefore - loss, 1e-12);
        course.leaves = isOut ? before + clip(share, 0, 1) * (now - before) : Infinity;
        return course;
      }
      [before, lossBefore] = [now, loss];
      const share = largestShare(error, weights);
      const grown = length * clip(Math.sqrt(TOLERANCE / (share + 1e-300)), 0.3, 2);
      if (share < 2 * TOLERANCE) {
        weights = sumOf(1, weights, 1, change).map(copied);
        now += length;
      }
      length = Math.min(Number.isFinite(grown) ? grown : 0.3 * length, Math.max(steps - now, 1));
    }
    return course;
  }

  // Whether a network begins on the plateau, with a rate at which it settles there.
  function isKnown(weights, problem) {
    const { shares, rate, J } = problem, first = sigmoids(weights[0], problem.spread);
    const { logits } = forward(weights, first), { theta } = meanKernel(weights, first, problem);
    const away = combined(1, logits, -1, times(logits, times(shares, filled(1, shares.rows, 1))));
    const variances = times(entriesTimes(away, away), shares);
    const alike = dot(variances, filled(J.rows, 1, 1 / J.rows)) < PLATEAU.ALIKE ** 2;
    return alike && spectralRadius(scaled(rate / 2, times(J, theta))) < PLATEAU.STABLE;
  }

  // Steps of SGD until the network leaves the plateau, Infinity if not within `steps`, NaN
  // if theory does not say; and loss + R on the way there. z1: W_1 x_c of every cloud,
  // (H_1 x M); v: w . Sigma w of every unit of layer 1; upper: W_2 .. W_L; sizes: [D, H_1,
  // .., K]; clouds: { labels, shares, products: of mean images, (M x M), frequencies }.
  return ({ z1, v, upper, sizes, clouds, rate, batchSize, steps }) => {
    forget();
    const [f, shares] = [clouds.frequencies, clouds.shares].map((a) => matrix(a.length, 1, a));
    const products = matrix(shares.rows, shares.rows, clouds.products), one = identity(f.rows);
    const meanProducts = copied(times(products, shares)), { labels } = clouds;
    // The slope of the softmax at f.
    const J = copied(combined(1, entriesTimes(one, f), -1, times(f, turned(f))));
    const spread = v.map((variance) => Math.sqrt(Math.max(variance, 0))); // rounding
    const fixed = { meanSquare: dot(shares, meanProducts), meanProducts, products, one, f, J };
    const problem = { ...fixed, spread, labels, shares, rate, batchSize };
    const weights = [z1, ...upper].map((data, l) =>
      matrix(sizes[l + 1], l > 0 ? sizes[l] : shares.rows, data));
    const known = weights.length > 2 && isKnown(weights, problem);
    return known ? integrate(weights, problem, steps) : { leaves: NaN, steps: [], loss: [] };
  };
})();
