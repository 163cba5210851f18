/* Pooling: the largest pixel or the mean of each window, and where the gradient goes. */
import { at, largest, plane } from "./data.js";
import { answer, box, equation, heading, note, split, text } from "./elements.js";
import { channels, map } from "./maps.js";
import { number, numberTable, short } from "./numbers.js";
import { termList } from "./terms.js";
import { field, pixel, readers, taps } from "./sliding.js";

export function pooling(layer, index, p, set, backward) {
  p.c = p.f;
  return backward ? poolingBackward(layer, p, set) : poolingForward(layer, p, set);
}

/* How many pixels a mean is divided by: those of the window, with or without its padding. */
function divisor(layer, r, s) {
  const all = taps(layer).flat();
  return layer.countPad ? all.length : all.filter((tap) => pixel(layer, r, s, ...tap)).length;
}

/* The tap of the largest pixel of a window; of equal ones the first, as in the library. */
function largestTap(layer, f, r, s) {
  let best = null;
  let most = -Infinity;
  for (const tap of taps(layer).flat()) {
    const place = pixel(layer, r, s, ...tap);
    if (place && (best === null || at(layer.x, f, ...place) > most)) [best, most] = [tap, at(layer.x, f, ...place)];
  }
  return best;
}

function poolingForward(layer, p, set) {
  const [, OH, OW] = layer.y.shape;
  const [, H, W] = layer.x.shape;
  const isMax = layer.pool === "max";
  const pixels = taps(layer).map((line) => line.map((tap) => pixel(layer, p.r, p.s, ...tap)));
  const values = pixels.map((line) =>
    line.map((place) => (place ? at(layer.x, p.f, ...place) : isMax ? -Infinity : 0)),
  );
  const divided = divisor(layer, p.r, p.s);
  const counted = pixels.flat().every(Boolean)
    ? ""
    : layer.countPad
      ? ", the padding counted"
      : ", the padding not counted";
  const output = at(layer.y, p.f, p.r, p.s);
  const name = `output[${p.f}, ${p.r}, ${p.s}]`;
  const tap = isMax ? largestTap(layer, p.f, p.r, p.s) : p.tap;
  const terms = pixels.flatMap((line, r) =>
    line.flatMap((place, s) =>
      place
        ? [
            {
              name: `x[${place.join(", ")}] / ${divided} = ${short(values[r][s])} / ${divided}`,
              value: Math.fround(values[r][s] / divided),
              change: { tap: [r, s] },
            },
          ]
        : [],
    ),
  );
  return [
    isMax
      ? text`The output is the largest pixel of every window. The image becomes smaller, and a shape moved by a pixel looks almost the same.`
      : text`The output is the mean of every window: the sum of its pixels divided by ${divided}${counted}. The image becomes smaller, and a shape moved by a pixel looks almost the same.`,
    split(
      [
        box(
          map(`input, channel ${p.f}`, H, W, plane(layer.x, p.f), {
            id: "input",
            scale: largest(layer.x),
            pads: layer.window.pads,
            paddingIs: isMax ? "minus infinity" : "zeros",
            boxes: [field(layer, p.r, p.s)],
            selected: tap && pixel(layer, p.r, p.s, ...tap),
          }),
        ),
        box(
          map(`output, channel ${p.f}`, OH, OW, plane(layer.y, p.f), {
            id: "output",
            scale: largest(layer.y),
            selected: [p.r, p.s],
            move: (r, s, focus) => set({ r, s }, focus),
          }),
          channels("filters", "channel", layer.y, p.f, (f, focus) => set({ f }, focus)),
        ),
      ],
      [
        box(
          heading(isMax ? "the window: the maximum is framed" : "the window"),
          numberTable("patch", "the window", values, {
            selected: tap,
            padding: (r, c) => !pixels[r][c],
            paddingText: isMax ? "−∞" : "0",
            scale: largest(layer.x),
            pick: isMax ? null : (r, c, focus) => set({ tap: [r, c] }, focus),
          }),
          equation(`${name} = `, number(output, "b")),
          isMax
            ? note`The other ${terms.length - 1} pixels of the window change nothing.`
            : termList({
                id: "terms",
                terms,
                lit: (term) => term.change.tap.join() === p.tap.join(),
                total: output,
                totalName: name,
                p,
                set,
              }),
        ),
      ],
    ),
  ];
}

function poolingBackward(layer, p, set) {
  const [, OH, OW] = layer.y.shape;
  const [, H, W] = layer.x.shape;
  const isMax = layer.pool === "max";
  const windows = readers(layer, p.h, p.w);
  const dx = at(layer.dx, p.f, p.h, p.w);
  const wins = ({ r, s, kh, kw }) => largestTap(layer, p.f, r, s).join() === [kh, kw].join();
  const terms = (isMax ? windows.filter(wins) : windows).map(({ r, s }) => {
    const [dy, n] = [at(layer.dy, p.f, r, s), isMax ? 1 : divisor(layer, r, s)];
    const name = isMax ? `dy[${r}, ${s}]` : `dy[${r}, ${s}] / ${n} = ${short(dy)} / ${n}`;
    return { name, value: Math.fround(dy / n), change: { r, s } };
  });
  const fractions = [...new Set(windows.map(({ r, s }) => divisor(layer, r, s)))].sort((a, b) => a - b);
  const why =
    windows.length === 0
      ? "No window contains this pixel, so no output depends on it: its gradient is zero."
      : !isMax
        ? `Every pixel of a window receives the same fraction of its gradient: ${fractions.map((n) => `dy / ${n}`).join(" or ")}.`
        : terms.length === 0
          ? "This pixel was not the largest of any window: it changes nothing, so its gradient is zero."
          : dx === 0
            ? "This pixel was the largest of its window, but no gradient arrives there."
            : "This pixel was the largest of its window and receives all of the gradient that arrives there.";
  const name = `dx[${[p.f, p.h, p.w].join(", ")}]`;
  return [
    isMax
      ? text`In the backward pass the gradient [[dy]] of a window goes to its largest pixel; the other pixels receive zero.`
      : text`In the backward pass the gradient [[dy]] of a window is divided equally among its pixels.`,
    split(
      [
        box(
          map(`dy, channel ${p.f}`, OH, OW, plane(layer.dy, p.f), {
            id: "dy",
            scale: largest(layer.dy),
            selected: [p.r, p.s],
            move: (r, s, focus) => {
              const [h, w] = pixel(layer, r, s, ...(isMax ? largestTap(layer, p.f, r, s) : [0, 0])) ?? [p.h, p.w];
              set({ r, s, h, w }, focus);
            },
          }),
          channels("filters", "channel", layer.dy, p.f, (f, focus) => set({ f }, focus)),
          equation(`dy[${p.f}, ${p.r}, ${p.s}] = `, number(at(layer.dy, p.f, p.r, p.s), "b")),
        ),
        box(
          map(`dx, channel ${p.f}: select a pixel`, H, W, plane(layer.dx, p.f), {
            id: "dx",
            scale: largest(layer.dx),
            selected: [p.h, p.w],
            boxes: [field(layer, p.r, p.s)],
            move: (h, w, focus) => {
              const [{ r, s } = p] = readers(layer, h, w);
              set({ h, w, r, s }, focus);
            },
          }),
        ),
      ],
      [
        box(
          equation(`${name} = `, number(dx, "b")),
          answer(why),
          termList({
            id: "terms",
            terms,
            lit: ({ change }) => change.r === p.r && change.s === p.s,
            total: dx,
            totalName: name,
            p,
            set,
          }),
        ),
      ],
    ),
  ];
}
