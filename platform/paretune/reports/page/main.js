// What the reader does: pointing, clicking, keys; and what is drawn when.

/** Return the lines that describe a trial, the first one its recipe. */
function describe(trial) {
  const target = targetOf(trial), lines = [`trial ${own("number", trial)}: ${own("recipe", trial)}`];
  if (own("state", trial) !== "complete") lines.push(`${own("state", trial)}: ${(own("failure", trial) || "unknown reason").split("\n")[0].slice(0, 200)}`);
  for (const name of new Set([S.y, S.x, ...Object.keys(D.objectives), "map50", "size_mib", "params"])) {
    const value = name.includes(":") || name === "trial_seconds" ? axis(name).values[trial] : metric(name, trial);
    if (value === null || value === undefined) continue;
    lines.push(`${short(name)}: ${phrase(name, value)} ${rangeText(name, trial)}`.trim());
  }
  for (const base of Object.keys(BASELINES)) {
    const row = gain(trial, base);
    if (row && row.low !== row.high) lines.push(`${row.speedup.toFixed(2)} ${range([row.low, row.high], 2)} times as fast as ${BASE_WORDS[base]}`);
  }
  const ties = own("tied_with", trial);
  if (ties.length) lines.push(`tied in latency with trial ${ties.join(", ")}`);
  if (own("unstable", trial)) lines.push("unstable: its latency is known less well than is wanted");
  if (own("broken", trial).length) lines.push(`breaks the constraint on ${own("broken", trial).join(", ")}`);
  if (D.targets.length > 1) lines.push(`on ${target.name}, ${target.description}`);
  return lines;
}

/** Show a trial's description where it covers the fewest points; null hides it. */
function point(trial, spoken = false) {
  S.hover = trial;
  const tip = byId("tip");
  tip.hidden = trial === null || !P.points.includes(trial);
  drawOver();
  for (const row of document.querySelectorAll("tr[data-place].on")) row.classList.remove("on");
  if (trial === null) return;
  for (const row of document.querySelectorAll(`tr[data-place="${trial}"]`)) row.classList.add("on");
  const [first, ...others] = describe(trial);
  if (spoken) byId("live").textContent = [first, ...others].join("; ");
  if (tip.hidden) return;
  tip.replaceChildren(el("b", {}, first), ...others.map(line => el("div", {}, line)));
  placeTip(tip, trial);
}

function placeTip(tip, trial) {
  if (P.width < 700) { tip.style.top = P.height + "px"; return; }   // below a narrow plot, where no point is
  const px = P.px, py = P.py, light = P.points.length > 300 ? 0.05 : 2, wide = tip.offsetWidth, tall = tip.offsetHeight, x = P.px[trial], y = P.py[trial], gap = 16;
  const lefts = [x + gap, x - gap - wide, x - wide / 2, ...[0, 0.25, 0.5, 0.75, 1].map(part => MARGIN.left + 4 + part * (plotWidth() - wide - 4))], tops = [y - tall - gap, y + gap, y - tall / 2, MARGIN.top, P.height - MARGIN.bottom - tall - 4];
  let least = Infinity, chosen = [0, 0];
  for (const left of lefts) for (const top of tops) {
    const u = Math.max(MARGIN.left + 4, Math.min(left, P.width - wide)), v = Math.max(0, Math.min(top, P.height - tall));
    let cost = Math.hypot(u + wide / 2 - x, v + tall / 2 - y) / 40;
    if (x > u - 10 && x < u + wide + 10 && y > v - 10 && y < v + tall + 10) cost += 1e6;
    for (const other of P.points) {
      const room = firm[other] ? 22 : 4;   // the front's points have numbers beside them
      if (px[other] < u - room || px[other] > u + wide + room || py[other] < v - room || py[other] > v + tall + room) continue;
      cost += firm[other] ? 12 : light;
    }
    if (cost < least) { least = cost; chosen = [u, v]; }
  }
  tip.style.left = chosen[0] + "px"; tip.style.top = chosen[1] + "px";
}

