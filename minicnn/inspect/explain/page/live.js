/* The live page's panel: what a reader changes is sent to the library, which computes everything again.

   Every change is one request. The answer is all numbers of the page, or a sentence that says what is wrong. */
import { at, clamp, data, layers, plane, range, replaceData } from "./data.js";
import { $, choices, make } from "./elements.js";
import { map, paint } from "./maps.js";
import { grey, number, short } from "./numbers.js";
import { firstChannel, selection, state } from "./selection.js";
import { drawing } from "./drawing.js";

/* What the reader has chosen in the panel. shown: what it was last made for. */
export const live = {
  busy: false,
  again: false,
  playing: false,
  error: false,
  message: "",
  version: 0,
  shown: null,
  pixel: null,
  rate: "0.1",
  closed: new Set(innerWidth < 1000 ? ["image", "layer", "step", "run"] : []),
  redraw: null,
};

export function startLive(redraw) {
  document.body.classList.add("live");
  $("live").hidden = false;
  live.redraw = redraw;
  live.message = "Change something: the library computes all numbers again.";
  const [, H, W] = data.input.shape;
  live.pixel = [0, H >> 1, W >> 1];
  drawing.send = sendDrawing;
  drawing.restore = () => send({ do: "first image" });
  for (const event of ["click", "keyup"]) $("detail").addEventListener(event, choose);
}

/* Send one change; the page then shows the answer. Returns whether it could be made. */
async function send(change) {
  if (live.busy) return false;
  live.busy = true;
  let failed = true;
  $("live").setAttribute("aria-busy", "true");
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("change", { method: "POST", headers, body: JSON.stringify(change) });
    const text = await answer.text();
    if (answer.ok) {
      const before = layers.map(geometry);
      replaceData(text);
      layers.forEach((layer, i) => geometry(layer) !== before[i] && state.selections.delete(layer.name));
      live.message = data.live.message;
      failed = false;
    } else live.message = JSON.parse(text).error;
  } catch {
    live.message = "The program that serves this page does not answer. If it has ended, start it again.";
  }
  live.busy = false;
  live.error = failed;
  live.version++;
  $("live").removeAttribute("aria-busy");
  live.redraw();
  return !failed;
}

/* A selection is kept where the layer has the same shapes as before. */
const geometry = ({ shape, from, window }) => JSON.stringify([shape, from, window?.kernel]);

/* The drawing, while the pen moves: one request at a time, and the last state of the drawing is always sent. */
async function sendDrawing() {
  live.again = true;
  if (live.busy) return;
  while (live.again) {
    live.again = false;
    await send({ do: "pixels", pixels: Array.from(drawing.pixels) });
  }
}

/* The weight that the panel changes: the one last clicked, or reached with a key; pointing alone does not choose it. */
function choose() {
  const layer = layers[state.layer];
  if (!layer) return;
  edit(selection(layer));
  panel(layer, selection(layer));
}

function edit(p) {
  const { f, c, tap, unit, input } = p;
  p.edited = { f, c, tap, unit, input };
}

export function panel(layer, p) {
  if (!p.edited) edit(p);
  const about = [layer.name, Object.values(p.edited), live.pixel, live.version, drawing.active, live.playing];
  const key = JSON.stringify(about);
  if (key === live.shown) return; // a field in which somebody types stays
  live.shown = key;
  const active = $("live").contains(document.activeElement) ? document.activeElement.id : null;
  const role = live.error ? "alert" : "status";
  $("live").replaceChildren(
    ...[
      make("p", { id: "live-message", role, class: live.error ? "error" : "" }, live.message),
      section("image", "the image and its label", image()),
      section("layer", `the layer ${layer.name}`, ofLayer(layer, p.edited)),
      section("step", "one step of SGD", step(layer, p.edited)),
      data.live.epochs.length > 0 && section("run", "the epochs of the run", run()),
      make(
        "div",
        { class: "more" },
        button("complete", "compute all", { do: "complete" }, data.live.complete),
        button("restart", "start again", { do: "restart" }),
      ),
    ].filter(Boolean),
  );
  if (active) $(active)?.focus({ preventScroll: true });
}

