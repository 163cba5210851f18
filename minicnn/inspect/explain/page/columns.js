/* im2col: every window as a numbered column of a matrix, the kernel beside its rows, and the output below its columns.

   The matrix keeps a size at which one column can be pointed at, so a long one is scrolled. A column is also reached
   by its number. */
import { at, clamp, largest, plane } from "./data.js";
import { arrowOf, heading, hovers, make, makeSvg, note, numberField } from "./elements.js";
import { colour, dark, number, short } from "./numbers.js";
import { paint } from "./maps.js";
import { pixel } from "./sliding.js";
import { firstChannel } from "./selection.js";

const CELL = [5, 14]; // the width and height of a number, in pixels: between these
const WIDTH = 620; // of the matrix on the page, about
const HEIGHT = 150;
const EVERY = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000]; // labels on a ruler

const cellSize = (space, count) => Math.max(CELL[0], Math.min(CELL[1], Math.floor(space / count)));

/* The matrix of a layer's input as a picture, from the first channel of a group on. */
const drawn = new WeakMap();
function columnsPicture(layer, first) {
  const key = `${first} ${dark()}`;
  if (drawn.get(layer.x)?.key !== key) {
    const [, C, KH, KW] = layer.weight.shape;
    const [, OH, OW] = layer.y.shape;
    const columns = new Float32Array(C * KH * KW * OH * OW);
    let i = 0;
    for (let c = 0; c < C; c++)
      for (let kh = 0; kh < KH; kh++)
        for (let kw = 0; kw < KW; kw++)
          for (let r = 0; r < OH; r++)
            for (let s = 0; s < OW; s++, i++) {
              const place = pixel(layer, r, s, kh, kw);
              if (place) columns[i] = at(layer.x, first + c, ...place);
            }
    const canvas = make("canvas");
    const scale = largest(columns);
    paint(
      canvas,
      C * KH * KW,
      OH * OW,
      (k) => columns[k],
      (v) => colour(v, scale),
    );
    drawn.set(layer.x, { key, canvas });
  }
  return drawn.get(layer.x).canvas;
}

export function columnsView(layer, p, set) {
  const [, C, KH, KW] = layer.weight.shape;
  const [, OH, OW] = layer.y.shape;
  const first = firstChannel(layer, p.f);
  const [rows, count] = [C * KH * KW, OH * OW];
  const [tap, column] = [((p.c - first) * KH + p.tap[0]) * KW + p.tap[1], p.r * OW + p.s];
  const [width, height] = [cellSize(WIDTH, count), cellSize(HEIGHT, rows)];
  const pick = (i, k, focus) => {
    const [c, kh, kw] = [Math.floor(i / (KH * KW)), Math.floor(i / KW) % KH, i % KW];
    set({ c: first + c, tap: [kh, kw], r: Math.floor(k / OW), s: k % OW }, focus);
  };
  const strip = (id, h, w, draw, frames, move, label) =>
    matrixCanvas({
      id,
      h,
      w,
      draw,
      frames,
      move,
      label,
      size: [h === 1 ? 14 : height, w === 1 ? 14 : width],
      tap,
      column,
    });
  const place = pixel(layer, p.r, p.s, ...p.tap);
  const value = place ? at(layer.x, p.c, ...place) : 0;
  const weight = at(layer.weight, p.f, p.c - first, ...p.tap);
  const kernel = plane(layer.weight, p.f);
  const ofFilter = plane(layer.y, p.f);
  const row = (values) => (canvas) => {
    const [h, w] = [canvas.height, canvas.width];
    paint(
      canvas,
      h,
      w,
      (i) => values[i],
      (v) => colour(v, largest(values)),
    );
  };
  return make(
    "section",
    { class: "box im2col" },
    heading(`im2col: ${count} windows as the columns of a matrix, ${rows} × ${count}`),
    make(
      "div",
      { class: "fields" },
      numberField("column", "column", column, count, (k, focus) => pick(tap, k, focus)),
      numberField("tap", "row", tap, rows, (i, focus) => pick(i, column, focus)),
    ),
    make(
      "div",
      { class: "matrix scrolls", id: "matrix", "data-follow": `${column * width},${tap * height}` },
      make("div", { class: "corner" }, "kernel"),
      ruler("top", count, width, column, 44),
      make(
        "div",
        { class: "side" },
        ruler("left", rows, height, tap, 15),
        strip(
          "weightrow",
          rows,
          1,
          row(kernel),
          [[tap, 0, 1, 1]],
          (i, _, focus) => pick(i, column, focus),
          "the kernel, one weight for each row",
        ),
      ),
      strip(
        "columns",
        rows,
        count,
        (canvas) => canvas.getContext("2d").drawImage(columnsPicture(layer, first), 0, 0),
        [
          [0, column, rows, 1],
          [tap, 0, 1, count],
        ],
        pick,
        "the columns",
      ),
      make("div", { class: "corner foot" }, "output"),
      make(
        "div",
        { class: "foot" },
        strip(
          "productrow",
          1,
          count,
          row(ofFilter),
          [[0, column, 1, 1]],
          (_, k, focus) => pick(tap, k, focus),
          "the output, below its columns",
        ),
      ),
    ),
    note`[[im2col]] copies every window into a column, because computers are slow at sliding and very fast at multiplying matrices. Column ${column} is the window at output [${p.r}, ${p.s}]; row ${tap} is what [[tap]] [${p.tap.join(", ")}] of channel ${p.c} reads. They meet at ${place ? `x[${[p.c, ...place].join(", ")}] = ` : "the padding, "}${short(value)}, which is multiplied by the weight ${short(weight)}. All ${rows} products of the column give ${number(at(layer.y, p.f, p.r, p.s))} below it${layer.bias ? ", with the bias" : ""}.`,
  );
}

