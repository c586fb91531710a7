// Small parts that every view is made of.

import { html, useEffect, useRef, useState } from "./vendor/preact-htm.mjs";
import { amount, label } from "./units.js";

const TONES = {
  good: ["Running", "Connected", "placed", "optimal", "available", "claimed", "drained"],
  busy: [
    "Waiting", "Deploying", "ConfigSettingUp", "ServiceBootingUp", "Starting", "Stopping", "Deleting", "Connecting",
    "Pending", "Claimed", "Creating", "Created", "Booting", "Evicting", "Removing", "moving", "draining",
  ],
  warn: ["Degraded", "Unknown", "Foreign", "Ahead", "Mismatched", "Failing", "unknown", "gap", "quarantined"],
  bad: ["Failed", "Disconnected", "infeasible", "blocked", "gone"],
};

export function tone(status) {
  return Object.keys(TONES).find((name) => TONES[name].includes(status)) || "off";
}

export function Status({ is }) {
  return html`<span class="status ${tone(is)}"><i aria-hidden="true"></i>${is}</span>`;
}

// What of a resource is taken by whom. A host that takes nothing has nothing free, whatever it measures. `quarantined`: what
// of `foreign` waits for an operator; `used`: what guests take now of what is claimed, undefined where that is not measured. Parts
// are [kind, width, words, amount]; a whole bar is what there is, by the measure of what may be claimed: with overcommit a CPU that
// the host keeps is as wide as all that could have been claimed of it.
export function shares([total, reserved, allocatable, claimed, foreign, available], open, stranded, quarantined = 0, used = 0) {
  const taken = Math.min(used, claimed);
  const kept = total > reserved ? (reserved * allocatable) / (total - reserved) : reserved;
  const free = open && !stranded ? available : 0;
  return {
    whole: Math.max(allocatable, claimed + foreign, 1) + kept,
    parts: [
      ["used", taken, "used now", used],
      ["claimed", claimed - taken, "claimed by members", claimed],
      ["foreign", Math.max(0, foreign - quarantined), "taken by other machines"],
      ["quarantined", Math.min(foreign, quarantined), "in quarantine or out of service"],
      ["stranded", open && stranded ? available : 0, "free, and of no use: another resource is used up"],
      ["closed", open ? 0 : available, "not given out: the host takes nothing new"],
      ["free", free, "free"],
      ["reserved", kept, "kept for the host itself", reserved],
    ],
  };
}

export function Bar({ resource, of, open = true, stranded = false, quarantined = 0, used }) {
  const { whole, parts } = shares(of, open, stranded, quarantined, used);
  const told = parts.filter(([, value, , exactly = value]) => exactly > 0).map(([, value, what, exactly = value]) => `${amount(resource, exactly)} ${what}`);
  const words = `${label(resource)}: ${told.join(", ") || "nothing"}`;
  return html`<div class="bar" role="img" aria-label=${words} title=${words}>
    ${parts.map(([kind, value]) => value > 0 && html`<b class=${kind} style=${{ width: `${(100 * value) / whole}%` }}></b>`)}
  </div>`;
}

export function Legend() {
  const kinds = ["used", "claimed", "foreign", "quarantined", "stranded", "closed", "free", "reserved"];
  const names = { used: "claimed and used now", claimed: "claimed", foreign: "other machines", quarantined: "in quarantine or out of service", stranded: "stranded", closed: "not given out", free: "free", reserved: "kept for the host itself" };
  return html`<ul class="legend" aria-label="Colours of the bars">
    ${kinds.map((kind) => html`<li><b class=${kind} aria-hidden="true"></b>${names[kind]}</li>`)}
  </ul>`;
}

// A question before something is done. `ask` null: nothing is asked.
export function Ask({ ask, close }) {
  const dialog = useRef(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    setProblem(null);
    if (ask && !dialog.current.open) dialog.current.showModal();
    if (!ask && dialog.current.open) dialog.current.close();
  }, [ask]);
  const go = async () => {
    setBusy(true);
    try {
      await ask.run();
      close();
    } catch (error) {
      setProblem(error);
    } finally {
      setBusy(false);
    }
  };
  return html`<dialog ref=${dialog} onClose=${close} aria-labelledby="ask-title">
    ${ask && html`<h2 id="ask-title">${ask.title}</h2>
      <div>${ask.body}</div>
      <${Problem} is=${problem} />
      <p class="actions"><button onClick=${close} disabled=${busy}>Cancel</button>
        <button class="primary" onClick=${go} disabled=${busy}>${ask.verb}</button></p>`}
  </dialog>`;
}

export function Problem({ is }) {
  if (!is) return null;
  return html`<div class="problem" role="alert"><p>${is.message}</p>
    ${is.violations?.length > 0 && html`<ul>${is.violations.map((one) => html`<li><code>${one.field}</code> ${one.description}</li>`)}</ul>`}
  </div>`;
}

// What a call answers; `again` is called to ask anew. Answers of a view that was left are dropped.
export function useAnswer(ask, on) {
  const [state, setState] = useState({ value: null, problem: null });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const leave = new AbortController();
    ask(leave.signal).then(
      (value) => leave.signal.aborted || setState({ value, problem: null }),
      (problem) => leave.signal.aborted || setState({ value: null, problem }),
    );
    return () => leave.abort();
  }, [...on, round]);
  return { ...state, again: () => setRound((before) => before + 1) };
}

// What a listing leaves out is said.
export function Cut({ of }) {
  return of?.more ? html`<p class="cut" role="status">These are the first ${of.length}; there are more. The command <code>corral</code> tells all.</p>` : null;
}

// A long table, a page at a time. `head`: names of columns; `row`: one row's cells.
export function Table({ caption, head, items, row, keyOf, size = 50 }) {
  const [from, setFrom] = useState(0);
  const start = Math.min(from, Math.max(0, Math.floor((items.length - 1) / size) * size));
  const shown = items.slice(start, start + size);
  return html`<${Cut} of=${items} /><div class="scroll" role="region" aria-label=${caption} tabindex="0"><table>
      <caption>${caption}</caption>
      <thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
      <tbody>${shown.map((item) => html`<tr key=${keyOf(item)}>${row(item)}</tr>`)}${items.length === 0 && html`<tr><td colspan=${head.length}>none</td></tr>`}</tbody>
    </table></div>
    ${items.length > size && html`<p class="pager">
      <button onClick=${() => setFrom(start - size)} disabled=${start === 0}>Previous</button>
      <span>${start + 1}–${Math.min(start + size, items.length)} of ${items.length}</span>
      <button onClick=${() => setFrom(start + size)} disabled=${start + size >= items.length}>Next</button></p>`}`;
}

export function Filter({ value, set, keys, problem }) {
  return html`<div class="filter"><label for="filter">Filter</label>
    <input id="filter" type="search" value=${value} placeholder=${`name, or ${keys.slice(0, 3).map((key) => `${key}:…`).join(" ")}`}
      aria-describedby="filter-help" onInput=${(event) => set(event.target.value)} />
    <small id="filter-help">${problem.length ? `not a field: ${problem.join(", ")}; ` : ""}fields: ${keys.join(", ")}; -word excludes</small></div>`;
}
