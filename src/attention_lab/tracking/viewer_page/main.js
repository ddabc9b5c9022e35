// ── The page ─────────────────────────────────────────────────────────────────────────────────────

const page = JSON.parse(byId("data").textContent);
const {maps} = page;
for (const [number, map] of maps.entries()) map.number = number;
const unique = values => [...new Set(values)];
const runs = unique(maps.map(map => map.run ?? ""));

// The selection, the marked row and column, and the axis with the token under the mouse (or null).
const shown = {
  example: "", layer: "", head: "0", step: Infinity, scale: "root", mode: "map", summary: "", compared: "none",
  row: 0, column: null, axis: "row", hovered: null,
};
let panels = [];
let player = null;

function byId(id) { return document.getElementById(id); }

function element(tag, properties = {}, children = []) {
  const {style, ...rest} = properties;
  const made = Object.assign(document.createElement(tag), rest);
  if (style) made.style.cssText = style;
  made.append(...children);
  return made;
}

function headName(head) { return /^\d+$/.test(head) ? `head ${head}` : head; }

// The chosen head of a map, or its last one if it has fewer heads than the map of another run.
function headOf(map) {
  return /^\d+$/.test(shown.head) ? `${Math.min(+shown.head, map.heads.length - 1)}` : shown.head;
}

// Encoder, decoder, cross-attention, or self-attention of a network without these parts.
function kindOf(layer) {
  if (layer.includes("cross_attention")) return "cross-attention";
  const [first] = layer.split(".");
  return first === "encoder" || first === "decoder" ? first : "self-attention";
}

// ── Maps of the selection ────────────────────────────────────────────────────────────────────────

function layersOf(example) { return unique(maps.filter(map => map.example === example).map(map => map.layer)); }

function stepsOf(example) {
  return unique(maps.filter(map => map.example === example).map(map => map.step)).sort((one, other) => one - other);
}

function notesOf(example) {
  return maps.filter(map => map.example === example).map(map => map.note).filter(Boolean);
}

// Cross-attention is shown first, if there is any.
function firstLayer(example) {
  const layers = layersOf(example);
  return layers.find(layer => kindOf(layer) === "cross-attention") ?? layers[0];
}

// The map of a run at the chosen step, or at its last step before it.
function mapOf(run, layer = shown.layer, step = shown.step) {
  const series = maps.filter(map => map.example === shown.example && map.layer === layer && (map.run ?? "") === run);
  series.sort((one, other) => one.step - other.step);
  return series.findLast(map => map.step <= step) ?? series[0] ?? null;
}

// The position in the slider; two runs that have one step each are shown together.
function steps() { return runs.length > 1 ? [Infinity] : stepsOf(shown.example); }

// Pairs of a label and a map that are drawn side by side: two runs, two steps of one run, or one map.
function sides() {
  if (runs.length > 1) return runs.map(run => [run, mapOf(run)]);
  const map = mapOf(runs[0]), name = step => `step ${step.toLocaleString("en")}`;
  if (shown.compared === "none") return [["", map]];
  return [mapOf(runs[0], shown.layer, +shown.compared), map].map(each => [name(each.step), each]);
}

// The marked row and column within a panel, whose map may be smaller than another's.
function marked({rows, columns}) {
  const column = shown.column === null && shown.axis === "column" ? 0 : shown.column;
  return {
    row: Math.min(shown.row, rows.length - 1),
    column: column === null ? null : Math.min(column, columns.length - 1),
  };
}

// ── Drawing ──────────────────────────────────────────────────────────────────────────────────────

let drawing = 0;

