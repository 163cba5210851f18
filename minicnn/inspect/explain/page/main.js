/* The page: the image and the verdict, the layers as tabs, and the view of the selected layer. */
import { END, LAST, clamp, data, largest, layers, range } from "./data.js";
import { $, arrowOf, choices, count, make } from "./elements.js";
import { colour, onSchemeChange } from "./numbers.js";
import { held, paint, photo, thumbnail } from "./maps.js";
import { selection, state } from "./selection.js";
import { convolutionForward } from "./convolution_forward.js";
import { convolutionBackward } from "./convolution_backward.js";
import { pooling } from "./pooling.js";
import { dense } from "./dense.js";
import { flatten } from "./flatten.js";
import { elementwise } from "./elementwise.js";
import { normalization } from "./normalization.js";
import { block } from "./block.js";
import { loss } from "./loss.js";
import { generic } from "./generic.js";
import { upsampling } from "./upsampling.js";
import { beginDrawing, board, clearDrawing, computedHere, drawing, endDrawing } from "./drawing.js";
import { panel, startLive } from "./live.js";

/* The view of each kind of layer: (layer, index, selection p, set, backward) to a list of elements. */
const views = {
  convolution: (...all) => (state.backward ? convolutionBackward : convolutionForward)(...all),
  pooling,
  dense,
  flatten,
  elementwise,
  normalization,
  block,
  upsampling,
  generic,
};

/* Draw the view of the selected layer again; focus: the id of the element that gets the focus. */
export function show(focus = null) {
  const layer = layers[state.layer] ?? { name: "loss" };
  const p = selection(layer);
  const set = (change, keep = null) => {
    Object.assign(p, change);
    show(keep);
  };
  const detail = $("detail");
  const before = movable(detail).indexOf(document.activeElement);
  const scrolled = new Map(
    [...detail.querySelectorAll(".scrolls[id]")].map((e) => [e.id, [e.scrollLeft, e.scrollTop]]),
  );
  const elements =
    state.layer === END
      ? loss(computedHere(), state.backward)
      : views[layer.view](layer, state.layer, p, set, state.backward, openLayer);
  const pointed = [...detail.querySelectorAll(".scrolls[id]:hover")].map((e) => e.id);
  detail.replaceChildren(title(layer), ...elements.filter(Boolean));
  for (const element of detail.querySelectorAll(".scrolls[id]")) {
    [element.scrollLeft, element.scrollTop] = scrolled.get(element.id) ?? [0, 0];
    if (!pointed.includes(element.id)) follow(element);
  }
  detail.setAttribute("aria-labelledby", `layer-${state.layer}`);
  announce([...detail.querySelectorAll(".equation")].map((element) => element.textContent).join("; "));
  if (data.live) panel(layer, p);
  if (focus) $(focus)?.focus({ preventScroll: true });
  else if (before >= 0) movable(detail)[clamp(before, movable(detail).length)]?.focus({ preventScroll: true });
}

const movable = (detail) => [...detail.querySelectorAll("button, input, [tabindex='0']")];

/* Scroll a list or a matrix until what is selected in it can be seen. */
function follow(element) {
  const target = element.dataset.follow
    ? element.dataset.follow.split(",").map(Number)
    : offsetIn(element, element.querySelector("[aria-checked='true'], [aria-selected='true']"));
  if (!target) return;
  const visible = (from, size, place) => (place < from + 60 || place > from + size - 60 ? place - size / 2 : from);
  element.scrollLeft = visible(element.scrollLeft, element.clientWidth, target[0]);
  element.scrollTop = visible(element.scrollTop, element.clientHeight, target[1]);
}
const offsetIn = (element, child) =>
  child && [child.offsetLeft - element.offsetLeft, child.offsetTop - element.offsetTop];

/* What changed, for a reader of the screen; on a narrow screen it is a line at the bottom. */
function announce(words) {
  if ($("status").textContent !== words) $("status").textContent = words;
}

function title(layer) {
  if (state.layer === END) return make("h2", {}, "Softmax and cross-entropy");
  const sizes = layer.sizes ? `; ${layer.sizes.join("; ")}` : "";
  const shape = ` (${layer.from.join(" × ")}) → (${layer.shape.join(" × ")})${sizes}`;
  return make("h2", {}, `${layer.name}: ${layer.text}`, make("span", { class: "soft" }, shape));
}

/* The layers as tabs: one stop of the Tab key, the arrow keys move. */
function strip() {
  const cards = layers.map((layer, i) => {
    const array = state.backward ? layer.dy : layer.y;
    return card(i, layer.kind, layer.shape.join(" × "), pictures(array), layer.depth, layer.name);
  });
  const values = state.backward ? layers[LAST].dy : data.probabilities;
  const classes = make("canvas");
  paint(
    classes,
    1,
    values.length,
    (k) => values[k],
    (v) => colour(v, largest(values)),
  );
  $("strip").replaceChildren(
    ...cards,
    card(END, "Softmax, loss", `${data.names.length} classes`, [classes], 0, "loss"),
  );
}

