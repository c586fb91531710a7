// A deploy in a form: where it would go, with its proof, or why it does not fit and what would make it fit; then the deploy.

import { html, useState } from "./vendor/preact-htm.mjs";
import { all, begin, call } from "./api.js";
import { Cut, Problem, useAnswer } from "./parts.js";
import { amount, label } from "./units.js";

const STRATEGIES = {
  PLACEMENT_STRATEGY_UNSPECIFIED: "least room lost for others",
  PLACEMENT_STRATEGY_PACK: "fewest hosts",
  PLACEMENT_STRATEGY_SPREAD: "spread over hosts",
  PLACEMENT_STRATEGY_CLOSE: "near each other",
};
const NUMA = {
  NUMA_POLICY_UNSPECIFIED: "no: they float over their hosts",
  NUMA_POLICY_PREFERRED: "where one has room",
  NUMA_POLICY_REQUIRED: "always",
};
const NEAR = {
  NUMA_POLICY_UNSPECIFIED: "as the machine itself",
  NUMA_POLICY_REQUIRED: "on one NUMA cell, with the machine",
  NUMA_POLICY_PREFERRED: "where the machine's cell has some",
  NUMA_POLICY_NONE: "anywhere on its host",
};
const START = { name: "", entry: "", nodes: 3, cpu: "", memory: "", zone: "", strategy: "PLACEMENT_STRATEGY_UNSPECIFIED", perHost: 0, perRack: 0, alone: false, numa: "NUMA_POLICY_UNSPECIFIED", gpus: 0, model: "", near: "NUMA_POLICY_UNSPECIFIED", joined: false };
const GIB = 2 ** 30;

// The request that the form stands for, as the deploy takes it.
export function request(form) {
  const node = { uuid: form.entry };
  if (form.cpu) node.cpuNum = Number(form.cpu);
  if (form.memory) node.memorySize = String(Math.round(Number(form.memory) * GIB));
  if (form.zone) node.zoneUuid = form.zone;
  if (Number(form.gpus)) node.gpus = [{ model: form.model, count: Number(form.gpus), numaPolicy: form.near, samePartition: form.joined }];
  const nodes = Array.from({ length: Number(form.nodes) }, (_, rank) => ({ ...node, isInitialNode: rank === 0 }));
  const policy = { strategy: form.strategy, maxPerHost: Number(form.perHost), maxPerRack: Number(form.perRack), exclusiveHosts: form.alone, numa: form.numa };
  return { name: form.name, serviceCreationStrategy: "parallel", modelServices: nodes, placementPolicy: policy };
}

// The models of the hosts that this caller sees.
function models(picture) {
  const names = [...picture.hosts.values()].flatMap((host) => Object.keys(host.resources));
  return [...new Set(names.filter((name) => name.startsWith("gpu.")))].map((name) => name.slice(4)).sort();
}

