// The verdict on a network: snn_jax/diagnosis.py, for one network. Thresholds, claims and
// advice come from there in DIAGNOSIS.

// In as many looks again, at the pace of the last quarter.
function gainOf(known) {
  const end = known.length - 1;
  let seen = end - Math.max(1, Math.floor(end / 4));
  while (seen >= 0 && !Number.isFinite(known[seen])) seen--;
  return seen < 0 ? NaN : (known[end] - known[seen]) * end / (end - seen);
}

// Looks until a spread is large enough to leave, at the growth of its second half.
function extrapolated(spread) {
  const end = spread.length - 1, back = Math.max(1, Math.floor(end / 2));
  const now = spread[end], before = spread[end - back];
  if (Number.isNaN(now)) return NaN;
  if (now >= DIAGNOSIS.READY_TO_LEAVE) return 0;
  if (!(before > 0 && before < now)) return Infinity;
  return Math.log(DIAGNOSIS.READY_TO_LEAVE / now) / (Math.log(now / before) / back);
}

// The verdict if the loss alone decides it, else null; all as shares of H0.
function withoutLayers(known, gain, best, seen) {
  const D = DIAGNOSIS, start = known[0], now = known[known.length - 1];
  const recovers = gain >= D.LEARNING_GAIN;
  if (!Number.isFinite(now)) return "diverged";
  if (best - now > D.CONVERGED_CHANGE && !recovers) {
    if (seen - now > D.CONVERGED_CHANGE && seen > D.LEFT_PLATEAU) return "overfitting";
    if (best > D.LEFT_PLATEAU && now > -D.WORSE_THAN_PLATEAU) return "getting worse";
  }
  const lost = now < -D.HOPELESS || !recovers;
  if (now < -D.WORSE_THAN_PLATEAU && !(now >= start) && lost) return "diverged";
  if (now >= D.LEARNED) {
    if (gain < -D.LEARNING_GAIN) return "getting worse";
    return gain < D.CONVERGED_GAIN ? "converged" : "learning";
  }
  return null;
}

// From curves of equally spaced looks, two or more: information (H0 - test loss), spread
// of the top hidden layer, saturation above the first, training (H0 - training loss);
// and the forecast { look, earliest, latest }, or null.
function diagnose({ information, spread, saturation, training, entropy, forecast }) {
  const D = DIAGNOSIS, known = information.map((nats) => nats / entropy);
  const end = known.length - 1, now = known[end], gain = gainOf(known);
  const finite = known.filter(Number.isFinite);
  const best = finite.length ? Math.max(...finite) : NaN;
  const seen = training[end] / entropy, saturated = saturation[end];
  let toLeave = 0;
  let name = withoutLayers(known, gain, best, seen);
  if (name !== null) {
    // decided
  } else if (saturated > D.MOSTLY_SATURATED
      && (now < D.LEFT_PLATEAU || gain < D.LEARNING_GAIN)) {
    name = "saturated";
  } else if (now > D.LEFT_PLATEAU) {
    name = gain > D.LEARNING_GAIN ? "learning" : "slow";
  } else if (now < -D.WORSE_THAN_PLATEAU) {
    name = gain > D.LEARNING_GAIN ? "too early to tell" : "slow";
  } else {
    toLeave = extrapolated(spread);
    if (forecast && !(forecast.latest > end)) forecast = null; // it failed, or is none
    const stuck = forecast
      ? forecast.earliest > D.kinds.vanishing.horizon * end
      : toLeave > D.SAFETY * (D.kinds.vanishing.horizon - 1) * end;
    name = stuck ? "vanishing" : "too early to tell";
  }
  return { name, information: entropy * now, gain: entropy * gain, best: entropy * best,
    saturation: saturated, toLeave, ...DIAGNOSIS.kinds[name] };
}
