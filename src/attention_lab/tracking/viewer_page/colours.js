// ── Colours ──────────────────────────────────────────────────────────────────────────────────────

const dark = matchMedia("(prefers-color-scheme: dark)");
const WORDS = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1; // whether words are little-endian

// The marks of the legend, and the place from 0 to 1 that the size of a weight has on each scale.
const SCALES = {
  root: {name: "weight", marks: [0, 0.01, 0.1, 0.5, 1], place: Math.sqrt},
  linear: {name: "weight", marks: [0, 0.25, 0.5, 0.75, 1], place: size => size},
  log: {name: "weight", marks: [0.0001, 0.001, 0.01, 0.1, 1], place: size => Math.max(0, 1 + Math.log10(size) / 4)},
  rank: {name: "rank among the map's weights", marks: []},
  rows: {name: "share of the row's greatest", marks: [0, 0.5, 1], place: size => size},
};

function word(red, green, blue) {
  return (WORDS ? 255 << 24 | blue << 16 | green << 8 | red : red << 24 | green << 16 | blue << 8 | 255) >>> 0;
}

const ramps = {};

// The colours of the levels −255 to 255, as words for image data; both halves contain that of 0.
function ramp() {
  const theme = dark.matches ? "dark" : "light";
  return ramps[theme] ??= (() => {
    const [above, below] = [bytes(page.ramps[theme].above), bytes(page.ramps[theme].below)];
    const pick = (table, level) => word(...table.subarray(3 * level, 3 * level + 3));
    return Uint32Array.from({length: 511}, (_, i) => i < 255 ? pick(below, 255 - i) : pick(above, i - 255));
  })();
}

function notFinite() { return dark.matches ? word(255, 80, 255) : word(200, 0, 200); }

function isDark(colour) {
  const [red, green, blue] = css(colour).match(/\d+/g);
  return 0.3 * red + 0.6 * green + 0.1 * blue < 140;
}

function css(colour) {
  const [a, b, c, d] = new Uint8Array(new Uint32Array([colour]).buffer);
  return WORDS ? `rgb(${a}, ${b}, ${c})` : `rgb(${d}, ${c}, ${b})`;
}

// A function from the codes of a sheet to levels from −255 to 255. Only "rows" depends on the row.
function levelsOf(sheet, scale, row) {
  if (scale === "rows") {
    const greatest = greatestOf(sheet, row);
    return code => code <= NOT_FINITE || greatest === 0 ? 0 : Math.round(255 * sheet.values[code] / greatest);
  }
  const table = scale === "rank" ? sheet.rankTable ??= levelTable(sheet, scale) : sharedTable(sheet, scale);
  return code => table[code];
}

function sharedTable(sheet, scale) {
  if (!sheet.levelTables.has(scale)) sheet.levelTables.set(scale, levelTable(sheet, scale));
  return sheet.levelTables.get(scale);
}

function levelTable(sheet, scale) {
  const ranks = scale === "rank" ? ranksOf(sheet) : null;
  return Int16Array.from({length: sheet.levels + 1}, (_, code) => {
    if (code <= NOT_FINITE) return 0;
    const weight = sheet.values[code];
    const place = ranks ? ranks[Math.abs(code - sheet.zero)] : SCALES[scale].place(Math.min(1, Math.abs(weight)));
    return Math.round(255 * Math.sign(weight) * place);
  });
}

function greatestOf(sheet, row) {
  let most = 0;
  for (let i = row * sheet.columns; i < (row + 1) * sheet.columns; i++) {
    most = Math.max(most, Math.abs(sheet.values[sheet.codes[i]]) || 0);
  }
  return most;
}

// The share of the map's weights that are not above a size, by the distance of codes from zero.
function ranksOf(sheet) {
  const counts = new Float64Array(sheet.levels + 1);
  for (const code of sheet.codes) if (code > NOT_FINITE) counts[Math.abs(code - sheet.zero)]++;
  const first = counts[0];
  let total = 0;
  for (let size = 0; size < counts.length; size++) counts[size] = total += counts[size];
  return counts.map((below, size) => size === 0 || total === first ? 0 : Math.max(1 / 255, (below - first) / (total - first)));
}

// A function from codes to words; hidden pairs are transparent, so that the hatching shows through.
function coloursOf(sheet, scale, row) {
  const levels = levelsOf(sheet, scale, row), colours = ramp(), odd = notFinite();
  return code => code === HIDDEN ? 0 : code === NOT_FINITE ? odd : colours[levels(code) + 255];
}

// An image of a part of a sheet. Where cells are smaller than pixels, a pixel shows the weight
// farthest from 0.
function paint(sheet, scale, {left, top, right, bottom}, width, height) {
  const image = new ImageData(width, height), words = new Uint32Array(image.data.buffer);
  const {codes, strength, columns} = sheet, across = right - left, down = bottom - top;
  const shared = scale === "rows" ? null : coloursOf(sheet, scale);
  const edges = Int32Array.from({length: width + 1}, (_, x) => left + Math.floor(x * across / width));
  for (let y = 0; y < height; y++) {
    const from = top + Math.floor(y * down / height), to = Math.max(from + 1, top + Math.floor((y + 1) * down / height));
    const colour = shared ?? coloursOf(sheet, scale, from);
    for (let x = 0; x < width; x++) {
      const end = Math.max(edges[x] + 1, edges[x + 1]);
      let best = -1, shown = 0;
      for (let row = from; row < to; row++) {
        for (let i = row * columns + edges[x], last = row * columns + end; i < last; i++) {
          if (strength[codes[i]] > best) best = strength[shown = codes[i]];
        }
      }
      words[y * width + x] = colour(shown);
    }
  }
  return image;
}

function drawLegend(scale, sheetList) {
  const below = sheetList.some(sheet => sheet.zero > 2), side = below ? 150 : 240, zero = below ? side : 0;
  const canvas = element("canvas", {width: zero + side, height: 1}), image = new ImageData(zero + side, 1);
  const colours = ramp(), words = new Uint32Array(image.data.buffer);
  for (let x = 0; x < words.length; x++) words[x] = colours[255 + Math.round(255 * (x - zero) / side)];
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.style.width = `${zero + side}px`;
  const {name, marks, place} = SCALES[scale];
  const label = (x, text) => element("span", {textContent: text, style: `left: ${x}px`});
  const labels = scale === "rank" ? [label(zero + 24, "smallest"), label(zero + side - 24, "largest")] : [];
  for (const mark of marks.filter(mark => !below || mark === 0 || place(mark) > 0.3)) {
    labels.push(label(zero + side * place(mark), markText(mark, scale, sheetList, 1)));
    if (below && mark > 0) labels.push(label(zero - side * place(mark), markText(mark, scale, sheetList, -1)));
  }
  byId("legend").replaceChildren(canvas, ...labels);
  byId("legend-name").textContent = name;
  byId("legend-hidden").hidden = !sheetList.some(sheet => rangeOf(sheet).hides);
  byId("legend-odd").hidden = !sheetList.some(sheet => rangeOf(sheet).isOdd);
  byId("legend-odd").firstChild.style.background = css(notFinite());
}

function markText(mark, scale, sheetList, sign) {
  const beyond = sheetList.some(sheet => (sign > 0 ? rangeOf(sheet).most : -rangeOf(sheet).least) > 1.0005);
  const text = `${sign < 0 ? "−" : ""}${mark}`;
  if (scale === "rows") return text;
  if (scale === "log" && mark === 0.0001) return sign < 0 ? text : `≤${text}`;
  return mark === 1 && beyond ? `${sign < 0 ? "≤" : "≥"}${text}` : text;
}
