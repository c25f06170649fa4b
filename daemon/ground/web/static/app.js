// What the ground tells, put where people see it.

import * as format from "./format.js";
import { MAX_SERIES, Plot } from "./plot.js";
import { keyOf, scenesOf } from "./scene.js";
import { Viewer } from "./viewer.js";

const AGAIN_MS = 10000; // to the next connection where one is refused or dead; where it breaks, the browser tries again itself
const LOST_MS = 5000; // the ground tells of itself twice a second; when it has not for so long, it is lost
const LOOK_MS = 500; // between two looks at whether it is
const ANSWER_MS = 20000; // longest wait for an answer
const REST_MS = 200; // bands and cursor must have rested for so long before the ground is asked
const SLACK_NM = 60; // a band farther from a color than this does not show it
const PRESETS = [
  { name: "True color", nm: [640, 550, 460] },
  { name: "Infrared", nm: [860, 650, 550] },
  { name: "Shortwave", nm: [2200, 1610, 860] },
];
const NO_ANSWER = "The ground does not answer.";
const COLORS = [["r", "Red"], ["g", "Green"], ["b", "Blue"]];

const $ = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};
const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };

const tiles = new Map(); // by id, the last changed last
let products = []; // of scenes, all tiles in one
let scenes = [];
let shown = null; // key of the scene that is shown
let follow = true;
let bands = null;
let preset = 0;
const details = new Map(); // by id of a tile: wavelengths and the like
let selected = null; // {place, detail, samples}
let pins = [];

const viewer = new Viewer($("canvas"), { moved: readout, selected: select });
const plot = new Plot($("plot"), (text) => say($("plot-readout"), text || "\u00a0"));

// ---- what comes

let source = null;
let lost = false;
let heardUtc_s = null; // when the ground last told of itself, by its own clock
let lostAt = performance.now() + LOST_MS; // [ms] unless something comes before
let againAt = 0; // [ms] when the next connection is opened

function listen() {
  source?.close();
  againAt = performance.now() + AGAIN_MS;
  source = new EventSource("/api/events");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) renew(); };
}

// The stream of events is refused: take all at once, every ten seconds.
async function renew() {
  try {
    const news = await ask("/api/state");
    tiles.clear();
    take(news);
    lostAt += AGAIN_MS;
    wire("Too many pages are open: this one is renewed every ten seconds.");
  } catch { /* `look` sees it */ }
  againAt = performance.now() + AGAIN_MS;
}

function look() {
  const now = performance.now();
  if (!lost && now >= lostAt) {
    lost = true;
    againAt = now; // a connection can be dead without a word
    $("status").className = "pill lost";
    say($("status"), `No answer from the ground${heardUtc_s === null ? "" : ` since ${format.clock(heardUtc_s)} UTC`}`);
    say($("plan"), "");
    wire("What is shown is old.");
  }
  if (now >= againAt) listen();
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(ANSWER_MS) });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error(`status ${answer.status}`, { cause: answer.status });
  return answer.json();
}

function wire(text) {
  say($("wire"), text);
  $("wire").classList.toggle("broken", text !== "");
}

function take(news) {
  lost = false;
  lostAt = performance.now() + LOST_MS;
  againAt = Infinity;
  heardUtc_s = news.utc_s;
  wire("");
  showLink(news.link, news.utc_s);
  showBeacon(news.beacon);
  if (news.passes) showPasses(news.passes);
  if (!news.ids) return;
  products = news.products;
  for (const tile of news.tiles) { tiles.delete(tile.id); tiles.set(tile.id, tile); }
  const told = new Set(news.ids);
  for (const id of tiles.keys()) if (!told.has(id)) { tiles.delete(id); details.delete(id); }
  scenes = scenesOf(tiles.values());
  if ((follow || !scenes.some((scene) => scene.key === shown)) && scenes.length) shown = newest().key;
  showScenes();
  showScene();
}

