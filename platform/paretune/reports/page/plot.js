// The plot: a canvas with all trials, and one above it with what is pointed at or pinned.
const MARGIN = { left: 66, right: 18, top: 16, bottom: 50 };
const PALETTE = ["front", "b", "a", "eager", "rt", "bad"];   // colours of the targets' fronts
const P = { points: [], px: new Float64Array(COUNT), py: new Float64Array(COUNT), width: 0, height: 0, ratio: 1 };

const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const targetColour = name => D.targets.length < 2 ? "front" : PALETTE[D.targets.findIndex(target => target.name === name) % PALETTE.length];
const isBase = trial => own("kind", trial) in BASELINES;
const firm = Uint8Array.from({ length: COUNT }, (_, trial) => own("front", trial) || isBase(trial) ? 1 : 0);
/** Return whether a trial is on the front or a baseline. */
const strong = trial => firm[trial] === 1;

/** Draw everything again for the present choice. */
function drawPlot() {
  const box = byId("plot"), ratio = window.devicePixelRatio || 1;
  if (box.clientWidth < 160) return;   // a hidden page has no width
  P.width = box.clientWidth; P.ratio = ratio;
  P.height = Math.round(Math.max(320, Math.min(600, P.width * 0.5)));
  for (const id of ["base", "over"]) {
    const canvas = byId(id);
    canvas.width = Math.round(P.width * ratio); canvas.height = Math.round(P.height * ratio);
    canvas.style.height = P.height + "px";
  }
  P.x = axis(S.x); P.y = axis(S.y);
  P.points = shown().filter(trial => isNumber(P.x.values[trial]) && isNumber(P.y.values[trial]));
  P.logx = logarithmic("x"); P.logy = logarithmic("y");
  P.byX = [...P.points].sort((a, b) => P.x.values[a] - P.x.values[b] || a - b);
  setRanges();
  for (const trial of P.points) { P.px[trial] = across(P.x.values[trial]); P.py[trial] = down(P.y.values[trial]); }
  const c = byId("base").getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, P.width, P.height);
  c.font = "13px system-ui, sans-serif";
  drawAxes(c);
  c.save();
  c.beginPath(); c.rect(MARGIN.left, MARGIN.top - 2, plotWidth(), plotHeight() + 4); c.clip();
  drawLimits(c);
  drawPoints(c, P.points.filter(trial => !strong(trial)));
  drawFronts(c);
  c.restore();
  drawPoints(c, P.points.filter(trial => own("front", trial) && !isBase(trial)));
  drawPoints(c, P.points.filter(isBase));
  drawNumbers(c);
  placeStops();
  drawLegend();
  drawOver();
  byId("whole").hidden = !S.zoom;
}

const isNumber = value => typeof value === "number" && Number.isFinite(value);
const plotWidth = () => P.width - MARGIN.left - MARGIN.right, plotHeight = () => P.height - MARGIN.top - MARGIN.bottom;

/** Return whether an axis is logarithmic: as the reader chose, or else for costs that span a factor of 1.5. */
function logarithmic(which) {
  const { direction, values } = P[which], all = P.points.map(trial => values[trial]);
  const low = Math.min(...all), high = Math.max(...all), may = all.length > 0 && low > 0 && high > low;
  byId("log" + which).disabled = !may;
  const on = may && (S["log" + which] ?? (direction === "minimize" && high / low > 1.5));
  byId("log" + which).checked = on;
  return on;
}

