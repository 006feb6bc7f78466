// The page's numbers: theme, chart and tables. The viewer is in viewer.js.
const byId = (id) => document.getElementById(id);
const overview = JSON.parse(byId("overview").textContent);
const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const bytesText = (value) => value.toLocaleString("en") + " bytes";

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "path", "text", "circle", "rect"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// --- Theme: the system's, until the button is pressed ---
const darkSystem = window.matchMedia("(prefers-color-scheme: dark)");
function setTheme(dark) { document.documentElement.dataset.theme = dark ? "dark" : "light"; }
setTheme(darkSystem.matches);
darkSystem.addEventListener("change", (event) => setTheme(event.matches));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

// --- Chart ---
const metricNames = { psnr: "PSNR (dB)", ms_ssim_db: "MS-SSIM (dB)" };
const rank = { model: 0, published: 1, classic: 2 };
const curves = [...overview.curves].sort((a, b) => rank[a.kind] - rank[b.kind])
  .map((curve, i) => ({ ...curve, colour: `var(--c${i % 7})`, shown: true }));
let metric = "psnr";

function niceStep(span, count) {
  const raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((f) => f * power).find((step) => step >= raw);
}

function ticks(low, high, count) {
  const step = niceStep(high - low, count), found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) found.push(i * step);
  return { step, found };
}

function mark(kind, x, y, size) {
  if (kind === "published") return `M${x} ${y - size * 1.2}L${x + size * 1.1} ${y + size * 0.8}H${x - size * 1.1}Z`;
  if (kind === "classic") return `M${x - size * 0.85} ${y - size * 0.85}h${size * 1.7}v${size * 1.7}h${-size * 1.7}Z`;
  return `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0Z`;
}

