// What a group's machines say: the end of each log, and what comes while that is asked for.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.mjs";
import { events } from "./api.js";
import { Problem } from "./parts.js";

const MOST_LINES = 1000;
const DRAW_MS = 250;
const SOURCES = { INSTANCE_LOG_SOURCE_UNSPECIFIED: "console and engine", INSTANCE_LOG_SOURCE_CONSOLE: "console", INSTANCE_LOG_SOURCE_ENGINE: "engine" };

// Lines of one answer, each with whose they are; what is to be known of them comes first.
export function linesOf(answer, several) {
  const { name, source, text = "", note, kept, gap } = answer;
  const rank = answer.nodeRank || 0;
  const whose = several ? `${rank} ${name} ${SOURCES[source]} | ` : "";
  const told = [];
  if (note) told.push(`${rank} ${name} ${SOURCES[source]}: ${note}`);
  if (kept) told.push(`${rank} ${name} ${SOURCES[source]}: its machine is gone; kept when it failed:`);
  else if (gap) told.push(`${rank} ${name} ${SOURCES[source]}: earlier lines are left out`);
  return [...told, ...text.split("\n").slice(0, -1).map((line) => whose + line)];
}

export function Logs({ uuid, members }) {
  const [rank, setRank] = useState("0");
  const [source, setSource] = useState("INSTANCE_LOG_SOURCE_UNSPECIFIED");
  const [follow, setFollow] = useState(false);
  const [asked, setAsked] = useState(0);
  const [shown, setShown] = useState({ lines: [], problem: null, busy: false });
  const end = useRef(null);
  useEffect(() => {
    if (!asked) return undefined;
    const leave = new AbortController();
    const several = rank === "" || source === "INSTANCE_LOG_SOURCE_UNSPECIFIED";
    let lines = [];
    let timer = 0;
    const draw = (more) => {
      clearTimeout(timer);
      timer = document.hidden ? setTimeout(draw, DRAW_MS, more) : 0;
      if (timer) return;
      if (!leave.signal.aborted) setShown({ lines, problem: null, busy: true, ...more });
    };
    const run = async () => {
      const query = new URLSearchParams({ source, ...(rank === "" ? {} : { nodeRanks: rank }), ...(follow ? { follow: "true" } : {}) });
      try {
        for await (const { data } of events("GET", `/corral/v1/instance-groups/${uuid}/log?${query}`, undefined, leave.signal)) {
          lines = [...lines, ...linesOf(data, several)].slice(-MOST_LINES);
          // Not for each line, and not while the page is hidden.
          timer = timer || setTimeout(draw, DRAW_MS);
        }
        draw({ busy: false });
      } catch (problem) {
        draw({ problem, busy: false });
      }
    };
    run();
    return () => {
      leave.abort();
      clearTimeout(timer);
    };
  }, [uuid, rank, source, follow, asked]);
  useEffect(() => {
    if (follow && end.current) end.current.scrollTop = end.current.scrollHeight;
  }, [shown]);
  return html`<h2>Logs</h2>
    <p class="actions"><label for="log-rank">Member</label>
      <select id="log-rank" value=${rank} onChange=${(event) => setRank(event.target.value)}>
        ${members.map((member) => html`<option key=${member.uuid} value=${String(member.rank)}>${member.rank} ${member.name}</option>`)}
        <option value="">all</option></select>
      <label for="log-source">Log</label>
      <select id="log-source" value=${source} onChange=${(event) => setSource(event.target.value)}>
        ${Object.entries(SOURCES).map(([key, name]) => html`<option key=${key} value=${key}>${name}</option>`)}</select>
      <label for="log-follow"><input id="log-follow" type="checkbox" checked=${follow} onChange=${(event) => setFollow(event.target.checked)} /> follow</label>
      <button id="log-show" onClick=${() => setAsked(asked + 1)}>${asked ? "Read again" : "Show"}</button></p>
    <${Problem} is=${shown.problem} />
    ${asked > 0 && html`<pre class="log" id="log" ref=${end} role="region" aria-label="Log lines" aria-busy=${shown.busy} tabindex="0">${shown.lines.join("\n") || (shown.busy ? "…" : "nothing")}</pre>`}`;
}
