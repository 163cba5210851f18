/* Numbers as text and as colour. All digits of a number are in its title. */
import { arrowOf, hovers, make } from "./elements.js";
import { clamp, largest } from "./data.js";

const scheme = matchMedia("(prefers-color-scheme: dark)");
export const dark = () => scheme.matches;
export const onSchemeChange = (redraw) => scheme.addEventListener("change", redraw);

/* About four digits. */
export function short(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || value === 0) return String(value).replace("Infinity", "∞").replace("-0", "0");
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

/* At most seven letters, so that the columns of a table are narrow and never move. */
export function tiny(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || value === 0) return short(value);
  if (size >= 1e4 || size < 0.01) return value.toExponential(1);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3);
}

export function number(value, tag = "span") {
  const sign = value > 0 ? " plus" : value < 0 ? " minus" : "";
  return make(tag, { class: `num${sign}`, title: String(value), "data-value": String(value) }, short(value));
}

/* Blue below zero, orange above: a pair that colour-blind people can distinguish. The root shows small numbers. */
const SIGNS = {
  light: { zero: [250, 250, 248], negative: [18, 84, 168], positive: [196, 82, 4] },
  dark: { zero: [38, 40, 45], negative: [96, 170, 255], positive: [255, 160, 80] },
};
export function colour(value, scale) {
  const share = Math.max(-1, Math.min(1, value / scale));
  const { zero, negative, positive } = SIGNS[dark() ? "dark" : "light"];
  const full = share < 0 ? negative : positive;
  return zero.map((start, i) => Math.round(start + (full[i] - start) * Math.sqrt(Math.abs(share))));
}
export function grey(value, scale) {
  const light = Math.max(0, Math.min(255, Math.round((255 * value) / scale)));
  return [light, light, light];
}

/* Black or white, whichever is easier to read on a colour (by WCAG's contrast). */
export function legible(...rgb) {
  const linear = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return light > 0.179 ? "#000000" : "#ffffff"; // 4.58 : 1 at least
}

/* A small table of numbers in the colours of the maps. One cell is selected: by pointer, touch, or arrow keys.
   padding(r, c): whether a cell is padding, which is shown as paddingText. */
export function numberTable(kind, label, rows, options = {}) {
  const { selected = null, pick = null, padding = () => false, paddingText = "0" } = options;
  const scale = options.scale ?? largest(rows.flat().filter(Number.isFinite));
  const cell = (value, r, c) => {
    const isPadding = padding(r, c);
    const isSelected = selected !== null && selected[0] === r && selected[1] === c;
    const rgb = colour(value, scale);
    const id = `${kind}-${r}-${c}`;
    const explained = paddingText === "0" ? "padding: zero by definition" : "padding: never the maximum";
    const choose = (focus) => pick && !isSelected && pick(r, c, focus);
    return make(
      "td",
      {
        id,
        role: pick ? "gridcell" : null,
        "aria-selected": pick ? String(isSelected) : null,
        class: `${isPadding ? "pad" : ""}${isSelected ? " selected" : ""}`,
        title: isPadding ? explained : String(value),
        "data-value": String(value),
        style: isPadding ? "" : `background: rgb(${rgb}); color: ${legible(...rgb)}`,
        tabindex: pick && isSelected ? 0 : null,
        onmousemove: (event) => hovers(event) && choose(null),
        onclick: () => choose(id),
        onkeydown: (event) => {
          const arrow = pick && arrowOf(event);
          if (!arrow) return;
          const [nextRow, nextColumn] = [clamp(r + arrow[0], rows.length), clamp(c + arrow[1], rows[0].length)];
          pick(nextRow, nextColumn, `${kind}-${nextRow}-${nextColumn}`);
        },
      },
      isPadding ? paddingText : tiny(value),
    );
  };
  const lines = rows.map((line, r) => make("tr", {}, ...line.map((value, c) => cell(value, r, c))));
  const table = make("table", { class: `numbers ${kind}`, role: pick ? "grid" : null, "aria-label": label }, ...lines);
  return make("div", { class: "scrolls", id: `${kind}-scroll` }, table);
}

/* One bar for each entry { name, value, strong }, from zero to the left or to the right. */
export function bars(entries, most = largest(entries.map((entry) => entry.value))) {
  const signed = entries.some((entry) => entry.value < 0);
  const line = ({ name, value, strong }) => [
    make(strong ? "b" : "span", {}, name),
    bar(value, most, signed),
    number(value),
  ];
  return make("div", { class: "bars" }, ...entries.flatMap(line));
}
export function bar(value, most, signed) {
  const middle = signed ? 50 : 0;
  const length = (signed ? 50 : 100) * Math.min(1, Math.abs(value) / most);
  const fill = `left: ${value < 0 ? middle - length : middle}%; width: ${length}%`;
  const side = value < 0 ? "--negative" : "--positive";
  return make(
    "span",
    { class: "bar" },
    make("i", { style: `${fill}; background: var(${side})` }),
    make("i", { class: "zero", style: `left: ${middle}%` }),
  );
}
