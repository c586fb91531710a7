// A host's devices: who has each of them, or why nobody may, and taking one out of service or back.

import { html, useState } from "./vendor/preact-htm.mjs";
import { call } from "./api.js";
import { Ask, Problem, Status, Table, useAnswer } from "./parts.js";
import { bytes, clock } from "./units.js";

const byName = new Intl.Collator(undefined, { numeric: true }).compare;

export function Devices({ host, picture, may }) {
  const told = useAnswer((signal) => call("GET", `/corral/v1/hosts/${host.uuid}`, undefined, signal), [host]);
  const [ask, setAsk] = useState(null);
  const devices = told.value?.inventory?.devices || [];
  const path = `/corral/v1/hosts/${host.uuid}/devices`;
  const change = async (verb, body) => {
    await call("POST", `${path}:${verb}`, body);
    told.again();
  };
  const takeOut = (one) => setAsk({
    title: `Take ${one.key} out of service?`,
    verb: "Take out",
    body: html`<p>It is given to nobody until it is taken back. Who has it keeps it.</p>
      <label for="device-reason">Why, for whoever looks at it next</label><input id="device-reason" required maxlength="1000" />`,
    run: () => change("quarantine", { key: one.key, reason: document.getElementById("device-reason").value }),
  });
  const takeBack = (one) => setAsk({
    title: `Take ${one.key} back into service?`,
    verb: "Take back",
    body: html`<p>The next member that asks for such a device may get it. ${one.reason}</p>`,
    run: () => change("release", { key: one.key }),
  });
  const count = (state) => devices.filter((one) => one.state === state).length;
  const states = [...new Set(devices.map((one) => one.state))].map((state) => `${count(state)} ${state}`);
  const copies = html`<${Copies} of=${told.value?.inventory?.imageCopies} />`;
  if (!devices.length && !told.problem) return copies;
  return html`${copies}<h2>Devices</h2>
    <${Problem} is=${told.problem} />
    ${told.value && html`<p id="device-states">${states.join(", ")}</p>
      <${Partitions} of=${devices} />
      <${Table} caption="Devices" items=${devices} keyOf=${(one) => one.key} head=${["Device", "Model", "State", "Has it", "NUMA cell", "Partition", "IOMMU group", "With it", "Why", ...(may("admin") ? ["Do"] : [])]}
        row=${(one) => html`<th scope="row"><code>${one.key}</code></th><td>${one.model}</td><td><${Status} is=${one.state} /></td><td>${holder(one, picture)}</td>
          <td>${one.numaCell ?? "—"}</td><td>${one.partition || "—"}</td><td>${one.iommuGroup ?? "—"}</td><td>${(one.functions || []).filter((address) => address !== one.key).join(", ")}</td><td>${one.reason}</td>
          ${may("admin") && html`<td>${one.state === "quarantined" ? html`<button onClick=${() => takeBack(one)}>Take back…</button>` : one.state !== "gone" && html`<button onClick=${() => takeOut(one)}>Take out…</button>`}</td>`}`} />`}
    <${Ask} ask=${ask} close=${() => setAsk(null)} />`;
}

// Which of the devices are joined, and how many of each such partition are free: so many a member can have together.
function Partitions({ of }) {
  const names = [...new Set(of.map((one) => one.partition).filter(Boolean))].sort(byName);
  if (!names.length) return null;
  const line = (name) => {
    const mine = of.filter((one) => one.partition === name);
    const cells = [...new Set(mine.map((one) => one.numaCell).filter((cell) => cell !== undefined))].sort((a, b) => a - b);
    const where = cells.length ? `, of NUMA ${cells.length > 1 ? "cells" : "cell"} ${cells.join(" and ")}` : "";
    return html`<li key=${name}><strong>${name}</strong>: ${mine.filter((one) => one.state === "available").length} of ${mine.length} available${where}</li>`;
  };
  return html`<h3 id="partitions-title">Partitions</h3><ul id="partitions" aria-labelledby="partitions-title">${names.map(line)}</ul>`;
}

// Copies of images on the host that this installation has made.
function Copies({ of }) {
  const [size, budget] = [Number(of?.size || 0), Number(of?.budget || 0)];
  if (!of?.copies?.length && !budget) return null;
  return html`<h2>Copies of images</h2>
    <p id="image-copies">${bytes(size)}${budget > 0 && ` of ${bytes(budget)} that they may take`}</p>
    <${Table} caption="Copies of images" items=${of.copies || []} keyOf=${(one) => `${one.sha256} ${one.status}`} head=${["Image", "Size", "Status", "Last used"]}
      row=${(one) => html`<th scope="row">${one.image}</th><td>${one.status === "Arriving" && `${bytes(Number(one.received || 0))} of `}${bytes(Number(one.size))}</td>
        <td>${one.status}</td><td>${clock(Date.parse(one.lastUsedDate))}</td>`} />`;
}

function holder(device, picture) {
  if (!device.instanceUuid) return "";
  const member = picture.members.get(device.instanceUuid);
  const group = picture.groups.get(device.groupUuid);
  return html`<a href=${`#/group/${device.groupUuid}`}>${group?.name || device.groupUuid.slice(0, 8)}${member && ` rank ${member.rank}`}</a>`;
}
