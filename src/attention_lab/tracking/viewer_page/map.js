// ── The map ──────────────────────────────────────────────────────────────────────────────────────
// A panel is one map of the page: {label, map, sheet, rows, columns, sources, layer, canvas, figure, area}.

// In pixels: least distance between two names, longest name, largest cell that fits and that zooms.
const NAME = 14, LONGEST_NAME = 110, LARGEST = 56, LARGEST_ZOOMED = 72;

// A factor over the size that fits, and the centre as fractions of both axes: all panels share it.
const zoom = {factor: 1, x: 0.5, y: 0.5};

function clamp(value, least, most) { return Math.max(least, Math.min(most, value)); }

function fontOf(weight) { return `${weight} 12px system-ui, sans-serif`; }

const pen = document.createElement("canvas").getContext("2d");
const widths = new WeakMap(); // the width of the widest of a list of names

function widest(names) {
  if (!widths.has(names)) {
    pen.font = fontOf(600);
    const width = names.reduce((most, name) => Math.max(most, pen.measureText(name).width), 0);
    widths.set(names, Math.ceil(Math.min(width, LONGEST_NAME)));
  }
  return widths.get(names);
}

const shortened = new Map();

function shorten(name) {
  if (!shortened.has(name)) {
    pen.font = fontOf(600);
    let text = name;
    if (pen.measureText(name).width > LONGEST_NAME) {
      const letters = Array.from(new Intl.Segmenter().segment(name.slice(0, 200)), each => each.segment);
      while (pen.measureText((text = `${letters.join("")}…`)).width > LONGEST_NAME) letters.pop();
    }
    shortened.set(name, text);
  }
  return shortened.get(name);
}

// Name each cell, or every 3rd, 5th, 7th …: an even interval would name only the keys of alternating keys and values.
function every(cell) { return Math.ceil(NAME / cell) | 1; }

// Where the cells of a panel are in its canvas, and which of them are visible.
function areaOf({rows, columns}, width, height) {
  const left = widest(rows) + 8;
  const room = width - left - 4;
  const loose = Math.min(room / columns.length, LARGEST);
  const likely = Math.min(loose, (height - 24) / rows.length);
  const turned = widest(columns) + 4 > every(likely) * likely;
  const top = turned ? widest(columns) + 8 : 20;
  const tall = Math.max(120, height - top - 4);
  let fit = Math.min(loose, tall / rows.length);
  if (fit >= 2) fit = Math.floor(fit);
  const cell = Math.min(fit * zoom.factor, Math.max(fit, LARGEST_ZOOMED));
  const wide = Math.min(room, columns.length * cell), high = Math.min(tall, rows.length * cell);
  return {
    kind: "map", left, top, turned, fit, cell, wide, high,
    firstColumn: clamp(zoom.x * columns.length - wide / cell / 2, 0, columns.length - wide / cell),
    firstRow: clamp(zoom.y * rows.length - high / cell / 2, 0, rows.length - high / cell),
    width: left + wide + 4, height: top + high + 4,
  };
}

function resize(canvas, width, height) {
  const pixels = devicePixelRatio || 1;
  canvas.width = Math.round(width * pixels);
  canvas.height = Math.round(height * pixels);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(pixels, 0, 0, pixels, 0, 0);
  return context;
}

