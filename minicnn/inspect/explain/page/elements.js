/* Elements of the page, and the few kinds of controls: made here once, with their roles and names. */
import { clamp } from "./data.js";
import { word } from "./glossary.js";

export const $ = (id) => document.getElementById(id);
export const make = (tag, ...rest) => fillIn(document.createElement(tag), ...rest);
export const makeSvg = (tag, ...rest) => fillIn(document.createElementNS("http://www.w3.org/2000/svg", tag), ...rest);

/* An element with attributes and children. A text is a child or an attribute, never markup. */
function fillIn(element, attributes = {}, ...children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

export const heading = (...parts) => make("h3", {}, ...parts);
export const box = (...children) => make("section", { class: "box" }, ...children);
export const row = (...children) => make("div", { class: "row" }, ...children.filter(Boolean));
export const answer = (...parts) => make("p", { class: "answer" }, ...parts);
export const equation = (...parts) => make("div", { class: "equation" }, ...parts);
export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

/* A sentence: text`A [[tap]] reads ${node}`. A word in double brackets has an entry in the glossary, and [[word|shown]]
   shows it in another form. Only the page's own text can have one, not what is put into it. */
export function sentence(strings, ...values) {
  return strings.flatMap((string, i) => [
    ...string.split(/\[\[(.*?)\]\]/).map((piece, k) => (k % 2 ? word(...piece.split("|")) : piece)),
    ...[values[i] ?? ""].flat(),
  ]);
}
export const text = (...parts) => make("p", {}, ...sentence(...parts));
export const note = (...parts) => make("p", { class: "soft" }, ...sentence(...parts));

/* A view: where something is selected on the left, and its numbers on the right, so that both are on the screen. */
export const split = (left, right) =>
  make("div", { class: "split" }, make("div", { class: "where" }, ...left), make("div", { class: "what" }, ...right));

export const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/* The arrow that a key is, as (row, column), or null; the page then does not scroll. */
export function arrowOf(event) {
  const arrow = ARROWS[event.key];
  if (!arrow || event.ctrlKey || event.metaKey || event.altKey) return null;
  event.preventDefault();
  return arrow;
}

/* Whether a pointer that hovers has moved; the browser also reports one at rest when the page changes below it. */
export const hovers = (event) => event.pointerType !== "touch" && (event.movementX !== 0 || event.movementY !== 0);

/* One of several, chosen by click or arrow keys: one stop of the Tab key, a group of radio buttons for a reader.
   items: { name, content, title }; choose(i, id of the element that gets the focus). */
export function choices(id, label, items, chosen, choose, className = "choices") {
  const button = ({ name, content = name }, i) =>
    make(
      "button",
      {
        id: `${id}-${i}`,
        type: "button",
        role: "radio",
        "aria-checked": String(i === chosen),
        "aria-label": name,
        title: name,
        tabindex: i === Math.max(0, chosen) ? 0 : -1,
        onclick: () => choose(i, `${id}-${i}`),
        onkeydown: (event) => {
          const arrow = arrowOf(event);
          if (!arrow) return;
          const next = clamp(i + arrow[0] + arrow[1], items.length);
          choose(next, `${id}-${next}`);
        },
      },
      content,
    );
  return make("div", { id, class: className, role: "radiogroup", "aria-label": label }, ...items.map(button));
}

/* A field for the number of a column, a unit, ...: what is too small to point at is reached by its number. */
export function numberField(id, label, value, size, choose) {
  const change = (event) => {
    const typed = event.target.valueAsNumber;
    if (Number.isInteger(typed)) choose(clamp(typed, size), id);
  };
  const input = make("input", {
    id,
    type: "number",
    min: 0,
    max: size - 1,
    value,
    inputmode: "numeric",
    onchange: change,
  });
  return make("label", { class: "field" }, label, input, make("span", { class: "soft" }, `of 0 to ${size - 1}`));
}
