// Keeps the page as the server drew it: the server sends HTML of what changed, this puts it in
// place. Nothing is worded here but the age of the data, and what a dialog answers.

const body = document.body;
const $ = (id) => document.getElementById(id);
const SILENT_MS = 3500; // a beat comes every second
const HIDDEN_MS = 60000; // a tab nobody sees gives its connection back: a browser has six
const policy = window.trustedTypes
  ? window.trustedTypes.createPolicy("lb-probe", { createHTML: (text) => text })
  : { createHTML: (text) => text };

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = policy.createHTML(html);
  return template.content;
}

// ------------------------------------------------------------------ putting it in place
// Nodes that can stay do stay: a button that is being pressed, a field with the focus.
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  const wanted = [...to.childNodes];
  wanted.forEach((next, place) => {
    const old = pick(from, next, place);
    if (!old) from.insertBefore(next, from.childNodes[place] ?? null);
    else if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) old.replaceWith(next);
    else if (next.nodeType === Node.ELEMENT_NODE) morph(old, next);
    else if (old.data !== next.data) old.data = next.data;
  });
  while (from.childNodes.length > wanted.length) from.lastChild.remove();
}

function key(node) {
  return node?.dataset?.verb ?? node?.dataset?.live ?? "";
}

// A button keeps being the button it was, whatever goes from before it.
function pick(from, next, place) {
  const name = key(next);
  const old = from.childNodes[place];
  if (key(old) === name) return old;
  const kept = name && [...from.childNodes].slice(place).find((one) => key(one) === name);
  if (!kept) return null;
  while (from.childNodes[place] !== kept) from.childNodes[place].remove();
  return kept;
}

function inner(element, html) {
  const copy = element.cloneNode(false);
  copy.append(parsed(html));
  morph(element, copy);
}

const shown = new Map(); // name of a group: its element
function index() {
  shown.clear();
  for (const one of $("main").querySelectorAll("[data-group]")) shown.set(one.dataset.group, one);
}

function place(group) {
  const next = parsed(group.html).querySelector("[data-group]");
  const home = $(group.whole ? "whole" : "rows");
  let here = shown.get(group.name);
  if (here && here.parentNode === home) {
    const moves = here.dataset.sort !== group.sort;
    morph(here, next);
    if (!moves) return;
  } else {
    here?.remove();
    here = next;
    shown.set(group.name, here);
  }
  const after = [...home.children].find((one) => one !== here && one.dataset.sort > group.sort);
  if (here.nextElementSibling !== (after ?? null) || here.parentNode !== home) {
    home.insertBefore(here, after ?? null);
  }
}

// A keyboard stays where it is; where that is gone, it goes to what is left of the group.
function keeping(work) {
  const held = document.activeElement;
  const name = held?.closest("[data-group]")?.dataset.group;
  work();
  if (!held || held === body || document.activeElement === held) return;
  if (held.isConnected) held.focus();
  else (shown.get(name)?.querySelector("button, a") ?? $("main")).focus();
}

function head(news) {
  document.title = body.dataset.alone ? `${body.dataset.alone} - ${news.title}` : news.title;
  body.dataset.level = news.level;
  icon(news.level);
}

function icon(level) {
  const address = `${body.dataset.static}/${level}.svg`;
  if ($("icon").getAttribute("href") !== address) $("icon").setAttribute("href", address);
}

function tidy() {
  if ($("others")) $("others").hidden = !$("rows").children.length;
  filter();
  ages();
}

// ------------------------------------------------------------------ following
let source = null;
let last = body.dataset.place;
let heard = performance.now();
let age = 0;
let at = body.dataset.at;
let why = "";
let isLive = null;

function follow() {
  source?.close();
  source = new EventSource(`${body.dataset.live}?after=${encodeURIComponent(last)}`);
  source.addEventListener("snapshot", (event) => {
    last = event.lastEventId;
    const news = JSON.parse(event.data);
    keeping(() => {
      inner($("main"), news.main);
      index();
    });
    head(news);
    tidy();
  });
  source.addEventListener("change", (event) => {
    last = event.lastEventId;
    const news = JSON.parse(event.data);
    inner($("head"), news.head);
    keeping(() => news.groups.forEach(place));
    if (news.history !== null) inner($("history"), news.history);
    head(news);
    tidy();
    if (news.says) $(news.alarm ? "alarm" : "said").textContent = news.says;
  });
  source.addEventListener("beat", (event) => {
    const news = JSON.parse(event.data);
    heard = performance.now();
    age = news.age;
    at = news.at;
    why = news.stale ? "the prober does not probe" : "";
    for (const [key, text] of Object.entries(news.texts)) {
      const cell = document.querySelector(`[data-live="${CSS.escape(key)}"]`);
      if (cell && cell.textContent !== text) cell.textContent = text;
    }
    judge();
  });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(again, 3000);
  };
}

