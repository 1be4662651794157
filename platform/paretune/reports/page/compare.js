// The pinned trials side by side: recipe, metrics, sizes, classes, stages, images.

/** Return rows of a group as [name, text of A, text of B, whether they differ, class of B]. */
function drawCompare() {
  const box = byId("compare"), [a, b] = S.pins, two = b !== undefined;
  box.hidden = a === undefined;
  if (box.hidden) { box.replaceChildren(); return; }
  const pins = two ? [a, b] : [a], groups = [];
  const head = (trial, place) => el("th", { scope: "col" }, el("span", { class: "tag " + "ab"[place], "aria-label": `trial ${own("number", trial)}` }, "AB"[place]));
  const group = (name, lines) => { if (lines.length) groups.push(el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "words" }, name), ...pins.map(head), two ? el("th", { scope: "col" }, "B to A") : null)), el("tbody", {}, ...lines))); };
  const line = (name, values, change = "", quality = "") => el("tr", { class: name.startsWith(" ") ? "part" : null }, el("th", { scope: "row", class: "words" }, name.trim()),
    ...values.map(value => { const [first, ...others] = [value].flat(); return el("td", {}, first, ...others.filter(Boolean).map(words => el("small", {}, words))); }), two ? el("td", { class: quality }, change) : null);
  group("Recipe", recipeLines(pins).map(([name, values]) => line(name, values)));
  group("Metrics, with 95 % intervals", D.metrics.filter(row => !row.name.startsWith("map_") || row.name === "map_delta").map(row => metricLine(row.name, pins, line)).filter(Boolean));
  group("map by size of the objects", D.metrics.filter(row => /^map_(small|medium|large)$/.test(row.name)).map(row => metricLine(row.name, pins, line)).filter(Boolean));
  const classes = [...new Set(pins.flatMap(trial => Object.keys(own("classes", trial) || {})))];
  group("Average precision by class", classes.map(name => {
    const values = pins.map(trial => own("classes", trial)?.[name] ?? null), [u, v] = values, change = two && u !== null && v !== null ? v - u : null;
    return line(name, values.map(value => value === null ? "-" : value.toFixed(3)), change === null ? "" : (change >= 0 ? "+" : "") + change.toFixed(3), sign(change, 0.005));
  }));
  const stages = Object.keys(D.trials.seconds).filter(stage => pins.some(trial => column("seconds", stage)[trial] !== null));
  group("Time by stage", stages.map(stage => {
    const seconds = pins.map(trial => column("seconds", stage)[trial] ?? null), change = two && !seconds.includes(null) ? seconds[1] - seconds[0] : null;
    return line(stage, seconds.map((value, place) => value === null ? "-" : [value.toFixed(1) + " s", own("reused", pins[place]).includes(stage) ? "reused" : ""]), change === null ? "" : `${change >= 0 ? "+" : ""}${change.toFixed(1)} s`);
  }));
  const worst = pins.map(trial => PICTURES.trials[own("number", trial)] ? [] : own("worst", trial) || []), most = Math.max(...worst.map(list => list.length));
  group("Images with the most mistakes", Array.from({ length: most }, (_, place) => line(`${place + 1}.`, worst.map(list => list[place] ? [list[place].image, `${list[place].wrong} wrong, ${list[place].missed} missed`] : ""))));
  const said = pins.map(trial => [own("failure", trial), ...(own("notes", trial) || [])].filter(Boolean));
  const name = (trial, place) => el("p", {}, el("span", { class: "tag " + "ab"[place] }, "AB"[place]), ` trial ${own("number", trial)}${D.targets.length > 1 ? " on " + own("target", trial) : ""}: ${own("recipe", trial)} `, el("button", { type: "button", class: "small", "aria-label": `Unpin trial ${own("number", trial)}`, onclick: () => pin(trial) }, "✕"));
  box.replaceChildren(
    el("div", { class: "tools" }, el("h2", {}, two ? "A and B compared" : `Trial ${own("number", a)}`), el("span", { class: "dim" }, two ? "B to A: the difference, or for costs B as a multiple of A" : "Pin a second point to compare."), el("button", { type: "button", onclick: () => choose({ pins: [] }, "pins") }, two ? "Unpin both" : "Unpin")),
    ...pins.map(name),
    el("div", { class: "two" }, el("div", {}, ...groups.slice(0, 2)), el("div", {}, ...groups.slice(2))),
    ...worstImages(pins),
    ...said.flatMap((lines, place) => lines.map(words => el("p", { class: "dim small" }, `${"AB"[place]}: ${words.split("\n")[0].slice(0, 400)}`))),
    classes.length || most || pins.some(trial => PICTURES.trials[own("number", trial)]) ? "" : el("p", { class: "dim small" }, "The records of these trials hold no precision by class and no images, or the page is too long to hold them; trials.json has all that there is."));
}
const sign = (change, least) => change === null || Math.abs(change) < least ? "" : change > 0 ? "better" : "worse";

