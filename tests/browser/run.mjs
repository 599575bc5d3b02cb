// Plays the page of a running daemon in headless Chromium and fails unless it played without a gap.
//
// scripts/check-page starts a daemon and runs this. By hand:
//
//   npm install --ignore-scripts && node run.mjs [--url URL] [--secs 10] [--shot page.png]
//
// Needs Debian's chromium (or CHROMIUM=path) and no sound card: without one Chromium plays to a
// clock. --station NAME chooses a station, --light and --phone change the picture, --tolerate N
// allows N underruns on a machine that is busy with other things.
import { chromium } from "playwright-core";
import { parseArgs } from "node:util";

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
const page = await browser.newPage({
  viewport: options.phone ? { width: 390, height: 844 } : { width: 1100, height: 900 },
  colorScheme: options.light ? "light" : "dark",
});
const faults = [];
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) faults.push(message.text());
});
page.on("pageerror", (error) => faults.push(error.message));

const url = new URL(options.url);
if (options.station) url.hash = options.station;
await page.goto(url.href);
await page.waitForSelector("#play:not([disabled])");
// A real click: the autoplay policy of the browser is in force.
await page.click("#play");
await page.waitForFunction(() => window.longwave.state === "playing", null, { timeout: 15000 });
const before = await page.evaluate(() => ({ ...window.longwave }));
const began = performance.now();
await page.waitForTimeout(Number(options.secs) * 1000);
const after = await page.evaluate(() => ({ ...window.longwave }));
const seconds = (performance.now() - began) / 1000;
if (options.shot) await page.screenshot({ path: options.shot, fullPage: true });
await page.click("#play");
await page.waitForFunction(() => window.longwave.state === "idle");
await browser.close();

const { hello, ...counters } = after;
const playedS = (after.position - before.position) / hello.sample_rate_hz;
console.log(JSON.stringify({ ...counters, seconds, playedS }, null, 1));

const expect = (isSo, sentence) => isSo || faults.push(sentence);
expect(after.state === "playing", `the page is ${after.state}`);
expect(after.underruns <= Number(options.tolerate), `${after.underruns} underruns`);
expect(after.lost === 0 && after.gaps === 0, `${after.lost} packets lost, ${after.gaps} gaps`);
expect(Math.abs(playedS / seconds - 1) < 0.05, `${playedS} s of sound in ${seconds} s`);
expect(after.peak > 0.001, "it played silence");
for (const fault of faults) console.error(fault);
process.exit(faults.length ? 1 : 0);
