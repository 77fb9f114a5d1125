// The network: forward and backward pass, equations (1) to (4) of snn_jax/backprop.py,
// in double precision.
//
//     a_0 = x,   z_l = W_l a_{l-1},   a_l = f(z_l),   p = softmax(z_L),   loss = -ln p_y
//
// Batches are rows here: image b has its units side by side, in entries b H .. b H + H
// - 1. Weights are (fan_out x fan_in), a unit's weights side by side; but W_1 is kept by
// pixel, (784 x H), since four pixels in five are 0 and can be left out.

// f and its slope for n sums z. Each slope is written so that none of its digits is lost
// where a unit saturates: s'(z) = e / (1 + e)^2 with e = exp(-|z|).
const ACTIVATIONS = {
  sigmoid(z, a, slope, n) {
    for (let i = 0; i < n; i++) {
      const e = Math.exp(-Math.abs(z[i]));
      a[i] = (z[i] > 0 ? 1 : e) / (1 + e);
      slope[i] = e / ((1 + e) * (1 + e));
    }
  },
  centred_sigmoid(z, a, slope, n) { // 2 s(z) - 1 = tanh(z / 2)
    for (let i = 0; i < n; i++) {
      const e = Math.exp(-Math.abs(z[i]));
      a[i] = Math.tanh(z[i] / 2);
      slope[i] = 2 * e / ((1 + e) * (1 + e));
    }
  },
  tanh(z, a, slope, n) {
    for (let i = 0; i < n; i++) {
      const e = Math.exp(-2 * Math.abs(z[i]));
      a[i] = Math.tanh(z[i]);
      slope[i] = 4 * e / ((1 + e) * (1 + e));
    }
  },
  relu(z, a, slope, n) {
    for (let i = 0; i < n; i++) {
      a[i] = z[i] > 0 ? z[i] : 0;
      slope[i] = z[i] > 0 ? 1 : 0;
    }
  },
};
// The largest slope of each: of what saturates, see measure.js.
const STEEPEST = { sigmoid: 1 / 4, centred_sigmoid: 1 / 2, tanh: 1, relu: 1 };

// One number through an activation, for theory.
function pointwise(activation) {
  const z = new Float64Array(1), a = new Float64Array(1), slope = new Float64Array(1);
  const at = (x, which) => {
    z[0] = x;
    ACTIVATIONS[activation](z, a, slope, 1);
    return which[0];
  };
  return { f: (x) => at(x, a), slope: (x) => at(x, slope) };
}

// Columns of a (rows x columns) matrix made orthonormal, from left to right (Gram and
// Schmidt, twice against rounding): Q of the decomposition Q R with R's diagonal above 0.
function orthonormalColumns(A, rows, columns) {
  const Q = Float64Array.from(A);
  for (let j = 0; j < columns; j++) {
    for (let again = 0; again < 2; again++) {
      for (let k = 0; k < j; k++) {
        let along = 0;
        for (let i = 0; i < rows; i++) along += Q[i * columns + k] * Q[i * columns + j];
        for (let i = 0; i < rows; i++) Q[i * columns + j] -= along * Q[i * columns + k];
      }
    }
    let square = 0;
    for (let i = 0; i < rows; i++) square += Q[i * columns + j] ** 2;
    const norm = Math.sqrt(square);
    for (let i = 0; i < rows; i++) Q[i * columns + j] /= norm;
  }
  return Q;
}

function transpose(A, rows, columns) {
  const B = new Float64Array(A.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) B[j * rows + i] = A[i * columns + j];
  }
  return B;
}

function orthogonal(key, fanOut, fanIn) {
  const tall = fanIn > fanOut;
  const [rows, columns] = tall ? [fanIn, fanOut] : [fanOut, fanIn];
  const Q = orthonormalColumns(normals(key, rows * columns), rows, columns);
  return tall ? transpose(Q, rows, columns) : Q;
}

