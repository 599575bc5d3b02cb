// The page: a station heard, drawn and measured. The wire format is docs/protocol.md.

const HEADER_LEN = 12;
const KIND_PACKET = 1;
const FORMAT_MULAW = 1;
const SUBPROTOCOL = "longwave.v1.mulaw";
const REPORT_MS = 5000;
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000, 15000];
/** The station is not there any more. */
const CLOSE_OFF_AIR = 4002;
/** How often a page that lies open looks which stations there are. */
const LIST_MS = 30000;
/** No packet for so long: the connection is dead whatever the socket believes. */
const SILENCE_MS = 10000;
/** Pauses between drawings; a browser without a graphics card draws on the processor. */
const FRAME_MS = 40;
const CALM_FRAME_MS = 500;

const element = (id) => document.getElementById(id);

const FRESH = {
  state: "idle", // idle, connecting, buffering, playing, waiting, suspended, failed
  hello: null,
  packets: 0,
  lost: 0,
  gaps: 0,
  reconnects: 0,
  underruns: 0,
  played: 0,
  skipped: 0,
  bufferedMs: 0,
  targetMs: 0,
  latencyMs: 0,
  correctionPpm: 0,
  position: 0,
  peak: 0,
};

/** What a test or a curious listener can read in the console. */
const counters = { ...FRESH };
window.longwave = counters;

/** One station, played: a socket, a jitter buffer on the audio thread, and the way between. */
class Radio {
  /** `say` is told the state in words, `describe` what each connection plays, `leave` that it is over. */
  constructor(station, volume, { say, describe, leave }) {
    this.station = station;
    this.say = say;
    this.describe = describe;
    this.leave = leave;
    this.volume = volume;
    this.attempt = 0;
    this.isClosed = false;
    this.reported = 0;
  }

  /** Must be called by a click: browsers play nothing else. */
  async open() {
    const rateHz = this.station.sample_rate_hz;
    this.context = makeContext(rateHz);
    this.context.onstatechange = () => this.onState();
    const resumed = this.context.resume();
    await this.context.audioWorklet.addModule("worklet.js");
    if (this.isClosed) return;
    this.gain = new GainNode(this.context, { gain: this.volume });
    this.analyser = new AnalyserNode(this.context, { fftSize: 4096, smoothingTimeConstant: 0.3 });
    this.analyser.connect(this.gain).connect(this.context.destination);
    this.connect();
    await resumed;
  }

  connect() {
    this.say("connecting", "Connecting");
    // A link that was signed for us opens all that the page asks for.
    const url = new URL(this.station.stream + location.search, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url, [SUBPROTOCOL]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.hear(data);
    this.socket.onclose = (event) => this.onClose(event);
    this.lastHeard = performance.now();
    clearInterval(this.watch);
    this.watch = setInterval(() => this.tend(), REPORT_MS);
  }

  hear(data) {
    if (this.isClosed) return;
    this.lastHeard = performance.now();
    if (data instanceof ArrayBuffer) return this.onPacket(data);
    const event = JSON.parse(data);
    if (event.event === "hello") this.onHello(event);
    if (event.event === "changed") this.describe(Object.assign(this.hello, event));
    if (event.event === "lost") counters.lost += event.n_packets;
    if (event.event === "closing") this.farewell = event.reason;
  }

  onHello(hello) {
    const isRetuned = this.hello && this.hello.sample_rate_hz !== hello.sample_rate_hz;
    counters.hello = hello;
    this.hello = hello;
    this.attempt = 0;
    this.farewell = null;
    this.describe(hello);
    if (isRetuned) this.retirePlayer();
    if (!this.player) this.player = this.makePlayer(hello);
    // After a reconnection the stream has gone on without us.
    const isGap = this.expected !== undefined && this.expected !== hello.sequence;
    if (isGap) this.player.port.postMessage({ isGap });
    this.expected = hello.sequence;
    this.say("buffering", "Filling the buffer");
  }

  makePlayer({ sample_rate_hz: rateHz, jitter_buffer_ms: jitterBufferMs }) {
    const player = new AudioWorkletNode(this.context, "longwave-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rateHz, jitterBufferMs },
    });
    player.port.onmessage = ({ data }) => this.onStats(data);
    player.onprocessorerror = () => this.fail("The audio thread of this browser failed; reload the page.");
    player.connect(this.analyser);
    return player;
  }

  /** The station came back at another rate, for which a player is made anew. */
  retirePlayer() {
    this.player.port.onmessage = null;
    this.player.port.postMessage({ isRetired: true });
    this.player.disconnect();
    this.player = null;
    this.reported = 0;
  }

  onPacket(buffer) {
    const view = new DataView(buffer);
    if (buffer.byteLength < HEADER_LEN || !this.player) return;
    if (view.getUint8(0) !== KIND_PACKET || view.getUint8(1) !== FORMAT_MULAW) return;
    const sequence = Number(view.getBigUint64(4, true));
    const isGap = sequence !== this.expected;
    this.expected = sequence + 1;
    counters.packets++;
    counters.gaps += Number(isGap);
    const codes = new Uint8Array(buffer, HEADER_LEN);
    this.player.port.postMessage({ codes, isGap }, [buffer]);
  }

