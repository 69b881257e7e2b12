// The page: what is shown, what is chosen. Names come from files: they are only ever set as text.

import { Grid, strip } from "/grid.js";
import { MapView } from "/map.js";

const $ = (id) => document.getElementById(id);
const CHIPS = 40;
const dark = matchMedia("(prefers-color-scheme: dark)");

let data; // as /rows gives it
let by = "label";
let only = null; // the category that alone is shown
let chosen = null;
let asked = 0; // the newest question for neighbours; answers to older ones are dropped

const grid = new Grid($("grid"), $("pane"), { make: card, choose: open, point: (row) => map.set({ pointed: row }) });
const map = new MapView($("map"), { hover: tip, choose: open });

// -- what a row is called

const path = (row) => data.videos[data.video[row]];
const name = (row) => path(row).split("/").pop();
const category = (row) => data[by][row];
const categoryName = (value) => (by === "cluster" ? `Cluster ${value + 1}` : value < 0 ? "no label" : data.labels[value]);
const seconds = (row) => data.end[row] - data.start[row];
const span = (row) =>
  data.per === "video" ? `${seconds(row).toFixed(1)} s` : `${data.start[row].toFixed(1)} – ${data.end[row].toFixed(1)} s`;
const picture = (row) => strip(`/preview/${row}?v=${data.token}`, seconds(row));

/** Hues that are told apart; what is more gets the golden angle. */
const HUES = [258, 45, 155, 320, 95, 205, 18, 290, 125, 235, 70, 345];

function colour(value) {
  if (value < 0) return getComputedStyle(document.documentElement).getPropertyValue("--muted");
  const hue = HUES[value] ?? (258 + value * 137.508) % 360;
  const lift = [0, 0.07, -0.05][Math.floor(value / HUES.length) % 3];
  return dark.matches ? `oklch(${0.74 + lift} 0.145 ${hue})` : `oklch(${0.6 + lift} 0.175 ${hue})`;
}

function element(tag, kind, ...inside) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...inside);
  return made;
}

function dot(value) {
  const made = element("span", "dot");
  made.style.background = colour(value);
  return made;
}

function card(row, note) {
  const made = element("button", "card");
  made.type = "button";
  made.setAttribute("role", "option");
  made.setAttribute("aria-selected", row === chosen);
  made.title = data.folder + path(row);
  const word = element("span", "word", categoryName(category(row)));
  const number = element("span", "number", note === undefined ? span(row) : note.toFixed(3));
  made.append(picture(row), element("p", "name", name(row)), element("div", "meta", dot(category(row)), word, number));
  made.setAttribute("aria-label", `${name(row)}, ${word.textContent}, ${number.textContent}`);
  return made;
}

// -- all clips

function matching() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (let row = 0; row < data.video.length; row++) {
    if (only !== null && category(row) !== only) continue;
    const label = data.label[row] < 0 ? "" : data.labels[data.label[row]];
    const text = `${path(row)} ${label}`.toLowerCase();
    if (words.every((word) => text.includes(word))) rows.push(row);
  }
  return rows;
}

function showAll() {
  const rows = matching();
  const total = data.video.length;
  const unit = data.per === "video" ? "video" : "clip";
  const many = (count) => `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
  $("chosen").hidden = true;
  $("player").replaceChildren();
  $("count").textContent = rows.length === total ? many(total) : `${rows.length.toLocaleString("en")} of ${many(total)}`;
  grid.show(rows);
  $("grid").querySelector(".empty")?.remove();
  if (!rows.length) $("grid").append(element("p", "empty", `Nothing is called “${$("search").value}” here.`));
  map.set({ shown: rows.length === total ? null : new Set(rows), marked: [], chosen: null });
}

// -- one clip and its neighbours

/** Choose a clip. The address says which, so that the browser's back button goes back. */
function open(row) {
  location.hash = `clip=${row}`;
}

function follow() {
  const row = Number(/^#clip=(\d+)$/.exec(location.hash)?.[1] ?? -1);
  chosen = row >= 0 && row < data.video.length ? row : null;
  if (chosen === null) return showAll();
  return showChosen();
}

async function showChosen() {
  const row = chosen;
  const question = ++asked;
  $("chosen").hidden = false;
  $("chosen-name").textContent = name(row);
  const facts = [
    ["Folder", (data.folder + path(row)).slice(0, -name(row).length - 1)],
    ["Time", data.per === "video" ? `${seconds(row).toFixed(2)} s` : `${data.start[row].toFixed(2)} – ${data.end[row].toFixed(2)} s`],
  ];
  const list = facts.flatMap(([term, text]) => [element("dt", "", term), element("dd", "", text)]);
  if (data.label[row] >= 0) list.push(element("dt", "", "Label"), element("dd", "", ...(by === "label" ? [dot(data.label[row])] : []), data.labels[data.label[row]]));
  list.push(element("dt", "", "Cluster"), element("dd", "", ...(by === "cluster" ? [dot(data.cluster[row])] : []), String(data.cluster[row] + 1)));
  $("chosen-facts").replaceChildren(...list);
  play(row);
  $("pane").scrollTop = 0;
  const others = $("others").checked ? "?others=1" : "";
  const answer = await fetch(`/near/${row}${others}`).then((response) => response.json()).catch(() => null);
  if (question !== asked || chosen !== row) return;
  if (!answer) return void ($("count").textContent = "The server does not answer any more.");
  $("grid").querySelector(".empty")?.remove();
  $("count").textContent = `${answer.rows.length} nearest, by cosine`;
  grid.show(answer.rows, answer.cosine);
  map.set({ shown: null, marked: answer.rows.slice(0, 12), chosen: row });
}

function play(row) {
  const film = document.createElement("video");
  const [start, end] = data.per === "clip" ? [data.start[row], data.end[row]] : [0, Infinity];
  Object.assign(film, { controls: true, muted: true, playsInline: true });
  film.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  film.addEventListener("error", () => {
    const preview = picture(row);
    preview.classList.add("playing");
    $("player").replaceChildren(preview, element("p", "", "Twelve frames: this browser cannot play the file itself."));
  });
  // The clip begins anew where it ends; who moves on behind it sees the rest of the video.
  let before = start;
  film.addEventListener("timeupdate", () => {
    const now = film.currentTime;
    if (before < end && now >= end && now - before < 1 && !film.paused) film.currentTime = start;
    before = film.currentTime;
  });
  film.addEventListener("ended", () => {
    film.currentTime = start;
    film.play().catch(() => {});
  });
  film.src = `/film/${row}?v=${data.token}#t=${start}`;
  $("player").replaceChildren(film);
}

