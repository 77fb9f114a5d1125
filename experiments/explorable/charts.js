// Pictures as SVG text. Their colours are in style.css, so that light and dark are too.

const escaped = (text) => String(text).replace(/[&<>"]/g, (c) =>
  ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

function tag(name, attributes, inside = "") {
  const listed = Object.entries(attributes).map(([k, v]) => ` ${k}="${escaped(v)}"`);
  return `<${name}${listed.join("")}>${inside}</${name}>`;
}

const text = (x, y, words, attributes = {}) =>
  tag("text", { x: x.toFixed(1), y: y.toFixed(1), ...attributes }, escaped(words));
const line = (x1, y1, x2, y2, style) => tag("line", { x1: x1.toFixed(1), y1: y1.toFixed(1),
  x2: x2.toFixed(1), y2: y2.toFixed(1), class: style });
const box = (x, y, width, height, attributes) => tag("rect", { x: x.toFixed(1),
  y: y.toFixed(1), width: Math.max(0, width).toFixed(1),
  height: Math.max(0, height).toFixed(1), ...attributes });

function path(points, style) {
  const d = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`);
  return tag("path", { d: d.join(""), class: style });
}

// Numbers as one says them: 12,345; 2.3 million; 0.012; 3.1e-9.
function said(x) {
  if (!Number.isFinite(x)) return "no number";
  const size = Math.abs(x);
  if (size >= 1e6) return `${Number((x / 1e6).toPrecision(3))} million`;
  if (size >= 1000) return Math.round(x).toLocaleString("en");
  if (size >= 0.001 || x === 0) return String(Number(x.toPrecision(3)));
  return x.toExponential(1);
}

// A step of 1, 2 or 5 times a power of ten, so that about `count` of them fill a range.
function niceStep(range, count) {
  const rough = range / count, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

// Curves over steps of SGD. `lines` are { points, style }, `levels` { y, words }, `moment`
// { x, from, to, words } with a band, all in units of the axes.
function lineChart(element, { xMax, yMax, yStep, yWords, lines, levels, moment }) {
  const width = element.clientWidth, height = 210;
  const left = 42, right = 10, top = 14, bottom = 34;
  const X = (x) => left + (width - left - right) * Math.min(x / xMax, 1);
  const Y = (y) => height - bottom - (height - top - bottom) * clipped(y / yMax, 0, 1);
  const parts = [];
  for (let y = 0; y <= yMax * 1.001; y += yStep) {
    parts.push(line(left, Y(y), width - right, Y(y), "grid"));
    parts.push(text(left - 5, Y(y) + 4, yWords(y), { class: "tick", "text-anchor": "end" }));
  }
  const step = niceStep(xMax, width < 420 ? 3 : 5);
  for (let x = 0; x <= xMax * 1.001; x += step) {
    const end = X(x) > width - 40 ? "end" : "middle";
    parts.push(text(end === "end" ? width - right : X(x), height - bottom + 15, said(x),
      { class: "tick", "text-anchor": end }));
  }
  parts.push(text((left + width - right) / 2, height - 4, "steps of SGD",
    { class: "tick", "text-anchor": "middle" }));
  if (moment && moment.x <= xMax) {
    parts.push(box(X(moment.from), top, X(moment.to) - X(moment.from),
      height - top - bottom, { class: "band" }));
    parts.push(line(X(moment.x), top, X(moment.x), height - bottom, "moment"));
    const end = X(moment.x) > width * 0.6;
    parts.push(text(X(moment.x) + (end ? -5 : 5), height - bottom - 8, moment.words,
      { class: "note", "text-anchor": end ? "end" : "start" }));
  }
  for (const { y, words } of levels) {
    parts.push(line(left, Y(y), width - right, Y(y), "level"));
    const early = moment && moment.x > xMax / 2; // out of the way of the other mark
    parts.push(text(early ? left + 4 : width - right, Y(y) - 6, words,
      { class: "note", "text-anchor": early ? "start" : "end" }));
  }
  for (const { points, style } of lines) {
    const there = points.filter(([x, y]) => x <= xMax && Number.isFinite(y));
    if (there.length) parts.push(path(there.map(([x, y]) => [X(x), Y(y)]), style));
    if (there.length && there[0][1] > yMax) {
      parts.push(text(left + 4, top + 10, "↑ begins above", { class: "note" }));
    }
  }
  element.innerHTML = tag("svg", { width, height, "aria-hidden": "true" }, parts.join(""));
}

const clipped = (x, low, high) => Math.min(Math.max(x, low), high);

// Eleven decades, from 1e-11 to 1, as a share of a width.
const DECADES = 11;
const inDecades = (x) => x > 0 ? clipped(1 + Math.log10(x) / DECADES, 0, 1) : 0;

// Bars over eleven decades, a row each: { words, bars: [{ value, style }], mark }. Several
// bars of a row stand side by side, each in a part of its own with its own scale.
function decadeChart(element, { rows, heads, rowHeight }) {
  const width = element.clientWidth, left = 54, gap = 12, top = 18, bottom = 30;
  const height = top + rows.length * rowHeight + bottom, count = heads.length;
  const part = (width - left - gap * count) / count;
  const number = Math.min(58, part / 3), room = part - number;
  const from = (i) => left + i * (part + gap);
  const parts = [];
  heads.forEach((words, i) => {
    parts.push(text(from(i), 11, words, { class: "tick" }));
    for (let decade = -DECADES; decade <= 0; decade++) {
      const x = from(i) + room * (1 + decade / DECADES), shown = decade % 5 === 0;
      parts.push(line(x, top, x, height - bottom, "grid"));
      if (!shown) continue;
      parts.push(text(x, height - bottom + 14, decade ? `1e${decade}` : "1",
        { class: "tick", "text-anchor": "middle" }));
    }
  });
  rows.forEach(({ words, bars }, row) => {
    const y = top + row * rowHeight, thick = rowHeight * 0.62;
    const middle = y + rowHeight / 2 + 4;
    parts.push(text(left - 6, middle, words, { class: "tick", "text-anchor": "end" }));
    bars.forEach(({ value, style, mark }, i) => {
      const x = from(i);
      parts.push(box(x, y + (rowHeight - thick) / 2, room * inDecades(value), thick,
        { class: style }));
      if (mark > 0) {
        const at = x + room * inDecades(mark);
        parts.push(line(at, y + 1, at, y + rowHeight - 1, "mark"));
      }
      if (rowHeight >= 12) {
        parts.push(text(x + part, middle, said(value),
          { class: "tick", "text-anchor": "end" }));
      }
    });
  });
  element.innerHTML = tag("svg", { width, height, "aria-hidden": "true" }, parts.join(""));
}