  onStats({ isPlaying, written, read, ...stats }) {
    Object.assign(counters, stats);
    const { baseLatency = 0, outputLatency = 0 } = this.context;
    counters.latencyMs = counters.bufferedMs + (baseLatency + outputLatency) * 1000;
    if (this.expected !== undefined && this.hello) {
      const { first_position: first, packet_len: length } = this.hello;
      counters.position = Math.round(first + this.expected * length - (written - read));
    }
    if (this.context.state !== "running" || counters.state === "waiting") return;
    if (isPlaying) this.say("playing", "On the air");
    else if (counters.state === "playing") this.say("buffering", "The network fell behind; filling the buffer");
  }

  /** Every few seconds: tell the server how we fare, and see whether it still speaks. */
  tend() {
    if (performance.now() - this.lastHeard > SILENCE_MS) return this.socket.close();
    if (this.socket.readyState !== WebSocket.OPEN || !this.player) return;
    const whole = (ms) => Math.max(0, Math.round(ms));
    this.socket.send(
      JSON.stringify({
        request: "report",
        n_underruns: Math.min(1000, counters.underruns - this.reported),
        buffered_ms: whole(counters.bufferedMs),
        jitter_buffer_ms: whole(counters.targetMs),
        latency_ms: whole(counters.latencyMs),
      }),
    );
    this.reported = counters.underruns;
  }

  onClose({ code }) {
    clearInterval(this.watch);
    if (this.isClosed) return;
    this.player?.port.postMessage({ isEnded: true });
    if (code === CLOSE_OFF_AIR) return this.leave();
    const base = BACKOFF_MS[Math.min(this.attempt++, BACKOFF_MS.length - 1)];
    const pause = base * (0.75 + Math.random() / 2);
    const why = this.farewell ?? (code === 1006 ? "the connection broke" : `closed with code ${code}`);
    this.say("waiting", `Off the air: ${why}. Trying again in ${Math.ceil(pause / 1000)} s`, true);
    this.retry = setTimeout(() => {
      counters.reconnects++;
      this.connect();
    }, pause);
  }

  onState() {
    if (this.isClosed || this.context.state === "running") return;
    this.say("suspended", "The browser holds the sound back; press play again", true);
  }

  fail(sentence) {
    this.say("failed", sentence, true);
  }

  setVolume(volume) {
    this.volume = volume;
    this.gain?.gain.setTargetAtTime(volume, this.context.currentTime, 0.02);
  }

  /** Fades, then lets everything go. */
  async close() {
    this.isClosed = true;
    clearInterval(this.watch);
    clearTimeout(this.retry);
    this.setVolume(0);
    this.socket?.close(1000);
    await new Promise((done) => setTimeout(done, 100));
    await this.context?.close();
  }
}

/** At the station's own rate if the browser allows it: then only drift is left to correct. */
function makeContext(sampleRate) {
  try {
    return new AudioContext({ sampleRate, latencyHint: "balanced" });
  } catch {
    return new AudioContext({ latencyHint: "balanced" });
  }
}

/**
 * Waveform and spectrogram of what is heard.
 *
 * The spectrogram is two sheets side by side that move to the left: a step costs a few columns on
 * one of them, not a drawing of the whole. In a hidden tab nothing is drawn.
 */
class Scope {
  constructor(waveform, spectrogram) {
    this.wave = waveform.getContext("2d");
    // The one that is written on first.
    this.sheets = [...spectrogram.children].map((canvas) => canvas.getContext("2d"));
    this.theme = matchMedia("(prefers-color-scheme: light)");
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.theme.addEventListener("change", () => this.dress());
    new ResizeObserver(() => this.dress()).observe(spectrogram);
    this.dress();
  }

