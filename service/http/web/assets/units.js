// Amounts and times as people read them.

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(amount) {
  let unit = 0;
  while (Math.abs(amount) >= 1024 && unit < BINARY.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${Number(amount.toFixed(amount < 10 ? 1 : 0))} ${BINARY[unit]}`;
}

export function amount(resource, value) {
  return resource === "memory" ? bytes(value) : String(Math.round(value * 10) / 10);
}

// CPU, memory, then what else there is by name.
export function byResource(one, other) {
  const place = (name) => ["vcpu", "memory", name].indexOf(name);
  return place(one) - place(other) || one.localeCompare(other);
}

export function label(resource) {
  if (resource === "vcpu") return "CPU";
  if (resource === "memory") return "Memory";
  return resource.startsWith("gpu.") ? `GPU ${resource.slice(4)}` : resource;
}

export function seconds(milliseconds) {
  const whole = Math.max(0, Math.round(milliseconds / 1000));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// A short time exactly, a long one roughly.
export function lasted(milliseconds) {
  return milliseconds < 10000 ? `${(milliseconds / 1000).toFixed(2)} s` : seconds(milliseconds);
}

export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleString([], { dateStyle: "short", timeStyle: "medium", hourCycle: "h23" });
}

// The reason of a group or member, with what the host itself said where the caller is told.
export function because(one) {
  return one.cause ? `${one.reason}; the host says: ${one.cause}` : one.reason;
}
