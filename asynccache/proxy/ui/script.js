"use strict";
// Asks cache/stats every two seconds and shows what it says. Whatever comes from there is put in as text, never as HTML.

const EVERY = 2000;
const PATIENCE = 10000;
const SLOT = "asynccache-master-key";
const SVG = "http://www.w3.org/2000/svg";
const WHY = {
  absent: "nothing is kept under this key",
  expired: "its answer had expired",
  "max-age": "the caller wanted a newer answer",
  "no-cache": "the caller did not want a kept answer",
  invalidated: "its answer was invalidated",
  corrupt: "what was kept could not be read",
  "backend-error": "the store failed to answer",
  "other-kind": "what is kept was streamed, or not, and cannot be told in the other way",
  partial: "only a part of its list is kept",
  hedged: "the store was too slow",
};

const $ = (id) => document.getElementById(id);
let timer = null;

// -- small things -------------------------------------------------------------------------------------

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function count(number) {
  return number === null || number === undefined ? "–" : Number(number).toLocaleString("en");
}

function percent(share) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  return (value === 0 || value === 100 ? value : value.toFixed(1)) + " %";
}

function dollars(amount) {
  if (amount === null || amount === undefined) return "unknown";
  const value = Number(amount);
  const digits = value === 0 || value >= 100 ? 2 : value >= 1 ? 3 : 5;
  return "$" + value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: digits });
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return Math.max(1, Math.round(seconds * 1e6)) + " µs";
  if (seconds < 1) return (seconds * 1000).toPrecision(seconds < 0.1 ? 2 : 3).replace(/\.0$/, "") + " ms";
  if (seconds < 60) return seconds.toFixed(seconds < 10 && seconds % 1 ? 1 : 0) + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " days";
}

function ago(seconds) {
  return seconds < 2 ? "now" : span(Math.floor(seconds)) + " ago";
}

function bytes(number) {
  if (number === null || number === undefined) return "";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return (unit && number < 10 ? number.toFixed(1) : Math.round(number)) + " " + units[unit];
}

function table(id, heads, rows, empty) {
  const parts = [];
  if (!rows.length) {
    const row = make("tr");
    row.append(make("td", empty, "empty"));
    parts.push(row);
  } else {
    const head = make("tr");
    for (const [name, kind] of heads) head.append(make("th", name, kind));
    parts.push(head);
    for (const cells of rows) {
      const row = make("tr");
      cells.forEach((cell, i) => row.append(make("td", cell, heads[i][1])));
      parts.push(row);
    }
  }
  $(id).replaceChildren(...parts);
}

// -- the parts of the page ------------------------------------------------------------------------------

function showNumbers(said) {
  const live = said.recent && said.recent.live;
  const counters = said.counters;
  put("ratio", percent(live && live.hit_ratio !== null ? live.hit_ratio : counters.calls ? counters.hit_ratio : null));
  put("ratio-note", live && live.calls
    ? count(live.saved) + " of " + count(live.saved + live.missed) + " calls in five minutes; " + percent(counters.hit_ratio) + " since the start"
    : counters.calls ? "since the start: no call in five minutes" : "no call yet");
  showMoney(said.money);
  const latency = (said.recent && said.recent.latency) || {};
  const near = Object.entries(latency).filter(([tier]) => tier !== "upstream" && tier !== "coalesced");
  const fast = near.sort((a, b) => b[1].calls - a[1].calls)[0];
  put("fast", fast ? span(fast[1].p50) : "–");
  put("fast-note", fast ? "half are faster; 99 % within " + span(fast[1].p99) : "no hit yet");
  put("slow", latency.upstream ? span(latency.upstream.p50) : "–");
  put("slow-note", latency.upstream ? "half are faster; 99 % within " + span(latency.upstream.p99) : "no miss yet");
}

function showMoney(money) {
  if (!money) {
    put("saved", "–");
    put("saved-note", "nobody keeps accounts");
    return;
  }
  const unpriced = money.unknown_saved && Number(money.saved) === 0;
  put("saved", unpriced ? "unknown" : dollars(money.saved));
  const unknown = money.unknown_saved + money.unknown_spent;
  put("saved-note", "spent " + (money.unknown_spent && Number(money.spent) === 0 ? "unknown" : dollars(money.spent))
    + "; saved " + count(money.saved_input + money.saved_output) + " tokens"
    + (unknown ? "; " + count(unknown) + " calls of unknown price" : ""));
}

