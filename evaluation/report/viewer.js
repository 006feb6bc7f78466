
// --- Viewer: two pictures of one image, a line between them, zoom, error and bit maps ---
const viewer = byId("viewer"), canvas = byId("canvas"), split = byId("split");
const view = { image: 0, model: 0, left: "original", right: "model", mode: "picture", at: 0.5, scale: 1, x: 0, y: 0, fitted: true, holding: false };
let shown = null; // {pictures, surfaces, model, largest, width, height} of the current image
let loading = 0;

// Stops of the colour map "magma" (BSD-licensed, matplotlib's), evenly spaced.
const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];
function heatColour(t) {
  const at = Math.min(Math.max(t, 0), 1) * (MAGMA.length - 1), i = Math.min(Math.floor(at), MAGMA.length - 2);
  return MAGMA[i].map((v, k) => Math.round(v + (at - i) * (MAGMA[i + 1][k] - v)));
}

function surface(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return [made, made.getContext("2d", { willReadFrequently: true })];
}

async function decodePicture(source) {
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  const [made, context] = surface(picture.naturalWidth, picture.naturalHeight);
  context.drawImage(picture, 0, 0);
  return made;
}

function pixelsOf(made) {
  return made.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, made.width, made.height);
}

function errorSurface(made, gain) {
  const a = pixelsOf(made), b = pixelsOf(shown.pictures.original);
  for (let i = 0; i < a.data.length; i++) if (i % 4 !== 3) a.data[i] = gain * Math.abs(a.data[i] - b.data[i]);
  const [drawn, context] = surface(made.width, made.height);
  context.putImageData(a, 0, 0);
  return drawn;
}

// The grey original under the bits per latent position, 16x16 pixels each.
function bitsSurface(strength) {
  const { width, tenths } = shown.model.map, height = tenths.length / width;
  const largest = Math.max(shown.largest, 1);
  const [small, smallContext] = surface(width, height);
  const heat = smallContext.createImageData(width, height);
  tenths.forEach((v, i) => heat.data.set([...heatColour(v / largest), 255], 4 * i));
  smallContext.putImageData(heat, 0, 0);
  const [drawn, context] = surface(shown.width, shown.height);
  context.filter = "grayscale(1)";
  context.drawImage(shown.pictures.original, 0, 0);
  context.filter = "none";
  context.globalAlpha = strength;
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, 16 * width, 16 * height); // padding beyond the image falls off
  return drawn;
}

function surfaceOf(side) {
  const source = view.holding ? "original" : view[side];
  const gain = Number(byId("gain").value), strength = byId("heat").value / 100;
  const bits = view.mode === "bits" && side === "right";
  const key = bits ? `bits ${strength}` : view.mode === "error" ? `error ${source} ${gain}` : source;
  if (!(key in shown.surfaces)) {
    shown.surfaces[key] = bits ? bitsSurface(strength) : view.mode === "error" ? errorSurface(shown.pictures[source], gain) : shown.pictures[source];
  }
  return shown.surfaces[key];
}

// --- Drawing ---
function frame() {
  return { width: viewer.clientWidth, height: viewer.clientHeight };
}

function fit() {
  const { width, height } = frame();
  view.scale = Math.min(width / shown.width, height / shown.height);
  view.x = (width - view.scale * shown.width) / 2;
  view.y = (height - view.scale * shown.height) / 2;
  view.fitted = true;
}

function keepInside() {
  const { width, height } = frame(), w = view.scale * shown.width, h = view.scale * shown.height;
  view.x = w <= width ? (width - w) / 2 : Math.min(0, Math.max(width - w, view.x));
  view.y = h <= height ? (height - h) / 2 : Math.min(0, Math.max(height - h, view.y));
}

let asked = false;
function draw() {
  if (!asked) requestAnimationFrame(() => { asked = false; paint(); });
  asked = true;
}

