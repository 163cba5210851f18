/* Convolution, backward: the gradient of a weight, and the gradient of a pixel (col2im). */
import { at, data, largest, plane } from "./data.js";
import { answer, box, count, equation, heading, make, note, row, split, text } from "./elements.js";
import { word } from "./glossary.js";
import { channels, map } from "./maps.js";
import { number, numberTable, short } from "./numbers.js";
import { termList } from "./terms.js";
import { pixel, readers, taps } from "./sliding.js";
import { firstChannel } from "./selection.js";
import { allFilters } from "./filters.js";

export function convolutionBackward(layer, index, p, set) {
  const [F, C] = layer.weight.shape;
  const [, OH, OW] = layer.y.shape;
  const [, H, W] = layer.x.shape;
  const first = firstChannel(layer, p.f);
  if (p.c < first || p.c >= first + C) p.c = first;
  const filtersOfGroup = F / layer.groups;
  const ofPixel = readers(layer, p.h, p.w);
  return [
    text`Every output receives its gradient [[dy]]. From it follow two gradients: [[dweight]], of the weights, and [[dx]], of the input, which goes to the layer before.`,
    split(
      [
        box(
          map(`dy of filter ${p.f}`, OH, OW, plane(layer.dy, p.f), {
            id: "dy",
            scale: largest(layer.dy),
            selected: [p.r, p.s],
            boxes: around(ofPixel),
            move: (r, s, focus) => set({ r, s }, focus),
          }),
          channels("filters", "filter", layer.dy, p.f, (f, focus) => set({ f }, focus)),
          equation(`dy[${p.f}, ${p.r}, ${p.s}] = `, number(at(layer.dy, p.f, p.r, p.s), "b")),
        ),
        box(
          map(`dx, channel ${p.c}`, H, W, plane(layer.dx, p.c), {
            id: "dx",
            scale: largest(layer.dx),
            selected: [p.h, p.w],
            move: (h, w, focus) => set({ h, w }, focus),
          }),
          layer.x.shape[0] > 1
            ? channels("channels", "input channel", layer.dx, p.c, (c, focus) =>
                set({ c, f: c >= first && c < first + C ? p.f : Math.floor(c / C) * filtersOfGroup }, focus),
              )
            : null,
        ),
      ],
      [weightGradient(layer, p, set, first), pixelGradient(layer, p, set, ofPixel)],
    ),
    row(allFilters(layer, p, set, layer.dweight, layer.dy, "gradients")),
  ];
}

/* dweight: the kernel slides over all positions, so the gradient of a weight is the sum over all of them. */
function weightGradient(layer, p, set, first) {
  const [, OH, OW] = layer.y.shape;
  const c = p.c - first;
  const gradient = at(layer.dweight, p.f, c, ...p.tap);
  const products = new Float32Array(OH * OW);
  const terms = Array.from(products, (_, i) => {
    const [r, s] = [Math.floor(i / OW), i % OW];
    const place = pixel(layer, r, s, ...p.tap);
    const [x, dy] = [place ? at(layer.x, p.c, ...place) : 0, at(layer.dy, p.f, r, s)];
    products[i] = x * dy;
    const name = `${place ? `x[${place}]` : "padding"} × dy[${r},${s}] = ${short(x)} × ${short(dy)}`;
    return { name, value: products[i], change: { r, s } };
  });
  const name = `dweight[${[p.f, c, ...p.tap].join(", ")}]`;
  const why = layer.frozen
    ? "The weights of this layer are frozen: they collect no gradient."
    : products.some((value) => value !== 0)
      ? "Its products cancel exactly."
      : "Every one of its products is zero: where this weight reads a pixel that is not zero, no gradient arrives.";
  return box(
    make(
      "div",
      { class: "beside" },
      make(
        "div",
        {},
        heading(`dweight of filter ${p.f}${layer.weight.shape[1] > 1 ? `, channel ${p.c}` : ""}: select a weight`),
        row(
          numberTable(
            "dweight",
            "the gradients of the kernel's weights",
            taps(layer).map((line) => line.map((tap) => at(layer.dweight, p.f, c, ...tap))),
            { selected: p.tap, pick: (r, s, focus) => set({ tap: [r, s] }, focus) },
          ),
          map("what each position adds", OH, OW, products, {
            id: "adds",
            size: 96,
            selected: [p.r, p.s],
            move: (r, s, focus) => set({ r, s }, focus),
          }),
        ),
        equation(`${name} = `, number(gradient, "b")),
        numericalGradient(at(layer.numWeight, p.f, c, ...p.tap)),
        gradient === 0 ? answer("Why is this gradient zero? ", why) : null,
      ),
      make(
        "div",
        {},
        heading(`its ${count(terms.length, "term")}: x × dy at every position`),
        termList({
          id: "weight-terms",
          terms: layer.frozen ? [] : terms,
          lit: (term) => term.change.r === p.r && term.change.s === p.s,
          total: gradient,
          totalName: name,
          p,
          set,
        }),
      ),
    ),
  );
}

