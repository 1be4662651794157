// What else the sweep has shown: hypervolume, compute by stage, importance, advice, failures, what was searched.
let growthBy = 1;   // 0: against the number of trials, 1: against their seconds
let rankedBy = null;

function drawCharts() { drawGrowth(); drawStages(); drawImportance(); drawAdvice(); drawFailures(); drawAbout(); }

function drawGrowth() {
  const box = byId("growth"), lines = targetsShown().filter(target => target.series.length);
  const tools = el("div", { class: "tools" }, el("h2", {}, "Hypervolume against cost"));
  if (!lines.length) { box.replaceChildren(tools, el("p", { class: "dim" }, targetsShown()[0]?.hypervolume_unknown || "It is known once the eager baseline is measured.")); return; }
  tools.append(el("button", { type: "button", id: "growth-switch", onclick: () => { growthBy = 1 - growthBy; drawGrowth(); byId("growth-switch").focus(); } }, growthBy ? "against trials" : "against time"));
  const wide = 600, tall = 250, left = 58, right = 14, top = 12, bottom = 42, at = growthBy;
  const most = Math.max(...lines.map(target => target.series[target.series.length - 1][at])) || 1, high = Math.max(...lines.flatMap(target => target.series.map(point => point[2]))) || 1;
  const hours = at === 1 && most > 5400, unit = at === 0 ? "trials" : hours ? "hours of trials" : most > 120 ? "minutes of trials" : "seconds of trials", scale = at === 0 ? 1 : hours ? 3600 : most > 120 ? 60 : 1;
  const x = value => left + value / most * (wide - left - right), y = value => tall - bottom - value / (high * 1.06) * (tall - top - bottom);
  const svg = el("svg", { class: "chart", viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": `Hypervolume against ${unit}: ${lines.map(target => `${target.name} ends at ${target.series[target.series.length - 1][2]}`).join("; ")}` });
  for (const tick of ticks(0, most / scale, false, 5)) svg.append(el("path", { class: "grid", d: `M${x(tick * scale)} ${top}V${tall - bottom}` }), el("text", { x: x(tick * scale), y: tall - bottom + 17, "text-anchor": "middle" }, tick));
  for (const tick of ticks(0, high * 1.06, false, 4)) svg.append(el("path", { class: "grid", d: `M${left} ${y(tick)}H${wide - right}` }), el("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, tick));
  svg.append(el("text", { x: (left + wide - right) / 2, y: tall - 5, "text-anchor": "middle" }, unit));
  for (const target of lines) {
    const path = target.series.map((point, place) => place ? `H${x(point[at]).toFixed(1)}V${y(point[2]).toFixed(1)}` : `M${x(point[at]).toFixed(1)} ${y(point[2]).toFixed(1)}`).join("");
    svg.append(el("path", { class: "line", d: path, style: `stroke:var(--${targetColour(target.name)})` }, el("title", {}, target.name)));
  }
  const words = lines.map(target => { const last = target.series[target.series.length - 1], reached = target.series.find(point => point[2] >= 0.99 * last[2]); return `${D.targets.length > 1 ? target.name + ": " : ""}99 % of it after ${reached[0]} of ${last[0]} trials (${duration(reached[1])} of ${duration(last[1])}).`; });
  box.replaceChildren(tools, svg, ...words.map(line => el("p", { class: "dim small" }, line)), el("p", { class: "dim small" }, "The area that the front dominates, cost on a logarithmic scale, up to the eager baseline. The training of the baseline is not in the cost."));
}

/** Return a row with a bar. */
const barRow = (name, part, value, note = "", pale = false) => el("tr", {}, el("th", { scope: "row", class: "words" }, name), el("td", { class: "bars" }, el("span", { class: "bar" + (pale ? " pale" : ""), style: `width:${(100 * part).toFixed(1)}%` })), el("td", {}, value, note ? el("small", {}, note) : null));

function drawStages() {
  const all = D.stages.reduce((sum, one) => sum + one.seconds, 0), most = Math.max(...D.stages.map(one => one.seconds), 1e-9);
  const rows = [...D.stages].sort((one, other) => other.seconds - one.seconds).filter(one => one.seconds > 0.0005 * all || one.reused).map(one => barRow(one.stage, one.seconds / most, duration(one.seconds), `${(100 * one.seconds / all).toFixed(0)} %` + (one.reused ? `, ${one.reused} of ${one.trials} reused` : "")));
  byId("compute").replaceChildren(el("h2", {}, "Compute by stage"), rows.length ? el("div", { class: "wide" }, el("table", {}, el("caption", {}, `All ${duration(all)} of the trials. A reused result was taken from an earlier trial.`), el("tbody", {}, ...rows))) : el("p", { class: "dim" }, "No trial has ended yet."));
}

function drawImportance() {
  const box = byId("importance"), known = D.importance.filter(knob => knob.shares), unknown = D.importance.filter(knob => !knob.shares);
  const tools = el("div", { class: "tools" }, el("h2", {}, "Importance of the knobs"));
  if (!D.importance.length) { box.replaceChildren(tools, el("p", { class: "dim" }, COUNT > 2000 ? `Above 2,000 trials it is computed on demand: paretune front ${D.sweep} --importance` : "It is computed from trials that the search has sampled; there are none yet.")); return; }
  const aims = known.length ? Object.keys(known[0].shares) : [];
  rankedBy = aims.includes(rankedBy) ? rankedBy : aims[0];
  if (aims.length) tools.append(el("label", { class: "dim" }, "for ", el("select", { onchange: event => { rankedBy = event.target.value; drawImportance(); } }, ...aims.map(aim => el("option", { value: aim, selected: aim === rankedBy }, aim === "front" ? "the front" : label(aim))))));
  const order = [...known].sort((one, other) => other.shares[rankedBy] - one.shares[rankedBy]), most = order.length ? order[0].shares[rankedBy] || 1 : 1;
  const rows = order.map(knob => barRow(knob.knob, knob.shares[rankedBy] / most, (100 * knob.shares[rankedBy]).toFixed(0) + " %", knob.above_chance[rankedBy] ? "" : "no more than chance", !knob.above_chance[rankedBy]));
  box.replaceChildren(tools, ...(rows.length ? [el("div", { class: "wide" }, el("table", {}, el("caption", {}, "How much the choice of a knob decides which trials are the best (PED-ANOVA)."), el("tbody", {}, ...rows)))] : []),
    ...(unknown.length ? [...new Set(unknown.map(knob => knob.reason))].map(reason => el("p", { class: "dim small" }, `Not known for ${unknown.filter(knob => knob.reason === reason).map(knob => knob.knob).join(", ")}: ${reason}.`)) : []));
}

function drawAdvice() {
  const box = byId("advice");
  box.hidden = !D.advice.length;
  if (box.hidden) return;
  const rows = D.advice.map(one => el("tr", {}, el("td", { class: "words" }, one.knob), el("td", {}, one.trial ?? "-"), el("td", {}, one.against ?? "-"), el("td", {}, one.predicted.toFixed(2)),
    el("td", {}, one.speedup === null ? "-" : gainText(one), one.speedup === null ? null : el("small", {}, range([one.low, one.high], 2))), el("td", { class: "words" }, one.helped === null ? one.reason : one.helped ? "helped" : "did not help")));
  box.replaceChildren(el("h2", {}, "Advice and what came of it"), el("div", { class: "wide" }, el("table", {}, el("caption", {}, "Times as fast, from image to boxes, as what the advice was for; measured interleaved, with 95 % intervals."),
    el("thead", {}, el("tr", {}, ...["advice", "trial", "against", "predicted", "measured", "outcome"].map(name => el("th", { scope: "col", class: ["advice", "outcome"].includes(name) ? "words" : null }, name)))), el("tbody", {}, ...rows))));
}

function drawFailures() {
  const box = byId("failures"), groups = new Map();
  for (let trial = 0; trial < COUNT; trial++) {
    if (own("state", trial) === "complete" || own("target", trial) !== D.targets[0].name) continue;
    const why = `${own("state", trial)}: ${(own("failure", trial) || "unknown reason").split("\n")[0].slice(0, 300)}`;
    groups.set(why, [...(groups.get(why) || []), own("number", trial)]);
  }
  box.hidden = !groups.size;
  const order = [...groups].sort((one, other) => other[1].length - one[1].length), list = rows => el("ul", {}, ...rows.map(([why, trials]) => el("li", {}, `${why} (trial ${trials.slice(0, 8).join(", ")}${trials.length > 8 ? ` and ${trials.length - 8} more` : ""})`)));
  box.replaceChildren(el("h2", {}, "Failed and stopped trials"), list(order.slice(0, 8)), order.length > 8 ? el("details", {}, el("summary", {}, `${order.length - 8} more reasons`), list(order.slice(8, 108))) : "");
}

function drawAbout() {
  byId("about").replaceChildren(el("h2", {}, "What was searched"), el("dl", {}, ...Object.entries(D.about).map(([name, words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words)))),
    el("p", { class: "dim small" }, "Beside this page: front.csv, front.json, trials.csv, trials.json, front.png, front.svg, hypervolume.csv, report.md, report.html."));
}