  dress() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.colours = { panel: colour("--panel"), line: colour("--line"), accent: colour("--accent") };
    for (const { canvas } of [this.wave, ...this.sheets]) {
      canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
      canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    }
    this.palette = palette(this.colours.panel, this.colours.accent, this.theme.matches);
    this.written = 0;
    this.moveSheets();
    this.drawWave(null);
  }

  start(radio) {
    this.radio = radio;
    const frame = (now) => {
      if (this.radio !== radio) return;
      if (radio.analyser) {
        this.drawWave(radio.analyser);
        this.drawSpectrum(radio.analyser, now);
      }
      setTimeout(() => requestAnimationFrame(frame), this.calm.matches ? CALM_FRAME_MS : FRAME_MS);
    };
    requestAnimationFrame(frame);
  }

  stop() {
    this.radio = null;
    this.drawWave(null);
  }

  drawWave(analyser) {
    const { canvas } = this.wave;
    const { width, height } = canvas;
    this.wave.clearRect(0, 0, width, height);
    this.wave.lineWidth = 1.5 * devicePixelRatio;
    this.wave.lineJoin = "round";
    this.wave.strokeStyle = analyser ? this.colours.accent : this.colours.line;
    this.wave.beginPath();
    if (analyser) {
      const values = new Float32Array(analyser.fftSize);
      analyser.getFloatTimeDomainData(values);
      counters.peak = values.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);
      const n = values.length / 4;
      const begin = risingEdge(values, n);
      for (let i = 0; i < n; i++) {
        this.wave.lineTo((i * width) / (n - 1), height * (0.5 - 0.47 * values[begin + i]));
      }
    } else {
      this.wave.moveTo(0, height / 2);
      this.wave.lineTo(width, height / 2);
    }
    this.wave.stroke();
  }

  /** Scrolls at 60 px a second; rows are spaced like notes, an octave as high as the next. */
  drawSpectrum(analyser, now) {
    if (this.written === this.sheets[0].canvas.width) {
      this.sheets.reverse();
      this.written = 0;
    }
    const [sheet] = this.sheets;
    const { width, height } = sheet.canvas;
    const elapsed = Math.min(now - (this.drawn ?? now), 500);
    this.due = (this.due ?? 0) + (elapsed * 60 * devicePixelRatio) / 1000;
    this.drawn = now;
    const step = Math.min(Math.floor(this.due), width - this.written);
    if (step < 1 || height < 1) return;
    this.due -= step;
    const levels = new Uint8Array(analyser.frequencyBinCount);
    analyser.getByteFrequencyData(levels);
    const top = analyser.context.sampleRate / 2;
    const column = sheet.createImageData(step, height);
    const pixels = new Uint32Array(column.data.buffer);
    for (let y = 0; y < height; y++) {
      const hz = top * (60 / top) ** (y / height);
      const bin = (hz / top) * levels.length;
      const low = Math.floor(bin);
      const high = Math.min(low + 1, levels.length - 1);
      const level = levels[low] + (levels[high] - levels[low]) * (bin - low);
      pixels.fill(this.palette[Math.round(level)], y * step, (y + 1) * step);
    }
    sheet.putImageData(column, this.written, 0);
    this.written += step;
    this.moveSheets();
  }

  /** What was written last touches the right edge; the older sheet is joined to its left. */
  moveSheets() {
    const [sheet, older] = this.sheets;
    const share = this.written / Math.max(1, sheet.canvas.width);
    sheet.canvas.style.transform = `translateX(${100 * (1 - share)}%)`;
    older.canvas.style.transform = `translateX(${-100 * share}%)`;
  }
}

/** Where to begin drawing so that a tone stands still. */
function risingEdge(values, n) {
  for (let i = 1; i < n; i++) if (values[i - 1] < 0 && values[i] >= 0) return i;
  return 0;
}

/** 256 colours from the panel's through the accent to near white (or near black on paper). */
function palette(panel, accent, isLight) {
  const parse = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const stops = [parse(panel), parse(accent), isLight ? [52, 24, 4] : [255, 244, 222]];
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const along = (level / 255) ** 1.6 * 2;
    const from = stops[Math.min(1, Math.floor(along))];
    const to = stops[Math.min(2, Math.floor(along) + 1)];
    const share = along >= 2 ? 1 : along % 1;
    const [r, g, b] = from.map((value, i) => Math.round(value + (to[i] - value) * share));
    return (0xff << 24) | (b << 16) | (g << 8) | r;
  });
}

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
    const status = element("status");
    if (status.textContent !== sentence) status.textContent = sentence;
    status.classList.toggle("alarm", isAlarm);
  }

  async load() {
    this.play.disabled = true;
    try {
      const answer = await fetch("v1/stations" + location.search);
      if (answer.status === 401) {
        return this.say("failed", "This daemon wants a link that has not expired; ask whoever runs it", true);
      }
      this.stations = await answer.json();
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

  describe({ station, model, seed, draw, isa, sample_rate_hz: rateHz, wav }) {
    document.title = `${station} – longwave`;
    element("name").textContent = station;
    element("wav").href = wav + location.search;
    element("model").textContent = model.name;
    element("facts").textContent = [
      `seed ${seed}`,
      `temperature ${draw.temperature}`,
      `at most ${draw.max_entropy} bits`,
      ...(draw.max_rise < 8 ? [`${draw.max_rise} more than lately`] : []),
      ...(draw.leveling ? [`leveled by ${draw.leveling} an octave`] : []),
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

  async start() {
    const radio = new Radio(this.station, this.loudness, {
      say: (...words) => this.say(...words),
      // A daemon that came back may play with another seed or another model.
      describe: (hello) => this.describe({ ...this.station, ...hello }),
      leave: () => this.leave(),
    });
    this.radio = radio;
    Object.assign(counters, FRESH);
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
    this.say("idle", "Press play");
    await radio.close();
  }

  press(isPlaying) {
    this.play.setAttribute("aria-pressed", String(isPlaying));
    this.play.setAttribute("aria-label", isPlaying ? "Stop" : "Play");
  }

  show() {
    if (document.hidden || !this.radio?.hello) return;
    const put = (id, text) => {
      if (element(id).textContent !== text) element(id).textContent = text;
    };
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

/** 3 h 02 m 07 s */
function duration(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  const [, m, s] = parts.map((part) => String(part).padStart(2, "0"));
  return parts[0] ? `${parts[0]}:${m}:${s}` : `${parts[1]}:${s}`;
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
