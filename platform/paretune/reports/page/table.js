// The verdict and the table of trials.
const PAGE = 50;   // rows of the table of all trials at a time

function drawHeader() {
  byId("title").textContent = D.sweep + (D.targets.length === 1 ? ` on ${D.targets[0].name}` : "");
  const when = new Date(D.written * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const own0 = trial => own("target", trial) === D.targets[0]?.name, mine = Array.from({ length: COUNT }, (_, trial) => trial).filter(own0);
  const count = state => mine.filter(trial => own("state", trial) === state).length;
  const parts = [`${mine.length}${D.planned && !D.finished ? ` of ${D.planned}` : ""} trials`];
  for (const state of ["failed", "stopped"]) if (count(state)) parts.push(`${count(state)} ${state}`);
  byId("status").textContent = `${D.finished ? "Finished" : "Not finished yet"}: ${parts.join(", ")}. Written ${when}.` + (D.ended ? ` The search ended early: ${D.ended}.` : "");
  const verdicts = targetsShown().map(target => (D.targets.length > 1 ? `${target.name}: ` : "") + verdict(target));
  byId("verdict").replaceChildren(...verdicts.flatMap((words, place) => place ? [el("br"), words] : [words]));
  const facts = [["Objectives", Object.entries(D.objectives).map(([name, way]) => `${way} ${label(name)}`).join(", ")]];
  if (D.about.constraints) facts.push(["Constraints", D.about.constraints]);
  for (const target of targetsShown()) {
    const name = D.targets.length > 1 ? ` on ${target.name}` : "";
    facts.push([`Front${name}`, `${target.front.length} trials, ${target.decided_by === "comparison" ? "measured interleaved at the end" : "of single measurements so far"}`]);
    facts.push([`Hypervolume${name}`, target.hypervolume === null ? `not defined: ${target.hypervolume_unknown}` : target.hypervolume.toPrecision(4)]);
    if (target.description) facts.push([`Target${D.targets.length > 1 ? " " + target.name : ""}`, target.description]);
  }
  facts.push(["Cost", `${duration(D.cost.trials)} of trials` + (D.cost.clock ? `, ${duration(D.cost.clock)} on the clock` : "") + (D.cost.training ? `, ${duration(D.cost.training)} of training the baseline` : "")]);
  byId("facts").replaceChildren(...facts.map(([name, words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words))));
}

/** Return the answer for a target in one sentence. */
function verdict(target) {
  if (!target.best) return target.baseline === null ? "The eager baseline is not measured yet." : "No trial keeps the constraints yet.";
  const trial = placed(target, target.best.trial), parts = [];
  if (trial === undefined) return "";
  for (const name of [COST, QUALITY]) {
    if (metric(name, trial) !== null) parts.push(`${short(name)} ${phrase(name, metric(name, trial))} ${rangeText(name, trial)}`.trim());
  }
  for (const base of Object.keys(BASELINES)) { const row = gain(trial, base); if (row && row.low !== row.high) parts.push(`${gainText(row)} ${range([row.low, row.high], 2)} times as fast as ${BASE_WORDS[base]}`); }
  return `★ Trial ${target.best.trial} (${own("recipe", trial)}) is the ${target.best.claim}: ${parts.join("; ")}.${target.best.note ? ` Note: ${target.best.note}.` : ""}`;
}

/** Return the columns of the table: head, cell of a trial, value to sort by. */
function tableColumns(trials) {
  const tested = targetsShown().some(target => Object.keys(target.test).length), names = ["map", "map50", "latency_ms", "size_mib", "params"];
  const wanted = new Set([COST, QUALITY, ...Object.keys(D.objectives), S.x, S.y, ...names]);
  const listed = [...wanted].filter(name => METRIC.has(name) && !name.endsWith("_delta"));
  const columns = [];
  if (D.targets.length > 1) columns.push({ head: "target", words: true, cell: trial => own("target", trial), value: trial => own("target", trial) });
  for (const name of listed) {
    const extra = !(name in D.objectives) && name !== S.x && name !== S.y;
    columns.push({ head: label(name), name, extra, value: trial => metric(name, trial), cell: trial => {
      const notes = METRIC.get(name).low ? [rangeText(name, trial)] : [];
      if (name === "latency_ms" && own("tied_with", trial).length) notes.push("tied with " + own("tied_with", trial).join(", "));
      if (name === "latency_ms" && own("unstable", trial)) notes.push("unstable");
      return [text(name, metric(name, trial)), ...notes];
    } });
    const change = METRIC.get(name).change;
    if (change && (name === "map" || name in D.objectives)) columns.push({ head: label(change), value: trial => metric(change, trial), cell: trial => [text(change, metric(change, trial)), rangeText(change, trial)] });
    if (name === "map" && tested) columns.push({ head: "Δ map, test", extra: true, value: trial => testChange(trial, "map_delta"), cell: trial => {
      const low = testChange(trial, "map_delta_low"), high = testChange(trial, "map_delta_high");
      return [text("map_delta", testChange(trial, "map_delta")), low !== null && low < high ? `[${text("map_delta", low)}, ${text("map_delta", high)}]` : ""];
    } });
    if (name === "latency_ms") for (const [base, head] of [["eager", "× eager"], ["onnxruntime", "× ONNX RT"]])
      if (trials.some(trial => gain(trial, base))) columns.push({ head, value: trial => gain(trial, base)?.speedup ?? null, cell: trial => { const row = gain(trial, base); return [gainText(row), row && row.low !== row.high ? range([row.low, row.high], 2) : ""]; } });
  }
  return columns;
}
const testChange = (trial, name) => targetOf(trial).test[own("number", trial)]?.[name] ?? null;

function drawTable() {
  const all = S.table === "all", passing = shown();
  let trials = all ? passing : passing.filter(strong);
  const columns = tableColumns(trials), sorted = S.sort && columns.find(one => one.head === S.sort[0]);
  const lead = [{ head: "trial", value: trial => own("number", trial) }, { head: "recipe", value: trial => own("recipe", trial) }];
  const by = S.sort && (sorted || lead.find(one => one.head === S.sort[0]));
  if (by) {
    const up = S.sort[1] === "up" ? 1 : -1, order = value => value === null || value === undefined;
    trials = [...trials].sort((a, b) => { const [u, v] = [by.value(a), by.value(b)]; return order(u) - order(v) || (u < v ? -up : u > v ? up : a - b); });
  } else if (!all) trials = [...trials].sort((a, b) => !own("front", a) - !own("front", b) || (metric(COST, a) ?? Infinity) * (D.objectives[COST] === "maximize" ? -1 : 1) - (metric(COST, b) ?? Infinity) * (D.objectives[COST] === "maximize" ? -1 : 1));
  const pages = Math.max(1, Math.ceil(trials.length / PAGE)), page = Math.min(S.page, pages - 1), listed = trials.slice(page * PAGE, page * PAGE + PAGE);
  const kindOf = one => [one.words ? "words" : "", one.extra ? "extra" : ""].join(" ").trim() || null;
  const head = (one, words) => {
    const on = S.sort && S.sort[0] === one.head;
    return el("th", { scope: "col", class: words ? "words" : kindOf(one), "aria-sort": on ? (S.sort[1] === "up" ? "ascending" : "descending") : null },
      el("button", { type: "button", onclick: () => choose({ sort: on && S.sort[1] === "down" ? null : [one.head, on ? "down" : "up"], page: 0 }, "table") }, one.head + (on ? (S.sort[1] === "up" ? " ↑" : " ↓") : "")));
  };
  const row = trial => {
    const pinned = S.pins.indexOf(trial), best = targetOf(trial).best?.trial === own("number", trial) && own("front", trial);
    const marks = [pinned >= 0 ? el("span", { class: "tag " + "ab"[pinned] }, "AB"[pinned]) : null, pinned >= 0 ? " " : null, (best ? "★ " : "") + own("number", trial)];
    const note = isBase(trial) ? BASELINES[own("kind", trial)] : own("state", trial) !== "complete" ? own("state", trial) : own("broken", trial).length ? "breaks the constraint on " + own("broken", trial).join(", ") : "";
    return el("tr", {
      class: ["pick", own("front", trial) ? "" : "base", best ? "best" : ""].join(" "), "data-place": trial, tabindex: 0, "aria-label": `trial ${own("number", trial)}, press Enter to pin`,
      onclick: () => pin(trial), onkeydown: event => { if (event.key === "Enter") { event.preventDefault(); pin(trial); document.querySelector(`tr[data-place="${trial}"]`)?.focus(); } },
      onmouseenter: () => { S.hover = trial; drawOver(); }, onmouseleave: () => { S.hover = null; drawOver(); },
    }, el("td", {}, ...marks), el("td", { class: "words recipe" }, own("recipe", trial), note ? el("small", {}, note) : null),
    ...columns.map(one => { const [value, ...notes] = [one.cell(trial)].flat(); return el("td", { class: kindOf(one) }, value, ...notes.filter(Boolean).map(words => el("small", {}, words))); }));
  };
  const heading = all ? `${trials.length} trials that pass the filters` : "The front and the baselines";
  const open = document.activeElement?.closest?.("tr[data-place]")?.dataset.place;
  byId("front-table").replaceChildren(
    el("div", { class: "tools" }, el("h2", {}, heading), el("button", { type: "button", id: "table-switch", onclick: () => { choose({ table: all ? "front" : "all", page: 0 }, "table"); byId("table-switch").focus(); } }, all ? "Show the front only" : "Show all trials")),
    el("div", { class: "wide" }, el("table", {}, el("caption", {}, "Small figures are 95 % intervals. Δ: difference to the eager baseline on the same images. ×: times as fast as a baseline, measured interleaved; = before it means a tie."),
      el("thead", {}, el("tr", {}, head(lead[0]), head(lead[1], true), ...columns.map(one => head(one, one.words)))), el("tbody", {}, ...listed.map(row)))),
    pages > 1 ? el("div", { class: "pages" }, el("button", { type: "button", disabled: page === 0, onclick: () => choose({ page: page - 1 }, "table") }, "Previous"), `${page * PAGE + 1} to ${page * PAGE + listed.length} of ${trials.length}`, el("button", { type: "button", disabled: page === pages - 1, onclick: () => choose({ page: page + 1 }, "table") }, "Next")) : "",
    ...notes().map(words => el("p", { class: "dim small" }, words)));
  if (open) document.querySelector(`tr[data-place="${open}"]`)?.focus();
}

/** Return what limits the trust in the front. */
function notes() {
  const lines = [...D.notes];
  if (D.left_out) lines.push(`This page would be too long with ${D.left_out.join(", ")}; trials.csv and trials.json have them.`);
  for (const target of targetsShown()) {
    const where = D.targets.length > 1 ? `${target.name}: ` : "";
    if (target.gains_unknown) lines.push(`${where}speed-ups are not known: ${target.gains_unknown}`);
    else if (target.decided_by === "trials") lines.push(`${where}the front is that of single measurements; at the end of the sweep its trials are measured once more, interleaved.`);
    lines.push(...target.notes.map(note => where + note));
  }
  return lines;
}