async function again() {
  if (document.hidden && !source) return;
  try {
    const answer = await fetch("/", { method: "HEAD", redirect: "error" });
    if (answer.status === 401) {
      why = "the session is over: load the page again and log in";
      judge();
      return;
    }
  } catch {
    // not there; the next try will tell
  }
  follow();
}

function judge() {
  const silent = performance.now() - heard;
  const now = !why && silent < SILENT_MS;
  const seconds = Math.round(age + silent / 1000);
  const words = `${String(Math.floor(seconds / 60)).padStart(2, "0")}:${String(seconds % 60).padStart(2, "0")}`;
  const text = now ? `Live; the newest probe is ${age.toFixed(1)} s old` : "Not live";
  if ($("live").textContent !== text) $("live").textContent = text;
  if (!now) {
    const line = ` - last data ${words} ago (${at.replace("T", " ").replace("Z", " UTC")}). ${why ? `${why}.` : "No word from the prober; while it is gone traffic stays where it is."} What you see may be wrong.`;
    if ($("bar-text").textContent !== line) $("bar-text").textContent = line;
    document.title = `NOT LIVE - ${document.title.replace(/^NOT LIVE - /, "")}`;
  } else if (isLive === false) {
    document.title = document.title.replace(/^NOT LIVE - /, "");
  }
  if (now !== isLive) {
    isLive = now;
    $("bar").className = now ? "off" : "on";
    body.dataset.isLive = now ? "yes" : "no";
    icon(now ? body.dataset.level : "lost");
    $("alarm").textContent = now ? "" : "Not live: what you see may be wrong"; // told once
  }
}

// ------------------------------------------------------------------ ages
function ago(seconds, isRow) {
  if (seconds < 60 && isRow) return "under 1 m"; // hundreds of texts a second would be work
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} m`;
  return `${Math.floor(seconds / 86400)} d`;
}

function ages() {
  const now = Date.parse(at) + (performance.now() - heard); // the prober's clock, not the browser's
  for (const span of document.querySelectorAll("[data-ago]")) {
    const seconds = (now - Date.parse(span.dataset.ago)) / 1000;
    const text = ` (${ago(seconds, span.closest("#rows") !== null)} ago)`;
    if (span.textContent !== text) span.textContent = text;
  }
}

// ------------------------------------------------------------------ filter
function filter() {
  const wanted = $("filter")?.value.trim().toLowerCase() ?? "";
  for (const one of shown.values()) {
    one.hidden = wanted !== "" && !one.textContent.toLowerCase().includes(wanted);
  }
}

// ------------------------------------------------------------------ acting
const dialog = $("dialog");
let opener = null;

async function open(verb, group, to) {
  const kept = dialog.open ? typed() : {};
  let answer;
  try {
    const query = to ? `?to=${encodeURIComponent(to)}` : "";
    answer = await fetch(`/groups/${encodeURIComponent(group)}/plan/${verb}${query}`);
  } catch {
    return tell("No word from the prober. Nothing was done.");
  }
  if (!answer.ok) return tell(await detail(answer));
  dialog.replaceChildren(parsed(await answer.text()));
  for (const [name, value] of Object.entries(kept)) {
    const field = dialog.querySelector(`[name="${name}"]`);
    if (field && name !== "to") field.value = value;
  }
  if (!dialog.open) dialog.showModal();
  ready();
  const first = dialog.querySelector("[data-attest], [data-override], #act-reason");
  first?.focus();
}

async function detail(answer) {
  try {
    const told = await answer.json();
    return told.detail || `Answer ${answer.status}`;
  } catch {
    return `Answer ${answer.status}`;
  }
}

// What has no form to stand in: a dialog of its own.
function tell(text) {
  if (dialog.open && dialog.querySelector(".answer")) {
    dialog.querySelector(".answer").textContent = text;
    return;
  }
  dialog.replaceChildren(
    parsed(
      '<form method="dialog"><h2 id="dialog-title">Not possible</h2><p class="fault" role="alert"></p><p class="acts"><button>Close</button></p></form>',
    ),
  );
  dialog.querySelector(".fault").textContent = text;
  if (!dialog.open) dialog.showModal();
}

function typed() {
  const form = dialog.querySelector("form");
  return form ? Object.fromEntries(new FormData(form)) : {};
}

function ready() {
  const form = dialog.querySelector("form[data-verb]");
  if (!form) return false;
  const isNamed = form.elements.name.value === form.dataset.group;
  const isClosed = form.querySelector("[data-closed]") !== null;
  const is = isNamed && !isClosed && form.checkValidity() && form.elements.reason.value.trim() !== "";
  form.querySelector("[type=submit]").disabled = !is;
  return is;
}

async function send(form) {
  const values = typed();
  const content = { reason: values.reason, generation: Number(form.dataset.generation) };
  const picked = (name) => [...form.querySelectorAll(`[data-${name}]`)];
  const override = picked("override").filter((box) => box.checked);
  if (override.length) content.override = override.map((box) => box.dataset.override);
  const attest = picked("attest").map((field) => [field.dataset.attest, field.value]);
  if (attest.length) content.attest = Object.fromEntries(attest);
  if (values.to) content.to = values.to;
  if (values.for) content.for = values.for;
  if (form.elements.hands_off?.checked) content.hands_off = true;
  const { verb, group } = form.dataset;
  form.querySelector("[type=submit]").disabled = true; // a second click is no second act
  tell("Asked; waiting for the load balancers.");
  let answer;
  try {
    answer = await fetch(`/api/v1/groups/${encodeURIComponent(group)}/${verb}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
  } catch {
    return tell("No answer. It may have been done or not: close this and look.");
  }
  if (!answer.ok) return tell(`${await detail(answer)}. Nothing was done; Look again shows what is the case now.`);
  dialog.close();
  $("said").textContent = `${verb} of ${group}: done`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const form = button.closest("form[data-verb]");
  if (button.id === "theme") theme(next(localStorage.getItem("theme")));
  else if ("close" in button.dataset) dialog.close();
  else if ("again" in button.dataset) open(form.dataset.verb, form.dataset.group, form.elements.to?.value);
  else if (button.dataset.verb) {
    opener = { verb: button.dataset.verb, group: button.dataset.of };
    open(opener.verb, opener.group);
  }
});
dialog.addEventListener("input", ready);
dialog.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-verb]");
  if (form && event.target.name === "to") open(form.dataset.verb, form.dataset.group, event.target.value);
});
dialog.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-verb]");
  if (!form) return;
  event.preventDefault();
  if (ready()) send(form);
});
// Where the button that opened it is gone, its group's first button is the nearest place.
dialog.addEventListener("close", () => {
  dialog.replaceChildren();
  if (document.activeElement && document.activeElement !== body) return;
  const card = opener && shown.get(opener.group);
  (card?.querySelector("button, a") ?? $("main")).focus();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || dialog.open || event.target.matches("input, select, textarea")) return;
  if (!$("filter")) return;
  event.preventDefault();
  $("filter").focus();
});
$("filter")?.addEventListener("input", filter);