/* A part of the picture of the product: a canvas with frames, in which a cell is selected. */
function matrixCanvas({ id, h, w, draw, frames, move, label, size, tap, column }) {
  const canvas = make("canvas", {
    id,
    tabindex: 0,
    role: "application",
    "aria-label": `${label}; the arrow keys move`,
  });
  [canvas.height, canvas.width] = [h, w];
  draw(canvas);
  const overlay = makeSvg("svg", { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [r, c, height, width] of frames) {
    const place = { x: c, y: r, width, height };
    overlay.append(makeSvg("rect", { ...place, class: "cell", "vector-effect": "non-scaling-stroke" }));
  }
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const r = Math.floor(((event.clientY - box.top) / box.height) * h);
    const c = Math.floor(((event.clientX - box.left) / box.width) * w);
    return [clamp(r, h), clamp(c, w)];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [r, c] = point(event);
    if (hovers(event) && !((h === 1 || r === tap) && (w === 1 || c === column))) move(r, c, null);
  });
  canvas.addEventListener("click", (event) => move(...point(event), id));
  canvas.addEventListener("keydown", (event) => {
    const arrow = arrowOf(event);
    if (arrow) move(clamp(tap + arrow[0], h), clamp(column + arrow[1], w), id);
  });
  const style = `width: ${w * size[1]}px; height: ${h * size[0]}px`;
  return make("div", { class: "map", style }, canvas, overlay);
}

/* The numbers of the columns or rows, at least `apart` pixels from each other; the selected one is always written. */
function ruler(side, count, step, selected, apart) {
  const every = EVERY.find((n) => n * step >= apart) ?? EVERY.at(-1);
  const [start, length] = side === "top" ? ["left", "width"] : ["top", "height"];
  const label = (i, kind) =>
    make("span", { class: kind, style: `${start}: ${Math.max((i + 0.5) * step, 7)}px` }, String(i));
  const labels = [];
  for (let i = 0; i < count; i += every) if (Math.abs(i - selected) * step >= apart) labels.push(label(i, ""));
  return make(
    "div",
    { class: `ruler ${side}`, style: `${length}: ${count * step}px`, "aria-hidden": "true" },
    ...labels,
    label(selected, "selected"),
  );
}
