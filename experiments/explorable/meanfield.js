// What mean field theory says of gradients before the first step: snn_jax/meanfield.py,
// for weights that are drawn by any of the initializers.

// Of a standard normal number, at points g = 10 sinh(6 u) / sinh(6), u even from -1 to 1:
// close to each other at 0, where a sigmoid of large sums turns over, but not at 0, where
// ReLU bends.
const EVEN = Float64Array.from({ length: 400 }, (_, i) => -1 + 2 * i / 399);
const GRID = EVEN.map((u) => 10 * Math.sinh(6 * u) / Math.sinh(6));
const DENSITY = GRID.map((g, i) => Math.cosh(6 * EVEN[i]) * Math.exp(-g * g / 2));
const MASS = DENSITY.reduce((sum, x) => sum + x, 0);
const expected = (of) => GRID.reduce((sum, g, i) => sum + DENSITY[i] * of(g), 0) / MASS;

// E |p - e_y|^2 for logits of variance q and classes that are equally frequent, that is
// E |p|^2 + 1 - 2 / K, over fixed samples.
const SAMPLES = normals(foldIn(rootKey, 2 ** 32 - 1), 20000);
function topError(q, K) {
  let total = 0, count = 0;
  const p = new Float64Array(K), r = Math.sqrt(q);
  for (let from = 0; from + K <= SAMPLES.length; from += K, count++) {
    let largest = -Infinity, sum = 0;
    for (let k = 0; k < K; k++) largest = Math.max(largest, r * SAMPLES[from + k]);
    for (let k = 0; k < K; k++) sum += p[k] = Math.exp(r * SAMPLES[from + k] - largest);
    for (let k = 0; k < K; k++) total += (p[k] / sum) ** 2;
  }
  return total / count + 1 - 2 / K;
}

// Rms over images and weights of one image's gradient, layer by layer.
//
//     q_1 = v_1 |x|^2,   q_{l+1} = H v_{l+1} E f(sqrt(q_l) g)^2              (up)
//     E delta_l^2 = v_{l+1} E f'(sqrt(q_l) g)^2 |delta_{l+1}|^2              (down)
//
// with v_l the variance of one of the weights. Weights whose rows and columns sum to 0
// see of f what differs from its mean, E f^2 - (E f)^2. Errors have no mean to lose: those
// of the softmax sum to 0, and so does what comes through such weights. In these H - 1
// directions of H the variance of a weight counts for H / (H - 1) of it.
function meanFieldGradientRms({ sizes, variances, centred, f, slope, squaredNorms }) {
  const L = sizes.length - 1, totals = new Float64Array(L);
  const spanned = (H) => centred ? H / (H - 1) : 1;
  for (const square of squaredNorms) {
    let q = variances[0] * square;
    const inputs = [square], slopes = [];
    for (let l = 1; l < L; l++) {
      const r = Math.sqrt(q), H = sizes[l];
      const mean = centred ? expected((g) => f(r * g)) : 0;
      const squares = expected((g) => f(r * g) ** 2);
      slopes.push(expected((g) => slope(r * g) ** 2));
      inputs.push(H * squares);
      q = H * variances[l] * spanned(H) * (squares - mean ** 2);
    }
    let error = topError(q, sizes[L]);
    totals[L - 1] += error * inputs[L - 1];
    for (let l = L - 1; l >= 1; l--) {
      const H = sizes[l];
      error = H * variances[l] * spanned(H) * slopes[l - 1] * error;
      totals[l - 1] += error * inputs[l - 1];
    }
  }
  return Array.from(totals, (total, l) =>
    Math.sqrt(total / squaredNorms.length / (sizes[l] * sizes[l + 1])));
}
