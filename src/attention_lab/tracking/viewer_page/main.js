// ── The page ─────────────────────────────────────────────────────────────────────────────────────

const page = JSON.parse(byId("data").textContent);
const {maps} = page;
for (const [number, map] of maps.entries()) map.number = number;
const unique = values => [...new Set(values)];
const runs = unique(maps.map(map => map.run ?? ""));

// What is chosen, and what is marked; "pointed" is the axis whose token the mouse is over.
const shown = {
  example: "", layer: "", head: "0", step: Infinity, scale: "root", mode: "map",
  row: 0, column: null, axis: "row", pointed: null,
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
function mapOf(run, layer = shown.layer) {
  const series = maps.filter(map => map.example === shown.example && map.layer === layer && (map.run ?? "") === run);
  series.sort((one, other) => one.step - other.step);
  return series.findLast(map => map.step <= shown.step) ?? series[0] ?? null;
}

// The position in the slider; two runs that have one step each are shown together.
function steps() { return runs.length > 1 ? [Infinity] : stepsOf(shown.example); }

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
  const found = runs.map(run => [run, mapOf(run)]).filter(([, map]) => map !== null);
  const made = await Promise.all(found.map(async ([run, map]) => makePanel(run, map, await sheetOf(map, shown.head))));
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
  document.documentElement.dataset.ready = drawing;
}