/** Set the part of the plane that is shown: all costs, and the values of the trials that keep the constraints. */
function setRanges() {
  if (S.zoom) { [P.x0, P.x1, P.y0, P.y1] = S.zoom; if ((!P.logx || P.x0 > 0) && (!P.logy || P.y0 > 0)) return; }
  const fit = P.points.filter(trial => !["broken", "stopped", "failed"].includes(own("kind", trial)));
  const span = (which, log) => {
    const good = which.direction === "maximize" && fit.length ? fit : P.points, values = good.map(trial => which.values[trial]);
    for (const trial of good) if (own("front", trial)) values.push(...(interval(which.name, trial) || []).filter(end => !log || end > 0));
    for (const target of targetsShown()) values.push(...[target.floors[which.name], target.ceilings[which.name]].filter(value => isNumber(value) && (!log || value > 0)));
    if (!values.length) return [0, 1];
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    if (log) { const pad = Math.max(1.03, (high / low) ** 0.05); return [low / pad, high * pad]; }
    const pad = (high - low) * 0.07 || Math.abs(high) * 0.1 || 0.1;
    return [low - pad, high + pad];
  };
  [P.x0, P.x1] = span(P.x, P.logx); [P.y0, P.y1] = span(P.y, P.logy);
}
const share = (value, low, high, log) => log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
const across = value => MARGIN.left + share(value, P.x0, P.x1, P.logx) * plotWidth();
const exact = value => P.height - MARGIN.bottom - share(value, P.y0, P.y1, P.logy) * plotHeight();
/** Return the height of a value; those below the range lie on its lower edge, as long as the reader has not enlarged a part. */
const down = value => S.zoom ? exact(value) : Math.min(exact(value), P.height - MARGIN.bottom);
const inside = trial => P.px[trial] >= MARGIN.left - 1 && P.px[trial] <= P.width - MARGIN.right + 1 && P.py[trial] >= MARGIN.top - 1 && P.py[trial] <= P.height - MARGIN.bottom + 1;
const below = trial => !S.zoom && exact(P.y.values[trial]) > P.height - MARGIN.bottom + 0.5;
const targetsShown = () => D.targets.filter(target => !S.target || target.name === S.target);

/** Return some round numbers in a range. */
function ticks(low, high, log, most) {
  if (log) {
    for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
      const found = [];
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++)
        for (const step of steps) { const value = Number((step * 10 ** decade).toPrecision(3)); if (value >= low && value <= high) found.push(value); }
      if (found.length >= Math.min(4, most)) return found;
    }
  }
  const rough = (high - low) / most, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(times => times * unit).find(size => size >= rough), found = [];
  for (let place = Math.ceil(low / step); place * step <= high; place++) found.push(Number((place * step).toPrecision(6)));
  return found;
}

/** Return the text of a tick in the scale of its metric. */
function tickText(name, value) {
  const row = METRIC.get(name), scaled = Number((value / (row ? row.divisor : 1)).toPrecision(4));
  return Math.abs(scaled) >= 1e5 || (scaled && Math.abs(scaled) < 1e-4) ? scaled.toExponential() : String(scaled);
}

function drawAxes(c) {
  const right = P.width - MARGIN.right, bottom = P.height - MARGIN.bottom;
  c.strokeStyle = colour("grid"); c.fillStyle = colour("dim"); c.lineWidth = 1;
  c.textAlign = "center"; c.textBaseline = "top";
  let last = -Infinity;
  for (const tick of ticks(P.x0, P.x1, P.logx, Math.max(3, Math.floor(plotWidth() / 110)))) {
    const x = Math.round(across(tick)) + 0.5, words = tickText(S.x, tick), half = c.measureText(words).width / 2;
    c.beginPath(); c.moveTo(x, MARGIN.top); c.lineTo(x, bottom); c.stroke();
    if (x - half < last + 8 || x + half > P.width) continue;
    c.fillText(words, x, bottom + 7); last = x + half;
  }
  c.textAlign = "right"; c.textBaseline = "middle";
  for (const tick of ticks(P.y0, P.y1, P.logy, Math.max(3, Math.floor(plotHeight() / 60)))) {
    const y = Math.round(exact(tick)) + 0.5;
    c.beginPath(); c.moveTo(MARGIN.left, y); c.lineTo(right, y); c.stroke();
    c.fillText(tickText(S.y, tick), MARGIN.left - 8, y);
  }
  c.fillStyle = colour("ink"); c.textAlign = "center"; c.textBaseline = "bottom";
  const way = { minimize: " (less is better)", maximize: " (more is better)", null: "" };
  c.fillText(label(S.x) + way[P.x.direction] + (P.logx ? ", log scale" : ""), MARGIN.left + plotWidth() / 2, P.height - 4);
  c.save(); c.translate(4, MARGIN.top + plotHeight() / 2); c.rotate(-Math.PI / 2); c.textBaseline = "top";
  c.fillText(label(S.y) + way[P.y.direction] + (P.logy ? ", log scale" : ""), 0, 0); c.restore();
  if (!P.points.length) { c.fillStyle = colour("dim"); c.fillText(COUNT ? "no trial has both values and passes the filters" : "no trial is complete yet", P.width / 2, P.height / 2); }
}

