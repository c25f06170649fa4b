// The image: what came is drawn, what did not is hatched; a cursor that mouse and keys move.

import { colorsOf, fetchBands, gridOf, layoutOf, limitsOf } from "./scene.js";

const AT_ONCE = 3; // tiles fetched at a time
const ZOOMS = [1, 2, 4, 8, 16];
const AGAIN_MS = 1500; // after an answer that did not come

export class Viewer {
  // canvas: where it is drawn; moved(place), selected(place): told where the cursor is, and what
  // was selected; a place is {tile, row, col, sceneRow, sceneCol}.
  constructor(canvas, { moved, selected }) {
    this.canvas = canvas;
    this.moved = moved;
    this.selected = selected;
    this.scene = null;
    this.layout = null;
    this.bands = null;
    this.pieces = new Map(); // tile id to what came of it
    this.waiting = new Set();
    this.generation = new AbortController();
    this.cursor = null;
    this.mark = null;
    this.zoom = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    canvas.addEventListener("pointermove", (event) => this.#point(event, false));
    canvas.addEventListener("click", (event) => this.#point(event, true));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => { if (this.layout && !this.cursor) this.#move(Math.trunc(this.layout.rows / 2), Math.trunc(this.layout.cols / 2)); });
  }

  // Show a scene; null: nothing. The same scene with more of it keeps cursor and mark.
  show(scene, bands) {
    const other = scene?.key !== this.scene?.key;
    const layout = scene && layoutOf(scene.tiles);
    if (other || String(bands) !== String(this.bands) || layout?.stride !== this.layout?.stride) {
      this.generation.abort();
      this.generation = new AbortController();
      this.pieces.clear();
      this.waiting.clear();
    }
    const told = new Set(scene?.tiles.map((tile) => tile.id));
    for (const id of this.pieces.keys()) if (!told.has(id)) this.pieces.delete(id);
    if (other) { this.cursor = this.mark = null; this.zoom = 0; }
    this.scene = scene;
    this.layout = layout;
    this.bands = bands;
    this.draw();
  }

  zoomBy(steps) {
    this.zoom = Math.min(ZOOMS.length - 1, Math.max(0, steps === 0 ? 0 : this.zoom + steps));
    this.draw();
  }

  // ---- samples

  // Fetch what is in view and is not there yet; the rest comes once it is moved into view.
  #fetch() {
    if (!this.scene || !this.bands) return;
    const { width, height, factor, x, y } = this.#view();
    for (const { tile, top, left } of this.layout.places) {
      if (this.waiting.size >= AT_ONCE) return;
      const [, rows, cols] = tile.shape;
      if (x + left * factor >= width || x + (left + cols) * factor <= 0 || y + top * factor >= height || y + (top + rows) * factor <= 0) continue;
      const piece = this.pieces.get(tile.id);
      const stale = !piece || piece.have !== tile.have || (piece.state !== tile.state && tile.state === "written");
      const rests = piece?.failed && performance.now() - piece.failed < AGAIN_MS;
      if (tile.have.includes("1") && stale && !rests && !this.waiting.has(tile.id)) this.#fetchTile(tile);
    }
  }

  async #fetchTile(tile) {
    const { signal } = this.generation;
    const { stride } = this.layout;
    this.waiting.add(tile.id);
    try {
      const data = await fetchBands(tile, this.bands, stride, signal);
      this.pieces.set(tile.id, { tile, data, stride, have: tile.have, state: tile.state });
    } catch {
      if (signal.aborted) return;
      const old = this.pieces.get(tile.id); // of an earlier moment: better than nothing
      this.pieces.set(tile.id, { ...old, failed: performance.now(), have: old?.data ? old.have : null });
      setTimeout(() => this.#fetch(), AGAIN_MS + 50);
    }
    if (signal.aborted) return;
    this.waiting.delete(tile.id);
    this.#paint();
  }

  #paint() {
    const pieces = [...this.pieces.values()].filter((piece) => piece.data);
    const limits = limitsOf(pieces);
    for (const piece of pieces) {
      const image = colorsOf(piece.tile, piece.data, piece.stride, limits);
      piece.canvas ??= document.createElement("canvas");
      piece.canvas.width = image.width;
      piece.canvas.height = image.height;
      piece.canvas.getContext("2d").putImageData(image, 0, 0);
    }
    this.draw();
  }

  // How many patches are drawn.
  get drawn() {
    return [...this.pieces.values()].reduce((sum, { data }) => sum + (data ? data.patches.reduce((a, b) => a + b, 0) : 0), 0);
  }

  // ---- drawing