// The scene to follow: the one that patches come of, or the last that changed.
const newest = () => scenes.find((scene) => scene.tiles.some((tile) => tile.state === "open")) ?? scenes[0];
const current = () => scenes.find((scene) => scene.key === shown) ?? null;

// ---- the link

function showLink(link, utc_s) {
  say($("clock"), format.clock(utc_s));
  const status = $("status");
  status.className = `pill ${link.state}`;
  const since = link.since_utc_s === null ? "" : `${format.clock(link.since_utc_s)} UTC`;
  say(status, { waiting: "Nothing heard yet", contact: `In contact since ${since}`, silent: `Silent since ${since}` }[link.state]);
  say($("plan"), planText(link));
  const [rate, unit] = format.bitRate(link.bits_per_s).split(" ");
  say($("rate"), rate);
  say($("unit"), unit);
  say($("budget"), link.budget_bits_per_s === null ? "Budget of the link: unknown" : `${format.share(link.bits_per_s / link.budget_bits_per_s)} of the link's ${format.bitRate(link.budget_bits_per_s)}`);
  say($("packets"), link.packets_per_s.toFixed(link.packets_per_s < 10 ? 1 : 0));
  say($("loss"), format.share(link.loss));
  $("loss").classList.toggle("bad", link.loss > 0.2);
  showCurve(link.history_bits_per_s, link.budget_bits_per_s);
  const { counts } = link;
  say($("counts-title"), link.state === "contact" ? "This pass" : "Last pass");
  showRows($("counts"), [
    ["Time since signal", link.since_utc_s === null ? format.NONE : format.span(link.contact_s)],
    ["Received", format.bytes(counts.octets)],
    ["Packets", format.count(counts.packets)],
    ["Frames, of them repaired", `${format.count(counts.frames)}, ${format.count(counts.repaired)}`],
    ["Asked for again, came", `${format.count(counts.asked)}, ${format.count(counts.mended)}`],
    ["Packets that came twice", format.count(counts.repeated)],
    ["Messages refused", format.count(counts.refused)],
    ["Frames given up", format.count(counts.given_up)],
    ["Frames lost for good", format.count(counts.lost), counts.lost > 0],
    ["Patches decoded", format.count(counts.patches)],
  ]);
}

function planText(link) {
  if (!link.has_plan) return "Time left: unknown";
  if (link.left_s !== null) return `Time left: ${format.span(link.left_s)}`;
  return link.next_utc_s === null ? "No further pass is planned" : `Next pass: ${format.moment(link.next_utc_s)} UTC`;
}

function showRows(list, rows) {
  if (list.children.length !== 2 * rows.length) {
    list.replaceChildren(...rows.flatMap(([name]) => [make("dt", { textContent: name }), make("dd")]));
  }
  rows.forEach(([name, text, bad], i) => {
    say(list.children[2 * i], name);
    say(list.children[2 * i + 1], text);
    list.children[2 * i + 1].classList.toggle("bad", bad === true);
  });
}

function showCurve(rates, budget) {
  const top = Math.max(1, ...rates, budget ?? 0) * 1.05;
  const points = rates.map((rate, i) => `${(300 - 2 * (rates.length - 1 - i)).toFixed(1)} ${(43 - (42 * rate) / top).toFixed(1)}`);
  const line = points.length ? `M${points.join("L")}` : "";
  $("curve-line").setAttribute("d", line);
  $("curve-area").setAttribute("d", line && `${line}L300 44L${300 - 2 * (rates.length - 1)} 44Z`);
}

function showBeacon(beacon) {
  showRows($("beacon"), beacon === null
    ? [["Heard", "never"]]
    : [
      ["Heard", `${beacon.age_s < 10 ? beacon.age_s.toFixed(1) : format.count(Math.round(beacon.age_s))} s ago`],
      ["Boot", beacon.boot_id],
      ["Packets sent", format.count(beacon.sent_packets)],
      ["Frames kept", format.count(beacon.frames_kept)],
    ]);
}

