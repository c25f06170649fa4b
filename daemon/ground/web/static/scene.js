// A scene: its tiles side by side, their samples, and what colors these make.

const MAX_PIXELS = 1.5e6; // of a whole scene in memory; of a larger one every second pixel, or fourth …
const MAX_TILE_PIXELS = 1 << 20; // of one answer, as the server has it
const MAX_GAP = 64; // rows of tiles that may be missing between two and are still drawn as missing
const SAMPLE = 20000; // pixels that the stretch is measured on
const STRETCH = [0.02, 0.98];
const STRETCH_QUARTILES = 4; // no farther from the median than so many spreads of the middle half: clouds do not make the ground black
const STRETCH_AT_LEAST = 0.018; // reflectance: over dark water colors share one span, see quicklook.py
const MIDDLE_BRIGHTNESS = 0.55;
const GAMMA = 1 / 1.3;
const ARRAYS = { int16: Int16Array, uint16: Uint16Array, float32: Float32Array };

export const keyOf = (tile) => tile.acquisition;

// Scenes of tiles, the last changed first.
export function scenesOf(tiles) {
  const scenes = new Map();
  for (const tile of tiles) {
    const scene = scenes.get(keyOf(tile)) ?? { key: keyOf(tile), tiles: [] };
    scene.tiles.push(tile);
    scenes.delete(scene.key); // the last changed comes last
    scenes.set(scene.key, scene);
  }
  const names = new Map();
  for (const scene of [...scenes.values()].sort((a, b) => a.key - b.key)) {
    const name = scene.tiles[0].scene || "scene";
    const number = (names.get(name) ?? 0) + 1;
    names.set(name, number);
    scene.name = name;
    scene.number = number;
    scene.tiles.sort((a, b) => a.row - b.row || a.col - b.col);
  }
  for (const scene of scenes.values()) scene.repeats = names.get(scene.name) > 1;
  return [...scenes.values()].reverse();
}

// Where the tiles of a scene sit [px]; rows of tiles that have not come leave room.
export function layoutOf(tiles) {
  const axis = (indexOf, lengthOf) => {
    const lengths = new Map();
    for (const tile of tiles) lengths.set(indexOf(tile), Math.max(lengths.get(indexOf(tile)) ?? 0, lengthOf(tile)));
    const usual = Math.max(...lengths.values());
    const starts = new Map();
    let at = 0;
    let before = null;
    for (const index of [...lengths.keys()].sort((a, b) => a - b)) {
      const gap = before === null ? index : index - before - 1;
      at += (gap <= MAX_GAP ? gap : Number(before !== null)) * usual;
      starts.set(index, at);
      at += lengths.get(index);
      before = index;
    }
    return { starts, length: at };
  };
  const down = axis((t) => t.row, (t) => t.shape[1]);
  const across = axis((t) => t.col, (t) => t.shape[2]);
  let stride = 1;
  const largest = Math.max(...tiles.map((t) => t.shape[1] * t.shape[2]));
  while ((down.length * across.length) / stride ** 2 > MAX_PIXELS || largest / stride ** 2 > MAX_TILE_PIXELS) stride *= 2;
  return {
    rows: down.length,
    cols: across.length,
    stride,
    places: tiles.map((tile) => ({ tile, top: down.starts.get(tile.row), left: across.starts.get(tile.col) })),
  };
}

export const gridOf = (tile) => {
  const [, rows, cols] = tile.shape;
  return { down: Math.ceil(rows / tile.patch_px), across: Math.ceil(cols / tile.patch_px) };
};

// What one answer of the server holds: which patches, and samples of three bands.
export async function fetchBands(tile, bands, stride, signal) {
  const [r, g, b] = bands;
  const answer = await fetch(`/api/tiles/${tile.id}/bands?r=${r}&g=${g}&b=${b}&stride=${stride}`, { signal });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const raw = await answer.arrayBuffer();
  const { down, across } = gridOf(tile);
  const patches = new Uint8Array(raw, 0, down * across);
  const start = 4 * Math.ceil(patches.length / 4);
  const nodata = answer.headers.get("x-nodata");
  return {
    patches,
    samples: new ARRAYS[answer.headers.get("x-dtype")](raw, start),
    nodata: nodata === "" ? null : Number(nodata),
    scale: Number(answer.headers.get("x-scale")),
    rows: Math.ceil(tile.shape[1] / stride),
    cols: Math.ceil(tile.shape[2] / stride),
  };
}

const isValid = (value, nodata) => Number.isFinite(value) && value !== nodata;

// Low and high sample value of each color, over all tiles.
export function limitsOf(pieces) {
  const pixels = pieces.reduce((sum, { data }) => sum + data.rows * data.cols, 0);
  const every = Math.max(1, Math.floor(pixels / SAMPLE));
  const limits = [];
  for (let color = 0; color < 3; color += 1) {
    const values = [];
    for (const { tile, data, stride } of pieces) {
      const size = data.rows * data.cols;
      for (let i = 0; i < size; i += every) {
        if (!hasCome(tile, data, stride, Math.trunc(i / data.cols), i % data.cols)) continue;
        const value = data.samples[color * size + i];
        if (isValid(value, data.nodata)) values.push(value);
      }
    }
    values.sort((a, b) => a - b);
    const at = (q) => values[Math.round(q * (values.length - 1))] ?? 0;
    const reach = STRETCH_QUARTILES * (at(0.75) - at(0.25));
    limits.push([Math.max(at(STRETCH[0]), at(0.5) - reach), Math.min(at(STRETCH[1]), at(0.5) + reach)]);
  }
  const scale = pieces[0]?.data.scale ?? 1;
  const spans = limits.map(([low, high]) => high - low);
  const span = Math.max(STRETCH_AT_LEAST * scale, ...spans);
  if (Math.min(...spans) >= STRETCH_AT_LEAST * scale) return limits;
  const middles = limits.map(([low, high]) => (low + high) / 2);
  const brightest = Math.max(...middles, 1e-9);
  return middles.map((middle) => {
    const low = middle - MIDDLE_BRIGHTNESS * Math.min(1, Math.max(0, middle / brightest)) * span;
    return [low, low + span];
  });
}

function hasCome(tile, data, stride, row, col) {
  const { across } = gridOf(tile);
  const at = Math.trunc((row * stride) / tile.patch_px) * across + Math.trunc((col * stride) / tile.patch_px);
  return data.patches[at] === 1;
}

// Colors of one tile; what has not come, or is fill, is transparent.
export function colorsOf(tile, data, stride, limits) {
  const { rows, cols, samples, nodata } = data;
  const size = rows * cols;
  const image = new ImageData(cols, rows);
  for (let row = 0; row < rows; row += 1) {
    for (let col = 0; col < cols; col += 1) {
      if (!hasCome(tile, data, stride, row, col)) continue;
      const i = row * cols + col;
      let any = false;
      for (let color = 0; color < 3; color += 1) {
        const value = samples[color * size + i];
        if (!isValid(value, nodata)) continue;
        any = true;
        const [low, high] = limits[color];
        const part = Math.min(1, Math.max(0, (value - low) / Math.max(high - low, 1e-9)));
        image.data[4 * i + color] = Math.round(255 * part ** GAMMA);
      }
      image.data[4 * i + 3] = any ? 255 : 0;
    }
  }
  return image;
}
