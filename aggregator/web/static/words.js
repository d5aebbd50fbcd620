// Every word of the page in Japanese and English, and how numbers and times are written. Touches no element.
"use strict";

const WORDS = {
  ja: {
    now: "いまの電気", today: "今日の動き", energies: "今日の電力量", passages: "見守りタグの通過", health: "ゲートウェイの状態", lamp: "警戒レベル表示灯",
    grid: "電力会社", pv: "太陽光", battery: "蓄電池", load: "家の消費", home: "家",
    buying: "買電", selling: "売電", generating: "発電", charging: "充電中", discharging: "放電中", idle: "待機",
    import: "買った電気", export: "売った電気", pv_energy: "発電した電気", charge: "充電", discharge: "放電", home_energy: "使った電気",
    self: "電気の自給率",
    online: "オンライン", offline: "停止中", lost: "途絶", unknown: "不明",
    simulated: "シミュレーション", clock_unknown: "時計が未設定", clock_meter: "時計はメーター基準", clock_holdover: "時計は保持中",
    other: "English", other_lang: "en",
    waiting: "ゲートウェイからのデータを待っています。つながると、ここに表示されます。",
    no_curve: "今日のデータはまだありません。", no_flow: "新しい値が届いていません。", part_flow: "届いていない値があるため、家の消費は計算できません。",
    no_passages: "通過の記録はまだありません。", pseudonyms: "タグは仮の番号で示します。",
    reconnecting: "接続が切れました。つなぎ直しています…",
    here: "近くにいます", stayed: "滞在", arrived: "到着",
    state: "接続", last: "最後のデータ", outbox: "送信待ち", clock: "時計", aside: "保留した電文", conflicts: "食い違い", held: "時刻未定の行", twin: "二重の箱の行", lost_devices: "応答のない機器", none: "なし",
    batches: (n) => `${n} 件`, rows: (n) => `${n} 行`,
    ago: (text) => `${text}前`, seconds: (n) => `${n} 秒`, minutes: (n) => `${n} 分`, hours: (n) => `${n} 時間`, days: (n) => `${n} 日`,
    clocks: { synced: "時刻同期済み", holdover: "保持中（以前に同期）", meter: "メーター基準（±90 秒）", unknown: "未設定", simulated: "シミュレーション" },
    levels: ["発表なし", "早期注意情報", "注意報", "警報級", "危険警報級", "特別警報級"], level: (n) => `警戒レベル ${n}`,
    flow_words: (p) => `電力会社 ${p.grid}、太陽光 ${p.pv}、蓄電池 ${p.battery}、家の消費 ${p.load}`,
  },
  en: {
    now: "Power now", today: "Today", energies: "Energy today", passages: "Watch-over tags", health: "Gateway", lamp: "Alert lamp",
    grid: "Grid", pv: "Solar", battery: "Battery", load: "Home", home: "Home",
    buying: "importing", selling: "exporting", generating: "producing", charging: "charging", discharging: "discharging", idle: "idle",
    import: "Imported", export: "Exported", pv_energy: "Produced", charge: "Charged", discharge: "Discharged", home_energy: "Used",
    self: "Self-sufficiency",
    online: "Online", offline: "Stopped", lost: "Lost", unknown: "Unknown",
    simulated: "Simulated", clock_unknown: "Clock not set", clock_meter: "Clock from the meter", clock_holdover: "Clock in holdover",
    other: "日本語", other_lang: "ja",
    waiting: "Waiting for a gateway. It appears here as soon as one connects.",
    no_curve: "No data of today yet.", no_flow: "No fresh values.", part_flow: "A value is missing, so the home's use cannot be told.",
    no_passages: "No passages yet.", pseudonyms: "Tags are shown by pseudonym.",
    reconnecting: "The connection broke. Connecting again…",
    here: "nearby", stayed: "stayed", arrived: "arrived",
    state: "Connection", last: "Last data", outbox: "Waiting to be sent", clock: "Clock", aside: "Messages put aside", conflicts: "Contradictions", held: "Rows without a time", twin: "Rows of a second box", lost_devices: "Devices not answering", none: "none",
    batches: (n) => (n === 1 ? "1 batch" : `${n} batches`), rows: (n) => (n === 1 ? "1 row" : `${n} rows`),
    ago: (text) => `${text} ago`, seconds: (n) => `${n} s`, minutes: (n) => `${n} min`, hours: (n) => `${n} h`, days: (n) => `${n} d`,
    clocks: { synced: "synchronised", holdover: "holdover (synchronised before)", meter: "from the meter (±90 s)", unknown: "not set", simulated: "simulated" },
    levels: ["nothing announced", "early notice", "advisory", "warning", "danger warning", "emergency warning"], level: (n) => `Alert level ${n}`,
    flow_words: (p) => `Grid ${p.grid}, solar ${p.pv}, battery ${p.battery}, home ${p.load}`,
  },
};

const DASH = "–";
let language = "ja";

/** Return a word in the chosen language. */
function word(key) {
  return WORDS[language][key];
}

/** Return a power for people: "512 W", "1.25 kW", or a dash where it is unknown. */
function watts(value) {
  if (typeof value !== "number") return DASH;
  const size = Math.abs(value);
  if (size < 1000) return `${Math.round(size)} W`;
  return `${number(size / 1000, 2)} kW`;
}

/** Return a number in the language's way of writing, with so many digits after the point. */
function number(value, digits) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

/** Return unix ms as a time of day in Japan. */
function clockTime(ms, seconds) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "Asia/Tokyo" };
  if (seconds) options.second = "2-digit";
  return new Intl.DateTimeFormat(language, options).format(ms);
}

/** Return unix ms as a date in Japan. */
function dateText(ms) {
  return new Intl.DateTimeFormat(language, { month: "long", day: "numeric", weekday: "short", timeZone: "Asia/Tokyo" }).format(ms);
}

/** Return a span for people: "12 s", "3 min". */
function spanText(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return word("seconds")(seconds);
  if (seconds < 5400) return word("minutes")(Math.round(seconds / 60));
  if (seconds < 172800) return word("hours")(Math.round(seconds / 3600));
  return word("days")(Math.round(seconds / 86400));
}