function showPasses(passes) {
  const rows = [...passes].reverse().map((one) => make(
    "tr",
    { title: `asked for again ${one.counts.asked}, came ${one.counts.mended}, repaired ${one.counts.repaired}, lost ${one.counts.lost}` },
    make("td", { textContent: format.today(one.begin_utc_s) ? format.clock(one.begin_utc_s) : format.moment(one.begin_utc_s) }),
    make("td", { textContent: format.span(one.end_utc_s - one.begin_utc_s) }),
    make("td", { textContent: format.bytes(one.counts.octets) }),
    make("td", { textContent: format.share(one.loss) }),
    make("td", { textContent: format.count(one.counts.patches) }),
  ));
  $("passes").replaceChildren(...(rows.length ? rows : [nothing("None is over yet.", 5)]));
}

const nothing = (text, columns) => make("tr", {}, make("td", { className: "none", colSpan: columns, textContent: text }));

// ---- scenes

const nameOf = (scene) => (scene.repeats ? `${scene.name} (${scene.number})` : scene.name);
const summed = (scene, of) => scene.tiles.reduce((sum, tile) => sum + of(tile), 0);
const came = (tile) => tile.have.split("1").length - 1;
const agree = (scene, of) => {
  const values = [...new Set(scene.tiles.map(of))];
  return values.length === 1 ? values[0] : `${values[0]} …`;
};

function bitsPerSample(scene) {
  const known = scene.tiles.filter((tile) => tile.bits_per_sample);
  const samples = known.reduce((sum, tile) => sum + (8 * tile.bytes) / tile.bits_per_sample, 0);
  return samples ? known.reduce((sum, tile) => sum + 8 * tile.bytes, 0) / samples : null;
}

function psnr(scene) {
  const known = scene.tiles.filter((tile) => tile.psnr_db !== null);
  const patches = known.reduce((sum, tile) => sum + tile.psnr_patches, 0);
  return patches ? known.reduce((sum, tile) => sum + tile.psnr_db * tile.psnr_patches, 0) / patches : null;
}

function sceneRow(scene) {
  const [have, all] = [summed(scene, came), summed(scene, (tile) => tile.have.length)];
  const button = make("button", { type: "button", className: "row", textContent: nameOf(scene), title: `${scene.tiles[0].sensor} ${scene.name}, ${scene.tiles.length} tiles` });
  button.dataset.key = scene.key;
  button.addEventListener("click", () => {
    follow = $("follow").checked = false;
    shown = scene.key;
    showScenes();
    showScene();
  });
  const className = scene.key === shown ? "shown" : "";
  const name = make("tr", { className }, make("th", { scope: "rowgroup", colSpan: 6 }, button));
  const figures = make(
    "tr",
    { className },
    make("td", {}, make("progress", { max: all, value: have, ariaLabel: "Patches that came" }), `${have}/${all}`),
    make("td", { textContent: format.bytes(summed(scene, (tile) => tile.bytes)) }),
    make("td", { textContent: format.decimal(bitsPerSample(scene), 3) }),
    make("td", { textContent: psnr(scene) === null ? format.NONE : `${format.decimal(psnr(scene), 1)} dB` }),
    make("td", { textContent: agree(scene, (tile) => format.significant(tile.step)) }),
    make("td", { textContent: agree(scene, (tile) => tile.model.slice(0, 8)), title: scene.tiles[0].model }),
  );
  if (scene.key === shown) button.setAttribute("aria-current", "true");
  return make("tbody", {}, name, figures);
}

function showScenes() {
  const focused = document.activeElement?.dataset?.key;
  document.querySelectorAll("#scenes tbody").forEach((body) => body.remove());
  $("scenes").append(...(scenes.length ? scenes.map(sceneRow) : [make("tbody", {}, nothing("None yet.", 6))]));
  if (focused) document.querySelector(`button.row[data-key="${focused}"]`)?.focus();
  showProducts();
}

