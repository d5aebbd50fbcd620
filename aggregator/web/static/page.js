// The page: chooses a gateway, asks the interface, listens to its live stream. Draws by flow.js and curve.js.
"use strict";

const $ = (id) => document.getElementById(id);
const LEVEL_MAX = 5;
const QUIET_MS = 40000;
const MAX_PASSAGES = 12;

const page = {
  gateways: [], id: null, detail: null, energy: null, passages: [], source: null, heardAt: 0, staleTimer: 0, flow: null,
  status: {}, devices: {}, dataAt: null, broken: false, turn: 0,
};

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

// Choosing

function begin() {
  const wished = new URLSearchParams(location.search);
  language = wished.get("lang") in WORDS ? wished.get("lang") : kept("language") in WORDS ? kept("language") : document.documentElement.lang;
  page.id = wished.get("gateway") || kept("gateway");
  drawFlow();
  $("language").addEventListener("click", () => speak(word("other_lang")));
  speak(language, true);
  refreshGateways();
  setInterval(() => page.gateways.length || refreshGateways(), 2000);
  setInterval(refreshGateways, 10000);
  setInterval(showHealth, 1000);
  setInterval(watchStream, 5000);
}

function kept(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function keep(key, value) {
  try { localStorage.setItem(key, value); } catch { /* a private window keeps nothing */ }
}

/** Change the language of everything that is shown. */
function speak(chosen, quietly) {
  language = chosen;
  if (!quietly) keep("language", chosen);
  document.documentElement.lang = chosen;
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = word(node.dataset.word);
  $("language").textContent = word("other");
  $("language").lang = word("other_lang");
  showAll();
  redrawCurve();
}

async function refreshGateways() {
  try {
    page.gateways = (await ask("/api/v1/gateways")).gateways;
    page.broken = false;
  } catch {
    page.broken = true;
  }
  showNotice();
  showPicker();
  if (page.gateways.length && !page.gateways.some((one) => one.id === page.id)) choose(best(page.gateways).id);
  else if (page.gateways.length && page.source === null) choose(page.id);
  showHead();
}

function best(gateways) {
  const houses = gateways.filter((one) => one.roles.grid);
  return houses.find((one) => one.state === "online") || houses[0] || gateways[0];
}

/** Show another gateway. */
function choose(id) {
  if (page.id !== id) keep("gateway", id);
  Object.assign(page, { id, detail: null, energy: null, passages: [], flow: null, status: {}, devices: {}, dataAt: null });
  page.turn += 1;
  showPicker();
  listen();
  refreshData();
}

// Asking

async function refreshData() {
  const turn = page.turn;
  clearTimeout(page.dataTimer);
  if (page.id) {
    try { await refreshOnce(turn); } catch { /* the notice tells; the next turn asks again */ }
  }
  if (turn === page.turn) page.dataTimer = setTimeout(refreshData, isSimulated() ? 4000 : 30000);
}

async function refreshOnce(turn) {
  const base = `/api/v1/gateways/${encodeURIComponent(page.id)}`;
  const detail = await ask(base);
  if (turn !== page.turn) return;
  page.detail = detail;
  Object.assign(page.devices, detail.devices);
  page.status = detail.status;
  showAll();
  if (detail.roles.grid) {
    const span = `from=${detail.today.from}&to=${detail.today.to}`;
    const wanted = LINES.map((line) => line.key).join(",");
    const [curve, energy] = await Promise.all([ask(`${base}/series?quantity=${wanted}&${span}&points=300`), ask(`${base}/energy`)]);
    if (turn !== page.turn) return;
    page.energy = energy;
    $("curve-card").hidden = false;
    const some = showCurve(slots(curve.series, detail.roles, detail.today.from, detail.today.to));
    $("curve-note").hidden = some;
    $("curve-note").textContent = word("no_curve");
    showEnergies();
  }
  const passages = await ask(detail.roles.grid ? "/api/v1/passages?limit=60" : `${base}/passages?limit=60`);
  if (turn !== page.turn) return;
  page.passages = passages.events;
  showPassages();
  document.body.dataset.ready = page.id;
}

// Listening

function listen() {
  if (page.source) page.source.close();
  page.heardAt = performance.now();
  const source = new EventSource(`/api/v1/gateways/${encodeURIComponent(page.id)}/live?town=true`);
  page.source = source;
  const on = (name, act) => source.addEventListener(name, (message) => {
    page.heardAt = performance.now();
    act(JSON.parse(message.data));
  });
  on("flow", (flow) => { page.flow = flow; showFreshFlow(); });
  on("now", (now) => { page.devices[now.device] = now; if (now.time) page.dataAt = performance.now(); showLamp(); showHealth(); });
  on("status", (status) => { page.status = status; showHead(); showHealth(); });
  on("passage", (event) => {
    if (page.passages.some((one) => one.id === event.id)) return;
    page.passages.unshift(event);
    page.passages.length = Math.min(page.passages.length, 60);
    showPassages();
  });
  on("event", () => undefined);
  on("heartbeat", () => undefined);
  source.addEventListener("open", () => { page.heardAt = performance.now(); page.broken = false; showNotice(); });
  source.addEventListener("error", () => { page.broken = true; showNotice(); });
}

/** Open the stream again when it has ended for good or is silent for too long. */
function watchStream() {
  if (!page.id || !page.gateways.length) return;
  const dead = page.source === null || page.source.readyState === EventSource.CLOSED;
  if (dead || performance.now() - page.heardAt > QUIET_MS) listen();
}

// Showing

function showAll() {
  showNotice();
  showPicker();
  showHead();
  showFreshFlow();
  showLamp();
  showEnergies();
  showPassages();
  showHealth();
}

function showNotice() {
  const text = page.broken ? word("reconnecting") : page.gateways.length ? "" : word("waiting");
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("main").hidden = !page.gateways.length;
}

function showPicker() {
  const nav = $("gateways");
  nav.hidden = page.gateways.length < 2;
  const signature = JSON.stringify([page.id, page.gateways.map((one) => [one.id, one.state]), language]);
  if (nav.dataset.signature === signature) return;
  nav.dataset.signature = signature;
  nav.replaceChildren(page.gateways.length > 6 ? pickerList() : pickerButtons());
}

function pickerButtons() {
  const row = document.createDocumentFragment();
  for (const one of page.gateways) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(dot(one.state), document.createTextNode(one.id));
    button.setAttribute("aria-pressed", String(one.id === page.id));
    button.addEventListener("click", () => choose(one.id));
    row.append(button);
  }
  return row;
}

