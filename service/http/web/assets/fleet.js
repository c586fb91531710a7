// The fleet as a picture, and one host.

import { html, useState } from "./vendor/preact-htm.mjs";
import { all, begin, call, events } from "./api.js";
import { chosen, terms, unknown } from "./filter.js";
import { Ask, Bar, Filter, Legend, Problem, Status, Table, useAnswer } from "./parts.js";
import { Tiles } from "./tiles.js";
import { Devices } from "./devices.js";
import { amount, because, byResource, bytes, clock, label } from "./units.js";

const MANY = 200;
export const HOST_KEYS = ["name", "zone", "rack", "cluster", "status", "state", "driver", "type", "label", "group"];
const byName = new Intl.Collator(undefined, { numeric: true }).compare;
const order = (a, b) => byName(a.name, b.name);

export const open = (host) => host.schedulable;

// The resources of which what is free is of no use, because there is no CPU or no memory left beside it.
export function stranded(host) {
  const used = ["vcpu", "memory"].filter((name) => host.resources[name] && host.resources[name][5] <= 0);
  if (!used.length) return [];
  return Object.keys(host.resources).filter((name) => !used.includes(name));
}

// What of each resource of these hosts is in quarantine or out of service.
function quarantined(hosts) {
  const sums = {};
  for (const host of hosts.filter(open)) {
    for (const [name, value] of Object.entries(host.quarantined)) sums[name] = (sums[name] || 0) + value;
  }
  return sums;
}

// Sums over the hosts that take new members, as GetCapacity and the metrics have them.
export function totals(hosts) {
  const sums = {};
  for (const host of hosts.filter(open)) {
    for (const [name, of] of Object.entries(host.resources)) {
      sums[name] = (sums[name] || [0, 0, 0, 0, 0, 0]).map((value, position) => value + of[position]);
    }
  }
  return sums;
}

// What guests take now of those hosts, where that is measured.
function usedOf(hosts, picture) {
  const sums = {};
  for (const host of hosts.filter(open)) {
    for (const [name, value] of Object.entries(picture.usedOf(host.uuid))) sums[name] = (sums[name] || 0) + value;
  }
  return sums;
}

// What may be claimed of a host where that is not what it has.
function overcommitted(name, [total, reserved, allocatable]) {
  return allocatable === total - reserved ? "" : `, given out as ${amount(name, allocatable)}`;
}

const usedText = (name, used) => (name in used ? `, ${amount(name, used[name])} used now` : "");

function fields(host, picture) {
  return {
    ...host,
    zone: [picture.zones.get(host.zone)?.name, host.zone],
    label: Object.entries(host.labels).map(([key, value]) => `${key}=${value}`),
    get group() {
      return picture.membersOn(host.uuid).map((member) => picture.groups.get(member.group)?.name);
    },
  };
}

