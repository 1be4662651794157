// What the reader has chosen; it is kept in the address, so that it survives when the page reloads itself.
const S = {
  x: COST, y: QUALITY, logx: null, logy: null, target: D.targets.length > 1 ? "" : D.targets[0]?.name ?? "", text: "",
  kinds: {}, runtimes: {}, steps: {}, pins: [], hover: null, zoom: null, table: "front", sort: null, page: 0, live: true,
};
const listeners = [];

/** Apply a change of the reader's choice, keep it and draw what follows from it. */
function choose(change, drawn = "all") {
  Object.assign(S, change);
  keep();
  for (const listener of listeners) listener(drawn);
}

function keep() {
  const kept = new URLSearchParams();
  for (const name of ["x", "y", "target", "text", "table"]) kept.set(name, S[name] ?? "");
  for (const name of ["logx", "logy"]) if (S[name] !== null) kept.set(name, S[name] ? 1 : 0);
  for (const name of ["kinds", "runtimes", "steps"]) if (Object.keys(S[name]).length) kept.set(name, JSON.stringify(S[name]));
  if (S.pins.length) kept.set("pins", S.pins.map(trial => `${own("number", trial)}@${own("target", trial)}`).join("|"));
  if (S.zoom) kept.set("zoom", S.zoom.map(value => Number(value.toPrecision(6))).join(","));
  if (S.sort) kept.set("sort", S.sort.join(","));
  if (!S.live) kept.set("live", 0);
  try { history.replaceState(null, "", "#" + kept); } catch { /* a page inside another one may not change its address */ }
}

/** Read the reader's choice from the address; what the data no longer has is left out. */
function restore() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const axes = axisNames(), known = new Set([...axes.metrics, ...axes.params]);
  for (const name of ["x", "y"]) if (known.has(kept.get(name))) S[name] = kept.get(name);
  if (kept.has("target") && (TARGET.has(kept.get("target")) || (!kept.get("target") && D.targets.length > 1))) S.target = kept.get("target");
  S.text = kept.get("text") || "";
  if (kept.get("table") === "all") S.table = "all";
  for (const name of ["logx", "logy"]) if (kept.has(name)) S[name] = kept.get(name) === "1";
  for (const name of ["kinds", "runtimes", "steps"]) {
    try { Object.assign(S[name], JSON.parse(kept.get(name) || "{}")); } catch { /* somebody has changed the address */ }
  }
  for (const pin of (kept.get("pins") || "").split("|").slice(0, 2)) {
    const at = pin.indexOf("@"), trial = placeOf.get(pin.slice(at + 1) + "\n" + pin.slice(0, at));
    if (at > 0 && trial !== undefined) S.pins.push(trial);
  }
  const zoom = (kept.get("zoom") || "").split(",").map(Number);
  if (zoom.length === 4 && zoom.every(Number.isFinite)) S.zoom = zoom;
  const sort = (kept.get("sort") || "").split(",");
  if (sort.length === 2) S.sort = sort;
  S.live = kept.get("live") !== "0";
}

/** Return the places of the trials that the filters leave; failed ones have no place in the plot but one in the table. */
function shown() {
  const words = S.text.toLowerCase().split(/\s+/).filter(Boolean), left = [];
  const wishes = Object.entries(S.steps), kind = column("own", "kind"), runtime = column("own", "runtime");
  const steps = column("own", "steps"), recipe = column("own", "recipe"), target = column("own", "target");
  for (let trial = 0; trial < COUNT; trial++) {
    if (S.target && target[trial] !== S.target) continue;
    if (S.kinds[kind[trial]] === 0 || S.runtimes[runtime[trial]] === 0) continue;
    if (wishes.some(([step, wish]) => steps[trial].includes(step) !== (wish === "with"))) continue;
    if (words.length && !words.every(word => recipe[trial].toLowerCase().includes(word) || String(own("number", trial)) === word)) continue;
    left.push(trial);
  }
  return left;
}

/** Pin a trial as A, a second one as B; a third takes the place of B, and a pinned one is let go. */
function pin(trial) {
  const pins = S.pins.includes(trial) ? S.pins.filter(one => one !== trial) : [...S.pins.slice(0, 1), trial];
  choose({ pins }, "pins");
}

/** Draw the buttons that filter. */
function drawChips() {
  const rows = [];
  const toggle = (group, value, name) => el("button", {
    type: "button", "aria-pressed": S[group][value] === 0 ? "false" : "true",
    onclick: () => { S[group][value] === 0 ? delete S[group][value] : S[group][value] = 0; choose({ page: 0 }); focusChip(group, value); },
    "data-chip": group + ":" + value,
  }, name);
  const row = (name, buttons) => buttons.length > 1 && rows.push(el("div", { role: "group", "aria-label": name }, el("span", { class: "name" }, name), ...buttons));
  const present = new Set(column("own", "kind"));
  row("State", Object.entries({ ...KINDS, ...BASELINES }).filter(([kind]) => present.has(kind)).map(([kind, name]) => toggle("kinds", kind, name)));
  row("Runtime", [...new Set(column("own", "runtime"))].sort().map(name => toggle("runtimes", name, name)));
  const next = { "": "with", with: "without", without: "" };
  const steps = [...new Set(column("own", "steps").flat())].sort().map(step => {
    const wish = S.steps[step] || "";
    return el("button", {
      type: "button", "data-wish": wish, "data-chip": "steps:" + step, title: "all, only with it, only without it",
      onclick: () => { next[wish] ? S.steps[step] = next[wish] : delete S.steps[step]; choose({ page: 0 }); focusChip("steps", step); },
    }, (wish ? wish + " " : "") + step);
  });
  if (steps.length) rows.push(el("div", { role: "group", "aria-label": "Step" }, el("span", { class: "name" }, "Step"), ...steps));
  byId("chips").replaceChildren(...rows);
}
function focusChip(group, value) {
  [...document.querySelectorAll("[data-chip]")].find(chip => chip.dataset.chip === group + ":" + value)?.focus();
}