let points = []; // of the chart as drawn: {x, y, node, html}
function drawChart() {
  const svg = byId("chart"), width = svg.clientWidth, height = svg.clientHeight;
  const box = { left: 54, right: width - 14, top: 12, bottom: height - 44 };
  const shown = curves.filter((c) => c.shown && c[metric].length);
  const all = shown.flatMap((c) => c[metric]);
  svg.replaceChildren();
  points = [];
  byId("tip").hidden = true;
  if (!all.length) {
    svg.append(element("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No curve to show"));
    return;
  }
  const right = 1.04 * Math.max(...all.map((p) => p[0]));
  let low = Math.min(...all.map((p) => p[1])), high = Math.max(...all.map((p) => p[1]));
  const room = Math.max(0.6, 0.05 * (high - low));
  low -= room; high += room;
  const toX = (bpp) => box.left + (bpp / right) * (box.right - box.left);
  const toY = (quality) => box.bottom - ((quality - low) / (high - low)) * (box.bottom - box.top);
  const across = ticks(0, right, width > 640 ? 9 : 5), up = ticks(low, high, 7);
  const digits = (step) => Math.max(0, Math.ceil(-Math.log10(step) - 1e-9) + (step.toString().endsWith("25") ? 1 : 0));
  for (const t of across.found) {
    svg.append(element("line", { class: "grid", x1: toX(t), x2: toX(t), y1: box.top, y2: box.bottom }));
    svg.append(element("text", { x: toX(t), y: box.bottom + 18, "text-anchor": "middle" }, t.toFixed(digits(across.step))));
  }
  for (const t of up.found) {
    svg.append(element("line", { class: "grid", x1: box.left, x2: box.right, y1: toY(t), y2: toY(t) }));
    svg.append(element("text", { x: box.left - 8, y: toY(t) + 4, "text-anchor": "end" }, t.toFixed(digits(up.step))));
  }
  svg.append(element("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  svg.append(element("line", { class: "axis", x1: box.left, x2: box.left, y1: box.top, y2: box.bottom }));
  svg.append(element("text", { class: "axis-title", x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "rate (bits per pixel)"));
  svg.append(element("text", { class: "axis-title", x: -(box.top + box.bottom) / 2, y: 14, transform: "rotate(-90)", "text-anchor": "middle" }, metricNames[metric]));
  for (const curve of [...shown].reverse()) { // ours last, on top
    const ours = curve.kind === "model";
    const d = curve[metric].map(([b, q], i) => `${i ? "L" : "M"}${toX(b).toFixed(1)} ${toY(q).toFixed(1)}`).join("");
    svg.append(element("path", { d, fill: "none", style: `stroke:${curve.colour}`, "stroke-width": ours ? 2.5 : 1.75, "stroke-dasharray": curve.kind === "published" ? "6 4" : "none" }));
    for (const [b, q] of curve[metric]) {
      const text = `${curve.label}: ${b.toFixed(4)} bpp, ${q.toFixed(2)} dB`;
      const node = element("path", { class: "point", d: mark(curve.kind, toX(b), toY(q), ours ? 7 : 4.5), style: `fill:${curve.colour}`, tabindex: 0, role: "img", "aria-label": text });
      svg.append(node);
      const point = { x: toX(b), y: toY(q), node, lines: [curve.label, `${b.toFixed(4)} bpp`, `${q.toFixed(2)} dB ${metric === "psnr" ? "PSNR" : "MS-SSIM"}`] };
      node.addEventListener("focus", () => showTip(point));
      node.addEventListener("blur", () => showTip(null));
      points.push(point);
    }
  }
}

function showTip(point) {
  const tip = byId("tip");
  for (const p of points) p.node.classList.toggle("near", p === point);
  tip.hidden = !point;
  if (!point) return;
  tip.replaceChildren(element("b", {}, point.lines[0]), element("br"), `${point.lines[1]}, ${point.lines[2]}`);
  const room = byId("chart").clientWidth - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(room, point.x + 12))}px`;
  tip.style.top = `${Math.max(0, point.y - tip.offsetHeight - 10)}px`;
}

byId("chart").addEventListener("pointermove", (event) => {
  const frame = byId("chart").getBoundingClientRect();
  const x = event.clientX - frame.left, y = event.clientY - frame.top;
  let best = null, distance = 40;
  for (const p of points) {
    const d = Math.hypot(p.x - x, p.y - y);
    if (d < distance) [best, distance] = [p, d];
  }
  showTip(best);
});
byId("chart").addEventListener("pointerleave", () => showTip(null));
for (const button of document.querySelectorAll("[data-metric]")) {
  button.addEventListener("click", () => {
    metric = button.dataset.metric;
    for (const other of document.querySelectorAll("[data-metric]")) other.setAttribute("aria-pressed", other === button);
    drawChart();
  });
}
for (const curve of curves) {
  const box = element("input", { type: "checkbox", checked: "" });
  box.addEventListener("change", () => { curve.shown = box.checked; drawChart(); });
  const dash = curve.kind === "published" ? "5 3" : "none";
  const sample = element("svg", { width: 30, height: 14, "aria-hidden": "true" },
    element("line", { x1: 1, x2: 29, y1: 7, y2: 7, style: `stroke:${curve.colour}`, "stroke-width": 2, "stroke-dasharray": dash }),
    element("path", { d: mark(curve.kind, 15, 7, 4.5), style: `fill:${curve.colour}` }));
  byId("series").append(element("label", {}, box, sample, curve.label));
}
byId("chart-caption").textContent = overview.caption + ".";
new ResizeObserver(drawChart).observe(byId("chart"));

// --- Tables ---
function fillTable(id, heads, rows) {
  const header = element("tr", {}, ...heads.map((h) => element("th", { scope: "col", class: h.text ? "text" : "" }, h.title)));
  const body = rows.map(({ cells, ours }) => element("tr", ours ? { class: "ours" } : {}, ...cells));
  byId(id).replaceChildren(element("thead", {}, header), element("tbody", {}, ...body));
}
const cell = (text, kind = "") => element("td", kind ? { class: kind } : {}, text);
const seconds = (value) => (value === null || value === undefined ? "–" : value < 0.005 ? "< 0.01" : value.toFixed(2));

const withParts = (total, first, second) => (first === null ? seconds(total) : `${seconds(total)} (${seconds(first)} + ${seconds(second)})`);

function meanRows(means) {
  return means.map((m) => ({
    ours: m.kind === "model",
    cells: [cell(m.label), cell(fixed(m.bpp, 4)), cell(fixed(m.psnr, 2)), cell(fixed(m.ms_ssim, 4)), cell(fixed(m.ms_ssim_db, 2)),
      cell(withParts(m.encode_seconds, m.encode_networks_seconds, m.encode_entropy_seconds)),
      cell(withParts(m.decode_seconds, m.decode_networks_seconds, m.decode_entropy_seconds)),
      cell(m.encode_peak_mib ? Math.max(m.encode_peak_mib, m.decode_peak_mib).toFixed(0) : "–")],
  }));
}
const meanHeads = ["", "bpp", "PSNR, dB", "MS-SSIM", "in dB", "encode, s (networks + coding)", "decode, s (networks + coding)", "peak, MiB"].map((title) => ({ title }));
const ladder = overview.means.filter((m) => m.kind === "classic");
fillTable("means", meanHeads, meanRows(overview.means.filter((m) => m.kind !== "classic")));
fillTable("ladder", meanHeads, meanRows(ladder));
byId("ladder-card").hidden = !ladder.length;
byId("numbers-note").textContent = [
  overview.caption.split(";")[0] + ".",
  ...overview.left_out.map((entry) => `${entry.image} is left out: ${entry.codecs.join(", ")} restored it exactly.`),
].join(" ");

byId("compare-card").hidden = !overview.comparisons.length;
if (overview.comparisons.length) {
  const anchors = new Set(overview.comparisons.map((c) => c.anchor_label));
  byId("compare-title").textContent = anchors.size > 1 ? "Bits at equal quality" : `Bits against ${[...anchors][0]} at equal quality`;
  fillTable("compare", [{ title: "" }, { title: "by", text: true }, { title: "bits" }, { title: "how", text: true }], overview.comparisons.map((c) => {
    const known = c.percent !== null;
    const how = c.reason || (c.kind === "BD-rate" ? `BD-rate over ${(100 * c.overlap).toFixed(0)} % of its quality range` : "one point, at its quality");
    const text = known ? `${c.percent > 0 ? "+" : "−"}${Math.abs(c.percent).toFixed(1)} %` : "–";
    return { cells: [cell(anchors.size > 1 ? `${c.label} against ${c.anchor_label}` : c.label), cell(c.metric === "psnr" ? "PSNR" : "MS-SSIM", "text"), cell(text, known ? (c.percent < 0 ? "good" : "bad") : ""), cell(how, "text")] };
  }));
}

fillTable("rows", ["image", "codec", "bytes", "bpp", "PSNR, dB", "MS-SSIM", "in dB", "encode, s", "decode, s"].map((title) => ({ title })), overview.rows.map((r) => {
  const index = overview.images.findIndex((image) => image.name === r.image);
  const name = element("button", { type: "button" }, r.image);
  name.addEventListener("click", () => { showImage(index); byId("viewer-section").scrollIntoView({ behavior: "smooth" }); });
  const codec = r.matched_to ? `${r.codec} at the size of ${r.matched_to}${r.fits ? "" : " (its smallest file)"}` : r.codec;
  return { ours: r.kind === "model", cells: [element("td", {}, name), cell(codec), cell(r.bytes.toLocaleString("en")), cell(fixed(r.bpp, 4)), cell(fixed(r.psnr, 2)), cell(fixed(r.ms_ssim, 4)), cell(fixed(r.ms_ssim_db, 2)), cell(seconds(r.seconds[0])), cell(seconds(r.seconds[1]))] };
}));

const modelFacts = (m) => [m.family, `${m.num_filters} filters`, m.num_latents && `${m.num_latents} latent channels`, m.lmbda && `λ ${typeof m.lmbda === "number" ? "= " : ""}${m.lmbda}`, m.metric && `trained for ${m.metric.replace("_", "-").toUpperCase()}`, m.steps && `${m.steps.toLocaleString("en")} steps`, m.hours && `${m.hours} hours`, `fingerprint ${m.fingerprint}`].filter(Boolean).join(", ");
byId("subtitle").textContent = [`${overview.images.length || overview.means[0]?.images || 0} images`, overview.device].join(" · ");
const how = [
  ...overview.models.map((m) => [m.name, modelFacts(m)]),
  ["Command", overview.command],
  ["Device", `${overview.device}; ${overview.jobs || "a scheduler's"} worker${overview.jobs === 1 ? "" : "s"} of ${overview.threads} thread${overview.threads > 1 ? "s" : ""}`],
  ...(overview.backend ? [["Networks", `run by ${{ onnx: "ONNX Runtime", tensorflow: "TensorFlow" }[overview.backend]}`]] : []),
  ["Versions", overview.versions],
  ["Rate", "Size of the whole file in bits, header and checksum included, divided by the number of pixels."],
  ["Quality", "PSNR and MS-SSIM on 8-bit RGB of what the file decodes to. Means over the images; MS-SSIM in dB of the mean MS-SSIM, −10 log₁₀(1 − MS-SSIM)."],
  ["Time", "Of a process that has coded before, reading and writing of files not included."],
  ["Memory", "Largest resident memory of the whole process while encoding or decoding, with Python, libraries and weights."],
  ["Equal bytes", "The classic codec's best file of at most our file's bytes, for every image."],
];
for (const [term, text] of how) byId("how").append(element("dt", {}, term), element("dd", {}, text));
