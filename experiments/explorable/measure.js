// Numbers of a network: what the package's signals and evaluations are, here.

// Mean loss and accuracy over all images.
function evaluate(network, images, room) {
  const n = images.label.length;
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let loss = 0, right = 0;
  for (let from = 0; from < n; from += room.batchSize) {
    forward(network, images, order, from, Math.min(room.batchSize, n - from), room);
    loss += room.loss;
    right += room.right;
  }
  return { loss: loss / n, accuracy: Number.isFinite(loss) ? right / n : NaN };
}

// Of the first images of a set, as many as there is room for: for each layer
//   gradient    rms over images and weights of one image's gradient, |delta_l| |a_{l-1}|
// and for each hidden layer
//   spread      standard deviation of the activations over images, rms over units
//   saturation  share of (unit, image) pairs whose slope is below 4 % of its largest
function measure(network, images, room) {
  const { sizes, W, activation } = network, L = W.length;
  const count = Math.min(room.batchSize, images.label.length);
  const batch = Uint32Array.from({ length: count }, (_, i) => i);
  forward(network, images, batch, 0, count, room);
  backward(network, images, batch, 0, count, room);
  const gradient = [], spread = [], saturation = [];
  let below = Array.from(batch, (i) => squaredNorm(images, i));
  for (let l = 1; l <= L; l++) {
    const delta = rowSquares(room.delta[l], count, sizes[l]);
    const sum = below.reduce((total, square, b) => total + square * delta[b], 0);
    gradient.push(Math.sqrt(sum / (count * sizes[l] * sizes[l - 1])));
    if (l === L) break;
    below = rowSquares(room.a[l], count, sizes[l]);
    spread.push(spreadOf(room.a[l], count, sizes[l]));
    const least = 4 * 0.01 * 0.99 * STEEPEST[activation];
    const slopes = room.slope[l].subarray(0, count * sizes[l]);
    saturation.push(slopes.reduce((s, x) => s + (x < least ? 1 : 0), 0) / slopes.length);
  }
  return { gradient, spread, saturation };
}

function squaredNorm({ start, value }, image) {
  let square = 0;
  for (let n = start[image]; n < start[image + 1]; n++) square += value[n] ** 2;
  return square;
}

function rowSquares(values, count, width) {
  return Array.from({ length: count }, (_, b) => {
    let square = 0;
    for (let i = b * width; i < (b + 1) * width; i++) square += values[i] ** 2;
    return square;
  });
}

// Mean over images, then what is left: no digits are lost where all images are alike.
function columnMeans(values, count, width) {
  const means = new Float64Array(width);
  for (let n = 0; n < count * width; n++) means[n % width] += values[n] / count;
  return means;
}

function spreadOf(values, count, width) {
  const means = columnMeans(values, count, width);
  let square = 0;
  for (let n = 0; n < count * width; n++) square += (values[n] - means[n % width]) ** 2;
  return Math.sqrt(square / (count * width));
}

// The digits that are shown, layer by layer: their activations, how far each is from the
// mean of the others in the set (ink), and their errors, rms over units.
function watch(network, images, shown, room) {
  const { sizes, W } = network, L = W.length, count = shown.length;
  forward(network, images, shown, 0, count, room);
  backward(network, images, shown, 0, count, room);
  const activations = [], ink = [], error = [];
  for (let l = 1; l <= L; l++) {
    const width = sizes[l], a = room.a[l].slice(0, count * width);
    const means = columnMeans(a, count, width);
    activations.push(a);
    ink.push(rowSquares(a.map((x, n) => x - means[n % width]), count, width)
      .map((square) => Math.sqrt(square / width)));
    error.push(rowSquares(room.delta[l], count, width)
      .map((square) => Math.sqrt(square / width)));
  }
  return { activations, ink, error };
}

// What the theory of the plateau wants to know of a set of images, in clouds.
function cloudStatistics(images, cloud, numClasses) {
  const n = images.label.length, M = Math.max(...cloud) + 1, D = 784;
  const labels = new Array(M), shares = new Float64Array(M);
  const frequencies = new Float64Array(numClasses), means = new Float64Array(M * D);
  for (let i = 0; i < n; i++) {
    shares[cloud[i]] += 1 / n;
    labels[cloud[i]] = images.label[i];
    frequencies[images.label[i]] += 1 / n;
    for (let k = images.start[i]; k < images.start[i + 1]; k++) {
      means[cloud[i] * D + images.pixel[k]] += images.value[k] / n;
    }
  }
  for (let k = 0; k < means.length; k++) means[k] /= shares[Math.floor(k / D)];
  const products = new Float64Array(M * M);
  for (let c = 0; c < M; c++) {
    for (let d = 0; d < M; d++) {
      for (let k = 0; k < D; k++) products[c * M + d] += means[c * D + k] * means[d * D + k];
    }
  }
  return { labels, shares, frequencies, means, products };
}

// When a network of sigmoids leaves the plateau, from its initial weights.
function forecastOf(network, images, clouds, rate, batchSize, steps) {
  const { sizes, W } = network, H = sizes[1], M = clouds.shares.length;
  const z1 = new Float64Array(H * M), v = new Float64Array(H);
  for (let c = 0; c < M; c++) {
    for (let k = 0; k < sizes[0]; k++) {
      const x = clouds.means[c * sizes[0] + k];
      if (x) for (let i = 0; i < H; i++) z1[i * M + c] += W[0][k * H + i] * x;
    }
  }
  // Variance about the mean of a cloud: mean square less mean squares of the means.
  const n = images.label.length, z = new Float64Array(H);
  for (let image = 0; image < n; image++) {
    z.fill(0);
    for (let k = images.start[image]; k < images.start[image + 1]; k++) {
      const weights = images.pixel[k] * H;
      for (let i = 0; i < H; i++) z[i] += W[0][weights + i] * images.value[k];
    }
    for (let i = 0; i < H; i++) v[i] += z[i] ** 2 / n;
  }
  for (let i = 0; i < H; i++) {
    for (let c = 0; c < M; c++) v[i] -= clouds.shares[c] * z1[i * M + c] ** 2;
  }
  const upper = W.slice(1);
  return plateauCourse({ z1, v, upper, sizes, clouds, rate, batchSize, steps });
}