function showChart(recent) {
  const steps = recent ? recent.live.steps : [];
  const most = Math.max(1, ...steps.map(([saved, asked]) => saved + asked));
  const bars = [];
  steps.forEach(([saved, asked], i) => {
    const wide = 600 / steps.length;
    const low = (saved / most) * 112;
    const high = (asked / most) * 112;
    for (const [kind, y, height] of [["saved", 120 - low, low], ["asked", 120 - low - high, high]]) {
      if (!height) continue;
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("class", kind);
      bar.setAttribute("x", i * wide + 0.75);
      bar.setAttribute("width", wide - 1.5);
      bar.setAttribute("y", y);
      bar.setAttribute("height", height);
      bars.push(bar);
    }
  });
  $("chart").replaceChildren(...bars);
  put("peak", recent && recent.live.calls
    ? "at most " + count(most) + " calls in " + recent.live.step_seconds + " s; " + recent.live.calls_per_second.toPrecision(2) + " a second"
    : "no call in five minutes");
}

function showMisses(recent) {
  const misses = recent ? recent.misses : [];
  const items = misses.slice(0, 8).map((miss) => {
    const item = make("li");
    const head = make("div", null, "head");
    head.append(make("strong", miss.model || "(no model)"), make("span", miss.call_type), make("code", miss.key || "no key"));
    if (miss.error) head.append(make("span", miss.error === "Refused" ? "refused by the provider" : miss.error, "badge bad"));
    if (miss.tenant) head.append(make("span", miss.tenant, "badge"));
    head.append(make("span", ago(miss.seconds_ago) + ", " + span(miss.seconds), "when"));
    item.append(head);
    if (miss.text) item.append(make("p", miss.text, "why"));
    item.append(make("p", reasons(miss), "why"));
    if (miss.why && miss.why.differences.length) item.append(differences(miss.why));
    return item;
  });
  $("misses").replaceChildren(...(items.length ? items : [make("li", "No miss yet.", "empty")]));
}

function reasons(miss) {
  const word = (miss.reason || "").split(/[:,]/)[0];
  const reason = WHY[word] || miss.reason || "nothing is kept under this key";
  const kept = miss.stored || miss.error ? "" : "; this answer was not kept either";
  if (!miss.why) return "Because " + reason + kept + ". No earlier call is like it.";
  const before = span(Math.floor(miss.why.seconds_before) || 1) + " earlier";
  if (!miss.why.differences.length) return "Because " + reason + kept + ". The same call was made " + before + ".";
  return "Because " + reason + kept + ". Nearest is " + miss.why.key + ", " + before + ", the same in "
    + Math.round(miss.why.shared * 100) + " %; what differs:";
}

function differences(why) {
  const list = make("ul", null, "diff");
  for (const each of why.differences) {
    const line = make("li");
    line.append(make("b", each.path || "(all)"), " ", make("span", each.before === null ? "nothing" : each.before, "from"),
      " → ", make("span", each.now === null ? "nothing" : each.now, "to"));
    list.append(line);
  }
  if (why.more) list.append(make("li", "and " + count(why.more) + " more"));
  return list;
}

function showEntries(recent) {
  const entries = recent ? recent.entries : [];
  const texts = entries.some((entry) => entry.text);
  const heads = [["Key", "mono"], ["Model", "name"], ["Hits", "num"], ["Saved", "num"], ["Tokens each", "num"], ["Last hit", "num"], ["Kind", "num"]];
  if (texts) heads.push(["Prompt", "text"]);
  const rows = entries.map((entry) => [
    entry.key, entry.model || "–", count(entry.hits), dollars(entry.saved), count(entry.tokens),
    ago(entry.seconds_ago), entry.call_type, ...(texts ? [entry.text || ""] : []),
  ]);
  table("entries", heads, rows, "No entry was asked for twice yet.");
}