/** Draw what the constraints allow on the present axes. */
function drawLimits(c) {
  c.strokeStyle = c.fillStyle = colour("bad"); c.lineWidth = 1.2; c.setLineDash([6, 4]);
  for (const target of targetsShown()) for (const [limits, words] of [[target.floors, "least allowed"], [target.ceilings, "most allowed"]]) {
    const [x, y] = [limits[S.x], limits[S.y]];
    c.beginPath();
    if (isNumber(x) && (!P.logx || x > 0)) { c.moveTo(across(x), MARGIN.top); c.lineTo(across(x), P.height - MARGIN.bottom); c.textAlign = "left"; c.textBaseline = "top"; c.fillText(words, across(x) + 5, MARGIN.top + 2); }
    if (isNumber(y)) { c.moveTo(MARGIN.left, exact(y)); c.lineTo(P.width - MARGIN.right, exact(y)); c.textAlign = "right"; c.textBaseline = "bottom"; c.fillText(words + " " + text(S.y, y), P.width - MARGIN.right - 4, exact(y) - 3); }
    c.stroke();
  }
  c.setLineDash([]);
}

/** Return the points of a target's step line: the sweep's front on its objectives, or the best ones on other axes. */
function lineOf(target) {
  const mine = P.byX.filter(trial => own("target", trial) === target.name);
  if ((S.x === COST && S.y === QUALITY) || (S.x === QUALITY && S.y === COST)) return mine.filter(trial => own("front", trial));
  if (!P.x.direction || !P.y.direction) return [];
  const better = (one, other, which) => which.direction === "minimize" ? which.values[one] < which.values[other] : which.values[one] > which.values[other];
  const order = P.x.direction === "minimize" ? mine : [...mine].reverse(), line = [];
  for (const trial of order) {
    if (!["front", "other", ...Object.keys(BASELINES)].includes(own("kind", trial))) continue;
    if (!line.length || better(trial, line[line.length - 1], P.y)) line.push(trial);
  }
  return P.x.direction === "minimize" ? line : line.reverse();
}

/** Draw the step line of each target, and the intervals of the trials on its front. */
function drawFronts(c) {
  for (const target of targetsShown()) {
    const line = lineOf(target), aims = [COST, QUALITY].includes(S.x) && [COST, QUALITY].includes(S.y);
    c.strokeStyle = colour(targetColour(target.name)); c.lineWidth = 2; c.setLineDash(aims ? [] : [3, 3]);
    c.beginPath();
    line.forEach((trial, place) => {
      const x = P.px[trial], y = P.py[trial];
      if (place === 0) { c.moveTo(x, y); return; }
      P.x.direction === "minimize" ? c.lineTo(x, P.py[line[place - 1]]) : c.lineTo(P.px[line[place - 1]], y);
      c.lineTo(x, y);
    });
    c.stroke(); c.setLineDash([]);
    c.globalAlpha = 0.45;
    for (const trial of P.points) if (own("front", trial) && own("target", trial) === target.name) drawInterval(c, trial);
    c.globalAlpha = 1;
  }
}

/** Draw the 95 % intervals of a trial: an ellipse if both values have one, or else a bar. */
function drawInterval(c, trial) {
  const wide = interval(S.x, trial), tall = interval(S.y, trial), x = P.px[trial], y = P.py[trial];
  const left = wide && (!P.logx || wide[0] > 0) ? [across(wide[0]), across(wide[1])] : null, high = tall && (!P.logy || tall[0] > 0) ? [exact(tall[1]), exact(tall[0])] : null;
  c.lineWidth = 3; c.beginPath();
  if (left) { c.moveTo(left[0], y); c.lineTo(left[1], y); }
  if (high) { c.moveTo(x, high[0]); c.lineTo(x, high[1]); }
  c.stroke();
  if (left && high) {
    c.save(); c.globalAlpha *= 0.35; c.fillStyle = c.strokeStyle; c.beginPath();
    c.ellipse((left[0] + left[1]) / 2, (high[0] + high[1]) / 2, (left[1] - left[0]) / 2, (high[1] - high[0]) / 2, 0, 0, 7); c.fill(); c.restore();
  }
}

