// Many hosts as small tiles on a canvas. The table below it says the same in words; a tile's name is told where the pointer
// or the keyboard's cursor is.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.mjs";
import { amount, label } from "./units.js";
import { shares, tone } from "./parts.js";

const GAP = 3;
const TILE = { width: 44, height: 26 };
const NAMED = { width: 92, height: 34 };

function colours(element) {
  const style = getComputedStyle(element);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

export function Tiles({ hosts, open, stranded }) {
  const canvas = useRef(null);
  const [at, setAt] = useState(-1);
  const [width, setWidth] = useState(800);
  const tile = hosts.length <= 400 ? NAMED : TILE;
  const columns = Math.max(1, Math.floor((width + GAP) / (tile.width + GAP)));
  const rows = Math.ceil(hosts.length / columns);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(canvas.current.parentElement);
    return () => watch.disconnect();
  }, []);
  useEffect(() => paint(canvas.current, hosts, { tile, columns, rows, width, at, open, stranded }));
  const under = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / (tile.width + GAP));
    const index = Math.floor((event.clientY - box.top) / (tile.height + GAP)) * columns + column;
    return column < columns && index < hosts.length ? index : -1;
  };
  const keys = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const pressed = (event) => {
    if (event.key === "Enter" && hosts[at]) location.hash = `#/host/${hosts[at].uuid}`;
    if (!(event.key in keys)) return;
    event.preventDefault();
    setAt(Math.max(0, Math.min(hosts.length - 1, at < 0 ? 0 : at + keys[event.key])));
  };
  const host = hosts[at];
  return html`<div class="tiles">
    <canvas ref=${canvas} tabindex="0" role="application" aria-label=${`${hosts.length} hosts as tiles; arrow keys move, Enter opens; the table below says the same`}
      aria-describedby="tile-told" onMouseMove=${(event) => setAt(under(event))} onMouseLeave=${() => setAt(-1)} onKeyDown=${pressed}
      onClick=${(event) => under(event) >= 0 && (location.hash = `#/host/${hosts[under(event)].uuid}`)}></canvas>
    <p id="tile-told" class="told" aria-live="polite">${host ? words(host) : "Point at a tile for its name."}</p>
  </div>`;
}

function words(host) {
  const free = Object.entries(host.resources).map(([name, of]) => `${label(name)} ${amount(name, of[3])} of ${amount(name, of[2])} claimed`);
  return `${host.name}: ${host.status}, ${host.state}, ${host.members} members; ${free.join("; ")}`;
}

function paint(canvas, hosts, { tile, columns, rows, width, at, open, stranded }) {
  const scale = window.devicePixelRatio || 1;
  const height = Math.max(1, rows * (tile.height + GAP));
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const draw = canvas.getContext("2d");
  const colour = colours(canvas);
  draw.setTransform(scale, 0, 0, scale, 0, 0);
  draw.clearRect(0, 0, width, height);
  draw.font = "11px system-ui, sans-serif";
  draw.textBaseline = "middle";
  hosts.forEach((host, index) => {
    const left = (index % columns) * (tile.width + GAP);
    const top = Math.floor(index / columns) * (tile.height + GAP);
    one(draw, colour, host, { left, top, ...tile }, open(host), stranded(host));
    if (index !== at) return;
    draw.strokeStyle = colour("text");
    draw.lineWidth = 2;
    draw.strokeRect(left + 1, top + 1, tile.width - 2, tile.height - 2);
  });
}

function one(draw, colour, host, { left, top, width, height }, open, stranded) {
  draw.fillStyle = colour("surface");
  draw.fillRect(left, top, width, height);
  draw.fillStyle = colour(tone(host.status));
  draw.fillRect(left, top, 4, height);
  const named = width > 80;
  const bars = Object.entries(host.resources);
  const room = named ? height - 16 : height - 4;
  const each = Math.max(2, Math.floor(room / Math.max(1, bars.length)) - 1);
  bars.forEach(([name, of], row) => {
    const { whole, parts } = shares(of, open, stranded.includes(name), host.quarantined[name]);
    let from = left + 6;
    for (const [kind, value] of parts) {
      const wide = ((width - 8) * value) / whole;
      draw.fillStyle = colour(kind);
      draw.fillRect(from, top + (named ? 14 : 2) + row * (each + 1), wide, each);
      from += wide;
    }
  });
  if (!named) return;
  draw.fillStyle = colour("text");
  draw.fillText(host.name, left + 7, top + 7, width - 9);
}
