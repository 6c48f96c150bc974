"use strict";
// Every text that comes from a node is set as text, never as markup. Every event holds the whole picture, so that one
// that was missed costs nothing. What is on the page is changed in place: focus, selection and screen readers stay put.

const $ = (id) => document.getElementById(id);
const STAGES = ["preprocess", "head", "middle", "infer", "encode", "uplink", "queue", "decode", "tail", "downlink",
  "local", "postprocess", "network", "other"];
const SVG = "http://www.w3.org/2000/svg";

function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// One child for each item, in the items' order; a child stays as long as its key does.
function each(parent, items, keyOf, create, update) {
  const old = new Map(Array.from(parent.children, (child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const key = keyOf(item);
    let child = old.get(key);
    if (child) old.delete(key);
    else {
      child = create(item);
      child.dataset.key = key;
    }
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
    update(child, item);
  });
  for (const child of old.values()) child.remove();
}

const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

function scaled(value, steps, form = digits) {
  const [least, unit] = steps.find(([from]) => value >= from) ?? steps[steps.length - 1];
  return `${form(value / least)}\u00a0${unit}`;
}

const none = "\u2013";
const TIME = [[1, "s"], [1e-3, "ms"], [1e-6, "\u00b5s"]];
const seconds = (value) => (value === null ? none : scaled(value, TIME));
// Quantiles are read off buckets: two digits are all they have, and below the first bucket nothing is known but that.
const two = (value) => (value >= 9.95 ? Number(value.toPrecision(2)).toFixed(0) : value.toFixed(1));
const quantile = (value) => (value === null ? none : value < 1e-5 ? "< 10\u00a0\u00b5s" : scaled(value, TIME, two));
const rate = (value) => (value === null ? none : value === 0 ? "0\u00a0bit/s" : scaled(value, [[1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"], [1, "bit/s"]]));
const bytes = (value) => (value === null ? none : scaled(value, [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]));
const perSecond = (value) => (value === null ? none : value === 0 ? "0" : value < 0.1 ? "< 0.1" : value < 100 ? value.toFixed(1) : value.toFixed(0));
const whole = (value) => Math.round(value).toLocaleString("en");
const lasting = (value) => (value < 90 ? `${Math.round(value)}\u00a0s` : value < 5400 ? `${Math.round(value / 60)}\u00a0min` : `${Math.round(value / 3600)}\u00a0h`);

const STATE = { up: ["good", "up"], down: ["bad", "down"], odd: ["bad", "in part"] };

function pill(element, state, text) {
  mark(element, "data-state", state);
  say(element, text);
}

// --- Tiers and links -------------------------------------------------------------------------------------------------

function makeNode() {
  const node = make("article", "node");
  node.setAttribute("role", "listitem");
  const facts = make("dl");
  const fact = (name) => {
    const value = make("dd");
    facts.append(make("dt", "", name), value);
    return value;
  };
  node.parts = {
    tier: make("h3"), state: make("span", "pill"), address: make("p", "address"), requests: make("span"),
    underWay: fact("under way"), models: fact("models"), cpu: fact("CPUs busy"), memory: fact("memory"), runs: fact("runs"),
  };
  const { tier, state, address, requests } = node.parts;
  const figure = make("p", "figure", requests, make("small", "", "\u00a0requests/s"));
  node.append(make("div", "top", tier, state), address, figure, facts);
  return node;
}

function showNode(element, node, active) {
  const [state, word] = STATE[node.state] ?? ["bad", node.state];
  const parts = element.parts;
  mark(element, "data-state", node.state);
  mark(element, "data-active", active && node.state === "up" ? "" : null);
  say(parts.tier, node.tier);
  pill(parts.state, state, node.state === "up" ? word : `${word} for ${lasting(node.for_s)}`);
  // The end of a path says more than its beginning.
  const address = node.address.length > 32 ? `\u2026${node.address.slice(-30)}` : node.address;
  say(parts.address, node.reason ? `${address}: ${node.reason}` : address);
  mark(parts.address, "title", node.address);
  say(parts.runs, node.version || none);
  say(parts.requests, perSecond(node.requests_per_s));
  say(parts.underWay, node.under_way === null ? none : whole(node.under_way));
  say(parts.models, node.state === "down" ? none : whole(node.models));
  say(parts.cpu, node.cpus === null ? none : node.cpus.toFixed(2));
  say(parts.memory, bytes(node.rss_bytes));
}

function makeLink() {
  const link = make("div", "link");
  link.setAttribute("role", "listitem");
  const track = make("span", "track");
  track.setAttribute("aria-hidden", "true");
  link.parts = { up: make("span", "flow"), said: make("span", "said"), down: make("span", "flow"), asked: make("span", "asked") };
  const { up, said, down, asked } = link.parts;
  link.append(up, track, said, down, asked);
  return link;
}

const LINK = { down: "no answer over it", quiet: "quiet", unused: "not used", up: "" };

function showLink(element, link, picture) {
  const parts = element.parts;
  const moving = link.state === "up";
  const upper = link.upper === null ? link.address : picture.nodes[link.upper].tier;
  mark(element, "data-state", link.state);
  mark(element, "aria-label", `Link from ${picture.nodes[link.lower].tier} to ${upper}: ${LINK[link.state] || "in use"}`);
  say(parts.up, moving ? `up ${rate(link.up_bps)}` : "");
  say(parts.down, moving ? `down ${rate(link.down_bps)}` : "");
  say(parts.said, !moving ? LINK[link.state] : link.rtt_s === null ? "in use" : `RTT ${seconds(link.rtt_s)}`);
  const told = [];
  if (moving && link.goodput_up_bps !== null) told.push(`carries ${rate(link.goodput_up_bps)} up`);
  if (moving && link.goodput_down_bps !== null) told.push(`carries ${rate(link.goodput_down_bps)} down`);
  if (link.failures > 0) told.push(`${whole(link.failures)} failed`);
  if (link.asked) told.push(`asked: ${rate(link.asked[0])} up, ${quantile(link.asked[2])} RTT`);
  say(parts.asked, told.join("; "));
}

function showTiers(picture) {
  const active = new Set(picture.chains.filter((chain) => chain.active).flatMap((chain) => chain.steps.map((step) => step[1])));
  const between = (i) => picture.links.find((link) => link.lower === i && (link.upper === i + 1 || (link.upper === null && i === picture.nodes.length - 1)));
  const items = picture.nodes.flatMap((node, i) => {
    const link = i + 1 < picture.nodes.length ? between(i) : undefined;
    const one = { key: `n${i}`, node, active: active.has(i) };
    return link ? [one, { key: `l${i}`, link }] : [one];
  });
  const drawn = new Set(items.map((item) => item.link));
  each($("tiers"), items, (item) => item.key, (item) => (item.node ? makeNode() : makeLink()), (element, item) => {
    if (item.node) showNode(element, item.node, item.active);
    else showLink(element, item.link, picture);
  });
  const further = picture.links.filter((link) => !drawn.has(link));
  let list = $("further");
  if (!list && further.length) {
    list = make("ul", "further");
    list.id = "further";
    $("tiers").after(list);
  }
  if (list) {
    each(list, further, (link) => `${link.lower} ${link.upper} ${link.address}`, () => make("li"), (element, link) => {
      const upper = link.upper === null ? link.address : picture.nodes[link.upper].tier;
      const words = link.state === "up"
        ? `RTT ${seconds(link.rtt_s)}, up ${rate(link.up_bps)}, down ${rate(link.down_bps)}` : LINK[link.state];
      say(element, `${picture.nodes[link.lower].tier} \u2192 ${upper}: ${words}`);
    });
  }
}

// --- Deployments -----------------------------------------------------------------------------------------------------

function makeChain() {
  const chain = make("article", "chain");
  const number = (text, className) => {
    const value = make("span", "value");
    return [value, make("div", "", make("span", `name ${className}`, text), value)];
  };
  const [requests, requestsBox] = number("requests/s", "");
  const [p50, p50Box] = number("median", "key p50");
  const [p95, p95Box] = number("95th percentile", "key p95");
  const spark = document.createElementNS(SVG, "svg");
  spark.setAttribute("class", "spark");
  spark.setAttribute("viewBox", "0 0 100 100");
  spark.setAttribute("preserveAspectRatio", "none");
  spark.setAttribute("role", "img");
  for (const y of [1, 50, 99]) {
    const line = document.createElementNS(SVG, "line");
    for (const [name, value] of Object.entries({ x1: 0, x2: 100, y1: y, y2: y })) line.setAttribute(name, value);
    spark.append(line);
  }
  const lines = ["p95", "p50"].map((name) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    spark.append(path);
    return [name, path];
  });
  const table = make("table", "stages");
  const heads = [["Stage", ""], ["Tier", ""], ["Mean", "num"], ["Median", "num"], ["95th", "num"]].map(([text, kind]) => {
    const head = make("th", kind, text);
    head.scope = "col";
    return head;
  });
  const rows = make("tbody");
  table.append(make("caption", "", "Where the time of a request goes"), make("thead", "", make("tr", "", ...heads)), rows);
  chain.parts = {
    name: make("h3"), state: make("span", "pill"), label: make("span", "small"), route: make("ol", "route"), requests, p50, p95, spark,
    lines: Object.fromEntries(lines), since: make("span"), top: make("span"), bar: make("div", "bar"), table, rows,
    noStages: make("p", "empty", "No requests lately: nothing is known of where their time would go."),
  };
  const { name, state, label, route, bar, since, top, noStages } = chain.parts;
  bar.setAttribute("role", "img");
  const left = make("div", "left", make("div", "figures", requestsBox, p50Box, p95Box), spark, make("p", "axis small", since, top));
  chain.append(make("div", "head", name, state, label), route, left, make("div", "", bar, noStages, table));
  return chain;
}

// The line through the values, with gaps where there are none; y grows downwards and `top` is the upper edge.
function line(values, length, top) {
  let drawn = "";
  let gap = true;
  values.forEach((value, i) => {
    if (value === null) {
      gap = true;
      return;
    }
    const x = length < 2 ? 100 : (100 * (i + length - values.length)) / (length - 1);
    const y = 99 - (98 * value) / top;
    // A single value between gaps is drawn as a dot by its round cap.
    drawn += gap ? `M${x.toFixed(2)} ${y.toFixed(2)}h0.01` : `L${x.toFixed(2)} ${y.toFixed(2)}`;
    gap = false;
  });
  return drawn;
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 1.02) || value;
}

function showChain(element, chain, picture) {
  const parts = element.parts;
  mark(element, "data-active", chain.active ? "" : null);
  say(parts.name, chain.model);
  if (!chain.whole) pill(parts.state, "bad", "broken");
  else pill(parts.state, chain.active ? "good" : "quiet", chain.active ? "active path" : "no traffic");
  say(parts.label, chain.label ?? "");
  each(parts.route, chain.steps.map((step, i) => ({ step, key: String(i) })), (item) => item.key,
    () => make("li", "", make("span", "step", make("b"), " ", make("span"))), (item, { step }) => {
      const [tier, , runs, there] = step;
      mark(item, "data-there", there ? "yes" : "no");
      say(item.firstChild.children[0], tier);
      say(item.firstChild.children[1], there ? runs : `${runs}, not there`);
    });
  say(parts.requests, perSecond(chain.requests_per_s));
  say(parts.p50, quantile(chain.p50_s));
  say(parts.p95, quantile(chain.p95_s));
  const [p50, p95] = picture.history[chain.key] ?? [[], []];
  const largest = Math.max(0, ...p50, ...p95);
  const length = 120;
  const top = largest > 0 ? niceTop(largest) : 1;
  for (const [name, values] of [["p50", p50], ["p95", p95]]) mark(parts.lines[name], "d", line(values, length, top));
  say(parts.since, `${lasting((length - 1) * picture.every_s)} ago`);
  say(parts.top, largest > 0 ? `0 to ${quantile(top)}` : "");
  mark(parts.spark, "aria-label", `Median and 95th percentile of ${chain.model} over time; now ${quantile(chain.p50_s)} and ${quantile(chain.p95_s)}`);
  showStages(parts, chain);
}

function showStages(parts, chain) {
  const sum = chain.stages.reduce((total, stage) => total + stage.mean_s, 0);
  const rest = Math.max(0, (chain.mean_s ?? 0) - sum);
  const stages = chain.stages.slice();
  if (stages.length && rest > 0.01 * chain.mean_s) stages.push({ tier: none, stage: "other", mean_s: rest, p50_s: null, p95_s: null });
  const known = (stage) => (STAGES.includes(stage) ? stage : "other");
  const all = sum + rest;
  // Rows that would tell of less than a hundredth of the time are one row.
  const listed = stages.filter((stage) => stage.mean_s >= 0.01 * all);
  const small = stages.filter((stage) => stage.mean_s < 0.01 * all);
  if (small.length === 1) listed.push(small[0]);
  else if (small.length) {
    const together = small.reduce((total, stage) => total + stage.mean_s, 0);
    listed.push({ tier: none, stage: `${small.length} below 1\u00a0%`, mean_s: together, p50_s: null, p95_s: null });
  }
  const key = (stage) => `${stage.tier} ${stage.stage}`;
  each(parts.bar, stages, key, () => make("i"), (element, stage) => {
    mark(element, "data-stage", known(stage.stage));
    element.style.width = `${(100 * stage.mean_s) / all}%`;
    mark(element, "title", `${stage.stage} on ${stage.tier}: ${seconds(stage.mean_s)}`);
  });
  mark(parts.bar, "aria-label", `Mean request: ${seconds(chain.mean_s)}; the table below holds its stages`);
  parts.bar.hidden = parts.table.hidden = stages.length === 0;
  parts.noStages.hidden = stages.length > 0;
  each(parts.rows, listed, (stage) => (known(stage.stage) === stage.stage ? key(stage) : "small"), () => {
    const cells = ["td", "td", "td", "td"].map((name, i) => make(name, i ? "num" : ""));
    const head = make("th", "", make("span", "swatch"), make("span"));
    head.scope = "row";
    return make("tr", "", head, ...cells);
  }, (row, stage) => {
    const [head, tier, mean, p50, p95] = row.children;
    mark(head.children[0], "data-stage", known(stage.stage));
    say(head.children[1], stage.stage);
    say(tier, stage.tier);
    say(mean, seconds(stage.mean_s));
    say(p50, quantile(stage.p50_s));
    say(p95, quantile(stage.p95_s));
  });
}

// --- Refusals, paths, the sentence on top ----------------------------------------------------------------------------

function showTable(table, empty, rows) {
  table.hidden = rows.length === 0;
  empty.hidden = rows.length > 0;
  each(table.tBodies[0], rows, (row) => row.key, () => make("tr", "", make("td"), make("td"), make("td", "num"), make("td", "num")), (element, row) => {
    row.cells.forEach((text, i) => say(element.children[i], text));
  });
}

function showCounts(picture) {
  const refusals = picture.nodes.flatMap((node, i) => node.refusals.map(([code, all, lately]) => (
    { key: `${i} ${code}`, cells: [node.tier, code.toLowerCase().replaceAll("_", " "), `${perSecond(lately)}/s`, whole(all)] })));
  showTable($("refusals"), $("no-refusals"), refusals);
  const paths = picture.clients.flatMap((client, i) => {
    if (!client.up) return [{ key: `${i}`, cells: [client.address, "does not answer", none, none] }];
    const answers = client.answers.map(([path, all, lately]) => (
      { key: `${i} a ${path}`, cells: [path, path === client.path ? "active path" : "all answers", `${perSecond(lately)}/s`, whole(all)] }));
    const fallbacks = client.fallbacks.map(([path, why, all, lately]) => (
      { key: `${i} f ${path} ${why}`, cells: [path, why, `${perSecond(lately)}/s`, whole(all)] }));
    return [...answers, ...fallbacks];
  });
  showTable($("fallbacks"), $("no-clients"), paths);
}

function showVerdict(picture) {
  const up = picture.nodes.filter((node) => node.state === "up");
  const words = [`${up.length} of ${picture.nodes.length} ${picture.nodes.length === 1 ? "node is" : "nodes are"} up.`];
  const active = picture.chains.filter((chain) => chain.active && chain.whole).sort((a, b) => b.requests_per_s - a.requests_per_s);
  for (const chain of active.slice(0, 2)) {
    const path = chain.steps.map((step) => step[0]).join(" \u2192 ");
    words.push(`${chain.model} answers over ${path}: ${perSecond(chain.requests_per_s)} requests/s, median ${quantile(chain.p50_s)}.`);
  }
  if (!picture.chains.length) words.push("No model is loaded.");
  else if (!picture.chains.some((chain) => chain.active)) words.push("No requests came lately.");
  const broken = picture.chains.filter((chain) => !chain.whole).length;
  if (broken) words.push(`${broken} ${broken === 1 ? "deployment lacks" : "deployments lack"} a part.`);
  say($("verdict"), words.join(" "));
  mark($("verdict"), "data-state", up.length < picture.nodes.length || broken ? "bad" : "good");
}

let states = null;

function announce(picture) {
  const now = new Map(picture.nodes.map((node) => [node.address, node.state]));
  if (states) {
    const changed = picture.nodes.filter((node) => states.get(node.address) !== node.state);
    if (changed.length) say($("announcement"), changed.map((node) => `${node.tier} is ${STATE[node.state]?.[1] ?? node.state}`).join(", "));
  }
  states = now;
}

function show(picture) {
  document.title = `${picture.name} \u2013 Tierwise console`;
  say($("name"), picture.name);
  showVerdict(picture);
  showTiers(picture);
  $("no-deployments").hidden = picture.chains.length > 0;
  each($("chains"), picture.chains, (chain) => chain.key, makeChain, (element, chain) => showChain(element, chain, picture));
  showCounts(picture);
  announce(picture);
  say($("footnote"), `Rates, medians and percentiles are of the last ${lasting(picture.window_s)}, read off histograms; `
    + "link figures are those of the last forwards, as the lower node saw them.");
  document.documentElement.dataset.ready = "";
}

// --- The stream ------------------------------------------------------------------------------------------------------

let heard = 0;
let every = 1;
const source = new EventSource("events");
source.onmessage = (event) => {
  const picture = JSON.parse(event.data);
  heard = performance.now();
  every = picture.every_s;
  document.documentElement.classList.remove("stale");
  pill($("live"), "good", `live, ${new Date(picture.time_s * 1000).toLocaleTimeString()}`);
  show(picture);
};

// A stream that broke, or one that is open and says nothing: what is shown is old, and must look it.
setInterval(() => {
  const waited = (performance.now() - heard) / 1000;
  if (!heard || waited < 3 * every + 2) return;
  document.documentElement.classList.add("stale");
  pill($("live"), "bad", `the console does not answer, as of ${lasting(waited)} ago`);
}, 1000);
