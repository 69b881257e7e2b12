// A list of clips as cards. Only those in sight are elements, so 100,000 cost no more than 100.

const GAP = 16;
const TEXT = 46; // pixels below a picture
const WIDEST = 190;
const PAUSE = 60; // milliseconds before a picture is asked for

/** A strip of frames that plays while it is pointed at. */
export function strip(url, seconds) {
  const box = document.createElement("div");
  box.className = "strip";
  box.style.setProperty("--seconds", `${Math.min(Math.max(seconds, 0.6), 5)}s`);
  const image = new Image();
  image.alt = "";
  image.draggable = false;
  image.decoding = "async";
  image.addEventListener("load", () => box.classList.add("ready"));
  image.addEventListener("error", () => box.classList.add("broken"));
  box.append(image);
  // What is scrolled past is not asked for: the pictures in sight would wait behind it.
  setTimeout(() => box.isConnected && (image.src = url), PAUSE);
  return box;
}

export class Grid {
  /** make(row, note): the card of a row; choose(row): it was clicked; point(row or null). */
  constructor(box, pane, { make, choose, point }) {
    Object.assign(this, { box, pane, make, choose, point });
    this.rows = [];
    this.notes = [];
    this.cards = new Map(); // position -> card
    this.current = 0;
    this.columns = 1;
    pane.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(pane);
    box.addEventListener("click", (event) => this.#at(event, (place) => this.#choose(place)));
    box.addEventListener("pointerover", (event) => this.#at(event, (place) => this.point(this.rows[place])));
    box.addEventListener("pointerleave", () => this.point(null));
    box.addEventListener("focusin", (event) => this.#at(event, (place) => this.#enter(place)));
    box.addEventListener("focusout", () => this.point(null));
    box.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show these rows; notes are numbers beside them, such as cosines. */
  show(rows, notes = []) {
    this.rows = rows;
    this.notes = notes;
    this.current = 0;
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.layout();
  }

  layout() {
    const width = this.box.clientWidth;
    this.columns = Math.max(2, Math.ceil((width + GAP) / (WIDEST + GAP)));
    this.wide = (width - GAP * (this.columns - 1)) / this.columns;
    this.tall = this.wide * 0.75 + TEXT;
    const lines = Math.ceil(this.rows.length / this.columns);
    this.box.style.height = `${Math.max(0, lines * (this.tall + GAP) - GAP)}px`;
    for (const [place, card] of this.cards) this.#place(place, card);
    this.draw();
  }

  draw() {
    const top = this.pane.scrollTop - this.box.offsetTop;
    const step = this.tall + GAP;
    const first = Math.max(0, Math.floor(top / step) - 1) * this.columns;
    const last = Math.min(this.rows.length, (Math.ceil((top + this.pane.clientHeight) / step) + 1) * this.columns);
    const held = document.activeElement;
    for (const [place, card] of this.cards) {
      if ((place < first || place >= last) && card !== held) {
        card.querySelector("img").removeAttribute("src"); // ends a request that waits
        card.remove();
        this.cards.delete(place);
      }
    }
    for (let place = first; place < last; place++) if (!this.cards.has(place)) this.#add(place);
    this.#tabStop();
  }

  focus(place) {
    this.current = Math.min(Math.max(place, 0), this.rows.length - 1);
    const top = this.box.offsetTop + Math.floor(this.current / this.columns) * (this.tall + GAP);
    const pane = this.pane;
    if (top < pane.scrollTop + 8) pane.scrollTop = top - 24;
    const bottom = top + this.tall;
    if (bottom > pane.scrollTop + pane.clientHeight) pane.scrollTop = bottom - pane.clientHeight + 24;
    this.draw();
    this.cards.get(this.current)?.focus({ preventScroll: true });
  }

  #add(place) {
    const card = this.make(this.rows[place], this.notes[place]);
    card.dataset.place = place;
    card.setAttribute("aria-setsize", this.rows.length);
    card.setAttribute("aria-posinset", place + 1);
    this.#place(place, card);
    this.cards.set(place, card);
    // In the order of the list, for those who read the page in order.
    const next = [...this.box.children].find((other) => Number(other.dataset.place) > place);
    this.box.insertBefore(card, next ?? null);
  }

  #place(place, card) {
    const line = Math.floor(place / this.columns);
    card.style.width = `${this.wide}px`;
    card.style.height = `${this.tall}px`;
    card.style.left = `${(place % this.columns) * (this.wide + GAP)}px`;
    card.style.top = `${line * (this.tall + GAP)}px`;
  }

  /** One card is reached by Tab: the current one, or the first in sight. */
  #tabStop() {
    const stop = this.cards.has(this.current) ? this.current : Math.min(...this.cards.keys());
    for (const [place, card] of this.cards) card.tabIndex = place === stop ? 0 : -1;
  }

  #at(event, act) {
    const card = event.target.closest(".card");
    if (card) act(Number(card.dataset.place));
  }

  #choose(place) {
    this.choose(this.rows[place]);
  }

  #enter(place) {
    this.current = place;
    this.#tabStop();
    this.point(this.rows[place]);
  }

  #key(event) {
    const line = Math.max(1, Math.floor(this.pane.clientHeight / (this.tall + GAP))) * this.columns;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: line, PageUp: -line, Home: -this.rows.length, End: this.rows.length,
    };
    if (event.key in steps) this.focus(this.current + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.#choose(this.current);
    else return;
    event.preventDefault();
  }
}
