// Rolls: hosts emptied for maintenance, some at a time. The whole order is seen before one is begun; then how far each host is.

import { html, useEffect, useState } from "./vendor/preact-htm.mjs";
import { all, call } from "./api.js";
import { Ask, Cut, Problem, Status, Table, useAnswer } from "./parts.js";
import { bytes, clock } from "./units.js";

const AGAIN_MS = 2000;
const MANY = 20;
const START = { zone: "", cluster: "", hosts: "", atOnce: 1, enable: "ROLL_ENABLE_WORD" };
const ENABLE = { ROLL_ENABLE_WORD: "its operator", ROLL_ENABLE_RESTART: "that it was started anew" };

// The request that the form stands for, and which of the hosts it names are none.
export function request(form, hosts) {
  const byName = new Map(hosts.map((host) => [host.name, host.uuid]));
  const names = [...new Set(form.hosts.split(/[\s,]+/).filter(Boolean))];
  const asked = { zoneUuid: form.zone, clusterUuid: form.cluster, hostUuids: names.map((name) => byName.get(name)).filter(Boolean), atOnce: Number(form.atOnce) };
  return { asked, unknown: names.filter((name) => !byName.has(name)) };
}

export function state(roll) {
  if (roll.calledOff) return "called off";
  if (roll.endDate) return "over";
  return roll.reason ? "waits" : "goes on";
}

export function Rolls({ picture }) {
  const listed = useAnswer((signal) => all("/corral/v1/rolls", "inventories", signal, 1000), []);
  const [ask, setAsk] = useState(null);
  const rolls = listed.value || [];
  const goesOn = rolls.some((roll) => !roll.endDate);
  // The stream tells of hosts, not of rolls.
  useEffect(() => {
    if (!goesOn) return undefined;
    const timer = setInterval(() => document.hidden || listed.again(), AGAIN_MS);
    return () => clearInterval(timer);
  }, [goesOn]);
  const callOff = (roll) => setAsk({
    title: "Call this roll off?",
    verb: "Call off",
    body: html`<p>No further host is begun. What is under maintenance stays so until it is enabled.</p>`,
    run: () => call("POST", `/corral/v1/rolls/${roll.uuid}:callOff`, {}).then(listed.again),
  });
  return html`<h1>Rolls</h1><p>Hosts are emptied for maintenance some at a time. Each waits empty until it is enabled, and then the next are begun.</p>
    <${Order} picture=${picture} begun=${listed.again} />
    <h2>Begun</h2>
    <${Problem} is=${listed.problem} />
    <p class="actions"><button onClick=${listed.again}>Look again</button></p>
    ${listed.value && html`<${Table} caption="Rolls, newest first" items=${rolls} keyOf=${(roll) => roll.uuid} head=${["Begun", "State", "At once", "Enabled by", "Under way", "Waiting", "Done", "Why", "Do"]}
      row=${(roll) => html`<th scope="row">${clock(Date.parse(roll.createDate))}</th><td>${state(roll)}</td><td>${roll.atOnce}</td><td>${ENABLE[roll.enable]}</td>
        <td><${Standing} hosts=${(roll.hosts || []).filter((host) => !["waiting", "done"].includes(host.stage))} /></td>
        <td><${Waiting} hosts=${(roll.hosts || []).filter((host) => host.stage === "waiting")} /></td>
        <td>${(roll.hosts || []).filter((host) => host.stage === "done").length} of ${(roll.hosts || []).length}</td><td>${roll.reason}</td>
        <td>${!roll.endDate && !roll.calledOff && html`<button onClick=${() => callOff(roll)}>Call off…</button>`}</td>`} />`}
    <${Ask} ask=${ask} close=${() => setAsk(null)} />`;
}

const more = (hosts) => (hosts.length > MANY ? html`<li>and ${hosts.length - MANY} more</li>` : null);
const named = (host) => html`<a href=${`#/host/${host.hostUuid}`}>${host.hostName}</a>${host.reason && `: ${host.reason}`}`;

function Standing({ hosts }) {
  if (!hosts.length) return "none";
  return html`<ul class="plain">${hosts.slice(0, MANY).map((host) => html`<li key=${host.hostUuid}><${Status} is=${host.stage} /> ${named(host)}</li>`)}${more(hosts)}</ul>`;
}

function Waiting({ hosts }) {
  if (!hosts.length) return "none";
  return html`<ol class="plain">${hosts.slice(0, MANY).map((host) => html`<li key=${host.hostUuid}>${named(host)}</li>`)}${more(hosts)}</ol>`;
}