function section(id, title, contents) {
  const toggle = (event) => live.closed[event.currentTarget.open ? "delete" : "add"](id);
  return make(
    "details",
    { id: `live-${id}`, class: "box", open: live.closed.has(id) ? null : "", ontoggle: toggle },
    make("summary", {}, title),
    ...contents.filter(Boolean),
  );
}

const button = (id, label, change, disabled = false) =>
  make(
    "button",
    { id: `live-${id}`, type: "button", disabled: disabled ? "" : null, onclick: () => send(change) },
    label,
  );

/* A field whose value is sent when it was changed. */
function field(id, label, value, change, attributes = {}) {
  const changed = (event) => send(change(event.target.value));
  return make(
    "label",
    { class: "field" },
    label,
    make("input", { id: `live-${id}`, value, onchange: changed, ...attributes }),
  );
}
const numeric = { type: "number", step: "any" };
const typed = (text) => (text === "" ? null : Number(text));

function image() {
  const [C, H, W] = data.input.shape;
  const [c, h, w] = live.pixel;
  const scale = Math.max(
    1,
    data.input.reduce((most, value) => Math.max(most, value), 0),
  );
  const take = (pixel, focus) => {
    live.pixel = pixel;
    live.redraw();
    $(focus)?.focus({ preventScroll: true });
  };
  const figure = map("", H, W, plane(data.input, c), {
    id: "live-map",
    grey: true,
    scale,
    size: 196,
    selected: [h, w],
    move: (r, s, focus) => focus && take([c, r, s], focus),
  });
  if (C === 3) {
    const rgb = (i) => range(3).map((k) => at(data.input, k, Math.floor(i / W), i % W));
    paint(figure.querySelector("canvas"), H, W, rgb, (values) => values.map((v) => grey(v, scale)[0]));
  }
  const names = C === 3 ? ["red", "green", "blue"] : range(C).map((k) => `channel ${k}`);
  const items = names.map((name) => ({ name }));
  const classes = data.names.map((name, k) =>
    make("option", { value: k, selected: k === data.label ? "" : null }, name),
  );
  const choice = { id: "live-label", onchange: (event) => send({ do: "label", label: Number(event.target.value) }) };
  return [
    figure,
    C > 1 && choices("live-channels", "channel of the pixel", items, c, (k, focus) => take([k, h, w], focus)),
    field(
      "pixel",
      `pixel [${live.pixel.join(", ")}]`,
      short(at(data.input, c, h, w)),
      (value) => ({
        do: "pixel",
        index: live.pixel,
        value: typed(value),
      }),
      numeric,
    ),
    make("label", { class: "field" }, "the right class", make("select", choice, ...classes)),
  ];
}

/* The weight [f, c, kh, kw] of a convolution, or [unit, input] of a dense layer; null for others. */
function chosenWeight(layer, { f, c, tap, unit, input }) {
  if (layer.view === "convolution") {
    const channel = clamp(c - firstChannel(layer, f), layer.weight.shape[1]);
    return { index: [f, channel, ...tap], value: at(layer.weight, f, channel, ...tap), output: f };
  }
  if (layer.view !== "dense") return null;
  const value = layer.weight ? at(layer.weight, unit, input) : null;
  return { index: [unit, input], value, output: unit };
}

function ofLayer(layer, edited) {
  const weight = chosenWeight(layer, edited);
  const set = (name, index) => (value) => ({
    do: "weight",
    parameter: `${layer.name}.${name}`,
    index,
    value: typed(value),
  });
  const fields = weight
    ? [
        field(
          "weight",
          `weight [${weight.index.join(", ")}]`,
          weight.value === null ? "" : short(weight.value),
          set("weight", weight.index),
          numeric,
        ),
        layer.bias &&
          field(
            "bias",
            `bias [${weight.output}]`,
            short(layer.bias[weight.output]),
            set("bias", [weight.output]),
            numeric,
          ),
        make("p", { class: "soft" }, "Click a number of the layer to choose its weight."),
      ]
    : [];
  const windows = (layer.options ?? []).map(([name, value]) =>
    field(name, name.replace("_", " "), value, (text) => ({ do: "window", layer: layer.name, [name]: text })),
  );
  if (fields.length + windows.length === 0)
    return [make("p", { class: "soft" }, "Nothing to change here: select a convolution, a pooling or a dense layer.")];
  return [...fields, ...windows];
}

