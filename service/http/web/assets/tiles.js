// Many hosts as small tiles on a canvas, zone by zone and rack by rack. The table below it says the same in words; a tile's name is told where the pointer
// or the keyboard's cursor is.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.mjs";
import { amount, label } from "./units.js";
import { shares, tone } from "./parts.js";

const GAP = 3;
const TILE = { width: 44, height: 26 };
const NAMED = { width: 92, height: 34 };
const ZONE = 24;
const RACK = 16;

// Where each tile is, and the names of zones and racks: racks stand side by side where they fit, and a large one has several
// rows. `hosts`: by zone and rack. {places: [{left, top}], names: [{text, left, bottom, width, zone}], height}
export function layout(hosts, zoneName, columns, tile) {
  const wide = tile.width + GAP;
  const high = tile.height + GAP;
  const places = [];
  const names = [];
  let top = 0;
  let taken = 0; // columns of the present shelf
  let shelf = 0; // its height
  const next = () => {
    top += shelf;
    taken = shelf = 0;
  };
  for (let from = 0, to; from < hosts.length; from = to) {
    const { zone, rack } = hosts[from];
    for (to = from + 1; to < hosts.length && hosts[to].zone === zone && hosts[to].rack === rack; ) to += 1;
    if (from === 0 || hosts[from - 1].zone !== zone) {
      next();
      names.push({ text: zoneName(zone), left: 0, bottom: top + ZONE - 4, width: columns * wide, zone: true });
      top += ZONE;
    }
    const across = Math.min(to - from, columns);
    if (taken + across > columns) next();
    const above = rack ? RACK : 0;
    if (rack) names.push({ text: rack, left: taken * wide, bottom: top + RACK - 3, width: across * wide - GAP, zone: false });
    for (let index = from; index < to; index += 1) {
      places.push({ left: (taken + ((index - from) % across)) * wide, top: top + above + Math.floor((index - from) / across) * high });
    }
    shelf = Math.max(shelf, above + Math.ceil((to - from) / across) * high);
    taken += across;
  }
  next();
  return { places, names, height: top };
}

// The tile one row further, up (-1) or down (1), that is nearest to straight.
function beside(places, at, direction) {
  const here = places[at];
  const rows = places.map((one) => (one.top - here.top) * direction).filter((distance) => distance > 0);
  const row = here.top + direction * Math.min(...rows);
  const there = places.map((one, index) => ({ ...one, index })).filter((one) => one.top === row);
  return there.length ? there.reduce((best, one) => (Math.abs(one.left - here.left) < Math.abs(best.left - here.left) ? one : best)).index : at;
}

function colours(element) {
  const style = getComputedStyle(element);
  const known = new Map(); // the browser works each out anew
  return (name) => {
    if (!known.has(name)) known.set(name, style.getPropertyValue(`--${name}`).trim());
    return known.get(name);
  };
}

export function Tiles({ hosts, zoneName, open, stranded, used }) {
  const canvas = useRef(null);
  const [at, setAt] = useState(-1);
  const [width, setWidth] = useState(800);
  const tile = hosts.length <= 400 ? NAMED : TILE;
  const columns = Math.max(1, Math.floor((width + GAP) / (tile.width + GAP)));
  const { places, names, height } = layout(hosts, zoneName, columns, tile);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(canvas.current.parentElement);
    return () => watch.disconnect();
  }, []);
  useEffect(() => paint(canvas.current, hosts, { tile, places, names, height, width, at, open, stranded, used }));
  const under = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    return places.findIndex(({ left, top }) => x >= left && x < left + tile.width && y >= top && y < top + tile.height);
  };
  const keys = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => beside(places, at, -1), ArrowDown: () => beside(places, at, 1) };
  const pressed = (event) => {
    if (event.key === "Enter" && hosts[at]) location.hash = `#/host/${hosts[at].uuid}`;
    if (!(event.key in keys)) return;
    event.preventDefault();
    setAt(hosts[at] ? Math.max(0, Math.min(hosts.length - 1, keys[event.key]())) : 0);
  };
  const host = hosts[at];
  return html`<div class="tiles">
    <p id="tile-told" class="told" aria-live="polite">${host ? words(host, used(host)) : "A tile is a host: its edge is the colour of its status, its bars are what is taken of it. Point at one for its name."}</p>
    <canvas ref=${canvas} tabindex="0" role="application" aria-label=${`${hosts.length} hosts as tiles; arrow keys move, Enter opens; the table below says the same`}
      aria-describedby="tile-told" onMouseMove=${(event) => setAt(under(event))} onMouseLeave=${() => setAt(-1)} onKeyDown=${pressed}
      onClick=${(event) => under(event) >= 0 && (location.hash = `#/host/${hosts[under(event)].uuid}`)}></canvas>
  </div>`;
}

function words(host, used) {
  const free = Object.entries(host.resources).map(([name, of]) => `${label(name)} ${amount(name, of[3])} of ${amount(name, of[2])} claimed${name in used ? `, ${amount(name, used[name])} used now` : ""}`);
  return `${host.name}${host.rack && ` in rack ${host.rack}`}: ${host.status}, ${host.state}, ${host.members} members; ${free.join("; ")}`;
}

function paint(canvas, hosts, { tile, places, names, height, width, at, open, stranded, used }) {
  const scale = window.devicePixelRatio || 1;
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
  draw.textBaseline = "alphabetic";
  for (const { text, left, bottom, width: most, zone } of names) {
    draw.font = zone ? "bold 14px system-ui, sans-serif" : "11px system-ui, sans-serif";
    draw.fillStyle = colour(zone ? "text" : "soft");
    draw.fillText(text, left, bottom, most);
  }
  draw.font = "11px system-ui, sans-serif";
  draw.textBaseline = "middle";
  hosts.forEach((host, index) => {
    const { left, top } = places[index];
    one(draw, colour, host, { left, top, ...tile }, open(host), stranded(host), used(host));
    if (index !== at) return;
    draw.strokeStyle = colour("text");
    draw.lineWidth = 2;
    draw.strokeRect(left + 1, top + 1, tile.width - 2, tile.height - 2);
  });
}

function one(draw, colour, host, { left, top, width, height }, open, stranded, used) {
  draw.fillStyle = colour("surface");
  draw.fillRect(left, top, width, height);
  draw.fillStyle = colour(tone(host.status));
  draw.fillRect(left, top, 4, height);
  const named = width > 80;
  const bars = Object.entries(host.resources);
  const room = named ? height - 16 : height - 4;
  const each = Math.max(2, Math.floor(room / Math.max(1, bars.length)) - 1);
  bars.forEach(([name, of], row) => {
    const { whole, parts } = shares(of, open, stranded.includes(name), host.quarantined[name], used[name]);
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
