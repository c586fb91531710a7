// Lists beside the fleet and the groups: images, what is held in quarantine, what the planner has decided, what projects use of
// their quotas, and who changed what.

import { html, useState } from "./vendor/preact-htm.mjs";
import { all, call } from "./api.js";
import { Ask, Problem, Status, Table, useAnswer } from "./parts.js";
import { amount, byResource, bytes, clock, label } from "./units.js";

export function Quarantine({ picture }) {
  const held = useAnswer((signal) => all("/corral/v1/quarantine", "inventories", signal), []);
  const [ask, setAsk] = useState(null);
  const done = async (path, body) => {
    await call("POST", path, body);
    held.again();
  };
  const remove = (one) => setAsk({
    title: `Destroy ${one.name}?`,
    verb: "Destroy",
    body: html`<p>The ${one.holding} <code>${one.name}</code> on ${host(one)} is ended and its disks are deleted. ${one.reason}</p>`,
    run: () => done("/corral/v1/quarantine:remove", { hostUuid: one.hostUuid, key: one.key }),
  });
  const adopt = (one) => setAsk({
    title: "Take the group back?",
    verb: "Adopt",
    body: html`<p>The machines of group <code>${one.groupUuid}</code> become its members again, as they run.</p>`,
    run: () => done("/corral/v1/quarantine:adopt", { groupUuid: one.groupUuid }),
  });
  const host = (one) => picture.hosts.get(one.hostUuid)?.name || one.hostUuid;
  return html`<h1>Quarantine</h1>
    <p>Machines and volumes that bear this installation's mark and of which its database knows nothing. They hold their capacity, and nothing is done to them until somebody says so.</p>
    <${Problem} is=${held.problem} />
    <p class="actions"><button onClick=${held.again}>Look again</button></p>
    ${held.value && html`<${Table} caption="Held" items=${held.value} keyOf=${(one) => one.hostUuid + one.key} head=${["Name", "Host", "What", "State", "Holds", "Since", "Why", "Do"]}
      row=${(one) => html`<th scope="row">${one.name}</th><td>${host(one)}</td><td>${one.holding}</td><td>${one.state}</td>
        <td>${Object.entries(one.resources || {}).map(([name, value]) => `${label(name)} ${amount(name, Number(value))}`).join(", ")}</td>
        <td class="when">${clock(Date.parse(one.createDate))}</td><td>${one.reason}</td>
        <td>${one.removalOrdered ? "being ended" : html`<button onClick=${() => remove(one)}>Destroy…</button>
          ${one.groupUuid && html` <button onClick=${() => adopt(one)}>Adopt…</button>`}`}</td>`} />`}
    <${Ask} ask=${ask} close=${() => setAsk(null)} />`;
}

export function Images({ may }) {
  const listed = useAnswer((signal) => all("/corral/v1/images", "inventories", signal), []);
  const [ask, setAsk] = useState(null);
  const remove = (one) => setAsk({
    title: `Delete ${one.name}?`,
    verb: "Delete",
    body: html`<p>No model service and no group may use it. What was uploaded for it is deleted; a file that an operator has put into the store stays.</p>`,
    run: async () => {
      await call("DELETE", `/corral/v1/images/${one.uuid}`);
      listed.again();
    },
  });
  return html`<h1>Images</h1><p>What machines boot from: of the configuration file, registered from the image store, or uploaded.</p>
    <${Problem} is=${listed.problem} />
    <p class="actions"><button onClick=${listed.again}>Look again</button></p>
    ${listed.value && html`<${Table} caption="Images" items=${listed.value} keyOf=${(one) => one.uuid} head=${["Name", "Format", "Size", "Since", "SHA-256", "UUID", ...(may("admin") ? ["Do"] : [])]}
      row=${(one) => html`<th scope="row">${one.name}</th><td>${one.format}</td><td>${bytes(Number(one.size || 0))}</td><td class="when">${clock(Date.parse(one.createDate))}</td>
        <td><code title=${one.sha256}>${one.sha256?.slice(0, 12)}</code></td><td><code>${one.uuid}</code></td>
        ${may("admin") && html`<td><button onClick=${() => remove(one)}>Delete…</button></td>`}`} />`}
    <${Ask} ask=${ask} close=${() => setAsk(null)} />`;
}

