"use strict";
// Filters, strip plots (uPlot) and one participant highlighted in all of them.
(() => {
  const { images, columns, meanings } = JSON.parse(document.getElementById("data").textContent);
  const LANE = 0.72;
  const COLOURS = { point: "#4f8fd6", chosen: "#d97b00" };
  const plots = [];
  let shown = images.map(() => true);
  let chosen = new Set();

  document.documentElement.classList.add("js");
  const byId = (id) => document.getElementById(id);
  const kinds = [...new Set(images.map((image) => image[2]))];
  const rows = [...document.querySelectorAll("#table tbody tr")];
  const pictures = [...document.querySelectorAll(".picture")];
  // Golden-ratio steps: neighbours lie apart, and every time at the same height.
  const heights = images.map((image, n) => kinds.indexOf(image[2]) + ((n * 0.618034) % 1 - 0.5) * LANE);

  byId("people").append(...[...new Set(images.map((image) => image[0]))].map((name) => {
    const option = document.createElement("option");
    option.value = name;
    return option;
  }));

  function filter() {
    const kind = byId("kind").value, warned = byId("warned").value, rating = byId("rating").value;
    shown = images.map((image) => (!kind || image[2] === kind)
      && (!warned || (warned === "yes") === (image[4] > 0))
      && (!rating || (rating === "none" ? !image[5] : image[5] === rating)));
    rows.forEach((row, n) => { row.hidden = !shown[n]; });
    pictures.forEach((picture, n) => { picture.hidden = !shown[n]; });
    byId("count").textContent = `${shown.filter(Boolean).length} of ${images.length} shown`;
    plots.forEach((plot) => plot.update());
  }

  function choose(participant) {
    const next = new Set(images.flatMap((image, n) => (image[0] === participant ? [n] : [])));
    if (next.size === chosen.size && [...next].every((n) => chosen.has(n))) return;
    for (const n of chosen) { rows[n].classList.remove("chosen"); pictures[n].classList.remove("chosen"); }
    chosen = next;
    for (const n of chosen) { rows[n].classList.add("chosen"); pictures[n].classList.add("chosen"); }
    plots.forEach((plot) => plot.update());
    document.body.dataset.chosen = participant ?? "";
  }

  class Strip {
    constructor(holder, name) {
      this.name = name;
      this.order = columns[name].map((value, n) => [value, n]).filter(([value]) => typeof value === "number")
        .sort((a, b) => a[0] - b[0]);
      const title = document.createElement("h3");
      title.textContent = name;
      const text = document.createElement("p");
      text.textContent = meanings[name]?.Description ?? "";
      this.said = document.createElement("p");
      this.said.className = "said";
      const place = document.createElement("div");
      holder.append(title, text, place, this.said);
      const grey = getComputedStyle(document.body).color;
      const points = (fill, size) => ({ paths: () => null, points: { show: true, size, fill, stroke: fill, space: 0 } });
      this.plot = new uPlot({
        width: holder.clientWidth, height: 70 + 34 * kinds.length,
        legend: { show: false }, cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        scales: { x: { time: false, range: this.range() }, y: { range: [-0.6, kinds.length - 0.4] } },
        axes: [
          { stroke: grey, grid: { show: false }, ticks: { stroke: grey } },
          { stroke: grey, grid: { show: false }, splits: () => kinds.map((kind, n) => n), values: () => kinds, size: 70 },
        ],
        series: [{}, points(COLOURS.point, 6), points(COLOURS.chosen, 10)],
        hooks: { setCursor: [() => this.pointed()] },
      }, this.data(), place);
      const over = place.querySelector(".u-over");
      over.addEventListener("click", () => {
        const n = this.nearest();
        if (n !== null && images[n][3]) location.href = images[n][3];
      });
    }

    range() {
      const low = this.order[0][0], high = this.order[this.order.length - 1][0];
      const margin = (high - low || Math.abs(high) || 1) * 0.04;
      return [low - margin, high + margin];
    }

    data() {
      return [
        this.order.map(([value]) => value),
        this.order.map(([, n]) => (shown[n] ? heights[n] : null)),
        this.order.map(([, n]) => (shown[n] && chosen.has(n) ? heights[n] : null)),
      ];
    }

    update() { this.plot.setData(this.data(), false); this.plot.redraw(); }

    nearest() {
      const { left, top } = this.plot.cursor;
      let best = null, least = 15 ** 2;
      if (left < 0) return null;
      for (const [value, n] of this.order) {
        if (!shown[n]) continue;
        const dx = this.plot.valToPos(value, "x") - left, dy = this.plot.valToPos(heights[n], "y") - top;
        if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = n; }
      }
      return best;
    }

    pointed() {
      const n = this.nearest();
      if (n === null) return;
      const value = columns[this.name][n], unit = meanings[this.name]?.Units;
      this.said.textContent = `${images[n][0]} ${images[n][1]}: ${value}${unit && unit !== "arbitrary" ? ` ${unit}` : ""}`;
      choose(images[n][0]);
    }
  }

  const waiting = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      waiting.unobserve(entry.target);
      plots.push(new Strip(entry.target, entry.target.dataset.metric));
      entry.target.dataset.ready = "yes";
    }
  }, { rootMargin: "100px" });
  for (const [name, values] of Object.entries(columns)) {
    const numbers = new Set(values.filter((value) => typeof value === "number"));
    if (numbers.size < 2) continue;
    const holder = document.createElement("div");
    holder.className = "strip";
    holder.dataset.metric = name;
    holder.style.minHeight = `${150 + 34 * kinds.length}px`;
    document.querySelector(".plots").append(holder);
    waiting.observe(holder);
  }

  byId("columns").addEventListener("click", (event) => {
    event.target.hidden = true;
    const head = document.querySelector("#table thead tr");
    const there = new Set([...head.cells].map((cell) => cell.textContent));
    for (const [name, values] of Object.entries(columns)) {
      if (there.has(name)) continue;
      const cell = document.createElement("th");
      cell.scope = "col"; cell.textContent = name; cell.title = meanings[name]?.Description ?? "";
      head.append(cell);
      rows.forEach((row, n) => { row.insertCell().textContent = values[n] ?? ""; });
    }
  });

  ["kind", "warned", "rating"].forEach((id) => byId(id).addEventListener("change", filter));
  byId("highlight").addEventListener("input", (event) => choose(event.target.value.trim()));
  rows.forEach((row, n) => row.addEventListener("focusin", () => choose(images[n][0])));
  pictures.forEach((picture, n) => picture.addEventListener("mouseenter", () => choose(images[n][0])));
  filter();
})();