function showTiers(said) {
  const parts = said.tiers.map((tier) => {
    const part = make("div", null, "tier");
    const state = tier.breaker === null ? "in this process" : { closed: "works", open: "away", "half-open": "being tried" }[tier.breaker] || tier.breaker;
    const kind = tier.breaker === "open" ? "badge bad" : tier.breaker === "half-open" ? "badge warn" : "badge";
    part.append(make("strong", (tier.tier ? tier.tier + ": " : "") + tier.backend), make("span", state, kind));
    const facts = [];
    if (tier.entries !== null) facts.push(count(tier.entries) + " entries");
    if (tier.bytes !== null) facts.push(bytes(tier.bytes) + (tier.max_bytes ? " of " + bytes(tier.max_bytes) : ""));
    if (tier.evictions !== null) facts.push(count(tier.evictions) + " evicted");
    if (tier.guard) facts.push("breaker " + tier.breaker, count(tier.guard.failures) + " failures", count(tier.guard.timeouts) + " timeouts", "opened " + (tier.guard.opened === 1 ? "once" : count(tier.guard.opened) + " times"));
    part.append(make("p", facts.join(", ")));
    return part;
  });
  $("tiers").replaceChildren(...parts);
}

function showLatency(recent) {
  const rows = Object.entries(recent ? recent.latency : {}).map(([tier, times]) =>
    [tier, count(times.calls), span(times.p50), span(times.p95), span(times.p99)]);
  table("latency", [["From", ""], ["Calls", "num"], ["50 %", "num"], ["95 %", "num"], ["99 %", "num"]], rows, "No call yet.");
}

function showModels(said) {
  const rows = Object.entries(said.models).map(([name, money]) => [
    name, count(money.calls), money.unknown_spent && !Number(money.spent) ? "unknown" : dollars(money.spent),
    money.unknown_saved && !Number(money.saved) ? "unknown" : dollars(money.saved),
  ]);
  table("models", [["Model", "name"], ["Calls", "num"], ["Spent", "num"], ["Saved", "num"]], rows, "No call yet.");
}

function showCounters(said) {
  const words = {
    calls: "calls", hits: "hits", stale: "stale", coalesced: "coalesced", misses: "misses", bypassed: "bypassed",
    upstream_calls: "upstream calls", upstream_errors: "upstream errors", stored: "stored", rejected: "not kept",
    read_errors: "read errors", write_errors: "write errors", corrupt: "corrupt", refreshes: "refreshes",
  };
  const parts = [];
  for (const [name, word] of Object.entries(words)) parts.push(make("dt", word), make("dd", count(said.counters[name])));
  $("counters").replaceChildren(...parts);
}

function showTenants(said) {
  const names = [...new Set([...said.tenants, ...(said.recent ? said.recent.tenants : [])])].sort();
  const parts = names.map((name) => make("span", name));
  $("tenants").replaceChildren(...(parts.length ? parts : [make("i", "None: all callers share their entries.", "empty")]));
}

function show(said) {
  const proxy = said.proxy;
  put("where", said.cache.type + (said.cache.namespace ? ", namespace " + said.cache.namespace : "")
    + (proxy.caches ? "" : ", caching is off") + ", up " + span(Math.floor(proxy.seconds))
    + (proxy.workers > 1 ? ", process " + proxy.process + ", one of " + proxy.workers : ""));
  showNumbers(said);
  showChart(said.recent);
  showMisses(said.recent);
  showEntries(said.recent);
  showTiers(said);
  showLatency(said.recent);
  showModels(said);
  showCounters(said);
  showTenants(said);
  $("main").hidden = false;
}

// -- asking ---------------------------------------------------------------------------------------------

function tell(text, kind) {
  put("state", text);
  $("state").className = kind;
}

function askForKey(refusal) {
  sessionStorage.removeItem(SLOT);
  $("main").hidden = true;
  $("leave").hidden = true;
  $("login").hidden = false;
  put("refusal", refusal);
  tell("locked", "");
  $("key").focus();
}

async function ask() {
  clearTimeout(timer);
  const key = sessionStorage.getItem(SLOT);
  try {
    const headers = key ? { authorization: "Bearer " + key } : {};
    const response = await fetch("cache/stats", { headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(PATIENCE) });
    if (response.status === 401 || response.status === 403) {
      const error = (await response.json()).error;
      askForKey(key || response.status === 403 ? error.message : "");
      return;
    }
    if (!response.ok) throw new Error("HTTP " + response.status);
    const said = await response.json();
    $("login").hidden = true;
    $("leave").hidden = !key;
    show(said);
    tell("live", "good");
  } catch (error) {
    tell("no answer: " + error.message, "bad");
  }
  if (!document.hidden) timer = setTimeout(ask, EVERY);
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(SLOT, $("key").value.trim());
  $("key").value = "";
  ask();
});
$("leave").addEventListener("click", () => askForKey(""));
document.addEventListener("visibilitychange", () => { if (!document.hidden && $("login").hidden) ask(); });
ask();
