/* The receptive field of an output: the pixels that it can depend on, and how strongly it depends on each. */
import { data, plane, withShape } from "./data.js";
import { box, heading, make, note, text } from "./elements.js";
import { map, photo } from "./maps.js";
import { receptiveField } from "./sliding.js";

export function receptiveFields(layer, index, p) {
  const [, H, W] = data.input.shape;
  const bounds = receptiveField(index, p.r, p.s);
  if (!bounds)
    return box(
      heading("receptive field"),
      text`A layer before this one mixes all positions, so that an output can depend on every pixel of the image.`,
    );
  const [top, left, height, width] = bounds;
  const pictures = [photo("receptive field in the image", { id: "receptive", boxes: [bounds], size: 150 })];
  if (layer.effective) {
    const [r, s] = layer.effectiveAt[p.f];
    const strength = withShape(plane(layer.effective, p.f), [H, W]);
    const box = receptiveField(index, r, s);
    pictures.push(
      map("effective receptive field", H, W, strength, {
        id: "effective",
        boxes: [box],
        size: 150,
        scale: 255,
        caption: "full colour: the largest gradient",
      }),
    );
  }
  return box(
    make("div", { class: "row" }, ...pictures),
    note`The [[receptive field]] of output [${p.r}, ${p.s}] has ${height} × ${width} pixels, from row ${top} and column ${left} on.`,
    layer.effective
      ? note`The [[effective receptive field]]: the size of the gradient of filter ${p.f}'s output with respect to each pixel, at [${String(layer.effectiveAt[p.f])}], where this filter's output is largest.`
      : null,
  );
}