  #view() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const { rows, cols } = this.layout;
    const factor = Math.min(width / cols, height / rows) * ZOOMS[this.zoom];
    const center = this.cursor ?? { row: rows / 2, col: cols / 2 };
    const offset = (length, room, at) => (length * factor <= room
      ? (room - length * factor) / 2
      : Math.min(0, Math.max(room - length * factor, room / 2 - (at + 0.5) * factor)));
    return { width, height, factor, x: offset(cols, width, center.col), y: offset(rows, height, center.row) };
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const box = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(box.width * ratio));
    canvas.height = Math.max(1, Math.round(box.height * ratio));
    if (!this.layout || box.width === 0) return;
    const style = getComputedStyle(canvas);
    const color = (name) => style.getPropertyValue(name).trim();
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.fillStyle = color("--panel");
    context.fillRect(0, 0, box.width, box.height);
    const { factor, x, y } = this.#view();
    const { rows, cols, places } = this.layout;
    context.save();
    context.beginPath();
    context.rect(x, y, cols * factor, rows * factor);
    context.clip();
    hatch(context, box, color("--hatch"), color("--hatch-line"), x, y);
    for (const { tile, top, left } of places) this.#drawTile(context, tile, x + left * factor, y + top * factor, factor, color("--hatch-line"));
    context.restore();
    if (this.mark) crosshair(context, x, y, factor, this.mark, color("--cursor"), color("--cursor-edge"), 9);
    if (this.cursor && document.activeElement === canvas) crosshair(context, x, y, factor, this.cursor, color("--cursor"), color("--cursor-edge"), 0);
    canvas.dataset.drawn = String(this.drawn);
    this.#fetch();
  }

  #drawTile(context, tile, left, top, factor, line) {
    const piece = this.pieces.get(tile.id);
    const [, rows, cols] = tile.shape;
    if (piece?.canvas) {
      context.imageSmoothingEnabled = factor * piece.stride < 1;
      context.drawImage(piece.canvas, left, top, piece.canvas.width * piece.stride * factor, piece.canvas.height * piece.stride * factor);
    }
    const { down, across } = gridOf(tile);
    context.strokeStyle = line;
    context.lineWidth = 1;
    for (let row = 0; row < down; row += 1) {
      for (let col = 0; col < across; col += 1) {
        if (piece?.data?.patches[row * across + col] === 1) continue;
        const [y, x] = [row * tile.patch_px, col * tile.patch_px];
        const [height, width] = [Math.min(tile.patch_px, rows - y), Math.min(tile.patch_px, cols - x)];
        context.strokeRect(left + x * factor + 0.5, top + y * factor + 0.5, width * factor - 1, height * factor - 1);
      }
    }
  }

  // ---- cursor

  placeAt(sceneRow, sceneCol) {
    for (const { tile, top, left } of this.layout.places) {
      const [row, col] = [sceneRow - top, sceneCol - left];
      if (row >= 0 && col >= 0 && row < tile.shape[1] && col < tile.shape[2]) {
        const { across } = gridOf(tile);
        const at = Math.trunc(row / tile.patch_px) * across + Math.trunc(col / tile.patch_px);
        return { tile, row, col, sceneRow, sceneCol, here: tile.have[at] === "1" };
      }
    }
    return { tile: null, sceneRow, sceneCol, here: false };
  }

  select(row, col) {
    const place = this.placeAt(row, col);
    this.cursor = { row, col };
    if (place.here) this.mark = { row, col };
    this.draw();
    this.selected(place);
  }

  #move(row, col) {
    const { rows, cols } = this.layout;
    const inside = (value, length) => Math.min(length - 1, Math.max(0, value));
    this.cursor = { row: inside(row, rows), col: inside(col, cols) };
    this.draw();
    this.moved(this.placeAt(this.cursor.row, this.cursor.col));
  }

  #point(event, isClick) {
    if (!this.layout) return;
    const box = this.canvas.getBoundingClientRect();
    const { factor, x, y } = this.#view();
    const row = Math.floor((event.clientY - box.top - y) / factor);
    const col = Math.floor((event.clientX - box.left - x) / factor);
    if (row < 0 || col < 0 || row >= this.layout.rows || col >= this.layout.cols) return;
    if (isClick) this.select(row, col);
    else this.moved(this.placeAt(row, col));
  }

  #key(event) {
    if (!this.layout || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = (event.shiftKey ? 10 : 1) * Math.max(1, Math.round(1 / this.#view().factor));
    const { row, col } = this.cursor ?? { row: 0, col: 0 };
    const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
    if (event.key in moves) this.#move(row + moves[event.key][0], col + moves[event.key][1]);
    else if (event.key === "Enter" || event.key === " ") this.select(row, col);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1);
    else if (event.key === "-") this.zoomBy(-1);
    else if (event.key === "0") this.zoomBy(0);
    else return;
    event.preventDefault();
  }
}

function hatch(context, box, ground, line, x, y) {
  context.fillStyle = ground;
  context.fillRect(0, 0, box.width, box.height);
  context.strokeStyle = line;
  context.lineWidth = 1;
  context.beginPath();
  for (let at = (((x + y) % 7) + 7) % 7 - box.height; at < box.width; at += 7) {
    context.moveTo(at, box.height);
    context.lineTo(at + box.height, 0);
  }
  context.stroke();
}

function crosshair(context, x, y, factor, { row, col }, inner, outer, ring) {
  const [cx, cy] = [x + (col + 0.5) * factor, y + (row + 0.5) * factor];
  const lines = () => {
    context.beginPath();
    if (ring) context.arc(cx, cy, ring, 0, 2 * Math.PI);
    else for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { context.moveTo(cx + 4 * dx, cy + 4 * dy); context.lineTo(cx + 14 * dx, cy + 14 * dy); }
    context.stroke();
  };
  context.strokeStyle = outer; context.lineWidth = 4; lines();
  context.strokeStyle = inner; context.lineWidth = 1.6; lines();
}