function back() {
  if (chosen === null) return;
  const row = chosen;
  history.pushState(null, "", location.pathname);
  follow();
  const place = grid.rows.indexOf(row);
  if (place >= 0) grid.focus(place);
}

// -- the map's tip, colours and kind

let tipped = null;

function tip(row, x, y) {
  map.set({ pointed: row });
  const box = $("tip");
  box.hidden = row === null;
  if (row === null) return void (tipped = null);
  if (row !== tipped) {
    tipped = row;
    const preview = picture(row);
    preview.classList.add("playing");
    const meta = element("div", "meta", dot(category(row)), element("span", "word", categoryName(category(row))), element("span", "number", span(row)));
    box.replaceChildren(preview, element("div", "name", name(row)), meta);
  }
  const left = x + 18 + box.offsetWidth > map.width ? x - 18 - box.offsetWidth : x + 18;
  box.style.left = `${Math.max(6, left)}px`;
  box.style.top = `${Math.max(6, Math.min(y - 40, map.height - box.offsetHeight - 6))}px`;
}

function paint() {
  const groups = new Map();
  for (let row = 0; row < data.video.length; row++) {
    if (!groups.has(category(row))) groups.set(category(row), []);
    groups.get(category(row)).push(row);
  }
  const sorted = [...groups].sort(([a], [b]) => a - b);
  map.set({ groups: sorted.map(([value, rows]) => ({ colour: colour(value), rows })) });
  const largest = [...sorted].sort((a, b) => b[1].length - a[1].length).slice(0, CHIPS).map(([value]) => value);
  const chips = sorted.filter(([value]) => largest.includes(value)).map(([value, rows]) => {
    const chip = element("button", "", dot(value), element("span", "", categoryName(value)), element("small", "", String(rows.length)));
    chip.type = "button";
    chip.title = categoryName(value);
    chip.setAttribute("aria-pressed", only === value);
    chip.addEventListener("click", () => filter(only === value ? null : value));
    return chip;
  });
  if (sorted.length > CHIPS) chips.push(element("small", "", `and ${sorted.length - CHIPS} more`));
  $("chips").replaceChildren(...chips);
  for (const button of $("colour").children) button.setAttribute("aria-pressed", button.dataset.by === by);
}

function filter(value) {
  const place = [...$("chips").children].indexOf(document.activeElement);
  only = value;
  paint();
  if (place >= 0) $("chips").children[place]?.focus(); // the chips are new elements
  leave();
}

/** Back to the list, whatever was chosen. */
function leave() {
  if (location.hash) history.pushState(null, "", location.pathname);
  follow();
}

async function places() {
  const answer = await fetch("/map").then((response) => response.json()).catch(() => null);
  if (!answer) return;
  map.setPlaces(answer.x, answer.y);
  const text = { pca: "PCA", umap: "UMAP" }[answer.kind];
  $("kind").textContent = answer.waiting ? `${text} for now; UMAP is being found` : text;
  $("kind").classList.toggle("waiting", answer.waiting);
  if (answer.waiting) setTimeout(places, 1500);
}

// -- the beginning

function listen() {
  $("search").addEventListener("input", leave);
  $("others").addEventListener("change", showChosen);
  $("back").addEventListener("click", back);
  $("in").addEventListener("click", () => map.zoomBy(1.6));
  $("out").addEventListener("click", () => map.zoomBy(1 / 1.6));
  $("all").addEventListener("click", () => map.showAll());
  $("colour").addEventListener("click", (event) => {
    if (!event.target.dataset.by) return;
    by = event.target.dataset.by;
    only = null;
    paint();
    follow();
  });
  addEventListener("popstate", follow);
  dark.addEventListener("change", () => (paint(), follow()));
  addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== $("search")) {
      event.preventDefault();
      $("search").select();
    } else if (event.key === "Escape" && chosen !== null) back();
    else if (event.key === "Escape" && $("search").value) {
      $("search").value = "";
      leave();
    }
  });
}

async function begin() {
  data = await fetch("/rows").then((response) => response.json());
  if (!data.labels.length) {
    by = "cluster";
    $("colour").hidden = true;
  }
  $("others").checked = data.per === "clip";
  document.title = `${data.name} · M³Video`;
  $("name").textContent = data.name;
  const count = (number, unit) => `${number.toLocaleString("en")} ${unit}${number === 1 ? "" : "s"}`;
  const facts = [count(data.videos.length, "video")];
  if (data.per === "clip") facts.push(count(data.video.length, "clip"));
  facts.push(`${data.width} features`, data.model);
  if (data.unreadable) facts.push(`${data.unreadable} unreadable`);
  $("facts").textContent = facts.join(" · ");
  listen();
  paint();
  follow();
  places();
}

begin();