function paint() {
  if (!shown) return;
  const { width, height } = frame(), ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d"), line = view.at * width;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = view.scale * ratio < 2; // enlarged pixels stay pixels
  context.imageSmoothingQuality = "high";
  for (const [side, from, to] of [["left", 0, line], ["right", line, width]]) {
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, height);
    context.clip();
    context.drawImage(surfaceOf(side), view.x, view.y, view.scale * shown.width, view.scale * shown.height);
    context.restore();
  }
  split.style.left = `${line}px`;
  split.setAttribute("aria-valuenow", Math.round(100 * view.at));
  split.setAttribute("aria-valuetext", `${Math.round(100 * view.at)} % left picture`);
  byId("zoom-value").textContent = `${Math.round(100 * view.scale)} %`;
}

function labelOf(source) {
  if (source === "original") return "Original";
  if (source === "model") return shown.model.label;
  return shown.model.classics[source].label;
}

function caption(node, side) {
  const source = view.holding ? "original" : view[side], lines = [];
  if (view.mode === "bits" && side === "right") {
    const [y, z] = shown.model.payload;
    node.replaceChildren(element("b", {}, `Where ${shown.model.label} spent its bits`), `y ${bytesText(y)}, z ${bytesText(z)}; ${shown.model.map.width} × ${shown.model.map.tenths.length / shown.model.map.width} positions of 16 × 16 pixels`);
    return;
  }
  const prefix = view.mode === "error" ? "Error of " : "";
  if (source === "original") lines.push(`${shown.width} × ${shown.height} pixels, ${bytesText(3 * shown.width * shown.height)} uncompressed`);
  else {
    const facts = source === "model" ? shown.model : shown.model.classics[source];
    lines.push(`${bytesText(facts.bytes)}, ${facts.bpp.toFixed(4)} bpp${facts.fits === false ? " (its smallest file)" : ""}`);
    lines.push(`PSNR ${fixed(facts.psnr, 2)} dB, MS-SSIM ${fixed(facts.ms_ssim, 4)} (${fixed(facts.ms_ssim_db, 2)} dB)`);
  }
  node.replaceChildren(element("b", {}, prefix + labelOf(source)), ...lines.flatMap((line, i) => (i ? [element("br"), line] : [line])));
}

function update() {
  if (!shown) return;
  for (const side of ["left", "right"]) {
    const bits = view.mode === "bits" && side === "right";
    byId(`${side}-tag`).textContent = bits ? "Bits per position" : (view.mode === "error" ? "Error of " : "") + labelOf(view.holding ? "original" : view[side]);
    caption(byId(`${side}-caption`), side);
    byId(side).value = String(view[side]);
  }
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", button.dataset.mode === view.mode);
  byId("gain-label").hidden = view.mode !== "error";
  byId("gain-value").textContent = `× ${byId("gain").value}`;
  byId("heat-label").hidden = byId("legend").hidden = view.mode !== "bits";
  byId("probe").hidden = true;
  byId("legend-high").textContent = `${(shown.largest / 10).toFixed(0)} bits`;
  draw();
}

