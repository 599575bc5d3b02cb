// A stream of the listener's own, used as a keyboard and a mouse would.
import { readFile } from "node:fs/promises";

const RECORDING = new URL("../../samples/prompt.wav", import.meta.url);

export async function trySession({ page, counters, untilPlaying, playsOn, expect }) {
  const said = (text) =>
    page.waitForFunction((text) => document.getElementById("own-status").textContent.includes(text), text, {
      timeout: 30000,
    });
  const holds = (what, test, value) => page.waitForFunction(test, value, { timeout: 15000 }).catch(() => {
    expect(false, `session: ${what}`);
  });

  // By the keyboard alone.
  await page.focus("#own-open");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => window.longwave.hello?.session);
  await playsOn(2, "session");
  const first = (await counters()).hello;
  await page.focus("#temperature");
  for (let n = 0; n < 10; n++) await page.keyboard.press("ArrowLeft");
  const wanted = Number(await page.inputValue("#temperature"));
  expect(wanted < first.draw.temperature - 0.05, `session: the slider stands at ${wanted}`);
  await holds("the temperature is another", (wanted) => window.longwave.hello.draw.temperature === wanted, wanted);
  await said(`temperature ${wanted}`);
  await playsOn(2, "session, colder");

  await page.fill("#seed", "12x");
  await page.keyboard.press("Enter");
  expect(await page.$eval("#seed", (seed) => !seed.validity.valid), "session: 12x is a seed");
  await page.fill("#seed", "18446744073709551615");
  await page.keyboard.press("Enter");
  await holds("the seed is another", () => window.longwave.hello.seed === "18446744073709551615");

  const recording = (await readFile(RECORDING)).toString("base64");
  await page.evaluate((recording) => {
    const bytes = Uint8Array.from(atob(recording), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], "prompt.wav", { type: "audio/wav" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  }, recording);
  await said("on from prompt.wav");
  await holds("it has a new past", () => window.longwave.hello.prompt_sha256);
  await playsOn(2, "session, with a recording as its past");
  const letter = { name: "letter.txt", mimeType: "text/plain", buffer: Buffer.from("no sound at all") };
  await page.setInputFiles("#recording", letter);
  await said("letter.txt is no recording");

  await page.click("#branch");
  await said("another way with seed");
  const branch = (await counters()).hello;
  expect(branch.session !== first.session, "session: the branch is another");
  expect(branch.draw.temperature === wanted, "session: the branch is drawn likewise");
  await playsOn(2, "branch");

  await page.click("#pause");
  await page.waitForTimeout(1000);
  const paused = (await counters()).position;
  await page.waitForTimeout(2000);
  expect((await counters()).position === paused, "session: paused, it goes on");
  await page.click("#pause");
  await untilPlaying();
  await playsOn(3, "session, after a pause");

  await page.click("#own-open");
  await page.waitForFunction(() => window.longwave.hello && !window.longwave.hello.session);
  await playsOn(2, "station again");
}
