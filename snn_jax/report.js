// Shows what is behind the parts of a figure. Beside the figure lies JSON that report.py
// wrote: for each part, by its id in the SVG, a title, charts and a table.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM, PAD] = [320, 210, 40, 18, 34, 6];
  const WAYS = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  const html = (name, attributes = {}, ...children) =>
    filled(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    filled(document.createElementNS(SVG, name), attributes, children);

  // An axis: where between 0 and 1 a number lies, and the numbers that are written.
  function linear(known, limits) {
    let [low, high] = limits ?? [Math.min(...known), Math.max(...known)];
    if (!(low < high)) [low, high] = [low - 0.5, low + 0.5];
    const about = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(about));
    let step = [1, 2, 5, 10].map(n => n * power).find(n => n >= 0.999 * about);
    if (known.every(Number.isInteger)) step = Math.max(1, step);
    const ticks = [];
    for (let n = Math.ceil(low / step); n * step <= high; n++) {
      ticks.push([n * step, String(Number((n * step).toPrecision(6)))]);
    }
    return { place: value => (value - low) / (high - low), ticks };
  }

  function logarithmic(known, limits) {
    const ends = limits ?? [Math.min(...known), Math.max(...known)];
    const low = Math.floor(Math.log10(ends[0]));
    const high = Math.max(low + 1, Math.ceil(Math.log10(ends[1])));
    const raised = n => [...String(n)].map(c => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
    const ticks = [];
    for (let n = low; n <= high; n += Math.ceil((high - low) / 4)) {
      ticks.push([10 ** n, "10" + raised(n)]);
    }
    return { place: value => (Math.log10(value) - low) / (high - low), ticks };
  }

  // One line; points that are null are gaps, and a point between two gaps is a dot.
  function line(kind, points) {
    if (kind === "mark") {
      const there = points.filter(point => point);
      return there.map(([x, y]) => svg("path", { class: kind, d: `M${x} ${y}l-4-8h8z` }));
    }
    let path = "", drawing = false;
    for (const point of points) {
      if (point) path += drawing ? `L${point.join(" ")}` : `M${point.join(" ")}`;
      drawing = point !== null;
    }
    const dotted = kind === "hollow" || kind === "full";
    const dots = points.filter((point, i) =>
      point && (dotted || !(points[i - 1] || points[i + 1])));
    return [
      svg("path", { class: kind, d: path }),
      ...dots.map(([x, y]) => svg("circle", { class: kind, cx: x, cy: y, r: 2.6 })),
    ];
  }

  function legend(group) {
    const [y, x] = group.kind === "mark" ? [11, [13]] : [6, [3, 23]];
    const sample = svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" },
      ...line(group.kind, x.map(x => [x, y])));
    const empty = !group.x.length || group.y.flat().every(value => value === null);
    return html("li", {}, sample, group.name + (empty ? " (nothing to show)" : ""));
  }

  function draw(chart) {
    const finite = values => values.filter(value => value !== null);
    const xs = finite(chart.lines.flatMap(group => group.x));
    const ys = finite(chart.lines.flatMap(group => group.y.flat()));
    const across = linear(xs.length ? xs : [0, 1], null);
    const up = (chart.log ? logarithmic : linear)(ys.length ? ys : [1], chart.limits);
    const [width, height] = [WIDTH - LEFT - 1, HEIGHT - TOP - BOTTOM];
    // What is far outside leaves the frame, which cuts it off.
    const at = (share, length) =>
      Number((PAD + Math.min(2, Math.max(-1, share)) * (length - 2 * PAD)).toFixed(1));
    const right = x => at(across.place(x), width);
    const down = y => at(1 - up.place(y), height);
    const grid = [], inside = [], words = [];
    for (const [value, text] of across.ticks) {
      const x = right(value);
      grid.push(svg("path", { class: "grid", d: `M${x} 0V${height}` }));
      words.push(svg("text", { x: LEFT + x, y: TOP + height + 14, "text-anchor": "middle" }, text));
    }
    for (const [value, text] of up.ticks) {
      const y = down(value);
      grid.push(svg("path", { class: "grid", d: `M0 ${y}H${width}` }));
      words.push(svg("text", { x: LEFT - 5, y: TOP + y + 4, "text-anchor": "end" }, text));
    }
    for (const { kind, x, y } of chart.lines) {
      for (const ys of y) {
        const known = x.map((_, i) => x[i] !== null && ys[i] !== null);
        const points = x.map((_, i) => (known[i] ? [right(x[i]), down(ys[i])] : null));
        inside.push(...line(kind, points));
      }
    }
    const label = `${chart.title}: ${chart.y_label} against ${chart.x_label}`;
    const picture = svg(
      "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
      svg("svg", { x: LEFT, y: TOP, width, height }, ...grid, ...inside),
      svg("rect", { class: "grid", x: LEFT, y: TOP, width, height }),
      ...words,
      svg("text", { x: 0, y: 11 }, chart.y_label),
      svg("text", { x: WIDTH - 1, y: HEIGHT - 4, "text-anchor": "end" }, chart.x_label),
    );
    const names = html("ul", {}, ...chart.lines.map(legend));
    return html("div", {}, html("h4", {}, chart.title), picture, names);
  }

  function tabulate([head, ...rows]) {
    const row = (cells, name) => html("tr", {}, ...cells.map((text, i) =>
      html(name, /^[-0-9]/.test((rows[0] ?? head)[i]) ? { class: "n" } : {}, text)));
    return html("div", { class: "scroll" }, html("table", {},
      html("thead", {}, row(head, "th")),
      html("tbody", {}, ...rows.map(cells => row(cells, "td")))));
  }

  // The part that lies next in a direction, nearly straight ahead.
  function neighbour(parts, part, [dx, dy]) {
    const centre = element => {
      const box = element.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const [x, y] = centre(part);
    let [nearest, least] = [part, Infinity];
    for (const other of parts) {
      const [u, v] = centre(other);
      const ahead = (u - x) * dx + (v - y) * dy;
      const cost = ahead + 3 * (Math.abs((u - x) * dy) + Math.abs((v - y) * dx));
      if (ahead > 1 && cost < least) [nearest, least] = [other, cost];
    }
    return nearest;
  }

  // A frame that can be laid around any part, dark on light.
  function ring(kind) {
    const frames = [`ring halo ${kind}`, `ring ${kind}`].map(name => svg("rect", { class: name }));
    return part => {
      frames.forEach(frame => frame.remove());
      if (part === null) return;
      const { x, y, width, height } = part.getBBox();
      const inside = { x: x + 1, y: y + 1, width: width - 2, height: height - 2 };
      frames.forEach(frame => filled(frame, inside, []));
      part.parentNode.append(...frames);
    };
  }

  function start(area) {
    const figure = area.previousElementSibling, picture = figure.querySelector("svg");
    const shown = area.querySelector("div");
    const [mark, focus] = [ring("chosen"), ring("focus")];
    const details = JSON.parse(area.querySelector("script").textContent);
    const parts = details.map(([id]) => picture.getElementById(id));
    const reachable = part => parts.forEach(each => {
      each.setAttribute("tabindex", each === part ? 0 : -1);
    });

    function choose(part) {
      const { title, charts, table } = details[parts.indexOf(part)][1];
      parts.forEach(each => each.setAttribute("aria-pressed", each === part));
      reachable(part);
      mark(part);
      shown.replaceChildren(
        html("h3", {}, title),
        html("div", { class: "charts" }, ...charts.map(draw)),
        ...(table.length ? [tabulate(table)] : []),
      );
    }

    function press(event, part) {
      if (event.key in WAYS) {
        const next = neighbour(parts, part, WAYS[event.key]);
        reachable(next);
        next.focus();
      } else if (event.key === "Enter" || event.key === " ") {
        choose(part);
      } else {
        return;
      }
      event.preventDefault();
    }

    parts.forEach((part, i) => {
      filled(part, { role: "button", "aria-label": details[i][1].title }, []);
      part.addEventListener("click", () => choose(part));
      part.addEventListener("keydown", event => press(event, part));
      part.addEventListener("focus", () => focus(part.matches(":focus-visible") ? part : null));
      part.addEventListener("blur", () => focus(null));
    });
    // What is in a picture is not read aloud, what is in a group is.
    picture.setAttribute("role", "group");
    figure.classList.add("choosable");
    area.hidden = false;
    choose(parts[0]);
    shown.setAttribute("aria-live", "polite");  // from now on
  }

  document.querySelectorAll(".detail").forEach(start);
})();
