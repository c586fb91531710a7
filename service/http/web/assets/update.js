// A change of what a group runs: seen before it is made, how far it is, and taken back.

import { html, useState } from "./vendor/preact-htm.mjs";
import { begin } from "./api.js";
import { WhyNot, Placed } from "./plan.js";
import { amount, clock, label } from "./units.js";

const START = { environment: "", parameters: "", cpu: "", memory: "", mode: "UPDATE_MODE_SURGE" };
const GIB = 2 ** 30;
const STAGES = {
  coming: "a second gang is on its way; the first one serves",
  switched: "the new gang serves; the old one is being ended",
  changing: "members stop, and start as what they are to be",
  taking_back: "it is being taken back",
  done: "done",
  taken_back: "taken back",
};

// The request that the form stands for. Without any change members are made from their model services as those are now.
export function request(form) {
  const change = {};
  const lines = form.environment.split("\n").map((line) => line.trim()).filter(Boolean);
  if (lines.length) change.environmentVariables = Object.fromEntries(lines.map((line) => [line.split("=", 1)[0], line.slice(line.indexOf("=") + 1)]));
  if (form.parameters) change.startupParameters = form.parameters;
  if (form.cpu) change.cpuNum = Number(form.cpu);
  if (form.memory) change.memorySize = String(Math.round(Number(form.memory) * GIB));
  return { changes: Object.keys(change).length ? [change] : [], mode: form.mode };
}

function needs(update) {
  return Object.entries(update.needs).map(([resource, value]) => `${amount(resource, value)} ${label(resource)}`).join(", ");
}

export function Standing({ update, put, picture }) {
  if (!update) return null;
  const ended = ["done", "taken_back"].includes(update.stage);
  const may = ["coming", "changing"].includes(update.stage) ? "Call off" : update.stage === "done" ? "Take back" : "";
  return html`<section class="answer" aria-label="Update"><h2>Update ${update.number}: ${update.stage.replace("_", " ")}</h2>
    <p>${update.mode === "surge" ? "By a second gang" : "In place"}${update.undoes > 0 && `, takes back update ${update.undoes}`}: ${STAGES[update.stage]}${ended ? ` at ${clock(update.ended)}` : ""}.
      ${!ended && needs(update) && ` It needs ${needs(update)} beside what the group has.`}</p>
    ${update.reason && html`<p class="reason">${update.reason}</p>`}
    ${update.why && html`<${WhyNot} problem=${update.why} picture=${picture} />`}
    ${put && may && html`<p class="actions"><button onClick=${() => put("roll-back", may, "The group runs again what it ran before.")}>${may}…</button></p>`}</section>`;
}

export function Update({ group, picture }) {
  const [form, setForm] = useState(START);
  const [answer, setAnswer] = useState({});
  const path = `/corral/v1/instance-groups/${group.uuid}:rollout`;
  const set = (name) => (event) => {
    setForm({ ...form, [name]: event.target.value });
    setAnswer({});
  };
  const look = async (event) => {
    event.preventDefault();
    const asked = request(form);
    setAnswer({ busy: true });
    try {
      setAnswer({ asked, seen: (await begin("POST", path, { ...asked, validateOnly: true })).event });
    } catch (problem) {
      setAnswer({ problem });
    }
  };
  const make = async () => {
    setAnswer({ ...answer, busy: true });
    try {
      await begin("POST", path, answer.asked);
      setForm(START);
      setAnswer({});
    } catch (problem) {
      setAnswer({ problem });
    }
  };
  return html`<details class="update"><summary>Change what it runs</summary>
    <form class="plan" onSubmit=${look}>
      <label for="update-mode">How</label><select id="update-mode" value=${form.mode} onChange=${set("mode")}>
        <option value="UPDATE_MODE_SURGE">a second gang, which takes over once it answers</option>
        <option value="UPDATE_MODE_IN_PLACE">in place: machines stop, and start again on their disks</option></select>
      <label for="update-parameters">Parameters of its command</label><input id="update-parameters" value=${form.parameters} onInput=${set("parameters")} placeholder="as they are" />
      <label for="update-environment">Environment, NAME=VALUE lines</label><textarea id="update-environment" rows="3" value=${form.environment} onInput=${set("environment")}></textarea>
      <label for="update-cpu">CPUs of each</label><input id="update-cpu" type="number" min="1" value=${form.cpu} onInput=${set("cpu")} placeholder="as they are" />
      <label for="update-memory">Memory of each, GiB</label><input id="update-memory" type="number" min="0.0625" step="any" value=${form.memory} onInput=${set("memory")} placeholder="as it is" />
      <p class="actions"><button class="primary" disabled=${answer.busy}>${answer.busy ? "Looking…" : "See what would be done"}</button></p>
    </form>
    <div aria-live="polite">
      ${answer.seen?.planned && html`<${Placed} placement=${answer.seen.planned} />`}
      ${answer.seen && !answer.seen.planned && html`<section class="answer" aria-label="In place"><p>It can be done: members stay where they are.</p></section>`}
      ${answer.seen && html`<p class="actions"><button class="primary" onClick=${make} disabled=${answer.busy}>Update</button></p>`}
      ${answer.problem && html`<${WhyNot} problem=${answer.problem} picture=${picture} />`}
    </div></details>`;
}