// Row k of the Helmert matrix of n: orthonormal rows, each of which sums to 0.
function helmert(k, i) {
  if (i > k + 1) return 0;
  return (i <= k ? 1 : -(k + 1)) / Math.sqrt((k + 1) * (k + 2));
}

// H_out^T Q H_in, Q orthogonal and one smaller: rows and columns sum to 0.
function centredOrthogonal(key, fanOut, fanIn) {
  const m = fanOut - 1, n = fanIn - 1, Q = orthogonal(key, m, n);
  const QH = new Float64Array(m * fanIn), W = new Float64Array(fanOut * fanIn);
  for (let i = 0; i < m; i++) {
    for (let k = 0; k < n; k++) {
      for (let j = 0; j <= k + 1; j++) QH[i * fanIn + j] += Q[i * n + k] * helmert(k, j);
    }
  }
  for (let k = 0; k < m; k++) {
    for (let i = 0; i <= k + 1; i++) {
      for (let j = 0; j < fanIn; j++) {
        W[i * fanIn + j] += helmert(k, i) * QH[k * fanIn + j];
      }
    }
  }
  return W;
}

// How weights are drawn at scale 1, (fan_out x fan_in), and the variance of one of them.
const scaled = (variance) => ({
  variance,
  draw: (key, fanOut, fanIn) =>
    normals(key, fanOut * fanIn).map((w) => w * Math.sqrt(variance(fanOut, fanIn))),
});
const INITIALIZERS = {
  normal: scaled(() => 1),
  lecun: scaled((fanOut, fanIn) => 1 / fanIn),
  glorot: scaled((fanOut, fanIn) => 2 / (fanIn + fanOut)),
  orthogonal: {
    variance: (fanOut, fanIn) => 1 / Math.max(fanOut, fanIn),
    draw: orthogonal,
  },
  centred_orthogonal: {
    variance: (fanOut, fanIn) =>
      Math.min(fanOut - 1, fanIn - 1) / (fanOut * fanIn),
    draw: centredOrthogonal,
  },
};

function initialWeights({ sizes, initializer, scale, seed }) {
  const key = weightsKey(seed);
  return sizes.slice(1).map((fanOut, l) => {
    const fanIn = sizes[l];
    const draw = INITIALIZERS[initializer].draw;
    const W = draw(split(foldIn(key, l + 1))[0], fanOut, fanIn);
    const whole = W.map((w) => Math.fround(scale * Math.fround(w)));
    return l === 0 ? transpose(whole, fanOut, fanIn) : whole;
  });
}

// Room for a batch of so many images: a_l, f'(z_l) and delta_l of every layer.
function roomFor(sizes, batchSize) {
  const make = () => sizes.map((size, l) => new Float64Array(l ? size * batchSize : 0));
  return { batchSize, z: make(), a: make(), slope: make(), delta: make(), loss: 0, right: 0 };
}

// Forward: fills z, a and slope, the last a being the probabilities p, and sums the loss
// and the right answers of the batch. `images` are { start, pixel, value, label }, the
// pixels of image i that are not 0 from start[i] to start[i + 1]; `batch` holds numbers
// of images, from `from` on.
function forward(network, images, batch, from, count, room) {
  const { sizes, W, activation } = network;
  const { start, pixel, value, label } = images;
  const H = sizes[1], z1 = room.z[1], W1 = W[0];
  for (let b = 0; b < count; b++) {
    const image = batch[from + b], row = b * H;
    for (let i = 0; i < H; i++) z1[row + i] = 0;
    for (let n = start[image]; n < start[image + 1]; n++) {
      const x = value[n], weights = pixel[n] * H;
      for (let i = 0; i < H; i++) z1[row + i] += W1[weights + i] * x;
    }
  }
  const L = W.length;
  for (let l = 1; l <= L; l++) {
    if (l > 1) layerUp(W[l - 1], room.a[l - 1], room.z[l], count, sizes[l - 1], sizes[l]);
    if (l < L) ACTIVATIONS[activation](room.z[l], room.a[l], room.slope[l], count * sizes[l]);
  }
  softmax(room, L, sizes[L], label, batch, from, count);
}