export function Plan({ picture, may }) {
  const [form, setForm] = useState(START);
  const [answer, setAnswer] = useState({});
  const entries = useAnswer((signal) => all("/corral/v1/model-services", "inventories", signal), []);
  const zones = [...picture.zones.values()];
  const set = (name) => (event) => {
    setForm({ ...form, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
    setAnswer({});
  };
  const input = (name, title, more = {}) => html`<label for=${`plan-${name}`}>${title}</label>
    <input id=${`plan-${name}`} value=${form[name]} onInput=${set(name)} ...${more} />`;
  const submit = async (event) => {
    event.preventDefault();
    setAnswer({ busy: true });
    const asked = request(form);
    try {
      const { placement } = await call("POST", "/corral/v1/instance-groups:plan", asked);
      setAnswer({ placement, asked });
    } catch (problem) {
      setAnswer({ problem, asked });
    }
  };
  const makeRoom = async () => {
    const { problem, asked } = answer;
    setAnswer({ problem, asked, busy: true });
    try {
      setAnswer({ problem, asked, room: await call("POST", "/corral/v1/fleet:planRoom", { group: asked }) });
    } catch (noRoom) {
      setAnswer({ problem, asked, noRoom });
    }
  };
  const deploy = async (makeRoom) => {
    try {
      const first = await begin("POST", "/corral/v1/instance-groups", { ...answer.asked, makeRoom });
      location.hash = `#/group/${first.event.groupUuid}`;
    } catch (problem) {
      setAnswer({ problem });
    }
  };
  return html`<h1>Plan a deploy</h1>
    <p>Nothing is reserved by a plan: it says where the group would go now.</p>
    <form class="plan" onSubmit=${submit}>
      ${input("name", "Name", { required: true, maxlength: 255 })}
      <label for="plan-entry">Model service</label>
      <select id="plan-entry" required value=${form.entry} onChange=${set("entry")}><option value="">choose…</option>
        ${(entries.value || []).map((entry) => html`<option key=${entry.uuid} value=${entry.uuid}>${entry.name}</option>`)}</select><${Cut} of=${entries.value} />
      ${input("nodes", "Machines", { type: "number", min: 1, max: 1024, required: true })}
      ${input("cpu", "CPUs of each", { type: "number", min: 1, placeholder: "the model service's" })}
      ${input("memory", "Memory of each, GiB", { type: "number", min: 0.0625, step: "any", placeholder: "the model service's" })}
      ${input("gpus", "GPUs of each (0: none)", { type: "number", min: 0, max: 64 })}
      ${Number(form.gpus) > 0 && html`${input("model", "Their model", { placeholder: "any of one kind", list: "plan-models", maxlength: 255 })}
        <datalist id="plan-models">${models(picture).map((model) => html`<option key=${model} value=${model}></option>`)}</datalist>
        <label for="plan-near">Where they are</label><select id="plan-near" value=${form.near} onChange=${set("near")}>
          ${Object.entries(NEAR).map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}</select>
        <label for="plan-joined">Of one partition, as by NVLink</label><input id="plan-joined" type="checkbox" checked=${form.joined} onChange=${set("joined")} />`}
      ${zones.length > 0 && html`<label for="plan-zone">Zone</label><select id="plan-zone" value=${form.zone} onChange=${set("zone")}><option value="">any</option>
        ${zones.map((zone) => html`<option key=${zone.uuid} value=${zone.uuid}>${zone.name}</option>`)}</select>`}
      <label for="plan-strategy">Aim</label><select id="plan-strategy" value=${form.strategy} onChange=${set("strategy")}>
        ${Object.entries(STRATEGIES).map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}</select>
      ${input("perHost", "At most on one host (0: any number)", { type: "number", min: 0 })}
      ${input("perRack", "At most in one rack (0: any number)", { type: "number", min: 0 })}
      <label for="plan-alone">Hosts for this group alone</label><input id="plan-alone" type="checkbox" checked=${form.alone} onChange=${set("alone")} />
      <label for="plan-numa">Each machine on one NUMA cell</label><select id="plan-numa" value=${form.numa} onChange=${set("numa")}>
        ${Object.entries(NUMA).map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}</select>
      <p class="actions"><button class="primary" disabled=${answer.busy}>${answer.busy ? "Planning…" : "Plan"}</button></p>
    </form>
    <${Problem} is=${entries.problem} />
    <div aria-live="polite">
      ${answer.placement && html`<${Placed} placement=${answer.placement} />`}
      ${answer.placement && may("operator") && html`<p class="actions"><button class="primary" onClick=${() => deploy()}>Deploy</button></p>`}
      ${answer.problem && html`<${WhyNot} problem=${answer.problem} picture=${picture} />`}
      ${answer.problem?.failure && answer.asked && !answer.room && may("admin") && html`<p class="actions"><button disabled=${answer.busy} onClick=${makeRoom}>Who would have to move?</button></p>`}
      ${answer.room && html`<${Moves} room=${answer.room} deploy=${deploy} />`}
      ${answer.noRoom && html`<section class="answer problem" aria-label="No room by moves"><p>${answer.noRoom.message}</p></section>`}
    </div>`;
}

export function Placed({ placement }) {
  const hosts = new Map();
  for (const one of placement.assignments) {
    const devices = Object.entries(one.resources || {}).filter(([resource]) => resource.startsWith("gpu."));
    const taken = devices.map(([resource, value]) => `${amount(resource, Number(value))} ${label(resource)}`);
    const cell = one.numaCells?.length ? [`NUMA cell ${one.numaCells.join(", ")}`] : [];
    const more = [...cell, ...taken].join(", ");
    hosts.set(one.hostName, [...(hosts.get(one.hostName) || []), `${one.nodeRank || 0}${more && ` (${more})`}`]);
  }
  const proven = placement.proof === "PLACEMENT_PROOF_OPTIMAL";
  return html`<section class="answer" aria-label="Placement"><h2>It fits on ${hosts.size} ${hosts.size === 1 ? "host" : "hosts"}</h2>
    <p>${proven ? "Proven: there is no better placement." : `A better one may exist, by at most ${(100 * (placement.gap || 0)).toFixed(1)} %.`} Found by ${placement.stage} in ${placement.duration || "no time"}.</p>
    <ul>${[...hosts].map(([name, ranks]) => html`<li key=${name}><strong>${name}</strong>: ${ranks.length === 1 ? "rank" : "ranks"} ${ranks.join(", ")}</li>`)}</ul></section>`;
}

function Moves({ room, deploy }) {
  const moves = room.moves || [];
  const stopped = moves.filter((one) => !one.move.live).length;
  const how = stopped ? `Deploy, stop and start ${stopped} elsewhere` : "Deploy, and move them";
  const least = room.proof === "PLACEMENT_PROOF_OPTIMAL" ? "proven the least" : `at least ${amount("memory", Number(room.lowerBoundBytes || 0))} whatever moves`;
  return html`<section class="answer" aria-label="Moves that make room"><h2>It fits once ${moves.length === 1 ? "1 member moves" : `${moves.length} members move`}</h2>
    <p>${amount("memory", Number(room.movedBytes || 0))} of memory, ${least}. Nothing is moved by this answer.</p>
    <table><thead><tr><th>Member</th><th>Group</th><th>From</th><th>To</th><th>Memory</th><th>How</th></tr></thead>
      <tbody>${moves.map((one) => html`<tr key=${one.move.instanceUuid}><td>${one.instanceName}</td><td><a href=${`#/group/${one.groupUuid}`}>${one.groupUuid.slice(0, 8)}</a></td>
        <td>${one.sourceHostName}</td><td>${one.targetHostName}</td><td>${amount("memory", Number(one.memorySize))}</td><td>${one.move.live ? "as it runs" : "stopped and started again"}</td></tr>`)}</tbody></table>
    <p class="actions"><button class="primary" onClick=${() => deploy(stopped ? "MAKE_ROOM_RESTART" : "MAKE_ROOM_LIVE")}>${how}</button></p></section>`;
}

export function WhyNot({ problem, picture }) {
  const failure = problem.failure;
  if (!failure) return html`<${Problem} is=${problem} />`;
  const name = (uuid) => picture.hosts.get(uuid)?.name || uuid || "a host";
  return html`<section class="answer problem" aria-label="Why it does not fit"><h2>It does not fit</h2><p>${problem.message.replace(/\b[0-9a-f]{32}\b/g, name)}</p>
    ${failure.placeable !== undefined && html`<p>${failure.placeable} of ${failure.requested} would fit together.</p>`}
    ${(failure.funnels || []).map((funnel) => html`<p key=${funnel.field}><code>${funnel.field}</code>: of ${funnel.hosts} hosts, ${(funnel.ruledOut || []).map((out) =>
      `${out.hosts} ruled out by ${out.reason}${out.resource ? ` (${label(out.resource)})` : ""}, `)}${funnel.candidates || 0} could hold one.</p>`)}
    ${failure.nearestMiss && html`<p>Nearest: ${name(failure.nearestMiss.hostUuid)} lacks ${amounts(failure.nearestMiss.missing)}.</p>`}
    ${failure.cures?.length > 0 && html`<h3>What would make it fit</h3><ol class="cures">${failure.cures.map((cure) => html`<li>${cureWords(cure, name)}</li>`)}</ol>`}
    ${failure.permanent && html`<p>It would not fit on these hosts even if they were empty: waiting is of no use.</p>`}</section>`;
}

function amounts(map) {
  return Object.entries(map || {}).map(([resource, value]) => `${amount(resource, Number(value))} ${label(resource)}`).join(", ");
}

function cureWords(cure, name) {
  if (cure.kind === "relax") return `give up the rule about ${cure.family}`;
  if (cure.kind === "add_hosts") return `add ${cure.count} hosts of the size of ${name(cure.hostUuid)}`;
  if (cure.kind === "free") return `free ${amounts(cure.amounts)} on ${name(cure.hostUuid)}`;
  if (cure.kind === "shrink") return `ask for ${cure.count} machines`;
  return "wait until others are gone";
}
