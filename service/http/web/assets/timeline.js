// What happened to a group as spans, one row a member, with the events themselves below.

import { html } from "./vendor/preact-htm.mjs";
import { Table, tone } from "./parts.js";
import { because, clock, lasted } from "./units.js";

const ROW = 18;
const LEFT = 90;
const WIDTH = 700;
const MOST_ROWS = 64;

// [{name, spans: [{status, from, to}]}]: the group first, then the members by rank. A span ends where the next begins.
export function rowsOf(events, now) {
  const rows = new Map([["group", { name: "group", rank: -1, spans: [] }]]);
  for (const event of events) {
    const group = event.accepted || event.group || event.final;
    const at = Date.parse(event.time);
    if (group) put(rows.get("group"), group.status, at);
    for (const member of [event.instance, ...(group?.instances || [])].filter(Boolean)) {
      const rank = member.nodeRank || 0;
      if (!rows.has(member.uuid)) rows.set(member.uuid, { name: `rank ${rank}`, rank, spans: [] });
      put(rows.get(member.uuid), member.status, at);
    }
  }
  for (const { spans } of rows.values()) {
    spans.forEach((span, index) => (span.to = spans[index + 1]?.from ?? Math.max(now, span.from)));
  }
  return [...rows.values()].filter((row) => row.spans.length).sort((a, b) => a.rank - b.rank);
}

function put(row, status, at) {
  if (row.spans.at(-1)?.status !== status) row.spans.push({ status, from: at });
}

function told(event) {
  const [kind] = Object.keys(event).filter((name) => !["revision", "sequence", "time", "groupUuid"].includes(name));
  const body = event[kind];
  if (kind === "instance") return `rank ${body.nodeRank || 0}: ${body.status}${body.hostName ? ` on ${body.hostName}` : ""}${body.reason ? `: ${because(body)}` : ""}`;
  if (kind === "planned") return `placed by ${body.stage}, ${String(body.proof).replace("PLACEMENT_PROOF_", "").toLowerCase()}, in ${body.duration || "0s"}`;
  if (kind === "claimed") return `capacity of ${body.instances?.length || 0} members claimed`;
  return `${kind}: ${body.status}${body.reason ? `: ${because(body)}` : ""}`;
}

export function Timeline({ events, members }) {
  if (!events.length) return html`<p>Its events are no longer kept.</p>`;
  const last = Date.parse(events.at(-1).time);
  const first = Date.parse(events[0].time);
  const rows = rowsOf(events, last).slice(0, MOST_ROWS);
  const scale = WIDTH / Math.max(1, last - first);
  const height = rows.length * ROW + 20;
  return html`<div class="scroll" role="region" aria-label="Timeline" tabindex="0">
    <svg class="timeline" viewBox=${`0 0 ${LEFT + WIDTH + 10} ${height}`} role="img" aria-label=${`From ${clock(first)}, ${lasted(last - first)} long; the events are listed below`}>
      ${rows.map((row, index) => html`<g key=${row.name} transform=${`translate(0 ${index * ROW})`}><text x="0" y="13">${row.name}</text>
        ${row.spans.map((span, step) => html`<rect class=${tone(span.status)} fill-opacity=${tone(span.status) === "busy" ? 0.4 + 0.12 * (step % 6) : 1} x=${LEFT + (span.from - first) * scale} y="3"
          width=${Math.max(2, (span.to - span.from) * scale)} height=${ROW - 6}><title>${`${row.name}: ${span.status} for ${lasted(span.to - span.from)}`}</title></rect>`)}</g>`)}
      <text x=${LEFT} y=${height - 4}>0 s</text><text x=${LEFT + WIDTH} y=${height - 4} text-anchor="end">${lasted(last - first)}</text>
    </svg></div>
    <${Table} caption="Events, newest first" items=${[...events].reverse()} keyOf=${(event) => event.revision} head=${["At", "After", "What"]}
      row=${(event) => html`<td class="when">${clock(Date.parse(event.time))}</td><td class="when">${lasted(Date.parse(event.time) - first)}</td><td>${told(event)}</td>`} />`;
}