function makePanel(label, map, sheet) {
  const {rows, columns, sources, layer} = map, canvas = element("canvas", {tabIndex: -1});
  const panel = {label, map, sheet, rows, columns, sources, layer, canvas};
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Attention of ${layer}, ${headName(shown.head)}; the table below lists the weights of the marked token`);
  const name = map.heads.length > 1 ? `${layer} · ${headName(shown.head)}` : layer;
  const parts = [runs.length > 1 && element("b", {textContent: label}), name, runs.length > 1 && map.note].filter(Boolean);
  const title = element("figcaption", {}, parts.flatMap((part, index) => index ? [" · ", part] : [part]));
  panel.figure = element("figure", {}, [title, element("div", {className: "scroll"}, [canvas])]);
  listen(panel);
  return panel;
}

function differencePanel(first, second) {
  const map = {...second.map, note: `${second.label} minus ${first.label}`};
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
  for (const panel of panels) {
    panel.figure.style.width = across > 1 ? `${width}px` : "";
    if (shown.mode === "lines") drawLines(panel, Math.max(width, 200), height);
    else drawMap(panel, Math.max(width, 200), height);
  }
}

// Rows and columns with the same names are one sequence that attends to itself.
function caption(found) {
  if (found.length < runs.length) return "One of the runs has no map of this layer.";
  const {rows, columns, sources, layer} = found[0][1];
  if (panels.length === 2) return "There is no difference to show: the outputs differ. Give both runs the same --target.";
  if (sources !== null) return "Rows: source, then the predicted target. Columns: what they attend to. The line separates source and target.";
  return isSelf({rows, columns, layer}) && rows.every((name, index) => name === columns[index])
    ? "Rows: the position that attends. Columns: the position it attends to."
    : "Rows: the predicted token. Columns: what it attends to.";
}

// ── Overview ─────────────────────────────────────────────────────────────────────────────────────

const visible = new Set(); // the thumbnails that are on the screen
const watcher = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (isIntersecting) visible.add(target);
    else visible.delete(target);
  }
  drawThumbnails();
}, {rootMargin: "200px"});

function fillOverview() {
  watcher.disconnect();
  visible.clear();
  const most = Math.max(...maps.filter(map => map.example === shown.example).map(map => map.heads.length));
  const size = runs.length > 1 || most > 8 ? 30 : most <= 4 ? 72 : 48, nav = byId("overview");
  nav.style.setProperty("--thumbnail", `${size}px`);
  nav.style.setProperty("--label", "72px");
  const blocks = runs.flatMap(run => [
    ...(runs.length > 1 ? [element("h2", {textContent: run})] : []),
    ...layersOf(shown.example).filter(layer => mapOf(run, layer)).map(layer => overviewRow(run, layer)),
  ]);
  nav.replaceChildren(...blocks);
  nav.hidden = nav.querySelectorAll("button").length <= 1;
}

function overviewRow(run, layer) {
  const buttons = mapOf(run, layer).heads.map((_, head) => {
    const button = element("button", {type: "button", title: `${layer}, ${headName(head)}`}, [element("canvas", {className: "hatched"})]);
    button.setAttribute("aria-label", button.title);
    Object.assign(button.dataset, {run, layer, head});
    button.addEventListener("click", () => choose({layer, head: `${head}`}));
    watcher.observe(button);
    return button;
  });
  return element("div", {className: "layer"}, [element("span", {textContent: layer.replaceAll(/[._]/g, " ")}), ...buttons]);
}

async function drawThumbnails() {
  const pixels = devicePixelRatio || 1;
  for (const button of byId("overview").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.layer === shown.layer && button.dataset.head === shown.head);
  }
  for (const button of [...visible]) {
    const {run, layer, head} = button.dataset, map = mapOf(run, layer);
    if (map === null || +head >= map.heads.length) continue;
    const key = [map.number, shown.scale, dark.matches].join();
    if (button.dataset.key === key) continue;
    button.dataset.key = key;
    const sheet = await headSheet(map, +head);
    if (button.dataset.key === key) drawThumbnail(button.firstChild, sheet, button.clientWidth * pixels);
  }
}

// Square cells; the shorter side is padded.
function drawThumbnail(canvas, sheet, pixels) {
  const {rows, columns} = sheet, longest = Math.max(rows, columns), most = Math.min(longest, Math.floor(pixels));
  const width = Math.max(1, Math.round(columns * most / longest)), height = Math.max(1, Math.round(rows * most / longest));
  const part = {left: 0, top: 0, right: columns, bottom: rows};
  canvas.width = width;
  canvas.height = height;
  canvas.style.width = `${100 * width / most}%`;
  canvas.style.height = `${100 * height / most}%`;
  canvas.getContext("2d").putImageData(paint(sheet, shown.scale, part, width, height), 0, 0);
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
  const heads = mapOf(runs[0])?.heads ?? [0];
  const names = heads.length > 1 ? [...heads.keys(), "mean", "max"].map(String) : ["0"];
  if (!names.includes(shown.head)) shown.head = names[0];
  offer(byId("head"), names, shown.head, null, headName);
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

// ── Pointing ─────────────────────────────────────────────────────────────────────────────────────

function mark(change) {
  if (panels.length === 0) return;
  Object.assign(shown, {pointed: null}, change);
  reveal();
  drawPanels();
  drawNumbers();
}

function locate(panel, event) {
  const box = panel.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  return panel.area.kind === "lines" ? locateInLines(panel, x, y) : locateInMap(panel, x, y);
}

function point(panel, event) {
  const place = locate(panel, event);
  if (place === null) return;
  const {pointed} = place, axis = pointed ?? "row";
  let {row, column} = place;
  // Pointing at a token of a sequence that attends to itself marks its row and its column.
  if (pointed !== null && panel.area.kind === "map" && isSelf(panel)) row = column = row ?? column;
  row ??= shown.row;
  if (row === shown.row && column === shown.column && pointed === shown.pointed && axis === shown.axis) return;
  mark({row, column, axis, pointed});
}

function listen(panel) {
  const touches = new Map();
  let spread = 0;
  const apart = () => {
    const [one, other] = [...touches.values()];
    return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  };
  panel.canvas.addEventListener("pointerdown", event => {
    touches.set(event.pointerId, event);
    if (touches.size === 2) spread = apart();
    point(panel, event);
  });
  panel.canvas.addEventListener("pointermove", event => {
    const before = touches.get(event.pointerId);
    if (before) touches.set(event.pointerId, event);
    if (touches.size === 2) {
      zoomBy(apart() / spread);
      spread = apart();
    } else if (before && zoom.factor > 1) pan(panel, before.clientX - event.clientX, before.clientY - event.clientY);
    else point(panel, event);
  });
  for (const kind of ["pointerup", "pointercancel", "pointerleave"]) {
    panel.canvas.addEventListener(kind, event => touches.delete(event.pointerId));
  }
  panel.canvas.addEventListener("pointerleave", () => mark({column: shown.axis === "row" ? null : shown.column}));
  panel.canvas.addEventListener("wheel", event => turnWheel(panel, event), {passive: false});
  panel.canvas.addEventListener("dblclick", event => zoomBy(2, ...fractions(panel, event)));
}

function fractions(panel, event) {
  const {row, column} = locate(panel, event) ?? {};
  return [((column ?? 0) + 0.5) / panel.columns.length, ((row ?? 0) + 0.5) / panel.rows.length];
}

function turnWheel(panel, event) {
  if (event.ctrlKey || event.metaKey) zoomBy(Math.exp(-event.deltaY / 200), ...fractions(panel, event));
  else if (zoom.factor > 1 && panel.area.kind === "map") pan(panel, event.deltaX, event.deltaY);
  else return;
  event.preventDefault();
}

// ── Keys ─────────────────────────────────────────────────────────────────────────────────────────

function next(values, value, by = 1) {
  return values[(values.indexOf(value) + by + values.length) % values.length];
}

function options(id) { return [...byId(id).options].map(option => option.value); }

function moveRow(by) {
  const last = Math.max(...panels.map(({rows}) => rows.length)) - 1;
  mark({row: clamp(shown.row + by, 0, last), axis: "row"});
}

function moveColumn(by) {
  const last = Math.max(...panels.map(({columns}) => columns.length)) - 1;
  mark({column: clamp((shown.column ?? -1) + by, 0, last)});
}

function nextKind() {
  const kinds = unique(layersOf(shown.example).map(kindOf)), kind = next(kinds, kindOf(shown.layer));
  choose({layer: layersOf(shown.example).find(layer => kindOf(layer) === kind)});
}

const step = by => goTo(+byId("step").value + by);

// By key, with "Shift " before those that need it: what the key does, in words, and its function.
const KEYS = {
  ArrowUp: ["previous row", () => moveRow(-1)],
  ArrowDown: ["next row", () => moveRow(1)],
  "Shift ArrowLeft": ["previous column", () => moveColumn(-1)],
  "Shift ArrowRight": ["next column", () => moveColumn(1)],
  A: ["what the row attends to, or who attends to the column", () => mark({axis: shown.axis === "row" ? "column" : "row", column: shown.column ?? 0})],
  ArrowLeft: ["previous step", () => step(-1)],
  ArrowRight: ["next step", () => step(1)],
  P: ["play or pause the steps", () => play()],
  H: ["next head, then the mean and the maximum", () => choose({head: next(options("head"), shown.head)})],
  "Shift H": ["previous head", () => choose({head: next(options("head"), shown.head, -1)})],
  L: ["next layer", () => choose({layer: next(layersOf(shown.example), shown.layer)})],
  "Shift L": ["previous layer", () => choose({layer: next(layersOf(shown.example), shown.layer, -1)})],
  K: ["next kind: encoder, decoder, cross-attention", nextKind],
  E: ["next example", () => choose({example: next(options("example"), shown.example)})],
  C: ["next colour scale", () => choose({scale: next(options("scale"), shown.scale)})],
  V: ["map or lines", () => choose({mode: next(options("mode"), shown.mode)})],
  "+": ["zoom in (or Ctrl and the wheel, or pinch)", () => zoomToMarked()],
  "-": ["zoom out", () => zoomBy(0.5)],
  0: ["fit the map", () => zoomBy(0)],
  "?": ["these keys", () => byId("help").showModal()],
};

function zoomToMarked() {
  zoomBy(2, ...centre());
  reveal(); // the visible part has another shape than before
}

// The marked cell as fractions of both axes, where keys zoom in.
function centre() {
  const {row, column} = marked(panels[0]);
  return [((column ?? row) + 0.5) / panels[0].columns.length, (row + 0.5) / panels[0].rows.length].map(each => Math.min(1, each));
}

function press(event) {
  if (event.target.matches("select") || event.altKey || event.ctrlKey || event.metaKey || byId("help").open) return;
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const found = KEYS[event.shiftKey ? `Shift ${key}` : key] ?? (/[+?=_]/.test(key) ? KEYS[{"=": "+", _: "-"}[key] ?? key] : null);
  if (!found) return;
  event.preventDefault();
  if (key !== "P") stop();
  found[1]();
}

// ── Start ────────────────────────────────────────────────────────────────────────────────────────

for (const name of ["example", "layer", "head", "scale", "mode"]) {
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
