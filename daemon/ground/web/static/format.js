// Numbers and moments for people. Nothing here touches the page.

export const NONE = "—";
const plain = new Intl.NumberFormat("en-GB");

export const count = (value) => plain.format(value);

const scaled = (value, unit, steps) => {
  let index = 0;
  while (value >= 999.5 && index < steps.length - 1) { value /= 1000; index += 1; }
  const digits = value >= 99.95 || (index === 0 && Number.isInteger(value)) ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${steps[index]}${unit}`;
};
export const bytes = (value) => scaled(value, "B", ["", "k", "M", "G", "T"]);
export const bitRate = (value) => scaled(value, "bit/s", ["", "k", "M", "G"]);

export const share = (value) => {
  if (value === null) return NONE;
  const percent = 100 * value;
  return `${percent === 0 || percent >= 10 ? percent.toFixed(0) : percent.toFixed(percent < 1 ? 2 : 1)} %`;
};
export const decimal = (value, digits) => (value === null ? NONE : value.toFixed(digits));
export const significant = (value) => (value === 0 ? "0" : Number(value.toPrecision(4)).toString());

const two = (value) => String(Math.trunc(value)).padStart(2, "0");
export const span = (seconds) => {
  const s = Math.max(0, Math.round(seconds));
  return s >= 3600
    ? `${Math.trunc(s / 3600)}:${two((s % 3600) / 60)}:${two(s % 60)}`
    : `${Math.trunc(s / 60)}:${two(s % 60)}`;
};
export const clock = (utc_s) => new Date(1000 * utc_s).toISOString().slice(11, 19);
export const today = (utc_s) => new Date().toISOString().slice(0, 10) === new Date(1000 * utc_s).toISOString().slice(0, 10);
export const moment = (utc_s) => new Date(1000 * utc_s).toISOString().slice(5, 16).replace("T", " ");
export const wavelength = (nm) => `${nm >= 1000 ? nm.toFixed(0) : nm.toFixed(1)} nm`;