// z = W a for every image.
function layerUp(W, a, z, count, fanIn, fanOut) {
  for (let b = 0; b < count; b++) {
    const below = b * fanIn, above = b * fanOut;
    for (let i = 0; i < fanOut; i++) {
      let sum = 0;
      for (let j = 0, w = i * fanIn; j < fanIn; j++, w++) sum += W[w] * a[below + j];
      z[above + i] = sum;
    }
  }
}

function softmax(room, L, K, label, batch, from, count) {
  const z = room.z[L], p = room.a[L];
  room.loss = 0;
  room.right = 0;
  for (let b = 0; b < count; b++) {
    const row = b * K, y = label[batch[from + b]];
    let best = 0, sum = 0;
    for (let k = 1; k < K; k++) if (z[row + k] > z[row + best]) best = k;
    const largest = z[row + best];
    for (let k = 0; k < K; k++) sum += p[row + k] = Math.exp(z[row + k] - largest);
    for (let k = 0; k < K; k++) p[row + k] /= sum;
    room.loss += Math.log(sum) + largest - z[row + y];
    room.right += best === y ? 1 : 0;
  }
}

// Backward: delta_l, the derivative of each image's own loss by z_l.
function backward(network, images, batch, from, count, room) {
  const { sizes, W } = network, L = W.length, K = sizes[L];
  const p = room.a[L], top = room.delta[L];
  for (let n = 0; n < count * K; n++) top[n] = p[n];
  for (let b = 0; b < count; b++) top[b * K + images.label[batch[from + b]]] -= 1; // (1)
  for (let l = L - 1; l >= 1; l--) {
    const H = sizes[l], above = sizes[l + 1];
    const delta = room.delta[l], slope = room.slope[l], deltaAbove = room.delta[l + 1];
    for (let b = 0; b < count; b++) {
      const row = b * H;
      for (let j = 0; j < H; j++) delta[row + j] = 0;
      for (let i = 0; i < above; i++) {
        const error = deltaAbove[b * above + i];
        for (let j = 0, w = i * H; j < H; j++, w++) delta[row + j] += W[l][w] * error;
      }
      for (let j = 0; j < H; j++) delta[row + j] *= slope[row + j]; // (2)
    }
  }
}

// W_l -= rate dW_l, dW_l = delta_l a_{l-1}^T, the mean over the batch (3).
function descend(network, images, batch, from, count, room, rate) {
  const { sizes, W } = network, step = rate / count;
  const { start, pixel, value } = images;
  for (let l = W.length; l > 1; l--) {
    const fanIn = sizes[l - 1], fanOut = sizes[l], weights = W[l - 1];
    const delta = room.delta[l], a = room.a[l - 1];
    for (let b = 0; b < count; b++) {
      const below = b * fanIn;
      for (let i = 0; i < fanOut; i++) {
        const pull = step * delta[b * fanOut + i];
        for (let j = 0, w = i * fanIn; j < fanIn; j++, w++) weights[w] -= pull * a[below + j];
      }
    }
  }
  const H = sizes[1], W1 = W[0], delta = room.delta[1];
  for (let b = 0; b < count; b++) {
    const image = batch[from + b], row = b * H;
    for (let n = start[image]; n < start[image + 1]; n++) {
      const pull = step * value[n], weights = pixel[n] * H;
      for (let i = 0; i < H; i++) W1[weights + i] -= pull * delta[row + i];
    }
  }
}

// One step of SGD; returns the loss of the batch before it.
function trainOn(network, images, batch, from, count, room, rate) {
  forward(network, images, batch, from, count, room);
  backward(network, images, batch, from, count, room);
  descend(network, images, batch, from, count, room, rate);
  return room.loss / count;
}
