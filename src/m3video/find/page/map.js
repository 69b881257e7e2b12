// The map: a dot a clip, on a canvas that zooms and moves.

const MARGIN = 34;
const REACH = 14; // pixels from the pointer to a dot it means
const MOVE = 700; // milliseconds from old places to new ones

export class MapView {
  /** hover(row or null, x, y) and choose(row). */
  constructor(canvas, { hover, choose }) {
    Object.assign(this, { canvas, hover, choose });
    this.context = canvas.getContext("2d");
    // All dots, drawn once for a view: pointing and choosing only add rings to them.
    this.layer = document.createElement("canvas");
    this.x = this.y = new Float32Array(0);
    this.groups = []; // [{colour, rows}]
    this.shown = null; // rows that are not dimmed: a Set, or null for all
    this.marked = [];
    this.chosen = this.pointed = null;
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.#listen();
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** New places, each in 0 … 1; dots wander there. */
  setPlaces(x, y) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const from = [this.x, this.y];
    if (still || from[0].length !== x.length) {
      [this.x, this.y] = [Float32Array.from(x), Float32Array.from(y)];
      return this.#redraw();
    }
    const begin = performance.now();
    const step = (now) => {
      const part = Math.min(Math.max((now - begin) / MOVE, 0), 1);
      const eased = part * part * (3 - 2 * part);
      this.x = from[0].map((value, row) => value + (x[row] - value) * eased);
      this.y = from[1].map((value, row) => value + (y[row] - value) * eased);
      this.#redraw();
      if (part < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  /** What else is drawn; any of groups, shown, marked, chosen, pointed. */
  set(what) {
    Object.assign(this, what);
    if ("groups" in what || ("shown" in what && what.shown !== this.drawn)) this.stale = true;
    this.draw();
  }

  zoomBy(factor, x = this.width / 2, y = this.height / 2) {
    const [u, v] = this.#place(x, y);
    this.view.zoom = Math.min(Math.max(this.view.zoom * factor, 1), 60);
    const [a, b] = this.#place(x, y);
    this.view.x += u - a;
    this.view.y += v - b;
    this.#keepInside();
    this.#redraw();
  }

  showAll() {
    this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.#redraw();
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#paint();
    });
  }

  /** The dots are elsewhere, or others. */
  #redraw() {
    this.stale = true;
    this.draw();
  }

  /** Pixels of a row's dot. */
  spot(row) {
    const { zoom, x, y } = this.view;
    const scale = this.#scale() * zoom;
    return [this.width / 2 + (this.x[row] - x) * scale, this.height / 2 + (this.y[row] - y) * scale];
  }

