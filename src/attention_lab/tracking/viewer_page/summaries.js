// ── Summaries over training ──────────────────────────────────────────────────────────────────────
// A chart of one number of each head of the chosen layer, such as entropy, at the steps of the page.

const CHART = {width: 300, height: 120, left: 46, right: 10, top: 8, bottom: 20};

function svg(tag, attributes, text = "") {
  const made = document.createElementNS(byId("summary-chart").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// The summaries of the chosen layer.
function summariesOf(layer) {
  return unique(Object.values(page.summaries).flatMap(layers => Object.keys(layers[layer] ?? {})));
}

// Pairs of each step and the numbers of all heads; null is a number that a head does not have, and
// a step at which no head has one has no numbers.
function seriesOf(layer, summary) {
  return stepsOf(shown.example).map(step => [step, page.summaries[step]?.[layer]?.[summary] ?? []]);
}

function meanOfHeads(values) {
  const known = values.filter(value => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

// The number of the chosen head, or the mean if heads are combined.
function chosenValue(values) {
  return /^\d+$/.test(shown.head) ? values[+shown.head] ?? null : meanOfHeads(values);
}

function drawSummaries() {
  const names = summariesOf(shown.layer);
  byId("summaries").hidden = names.length === 0;
  byId("side").hidden = names.length === 0 && byId("overview").hidden;
  if (names.length === 0) return;
  if (!names.includes(shown.summary)) shown.summary = names[0];
  byId("summary").replaceChildren(...names.map(name => new Option(name.replaceAll("_", " "), name)));
  byId("summary").value = shown.summary;
  const series = seriesOf(shown.layer, shown.summary), places = chartPlaces(series);
  const current = mapOf(runs[0]).step, value = chosenValue(series.find(([step]) => step === current)[1]);
  const heads = Math.max(...series.map(([, values]) => values.length));
  const whose = /^\d+$/.test(shown.head) ? headName(shown.head) : "mean over heads";
  const told = `${whose}, step ${current.toLocaleString("en")}: ${value === null ? "none" : numberText(value)}`;
  byId("summary-value").textContent = told;
  byId("summary-chart").setAttribute("aria-label", `${shown.summary.replaceAll("_", " ")} of ${shown.layer} over training; ${told}`);
  byId("summary-chart").replaceChildren(
    ...chartAxes(series, places),
    ...[...Array(heads).keys()].map(head => chartLine(series, places, values => values[head] ?? null, "head")),
    chartLine(series, places, chosenValue, "chosen"),
    svg("line", {class: "now", x1: places.x(current), x2: places.x(current), y1: CHART.top, y2: CHART.height - CHART.bottom}),
    ...(value === null ? [] : [svg("circle", {class: "now", cx: places.x(current), cy: places.y(value), r: 4})]),
  );
}

// Where steps and numbers are in the chart.
function chartPlaces(series) {
  const numbers = series.flatMap(([, values]) => values).filter(value => value !== null);
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)], first = series[0][0], last = series.at(-1)[0];
  const {width, height, left, right, top, bottom} = CHART;
  return {
    least, most,
    x: step => last === first ? (left + width - right) / 2 : left + (step - first) / (last - first) * (width - left - right),
    y: value => most === least ? (top + height - bottom) / 2 : top + (most - value) / (most - least) * (height - top - bottom),
  };
}

function chartAxes(series, {least, most, x, y}) {
  const {width, height, left, right, bottom} = CHART, steps = unique([series[0][0], series.at(-1)[0]]);
  return [
    ...unique([least, most]).flatMap(value => [
      svg("line", {class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value)}),
      svg("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, numberText(value)),
    ]),
    ...steps.map((step, index) => svg("text", {
      x: x(step), y: height - bottom + 15, "text-anchor": steps.length === 1 ? "middle" : index ? "end" : "start",
    }, `${index ? "" : "step "}${step.toLocaleString("en")}`)),
  ];
}

// A line through the numbers of a head, with gaps where there are none.
function chartLine(series, {x, y}, valueOf, kind) {
  let path = "", isGap = true;
  for (const [step, values] of series) {
    const value = valueOf(values);
    if (value !== null) path += `${isGap ? "M" : "L"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    isGap = value === null;
  }
  return svg("path", {class: kind, d: path});
}

function numberText(value) { return `${+value.toPrecision(3)}`.replace("-", "−"); }

// The step that is nearest to a place in the chart.
function stepAt(event) {
  const box = byId("summary-chart").getBoundingClientRect(), series = seriesOf(shown.layer, shown.summary);
  const {x} = chartPlaces(series), place = (event.clientX - box.left) / box.width * CHART.width;
  const distance = ([step]) => Math.abs(x(step) - place);
  return series.reduce((best, each) => distance(each) < distance(best) ? each : best)[0];
}
