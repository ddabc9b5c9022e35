// ── Weights ──────────────────────────────────────────────────────────────────────────────────────
// A sheet holds the weights of one head, or of several combined, as one code for each pair:
// 0 is a pair that the mask hides, 1 a weight that is NaN or infinite, and every other code c stands
// for the weight limit · r · |r| with r = (c − zero) / (levels − zero).

const HIDDEN = 0, NOT_FINITE = 1;
const SHEET_BYTES = 256e6; // of decoded sheets that are kept

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), character => character.charCodeAt(0));
}

async function inflate(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const tables = new Map(); // what only depends on how weights are encoded, so that heads share it

function tablesOf({limit, zero, levels}) {
  const key = [limit, zero, levels].join();
  if (!tables.has(key)) tables.set(key, makeTables(limit, zero, levels));
  return tables.get(key);
}

function makeTables(limit, zero, levels) {
  const values = new Float32Array(levels + 1).fill(NaN);
  // How much a code matters where several cells share a pixel.
  const strength = new Uint16Array(levels + 1);
  strength[NOT_FINITE] = 65535;
  for (let code = NOT_FINITE + 1; code <= levels; code++) {
    const root = (code - zero) / (levels - zero);
    values[code] = limit * root * Math.abs(root);
    strength[code] = Math.abs(code - zero) + 1;
  }
  return {values, strength, zero, levels, levelTables: new Map()};
}

function makeSheet(rows, columns, codes, encoding) { return {rows, columns, codes, ...tablesOf(encoding)}; }

async function decodeHead(map, head) {
  const buffer = await inflate(map.heads[head]);
  const codes = map.levels > 255 ? new Uint16Array(buffer) : new Uint8Array(buffer);
  return makeSheet(map.rows.length, map.columns.length, codes, map);
}

const sheets = new Map(); // promises of sheets by map and head, the oldest first
let sheetBytes = 0;

function headSheet(map, head) {
  const key = `${map.number}/${head}`;
  if (!sheets.has(key)) {
    sheets.set(key, decodeHead(map, head).then(sheet => {
      sheetBytes += sheet.codes.byteLength;
      if (sheetBytes > SHEET_BYTES) {
        sheets.clear();
        sheetBytes = 0;
      }
      return sheet;
    }));
  }
  return sheets.get(key);
}

// The sheet of one head ("0", "1", …), or the mean or maximum over heads.
async function sheetOf(map, head) {
  if (map.heads.length === 1) return headSheet(map, 0);
  if (head !== "mean" && head !== "max") return headSheet(map, +head);
  const parts = await Promise.all(map.heads.map((_, number) => headSheet(map, number)));
  const combined = head === "mean" ? meanOf(parts) : maximumOf(parts);
  return quantized(parts[0], combined);
}

function meanOf(parts) {
  const sums = new Float32Array(parts[0].codes.length), isSeen = new Uint8Array(sums.length);
  for (const {codes, values} of parts) {
    for (let i = 0; i < sums.length; i++) {
      if (codes[i] === HIDDEN) continue;
      sums[i] += values[codes[i]];
      isSeen[i] = 1;
    }
  }
  // A pair that is hidden from some heads only counts as a weight of 0 there.
  return {weights: sums.map(sum => sum / parts.length), isHidden: i => !isSeen[i]};
}

function maximumOf(parts) {
  const most = new Float32Array(parts[0].codes.length).fill(-Infinity);
  for (const {codes, values} of parts) {
    for (let i = 0; i < most.length; i++) {
      if (codes[i] !== HIDDEN) most[i] = Math.max(most[i], values[codes[i]]); // NaN stays
    }
  }
  return {weights: most, isHidden: i => most[i] === -Infinity};
}

// B − A; a pair is hidden if both hide it.
function differenceOf(first, second) {
  const value = (sheet, i) => sheet.codes[i] === HIDDEN ? 0 : sheet.values[sheet.codes[i]];
  const weights = Float32Array.from(first.codes, (_, i) => value(second, i) - value(first, i));
  return quantized(first, {weights, isHidden: i => first.codes[i] + second.codes[i] === 0}, true);
}

function quantized({rows, columns}, {weights, isHidden}, signed = false) {
  let limit = 1, least = signed ? -1 : 0;
  for (const weight of weights) {
    if (!Number.isFinite(weight)) continue;
    limit = Math.max(limit, Math.abs(weight));
    least = Math.min(least, weight);
  }
  const levels = 65535, zero = least < 0 ? 32769 : 2, codes = new Uint16Array(weights.length);
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i], root = Math.sign(weight) * Math.sqrt(Math.abs(weight) / limit);
    codes[i] = isHidden(i) ? HIDDEN : Number.isFinite(root) ? Math.round(zero + root * (levels - zero)) : NOT_FINITE;
  }
  return makeSheet(rows, columns, codes, {limit, zero, levels});
}

// The least and the greatest weight of a sheet, and whether some pairs are hidden or not finite.
function rangeOf(sheet) {
  return sheet.range ??= (() => {
    const used = new Uint8Array(sheet.levels + 1);
    for (const code of sheet.codes) used[code] = 1;
    const seen = sheet.values.filter((_, code) => used[code] && code > NOT_FINITE);
    return {least: seen[0] ?? 0, most: seen.at(-1) ?? 0, hides: used[HIDDEN] === 1, isOdd: used[NOT_FINITE] === 1};
  })();
}

function codeAt(sheet, row, column) { return sheet.codes[row * sheet.columns + column]; }

// A weight as text, with the digits that its code distinguishes.
function weightText(sheet, code) {
  if (code === HIDDEN) return "hidden";
  const weight = sheet.values[code], size = Math.abs(weight);
  if (Number.isNaN(weight)) return "NaN";
  if (weight === 0) return "0";
  const digits = sheet.levels > 255 ? 4 : size < 0.1 ? 3 : 2;
  const text = weight.toFixed(digits);
  return text.replace("-", Number(text) === 0 ? "" : "−");
}
