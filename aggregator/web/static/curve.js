// Today's curve on uPlot: home, solar, grid and battery in kW, five minutes a step. Fetches nothing.
"use strict";

const SLOT_MS = 300000;
const LINES = [
  { key: "load_power_w", role: "load", width: 2.2, fill: true },
  { key: "pv_power_w", role: "pv", width: 2.2, fill: true },
  { key: "grid_power_w", role: "grid", width: 1.6 },
  { key: "battery_power_w", role: "battery", width: 1.6, dash: [5, 3] },
];

let plot = null;
let curveData = null;

/** Return a colour of the style sheet. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Put series of the interface into five-minute steps of a day: [seconds, load, pv, grid, battery]; null is unknown. */
function slots(series, roles, fromMs, toMs) {
  const count = Math.ceil((toMs - fromMs) / SLOT_MS);
  const times = Array.from({ length: count }, (_, index) => (fromMs + index * SLOT_MS) / 1000);
  const columns = LINES.map((line) => {
    const device = line.role === "load" ? null : roles[line.role];
    const found = series.find((one) => one.quantity === line.key && (line.role === "load" || one.device === device));
    return found ? means(found.points, count, fromMs) : Array(count).fill(null);
  });
  return [times, ...columns];
}

function means(points, count, fromMs) {
  const sums = Array(count).fill(0);
  const known = Array(count).fill(0);
  for (const [time, value] of points) {
    const slot = Math.floor((time - fromMs) / SLOT_MS);
    if (typeof value === "number" && slot >= 0 && slot < count) {
      sums[slot] += value;
      known[slot] += 1;
    }
  }
  return sums.map((sum, slot) => (known[slot] ? sum / known[slot] / 1000 : null));
}

/** Show a day's curve; tells whether there is anything to see. */
function showCurve(data) {
  curveData = data;
  const some = data.slice(1).some((column) => column.some((value) => value !== null));
  document.getElementById("curve").hidden = !some;
  document.getElementById("legend").hidden = !some;
  if (!some) return false;
  if (plot === null) redrawCurve();
  else plot.setData(data);
  showLegend(null);
  return true;
}

/** Build the chart anew: another language, another scheme of colours, another width. */
function redrawCurve() {
  if (plot !== null) plot.destroy();
  plot = null;
  const place = document.getElementById("curve");
  if (curveData === null || place.hidden || !place.clientWidth) return;
  plot = new uPlot(options(place), curveData, place);
  showLegend(null);
}

function options(place) {
  const text = { stroke: colour("muted"), font: "12px system-ui, sans-serif" };
  const rule = { stroke: colour("rule"), width: 1 };
  return {
    width: place.clientWidth,
    height: Math.min(280, Math.max(210, Math.round(place.clientWidth * 0.5))),
    padding: [8, 6, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Asia/Tokyo"),
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    scales: { x: { time: true, range: (_, low, high) => [low, high] }, y: { range: (_, low, high) => [Math.min(0, low * 1.1), Math.max(1, high * 1.08)] } },
    axes: [
      { ...text, grid: { show: false }, ticks: { ...rule, size: 4 }, size: 26, incrs: [10800, 14400, 21600], values: (_, ticks) => ticks.map((tick) => `${Number(clockTime(tick * 1000).slice(0, 2))}${language === "ja" ? "時" : ":00"}`) },
      { ...text, grid: rule, ticks: { show: false }, size: 40, gap: 4, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0 kW" : number(tick, tick % 1 ? 1 : 0))) },
    ],
    series: [{}, ...LINES.map((line) => ({ stroke: colour(line.role), width: line.width, dash: line.dash, fill: line.fill ? `${colour(line.role)}2e` : undefined, points: { show: false } }))],
    hooks: { setCursor: [(chart) => showLegend(chart.cursor.idx)] },
  };
}

function showLegend(index) {
  const list = document.getElementById("legend");
  if (list.children.length !== LINES.length) {
    list.replaceChildren(...LINES.map((line) => {
      const item = document.createElement("li");
      item.className = line.role;
      item.append(document.createElement("i"), document.createElement("span"), document.createElement("b"));
      return item;
    }));
  }
  LINES.forEach((line, place) => {
    const value = index === null || index === undefined || curveData === null ? undefined : curveData[place + 1][index];
    const [, name, shown] = list.children[place].children;
    name.textContent = word(line.role);
    shown.textContent = value === undefined ? "" : value === null ? DASH : `${number(value, 2)} kW`;
    list.children[place].hidden = curveData !== null && curveData[place + 1].every((one) => one === null);
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCurve);
let widthBefore = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== widthBefore) redrawCurve();
  widthBefore = window.innerWidth;
});
