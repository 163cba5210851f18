/* What excites a filter or a class most: an image made for it, and the test images that do. */
import { box, heading, make, note, text } from "./elements.js";
import { data, plane, range, withShape } from "./data.js";
import { tile } from "./maps.js";

const picture = (stack, i) => withShape(plane(stack, i), stack.shape.slice(1));

export function exciting(layer, f, name) {
  if (!layer.ascent && !layer.exciting) return null;
  const made = layer.ascent && tile(picture(layer.ascent, f), `the image made for ${name}`);
  const examples = layer.exciting
    ? range(layer.exciting.images.shape[1]).map((k) => {
        const image = layer.exciting.images[f * layer.exciting.images.shape[1] + k];
        const number = layer.exciting.numbers[f * layer.exciting.images.shape[1] + k];
        return tile(picture(data.examples, image), `example ${number}`);
      })
    : [];
  return box(
    heading(`what excites ${name} most`),
    made
      ? make("div", { class: "row" }, made)
      : text`No image was made for it: the network is too large to do this in a few seconds.`,
    made ? note`Made by [[gradient ascent]] on its output, from noise.` : null,
    examples.length > 0 ? make("div", { class: "row" }, ...examples) : null,
    examples.length > 0
      ? note`The ${examples.length} of ${data.examplesSeen} example images with the largest output, the first one most.`
      : null,
  );
}
