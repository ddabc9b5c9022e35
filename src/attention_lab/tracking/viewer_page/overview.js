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