// --- Loading ---
async function showImage(index) {
  if (!overview.images.length) return;
  const ticket = ++loading; // a later call wins
  view.image = (index + overview.images.length) % overview.images.length;
  for (const [i, button] of [...byId("film").children].entries()) {
    button.setAttribute("aria-selected", i === view.image);
    button.tabIndex = i === view.image ? 0 : -1;
  }
  const data = JSON.parse(byId(`image-${view.image}`).textContent), facts = overview.images[view.image];
  const model = data.models[Math.min(view.model, data.models.length - 1)];
  const sources = { original: data.original, model: model.source };
  model.classics.forEach((classic, i) => { sources[i] = classic.source; });
  const decoded = await Promise.all(Object.entries(sources).map(async ([name, source]) => {
    try { return [name, await decodePicture(source)]; } catch { return [name, null]; }
  }));
  if (ticket !== loading) return;
  const pictures = Object.fromEntries(decoded.filter(([, made]) => made));
  const resized = !shown || shown.width !== facts.width || shown.height !== facts.height;
  const largest = model.map.tenths.reduce((a, b) => Math.max(a, b), 0);
  shown = { pictures, surfaces: {}, model, largest, width: facts.width, height: facts.height };
  const options = [["original", "Original"], ["model", model.label], ...model.classics.map((c, i) => [String(i), c.label])].filter(([value]) => value in pictures);
  for (const side of ["left", "right"]) {
    byId(side).replaceChildren(...options.map(([value, label]) => element("option", { value }, label)));
    if (!(view[side] in pictures)) view[side] = side === "left" ? "original" : "model";
  }
  canvas.setAttribute("aria-label", `${facts.name}, two versions side by side`);
  if (resized || view.fitted) fit();
  update();
  const button = byId("film").children[view.image], film = byId("film");
  film.scrollLeft = button.offsetLeft - film.offsetLeft - (film.clientWidth - button.offsetWidth) / 2;
  document.body.dataset.ready = view.image;
}

// --- Pointer: the line, moving, zooming, reading values ---
function moveSplit(to) { view.at = Math.min(1, Math.max(0, to)); draw(); }

function zoomTo(scale, x = frame().width / 2, y = frame().height / 2) {
  const smallest = Math.min(frame().width / shown.width, frame().height / shown.height, 1) / 2;
  const next = Math.min(16, Math.max(smallest, scale)), factor = next / view.scale;
  view.x = x - factor * (x - view.x);
  view.y = y - factor * (y - view.y);
  view.scale = next;
  view.fitted = false;
  keepInside();
  draw();
}