/* Two channels of a stack of images, or up to 96 numbers of a row. */
function pictures(array) {
  if (array.shape.length === 3) return range(Math.min(2, array.shape[0])).map((c) => thumbnail(array, c));
  const size = Math.min(96, array.length);
  const width = Math.min(24, size);
  const canvas = make("canvas");
  paint(
    canvas,
    Math.ceil(size / width),
    width,
    (k) => array[k] ?? 0,
    (v) => colour(v, largest(array)),
  );
  return [canvas];
}

function card(i, kind, shape, thumbnails, depth, name) {
  const selected = i === state.layer;
  return make(
    "button",
    {
      id: `layer-${i}`,
      type: "button",
      role: "tab",
      "data-layer": i,
      class: depth ? "inside" : "",
      title: name,
      "aria-label": `${name}, ${kind}, ${shape}`,
      "aria-selected": String(selected),
      "aria-controls": "detail",
      tabindex: selected ? 0 : -1,
      onclick: () => openLayer(i),
      onkeydown: (event) => {
        const end = { Home: 0, End: END }[event.key];
        const arrow = end === undefined && arrowOf(event);
        if (end === undefined && !arrow) return;
        event.preventDefault();
        openLayer(end ?? clamp(i + arrow[0] + arrow[1], END + 1));
      },
    },
    make("b", {}, kind),
    make("span", {}, shape),
    make("span", { class: "thumbs" }, ...thumbnails),
  );
}

function openLayer(i) {
  const hadFocus = $("strip").contains(document.activeElement);
  state.layer = i;
  held.id = null;
  for (const button of $("strip").children) {
    const selected = +button.dataset.layer === i;
    button.setAttribute("aria-selected", String(selected));
    button.tabIndex = selected ? 0 : -1;
  }
  const selected = $(`layer-${i}`);
  selected.scrollIntoView({ block: "nearest", inline: "nearest" });
  show();
  if (hadFocus) selected.focus();
}

function directions() {
  const items = [{ name: "forward: what it sees" }, { name: "backward: how it learns" }];
  const control = choices(
    "direction",
    "direction",
    items,
    Number(state.backward),
    (i, focus) => turn(i === 1, focus),
    "switch",
  );
  [control.children[0].id, control.children[1].id] = ["forward", "backward"];
  control.children[1].disabled = computedHere();
  $("directions").replaceChildren(control);
}

function turn(backward, focus = null) {
  if (backward && computedHere()) return;
  const tab = $("strip").contains(document.activeElement);
  state.backward = backward;
  held.id = null;
  directions();
  strip();
  show();
  if (focus) $(backward ? "backward" : "forward").focus();
  else if (tab) $(`layer-${state.layer}`).focus();
}

/* The image, or the drawing, and what the network predicts for it. */
function picture() {
  const button = (id, label, act) => make("button", { id, type: "button", onclick: act }, label);
  const redraw = (focus) => {
    picture();
    strip();
    show();
    $(focus).focus();
  };
  const clear = () => {
    clearDrawing();
    redraw("clear");
  };
  const back = () => {
    endDrawing();
    redraw("draw");
  };
  const begin = () => {
    beginDrawing();
    if (computedHere()) state.backward = false;
    redraw("board");
  };
  const buttons = drawing.active
    ? [button("clear", "clear", clear), button("back", "back to the image", back)]
    : data.drawable
      ? [button("draw", "draw your own", begin)]
      : [];
  const image = drawing.active ? board() : photo("", { size: 64 });
  $("picture").replaceChildren(image, make("div", {}, ...buttons));
  directions();
  verdict();
}

function verdict() {
  const best = data.probabilities.indexOf(Math.max(...data.probabilities));
  const right = best === data.label ? ", which is right" : `; the right class is ${data.names[data.label]}`;
  const source = computedHere()
    ? "This page itself computes the forward pass of your drawing, so the last digits can differ from the library's. For the backward pass, return to the image."
    : "Every number was computed by the library; point at one to see all its digits.";
  const size = `${count(layers.filter((layer) => layer.depth === 0).length, "layer")} and ${count(data.parameters, "learned number")}`;
  $("verdict").replaceChildren(
    make("h1", {}, `This network predicts ${data.names[best]}${computedHere() || !data.given ? "" : right}`),
    make("p", {}, `with a probability of ${(100 * data.probabilities[best]).toFixed(1)} %. It has ${size}. ${source}`),
  );
}

function legend() {
  const shades = range(21).map((i) => `rgb(${colour(i - 10, 10)})`);
  const ramp = make("i", { style: `background: linear-gradient(90deg, ${shades.join(",")})` });
  $("legend").replaceChildren("negative", ramp, "positive");
}

function redrawAll() {
  if (drawing.active)
    verdict(); // and not the board, on which somebody is drawing
  else picture();
  strip();
  show();
}

function start() {
  drawing.redraw = () => {
    verdict();
    strip();
    show();
  };
  const keys = (event) => {
    const isTyped = event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey;
    const direction = { f: false, b: true }[event.key.toLowerCase()];
    if (!isTyped && direction !== undefined) turn(direction);
  };
  for (const id of ["strip", "detail", "directions"]) $(id).addEventListener("keydown", keys);
  if (data.live) startLive(redrawAll);
  onSchemeChange(() => {
    legend();
    picture();
    strip();
    show();
  });
  legend();
  picture();
  strip();
  show();
  document.body.dataset.ready = "true";
}

start();