export function Fleet({ picture, loading, query, setQuery, may }) {
  const [ask, setAsk] = useState(null);
  const [problem, setProblem] = useState(null);
  const wanted = terms(query);
  const hosts = chosen([...picture.hosts.values()], wanted, (host) => fields(host, picture)).sort(order);
  const sums = totals(hosts);
  const held = quarantined(hosts);
  const used = usedOf(hosts, picture);
  const zoneName = (uuid) => picture.zones.get(uuid)?.name || uuid;
  const closed = hosts.filter((host) => !open(host)).length;
  return html`<h1>Fleet</h1>
    ${may("admin") && picture.hosts.size > 1 && html`<p class="actions"><button onClick=${() => previewRebalance(EVEN, picture, setAsk, setProblem)}>Rebalance…</button>
      <button onClick=${() => previewRebalance(FREE, picture, setAsk, setProblem)}>Free hosts…</button> <a href="#/rolls">Roll…</a></p>`}
    <${Problem} is=${problem} />
    <${Ask} ask=${ask} close=${() => setAsk(null)} />
    <${Filter} value=${query} set=${setQuery} keys=${HOST_KEYS} problem=${unknown(wanted, HOST_KEYS)} />
    <section aria-label="Totals" class="totals" id="totals">
      <p><strong>${hosts.length}</strong> hosts${closed > 0 && html`, <strong>${closed}</strong> take nothing new`}</p>
      ${Object.entries(sums).map(([name, of]) => html`<div key=${name} class="total" data-resource=${name} data-of=${of.join(" ")}>
        <span>${label(name)}: ${amount(name, of[3])} of ${amount(name, of[2])} claimed${usedText(name, used)}, ${amount(name, of[5])} free${held[name] > 0 && `, ${amount(name, held[name])} in quarantine or out of service`}</span>
        <${Bar} resource=${name} of=${of} quarantined=${held[name]} used=${used[name]} /></div>`)}
      <${Legend} />
    </section>
    ${picture.hosts.size === 0 && !loading && html`<p>There is no host yet: the configuration file names hosts, and <code>AddHost</code> takes one into the fleet.</p>`}
    ${hosts.length > MANY ? html`<${Tiles} hosts=${byPlace(hosts, zoneName)} zoneName=${zoneName} open=${open} stranded=${stranded} used=${(host) => picture.usedOf(host.uuid)} />` : html`<${Zones} hosts=${hosts} picture=${picture} />`}
    ${hosts.length > MANY && html`<${HostTable} hosts=${hosts} picture=${picture} />`}`;
}

// Hosts that are in order already, zone by zone and rack by rack.
function byPlace(hosts, zoneName) {
  return [...hosts].sort((a, b) => (a.zone === b.zone ? 0 : byName(zoneName(a.zone), zoneName(b.zone)) || byName(a.zone, b.zone)) || byName(a.rack, b.rack));
}

function Zones({ hosts, picture }) {
  const zones = new Map();
  for (const host of hosts) {
    const racks = zones.get(host.zone) || new Map();
    zones.set(host.zone, racks);
    racks.set(host.rack, [...(racks.get(host.rack) || []), host]);
  }
  const named = [...zones].map(([uuid, racks]) => ({ uuid, racks, name: picture.zones.get(uuid)?.name || uuid }));
  return named.sort((one, other) => byName(one.name, other.name)).map(({ uuid, racks, name }) => html`<section key=${uuid} class="zone" aria-label=${`Zone ${name}`}>
    <h2>${name}</h2>
    <div class="racks">${[...racks].sort(([one], [other]) => byName(one, other)).map(([rack, those]) => html`<div key=${rack} class="rack">
      ${rack && html`<h3>Rack ${rack}</h3>`}
      <ul class="hosts">${those.map((host) => html`<${Card} key=${host.uuid} host=${host} picture=${picture} />`)}</ul></div>`)}</div>
  </section>`);
}

const nameOf = (uuid, picture) => picture.hosts.get(uuid)?.name || "another host";

// A member's status, and where it goes while it is moved as it runs.
const standing = (member, picture) => `${member.status}${member.target ? `, moving to ${nameOf(member.target, picture)}` : ""}`;