/** Return the pictures of the images on which the pinned trials make the most mistakes, each trial's in a row. */
function worstImages(pins) {
  const kept = pins.map(trial => PICTURES.trials[own("number", trial)]);
  if (!kept.some(Boolean)) return [];
  const row = (one, place) => el("div", {}, el("p", {}, el("span", { class: "tag " + "ab"[place] }, "AB"[place]), " ",
    !one ? PICTURES.left_out ? "no pictures: the page has room for those of the first trials of the front only" : "no pictures: the page has those of the front and the baselines" : one.images.length ? `found with a confidence of ${one.confidence.toFixed(2)} or more, the best F1` : "no mistakes"),
    one ? el("div", { class: "worst" }, ...one.images.map(drawnImage)) : null);
  return [el("h3", {}, "Images with the most mistakes"), el("p", { class: "dim small" }, el("span", { class: "key truth" }), " annotated ", el("span", { class: "key found" }), " found. Wrong: found boxes that are no object of their class at IoU 0.50. Missed: objects on which nothing of their class was found."),
    el("div", { class: "two" }, ...kept.map(row))];
}

/** Return an image with the boxes that are annotated and those that a trial has found. */
function drawnImage(one) {
  const { width, height, objects, truth, picture } = PICTURES.images[one.image];
  const box = ([x, y, u, v, name, score], kind) => el("rect", { class: kind, x: Math.min(x, u), y: Math.min(y, v), width: Math.abs(u - x), height: Math.abs(v - y) }, el("title", {}, `${kind === "truth" ? "annotated" : "found"}: ${name}${score === undefined ? "" : " " + score}`));
  const fewer = truth.length < objects || one.found.length < one.detected ? `, the first ${truth.length} and ${one.found.length} drawn` : "";
  const words = `${one.wrong} wrong of ${one.detected} found, ${one.missed} missed of ${objects}${fewer}`;
  return el("figure", {}, el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${one.image}: ${words}` }, el("image", { href: picture, width, height }), ...truth.map(row => box(row, "truth")), ...one.found.map(row => box(row, "found"))),
    el("figcaption", {}, one.image, el("small", {}, words)));
}

/** Return the recipe line by line: input size, each field of each step, runtime; a step that one lacks has dashes. */
function recipeLines(pins) {
  const lines = [["input size", pins.map(trial => own("size", trial))]], steps = [];
  for (const trial of pins) for (const step of own("steps", trial)) if (!steps.includes(step)) steps.push(step);
  const names = Object.keys(D.trials.params), value = (name, trial) => column("params", name)[trial];
  for (const part of [...steps, "runtime"]) {
    const has = trial => part === "runtime" || own("steps", trial).includes(part);
    lines.push([part, pins.map(trial => part === "runtime" ? own("runtime", trial) : has(trial) ? "yes" : "-")]);
    const prefixes = part === "runtime" ? [...new Set(pins.map(trial => own("runtime", trial)))] : [part];
    for (const prefix of prefixes) for (const name of names) {
      if (!name.startsWith(prefix + ".")) continue;
      const values = pins.map(trial => value(name, trial) ?? null);
      if (values.every(one => one === null) || (pins.length > 1 && values[0] === values[1])) continue;   // only what differs
      lines.push(["   " + name.slice(prefix.length + 1).replaceAll("_", " "), values.map(one => one === null ? "-" : text("", one))]);
    }
  }
  return lines;
}

function metricLine(name, pins, line) {
  const values = pins.map(trial => metric(name, trial)), row = METRIC.get(name);
  if (values.every(value => value === null)) return null;
  const cells = values.map((value, place) => { const why = value === null && own("reasons", pins[place])?.[name]; return [value === null ? why ? "unknown" : "-" : phrase(name, value), rangeText(name, pins[place]) || why || ""]; });
  const [u, v] = values;
  if (values.length < 2 || u === null || v === null) return line(short(name), cells);
  const compared = row.direction === "minimize" && u > 0, change = compared ? v / u : v - u, ends = pins.map(trial => interval(name, trial));
  const apart = ends[0] && ends[1] ? ends[0][1] < ends[1][0] || ends[1][1] < ends[0][0] : Math.abs(v - u) > 0.002 * Math.abs(u);
  const words = compared ? change.toFixed(2) + " ×" : (change >= 0 ? "+" : "") + (change / row.divisor).toFixed(row.digits);
  const good = row.direction === null || !apart ? "" : (row.direction === "minimize") === (v < u) ? "better" : "worse";
  return line(short(name), cells, ends[0] && ends[1] && !apart ? "≈ " + words : words, good);
}