function pickerList() {
  const list = document.createElement("select");
  list.setAttribute("aria-label", word("health"));
  for (const one of page.gateways) list.add(new Option(`${one.id}  ${one.site}`, one.id, false, one.id === page.id));
  list.addEventListener("change", () => choose(list.value));
  return list;
}

function dot(state) {
  const mark = document.createElement("i");
  mark.className = "dot";
  mark.dataset.state = state;
  return mark;
}

function currentState() {
  return page.status.state || (page.detail && page.detail.state) || "unknown";
}

function currentClock() {
  return page.status.clock || (page.detail && page.detail.clock) || null;
}

function isSimulated() {
  return currentClock() === "simulated";
}

function siteName(text) {
  const [japanese, english] = (text || "").split(" / ");
  return language === "en" && english ? english : japanese;
}

function showHead() {
  const { detail } = page;
  const name = detail ? siteName(detail.site) || detail.id : "";
  $("site").textContent = name;
  document.title = name || (language === "ja" ? "いまの電気と見守り" : "Power and passages, now");
  const state = currentState();
  $("state").dataset.state = state;
  $("state").textContent = page.gateways.length ? word(state) : "";
  const clock = currentClock();
  const badge = { simulated: "simulated", unknown: "clock_unknown", meter: "clock_meter", holdover: "clock_holdover" }[clock];
  $("clock-badge").hidden = !badge;
  $("clock-badge").textContent = badge ? word(badge) : "";
  $("clock-badge").dataset.clock = clock || "";
  const at = (page.flow && page.flow.time) || newestDevice() || (detail && detail.newest);
  $("when").textContent = at ? `${isSimulated() ? `${dateText(at)} ` : ""}${clockTime(at, true)}` : "";
}

