// The spectrum: reflectance over wavelength, gaps where a band holds nothing.

import { significant, wavelength } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 18, top: 8, bottom: 32 };
const GAP_STEPS = 3; // bands farther apart than so many usual steps are not joined: between them nothing was measured
const TICK_PX = { x: 70, y: 38 };
export const MAX_SERIES = 4;

const nice = (low, high, most) => {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) ticks.push(Number(tick.toPrecision(10)));
  return ticks;
};

// A line through what was measured, in the order of x; broken where nothing was. A point by itself is a dash.
function pathOf({ x, values }, scale) {
  const order = x.map((_, i) => i).sort((a, b) => x[a] - x[b]);
  const steps = order.slice(1).map((at, i) => x[at] - x[order[i]]).filter((step) => step > 0).sort((a, b) => a - b);
  const farthest = GAP_STEPS * (steps[Math.trunc(steps.length / 2)] ?? 0);
  const runs = [];
  let before = null;
  for (const i of order) {
    if (values[i] === null) { before = null; continue; }
    if (before === null || x[i] - x[before] > farthest) runs.push([]);
    runs.at(-1).push(`${scale.x(x[i]).toFixed(1)} ${scale.y(values[i]).toFixed(1)}`);
    before = i;
  }
  return runs.map((points) => (points.length > 1 ? `M${points.join("L")}` : `M${points[0]}m-1.5 0h3`)).join("");
}

export class Plot {
  // svg: where it is drawn; read(text): told what stands under the hair line.
  constructor(svg, read) {
    this.svg = svg;
    this.read = read;
    this.series = []; // {x: [nm], values: [reflectance or null], raw, name, slot}
    this.shown = []; // positions of red, green and blue
    this.axis = []; // position of each band of the scene
    this.unit = "nm";
    this.hair = null;
    new ResizeObserver(() => this.draw()).observe(svg);
    svg.addEventListener("pointermove", (event) => this.#point(event));
    svg.addEventListener("pointerleave", () => this.#stand(null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.series.length) return;
      const last = this.series[0].x.length - 1;
      this.#stand(Math.min(last, Math.max(0, (this.hair ?? -1) + step * (event.shiftKey ? 10 : 1))));
      event.preventDefault();
    });
  }

  // series: the selected one first; shown: positions of the three bands of the image; axis: of all bands.
  show(series, shown, axis, unit) {
    this.series = series;
    this.shown = shown;
    this.axis = axis;
    this.unit = unit;
    if (!series.length || (this.hair ?? 0) >= series[0].x.length) this.hair = null;
    this.draw();
  }

  #scales() {
    const { width, height } = this.svg.getBoundingClientRect();
    const ys = this.series.flatMap((s) => s.values.filter((v) => v !== null));
    const [x0, x1] = this.axis.length ? [Math.min(...this.axis), Math.max(...this.axis)] : [0, 1];
    let [y0, y1] = ys.length ? [Math.min(0, ...ys), Math.max(...ys)] : [0, 1];
    if (y1 - y0 < 1e-9) y1 = y0 + 1e-3;
    y1 += 0.04 * (y1 - y0);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    return {
      width, height, inner, x0, x1: x1 > x0 ? x1 : x0 + 1, y0, y1,
      x: (v) => MARGIN.left + ((v - x0) / ((x1 > x0 ? x1 : x0 + 1) - x0)) * inner.width,
      y: (v) => MARGIN.top + (1 - (v - y0) / (y1 - y0)) * inner.height,
    };
  }

  draw() {
    const scale = this.#scales();
    const { width, height, inner } = scale;
    if (width === 0) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    const add = (name, attributes, text) => {
      const node = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text !== undefined) node.textContent = text;
      parts.push(node);
    };
    const [bottom, right] = [MARGIN.top + inner.height, MARGIN.left + inner.width];
    for (const tick of nice(scale.y0, scale.y1, inner.height / TICK_PX.y)) {
      const y = scale.y(tick);
      add("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y });
      add("text", { x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, significant(tick));
    }
    for (const tick of this.axis.length ? nice(scale.x0, scale.x1, inner.width / TICK_PX.x) : []) {
      if (this.unit === "band" && !Number.isInteger(tick)) continue;
      const x = scale.x(tick);
      add("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 });
      add("text", { x, y: bottom + 16, "text-anchor": "middle" }, String(tick));
    }
    add("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom });
    if (this.axis.length) add("text", { x: (MARGIN.left + right) / 2, y: height - 3, "text-anchor": "middle" }, this.unit === "nm" ? "Wavelength [nm]" : "Band");
    add("text", { x: 11, y: MARGIN.top + inner.height / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${MARGIN.top + inner.height / 2})` }, "Reflectance");
    if (this.series.length) this.shown.forEach((at, color) => add("line", { class: `band-${"rgb"[color]}`, x1: scale.x(at), x2: scale.x(at), y1: MARGIN.top, y2: bottom }));
    for (const one of [...this.series].reverse()) add("path", { class: `series s${one.slot}`, d: pathOf(one, scale) });
    this.#legend(add, right);
    if (this.hair !== null && this.series.length) {
      const x = scale.x(this.series[0].x[this.hair]);
      add("line", { class: "hair", x1: x, x2: x, y1: MARGIN.top, y2: bottom });
    }
    this.svg.replaceChildren(...parts);
  }

  #legend(add, right) {
    if (this.series.length < 2) return;
    this.series.forEach((one, index) => {
      const y = MARGIN.top + 8 + 15 * index;
      add("line", { class: `series s${one.slot}`, x1: right - 26, x2: right, y1: y, y2: y });
      add("text", { x: right - 31, y: y + 4, "text-anchor": "end" }, one.name);
    });
  }

  #point(event) {
    if (!this.series.length) return;
    const scale = this.#scales();
    const at = event.clientX - this.svg.getBoundingClientRect().left;
    let best = 0;
    this.series[0].x.forEach((value, i) => { if (Math.abs(scale.x(value) - at) < Math.abs(scale.x(this.series[0].x[best]) - at)) best = i; });
    this.#stand(best);
  }

  #stand(index) {
    this.hair = index;
    this.draw();
    if (index === null || !this.series.length) { this.read(""); return; }
    const { x, values, raw } = this.series[0];
    const where = this.unit === "nm" ? `band ${index + 1}, ${wavelength(x[index])}` : `band ${index + 1}`;
    this.read(values[index] === null ? `${where}: no value` : `${where}: ${significant(values[index])} (sample ${raw[index]})`);
  }
}