async function draw() {
  const turn = ++drawing;
  const found = sides().filter(([, map]) => map !== null);
  const made = await Promise.all(found.map(async ([label, map]) => makePanel(label, map, await sheetOf(map, headOf(map)))));
  // The first row of a causal map attends to itself only, so the last one is marked at first.
  if (panels.length === 0 && rangeOf(made[0].sheet).hides) shown.row = made[0].rows.length - 1;
  if (turn !== drawing) return; // something else has been chosen since
  if (made.length === 2 && haveSameAxes(...made)) made.push(differencePanel(...made));
  panels = made;
  byId("panels").replaceChildren(...panels.map(({figure}) => figure));
  drawPanels();
  drawNumbers();
  drawLegend(shown.scale, panels.map(({sheet}) => sheet));
  const count = steps().length, left = page.steps_left_out;
  const cut = left ? ` This page has ${count} of ${count + left} steps, to stay small.` : "";
  byId("caption").textContent = caption(found) + cut;
  drawThumbnails();
  drawSummaries();
  document.documentElement.dataset.ready = drawing;
}

function makePanel(label, map, sheet) {
  const {rows, columns, sources, layer} = map, canvas = element("canvas", {tabIndex: -1});
  const panel = {label, map, sheet, rows, columns, sources, layer, canvas};
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Attention of ${layer}, ${headName(headOf(map))}; the table below lists the weights of the marked token`);
  const name = map.heads.length > 1 ? `${layer} · ${headName(headOf(map))}` : layer;
  const parts = [label && element("b", {textContent: label}), name, label && map.note].filter(Boolean);
  const title = element("figcaption", {}, parts.flatMap((part, index) => index ? [" · ", part] : [part]));
  panel.figure = element("figure", {}, [title, element("div", {className: "scroll"}, [canvas])]);
  addPointerListeners(panel);
  return panel;
}

function differencePanel(first, second) {
  const map = {...second.map, note: "the second minus the first"};
  return makePanel("difference", map, differenceOf(first.sheet, second.sheet));
}

function haveSameAxes(first, second) {
  return ["rows", "columns"].every(axis =>
    first[axis].length === second[axis].length && first[axis].every((name, index) => name === second[axis][index]));
}

function drawPanels() {
  const space = byId("panels"), isPhone = innerWidth <= 600;
  const across = space.clientWidth < 240 * panels.length ? 1 : panels.length;
  const width = Math.floor((space.clientWidth - 24 * (across - 1)) / across);
  const below = byId("numbers").closest("section").offsetHeight;
  const height = isPhone ? innerHeight * 0.6 : Math.max(300, innerHeight - space.offsetTop - Math.min(below, 260) - 40);
  byId("side").style.setProperty("--room", `${height}px`);
  for (const {figure} of panels) figure.style.width = across > 1 ? `${width}px` : "";
  alignMaps(across > 1);
  for (const panel of panels) {
    if (shown.mode === "lines") drawLines(panel, Math.max(width, 200), height);
    else drawMap(panel, Math.max(width, 200), height);
  }
}

// Captions side by side get the height of the tallest, so that the maps below them are aligned.
function alignMaps(areSideBySide) {
  const captions = panels.map(({figure}) => figure.firstChild);
  for (const each of captions) each.style.minHeight = "";
  const tallest = Math.max(...captions.map(each => each.offsetHeight));
  for (const each of captions) each.style.minHeight = areSideBySide ? `${tallest}px` : "";
}

// Queries are named by the token they predict, unless they have the names of the keys.
function caption(found) {
  if (found.length < runs.length) return "One of the runs has no map of this layer.";
  const {rows, columns, sources, layer} = found[0][1];
  if (panels.length === 2) return "There is no difference to show: the outputs differ. Give both runs the same --target.";
  if (sources !== null) return "Rows: queries, the source and then the predicted target. Columns: keys. The line separates source and target.";
  return isSelf({rows, columns, layer}) && rows.every((name, index) => name === columns[index])
    ? "Rows: queries. Columns: keys of the same sequence."
    : "Rows: queries, named by the token they predict. Columns: keys.";
}

// ── Choosing ─────────────────────────────────────────────────────────────────────────────────────

function choose(change) {
  const before = {...shown};
  Object.assign(shown, change);
  if (shown.example !== before.example) {
    if (!layersOf(shown.example).includes(shown.layer)) shown.layer = firstLayer(shown.example);
    fillOverview();
  }
  fillControls();
  if (shown.layer !== before.layer || shown.example !== before.example) Object.assign(zoom, {factor: 1, x: 0.5, y: 0.5});
  draw();
}

function fillControls() {
  byId("note").textContent = unique(notesOf(shown.example)).join(" / ");
  offer(byId("example"), unique(maps.map(map => map.example)), shown.example);
  offer(byId("layer"), layersOf(shown.example), shown.layer, kindOf);
  const most = Math.max(...runs.map(run => mapOf(run)?.heads.length ?? 1));
  const names = most > 1 ? [...Array(most).keys(), "mean", "max"].map(String) : ["0"];
  if (!names.includes(shown.head)) shown.head = names[0];
  offer(byId("head"), names, shown.head, null, headName);
  const others = runs.length > 1 || steps().length === 1 ? [] : steps().map(String);
  if (!others.includes(shown.compared)) shown.compared = "none";
  offer(byId("compared"), ["none", ...others], shown.compared, null, each => each === "none" ? each : (+each).toLocaleString("en"));
  for (const name of ["scale", "mode"]) byId(name).value = shown[name];
  const all = steps(), position = Math.max(0, all.findLastIndex(step => step <= shown.step));
  byId("steps").hidden = runs.length > 1;
  byId("step").max = all.length - 1;
  byId("step").value = position;
  byId("play").hidden = byId("step").hidden = all.length === 1;
  byId("steps").classList.toggle("single", all.length === 1);
  byId("step-name").value = (all[position] ?? 0).toLocaleString("en");
  byId("step").setAttribute("aria-valuetext", `step ${all[position]}`);
}

function offer(select, values, value, group = null, name = each => each) {
  select.closest("label").hidden = values.length === 1;
  const options = values.map(each => new Option(name(each), each));
  if (group === null || unique(values.map(group)).length === 1) select.replaceChildren(...options);
  else {
    select.replaceChildren(...unique(values.map(group)).map(label =>
      element("optgroup", {label}, options.filter(option => group(option.value) === label))));
  }
  select.value = value;
}

function goTo(position) {
  const all = steps();
  choose({step: all[clamp(position, 0, all.length - 1)]});
}

function play() {
  if (player) return stop();
  if (+byId("step").value === steps().length - 1) goTo(0);
  player = setInterval(() => {
    goTo(+byId("step").value + 1);
    if (+byId("step").value === steps().length - 1) stop();
  }, 500);
  byId("play").textContent = "Pause";
}

function stop() {
  clearInterval(player);
  player = null;
  byId("play").textContent = "Play";
}

// ── Start ────────────────────────────────────────────────────────────────────────────────────────

for (const name of ["example", "layer", "head", "scale", "mode", "summary", "compared"]) {
  byId(name).addEventListener("change", event => {
    stop();
    choose({[name]: event.target.value});
  });
}
byId("step").addEventListener("input", event => {
  stop();
  goTo(+event.target.value);
});
byId("play").addEventListener("click", play);
byId("summary-chart").addEventListener("click", event => {
  stop();
  choose({step: stepAt(event)});
});
byId("zoom-in").addEventListener("click", () => KEYS["+"][1]());
byId("zoom-out").addEventListener("click", () => KEYS["-"][1]());
byId("zoom-fit").addEventListener("click", () => KEYS[0][1]());
byId("help-button").addEventListener("click", () => byId("help").showModal());
const symbols = {ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Shift: "⇧"};
byId("key-list").replaceChildren(...Object.entries(KEYS).flatMap(([key, [does]]) => [
  element("dt", {textContent: key.split(" ").map(part => symbols[part] ?? part).join("")}),
  element("dd", {textContent: does}),
]));
document.addEventListener("keydown", press);
new ResizeObserver(() => drawPanels()).observe(document.querySelector(".numbers"));
addEventListener("resize", () => drawPanels());
dark.addEventListener("change", () => draw());

choose({example: maps[0].example});