/** Make a stop of the Tab key of each baseline and each trial on the front; its place is that of the point. */
function placeStops() {
  const wanted = P.byX.filter(trial => strong(trial) && inside(trial)), box = byId("stops"), had = document.activeElement?.dataset?.stop;
  box.replaceChildren(...wanted.map(trial => el("button", {
    type: "button", "data-stop": trial, "aria-label": describe(trial).slice(0, 4).join("; "), "aria-pressed": S.pins.includes(trial) ? "true" : "false",
    style: `left:${P.px[trial]}px;top:${P.py[trial]}px`, onfocus: () => point(trial), onblur: () => point(null),
    onclick: event => { event.stopPropagation(); pin(trial); },
  })));
  if (had) box.querySelector(`[data-stop="${had}"]`)?.focus();
}

function listenToPlot() {
  const box = byId("plot"), at = event => { const place = byId("base").getBoundingClientRect(); return [event.clientX - place.left, event.clientY - place.top]; };
  let began = null, dragged = false;
  box.addEventListener("pointerdown", event => { if (event.button === 0 && event.pointerType === "mouse") began = at(event); });
  box.addEventListener("pointermove", event => {
    const [x, y] = at(event);
    if (began && (P.drag || Math.hypot(x - began[0], y - began[1]) > 6)) {
      if (!P.drag) { box.setPointerCapture(event.pointerId); point(null); }
      P.drag = [...began, x, y]; drawOver(); return;
    }
    const trial = nearest(x, y);
    box.style.cursor = trial === null ? "crosshair" : "pointer";
    if (trial !== S.hover) point(trial);
  });
  box.addEventListener("pointerup", () => {
    const drag = P.drag;
    began = P.drag = null; dragged = drag !== null && drag !== undefined;
    if (!dragged) return;
    if (Math.abs(drag[2] - drag[0]) > 8 && Math.abs(drag[3] - drag[1]) > 8) zoomTo(drag); else drawOver();
  });
  box.addEventListener("pointercancel", () => { began = P.drag = null; drawOver(); });
  box.addEventListener("pointerleave", () => { if (!P.drag) { began = null; point(null); } });
  box.addEventListener("click", event => {
    if (dragged) { dragged = false; return; }
    const trial = nearest(...at(event));
    if (trial !== null) pin(trial);
  });
  box.addEventListener("dblclick", () => { if (S.zoom && S.hover === null) choose({ zoom: null }); });
  box.addEventListener("keydown", event => {
    const order = event.key === "ArrowUp" || event.key === "ArrowDown" ? [...P.points].sort((a, b) => P.py[b] - P.py[a] || a - b) : P.byX;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1 }, now = order.indexOf(S.hover);
    let next = null;
    if (event.key in steps) next = order[now < 0 ? 0 : Math.max(0, Math.min(order.length - 1, now + steps[event.key]))];
    else if (event.key === "Home") next = order[0];
    else if (event.key === "End") next = order[order.length - 1];
    else if (event.key === "Escape") { event.preventDefault(); S.hover === null ? choose({ pins: [] }, "pins") : point(null); return; }
    else if ((event.key === "Enter" || event.key === " ") && S.hover !== null) { event.preventDefault(); pin(S.hover); return; }
    else return;
    event.preventDefault();
    if (next !== null && next !== undefined) point(next, true);
  });
}

/** Enlarge the part of the plane between two corners in pixels. */
function zoomTo(corners) {
  const edge = (value, low, high) => Math.max(low, Math.min(high, value)), [x, u] = [corners[0], corners[2]].map(place => edge(place, MARGIN.left, P.width - MARGIN.right));
  const [y, v] = [corners[1], corners[3]].map(place => edge(place, MARGIN.top, P.height - MARGIN.bottom));
  const back = (part, low, high, log) => log ? low * (high / low) ** part : low + part * (high - low);
  const wide = [x, u].sort((a, b) => a - b).map(place => back((place - MARGIN.left) / plotWidth(), P.x0, P.x1, P.logx));
  const tall = [y, v].sort((a, b) => b - a).map(place => back((P.height - MARGIN.bottom - place) / plotHeight(), P.y0, P.y1, P.logy));
  choose({ zoom: [...wide, ...tall] });
}

