// Small things that all parts of the page say and do alike.

export const element = (id) => document.getElementById(id);

/** 3 h 02 m 07 s */
export function duration(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  const [, m, s] = parts.map((part) => String(part).padStart(2, "0"));
  return parts[0] ? `${parts[0]}:${m}:${s}` : `${parts[1]}:${s}`;
}

/** Tells a screen reader only what is new. */
export function put(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}
