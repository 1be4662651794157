"use strict";
// The data of the page: trials are columns (front_page.packed), a trial is a place in them.
const D = JSON.parse(document.getElementById("data").textContent);
const PICTURES = D.pictures;   // of the images with the most mistakes of the front's trials
const SVG = document.getElementById("svg").namespaceURI;   // the page holds no address, not even that of a namespace
const COUNT = D.trials.count, NOTHING = [];
const decoded = new Map();

/** Return the column of a field ("own") or of a key of "metrics", "params" or "seconds"; empty if there is none. */
function column(group, name) {
  const key = group + "\n" + name;
  if (!decoded.has(key)) {
    const stored = Object.hasOwn(D.trials[group], name) ? D.trials[group][name] : null;
    decoded.set(key, !stored ? NOTHING : stored.v || stored.i.map(place => place < 0 ? null : stored.d[place]));
  }
  return decoded.get(key);
}
const own = (name, trial) => column("own", name)[trial];
const metric = (name, trial) => name ? column("metrics", name)[trial] ?? null : null;

const METRIC = new Map(D.metrics.map(row => [row.name, row]));
const TARGET = new Map(D.targets.map(target => [target.name, target]));
const BASE_WORDS = { eager: "the eager baseline", onnxruntime: "the baseline on ONNX Runtime in fp32" };
const BASELINES = { eager: "baseline, eager", onnxruntime: "baseline, ONNX Runtime fp32" };
const KINDS = { front: "front", other: "other trials", broken: "break a constraint", stopped: "stopped early", failed: "failed" };
const targetOf = trial => TARGET.get(own("target", trial));
const placeOf = new Map();   // target and number → place
for (let trial = 0; trial < COUNT; trial++) placeOf.set(own("target", trial) + "\n" + own("number", trial), trial);
const placed = (target, number) => placeOf.get(target.name + "\n" + number);

/** Return a metric's name for a reader, with its unit: "latency p90, ms". */
function label(name) {
  const row = METRIC.get(name), unit = row ? row.unit || row.word : "";
  return short(name) + (unit ? ", " + unit : "");
}

/** Return a metric's name without its unit. */
function short(name) {
  const row = METRIC.get(name);
  if (!row) return name.startsWith("param:") ? name.slice(6) : name === "trial_seconds" ? "time of the trial, s" : name;
  return (name.endsWith("_delta") ? "Δ " : "") + name.replace(/_delta$/, "").split("_").filter(word => word !== row.unit.toLowerCase()).join(" ");
}

/** Return a number as text, with the digits of its metric. */
function text(name, value) {
  if (value === null || value === undefined) return "-";
  const row = METRIC.get(name);
  if (!row) return typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);
  const number = (value / row.divisor).toFixed(row.digits);
  return name.endsWith("_delta") && value >= 0 ? "+" + number : number;
}

/** Return a number with its unit. */
function phrase(name, value) {
  const row = METRIC.get(name);
  return text(name, value) + (row && value !== null && (row.unit || row.word) ? " " + (row.unit || row.word) : "");
}

/** Return the ends of the 95 % interval of a metric of a trial, or null. */
function interval(name, trial) {
  const row = METRIC.get(name);
  if (!row) return null;
  let low = metric(row.low, trial), high = metric(row.high, trial);
  if (row.change) {   // the interval of the difference to the baseline stands for that of the value
    const change = METRIC.get(row.change), value = metric(name, trial), middle = metric(row.change, trial);
    if (!change || value === null || middle === null) return null;
    low = metric(change.low, trial); high = metric(change.high, trial);
    if (low === null || high === null) return null;
    low += value - middle; high += value - middle;
  }
  return low === null || high === null || !(low < high) ? null : [low, high];
}

/** Return an axis: its values, and which way is better. */
function axis(name) {
  if (name === "trial_seconds") {
    const stages = Object.keys(D.trials.seconds).map(stage => column("seconds", stage));
    return { name, direction: "minimize", values: Array.from({ length: COUNT }, (_, trial) => stages.reduce((sum, stage) => sum + (stage[trial] || 0), 0)) };
  }
  if (name.startsWith("param:")) return { name, direction: null, values: column("params", name.slice(6)) };
  return { name, direction: METRIC.get(name)?.direction ?? null, values: column("metrics", name) };
}

/** Return the names of all axes: metrics, the time of a trial, and the parameters that are numbers. */
function axisNames() {
  const numeric = Object.keys(D.trials.params).filter(name => {
    const known = column("params", name).filter(value => value !== null);
    return known.length > 1 && known.every(value => typeof value === "number") && new Set(known).size > 1;
  });
  return { metrics: [...D.metrics.map(row => row.name), "trial_seconds"], params: numeric.map(name => "param:" + name) };
}

/** Return seconds as text in the unit that suits them. */
function duration(seconds) {
  if (seconds < 90) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  return seconds < 5400 ? (seconds / 60).toFixed(0) + " min" : (seconds / 3600).toFixed(1) + " h";
}

/** Return an element with attributes and children; text is never read as markup. */
function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "text", "line", "circle", "rect", "g", "title", "image"].includes(tag);
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined).map(child => child instanceof Node ? child : String(child)));
  return made;
}
const byId = id => document.getElementById(id);

/** Return the speed-up of a trial over a baseline as {speedup, low, high, verdict}, or null. */
function gain(trial, base) {
  const row = targetOf(trial).gains[own("number", trial)]?.[base];
  return row && row.speedup !== null ? row : null;
}
function gainText(row) {
  if (!row) return "-";
  return (row.verdict === "tied" && row.low !== row.high ? "= " : "") + row.speedup.toFixed(2);
}
const range = (ends, digits) => ends ? `[${ends[0].toFixed(digits)}, ${ends[1].toFixed(digits)}]` : "";
/** Return the interval of a metric of a trial as text in its scale, or nothing. */
function rangeText(name, trial) {
  const ends = interval(name, trial);
  return ends ? `[${text(name, ends[0])}, ${text(name, ends[1])}]` : "";
}
const COST = Object.keys(D.objectives).find(name => D.objectives[name] === "minimize") || Object.keys(D.objectives)[0];
const QUALITY = Object.keys(D.objectives).find(name => name !== COST) || COST;
