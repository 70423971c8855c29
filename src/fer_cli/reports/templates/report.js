"use strict";
// The report's rotatable shapes. Without WebGL, or without this script, the page keeps its pictures and tables.
(() => {
  const root = document.documentElement;
  const [X, Y, Z] = facts.shape;
  const longest = Math.max(X, Y, Z);

  // Grids. z varies fastest, as numpy has it.

  const at = (x, y, z) => (x * Y + y) * Z + z;
  const inside = (x, y, z) => x >= 0 && x < X && y >= 0 && y < Y && z >= 0 && z < Z;

  function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Uint8Array.from({ length: X * Y * Z }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
  }

  const both = (a, b, keep) => a.map((value, i) => +keep(value, b[i]));

  // Voxels as cubes: faces that another cube hides are left out, corners in nooks are darker, and every other voxel is a
  // little darker, so that voxels can be told apart. Axis, outward step, light.
  const SIDES = [[0, -1, 0.84], [0, 1, 0.74], [1, -1, 0.66], [1, 1, 0.78], [2, 1, 1.0], [2, -1, 0.55]];
  const SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]];
  const DARKEST_CORNER = 0.62;
  const ODD_VOXEL = 0.95;

  function cubes(name, cells, colour, { size = 1, shading = cells } = {}) {
    const near = (x, y, z) => (inside(x, y, z) ? shading[at(x, y, z)] : 0);
    const points = [[], [], []], corners = [[], [], []], intensity = [];
    for (let x = 0; x < X; x++) for (let y = 0; y < Y; y++) for (let z = 0; z < Z; z++) {
      if (!cells[at(x, y, z)]) continue;
      const cell = [x, y, z];
      for (const [axis, step, light] of SIDES) {
        const front = [x, y, z];
        front[axis] += step;
        if (size === 1 && inside(...front) && cells[at(...front)]) continue;
        const [first, second] = [0, 1, 2].filter((other) => other !== axis);
        const start = intensity.length;
        for (const [a, b] of SQUARE) {
          const corner = [0, 0, 0];
          corner[axis] = (step + 1) / 2;
          corner[first] = a;
          corner[second] = b;
          for (let i = 0; i < 3; i++) points[i].push(cell[i] + 0.5 + (corner[i] - 0.5) * size);
          const beside = [...front], above = [...front], across = [...front];
          beside[first] += a ? 1 : -1;
          above[second] += b ? 1 : -1;
          across[first] = beside[first];
          across[second] = above[second];
          const sides = near(...beside) + near(...above);
          const covered = sides === 2 ? 3 : sides + near(...across);
          const voxel = (x + y + z) % 2 ? ODD_VOXEL : 1;
          intensity.push(light * voxel * (1 - ((1 - DARKEST_CORNER) * covered) / 3));
        }
        corners[0].push(start, start);
        corners[1].push(start + 1, start + 2);
        corners[2].push(start + 2, start + 3);
      }
    }
    return {
      type: "mesh3d", name, hoverinfo: "skip", showscale: false, flatshading: true,
      x: points[0], y: points[1], z: points[2], i: corners[0], j: corners[1], k: corners[2],
      intensity, cmin: 0, cmax: 1, colorscale: [[0, "#000000"], [1, colour]],
      lighting: { ambient: 1, diffuse: 0, specular: 0, fresnel: 0, roughness: 1 },
    };
  }

  function wireframe(name, boxes, colour, width) {
    const lines = [[], [], []];
    const drawn = new Set();
    for (const box of boxes) {
      for (let a = 0; a < 8; a++) for (const bit of [1, 2, 4]) {
        const b = a | bit;
        if (a === b) continue;
        const ends = [a, b].map((corner) => box.map((span, axis) => span[(corner >> axis) & 1]));
        if (drawn.has(ends.join())) continue;
        drawn.add(ends.join());
        for (let i = 0; i < 3; i++) lines[i].push(ends[0][i], ends[1][i], null);
      }
    }
    return {
      type: "scatter3d", mode: "lines", name, x: lines[0], y: lines[1], z: lines[2],
      line: { color: colour, width }, hoverinfo: "skip", connectgaps: false,
    };
  }

  // What each view shows.

  const views = facts.views.map(({ name, bits, colour }) => ({
    name, colour, cells: unpack(bits), place: document.getElementById(`view-${name}`),
    special: Boolean(document.querySelector(`[data-special="${name}"]`)?.checked),
  }));
  const input = views[0].cells;
  const shown = { matching: true, missing: true, extra: true };
  const colours = facts.colours;
  const floor = wireframe("floor", [[[0, X], [0, Y], [0, 0]]], colours.outline, 2);

  function overlay(view) {
    const masks = {
      matching: both(view.cells, input, (drawn, wanted) => drawn && wanted),
      extra: both(view.cells, input, (drawn, wanted) => drawn && !wanted),
      missing: both(view.cells, input, (drawn, wanted) => !drawn && wanted),
    };
    // Missing voxels are drawn small, so that an overlay can be read without colour.
    const shading = shown.matching ? view.cells : masks.extra;
    return Object.keys(masks).filter((kind) => shown[kind]).map((kind) =>
      cubes(kind, masks[kind], colours[kind], { size: kind === "missing" ? 0.6 : 1, shading }));
  }

  function blamed(view) {
    const counts = new Uint16Array(view.cells.length);
    for (const [[x0, x1], [y0, y1], [z0, z1]] of facts.boxes) {
      for (let x = x0; x < x1; x++) for (let y = y0; y < y1; y++) for (let z = z0; z < z1; z++) counts[at(x, y, z)]++;
    }
    const most = counts.reduce((a, b) => Math.max(a, b), 0);
    const [pale, dark] = colours.seen;
    const solids = [];
    for (let count = 0; count <= most; count++) {
      const cells = both(view.cells, counts, (drawn, n) => drawn && n === count);
      if (!cells.includes(1)) continue;
      const share = Math.max(0, count - 1) / Math.max(1, most - 1);
      const mixed = pale.map((value, i) => Math.round(value + (dark[i] - value) * share));
      const colour = count ? `rgb(${mixed.join()})` : colours.matching;
      solids.push(cubes(`in ${count} boxes`, cells, colour, { shading: view.cells }));
    }
    return [...solids, wireframe("blamed boxes", facts.boxes, colours.box, facts.boxes.length > 4 ? 2 : 4)];
  }

  function traces(view) {
    const plain = () => [cubes("shape", view.cells, view.colour)];
    const content = !view.special ? plain() : view === views[0] ? blamed(view) : overlay(view);
    return [floor, ...content.filter((trace) => trace.x.length)];
  }

  // One camera for all views: parallel, as in the pictures.

  const ZOOM = 1.12;
  const home = { eye: { x: 2 * facts.eye[0], y: 2 * facts.eye[1], z: 2 * facts.eye[2] }, center: { x: 0, y: 0, z: 0 } };
  const common = { up: { x: 0, y: 0, z: 1 }, projection: { type: "orthographic" } };
  let camera = { ...home, ...common };
  let zoom = ZOOM;

  const ratio = () => ({ x: (zoom * X) / longest, y: (zoom * Y) / longest, z: (zoom * Z) / longest });

  function layout() {
    const axis = (length) => ({ visible: false, range: [0, length], autorange: false, showspikes: false });
    const clear = "rgba(0,0,0,0)";
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: clear, showlegend: false, hovermode: false, autosize: true,
      scene: {
        bgcolor: clear, camera, aspectmode: "manual", aspectratio: ratio(), dragmode: "turntable", hovermode: false,
        xaxis: axis(X), yaxis: axis(Y), zaxis: axis(Z),
      },
    };
  }

  let queued = null;

  function aimAll(except) {
    if (queued) cancelAnimationFrame(queued);
    queued = requestAnimationFrame(() => {
      queued = null;
      const change = { "scene.camera": camera, "scene.aspectratio": ratio() };
      for (const view of views) if (view !== except) Plotly.relayout(view.place, change);
    });
  }

  function follow(view) {
    const moved = (event) => {
      const seen = event["scene.camera"];
      if (!seen || JSON.stringify(seen.eye) === JSON.stringify(camera.eye)) return; // our own doing
      camera = { ...common, eye: seen.eye, center: seen.center };
      aimAll(view);
    };
    view.place.on("plotly_relayouting", moved);
    view.place.on("plotly_relayout", moved);
  }

  function turn(around, upward) {
    const { x, y, z } = camera.eye;
    const length = Math.hypot(x, y, z);
    const azimuth = Math.atan2(y, x) + around;
    const height = Math.min(1.5, Math.max(-1.5, Math.asin(z / length) + upward));
    const flat = length * Math.cos(height);
    camera = { ...camera, eye: { x: flat * Math.cos(azimuth), y: flat * Math.sin(azimuth), z: length * Math.sin(height) } };
    aimAll();
  }

  const STEP = Math.PI / 12;
  const actions = {
    left: () => turn(-STEP, 0),
    right: () => turn(STEP, 0),
    up: () => turn(0, STEP),
    down: () => turn(0, -STEP),
    nearer: () => { zoom = Math.min(4, zoom * 1.2); aimAll(); },
    farther: () => { zoom = Math.max(0.4, zoom / 1.2); aimAll(); },
    reset: () => { camera = { ...home, ...common }; zoom = ZOOM; aimAll(); },
  };
  const KEYS = {
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
    "+": "nearer", "=": "nearer", "-": "farther", 0: "reset", Home: "reset",
  };

  const redraw = (view) => Plotly.react(view.place, traces(view), layout(), settings);

  function listen() {
    for (const button of document.querySelectorAll("[data-action]")) {
      button.addEventListener("click", () => actions[button.dataset.action]());
    }
    for (const box of document.querySelectorAll("[data-special]")) {
      const view = views.find(({ name }) => name === box.dataset.special);
      box.addEventListener("change", () => { view.special = box.checked; return redraw(view); });
    }
    for (const box of document.querySelectorAll("[data-kind]")) {
      const change = () => {
        shown[box.dataset.kind] = box.checked;
        views.slice(1).filter((view) => view.special).forEach(redraw);
      };
      box.addEventListener("change", change);
      if (!box.checked) change();
    }
    for (const view of views) {
      view.place.addEventListener("keydown", (event) => {
        const action = actions[KEYS[event.key]];
        if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        action();
      });
      follow(view);
    }
  }

  function hasWebGL() {
    const context = document.createElement("canvas").getContext("webgl");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return Boolean(context);
  }

  async function start() {
    await drawCharts();
    if (!hasWebGL()) throw new Error("this browser offers no WebGL");
    root.classList.add("interactive");
    for (const view of views) await Plotly.newPlot(view.place, traces(view), layout(), settings);
    listen();
  }

  start().catch((error) => {
    root.classList.remove("interactive");
    document.getElementById("static-note").textContent = `The shapes cannot be rotated here: ${error.message}.`;
  }).finally(() => { root.dataset.ready = "true"; });
})();
