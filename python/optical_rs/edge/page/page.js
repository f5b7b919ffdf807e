"use strict";
// Text of queries and documents reaches the page through textContent alone.
const $ = (id) => document.getElementById(id);

async function call(path, parameters) {
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || response.statusText);
  return found;
}

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function heatMap(title, found, values, matches) {
  const table = document.createElement("table");
  table.createCaption().textContent = title;
  const head = table.createTHead().insertRow();
  head.append(document.createElement("th"));
  for (const token of found.document) {
    const cell = document.createElement("th");
    cell.textContent = token;
    head.append(cell);
  }
  const all = values.flat();
  const low = Math.min(...all), high = Math.max(...all);
  const body = table.createTBody();
  values.forEach((row, i) => {
    const line = body.insertRow();
    const name = document.createElement("th");
    name.textContent = found.query[i];
    line.append(name);
    row.forEach((value, j) => {
      const cell = line.insertCell();
      const heat = high > low ? (value - low) / (high - low) : 0;
      cell.style.backgroundColor = `rgb(var(--hot) / ${heat.toFixed(3)})`;
      cell.title = `${found.query[i]} – ${found.document[j]}: ${value}`;
      if (matches && matches[i] === j) cell.classList.add("match");
    });
  });
  return table;
}

async function explain(query, hit, item) {
  const button = item.querySelector(".result"), why = item.querySelector(".why");
  why.hidden = !why.hidden;
  button.setAttribute("aria-expanded", String(!why.hidden));
  if (why.hidden || why.childElementCount) return;
  try {
    const found = await call("explain", { q: query, number: hit.number });
    why.append(
      heatMap("Similarity; outlined: what each query token counts (MaxSim)", found, found.similarity, found.matches),
      heatMap("Transport plan", found, found.plan),
    );
  } catch (error) {
    why.textContent = error.message;
  }
}

async function search(query) {
  say("…");
  $("hits").replaceChildren();
  try {
    const began = performance.now();
    const { hits } = await call("search", { q: query });
    for (const hit of hits) {
      const item = $("hit").content.cloneNode(true).firstElementChild;
      item.querySelector(".document").textContent = hit.document;
      item.querySelector(".score").textContent = hit.score.toFixed(3);
      item.querySelector(".text").textContent = hit.text.length > 400 ? `${hit.text.slice(0, 400)}…` : hit.text;
      item.querySelector(".result").addEventListener("click", () => explain(query, hit, item));
      $("hits").append(item);
    }
    say(`${hits.length} results in ${Math.round(performance.now() - began)} ms; click one to see why`);
  } catch (error) {
    say(error.message, true);
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (query) search(query);
});