function showProducts() {
  const scene = current();
  const written = scene ? scene.tiles.filter((tile) => tile.file) : [];
  const whole = scene && products.find((one) => one.scene === scene.name && one.sensor === scene.tiles[0].sensor);
  say($("products-title"), scene ? `Files of ${nameOf(scene)}: ${written.length} of ${scene.tiles.length} tiles` : "Files");
  const signature = [whole?.files, ...written.map((tile) => [...tile.files, tile.have])].join();
  if ($("products").dataset.signature === signature) return;
  $("products").dataset.signature = signature;
  const links = (files, start) => files.map((file, i) => make("a", { href: `/products/${file}`, download: file, title: file, textContent: i ? file.slice(start.length + 1).replace(/\.json$/, "") : file }));
  const all = whole?.files.length ? [make("li", {}, ...links(whole.files, stem(whole.files[0])), make("span", { textContent: "all tiles" }))] : [];
  $("products").replaceChildren(...all, ...written.map((tile) => make(
    "li",
    {},
    ...links(tile.files, stem(tile.file)),
    ...(tile.have.includes("0") ? [make("span", { textContent: `${came(tile)} of ${tile.have.length} patches so far` })] : []),
  )));
}

const stem = (file) => file.replace(/(\.quality)?\.[^.]*$/, "");

// ---- the image

async function detailOf(tile) {
  if (!details.has(tile.id)) details.set(tile.id, await ask(`/api/tiles/${tile.id}`));
  return details.get(tile.id);
}

let described = null; // {key, detail} of the scene whose sliders are there
let sceneTimer = null;
async function showScene() {
  const scene = current();
  $("empty").hidden = scene !== null;
  say($("scene-title"), scene ? nameOf(scene) : "Scene");
  if (!scene) { say($("scene-note"), ""); return; }
  const [have, all] = [summed(scene, came), summed(scene, (tile) => tile.have.length)];
  const [count] = scene.tiles[0].shape;
  say($("scene-note"), `${scene.tiles[0].sensor} · ${count} bands · ${have === all ? `all ${all} patches` : `${have} of ${all} patches`}`);
  if (described?.key !== scene.key) {
    try {
      const tile = scene.tiles.find((one) => one.have.includes("1")) ?? scene.tiles[0];
      const detail = await detailOf(tile);
      if (current()?.key !== scene.key) return;
      const kept = described !== null && described.detail.shape[0] === detail.shape[0] && String(described.detail.wavelengths_nm) === String(detail.wavelengths_nm);
      described = { key: scene.key, detail };
      if (!kept || preset !== null) choosePreset(kept ? preset : 0, false);
      showSliders();
      if (selected && keyOf(selected.place.tile) !== scene.key) deselect();
      else showSpectrum();
    } catch {
      if (current()?.key !== scene.key) return;
      viewer.show(null, null); // rather nothing than another scene
      clearTimeout(sceneTimer);
      sceneTimer = setTimeout(showScene, 1000); // the process has told of it a moment too early
      return;
    }
  }
  viewer.show(current(), bands);
}

function bandsFor(nm, detail) {
  const usable = detail.valid_bands.map((valid, i) => (valid ? i : -1)).filter((i) => i >= 0);
  if (!usable.length || !detail.wavelengths_nm.length) return null;
  const nearest = (aim) => usable.reduce((a, b) => (Math.abs(detail.wavelengths_nm[b] - aim) < Math.abs(detail.wavelengths_nm[a] - aim) ? b : a));
  const found = nm.map(nearest);
  return found.every((band, i) => Math.abs(detail.wavelengths_nm[band] - nm[i]) <= SLACK_NM) ? found : null;
}

