"use strict";
// Text of queries and documents reaches the page through textContent alone.
const $ = (id) => document.getElementById(id);
const SHOWN = 300; // characters of a text before it is opened
const WIDEST = 20; // words of a text in a heat map before all are asked for

async function call(path, parameters = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`).catch(() => {
    throw new Error("The server does not answer. Is optical-rs serve still running?");
  });
  const found = await response.json();
  // The server names the parameter first; there is only one that a reader has typed.
  if (!response.ok) throw new Error((found.error || response.statusText).replace(/^q: /, "Your query: "));
  return found;
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function make(name, text = "", classes = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (classes) element.className = classes;
  return element;
}

// From tokens to words: tokens of the prompt and special tokens belong to none, and are left out.
function byWord(found) {
  const rows = found.query_words, columns = found.document_words;
  const zeros = () => rows.map(() => columns.map(() => 0));
  const similarity = zeros(), plan = zeros(), counted = zeros(), tokens = rows.map(() => 0);
  const weight = columns.map(() => 0);
  found.query_of.forEach((row, i) => {
    const best = columns.map(() => 0);
    found.document_of.forEach((column, j) => {
      if (column < 0) return;
      weight[column] += found.plan[i][j];
      if (row < 0) return;
      best[column] = Math.max(best[column], found.similarity[i][j]);
      plan[row][column] += found.plan[i][j];
    });
    if (row < 0) return;
    tokens[row] += 1;
    best.forEach((value, column) => { similarity[row][column] += value; });
    const column = found.matches.length ? found.document_of[found.matches[i]] : -1;
    if (column >= 0) counted[row][column] += Math.max(0, found.similarity[i][found.matches[i]]);
  });
  similarity.forEach((row, r) => row.forEach((_, c) => { row[c] /= Math.max(1, tokens[r]); }));
  // Long words have more tokens, and so more weight; their shares can be compared.
  plan.forEach((row) => row.forEach((_, c) => { row[c] /= weight[c] || 1; }));
  const strength = columns.map((_, c) => counted.reduce((sum, row) => sum + row[c], 0));
  return { rows, columns, similarity, plan, counted, strength };
}

// The words of a text that the query is most similar to, in the order of the text.
function strongest(words, most) {
  const highest = (c) => Math.max(0, ...words.similarity.map((row) => row[c])) + words.strength[c];
  return words.columns.map((_, c) => c).sort((a, b) => highest(b) - highest(a)).slice(0, most).sort((a, b) => a - b);
}

function heatMap(title, words, shown, values, outlined) {
  // The title is outside of what scrolls, so that a narrow window shows all of it.
  const part = make("div"), table = make("table"), place = make("div", "", "scroll");
  place.tabIndex = 0; // so that the arrow keys can scroll it
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", title);
  table.setAttribute("aria-label", title);
  place.append(table);
  part.append(make("p", title), place);
  const head = table.createTHead().insertRow();
  head.insertCell();
  for (const column of shown) {
    const cell = make("th", words.columns[column]);
    cell.scope = "col";
    cell.dir = "auto";
    head.append(cell);
  }
  const highest = Math.max(1e-9, ...values.flat());
  const body = table.createTBody();
  values.forEach((row, i) => {
    const line = body.insertRow(), name = make("th", words.rows[i]);
    name.scope = "row";
    name.dir = "auto";
    line.append(name);
    const most = outlined ? Math.max(...outlined[i]) : 0;
    for (const j of shown) {
      const cell = line.insertCell(), value = row[j];
      cell.style.backgroundColor = `rgb(var(--hot) / ${(Math.max(0, value) / highest).toFixed(3)})`;
      cell.title = `${words.rows[i]} – ${words.columns[j]}: ${value.toFixed(2)}`;
      cell.append(make("span", value.toFixed(2), "hidden"));
      if (most > 0 && outlined[i][j] === most) cell.classList.add("match");
    }
  });
  return part;
}

function maps(words, why, most) {
  const shown = strongest(words, most), all = words.columns.length;
  why.replaceChildren(
    legend(),
    heatMap("Similarity of words; MaxSim counts the outlined ones", words, shown, words.similarity, words.counted),
    heatMap("Transport plan: how much of each word of the text goes to which word of the query", words, shown, words.plan),
  );
  if (shown.length === all) return;
  const line = make("p", `The ${shown.length} most similar of ${all} words. `), more = make("button", "All words");
  more.type = "button";
  more.addEventListener("click", () => {
    maps(words, why, all);
    why.querySelector(".scroll").focus();
  });
  line.append(more);
  why.append(line);
}

function legend() {
  const line = make("p", "", "legend"), scale = make("span"), box = make("span");
  scale.append("0", make("span", "", "scale"), "highest");
  box.append(make("span", "", "box"), "counted by MaxSim");
  line.append(scale, box);
  return line;
}

// The words of a text that query words count, marked.
function mark(place, text, words) {
  const { strength } = words, least = 0.2 * Math.max(...strength, 0);
  place.replaceChildren();
  let at = 0, shown = 0;
  words.columns.forEach((word, j) => {
    const start = text.indexOf(word, at);
    if (start < 0) return;
    // Weak words are passed, too, or a later word would be found in their place.
    at = start + word.length;
    if (!(strength[j] > least)) return;
    place.append(text.slice(shown, start), make("mark", word));
    shown = at;
  });
  place.append(text.slice(shown));
}

async function explain(query, hit, item) {
  const button = item.querySelector(".result"), why = item.querySelector(".why");
  why.hidden = !why.hidden;
  button.setAttribute("aria-expanded", String(!why.hidden));
  if (why.hidden || why.childElementCount) return;
  try {
    const words = byWord(await call("explain", { q: query, number: hit.number }));
    open(hit, item);
    mark(item.querySelector(".text"), hit.text, words);
    maps(words, why, WIDEST);
  } catch (error) {
    why.textContent = error.message;
  }
}

function open(hit, item) {
  item.querySelector(".text").textContent = hit.text;
  item.querySelector(".more").hidden = true;
}

function show(query, hit) {
  const item = $("hit").content.cloneNode(true).firstElementChild;
  const long = hit.text.length > SHOWN, more = item.querySelector(".more");
  item.querySelector(".text").textContent = long ? `${hit.text.slice(0, SHOWN)}…` : hit.text;
  item.querySelector(".document").textContent = hit.document;
  item.querySelector(".score").textContent = `score ${hit.score.toFixed(2)}`;
  item.querySelector(".result").addEventListener("click", () => explain(query, hit, item));
  more.hidden = !long;
  more.addEventListener("click", () => open(hit, item));
  $("hits").append(item);
}

let newest = 0;
async function search(query) {
  const own = (newest += 1);
  say("Searching…");
  $("hits").replaceChildren();
  try {
    const began = performance.now();
    const { hits } = await call("search", { q: query });
    if (own !== newest) return; // a later search was faster
    for (const hit of hits) show(query, hit);
    const time = Math.round(performance.now() - began);
    say(hits.length ? `${hits.length === 1 ? "1 result" : `${hits.length} results`} in ${time} ms` : "Nothing was found: the index has no text.");
  } catch (error) {
    if (own === newest) say(error.message, true);
  }
}

// An address with ?q= is a search that can be shared.
function go(query, remember = true) {
  $("query").value = query;
  if (remember) history.pushState(null, "", query ? `?${new URLSearchParams({ q: query })}` : ".");
  if (query) search(query);
}

const asked = () => (new URLSearchParams(location.search).get("q") || "").trim();

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (query) go(query);
});
addEventListener("popstate", () => {
  newest += 1;
  $("hits").replaceChildren();
  say("");
  go(asked(), false);
});
addEventListener("keydown", (event) => {
  const results = [...document.querySelectorAll(".result")], at = results.indexOf(document.activeElement);
  if (event.key === "/" && document.activeElement !== $("query")) {
    event.preventDefault();
    $("query").focus();
    $("query").select();
  } else if (results.length && (event.key === "ArrowDown" || (event.key === "ArrowUp" && at >= 0))) {
    event.preventDefault();
    const next = at + (event.key === "ArrowDown" ? 1 : -1);
    (next < 0 ? $("query") : results[Math.min(next, results.length - 1)]).focus();
  }
});

call("about").then((about) => {
  $("collection").textContent = `Search ${about.collection}`;
  document.title = `Search ${about.collection} – optical_rs`;
  const texts = about.texts === 1 ? "1 text" : `${about.texts.toLocaleString("en")} texts`;
  $("about").textContent = `${texts} · model ${about.model}`;
  for (const example of about.examples) {
    const button = make("button", example);
    button.type = "button";
    button.dir = "auto";
    button.addEventListener("click", () => go(example));
    $("examples").append(button);
  }
  $("examples").hidden = about.examples.length === 0;
}).catch((error) => say(error.message, true));
if (asked()) go(asked(), false);