// ------------------------------------------------------------------ theme
const themes = ["auto", "light", "dark"];
function next(word) {
  return themes[(themes.indexOf(word) + 1) % themes.length];
}
function theme(word) {
  const chosen = themes.includes(word) ? word : "auto";
  localStorage.setItem("theme", chosen);
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  $("theme").textContent = `Theme: ${chosen}`;
  chart();
}

// ------------------------------------------------------------------ chart of one group
let plot = null;
let drawn = "";
function size() {
  return { width: Math.min($("chart").clientWidth || 720, 1100), height: 220 };
}
async function chart() {
  if (!body.dataset.alone || !window.uPlot || document.hidden) return;
  let told;
  try {
    const answer = await fetch(`/groups/${encodeURIComponent(body.dataset.alone)}/latency`);
    if (!answer.ok) return;
    told = (await answer.json()).series.filter((one) => one.probes.length);
  } catch {
    return;
  }
  const times = [...new Set(told.flatMap((one) => one.probes.map(([when]) => when)))].sort((a, b) => a - b);
  const columns = told.map((one) => {
    const known = new Map(one.probes.map(([when, took, passed]) => [when, passed ? took : undefined]));
    return times.map((when) => (known.has(when) ? (known.get(when) ?? null) : undefined));
  });
  const colour = (name) => {
    $("chart").style.color = `var(${name})`; // a canvas understands neither var() nor light-dark()
    const found = getComputedStyle($("chart")).color;
    $("chart").style.color = "";
    return found;
  };
  const ink = getComputedStyle(body).color;
  const names = told.map((one) => `${one.node} ${one.page}`);
  const look = `${names} ${ink}`;
  if (plot && look === drawn) return plot.setData([times, ...columns]);
  plot?.destroy();
  drawn = look;
  const dashes = [[], [6, 3], [2, 2], [8, 2, 2, 2]];
  const axis = { stroke: ink, grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
  plot = new window.uPlot(
    {
      ...size(),
      scales: { x: { time: false } },
      axes: [
        { ...axis, values: (_, marks) => marks.map((mark) => `${mark} s`) },
        { ...axis, values: (_, marks) => marks.map((mark) => `${mark} ms`), size: 70 },
      ],
      series: [
        { label: "seconds" },
        ...names.map((label, place) => ({
          label,
          stroke: colour(`--series-${place % 4}`),
          dash: dashes[place % 4],
          width: 1.5,
        })),
      ],
    },
    [times, ...columns],
    $("chart"),
  );
}

// ------------------------------------------------------------------ start
let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      source?.close();
      source = null;
    }, HIDDEN_MS);
  } else if (!source) follow();
});
index();
theme(localStorage.getItem("theme"));
ages();
follow();
setInterval(() => {
  judge();
  ages();
}, 500);
setInterval(chart, 5000);
addEventListener("resize", () => plot?.setSize(size())); // a phone that is turned
