/* Convolution, forward: a patch times a kernel, and the sum of all products. */
import { at, largest, plane, range } from "./data.js";
import { box, equation, heading, make, note, row, split, text } from "./elements.js";
import { channels, map } from "./maps.js";
import { word } from "./glossary.js";
import { number, numberTable, short } from "./numbers.js";
import { termList } from "./terms.js";
import { field, pixel, taps } from "./sliding.js";
import { firstChannel } from "./selection.js";
import { columnsView } from "./columns.js";
import { allFilters } from "./filters.js";
import { receptiveFields } from "./receptive.js";
import { exciting } from "./excitation.js";

export function convolutionForward(layer, index, p, set) {
  const [F, C] = layer.weight.shape;
  const first = firstChannel(layer, p.f);
  if (p.c < first || p.c >= first + C) p.c = first;
  return [
    text`A window slides over the input. At each position its pixels are multiplied by the weights of the [[kernel]], and their sum is one number of the output. Point at the output.`,
    split(
      [inputMap(layer, p, set), outputMap(layer, p, set, F)],
      [
        productTables(layer, p, set, first),
        make("div", { class: "beside" }, columnsView(layer, p, set), sumOfProducts(layer, p, set, first)),
      ],
    ),
    row(
      allFilters(layer, p, set, layer.weight, layer.y, "output"),
      receptiveFields(layer, index, p),
      exciting(layer, p.f, `filter ${p.f}`),
    ),
  ];
}

const nameOfOutput = (p) => `output[${p.f}, ${p.r}, ${p.s}]`;

/* What a tap reads in a channel of the filter's group, its weight, and their product. */
const tapReader = (layer, p, first) => {
  const read = (c, tap) => {
    const place = pixel(layer, p.r, p.s, ...tap);
    return place ? at(layer.x, first + c, ...place) : 0;
  };
  const weight = (c, tap) => at(layer.weight, p.f, c, ...tap);
  return { read, weight, product: (c, tap) => Math.fround(read(c, tap) * weight(c, tap)) };
};

/* The input with its padding, the window, and the pixel of the selected tap. */
function inputMap(layer, p, set) {
  const [channelCount, H, W] = layer.x.shape;
  const isImage = layer.reads < 0;
  const [top, left, height, width] = field(layer, p.r, p.s);
  const [rowsApart, columnsApart] = layer.window.dilation;
  return box(
    map(`input, channel ${p.c}`, H, W, plane(layer.x, p.c), {
      id: "input",
      scale: largest(layer.x),
      grey: isImage,
      pads: layer.window.pads,
      paddingIs: "zeros",
      boxes: [[top, left, height, width]],
      selected: [top + p.tap[0] * rowsApart, left + p.tap[1] * columnsApart],
    }),
    channelCount > 1
      ? channels("channels", "input channel", layer.x, p.c, (c, focus) => set({ c }, focus), isImage)
      : null,
  );
}

function outputMap(layer, p, set, F) {
  const [, OH, OW] = layer.y.shape;
  return box(
    map(`output of filter ${p.f}`, OH, OW, plane(layer.y, p.f), {
      id: "output",
      scale: largest(layer.y),
      selected: [p.r, p.s],
      move: (r, s, focus) => set({ r, s }, focus),
    }),
    F > 1 ? channels("filters", "filter", layer.y, p.f, (f, focus) => set({ f }, focus)) : null,
  );
}

/* The patch under the window, times the kernel: of the selected channel. */
function productTables(layer, p, set, first) {
  const [, C, KH, KW] = layer.weight.shape;
  const { read, weight, product } = tapReader(layer, p, first);
  const table = (kind, label, value, options = {}) =>
    numberTable(
      kind,
      label,
      taps(layer).map((line) => line.map((tap) => value(p.c - first, tap))),
      { selected: p.tap, pick: (r, c, focus) => set({ tap: [r, c] }, focus), ...options },
    );
  const patchOptions = { scale: largest(layer.x), padding: (kh, kw) => !pixel(layer, p.r, p.s, kh, kw) };
  return make(
    "div",
    { class: "tables" },
    box(
      heading(C > 1 ? `patch, channel ${p.c}` : "the patch"),
      table("patch", "the patch under the window", read, patchOptions),
    ),
    make("div", { class: "times" }, "×"),
    box(
      heading(`kernel of filter ${p.f}`),
      table("kernel", "the kernel", weight, { scale: largest(plane(layer.weight, p.f)) }),
    ),
    make("div", { class: "times" }, "="),
    box(heading("products"), table("products", "the products", product)),
    make(
      "div",
      { class: "result" },
      equation(`${nameOfOutput(p)} = `, number(at(layer.y, p.f, p.r, p.s), "b")),
      note`the sum of ${C * KH * KW} products${C > 1 ? ` of ${C} channels` : ""}${layer.bias ? [" and the ", word("bias")] : ""}`,
    ),
  );
}

/* Every product of every channel, the largest first. */
function sumOfProducts(layer, p, set, first) {
  const { read, weight, product } = tapReader(layer, p, first);
  const term = (c, tap) => {
    const place = pixel(layer, p.r, p.s, ...tap);
    const pixelName = place ? `x[${[first + c, ...place]}]` : "padding";
    return {
      name: `${pixelName} × w[${[c, ...tap]}] = ${short(read(c, tap))} × ${short(weight(c, tap))}`,
      value: product(c, tap),
      change: { c: first + c, tap },
    };
  };
  return box(
    heading("the whole sum"),
    termList({
      id: "terms",
      terms: range(layer.weight.shape[1]).flatMap((c) =>
        taps(layer).flatMap((line) => line.map((tap) => term(c, tap))),
      ),
      lit: ({ change }) => change.c === p.c && change.tap.join() === p.tap.join(),
      total: at(layer.y, p.f, p.r, p.s),
      totalName: nameOfOutput(p),
      bias: layer.bias ? layer.bias[p.f] : null,
      p,
      set,
    }),
  );
}
