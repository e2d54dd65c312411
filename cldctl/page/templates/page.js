"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  document.documentElement.classList.add("live");

  const element = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const numbers = (text) => text.split(" ").map(Number);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const trimmed = (value, digits) => String(Number(value.toPrecision(digits)));

  // As axis.py.
  const compact = (value) => {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size && Math.abs(value) < 1e12) return trimmed(value / size, 4) + unit;
    }
    return trimmed(value, 4);
  };
  const ticks = (low, high, about) => {
    const size = (high - low) / about;
    const unit = 10 ** Math.floor(Math.log10(size));
    const step = [1, 2, 5, 10].map((it) => it * unit).find((it) => it >= size) || size;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) found.push(i * step);
    return found;
  };
  const powers = (low, high, kind, unit) => {
    const isSymmetric = kind === "symlog";
    const largest = Math.log10(Math.max(Math.abs(low), Math.abs(high)));
    const least = Math.log10(isSymmetric ? 3 * unit : low);
    const sides = isSymmetric && Math.min(-low, high) > 10 * unit ? 2 : 1;
    const every = Math.max(Math.ceil(sides * (largest - least) / 6), 1);
    const factors = largest - least <= 2 && !isSymmetric ? [1, 2, 5] : [1];
    const found = [];
    const first = every * (isSymmetric ? Math.ceil(least / every) : Math.floor(least / every));
    for (let i = first; i <= Math.floor(largest); i += every) found.push(...factors.map((it) => it * 10 ** i));
    if (isSymmetric) found.unshift(...found.map((it) => -it).reverse(), 0);
    return found.filter((it) => it >= low && it <= high);
  };
  const SCALES = {
    linear: { place: (value) => value, value: (place) => place },
    log: { place: Math.log10, value: (place) => 10 ** place },
    symlog: {
      place: (value, unit) => Math.asinh(value / (2 * unit)),
      value: (place, unit) => 2 * unit * Math.sinh(place),
    },
  };

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.svg = figure.querySelector("svg.chart");
      [this.left, this.top, this.right, this.bottom] = numbers(this.svg.dataset.frame);
      this.whole = numbers(this.svg.dataset.bounds);
      this.bounds = [...this.whole];
      [this.kind, this.unit] = (this.svg.dataset.scale || "linear 1").split(" ");
      this.unit = Number(this.unit);
      const names = Object.entries(JSON.parse(this.svg.dataset.names || "{}"));
      this.names = new Map(names.map(([x, name]) => [Number(x), name]));
      this.hasNames = this.names.size > 0;
      this.lines = [...this.svg.querySelectorAll("g.line")].map((group) => ({
        group,
        label: group.dataset.label,
        faint: "faint" in group.dataset,
        points: group.dataset.points.split(" ").map((point) => point.split(",").map(Number)),
      }));
      this.cursor = element("line", { class: "cursor", y1: this.top, y2: this.bottom, visibility: "hidden" });
      this.selection = element("rect", { class: "selection", y: this.top, height: this.bottom - this.top, width: 0 });
      this.svg.append(this.selection, this.cursor);
      this.tip = document.createElement("div");
      this.tip.className = "tip";
      this.tip.setAttribute("role", "status");
      this.tip.hidden = true;
      figure.append(this.tip);
      this.listen();
    }

    listen() {
      const svg = this.svg;
      svg.tabIndex = 0;
      svg.addEventListener("pointermove", (event) => this.moved(event));
      svg.addEventListener("pointerleave", () => this.hide());
      svg.addEventListener("blur", () => this.hide());
      svg.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || this.hasNames) return;
        this.from = this.across(event);
      });
      window.addEventListener("pointerup", (event) => this.released(event));
      svg.addEventListener("pointercancel", () => this.drop());
      svg.addEventListener("dblclick", () => this.reset());
      svg.addEventListener("keydown", (event) => this.pressed(event));
      for (const box of this.figure.querySelectorAll(".legend input")) {
        box.addEventListener("change", () => this.toggled());
      }
      this.toggled();
    }

    x(value) { return this.left + ((value - this.bounds[0]) / (this.bounds[1] - this.bounds[0])) * (this.right - this.left); }
    place(value) { return SCALES[this.kind].place(value, this.unit); }
    y(value) {
      const [low, high] = [this.place(this.bounds[2]), this.place(this.bounds[3])];
      const part = (this.place(clamp(value, this.bounds[2], this.bounds[3])) - low) / (high - low);
      return this.bottom - part * (this.bottom - this.top);
    }
    yTicks() {
      const [, , low, high] = this.bounds;
      const found = this.kind === "linear" ? [] : powers(low, high, this.kind, this.unit);
      return found.length > 1 ? found : ticks(low, high, 4);
    }
    value(x) { return this.bounds[0] + ((x - this.left) / (this.right - this.left)) * (this.bounds[1] - this.bounds[0]); }
    across(event) {
      const box = this.svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
      return clamp(x, this.left, this.right);
    }
    shown() { return this.lines.filter((line) => !line.hidden); }
    // Points have nine digits, and the bounds have more.
    inside(line) {
      const least = 1e-8 * Math.max(Math.abs(this.whole[0]), Math.abs(this.whole[1]));
      return line.points.filter(([x]) => x >= this.bounds[0] - least && x <= this.bounds[1] + least);
    }

    moved(event) {
      const x = this.across(event);
      if (this.from !== undefined) {
        this.selection.setAttribute("x", Math.min(x, this.from));
        this.selection.setAttribute("width", Math.abs(x - this.from));
      }
      this.show(this.value(x));
    }

    released(event) {
      if (this.from === undefined) return;
      const [first, last] = [this.from, this.across(event)].sort((a, b) => a - b);
      this.drop();
      if (last - first > 6) this.zoom(this.value(first), this.value(last));
    }

    drop() {
      this.from = undefined;
      this.selection.setAttribute("width", 0);
    }

    pressed(event) {
      const [first, last] = this.bounds;
      const at = this.at === undefined ? (first + last) / 2 : this.at;
      const known = {
        ArrowRight: () => this.show(this.next(at, 1)),
        ArrowLeft: () => this.show(this.next(at, -1)),
        "+": () => this.zoom(at - (last - first) / 4, at + (last - first) / 4),
        "-": () => this.zoom(first - (last - first) / 2, last + (last - first) / 2),
        Escape: () => this.reset(),
      };
      if (!(event.key in known) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      known[event.key]();
    }

    next(at, direction) {
      const xs = this.shown().flatMap((line) => this.inside(line).map(([x]) => x)).sort((a, b) => a - b);
      return (direction > 0 ? xs.find((x) => x > at) : xs.findLast((x) => x < at)) ?? at;
    }

    // The values of all lines at the point that is nearest to x.
    show(x) {
      const shown = this.shown();
      const clear = shown.filter((line) => !line.faint);
      const nearest = (line) => this.inside(line).reduce(
        (best, point) => (!best || Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best), undefined);
      const found = shown.map((line) => [line, nearest(line)]).filter(([, point]) => point);
      const main = found.filter(([line]) => clear.includes(line));
      if (!main.length) return this.hide();
      this.at = main.reduce((best, [, [px]]) => (Math.abs(px - x) < Math.abs(best - x) ? px : best), main[0][1][0]);
      const name = this.names.get(this.at) ?? trimmed(this.at, 9);
      const rows = found.map(([line, [, y, error]]) =>
        `${line.label}${line.faint ? " (as reported)" : ""}: ${trimmed(y, 5)}${error === undefined ? "" : ` ± ${trimmed(error, 2)}`}`);
      this.tip.textContent = [`${this.svg.dataset.x} ${name}`, ...rows].join("\n");
      const place = this.x(this.at);
      for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, place);
      this.cursor.setAttribute("visibility", "visible");
      this.tip.hidden = false;
      const scale = this.svg.clientWidth / this.svg.viewBox.baseVal.width;
      const room = this.figure.clientWidth - this.tip.offsetWidth;
      const right = place * scale + 12;
      this.tip.style.left = `${right <= room ? right : Math.max(0, place * scale - 12 - this.tip.offsetWidth)}px`;
      this.tip.style.top = `${this.svg.getBoundingClientRect().top - this.figure.getBoundingClientRect().top + 4}px`;
    }

    hide() {
      this.at = undefined;
      this.tip.hidden = true;
      this.cursor.setAttribute("visibility", "hidden");
    }

    zoom(first, last) {
      if (this.hasNames) return;
      first = Math.max(first, this.whole[0]);
      last = Math.min(last, this.whole[1]);
      const isIn = ([x]) => x >= first && x <= last;
      if (!(last > first) || !this.shown().some((line) => line.points.some(isIn))) return;
      this.bounds[0] = first;
      this.bounds[1] = last;
      this.fit();
    }

    reset() {
      this.bounds = [...this.whole];
      this.fit();
    }

    toggled() {
      for (const box of this.figure.querySelectorAll(".legend input")) {
        const line = this.lines.find(({ group }) => group.classList.contains(box.value));
        if (line) line.hidden = !box.checked;
      }
      if (this.shown().length < this.lines.length || this.isFitted) this.fit();
    }

    // Stretch what is visible over the frame, and draw again.
    fit() {
      const isWhole = this.bounds[0] === this.whole[0] && this.bounds[1] === this.whole[1];
      const shown = this.shown();
      if (isWhole && shown.length === this.lines.length) {
        [, , this.bounds[2], this.bounds[3]] = this.whole;
      } else {
        const ys = shown.flatMap((line) => this.inside(line).flatMap(([, y, e = 0]) => [y - e, y + e]))
          .filter((y) => this.kind !== "log" || y > 0).sort((a, b) => a - b);
        if (ys.length) {
          const beyond = Math.floor(0.01 * ys.length);
          const [low, high] = [ys[beyond], ys[ys.length - 1 - beyond]].map((y) => this.place(y));
          const margin = 0.05 * (high - low) || Math.abs(high) * 0.1 || 1;
          [this.bounds[2], this.bounds[3]] = [low - margin, high + margin]
            .map((place) => SCALES[this.kind].value(place, this.unit));
        }
      }
      this.isFitted = true;
      this.draw();
      this.offerReset(!isWhole);
      this.hide();
    }

    offerReset(wanted) {
      if (this.button) this.button.remove();
      this.button = undefined;
      if (!wanted) return;
      this.button = document.createElement("button");
      this.button.type = "button";
      this.button.className = "reset";
      this.button.textContent = "Reset zoom";
      this.button.addEventListener("click", () => { this.reset(); this.svg.focus(); });
      this.figure.append(this.button);
    }

    draw() {
      for (const line of this.lines) {
        const places = line.hidden ? [] : this.inside(line).map(([x, y, e]) => [this.x(x), this.y(y), e === undefined ? null : [this.y(y + e), this.y(y - e)]]);
        line.group.replaceChildren();
        if (places.length > 1) {
          const path = places.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
          line.group.append(element("polyline", { class: line.faint ? "curve faint" : "curve", points: path }));
        }
        for (const [x, , bar] of places) {
          if (bar) line.group.append(element("path", { class: "bar", fill: "none", d: `M${x} ${bar[0]}V${bar[1]}m-3 0h6M${x - 3} ${bar[0]}h6` }));
        }
        if (places.length <= 40) {
          for (const [x, y] of places) line.group.append(element("circle", { class: "dot", cx: x, cy: y, r: 2.6 }));
        }
      }
      this.drawAxes();
    }

    drawAxes() {
      const yAxis = this.svg.querySelector(".y-axis");
      yAxis.replaceChildren();
      for (const value of this.yTicks()) {
        const y = this.y(value);
        yAxis.append(element("line", { class: "gridline", x1: this.left, x2: this.right, y1: y, y2: y }));
        const text = element("text", { x: this.left - 8, y: y + 4, "text-anchor": "end" });
        text.textContent = compact(value);
        yAxis.append(text);
      }
      if (this.hasNames) return;
      const xAxis = this.svg.querySelector(".x-axis");
      xAxis.replaceChildren();
      let end = 0;
      for (const value of ticks(this.bounds[0], this.bounds[1], 5)) {
        const text = element("text", { y: this.bottom + 18, "text-anchor": "middle" });
        text.textContent = compact(value);
        xAxis.append(text);
        // A label that would leave the picture or touch its neighbour is moved, or left out.
        const half = text.getBBox().width / 2;
        const at = clamp(this.x(value), half, this.svg.viewBox.baseVal.width - half);
        text.setAttribute("x", at);
        if (at - half < end) text.remove();
        else end = at + half + 8;
      }
    }
  }

  for (const figure of document.querySelectorAll("figure.plot")) new Chart(figure);

  for (const image of document.querySelectorAll("figure.picture img")) {
    const figure = image.closest("figure");
    const toggle = () => image.setAttribute("aria-pressed", figure.classList.toggle("large"));
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.setAttribute("aria-pressed", "false");
    image.addEventListener("click", toggle);
    image.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }
})();