let drag = null;
viewer.addEventListener("pointerdown", (event) => {
  if (!shown || event.button !== 0) return;
  const box = viewer.getBoundingClientRect(), onLine = split.contains(event.target);
  const larger = view.scale * shown.width > box.width + 1 || view.scale * shown.height > box.height + 1;
  drag = { line: onLine || !larger, x: event.clientX, y: event.clientY };
  viewer.setPointerCapture(event.pointerId);
  viewer.classList.add("dragging");
  if (drag.line) moveSplit((event.clientX - box.left) / box.width);
  split.focus({ preventScroll: true });
  event.preventDefault();
});
viewer.addEventListener("pointermove", (event) => {
  if (!shown) return;
  const box = viewer.getBoundingClientRect();
  if (drag && drag.line) moveSplit((event.clientX - box.left) / box.width);
  else if (drag) {
    view.x += event.clientX - drag.x;
    view.y += event.clientY - drag.y;
    [drag.x, drag.y] = [event.clientX, event.clientY];
    keepInside();
    draw();
  }
  probe(event.clientX - box.left, event.clientY - box.top);
});
for (const kind of ["pointerup", "pointercancel"]) {
  viewer.addEventListener(kind, () => { drag = null; viewer.classList.remove("dragging"); });
}
viewer.addEventListener("pointerleave", () => { byId("probe").hidden = true; });
viewer.addEventListener("wheel", (event) => {
  // Without a modifier the wheel scrolls the page, unless the viewer was clicked before.
  if (!shown || !(event.ctrlKey || viewer.contains(document.activeElement))) return;
  event.preventDefault();
  const box = viewer.getBoundingClientRect();
  zoomTo(view.scale * Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
viewer.addEventListener("dblclick", (event) => {
  const box = viewer.getBoundingClientRect();
  if (view.fitted) zoomTo(4 * view.scale, event.clientX - box.left, event.clientY - box.top);
  else { fit(); draw(); }
});

function probe(x, y) {
  const column = Math.floor((x - view.x) / view.scale / 16), row = Math.floor((y - view.y) / view.scale / 16);
  const { map } = shown.model, node = byId("probe");
  const inside = x >= view.x && y >= view.y && x < view.x + view.scale * shown.width && y < view.y + view.scale * shown.height;
  node.hidden = view.mode !== "bits" || !inside || Boolean(drag);
  if (node.hidden) return;
  const bits = map.tenths[row * map.width + column] / 10;
  node.textContent = `${bits.toFixed(1)} bits, ${(bits / 256).toFixed(3)} bpp`;
  node.style.left = `${Math.min(x + 14, viewer.clientWidth - node.offsetWidth - 4)}px`;
  node.style.top = `${Math.max(4, y - 36)}px`;
}

// --- Buttons and keys ---
function setMode(mode) { view.mode = mode; update(); }
function swap() { [view.left, view.right] = [view.right, view.left]; update(); }
for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
for (const side of ["left", "right"]) byId(side).addEventListener("change", (event) => { view[side] = event.target.value; update(); });
byId("model").addEventListener("change", (event) => { view.model = Number(event.target.value); showImage(view.image); });
byId("swap").addEventListener("click", swap);
for (const id of ["gain", "heat"]) byId(id).addEventListener("input", update);
byId("zoom-in").addEventListener("click", () => zoomTo(1.5 * view.scale));
byId("zoom-out").addEventListener("click", () => zoomTo(view.scale / 1.5));
byId("zoom-fit").addEventListener("click", () => { fit(); draw(); });
byId("zoom-one").addEventListener("click", () => zoomTo(1 / (window.devicePixelRatio || 1)));

const keys = {
  ArrowLeft: (e) => moveSplit(view.at - (e.shiftKey ? 0.1 : 0.02)),
  ArrowRight: (e) => moveSplit(view.at + (e.shiftKey ? 0.1 : 0.02)),
  Home: () => moveSplit(0), End: () => moveSplit(1),
  ArrowUp: () => showImage(view.image - 1), ArrowDown: () => showImage(view.image + 1),
  "+": () => zoomTo(1.5 * view.scale), "=": () => zoomTo(1.5 * view.scale), "-": () => zoomTo(view.scale / 1.5),
  0: () => { fit(); draw(); }, 1: () => zoomTo(1 / (window.devicePixelRatio || 1)),
  p: () => setMode("picture"), e: () => setMode("error"), b: () => setMode("bits"), s: swap,
  o: () => { view.holding = true; update(); },
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("select, input, summary");
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // Arrows, Home and End scroll the page unless the viewer or its images have the focus.
  const named = event.key.length > 1 && !event.target.closest("#viewer, #film");
  if (!shown || typing || named || event.ctrlKey || event.metaKey || event.altKey || !(key in keys)) return;
  event.preventDefault();
  if (!(key === "o" && event.repeat)) keys[key](event);
});
document.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "o" && view.holding) { view.holding = false; update(); }
});

// --- Start ---
if (overview.images.length) {
  overview.images.forEach((image, i) => {
    const picture = element("img", { src: image.thumbnail, alt: image.name });
    const button = element("button", { type: "button", role: "option", title: image.name, "aria-selected": "false" }, picture);
    button.addEventListener("click", () => showImage(i));
    byId("film").append(button);
  });
  overview.points.forEach((point, i) => byId("model").append(element("option", { value: i }, point)));
  byId("model-label").hidden = overview.points.length < 2;
  byId("film").hidden = overview.images.length < 2;
  const bar = byId("legend-bar"), barContext = bar.getContext("2d");
  for (let i = 0; i < bar.width; i++) {
    barContext.fillStyle = `rgb(${heatColour(i / (bar.width - 1))})`;
    barContext.fillRect(i, 0, 1, bar.height);
  }
  new ResizeObserver(() => { if (shown) { if (view.fitted) fit(); else keepInside(); draw(); } }).observe(viewer);
  const classics = JSON.parse(byId("image-0").textContent).models[0].classics;
  if (classics.length) { view.left = "model"; view.right = "0"; }
  showImage(0);
} else byId("viewer-section").hidden = true;