/** Return the radius of a point: smaller where there are many. */
const radius = trial => strong(trial) ? 6 : P.points.length > 1500 ? 2.6 : P.points.length > 300 ? 3.5 : 5;

/** Draw one point around (0, 0). */
function drawShape(c, kind, r, fill) {
  c.beginPath();
  if (kind === "below") { c.moveTo(-r, -r - 2); c.lineTo(r, -r - 2); c.lineTo(0, 0); c.closePath(); }
  else if (kind === "eager") c.rect(-r, -r, 2 * r, 2 * r);
  else if (kind === "onnxruntime") { c.moveTo(0, -r - 1.5); c.lineTo(r + 1.5, 0); c.lineTo(0, r + 1.5); c.lineTo(-r - 1.5, 0); c.closePath(); }
  else if (kind === "stopped") { c.moveTo(-r * 0.8, -r * 0.8); c.lineTo(r * 0.8, r * 0.8); c.moveTo(-r * 0.8, r * 0.8); c.lineTo(r * 0.8, -r * 0.8); }
  else c.arc(0, 0, r, 0, 7);
  if (kind === "stopped" || fill === null) { c.lineWidth = 1.5; c.stroke(); if (fill === null && kind !== "stopped") { c.globalAlpha *= 0.6; c.fillStyle = colour("card"); c.fill(); } }
  else { c.fill(); c.lineWidth = 1.4; c.strokeStyle = colour("card"); c.stroke(); }
}
const kindColour = trial => ({ eager: "eager", onnxruntime: "rt" })[own("kind", trial)] || (own("front", trial) ? targetColour(own("target", trial)) : "other");

/** Draw points by stamps: a stamp for each kind is drawn once. */
function drawPoints(c, trials) {
  const stamps = new Map(), size = 20;
  for (const trial of trials) {
    if (!inside(trial)) continue;
    const kind = own("kind", trial), low = below(trial), ink = kindColour(trial), key = kind + low + ink;
    if (!stamps.has(key)) {
      const stamp = document.createElement("canvas"); stamp.width = stamp.height = size * P.ratio;
      const s = stamp.getContext("2d");
      s.scale(P.ratio, P.ratio); s.translate(size / 2, size / 2);
      s.fillStyle = s.strokeStyle = colour(ink);
      const hollow = kind === "broken" || kind === "stopped";
      drawShape(s, low ? "below" : kind, low ? Math.min(5, radius(trial) + 1) : radius(trial), hollow ? null : ink);
      stamps.set(key, stamp);
    }
    c.drawImage(stamps.get(key), P.px[trial] - size / 2, P.py[trial] - size / 2, size, size);
  }
}

/** Write the numbers of the front's trials and of the baselines, as far as they do not collide. */
function drawNumbers(c) {
  const taken = [], labelled = new Set(), marks = P.points.filter(trial => strong(trial) && inside(trial));
  c.font = "12.5px system-ui, sans-serif"; c.textBaseline = "middle"; c.textAlign = "left"; c.lineJoin = "round";
  const free = (box, mine) => box[0] >= MARGIN.left && box[2] <= P.width - 2 && box[1] >= MARGIN.top - 8 && box[3] <= P.height - MARGIN.bottom
    && !taken.some(other => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])
    && !marks.some(trial => trial !== mine && P.px[trial] > box[0] - 6 && P.px[trial] < box[2] + 6 && P.py[trial] > box[1] - 6 && P.py[trial] < box[3] + 6);
  const best = new Set(D.targets.map(target => target.best && placed(target, target.best.trial)));
  for (const trial of [...marks].sort((a, b) => best.has(b) - best.has(a) || isBase(b) - isBase(a))) {
    if (marks.some(other => labelled.has(other) && own("number", other) === own("number", trial) && Math.hypot(P.px[other] - P.px[trial], P.py[other] - P.py[trial]) < 3)) continue;
    labelled.add(trial);   // one number for a trial that several targets place alike
    const words = (best.has(trial) ? "★ " : "") + own("number", trial) + (own("tied_with", trial).length ? " =" : "") + (own("unstable", trial) ? " ~" : "");
    const wide = c.measureText(words).width, x = P.px[trial], y = P.py[trial];
    for (const [left, top] of [[x + 9, y - 18], [x + 9, y + 4], [x - 9 - wide, y - 18], [x - 9 - wide, y + 4]]) {
      const box = [left - 1, top, left + wide + 1, top + 14];
      if (!free(box, trial)) continue;
      taken.push(box);
      c.strokeStyle = colour("card"); c.lineWidth = 3; c.strokeText(words, left, top + 7);
      c.fillStyle = colour("ink"); c.fillText(words, left, top + 7);
      break;
    }
  }
}

