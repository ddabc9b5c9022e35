// ── Lines ────────────────────────────────────────────────────────────────────────────────────────
// Two columns of tokens: the queries on the left, the keys on the right, and a line for each weight.

const LINE_HEIGHT = 17, GAP = 240, SHADES = 12;
const scrolled = {row: 0, column: 0}; // the first token of each column, if there are too many

function drawLines(panel, width, height) {
  const area = panel.area = linesArea(panel, width, height);
  const context = resize(panel.canvas, area.width, area.height);
  panel.canvas.style.touchAction = "pan-y";
  const shades = weightsByShade(panel);
  const colour = panel.sheet.zero > 2 ? ["mark", "accent"] : ["accent", "accent"];
  context.lineWidth = 2;
  for (const [shade, pairs] of shades.entries()) {
    context.globalAlpha = (shade + 1) / SHADES;
    for (const [sign, name] of colour.entries()) {
      context.strokeStyle = colourOf(name);
      context.beginPath();
      for (const [row, column, isAbove] of pairs) {
        if (isAbove !== (sign === 1)) continue;
        context.moveTo(area.left, heightOf(area, row - area.firstRow));
        context.lineTo(area.left + area.gap, heightOf(area, column - area.firstColumn));
      }
      context.stroke();
    }
  }
  context.globalAlpha = 1;
  const current = marked(panel);
  const {firstRow, lastRow, firstColumn, lastColumn, left} = area, right = left + area.gap + 6;
  drawMore(context, area, left - 6, "right", firstRow, panel.rows.length - lastRow, lastRow - firstRow);
  drawMore(context, area, right, "left", firstColumn, panel.columns.length - lastColumn, lastColumn - firstColumn);
  for (let row = area.firstRow; row < area.lastRow; row++) {
    const isMarked = shown.axis === "row" && row === current.row;
    drawName(context, shorten(panel.rows[row]), left - 6, heightOf(area, row - firstRow), "right", 0, isMarked);
  }
  for (let column = area.firstColumn; column < area.lastColumn; column++) {
    const isMarked = column === current.column;
    drawName(context, shorten(panel.columns[column]), right, heightOf(area, column - firstColumn), "left", 0, isMarked);
  }
}

function heightOf(area, index) { return area.top + (index + 0.5) * LINE_HEIGHT; }

function linesArea(panel, width, height) {
  const most = Math.max(10, Math.floor(height / LINE_HEIGHT) - 2), current = marked(panel);
  const [firstRow, lastRow] = range("row", panel.rows.length, current.row, most);
  const [firstColumn, lastColumn] = range("column", panel.columns.length, current.column ?? current.row, most);
  const left = Math.max(90, widest(panel.rows) + 10), right = Math.max(90, widest(panel.columns) + 10), gap = clamp(width - left - right, 60, GAP);
  const longest = Math.max(lastRow - firstRow, lastColumn - firstColumn);
  return {
    kind: "lines", left, gap, top: LINE_HEIGHT, firstRow, lastRow, firstColumn, lastColumn,
    width: left + gap + right, height: LINE_HEIGHT * (longest + 2),
  };
}

// The tokens that are shown: the marked one is among them.
function range(axis, count, index, most) {
  const last = Math.max(0, count - most);
  if (index < scrolled[axis] || index >= scrolled[axis] + most) scrolled[axis] = index - Math.floor(most / 2);
  scrolled[axis] = clamp(scrolled[axis], 0, last);
  return [scrolled[axis], Math.min(count, scrolled[axis] + most)];
}

// How many tokens there are before and after those that are shown.
function drawMore(context, area, x, align, before, after, shownCount) {
  const write = (count, index) => {
    if (count > 0) drawName(context, `⋮ ${count.toLocaleString("en")} more`, x, heightOf(area, index), align, 0, false);
  };
  write(before, -1);
  write(after, shownCount);
}

// Pairs by their shade: those of the token under the mouse, or all if it is over none.
function weightsByShade(panel) {
  const {area, sheet} = panel, current = marked(panel), shades = Array.from({length: SHADES}, () => []);
  for (let row = area.firstRow; row < area.lastRow; row++) {
    if (shown.hovered === "row" && row !== current.row) continue;
    const levels = levelsOf(sheet, shown.scale, row);
    for (let column = area.firstColumn; column < area.lastColumn; column++) {
      if (shown.hovered === "column" && column !== current.column) continue;
      const level = levels(codeAt(sheet, row, column)), shade = Math.ceil(Math.abs(level) / 255 * SHADES) - 1;
      if (shade >= 0) shades[shade].push([row, column, level > 0]);
    }
  }
  return shades;
}

function locateInLines({area}, x, y) {
  const index = Math.floor((y - area.top) / LINE_HEIGHT);
  const row = area.firstRow + index, column = area.firstColumn + index;
  if (index < 0) return null;
  if (x < area.left + area.gap / 2) return row < area.lastRow ? {row, column: null, hovered: "row"} : null;
  return column < area.lastColumn ? {row: null, column, hovered: "column"} : null;
}
