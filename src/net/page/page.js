// The page: a station or a stream of the listener's own, heard, drawn and measured.

import { Panel } from "./panel.js";
import { Radio } from "./radio.js";
import { counters } from "./receiver.js";
import { Scope } from "./scope.js";
import { duration, element, put } from "./words.js";

/** How often a page that lies open looks which stations there are. */
const LIST_MS = 30000;

/** The controls and figures. */
class Page {
  constructor() {
    this.scope = new Scope(element("waveform"), element("spectrogram"));
    this.play = element("play");
    this.volume = element("volume");
    this.volume.value = recall("volume") ?? this.volume.value;
    this.play.onclick = () => this.toggle();
    this.volume.oninput = () => {
      remember("volume", this.volume.value);
      this.radio?.setVolume(this.loudness);
    };
    this.panel = new Panel(this);
    element("station").onchange = () => this.choose(element("station").value);
    setInterval(() => this.show(), 200);
    setInterval(() => this.list(), LIST_MS);
    this.load();
  }

  /** The ear hears powers: half the slider should sound like half. */
  get loudness() {
    return Number(this.volume.value) ** 2;
  }

  say(state, sentence, isAlarm = false) {
    counters.state = state;
    put("status", sentence);
    element("status").classList.toggle("alarm", isAlarm);
  }

  async load() {
    this.play.disabled = true;
    try {
      const answer = await fetch("v1/stations" + location.search);
      if (answer.status === 401) {
        return this.say("failed", "This daemon wants a link that has not expired; ask whoever runs it", true);
      }
      this.stations = await answer.json();
      this.panel.offer(await (await fetch("v1/sessions" + location.search)).json());
    } catch {
      this.say("failed", "The daemon does not answer; trying again", true);
      setTimeout(() => this.load(), 3000);
      return;
    }
    this.offer();
    const wanted = namedStation();
    const first = this.stations.find(({ station }) => station === wanted) ?? this.stations[0];
    if (!first) return this.say("failed", "This daemon has no station", true);
    this.choose(first.station);
  }

  /** What there is to choose from. */
  offer() {
    const select = element("station");
    select.replaceChildren(...this.stations.map(({ station }) => new Option(station)));
    if (this.station) select.value = this.station.station;
    element("chooser").hidden = this.stations.length < 2;
  }

  /** Looks which stations there are by now; whether the daemon has said. */
  async list() {
    if (document.hidden || !this.stations) return false;
    try {
      const answer = await fetch("v1/stations" + location.search);
      if (!answer.ok) return false;
      const stations = await answer.json();
      const names = (list) => list.map(({ station }) => station).join();
      const isNew = names(stations) !== names(this.stations);
      this.stations = stations;
      if (isNew) this.offer();
      return true;
    } catch {
      return false; // it will answer the next time, or the socket says so
    }
  }

  /** The station was taken off the air: plays on if it is back, as something else. */
  async leave() {
    const { station: name } = this.station;
    await this.stop();
    if (!(await this.list())) return this.load();
    const again = this.stations.find(({ station }) => station === name);
    const next = again ?? this.stations[0];
    if (!next) return this.say("failed", "This daemon has no station", true);
    await this.choose(next.station);
    if (again) return this.start();
    this.say("idle", `${name} was taken off the air; press play for ${next.station}`, true);
  }

  async choose(name) {
    const wasPlaying = Boolean(this.radio);
    if (wasPlaying) await this.stop();
    this.station = this.stations.find(({ station }) => station === name);
    element("station").value = name;
    this.describe(this.station);
    const canPlay = window.isSecureContext && "AudioWorkletNode" in window;
    this.play.disabled = !canPlay;
    if (!canPlay) {
      return this.say("failed", "Browsers play live sound only on https or localhost pages; the WAV stream below plays anywhere", true);
    }
    this.say("idle", "Press play");
    if (wasPlaying) await this.start();
  }

  describe({ station, session, model, seed, draw, isa, sample_rate_hz: rateHz, wav }) {
    const name = session ? "Your own stream" : station;
    document.title = `${name} – longwave`;
    element("name").textContent = name;
    element("wav").href = wav + location.search;
    element("model").textContent = model.name;
    element("facts").textContent = [
      `seed ${seed}`,
      `temperature ${draw.temperature}`,
      `at most ${draw.max_entropy} bits`,
      ...(draw.max_rise < 8 ? [`${draw.max_rise} more than lately`] : []),
      ...(draw.min_entropy ? [`hotter below ${draw.min_entropy}`] : []),
      ...(draw.leveling ? [`leveled by ${draw.leveling} an octave`] : []),
      ...(draw.max_click < 100 ? [`clicks up to ${draw.max_click}`] : []),
      `top-p ${draw.top_p}`,
      `min-p ${draw.min_p}`,
      `${rateHz / 1000} kHz`,
      isa,
      `sha256 ${model.sha256.slice(0, 16)}…`,
    ].join(" · ");
  }

  async toggle() {
    if (this.radio && counters.state === "suspended") return this.radio.context.resume();
    await (this.radio ? this.stop() : this.start());
  }

  /** Plays the station. */
  start() {
    return this.tune((...how) => new Radio(...how));
  }

  /** Plays what `make` makes, a station or a session, instead of what plays now; must be called by a click. */
  async tune(make) {
    if (this.radio) await this.stop();
    const radio = make(this.station, this.loudness, {
      say: (...words) => this.say(...words),
      // A daemon that came back may play with another seed or another model.
      describe: (hello) => this.describe({ ...this.station, ...hello }),
      leave: () => this.leave(),
    });
    this.radio = radio;
    this.press(true);
    try {
      const opened = radio.open();
      this.scope.start(radio);
      await opened;
    } catch (error) {
      if (this.radio !== radio) return;
      await this.stop();
      this.say("failed", `This browser could not start its sound: ${error.message}`, true);
    }
  }

  async stop() {
    const radio = this.radio;
    this.radio = null;
    this.press(false);
    this.scope.stop();
    this.panel.onStop();
    this.describe(this.station);
    this.say("idle", "Press play");
    await radio.close();
  }

  /** The server has ended a session. */
  async end(why) {
    await this.stop();
    this.say("idle", `${why}. Press play for the station`, true);
  }

  press(isPlaying) {
    this.play.setAttribute("aria-pressed", String(isPlaying));
    this.play.setAttribute("aria-label", isPlaying ? "Stop" : "Play");
  }

  show() {
    if (document.hidden || !this.radio?.hello) return;
    put("buffered", `${Math.round(counters.bufferedMs)} / ${Math.round(counters.targetMs)} ms`);
    put("latency", `${Math.round(counters.latencyMs)} ms`);
    put("underruns", String(counters.underruns));
    put("lost", String(counters.lost));
    put("drift", `${Math.round(counters.correctionPpm)} ppm`);
    put("position", duration(counters.position / this.radio.hello.sample_rate_hz));
  }
}

/** The station that the page's address names, if any. */
function namedStation() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // a lone % names nothing
  }
}

function recall(key) {
  try {
    return localStorage.getItem(`longwave.${key}`);
  } catch {
    return null; // storage is forbidden; the default will do
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`longwave.${key}`, value);
  } catch {
    // as above
  }
}

new Page();
