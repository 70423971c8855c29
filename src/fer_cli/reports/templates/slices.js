"use strict";
// Slices through volumes of grey values, with one cursor. Without this script the page keeps its pictures and tables.
(() => {
  const root = document.documentElement;
  const given = facts.slices;
  const shape = given.shape;
  const steps = [shape[1] * shape[2], shape[2], 1]; // z varies fastest, as numpy has it
  const count = shape[0] * steps[0];
  const spacing = given.spacing ?? [1, 1, 1];
  const element = (id) => document.getElementById(id);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const short = (value) => String(Number(value.toPrecision(4)));

  // Volumes.

  async function unpack({ packed, bits, low, step, words, name }) {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const plain = new Uint8Array(await new Response(stream).arrayBuffer());
    const half = plain.length / 2; // of two bytes, all high ones come first
    const codes = bits > 8 ? Uint16Array.from({ length: half }, (_, i) => (plain[i] << 8) + plain[half + i]) : plain;
    return { name, words, low, step, codes };
  }

  let volumes = [];

  /** The value of a voxel, given its place in a channel. */
  const reader = ({ codes, low, step }) => {
    const start = state.channel * count;
    const [first, each] = [low[state.channel], step[state.channel]];
    return (at) => first + each * codes[start + at];
  };

  // What is shown.

  const state = {
    cursor: [...given.cursor], channel: 0, other: 1, beside: true, swap: false, projection: false, cross: true,
    windows: given.windows.map((window) => [...window]),
    overlays: { blame: null, error: null, field: null }, // opacity, null where switched off
    layer: element("field-layer")?.value,
  };
  const shares = blamedShares();
  let error = { channel: -1 };

  function blamedShares() {
    const found = new Float32Array(count);
    given.boxes.forEach(([[x0, x1], [y0, y1], [z0, z1]], number) => {
      const weight = given.weights[number] ?? 1;
      for (let x = x0; x < x1; x++) for (let y = y0; y < y1; y++) for (let z = z0; z < z1; z++) {
        found[x * steps[0] + y * steps[1] + z] += weight;
      }
    });
    const most = found.reduce((a, b) => Math.max(a, b), 0) || 1;
    return found.map((value) => value / most);
  }

  /** Absolute difference of the input and the volume compared, from 0 to 1 at its 99th percentile. */
  function errorShares() {
    if (error.channel === state.channel && error.other === state.other) return error;
    const [input, other] = [reader(volumes[0]), reader(volumes[state.other])];
    const found = Float32Array.from({ length: count }, (_, at) => Math.abs(input(at) - other(at)));
    const scale = found.slice().sort()[Math.floor(0.99 * (count - 1))] || 1;
    error = { channel: state.channel, other: state.other, scale, shares: found.map((value) => Math.min(1, value / scale)) };
    return error;
  }

  /** Of each axis, the range that the location whose receptive field is nearest to the cursor sees. */
  function fieldAtCursor() {
    return given.fields[state.layer].map((ranges, axis) => {
      const away = ([low, high]) => Math.abs((low + high - 1) / 2 - state.cursor[axis]);
      return ranges.reduce((best, range) => (away(range) < away(best) ? range : best));
    });
  }

  // Pictures.

  const index = (plane, side, place) => {
    const axis = side ? plane.down : plane.across;
    return plane.mirrored[side] ? shape[axis] - 1 - place : place;
  };

  /** Values of a plane as it is drawn, row by row: of the slice at the cursor, or the largest along its normal. */
  function raster(plane, read) {
    const [width, height, depth] = [shape[plane.across], shape[plane.down], shape[plane.normal]];
    const through = steps[plane.normal];
    const drawn = new Float32Array(width * height);
    for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
      const at = index(plane, 0, column) * steps[plane.across] + index(plane, 1, row) * steps[plane.down];
      let value = read(at + (state.projection ? 0 : state.cursor[plane.normal]) * through);
      if (state.projection) for (let k = 1; k < depth; k++) value = Math.max(value, read(at + k * through));
      drawn[row * width + column] = value;
    }
    return drawn;
  }

  function pixels(plane, volume) {
    const [low, high] = state.windows[state.channel];
    const values = raster(plane, reader(volume));
    const image = new ImageData(shape[plane.across], shape[plane.down]);
    values.forEach((value, i) => {
      const grey = Math.round(255 * clamp((value - low) / (high - low), 0, 1));
      image.data.set([grey, grey, grey, 255], 4 * i);
    });
    const tint = (share, colour, opacity) => raster(plane, (at) => share[at]).forEach((value, i) => {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] += (colour[c] - image.data[4 * i + c]) * value * opacity;
    });
    if (state.overlays.error !== null) tint(errorShares().shares, given.colours.error, state.overlays.error);
    if (state.overlays.blame !== null) tint(shares, given.colours.blame, state.overlays.blame);
    return image;
  }

  function draw(place, plane, volume) {
    const image = pixels(plane, volume);
    const small = new OffscreenCanvas(image.width, image.height);
    small.getContext("2d").putImageData(image, 0, 0);
    const canvas = place.querySelector("canvas");
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    const [across, down] = [canvas.width / image.width, canvas.height / image.height];
    const column = index(plane, 0, state.cursor[plane.across]), row = index(plane, 1, state.cursor[plane.down]);
    pen.lineWidth = Math.max(1, devicePixelRatio);
    if (state.overlays.field !== null) {
      const field = fieldAtCursor();
      const ends = [plane.across, plane.down].map((axis, side) =>
        field[axis].map((end) => (plane.mirrored[side] ? shape[axis] - end : end)).sort((a, b) => a - b));
      pen.globalAlpha = state.overlays.field;
      pen.strokeStyle = "#f0e442";
      pen.setLineDash([4 * pen.lineWidth, 3 * pen.lineWidth]);
      pen.strokeRect(ends[0][0] * across + 1, ends[1][0] * down + 1,
        (ends[0][1] - ends[0][0]) * across - 2, (ends[1][1] - ends[1][0]) * down - 2);
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }
    if (state.cross) {
      const [x, y] = [(column + 0.5) * across, (row + 0.5) * down];
      const gap = Math.max(6 * devicePixelRatio, across / 2 + 2, down / 2 + 2);
      pen.strokeStyle = `rgb(${given.colours.cross.join()})`;
      pen.beginPath();
      for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, canvas.width, y], [x, 0, x, y - gap], [x, y + gap, x, canvas.height]]) {
        if (x1 > x0 || y1 > y0) { pen.moveTo(x0, y0); pen.lineTo(x1, y1); }
      }
      pen.stroke();
    }
    place.dataset.slice = state.cursor[plane.normal];
  }

  // Words.

  function position() {
    const voxel = `voxel ${state.cursor.map((value, axis) => `${"xyz"[axis]} ${value}`).join(", ")}`;
    if (given.affine) {
      const world = given.affine.map((row) => row[3] + row.slice(0, 3).reduce((sum, part, axis) => sum + part * state.cursor[axis], 0));
      return `${voxel} · ${world.map((mm, axis) => `${(mm < 0 ? "LPI" : "RAS")[axis]} ${Math.abs(mm).toFixed(1)}`).join(", ")} mm`;
    }
    if (!given.spacing) return voxel;
    return `${voxel} · ${state.cursor.map((value, axis) => (value * spacing[axis]).toFixed(1)).join(", ")} mm from the first voxel`;
  }

  function tell() {
    const at = state.cursor.reduce((sum, value, axis) => sum + value * steps[axis], 0);
    const [input, other] = [volumes[0], volumes[state.other]].map((volume) => reader(volume)(at));
    element("slice-readout").textContent =
      `${position()} · input ${short(input)} · ${volumes[state.other].words} ${short(other)} · difference ${short(Math.abs(input - other))}`;
    element("error-scale").textContent = state.overlays.error === null ? "" : `full colour from ${short(errorShares().scale)}`;
    given.planes.forEach((plane, number) => {
      const slider = element(`slider-${number}`), place = state.cursor[plane.normal];
      slider.value = place;
      slider.disabled = state.projection;
      element(`index-${number}`).textContent = `${"xyz"[plane.normal]} ${place}`;
    });
  }

  function panels() {
    const both = [volumes[0], volumes[state.other]];
    return [["first", both[+state.swap]], ...(state.beside ? [["second", both[1 - +state.swap]]] : [])];
  }

  let queued = 0;

  function redraw() {
    queued ||= requestAnimationFrame(() => {
      queued = 0;
      for (const [panel, volume] of panels()) {
        element(`head-${panel}`).textContent = volume.words;
        given.planes.forEach((plane, number) => draw(element(`${panel}-${number}`), plane, volume));
      }
      element("panel-second").hidden = !state.beside;
      tell();
    });
  }

  /** One scale for all planes, so that a millimetre is as long in each. */
  function fit() {
    const room = element("panel-first").querySelector(".plane").clientWidth;
    const extent = (axis) => shape[axis] * spacing[axis];
    const widest = Math.max(...given.planes.map((plane) => extent(plane.across)));
    const tallest = Math.max(...given.planes.map((plane) => extent(plane.down)));
    const scale = Math.min(room / widest, Math.max(240, 0.6 * innerHeight) / tallest);
    for (const panel of ["first", "second"]) given.planes.forEach((plane, number) => {
      const canvas = element(`${panel}-${number}`).querySelector("canvas");
      const [width, height] = [extent(plane.across) * scale, extent(plane.down) * scale];
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    });
    redraw();
  }

  // What moves.

  function move(axis, place) {
    state.cursor[axis] = clamp(place, 0, shape[axis] - 1);
    redraw();
  }

  /** Take the cursor to where a pointer is; in a projection, to the voxel that is seen there. */
  function point(place, plane, volume, event) {
    const box = place.querySelector("canvas").getBoundingClientRect();
    const sides = [[plane.across, (event.clientX - box.left) / box.width], [plane.down, (event.clientY - box.top) / box.height]];
    sides.forEach(([axis, share], side) => {
      state.cursor[axis] = index(plane, side, clamp(Math.floor(share * shape[axis]), 0, shape[axis] - 1));
    });
    if (state.projection) {
      const read = reader(volume);
      const at = sides.reduce((sum, [axis]) => sum + state.cursor[axis] * steps[axis], 0);
      let best = 0;
      for (let k = 1; k < shape[plane.normal]; k++) {
        if (read(at + k * steps[plane.normal]) > read(at + best * steps[plane.normal])) best = k;
      }
      state.cursor[plane.normal] = best;
    }
    redraw();
  }

  function listenToSlice(place, plane, volume) {
    const taken = (event) => point(place, plane, volume(), event);
    let held = false;
    place.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = true;
      place.setPointerCapture(event.pointerId);
      if (event.pointerType !== "touch") taken(event); // a touch may be the beginning of a scroll
    });
    place.addEventListener("pointermove", (event) => { if (held) taken(event); });
    for (const end of ["pointerup", "pointercancel"]) place.addEventListener(end, () => { held = false; });
    place.addEventListener("click", taken);
    const along = (side, step) => {
      const axis = side ? plane.down : plane.across;
      move(axis, state.cursor[axis] + (plane.mirrored[side] ? -step : step));
    };
    const keys = {
      ArrowLeft: () => along(0, -1), ArrowRight: () => along(0, 1), ArrowUp: () => along(1, -1), ArrowDown: () => along(1, 1),
      PageUp: () => move(plane.normal, state.cursor[plane.normal] + 1),
      PageDown: () => move(plane.normal, state.cursor[plane.normal] - 1),
      Home: () => { state.cursor = [...given.cursor]; redraw(); },
    };
    place.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  /** The window's sliders and numbers say its middle and its width. */
  function showWindow() {
    const [low, high] = state.windows[state.channel], { low: least, step, codes } = volumes[0];
    const range = step[state.channel] * codes.subarray(state.channel * count, (state.channel + 1) * count).reduce((a, b) => Math.max(a, b), 0);
    const spans = { level: [least[state.channel], least[state.channel] + range], width: [range / 1000, 2 * range] };
    const values = { level: (low + high) / 2, width: high - low };
    for (const [name, [from, to]] of Object.entries(spans)) {
      const slider = element(`window-${name}`);
      slider.min = Math.min(from, values[name]);
      slider.max = Math.max(to, values[name]);
      slider.value = values[name];
      element(`number-${name}`).value = short(values[name]);
    }
  }

  function setWindow(name, value) {
    const [low, high] = state.windows[state.channel];
    const level = name === "level" ? value : (low + high) / 2;
    const width = name === "width" ? value : high - low;
    if (!Number.isFinite(value) || !(width > 0)) return;
    state.windows[state.channel] = [level - width / 2, level + width / 2];
    redraw();
  }

  /** Follow a control now, since browsers remember, and whenever it changes. */
  function follow(id, change) {
    const control = element(id);
    if (!control) return;
    const changed = () => { change(control); redraw(); };
    control.addEventListener("input", changed);
    change(control);
  }

  function listen() {
    for (const panel of ["first", "second"]) given.planes.forEach((plane, number) => {
      listenToSlice(element(`${panel}-${number}`), plane, () => panels()[+(panel === "second")][1]);
    });
    given.planes.forEach((plane, number) => {
      const slider = element(`slider-${number}`);
      slider.max = shape[plane.normal] - 1;
      slider.addEventListener("input", () => move(plane.normal, Number(slider.value)));
    });
    follow("slice-other", ({ value }) => { state.other = volumes.findIndex(({ name }) => name === value); });
    follow("slice-channel", ({ selectedIndex }) => { state.channel = selectedIndex; showWindow(); });
    for (const name of ["beside", "swap", "projection", "cross"]) follow(`slice-${name}`, ({ checked }) => { state[name] = checked; });
    follow("field-layer", ({ value }) => { state.layer = value; });
    for (const name of Object.keys(state.overlays)) {
      const change = () => {
        const box = element(`overlay-${name}`);
        state.overlays[name] = box?.checked ? Number(element(`opacity-${name}`).value) : null;
      };
      follow(`overlay-${name}`, change);
      follow(`opacity-${name}`, change);
    }
    for (const name of ["level", "width"]) for (const kind of ["window", "number"]) {
      const control = element(`${kind}-${name}`);
      control.addEventListener("input", () => {
        setWindow(name, control.valueAsNumber);
        if (kind === "window") element(`number-${name}`).value = short(control.valueAsNumber);
      });
      if (kind === "number") control.addEventListener("change", showWindow);
    }
    element("window-reset").addEventListener("click", () => {
      state.windows[state.channel] = [...given.windows[state.channel]];
      showWindow();
      redraw();
    });
  }

  async function start() {
    volumes = await Promise.all(given.volumes.map(unpack));
    root.classList.add("interactive");
    showWindow();
    listen();
    new ResizeObserver(fit).observe(element("panel-first"));
    fit();
  }

  start().catch((problem) => {
    root.classList.remove("interactive");
    element("static-note").append(`The slices cannot be moved here: ${problem.message}. `);
  }).then(drawCharts).catch((problem) => {
    element("static-note").append(`Charts cannot be drawn here: ${problem.message}. `);
  }).finally(() => { root.dataset.ready = "true"; });
})();