function newestDevice() {
  const times = Object.values(page.devices).map((one) => one.time).filter((time) => typeof time === "number");
  return times.length ? Math.max(...times) : null;
}

/** Show the powers for as long as the gateway vouches for them, then dashes. */
function showFreshFlow() {
  clearTimeout(page.staleTimer);
  const roles = page.detail ? page.detail.roles : {};
  const has = Boolean(roles.grid || roles.pv || roles.battery);
  $("flow-card").hidden = !has;
  if (!has) return;
  const flow = page.flow || { roles: Object.keys(roles) };
  showFlow(flow);
  const fresh = ["grid", "pv", "battery"].some((role) => typeof flow[`${role}_power_w`] === "number");
  const note = !fresh ? "no_flow" : typeof flow.load_power_w !== "number" && roles.grid ? "part_flow" : null;
  $("flow-note").hidden = note === null;
  $("flow-note").textContent = note ? word(note) : "";
  $("flow-card").classList.toggle("stale", !fresh);
  if (fresh) {
    page.dataAt = performance.now();
    page.staleTimer = setTimeout(() => { page.flow = { roles: flow.roles, time: flow.time }; showFreshFlow(); }, Math.max(1000, flow.fresh_ms));
  }
  showHead();
}

function showLamp() {
  const lamp = Object.values(page.devices).find((one) => one.values && "alert_level" in one.values);
  $("lamp-card").hidden = !lamp;
  if (!lamp) return;
  const digits = /[0-5]/.exec(String(lamp.values.alert_level));
  const level = digits ? Math.min(LEVEL_MAX, Number(digits[0])) : null;
  $("lamp-light").dataset.level = level === null ? "" : String(level);
  $("lamp-level").textContent = level === null ? DASH : word("level")(level);
  $("lamp-programme").textContent = level === null ? "" : word("levels")[level];
}

function showEnergies() {
  const { energy, detail } = page;
  $("energy-card").hidden = !(detail && detail.roles.grid);
  $("curve-card").hidden = $("energy-card").hidden;
  if ($("energy-card").hidden) return;
  $("today-date").textContent = dateText(detail.today.from);
  const tiles = [["home_energy", "home_kwh", "load"], ["pv_energy", "pv_kwh", "pv"], ["import", "import_kwh", "grid"], ["export", "export_kwh", "grid"], ["charge", "charge_kwh", "battery"], ["discharge", "discharge_kwh", "battery"]];
  $("energies").replaceChildren(...tiles.map(([name, key, role]) => tile(word(name), energy ? energy[key] : null, role)));
  showSelf(energy);
}

function tile(name, kwh, role) {
  const box = document.createElement("div");
  box.className = role;
  const label = document.createElement("dt");
  label.textContent = name;
  const value = document.createElement("dd");
  const known = typeof kwh === "number";
  value.textContent = known ? number(kwh, Math.abs(kwh) < 100 ? 2 : 1) : DASH;
  if (known) {
    const unit = document.createElement("small");
    unit.textContent = " kWh";
    value.append(unit);
  }
  box.append(label, value);
  return box;
}

function showSelf(energy) {
  const known = energy && typeof energy.home_kwh === "number" && typeof energy.import_kwh === "number" && energy.home_kwh > 0;
  $("self").hidden = !known;
  if (!known) return;
  const part = Math.min(1, Math.max(0, 1 - energy.import_kwh / energy.home_kwh));
  $("self-fill").style.width = `${(part * 100).toFixed(1)}%`;
  $("self-percent").textContent = `${number(part * 100, 0)} %`;
}

