// ── Numbers ──────────────────────────────────────────────────────────────────────────────────────

const MOST_NUMBERS = 128, ALL_HEADS = 2e6; // weights of a map up to which all of its heads are listed

// The sheets whose weights are listed, by name.
async function listedSheets() {
  const [{map}] = panels;
  if (panels.length > 1) return panels.map(({label, sheet}) => [label, sheet]);
  const total = map.heads.length * map.rows.length * map.columns.length;
  const isCombined = map.heads.length > 1 && (shown.head === "mean" || shown.head === "max");
  const combined = isCombined ? [[headName(shown.head), panels[0].sheet]] : [];
  if (total > ALL_HEADS) return [[headName(headOf(map)), panels[0].sheet]];
  const heads = map.heads.map(async (_, head) => [headName(head), await headSheet(map, head)]);
  return [...combined, ...await Promise.all(heads)];
}

let listing = 0;

async function drawNumbers() {
  const turn = ++listing, listed = await listedSheets();
  if (turn !== listing) return; // another token has been marked since
  const panel = panels[0], {row, column} = marked(panel), byRow = shown.axis === "row";
  const names = byRow ? panel.columns : panel.rows, fixed = byRow ? row : column;
  const codeOf = (sheet, index) => byRow ? codeAt(sheet, fixed, index) : codeAt(sheet, index, fixed);
  const fits = ([, sheet]) => sheet.rows === panel.rows.length && sheet.columns === panel.columns.length;
  const indices = listedIndices(names.length, listed[0][1], codeOf);
  const current = byRow ? column : row;
  const head = element("tr", {}, [element("th"), ...indices.map(index => {
    const cell = element("th", {textContent: names[index], scope: "col", title: names[index]});
    cell.classList.toggle("marked", index === current);
    return cell;
  })]);
  const body = listed.filter(fits).map(([name, sheet]) => element("tr", {}, [
    element("th", {textContent: name, scope: "row", title: name}),
    ...indices.map(index => drawNumber(sheet, codeOf(sheet, index), byRow ? fixed : index, index === current)),
  ]));
  byId("numbers").replaceChildren(element("thead", {}, [head]), element("tbody", {}, body));
  byId("reading").replaceChildren(...reading(panel, indices.length < names.length));
}

// All positions, or those with the greatest weights in their order.
function listedIndices(count, sheet, codeOf) {
  const all = Array.from({length: count}, (_, index) => index);
  if (count <= MOST_NUMBERS) return all;
  const size = index => sheet.strength[codeOf(sheet, index)];
  return all.sort((one, other) => size(other) - size(one)).slice(0, MOST_NUMBERS).sort((one, other) => one - other);
}

function drawNumber(sheet, code, row, isMarked) {
  const cell = element("td", {textContent: weightText(sheet, code)});
  cell.classList.toggle("marked", isMarked);
  cell.classList.toggle("hatched", code === HIDDEN);
  if (code === HIDDEN) return cell;
  const colour = coloursOf(sheet, shown.scale, row)(code);
  cell.style.background = css(colour);
  cell.style.color = isDark(colour) ? "#ffffff" : "#12161d";
  return cell;
}

// A sentence about the marked row, column or pair.
function reading(panel, isCut) {
  const {row, column} = marked(panel), byRow = shown.axis === "row";
  const bold = (names, index) => element("b", {}, [element("bdi", {textContent: names[index]})]);
  const count = (names, index) => ` (${(index + 1).toLocaleString("en")} of ${names.length.toLocaleString("en")})`;
  const cut = isCut ? `; the ${MOST_NUMBERS} greatest weights are listed` : "";
  if (!byRow) return [bold(panel.columns, column), `${count(panel.columns, column)}: attention from each query${cut}`];
  const words = [bold(panel.rows, row), count(panel.rows, row)];
  if (column === null) return [...words, `: attention to each key${cut}`];
  const weight = weightText(panel.sheet, codeAt(panel.sheet, row, column));
  return [...words, " → ", bold(panel.columns, column), `${count(panel.columns, column)}: ${weight}${cut}`];
}