function Card({ host, picture }) {
  const members = picture.membersOn(host.uuid);
  return html`<li class="host">
    <p><a href=${`#/host/${host.uuid}`}>${host.name}</a> <${Status} is=${host.status} />${host.state !== "Enabled" && html` <em>${host.state}</em>`}${host.type === "BareMetal" && html` <em>bare metal</em>`}</p>
    ${Object.entries(host.resources).map(([name, of]) => html`<div key=${name} class="line"><span>${label(name)}</span>
      <${Bar} resource=${name} of=${of} open=${open(host)} stranded=${stranded(host).includes(name)} quarantined=${host.quarantined[name]} used=${picture.usedOf(host.uuid)[name]} />
      <span>${amount(name, of[3])} / ${amount(name, of[2])}</span></div>`)}
    <p class="members">${members.slice(0, 24).map((member) => {
      const group = picture.groups.get(member.group)?.name || member.group;
      return html`<a key=${member.uuid} class="member" href=${`#/group/${member.group}`} title=${`${group} rank ${member.rank}: ${standing(member, picture)}`}
        aria-label=${`${group} rank ${member.rank}: ${standing(member, picture)}`}><i class="dot ${member.status === "Running" && !member.target ? "good" : "busy"}"></i>${group.slice(0, 10)}·${member.rank}${member.target && ` → ${nameOf(member.target, picture)}`}</a>`;
    })}${members.length > 24 && html`<span>and ${members.length - 24} more</span>`}${members.length === 0 && "no members"}</p>
  </li>`;
}

function HostTable({ hosts, picture }) {
  const names = [...new Set(hosts.flatMap((host) => Object.keys(host.resources)))].sort(byResource);
  return html`<${Table} caption="Hosts" items=${hosts} keyOf=${(host) => host.uuid}
    head=${["Name", "Zone", "Rack", "Status", "State", "Members", ...names.map((name) => `${label(name)} claimed / given out`)]}
    row=${(host) => html`<th scope="row"><a href=${`#/host/${host.uuid}`}>${host.name}</a></th><td>${picture.zones.get(host.zone)?.name}</td>
      <td>${host.rack}</td><td><${Status} is=${host.status} /></td><td>${host.state}</td><td>${host.members}</td>
      ${names.map((name) => html`<td>${host.resources[name] ? `${amount(name, host.resources[name][3])} / ${amount(name, host.resources[name][2])}` : ""}</td>`)}`} />`;
}

export function Host({ picture, loading, uuid, may }) {
  const host = picture.hosts.get(uuid);
  const [ask, setAsk] = useState(null);
  const [problem, setProblem] = useState(null);
  // Until they are known nobody is asked for one: the only choice would be none.
  const clusters = useAnswer((signal) => all("/corral/v1/clusters", "inventories", signal), [uuid]).value;
  if (!host) return html`<h1>Host</h1>${loading ? html`<p>Loading…</p>` : html`<p>There is no host <code>${uuid}</code>.</p>`}`;
  const members = picture.membersOn(uuid);
  const state = (verb) => call("POST", `/corral/v1/hosts/${uuid}:${verb}`, {}).then(() => setProblem(null), setProblem);
  return html`<h1>${host.name} <${Status} is=${host.status} /></h1>
    ${host.reason && html`<p class="reason">${because(host)}</p>`}
    ${host.fencing?.verdict && html`<p class="reason">Fencing (${host.fencing.mode}): ${host.fencing.verdict}: ${host.fencing.why}</p>`}
    ${host.fencing?.fence.state && html`<p class="reason">Last fence (${host.fencing.fence.cause}): ${host.fencing.fence.state}: ${host.fencing.fence.reason}</p>`}
    ${host.cleaning?.state && html`<p class="reason">${host.cleaning.state}${host.cleaning.project && ` of what ${host.cleaning.project} left`}: ${host.cleaning.why}</p>`}
    <dl class="facts"><dt>Zone</dt><dd>${picture.zones.get(host.zone)?.name || host.zone}</dd><dt>Rack</dt><dd>${host.rack || "—"}</dd>
      <dt>Cluster</dt><dd>${clusters?.find((one) => one.uuid === host.cluster)?.name || host.cluster || "—"}</dd>
      <dt>State</dt><dd>${host.state}</dd><dt>Driver</dt><dd>${host.driver}</dd><dt>Takes</dt><dd>${host.type}</dd>${host.fencing && html`<dt>Fencing</dt><dd>${host.fencing.mode}</dd>`}${host.firmware && html`<dt>Firmware</dt><dd>${host.firmware}</dd>`}${host.secureBoot && html`<dt>Secure Boot</dt><dd>${host.secureBoot}</dd>`}${host.cleaning && html`<dt>Cleaned between projects</dt><dd>${host.cleaning.mode}${!host.cleaning.state && host.cleaning.project && `, last of ${host.cleaning.project}`}</dd>`}<dt>Groups kept to themselves</dt><dd>${{ nwfilter: "yes (nwfilter)", "": "not seen yet" }[host.isolation] ?? `no: ${host.isolation}`}</dd><dt>UUID</dt><dd><code>${host.uuid}</code></dd></dl>
    ${may("admin") && html`<p class="actions">
      ${host.state === "Enabled" ? html`<button onClick=${() => state("disable")}>Take nothing new</button>` : html`<button onClick=${() => state("enable")}>Enable</button>`}
      <button disabled=${!clusters} onClick=${() => setAsk(toCluster(host, clusters))}>Change cluster…</button>
      <button onClick=${() => previewDrain(host, picture, setAsk, setProblem)}>Drain…</button>
      ${host.cleaning && host.cleaning.mode !== "none" && host.cleaning.state !== "Cleaning" && !members.length && html`<button onClick=${() => state("clean")}>Clean</button>`}
      ${host.status === "Disconnected" && html`<button onClick=${() => setAsk(toFence(host))}>Fence…</button>`}</p>`}
    <${Problem} is=${problem} />
    <section aria-label="Resources">${Object.entries(host.resources).map(([name, of]) => html`<div key=${name} class="line wide"><span>${label(name)}</span>
      <${Bar} resource=${name} of=${of} open=${open(host)} stranded=${stranded(host).includes(name)} quarantined=${host.quarantined[name]} used=${picture.usedOf(uuid)[name]} />
      <span>${amount(name, of[3])} claimed${usedText(name, picture.usedOf(uuid))}, ${amount(name, of[4])} other machines${host.quarantined[name] > 0 && ` (${amount(name, host.quarantined[name])} in quarantine or out of service)`}, ${amount(name, of[1])} reserved, of ${amount(name, of[0])}${overcommitted(name, of)}</span></div>`)}
      ${Object.keys(host.cells).length > 1 && Object.entries(host.cells).map(([number, cell]) => html`<h2 key=${number}>NUMA cell ${number}</h2>
        ${Object.entries(cell).map(([name, of]) => html`<div key=${name} class="line wide"><span>${label(name)}</span><${Bar} resource=${name} of=${of} open=${open(host)} />
          <span>${amount(name, of[3])} claimed by members pinned to it, ${amount(name, of[4])} other machines, ${amount(name, of[1])} reserved, of ${amount(name, of[0])}</span></div>`)}`)}
      <${Legend} /></section>
    <${Table} caption="Members" items=${members} keyOf=${(member) => member.uuid} head=${["Group", "Rank", "Status", "CPU", "Memory", "Why"]}
      row=${(member) => html`<th scope="row"><a href=${`#/group/${member.group}`}>${picture.groups.get(member.group)?.name || member.group}</a></th>
        <td>${member.rank}</td><td><${Status} is=${member.status} />${member.target && html` → <a href=${`#/host/${member.target}`}>${nameOf(member.target, picture)}</a>`}</td><td>${member.cpu}</td><td>${bytes(member.memory)}</td><td>${because(member)}</td>`} />
    <${Devices} host=${host} picture=${picture} may=${may} />
    <${Ask} ask=${ask} close=${() => setAsk(null)} />`;
}

function toFence(host) {
  const byBmc = host.fencing && host.fencing.mode !== "off";
  return {
    title: `Fence ${host.name}`,
    verb: byBmc ? "Switch off" : "It is off",
    body: byBmc
      ? html`<p>It is switched off by its BMC. Once that shows it off, its members are placed elsewhere. What still runs there ends.</p>`
      : html`<p>Only if its machines are ended for good, by power or by network: its members are placed elsewhere at once, and would run twice otherwise.</p>`,
    run: () => call("POST", `/corral/v1/hosts/${host.uuid}:fence`, {}),
  };
}

function toCluster(host, clusters) {
  return {
    title: `The cluster of ${host.name}`,
    verb: "Change",
    body: html`<p>Members that may only be in its cluster keep it there.</p>
      <label for="host-cluster">Cluster</label><select id="host-cluster">
        <option value="" selected=${!host.cluster}>none</option>
        ${clusters.filter((one) => one.zoneUuid === host.zone).map((one) => html`<option value=${one.uuid} selected=${one.uuid === host.cluster}>${one.name}</option>`)}</select>`,
    run: () => call("PATCH", `/corral/v1/hosts/${host.uuid}`, { clusterUuid: document.getElementById("host-cluster").value, updateMask: "clusterUuid" }),
  };
}

// Where each member would go is shown before anything moves; what then happens may be another plan, made when it is asked for.
async function previewDrain(host, picture, setAsk, setProblem) {
  const path = `/corral/v1/hosts/${host.uuid}:drain`;
  const moves = [];
  try {
    for await (const { data } of events("POST", path, { validateOnly: true })) if (data.move) moves.push(data.move);
  } catch (problem) {
    setProblem(problem);
    return;
  }
  setProblem(null);
  const line = (move) => {
    const member = picture.members.get(move.instanceUuid);
    const group = picture.groups.get(member?.group)?.name || member?.group;
    return html`<li>${group} rank ${member?.rank} → ${picture.hosts.get(move.targetHostUuid)?.name} (${move.live ? "keeps running" : "is stopped here and started there"})</li>`;
  };
  setAsk({
    title: `Drain ${host.name}`,
    verb: "Drain",
    body: moves.length ? html`<p>These members would move:</p><ol>${moves.map(line)}</ol>` : html`<p>Nothing is on it. It goes into maintenance.</p>`,
    run: () => begin("POST", path, {}),
  });
}

const EVEN = { goal: "REBALANCE_GOAL_EVEN_LOAD", title: "Rebalance", nothing: "Nothing is gained by a move: no rule is broken, and no host is much fuller than the others." };
const FREE = { goal: "REBALANCE_GOAL_FREE_HOSTS", title: "Free hosts", nothing: "No host can be set free by so few moves of members that keep running." };

function movedFor(one) {
  if (one.rule) return `mends the rule “${one.rule}”`;
  return one.cause === "REBALANCE_CAUSE_FREE" ? "its host becomes free" : `its host is fuller: ${one.gain} % less`;
}

// What would move, and what for, is shown before anything moves; what then happens may be another plan, made when it is asked for.
async function previewRebalance({ goal, title, nothing }, picture, setAsk, setProblem) {
  let plan;
  try {
    plan = await call("POST", "/corral/v1/fleet:planRebalance", { goal });
  } catch (problem) {
    setProblem(problem);
    return;
  }
  setProblem(null);
  const line = ({ move, ...one }) => html`<li>${move.instanceName}: ${move.sourceHostName} → ${move.targetHostName} (${bytes(Number(move.memorySize))}, ${movedFor(one)})</li>`;
  const moves = plan.moves || [];
  const left = plan.leftBroken || [];
  const freed = (plan.freedHostUuids || []).map((uuid) => picture.hosts.get(uuid)?.name || uuid);
  const proven = plan.proof === "PLACEMENT_PROOF_OPTIMAL" ? "Proven the best that so many moves can do." : "More may be possible.";
  setAsk({
    title,
    verb: moves.length ? "Move" : "Close",
    body: html`${moves.length ? html`<p>These members would move, as they run:</p><ol>${moves.map(line)}</ol><p>${proven}</p>` : html`<p>${nothing}</p>`}
      ${freed.length > 0 && html`<p>Free then: <strong>${freed.join(", ")}</strong>.</p>`}
      ${left.length > 0 && html`<p>Still broken then: ${left.map((one) => one.rule).join(", ")}.</p>`}
      ${plan.held && html`<p>Held, for they have moved lately: ${plan.held.count}, until ${clock(Date.parse(plan.held.lastUntil))} at the latest.</p>`}`,
    run: () => (moves.length ? begin("POST", "/corral/v1/fleet:rebalance", { goal }) : undefined),
  });
}
