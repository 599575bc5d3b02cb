// The controls of a stream of the listener's own: how it is drawn, and what it goes on from.

import { promptOf } from "./prompt.js";
import { counters } from "./receiver.js";
import { Session } from "./session.js";
import { duration, element, put } from "./words.js";

const SEED_MAX = 2n ** 64n - 1n;

export class Panel {
  /** `page` plays what it is told to: see `tune`, `start` and `end` there. */
  constructor(page) {
    this.page = page;
    this.temperature = element("temperature");
    this.seed = element("seed");
    this.file = element("recording");
    element("own-open").onclick = () => (this.session ? page.start() : this.open());
    this.temperature.oninput = () => this.showTemperature();
    this.temperature.onchange = () => this.session?.change({ temperature: Number(this.temperature.value) });
    element("seed-form").onsubmit = (event) => {
      event.preventDefault();
      this.sow();
    };
    this.seed.oninput = () => this.seed.setCustomValidity("");
    element("branch").onclick = () => this.session?.branchOff(anySeed());
    element("pause").onclick = () => this.togglePause();
    this.file.onchange = () => {
      const [file] = this.file.files;
      if (file) this.prime(file);
      this.file.value = ""; // the same file may be chosen again
    };
  }

  /** Shows itself if the house has sessions, and whoever looks may have one. */
  offer({ may, max, models }) {
    this.models = models;
    element("own").hidden = !may || max === 0;
    if (element("own").hidden) return;
    const hasFiles = ({ dataTransfer }) => dataTransfer.types.includes("Files");
    const aim = (isAimed) => element("own").classList.toggle("aimed", isAimed);
    window.ondragover = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
      aim(true);
    };
    window.ondragleave = ({ relatedTarget }) => relatedTarget || aim(false);
    window.ondrop = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      aim(false);
      this.prime(event.dataTransfer.files[0]);
    };
  }

  open() {
    return this.page.tune((station, volume, words) => {
      this.session = new Session(station, volume, {
        say: words.say,
        describe: (hello) => {
          words.describe(hello);
          this.show(hello);
        },
        tell: (answer) => this.tell(answer),
        onEnd: (why) => this.page.end(why ?? "No stream of your own can be had now; all may be taken"),
      });
      this.press();
      put("own-status", "");
      return this.session;
    });
  }

  /** What was playing has ended, for whatever reason. */
  onStop() {
    this.session = null;
    this.press();
    put("own-status", "");
  }

  press() {
    const isOpen = Boolean(this.session);
    put("own-open", isOpen ? "Back to the station" : "Open");
    element("own-controls").disabled = !isOpen;
    element("pause").setAttribute("aria-pressed", String(Boolean(this.session?.isPaused)));
  }

  /** What the stream is now; what the listener is about to say goes before. */
  show({ seed, draw }) {
    if (this.session.wish.temperature === undefined) this.temperature.value = draw.temperature;
    if (document.activeElement !== this.seed) this.seed.value = seed;
    this.showTemperature();
  }

  showTemperature() {
    put("temperature-value", Number(this.temperature.value).toFixed(2));
  }

  sow() {
    const text = this.seed.value.trim();
    const isSeed = /^[0-9]{1,20}$/.test(text) && BigInt(text) <= SEED_MAX;
    this.seed.setCustomValidity(isSeed ? "" : `A seed is a whole number from 0 to ${SEED_MAX}`);
    if (this.seed.reportValidity()) this.session?.change({ seed: text });
  }

  togglePause() {
    if (this.session.isPaused) this.session.resume();
    else this.session.pause();
    this.press();
  }

  /** Lets the stream go on from a recording; opens one if there is none. */
  async prime(file) {
    try {
      const { model, sample_rate_hz: rateHz } = this.page.station;
      const { hears } = this.models.find(({ name }) => name === model.name);
      put("own-status", `Reading ${file.name}`);
      const prompt = await promptOf(file, rateHz, hears);
      if (!this.session) await this.open();
      const seconds = (prompt.samples.length / rateHz).toFixed(1);
      put("own-status", `Listening to the last ${seconds} s of ${file.name}`);
      this.recording = file.name;
      this.session?.prime(prompt);
    } catch (error) {
      put("own-status", error.message);
    }
  }

  /** Says what has come of a wish, and when it is heard. */
  tell({ since, seed, draw, prompt_sha256: isPrimed, branchSeed, refusal }) {
    if (refusal) return put("own-status", `It goes on as it was: ${refusal}`);
    const what = branchSeed
      ? `another way with seed ${branchSeed}`
      : isPrimed
        ? `on from ${this.recording}`
        : `seed ${seed}, temperature ${draw.temperature}`;
    put("own-status", `From ${duration(since / counters.hello.sample_rate_hz)}: ${what}`);
  }
}

/** Of 32 bits, so that it can be read out. */
function anySeed() {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}
