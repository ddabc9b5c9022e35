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
  A: ["the marked row or the marked column", () => mark({axis: shown.axis === "row" ? "column" : "row", column: shown.column ?? 0})],
  ArrowLeft: ["previous step", () => step(-1)],
  ArrowRight: ["next step", () => step(1)],
  D: ["compare with the next step, or with none", () => choose({compared: next(options("compared"), shown.compared)})],
  "Shift D": ["compare with the step before, or with none", () => choose({compared: next(options("compared"), shown.compared, -1)})],
  P: ["play or pause the steps", () => play()],
  H: ["next head, then the mean and the maximum", () => choose({head: next(options("head"), shown.head)})],
  "Shift H": ["previous head", () => choose({head: next(options("head"), shown.head, -1)})],
  L: ["next layer", () => choose({layer: next(layersOf(shown.example), shown.layer)})],
  "Shift L": ["previous layer", () => choose({layer: next(layersOf(shown.example), shown.layer, -1)})],
  K: ["next kind: encoder, decoder, cross-attention", nextKind],
  E: ["next example", () => choose({example: next(options("example"), shown.example)})],
  C: ["next colour scale", () => choose({scale: next(options("scale"), shown.scale)})],
  S: ["next number of the chart over training", () => choose({summary: next(options("summary"), shown.summary)})],
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
