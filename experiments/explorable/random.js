// Random numbers of JAX, so that a seed is the same network here as in the package.
// A key is a pair of 32-bit numbers.

// Threefry-2x32, 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as
// 1, 2, 3"), the generator behind jax.random.key.
const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

function threefry([k0, k1], x0, x1) {
  const keys = [k0, k1, k0 ^ k1 ^ 0x1bd11bda];
  x0 = (x0 + k0) | 0;
  x1 = (x1 + k1) | 0;
  for (let round = 0; round < 5; round++) {
    for (const r of ROTATIONS[round % 2]) {
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0;
    }
    x0 = (x0 + keys[(round + 1) % 3]) | 0;
    x1 = (x1 + keys[(round + 2) % 3] + round + 1) | 0;
  }
  return [x0 >>> 0, x1 >>> 0];
}

const rootKey = [0, 0]; // jax.random.key(0)
const foldIn = (key, number) => threefry(key, 0, number);
const split = (key) => [threefry(key, 0, 0), threefry(key, 0, 1)];

function bits(key, count) {
  const found = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const [a, b] = threefry(key, 0, i);
    found[i] = a ^ b;
  }
  return found;
}

// The inverse of the error function, by Giles's polynomials (2010, "Approximating the
// erfinv function", table 5), which JAX uses too.
const NEAR = [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6,
  0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941];
const FAR = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844,
  0.00573950773, -0.0076224613, 0.00943887047, 1.00167406, 2.83297682];

function inverseErf(x) {
  const w = -Math.log1p(-Math.fround(x * x)); // rounded as there: it matters near 1
  const [terms, at] = w < 5 ? [NEAR, w - 2.5] : [FAR, Math.sqrt(w) - 3];
  return x * terms.reduce((sum, term) => sum * at + term, 0);
}

// Standard normal numbers: sqrt(2) erfinv(u), u uniform between -1 and 1.
function normals(key, count) {
  const lowest = -1 + 2 ** -24;
  return Float64Array.from(bits(key, count), (random) => {
    const u = Math.fround((random >>> 9) * 2 ** -22 + lowest);
    return Math.fround(Math.SQRT2 * inverseErf(Math.max(u, lowest)));
  });
}

// Of 0 .. n - 1, by sorting them by random numbers, in as many rounds as make ties
// harmless.
function permutation(key, n) {
  let order = Array.from({ length: n }, (_, i) => i);
  for (let rounds = Math.ceil(3 * Math.log(n) / Math.log(2 ** 32 - 1)); rounds; rounds--) {
    const [next, now] = split(key);
    const by = bits(now, n);
    const places = Array.from(by.keys()).sort((i, j) => by[i] - by[j]);
    order = places.map((i) => order[i]);
    key = next;
  }
  return Uint32Array.from(order);
}

// The key of a network's initial weights, and of an epoch's shuffle, from 1 on.
const weightsKey = (seed) => foldIn(foldIn(rootKey, 0), seed);
const batchesKey = (epoch) => foldIn(foldIn(rootKey, 1), epoch);