function colourOf(name) { return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`); }

function drawMap(panel, width, height) {
  const area = panel.area = areaOf(panel, width, height);
  const context = resize(panel.canvas, area.width, area.height);
  panel.canvas.style.touchAction = zoom.factor > 1 ? "none" : "pan-y";
  drawCells(context, panel);
  drawGrid(context, panel);
  drawMarks(context, panel);
  drawNames(context, panel, "row");
  drawNames(context, panel, "column");
}

function drawCells(context, panel) {
  const {left, top, wide, high, cell, firstColumn, firstRow} = panel.area;
  context.save();
  context.beginPath();
  context.rect(left, top, wide, high);
  context.clip();
  context.fillStyle = hatching(context);
  context.fillRect(left, top, wide, high);
  const part = {left: Math.floor(firstColumn), top: Math.floor(firstRow)};
  part.right = Math.min(panel.columns.length, Math.ceil(firstColumn + wide / cell));
  part.bottom = Math.min(panel.rows.length, Math.ceil(firstRow + high / cell));
  const across = (part.right - part.left) * cell, down = (part.bottom - part.top) * cell;
  context.imageSmoothingEnabled = false;
  context.drawImage(
    cellsOf(panel, part, across, down),
    left + (part.left - firstColumn) * cell, top + (part.top - firstRow) * cell, across, down,
  );
  context.restore();
}

// The image of a part of the cells; moving the mouse draws it again without computing it.
function cellsOf(panel, part, across, down) {
  const pixels = devicePixelRatio || 1, {sheet} = panel;
  const width = clamp(Math.round(across * pixels), 1, part.right - part.left);
  const height = clamp(Math.round(down * pixels), 1, part.bottom - part.top);
  const key = [shown.scale, dark.matches, width, height, ...Object.values(part)].join();
  if (panel.image?.key !== key || panel.image.sheet !== sheet) {
    const canvas = element("canvas", {width, height});
    canvas.getContext("2d").putImageData(paint(sheet, shown.scale, part, width, height), 0, 0);
    panel.image = {key, sheet, canvas};
  }
  return panel.image.canvas;
}

// Diagonal lines for pairs that the mask hides.
function hatching(context) {
  const tile = element("canvas", {width: 6, height: 6}), drawing = tile.getContext("2d");
  drawing.fillStyle = colourOf("paper");
  drawing.fillRect(0, 0, 6, 6);
  drawing.strokeStyle = colourOf("hidden");
  drawing.lineWidth = 1.5;
  for (const shift of [-6, 0, 6]) {
    drawing.moveTo(shift - 1, 7);
    drawing.lineTo(shift + 7, -1);
  }
  drawing.stroke();
  return context.createPattern(tile, "repeat");
}

function drawGrid(context, panel) {
  const {left, top, wide, high, cell, firstColumn, firstRow} = panel.area;
  context.lineWidth = 1;
  if (cell >= 8) {
    context.strokeStyle = colourOf("line");
    context.beginPath();
    for (let x = Math.ceil(firstColumn) - firstColumn; x * cell < wide; x++) {
      context.moveTo(Math.round(left + x * cell) + 0.5, top);
      context.lineTo(Math.round(left + x * cell) + 0.5, top + high);
    }
    for (let y = Math.ceil(firstRow) - firstRow; y * cell < high; y++) {
      context.moveTo(left, Math.round(top + y * cell) + 0.5);
      context.lineTo(left + wide, Math.round(top + y * cell) + 0.5);
    }
    context.stroke();
  }
  if (panel.sources !== null) drawBoundary(context, panel);
  context.strokeStyle = colourOf("frame");
  context.strokeRect(left - 0.5, top - 0.5, wide + 1, high + 1);
}

// The lines between source and target, if one sequence holds both.
function drawBoundary(context, {sources, area}) {
  const x = area.left + (sources - area.firstColumn) * area.cell, y = area.top + (sources - area.firstRow) * area.cell;
  context.fillStyle = colourOf("ink");
  if (x > area.left && x < area.left + area.wide) context.fillRect(x - 0.75, area.top, 1.5, area.high);
  if (y > area.top && y < area.top + area.high) context.fillRect(area.left, y - 0.75, area.wide, 1.5);
}

// A frame around the marked row and column; a token under the mouse dims all others.
function drawMarks(context, panel) {
  const {left, top, wide, high, cell, firstColumn, firstRow} = panel.area, {row, column} = marked(panel);
  const y = top + (row - firstRow) * cell, x = left + ((column ?? 0) - firstColumn) * cell;
  context.save();
  context.beginPath();
  context.rect(left - 2, top - 2, wide + 4, high + 4);
  context.clip();
  if (shown.hovered !== null) {
    context.beginPath();
    context.rect(left, top, wide, high);
    if (shown.hovered !== "column" || isSelf(panel)) context.rect(left, y, wide, cell);
    if (column !== null) context.rect(x, top, cell, high);
    context.globalAlpha = 0.6;
    context.fillStyle = colourOf("paper");
    context.fill("evenodd");
    context.globalAlpha = 1;
  }
  context.strokeStyle = colourOf("mark");
  context.lineWidth = 2;
  if (shown.axis === "row") context.strokeRect(left, y, wide, Math.max(cell, 1));
  else context.strokeRect(x, top, Math.max(cell, 1), high);
  if (column !== null) context.strokeRect(x, y, Math.max(cell, 1), Math.max(cell, 1));
  context.restore();
}

// Whether a sequence attends to itself: both axes have the same positions.
function isSelf({layer, rows, columns}) { return rows.length === columns.length && !layer.includes("cross"); }

function drawNames(context, panel, axis) {
  const {left, top, wide, high, cell, firstColumn, firstRow, turned} = panel.area, isRow = axis === "row";
  const names = isRow ? panel.rows : panel.columns, first = isRow ? firstRow : firstColumn;
  const count = (isRow ? high : wide) / cell, current = marked(panel)[axis];
  const shift = every(cell);
  const start = Math.ceil(first - 0.5), last = Math.min(names.length - 1, Math.floor(first + count - 0.5));
  const place = index => (index + 0.5 - first) * cell;
  const indices = [];
  for (let index = Math.ceil(start / shift) * shift; index <= last; index += shift) {
    if (current === null || index === current || Math.abs(index - current) * cell >= NAME) indices.push(index);
  }
  if (current !== null && current >= start && current <= last && !indices.includes(current)) indices.push(current);
  for (const index of indices) {
    const name = shorten(names[index]), isMarked = index === current;
    if (isRow) drawName(context, name, left - 5, top + place(index), "right", 0, isMarked);
    else if (turned) drawName(context, name, left + place(index), top - 5, "left", -Math.PI / 2, isMarked);
    else drawName(context, name, left + place(index), top - 10, "center", 0, isMarked);
  }
}

function drawName(context, name, x, y, align, angle, isMarked) {
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  context.textAlign = align;
  context.textBaseline = "middle";
  context.font = fontOf(isMarked ? 600 : 400);
  if (isMarked) {
    const width = context.measureText(name).width + 6;
    const start = align === "right" ? 3 - width : align === "left" ? -3 : -width / 2;
    context.fillStyle = colourOf("mark-band");
    context.fillRect(start, -8, width, 16);
  }
  context.fillStyle = colourOf(isMarked ? "mark" : "ink");
  context.fillText(name, 0, 0);
  context.restore();
}

// The row and column at a place of the canvas; one of them is null over the names of the other.
function locateInMap({area, rows, columns}, x, y) {
  const column = Math.floor(area.firstColumn + (x - area.left) / area.cell);
  const row = Math.floor(area.firstRow + (y - area.top) / area.cell);
  const inRows = y >= area.top && y < area.top + area.high && row < rows.length;
  const inColumns = x >= area.left && x < area.left + area.wide && column < columns.length;
  if (inRows && inColumns) return {row, column, hovered: null};
  if (inRows && x < area.left) return {row, column: null, hovered: "row"};
  if (inColumns && y < area.top) return {row: null, column, hovered: "column"};
  return null;
}

// ── Zoom ─────────────────────────────────────────────────────────────────────────────────────────

function zoomBy(factor, x = zoom.x, y = zoom.y) {
  const area = panels[0].area;
  if (area.kind !== "map") return;
  const most = Math.max(1, LARGEST_ZOOMED / area.fit), next = clamp(zoom.factor * factor, 1, most);
  const change = zoom.factor / next;
  // The point at x and y stays where it is.
  zoom.x = x + (zoom.x - x) * change;
  zoom.y = y + (zoom.y - y) * change;
  zoom.factor = next;
  if (next === 1) zoom.x = zoom.y = 0.5;
  settle();
  drawPanels();
}

function pan(panel, right, down) {
  zoom.x += right / panel.area.cell / panel.columns.length;
  zoom.y += down / panel.area.cell / panel.rows.length;
  settle();
  drawPanels();
}

// Keep the centre where the visible part does not leave the map.
function settle() {
  for (const [axis, side] of [["x", "wide"], ["y", "high"]]) {
    const {area, rows, columns} = panels[0], count = axis === "x" ? columns.length : rows.length;
    const half = Math.min(0.5, area[side] / (area.fit * zoom.factor) / count / 2);
    zoom[axis] = clamp(zoom[axis], half, 1 - half);
  }
}

// Move the visible part so that it contains the marked cell.
function reveal() {
  const panel = panels[0], {area} = panel;
  if (area.kind !== "map" || zoom.factor === 1) return;
  const {row, column} = marked(panel);
  const away = (index, first, count) => Math.min(0, index - first) + Math.max(0, index + 1 - first - count);
  const down = away(row, area.firstRow, area.high / area.cell);
  const right = column === null ? 0 : away(column, area.firstColumn, area.wide / area.cell);
  if (down || right) pan(panel, right * area.cell, down * area.cell);
}