  #scale() {
    return Math.max(10, Math.min(this.width, this.height) - 2 * MARGIN);
  }

  #place(x, y) {
    const scale = this.#scale() * this.view.zoom;
    return [this.view.x + (x - this.width / 2) / scale, this.view.y + (y - this.height / 2) / scale];
  }

  #keepInside() {
    const free = 0.5 - 0.5 / this.view.zoom + 0.15;
    for (const axis of ["x", "y"]) this.view[axis] = Math.min(Math.max(this.view[axis], 0.5 - free), 0.5 + free);
  }

  #radius() {
    const base = Math.min(Math.max(90 / Math.sqrt(this.x.length || 1), 1.8), 6.5);
    const small = Math.min(1, Math.max(0.6, this.#scale() / 420)); // on a small canvas, small dots
    return base * small * Math.min(this.view.zoom ** 0.4, 3);
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    [this.layer.width, this.layer.height] = [this.canvas.width, this.canvas.height];
    this.#redraw();
  }

  #paint() {
    const { context, layer } = this;
    const style = getComputedStyle(document.documentElement);
    const radius = this.#radius();
    if (this.stale) this.#paintDots(style, radius);
    context.clearRect(0, 0, this.width, this.height);
    if (layer.width && layer.height) context.drawImage(layer, 0, 0, this.width, this.height);
    const ring = style.getPropertyValue("--ring");
    for (const row of this.marked) this.#ring(row, radius + 1.5, ring, 1);
    if (this.chosen !== null) this.#ring(this.chosen, radius + 5, ring, 2.5);
    if (this.pointed !== null) this.#ring(this.pointed, radius + 3, ring, 2);
  }

  #paintDots(style, radius) {
    const { groups, shown } = this;
    const context = this.layer.getContext("2d");
    this.stale = false;
    this.drawn = shown;
    context.clearRect(0, 0, this.layer.width, this.layer.height);
    // A rim, so that dots that overlap are still told apart.
    const rim = this.x.length < 3000 ? style.getPropertyValue("--panel") : null;
    context.globalAlpha = 0.5;
    if (shown) this.#dots(context, groups.flatMap((group) => group.rows).filter((row) => !shown.has(row)), radius * 0.7, style.getPropertyValue("--dim"), rim);
    context.globalAlpha = this.x.length > 2000 ? 0.75 : 0.9;
    for (const { colour, rows } of groups) this.#dots(context, shown ? rows.filter((row) => shown.has(row)) : rows, radius, colour, rim);
  }

  /** One dot is drawn, and copied to all places: thousands of arcs in one path take far longer. */
  #dots(context, rows, radius, colour, rim) {
    const ratio = this.layer.width / (this.width || 1);
    const side = 2 * Math.ceil((radius + 1) * ratio);
    const dot = document.createElement("canvas");
    dot.width = dot.height = side;
    const pen = dot.getContext("2d");
    pen.fillStyle = colour;
    pen.arc(side / 2, side / 2, radius * ratio, 0, 2 * Math.PI);
    pen.fill();
    if (rim) {
      pen.strokeStyle = rim;
      pen.lineWidth = ratio;
      pen.stroke();
    }
    for (const row of rows) {
      const [x, y] = this.spot(row);
      if (x < -9 || y < -9 || x > this.width + 9 || y > this.height + 9) continue;
      context.drawImage(dot, x * ratio - side / 2, y * ratio - side / 2);
    }
  }

  #ring(row, radius, colour, width) {
    const [x, y] = this.spot(row);
    this.context.strokeStyle = colour;
    this.context.lineWidth = width;
    this.context.beginPath();
    this.context.arc(x, y, radius, 0, 2 * Math.PI);
    this.context.stroke();
  }

  #nearest(x, y) {
    let found = null;
    let best = REACH * REACH;
    for (let row = 0; row < this.x.length; row++) {
      if (this.shown && !this.shown.has(row)) continue;
      const [u, v] = this.spot(row);
      const distance = (u - x) ** 2 + (v - y) ** 2;
      if (distance < best) [found, best] = [row, distance];
    }
    return found;
  }

  #listen() {
    const { canvas } = this;
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.offsetX, y: event.offsetY, view: { ...this.view }, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const { offsetX: x, offsetY: y } = event;
      if (held && (held.moved || Math.hypot(x - held.x, y - held.y) > 4)) {
        held.moved = true;
        canvas.classList.add("moving");
        const scale = this.#scale() * this.view.zoom;
        this.view.x = held.view.x - (x - held.x) / scale;
        this.view.y = held.view.y - (y - held.y) / scale;
        this.#keepInside();
        this.hover(null);
        return this.#redraw();
      }
      const row = this.#nearest(x, y);
      canvas.classList.toggle("point", row !== null);
      return row === null ? this.hover(null) : this.hover(row, ...this.spot(row));
    });
    canvas.addEventListener("pointerup", (event) => {
      const row = held && !held.moved ? this.#nearest(event.offsetX, event.offsetY) : null;
      held = null;
      canvas.classList.remove("moving");
      if (row !== null) this.choose(row);
    });
    canvas.addEventListener("pointercancel", () => (held = null));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("dblclick", () => this.showAll());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * 0.0016), event.offsetX, event.offsetY);
    }, { passive: false });
  }
}