export function Decisions({ picture }) {
  const made = useAnswer((signal) => call("GET", "/corral/v1/decisions", undefined, signal), []);
  return html`<h1>Decisions</h1><p>What the planner of this process has decided lately, with what it proved.</p>
    <${Problem} is=${made.problem} />
    <p class="actions"><button onClick=${made.again}>Look again</button></p>
    ${made.value && html`<${Table} caption="Decisions, newest first" items=${made.value.inventories || []} keyOf=${(one) => one.uuid}
      head=${["At", "Of", "Came out", "Proof", "Members", "Hosts", "Took", "By"]}
      row=${(one) => html`<td class="when">${clock(Date.parse(one.createDate))}</td><th scope="row">${picture.groups.has(one.groupUuid) ? html`<a href=${`#/group/${one.groupUuid}`}>${picture.groups.get(one.groupUuid).name}</a>` : one.kind === "rebalance" ? "rebalance" : html`<code>${one.groupUuid?.slice(0, 8)}</code>`}</th>
        <td>${one.moves ? `${one.moves} moves` : html`<${Status} is=${one.status} />`}</td><td>${one.proof}</td><td>${one.nodes}</td><td>${one.hosts}</td><td>${(one.durationMs || 0).toFixed(1)} ms</td><td>${one.stage}</td>`} />`}`;
}

export function Usage() {
  const used = useAnswer((signal) => all("/corral/v1/usage", "inventories", signal), []);
  const lines = (used.value || []).flatMap((project) => [...(project.resources || [{ resource: "" }])].sort((a, b) => byResource(a.resource, b.resource)).map((one) => ({ ...one, of: project })));
  lines.more = used.value?.more;
  return html`<h1>Usage</h1><p>What each project has claimed, what of it still waits for a host, and what its quota leaves.</p>
    <${Problem} is=${used.problem} />
    <p class="actions"><button onClick=${used.again}>Look again</button></p>
    ${used.value && html`<${Table} caption="By project and resource" items=${lines} keyOf=${(one) => `${one.of.project}/${one.resource}`}
      head=${["Project", "Groups", "Members", "Resource", "Claimed", "Waiting", "Quota", "Left"]}
      row=${(one) => html`<th scope="row">${one.of.project}</th><td>${one.of.groupCount || 0}</td><td>${one.of.instanceCount || 0}</td><td>${label(one.resource)}</td>
        ${[one.claimed || 0, one.waiting || 0].map((value) => html`<td>${amount(one.resource, Number(value))}</td>`)}
        <td>${one.limit === undefined ? "no limit" : amount(one.resource, Number(one.limit))}</td><td>${one.available === undefined ? "—" : amount(one.resource, Number(one.available))}</td>`} />`}`;
}

export function Audit() {
  const made = useAnswer((signal) => all("/corral/v1/audit-events", "inventories", signal, 1000), []);
  return html`<h1>Audit</h1><p>Who changed what, the newest first: the last thousand changes.</p>
    <${Problem} is=${made.problem} />
    <p class="actions"><button onClick=${made.again}>Look again</button></p>
    ${made.value && html`<${Table} caption="Changes" items=${made.value} keyOf=${(one) => one.id} head=${["At", "Who", "From", "Project", "What", "Of", "Call"]}
      row=${(one) => html`<td class="when">${clock(Date.parse(one.time))}</td><th scope="row">${one.principal}</th><td>${one.peer}</td><td>${one.project}</td><td>${one.method}</td>
        <td><code>${one.subject}</code></td><td><code>${one.requestId}</code></td>`} />`}`;
}