function choosePreset(index, show = true) {
  const { detail } = described;
  const usable = detail.valid_bands.map((valid, i) => (valid ? i : -1)).filter((i) => i >= 0);
  const spread = usable.length ? [3, 2, 1].map((n) => usable[Math.floor((usable.length * n) / 4)]) : [0, 0, 0];
  const found = bandsFor(PRESETS[index].nm, detail);
  preset = found ? index : null;
  bands = found ?? spread;
  if (show) { showSliders(); viewer.show(current(), bands); showSpectrum(); }
}

function bandText(band) {
  const nm = described.detail.wavelengths_nm[band];
  const text = nm === undefined ? `band ${band + 1}` : format.wavelength(nm);
  return described.detail.valid_bands[band] ? text : `${text}, holds nothing`;
}

function showSliders() {
  const { detail } = described;
  $("presets").replaceChildren(...PRESETS.map(({ name, nm }, index) => {
    const button = make("button", { type: "button", textContent: name, title: `${nm.join(", ")} nm`, disabled: bandsFor(nm, detail) === null, ariaPressed: String(preset === index) });
    button.addEventListener("click", () => choosePreset(index));
    return button;
  }));
  if ($("sliders").children.length) { bands.forEach(setSlider); return; }
  $("sliders").replaceChildren(...COLORS.map(([key, name], color) => {
    const range = make("input", { type: "range", id: `range-${key}`, min: 1 });
    const number = make("input", { type: "number", id: `number-${key}`, min: 1, ariaLabel: `${name}: band number` });
    const output = make("output", { id: `band-${key}`, htmlFor: range.id });
    number.setAttribute("aria-describedby", output.id);
    for (const input of [range, number]) input.addEventListener("input", () => chooseBand(color, Number(input.value)));
    return make("div", { className: `slider ${key}` }, make("label", { htmlFor: range.id, textContent: name }), range, number, output);
  }));
  bands.forEach(setSlider);
}

function setSlider(band, color) {
  const [range, number, output] = $("sliders").children[color].querySelectorAll("input, output");
  for (const input of [range, number]) { input.max = described.detail.shape[0]; if (Number(input.value) !== band + 1 || input.value === "") input.value = band + 1; }
  range.setAttribute("aria-valuetext", bandText(band));
  number.removeAttribute("aria-invalid");
  say(output, bandText(band));
}

let bandTimer = null;
function chooseBand(color, number) {
  const [count] = described.detail.shape;
  if (!(Number.isInteger(number) && number >= 1 && number <= count)) {
    const [field, output] = $("sliders").children[color].querySelectorAll("input[type=number], output");
    field.setAttribute("aria-invalid", "true");
    say(output, `No such band: 1 to ${count}. Shown is ${bands[color] + 1}.`);
    return;
  }
  bands = bands.map((band, i) => (i === color ? number - 1 : band));
  preset = null;
  setSlider(bands[color], color);
  for (const button of $("presets").children) button.ariaPressed = "false";
  clearTimeout(bandTimer);
  bandTimer = setTimeout(() => { viewer.show(current(), bands); showSpectrum(); }, REST_MS);
}

function where({ tile, row, col, sceneRow, sceneCol, here }) {
  if (!tile) return `row ${sceneRow}, column ${sceneCol}: no tile`;
  const place = details.get(tile.id)?.georeference;
  const ground = place ? ` · ${mapText(place, row, col)}` : "";
  return `row ${sceneRow}, column ${sceneCol}${ground}${here ? "" : ": has not come"}`;
}

function mapText({ crs, transform: [a, b, c, d, e, f] }, row, col) {
  const [x, y] = [a * (col + 0.5) + b * (row + 0.5) + c, d * (col + 0.5) + e * (row + 0.5) + f];
  const digits = Math.abs(a) < 0.01 ? 5 : 0;
  return `x ${x.toFixed(digits)}, y ${y.toFixed(digits)}${crs.length < 16 ? ` (${crs})` : ""}`;
}

