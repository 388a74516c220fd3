"use strict";
// Views to scroll and flicker, copying, the rating. Without scripts the page shows pictures instead.
(() => {
  const VIRIDIS = "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c1f988b1fa08822a78528ae8032b67a3fbc734ec36b5ec96270cf5784d44b98d83eaddc30c2df23d8e219ece51bfde725";
  const TINT = [255, 176, 0];
  const FLICKER_MS = 700;
  const SHARP_PIXELS = 500;
  const HEADER_BYTES = 352;
  const EDGES = { 0: ["A", "P"], 1: ["R", "L"], 2: ["R", "L"] };
  const NAMES = { 0: "sagittal", 1: "coronal", 2: "axial" };
  const volumes = new Map();

  document.documentElement.classList.add("js");

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key in element && key !== "list") element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };

  async function gunzipped(id) {
    const text = document.getElementById(id).textContent;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function voxels(id) {
    if (!volumes.has(id)) volumes.set(id, gunzipped(id).then((buffer) => new Uint8Array(buffer, HEADER_BYTES)));
    return volumes.get(id);
  }

  function colours() {
    const table = new Uint8Array(256 * 3);
    for (let value = 0; value < 256; value++) {
      const at = (value / 255) * 32, low = Math.min(31, Math.floor(at)), share = at - low;
      for (let c = 0; c < 3; c++) {
        const of = (n) => parseInt(VIRIDIS.substr(6 * n + 2 * c, 2), 16);
        table[3 * value + c] = Math.round(of(low) * (1 - share) + of(low + 1) * share);
      }
    }
    return table;
  }
  const COLOURS = colours();

  class View {
    constructor(figure) {
      this.figure = figure;
      this.spec = JSON.parse(figure.dataset.view);
      this.base = this.spec.layers.filter((layer) => layer.kind === "grey" || layer.kind === "signed");
      this.over = this.spec.layers.filter((layer) => !this.base.includes(layer));
      this.point = [...this.spec.point];
      this.shown = 0;
      this.other = this.base.length > 1 ? 1 : 0;
      this.border = 0;
      this.opacities = this.over.map((layer, n) => (n === 0 ? (layer.kind === "mask" ? 0.7 : 0.9) : 0));
      this.timer = null;
    }

    async start() {
      const all = await Promise.all(this.spec.layers.map((layer) => voxels(layer.volume)));
      this.data = new Map(this.spec.layers.map((layer, n) => [layer, all[n]]));
      this.buildStage();
      this.buildControls();
      this.draw();
      this.figure.dataset.ready = "yes";
    }

    buildStage() {
      const stage = this.figure.querySelector(".stage");
      stage.replaceChildren();
      stage.classList.add("live");
      if (this.spec.planes.length === 1) stage.classList.add("single");
      this.canvases = this.spec.planes.map((axis) => {
        const [across, up] = this.axes(axis);
        const [n, m] = [this.spec.shape[across], this.spec.shape[up]];
        const [width, height] = [n * this.spec.sizes[across], m * this.spec.sizes[up]];
        // Drawn voxel by voxel, then as large as screens are: lines stay thin.
        const scale = Math.max(1, Math.ceil(SHARP_PIXELS / Math.max(n, m)));
        const canvas = make("canvas", { width: n * scale, height: Math.round(m * scale * this.spec.sizes[up] / this.spec.sizes[across]), tabIndex: 0 });
        canvas.small = make("canvas", { width: n, height: m });
        canvas.setAttribute("role", "img");
        canvas.style.aspectRatio = `${width} / ${height}`;
        canvas.addEventListener("click", (event) => this.clicked(event, canvas, axis));
        canvas.addEventListener("keydown", (event) => this.pressed(event, axis));
        const [left, right] = EDGES[axis].map((text) => make("span", { textContent: text }));
        left.className = "left"; right.className = "right";
        const panel = make("div", { className: "panel" }, canvas, left, right);
        panel.style.flexGrow = String(width / height);
        panel.setAttribute("aria-hidden", "false");
        stage.append(panel);
        return canvas;
      });
    }

    axes(axis) { return [[1, 2], [0, 2], [0, 1]][axis]; }

    buildControls() {
      const controls = this.figure.querySelector(".controls");
      const name = this.figure.id;
      if (this.base.length > 1) {
        this.radios = this.base.map((layer, n) => make("input", {
          type: "radio", name: `${name}-show`, value: n, checked: n === 0, onchange: () => this.show(n),
        }));
        const group = make("fieldset", { className: "switch" }, make("legend", { textContent: "Show" }),
          ...this.base.map((layer, n) => make("label", {}, this.radios[n], ` ${layer.name}`)));
        this.select = make("select", { onchange: () => { this.other = Number(this.select.value); this.draw(); } },
          ...this.base.map((layer, n) => make("option", { value: n, textContent: layer.name })));
        this.select.value = this.other;
        this.button = make("button", { type: "button", className: "flicker", textContent: "Flicker", onclick: () => this.flicker() });
        this.button.setAttribute("aria-pressed", "false");
        this.slider = this.range("border", 0, 100, 0, (value) => { this.border = value / 100; this.draw(); }, "Border between the two");
        controls.append(group, make("label", {}, "against ", this.select), this.button, this.slider.label);
      }
      this.sliders = this.spec.planes.map((axis) => this.range(`axis-${axis}`, 0, this.spec.shape[axis] - 1, this.point[axis],
        (value) => { this.point[axis] = value; this.draw(); }, this.spec.planes.length > 1 ? NAMES[axis] : "Slice"));
      controls.append(...this.sliders.map((slider) => slider.label));
      this.over.forEach((layer, n) => controls.append(this.range(`over-${n}`, 0, 100, 100 * this.opacities[n],
        (value) => { this.opacities[n] = value / 100; this.draw(); }, layer.name).label));
      controls.append(make("p", { className: "keys", textContent: this.base.length > 1
        ? "Keys on an image: ↑ ↓ slices, F flicker, space swaps, 1 to 9 pick, [ ] border."
        : "Keys on an image: ↑ ↓ slices." }));
    }

    range(className, min, max, value, onInput, text) {
      const input = make("input", { type: "range", className, min, max, step: 1 });
      input.value = value;
      input.addEventListener("input", () => onInput(Number(input.value)));
      return { input, label: make("label", { className: "range" }, `${text} `, input) };
    }

    show(n) {
      if (n === this.other) this.other = this.shown;
      this.shown = n;
      this.radios[n].checked = true;
      this.select.value = this.other;
      this.draw();
    }

    flicker() {
      const on = this.timer === null;
      if (on) this.timer = setInterval(() => this.show(this.other), FLICKER_MS);
      else { clearInterval(this.timer); this.timer = null; }
      this.button.setAttribute("aria-pressed", String(on));
    }

    move(axis, by) {
      this.point[axis] = Math.max(0, Math.min(this.spec.shape[axis] - 1, this.point[axis] + by));
      const n = this.spec.planes.indexOf(axis);
      if (n >= 0) this.sliders[n].input.value = this.point[axis];
      this.draw();
    }

    pressed(event, axis) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
      const several = this.base.length > 1;
      if (event.key in steps) this.move(axis, steps[event.key]);
      else if (several && event.key.toLowerCase() === "f") this.flicker();
      else if (several && event.key === " ") this.show(this.other);
      else if (several && event.key >= "1" && Number(event.key) <= this.base.length) this.show(Number(event.key) - 1);
      else if (several && (event.key === "[" || event.key === "]")) {
        this.border = Math.max(0, Math.min(1, this.border + (event.key === "[" ? -0.05 : 0.05)));
        this.slider.input.value = 100 * this.border;
        this.draw();
      } else return;
      event.preventDefault();
    }

    clicked(event, canvas, axis) {
      const box = canvas.getBoundingClientRect();
      const [across, up] = this.axes(axis);
      const at = (share, size) => Math.max(0, Math.min(size - 1, Math.floor((1 - share) * size)));
      this.point[across] = at((event.clientX - box.left) / box.width, this.spec.shape[across]);
      this.point[up] = at((event.clientY - box.top) / box.height, this.spec.shape[up]);
      [across, up].forEach((own) => this.move(own, 0));
      canvas.focus();
    }

    draw() {
      const [nx, ny] = this.spec.shape;
      const strides = [1, nx, nx * ny];
      const left = this.data.get(this.base[this.other]), right = this.data.get(this.base[this.shown]);
      const over = this.over.map((layer, n) => [layer, this.data.get(layer), this.opacities[n]]).filter(([, , o]) => o > 0);
      this.canvases.forEach((canvas, n) => {
        const axis = this.spec.planes[n], [across, up] = this.axes(axis);
        const [width, height] = [canvas.small.width, canvas.small.height];
        const context = canvas.small.getContext("2d"), picture = context.createImageData(width, height), out = picture.data;
        const column = Math.round(this.border * width);
        for (let y = 0, to = 0; y < height; y++) {
          const row = this.point[axis] * strides[axis] + (height - 1 - y) * strides[up];
          for (let x = 0; x < width; x++, to += 4) {
            const at = row + (width - 1 - x) * strides[across];
            const grey = x < column ? left[at] : right[at];
            let [r, g, b] = [grey, grey, grey];
            for (const [layer, data, opacity] of over) {
              const value = data[at];
              if (value === 0) continue;
              const share = (opacity * value) / 255;
              const [p, q, s] = layer.kind === "mask" ? TINT : COLOURS.subarray(3 * value, 3 * value + 3);
              r += (p - r) * share; g += (q - g) * share; b += (s - b) * share;
            }
            out[to] = r; out[to + 1] = g; out[to + 2] = b; out[to + 3] = 255;
          }
        }
        context.putImageData(picture, 0, 0);
        this.enlarge(canvas, column / width, [1 - (this.point[across] + 0.5) / width, 1 - (this.point[up] + 0.5) / height]);
        canvas.setAttribute("aria-label",
          `${this.base[this.shown].name}, ${NAMES[axis]} plane ${this.point[axis] + 1} of ${this.spec.shape[axis]}`);
      });
      this.figure.dataset.shown = this.base[this.shown].name;
    }

    enlarge(canvas, border, cross) {
      const context = canvas.getContext("2d"), { width, height } = canvas;
      const line = (x, y, w, h, colour) => { context.fillStyle = colour; context.fillRect(x, y, w, h); };
      context.imageSmoothingQuality = "high";
      context.drawImage(canvas.small, 0, 0, width, height);
      if (this.spec.planes.length > 1) {
        const [x, y] = [Math.round(cross[0] * width), Math.round(cross[1] * height)], gap = Math.round(width / 20);
        const colour = "rgba(90, 180, 255, 0.6)";
        line(x, 0, 1, y - gap, colour); line(x, y + gap, 1, height - y, colour);
        line(0, y, x - gap, 1, colour); line(x + gap, y, width - x, 1, colour);
      }
      if (border > 0 && border < 1) line(Math.round(border * width) - 1, 0, 2, height, "rgb(255, 176, 0)");
    }
  }

  const waiting = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      waiting.unobserve(entry.target);
      new View(entry.target).start();
    }
  }, { rootMargin: "200px" });
  document.querySelectorAll("figure.view").forEach((figure) => waiting.observe(figure));

  document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", () => {
    const source = document.getElementById(button.dataset.copy);
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
    button.textContent = "Copied";
  }));

  document.querySelectorAll("form.rating").forEach((form) => form.addEventListener("submit", (event) => {
    event.preventDefault();
    const targets = {};
    for (const set of form.querySelectorAll("fieldset")) {
      const picked = set.querySelector("input[type=radio]:checked");
      const artefacts = [...set.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.value);
      if (picked || artefacts.length) targets[set.dataset.target] = { rating: picked ? picked.value : null, artefacts };
    }
    const status = form.querySelector("[role=status]");
    if (!Object.values(targets).some((target) => target.rating)) {
      status.textContent = "Pick good, doubtful or bad for at least one image first.";
      return;
    }
    const rating = {
      page: form.dataset.stem, label: form.dataset.label, atlasgs: form.dataset.version,
      rated: new Date().toISOString(), targets, comment: form.elements.comment.value,
    };
    const link = make("a", { download: `${form.dataset.stem}_rating.json` });
    link.href = URL.createObjectURL(new Blob([JSON.stringify(rating, null, 2) + "\n"], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    status.textContent = `Saved as ${link.download}.`;
  }));

  window.atlasgs = { gunzipped, make };
})();