/** Draw the rings around what is pointed at or pinned. */
function drawOver() {
  const c = byId("over").getContext("2d");
  c.setTransform(P.ratio, 0, 0, P.ratio, 0, 0);
  c.clearRect(0, 0, P.width, P.height);
  const there = new Set(P.points), rings = S.pins.map((trial, place) => [trial, "ab"[place]]);
  if (S.hover !== null && there.has(S.hover)) { c.globalAlpha = 0.5; c.strokeStyle = colour("ink"); drawInterval(c, S.hover); c.globalAlpha = 1; rings.push([S.hover, "ink"]); }
  for (const [trial, ink] of rings) {
    if (!there.has(trial) || !inside(trial)) continue;
    const x = P.px[trial], y = P.py[trial];
    c.strokeStyle = colour(ink); c.lineWidth = 2.4; c.beginPath(); c.arc(x, y, radius(trial) + 4, 0, 7); c.stroke();
    if (ink === "ink") continue;
    c.fillStyle = colour(ink); c.beginPath(); c.arc(x - 15, y - 13, 8, 0, 7); c.fill();
    c.fillStyle = colour("card"); c.font = "bold 12px system-ui, sans-serif"; c.textAlign = "center"; c.textBaseline = "middle"; c.fillText(ink.toUpperCase(), x - 15, y - 12.5);
  }
  if (P.drag) { c.fillStyle = colour("wash"); c.strokeStyle = colour("front"); c.lineWidth = 1; const [x, y, u, v] = P.drag; c.fillRect(x, y, u - x, v - y); c.strokeRect(x, y, u - x, v - y); }
}

/** Return the trial nearest to a place, or null; the front and baselines are easier to meet. */
function nearest(x, y) {
  let found = null, least = 24;
  for (const trial of P.points) {
    const distance = Math.hypot(P.px[trial] - x, P.py[trial] - y) * (strong(trial) ? 0.7 : 1);
    if (distance < least && inside(trial)) { least = distance; found = trial; }
  }
  return found;
}

function drawLegend() {
  const kinds = new Set(P.points.map(trial => own("kind", trial))), items = [];
  const icon = (kind, ink) => {
    const canvas = el("canvas", { width: 16 * P.ratio, height: 16 * P.ratio, style: "width:16px;height:16px;vertical-align:-3px;margin-right:4px", "aria-hidden": "true" }), c = canvas.getContext("2d");
    c.scale(P.ratio, P.ratio); c.translate(8, 8); c.fillStyle = c.strokeStyle = colour(ink); drawShape(c, kind, 4.5, ["broken", "stopped"].includes(kind) ? null : ink);
    return canvas;
  };
  for (const target of targetsShown()) if (kinds.has("front")) items.push(el("span", {}, icon("front", targetColour(target.name)), "front" + (D.targets.length > 1 ? " on " + target.name : "")));
  for (const [kind, name] of Object.entries({ ...BASELINES, other: KINDS.other, broken: KINDS.broken, stopped: KINDS.stopped }))
    if (kinds.has(kind)) items.push(el("span", {}, icon(kind, { eager: "eager", onnxruntime: "rt" }[kind] || "other"), name));
  if (P.points.some(below)) items.push(el("span", {}, icon("below", "other"), "below the range"));
  items.push(el("span", {}, "bars, ellipses: 95 % intervals"), el("span", {}, "★ recommended"));
  if (P.points.some(trial => own("tied_with", trial).length)) items.push(el("span", {}, "= tied in latency"));
  if (P.points.some(trial => strong(trial) && own("unstable", trial))) items.push(el("span", {}, "~ unstable latency"));
  byId("legend").replaceChildren(...items);
}
