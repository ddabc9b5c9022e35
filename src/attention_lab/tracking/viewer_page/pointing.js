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