let pointed = null; // the place that the cursor is at
let placeTimer = null;
function readout(place) {
  pointed = place;
  say($("readout"), where(place));
  clearTimeout(placeTimer);
  if (lost || !place.tile || details.has(place.tile.id) || came(place.tile) === 0) return;
  placeTimer = setTimeout(async () => {
    await detailOf(place.tile).catch(() => {});
    if (pointed === place) say($("readout"), where(place)); // where it is on the map is known by now
  }, REST_MS);
}

// ---- the spectrum

async function select(place) {
  readout(place);
  if (!place.here) { say($("spectrum-note"), "This pixel has not come."); return; }
  if (lost) { say($("spectrum-note"), NO_ANSWER); return; }
  try {
    const detail = await detailOf(place.tile);
    const { samples } = await ask(`/api/tiles/${place.tile.id}/spectrum?row=${place.row}&col=${place.col}`);
    selected = { place, detail, samples };
    readout(place);
    say($("spectrum-note"), `row ${place.sceneRow}, column ${place.sceneCol}`);
    showSpectrum();
  } catch ({ cause }) {
    const refusal = cause === 404 ? "The samples of this pixel are no longer at hand." : `The ground could not say (status ${cause}): select it once more.`;
    say($("spectrum-note"), cause === undefined ? NO_ANSWER : refusal);
  }
}

function deselect() {
  selected = null;
  pins = [];
  say($("spectrum-note"), "Select a pixel of the image.");
  showSpectrum();
}

const axisOf = (detail) => (detail.wavelengths_nm.length ? detail.wavelengths_nm : detail.valid_bands.map((_, i) => i + 1));

function showSpectrum() {
  const all = [...(selected ? [{ ...selected, slot: 0 }] : []), ...pins];
  const series = all.map(({ place, detail, samples, slot }) => ({
    x: axisOf(detail),
    values: samples.map((sample) => (sample === null ? null : sample / detail.reflectance_scale)),
    raw: samples,
    name: `${place.sceneRow}, ${place.sceneCol}`,
    slot,
  }));
  const axis = described ? axisOf(described.detail) : [];
  plot.show(series, bands ? bands.map((band) => axis[band]) : [], axis, described?.detail.wavelengths_nm.length ? "nm" : "band");
  $("plot").setAttribute("aria-label", selected ? `Spectrum of row ${selected.place.sceneRow}, column ${selected.place.sceneCol}; its values are in the table below` : "Spectrum of the selected pixel");
  $("pin").disabled = !selected || pins.length >= MAX_SERIES - 1;
  $("unpin").disabled = !pins.length;
  showValues();
}

function showValues() {
  if (!$("values-box").open) return;
  const rows = selected ? selected.samples.map((sample, i) => make(
    "tr",
    {},
    make("td", { textContent: i + 1 }),
    make("td", { textContent: selected.detail.wavelengths_nm[i] ?? format.NONE }),
    make("td", { textContent: sample ?? format.NONE }),
    make("td", { textContent: sample === null ? format.NONE : format.significant(sample / selected.detail.reflectance_scale) }),
  )) : [];
  $("values").replaceChildren(...(rows.length ? rows : [nothing("No pixel is selected.", 4)]));
}

$("values-box").addEventListener("toggle", showValues);
$("pin").addEventListener("click", () => {
  const free = [1, 2, 3].find((slot) => !pins.some((pin) => pin.slot === slot));
  pins.push({ ...selected, slot: free });
  showSpectrum();
});
$("unpin").addEventListener("click", () => { pins = []; showSpectrum(); });
$("follow").addEventListener("change", () => {
  follow = $("follow").checked;
  if (!follow || !scenes.length) return;
  shown = newest().key;
  showScenes();
  showScene();
});
$("zoom-in").addEventListener("click", () => viewer.zoomBy(1));
$("zoom-out").addEventListener("click", () => viewer.zoomBy(-1));
$("zoom-fit").addEventListener("click", () => viewer.zoomBy(0));

showPasses([]);
listen();
setInterval(look, LOOK_MS);