function Order({ picture, begun }) {
  const [form, setForm] = useState(START);
  const [answer, setAnswer] = useState({});
  const clusters = useAnswer((signal) => all("/corral/v1/clusters", "inventories", signal), []);
  const set = (name) => (event) => {
    setForm({ ...form, [name]: event.target.value });
    setAnswer({});
  };
  const look = async (event) => {
    event.preventDefault();
    const { asked, unknown } = request(form, [...picture.hosts.values()]);
    if (unknown.length) {
      setAnswer({ problem: { message: `there is no host ${unknown.join(", ")}` } });
      return;
    }
    setAnswer({ busy: true });
    try {
      setAnswer({ asked, plan: await call("POST", "/corral/v1/fleet:planRoll", asked) });
    } catch (problem) {
      setAnswer({ problem });
    }
  };
  const run = async () => {
    setAnswer({ ...answer, busy: true });
    try {
      await call("POST", "/corral/v1/fleet:roll", { ...answer.asked, enable: form.enable });
      setForm(START);
      setAnswer({});
      begun();
    } catch (problem) {
      setAnswer({ problem });
    }
  };
  return html`<form class="plan" onSubmit=${look} aria-label="A roll">
      <label for="roll-zone">Open hosts of zone</label><select id="roll-zone" value=${form.zone} onChange=${set("zone")}><option value="">any</option>
        ${[...picture.zones.values()].map((zone) => html`<option key=${zone.uuid} value=${zone.uuid}>${zone.name}</option>`)}</select>
      <label for="roll-cluster">Of cluster</label><select id="roll-cluster" value=${form.cluster} onChange=${set("cluster")}><option value="">any</option>
        ${(clusters.value || []).map((cluster) => html`<option key=${cluster.uuid} value=${cluster.uuid}>${cluster.name}</option>`)}</select><${Cut} of=${clusters.value} />
      <label for="roll-hosts">Only these hosts, by name</label><input id="roll-hosts" value=${form.hosts} onInput=${set("hosts")} placeholder="all of them" />
      <label for="roll-at-once">Hosts at a time</label><input id="roll-at-once" type="number" min="1" max="1000" required value=${form.atOnce} onInput=${set("atOnce")} />
      <label for="roll-enable">What enables one again</label><select id="roll-enable" value=${form.enable} onChange=${(event) => setForm({ ...form, enable: event.target.value })}>
        ${Object.entries(ENABLE).map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}</select>
      <p class="actions"><button class="primary" disabled=${answer.busy}>${answer.busy ? "Looking…" : "See the order"}</button></p>
    </form>
    <${Problem} is=${clusters.problem} />
    <div aria-live="polite"><${Problem} is=${answer.problem} />
      ${answer.plan && html`<${Found} plan=${answer.plan} picture=${picture} />`}
      ${answer.plan && !answer.plan.stuckHostUuid && answer.plan.batches?.length > 0 && html`<p class="actions"><button class="primary" onClick=${run} disabled=${answer.busy}>Begin</button></p>`}</div>`;
}

function Found({ plan, picture }) {
  const batches = plan.batches || [];
  const name = (uuid) => picture.hosts.get(uuid)?.name || uuid;
  const count = batches.reduce((sum, batch) => sum + (batch.moves || []).length, 0);
  const proven = plan.proof === "PLACEMENT_PROOF_OPTIMAL" ? "proven the fewest" : `no order has fewer than ${plan.leastMoves || 0}`;
  const never = plan.proof === "PLACEMENT_PROOF_INFEASIBLE" ? "cannot be emptied, proven" : "could not be emptied in any order that was tried";
  const line = ({ move, ...one }) => html`<li key=${move.instanceUuid}>${one.instanceName}: ${one.sourceHostName} → ${one.targetHostName} (${bytes(Number(one.memorySize))}, ${move.live ? "keeps running" : "is stopped and placed anew"})</li>`;
  return html`<section class=${`answer ${plan.stuckHostUuid ? "problem" : ""}`} aria-label="The order">
    <h2>${plan.stuckHostUuid ? `${name(plan.stuckHostUuid)} ${never}` : batches.length ? `${batches.length} ${batches.length === 1 ? "batch" : "batches"}, ${count} ${count === 1 ? "move" : "moves"}` : "No host is to be emptied"}</h2>
    <p>${plan.stuckHostUuid ? plan.reason.replace(/\b[0-9a-f]{32}\b/g, name) : batches.length ? `Of moves: ${proven}. Nothing is moved by this answer.` : "None of these is enabled and answers."}</p>
    <ol>${batches.map((batch) => html`<li key=${batch.hostUuids[0]}><strong>${batch.hostUuids.map(name).join(", ")}</strong>
      ${batch.moves?.length > 0 && html`<ul>${batch.moves.map(line)}</ul>`}</li>`)}</ol></section>`;
}
