"use strict";
// Text of queries and documents reaches the page through textContent alone.
const $ = (id) => document.getElementById(id);
const SHOWN = 300; // characters of a text before it is opened

async function call(path, parameters = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`).catch(() => {
    throw new Error("The server does not answer. Is optical-rs serve still running?");
  });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
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
  found.query_of.forEach((row, i) => {
    if (row < 0) return;
    tokens[row] += 1;
    const best = columns.map(() => 0);
    found.document_of.forEach((column, j) => {
      if (column < 0) return;
      best[column] = Math.max(best[column], found.similarity[i][j]);
      plan[row][column] += found.plan[i][j];
    });
    best.forEach((value, column) => { similarity[row][column] += value; });
    const column = found.matches.length ? found.document_of[found.matches[i]] : -1;
    if (column >= 0) counted[row][column] += Math.max(0, found.similarity[i][found.matches[i]]);
  });
  similarity.forEach((row, r) => row.forEach((_, c) => { row[c] /= Math.max(1, tokens[r]); }));
  return { rows, columns, similarity, plan, counted };
}

function heatMap(title, words, values, outlined) {
  const table = make("table");
  table.createCaption().textContent = title;
  const head = table.createTHead().insertRow();
  head.insertCell();
  for (const word of words.columns) {
    const cell = make("th", word);
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
    row.forEach((value, j) => {
      const cell = line.insertCell();
      cell.style.backgroundColor = `rgb(var(--hot) / ${(Math.max(0, value) / highest).toFixed(3)})`;
      cell.title = `${words.rows[i]} – ${words.columns[j]}: ${value.toFixed(2)}`;
      cell.append(make("span", value.toFixed(2), "hidden"));
      if (most > 0 && outlined[i][j] === most) cell.classList.add("match");
    });
  });
  return table;
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
  const strength = words.columns.map((_, j) => words.counted.reduce((sum, row) => sum + row[j], 0));
  const least = 0.2 * Math.max(...strength, 0);
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
    why.append(
      legend(),
      heatMap("Similarity of words; MaxSim counts the outlined ones", words, words.similarity, words.counted),
      heatMap("Transport plan: where the weight of each query word goes", words, words.plan),
    );
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
    say(hits.length ? `${hits.length} results in ${time} ms` : "Nothing was found: the index has no text.");
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
  $("about").textContent = `${about.texts.toLocaleString("en")} texts of ${about.collection} · model ${about.model}`;
  if (about.example) {
    $("example").hidden = false;
    $("example").addEventListener("click", () => go(about.example));
  }
}).catch((error) => say(error.message, true));
if (asked()) go(asked(), false);
