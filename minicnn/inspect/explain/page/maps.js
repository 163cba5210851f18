/* Maps: arrays as pictures in which one number is selected, by pointer, touch or arrow keys. */
import { at, cached, data, largest, plane, range } from "./data.js";
import { arrowOf, choices, heading, hovers, make, makeSvg } from "./elements.js";
import { colour, dark, grey, short } from "./numbers.js";

export function paint(canvas, height, width, value, toColour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) image.data.set([...toColour(value(i)), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

/* The map that keeps its selection while the pointer moves over it: after a click, until the next one or Escape. */
export const held = { id: null };

/* A map of height x width numbers.
   id: of its canvas. scale: of the colours. size: of the longer side, in pixels of the screen, at least.
   pads: ((top, bottom), (left, right)), drawn around the numbers. selected: [row, column]. boxes: [row, column, height,
   width] in dashes, marks: small squares. move(row, column, focus): what a selection does. */
export function map(title, height, width, values, options = {}) {
  const {
    id = null,
    size = innerWidth < 480 ? 136 : 160,
    pads = null,
    selected = null,
    boxes = [],
    marks = [],
    move = null,
  } = options;
  const scale = options.scale ?? largest(values);
  const [[top, bottom], [left, right]] = pads ?? [
    [0, 0],
    [0, 0],
  ];
  const [rows, columns] = [top + height + bottom, left + width + right];
  const canvas = make("canvas", { id, tabindex: move ? 0 : null, role: move ? "application" : "img" });
  const [row, column] = selected ?? [0, 0];
  const shown = selected && row >= 0 && column >= 0 && row < height && column < width;
  const place = shown ? `: row ${row}, column ${column}, ${short(values[row * width + column])}` : "";
  canvas.setAttribute("aria-label", move ? `${title}${place}; the arrow keys move` : title || "the image");
  const inside = (r, c) => r >= 0 && c >= 0 && r < height && c < width;
  const toColour = options.grey ? grey : colour;
  const value = (i) => {
    const [r, c] = [Math.floor(i / columns) - top, (i % columns) - left];
    return inside(r, c) ? values[r * width + c] : 0;
  };
  paint(canvas, rows, columns, value, (v) => toColour(v, scale));
  const step = Math.max(1, Math.floor(size / Math.max(rows, columns)));
  const overlay = makeSvg("svg", {
    viewBox: `0 0 ${columns} ${rows}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  if (pads) overlay.append(...border(rows, columns, top, left, height, width));
  const frame = ([r, c, h, w], kind) => {
    const place = { x: c + left, y: r + top, width: w, height: h };
    overlay.append(makeSvg("rect", { ...place, class: kind, "vector-effect": "non-scaling-stroke" }));
  };
  boxes.forEach((box) => frame(box, "window"));
  marks.forEach(([r, c]) => frame([r, c, 1, 1], "mark"));
  if (selected) frame([...selected, 1, 1], "cell");
  if (move) listen(canvas, { rows, columns, top, left, inside, selected, move });
  const holder = make("div", { class: "map", style: `width: ${step * columns}px` }, canvas, overlay);
  const notes = [
    options.caption ?? (options.grey ? null : `full colour: ±${short(scale)}`),
    pads && top + bottom + left + right > 0 && `hatched: padding${options.paddingIs ? `, ${options.paddingIs}` : ""}`,
    move && held.id === id && "kept: click it again, or press Escape, to let it go",
  ].filter(Boolean);
  return make(
    "figure",
    {},
    title ? heading(title) : null,
    holder,
    notes.length > 0 && make("figcaption", {}, notes.join("; ")),
  );
}

/* The padding around an image: four hatched strips. */
function border(rows, columns, top, left, height, width) {
  const strips = [
    [0, 0, columns, top],
    [0, top + height, columns, rows - top - height],
    [0, top, left, height],
    [left + width, top, columns - left - width, height],
  ];
  const hatch = makeSvg(
    "pattern",
    { id: "hatch", width: 0.5, height: 0.5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    makeSvg("rect", { width: 0.5, height: 0.5, class: "hatch-ground" }),
    makeSvg("rect", { width: 0.14, height: 0.5, class: "hatch-line" }),
  );
  const strip = ([x, y, w, h]) => makeSvg("rect", { x, y, width: w, height: h, fill: "url(#hatch)", class: "padding" });
  return [makeSvg("defs", {}, hatch), ...strips.filter(([, , w, h]) => w > 0 && h > 0).map(strip)];
}

function listen(canvas, { rows, columns, top, left, inside, selected, move }) {
  const cell = (event) => {
    const place = canvas.getBoundingClientRect();
    const [y, x] = [(event.clientY - place.top) / place.height, (event.clientX - place.left) / place.width];
    return [Math.floor(y * rows) - top, Math.floor(x * columns) - left];
  };
  const isSelected = ([r, c]) => selected !== null && r === selected[0] && c === selected[1];
  const go = ([r, c], focus) => inside(r, c) && move(r, c, focus ? canvas.id : null);
  canvas.addEventListener("pointermove", (event) => {
    const target = cell(event);
    if (hovers(event) && held.id !== canvas.id && !isSelected(target)) go(target, document.activeElement === canvas);
  });
  canvas.addEventListener("click", (event) => {
    const target = cell(event);
    const isMouse = event.pointerType === "mouse";
    held.id = isMouse && !(held.id === canvas.id && isSelected(target)) ? canvas.id : null;
    go(target, true);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && held.id === canvas.id) {
      held.id = null;
      go(selected, true);
    }
    const arrow = arrowOf(event);
    if (arrow) go([(selected ?? [0, 0])[0] + arrow[0], (selected ?? [0, 0])[1] + arrow[1]], true);
  });
}

const drawThumbnail = cached((array, i, scale, isGrey) => {
  const canvas = make("canvas");
  const [height, width] = array.shape.slice(-2);
  const values = plane(array, i);
  const ofStack = values.length > height * width ? values.subarray(0, height * width) : values;
  paint(
    canvas,
    height,
    width,
    (k) => ofStack[k],
    (v) => (isGrey ? grey : colour)(v, scale),
  );
  return canvas;
});

/* A small picture of one image of a stack. */
export function thumbnail(array, i, { scale = largest(array), isGrey = false } = {}) {
  const drawn = drawThumbnail(array, i, scale, isGrey, dark());
  const copy = make("canvas"); // an element can be at one place of the page only
  [copy.width, copy.height] = [drawn.width, drawn.height];
  copy.getContext("2d").drawImage(drawn, 0, 0);
  return copy;
}

/* The channels of an array, one of them chosen. */
export function channels(id, title, array, chosen, choose, isGrey = false) {
  const items = range(array.shape[0]).map((c) => ({ name: `${title} ${c}`, content: thumbnail(array, c, { isGrey }) }));
  return choices(id, `${title}s`, items, chosen, choose, "thumbnails scrolls");
}

/* The image: in grey, or in colour where its three channels are red, green and blue. */
export function photo(title, options) {
  const [C, H, W] = data.input.shape;
  const scale = Math.max(1, largest(data.input));
  const figure = map(title, H, W, plane(data.input, 0), { grey: true, scale, ...options });
  if (C === 3) {
    const rgb = (i) => range(3).map((c) => at(data.input, c, Math.floor(i / W), i % W));
    paint(figure.querySelector("canvas"), H, W, rgb, (values) => values.flatMap((v) => grey(v, scale)[0]));
  }
  return figure;
}

/* An image whose numbers are 0 to 255, such as those that the library made to be looked at. */
export function tile(pixels, title, boxes = []) {
  const [C, H, W] = pixels.shape;
  const canvas = make("canvas", { role: "img", "aria-label": title });
  const rgb = (i) => range(3).map((c) => pixels[(C === 3 ? c : 0) * H * W + i]);
  paint(canvas, H, W, rgb, (values) => values);
  const overlay = makeSvg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [r, c, h, w] of boxes) {
    const place = { x: c, y: r, width: w, height: h };
    overlay.append(makeSvg("rect", { ...place, class: "window", "vector-effect": "non-scaling-stroke" }));
  }
  return make("div", { class: "map tile", title }, canvas, overlay);
}

/* A row of numbers as a map of several rows: the units of a dense layer. */
export function unitMap(title, array, chosen, choose, options = {}) {
  const width = Math.ceil(Math.sqrt(array.length * 1.6));
  const height = Math.ceil(array.length / width);
  const values = new Float32Array(height * width);
  values.set(array);
  const move = (r, c, focus) => r * width + c < array.length && choose(r * width + c, focus);
  const selected = [Math.floor(chosen / width), chosen % width];
  return map(title, height, width, values, { selected, move, scale: largest(array), ...options });
}
