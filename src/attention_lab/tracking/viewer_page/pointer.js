// ── Pointer events ───────────────────────────────────────────────────────────────────────────────

function mark(change) {
  if (panels.length === 0) return;
  Object.assign(shown, {hovered: null}, change);
  reveal();
  drawPanels();
  drawNumbers();
}

function locate(panel, event) {
  const box = panel.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  return panel.area.kind === "lines" ? locateInLines(panel, x, y) : locateInMap(panel, x, y);
}

function hover(panel, event) {
  const place = locate(panel, event);
  if (place === null) return;
  const {hovered} = place, axis = hovered ?? "row";
  let {row, column} = place;
  // In self-attention, a token has a row and a column: both are marked.
  if (hovered !== null && panel.area.kind === "map" && isSelf(panel)) row = column = row ?? column;
  row ??= shown.row;
  if (row === shown.row && column === shown.column && hovered === shown.hovered && axis === shown.axis) return;
  mark({row, column, axis, hovered});
}

function addPointerListeners(panel) {
  const touches = new Map();
  let spread = 0;
  const apart = () => {
    const [one, other] = [...touches.values()];
    return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  };
  panel.canvas.addEventListener("pointerdown", event => {
    touches.set(event.pointerId, event);
    if (touches.size === 2) spread = apart();
    hover(panel, event);
  });
  panel.canvas.addEventListener("pointermove", event => {
    const before = touches.get(event.pointerId);
    if (before) touches.set(event.pointerId, event);
    if (touches.size === 2) {
      zoomBy(apart() / spread);
      spread = apart();
    } else if (before && zoom.factor > 1) pan(panel, before.clientX - event.clientX, before.clientY - event.clientY);
    else hover(panel, event);
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
