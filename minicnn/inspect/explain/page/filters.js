/* All filters of a layer at once: each kernel beside what it makes of the image. */
import { largest, plane, range, withShape } from "./data.js";
import { box, choices, heading, make, note } from "./elements.js";
import { thumbnail } from "./maps.js";
import { firstChannel } from "./selection.js";

/* kernels: the weights or their gradients; images: the outputs or the gradients that arrive. */
export function allFilters(layer, p, set, kernels, images, name) {
  const [F, C] = kernels.shape;
  const c = p.c - firstChannel(layer, p.f);
  const item = (f) => {
    const kernel = withShape(plane(kernels, f), kernels.shape.slice(1));
    const pair = [thumbnail(kernel, c, { scale: largest(kernels) }), thumbnail(images, f)];
    return { name: `filter ${f}`, content: make("span", { class: "pair" }, ...pair, make("span", {}, String(f))) };
  };
  return box(
    heading(`all ${F} filters: kernel and ${name}`),
    note`${C > 1 ? `Each filter has ${C} kernels; shown are those of input channel ${p.c}. ` : ""}All kernels have one scale of colours, so that large and small weights can be compared.`,
    choices("all", "all filters", range(F).map(item), p.f, (f, focus) => set({ f }, focus), "filters"),
  );
}