function step(layer, edited) {
  const weight = chosenWeight(layer, edited);
  const chosen = weight ? { parameter: `${layer.name}.weight`, index: weight.index } : {};
  const rate = make("input", {
    id: "live-rate",
    ...numeric,
    value: live.rate,
    oninput: (event) => (live.rate = event.target.value),
  });
  const take = () => send({ do: "sgd", learning_rate: typed(live.rate), ...chosen });
  const done = data.live.step;
  return [
    make("label", { class: "field" }, "learning rate", rate),
    make("button", { id: "live-take", type: "button", onclick: take }, "take one step on this image"),
    done &&
      make(
        "p",
        { id: "live-loss" },
        "loss: ",
        number(done.before),
        " before the step, ",
        number(done.after),
        " after it",
      ),
    done && make("ul", { class: "moves" }, ...done.rows.map((row) => move(row, done.rate))),
    done && done.others > 0 && make("p", { class: "soft" }, `and ${done.others} more parameters`),
    losses(),
  ];
}

/* weight - rate x gradient, of one weight. */
function move({ name, index, chosen, numbers: [before, gradient, change, after] }, rate) {
  return make(
    "li",
    {},
    make("b", {}, `${name} [${index.join(", ")}]`),
    make("span", { class: "soft" }, chosen ? "the chosen weight" : "the largest change of this parameter"),
    make("span", {}, `${short(rate)} × `, number(gradient), " = ", number(change)),
    make(
      "span",
      {},
      number(before),
      change < 0 ? " − (" : " − ",
      number(change),
      change < 0 ? ") = " : " = ",
      number(after),
    ),
  );
}

/* The loss after each change, as a line of bars. */
function losses() {
  const values = data.live.losses;
  const most = Math.max(...values) || 1;
  const bar = (value) => make("i", { title: String(value), style: `height: ${Math.max(1, (36 * value) / most)}px` });
  return make(
    "figure",
    {},
    make(
      "div",
      { class: "losses", role: "img", "aria-label": `the loss: ${values.map(short).join(", ")}` },
      ...values.map(bar),
    ),
    make("figcaption", {}, "the loss after each change, up to ", short(most)),
  );
}

function run() {
  const { epochs, epoch } = data.live;
  const i = Math.max(0, epochs.indexOf(epoch));
  const slider = make("input", {
    id: "live-epoch",
    type: "range",
    min: 0,
    max: epochs.length - 1,
    value: i,
    "aria-label": "epoch",
    "aria-valuetext": epoch === null ? "none" : `epoch ${epoch}`,
    onchange: (event) => send({ do: "epoch", epoch: epochs[Number(event.target.value)] }),
  });
  return [
    make(
      "p",
      { id: "live-shown" },
      epoch === null ? "the network of the file" : `after epoch ${epoch} of ${epochs.at(-1)}`,
    ),
    slider,
    make("button", { id: "live-play", type: "button", onclick: () => play() }, live.playing ? "stop" : "play"),
  ];
}

/* One epoch after the other, from the one shown on, or from the first after the last. */
async function play() {
  if (live.playing) {
    live.playing = false;
    return;
  }
  const { epochs, epoch } = data.live;
  let i = epochs.indexOf(epoch) + 1;
  if (i === epochs.length) i = 0;
  live.playing = true;
  for (; live.playing && i < epochs.length; i++) {
    if (!(await send({ do: "epoch", epoch: epochs[i] }))) break;
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
  live.playing = false;
  live.redraw();
}