/* dx: a pixel was copied into several windows, so its gradient is the sum over these windows and all filters. */
function pixelGradient(layer, p, set, ofPixel) {
  const [F, C] = layer.weight.shape;
  const [, OH, OW] = layer.y.shape;
  const group = Math.floor(p.c / C);
  const filters = Array.from({ length: F / layer.groups }, (_, i) => (group * F) / layer.groups + i);
  const terms = filters.flatMap((f) =>
    ofPixel.map(({ r, s, kh, kw }) => {
      const [weight, dy] = [at(layer.weight, f, p.c - group * C, kh, kw), at(layer.dy, f, r, s)];
      const name = `w[${[f, p.c - group * C, kh, kw]}] × dy[${r},${s}] = ${short(weight)} × ${short(dy)}`;
      return { name, value: Math.fround(weight * dy), change: { f, r, s, tap: [kh, kw] } };
    }),
  );
  const gradient = at(layer.dx, p.c, p.h, p.w);
  const name = `dx[${[p.c, p.h, p.w].join(", ")}]`;
  const why =
    terms.length === 0
      ? "No window contains this pixel, so no output depends on it."
      : terms.every((term) => term.value === 0)
        ? "No gradient arrives at any output whose window contains this pixel."
        : "Its terms cancel exactly.";
  const everywhere = ofPixel.length === layer.window.kernel[0] * layer.window.kernel[1];
  return box(
    make(
      "div",
      { class: "beside" },
      make(
        "div",
        {},
        heading("dx of one pixel: select it in the map"),
        equation(`${name} = `, number(gradient, "b")),
        numericalGradient(at(layer.numInput, p.c, p.h, p.w)),
        gradient === 0 ? answer("Why is this gradient zero? ", why) : null,
        answer(
          word("col2im"),
          `: this pixel was copied into ${ofPixel.length} of the ${OH * OW} windows. Its gradient is the sum over these windows and ${count(filters.length, "filter")}: ${count(terms.length, "term")} in all. `,
          everywhere ? "Every tap of the kernel reads it." : "At the border, and with strides, fewer taps read it.",
        ),
      ),
      make(
        "div",
        {},
        heading(`its ${count(terms.length, "term")}: weight × dy`),
        termList({
          id: "pixel-terms",
          terms,
          lit: ({ change }) =>
            change.f === p.f && change.r === p.r && change.s === p.s && change.tap.join() === p.tap.join(),
          total: gradient,
          totalName: name,
          p,
          set,
        }),
      ),
    ),
  );
}

function numericalGradient(value) {
  if (Number.isNaN(value) && data.live && !data.live.complete)
    return note`No numerical gradient yet: "compute all" in the panel of changes computes it.`;
  return Number.isNaN(value)
    ? note`No numerical gradient: this layer is large, and only some were computed.`
    : text`numerical gradient: ${number(value)} (a [[finite difference]])`;
}

/* The output positions of some windows as one box on the map: none, or [[row, column, height, width]]. */
function around(positions) {
  if (!positions.length) return [];
  const [rows, columns] = [positions.map(({ r }) => r), positions.map(({ s }) => s)];
  const [top, left] = [Math.min(...rows), Math.min(...columns)];
  return [[top, left, Math.max(...rows) - top + 1, Math.max(...columns) - left + 1]];
}