function showPassages() {
  const { detail } = page;
  const town = detail && detail.roles.grid;
  $("passages-card").hidden = !detail || (town && !page.passages.length);
  if ($("passages-card").hidden) return;
  const visits = foldPassages(page.passages).slice(0, MAX_PASSAGES);
  $("passages").replaceChildren(...visits.map((visit) => passageItem(visit, town)));
  $("passages-note").textContent = visits.length ? word("pseudonyms") : word("no_passages");
}

/** Make one visit of an arrival and its leaving; newest first. */
function foldPassages(events) {
  const open = new Map();
  const visits = [];
  for (const event of [...events].sort((one, other) => one.time - other.time)) {
    const key = `${event.gateway} ${event.data.tag}`;
    if (event.kind === "tag_arrived") {
      const visit = { id: event.id, gateway: event.gateway, tag: String(event.data.tag), from: event.time, to: null };
      open.set(key, visit);
      visits.push(visit);
    } else if (event.kind === "tag_left") {
      const known = open.get(key);
      open.delete(key);
      const from = typeof event.data.first === "number" ? event.data.first : known ? known.from : event.time;
      if (known) Object.assign(known, { from, to: event.time });
      else visits.push({ id: event.id, gateway: event.gateway, tag: String(event.data.tag), from, to: event.time });
    }
  }
  return visits.sort((one, other) => (other.to ?? Infinity) - (one.to ?? Infinity) || other.from - one.from);
}

function passageItem(visit, town) {
  const item = document.createElement("li");
  item.className = visit.to === null ? "here" : "";
  const tag = document.createElement("strong");
  tag.textContent = visit.tag;
  const place = document.createElement("span");
  const gateway = page.gateways.find((one) => one.id === visit.gateway);
  place.textContent = town ? siteName(gateway && gateway.site) || visit.gateway : "";
  place.className = "where";
  const when = document.createElement("span");
  when.className = "times";
  const from = visit.from ? clockTime(visit.from) : DASH;
  when.textContent = visit.to === null ? `${from} – ${word("here")}` : `${from} – ${clockTime(visit.to)}`;
  const stay = document.createElement("span");
  stay.className = "stay";
  stay.textContent = visit.to === null ? "" : spanText(visit.to - visit.from);
  item.append(tag, when, place, stay);
  return item;
}

function showHealth() {
  const { detail } = page;
  $("health-card").hidden = !detail;
  if (!detail) return;
  const counts = detail.counts;
  const age = page.dataAt === null ? Date.now() - detail.last_seen : performance.now() - page.dataAt;
  const outbox = page.status.outbox;
  const depth = outbox && typeof outbox.depth === "number" ? outbox.depth : null;
  const lost = Object.entries(page.devices).filter(([, one]) => one.lost_since).map(([name]) => name);
  const clock = currentClock();
  const facts = [
    [word("state"), word(currentState()), currentState() === "online" ? "good" : "bad"],
    [word("last"), word("ago")(spanText(age)), age > 120000 ? "bad" : ""],
    [word("outbox"), depth === null ? DASH : word("batches")(depth), depth > 100 ? "bad" : ""],
    [word("clock"), (clock && word("clocks")[clock]) || DASH, clock === "unknown" ? "bad" : ""],
    [word("lost_devices"), lost.length ? lost.join(", ") : word("none"), lost.length ? "bad" : ""],
  ];
  if (counts.quarantine) facts.push([word("aside"), word("batches")(counts.quarantine), "bad"]);
  if (counts.conflicts) facts.push([word("conflicts"), word("batches")(counts.conflicts), "bad"]);
  if (counts.held_clock) facts.push([word("held"), word("rows")(counts.held_clock), ""]);
  if (counts.held_identity) facts.push([word("twin"), word("rows")(counts.held_identity), "bad"]);
  const signature = JSON.stringify(facts);
  if ($("health").dataset.signature === signature) return;
  $("health").dataset.signature = signature;
  $("health").replaceChildren(...facts.flatMap(([name, text, mood]) => {
    const label = document.createElement("dt");
    label.textContent = name;
    const value = document.createElement("dd");
    value.textContent = text;
    if (mood) value.className = mood;
    return [label, value];
  }));
}

begin();
