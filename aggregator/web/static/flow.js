// The power flow: four places around the house's bus, arrows along the way the power goes. Fetches nothing.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const HUB = { x: 180, y: 172 };
const RADIUS = 50;
const PLACES = {
  pv: { x: 180, y: 56, icon: "M0-11v3M0 8v3M-11 0h3M8 0h3M-7.8-7.8l2.1 2.1M5.7 5.7l2.1 2.1M-7.8 7.8l2.1-2.1M5.7-5.7l2.1-2.1M4.6 0a4.6 4.6 0 1 1-9.2 0 4.6 4.6 0 0 1 9.2 0z" },
  grid: { x: 58, y: 172, icon: "M-3-11h6l5.5 22M-3-11-8.5 11M-9-4H9M-7-4l3-3.4M7-4 4-7.4M-5.2 3h10.4M-3.6-3.5 6.6 6.5M3.6-3.5-6.6 6.5" },
  load: { x: 302, y: 172, icon: "M-10.5 0 0-9.5 10.5 0M-7.5-2.5V10h15V-2.5M-2 10V4h4v6" },
  battery: { x: 180, y: 288, icon: "M-10-6h18v12h-18zM8-2.5h2.6v5H8M-7-3h3v6h-3zM-2.5-3h3v6h-3z" },
};

const flowParts = {};

function svg(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

/** Draw the four places once; `showFlow` fills them. */
function drawFlow() {
  for (const [name, place] of Object.entries(PLACES)) {
    const away = Math.hypot(place.x - HUB.x, place.y - HUB.y);
    const unit = { x: (place.x - HUB.x) / away, y: (place.y - HUB.y) / away };
    const from = { x: place.x - unit.x * (RADIUS + 5), y: place.y - unit.y * (RADIUS + 5) };
    const to = { x: HUB.x + unit.x * 9, y: HUB.y + unit.y * 9 };
    const wire = svg("g", { class: `wire ${name}` }, document.getElementById("wires"));
    const line = { x1: from.x, y1: from.y, x2: to.x, y2: to.y };
    svg("line", { class: "track", ...line }, wire);
    const stream = svg("line", { class: "stream", ...line }, wire);
    const angle = (Math.atan2(to.y - from.y, to.x - from.x) * 180) / Math.PI;
    const middle = `translate(${(from.x + to.x) / 2} ${(from.y + to.y) / 2}) rotate(${angle})`;
    const arrow = svg("path", { class: "arrow", d: "M-6-7 6 0-6 7z", transform: middle }, wire);
    const node = svg("g", { class: `place ${name}`, transform: `translate(${place.x} ${place.y})` }, document.getElementById("nodes"));
    svg("circle", { class: "disc", r: RADIUS }, node);
    const ring = svg("circle", { class: "ring", r: RADIUS, pathLength: 100, transform: "rotate(-90)" }, node);
    svg("path", { class: "icon", d: place.icon, transform: "translate(0 -24)" }, node);
    const value = svg("text", { class: "value", y: 8, id: `value-${name}` }, node);
    const label = svg("text", { class: "label", y: 26 }, node);
    const more = svg("text", { class: "more", y: 39 }, node);
    flowParts[name] = { wire, stream, arrow, middle, node, ring, value, label, more };
  }
}

/** Show powers in W, + into the house; anything not a number is unknown and drawn still. */
function showFlow(flow) {
  const roles = new Set(flow.roles || []);
  const shown = { grid: flow.grid_power_w, pv: flow.pv_power_w, battery: flow.battery_power_w, load: flow.load_power_w };
  for (const [name, parts] of Object.entries(flowParts)) {
    const present = name === "load" ? roles.has("grid") : roles.has(name);
    parts.node.classList.toggle("absent", !present);
    parts.wire.classList.toggle("absent", !present);
    showPlace(name, parts, shown[name]);
  }
  const soc = flow.battery_soc_percent;
  flowParts.battery.ring.style.strokeDasharray = typeof soc === "number" ? `${soc} 100` : "0 100";
  flowParts.battery.more.textContent = typeof soc === "number" ? `${number(soc, soc % 1 ? 1 : 0)} %` : "";
  const texts = Object.fromEntries(Object.entries(shown).map(([name, value]) => [name, `${watts(value)} ${doing(name, value)}`.trim()]));
  document.getElementById("flow-words").textContent = word("flow_words")(texts);
}

function showPlace(name, parts, value) {
  const known = typeof value === "number";
  const flowing = known && Math.abs(value) >= 1;
  parts.value.textContent = watts(value);
  parts.node.classList.toggle("unknown", !known);
  parts.label.textContent = name === "battery" && flowing ? doing(name, value) : flowing && name === "grid" ? doing(name, value) : word(name);
  parts.wire.classList.toggle("still", !flowing);
  if (!flowing) return;
  // + flows into the house's bus; the home takes from it.
  const inward = name === "load" ? value < 0 : value > 0;
  parts.wire.classList.toggle("outward", !inward);
  parts.arrow.setAttribute("transform", inward ? parts.middle : `${parts.middle} rotate(180)`);
  const size = Math.min(1, Math.log10(1 + Math.abs(value)) / 4);
  parts.stream.style.animationDuration = `${(2.4 - 1.7 * size).toFixed(1)}s`;
  parts.stream.style.strokeWidth = `${(3 + 4 * size).toFixed(1)}px`;
}

function doing(name, value) {
  if (typeof value !== "number") return "";
  if (name === "grid") return value > 0 ? word("buying") : value < 0 ? word("selling") : word("idle");
  if (name === "battery") return value > 0 ? word("discharging") : value < 0 ? word("charging") : word("idle");
  return "";
}