/** Fill the choices of axes and targets, and follow them. */
function fillControls() {
  const axes = axisNames();
  for (const which of ["x", "y"]) {
    const group = (name, names) => names.length ? el("optgroup", { label: name }, ...names.map(one => el("option", { value: one, title: METRIC.get(one)?.about }, label(one)))) : null;
    byId(which).append(...[group("metrics", axes.metrics), group("parameters", axes.params)].filter(Boolean));
    byId(which).addEventListener("change", event => choose({ [which]: event.target.value, ["log" + which]: null, zoom: null }, "plot"));
    byId("log" + which).addEventListener("change", event => choose({ ["log" + which]: event.target.checked, zoom: null }, "plot"));
  }
  byId("target-label").hidden = D.targets.length < 2;
  byId("target").append(el("option", { value: "" }, "all"), ...D.targets.map(target => el("option", { value: target.name }, target.name)));
  byId("target").addEventListener("change", event => choose({ target: event.target.value, page: 0, zoom: null }));
  byId("text").addEventListener("input", event => choose({ text: event.target.value, page: 0 }));
  byId("clear").addEventListener("click", () => choose({ text: "", kinds: {}, runtimes: {}, steps: {}, page: 0, zoom: null, target: D.targets.length > 1 ? "" : S.target }));
  byId("whole").addEventListener("click", () => choose({ zoom: null }, "plot"));
}
function showControls() { for (const name of ["x", "y", "target", "text"]) if (byId(name).value !== S[name]) byId(name).value = S[name]; }

/** Load the page again while the sweep is unfinished, unless the reader is in the middle of something. */
function listenToSweep() {
  if (D.finished || window.top !== window) return;
  const button = byId("reload-switch"), seconds = 30;
  const name = () => { button.textContent = S.live ? "Stop updating" : "Update by itself"; button.setAttribute("aria-pressed", S.live ? "true" : "false"); };
  let busy = 0;
  button.hidden = false;
  button.addEventListener("click", () => { choose({ live: !S.live }, "none"); name(); });
  for (const event of ["pointermove", "keydown", "wheel"]) addEventListener(event, () => { busy = performance.now(); }, { passive: true });
  try { const place = Number(sessionStorage.getItem("paretune-scroll")); if (place) scrollTo(0, place); } catch { /* nothing is kept */ }
  name();
  setInterval(() => {
    if (!S.live || performance.now() < seconds * 1000 || performance.now() - busy < 5000 || document.hidden) return;
    keep();
    try { sessionStorage.setItem("paretune-scroll", scrollY); } catch { /* nothing is kept */ }
    location.reload();
  }, 1000);
}

function draw(what) {
  if (what === "none") return;
  if (what === "pins") { placeStops(); drawOver(); drawCompare(); drawTable(); return; }
  if (what === "table") { drawTable(); return; }
  showControls();
  drawChips();
  drawPlot();
  if (what === "plot") return;
  drawTable(); drawCompare(); drawHeader(); drawCharts();
}

function start() {
  restore();
  listenToTheme(() => draw("all"));
  fillControls();
  listenToPlot();
  listeners.push(draw);
  draw("all");
  listenToSweep();
  let wide = byId("plot").clientWidth;
  new ResizeObserver(() => { if (byId("plot").clientWidth !== wide) { wide = byId("plot").clientWidth; drawPlot(); } }).observe(byId("plot"));
}
/** Where a trial is drawn, in pixels of the window; for tests and the console. */
window.paretune = { place(number, target = D.targets[0].name) { const trial = placeOf.get(target + "\n" + number), box = byId("base").getBoundingClientRect(); return { x: box.left + P.px[trial], y: box.top + P.py[trial] }; }, choice: S };
start();
