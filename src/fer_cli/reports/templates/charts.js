"use strict";
// What a page was given, and its charts, drawn by the library that it carries. Without this script the tables say the same.
const facts = JSON.parse(document.getElementById("facts").textContent);
const settings = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false, showTips: false };

// With a view box, the style sheet can scale charts to the paper's width, whatever the window's.

function makeScalable(place) {
  for (const svg of place.querySelectorAll(".main-svg")) {
    const [width, height] = [svg.getAttribute("width"), svg.getAttribute("height")];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    place.style.setProperty("--ratio", `${width} / ${height}`);
  }
}

async function drawCharts() {
  await loadLibrary();
  document.documentElement.classList.add("with-charts");
  for (const [id, chart] of Object.entries(facts.charts)) {
    const closed = document.getElementById(id).closest("details:not([open])");
    if (closed) closed.addEventListener("toggle", () => drawChart(id, chart), { once: true }); // a closed one has no size
    else await drawChart(id, chart);
  }
}

async function drawChart(id, { data, layout: own }) {
  const place = await Plotly.newPlot(id, data, own, settings);
  makeScalable(place);
  place.on("plotly_afterplot", () => makeScalable(place));
}

async function loadLibrary() {
  const packed = document.getElementById("library").textContent;
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// On paper everything is open.

const opened = [];
matchMedia("print").addEventListener("change", ({ matches }) => {
  if (matches) for (const fold of document.querySelectorAll("details:not([open])")) opened.push(fold);
  for (const fold of opened) fold.open = matches;
  if (!matches) opened.length = 0;
});
