// Plays the page of a running daemon in headless Chromium and fails unless it played without a gap: a
// station, then a session, if the daemon has any, which is changed in every way the page knows.
//
// scripts/check-page starts a daemon and runs this. By hand:
//
//   npm install --ignore-scripts && node run.mjs [--url URL] [--secs 10] [--shot page.png]
//
// Needs Debian's chromium (or CHROMIUM=path) and no sound card: without one Chromium plays to a
// clock. --station NAME chooses a station, --light and --phone change the picture, --tolerate N
// allows N underruns on a machine that is busy with other things.
import AxeBuilder from "@axe-core/playwright";
import { chromium } from "playwright-core";
import { parseArgs } from "node:util";
import { trySession } from "./session.mjs";

const { values: options } = parseArgs({
  options: {
    url: { type: "string", default: "http://127.0.0.1:8420/" },
    secs: { type: "string", default: "10" },
    shot: { type: "string" },
    station: { type: "string" },
    light: { type: "boolean", default: false },
    phone: { type: "boolean", default: false },
    tolerate: { type: "string", default: "0" },
  },
});

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
});
const context = await browser.newContext({
  viewport: options.phone ? { width: 390, height: 844 } : { width: 1100, height: 900 },
  colorScheme: options.light ? "light" : "dark",
});
const page = await context.newPage();
const faults = [];
const expect = (isSo, sentence) => isSo || faults.push(sentence);
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) faults.push(message.text());
});
page.on("pageerror", (error) => faults.push(error.message));
page.on("request", (request) => {
  const isOurs = ["data:", new URL(options.url).origin].some((ours) => request.url().startsWith(ours));
  expect(isOurs, `the page asks another for ${request.url()}`);
});

const url = new URL(options.url);
if (options.station) url.hash = options.station;
await page.goto(url.href);
await page.waitForSelector("#play:not([disabled])");
// A real click: the autoplay policy of the browser is in force.
await page.click("#play");

const counters = () => page.evaluate(() => ({ ...window.longwave }));
const untilPlaying = () =>
  page.waitForFunction(() => window.longwave.state === "playing", null, { timeout: 15000 });

/** It plays for some seconds, as fast as time goes, and nothing is missing. */
async function playsOn(seconds, what) {
  await untilPlaying();
  const before = await counters();
  const began = performance.now();
  await page.waitForTimeout(seconds * 1000);
  const after = await counters();
  const elapsed = (performance.now() - began) / 1000;
  const playedS = (after.position - before.position) / after.hello.sample_rate_hz;
  const { hello, ...figures } = after;
  console.log(what, JSON.stringify({ ...figures, elapsed, playedS }));
  expect(after.state === "playing", `${what}: the page is ${after.state}`);
  expect(after.underruns <= Number(options.tolerate), `${what}: ${after.underruns} underruns`);
  expect(after.lost === 0 && after.gaps === 0, `${what}: ${after.lost} packets lost, ${after.gaps} gaps`);
  expect(after.skipped === 0, `${what}: ${after.skipped} samples were left out`);
  expect(Math.abs(playedS / elapsed - 1) < 0.05, `${what}: ${playedS} s of sound in ${elapsed} s`);
  expect(after.peak > 0.001, `${what}: it played silence`);
}

await playsOn(Number(options.secs), "station");
if (await page.isVisible("#own")) await trySession({ page, counters, untilPlaying, playsOn, expect });
const { violations } = await new AxeBuilder({ page }).analyze();
for (const { help, nodes } of violations) expect(false, `${help}: ${nodes.map(({ html }) => html).join(", ")}`);
if (options.shot) await page.screenshot({ path: options.shot, fullPage: true });
await page.click("#play");
await page.waitForFunction(() => window.longwave.state === "idle");
await browser.close();

for (const fault of faults) console.error(fault);
process.exit(faults.length ? 1 : 0);
